// device_calls.cpp: the one device there is, and its limits.

#include <cstdio>
#include <cstring>

#include "exec/builtins.h"
#include "runtime/api/calls.h"
#include "runtime/graph.h"

using namespace wbsim;

namespace {

constexpr const char* PCI_ID = "0000:01:00.0";

struct Limit {
  std::atomic<size_t> value;
  size_t most;
};

// By cudaLimit; values as on an H200.
Limit limits[] = {
    {1024, 512 << 10},           // stack of a thread; Launches::stack_limit follows it
    {8 << 20, size_t{1} << 31},  // printf's buffer
    {8 << 20, size_t{1} << 40},  // malloc's heap on the device
    {2, 2},                      // nested launches: none here
    {2048, 1 << 20},
    {64, 128},              // L2 fetch granularity
    {0, Device::L2_BYTES},  // persisting L2
};

std::atomic<unsigned> device_flags{cudaDeviceScheduleAuto};

}  // namespace

extern "C" {

cudaError_t wbsim_cudaGetDeviceCount(int* count) {
  return call([&] {
    require(count);
    *count = 1;
  });
}
cudaError_t wbsim_cudaGetDevice(int* device) {
  return call([&] {
    require(device);
    *device = 0;
  });
}
cudaError_t wbsim_cudaSetDevice(int device) {
  return call([&] { require_device(device); });
}
cudaError_t wbsim_cudaInitDevice(int device, unsigned, unsigned) {
  return call([&] { require_device(device); });
}
cudaError_t wbsim_cudaSetValidDevices(int* devices, int count) {
  return call([&] {
    require(devices || count <= 0);
    for (int i = 0; i < count; i++) {
      require_device(devices[i]);
    }
  });
}
cudaError_t wbsim_cudaChooseDevice(int* device, const cudaDeviceProp* wanted) {
  return call([&] {
    require(device && wanted);
    *device = 0;
  });
}
cudaError_t wbsim_cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  return call([&] {
    require(out);
    require_device(device);
    *out = device_properties();
  });
}
cudaError_t wbsim_cudaDeviceGetAttribute(int* out, cudaDeviceAttr attribute, int device) {
  return call([&] {
    require(out);
    require_device(device);
    auto value = device_attribute(attribute);
    require(value.has_value());
    *out = *value;
  });
}
cudaError_t wbsim_cudaDeviceGetPCIBusId(char* out, int bytes, int device) {
  return call([&] {
    require_device(device);
    require(out && bytes > 0);
    std::snprintf(out, bytes, "%s", PCI_ID);
  });
}
cudaError_t wbsim_cudaDeviceGetByPCIBusId(int* device, const char* id) {
  return call([&] {
    require(device && id);
    require(std::strcmp(id, PCI_ID) == 0 || std::strcmp(id, PCI_ID + 5) == 0,
            cudaErrorInvalidDevice);
    *device = 0;
  });
}
cudaError_t wbsim_cudaSetDeviceFlags(unsigned flags) {
  return call([&] {
    require((flags & ~unsigned{cudaDeviceMask}) == 0);
    device_flags = flags;
  });
}
cudaError_t wbsim_cudaGetDeviceFlags(unsigned* flags) {
  return call([&] {
    require(flags);
    *flags = device_flags | cudaDeviceMapHost;
  });
}
cudaError_t wbsim_cudaDeviceSynchronize() {
  return call([&] {
    forbid_in_capture();
    check(Runtime::get().errors.of_launch());
  });
}
cudaError_t wbsim_cudaDeviceReset() {
  Runtime::get().memory.release_all();
  Runtime::get().errors.reset();
  return cudaSuccess;
}
cudaError_t wbsim_cudaRuntimeGetVersion(int* version) {
  return call([&] {
    require(version);
    *version = CUDART_VERSION;
  });
}
cudaError_t wbsim_cudaDriverGetVersion(int* version) {
  return call([&] {
    require(version);
    *version = CUDA_VERSION;
  });
}

cudaError_t wbsim_cudaDeviceGetLimit(size_t* out, cudaLimit limit) {
  return call([&] {
    require(out);
    require(static_cast<size_t>(limit) < std::size(limits), cudaErrorUnsupportedLimit);
    *out = limits[limit].value;
  });
}
cudaError_t wbsim_cudaDeviceSetLimit(cudaLimit limit, size_t value) {
  return call([&] {
    require(static_cast<size_t>(limit) < std::size(limits), cudaErrorUnsupportedLimit);
    require(value <= limits[limit].most,
            limit == cudaLimitStackSize ? cudaErrorMemoryAllocation : cudaErrorInvalidValue);
    limits[limit].value = value;
    if (limit == cudaLimitStackSize) {
      Runtime::get().launches.stack_limit = value;
    } else if (limit == cudaLimitMallocHeapSize) {
      set_device_heap_bytes(value);
    }
  });
}
cudaError_t wbsim_cudaDeviceGetCacheConfig(cudaFuncCache* out) {
  return call([&] {
    require(out);
    *out = cudaFuncCachePreferNone;
  });
}
cudaError_t wbsim_cudaDeviceSetCacheConfig(cudaFuncCache) {
  return call([] {});
}
cudaError_t wbsim_cudaDeviceGetSharedMemConfig(cudaSharedMemConfig* out) {
  return call([&] {
    require(out);
    *out = cudaSharedMemBankSizeFourByte;
  });
}
cudaError_t wbsim_cudaDeviceSetSharedMemConfig(cudaSharedMemConfig) {
  return call([] {});
}
cudaError_t wbsim_cudaCtxResetPersistingL2Cache() {
  return call([] {});
}

// ---- Other devices: there are none --------------------------------------------------------------

cudaError_t wbsim_cudaDeviceCanAccessPeer(int* out, int device, int peer) {
  return call([&] {
    require(out);
    require_device(device);
    require_device(peer);
    *out = 0;
  });
}
cudaError_t wbsim_cudaDeviceEnablePeerAccess(int, unsigned) {
  return call([] { throw ApiError{cudaErrorInvalidDevice}; });
}
cudaError_t wbsim_cudaDeviceDisablePeerAccess(int) {
  return call([] { throw ApiError{cudaErrorInvalidDevice}; });
}
cudaError_t wbsim_cudaDeviceGetP2PAttribute(int*, cudaDeviceP2PAttr, int, int) {
  return call([] { throw ApiError{cudaErrorInvalidDevice}; });
}

cudaError_t wbsim_cudaProfilerStart() {
  return call([] {});
}
cudaError_t wbsim_cudaProfilerStop() {
  return call([] {});
}

}  // extern "C"
