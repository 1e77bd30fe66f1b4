// matmul_vectorized.cu: C = A B in fp32, 16 bytes at a time. The contract is in matmul.cu.
//
// Rungs                                            per 16 x 16 x 8 FMA of a warp, wavefronts of its
//                                                  reads of A, of B, and of the stores of both tiles
//   vectorized     float4 in place of float
//   conflict_free  no two lanes of an access on one bank
#include "matmul.cuh"

// ------------------------------------------------------------------------------------------------
// vectorized: 16 bytes per access to global memory (fp32)
// Idea     One 16-byte access in place of four: a quarter of the instructions and of the requests
//          for the same bytes. A's four floats lie along k and go down a column of its tile, so it
//          is transposed on its way into shared memory, as before.
// Changes  vs thread_tile: load_tile_4 and write_4 for load_tile and write.
// FLOP/B   As thread_tile: 32 global, 2 shared.
// Shape    256 threads, 8 KiB smem, 2 __syncthreads per tile; 64 sums and 16 floats of fragments in
//          registers.
// Trap     Only rows that begin at multiples of 16 bytes can be read so. Others, and the last floats
//          of a row, are read one by one by the same threads: slower, not wrong.
// Next     Both tiles still have bank conflicts: the stores of A, and the reads of B.
constexpr int VECTORIZED_BM = 128;  // tunable: 64, 128
constexpr int VECTORIZED_BN = 128;  // tunable: 64, 128
constexpr int VECTORIZED_BK = 8;    // tunable: 8, 16
constexpr int VECTORIZED_TM = 8;    // tunable: 4, 8
constexpr int VECTORIZED_TN = 8;    // tunable: 4, 8
constexpr int VECTORIZED_NUM_THREADS =
    VECTORIZED_BM / VECTORIZED_TM * (VECTORIZED_BN / VECTORIZED_TN);
static_assert(VECTORIZED_NUM_THREADS <= 1024, "a block has at most 1024 threads");
static_assert(VECTORIZED_TN % 4 == 0, "a thread writes whole fours of a row");

__global__ __launch_bounds__(VECTORIZED_NUM_THREADS) void matmul_vectorized_kernel(
    const Matmul<float> p) {
  constexpr int BM = VECTORIZED_BM, BN = VECTORIZED_BN, BK = VECTORIZED_BK;
  constexpr int TM = VECTORIZED_TM, TN = VECTORIZED_TN, NUM_THREADS = VECTORIZED_NUM_THREADS;
  __shared__ alignas(16) float A_smem[BK][BM];
  __shared__ alignas(16) float B_smem[BK][BN];

  const auto A = p.A.of_batch(blockIdx.z);
  const auto B = p.B.of_batch(blockIdx.z);
  const int row0 = blockIdx.y * BM;
  const int col0 = blockIdx.x * BN;
  const int m = threadIdx.x / (BN / TN) * TM;  // the thread's square within the tile
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

  const bool aligned = aligned_16({p.C.data, p.C.row, p.C.col, p.C.batch});
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      if (row0 + m + i < p.M) write_4(p, row0 + m + i, col0 + n + j, acc[i][j / 4], aligned);
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
// conflict_free: no two lanes of an access to shared memory on one bank (fp32)
// Idea     An access of 16 bytes per lane is served 8 lanes at a time, one wavefront, if their 32
//          words are in 32 banks.
//
//          reads of B_smem    lane    0    1    2    3    4  ...
//          vectorized         word    0    8   16   24   32        lanes 0 and 4 on one bank
//          conflict_free      word    0    4    8   12   16        then the same BN / 2 further on
//
//          stores of A_smem, transposed: half of a warp's lanes are 4 rows of the tile below the
//          others. With 4 floats of padding, 4 rows are 16 banks further on.
// Changes  vs vectorized: a thread's TN columns are two groups of four, BN / 2 apart; A_smem and
//          B_smem (for the transposed B) have padded rows.
// FLOP/B   As before; wavefronts: of the reads of B half, of the stores of A half.
// Shape    256 threads, 8.25 KiB smem, 2 __syncthreads per tile.
// Trap     The padding must keep rows at multiples of 16 bytes: 4 floats, not 1.
// Next     A warp covers 16 x 128 elements of C: it reads 144 floats per step of k where a squarer
//          shape would need 96.
constexpr int CONFLICT_FREE_BM = 128;  // tunable: 64, 128
constexpr int CONFLICT_FREE_BN = 128;  // tunable: 64, 128
constexpr int CONFLICT_FREE_BK = 8;    // tunable: 8, 16
constexpr int CONFLICT_FREE_TM = 8;    // tunable: 4, 8
constexpr int CONFLICT_FREE_PAD = 4;   // tunable: 0, 4
constexpr int CONFLICT_FREE_NUM_THREADS =
    CONFLICT_FREE_BM / CONFLICT_FREE_TM * (CONFLICT_FREE_BN / 8);
static_assert(CONFLICT_FREE_NUM_THREADS <= 1024, "a block has at most 1024 threads");
static_assert(CONFLICT_FREE_PAD % 4 == 0, "rows of a tile begin at multiples of 16 bytes");

__global__ __launch_bounds__(CONFLICT_FREE_NUM_THREADS) void matmul_conflict_free_kernel(
    const Matmul<float> p) {
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
  const int m = threadIdx.x / (BN / 8) * TM;
  const int n = threadIdx.x % (BN / 8) * 4;  // of the first group

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

  const bool aligned = aligned_16({p.C.data, p.C.row, p.C.col, p.C.batch});
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
      const int row = row0 + m + i;
      if (row < p.M) write_4(p, row, col0 + n + g * BN / GROUPS, acc[i][g], aligned);
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
