// async.cu: data of asynchronous copies and of wgmma, touched before its wait; memory that is
// written while they still read it. How to read this file: memcheck.cu, and racecheck.cu for OTHER.
#include <cuda_runtime.h>

#include "hopper.h"
#include "ptx.h"

// ---- cp.async: copies of the thread itself.

// cp_async_no_wait (in 512, out 512): nobody waits for the copies.
template <bool RIGHT>
__global__ void cp_async_no_wait_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[512];
  const int t = threadIdx.x;
  CP_ASYNC(&tile[4 * t], &in[4 * t]);  // OTHER cp_async_no_wait
  CP_ASYNC_COMMIT();
  if (RIGHT) CP_ASYNC_WAIT(0);
  __syncthreads();
  for (int i = t; i < 512; i += 128) {
    out[i] = tile[511 - i];  // WRONG cp_async_no_wait
  }
}
void cp_async_no_wait_wrong(const float* in, float* out) {
  cp_async_no_wait_kernel<false><<<1, 128>>>(in, out);
}
void cp_async_no_wait_right(const float* in, float* out) {
  cp_async_no_wait_kernel<true><<<1, 128>>>(in, out);
}

// cp_async_wait_one (in 1024, out 1024): the last tile is read while its copies may be under way.
template <bool RIGHT>
__global__ void cp_async_wait_one_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tiles[2][512];
  const int t = threadIdx.x;
  for (int tile = 0; tile < 2; tile++) {
    CP_ASYNC(&tiles[tile][4 * t], &in[tile * 512 + 4 * t]);  // OTHER cp_async_wait_one
    CP_ASYNC_COMMIT();
  }
  CP_ASYNC_WAIT(1);
  __syncthreads();
  for (int i = t; i < 512; i += 128) out[i] = tiles[0][511 - i];
  CP_ASYNC_WAIT(RIGHT ? 0 : 1);
  __syncthreads();
  for (int i = t; i < 512; i += 128) {
    out[512 + i] = tiles[1][511 - i];  // WRONG cp_async_wait_one
  }
}
void cp_async_wait_one_wrong(const float* in, float* out) {
  cp_async_wait_one_kernel<false><<<1, 128>>>(in, out);
}
void cp_async_wait_one_right(const float* in, float* out) {
  cp_async_wait_one_kernel<true><<<1, 128>>>(in, out);
}

// cp_async_no_barrier (in 512, out 512): a thread waits for its own copies, not for the others.
template <bool RIGHT>
__global__ void cp_async_no_barrier_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[512];
  const int t = threadIdx.x;
  for (int i = t; i < 512; i += 128) tile[i] = 0;  // so that what is read is never uninitialised
  __syncthreads();
  CP_ASYNC(&tile[4 * t], &in[4 * t]);  // OTHER cp_async_no_barrier
  CP_ASYNC_COMMIT();
  CP_ASYNC_WAIT(0);
  if (RIGHT) __syncthreads();
  for (int i = t; i < 512; i += 128) {
    out[i] = tile[511 - i];  // WRONG cp_async_no_barrier
  }
}
void cp_async_no_barrier_wrong(const float* in, float* out) {
  cp_async_no_barrier_kernel<false><<<1, 128>>>(in, out);
}
void cp_async_no_barrier_right(const float* in, float* out) {
  cp_async_no_barrier_kernel<true><<<1, 128>>>(in, out);
}

// cp_async_refill (in 2048, out 2048): the next copy goes into a tile that others still read.
template <bool RIGHT>
__global__ void cp_async_refill_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[512];
  const int t = threadIdx.x;
  for (int first = 0; first < 2048; first += 512) {
    CP_ASYNC(&tile[4 * t], &in[first + 4 * t]);  // WRONG cp_async_refill
    CP_ASYNC_COMMIT();
    CP_ASYNC_WAIT(0);
    __syncthreads();
    for (int i = t; i < 512; i += 128) {
      out[first + i] = tile[511 - i];  // OTHER cp_async_refill
    }
    if (RIGHT) __syncthreads();
  }
}
void cp_async_refill_wrong(const float* in, float* out) {
  cp_async_refill_kernel<false><<<1, 128>>>(in, out);
}
void cp_async_refill_right(const float* in, float* out) {
  cp_async_refill_kernel<true><<<1, 128>>>(in, out);
}

// ---- Bulk copies and TMA: copies of an engine, which one thread asks for.

// One stage for the copy engine and the threads that use it. full: the stage is written; empty: all
// threads have read it.
template <int SIZE>
struct Stage {
  alignas(128) float values[SIZE];
  uint64_t full, empty;

  __device__ void init() {
    if (threadIdx.x == 0) {
      MBARRIER_INIT(&full, 1);
      MBARRIER_INIT(&empty, blockDim.x);
      FENCE_MBARRIER_INIT();
    }
    __syncthreads();
  }
};

