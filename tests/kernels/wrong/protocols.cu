// protocols.cu: what code with asynchronous operations has to keep to: who may arrive at a barrier,
// what has to end before a block does, what a wait covers. How to read this file: memcheck.cu, and
// racecheck.cu for OTHER. tests/simulator/test_protocols.py has the reports.
#include <cuda_runtime.h>

#include "hopper.h"
#include "ptx.h"

// ---- Waits of wgmma.

struct Products {
  alignas(128) float A[512], X[64], Y[64];
  uint64_t full, free;
};

// D = A * X and E = A * Y are in flight; a fifth warp fills Y again. The mistake: Y is released when
// only D is complete.
template <bool RIGHT>
__global__ void early_stage_kernel(const float* in, float* out) {
  __shared__ Products smem;
  const int t = threadIdx.x;
  for (int i = t; i < 512; i += blockDim.x) smem.A[i] = in[i];
  if (t < 64) smem.X[t] = in[t], smem.Y[t] = in[64 + t];
  if (t == 0) {
    MBARRIER_INIT(&smem.full, 1);
    MBARRIER_INIT(&smem.free, 1);
    FENCE_MBARRIER_INIT();
  }
  FENCE_PROXY_ASYNC();
  __syncthreads();
  if (t == 128) {
    MBARRIER_WAIT(&smem.free, 0);
    MBARRIER_ARRIVE_EXPECT(&smem.full, 256);
    BULK_LOAD(smem.Y, in + 128, 256, &smem.full);  // WRONG early_stage
  }
  if (t >= 128) return;
  float d[4] = {}, e[4] = {};
  WGMMA_FENCE();
  WGMMA(d, descriptor(smem.A, 64), descriptor(smem.X, 8));
  WGMMA_COMMIT();
  WGMMA(e, descriptor(smem.A, 64), descriptor(smem.Y, 8));  // OTHER early_stage
  WGMMA_COMMIT();
  WGMMA_WAIT(1);
  if (!RIGHT && t == 0) MBARRIER_ARRIVE(&smem.free);
  out[d_index(0)] = d[0];
  WGMMA_WAIT(0);
  if (RIGHT && t == 0) MBARRIER_ARRIVE(&smem.free);
  MBARRIER_WAIT(&smem.full, 0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j] + e[j] + smem.Y[j];
}
void early_stage_wrong(const float* in, float* out) {
  early_stage_kernel<false><<<1, 160>>>(in, out);
}
void early_stage_right(const float* in, float* out) {
  early_stage_kernel<true><<<1, 160>>>(in, out);
}

// The first product of a warp, with accumulators that are constants.
template <bool RIGHT>
__global__ void no_fence_kernel(const float* in, float* out) {
  __shared__ Products smem;
  const int t = threadIdx.x;
  for (int i = t; i < 512; i += 128) smem.A[i] = in[i];
  if (t < 64) smem.X[t] = in[t];
  FENCE_PROXY_ASYNC();
  __syncthreads();
  float d[4] = {};
  if (RIGHT) WGMMA_FENCE();
  WGMMA(d, descriptor(smem.A, 64), descriptor(smem.X, 8));  // WRONG no_fence
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void no_fence_wrong(const float* in, float* out) { no_fence_kernel<false><<<1, 128>>>(in, out); }
void no_fence_right(const float* in, float* out) { no_fence_kernel<true><<<1, 128>>>(in, out); }

// A ring of one stage that wgmma reads; the consumers' wait always asks for parity 0.
template <bool RIGHT>
__global__ void stale_product_kernel(const float* in, float* out) {
  __shared__ Products smem;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&smem.full, 1);
    MBARRIER_INIT(&smem.free, 1);
    FENCE_MBARRIER_INIT();
  }
  if (t < 128) {
    for (int i = t; i < 512; i += 128) smem.A[i] = in[i];
  }
  FENCE_PROXY_ASYNC();
  __syncthreads();
  if (t == 128) {
    for (int i = 0; i < 4; i++) {
      if (i > 0) MBARRIER_WAIT(&smem.free, (i - 1) % 2);
      MBARRIER_ARRIVE_EXPECT(&smem.full, 256);
      BULK_LOAD(smem.X, in + 64 * i, 256, &smem.full);  // WRONG stale_product
    }
    if (!RIGHT) MBARRIER_WAIT(&smem.full, 1);
  }
  if (t >= 128) return;
  float d[4] = {};
  for (int i = 0; i < 4; i++) {
    MBARRIER_WAIT(&smem.full, RIGHT ? i % 2 : 0);  // WAIT stale_product
    WGMMA_FENCE();
    WGMMA(d, descriptor(smem.A, 64), descriptor(smem.X, 8));  // OTHER stale_product
    WGMMA_COMMIT();
    WGMMA_WAIT(0);
    if (t == 0) MBARRIER_ARRIVE(&smem.free);
  }
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void stale_product_wrong(const float* in, float* out) {
  stale_product_kernel<false><<<1, 160>>>(in, out);
}
void stale_product_right(const float* in, float* out) {
  stale_product_kernel<true><<<1, 160>>>(in, out);
}

