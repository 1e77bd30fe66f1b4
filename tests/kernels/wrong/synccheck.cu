// synccheck.cu: barriers that not all expected threads reach, and warp-wide instructions that not
// all named lanes execute. How to read this file: memcheck.cu.
#include <cuda_runtime.h>

#include "ptx.h"

// divergent_barrier (in 64, out 64): a barrier of the block in a branch that some threads skip.
template <bool RIGHT>
__global__ void divergent_barrier_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  const int t = threadIdx.x;
  tile[t] = in[t];
  if (RIGHT || t < 40) {
    __syncthreads();  // WRONG divergent_barrier
  }
  __syncwarp();
  if (RIGHT) out[t] = tile[63 - t];
}
void divergent_barrier_wrong(const float* in, float* out) {
  divergent_barrier_kernel<false><<<1, 64>>>(in, out);
}
void divergent_barrier_right(const float* in, float* out) {
  divergent_barrier_kernel<true><<<1, 64>>>(in, out);
}

// barrier_in_else (in 64, out 64): two barriers, of which a warp's lanes reach one each.
template <bool RIGHT>
__global__ void barrier_in_else_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  const int t = threadIdx.x;
  if (RIGHT) {
    tile[t] = t % 2 ? in[t] : -in[t];
    __syncthreads();
  } else if (t % 2) {
    tile[t] = in[t];
    __syncthreads();  // WRONG barrier_in_else
  } else {
    tile[t] = -in[t];
    __syncthreads();  // WRONG barrier_in_else
  }
  out[t] = tile[63 - t];
}
void barrier_in_else_wrong(const float* in, float* out) {
  barrier_in_else_kernel<false><<<1, 64>>>(in, out);
}
void barrier_in_else_right(const float* in, float* out) {
  barrier_in_else_kernel<true><<<1, 64>>>(in, out);
}

// early_break (in 128, out 128): a thread that is done leaves the loop, and the barriers in it.
template <bool RIGHT>
__global__ void early_break_kernel(const int* in, int* out) {
  __shared__ int best;
  const int t = threadIdx.x;
  if (t == 0) best = 0;
  __syncthreads();
  int value = in[t];
  for (int round = 0; round < 8; round++) {
    if (value > 0) atomicMax(&best, round);
    value--;
    if (!RIGHT && value < 0) break;
    __syncthreads();  // WRONG early_break
  }
  BAR_SYNC(1, 128);  // OTHER early_break
  out[t] = best;
}
void early_break_wrong(const int* in, int* out) { early_break_kernel<false><<<1, 128>>>(in, out); }
void early_break_right(const int* in, int* out) { early_break_kernel<true><<<1, 128>>>(in, out); }

// barrier_count (in 64, out 64): a barrier for 128 threads; the 64 of one role come.
template <bool RIGHT>
__global__ void barrier_count_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  const int t = threadIdx.x;
  if (t < 64) {
    tile[t] = in[t];
    BAR_SYNC(1, RIGHT ? 64 : 128);  // WRONG barrier_count
    out[t] = tile[63 - t];
  }
}
void barrier_count_wrong(const float* in, float* out) {
  barrier_count_kernel<false><<<1, 128>>>(in, out);
}
void barrier_count_right(const float* in, float* out) {
  barrier_count_kernel<true><<<1, 128>>>(in, out);
}

// crossed_barriers (in 64, out 64): two warps take two barriers in opposite order.
template <bool RIGHT>
__global__ void crossed_barriers_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  const int t = threadIdx.x;
  const int first = RIGHT || t < 32 ? 1 : 2;
  tile[t] = in[t];
  BAR_SYNC(first, 64);  // WRONG crossed_barriers
  BAR_SYNC(3 - first, 64);
  out[t] = tile[63 - t];
}
void crossed_barriers_wrong(const float* in, float* out) {
  crossed_barriers_kernel<false><<<1, 64>>>(in, out);
}
void crossed_barriers_right(const float* in, float* out) {
  crossed_barriers_kernel<true><<<1, 64>>>(in, out);
}

