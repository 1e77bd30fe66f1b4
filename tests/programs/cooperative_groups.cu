// cooperative_groups.cu: tiles of a warp, coalesced threads, the grid, a cluster.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

#include <vector>

#include "common.h"

namespace cg = cooperative_groups;

// Row sums and prefix sums of rows of WIDTH numbers, one tile per row.
template <int WIDTH>
__global__ void tile_kernel(const float* in, int rows, float* sums, float* by_hand, int* scans) {
  auto tile = cg::tiled_partition<WIDTH>(cg::this_thread_block());
  int row = blockIdx.x * tile.meta_group_size() + tile.meta_group_rank();
  if (row >= rows) return;  // whole tiles exit
  float value = in[row * WIDTH + tile.thread_rank()];
  float sum = cg::reduce(tile, value, cg::plus<float>());
  int scan = cg::inclusive_scan(tile, int(value * 1024));
  for (int offset = WIDTH / 2; offset > 0; offset /= 2) {
    value += tile.shfl_down(value, offset);
  }
  if (tile.thread_rank() == 0) {
    sums[row] = sum;
    by_hand[row] = value;
  }
  scans[row * WIDTH + tile.thread_rank()] = scan;
}

template <int WIDTH>
void tiles(const float* in, int n) {
  int rows = n / WIDTH;
  float *sums = zeros<float>(rows), *by_hand = zeros<float>(rows);
  int* scans = zeros<int>(n);
  tile_kernel<WIDTH>
      <<<(rows + 128 / WIDTH - 1) / (128 / WIDTH), 128>>>(in, rows, sums, by_hand, scans);
  finish();
  for (int row = 0; row < rows; row++) {
    float want = 0;  // exact: every number is a multiple of 2^-10
    for (int i = row * WIDTH; i < (row + 1) * WIDTH; i++) {
      want += in[i];
      CHECK(scans[i] == int(want * 1024));
    }
    CHECK(sums[row] == want && by_hand[row] == want);
  }
}

// Each branch counts the threads that took it, and each thread knows its rank among them.
__global__ void coalesced_kernel(const int* kind, int* sizes, int* ranks, int* largest) {
  int i = threadIdx.x;
  if (kind[i] % 2) {
    auto odd = cg::coalesced_threads();
    sizes[i] = odd.num_threads();
    ranks[i] = odd.thread_rank();
    largest[i] = cg::reduce(odd, kind[i], cg::greater<int>());
  } else {
    auto even = cg::coalesced_threads();
    auto peers = cg::labeled_partition(even, kind[i]);  // even threads of the same kind
    sizes[i] = peers.num_threads();
    ranks[i] = peers.thread_rank();
    largest[i] = peers.shfl(kind[i], 0);
  }
}

void coalesced() {
  constexpr int n = 32;
  int *kind = zeros<int>(n), *sizes = zeros<int>(n), *ranks = zeros<int>(n), *top = zeros<int>(n);
  Random random;
  for (int i = 0; i < n; i++) {
    kind[i] = random.next() % 8;
  }
  coalesced_kernel<<<1, n>>>(kind, sizes, ranks, top);
  finish();
  for (int i = 0; i < n; i++) {
    int size = 0, rank = 0, largest = 0;
    for (int j = 0; j < n; j++) {
      bool together = kind[i] % 2 ? kind[j] % 2 : kind[j] == kind[i];
      size += together;
      rank += together && j < i;
      largest = together && kind[j] > largest ? kind[j] : largest;
    }
    CHECK(sizes[i] == size && ranks[i] == rank && top[i] == largest);
  }
}

// A sum over the whole grid in one launch: nobody reads `partial` before every block wrote its own.
__global__ void grid_kernel(const float* in, int n, float* partial, float* out) {
  auto grid = cg::this_grid();
  auto block = cg::this_thread_block();
  __shared__ float sum;
  if (block.thread_rank() == 0) sum = 0;
  block.sync();  // sum is zero
  float mine = 0;
  for (int i = grid.thread_rank(); i < n; i += grid.num_threads()) {
    mine += in[i];
  }
  atomicAdd(&sum, mine);
  block.sync();  // sum is complete
  if (block.thread_rank() == 0) partial[grid.block_rank()] = sum;
  grid.sync();  // every block's partial sum is written
  float total = 0;
  for (unsigned b = 0; b < grid.num_blocks(); b++) {
    total += partial[b];
  }
  for (int i = grid.thread_rank(); i < n; i += grid.num_threads()) {
    out[i] = in[i] - total / n;  // every block uses the total
  }
}

void whole_grid(float* in, int n) {
  constexpr int BLOCKS = 12;
  float *partial = zeros<float>(BLOCKS), *out = zeros<float>(n);
  void* arguments[] = {&in, &n, &partial, &out};
  OK(cudaLaunchCooperativeKernel(grid_kernel, dim3(BLOCKS), dim3(64), arguments, 0, nullptr));
  finish();
  double mean = 0;
  for (int i = 0; i < n; i++) {
    mean += in[i] / n;
  }
  std::vector<double> want(in, in + n);
  for (double& w : want) {
    w -= mean;
  }
  expect_close("grid", out, want.data(), n, 1e-5);
}

// Each block of a cluster of four reads its neighbour's shared memory.
__global__ void __cluster_dims__(4, 1, 1) cluster_kernel(int* out) {
  auto cluster = cg::this_cluster();
  __shared__ int mine;
  if (threadIdx.x == 0) mine = 100 + blockIdx.x;
  cluster.sync();  // every block's value is written
  unsigned next = (cluster.block_rank() + 1) % cluster.num_blocks();
  int value = *cluster.map_shared_rank(&mine, next);
  if (threadIdx.x == 0) out[blockIdx.x] = value;
  cluster.sync();  // no block exits while its shared memory is being read
}

int main() {
  constexpr int n = 3000;
  float* in = zeros<float>(n);
  Random random;
  for (int i = 0; i < n; i++) {
    in[i] = random.uniform();
  }
  tiles<4>(in, n);
  tiles<8>(in, n);
  tiles<32>(in, n);
  coalesced();
  whole_grid(in, n);

  int* out = zeros<int>(8);
  cluster_kernel<<<8, 32>>>(out);
  finish();
  const int want[] = {101, 102, 103, 100, 105, 106, 107, 104};
  expect_equal("cluster", out, want, 8);
  std::printf("ok: tiles of 4, 8 and 32, coalesced threads, a grid barrier, clusters of 4\n");
}
