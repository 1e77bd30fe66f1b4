// calls.h: the building blocks of the CUDA calls.
//
// Each call is a function wbsim_<name> of the library; the archive that programs link
// (cudart/) forwards cudaMalloc to wbsim_cudaMalloc, and so on. Signatures come from NVIDIA's
// headers, so a call that is declared wrongly here does not compile.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "runtime/device.h"
#include "runtime/fork.h"
#include "runtime/runtime.h"
#include "wbsim.h"

extern "C" {  // from cuda_profiler_api.h and cudaProfiler.h, which the wheels leave out
cudaError_t cudaProfilerStart();
cudaError_t cudaProfilerStop();
CUresult cuProfilerStart();
CUresult cuProfilerStop();
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // old programs make old calls
#define CUDA_CALL(name) extern "C" WBSIM_EXPORT decltype(name) wbsim_##name;
#include "runtime/api/driver_calls.inc"
#include "runtime/api/runtime_calls.inc"
#undef CUDA_CALL
#pragma GCC diagnostic pop

namespace wbsim {

bool is_in_host_function();  // of a stream; it must not call CUDA

// The body of a runtime call: it throws ApiError, or it succeeded. Every error becomes the thread's
// last one; after a sticky error nothing is done any more.
template <class Body>
cudaError_t call(Body body) {
  Runtime& runtime = Runtime::get();
  runtime.errors.note_use();
  if (cudaError_t error = runtime.errors.sticky()) {
    return runtime.errors.fail(error);
  }
  try {
    require(!is_in_host_function(), cudaErrorNotPermitted);
    body();
    return cudaSuccess;
  } catch (const ApiError& error) {
    return runtime.errors.fail(error.code);
  } catch (const ptx::ParseError& error) {
    return runtime.errors.report_unreadable(error);
  } catch (const std::bad_alloc&) {
    return runtime.errors.fail(cudaErrorMemoryAllocation);
  }
}

// The live objects behind a kind of handle: an unknown handle is an error, never a crash.
template <class T>
class Handles {
 public:
  template <class Handle>
  Handle add(std::shared_ptr<T> object) {
    std::lock_guard lock(mutex_);
    void* key = object.get();
    live_[key] = std::move(object);
    return static_cast<Handle>(key);
  }
  std::shared_ptr<T> find(const void* handle) {
    std::lock_guard lock(mutex_);
    auto found = live_.find(handle);
    return found == live_.end() ? nullptr : found->second;
  }
  std::shared_ptr<T> get(const void* handle, cudaError_t error = cudaErrorInvalidResourceHandle) {
    std::shared_ptr<T> object = find(handle);
    require(object != nullptr, error);
    return object;
  }
  std::shared_ptr<T> take(const void* handle) {
    std::shared_ptr<T> object = get(handle);
    std::lock_guard lock(mutex_);
    live_.erase(handle);
    return object;
  }

 private:
  ForkMutex<LockOrder::Handles> mutex_;
  std::map<const void*, std::shared_ptr<T>> live_;
};

// The kernel behind a host function, a cudaKernel_t or a CUfunction.
inline Function& function_of(const void* kernel,
                             cudaError_t error = cudaErrorInvalidDeviceFunction) {
  Function* function = Runtime::get().modules.find_function(kernel);
  require(function != nullptr, error);
  return *function;
}

inline void require_device(int device) { require(device == 0, cudaErrorInvalidDevice); }

}  // namespace wbsim
