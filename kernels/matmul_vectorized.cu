// matmul_vectorized.cu: C = A B in fp32, 16 bytes at a time. The contract is in matmul.cu.
//
// Rungs                                                   wavefronts per warp and step of k: reads
//                                                         of A and B; per store of A's tile
//   vectorized     float4 in place of float                           4 + 4            4
//   conflict_free  lanes share what they read, rows are padded        2 + 4            2
#include "matmul.cuh"

// ------------------------------------------------------------------------------------------------
// vectorized: 16 bytes per access (fp32)
// Idea     One 16-byte access in place of four: a quarter of the instructions and of the requests
//          for the same bytes. A's four floats lie along k and go down a column of its tile, so it
//          is transposed on its way into shared memory, as before.
// Changes  vs thread_tile: load_tile_4 and write_4 for load_tile and write; BK = 16, so that each
//          of 512 threads loads one four of either tile. The tiles are aligned, and so the compiler
//          reads both fragments 16 bytes at a time.
// FLOP/B   As thread_tile: 32 global, 1.33 shared.
// Shape    512 threads, 16 KiB smem, 2 __syncthreads per tile; 2 blocks per SM.
// Trap     Only rows that begin at multiples of 16 bytes can be read this way. Others, and the last
//          floats of a row, are read one by one by the same threads: slower, not wrong.
// Next     The stores of A_smem go to 4 rows of 8 columns: 8 banks, 4 wavefronts each. And a warp
//          covers 8 x 128 elements of C, for which it reads 136 floats per step of k.
constexpr int VECTORIZED_BM = 128;  // tunable: 64, 128
constexpr int VECTORIZED_BN = 128;  // tunable: 64, 128
constexpr int VECTORIZED_BK = 16;   // tunable: 16, 32
constexpr int VECTORIZED_TM = 8;    // tunable: 4, 8
constexpr int VECTORIZED_TN = 4;    // tunable: 4, 8
constexpr int VECTORIZED_NUM_THREADS =
    VECTORIZED_BM / VECTORIZED_TM * (VECTORIZED_BN / VECTORIZED_TN);
static_assert(VECTORIZED_NUM_THREADS <= 1024, "a block has at most 1024 threads");
static_assert(VECTORIZED_TN % 4 == 0, "a thread writes whole fours of a row");

__global__ __launch_bounds__(VECTORIZED_NUM_THREADS,
                             2) void matmul_vectorized_kernel(const Matmul<float> p) {
  constexpr int BM = VECTORIZED_BM, BN = VECTORIZED_BN, BK = VECTORIZED_BK;
  constexpr int TM = VECTORIZED_TM, TN = VECTORIZED_TN, NUM_THREADS = VECTORIZED_NUM_THREADS;
  __shared__ alignas(16) float A_smem[BK][BM];
  __shared__ alignas(16) float B_smem[BK][BN];

  const auto A = p.A.of_batch(blockIdx.z);
  const auto B = p.B.of_batch(blockIdx.z);
  const int row0 = blockIdx.y * BM;
  const int col0 = blockIdx.x * BN;
  const int m = threadIdx.x / (BN / TN) * TM;  // the thread's first row and column in the tile
  const int n = threadIdx.x % (BN / TN) * TN;

  float acc[TM][TN / 4][4] = {};
  for (int k0 = 0; k0 < p.K; k0 += BK) {
    load_tile_4<NUM_THREADS, BM>(A_smem, A, row0, k0, p.M, p.K);
    load_tile_4<NUM_THREADS, BN>(B_smem, B.transposed(), col0, k0, p.N, p.K);
    __syncthreads();  // both tiles are complete

#pragma unroll
    for (int k = 0; k < BK; ++k) {
      float A_frag[TM], B_frag[TN];
#pragma unroll
      for (int i = 0; i < TM; ++i) A_frag[i] = A_smem[k][m + i];
#pragma unroll
      for (int j = 0; j < TN; ++j) B_frag[j] = B_smem[k][n + j];
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) acc[i][j / 4][j % 4] += A_frag[i] * B_frag[j];
      }
    }
    __syncthreads();  // no warp still reads the tiles that the next trip overwrites
  }

  const bool aligned = aligned_4(p);
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      const float (&sums)[4] = acc[i][j / 4];
      write_4(p, row0 + m + i, col0 + n + j, {sums[0], sums[1], sums[2], sums[3]}, aligned);
    }
  }
}

