// slow to compile
// cub_sort.cu: CUB's device-wide radix sort, keys with their values.
#include <cub/device/device_radix_sort.cuh>

#include <algorithm>
#include <numeric>
#include <vector>

#include "common.h"

int main() {
  constexpr int n = 30000;
  float *keys = zeros<float>(n), *sorted_keys = zeros<float>(n);
  int *values = zeros<int>(n), *sorted_values = zeros<int>(n);
  Random random;
  for (int i = 0; i < n; i++) {
    keys[i] = random.uniform();  // 2048 distinct ones: the sort must be stable
    values[i] = i;
  }
  size_t bytes = 0;
  void* storage;
  OK(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, sorted_keys, values, sorted_values, n));
  OK(cudaMalloc(&storage, bytes));
  OK(cub::DeviceRadixSort::SortPairs(storage, bytes, keys, sorted_keys, values, sorted_values, n));
  finish();
  std::vector<int> want(n);
  std::iota(want.begin(), want.end(), 0);
  std::stable_sort(want.begin(), want.end(), [&](int a, int b) { return keys[a] < keys[b]; });
  expect_equal("value", sorted_values, want.data(), n);
  for (int i = 0; i < n; i++) {
    CHECK(sorted_keys[i] == keys[want[i]]);
  }
  std::printf("ok: radix sort of %d pairs by float keys\n", n);
}