// ---- Who arrives at a barrier.

// Two pairs of warps. The mistake: both use the barrier with one id, and nothing orders the pairs.
template <bool RIGHT>
__global__ void shared_id_kernel(const float* in, float* out) {
  __shared__ float x[128];
  const int t = threadIdx.x, pair = t / 64;
  x[t] = in[t];
  BAR_SYNC(1 + (RIGHT ? pair : 0), 64);  // WRONG shared_id
  out[t] = x[t ^ 32];
}
void shared_id_wrong(const float* in, float* out) { shared_id_kernel<false><<<1, 128>>>(in, out); }
void shared_id_right(const float* in, float* out) { shared_id_kernel<true><<<1, 128>>>(in, out); }

// The pairs use it one after the other: the second waits until the first is done.
__global__ void taken_over_kernel(const float* in, float* out) {
  __shared__ float x[128];
  const int t = threadIdx.x, pair = t / 64;
  x[t] = in[t];
  for (int turn = 0; turn < 4; turn++) {
    if (turn % 2 == pair) BAR_SYNC(1, 64);
    __syncthreads();
  }
  out[t] = x[t ^ 32];
}
void taken_over_right(const float* in, float* out) { taken_over_kernel<<<1, 128>>>(in, out); }

// Warps that take turns at two barriers, as two warpgroups do whose products alternate.
__global__ void ping_pong_kernel(const float* in, float* out) {
  const int warp = threadIdx.x / 32;
  float sum = 0;
  if (warp == 1) BAR_ARRIVE(1, 64);
  for (int i = 0; i < 4; i++) {
    BAR_SYNC(1 + warp, 64);
    sum += in[64 * i + threadIdx.x];
    if (warp == 0 || i < 3) BAR_ARRIVE(2 - warp, 64);
  }
  out[threadIdx.x] = sum;
}
void ping_pong_right(const float* in, float* out) { ping_pong_kernel<<<1, 64>>>(in, out); }

// One of the two warps counts the threads of the whole block.
template <bool RIGHT>
__global__ void two_counts_kernel(const float* in, float* out) {
  __shared__ float x[64];
  const int t = threadIdx.x;
  x[t] = in[t];
  if (t < 32) {
    BAR_SYNC(1, 64);  // WRONG two_counts
    out[t] = x[t + 32];
  } else {
    BAR_ARRIVE(1, RIGHT ? 64 : 96);  // OTHER two_counts
  }
}
void two_counts_wrong(const float* in, float* out) { two_counts_kernel<false><<<1, 64>>>(in, out); }
void two_counts_right(const float* in, float* out) { two_counts_kernel<true><<<1, 64>>>(in, out); }

// Arrives for the next round while this one may still be open.
template <bool RIGHT>
__global__ void arrives_twice_kernel(const float* in, float* out) {
  __shared__ float x[64];
  const int t = threadIdx.x;
  for (int i = 0; i < 2; i++) {
    if (t < 32) {
      BAR_SYNC(1, 96);
      out[t] = in[t];
    } else if (t < 64) {
      BAR_ARRIVE(1, 96);  // WRONG arrives_twice
    } else {
      BAR_SYNC(1, 96);
    }
    if (RIGHT) __syncthreads();
  }
  x[t % 64] = 0;
}
void arrives_twice_wrong(const float* in, float* out) {
  arrives_twice_kernel<false><<<1, 96>>>(in, out);
}
void arrives_twice_right(const float* in, float* out) {
  arrives_twice_kernel<true><<<1, 96>>>(in, out);
}

