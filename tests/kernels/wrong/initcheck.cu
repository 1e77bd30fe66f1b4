// initcheck.cu: reads of memory that nobody wrote. How to read this file: memcheck.cu.
#include <cuda_runtime.h>

#include "ptx.h"

// accumulator (in 256, out 64): sums start with what happens to be in shared memory.
template <bool RIGHT>
__global__ void accumulator_kernel(const float* in, float* out) {
  __shared__ float acc[64];
  const int i = threadIdx.x;
  if (RIGHT) acc[i] = 0;
  for (int k = 0; k < 256; k += 64) {
    acc[i] += in[k + i];  // WRONG accumulator
  }
  __syncthreads();
  out[i] = acc[63 - i];
}
void accumulator_wrong(const float* in, float* out) {
  accumulator_kernel<false><<<1, 64>>>(in, out);
}
void accumulator_right(const float* in, float* out) {
  accumulator_kernel<true><<<1, 64>>>(in, out);
}

// halo (in 256, out 256): a tile's neighbours on both sides are not loaded.
template <bool RIGHT>
__global__ void halo_kernel(const float* in, float* out) {
  __shared__ float tile[66];
  const int t = threadIdx.x, first = blockIdx.x * 64;
  tile[t + 1] = in[first + t];
  if (RIGHT && t < 2) {
    const int i = t == 0 ? first - 1 : first + 64;
    tile[t * 65] = i >= 0 && i < 256 ? in[i] : 0;
  }
  __syncthreads();
  out[first + t] = tile[t] + tile[t + 1] + tile[t + 2];  // WRONG halo
}
void halo_wrong(const float* in, float* out) { halo_kernel<false><<<4, 64>>>(in, out); }
void halo_right(const float* in, float* out) { halo_kernel<true><<<4, 64>>>(in, out); }

// accumulated_output (in 128, out 64): the kernel adds to memory that nobody set to zero.
__global__ void accumulated_output_kernel(const float* in, float* sums) {
  sums[threadIdx.x] += in[threadIdx.x] + in[64 + threadIdx.x];  // WRONG accumulated_output
}
__global__ void copy_kernel(const float* from, float* to) { to[threadIdx.x] = from[threadIdx.x]; }

template <bool RIGHT>
void accumulated_output(const float* in, float* out) {
  float* sums;
  cudaMalloc(&sums, 64 * sizeof(float));
  if (RIGHT) cudaMemset(sums, 0, 64 * sizeof(float));
  accumulated_output_kernel<<<1, 64>>>(in, sums);
  copy_kernel<<<1, 64>>>(sums, out);
  cudaFree(sums);
}
void accumulated_output_wrong(const float* in, float* out) { accumulated_output<false>(in, out); }
void accumulated_output_right(const float* in, float* out) { accumulated_output<true>(in, out); }

// memset_bytes (in 64, out 64): cudaMemset is given a number of elements, where it counts bytes.
__global__ void memset_bytes_kernel(const float* in, float* sums) {
  sums[threadIdx.x] += 5 * in[threadIdx.x];  // WRONG memset_bytes
}

template <bool RIGHT>
void memset_bytes(const float* in, float* out) {
  float* sums;
  cudaMalloc(&sums, 64 * sizeof(float));
  cudaMemset(sums, 0, RIGHT ? 64 * sizeof(float) : 64);
  memset_bytes_kernel<<<1, 64>>>(in, sums);
  copy_kernel<<<1, 64>>>(sums, out);
  cudaFree(sums);
}
void memset_bytes_wrong(const float* in, float* out) { memset_bytes<false>(in, out); }
void memset_bytes_right(const float* in, float* out) { memset_bytes<true>(in, out); }

// partial_sums (in 256, out 1): four of eight blocks ran, eight sums are added.
__global__ void partial_kernel(const float* in, float* partial) {
  float sum = in[blockIdx.x * 32 + threadIdx.x];
  for (int n = 16; n > 0; n /= 2) sum += __shfl_xor_sync(0xffffffff, sum, n);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
__global__ void partial_sums_kernel(const float* partial, float* out) {
  float sum = 0;
  for (int i = 0; i < 8; i++) sum += partial[i];  // WRONG partial_sums
  out[0] = sum;
}

template <bool RIGHT>
void partial_sums(const float* in, float* out) {
  float* partial;
  cudaMalloc(&partial, 8 * sizeof(float));
  partial_kernel<<<RIGHT ? 8 : 4, 32>>>(in, partial);
  partial_sums_kernel<<<1, 1>>>(partial, out);
  cudaFree(partial);
}
void partial_sums_wrong(const float* in, float* out) { partial_sums<false>(in, out); }
void partial_sums_right(const float* in, float* out) { partial_sums<true>(in, out); }

// cp_async_tail (in 100, out 128): what the tile has beyond the input is not filled with zeros.
template <bool RIGHT>
__global__ void cp_async_tail_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[128];
  const int t = threadIdx.x;
  if (4 * t < 100) {
    CP_ASYNC(&tile[4 * t], &in[4 * t]);
  } else if (RIGHT && 4 * t < 128) {
    *reinterpret_cast<float4*>(&tile[4 * t]) = float4{};
  }
  CP_ASYNC_COMMIT();
  CP_ASYNC_WAIT(0);
  __syncthreads();
  out[t] = tile[127 - t];  // WRONG cp_async_tail
}
void cp_async_tail_wrong(const float* in, float* out) {
  cp_async_tail_kernel<false><<<1, 128>>>(in, out);
}
void cp_async_tail_right(const float* in, float* out) {
  cp_async_tail_kernel<true><<<1, 128>>>(in, out);
}

