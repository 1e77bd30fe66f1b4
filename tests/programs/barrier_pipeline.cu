// barrier_pipeline.cu: cuda::barrier and cuda::pipeline: asynchronous copies and waiting for them.
// slow to compile
#include <cooperative_groups.h>
#include <cuda/barrier>
#include <cuda/pipeline>
#include <cuda/ptx>

#include <utility>
#include <vector>

#include "common.h"

namespace cg = cooperative_groups;
namespace ptx = cuda::ptx;
using Barrier = cuda::barrier<cuda::thread_scope_block>;

// Barriers are constructed by init(), not where they are declared.
#pragma nv_diag_suppress static_var_with_dynamic_init

constexpr int NUM_THREADS = 128;

// Arrive early, wait late: in between, a thread does independent work.
__global__ void split_kernel(const int* in, int* out) {
  __shared__ Barrier barrier;
  __shared__ int values[NUM_THREADS];
  if (threadIdx.x == 0) init(&barrier, NUM_THREADS);
  __syncthreads();  // the barrier is initialised
  int i = threadIdx.x;
  for (int round = 0; round < 5; round++) {
    values[i] = in[i] + round;
    auto token = barrier.arrive();
    int own = in[i] * round;
    barrier.wait(std::move(token));  // all values of this round are written
    out[round * NUM_THREADS + i] = own + values[NUM_THREADS - 1 - i];
    barrier.arrive_and_wait();  // all values of this round are read
  }
}

// Every thread copies its part; the barrier's phase completes when all copies have.
__global__ void memcpy_kernel(const int* in, int* out, int n) {
  __shared__ alignas(16) int tile[4 * NUM_THREADS];
  __shared__ Barrier barrier;
  auto block = cg::this_thread_block();
  if (block.thread_rank() == 0) init(&barrier, NUM_THREADS);
  block.sync();  // the barrier is initialised
  for (int first = 0; first < n; first += 4 * NUM_THREADS) {
    cuda::memcpy_async(block, tile, in + first, cuda::aligned_size_t<16>(sizeof tile), barrier);
    barrier.arrive_and_wait();  // the tile has arrived
    for (int i = threadIdx.x; i < 4 * NUM_THREADS; i += NUM_THREADS) {
      out[first + i] = tile[4 * NUM_THREADS - 1 - i];
    }
    block.sync();  // the tile is read
  }
}

// One thread copies for all: the barrier counts bytes as well as arrivals.
__global__ void bulk_kernel(const int* in, int* out, int n) {
  __shared__ alignas(16) int tile[4 * NUM_THREADS];
  __shared__ Barrier barrier;
  if (threadIdx.x == 0) {
    init(&barrier, NUM_THREADS);
    ptx::fence_proxy_async(ptx::space_shared);  // the copy engine sees the barrier
  }
  __syncthreads();  // the barrier is initialised
  for (int first = 0; first < n; first += 4 * NUM_THREADS) {
    Barrier::arrival_token token;
    if (threadIdx.x == 0) {
      cuda::device::memcpy_async_tx(tile, in + first, cuda::aligned_size_t<16>(sizeof tile),
                                    barrier);
      token = cuda::device::barrier_arrive_tx(barrier, 1, sizeof tile);
    } else {
      token = barrier.arrive();
    }
    barrier.wait(std::move(token));  // the tile has arrived
    for (int i = threadIdx.x; i < 4 * NUM_THREADS; i += NUM_THREADS) {
      tile[i] = 3 * tile[i] + 1;
    }
    ptx::fence_proxy_async(ptx::space_shared);  // the copy engine sees what this thread wrote
    __syncthreads();
    if (threadIdx.x == 0) {
      ptx::cp_async_bulk(ptx::space_global, ptx::space_shared, out + first, tile, sizeof tile);
      ptx::cp_async_bulk_commit_group();
      ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>());
    }
    __syncthreads();  // the tile may be refilled
  }
}

