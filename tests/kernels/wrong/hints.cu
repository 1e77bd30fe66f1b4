// hints.cu: races whose report has to say more than which barrier might be missing. How to read this
// file: memcheck.cu, and racecheck.cu for OTHER. tests/simulator/test_hints.py has the reports.
#include <cuda_runtime.h>

#include "hopper.h"
#include "ptx.h"

// ---- Copies that come too early, and waits that wait for nothing.

// Fills one stage four times; each thread reads a number of another warp's share. EARLY: nothing
// holds the copy back. STALE: the wait for `empty` always asks for parity 0. RELEASE: the threads
// release the stage before they have read it.
enum Mistake { NONE, EARLY, STALE, RELEASE, FULL_STALE };
template <int MISTAKE>
__global__ void refill_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[128];
  __shared__ uint64_t full, empty;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    MBARRIER_INIT(&empty, 128);
    FENCE_MBARRIER_INIT();
  }
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < 4; i++) {
    if (t == 0) {
      if (MISTAKE != EARLY && i > 0) {
        MBARRIER_WAIT(&empty, MISTAKE == STALE ? 0 : (i - 1) % 2);  // WAIT empty
      }
      MBARRIER_ARRIVE_EXPECT(&full, 512);
      BULK_LOAD(tile, in + 128 * i, 512, &full);  // WRONG refill
    }
    __syncwarp();
    MBARRIER_WAIT(&full, MISTAKE == FULL_STALE ? 0 : i % 2);  // WAIT full
    if (MISTAKE == RELEASE) MBARRIER_ARRIVE(&empty);
    sum += tile[127 - t];  // OTHER refill
    if (MISTAKE != RELEASE) MBARRIER_ARRIVE(&empty);
  }
  out[t] = sum;
}
void early_refill_wrong(const float* in, float* out) { refill_kernel<EARLY><<<1, 128>>>(in, out); }
void stale_empty_wrong(const float* in, float* out) { refill_kernel<STALE><<<1, 128>>>(in, out); }
void early_release_wrong(const float* in, float* out) {
  refill_kernel<RELEASE><<<1, 128>>>(in, out);
}
void stale_full_wrong(const float* in, float* out) {
  refill_kernel<FULL_STALE><<<1, 128>>>(in, out);
}
void refill_right(const float* in, float* out) { refill_kernel<NONE><<<1, 128>>>(in, out); }

// One of two warps that read the stage does not release it.
template <bool RIGHT>
__global__ void half_release_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[64];
  __shared__ uint64_t full, empty;
  if (threadIdx.x == 0) {
    MBARRIER_INIT(&full, 1);
    MBARRIER_INIT(&empty, RIGHT ? 64 : 32);
    FENCE_MBARRIER_INIT();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 32) {
    for (int i = 0; i < 2; i++) {
      if (i > 0) MBARRIER_WAIT(&empty, 0);
      MBARRIER_ARRIVE_EXPECT(&full, 256);
      BULK_LOAD(tile, in + 64 * i, 256, &full);  // WRONG half_release
    }
  } else if (warp != 1) {
    const int t = threadIdx.x - 16 * warp;
    float sum = 0;
    for (int i = 0; i < 2; i++) {
      MBARRIER_WAIT(&full, i);
      if (warp == 2) __nanosleep(100);  // the others go first
      sum += tile[63 - t];              // OTHER half_release
      if (RIGHT || warp == 0) MBARRIER_ARRIVE(&empty);
    }
    out[t] = sum;
  }
}
void half_release_wrong(const float* in, float* out) {
  half_release_kernel<false><<<1, 96>>>(in, out);
}
void half_release_right(const float* in, float* out) {
  half_release_kernel<true><<<1, 96>>>(in, out);
}

// The wait for `full` is missing in every round but the first.
template <bool RIGHT>
__global__ void waits_once_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[128];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    FENCE_MBARRIER_INIT();
  }
  float sum = 0;
  for (int i = 0; i < 2; i++) {
    __syncthreads();  // all have read
    if (t == 0) {
      MBARRIER_ARRIVE_EXPECT(&full, 512);
      BULK_LOAD(tile, in + 128 * i, 512, &full);  // OTHER waits_once
    }
    if (RIGHT || i == 0) MBARRIER_WAIT(&full, i);
    sum += tile[127 - t];  // WRONG waits_once
  }
  out[t] = sum;
}
void waits_once_wrong(const float* in, float* out) {
  waits_once_kernel<false><<<1, 128>>>(in, out);
}
void waits_once_right(const float* in, float* out) { waits_once_kernel<true><<<1, 128>>>(in, out); }

