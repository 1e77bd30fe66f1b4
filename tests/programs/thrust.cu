// slow to compile
// thrust.cu: vectors and algorithms of Thrust.
#include <thrust/copy.h>
#include <thrust/device_vector.h>
#include <thrust/functional.h>
#include <thrust/host_vector.h>
#include <thrust/reduce.h>
#include <thrust/scan.h>
#include <thrust/sequence.h>
#include <thrust/sort.h>
#include <thrust/transform.h>

#include <algorithm>
#include <numeric>

#include "common.h"

struct Scaled {
  int factor;
  __host__ __device__ int operator()(int x, int y) const { return factor * x + y; }
};
struct IsMultipleOfFive {
  __host__ __device__ bool operator()(int x) const { return x % 5 == 0; }
};

int main() {
  constexpr int n = 10007;
  thrust::host_vector<int> h(n);
  Random random;
  for (int& x : h) {
    x = random.next() % 1000;
  }
  thrust::device_vector<int> x = h, index(n), y(n);
  thrust::sequence(index.begin(), index.end());
  thrust::transform(x.begin(), x.end(), index.begin(), y.begin(), Scaled{3});
  for (int i = 0; i < n; i++) {
    h[i] = 3 * h[i] + i;
  }
  CHECK(y == h);
  CHECK(thrust::reduce(y.begin(), y.end()) == std::accumulate(h.begin(), h.end(), 0));

  thrust::sort(y.begin(), y.end());
  std::sort(h.begin(), h.end());
  CHECK(y == h);

  thrust::inclusive_scan(y.begin(), y.end(), x.begin());
  thrust::host_vector<int> sums(n);
  std::partial_sum(h.begin(), h.end(), sums.begin());
  CHECK(x == sums);

  auto end = thrust::copy_if(y.begin(), y.end(), x.begin(), IsMultipleOfFive{});
  sums.erase(std::copy_if(h.begin(), h.end(), sums.begin(), IsMultipleOfFive{}), sums.end());
  x.erase(end, x.end());
  CHECK(x == sums);
  std::printf("ok: transform, reduce, sort, inclusive_scan and copy_if of %d numbers\n", n);
}