// The mbarrier is used by threads that do not know of its initialisation.
template <bool RIGHT>
__global__ void late_init_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);  // OTHER late_init
    FENCE_MBARRIER_INIT();
    MBARRIER_ARRIVE_EXPECT(&full, 256);
    BULK_LOAD(x, in, 256, &full);
  }
  if (RIGHT) __syncthreads();
  MBARRIER_WAIT(&full, 0);  // WRONG late_init
  out[t] = x[t];
}
void late_init_wrong(const float* in, float* out) { late_init_kernel<false><<<1, 64>>>(in, out); }
void late_init_right(const float* in, float* out) { late_init_kernel<true><<<1, 64>>>(in, out); }

// One thread of each warp announces the bytes; init counts one.
template <bool RIGHT>
__global__ void two_producers_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    FENCE_MBARRIER_INIT();
  }
  __syncthreads();
  if (RIGHT ? t == 0 : t % 32 == 0) {
    MBARRIER_ARRIVE_EXPECT(&full, 256);  // WRONG two_producers
    BULK_LOAD(x, in, 256, &full);        // OTHER two_producers
  }
  __syncthreads();
  MBARRIER_WAIT(&full, 0);
  out[t] = x[t];
}
void two_producers_wrong(const float* in, float* out) {
  two_producers_kernel<false><<<1, 64>>>(in, out);
}
void two_producers_right(const float* in, float* out) {
  two_producers_kernel<true><<<1, 64>>>(in, out);
}

// setmaxnreg by one warp of four; more registers than there are.
enum Registers { ONE_WARP, TOO_MANY, FIT };
template <Registers HOW>
__global__ void registers_kernel(const float* in, float* out) {
  const int warpgroup = threadIdx.x / 128;
  if (warpgroup == 0) {
    if (HOW != ONE_WARP || threadIdx.x < 32) {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");  // WRONG one_warp
    }
  } else {
    constexpr int COUNT = HOW == TOO_MANY ? 248 : 232;
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));  // WRONG too_many
  }
  out[threadIdx.x] = in[threadIdx.x];
}
void one_warp_wrong(const float* in, float* out) {
  registers_kernel<ONE_WARP><<<1, 384>>>(in, out);
}
void too_many_wrong(const float* in, float* out) {
  registers_kernel<TOO_MANY><<<1, 384>>>(in, out);
}
void registers_right(const float* in, float* out) { registers_kernel<FIT><<<1, 384>>>(in, out); }

// ---- What has to end before the block does.

// A copy from shared memory that nobody waits for, in a group or in none.
enum Ending { NO_GROUP, NO_WAIT, READ };
template <Ending HOW>
__global__ void last_store_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[128];
  x[threadIdx.x] = in[threadIdx.x];
  FENCE_PROXY_ASYNC();
  __syncthreads();
  if (threadIdx.x == 0) {
    BULK_STORE(out, x, 512);  // WRONG last_store
    if (HOW != NO_GROUP) BULK_COMMIT();
    if (HOW != NO_WAIT) BULK_READ_WAIT();
  }
}
void no_group_wrong(const float* in, float* out) {
  last_store_kernel<NO_GROUP><<<1, 128>>>(in, out);
}
void no_wait_wrong(const float* in, float* out) { last_store_kernel<NO_WAIT><<<1, 128>>>(in, out); }
void last_store_right(const float* in, float* out) { last_store_kernel<READ><<<1, 128>>>(in, out); }

