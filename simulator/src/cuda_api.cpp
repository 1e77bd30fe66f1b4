// cuda_api.cpp: the CUDA runtime calls, as wbsim_<name>.
//
// Device memory is host memory and every call is finished when it returns, so streams and events
// are names only.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "runtime.h"
#include "wbsim.h"

using wbsim::Runtime;

#define CUDA_CALL(name, parameters, arguments) \
  extern "C" WBSIM_EXPORT cudaError_t wbsim_##name parameters;
#include "cuda_api.inc"
#undef CUDA_CALL

namespace {

cudaError_t fail(cudaError_t error) { return Runtime::get().fail(error); }

// nullptr: unknown, or in a module whose PTX cannot be read.
const wbsim::Module::Symbol* find_variable(const void* symbol) try {
  return Runtime::get().find_variable(symbol);
} catch (wbsim::ptx::ParseError&) {
  return nullptr;
}

// What the simulated device says of itself: an H200.
struct Device {
  static constexpr int SMS = wbsim::NUM_SMS;
  static constexpr size_t MEMORY = 141ull << 30;
  static constexpr int SHARED_PER_SM = 228 * 1024;
  static constexpr int SHARED_OPTIN = 227 * 1024;
  static constexpr int CLOCK_KHZ = 1980000;
  static constexpr int MEMORY_CLOCK_KHZ = 3201000;
  static constexpr int BUS_BITS = 6016;
  static constexpr int L2_BYTES = 60 << 20;
};

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  void* stream;
};
thread_local std::vector<Configuration> configurations;

struct Event {
  std::chrono::steady_clock::time_point at;
};

}  // namespace

extern "C" {

// ---- Memory -------------------------------------------------------------------------------------

cudaError_t wbsim_cudaMalloc(void** out, size_t bytes) {
  return Runtime::get().allocate(out, bytes, "cudaMalloc");
}
cudaError_t wbsim_cudaMallocAsync(void** out, size_t bytes, cudaStream_t) {
  return Runtime::get().allocate(out, bytes, "cudaMallocAsync");
}
cudaError_t wbsim_cudaMallocHost(void** out, size_t bytes) {
  return Runtime::get().allocate(out, bytes, "cudaMallocHost");
}
cudaError_t wbsim_cudaHostAlloc(void** out, size_t bytes, unsigned int) {
  return Runtime::get().allocate(out, bytes, "cudaHostAlloc");
}
cudaError_t wbsim_cudaMallocManaged(void** out, size_t bytes, unsigned int) {
  return Runtime::get().allocate(out, bytes, "cudaMallocManaged");
}
cudaError_t wbsim_cudaFree(void* pointer) { return Runtime::get().release(pointer); }
cudaError_t wbsim_cudaFreeAsync(void* pointer, cudaStream_t) {
  return Runtime::get().release(pointer);
}
cudaError_t wbsim_cudaFreeHost(void* pointer) { return Runtime::get().release(pointer); }

cudaError_t wbsim_cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes && (!to || !from)) {
    return fail(cudaErrorInvalidValue);
  }
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t wbsim_cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                  cudaStream_t) {
  return wbsim_cudaMemcpy(to, from, bytes, kind);
}
cudaError_t wbsim_cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                               size_t width, size_t height, cudaMemcpyKind) {
  if (width > to_pitch || width > from_pitch) {
    return fail(cudaErrorInvalidPitchValue);
  }
  for (size_t row = 0; row < height; row++) {
    std::memmove(static_cast<char*>(to) + row * to_pitch,
                 static_cast<const char*>(from) + row * from_pitch, width);
  }
  return cudaSuccess;
}
cudaError_t wbsim_cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                    size_t width, size_t height, cudaMemcpyKind kind,
                                    cudaStream_t) {
  return wbsim_cudaMemcpy2D(to, to_pitch, from, from_pitch, width, height, kind);
}
cudaError_t wbsim_cudaMemset(void* to, int value, size_t bytes) {
  if (bytes && !to) {
    return fail(cudaErrorInvalidValue);
  }
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t wbsim_cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return wbsim_cudaMemset(to, value, bytes);
}
cudaError_t wbsim_cudaMemset2D(void* to, size_t pitch, int value, size_t width, size_t height) {
  if (width > pitch) {
    return fail(cudaErrorInvalidPitchValue);
  }
  for (size_t row = 0; row < height; row++) {
    std::memset(static_cast<char*>(to) + row * pitch, value, width);
  }
  return cudaSuccess;
}
cudaError_t wbsim_cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height,
                                    cudaStream_t) {
  return wbsim_cudaMemset2D(to, pitch, value, width, height);
}

