// lanes.cu: values that nobody defined: shuffled from a lane that is not there, never set, or read
// from a local array that was not filled. How to read this file: memcheck.cu; OTHER marks where the
// value comes from.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

constexpr unsigned ALL = 0xffffffff;

// partial_warp (in 48, out 1): the second warp of 48 threads adds lanes that do not exist.
template <bool RIGHT>
__global__ void partial_warp_kernel(const float* in, float* out) {
  const int t = threadIdx.x, lane = t % 32;
  float sum = in[t];
  for (int n = 16; n > 0; n /= 2) {
    const float other = __shfl_down_sync(ALL, sum, n);  // OTHER partial_warp
    if (!RIGHT || (t + n < 48 && lane + n < 32)) sum += other;
  }
  if (lane == 0) atomicAdd(out, sum);  // WRONG partial_warp
}
void partial_warp_wrong(const float* in, float* out) {
  partial_warp_kernel<false><<<1, 48>>>(in, out);
}
void partial_warp_right(const float* in, float* out) {
  partial_warp_kernel<true><<<1, 48>>>(in, out);
}

// early_exit (in 20, out 32): the lanes beyond the input have left when the others shuffle.
template <bool RIGHT>
__global__ void early_exit_kernel(const int* in, int* out, int n) {
  const int t = threadIdx.x;
  if (!RIGHT && t >= n) return;
  int most = t < n ? in[t] : 0;
  for (int d = 16; d > 0; d /= 2) {
    most = max(most, __shfl_xor_sync(ALL, most, d));  // OTHER early_exit
  }
  out[t] = most;  // WRONG early_exit
}
void early_exit_wrong(const int* in, int* out) { early_exit_kernel<false><<<1, 32>>>(in, out, 20); }
void early_exit_right(const int* in, int* out) { early_exit_kernel<true><<<1, 32>>>(in, out, 20); }

// other_half (in 32, out 32): each half of the warp shuffles by itself, but reads a lane of the
// other one.
template <bool RIGHT>
__global__ void other_half_kernel(const float* in, float* out) {
  const int t = threadIdx.x;
  const unsigned half = t < 16 ? 0x0000ffff : 0xffff0000;
  const int from = RIGHT ? t ^ 1 : t ^ 16;
  const float other = __shfl_sync(half, in[t], from);  // OTHER other_half
  out[t] = other;                                      // WRONG other_half
}
void other_half_wrong(const float* in, float* out) { other_half_kernel<false><<<1, 32>>>(in, out); }
void other_half_right(const float* in, float* out) { other_half_kernel<true><<<1, 32>>>(in, out); }

// neighbour (in 40, out 40): a branch looks at the right neighbour of the last thread.
template <bool RIGHT>
__global__ void neighbour_kernel(const int* in, int* out) {
  const int t = threadIdx.x;
  const int next = __shfl_down_sync(ALL, in[t], 1);  // OTHER neighbour
  const bool last = RIGHT && t == 39;
  out[t] = 0;
  if (!last && next > in[t]) {  // WRONG neighbour
    asm volatile("");
    out[t] = 1;
    __threadfence();
    out[t] += 1;
  }
}
void neighbour_wrong(const int* in, int* out) { neighbour_kernel<false><<<1, 40>>>(in, out); }
void neighbour_right(const int* in, int* out) { neighbour_kernel<true><<<1, 40>>>(in, out); }

// index_of (in 40, out 40): an index comes from a lane that does not exist.
template <bool RIGHT>
__global__ void index_of_kernel(const int* in, int* out) {
  const int t = threadIdx.x;
  int i = __shfl_down_sync(ALL, in[t], 4);  // OTHER index_of
  if (RIGHT && t >= 36) i = 0;
  out[t] = in[i];  // WRONG index_of
}
void index_of_wrong(const int* in, int* out) { index_of_kernel<false><<<1, 40>>>(in, out); }
void index_of_right(const int* in, int* out) { index_of_kernel<true><<<1, 40>>>(in, out); }

// through_shared (in 48, out 2): the undefined sum of a warp goes through shared memory.
template <bool RIGHT>
__global__ void through_shared_kernel(const float* in, float* out) {
  __shared__ float sums[2];
  const int t = threadIdx.x;
  float sum = in[t];
  for (int n = 16; n > 0; n /= 2) {
    const float other = __shfl_down_sync(ALL, sum, n);  // OTHER through_shared
    sum += RIGHT && t + n >= 48 ? 0 : other;
  }
  if (t % 32 == 0) sums[t / 32] = sum;
  __syncthreads();
  if (t < 2) out[t] = sums[t];  // WRONG through_shared
}
void through_shared_wrong(const float* in, float* out) {
  through_shared_kernel<false><<<1, 48>>>(in, out);
}
void through_shared_right(const float* in, float* out) {
  through_shared_kernel<true><<<1, 48>>>(in, out);
}

// counted (in 40, out 1): a vote counts what lanes without a neighbour found.
template <bool RIGHT>
__global__ void counted_kernel(const int* in, int* out) {
  const int t = threadIdx.x;
  const int next = __shfl_down_sync(ALL, in[t], 1);  // OTHER counted
  const bool rises = !(RIGHT && t == 39) && next > in[t];
  const unsigned votes = __ballot_sync(ALL, rises);  // WRONG counted
  if (t % 32 == 0) atomicAdd(out, __popc(votes));
}
void counted_wrong(const int* in, int* out) { counted_kernel<false><<<1, 40>>>(in, out); }
void counted_right(const int* in, int* out) { counted_kernel<true><<<1, 40>>>(in, out); }

