// driver_device_calls.cpp: the driver's calls about the device, its contexts and its memory.

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "runtime/api/driver.h"
#include "runtime/graph.h"

using namespace wbsim;

namespace {

std::atomic<bool> initialized{false};

struct Context {
  bool primary = false;
};

Handles<Context>& contexts() {
  static auto* handles = new Handles<Context>;
  return *handles;
}

struct Primary {
  CUcontext handle = nullptr;
  int retained = 0;
  unsigned flags = 0;
};
Primary primary;
ForkMutex<LockOrder::Pools> primary_mutex;

thread_local std::vector<CUcontext> stack;  // of contexts; the last one is current

cudaError_t ok() { return cudaSuccess; }

// Memory has the same address on host and device.
void* host(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

cudaError_t set(CUdeviceptr to, size_t pitch, unsigned value, unsigned element_bytes, size_t width,
                size_t height, CUstream stream, const char* name) {
  return call([&] {
    require(to % element_bytes == 0 && (height == 1 || pitch % element_bytes == 0));
    submit(stream, set_work(host(to), pitch, value, element_bytes, width, height, name));
  });
}

// A copy between any two of host, device and unified memory.
cudaMemcpy3DParms parameters(const CUDA_MEMCPY3D& p) {
  require(p.srcMemoryType != CU_MEMORYTYPE_ARRAY && p.dstMemoryType != CU_MEMORYTYPE_ARRAY,
          cudaErrorNotSupported);
  auto side = [](CUmemorytype type, const void* of_host, CUdeviceptr of_device) {
    require(type == CU_MEMORYTYPE_HOST || type == CU_MEMORYTYPE_DEVICE ||
            type == CU_MEMORYTYPE_UNIFIED);
    return type == CU_MEMORYTYPE_HOST ? const_cast<void*>(of_host) : host(of_device);
  };
  cudaMemcpy3DParms out = {};
  size_t height = std::max<size_t>(p.Height, 1);
  out.srcPtr = {side(p.srcMemoryType, p.srcHost, p.srcDevice),
                p.srcPitch ? p.srcPitch : p.WidthInBytes, p.WidthInBytes,
                p.srcHeight ? p.srcHeight : height};
  out.dstPtr = {side(p.dstMemoryType, p.dstHost, p.dstDevice),
                p.dstPitch ? p.dstPitch : p.WidthInBytes, p.WidthInBytes,
                p.dstHeight ? p.dstHeight : height};
  out.srcPos = {p.srcXInBytes, p.srcY, p.srcZ};
  out.dstPos = {p.dstXInBytes, p.dstY, p.dstZ};
  out.extent = {p.WidthInBytes, p.Height, p.Depth};
  bool from = p.srcMemoryType == CU_MEMORYTYPE_DEVICE, to = p.dstMemoryType == CU_MEMORYTYPE_DEVICE;
  out.kind = from && to ? cudaMemcpyDeviceToDevice
             : from     ? cudaMemcpyDeviceToHost
             : to       ? cudaMemcpyHostToDevice
                        : cudaMemcpyDefault;
  return out;
}

cudaMemcpy3DParms parameters(const CUDA_MEMCPY2D& p) {
  CUDA_MEMCPY3D q = {};
  q.srcXInBytes = p.srcXInBytes, q.srcY = p.srcY, q.srcMemoryType = p.srcMemoryType;
  q.srcHost = p.srcHost, q.srcDevice = p.srcDevice, q.srcPitch = p.srcPitch;
  q.dstXInBytes = p.dstXInBytes, q.dstY = p.dstY, q.dstMemoryType = p.dstMemoryType;
  q.dstHost = p.dstHost, q.dstDevice = p.dstDevice, q.dstPitch = p.dstPitch;
  q.WidthInBytes = p.WidthInBytes, q.Height = p.Height, q.Depth = 1;
  return parameters(q);
}

template <class P>
CUresult copy(const P* p, CUstream stream, const char* name) {
  return in_context([&] {
    return call([&] {
      require(p);
      submit(stream, CopyWork{parameters(*p), name});
    });
  });
}

CUresult copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, CUstream stream,
              const char* name) {
  return in_context(
      [&] { return call([&] { submit(stream, copy_work(to, from, bytes, kind, name)); }); });
}

}  // namespace