cudaError_t wbsim_cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes,
                                     size_t offset, cudaMemcpyKind) {
  auto* v = find_variable(symbol);
  if (!v || offset > v->bytes || bytes > v->bytes - offset) {
    return fail(v ? cudaErrorInvalidValue : cudaErrorInvalidSymbol);
  }
  std::memcpy(v->address + offset, from, bytes);
  return cudaSuccess;
}
cudaError_t wbsim_cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset,
                                       cudaMemcpyKind) {
  auto* v = find_variable(symbol);
  if (!v || offset > v->bytes || bytes > v->bytes - offset) {
    return fail(v ? cudaErrorInvalidValue : cudaErrorInvalidSymbol);
  }
  std::memcpy(to, v->address + offset, bytes);
  return cudaSuccess;
}
cudaError_t wbsim_cudaGetSymbolAddress(void** out, const void* symbol) {
  auto* v = find_variable(symbol);
  *out = v ? v->address : nullptr;
  return v ? cudaSuccess : fail(cudaErrorInvalidSymbol);
}
cudaError_t wbsim_cudaGetSymbolSize(size_t* out, const void* symbol) {
  auto* v = find_variable(symbol);
  *out = v ? v->bytes : 0;
  return v ? cudaSuccess : fail(cudaErrorInvalidSymbol);
}
cudaError_t wbsim_cudaMemGetInfo(size_t* available, size_t* total) {
  *available = *total = Device::MEMORY;
  return cudaSuccess;
}

// ---- Devices ------------------------------------------------------------------------------------

cudaError_t wbsim_cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t wbsim_cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t wbsim_cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice);
}

cudaError_t wbsim_cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  if (device != 0) {
    return fail(cudaErrorInvalidDevice);
  }
  *out = cudaDeviceProp{};
  std::snprintf(out->name, sizeof out->name, "Simulated NVIDIA H200");
  out->major = 9;
  out->minor = 0;
  out->totalGlobalMem = Device::MEMORY;
  out->multiProcessorCount = Device::SMS;
  out->warpSize = 32;
  out->maxThreadsPerBlock = 1024;
  out->maxThreadsPerMultiProcessor = 2048;
  out->maxBlocksPerMultiProcessor = 32;
  out->maxThreadsDim[0] = out->maxThreadsDim[1] = 1024;
  out->maxThreadsDim[2] = 64;
  out->maxGridSize[0] = 0x7fffffff;
  out->maxGridSize[1] = out->maxGridSize[2] = 65535;
  out->regsPerBlock = out->regsPerMultiprocessor = 65536;
  out->sharedMemPerBlock = 48 * 1024;
  out->sharedMemPerBlockOptin = Device::SHARED_OPTIN;
  out->sharedMemPerMultiprocessor = Device::SHARED_PER_SM;
  out->reservedSharedMemPerBlock = 1024;
  out->totalConstMem = 64 * 1024;
  out->l2CacheSize = Device::L2_BYTES;
  out->memoryBusWidth = Device::BUS_BITS;
  out->unifiedAddressing = 1;
  out->managedMemory = 1;
  out->concurrentKernels = 1;
  return cudaSuccess;
}

cudaError_t wbsim_cudaDeviceGetAttribute(int* out, cudaDeviceAttr attribute, int device) {
  if (device != 0) {
    return fail(cudaErrorInvalidDevice);
  }
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *out = 1024;
      break;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      *out = 1024;
      break;
    case cudaDevAttrMaxBlockDimZ:
      *out = 64;
      break;
    case cudaDevAttrMaxGridDimX:
      *out = 0x7fffffff;
      break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      *out = 65535;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *out = 48 * 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *out = Device::SHARED_OPTIN;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *out = Device::SHARED_PER_SM;
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *out = 1024;
      break;
    case cudaDevAttrTotalConstantMemory:
      *out = 64 * 1024;
      break;
    case cudaDevAttrWarpSize:
      *out = 32;
      break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *out = 65536;
      break;
    case cudaDevAttrClockRate:
      *out = Device::CLOCK_KHZ;
      break;
    case cudaDevAttrMemoryClockRate:
      *out = Device::MEMORY_CLOCK_KHZ;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *out = Device::BUS_BITS;
      break;
    case cudaDevAttrL2CacheSize:
      *out = Device::L2_BYTES;
      break;
    case cudaDevAttrMultiProcessorCount:
      *out = Device::SMS;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *out = 2048;
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *out = 32;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *out = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *out = 0;
      break;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrMemoryPoolsSupported:
      *out = 1;
      break;
    default:
      *out = 0;
      return fail(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t wbsim_cudaDeviceSynchronize() {
  return Runtime::get().last_error(false) == cudaErrorLaunchFailure ? cudaErrorLaunchFailure
                                                                    : cudaSuccess;
}
cudaError_t wbsim_cudaDeviceReset() { return cudaSuccess; }
cudaError_t wbsim_cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t wbsim_cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// ---- Streams and events -------------------------------------------------------------------------

cudaError_t wbsim_cudaStreamCreate(cudaStream_t* out) {
  *out = reinterpret_cast<cudaStream_t>(new char);
  return cudaSuccess;
}
cudaError_t wbsim_cudaStreamCreateWithFlags(cudaStream_t* out, unsigned int) {
  return wbsim_cudaStreamCreate(out);
}
cudaError_t wbsim_cudaStreamDestroy(cudaStream_t stream) {
  delete reinterpret_cast<char*>(stream);
  return cudaSuccess;
}
cudaError_t wbsim_cudaStreamSynchronize(cudaStream_t) { return wbsim_cudaDeviceSynchronize(); }
cudaError_t wbsim_cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t wbsim_cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int) {
  return cudaSuccess;
}
cudaError_t wbsim_cudaEventCreate(cudaEvent_t* out) {
  *out = reinterpret_cast<cudaEvent_t>(new Event{});
  return cudaSuccess;
}
cudaError_t wbsim_cudaEventCreateWithFlags(cudaEvent_t* out, unsigned int) {
  return wbsim_cudaEventCreate(out);
}
cudaError_t wbsim_cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t wbsim_cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  reinterpret_cast<Event*>(event)->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t wbsim_cudaEventSynchronize(cudaEvent_t) { return wbsim_cudaDeviceSynchronize(); }
cudaError_t wbsim_cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
// The time of the simulation, which says nothing about a GPU.
cudaError_t wbsim_cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  auto span = reinterpret_cast<Event*>(end)->at - reinterpret_cast<Event*>(start)->at;
  *milliseconds = std::chrono::duration<float, std::milli>(span).count();
  return cudaSuccess;
}

