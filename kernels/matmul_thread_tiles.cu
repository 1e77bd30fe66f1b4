// matmul_thread_tiles.cu: several elements of C per thread, in registers. The contract is in
// matmul.cu.
//
// Rungs                                                     FLOP per byte requested of
//                                                           global memory   shared memory
//   thread_tile_1d  a column of 8 elements per thread           16              0.44
//   thread_tile     8 x 4 elements per thread                   32              1.33
#include "matmul.cuh"

// ------------------------------------------------------------------------------------------------
// thread_tile_1d: 8 elements of a column of C per thread (fp32, fp64)
// Idea     A float of B that a thread holds in a register serves a whole column of its elements.
//
//                     B_smem  | | | b | |      for each k: one float of B,
//            A_smem           | | | | | |      TM floats of A, TM FMAs
//            a0               | | |c0 | |
//            a1               | | |c1 | |
//            ..               | | |.. | |
//
// Changes  vs tiled: 64 x 64 tiles by 512 threads, BK = 8 steps of k at a time; the tile of A is
//          stored transposed, so that a thread's TM floats of it are adjacent.
// FLOP/B   Global: 2 BM BN / (4 (BM + BN)) = 16; tiled: 8. Shared: 2 TM FLOP per 4 (TM + 1) bytes =
//          0.44; tiled: 0.25.
// Shape    512 threads, 4 KiB smem (fp64: 8), 2 __syncthreads per tile.
// Trap     All lanes of a warp want the same floats of A, which costs one wavefront. But storing A
//          transposed puts 8 lanes onto one bank (conflict_free mends most of it).
// Next     A float of A still serves one FMA per thread: give the thread a square.
constexpr int THREAD_TILE_1D_BM = 64;  // tunable: 32, 64
constexpr int THREAD_TILE_1D_BN = 64;  // tunable: 32, 64
constexpr int THREAD_TILE_1D_BK = 8;   // tunable: 8, 16
constexpr int THREAD_TILE_1D_TM = 8;   // tunable: 4, 8
constexpr int THREAD_TILE_1D_NUM_THREADS =
    THREAD_TILE_1D_BM * THREAD_TILE_1D_BN / THREAD_TILE_1D_TM;
static_assert(THREAD_TILE_1D_NUM_THREADS <= 1024, "a block has at most 1024 threads");

template <class T>
__global__ __launch_bounds__(THREAD_TILE_1D_NUM_THREADS) void matmul_thread_tile_1d_kernel(
    const Matmul<T> p) {
  constexpr int BM = THREAD_TILE_1D_BM, BN = THREAD_TILE_1D_BN, BK = THREAD_TILE_1D_BK;
  constexpr int TM = THREAD_TILE_1D_TM, NUM_THREADS = THREAD_TILE_1D_NUM_THREADS;
  __shared__ T A_smem[BK][BM];
  __shared__ T B_smem[BK][BN];

  const Matrix<const T> A = p.A.of_batch(blockIdx.z);
  const Matrix<const T> B = p.B.of_batch(blockIdx.z);
  const int row0 = blockIdx.y * BM;
  const int col0 = blockIdx.x * BN;
  const int m = threadIdx.x / BN * TM;  // the thread's first row within the tile
  const int n = threadIdx.x % BN;

  T acc[TM] = {};
  for (int k0 = 0; k0 < p.K; k0 += BK) {
    load_tile<NUM_THREADS>(A_smem, A, row0, k0, p.M, p.K);
    load_tile<NUM_THREADS>(B_smem, B.transposed(), col0, k0, p.N, p.K);
    __syncthreads();  // both tiles are complete

#pragma unroll
    for (int k = 0; k < BK; ++k) {
      const T b = B_smem[k][n];
#pragma unroll
      for (int i = 0; i < TM; ++i) acc[i] += A_smem[k][m + i] * b;
    }
    __syncthreads();  // no warp still reads the tiles that the next trip overwrites
  }

#pragma unroll
  for (int i = 0; i < TM; ++i) {
    if (row0 + m + i < p.M && col0 + n < p.N) write(p, row0 + m + i, col0 + n, acc[i]);
  }
}

template <class T>
static void launch_thread_tile_1d(const MatmulProblem& p, cudaStream_t stream) {
  constexpr int BM = THREAD_TILE_1D_BM, BN = THREAD_TILE_1D_BN;
  for_each_slice<T>(p, BM, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, BN), ceil_div(s.M, BM), s.batch);
    matmul_thread_tile_1d_kernel<<<grid, THREAD_TILE_1D_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_thread_tile_1d_kernel);
  });
}

void matmul_thread_tile_1d(const MatmulProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto zero) { launch_thread_tile_1d<decltype(zero)>(p, stream); });
}

