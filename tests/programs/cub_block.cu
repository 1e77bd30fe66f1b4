// slow to compile
// cub_block.cu: CUB's block algorithms: reduce, scan, sort, and exchange between layouts.
#include <cub/block/block_load.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_store.cuh>

#include <algorithm>
#include <numeric>

#include "common.h"

constexpr int NUM_THREADS = 128, ITEMS = 5, TILE = NUM_THREADS * ITEMS;

__global__ void block_kernel(const int* in, int* sums, int* largest, int* scanned, int* sorted) {
  using Load = cub::BlockLoad<int, NUM_THREADS, ITEMS, cub::BLOCK_LOAD_WARP_TRANSPOSE>;
  using Store = cub::BlockStore<int, NUM_THREADS, ITEMS, cub::BLOCK_STORE_TRANSPOSE>;
  using Reduce = cub::BlockReduce<int, NUM_THREADS, cub::BLOCK_REDUCE_WARP_REDUCTIONS>;
  using Ranking = cub::BlockReduce<int, NUM_THREADS, cub::BLOCK_REDUCE_RAKING>;
  using Scan = cub::BlockScan<int, NUM_THREADS>;
  using Sort = cub::BlockRadixSort<int, NUM_THREADS, ITEMS>;
  __shared__ union {
    Load::TempStorage load;
    Store::TempStorage store;
    Reduce::TempStorage reduce;
    Ranking::TempStorage ranking;
    Scan::TempStorage scan;
    Sort::TempStorage sort;
  } smem;
  int tile = blockIdx.x * TILE, items[ITEMS], sums_before[ITEMS];

  // Every barrier below: the next algorithm reuses the shared memory of the last.
  Load(smem.load).Load(in + tile, items);
  __syncthreads();
  int sum = Reduce(smem.reduce).Sum(items);
  __syncthreads();
  int top = Ranking(smem.ranking).Reduce(items, cuda::maximum<int>());
  __syncthreads();
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
    largest[blockIdx.x] = top;
  }
  Scan(smem.scan).ExclusiveSum(items, sums_before);
  __syncthreads();
  Store(smem.store).Store(scanned + tile, sums_before);
  __syncthreads();
  Sort(smem.sort).Sort(items);
  __syncthreads();
  Store(smem.store).Store(sorted + tile, items);
}

int main() {
  constexpr int BLOCKS = 3, n = BLOCKS * TILE;
  int *in = zeros<int>(n), *sums = zeros<int>(BLOCKS), *largest = zeros<int>(BLOCKS);
  int *scanned = zeros<int>(n), *sorted = zeros<int>(n);
  Random random;
  for (int i = 0; i < n; i++) {
    in[i] = int(random.next() % 20001) - 10000;
  }
  block_kernel<<<BLOCKS, NUM_THREADS>>>(in, sums, largest, scanned, sorted);
  finish();
  for (int b = 0; b < BLOCKS; b++) {
    int *first = in + b * TILE, *last = first + TILE, want[TILE];
    CHECK(sums[b] == std::accumulate(first, last, 0));
    CHECK(largest[b] == *std::max_element(first, last));
    std::exclusive_scan(first, last, want, 0);
    expect_equal("scan", scanned + b * TILE, want, TILE);
    std::sort(first, last);
    expect_equal("sort", sorted + b * TILE, first, TILE);
  }
  std::printf("ok: block-wide load, reduce, scan, radix sort and store of CUB\n");
}
