// tma_ring.cu: a producer warp and consumer warps around a ring of shared-memory stages.
//
// C [M, N] = A [M, K] * B [K, N] in float, on CUDA cores: what matters here is how tiles come and
// go. full[s]: stage s holds its tiles. empty[s]: stage s is no longer read. The k-th use of a
// stage is phase k of its barriers; a wait names the parity of a phase. No dimension has
// to be a multiple of a tile: TMA fills with zeros, and does not write outside C.
#include <vector>

#include "hopper.h"

constexpr int BM = 32, BN = 64, BK = 16, STAGES = 3;
constexpr int CONSUMERS = 128, NUM_THREADS = CONSUMERS + 32;
constexpr int TM = 4, TN = BM * BN / CONSUMERS / TM;  // of a thread

struct Smem {
  alignas(128) float A[STAGES][BM][BK];
  alignas(128) float B[STAGES][BK][BN];
  alignas(128) float C[BM][BN];
  uint64_t full[STAGES], empty[STAGES];
};

__device__ void produce(Smem& smem, const CUtensorMap* A, const CUtensorMap* B, int m0, int n0,
                        int tiles) {
  for (int tile = 0; tile < tiles; tile++) {
    int stage = tile % STAGES, use = tile / STAGES;
    if (use > 0) mbarrier_wait(&smem.empty[stage], (use - 1) % 2);
    mbarrier_arrive_expect(&smem.full[stage], sizeof smem.A[0] + sizeof smem.B[0]);
    tma_load(smem.A[stage], A, tile * BK, m0, &smem.full[stage]);
    tma_load(smem.B[stage], B, n0, tile * BK, &smem.full[stage]);
  }
}

__device__ void consume(Smem& smem, int tiles) {
  int m = threadIdx.x / (BN / TN) * TM, n = threadIdx.x % (BN / TN) * TN;
  float acc[TM][TN] = {};
  for (int tile = 0; tile < tiles; tile++) {
    int stage = tile % STAGES, use = tile / STAGES;
    mbarrier_wait(&smem.full[stage], use % 2);
    for (int k = 0; k < BK; k++) {
      for (int i = 0; i < TM; i++) {
        for (int j = 0; j < TN; j++) {
          acc[i][j] += smem.A[stage][m + i][k] * smem.B[stage][k][n + j];
        }
      }
    }
    __syncwarp();  // the whole warp has read
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&smem.empty[stage]);
  }
  for (int i = 0; i < TM; i++) {
    for (int j = 0; j < TN; j++) smem.C[m + i][n + j] = acc[i][j];
  }
}

__global__ void __launch_bounds__(NUM_THREADS)
    gemm_kernel(const __grid_constant__ CUtensorMap A, const __grid_constant__ CUtensorMap B,
                const __grid_constant__ CUtensorMap C, int K) {
  __shared__ Smem smem;
  int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN, tiles = (K + BK - 1) / BK;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      mbarrier_init(&smem.full[s], 1);                // the producer
      mbarrier_init(&smem.empty[s], CONSUMERS / 32);  // a lane of each consumer warp
    }
    fence_mbarrier_init();
  }
  __syncthreads();  // the barriers are initialised
  if (threadIdx.x < CONSUMERS) {
    consume(smem, tiles);
    fence_proxy_async();  // before the store reads what this thread wrote
  } else if (threadIdx.x == CONSUMERS) {
    produce(smem, &A, &B, m0, n0, tiles);
  }
  __syncthreads();  // C is complete
  if (threadIdx.x == 0) {
    tma_store(&C, smem.C, n0, m0);
    tma_store_wait();
  }
}

int main() {
  constexpr int M = 75, N = 84, K = 116;  // rows are multiples of 16 bytes, as TMA requires
  float *A = zeros<float>(M * K), *B = zeros<float>(K * N), *C = zeros<float>(M * N);
  Random random;
  for (int i = 0; i < M * K; i++) A[i] = random.uniform();
  for (int i = 0; i < K * N; i++) B[i] = random.uniform();
  gemm_kernel<<<dim3((N + BN - 1) / BN, (M + BM - 1) / BM), NUM_THREADS>>>(
      tensor_map(A, M, K, BM, BK), tensor_map(B, K, N, BK, BN), tensor_map(C, M, N, BM, BN), K);
  finish();
  std::vector<double> want(M * N);
  for (int m = 0; m < M; m++) {
    for (int k = 0; k < K; k++) {
      for (int n = 0; n < N; n++) want[m * N + n] += double(A[m * K + k]) * B[k * N + n];
    }
  }
  expect_close("C", C, want.data(), M * N, 1e-5);
  std::printf("ok: TMA loads through a ring of %d stages and a TMA store, %dx%dx%d\n", STAGES, M, N,
              K);
}