// ---- Kernels ------------------------------------------------------------------------------------

cudaError_t wbsim_cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** args,
                                   size_t shared_bytes, cudaStream_t) {
  return Runtime::get().launch(kernel, grid, block, args, shared_bytes);
}

cudaError_t wbsim_cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute,
                                       int value) try {
  wbsim::Kernel* kernel = Runtime::get().find_kernel(host);
  if (!kernel) {
    return fail(cudaErrorInvalidDeviceFunction);
  }
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || value + kernel->shared_bytes > Device::SHARED_OPTIN) {
      return fail(cudaErrorInvalidValue);
    }
    kernel->dynamic_shared_limit = value;
  }
  return cudaSuccess;
} catch (wbsim::ptx::ParseError&) {
  return fail(cudaErrorInvalidPtx);
}

cudaError_t wbsim_cudaFuncGetAttributes(cudaFuncAttributes* out, const void* host) try {
  wbsim::Kernel* kernel = Runtime::get().find_kernel(host);
  if (!kernel) {
    return fail(cudaErrorInvalidDeviceFunction);
  }
  *out = cudaFuncAttributes{};
  out->sharedSizeBytes = kernel->shared_bytes;
  out->localSizeBytes = kernel->local_bytes;
  out->maxThreadsPerBlock = kernel->max_threads;
  out->maxDynamicSharedSizeBytes =
      static_cast<int>(kernel->dynamic_shared_limit.value_or(48 * 1024 - kernel->shared_bytes));
  out->ptxVersion = out->binaryVersion = 90;
  return cudaSuccess;
} catch (wbsim::ptx::ParseError&) {
  return fail(cudaErrorInvalidPtx);
}

cudaError_t wbsim_cudaFuncSetCacheConfig(const void*, cudaFuncCache) { return cudaSuccess; }
cudaError_t wbsim_cudaGetLastError() { return Runtime::get().last_error(true); }
cudaError_t wbsim_cudaPeekAtLastError() { return Runtime::get().last_error(false); }

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
static constexpr ErrorText ERRORS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidSymbol, "cudaErrorInvalidSymbol", "invalid device symbol"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidPtx, "cudaErrorInvalidPtx", "a PTX JIT compilation failed"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};

WBSIM_EXPORT const char* wbsim_cudaGetErrorString(cudaError_t error) {
  for (const ErrorText& e : ERRORS) {
    if (e.error == error) {
      return e.text;
    }
  }
  return "unrecognized error code";
}

WBSIM_EXPORT const char* wbsim_cudaGetErrorName(cudaError_t error) {
  for (const ErrorText& e : ERRORS) {
    if (e.error == error) {
      return e.name;
    }
  }
  return "unrecognized error code";
}

// ---- Registration, called by nvcc's host code ---------------------------------------------------

WBSIM_EXPORT void** wbsim_register_binary(void* fat_binary) {
  return reinterpret_cast<void**>(Runtime::get().add_binary(fat_binary));
}
WBSIM_EXPORT void wbsim_unregister_binary(void** handle) {
  Runtime::get().remove_binary(reinterpret_cast<Runtime::Binary*>(handle));
}
WBSIM_EXPORT void wbsim_register_function(void** handle, const void* host, const char* name) {
  Runtime::get().add_function(reinterpret_cast<Runtime::Binary*>(handle), host, name);
}
WBSIM_EXPORT void wbsim_register_variable(void** handle, const void* host, const char* name) {
  Runtime::get().add_variable(reinterpret_cast<Runtime::Binary*>(handle), host, name);
}
WBSIM_EXPORT void wbsim_push_configuration(dim3 grid, dim3 block, size_t shared_bytes,
                                           void* stream) {
  configurations.push_back({grid, block, shared_bytes, stream});
}
WBSIM_EXPORT cudaError_t wbsim_pop_configuration(dim3* grid, dim3* block, size_t* shared_bytes,
                                                 void* stream) {
  if (configurations.empty()) {
    return fail(cudaErrorInvalidConfiguration);
  }
  Configuration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared_bytes = c.shared_bytes;
  *static_cast<void**>(stream) = c.stream;
  return cudaSuccess;
}

}  // extern "C"