// bulk_no_wait (in 256, out 256): the mbarrier that the copy completes is not waited for.
template <bool RIGHT>
__global__ void bulk_no_wait_kernel(const float* in, float* out) {
  __shared__ Stage<256> stage;
  stage.init();
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_ARRIVE_EXPECT(&stage.full, 1024);
    BULK_LOAD(stage.values, in, 1024, &stage.full);  // OTHER bulk_no_wait
  }
  __syncthreads();
  if (RIGHT) MBARRIER_WAIT(&stage.full, 0);
  out[t] = stage.values[255 - t];  // WRONG bulk_no_wait
}
void bulk_no_wait_wrong(const float* in, float* out) {
  bulk_no_wait_kernel<false><<<1, 256>>>(in, out);
}
void bulk_no_wait_right(const float* in, float* out) {
  bulk_no_wait_kernel<true><<<1, 256>>>(in, out);
}

// bulk_parity (in 1024, out 256): every use of the stage waits for phase 0.
template <bool RIGHT>
__global__ void bulk_parity_kernel(const float* in, float* out) {
  __shared__ Stage<256> stage;
  stage.init();
  const int t = threadIdx.x;
  float sum = 0;
  for (int use = 0; use < 4; use++) {
    if (t == 0) {
      MBARRIER_ARRIVE_EXPECT(&stage.full, 1024);
      BULK_LOAD(stage.values, in + 256 * use, 1024, &stage.full);  // OTHER bulk_parity
    }
    __syncthreads();
    MBARRIER_WAIT(&stage.full, RIGHT ? use % 2 : 0);
    sum += stage.values[255 - t];  // WRONG bulk_parity
    __syncthreads();               // the stage is read
  }
  out[t] = sum;
}
void bulk_parity_wrong(const float* in, float* out) {
  bulk_parity_kernel<false><<<1, 256>>>(in, out);
}
void bulk_parity_right(const float* in, float* out) {
  bulk_parity_kernel<true><<<1, 256>>>(in, out);
}

// tma_refill (in 2048, out 256): the stage is filled again before all threads have released it.
template <bool RIGHT>
__global__ void tma_refill_kernel(const __grid_constant__ CUtensorMap in, float* out) {
  __shared__ Stage<256> stage;
  stage.init();
  const int t = threadIdx.x;
  float sum = 0;
  for (int use = 0; use < 8; use++) {
    if (t == 0) {
      if (RIGHT && use > 0) MBARRIER_WAIT(&stage.empty, (use - 1) % 2);
      MBARRIER_ARRIVE_EXPECT(&stage.full, 1024);
      TMA_LOAD(stage.values, &in, 0, 16 * use, &stage.full);  // WRONG tma_refill
    }
    MBARRIER_WAIT(&stage.full, use % 2);
    sum += stage.values[255 - t];  // OTHER tma_refill
    MBARRIER_ARRIVE(&stage.empty);
  }
  out[t] = sum;
}
template <bool RIGHT>
void tma_refill(const float* in, float* out) {
  const CUtensorMap map = tensor_map(const_cast<float*>(in), 128, 16, 16, 16);
  tma_refill_kernel<RIGHT><<<1, 256>>>(map, out);
}
void tma_refill_wrong(const float* in, float* out) { tma_refill<false>(in, out); }
void tma_refill_right(const float* in, float* out) { tma_refill<true>(in, out); }

// store_no_proxy_fence (in 256, out 256): the copy engine may not see what the threads wrote.
template <bool RIGHT>
__global__ void store_no_proxy_fence_kernel(const float* in,
                                            const __grid_constant__ CUtensorMap out) {
  __shared__ alignas(128) float tile[256];
  const int t = threadIdx.x;
  tile[t] = 2 * in[t];  // OTHER store_no_proxy_fence
  if (RIGHT) FENCE_PROXY_ASYNC();
  __syncthreads();
  if (t == 0) {
    TMA_STORE(&out, tile, 0, 0);  // WRONG store_no_proxy_fence
    BULK_COMMIT();
    BULK_WAIT();
  }
}
template <bool RIGHT>
void store_no_proxy_fence(const float* in, float* out) {
  store_no_proxy_fence_kernel<RIGHT><<<1, 256>>>(in, tensor_map(out, 16, 16, 16, 16));
}
void store_no_proxy_fence_wrong(const float* in, float* out) {
  store_no_proxy_fence<false>(in, out);
}
void store_no_proxy_fence_right(const float* in, float* out) {
  store_no_proxy_fence<true>(in, out);
}

