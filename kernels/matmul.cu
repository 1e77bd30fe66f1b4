// matmul.cu: C = alpha A B + beta addend + bias on the CUDA cores, from the obvious kernel to tiles
// in shared memory.
//
// Contract (matmul.h)
//   A [batch, M, K]   B [batch, K, N]   rows or columns contiguous, so either may be a transpose
//   C [batch, M, N]   fully written, never read; K = 0 gives beta addend + bias
//   Any M, N, K, batch. Sums are fp32, fp64 for fp64, int32 for int8.
//
// To read the kernels (matmul.cuh): A(row, k) is an element, A.of_batch(b) the b-th matrix, Sum<T> the
// type that products of Ts are summed in, write(p, row, col, sum) scales the sum, adds addend and
// bias, and writes C. "Shape" in a header is for the H200, and FLOP per byte for large matrices.
//
// Rungs                                             FLOP per byte requested of
//                                                   global memory   shared memory
//   naive      one thread per element of C, warps        0.25
//              walk down its columns
//   coalesced  the same, warps walk along its rows       0.25
//   tiled_16   16 x 16 tiles of A and B pass             4              0.25
//              through shared memory
//   tiled      32 x 32 tiles                             8              0.25
//
// It goes on in matmul_thread_tiles.cu (thread_tile_1d, thread_tile), matmul_vectorized.cu (vectorized,
// conflict_free), matmul_warp_tiles.cu (warp_tiles, async) and matmul_split_k.cu; on the tensor cores
// in matmul_wmma.cu, matmul_mma.cu, matmul_mma_swizzled.cu, matmul_mma_pipelined.cu and
// matmul_mma_tuned.cu.
#include "matmul.cuh"

// ------------------------------------------------------------------------------------------------
// naive: one thread per element of C, consecutive lanes on consecutive rows (any type)
// Idea     The definition: thread (row, col) walks k and sums A[row, k] * B[k, col].
// Changes  First rung.
// FLOP/B   2 FLOP per 2 floats requested = 0.25. Per step a warp loads one float of each of 32
//          rows of A (32 sectors of 32 B) and one of B (1 sector): 64 FLOP per 1056 B moved = 0.06.
// Shape    32 x 32 threads per block, 0 B smem, 0 __syncthreads.
// Trap     threadIdx.x varies fastest within a warp. Here it selects the row, as in a textbook's
//          row = x, col = y; only the speed is wrong: every load of A and store of C scatters over
//          32 rows, lda or ldc floats apart.
// Next     Let threadIdx.x select the column: coalesced.
constexpr int NAIVE_TILE = 32;  // tunable: 16, 32
constexpr int NAIVE_NUM_THREADS = NAIVE_TILE * NAIVE_TILE;
static_assert(NAIVE_NUM_THREADS <= 1024, "a block has at most 1024 threads");

template <class T>
__global__ __launch_bounds__(NAIVE_NUM_THREADS) void matmul_naive_kernel(const Matmul<T> p) {
  const int row = blockIdx.y * NAIVE_TILE + threadIdx.x;
  const int col = blockIdx.x * NAIVE_TILE + threadIdx.y;
  if (row >= p.M || col >= p.N) return;

  const Matrix<const T> A = p.A.of_batch(blockIdx.z);
  const Matrix<const T> B = p.B.of_batch(blockIdx.z);
  Sum<T> acc = 0;
  for (int k = 0; k < p.K; ++k) acc += Sum<T>(A(row, k)) * Sum<T>(B(k, col));
  write(p, row, col, acc);
}

template <class T>
static void launch_naive(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<T>(p, NAIVE_TILE, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, NAIVE_TILE), ceil_div(s.M, NAIVE_TILE), s.batch);
    const dim3 block(NAIVE_TILE, NAIVE_TILE);
    matmul_naive_kernel<<<grid, block, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_naive_kernel);
  });
}

