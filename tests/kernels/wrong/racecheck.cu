// racecheck.cu: two threads touch the same bytes, one writes, and nothing orders them. How to read
// this file: memcheck.cu. The other access of the race is marked OTHER, unless it is the same line.
//
// "So that what is read is never uninitialised" stands where a read that comes too early would
// otherwise be that as well.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "ptx.h"

namespace cg = cooperative_groups;

// tree_reduction (in 256, out 1): a round adds what the round before has not written yet.
template <bool RIGHT>
__global__ void tree_reduction_kernel(const float* in, float* out) {
  __shared__ float sums[256];
  const int t = threadIdx.x;
  sums[t] = in[t];
  __syncthreads();
  for (int n = 128; n > 0; n /= 2) {
    if (t < n) sums[t] += sums[t + n];  // WRONG tree_reduction
    if (RIGHT) __syncthreads();
  }
  if (t == 0) out[0] = sums[0];
}
void tree_reduction_wrong(const float* in, float* out) {
  tree_reduction_kernel<false><<<1, 256>>>(in, out);
}
void tree_reduction_right(const float* in, float* out) {
  tree_reduction_kernel<true><<<1, 256>>>(in, out);
}

// tiled_matmul (in 2048, out 1024): the next tile is loaded while other warps still read this one.
template <bool RIGHT>
__global__ void tiled_matmul_kernel(const float* in, float* out) {
  constexpr int K = 32, TILE = 16;
  __shared__ float A_smem[TILE][TILE], B_smem[TILE][TILE];
  const float *A = in, *B = in + K * K;
  const int x = threadIdx.x, y = threadIdx.y;
  const int row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x;
  float acc = 0;
  for (int k0 = 0; k0 < K; k0 += TILE) {
    A_smem[y][x] = A[row * K + k0 + x];       // OTHER tiled_matmul
    B_smem[y][x] = B[(k0 + y) * K + column];  // OTHER tiled_matmul
    __syncthreads();
    for (int k = 0; k < TILE; k++) {
      acc += A_smem[y][k] * B_smem[k][x];  // WRONG tiled_matmul
    }
    if (RIGHT) __syncthreads();
  }
  out[row * K + column] = acc;
}
void tiled_matmul_wrong(const float* in, float* out) {
  tiled_matmul_kernel<false><<<dim3(2, 2), dim3(16, 16)>>>(in, out);
}
void tiled_matmul_right(const float* in, float* out) {
  tiled_matmul_kernel<true><<<dim3(2, 2), dim3(16, 16)>>>(in, out);
}

// transpose (in 1024, out 1024): a column is read before other warps have written it.
template <bool RIGHT>
__global__ void transpose_kernel(const float* in, float* out) {
  __shared__ float tile[32][33];
  const int x = threadIdx.x, y = threadIdx.y;
  tile[y][x] = 0;  // so that what is read is never uninitialised
  __syncthreads();
  tile[y][x] = in[y * 32 + x];  // OTHER transpose
  if (RIGHT) __syncthreads();
  out[y * 32 + x] = tile[x][y];  // WRONG transpose
}
void transpose_wrong(const float* in, float* out) {
  transpose_kernel<false><<<1, dim3(32, 32)>>>(in, out);
}
void transpose_right(const float* in, float* out) {
  transpose_kernel<true><<<1, dim3(32, 32)>>>(in, out);
}

// reused_scratch (in 256, out 256): the second reduction writes where warps still read the first.
template <bool RIGHT>
__global__ void reused_scratch_kernel(const float* in, float* out) {
  __shared__ float scratch[8];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float value = in[threadIdx.x];
  float largest = value;
  for (int n = 16; n > 0; n /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, n));
  if (lane == 0) scratch[warp] = largest;
  __syncthreads();
  for (int i = 0; i < 8; i++) largest = fmaxf(largest, scratch[i]);  // OTHER reused_scratch
  if (RIGHT) __syncthreads();
  float sum = value - largest;
  for (int n = 16; n > 0; n /= 2) sum += __shfl_xor_sync(~0u, sum, n);
  if (lane == 0) scratch[warp] = sum;  // WRONG reused_scratch
  __syncthreads();
  sum = 0;
  for (int i = 0; i < 8; i++) sum += scratch[i];
  out[threadIdx.x] = largest - value - sum;
}
void reused_scratch_wrong(const float* in, float* out) {
  reused_scratch_kernel<false><<<1, 256>>>(in, out);
}
void reused_scratch_right(const float* in, float* out) {
  reused_scratch_kernel<true><<<1, 256>>>(in, out);
}

