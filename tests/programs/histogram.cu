// histogram.cu: 256 bins by atomics, in global memory and with a copy in shared memory per block.
#include "common.h"

constexpr int BINS = 256;

__global__ void histogram_global(const uint8_t* data, int n, unsigned* bins) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    atomicAdd(&bins[data[i]], 1u);
  }
}

// Contention stays inside a block; each block adds its 256 counts to the result once.
__global__ void histogram_shared(const uint8_t* data, int n, unsigned* bins) {
  __shared__ unsigned mine[BINS];
  for (int b = threadIdx.x; b < BINS; b += blockDim.x) {
    mine[b] = 0;
  }
  __syncthreads();  // all bins are zero before any thread counts
  // Four bytes at a time; neighbouring threads read neighbouring words.
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n / 4; i += gridDim.x * blockDim.x) {
    uchar4 four = reinterpret_cast<const uchar4*>(data)[i];
    atomicAdd(&mine[four.x], 1u);
    atomicAdd(&mine[four.y], 1u);
    atomicAdd(&mine[four.z], 1u);
    atomicAdd(&mine[four.w], 1u);
  }
  if (blockIdx.x == 0 && threadIdx.x < n % 4) {
    atomicAdd(&mine[data[n - 1 - threadIdx.x]], 1u);
  }
  __syncthreads();  // all of the block's counts are in
  for (int b = threadIdx.x; b < BINS; b += blockDim.x) {
    atomicAdd(&bins[b], mine[b]);
  }
}

int main() {
  constexpr int n = 20003;
  uint8_t* data = zeros<uint8_t>(n);
  unsigned want[BINS] = {};
  Random random;
  for (int i = 0; i < n; i++) {
    data[i] = random.next() % 256 & random.next() % 256;  // far from uniform
    want[data[i]]++;
  }
  for (auto kernel : {histogram_global, histogram_shared}) {
    unsigned* bins = zeros<unsigned>(BINS);
    kernel<<<6, 256>>>(data, n, bins);
    finish();
    expect_equal("bin", bins, want, BINS);
  }
  std::printf("ok: histograms of %d bytes by global and by shared atomics\n", n);
}