namespace wbsim {

// The runtime initialises the driver, and makes the primary context current if there is none.
bool driver_is_initialized() { return initialized; }

CUcontext primary_context() {
  std::lock_guard lock(primary_mutex);
  if (!primary.handle) {
    primary.handle = contexts().add<CUcontext>(std::make_shared<Context>(Context{true}));
  }
  return primary.handle;
}

CUcontext current_context() {
  if (stack.empty() && Runtime::get().errors.runtime_is_used()) {
    stack.push_back(primary_context());
  }
  return stack.empty() ? nullptr : stack.back();
}

}  // namespace wbsim

extern "C" {

// ---- Initialisation and devices -----------------------------------------------------------------

CUresult wbsim_cuInit(unsigned flags) {
  if (flags != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  initialized = true;
  return CUDA_SUCCESS;
}
CUresult wbsim_cuDriverGetVersion(int* out) {
  return driver_call([&] { return wbsim_cudaDriverGetVersion(out); });
}
CUresult wbsim_cuDeviceGetCount(int* out) {
  return driver([&] { return wbsim_cudaGetDeviceCount(out); });
}
CUresult wbsim_cuDeviceGet(CUdevice* out, int ordinal) {
  return driver([&] {
    return call([&] {
      require(out);
      require_device(ordinal);
      *out = 0;
    });
  });
}
CUresult wbsim_cuDeviceGetName(char* out, int bytes, CUdevice device) {
  return driver([&] {
    return call([&] {
      require(out && bytes > 0);
      require_device(device);
      std::snprintf(out, bytes, "%s", Device::NAME);
    });
  });
}
CUresult wbsim_cuDeviceGetUuid(CUuuid* out, CUdevice device) {
  return driver([&] {
    return call([&] {
      require(out);
      require_device(device);
      *out = device_properties().uuid;
    });
  });
}
CUresult wbsim_cuDeviceTotalMem(size_t* out, CUdevice device) {
  return driver([&] {
    return call([&] {
      require(out);
      require_device(device);
      *out = Device::MEMORY;
    });
  });
}
CUresult wbsim_cuDeviceGetAttribute(int* out, CUdevice_attribute attribute, CUdevice device) {
  return driver([&] {
    return wbsim_cudaDeviceGetAttribute(out, static_cast<cudaDeviceAttr>(attribute), device);
  });
}
CUresult wbsim_cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
  return driver([&] {
    return call([&] {
      require(major && minor);
      require_device(device);
      *major = *device_attribute(cudaDevAttrComputeCapabilityMajor);
      *minor = *device_attribute(cudaDevAttrComputeCapabilityMinor);
    });
  });
}
CUresult wbsim_cuDeviceGetPCIBusId(char* out, int bytes, CUdevice device) {
  return driver([&] { return wbsim_cudaDeviceGetPCIBusId(out, bytes, device); });
}
CUresult wbsim_cuDeviceGetByPCIBusId(CUdevice* out, const char* id) {
  return driver([&] { return wbsim_cudaDeviceGetByPCIBusId(out, id); });
}
CUresult wbsim_cuDeviceCanAccessPeer(int* out, CUdevice device, CUdevice peer) {
  return driver([&] { return wbsim_cudaDeviceCanAccessPeer(out, device, peer); });
}
CUresult wbsim_cuDeviceGetDefaultMemPool(CUmemoryPool* out, CUdevice device) {
  return driver([&] { return wbsim_cudaDeviceGetDefaultMemPool(out, device); });
}

// ---- Contexts -----------------------------------------------------------------------------------

CUresult wbsim_cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice device) {
  return driver([&] {
    return call([&] {
      require(out);
      require_device(device);
      *out = primary_context();
      std::lock_guard lock(primary_mutex);
      primary.retained++;
    });
  });
}
CUresult wbsim_cuDevicePrimaryCtxRelease(CUdevice device) {
  return driver([&] {
    return call([&] {
      require_device(device);
      std::lock_guard lock(primary_mutex);
      require(primary.retained > 0, cudaErrorDeviceUninitialized);
      primary.retained--;
    });
  });
}
CUresult wbsim_cuDevicePrimaryCtxReset(CUdevice device) {
  return driver([&] { return device == 0 ? wbsim_cudaDeviceReset() : cudaErrorInvalidDevice; });
}
CUresult wbsim_cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
  return driver([&] {
    return call([&] {
      require_device(device);
      primary.flags = flags;
    });
  });
}
CUresult wbsim_cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  return driver([&] {
    return call([&] {
      require(flags && active);
      require_device(device);
      std::lock_guard lock(primary_mutex);
      *flags = primary.flags;
      *active = primary.retained > 0 || Runtime::get().errors.runtime_is_used();
    });
  });
}
CUresult wbsim_cuCtxCreate(CUcontext* out, CUctxCreateParams*, unsigned, CUdevice device) {
  return driver([&] {
    return call([&] {
      require(out);
      require_device(device);
      *out = contexts().add<CUcontext>(std::make_shared<Context>());
      stack.push_back(*out);
    });
  });
}
CUresult wbsim_cuCtxDestroy(CUcontext context) {
  return driver([&] {
    return call([&] {
      require(!contexts().get(context, cudaErrorDeviceUninitialized)->primary,
              cudaErrorDeviceUninitialized);
      contexts().take(context);
      std::erase(stack, context);
    });
  });
}
CUresult wbsim_cuCtxPushCurrent(CUcontext context) {
  return driver([&] {
    return call([&] {
      contexts().get(context, cudaErrorDeviceUninitialized);
      stack.push_back(context);
    });
  });
}
CUresult wbsim_cuCtxPopCurrent(CUcontext* out) {
  return in_context([&] {
    if (out) {
      *out = stack.back();
    }
    stack.pop_back();
    return ok();
  });
}
CUresult wbsim_cuCtxSetCurrent(CUcontext context) {
  return driver([&] {
    return call([&] {
      if (context) {
        contexts().get(context, cudaErrorDeviceUninitialized);
      }
      if (!stack.empty()) {
        stack.pop_back();
      }
      if (context) {
        stack.push_back(context);
      }
    });
  });
}
CUresult wbsim_cuCtxGetCurrent(CUcontext* out) {
  return driver([&] {
    return call([&] {
      require(out);
      *out = current_context();
    });
  });
}
CUresult wbsim_cuCtxGetDevice(CUdevice* out) {
  return in_context([&] { return wbsim_cudaGetDevice(out); });
}
CUresult wbsim_cuCtxGetFlags(unsigned* out) {
  return in_context([&] { return wbsim_cudaGetDeviceFlags(out); });
}
CUresult wbsim_cuCtxGetApiVersion(CUcontext context, unsigned* out) {
  return driver([&] {
    return call([&] {
      require(out);
      contexts().get(context ? context : current_context(), cudaErrorDeviceUninitialized);
      *out = CUDA_VERSION;
    });
  });
}
CUresult wbsim_cuCtxSynchronize() {
  return in_context([&] { return wbsim_cudaDeviceSynchronize(); });
}
CUresult wbsim_cuCtxSetLimit(CUlimit limit, size_t value) {
  return in_context([&] { return wbsim_cudaDeviceSetLimit(static_cast<cudaLimit>(limit), value); });
}
CUresult wbsim_cuCtxGetLimit(size_t* out, CUlimit limit) {
  return in_context([&] { return wbsim_cudaDeviceGetLimit(out, static_cast<cudaLimit>(limit)); });
}
CUresult wbsim_cuCtxSetCacheConfig(CUfunc_cache) { return in_context(ok); }
CUresult wbsim_cuCtxGetCacheConfig(CUfunc_cache* out) {
  return in_context(
      [&] { return wbsim_cudaDeviceGetCacheConfig(reinterpret_cast<cudaFuncCache*>(out)); });
}
CUresult wbsim_cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return in_context([&] { return wbsim_cudaDeviceGetStreamPriorityRange(least, greatest); });
}
CUresult wbsim_cuCtxResetPersistingL2Cache() { return in_context(ok); }