// A copy into shared memory: the last stage is filled, and nobody needs it.
template <bool RIGHT>
__global__ void last_load_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[2][64];
  __shared__ uint64_t full[2];
  const int t = threadIdx.x;
  if (t == 0) {
    for (auto& mbarrier : full) MBARRIER_INIT(&mbarrier, 1);
    FENCE_MBARRIER_INIT();
    for (int i = 0; i < (RIGHT ? 1 : 2); i++) {
      MBARRIER_ARRIVE_EXPECT(&full[i], 256);
      BULK_LOAD(x[i], in, 256, &full[i]);  // WRONG last_load
    }
  }
  __syncthreads();
  MBARRIER_WAIT(&full[0], 0);
  out[t] = x[0][t];
}
void last_load_wrong(const float* in, float* out) { last_load_kernel<false><<<1, 64>>>(in, out); }
void last_load_right(const float* in, float* out) { last_load_kernel<true><<<1, 64>>>(in, out); }

// Each block arrives at an mbarrier of the other one, which may have ended.
template <bool RIGHT>
__global__ void __cluster_dims__(2) last_arrival_kernel(const float* in, float* out) {
  __shared__ uint64_t mbarrier;
  const int rank = blockIdx.x;
  if (threadIdx.x == 0) {
    MBARRIER_INIT(&mbarrier, 32);
    FENCE_MBARRIER_INIT();
  }
  CLUSTER_ARRIVE();
  CLUSTER_WAIT();
  MBARRIER_ARRIVE_AT(&mbarrier, rank ^ 1);  // WRONG last_arrival
  out[32 * rank + threadIdx.x] = in[threadIdx.x];
  if (RIGHT) MBARRIER_WAIT(&mbarrier, 0);
}
void last_arrival_wrong(const float* in, float* out) {
  last_arrival_kernel<false><<<2, 32>>>(in, out);
}
void last_arrival_right(const float* in, float* out) {
  last_arrival_kernel<true><<<2, 32>>>(in, out);
}

// Block 0 alone arrives, mostly in time; nothing keeps block 1 from ending before.
template <bool RIGHT>
__global__ void __cluster_dims__(2) one_arrival_kernel(const float* in, float* out) {
  __shared__ uint64_t mbarrier;
  const int rank = blockIdx.x;
  if (threadIdx.x == 0) {
    MBARRIER_INIT(&mbarrier, 32);
    FENCE_MBARRIER_INIT();
  }
  CLUSTER_ARRIVE();
  CLUSTER_WAIT();
  if (rank == 0) MBARRIER_ARRIVE_AT(&mbarrier, 1);  // WRONG one_arrival
  out[32 * rank + threadIdx.x] = in[threadIdx.x];
  if (RIGHT && rank == 1) MBARRIER_WAIT(&mbarrier, 0);
}
void one_arrival_wrong(const float* in, float* out) {
  one_arrival_kernel<false><<<2, 32>>>(in, out);
}
void one_arrival_right(const float* in, float* out) {
  one_arrival_kernel<true><<<2, 32>>>(in, out);
}

// ---- What copies bring, and where.

// Two copies, and the bytes of one announced.
template <bool RIGHT>
__global__ void few_bytes_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[128];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    FENCE_MBARRIER_INIT();
  }
  __syncthreads();
  if (t == 0) {
    MBARRIER_ARRIVE_EXPECT(&full, RIGHT ? 512 : 256);
    BULK_LOAD(x, in, 256, &full);
    BULK_LOAD(x + 64, in + 64, 256, &full);  // OTHER few_bytes
  }
  MBARRIER_WAIT(&full, 0);
  out[t] = x[127 - t];  // WRONG few_bytes
  MBARRIER_WAIT(&full, 0);
}
void few_bytes_wrong(const float* in, float* out) { few_bytes_kernel<false><<<1, 128>>>(in, out); }
void few_bytes_right(const float* in, float* out) { few_bytes_kernel<true><<<1, 128>>>(in, out); }