// ------------------------------------------------------------------------------------------------
// thread_tile: 8 x 4 elements of C per thread (fp32, fp64)
// Idea     TM floats of A and TN of B give TM x TN FMAs: the work grows with the area, the reads
//          with the sides. A_frag and B_frag hold them in registers.
// Changes  vs thread_tile_1d: 128 x 128 tiles; TN columns per thread.
// FLOP/B   Global: 2 BM BN / (4 (BM + BN)) = 32; thread_tile_1d: 16. Shared: 2 TM TN FLOP per
//          4 (TM + TN) bytes = 1.33; thread_tile_1d: 0.44.
// Shape    512 threads, 8 KiB smem, 2 __syncthreads per tile. 32 sums per thread leave room for two
//          blocks on an SM; 8 x 8 would read less, but leave half as many warps to hide latency.
//          fp64, at two registers a number: 4 x 2 per thread, 64 x 64 per block.
// Trap     Lanes are 4 columns apart: their reads of B_smem, 4 bytes each, meet on 8 banks, so they
//          take 4 wavefronts.
// Next     A thread loads and reads its floats one by one: 4 at a time take a quarter of the
//          instructions.
constexpr int THREAD_TILE_BM = 128;  // tunable: 64, 128
constexpr int THREAD_TILE_BN = 128;  // tunable: 64, 128
constexpr int THREAD_TILE_BK = 8;    // tunable: 8, 16
constexpr int THREAD_TILE_TM = 8;    // tunable: 4, 8
constexpr int THREAD_TILE_TN = 4;    // tunable: 4, 8
constexpr int THREAD_TILE_NUM_THREADS =
    THREAD_TILE_BM / THREAD_TILE_TM * (THREAD_TILE_BN / THREAD_TILE_TN);
static_assert(THREAD_TILE_NUM_THREADS <= 1024, "a block has at most 1024 threads");

template <class T>
struct ThreadTile {
  static constexpr int HALVES = sizeof(T) / sizeof(float);  // fp64: half of each side
  static constexpr int BM = THREAD_TILE_BM / HALVES, BN = THREAD_TILE_BN / HALVES;
  static constexpr int TM = THREAD_TILE_TM / HALVES, TN = THREAD_TILE_TN / HALVES;
};

template <class T>
__global__ __launch_bounds__(THREAD_TILE_NUM_THREADS,
                             2) void matmul_thread_tile_kernel(const Matmul<T> p) {
  constexpr int BM = ThreadTile<T>::BM, BN = ThreadTile<T>::BN, BK = THREAD_TILE_BK;
  constexpr int TM = ThreadTile<T>::TM, TN = ThreadTile<T>::TN;
  constexpr int NUM_THREADS = THREAD_TILE_NUM_THREADS;
  __shared__ T A_smem[BK][BM];
  __shared__ T B_smem[BK][BN];

  const Matrix<const T> A = p.A.of_batch(blockIdx.z);
  const Matrix<const T> B = p.B.of_batch(blockIdx.z);
  const int row0 = blockIdx.y * BM;
  const int col0 = blockIdx.x * BN;
  const int m = threadIdx.x / (BN / TN) * TM;  // the thread's first row and column in the tile
  const int n = threadIdx.x % (BN / TN) * TN;

  T acc[TM][TN] = {};
  for (int k0 = 0; k0 < p.K; k0 += BK) {
    load_tile<NUM_THREADS>(A_smem, A, row0, k0, p.M, p.K);
    load_tile<NUM_THREADS>(B_smem, B.transposed(), col0, k0, p.N, p.K);
    __syncthreads();  // both tiles are complete

#pragma unroll
    for (int k = 0; k < BK; ++k) {
      T A_frag[TM], B_frag[TN];
#pragma unroll
      for (int i = 0; i < TM; ++i) A_frag[i] = A_smem[k][m + i];
#pragma unroll
      for (int j = 0; j < TN; ++j) B_frag[j] = B_smem[k][n + j];
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) acc[i][j] += A_frag[i] * B_frag[j];
      }
    }
    __syncthreads();  // no warp still reads the tiles that the next trip overwrites
  }

#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const int row = row0 + m + i, col = col0 + n + j;
      if (row < p.M && col < p.N) write(p, row, col, acc[i][j]);
    }
  }
}

template <class T>
static void launch_thread_tile(const MatmulProblem& p, cudaStream_t stream) {
  constexpr int BM = ThreadTile<T>::BM, BN = ThreadTile<T>::BN;
  for_each_slice<T>(p, BM, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, BN), ceil_div(s.M, BM), s.batch);
    matmul_thread_tile_kernel<<<grid, THREAD_TILE_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_thread_tile_kernel);
  });
}

void matmul_thread_tile(const MatmulProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto zero) { launch_thread_tile<decltype(zero)>(p, stream); });
}
