// ordered.cu: right kernels that a check could mistake for wrong: accesses that something orders,
// or that share a word but no byte. In front of each stands
//   name (in N, out M): what orders the accesses
// Its launcher is name_right, whose arrays have N and M elements.
#include <cooperative_groups.h>
#include <cuda/atomic>
#include <cuda_runtime.h>

#include "hopper.h"
#include "ptx.h"

namespace cg = cooperative_groups;

// ---- Barriers and warps.

// double_buffer (in 1024, out 256): one barrier a tile: the next tile goes into the other buffer.
__global__ void double_buffer_kernel(const float* in, float* out) {
  __shared__ float tiles[2][256];
  const int t = threadIdx.x;
  float sum = 0;
  for (int tile = 0; tile < 4; tile++) {
    tiles[tile % 2][t] = in[tile * 256 + t];
    __syncthreads();
    sum += tiles[tile % 2][255 - t];
  }
  out[t] = sum;
}
void double_buffer_right(const float* in, float* out) { double_buffer_kernel<<<1, 256>>>(in, out); }

// counting_barrier (in 128, out 128): __syncthreads_count is a barrier, too.
__global__ void counting_barrier_kernel(const int* in, int* out) {
  __shared__ int values[128];
  const int t = threadIdx.x;
  values[t] = in[t];
  const int large = __syncthreads_count(in[t] > 3);
  const int theirs = values[127 - t];
  const int any = __syncthreads_or(theirs == 6);
  values[t] = large + any;
  __syncthreads();
  out[t] = theirs + values[(t + 64) % 128];
}
void counting_barrier_right(const int* in, int* out) {
  counting_barrier_kernel<<<1, 128>>>(in, out);
}

// early_return (in 100, out 1): threads that have left are not waited for.
__global__ void early_return_kernel(const float* in, float* out) {
  __shared__ float values[128];
  const int t = threadIdx.x;
  if (t >= 100) return;
  values[t] = in[t];
  __syncthreads();
  if (t > 0) return;
  float sum = 0;
  for (int i = 0; i < 100; i++) sum += values[i];
  out[0] = sum;
}
void early_return_right(const float* in, float* out) { early_return_kernel<<<1, 128>>>(in, out); }

// last_warp (in 256, out 1): a tree whose last rounds are ordered by __syncwarp alone.
__global__ void last_warp_kernel(const float* in, float* out) {
  __shared__ float sums[256];
  const int t = threadIdx.x;
  sums[t] = in[t];
  __syncthreads();
  for (int n = 128; n > 32; n /= 2) {
    if (t < n) sums[t] += sums[t + n];
    __syncthreads();
  }
  if (t >= 32) return;
  float sum = sums[t] + sums[t + 32];
  for (int n = 16; n > 0; n /= 2) {
    __syncwarp();
    sums[t] = sum;
    __syncwarp();
    sum += sums[t ^ n];
  }
  if (t == 0) out[0] = sum;
}
void last_warp_right(const float* in, float* out) { last_warp_kernel<<<1, 256>>>(in, out); }

// tiles_of_lanes (in 64, out 64): eight lanes synchronise among themselves.
__global__ void tiles_of_lanes_kernel(const float* in, float* out) {
  __shared__ float values[64];
  const auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  const int first = threadIdx.x / 8 * 8, rank = tile.thread_rank();
  for (int round = 0; round <= threadIdx.x / 8; round++) {
    values[first + rank] = in[first + rank] + round;
    tile.sync();
    out[first + rank] = values[first + 7 - rank];
    tile.sync();
  }
}
void tiles_of_lanes_right(const float* in, float* out) {
  tiles_of_lanes_kernel<<<1, 64>>>(in, out);
}