// ---- Memory -------------------------------------------------------------------------------------

CUresult wbsim_cuMemGetInfo(size_t* available, size_t* total) {
  return in_context([&] { return wbsim_cudaMemGetInfo(available, total); });
}
CUresult wbsim_cuMemAlloc(CUdeviceptr* out, size_t bytes) {
  return in_context([&] {
    return bytes == 0 ? cudaErrorInvalidValue
                      : wbsim_cudaMalloc(reinterpret_cast<void**>(out), bytes);
  });
}
CUresult wbsim_cuMemAllocPitch(CUdeviceptr* out, size_t* pitch, size_t width, size_t height,
                               unsigned element_bytes) {
  return in_context([&] {
    bool valid = element_bytes == 4 || element_bytes == 8 || element_bytes == 16;
    return !valid || width == 0 || height == 0
               ? cudaErrorInvalidValue
               : wbsim_cudaMallocPitch(reinterpret_cast<void**>(out), pitch, width, height);
  });
}
CUresult wbsim_cuMemAllocHost(void** out, size_t bytes) {
  return in_context([&] { return wbsim_cudaMallocHost(out, bytes); });
}
CUresult wbsim_cuMemHostAlloc(void** out, size_t bytes, unsigned flags) {
  return in_context([&] { return wbsim_cudaHostAlloc(out, bytes, flags); });
}
CUresult wbsim_cuMemAllocManaged(CUdeviceptr* out, size_t bytes, unsigned flags) {
  return in_context(
      [&] { return wbsim_cudaMallocManaged(reinterpret_cast<void**>(out), bytes, flags); });
}
CUresult wbsim_cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream stream) {
  return in_context(
      [&] { return wbsim_cudaMallocAsync(reinterpret_cast<void**>(out), bytes, stream); });
}
CUresult wbsim_cuMemAllocFromPoolAsync(CUdeviceptr* out, size_t bytes, CUmemoryPool pool,
                                       CUstream stream) {
  return in_context([&] {
    return wbsim_cudaMallocFromPoolAsync(reinterpret_cast<void**>(out), bytes, pool, stream);
  });
}
CUresult wbsim_cuMemFree(CUdeviceptr pointer) {
  return in_context([&] { return wbsim_cudaFree(host(pointer)); });
}
CUresult wbsim_cuMemFreeHost(void* pointer) {
  return in_context([&] { return wbsim_cudaFreeHost(pointer); });
}
CUresult wbsim_cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
  return in_context([&] { return wbsim_cudaFreeAsync(host(pointer), stream); });
}
CUresult wbsim_cuMemHostRegister(void* pointer, size_t bytes, unsigned flags) {
  return in_context([&] { return wbsim_cudaHostRegister(pointer, bytes, flags); });
}
CUresult wbsim_cuMemHostUnregister(void* pointer) {
  return in_context([&] { return wbsim_cudaHostUnregister(pointer); });
}
CUresult wbsim_cuMemHostGetDevicePointer(CUdeviceptr* out, void* pointer, unsigned flags) {
  return in_context([&] {
    return wbsim_cudaHostGetDevicePointer(reinterpret_cast<void**>(out), pointer, flags);
  });
}
CUresult wbsim_cuMemHostGetFlags(unsigned* out, void* pointer) {
  return in_context([&] { return wbsim_cudaHostGetFlags(out, pointer); });
}
CUresult wbsim_cuMemGetAddressRange(CUdeviceptr* first, size_t* bytes, CUdeviceptr pointer) {
  return in_context([&] {
    return call([&] {
      auto allocation = Runtime::get().memory.find(host(pointer));
      require(allocation.has_value(), cudaErrorSymbolNotFound);
      if (first) {
        *first = allocation->first;
      }
      if (bytes) {
        *bytes = allocation->bytes;
      }
    });
  });
}
CUresult wbsim_cuMemPrefetchAsync(CUdeviceptr pointer, size_t bytes, CUmemLocation, unsigned flags,
                                  CUstream stream) {
  return in_context(
      [&] { return wbsim_cudaMemPrefetchAsync(host(pointer), bytes, {}, flags, stream); });
}
CUresult wbsim_cuMemAdvise(CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUmemLocation) {
  return in_context([&] {
    return wbsim_cudaMemAdvise(host(pointer), bytes, static_cast<cudaMemoryAdvise>(advice), {});
  });
}
CUresult wbsim_cuPointerGetAttribute(void* out, CUpointer_attribute attribute,
                                     CUdeviceptr pointer) {
  return in_context([&] {
    return call([&] {
      require(out);
      auto allocation = Runtime::get().memory.find(host(pointer));
      require(allocation.has_value());
      bool of_host =
          allocation->kind == MemoryKind::Host || allocation->kind == MemoryKind::Registered;
      bool managed = allocation->kind == MemoryKind::Managed;
      switch (attribute) {
        case CU_POINTER_ATTRIBUTE_CONTEXT:
          *static_cast<CUcontext*>(out) = current_context();
          break;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
          *static_cast<unsigned*>(out) = of_host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
          break;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
          *static_cast<CUdeviceptr*>(out) = pointer;
          break;
        case CU_POINTER_ATTRIBUTE_HOST_POINTER:
          require(of_host || managed);
          *static_cast<void**>(out) = host(pointer);
          break;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
          *static_cast<unsigned*>(out) = managed;
          break;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
          *static_cast<int*>(out) = 0;
          break;
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
          *static_cast<CUdeviceptr*>(out) = allocation->first;
          break;
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
          *static_cast<size_t*>(out) = allocation->bytes;
          break;
        case CU_POINTER_ATTRIBUTE_BUFFER_ID:  // unique while the allocation lives
          *static_cast<unsigned long long*>(out) = allocation->first;
          break;
        case CU_POINTER_ATTRIBUTE_MAPPED:
          *static_cast<unsigned*>(out) = 1;
          break;
        default:
          throw ApiError{cudaErrorNotSupported};
      }
    });
  });
}

