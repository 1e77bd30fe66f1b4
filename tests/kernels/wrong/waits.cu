// waits.cu: threads that wait for ever, and waits for mbarriers whose answer nobody looks at. How to
// read this file: memcheck.cu, and racecheck.cu for OTHER. tests/simulator/test_deadlocks.py has the
// reports.
#include <cuda_runtime.h>

#include <cuda/barrier>

#include "hopper.h"
#include "ptx.h"

#define MBARRIER_EXPECT(barrier, bytes)                                                         \
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(SMEM(barrier)), \
               "r"(bytes)                                                                       \
               : "memory")
// Asks once.
#define MBARRIER_TRY(done, barrier, parity)                                                      \
  asm volatile(                                                                                  \
      "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.s32 %0, 1, 0, " \
      "p;}"                                                                                      \
      : "=r"(done)                                                                               \
      : "r"(SMEM(barrier)), "r"(parity)                                                          \
      : "memory")
#define MBARRIER_TEST(done, barrier, parity)                                                      \
  asm volatile(                                                                                   \
      "{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.s32 %0, 1, 0, " \
      "p;}"                                                                                       \
      : "=r"(done)                                                                                \
      : "r"(SMEM(barrier)), "r"(parity)                                                           \
      : "memory")

// ---- A ring of two stages: one thread of warp 0 fills them, warps 1 and 2 add them up.

constexpr int TILE = 64, TILES = 4, TILE_BYTES = TILE * 4;
enum Mistake {
  NONE,
  LESS,
  MORE,
  NO_ARRIVAL,
  UNANNOUNCED,
  NO_EMPTY,

  FIRST_PARITY
};

template <int MISTAKE>
__device__ void fill(float* to, const float* from, uint64_t* full) {
  if (MISTAKE == NO_ARRIVAL) {
    MBARRIER_EXPECT(full, TILE_BYTES);
  } else if (MISTAKE != UNANNOUNCED) {
    const int bytes = MISTAKE == LESS   ? TILE_BYTES - 16
                      : MISTAKE == MORE ? 2 * TILE_BYTES
                                        : TILE_BYTES;
    mbarrier_arrive_expect(full, bytes);  // WRONG ring_no_empty
  }
  BULK_LOAD(to, from, TILE_BYTES, full);
}

template <int MISTAKE>
__device__ void produce(float (*tiles)[TILE], const float* in, uint64_t* full, uint64_t* empty) {
  for (int i = 0; i < TILES; i++) {
    const int stage = i % 2;
    if (MISTAKE != NO_EMPTY && (MISTAKE == FIRST_PARITY || i >= 2)) {
      const int parity = MISTAKE == FIRST_PARITY ? i / 2 % 2 : (i / 2 - 1) % 2;
      mbarrier_wait(&empty[stage], parity);  // OTHER ring
    }
    fill<MISTAKE>(tiles[stage], in + i * TILE, &full[stage]);
  }
}

template <int MISTAKE>
__device__ void consume(float (*tiles)[TILE], float* out, uint64_t* full, uint64_t* empty) {
  const int t = threadIdx.x - 32;
  float sum = 0;
  for (int i = 0; i < TILES; i++) {
    const int stage = i % 2;
    mbarrier_wait(&full[stage], i / 2 % 2);  // WRONG ring
    sum += tiles[stage][TILE - 1 - t];
    mbarrier_arrive(&empty[stage]);
  }
  out[t] = sum;
}

template <int MISTAKE>
__global__ void ring_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tiles[2][TILE];
  __shared__ uint64_t full[2], empty[2];
  if (threadIdx.x < 2) {
    mbarrier_init(&full[threadIdx.x], 1);
    mbarrier_init(&empty[threadIdx.x], TILE);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= 32) {
    consume<MISTAKE>(tiles, out, full, empty);
  } else if (threadIdx.x == 0) {
    produce<MISTAKE>(tiles, in, full, empty);
  }
}
void ring_less_wrong(const float* in, float* out) { ring_kernel<LESS><<<1, 96>>>(in, out); }
void ring_more_wrong(const float* in, float* out) { ring_kernel<MORE><<<1, 96>>>(in, out); }
void ring_no_arrival_wrong(const float* in, float* out) {
  ring_kernel<NO_ARRIVAL><<<1, 96>>>(in, out);
}
void ring_unannounced_wrong(const float* in, float* out) {
  ring_kernel<UNANNOUNCED><<<1, 96>>>(in, out);
}
void ring_no_empty_wrong(const float* in, float* out) { ring_kernel<NO_EMPTY><<<1, 96>>>(in, out); }
void ring_first_parity_wrong(const float* in, float* out) {
  ring_kernel<FIRST_PARITY><<<1, 96>>>(in, out);
}
void ring_right(const float* in, float* out) { ring_kernel<NONE><<<1, 96>>>(in, out); }