// ping_pong (in 64, out 64): two warps take turns at one buffer, by two named barriers.
__global__ void ping_pong_kernel(const float* in, float* out) {
  __shared__ float buffer[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (warp == 1) BAR_ARRIVE(1, 64);  // warp 0 begins
  for (int round = 0; round < 4; round++) {
    BAR_SYNC(1 + warp, 64);
    buffer[lane] = in[threadIdx.x] + round;
    __syncwarp();
    out[threadIdx.x] = buffer[31 - lane];
    if (warp == 0 || round < 3) BAR_ARRIVE(2 - warp, 64);
  }
}
void ping_pong_right(const float* in, float* out) { ping_pong_kernel<<<1, 64>>>(in, out); }

// tile_broadcast (in 32, out 32): lanes of a tile that read one place are ordered by their tile.
__global__ void tile_broadcast_kernel(const int* in, int* out) {
  __shared__ int values[4];
  const auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  const int which = threadIdx.x / 8;
  if (tile.thread_rank() == 0) values[which] = in[threadIdx.x];
  tile.sync();
  const int first = values[which];
  tile.sync();
  if (tile.thread_rank() == 7) values[which] = in[threadIdx.x];
  tile.sync();
  out[threadIdx.x] = 10 * first + values[which];
}
void tile_broadcast_right(const int* in, int* out) { tile_broadcast_kernel<<<1, 32>>>(in, out); }

// prefetched (in 1024, out 1024): the last copy is one too many; nobody waits for it, and the next
// block finds the memory free.
__global__ void prefetched_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tiles[2][128];
  const int t = 4 * threadIdx.x, first = blockIdx.x * 128;
  CP_ASYNC(&tiles[0][t], &in[first + t]);
  CP_ASYNC_COMMIT();
  CP_ASYNC(&tiles[1][t], &in[t]);
  CP_ASYNC_COMMIT();
  CP_ASYNC_WAIT(1);
  for (int i = 0; i < 4; i++) out[first + t + i] = 2 * tiles[0][t + i];
}
void prefetched_right(const float* in, float* out) { prefetched_kernel<<<8, 32>>>(in, out); }

// ---- Bytes.

// bytes (in 256, out 256): neighbours write the bytes of one word, in shared and global memory.
__global__ void bytes_kernel(const int* in, int* out) {
  __shared__ alignas(4) unsigned char values[1024];
  const int t = threadIdx.x;
  auto* out_bytes = reinterpret_cast<unsigned char*>(out);
  for (int i = t; i < 1024; i += 256) values[i] = static_cast<unsigned char>(in[i / 4] + i % 4);
  __syncthreads();
  for (int i = t; i < 1024; i += 256) out_bytes[i] = values[i ^ 3];
}
void bytes_right(const int* in, int* out) { bytes_kernel<<<1, 256>>>(in, out); }

// sizes (in 256, out 256): what float4 wrote is read as halves and words, and the other way round.
__global__ void sizes_kernel(const int* in, int* out) {
  __shared__ alignas(16) int words[256];
  auto* halves = reinterpret_cast<short*>(words);
  const int t = threadIdx.x;
  if (t < 64) reinterpret_cast<int4*>(words)[t] = reinterpret_cast<const int4*>(in)[t];
  __syncthreads();
  const short low = halves[2 * (255 - t)];
  __syncthreads();
  halves[2 * t] = low;
  __syncthreads();
  if (t < 64) reinterpret_cast<int4*>(out)[t] = reinterpret_cast<int4*>(words)[t];
}
void sizes_right(const int* in, int* out) { sizes_kernel<<<1, 256>>>(in, out); }

// ---- Blocks that meet in global memory.

// volatile_flag (in 32, out 65): fences around a volatile flag. out: the flag, values, sums.
__global__ void volatile_flag_kernel(const int* in, int* out) {
  volatile int* flag = out;
  const int t = threadIdx.x;
  if (blockIdx.x == 0) {
    out[1 + t] = in[t] + 1;
    __syncthreads();
    if (t == 0) {
      __threadfence();
      *flag = 1;
    }
  } else {
    if (t == 0) {
      while (*flag == 0) {
      }
      __threadfence();
    }
    __syncthreads();
    out[33 + t] = 2 * out[1 + 31 - t];
  }
}
void volatile_flag_right(const int* in, int* out) { volatile_flag_kernel<<<2, 32>>>(in, out); }