CUresult wbsim_cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return copy(host(to), host(from), bytes, cudaMemcpyDefault, nullptr, "cuMemcpy");
}
CUresult wbsim_cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy(host(to), host(from), bytes, cudaMemcpyDefault, stream, "cuMemcpyAsync");
}
CUresult wbsim_cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
  return copy(host(to), from, bytes, cudaMemcpyHostToDevice, nullptr, "cuMemcpyHtoD");
}
CUresult wbsim_cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return copy(host(to), from, bytes, cudaMemcpyHostToDevice, stream, "cuMemcpyHtoDAsync");
}
CUresult wbsim_cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
  return copy(to, host(from), bytes, cudaMemcpyDeviceToHost, nullptr, "cuMemcpyDtoH");
}
CUresult wbsim_cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy(to, host(from), bytes, cudaMemcpyDeviceToHost, stream, "cuMemcpyDtoHAsync");
}
CUresult wbsim_cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return copy(host(to), host(from), bytes, cudaMemcpyDeviceToDevice, nullptr, "cuMemcpyDtoD");
}
CUresult wbsim_cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy(host(to), host(from), bytes, cudaMemcpyDeviceToDevice, stream, "cuMemcpyDtoDAsync");
}
CUresult wbsim_cuMemcpy2D(const CUDA_MEMCPY2D* p) { return copy(p, nullptr, "cuMemcpy2D"); }
CUresult wbsim_cuMemcpy2DUnaligned(const CUDA_MEMCPY2D* p) {
  return copy(p, nullptr, "cuMemcpy2DUnaligned");
}
CUresult wbsim_cuMemcpy2DAsync(const CUDA_MEMCPY2D* p, CUstream stream) {
  return copy(p, stream, "cuMemcpy2DAsync");
}
CUresult wbsim_cuMemcpy3D(const CUDA_MEMCPY3D* p) { return copy(p, nullptr, "cuMemcpy3D"); }
CUresult wbsim_cuMemcpy3DAsync(const CUDA_MEMCPY3D* p, CUstream stream) {
  return copy(p, stream, "cuMemcpy3DAsync");
}