// A pipeline of the block: STAGES - 1 tiles are in flight while one is used.
template <int STAGES>
__global__ void pipeline_kernel(const int* in, int* out, int n) {
  __shared__ alignas(16) int tiles[STAGES][NUM_THREADS];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, STAGES> state;
  auto block = cg::this_thread_block();
  auto pipeline = cuda::make_pipeline(block, &state);
  int num_tiles = n / NUM_THREADS, fetched = 0;
  for (int tile = 0; tile < num_tiles; tile++) {
    for (; fetched < num_tiles && fetched < tile + STAGES; fetched++) {
      pipeline.producer_acquire();  // the stage is no longer in use
      cuda::memcpy_async(block, tiles[fetched % STAGES], in + fetched * NUM_THREADS,
                         cuda::aligned_size_t<16>(sizeof tiles[0]), pipeline);
      pipeline.producer_commit();
    }
    pipeline.consumer_wait();  // the oldest tile has arrived
    out[tile * NUM_THREADS + threadIdx.x] = tiles[tile % STAGES][NUM_THREADS - 1 - threadIdx.x];
    pipeline.consumer_release();
  }
}

// One half of the block fetches, the other computes.
__global__ void roles_kernel(const int* in, int* out, int n) {
  constexpr int STAGES = 2, HALF = NUM_THREADS / 2;
  __shared__ int tiles[STAGES][HALF];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, STAGES> state;
  auto block = cg::this_thread_block();
  bool producer = threadIdx.x < HALF;
  auto role = producer ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer;
  auto pipeline = cuda::make_pipeline(block, &state, role);
  int lane = threadIdx.x % HALF;
  for (int tile = 0; tile < n / HALF; tile++) {
    if (producer) {
      pipeline.producer_acquire();
      cuda::memcpy_async(&tiles[tile % STAGES][lane], &in[tile * HALF + lane],
                         cuda::aligned_size_t<4>(4), pipeline);
      pipeline.producer_commit();
    } else {
      pipeline.consumer_wait();
      out[tile * HALF + lane] = tiles[tile % STAGES][HALF - 1 - lane];
      pipeline.consumer_release();
    }
  }
}

int main() {
  constexpr int n = 12 * NUM_THREADS;
  int *in = zeros<int>(n), *out = zeros<int>(n);
  Random random;
  for (int i = 0; i < n; i++) in[i] = random.next() % 1000000;
  std::vector<int> want(n);
  auto reversed_by = [&](int tile) {
    for (int i = 0; i < n; i++) want[i] = in[i / tile * tile + tile - 1 - i % tile];
  };

  split_kernel<<<1, NUM_THREADS>>>(in, out);
  finish();
  for (int i = 0; i < 5 * NUM_THREADS; i++) {
    int round = i / NUM_THREADS, t = i % NUM_THREADS;
    CHECK(out[i] == in[t] * round + in[NUM_THREADS - 1 - t] + round);
  }

  memcpy_kernel<<<1, NUM_THREADS>>>(in, out, n);
  finish();
  reversed_by(4 * NUM_THREADS);
  expect_equal("memcpy_async", out, want.data(), n);

  pipeline_kernel<1><<<1, NUM_THREADS>>>(in, out, n);
  finish();
  reversed_by(NUM_THREADS);
  expect_equal("pipeline of 1", out, want.data(), n);
  std::memset(out, 0, n * sizeof(int));
  pipeline_kernel<4><<<1, NUM_THREADS>>>(in, out, n);
  finish();
  expect_equal("pipeline of 4", out, want.data(), n);

  roles_kernel<<<1, NUM_THREADS>>>(in, out, n);
  finish();
  reversed_by(NUM_THREADS / 2);
  expect_equal("pipeline with roles", out, want.data(), n);

  bulk_kernel<<<1, NUM_THREADS>>>(in, out, n);
  finish();
  for (int i = 0; i < n; i++) want[i] = 3 * in[i] + 1;
  expect_equal("bulk copy", out, want.data(), n);
  std::printf("ok: barriers with copies and byte counts, pipelines of 1, 2 and 4 stages\n");
}
