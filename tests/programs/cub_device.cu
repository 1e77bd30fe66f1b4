// slow to compile
// cub_device.cu: CUB over the whole device: reduce, scan with decoupled look-back, select.
#include <cub/device/device_reduce.cuh>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_select.cuh>

#include <algorithm>
#include <numeric>
#include <vector>

#include "common.h"

// Every algorithm of CUB is called twice: first for the bytes it needs, then to run.
template <class Algorithm>
void with_temporary_storage(Algorithm algorithm) {
  size_t bytes = 0;
  OK(algorithm(nullptr, bytes));
  void* storage;
  OK(cudaMalloc(&storage, bytes));
  OK(algorithm(storage, bytes));
  finish();
  OK(cudaFree(storage));
}

struct IsOdd {
  __device__ bool operator()(int x) const { return x & 1; }
};

int main() {
  constexpr int n = 50001;  // several tiles: blocks look back at the sums of their predecessors
  int *in = zeros<int>(n), *out = zeros<int>(n), *count = zeros<int>(1);
  Random random;
  for (int i = 0; i < n; i++) {
    in[i] = random.next() % 1000;
  }
  with_temporary_storage([&](void* storage, size_t& bytes) {
    return cub::DeviceReduce::Sum(storage, bytes, in, out, n);
  });
  CHECK(out[0] == std::accumulate(in, in + n, 0));

  with_temporary_storage([&](void* storage, size_t& bytes) {
    return cub::DeviceScan::InclusiveSum(storage, bytes, in, out, n);
  });
  std::vector<int> want(n);
  std::partial_sum(in, in + n, want.begin());
  expect_equal("scan", out, want.data(), n);

  with_temporary_storage([&](void* storage, size_t& bytes) {
    return cub::DeviceSelect::If(storage, bytes, in, out, count, n, IsOdd{});
  });
  want.erase(std::copy_if(in, in + n, want.begin(), [](int x) { return x & 1; }), want.end());
  CHECK(*count == int(want.size()));
  expect_equal("select", out, want.data(), want.size());
  std::printf("ok: device-wide sum, inclusive scan and selection of %d numbers\n", n);
}