// double_sum (in 40, out 1): a shuffle of a double is two shuffles.
template <bool RIGHT>
__global__ void double_sum_kernel(const float* in, float* out) {
  const int t = threadIdx.x;
  double sum = in[t];
  for (int n = 16; n > 0; n /= 2) {
    double other = __shfl_down_sync(ALL, sum, n);  // OTHER double_sum
    if (RIGHT && t + n >= 40) other = 0;
    sum += other;
  }
  if (t == 32) out[0] = static_cast<float>(sum);  // WRONG double_sum
}
void double_sum_wrong(const float* in, float* out) { double_sum_kernel<false><<<1, 40>>>(in, out); }
void double_sum_right(const float* in, float* out) { double_sum_kernel<true><<<1, 40>>>(in, out); }

// half_pairs (in 40, out 40): a pair of halves, of which one has no neighbour.
template <bool RIGHT>
__global__ void half_pairs_kernel(const float* in, float* out) {
  const int t = threadIdx.x;
  const __half own = __float2half(in[t]);
  const __half next = __shfl_down_sync(ALL, own, 1);  // OTHER half_pairs
  const __half2 sums = __hadd2(__halves2half2(own, next), __halves2half2(own, own));
  const bool last = RIGHT && t == 39;
  out[t] = __low2float(sums) + (last ? 0 : __high2float(sums));  // WRONG half_pairs
}
void half_pairs_wrong(const float* in, float* out) { half_pairs_kernel<false><<<1, 40>>>(in, out); }
void half_pairs_right(const float* in, float* out) { half_pairs_kernel<true><<<1, 40>>>(in, out); }

// called (in 40, out 40): a function gets the undefined value as its argument.
__device__ __noinline__ float blend(const float* weights, float a, float b) {
  return weights[0] * a + (weights[1] + 1) * b;
}
template <bool RIGHT>
__global__ void called_kernel(const float* in, float* out) {
  const int t = threadIdx.x;
  float next = __shfl_down_sync(ALL, in[t], 1);  // OTHER called
  if (RIGHT && t == 39) next = 0;
  out[t] = blend(in, in[t], next);  // WRONG called
}
void called_wrong(const float* in, float* out) { called_kernel<false><<<1, 40>>>(in, out); }
void called_right(const float* in, float* out) { called_kernel<true><<<1, 40>>>(in, out); }

// no_zero (in 100, out 32): a sum that does not start at zero.
template <bool RIGHT>
__global__ void no_zero_kernel(const float* in, float* out, int n) {
  float sum;
  if constexpr (RIGHT) sum = 0;
  for (int i = threadIdx.x; i < n; i += 32) sum += in[i];
  out[threadIdx.x] = sum;  // WRONG no_zero
}
void no_zero_wrong(const float* in, float* out) { no_zero_kernel<false><<<1, 32>>>(in, out, 100); }
void no_zero_right(const float* in, float* out) { no_zero_kernel<true><<<1, 32>>>(in, out, 100); }

// some_paths (in 20, out 32): threads beyond the input never set their value.
template <bool RIGHT>
__global__ void some_paths_kernel(const float* in, float* out, int n) {
  float value;
  if constexpr (RIGHT) value = 0;
  for (int i = threadIdx.x; i < n; i += 32) value = 2 * in[i];
  out[threadIdx.x] = value;  // WRONG some_paths
}
void some_paths_wrong(const float* in, float* out) {
  some_paths_kernel<false><<<1, 32>>>(in, out, 20);
}
void some_paths_right(const float* in, float* out) {
  some_paths_kernel<true><<<1, 32>>>(in, out, 20);
}

// local_sums (in 32, out 32): five of eight sums are set, one of the others is used.
template <bool RIGHT>
__global__ void local_sums_kernel(const float* in, float* out, int n) {
  float sums[8];
  for (int i = 0; i < (RIGHT ? 8 : n); i++) sums[i] = in[threadIdx.x] + i;
  const float sum = sums[static_cast<int>(in[threadIdx.x])];  // OTHER local_sums
  out[threadIdx.x] = sum;                                     // WRONG local_sums
}
void local_sums_wrong(const float* in, float* out) {
  local_sums_kernel<false><<<1, 32>>>(in, out, 5);
}
void local_sums_right(const float* in, float* out) {
  local_sums_kernel<true><<<1, 32>>>(in, out, 5);
}

// fragments (in 32, out 128): a matrix product with elements of lanes that do not take part.
template <bool RIGHT>
__global__ void fragments_kernel(const int* in, int* out) {
  const int t = threadIdx.x;
  const unsigned half = t < 16 ? 0x0000ffff : 0xffff0000;
  const int a = __shfl_sync(half, in[t], RIGHT ? t : t + 16);  // OTHER fragments
  int c[4] = {};
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%4}, {%5}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a), "r"(in[t]));  // WRONG fragments
  for (int i = 0; i < 4; i++) out[32 * i + t] = c[i];
}
void fragments_wrong(const int* in, int* out) { fragments_kernel<false><<<1, 32>>>(in, out); }
void fragments_right(const int* in, int* out) { fragments_kernel<true><<<1, 32>>>(in, out); }