// Two copies to one place, as of a producer that does not wait for its consumers.
template <bool RIGHT>
__global__ void two_copies_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    FENCE_MBARRIER_INIT();
  }
  __syncthreads();
  if (t == 0) {
    MBARRIER_ARRIVE_EXPECT(&full, RIGHT ? 256 : 512);
    BULK_LOAD(x, in, 256, &full);                   // OTHER two_copies
    if (!RIGHT) BULK_LOAD(x, in + 64, 256, &full);  // WRONG two_copies
  }
  MBARRIER_WAIT(&full, 0);
  out[t] = x[t];
}
void two_copies_wrong(const float* in, float* out) { two_copies_kernel<false><<<1, 64>>>(in, out); }
void two_copies_right(const float* in, float* out) { two_copies_kernel<true><<<1, 64>>>(in, out); }

// A wait for groups, of which the copy is in none.
template <bool RIGHT>
__global__ void uncommitted_store_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[64];
  const int t = threadIdx.x;
  for (int i = 0; i < 2; i++) {
    x[t] = in[64 * i + t];  // WRONG uncommitted_store
    FENCE_PROXY_ASYNC();
    __syncthreads();
    if (t == 0) {
      BULK_STORE(out + 64 * i, x, 256);  // OTHER uncommitted_store
      if (RIGHT) BULK_COMMIT();
      BULK_READ_WAIT();
    }
    __syncthreads();
  }
}
void uncommitted_store_wrong(const float* in, float* out) {
  uncommitted_store_kernel<false><<<1, 64>>>(in, out);
}
void uncommitted_store_right(const float* in, float* out) {
  uncommitted_store_kernel<true><<<1, 64>>>(in, out);
}

// A copy to global memory that another block reads: the wait covers its source only. out[256]: a flag.
template <bool RIGHT>
__global__ void published_store_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[64];
  const int t = threadIdx.x;
  int* flag = reinterpret_cast<int*>(out + 256);
  if (blockIdx.x == 0) {
    x[t] = in[t];
    FENCE_PROXY_ASYNC();
    __syncthreads();
    if (t == 0) {
      BULK_STORE(out, x, 256);  // OTHER published_store
      BULK_COMMIT();
      if (RIGHT) BULK_WAIT();
      BULK_READ_WAIT();
      __threadfence();
      atomicExch(flag, 1);
    }
  } else {
    if (t == 0) {
      while (atomicAdd(flag, 0) == 0) {
      }
      __threadfence();
    }
    __syncthreads();
    out[64 + t] = out[t];  // WRONG published_store
  }
}
void published_store_wrong(const float* in, float* out) {
  published_store_kernel<false><<<2, 64>>>(in, out);
}
void published_store_right(const float* in, float* out) {
  published_store_kernel<true><<<2, 64>>>(in, out);
}

#define LOAD_PEER(value, smem, rank)                                                  \
  asm volatile(                                                                       \
      "{.reg .b32 there; mapa.shared::cluster.u32 there, %1, %2; ld.shared::cluster." \
      "f32 %0, [there];}"                                                             \
      : "=f"(value)                                                                   \
      : "r"(SMEM(smem)), "r"(rank)                                                    \
      : "memory")

// The memory of the cluster's other block, read behind a barrier of one block.
template <bool RIGHT>
__global__ void __cluster_dims__(2) peer_read_kernel(const float* in, float* out) {
  __shared__ float x[32];
  const int t = threadIdx.x, rank = blockIdx.x;
  CLUSTER_ARRIVE();
  CLUSTER_WAIT();
  x[t] = in[t];
  __syncthreads();
  if (RIGHT) {
    CLUSTER_ARRIVE();
    CLUSTER_WAIT();
  }
  LOAD_PEER(out[32 * rank + t], x + t, rank ^ 1);  // WRONG peer_read
  CLUSTER_ARRIVE();
  CLUSTER_WAIT();
}
void peer_read_wrong(const float* in, float* out) { peer_read_kernel<false><<<2, 32>>>(in, out); }
void peer_read_right(const float* in, float* out) { peer_read_kernel<true><<<2, 32>>>(in, out); }

// ---- Advice for kernels without asynchronous operations.