static void matmul_naive(const MatmulProblem& p, cudaStream_t stream) {
  switch (p.A.dtype) {
    case DType::float16:
      return launch_naive<fp16>(p, stream);
    case DType::bfloat16:
      return launch_naive<bf16>(p, stream);
    case DType::int8:
      return launch_naive<int8_t>(p, stream);
    default:
      with_type(p, [&](auto zero) { launch_naive<decltype(zero)>(p, stream); });
  }
}

// ------------------------------------------------------------------------------------------------
// coalesced: consecutive lanes on consecutive columns (fp32, fp64)
// Idea     Adjacent lanes access adjacent floats: the 32 loads of a warp become a few sectors of
//          32 B.
// Changes  vs naive: threadIdx.x and threadIdx.y are swapped, nothing else.
// FLOP/B   0.25 requested, as before. Per step a warp loads 32 adjacent floats of B (4 sectors) and
//          one float of A (1 sector): 64 FLOP per 160 B moved = 0.4 (naive: 0.06).
// Shape    32 x 32 threads per block, 0 B smem, 0 __syncthreads.
// Trap     If B is the transpose of a matrix, its columns are rows in memory, and the loads of B
//          scatter over 32 of them again. No thread mapping makes both A and B^T coalesced from
//          here.
// Next     Every float of A is still loaded by N threads, every float of B by M: tiled_16 loads it
//          once per tile, and transposes B^T on the way.
constexpr int COALESCED_TILE = 32;  // tunable: 16, 32
constexpr int COALESCED_NUM_THREADS = COALESCED_TILE * COALESCED_TILE;
static_assert(COALESCED_NUM_THREADS <= 1024, "a block has at most 1024 threads");

template <class T>
__global__ __launch_bounds__(COALESCED_NUM_THREADS) void matmul_coalesced_kernel(
    const Matmul<T> p) {
  const int row = blockIdx.y * COALESCED_TILE + threadIdx.y;
  const int col = blockIdx.x * COALESCED_TILE + threadIdx.x;
  if (row >= p.M || col >= p.N) return;

  const Matrix<const T> A = p.A.of_batch(blockIdx.z);
  const Matrix<const T> B = p.B.of_batch(blockIdx.z);
  T acc = 0;
  for (int k = 0; k < p.K; ++k) acc += A(row, k) * B(k, col);
  write(p, row, col, acc);
}

template <class T>
static void launch_coalesced(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<T>(p, COALESCED_TILE, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, COALESCED_TILE), ceil_div(s.M, COALESCED_TILE), s.batch);
    const dim3 block(COALESCED_TILE, COALESCED_TILE);
    matmul_coalesced_kernel<<<grid, block, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_coalesced_kernel);
  });
}

static void matmul_coalesced(const MatmulProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto zero) { launch_coalesced<decltype(zero)>(p, stream); });
}