// ragged_tile (in 100, out 1): the guard of the load leaves the rest of the tile as it was.
template <bool RIGHT>
__global__ void ragged_tile_kernel(const float* in, float* out) {
  __shared__ float tile[128];
  const int t = threadIdx.x;
  if (t < 100) {
    tile[t] = in[t];
  } else if (RIGHT) {
    tile[t] = 0;
  }
  __syncthreads();
  if (t >= 32) return;
  float sum = 0;
  for (int i = t; i < 128; i += 32) sum += tile[i];  // WRONG ragged_tile
  for (int n = 16; n > 0; n /= 2) sum += __shfl_xor_sync(0xffffffff, sum, n);
  if (t == 0) out[0] = sum;
}
void ragged_tile_wrong(const float* in, float* out) {
  ragged_tile_kernel<false><<<1, 128>>>(in, out);
}
void ragged_tile_right(const float* in, float* out) {
  ragged_tile_kernel<true><<<1, 128>>>(in, out);
}

// shared_bins (in 128, out 7): the counters in shared memory do not start at zero.
template <bool RIGHT>
__global__ void shared_bins_kernel(const int* in, int* out) {
  __shared__ int bins[7];
  if (RIGHT && threadIdx.x < 7) bins[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(&bins[in[threadIdx.x]], 1);  // WRONG shared_bins
  __syncthreads();
  if (threadIdx.x < 7) out[threadIdx.x] = bins[threadIdx.x];
}
void shared_bins_wrong(const int* in, int* out) { shared_bins_kernel<false><<<1, 128>>>(in, out); }
void shared_bins_right(const int* in, int* out) { shared_bins_kernel<true><<<1, 128>>>(in, out); }

// warp_sums (in 128, out 1): four warps leave a sum, 32 are added.
template <bool RIGHT>
__global__ void warp_sums_kernel(const float* in, float* out) {
  __shared__ float sums[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum = in[threadIdx.x];
  for (int n = 16; n > 0; n /= 2) sum += __shfl_xor_sync(0xffffffff, sum, n);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  if (warp > 0) return;
  sum = 0;
  if (!RIGHT || lane < 4) sum = sums[lane];  // WRONG warp_sums
  for (int n = 16; n > 0; n /= 2) sum += __shfl_xor_sync(0xffffffff, sum, n);
  if (lane == 0) out[0] = sum;
}
void warp_sums_wrong(const float* in, float* out) { warp_sums_kernel<false><<<1, 128>>>(in, out); }
void warp_sums_right(const float* in, float* out) { warp_sums_kernel<true><<<1, 128>>>(in, out); }

// bulk_bytes (in 128, out 128): the copy engine brings 448 of 512 bytes.
template <bool RIGHT>
__global__ void bulk_bytes_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[128];
  __shared__ uint64_t full;
  constexpr int BYTES = RIGHT ? 512 : 448;
  if (threadIdx.x == 0) {
    MBARRIER_INIT(&full, 1);
    FENCE_MBARRIER_INIT();
    MBARRIER_ARRIVE_EXPECT(&full, BYTES);
    BULK_LOAD(tile, in, BYTES, &full);
  }
  __syncthreads();
  MBARRIER_WAIT(&full, 0);
  out[threadIdx.x] = tile[127 - threadIdx.x];  // WRONG bulk_bytes
}
void bulk_bytes_wrong(const float* in, float* out) {
  bulk_bytes_kernel<false><<<1, 128>>>(in, out);
}
void bulk_bytes_right(const float* in, float* out) { bulk_bytes_kernel<true><<<1, 128>>>(in, out); }

// ldmatrix_rows (in 64, out 64): two matrices of eight rows are read, one was stored.
template <bool RIGHT>
__global__ void ldmatrix_rows_kernel(const int* in, int* out) {
  __shared__ alignas(16) int tile[16][4];
  const int lane = threadIdx.x;
  tile[lane / 4][lane % 4] = in[lane];
  if (RIGHT) tile[8 + lane / 4][lane % 4] = in[32 + lane];
  __syncwarp();
  int a, b;
  LDMATRIX(a, b, tile[lane % 16]);  // WRONG ldmatrix_rows
  out[lane] = a;
  out[32 + lane] = b;
}
void ldmatrix_rows_wrong(const int* in, int* out) {
  ldmatrix_rows_kernel<false><<<1, 32>>>(in, out);
}
void ldmatrix_rows_right(const int* in, int* out) {
  ldmatrix_rows_kernel<true><<<1, 32>>>(in, out);
}