// syncwarp_mask (in 32, out 32): the mask names lanes that wait for something else meanwhile.
template <bool RIGHT>
__global__ void syncwarp_mask_kernel(const float* in, float* out) {
  __shared__ float values[32];
  __shared__ uint64_t summed;
  const int lane = threadIdx.x;
  values[lane] = in[lane];
  if (lane == 0) MBARRIER_INIT(&summed, 16);
  __syncwarp();
  if (lane < 16) {
    values[lane] += values[16 + lane];
    __syncwarp(RIGHT ? 0x0000ffff : 0xffffffff);  // WRONG syncwarp_mask
    out[lane] = values[15 - lane];
    MBARRIER_ARRIVE(&summed);
  } else {
    MBARRIER_WAIT(&summed, 0);
    out[lane] = values[lane - 16];
  }
}
void syncwarp_mask_wrong(const float* in, float* out) {
  syncwarp_mask_kernel<false><<<1, 32>>>(in, out);
}
void syncwarp_mask_right(const float* in, float* out) {
  syncwarp_mask_kernel<true><<<1, 32>>>(in, out);
}

// shuffle_mask (in 128, out 1): half of a warp adds four sums, but says that all of it does.
template <bool RIGHT>
__global__ void shuffle_mask_kernel(const float* in, float* out) {
  __shared__ float sums[16];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum = in[threadIdx.x];
  if (threadIdx.x < 16) sums[threadIdx.x] = 0;
  __syncthreads();
  for (int n = 16; n > 0; n /= 2) sum += __shfl_xor_sync(0xffffffff, sum, n);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x < 16) {
    constexpr unsigned MASK = RIGHT ? 0x0000ffff : 0xffffffff;
    sum = sums[lane];
    for (int n = 8; n > 0; n /= 2) sum += __shfl_xor_sync(MASK, sum, n);  // WRONG shuffle_mask
    sums[lane] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 127) out[0] = sums[3];
}
void shuffle_mask_wrong(const float* in, float* out) {
  shuffle_mask_kernel<false><<<1, 128>>>(in, out);
}
void shuffle_mask_right(const float* in, float* out) {
  shuffle_mask_kernel<true><<<1, 128>>>(in, out);
}

// shuffle_caller (in 32, out 32): a lane takes part that its own mask does not name.
template <bool RIGHT>
__global__ void shuffle_caller_kernel(const float* in, float* out) {
  const unsigned half = threadIdx.x < 16 ? 0x0000ffff : 0xffff0000;
  const unsigned mask = RIGHT ? half : 0x0000ffff;
  out[threadIdx.x] = __shfl_xor_sync(mask, in[threadIdx.x], 1);  // WRONG shuffle_caller
}
void shuffle_caller_wrong(const float* in, float* out) {
  shuffle_caller_kernel<false><<<1, 32>>>(in, out);
}
void shuffle_caller_right(const float* in, float* out) {
  shuffle_caller_kernel<true><<<1, 32>>>(in, out);
}

// mbarrier_count (in 64, out 64): the mbarrier expects more arrivals than there are threads.
template <bool RIGHT>
__global__ void mbarrier_count_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) MBARRIER_INIT(&full, RIGHT ? 64 : 128);
  __syncthreads();
  tile[t] = in[t];
  MBARRIER_ARRIVE(&full);
  MBARRIER_WAIT(&full, 0);  // WRONG mbarrier_count
  out[t] = tile[63 - t];
}
void mbarrier_count_wrong(const float* in, float* out) {
  mbarrier_count_kernel<false><<<1, 64>>>(in, out);
}
void mbarrier_count_right(const float* in, float* out) {
  mbarrier_count_kernel<true><<<1, 64>>>(in, out);
}