void matmul_vectorized(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, VECTORIZED_BM, [&](const Matmul<float>& s) {
    const dim3 grid(ceil_div(s.N, VECTORIZED_BN), ceil_div(s.M, VECTORIZED_BM), s.batch);
    matmul_vectorized_kernel<<<grid, VECTORIZED_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_vectorized_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// conflict_free: fewer wavefronts per access to shared memory (fp32)
// Idea     Shared memory serves a 16-byte read in quarters of a warp, 8 lanes a wavefront, if their
//          32 words are in 32 banks. Two quarters share one, if all pairs of lanes i, i ^ 1, or all
//          pairs i, i ^ 2, want the same words. So the lanes are laid out as
//
//               columns    0..3    4..7    8..11   ...  60..63        and the same 64 further on
//               row m      lane 0    2       4     ...    30
//               row m + 4       1    3       5     ...    31
//
//          Stores of A_smem, transposed: lanes are 8 rows of the source times 4 fours of k, which
//          go to rows of the tile 4 apart. With 4 floats of padding those are 16 banks apart, so
//          that two of the four meet instead of all.
// Changes  vs vectorized: that layout, with 4 rows and two groups of 4 columns per thread; padding.
// FLOP/B   As before. Wavefronts per step of k and warp: 6 for the reads; vectorized: 8.
// Shape    512 threads, 16.5 KiB smem, 2 __syncthreads per tile; 2 blocks per SM.
// Trap     The padding must keep rows at multiples of 16 bytes: 4 floats, not 1.
// Next     A warp covers 8 x 128 elements of C still. A square of as many is 32 x 32.
constexpr int CONFLICT_FREE_BM = 128;  // tunable: 64, 128
constexpr int CONFLICT_FREE_BN = 128;
constexpr int CONFLICT_FREE_BK = 16;  // tunable: 16, 32
constexpr int CONFLICT_FREE_TM = 4;   // tunable: 4, 8
constexpr int CONFLICT_FREE_PAD = 4;  // tunable: 0, 4
constexpr int CONFLICT_FREE_NUM_THREADS =
    CONFLICT_FREE_BM / CONFLICT_FREE_TM * (CONFLICT_FREE_BN / 8);
static_assert(CONFLICT_FREE_NUM_THREADS <= 1024, "a block has at most 1024 threads");
static_assert(CONFLICT_FREE_PAD % 4 == 0, "rows of a tile begin at multiples of 16 bytes");

__global__ __launch_bounds__(CONFLICT_FREE_NUM_THREADS,
                             2) void matmul_conflict_free_kernel(const Matmul<float> p) {
  constexpr int BM = CONFLICT_FREE_BM, BN = CONFLICT_FREE_BN, BK = CONFLICT_FREE_BK;
  constexpr int TM = CONFLICT_FREE_TM, PAD = CONFLICT_FREE_PAD;
  constexpr int NUM_THREADS = CONFLICT_FREE_NUM_THREADS;
  constexpr int GROUPS = 2;  // of four adjacent columns per thread
  __shared__ alignas(16) float A_smem[BK][BM + PAD];
  __shared__ alignas(16) float B_smem[BK][BN + PAD];

  const auto A = p.A.of_batch(blockIdx.z);
  const auto B = p.B.of_batch(blockIdx.z);
  const int row0 = blockIdx.y * BM;
  const int col0 = blockIdx.x * BN;
  const int m = (threadIdx.x / 32 * 2 + threadIdx.x % 2) * TM;
  const int n = threadIdx.x % 32 / 2 * 4;  // of the first group; 16 lanes cover BN / 2 columns

  float acc[TM][GROUPS][4] = {};
  for (int k0 = 0; k0 < p.K; k0 += BK) {
    load_tile_4<NUM_THREADS, BM>(A_smem, A, row0, k0, p.M, p.K);
    load_tile_4<NUM_THREADS, BN>(B_smem, B.transposed(), col0, k0, p.N, p.K);
    __syncthreads();  // both tiles are complete

#pragma unroll
    for (int k = 0; k < BK; ++k) {
      float A_frag[TM], B_frag[GROUPS][4];
#pragma unroll
      for (int i = 0; i < TM; ++i) A_frag[i] = A_smem[k][m + i];
#pragma unroll
      for (int g = 0; g < GROUPS; ++g) {
#pragma unroll
        for (int j = 0; j < 4; ++j) B_frag[g][j] = B_smem[k][n + g * BN / GROUPS + j];
      }
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < 4 * GROUPS; ++j)
          acc[i][j / 4][j % 4] += A_frag[i] * B_frag[j / 4][j % 4];
      }
    }
    __syncthreads();  // no warp still reads the tiles that the next trip overwrites
  }

  const bool aligned = aligned_4(p);
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
      const int row = row0 + m + i;
      const float (&sums)[4] = acc[i][g];
      write_4(p, row, col0 + n + g * BN / GROUPS, {sums[0], sums[1], sums[2], sums[3]}, aligned);
    }
  }
}

void matmul_conflict_free(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, CONFLICT_FREE_BM, [&](const Matmul<float>& s) {
    const dim3 grid(ceil_div(s.N, CONFLICT_FREE_BN), ceil_div(s.M, CONFLICT_FREE_BM), s.batch);
    matmul_conflict_free_kernel<<<grid, CONFLICT_FREE_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_conflict_free_kernel);
  });
}