// block_tickets (in 256, out 10): all threads of a block write, one of them takes the ticket.
__global__ void block_tickets_kernel(const int* in, int* out) {
  __shared__ bool last;
  int *sums = out + 1, *tickets = out + 9, t = threadIdx.x;
  if (t % 16 == 0) {
    int sum = 0;
    for (int i = 0; i < 16; i++) sum += in[blockIdx.x * 32 + t + i];
    atomicAdd(&sums[blockIdx.x], sum);
  }
  __syncthreads();
  if (t == 0) {
    __threadfence();
    last = atomicAdd(tickets, 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (last && t < 8) atomicAdd(out, sums[t]);
}
void block_tickets_right(const int* in, int* out) { block_tickets_kernel<<<8, 32>>>(in, out); }

// look_back (in 256, out 273): each block adds what the block before it published. out: the sums
// so far, then a flag and a total for each block.
__global__ void look_back_kernel(const int* in, int* out) {
  __shared__ int before;
  int *flags = out + 256, *totals = out + 265, block = blockIdx.x, lane = threadIdx.x;
  int sum = in[block * 32 + lane];
  for (int n = 1; n < 32; n *= 2) {
    const int left = __shfl_up_sync(~0u, sum, n);
    if (lane >= n) sum += left;
  }
  if (lane == 31) {
    int ready = block == 0;
    while (!ready) LOAD_ACQUIRE(ready, &flags[block - 1]);
    before = block == 0 ? 0 : totals[block - 1];
    totals[block] = before + sum;
    STORE_RELEASE(&flags[block], 1);
  }
  __syncwarp();
  out[block * 32 + lane] = before + sum;
}
void look_back_right(const int* in, int* out) { look_back_kernel<<<8, 32>>>(in, out); }

// atomic_ref (in 32, out 32): a flag in shared memory, released by one warp, acquired by another.
__global__ void atomic_ref_kernel(const int* in, int* out) {
  __shared__ int values[32], flag;
  const int lane = threadIdx.x % 32;
  cuda::atomic_ref<int, cuda::thread_scope_block> ready(flag);
  if (threadIdx.x == 0) flag = 0;
  __syncthreads();
  if (threadIdx.x < 32) {
    values[lane] = 3 * in[lane];
    ready.fetch_add(1, cuda::memory_order_release);
  } else {
    while (ready.load(cuda::memory_order_acquire) < 32) {
    }
    out[lane] = values[31 - lane];
  }
}
void atomic_ref_right(const int* in, int* out) { atomic_ref_kernel<<<1, 64>>>(in, out); }

// ---- Clusters.

// cluster_sums (in 128, out 2): blocks add into each other's shared memory.
__global__ void __cluster_dims__(2, 1, 1) cluster_sums_kernel(const int* in, int* out) {
  __shared__ int sum;
  const auto cluster = cg::this_cluster();
  if (threadIdx.x == 0) sum = 0;
  cluster.sync();
  atomicAdd(cluster.map_shared_rank(&sum, threadIdx.x % 2), in[blockIdx.x * 64 + threadIdx.x]);
  cluster.sync();
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
void cluster_sums_right(const int* in, int* out) { cluster_sums_kernel<<<2, 64>>>(in, out); }

// ---- cp.async.

// stages (in 2048, out 256): three stages, two under way; one barrier a tile.
__global__ void stages_kernel(const float* in, float* out) {
  constexpr int STAGES = 3, TILES = 8;
  __shared__ alignas(16) float stages[STAGES][256];
  const int t = threadIdx.x;
  auto load = [&](int tile) {
    if (tile < TILES) CP_ASYNC(&stages[tile % STAGES][4 * t], &in[256 * tile + 4 * t]);
    CP_ASYNC_COMMIT();
  };
  for (int tile = 0; tile < STAGES - 1; tile++) load(tile);
  float sums[4] = {};
  for (int tile = 0; tile < TILES; tile++) {
    CP_ASYNC_WAIT(STAGES - 2);
    __syncthreads();  // the tile is there, and nobody reads the stage of the one before
    load(tile + STAGES - 1);
    for (int i = 0; i < 4; i++) sums[i] += stages[tile % STAGES][255 - 64 * i - t];
  }
  for (int i = 0; i < 4; i++) out[64 * i + t] = sums[i];
}
void stages_right(const float* in, float* out) { stages_kernel<<<1, 64>>>(in, out); }

// copies_arrive (in 512, out 128): the copies themselves arrive at an mbarrier.
__global__ void copies_arrive_kernel(const float* in, float* out) {
  __shared__ alignas(16) float tile[128];
  __shared__ uint64_t full, empty;
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    MBARRIER_INIT(&full, 32);
    MBARRIER_INIT(&empty, 1);
  }
  __syncthreads();
  float sums[4] = {};
  for (int use = 0; use < 4; use++) {
    if (threadIdx.x < 32) {
      if (use > 0) MBARRIER_WAIT(&empty, (use - 1) % 2);
      CP_ASYNC(&tile[4 * lane], &in[128 * use + 4 * lane]);
      CP_ASYNC_ARRIVE(&full);
    } else {
      MBARRIER_WAIT(&full, use % 2);
      for (int i = 0; i < 4; i++) sums[i] += tile[127 - 32 * i - lane];
      __syncwarp();
      if (lane == 0) MBARRIER_ARRIVE(&empty);
    }
  }
  if (threadIdx.x >= 32) {
    for (int i = 0; i < 4; i++) out[32 * i + lane] = sums[i];
  }
}
void copies_arrive_right(const float* in, float* out) { copies_arrive_kernel<<<1, 64>>>(in, out); }

// ---- The copy engine.

// elected_wait (in 1024, out 256): one lane of each warp waits for the copy, __syncwarp tells the
// others.
__global__ void elected_wait_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[256];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) {
    MBARRIER_INIT(&full, 1);
    FENCE_MBARRIER_INIT();
  }
  __syncthreads();
  float sum = 0;
  for (int use = 0; use < 4; use++) {
    if (t == 0) {
      MBARRIER_ARRIVE_EXPECT(&full, 1024);
      BULK_LOAD(tile, in + 256 * use, 1024, &full);
    }
    __syncwarp();
    if (t % 32 == 0) MBARRIER_WAIT(&full, use % 2);
    __syncwarp();
    sum += tile[255 - t];
    __syncthreads();  // the tile is read
  }
  out[t] = sum;
}
void elected_wait_right(const float* in, float* out) { elected_wait_kernel<<<1, 256>>>(in, out); }