// ------------------------------------------------------------------------------------------------
// tiled_16: tiles of A and B pass through shared memory (fp32, fp64)
// Idea     A block owns a TILE x TILE tile of C. It walks k in steps of TILE: all threads load one
//          float of A and one of B into shared memory, then each uses 2 * TILE of those floats.
//
//                          B  k0 +--------+
//                                | B_smem |        [TILE (k), TILE (columns)]
//             k0                 +--------+
//          A  +--------+      C  +--------+
//             | A_smem |         |  acc   |        [TILE (rows), TILE (columns)]
//             +--------+         +--------+
//
// Changes  vs coalesced: the same mapping, but k in tiles, with two barriers per tile.
// FLOP/B   Global: 2 TILE^3 FLOP per 2 TILE^2 floats = TILE / 4 = 4 (coalesced: 0.25).
//          Shared: 2 FLOP per 2 floats = 0.25, now the limit.
// Shape    16 x 16 threads per block, 2 KiB smem (2.25 for two transposes), 2 __syncthreads per
//          tile.
// Trap     A thread outside C must still load and reach the barriers: no early return. Elements
//          outside A or B are 0 in the tile and add nothing.
// Next     Doubling TILE halves the global traffic: tiled.
// TRANS_A, TRANS_B: the matrix's columns are contiguous, not its rows.
template <int TILE, bool TRANS_A, bool TRANS_B, class T>
__device__ void multiply_tiles(const Matmul<T>& p) {
  static_assert(TILE == 16 || TILE == 32, "TILE is 16 or 32, whose PAD avoids bank conflicts");
  // Lanes walk along memory, so a transposed matrix is stored down the columns of its tile. With
  // the pad those 32 stores, of fp32, hit 32 banks.
  constexpr int PAD = 32 / TILE;
  __shared__ T A_smem[TILE][TILE + (TRANS_A ? PAD : 0)];  // [rows of C, k]
  __shared__ T B_smem[TILE][TILE + (TRANS_B ? PAD : 0)];  // [k, columns of C]

  const Matrix<const T> A = p.A.of_batch(blockIdx.z);
  const Matrix<const T> B = p.B.of_batch(blockIdx.z);
  const int tx = threadIdx.x;
  const int ty = threadIdx.y;
  const int row0 = blockIdx.y * TILE;
  const int col0 = blockIdx.x * TILE;
  const int row = row0 + ty;
  const int col = col0 + tx;

  T acc = 0;
  for (int k0 = 0; k0 < p.K; k0 += TILE) {
    if constexpr (TRANS_A) {
      const int m = row0 + tx, k = k0 + ty;
      A_smem[tx][ty] = m < p.M && k < p.K ? A(m, k) : T(0);
    } else {
      const int k = k0 + tx;
      A_smem[ty][tx] = row < p.M && k < p.K ? A(row, k) : T(0);
    }
    if constexpr (TRANS_B) {
      const int k = k0 + tx, n = col0 + ty;
      B_smem[tx][ty] = n < p.N && k < p.K ? B(k, n) : T(0);
    } else {
      const int k = k0 + ty;
      B_smem[ty][tx] = k < p.K && col < p.N ? B(k, col) : T(0);
    }
    __syncthreads();  // both tiles are complete

#pragma unroll
    for (int k = 0; k < TILE; ++k) {
      acc += A_smem[ty][k] * B_smem[k][tx];
    }
    __syncthreads();  // no warp still reads the tiles that the next trip overwrites
  }
  if (row < p.M && col < p.N) write(p, row, col, acc);
}

// Calls launch(trans_a, trans_b), two constants.
template <class T, class Launch>
static void with_transposes(const Matmul<T>& p, Launch launch) {
  const bool a = p.A.col_stride != 1, b = p.B.col_stride != 1;
  if (a && b) return launch(std::true_type(), std::true_type());
  if (a) return launch(std::true_type(), std::false_type());
  if (b) return launch(std::false_type(), std::true_type());
  launch(std::false_type(), std::false_type());
}

constexpr int TILED_16_TILE = 16;  // tunable: 16, 32
constexpr int TILED_16_NUM_THREADS = TILED_16_TILE * TILED_16_TILE;

template <class T, bool TRANS_A, bool TRANS_B>
__global__ __launch_bounds__(TILED_16_NUM_THREADS) void matmul_tiled_16_kernel(const Matmul<T> p) {
  multiply_tiles<TILED_16_TILE, TRANS_A, TRANS_B>(p);
}

template <class T>
static void launch_tiled_16(const MatmulProblem& p, cudaStream_t stream) {
  constexpr int TILE = TILED_16_TILE;
  for_each_slice<T>(p, TILE, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, TILE), ceil_div(s.M, TILE), s.batch);
    const dim3 block(TILE, TILE);
    with_transposes(s, [&](auto a, auto b) {
      matmul_tiled_16_kernel<T, a.value, b.value><<<grid, block, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(matmul_tiled_16_kernel);
    });
  });
}

static void matmul_tiled_16(const MatmulProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto zero) { launch_tiled_16<decltype(zero)>(p, stream); });
}