// store_source (in 512, out 512): the tile is written again while the copy engine still reads it.
template <bool RIGHT>
__global__ void store_source_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[256];
  const int t = threadIdx.x;
  for (int first = 0; first < 512; first += 256) {
    tile[t] = 2 * in[first + t];  // WRONG store_source
    FENCE_PROXY_ASYNC();
    __syncthreads();
    if (t == 0) {
      BULK_STORE(out + first, tile, 1024);  // OTHER store_source
      BULK_COMMIT();
      if (RIGHT) BULK_READ_WAIT();
    }
    __syncthreads();
  }
  if (t == 0) BULK_WAIT();
}
void store_source_wrong(const float* in, float* out) {
  store_source_kernel<false><<<1, 256>>>(in, out);
}
void store_source_right(const float* in, float* out) {
  store_source_kernel<true><<<1, 256>>>(in, out);
}

// store_read_back (in 256, out 257): the source of the copy is read, its destination not yet
// written.
template <bool RIGHT>
__global__ void store_read_back_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[256];
  const int t = threadIdx.x;
  tile[t] = 2 * in[t];
  FENCE_PROXY_ASYNC();
  __syncthreads();
  if (t == 0) {
    BULK_STORE(out, tile, 1024);  // OTHER store_read_back
    BULK_COMMIT();
    if (RIGHT) {
      BULK_WAIT();
    } else {
      BULK_READ_WAIT();
    }
    out[256] = out[5] + 1;  // WRONG store_read_back
  }
}
void store_read_back_wrong(const float* in, float* out) {
  store_read_back_kernel<false><<<1, 256>>>(in, out);
}
void store_read_back_right(const float* in, float* out) {
  store_read_back_kernel<true><<<1, 256>>>(in, out);
}

// ---- wgmma: D [64, 8] = A [64, 8] * B [8, 8]. `in` is A, then B, as they lie in shared memory.

struct Operands {
  alignas(128) float A[512];
  alignas(128) float B[64];
};

__device__ void store(float* smem, const float* in, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) smem[i] = in[i];
}

// wgmma_no_wait (in 576, out 512): the accumulator is read before the multiplication is complete.
template <bool RIGHT>
__global__ void wgmma_no_wait_kernel(const float* in, float* out) {
  __shared__ Operands smem;
  store(smem.A, in, 512);
  store(smem.B, in + 512, 64);
  FENCE_PROXY_ASYNC();
  __syncthreads();
  float d[4] = {};
  WGMMA_FENCE();
  WGMMA(d, descriptor(smem.A, 64), descriptor(smem.B, 8));  // OTHER wgmma_no_wait
  WGMMA_COMMIT();
  if (RIGHT) WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) {
    out[d_index(j)] = d[j];  // WRONG wgmma_no_wait
  }
  WGMMA_WAIT(0);
}
void wgmma_no_wait_wrong(const float* in, float* out) {
  wgmma_no_wait_kernel<false><<<1, 128>>>(in, out);
}
void wgmma_no_wait_right(const float* in, float* out) {
  wgmma_no_wait_kernel<true><<<1, 128>>>(in, out);
}