// What threads write for each other; the parity of the wait never changes.
template <bool RIGHT>
__global__ void stale_exchange_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) MBARRIER_INIT(&full, 64);
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < 2; i++) {
    tile[t] = in[64 * i + t];  // OTHER stale_exchange
    MBARRIER_ARRIVE(&full);
    MBARRIER_WAIT(&full, RIGHT ? i : 0);  // WAIT stale_exchange
    sum += tile[63 - t];                  // WRONG stale_exchange
    __syncthreads();
  }
  out[t] = sum;
}
void stale_exchange_wrong(const float* in, float* out) {
  stale_exchange_kernel<false><<<1, 64>>>(in, out);
}
void stale_exchange_right(const float* in, float* out) {
  stale_exchange_kernel<true><<<1, 64>>>(in, out);
}

// ---- Two blocks.

// The tiles that the blocks store overlap by half.
template <bool RIGHT>
__global__ void overlapping_stores_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[64];
  const int t = threadIdx.x;
  tile[t] = in[t] + blockIdx.x;
  FENCE_PROXY_ASYNC();
  __syncthreads();
  if (t == 0) {
    BULK_STORE(out + blockIdx.x * (RIGHT ? 64 : 32), tile, 256);  // WRONG overlapping_stores
    BULK_COMMIT();
    BULK_WAIT();
  }
}
void overlapping_stores_wrong(const float* in, float* out) {
  overlapping_stores_kernel<false><<<2, 64>>>(in, out);
}
void overlapping_stores_right(const float* in, float* out) {
  overlapping_stores_kernel<true><<<2, 64>>>(in, out);
}

// ---- Helpers: the report names their calls.

__device__ __forceinline__ void put(float* to, float value) { *to = value; }
__device__ __forceinline__ float get(const float* from) { return *from; }
template <bool RIGHT>
__global__ void helpers_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  const int t = threadIdx.x;
  put(&tile[t], 0);
  __syncthreads();
  put(&tile[t], in[t]);  // CALL put
  if (RIGHT) __syncthreads();
  out[t] = get(&tile[63 - t]);  // CALL get
}
void helpers_wrong(const float* in, float* out) { helpers_kernel<false><<<1, 64>>>(in, out); }
void helpers_right(const float* in, float* out) { helpers_kernel<true><<<1, 64>>>(in, out); }

__device__ __forceinline__ void load_tile(float* to, const float* from, uint64_t* full) {
  MBARRIER_ARRIVE_EXPECT(full, 256);
  BULK_LOAD(to, from, 256, full);
}
template <bool RIGHT>
__global__ void two_loads_kernel(const float* in, float* out) {
  __shared__ alignas(128) float A[64], B[64];
  __shared__ uint64_t full[2];
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full[0], 1);
    MBARRIER_INIT(&full[1], 1);
    FENCE_MBARRIER_INIT();
    load_tile(A, in, &full[0]);
    load_tile(B, in + 64, &full[1]);  // OTHER two_loads
  }
  __syncthreads();
  MBARRIER_WAIT(&full[0], 0);
  if (RIGHT) MBARRIER_WAIT(&full[1], 0);
  out[t] = A[t] * B[63 - t];  // WRONG two_loads
}
void two_loads_wrong(const float* in, float* out) { two_loads_kernel<false><<<1, 64>>>(in, out); }
void two_loads_right(const float* in, float* out) { two_loads_kernel<true><<<1, 64>>>(in, out); }

// ---- Spin loops.

