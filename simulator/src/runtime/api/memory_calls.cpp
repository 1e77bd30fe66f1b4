// memory_calls.cpp: allocating, copying and setting memory. Device memory is host memory, so
// managed memory is plain memory, and prefetching it does nothing.

#include <cstring>

#include "runtime/api/calls.h"
#include "runtime/graph.h"
#include "runtime/host_checks.h"

using namespace wbsim;

namespace {

void allocate_in_stream(void** out, size_t bytes, cudaStream_t stream, const char* call) {
  require(out);
  *out = nullptr;
  if (bytes == 0) {
    return;
  }
  if (stream_of(stream)->capture) {
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location = {cudaMemLocationTypeDevice, 0};
    AllocWork work = alloc_work(bytes, properties, call);
    void* memory = work.params.dptr;
    submit(stream, std::move(work));
    *out = memory;
  } else {
    *out = Runtime::get().memory.allocate(bytes, call, MemoryKind::Device);
  }
}

void allocate(void** out, size_t bytes, const char* call, MemoryKind kind, unsigned flags = 0) {
  require(out);
  forbid_in_capture();
  *out = bytes ? Runtime::get().memory.allocate(bytes, call, kind, flags) : nullptr;
}

const Module::Symbol& symbol_of(const void* host) {
  auto* symbol = Runtime::get().modules.find_variable(host);
  return symbol ? *symbol : throw not_a_symbol();
}

void* inside(const void* host, size_t bytes, size_t offset) {
  const Module::Symbol& symbol = symbol_of(host);
  if (offset > symbol.bytes || bytes > symbol.bytes - offset) {
    outside_symbol(symbol.bytes, bytes, offset);
  }
  return symbol.address + offset;
}

// Bytes from the start of one row of cudaMallocPitch to the next.
size_t pitch_of(size_t width) {
  constexpr size_t PITCH = 512;
  require(width <= SIZE_MAX - PITCH, cudaErrorMemoryAllocation);
  return (width + PITCH - 1) / PITCH * PITCH;
}

size_t product(size_t a, size_t b) {
  size_t out;
  require(!__builtin_mul_overflow(a, b, &out), cudaErrorMemoryAllocation);
  return out;
}

void copy_now(CopyWork work) {
  forbid_in_capture();
  submit(nullptr, std::move(work));
}

cudaMemcpy3DParms of_peer(const cudaMemcpy3DPeerParms& p) {
  require_device(p.srcDevice);
  require_device(p.dstDevice);
  cudaMemcpy3DParms out = {};
  out.srcArray = p.srcArray, out.srcPos = p.srcPos, out.srcPtr = p.srcPtr;
  out.dstArray = p.dstArray, out.dstPos = p.dstPos, out.dstPtr = p.dstPtr;
  out.extent = p.extent;
  out.kind = cudaMemcpyDefault;
  return out;
}

SetWork set_3d(cudaPitchedPtr to, int value, cudaExtent extent, const char* call) {
  SetWork work = set_work(to.ptr, to.pitch, value & 0xff, 1, extent.width, extent.height, call);
  work.slice_rows = to.ysize;
  work.slices = extent.depth;
  return work;
}

}  // namespace