// ------------------------------------------------------------------------------------------------
// tiled: the largest square tile with one thread per element (fp32, fp64)
// Idea     A float loaded into a tile serves TILE threads; 32 x 32 = 1024 is the most threads a
//          block can have.
// Changes  vs tiled_16: TILE is 32. The kernel's body is multiply_tiles, above.
// FLOP/B   Global: TILE / 4 = 8 (tiled_16: 4). Shared: 0.25 requested, as before. Twice as many
//          FMAs share the loads, barriers and index arithmetic of a trip.
// Shape    32 x 32 threads per block, 8 KiB smem (8.25 for two transposes), 2 __syncthreads per
//          tile.
// Trap     1024 threads leave at most 64 registers each; __launch_bounds__ holds nvcc to that. All
//          32 warps wait at each barrier, and few blocks fit on an SM to fill the gap.
// Next     Shared memory gives 2 floats per FMA. More needs registers: let a thread own several
//          elements of C, so that each float it reads serves more than one FMA: thread_tile_1d.
constexpr int TILED_TILE = 32;  // tunable: 16, 32
constexpr int TILED_NUM_THREADS = TILED_TILE * TILED_TILE;

template <class T, bool TRANS_A, bool TRANS_B>
__global__ __launch_bounds__(TILED_NUM_THREADS) void matmul_tiled_kernel(const Matmul<T> p) {
  multiply_tiles<TILED_TILE, TRANS_A, TRANS_B>(p);
}

template <class T>
static void launch_tiled(const MatmulProblem& p, cudaStream_t stream) {
  constexpr int TILE = TILED_TILE;
  for_each_slice<T>(p, TILE, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, TILE), ceil_div(s.M, TILE), s.batch);
    const dim3 block(TILE, TILE);
    with_transposes(s, [&](auto a, auto b) {
      matmul_tiled_kernel<T, a.value, b.value><<<grid, block, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(matmul_tiled_kernel);
    });
  });
}

static void matmul_tiled(const MatmulProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto zero) { launch_tiled<decltype(zero)>(p, stream); });
}

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr Needs ANY = {.dtypes = "float32 float64 float16 bfloat16 int8",
                              .options = "alpha beta c bias"};
static constexpr Needs BOTH = {.dtypes = "float32 float64", .options = "alpha beta c bias"};
static constexpr Needs FP32 = {.options = "alpha beta c bias"};
static constexpr Needs FP32_SM80 = {.options = "alpha beta c bias", .compute_capability = 80};
static constexpr Needs TENSOR = {
    .dtypes = "float16 bfloat16 tf32", .options = "alpha beta c bias", .compute_capability = 80};
static constexpr Needs TENSOR_SM70 = {
    .dtypes = "float16 bfloat16 tf32", .options = "alpha beta c bias", .compute_capability = 70};
static constexpr Needs TENSOR_INT8 = {.dtypes = "float16 bfloat16 tf32 int8",
                                      .options = "alpha beta c bias",
                                      .compute_capability = 80};
static constexpr Rung<MatmulProblem> RUNGS[] = {
    {"naive", matmul_naive, ANY},
    {"coalesced", matmul_coalesced, BOTH},
    {"tiled_16", matmul_tiled_16, BOTH},
    {"tiled", matmul_tiled, BOTH},
    {"thread_tile_1d", matmul_thread_tile_1d, BOTH},
    {"thread_tile", matmul_thread_tile, BOTH},
    {"vectorized", matmul_vectorized, FP32},
    {"conflict_free", matmul_conflict_free, FP32},
    {"warp_tiles", matmul_warp_tiles, FP32},
    {"async", matmul_async, FP32_SM80},
    {"split_k", matmul_split_k, FP32_SM80},
    {"wmma", matmul_wmma, TENSOR_SM70, matmul_wmma_declines},
    {"mma", matmul_mma, TENSOR_INT8},
    {"mma_swizzled", matmul_mma_swizzled, TENSOR},
    {"mma_pipelined", matmul_mma_pipelined, TENSOR},
    {"mma_tuned", matmul_mma_tuned, TENSOR},
};

Ladder<MatmulProblem> matmul_ladder() { return RUNGS; }