// mbarrier_init (in 64, out 64): nobody initialised the mbarrier.
template <bool RIGHT>
__global__ void mbarrier_init_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (RIGHT && t == 0) MBARRIER_INIT(&full, 64);
  __syncthreads();
  tile[t] = in[t];
  MBARRIER_ARRIVE(&full);  // WRONG mbarrier_init
  MBARRIER_WAIT(&full, 0);
  out[t] = tile[63 - t];
}
void mbarrier_init_wrong(const float* in, float* out) {
  mbarrier_init_kernel<false><<<1, 64>>>(in, out);
}
void mbarrier_init_right(const float* in, float* out) {
  mbarrier_init_kernel<true><<<1, 64>>>(in, out);
}

// missing_arrival (in 64, out 64): a warp leaves without its arrival.
template <bool RIGHT>
__global__ void missing_arrival_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) MBARRIER_INIT(&full, 96);
  __syncthreads();
  if (t >= 64) {
    if (RIGHT) MBARRIER_ARRIVE(&full);
    return;
  }
  tile[t] = in[t];
  MBARRIER_ARRIVE(&full);
  MBARRIER_WAIT(&full, 0);  // WRONG missing_arrival
  out[t] = tile[63 - t];
}
void missing_arrival_wrong(const float* in, float* out) {
  missing_arrival_kernel<false><<<1, 96>>>(in, out);
}
void missing_arrival_right(const float* in, float* out) {
  missing_arrival_kernel<true><<<1, 96>>>(in, out);
}

// expected_bytes (in 64, out 64): more bytes are announced than the copy brings.
template <bool RIGHT>
__global__ void expected_bytes_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    FENCE_MBARRIER_INIT();
    MBARRIER_ARRIVE_EXPECT(&full, RIGHT ? 256 : 512);
    BULK_LOAD(tile, in, 256, &full);
  }
  __syncthreads();
  MBARRIER_WAIT(&full, 0);  // WRONG expected_bytes
  out[t] = tile[63 - t];
}
void expected_bytes_wrong(const float* in, float* out) {
  expected_bytes_kernel<false><<<1, 64>>>(in, out);
}
void expected_bytes_right(const float* in, float* out) {
  expected_bytes_kernel<true><<<1, 64>>>(in, out);
}

// cluster_twice (in 64, out 64): a block arrives at the cluster's barrier again without waiting.
template <bool RIGHT>
__global__ void __cluster_dims__(2, 1, 1) cluster_twice_kernel(const float* in, float* out) {
  const int i = blockIdx.x * 32 + threadIdx.x;
  out[i] = in[i];
  CLUSTER_ARRIVE();
  if (RIGHT) CLUSTER_WAIT();
  CLUSTER_ARRIVE();  // WRONG cluster_twice
  CLUSTER_WAIT();
}
void cluster_twice_wrong(const float* in, float* out) {
  cluster_twice_kernel<false><<<2, 32>>>(in, out);
}
void cluster_twice_right(const float* in, float* out) {
  cluster_twice_kernel<true><<<2, 32>>>(in, out);
}

// divergent_ldmatrix (in 64, out 32): an instruction of the whole warp in a branch of half of it.
template <bool RIGHT>
__global__ void divergent_ldmatrix_kernel(const int* in, int* out) {
  __shared__ alignas(16) int tile[16][4];
  const int lane = threadIdx.x;
  tile[lane / 4][lane % 4] = in[lane];
  tile[8 + lane / 4][lane % 4] = in[32 + lane];
  __syncwarp();
  int a = 0, b = 0;
  if (RIGHT || lane < 16) {
    LDMATRIX(a, b, tile[lane % 16]);  // WRONG divergent_ldmatrix
  }
  out[lane] = a + 10 * b;
}
void divergent_ldmatrix_wrong(const int* in, int* out) {
  divergent_ldmatrix_kernel<false><<<1, 32>>>(in, out);
}
void divergent_ldmatrix_right(const int* in, int* out) {
  divergent_ldmatrix_kernel<true><<<1, 32>>>(in, out);
}
