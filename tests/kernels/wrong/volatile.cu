// volatile.cu: lanes of a warp that exchange data through volatile shared memory and nothing else.
// How to read this file: memcheck.cu.
#include <cuda_runtime.h>

// last_warp_sum (in 64, out 1): the end of a reduction as written when warps ran in lockstep.
template <bool RIGHT>
__global__ void last_warp_sum_kernel(const float* in, float* out) {
  __shared__ float sums[64];
  const int t = threadIdx.x;
  sums[t] = in[t];
  __syncthreads();
  if (t >= 32) return;
  volatile float* s = sums;
  if (RIGHT) {
    for (int n = 32; n > 0; n /= 2) {
      const float sum = s[t] + s[t + n];
      __syncwarp();
      s[t] = sum;
      __syncwarp();
    }
  } else {
    s[t] += s[t + 32];  // OTHER last_warp_sum
    s[t] += s[t + 16];  // WRONG last_warp_sum
    s[t] += s[t + 8];
    s[t] += s[t + 4];
    s[t] += s[t + 2];
    s[t] += s[t + 1];
  }
  if (t == 0) out[0] = s[0];
}
void last_warp_sum_wrong(const float* in, float* out) {
  last_warp_sum_kernel<false><<<1, 64>>>(in, out);
}
void last_warp_sum_right(const float* in, float* out) {
  last_warp_sum_kernel<true><<<1, 64>>>(in, out);
}

// neighbours (in 32, out 32): each lane reads what the next one has written, once.
template <bool RIGHT>
__global__ void neighbours_kernel(const int* in, int* out) {
  __shared__ volatile int row[32];
  const int t = threadIdx.x;
  row[t] = 2 * in[t];  // OTHER neighbours
  if (RIGHT) __syncwarp();
  out[t] = row[(t + 1) % 32];  // WRONG neighbours
}
void neighbours_wrong(const int* in, int* out) { neighbours_kernel<false><<<1, 32>>>(in, out); }
void neighbours_right(const int* in, int* out) { neighbours_kernel<true><<<1, 32>>>(in, out); }

// looped (in 32, out 1): the rounds of a reduction in a loop.
template <bool RIGHT>
__global__ void looped_kernel(const float* in, float* out) {
  __shared__ volatile float s[64];
  const int t = threadIdx.x;
  s[t] = in[t];
  s[t + 32] = 0;
  __syncwarp();
  for (int n = 16; n > 0; n /= 2) {
    if (RIGHT) __syncwarp();
    const float sum = s[t] + s[t + n];  // WRONG looped
    if (RIGHT) __syncwarp();
    s[t] = sum;  // OTHER looped
  }
  if (t == 0) out[0] = s[0];
}
void looped_wrong(const float* in, float* out) { looped_kernel<false><<<1, 32>>>(in, out); }
void looped_right(const float* in, float* out) { looped_kernel<true><<<1, 32>>>(in, out); }