template <bool RIGHT, bool SHARED>
__device__ void wait_for(int* flag) {
  if (RIGHT) {
    while (atomicAdd(flag, 0) == 0) {
    }
    __threadfence();
  } else {
    while (*flag == 0) {  // WRONG spin
      __threadfence_block();
    }
  }
}
template <bool RIGHT>
__global__ void block_spin_kernel(const float* in, float* out, int* flag) {
  if (blockIdx.x == 1) {
    out[0] = 2 * in[3];
    __threadfence();
    atomicExch(flag, 1);  // OTHER spin
  } else {
    wait_for<RIGHT, false>(flag);
    out[1] = out[0];
  }
}
template <bool RIGHT>
void block_spin(const float* in, float* out) {
  int* flag;
  cudaMalloc(&flag, sizeof(int));
  cudaMemset(flag, 0, sizeof(int));
  block_spin_kernel<RIGHT><<<2, 1>>>(in, out, flag);
  cudaFree(flag);
}
void block_spin_wrong(const float* in, float* out) { block_spin<false>(in, out); }
void block_spin_right(const float* in, float* out) { block_spin<true>(in, out); }

template <bool RIGHT>
__global__ void warp_spin_kernel(const float* in, float* out) {
  __shared__ int flag;
  if (threadIdx.x == 0) flag = 0;
  __syncthreads();
  if (threadIdx.x == 32) {
    out[0] = 2 * in[3];
    __threadfence();
    atomicExch(&flag, 1);  // OTHER spin
  } else if (threadIdx.x == 0) {
    wait_for<RIGHT, true>(&flag);
    out[1] = out[0];
  }
}
void warp_spin_wrong(const float* in, float* out) { warp_spin_kernel<false><<<1, 64>>>(in, out); }
void warp_spin_right(const float* in, float* out) { warp_spin_kernel<true><<<1, 64>>>(in, out); }

// A loop that reads what others write and is no spin: a barrier is missing.
template <bool RIGHT>
__global__ void search_kernel(const float* in, float* out) {
  __shared__ float limits[32];
  const int t = threadIdx.x;
  limits[31 - t % 32] = in[t % 32];
  if (RIGHT) __syncthreads();
  int i = 0;
  while (i < 31 && limits[i] != 5) i++;
  out[t] = i;
}
void search_wrong(const float* in, float* out) { search_kernel<false><<<1, 32>>>(in, out); }
void search_right(const float* in, float* out) { search_kernel<true><<<1, 32>>>(in, out); }

// ---- cp.async.

// COMMITS: not every copy is in a group that is waited for. WAITS: nobody waits. MEETS: no barrier.
template <bool COMMITS, bool WAITS, bool MEETS>
__global__ void lane_copies_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[256];
  const int t = threadIdx.x;
  CP_ASYNC(&tile[4 * t], &in[4 * t]);  // OTHER lane_copies
  if (COMMITS) CP_ASYNC_COMMIT();
  if (WAITS) CP_ASYNC_WAIT(0);
  if (MEETS) __syncthreads();
  for (int i = t; i < 256; i += 64) {
    out[i] = tile[255 - i];  // WRONG lane_copies
  }
}
void copies_uncommitted_wrong(const float* in, float* out) {
  lane_copies_kernel<false, true, true><<<1, 64>>>(in, out);
}
void copies_no_wait_wrong(const float* in, float* out) {
  lane_copies_kernel<true, false, true><<<1, 64>>>(in, out);
}
void copies_no_barrier_wrong(const float* in, float* out) {
  lane_copies_kernel<true, false, false><<<1, 64>>>(in, out);
}
void copies_right(const float* in, float* out) {
  lane_copies_kernel<true, true, true><<<1, 64>>>(in, out);
}

// The next copy goes where other warps still read; each thread waits for its own copies only.
template <bool RIGHT>
__global__ void copies_refill_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[256];
  const int t = threadIdx.x;
  float sum = 0;
  for (int i = 0; i < 2; i++) {
    CP_ASYNC(&tile[4 * t], &in[256 * i + 4 * t]);  // WRONG copies_refill
    CP_ASYNC_COMMIT();
    CP_ASYNC_WAIT(0);
    __syncthreads();
    sum += tile[255 - t];  // OTHER copies_refill
    if (RIGHT) __syncthreads();
  }
  out[t] = sum;
}
void copies_refill_wrong(const float* in, float* out) {
  copies_refill_kernel<false><<<1, 64>>>(in, out);
}
void copies_refill_right(const float* in, float* out) {
  copies_refill_kernel<true><<<1, 64>>>(in, out);
}