// The same barriers in a struct behind the tiles; all lanes of the warp announce the bytes.
struct Ring {
  alignas(128) float tile[TILE];
  uint64_t full, empty;
};
template <bool RIGHT, bool LANES_ARRIVE>
__global__ void struct_ring_kernel(const float* in, float* out) {
  __shared__ Ring ring;
  const int t = threadIdx.x;
  if (t == 0) {
    mbarrier_init(&ring.full, 1);
    mbarrier_init(&ring.empty, 64);
    fence_mbarrier_init();
  }
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < TILES; i++) {
    if (LANES_ARRIVE && !RIGHT && t < 32) {
      MBARRIER_ARRIVE_EXPECT(&ring.full, TILE_BYTES);  // WRONG lanes_arrive
    }
    if (t == 0) {
      if (i > 0) mbarrier_wait(&ring.empty, (i - 1) % 2);
      if (RIGHT || !LANES_ARRIVE) {
        MBARRIER_ARRIVE_EXPECT(&ring.full, RIGHT ? TILE_BYTES : 2 * TILE_BYTES);
      }
      BULK_LOAD(ring.tile, in + i * TILE, TILE_BYTES, &ring.full);
    }
    mbarrier_wait(&ring.full, i % 2);  // WRONG struct_ring
    sum += ring.tile[TILE - 1 - t];
    mbarrier_arrive(&ring.empty);
  }
  out[t] = sum;
}
void struct_ring_wrong(const float* in, float* out) {
  struct_ring_kernel<false, false><<<1, 64>>>(in, out);
}
void struct_ring_right(const float* in, float* out) {
  struct_ring_kernel<true, false><<<1, 64>>>(in, out);
}
void lanes_arrive_wrong(const float* in, float* out) {
  struct_ring_kernel<false, true><<<1, 64>>>(in, out);
}
void lanes_arrive_right(const float* in, float* out) {
  struct_ring_kernel<true, true><<<1, 64>>>(in, out);
}

// ---- Other barriers.

// Two named barriers and the block's own, each of which some threads never reach.
template <bool RIGHT>
__global__ void three_barriers_kernel(const float* in, float* out) {
  __shared__ float tile[128];
  const int t = threadIdx.x, warp = t / 32;
  tile[t] = in[t];
  if (!RIGHT && warp == 3) return;
  if (!RIGHT && warp == 0) BAR_SYNC(1, 64);  // WRONG three_barriers
  if (!RIGHT && warp == 1) BAR_SYNC(2, 96);  // WRONG three_barriers
  __syncthreads();                           // WRONG three_barriers
  out[t] = tile[127 - t];
}
void three_barriers_wrong(const float* in, float* out) {
  three_barriers_kernel<false><<<1, 128>>>(in, out);
}
void three_barriers_right(const float* in, float* out) {
  three_barriers_kernel<true><<<1, 128>>>(in, out);
}

// Block 1 of a cluster waits for an arrival that block 0 forgets.
template <bool RIGHT>
__global__ void __cluster_dims__(2, 1, 1) cluster_arrival_kernel(const float* in, float* out) {
  __shared__ uint64_t ready;
  const int rank = blockIdx.x, t = threadIdx.x;
  if (t == 0) MBARRIER_INIT(&ready, 2);
  FENCE_MBARRIER_INIT();
  CLUSTER_ARRIVE();
  CLUSTER_WAIT();
  if (t == 0) {
    MBARRIER_ARRIVE_AT(&ready, 0);
    if (RIGHT || rank == 1) MBARRIER_ARRIVE_AT(&ready, 1);
  }
  mbarrier_wait(&ready, 0);  // WRONG cluster_arrival
  out[rank * 32 + t] = in[rank * 32 + t];
  CLUSTER_ARRIVE();
  CLUSTER_WAIT();  // OTHER cluster_arrival
}
void cluster_arrival_wrong(const float* in, float* out) {
  cluster_arrival_kernel<false><<<2, 32>>>(in, out);
}
void cluster_arrival_right(const float* in, float* out) {
  cluster_arrival_kernel<true><<<2, 32>>>(in, out);
}

// A thread spins on a flag that nobody sets, while the others wait for its arrival.
template <bool RIGHT>
__global__ void spinning_kernel(const float* in, float* out) {
  __shared__ volatile int flag;
  __shared__ uint64_t ready;
  const int t = threadIdx.x;
  if (t == 0) {
    flag = RIGHT;
    MBARRIER_INIT(&ready, 1);
  }
  __syncthreads();
  if (t == 0) {
    while (!flag) {
    }
    MBARRIER_ARRIVE(&ready);
  }
  if (t >= 32) mbarrier_wait(&ready, 0);  // OTHER spinning
  out[t] = in[t];
}
void spinning_wrong(const float* in, float* out) { spinning_kernel<false><<<1, 64>>>(in, out); }
void spinning_right(const float* in, float* out) { spinning_kernel<true><<<1, 64>>>(in, out); }

// ---- Waits whose answer nobody looks at.