// warp_exchange (in 64, out 64): lanes of a warp need not run in step.
template <bool RIGHT>
__global__ void warp_exchange_kernel(const float* in, float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = in[threadIdx.x];  // OTHER warp_exchange
  if (RIGHT) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];  // WRONG warp_exchange
}
void warp_exchange_wrong(const float* in, float* out) {
  warp_exchange_kernel<false><<<1, 64>>>(in, out);
}
void warp_exchange_right(const float* in, float* out) {
  warp_exchange_kernel<true><<<1, 64>>>(in, out);
}

// named_barriers (in 64, out 64): two producer warps, two consumers, each waits for the wrong one.
template <bool RIGHT>
__global__ void named_barriers_kernel(const float* in, float* out) {
  __shared__ float buffers[2][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = warp % 2;
  if (warp < 2) buffers[pair][lane] = 0;  // so that what is read is never uninitialised
  __syncthreads();
  if (warp < 2) {
    buffers[pair][lane] = in[pair * 32 + lane];  // OTHER named_barriers
    BAR_ARRIVE(1 + pair, 64);
  } else {
    BAR_SYNC(RIGHT ? 1 + pair : 2 - pair, 64);
    out[pair * 32 + lane] = buffers[pair][31 - lane];  // WRONG named_barriers
  }
}
void named_barriers_wrong(const float* in, float* out) {
  named_barriers_kernel<false><<<1, 128>>>(in, out);
}
void named_barriers_right(const float* in, float* out) {
  named_barriers_kernel<true><<<1, 128>>>(in, out);
}

// plain_bins (in 128, out 7): threads that count the same value overwrite each other.
template <bool RIGHT>
__global__ void plain_bins_kernel(const int* in, int* out) {
  __shared__ int bins[7];
  if (threadIdx.x < 7) bins[threadIdx.x] = 0;
  __syncthreads();
  int& bin = bins[in[threadIdx.x]];
  if (RIGHT) {
    atomicAdd(&bin, 1);
  } else {
    bin++;  // WRONG plain_bins
  }
  __syncthreads();
  if (threadIdx.x < 7) out[threadIdx.x] = bins[threadIdx.x];
}
void plain_bins_wrong(const int* in, int* out) { plain_bins_kernel<false><<<1, 128>>>(in, out); }
void plain_bins_right(const int* in, int* out) { plain_bins_kernel<true><<<1, 128>>>(in, out); }

// counter (in 8, out 1): blocks add to a sum without an atomic.
template <bool RIGHT>
__global__ void counter_kernel(const int* in, int* out) {
  if (RIGHT) {
    atomicAdd(out, in[blockIdx.x]);
  } else {
    *out += in[blockIdx.x];  // WRONG counter
  }
}
void counter_wrong(const int* in, int* out) { counter_kernel<false><<<8, 1>>>(in, out); }
void counter_right(const int* in, int* out) { counter_kernel<true><<<8, 1>>>(in, out); }

// plain_read (in 128, out 1): an atomic orders nothing for a plain read of the same variable.
template <bool RIGHT>
__global__ void plain_read_kernel(const int* in, int* out) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  if (in[threadIdx.x] > 2) atomicAdd(&count, 1);  // OTHER plain_read
  if (RIGHT) __syncthreads();
  if (threadIdx.x == 0) out[0] = count;  // WRONG plain_read
}
void plain_read_wrong(const int* in, int* out) { plain_read_kernel<false><<<1, 128>>>(in, out); }
void plain_read_right(const int* in, int* out) { plain_read_kernel<true><<<1, 128>>>(in, out); }

// in_place (in 256, out 256): elements are shifted while neighbours still read them.
template <bool RIGHT>
__global__ void in_place_kernel(const float* in, float* out) {
  const int t = threadIdx.x;
  out[t] = in[t];
  __syncthreads();
  const float next = out[(t + 1) % 256];  // OTHER in_place
  if (RIGHT) __syncthreads();
  out[t] = next;  // WRONG in_place
}
void in_place_wrong(const float* in, float* out) { in_place_kernel<false><<<1, 256>>>(in, out); }
void in_place_right(const float* in, float* out) { in_place_kernel<true><<<1, 256>>>(in, out); }