// A lock without fences. `out[0]`: the lock.
template <bool RIGHT>
__global__ void lock_kernel(const float* in, float* out) {
  int* lock = reinterpret_cast<int*>(out);
  while (atomicCAS(lock, 0, 1) != 0) {
  }
  if (RIGHT) __threadfence();
  out[1] += in[1];  // WRONG lock
  if (RIGHT) __threadfence();
  atomicExch(lock, 0);
}
void lock_wrong(const float* in, float* out) { lock_kernel<false><<<1, 4>>>(in, out); }
void lock_right(const float* in, float* out) { lock_kernel<true><<<1, 4>>>(in, out); }

// Counts in shared memory, without an atomic.
template <bool RIGHT>
__global__ void bins_kernel(const float* in, float* out) {
  __shared__ int bins[8];
  const int t = threadIdx.x;
  if (t < 8) bins[t] = 0;
  __syncthreads();
  if (RIGHT) {
    atomicAdd(&bins[static_cast<int>(in[t])], 1);
  } else {
    bins[static_cast<int>(in[t])]++;  // WRONG bins
  }
  __syncthreads();
  if (t < 8) out[t] = bins[t];
}
void bins_wrong(const float* in, float* out) { bins_kernel<false><<<1, 64>>>(in, out); }
void bins_right(const float* in, float* out) { bins_kernel<true><<<1, 64>>>(in, out); }

// Warps exchange values; half of the block has another task.
template <bool RIGHT>
__global__ void half_block_kernel(const float* in, float* out) {
  __shared__ float x[64];
  const int t = threadIdx.x;
  if (t >= 64) {
    BAR_SYNC(2, 64);
    return;
  }
  x[t] = in[t];  // OTHER half_block
  BAR_SYNC(1, 64);
  out[t] = x[63 - t];
  if (RIGHT) BAR_SYNC(1, 64);
  x[t] = in[64 + t];  // WRONG half_block
}
void half_block_wrong(const float* in, float* out) {
  half_block_kernel<false><<<1, 128>>>(in, out);
}
void half_block_right(const float* in, float* out) { half_block_kernel<true><<<1, 128>>>(in, out); }

// Threads that leave before they have loaded their part of the tile.
template <bool RIGHT>
__global__ void early_return_kernel(const float* in, float* out, int n) {
  __shared__ float x[64];
  const int t = threadIdx.x;
  if (!RIGHT && t >= n) return;
  x[t] = t < n ? in[t] : 0;
  __syncthreads();
  if (t < n) out[t] = x[63 - t];  // WRONG early_return
}
void early_return_wrong(const float* in, float* out) {
  early_return_kernel<false><<<1, 64>>>(in, out, 32);
}
void early_return_right(const float* in, float* out) {
  early_return_kernel<true><<<1, 64>>>(in, out, 32);
}

// Copies of half of the tile.
template <bool RIGHT>
__global__ void short_copy_kernel(const float* in, float* out) {
  __shared__ alignas(16) float x[64];
  const int t = threadIdx.x;
  if (t < (RIGHT ? 16 : 8)) CP_ASYNC(x + 4 * t, in + 4 * t);
  CP_ASYNC_COMMIT();
  CP_ASYNC_WAIT(0);
  __syncthreads();
  out[t] = x[63 - t];  // WRONG short_copy
}
void short_copy_wrong(const float* in, float* out) { short_copy_kernel<false><<<1, 64>>>(in, out); }
void short_copy_right(const float* in, float* out) { short_copy_kernel<true><<<1, 64>>>(in, out); }

// ---- Pointers that functions return.

__device__ __noinline__ float* row_of(float* matrix, int row, int width) {
  return matrix + row * width;
}
__device__ __noinline__ const float& element(const float* values, int i) { return values[i]; }
__global__ void returned_kernel(int width, const float* in, float* out) {
  row_of(out, 1, width)[threadIdx.x] = element(in, static_cast<int>(threadIdx.x));
}
void returned_right(const float* in, float* out) { returned_kernel<<<1, 32>>>(32, in, out); }

__global__ void from_heap_kernel(int n, const float* in, float* out) {
  float* values = new float[n];
  for (int i = 0; i < n; i++) values[i] = in[i];
  out[threadIdx.x] = values[(threadIdx.x + 1) % n];
  delete[] values;
}
void from_heap_right(const float* in, float* out) { from_heap_kernel<<<1, 32>>>(8, in, out); }
