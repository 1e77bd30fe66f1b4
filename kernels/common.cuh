// common.cuh: what three or more rungs share, and nothing else.
//
// It is compiled with every ladder, so it stays light: <string>, <stdexcept> and <algorithm> would
// nearly double the time an edit takes to compile.
#pragma once

#include <cuda_runtime.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <exception>

#include "ladder.h"

// Hardware limits on a grid: 2^31 - 1 blocks along x, 65535 along y and along z.
constexpr int64_t MAX_GRID_X = 2147483647;
constexpr int64_t MAX_GRID_YZ = 65535;

// All 32 lanes of a warp, for the shuffles.
constexpr unsigned ALL_LANES = 0xffffffffu;

template <class Int>
__host__ __device__ constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

// What a launcher throws: a message, formatted as by printf.
class LaunchError : public std::exception {
 public:
  explicit LaunchError(const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(text_, sizeof(text_), format, values);
    va_end(values);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[1024];
};

// Why a rung declines a problem, formatted as by printf. Valid until this thread's next call.
inline const char* reason(const char* format, ...) {
  static thread_local char text[256];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof(text), format, values);
  va_end(values);
  return text;
}

// CUDA_CHECK(cudaMalloc(...)) throws what failed, where, and why in CUDA's own words.
#define CUDA_CHECK(call) cuda_check((call), #call, __FILE__, __LINE__)

// After every kernel<<<...>>>(...): a launch reports a bad configuration in no other way.
#define CUDA_CHECK_LAUNCH(kernel) \
  cuda_check(cudaGetLastError(), "launch of " #kernel, __FILE__, __LINE__)

inline void cuda_check(cudaError_t error, const char* what, const char* file, int line) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // reported here; the next check must not see it again
  throw LaunchError("%s:%d: %s failed: %s (%s)", file, line, what, cudaGetErrorString(error),
                    cudaGetErrorName(error));
}

// The most shared memory that a block may have on the current device, in bytes.
inline int most_shared_memory() {
  int device = 0, bytes = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

// Why a rung declines that needs so much shared memory per block, or nullptr.
inline const char* declines_shared_memory(int bytes) {
  const int most = most_shared_memory();
  if (bytes <= most) return nullptr;
  return reason("it needs %d bytes of shared memory per block; this GPU has %d", bytes, most);
}

// Lets a kernel have more shared memory than 48 KiB, the most without asking.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}