// scattered (in 256, out 64): lanes read four floats each, in no order; the second round of writes
// is not waited for.
template <bool RIGHT>
__global__ void scattered_kernel(const float* in, float* out) {
  __shared__ float4 tile[64];
  const int t = threadIdx.x;
  const float4 v = {in[4 * t], in[4 * t + 1], in[4 * t + 2], in[4 * t + 3]};
  tile[t] = v;
  __syncthreads();
  tile[t] = {2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w + 1};  // OTHER scattered
  if (RIGHT) __syncthreads();
  const float4 other = tile[(5 * t + 9) % 64];  // WRONG scattered
  out[t] = other.x + other.y + other.z + other.w;
}
void scattered_wrong(const float* in, float* out) { scattered_kernel<false><<<1, 64>>>(in, out); }
void scattered_right(const float* in, float* out) { scattered_kernel<true><<<1, 64>>>(in, out); }

// overlapping_blocks (in 256, out 256): the last thread of a block and the first of the next one.
template <bool RIGHT>
__global__ void overlapping_blocks_kernel(const float* in, float* out) {
  const int i = blockIdx.x * (RIGHT ? 64 : 63) + threadIdx.x;
  out[i] = in[i] + 10 * blockIdx.x;  // WRONG overlapping_blocks
}
void overlapping_blocks_wrong(const float* in, float* out) {
  overlapping_blocks_kernel<false><<<4, 64>>>(in, out);
}
void overlapping_blocks_right(const float* in, float* out) {
  overlapping_blocks_kernel<true><<<4, 64>>>(in, out);
}

// last_block (in 8, out 10): the last block to take a ticket adds the sums of all. out: the total,
// eight sums, the tickets.
template <bool RIGHT>
__global__ void last_block_kernel(const int* in, int* out) {
  int *sums = out + 1, *tickets = out + 9;
  sums[blockIdx.x] = 3 * in[blockIdx.x];  // OTHER last_block
  if (RIGHT) __threadfence();             // the sum is there before the ticket is taken
  if (atomicAdd(tickets, 1) < 7) return;
  __threadfence();
  int total = 0;
  for (int i = 0; i < 8; i++) total += sums[i];  // WRONG last_block
  out[0] = total;
}
void last_block_wrong(const int* in, int* out) { last_block_kernel<false><<<8, 1>>>(in, out); }
void last_block_right(const int* in, int* out) { last_block_kernel<true><<<8, 1>>>(in, out); }

// spin_lock (in 4, out 2): the lock keeps others out, but does not show them what was written.
template <bool RIGHT>
__global__ void spin_lock_kernel(const int* in, int* out) {
  int *sum = out, *lock = out + 1;
  while (atomicCAS(lock, 0, 1) != 0) {
  }
  if (RIGHT) __threadfence();
  *sum += in[blockIdx.x];  // WRONG spin_lock
  if (RIGHT) __threadfence();
  atomicExch(lock, 0);
}
void spin_lock_wrong(const int* in, int* out) { spin_lock_kernel<false><<<4, 1>>>(in, out); }
void spin_lock_right(const int* in, int* out) { spin_lock_kernel<true><<<4, 1>>>(in, out); }

// relaxed_flag (in 1, out 3): a flag that is stored relaxed does not publish what was written
// before. out: the flag, the message, the reply.
template <bool RIGHT>
__global__ void relaxed_flag_kernel(const int* in, int* out) {
  if (blockIdx.x == 0) {
    out[1] = in[0] + 42;  // OTHER relaxed_flag
    if (RIGHT) {
      STORE_RELEASE(out, 1);
    } else {
      STORE_RELAXED(out, 1);
    }
  } else {
    int flag = 0;
    while (!flag) LOAD_ACQUIRE(flag, out);
    out[2] = 2 * out[1];  // WRONG relaxed_flag
  }
}
void relaxed_flag_wrong(const int* in, int* out) { relaxed_flag_kernel<false><<<2, 1>>>(in, out); }
void relaxed_flag_right(const int* in, int* out) { relaxed_flag_kernel<true><<<2, 1>>>(in, out); }

// grid_stages (in 256, out 512): blocks read what others wrote; a barrier of the block is not
// enough.
template <bool RIGHT>
__global__ void grid_stages_kernel(const float* in, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = 2 * in[i];  // OTHER grid_stages
  if (RIGHT) {
    cg::this_grid().sync();
  } else {
    __syncthreads();
  }
  out[256 + i] = out[255 - i];  // WRONG grid_stages
}
template <bool RIGHT>
void grid_stages(const float* in, float* out) {
  void* arguments[] = {&in, &out};
  cudaLaunchCooperativeKernel(grid_stages_kernel<RIGHT>, 4, 64, arguments);
}
void grid_stages_wrong(const float* in, float* out) { grid_stages<false>(in, out); }
void grid_stages_right(const float* in, float* out) { grid_stages<true>(in, out); }

