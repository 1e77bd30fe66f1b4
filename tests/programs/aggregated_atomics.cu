// aggregated_atomics.cu: one atomic per warp instead of one per thread.
//
// A filter appends its survivors to a list. The threads of a warp that append at the same time
// elect a leader, which reserves room for all of them: see "CUDA Pro Tip: Optimized Filtering with
// Warp-Aggregated Atomics". With several lists, threads of the same list find each other first.
// slow to compile
#include <cooperative_groups.h>

#include <algorithm>
#include <vector>

#include "common.h"

namespace cg = cooperative_groups;

constexpr int LISTS = 5;

__device__ int reserve_one(int* count) {
  auto active = cg::coalesced_threads();
  int first;
  if (active.thread_rank() == 0) {
    first = atomicAdd(count, active.num_threads());
  }
  return active.shfl(first, 0) + active.thread_rank();
}

__device__ int reserve_one_of_many(int* counts, int list) {
  unsigned peers = __match_any_sync(__activemask(), list);
  int leader = __ffs(peers) - 1;
  unsigned lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  int first;
  if (lane == leader) {
    first = atomicAdd(&counts[list], __popc(peers));
  }
  return __shfl_sync(peers, first, leader) + __popc(peers & ((1u << lane) - 1));
}

__global__ void filter_kernel(const int* in, int n, int* out, int* count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n && in[i] % 3 == 0) {
    out[reserve_one(count)] = in[i];
  }
}

__global__ void distribute_kernel(const int* in, int n, int* out, int* counts) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    int list = in[i] % LISTS;
    out[list * n + reserve_one_of_many(counts, list)] = in[i];
  }
}

// The order within a list is arbitrary, its content is not.
void expect_same_set(const char* what, int* got, int count, std::vector<int> want) {
  CHECK(count == int(want.size()));
  std::sort(got, got + count);
  std::sort(want.begin(), want.end());
  expect_equal(what, got, want.data(), count);
}

int main() {
  constexpr int n = 5000;
  int* in = zeros<int>(n);
  std::vector<int> survivors, lists[LISTS];
  Random random;
  for (int i = 0; i < n; i++) {
    in[i] = random.next() % 10000;
    if (in[i] % 3 == 0) survivors.push_back(in[i]);
    lists[in[i] % LISTS].push_back(in[i]);
  }
  int *out = zeros<int>(LISTS * n), *counts = zeros<int>(LISTS);
  filter_kernel<<<(n + 255) / 256, 256>>>(in, n, out, counts);
  finish();
  expect_same_set("survivor", out, counts[0], survivors);

  counts[0] = 0;
  distribute_kernel<<<(n + 255) / 256, 256>>>(in, n, out, counts);
  finish();
  for (int list = 0; list < LISTS; list++) {
    expect_same_set("list", out + list * n, counts[list], lists[list]);
  }
  std::printf("ok: %zu of %d kept, then %d lists, one atomic per warp and list\n", survivors.size(),
              n, LISTS);
}