// wgmma_no_fence (in 576, out 512): wgmma may read the accumulator before the threads have set it.
template <bool RIGHT>
__global__ void wgmma_no_fence_kernel(const float* in, float* out) {
  __shared__ Operands smem;
  store(smem.A, in, 512);
  store(smem.B, in + 512, 64);
  FENCE_PROXY_ASYNC();
  __syncthreads();
  float d[4];
  for (int j = 0; j < 4; j++) d[j] = in[d_index(j)];  // OTHER wgmma_no_fence
  if (RIGHT) WGMMA_FENCE();
  WGMMA(d, descriptor(smem.A, 64), descriptor(smem.B, 8));  // WRONG wgmma_no_fence
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void wgmma_no_fence_wrong(const float* in, float* out) {
  wgmma_no_fence_kernel<false><<<1, 128>>>(in, out);
}
void wgmma_no_fence_right(const float* in, float* out) {
  wgmma_no_fence_kernel<true><<<1, 128>>>(in, out);
}

// wgmma_no_proxy_fence (in 576, out 512): wgmma may not see the operands that the threads stored.
template <bool RIGHT>
__global__ void wgmma_no_proxy_fence_kernel(const float* in, float* out) {
  __shared__ Operands smem;
  for (int i = threadIdx.x; i < 512; i += 128) {
    smem.A[i] = in[i];  // OTHER wgmma_no_proxy_fence
  }
  if (threadIdx.x < 64) {
    smem.B[threadIdx.x] = in[512 + threadIdx.x];  // OTHER wgmma_no_proxy_fence
  }
  if (RIGHT) FENCE_PROXY_ASYNC();
  __syncthreads();
  float d[4] = {};
  WGMMA_FENCE();
  WGMMA(d, descriptor(smem.A, 64), descriptor(smem.B, 8));  // WRONG wgmma_no_proxy_fence
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void wgmma_no_proxy_fence_wrong(const float* in, float* out) {
  wgmma_no_proxy_fence_kernel<false><<<1, 128>>>(in, out);
}
void wgmma_no_proxy_fence_right(const float* in, float* out) {
  wgmma_no_proxy_fence_kernel<true><<<1, 128>>>(in, out);
}

// wgmma_store_refill (in 1088, out 512): the next A is stored while wgmma still reads this one.
template <bool RIGHT>
__global__ void wgmma_store_refill_kernel(const float* in, float* out) {
  __shared__ Operands smem;
  store(smem.B, in + 1024, 64);
  float d[4] = {};
  for (int tile = 0; tile < 2; tile++) {
    for (int i = threadIdx.x; i < 512; i += 128) {
      smem.A[i] = in[tile * 512 + i];  // WRONG wgmma_store_refill
    }
    FENCE_PROXY_ASYNC();
    __syncthreads();
    WGMMA_FENCE();
    WGMMA(d, descriptor(smem.A, 64), descriptor(smem.B, 8));  // OTHER wgmma_store_refill
    WGMMA_COMMIT();
    if (RIGHT) WGMMA_WAIT(0);
    __syncthreads();  // the next A is stored by other warps, too
  }
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void wgmma_store_refill_wrong(const float* in, float* out) {
  wgmma_store_refill_kernel<false><<<1, 128>>>(in, out);
}
void wgmma_store_refill_right(const float* in, float* out) {
  wgmma_store_refill_kernel<true><<<1, 128>>>(in, out);
}

// wgmma_bulk_refill (in 1088, out 512): the stage is released while wgmma still reads it.
template <bool RIGHT>
__global__ void wgmma_bulk_refill_kernel(const float* in, float* out) {
  __shared__ Stage<512> A;
  __shared__ alignas(128) float B[64];
  store(B, in + 1024, 64);
  FENCE_PROXY_ASYNC();
  A.init();
  float d[4] = {};
  for (int use = 0; use < 2; use++) {
    if (threadIdx.x == 0) {
      if (use > 0) MBARRIER_WAIT(&A.empty, (use - 1) % 2);
      MBARRIER_ARRIVE_EXPECT(&A.full, 2048);
      BULK_LOAD(A.values, in + 512 * use, 2048, &A.full);  // WRONG wgmma_bulk_refill
    }
    __syncwarp();
    MBARRIER_WAIT(&A.full, use % 2);
    WGMMA_FENCE();
    WGMMA(d, descriptor(A.values, 64), descriptor(B, 8));  // OTHER wgmma_bulk_refill
    WGMMA_COMMIT();
    if (RIGHT) WGMMA_WAIT(0);
    MBARRIER_ARRIVE(&A.empty);
  }
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void wgmma_bulk_refill_wrong(const float* in, float* out) {
  wgmma_bulk_refill_kernel<false><<<1, 128>>>(in, out);
}
void wgmma_bulk_refill_right(const float* in, float* out) {
  wgmma_bulk_refill_kernel<true><<<1, 128>>>(in, out);
}

// ---- Values that are sent to another block of the cluster.

// mailboxes (in 8, out 64): two blocks add up what the other sends. Who got a value may send two
// turns later to the same place: the other has sent one in between, behind reading the first.
template <bool RIGHT>
__global__ void __cluster_dims__(2, 1, 1) mailboxes_kernel(const float* in, float* out) {
  __shared__ float values[2];
  __shared__ uint64_t full[2];
  const int t = threadIdx.x, rank = blockIdx.x;
  if (t < 2) MBARRIER_INIT(&full[t], 1);
  FENCE_MBARRIER_INIT();
  CLUSTER_ARRIVE();
  CLUSTER_WAIT();
  float sum = 0;
  for (int turn = 0; turn < 4; turn++) {
    const int box = RIGHT ? turn % 2 : 0;
    if (t == 0) {
      MBARRIER_ARRIVE_EXPECT(&full[turn % 2], 4);
      ST_ASYNC(1 - rank, &values[box], in[4 * rank + turn], &full[turn % 2]);  // WRONG mailboxes
    }
    MBARRIER_WAIT(&full[turn % 2], turn / 2);
    sum += values[box];
    __syncthreads();  // all have read
  }
  out[rank * 32 + t] = sum;
  CLUSTER_ARRIVE();
  CLUSTER_WAIT();
}
void mailboxes_wrong(const float* in, float* out) { mailboxes_kernel<false><<<2, 32>>>(in, out); }
void mailboxes_right(const float* in, float* out) { mailboxes_kernel<true><<<2, 32>>>(in, out); }