extern "C" {

// ---- Allocation ---------------------------------------------------------------------------------

cudaError_t wbsim_cudaMalloc(void** out, size_t bytes) {
  return call([&] { allocate(out, bytes, "cudaMalloc", MemoryKind::Device); });
}
cudaError_t wbsim_cudaMallocHost(void** out, size_t bytes) {
  return call([&] { allocate(out, bytes, "cudaMallocHost", MemoryKind::Host); });
}
cudaError_t wbsim_cudaHostAlloc(void** out, size_t bytes, unsigned flags) {
  return call([&] {
    require((flags & ~unsigned{cudaHostAllocPortable | cudaHostAllocMapped |
                               cudaHostAllocWriteCombined}) == 0);
    allocate(out, bytes, "cudaHostAlloc", MemoryKind::Host, flags);
  });
}
cudaError_t wbsim_cudaMallocManaged(void** out, size_t bytes, unsigned flags) {
  return call([&] {
    require(bytes > 0 && (flags == cudaMemAttachGlobal || flags == cudaMemAttachHost));
    allocate(out, bytes, "cudaMallocManaged", MemoryKind::Managed, flags);
  });
}
cudaError_t wbsim_cudaMallocPitch(void** out, size_t* pitch, size_t width, size_t height) {
  return call([&] {
    require(pitch);
    *pitch = pitch_of(width);
    allocate(out, product(*pitch, height), "cudaMallocPitch", MemoryKind::Device);
  });
}
cudaError_t wbsim_cudaMalloc3D(cudaPitchedPtr* out, cudaExtent extent) {
  return call([&] {
    require(out);
    size_t pitch = pitch_of(extent.width);
    *out = {nullptr, pitch, extent.width, extent.height};
    allocate(&out->ptr, product(product(pitch, extent.height), extent.depth), "cudaMalloc3D",
             MemoryKind::Device);
  });
}
cudaError_t wbsim_cudaMallocAsync(void** out, size_t bytes, cudaStream_t stream) {
  return call([&] { allocate_in_stream(out, bytes, stream, "cudaMallocAsync"); });
}

cudaError_t wbsim_cudaFree(void* pointer) {
  return call([&] {
    forbid_in_capture();
    free_memory(pointer, false, "cudaFree");
  });
}
cudaError_t wbsim_cudaFreeHost(void* pointer) {
  return call([&] {
    forbid_in_capture();
    free_memory(pointer, true, "cudaFreeHost");
  });
}
cudaError_t wbsim_cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return call([&] {
    require(pointer);
    if (stream_of(stream)->capture) {
      submit(stream, free_work(pointer));
    } else {
      free_memory(pointer, false, "cudaFreeAsync");
    }
  });
}

// ---- Memory of the host -------------------------------------------------------------------------

cudaError_t wbsim_cudaHostRegister(void* pointer, size_t bytes, unsigned flags) {
  return call([&] {
    require(pointer && bytes > 0);
    require(Runtime::get().memory.register_host(pointer, bytes, flags),
            cudaErrorHostMemoryAlreadyRegistered);
  });
}
cudaError_t wbsim_cudaHostUnregister(void* pointer) {
  return call([&] {
    require(pointer);
    require(Runtime::get().memory.unregister_host(pointer), cudaErrorHostMemoryNotRegistered);
  });
}
cudaError_t wbsim_cudaHostGetDevicePointer(void** out, void* host, unsigned flags) {
  return call([&] {
    require(out && host && flags == 0);
    auto allocation = Runtime::get().memory.find(host);
    require(allocation && allocation->kind != MemoryKind::Device);
    *out = host;
  });
}
cudaError_t wbsim_cudaHostGetFlags(unsigned* flags, void* host) {
  return call([&] {
    auto allocation = Runtime::get().memory.find(host);
    require(flags && allocation && allocation->kind == MemoryKind::Host);
    *flags = allocation->flags | cudaHostAllocMapped;  // all of it is mapped
  });
}
cudaError_t wbsim_cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
  return call([&] {
    require(out && pointer);
    *out = {};
    auto allocation = Runtime::get().memory.find(pointer);
    void* address = const_cast<void*>(pointer);
    if (!allocation) {
      out->type = cudaMemoryTypeUnregistered;
      out->device = -2;  // what the runtime reports for memory it does not know
      out->hostPointer = address;
      return;
    }
    out->devicePointer = address;
    switch (allocation->kind) {
      case MemoryKind::Device:
        out->type = cudaMemoryTypeDevice;
        break;
      case MemoryKind::Managed:
        out->type = cudaMemoryTypeManaged;
        out->hostPointer = address;
        break;
      default:
        out->type = cudaMemoryTypeHost;
        out->hostPointer = address;
    }
  });
}

// ---- Copying ------------------------------------------------------------------------------------