#define MEMSET(bits, type)                                                                         \
  CUresult wbsim_cuMemsetD##bits(CUdeviceptr to, type value, size_t count) {                       \
    return in_context(                                                                             \
        [&] { return set(to, 0, value, bits / 8, count, 1, nullptr, "cuMemsetD" #bits); });        \
  }                                                                                                \
  CUresult wbsim_cuMemsetD##bits##Async(CUdeviceptr to, type value, size_t count,                  \
                                        CUstream stream) {                                         \
    return in_context(                                                                             \
        [&] { return set(to, 0, value, bits / 8, count, 1, stream, "cuMemsetD" #bits "Async"); }); \
  }                                                                                                \
  CUresult wbsim_cuMemsetD2D##bits(CUdeviceptr to, size_t pitch, type value, size_t width,         \
                                   size_t height) {                                                \
    return in_context([&] {                                                                        \
      return set(to, pitch, value, bits / 8, width, height, nullptr, "cuMemsetD2D" #bits);         \
    });                                                                                            \
  }                                                                                                \
  CUresult wbsim_cuMemsetD2D##bits##Async(CUdeviceptr to, size_t pitch, type value, size_t width,  \
                                          size_t height, CUstream stream) {                        \
    return in_context([&] {                                                                        \
      return set(to, pitch, value, bits / 8, width, height, stream, "cuMemsetD2D" #bits "Async");  \
    });                                                                                            \
  }
MEMSET(8, unsigned char)
MEMSET(16, unsigned short)
MEMSET(32, unsigned)
#undef MEMSET

}  // extern "C"
