// cluster.cu: blocks of a cluster share a TMA load, and add up their results in each other's shared
// memory.
//
// out = scale * (A * x) for A [M, K] of floats. A cluster of four blocks owns BM rows; each block
// takes a quarter of their columns. All four need the scales of these rows: one TMA load brings
// them to every block (multicast).
// slow to compile
#include <cooperative_groups.h>

#include <vector>

#include "hopper.h"

namespace cg = cooperative_groups;

constexpr int CLUSTER = 4, BM = 32, K = 256, BK = K / CLUSTER, NUM_THREADS = 128;

// out [M] = scale [M] * (A [M, K] * x [K])
__device__ void scaled_product(const float* A, const float* x, const CUtensorMap* scale,
                               float* out) {
  __shared__ alignas(128) float scale_smem[BM];
  __shared__ float partial[BM];
  __shared__ uint64_t arrived;
  auto cluster = cg::this_cluster();
  int rank = cluster.block_rank(), m0 = blockIdx.x / CLUSTER * BM;
  if (threadIdx.x == 0) {
    mbarrier_init(&arrived, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(&arrived, sizeof scale_smem);  // from any block
  }
  cluster.sync();  // every block's barrier expects its bytes
  if (rank == 0 && threadIdx.x == 0) {
    tma_load_multicast(scale_smem, scale, m0, 0, &arrived, (1 << CLUSTER) - 1);
  }

  // One warp per row, in turn: a quarter of the row's products.
  for (int row = threadIdx.x / 32; row < BM; row += NUM_THREADS / 32) {
    float sum = 0;
    for (int k = rank * BK + threadIdx.x % 32; k < (rank + 1) * BK; k += 32) {
      sum += A[(m0 + row) * K + k] * x[k];
    }
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (threadIdx.x % 32 == 0) partial[row] = sum;
  }
  mbarrier_wait(&arrived, 0);  // the scales have arrived
  cluster.sync();              // every block's partial sums are written

  // Block r finishes every fourth row. It reads the others' sums through generic addresses, ...
  int row = threadIdx.x * CLUSTER + rank;
  if (row < BM) {
    float sum = 0;
    for (int other = 0; other < CLUSTER - 1; other++)
      sum += cluster.map_shared_rank(partial, other)[row];
    // ... and the last block's by its address in the cluster's shared memory.
    unsigned address;
    float last;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(address)
        : "r"(shared_address(&partial[row])), "r"(CLUSTER - 1));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(last) : "r"(address));
    out[m0 + row] = scale_smem[row] * (sum + last);
  }
  cluster.sync();  // no block exits while others read its sums
}

__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(NUM_THREADS)
    fixed_kernel(const float* A, const float* x, const __grid_constant__ CUtensorMap scale,
                 float* out) {
  scaled_product(A, x, &scale, out);
}
// Its cluster comes with the launch.
__global__ void __launch_bounds__(NUM_THREADS)
    flexible_kernel(const float* A, const float* x, const __grid_constant__ CUtensorMap scale,
                    float* out) {
  scaled_product(A, x, &scale, out);
}

int main() {
  constexpr int M = 96, BLOCKS = M / BM * CLUSTER;
  float *A = zeros<float>(M * K), *x = zeros<float>(K), *scale = zeros<float>(M);
  Random random;
  for (int i = 0; i < M * K; i++) A[i] = random.uniform();
  for (int i = 0; i < K; i++) x[i] = random.uniform();
  for (int i = 0; i < M; i++) scale[i] = random.uniform();
  std::vector<double> want(M);
  for (int m = 0; m < M; m++) {
    for (int k = 0; k < K; k++) want[m] += double(A[m * K + k]) * x[k];
    want[m] *= scale[m];
  }
  CUtensorMap map = tensor_map(scale, 1, M, 1, BM);

  float* out = zeros<float>(M);
  fixed_kernel<<<BLOCKS, NUM_THREADS>>>(A, x, map, out);
  finish();
  expect_close("fixed cluster", out, want.data(), M, 1e-5);

  out = zeros<float>(M);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = CLUSTER;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = BLOCKS;
  config.blockDim = NUM_THREADS;
  config.attrs = &attribute;
  config.numAttrs = 1;
  OK(cudaLaunchKernelEx(&config, flexible_kernel, static_cast<const float*>(A),
                        static_cast<const float*>(x), map, out));
  finish();
  expect_close("cluster of the launch", out, want.data(), M, 1e-5);
  std::printf("ok: clusters of %d: multicast, distributed shared memory, barriers\n", CLUSTER);
}