// cluster_exchange (in 64, out 64): the other block of the cluster has not written yet.
template <bool RIGHT>
__global__ void __cluster_dims__(2, 1, 1) cluster_exchange_kernel(const float* in, float* out) {
  __shared__ float values[32];
  const auto cluster = cg::this_cluster();
  const int t = threadIdx.x, rank = cluster.block_rank();
  values[t] = 0;  // so that what is read is never uninitialised
  cluster.sync();
  values[t] = in[rank * 32 + t];  // OTHER cluster_exchange
  if (RIGHT) cluster.sync();
  const float* theirs = cluster.map_shared_rank(values, 1 - rank);
  out[rank * 32 + t] = theirs[31 - t];  // WRONG cluster_exchange
  cluster.sync();                       // a block's shared memory lives as long as the block
}
void cluster_exchange_wrong(const float* in, float* out) {
  cluster_exchange_kernel<false><<<2, 32>>>(in, out);
}
void cluster_exchange_right(const float* in, float* out) {
  cluster_exchange_kernel<true><<<2, 32>>>(in, out);
}

// A producer warp, a consumer warp and one stage between them. full: the stage is written; empty:
// it is read. The k-th use of the stage is phase k of both.
struct Stage {
  float values[32];
  uint64_t full, empty;
};
__device__ void init(Stage& stage, int full_count, int empty_count) {
  if (threadIdx.x == 0) {
    MBARRIER_INIT(&stage.full, full_count);
    MBARRIER_INIT(&stage.empty, empty_count);
  }
  if (threadIdx.x < 32)
    stage.values[threadIdx.x] = 0;  // so that what is read is never uninitialised
  __syncthreads();
}

// phase_parity (in 128, out 32): the consumer asks for the parity of the phase before, which is
// complete. If the producer is faster, it is that of the phase after, and nobody goes on: deadlock.
template <bool RIGHT>
__global__ void phase_parity_kernel(const float* in, float* out) {
  __shared__ Stage stage;
  init(stage, 32, 32);
  const int lane = threadIdx.x % 32;
  float sum = 0;
  for (int use = 0; use < 4; use++) {
    if (threadIdx.x < 32) {
      if (use > 0) MBARRIER_WAIT(&stage.empty, (use - 1) % 2);
      stage.values[lane] = in[use * 32 + lane];  // OTHER phase_parity
      MBARRIER_ARRIVE(&stage.full);
    } else {
      MBARRIER_WAIT(&stage.full, RIGHT ? use % 2 : (use + 1) % 2);
      sum += stage.values[31 - lane];  // WRONG phase_parity
      MBARRIER_ARRIVE(&stage.empty);
    }
  }
  if (threadIdx.x >= 32) out[lane] = sum;
}
void phase_parity_wrong(const float* in, float* out) {
  phase_parity_kernel<false><<<1, 64>>>(in, out);
}
void phase_parity_right(const float* in, float* out) {
  phase_parity_kernel<true><<<1, 64>>>(in, out);
}

// early_release (in 128, out 32): lane 0 releases the stage, but other lanes may still read.
template <bool RIGHT>
__global__ void early_release_kernel(const float* in, float* out) {
  __shared__ Stage stage;
  init(stage, 32, 1);
  const int lane = threadIdx.x % 32;
  float sum = 0;
  for (int use = 0; use < 4; use++) {
    if (threadIdx.x < 32) {
      if (use > 0) MBARRIER_WAIT(&stage.empty, (use - 1) % 2);
      stage.values[lane] = in[use * 32 + lane];  // OTHER early_release
      MBARRIER_ARRIVE(&stage.full);
    } else {
      MBARRIER_WAIT(&stage.full, use % 2);
      sum += stage.values[31 - lane];  // WRONG early_release
      if (RIGHT) __syncwarp();
      if (lane == 0) MBARRIER_ARRIVE(&stage.empty);
    }
  }
  if (threadIdx.x >= 32) out[lane] = sum;
}
void early_release_wrong(const float* in, float* out) {
  early_release_kernel<false><<<1, 64>>>(in, out);
}
void early_release_right(const float* in, float* out) {
  early_release_kernel<true><<<1, 64>>>(in, out);
}