cudaError_t wbsim_cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return call([&] { copy_now(copy_work(to, from, bytes, kind, "cudaMemcpy")); });
}
cudaError_t wbsim_cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                  cudaStream_t stream) {
  return call([&] { submit(stream, copy_work(to, from, bytes, kind, "cudaMemcpyAsync")); });
}
cudaError_t wbsim_cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                               size_t width, size_t height, cudaMemcpyKind kind) {
  return call([&] {
    require(width <= to_pitch && width <= from_pitch, cudaErrorInvalidPitchValue);
    copy_now(copy_work_2d(to, to_pitch, from, from_pitch, width, height, kind, "cudaMemcpy2D"));
  });
}
cudaError_t wbsim_cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                    size_t width, size_t height, cudaMemcpyKind kind,
                                    cudaStream_t stream) {
  return call([&] {
    require(width <= to_pitch && width <= from_pitch, cudaErrorInvalidPitchValue);
    submit(stream,
           copy_work_2d(to, to_pitch, from, from_pitch, width, height, kind, "cudaMemcpy2DAsync"));
  });
}
cudaError_t wbsim_cudaMemcpy3D(const cudaMemcpy3DParms* p) {
  return call([&] {
    require(p);
    copy_now({*p, "cudaMemcpy3D"});
  });
}
cudaError_t wbsim_cudaMemcpy3DAsync(const cudaMemcpy3DParms* p, cudaStream_t stream) {
  return call([&] {
    require(p);
    submit(stream, CopyWork{*p, "cudaMemcpy3DAsync"});
  });
}
cudaError_t wbsim_cudaMemcpyPeer(void* to, int to_device, const void* from, int from_device,
                                 size_t bytes) {
  return call([&] {
    require_device(to_device);
    require_device(from_device);
    copy_now(copy_work(to, from, bytes, cudaMemcpyDeviceToDevice, "cudaMemcpyPeer"));
  });
}
cudaError_t wbsim_cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                                      size_t bytes, cudaStream_t stream) {
  return call([&] {
    require_device(to_device);
    require_device(from_device);
    submit(stream, copy_work(to, from, bytes, cudaMemcpyDeviceToDevice, "cudaMemcpyPeerAsync"));
  });
}
cudaError_t wbsim_cudaMemcpy3DPeer(const cudaMemcpy3DPeerParms* p) {
  return call([&] {
    require(p);
    copy_now({of_peer(*p), "cudaMemcpy3DPeer"});
  });
}
cudaError_t wbsim_cudaMemcpy3DPeerAsync(const cudaMemcpy3DPeerParms* p, cudaStream_t stream) {
  return call([&] {
    require(p);
    submit(stream, CopyWork{of_peer(*p), "cudaMemcpy3DPeerAsync"});
  });
}
cudaError_t wbsim_cudaMemcpyBatchAsync(void* const* to, const void* const* from,
                                       const size_t* sizes, size_t count, cudaMemcpyAttributes*,
                                       size_t*, size_t, cudaStream_t stream) {
  return call([&] {
    require(to && from && sizes && count > 0 && stream);
    for (size_t i = 0; i < count; i++) {
      submit(stream,
             copy_work(to[i], from[i], sizes[i], cudaMemcpyDefault, "cudaMemcpyBatchAsync"));
    }
  });
}

// ---- Setting ------------------------------------------------------------------------------------