// late_fence (in 256, out 256): the thread that stores makes the others' writes visible, too.
__global__ void late_fence_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[256];
  tile[threadIdx.x] = 2 * in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    FENCE_PROXY_ASYNC();
    BULK_STORE(out, tile, 1024);
    BULK_COMMIT();
    BULK_WAIT();
  }
}
void late_fence_right(const float* in, float* out) { late_fence_kernel<<<1, 256>>>(in, out); }

// store_ring (in 2048, out 2048): two buffers; one is read by the copy engine, one is written.
__global__ void store_ring_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tiles[2][256];
  const int t = threadIdx.x;
  for (int tile = 0; tile < 8; tile++) {
    if (t == 0) asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
    __syncthreads();  // the store before the last one has read its buffer
    tiles[tile % 2][t] = 3 * in[256 * tile + t];
    FENCE_PROXY_ASYNC();
    __syncthreads();
    if (t == 0) {
      BULK_STORE(out + 256 * tile, tiles[tile % 2], 1024);
      BULK_COMMIT();
    }
  }
  if (t == 0) BULK_WAIT();
}
void store_ring_right(const float* in, float* out) { store_ring_kernel<<<1, 256>>>(in, out); }

// bulk_sums (in 512, out 64): blocks add their tiles to the same output, which is atomic.
__global__ void bulk_sums_kernel(const float* in, float* out) {
  __shared__ alignas(128) float tile[64];
  tile[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
  FENCE_PROXY_ASYNC();
  __syncthreads();
  if (threadIdx.x == 0) {
    BULK_ADD(out, tile, 256);
    BULK_COMMIT();
    BULK_WAIT();
  }
}
void bulk_sums_right(const float* in, float* out) { bulk_sums_kernel<<<8, 64>>>(in, out); }

// multicast_ring (in 1024, out 128): each block of a cluster loads half of every tile for both. A
// stage is filled again when the consumers of both blocks have released it.
constexpr int RING = 2;
struct MulticastSmem {
  alignas(128) float stages[RING][128];
  uint64_t full[RING], empty[RING];
};
__global__ void __cluster_dims__(2, 1, 1) multicast_ring_kernel(const float* in, float* out) {
  __shared__ MulticastSmem smem;
  const auto cluster = cg::this_cluster();
  const int t = threadIdx.x, rank = cluster.block_rank();
  if (t == 0) {
    for (int s = 0; s < RING; s++) {
      MBARRIER_INIT(&smem.full[s], 1);
      MBARRIER_INIT(&smem.empty[s], 2 * 2);  // two warps of each block
    }
    FENCE_MBARRIER_INIT();
  }
  cluster.sync();
  if (t == 64) {
    for (int use = 0; use < 8; use++) {
      const int s = use % RING;
      if (use >= RING) MBARRIER_WAIT(&smem.empty[s], (use / RING - 1) % 2);
      MBARRIER_ARRIVE_EXPECT(&smem.full[s], 512);
      BULK_MULTICAST(&smem.stages[s][64 * rank], in + 128 * use + 64 * rank, 256, &smem.full[s], 3);
    }
  } else if (t < 64) {
    float sum = 0;
    for (int use = 0; use < 8; use++) {
      const int s = use % RING;
      MBARRIER_WAIT(&smem.full[s], use / RING % 2);
      sum += smem.stages[s][64 * rank + t] + smem.stages[s][127 - 64 * rank - t];
      __syncwarp();
      if (t % 32 < 2) MBARRIER_ARRIVE_AT(&smem.empty[s], t % 32);
    }
    out[64 * rank + t] = sum;
  }
  cluster.sync();  // no block leaves while the other one still writes to it
}
void multicast_ring_right(const float* in, float* out) {
  multicast_ring_kernel<<<2, 96>>>(in, out);
}

// ---- wgmma.

// wgmma_ring (in 4160, out 512): a producer warp and a warpgroup that keeps one multiplication
// under way: it releases a stage when the next one is started. in: eight A [64, 8], then B [8, 8].
constexpr int STAGES = 4;
struct RingSmem {
  alignas(128) float A[STAGES][512];
  alignas(128) float B[64];
  uint64_t full[STAGES], empty[STAGES];
};
__global__ void wgmma_ring_kernel(const float* in, float* out) {
  constexpr int TILES = 8;
  __shared__ RingSmem smem;
  const int t = threadIdx.x;
  if (t < 64) smem.B[t] = in[TILES * 512 + t];
  if (t == 0) {
    for (int s = 0; s < STAGES; s++) {
      MBARRIER_INIT(&smem.full[s], 1);
      MBARRIER_INIT(&smem.empty[s], 128);
    }
    FENCE_MBARRIER_INIT();
  }
  FENCE_PROXY_ASYNC();
  __syncthreads();
  if (t >= 128) {
    if (t > 128) return;
    for (int tile = 0; tile < TILES; tile++) {
      const int s = tile % STAGES;
      if (tile >= STAGES) MBARRIER_WAIT(&smem.empty[s], (tile / STAGES - 1) % 2);
      MBARRIER_ARRIVE_EXPECT(&smem.full[s], 2048);
      BULK_LOAD(smem.A[s], in + 512 * tile, 2048, &smem.full[s]);
    }
    return;
  }
  float d[4] = {};
  for (int tile = 0; tile < TILES; tile++) {
    const int s = tile % STAGES;
    MBARRIER_WAIT(&smem.full[s], tile / STAGES % 2);
    WGMMA_FENCE();
    WGMMA(d, descriptor(smem.A[s], 64), descriptor(smem.B, 8));
    WGMMA_COMMIT();
    WGMMA_WAIT(1);
    if (tile > 0) MBARRIER_ARRIVE(&smem.empty[(tile - 1) % STAGES]);
  }
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void wgmma_ring_right(const float* in, float* out) { wgmma_ring_kernel<<<1, 160>>>(in, out); }

// fence_then_barrier (in 256, out 257): each thread makes its write visible, the barrier tells the
// thread that announces them all; a narrower fence takes nothing back.
__global__ void fence_then_barrier_kernel(const int* in, int* out) {
  int *values = out + 1, *tickets = out;
  const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
  __shared__ bool last;
  values[i] = 2 * in[i];
  __threadfence();
  __syncthreads();
  if (t == 0) {
    __threadfence_block();
    last = atomicAdd(tickets, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  int sum = 0;
  for (int j = 0; j < 256; j++) sum += values[j];
  __syncthreads();
  if (t == 0) out[0] = sum;
}
void fence_then_barrier_right(const int* in, int* out) {
  fence_then_barrier_kernel<<<4, 64>>>(in, out);
}