// try_once (in 64, out 64): the copy may be under way when the thread goes on.
template <bool RIGHT, bool TEST>
__global__ void try_once_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    FENCE_MBARRIER_INIT();
    MBARRIER_ARRIVE_EXPECT(&full, 256);
    BULK_LOAD(tile, in, 256, &full);  // OTHER try_once
  }
  __syncthreads();
  int done = 0;
  do {
    if (TEST) {
      MBARRIER_TEST(done, &full, 0);  // WAIT test_once
    } else {
      MBARRIER_TRY(done, &full, 0);  // WAIT try_once
    }
  } while (RIGHT && !done);
  out[t] = tile[63 - t];  // WRONG try_once
}
void try_once_wrong(const float* in, float* out) {
  try_once_kernel<false, false><<<1, 64>>>(in, out);
}
void try_once_right(const float* in, float* out) {
  try_once_kernel<true, false><<<1, 64>>>(in, out);
}
void test_once_wrong(const float* in, float* out) {
  try_once_kernel<false, true><<<1, 64>>>(in, out);
}
void test_once_right(const float* in, float* out) {
  try_once_kernel<true, true><<<1, 64>>>(in, out);
}

// One thread asks once, on behalf of the block.
template <bool RIGHT>
__global__ void elected_once_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) MBARRIER_INIT(&full, 32);
  __syncthreads();
  if (t < 32) {
    for (int i = t; i < 64; i += 32) tile[i] = in[i];  // OTHER elected_once
    MBARRIER_ARRIVE(&full);
  } else {
    if (t == 32) {
      int done;
      do {
        MBARRIER_TRY(done, &full, 0);  // WAIT elected_once
      } while (RIGHT && !done);
    }
    __syncwarp();
    for (int i = t - 32; i < 64; i += 32) out[i] = tile[63 - i];  // WRONG elected_once
  }
}
void elected_once_wrong(const float* in, float* out) {
  elected_once_kernel<false><<<1, 64>>>(in, out);
}
void elected_once_right(const float* in, float* out) {
  elected_once_kernel<true><<<1, 64>>>(in, out);
}

// The thread that fills a stage asks once whether it is empty.
template <bool RIGHT>
__global__ void empty_once_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[64];
  __shared__ uint64_t full, empty;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    MBARRIER_INIT(&empty, 64);
    FENCE_MBARRIER_INIT();
  }
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < TILES; i++) {
    if (t == 0) {
      int done = i == 0;
      while (!done) {
        MBARRIER_TRY(done, &empty, (i - 1) % 2);  // WAIT empty_once
        if (!RIGHT) break;
      }
      MBARRIER_ARRIVE_EXPECT(&full, 256);
      BULK_LOAD(tile, in + 64 * i, 256, &full);  // WRONG empty_once
    }
    mbarrier_wait(&full, i % 2);
    sum += tile[63 - t];  // OTHER empty_once
    MBARRIER_ARRIVE(&empty);
  }
  out[t] = sum;
}
void empty_once_wrong(const float* in, float* out) { empty_once_kernel<false><<<1, 64>>>(in, out); }
void empty_once_right(const float* in, float* out) { empty_once_kernel<true><<<1, 64>>>(in, out); }

// ---- Right ways to ask, which stay silent: `out` counts the answers, too.

// Peek once; wait only if the answer was no. Then ask again what is known: yes, at once, for the
// thread itself and for those that it has told.
__global__ void peek_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tiles[2][64];
  __shared__ uint64_t full[2], empty[2];
  const int t = threadIdx.x;
  if (t < 2) {
    MBARRIER_INIT(&full[t], 1);
    MBARRIER_INIT(&empty[t], 2);
    FENCE_MBARRIER_INIT();
  }
  __syncthreads();
  float sum = 0;
  int known = 0;
  for (int i = 0; i < TILES; i++) {
    const int stage = i % 2, parity = i / 2 % 2;
    if (t == 0) {
      int done;
      MBARRIER_TRY(done, &empty[stage], parity ^ 1);
      if (!done) mbarrier_wait(&empty[stage], parity ^ 1);
      MBARRIER_ARRIVE_EXPECT(&full[stage], 256);
      BULK_LOAD(tiles[stage], in + 64 * i, 256, &full[stage]);
    }
    __syncwarp();
    if (t % 32 == 0) {
      int done;
      MBARRIER_TEST(done, &full[stage], parity);
      if (!done) mbarrier_wait(&full[stage], parity);
    }
    __syncwarp();
    int again;
    MBARRIER_TEST(again, &full[stage], parity);
    known += again;
    sum += tiles[stage][63 - t];
    __syncwarp();
    if (t % 32 == 0) MBARRIER_ARRIVE(&empty[stage]);
  }
  out[t] = sum;
  out[64 + t] = known;
}
void peek_right(const float* in, float* out) { peek_kernel<<<1, 64>>>(in, out); }

// cuda::barrier's own loops, with tokens.
__global__ void tokens_kernel(const float* in, float* out) {
  __shared__ float tile[64];
  __shared__ cuda::barrier<cuda::thread_scope_block> full;
  const int t = threadIdx.x;
  if (t == 0) init(&full, 64);
  __syncthreads();
  for (int i = 0; i < TILES; i++) {
    tile[t] = in[64 * i + t];
    full.wait(full.arrive());
    out[64 * i + t] = tile[63 - t];
    full.arrive_and_wait();
  }
}
void tokens_right(const float* in, float* out) { tokens_kernel<<<1, 64>>>(in, out); }