cudaError_t wbsim_cudaMemset(void* to, int value, size_t bytes) {
  return call([&] {
    forbid_in_capture();
    submit(nullptr, set_work(to, bytes, value & 0xff, 1, bytes, 1, "cudaMemset"));
  });
}
cudaError_t wbsim_cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return call(
      [&] { submit(stream, set_work(to, bytes, value & 0xff, 1, bytes, 1, "cudaMemsetAsync")); });
}
cudaError_t wbsim_cudaMemset2D(void* to, size_t pitch, int value, size_t width, size_t height) {
  return call([&] {
    require(width <= pitch);
    forbid_in_capture();
    submit(nullptr, set_work(to, pitch, value & 0xff, 1, width, height, "cudaMemset2D"));
  });
}
cudaError_t wbsim_cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height,
                                    cudaStream_t stream) {
  return call([&] {
    require(width <= pitch);
    submit(stream, set_work(to, pitch, value & 0xff, 1, width, height, "cudaMemset2DAsync"));
  });
}
cudaError_t wbsim_cudaMemset3D(cudaPitchedPtr to, int value, cudaExtent extent) {
  return call([&] {
    forbid_in_capture();
    submit(nullptr, set_3d(to, value, extent, "cudaMemset3D"));
  });
}
cudaError_t wbsim_cudaMemset3DAsync(cudaPitchedPtr to, int value, cudaExtent extent,
                                    cudaStream_t stream) {
  return call([&] { submit(stream, set_3d(to, value, extent, "cudaMemset3DAsync")); });
}

// ---- Variables of the module --------------------------------------------------------------------

cudaError_t wbsim_cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes,
                                     size_t offset, cudaMemcpyKind kind) {
  return call([&] {
    copy_now(copy_work(inside(symbol, bytes, offset), from, bytes, kind, "cudaMemcpyToSymbol"));
  });
}
cudaError_t wbsim_cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset,
                                       cudaMemcpyKind kind) {
  return call([&] {
    copy_now(copy_work(to, inside(symbol, bytes, offset), bytes, kind, "cudaMemcpyFromSymbol"));
  });
}
cudaError_t wbsim_cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t bytes,
                                          size_t offset, cudaMemcpyKind kind, cudaStream_t stream) {
  return call([&] {
    submit(stream,
           copy_work(inside(symbol, bytes, offset), from, bytes, kind, "cudaMemcpyToSymbolAsync"));
  });
}
cudaError_t wbsim_cudaMemcpyFromSymbolAsync(void* to, const void* symbol, size_t bytes,
                                            size_t offset, cudaMemcpyKind kind,
                                            cudaStream_t stream) {
  return call([&] {
    submit(stream,
           copy_work(to, inside(symbol, bytes, offset), bytes, kind, "cudaMemcpyFromSymbolAsync"));
  });
}
cudaError_t wbsim_cudaGetSymbolAddress(void** out, const void* symbol) {
  return call([&] {
    require(out);
    *out = symbol_of(symbol).address;
  });
}
cudaError_t wbsim_cudaGetSymbolSize(size_t* out, const void* symbol) {
  return call([&] {
    require(out);
    *out = symbol_of(symbol).bytes;
  });
}

// ---- Hints and queries --------------------------------------------------------------------------

cudaError_t wbsim_cudaMemGetInfo(size_t* available, size_t* total) {
  return call([&] {
    require(available && total);
    *total = Device::MEMORY;
    *available = Device::MEMORY - Runtime::get().memory.bytes_allocated();
  });
}
cudaError_t wbsim_cudaMemPrefetchAsync(const void* pointer, size_t bytes, cudaMemLocation,
                                       unsigned flags, cudaStream_t stream) {
  return call([&] {
    stream_of(stream);
    auto allocation = Runtime::get().memory.find(pointer);
    require(bytes > 0 && flags == 0 && allocation && allocation->kind == MemoryKind::Managed);
  });
}
cudaError_t wbsim_cudaMemAdvise(const void* pointer, size_t bytes, cudaMemoryAdvise,
                                cudaMemLocation) {
  return call([&] {
    auto allocation = Runtime::get().memory.find(pointer);
    require(bytes > 0 && allocation && allocation->kind == MemoryKind::Managed);
  });
}
cudaError_t wbsim_cudaStreamAttachMemAsync(cudaStream_t stream, void* pointer, size_t, unsigned) {
  return call([&] {
    stream_of(stream);
    auto allocation = Runtime::get().memory.find(pointer);
    require(allocation && allocation->kind == MemoryKind::Managed);
  });
}

}  // extern "C"
