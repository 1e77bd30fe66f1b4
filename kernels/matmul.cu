// matmul.cu: C = A B in fp32 on the CUDA cores, from the obvious kernel to a tiled one.
//
// Contract (matmul.h)
//   A [batch, M, K]   B [batch, K, N], or its transpose [batch, N, K] with trans_b
//   C [batch, M, N]   fully written, never read; K = 0 gives C = 0
//   Row-major: elements of a row are adjacent, rows are lda, ldb, ldc apart. Any M, N, K, batch.
//   Sums are fp32, in order of k.
//
// Rungs
//   naive      one thread per element of C, warps walk down its columns
//   coalesced  the same, warps walk along its rows
//   tiled_16   16 x 16 tiles of A and B pass through shared memory
//   tiled      32 x 32 tiles
#include "common.cuh"
#include "matmul.h"

// The kernels' argument.
struct Matmul {
  const float* A;  // [batch, M, K]
  const float* B;  // [batch, K, N] or [batch, N, K]
  float* C;        // [batch, M, N]
  int batch, M, N, K;
  int64_t lda, ldb, ldc;                 // from one row to the next
  int64_t stride_a, stride_b, stride_c;  // from one matrix to the next; 0 repeats the same one
  bool trans_b;
};

static Matmul lowered(const MatmulProblem& p) {
  return {
      .A = p.A.as<const float>(),
      .B = p.B.as<const float>(),
      .C = p.C.as<float>(),
      .batch = static_cast<int>(p.C.size[1]),
      .M = static_cast<int>(p.C.size[2]),
      .N = static_cast<int>(p.C.size[3]),
      .K = static_cast<int>(p.A.size[3]),
      .lda = p.A.stride[2],
      .ldb = p.B.stride[2],
      .ldc = p.C.stride[2],
      .stride_a = p.A.stride[1],
      .stride_b = p.B.stride[1],
      .stride_c = p.C.stride[1],
      .trans_b = p.trans_b,
  };
}

// Calls launch(slice) for the parts of p that one grid can hold: 65535 blocks of rows_per_block
// rows along y, 65535 matrices along z. Nearly always that is one part, p itself; none if C is
// empty.
template <class Launch>
static void for_each_slice(const MatmulProblem& p, int rows_per_block, Launch launch) {
  const Matmul all = lowered(p);
  if (all.N == 0) return;
  const int64_t max_rows = MAX_GRID_YZ * rows_per_block;
  for (int64_t b = 0; b < all.batch; b += MAX_GRID_YZ) {
    for (int64_t row = 0; row < all.M; row += max_rows) {
      Matmul slice = all;
      slice.A += b * all.stride_a + row * all.lda;
      slice.B += b * all.stride_b;
      slice.C += b * all.stride_c + row * all.ldc;
      slice.batch = static_cast<int>(min(all.batch - b, MAX_GRID_YZ));
      slice.M = static_cast<int>(min(all.M - row, max_rows));
      launch(slice);
    }
  }
}

// ------------------------------------------------------------------------------------------------
// naive: one thread per element of C, consecutive lanes on consecutive rows (fp32)
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
static_assert(NAIVE_TILE * NAIVE_TILE <= 1024, "a block has at most 1024 threads");

__global__ void matmul_naive_kernel(const Matmul p) {
  const int row = blockIdx.y * NAIVE_TILE + threadIdx.x;
  const int col = blockIdx.x * NAIVE_TILE + threadIdx.y;
  if (row >= p.M || col >= p.N) return;

  const float* A = p.A + blockIdx.z * p.stride_a;
  const float* B = p.B + blockIdx.z * p.stride_b;
  float* C = p.C + blockIdx.z * p.stride_c;
  // B[k, col] is at k * step_k + col * step_col: transposing B swaps two strides.
  const int64_t step_k = p.trans_b ? 1 : p.ldb;
  const int64_t step_col = p.trans_b ? p.ldb : 1;

  float acc = 0.0f;
  for (int k = 0; k < p.K; ++k) {
    acc += A[row * p.lda + k] * B[k * step_k + col * step_col];
  }
  C[row * p.ldc + col] = acc;
}

static void matmul_naive(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice(p, NAIVE_TILE, [&](const Matmul& s) {
    const dim3 grid(ceil_div(s.N, NAIVE_TILE), ceil_div(s.M, NAIVE_TILE), s.batch);
    const dim3 block(NAIVE_TILE, NAIVE_TILE);
    matmul_naive_kernel<<<grid, block, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_naive_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// coalesced: consecutive lanes on consecutive columns (fp32)
// Idea     Adjacent lanes access adjacent floats: the 32 loads of a warp become a few sectors of
//          32 B.
// Changes  vs naive: threadIdx.x and threadIdx.y are swapped, nothing else.
// FLOP/B   0.25 requested, as before. Per step a warp loads 32 adjacent floats of B (4 sectors) and
//          one float of A (1 sector): 64 FLOP per 160 B moved = 0.4 (naive: 0.06).
// Shape    32 x 32 threads per block, 0 B smem, 0 __syncthreads.
// Trap     With trans_b the columns of B are rows in memory, and the loads of B scatter over
//          32 of them again. No thread mapping makes both A and B^T coalesced from here.
// Next     Every float of A is still loaded by N threads, every float of B by M: tiled_16 loads it
//          once per tile, and transposes B^T on the way.
constexpr int COALESCED_TILE = 32;  // tunable: 16, 32
static_assert(COALESCED_TILE * COALESCED_TILE <= 1024, "a block has at most 1024 threads");

__global__ void matmul_coalesced_kernel(const Matmul p) {
  const int row = blockIdx.y * COALESCED_TILE + threadIdx.y;
  const int col = blockIdx.x * COALESCED_TILE + threadIdx.x;
  if (row >= p.M || col >= p.N) return;

  const float* A = p.A + blockIdx.z * p.stride_a;
  const float* B = p.B + blockIdx.z * p.stride_b;
  float* C = p.C + blockIdx.z * p.stride_c;
  const int64_t step_k = p.trans_b ? 1 : p.ldb;
  const int64_t step_col = p.trans_b ? p.ldb : 1;

  float acc = 0.0f;
  for (int k = 0; k < p.K; ++k) {
    acc += A[row * p.lda + k] * B[k * step_k + col * step_col];
  }
  C[row * p.ldc + col] = acc;
}

static void matmul_coalesced(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice(p, COALESCED_TILE, [&](const Matmul& s) {
    const dim3 grid(ceil_div(s.N, COALESCED_TILE), ceil_div(s.M, COALESCED_TILE), s.batch);
    const dim3 block(COALESCED_TILE, COALESCED_TILE);
    matmul_coalesced_kernel<<<grid, block, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_coalesced_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// tiled_16: tiles of A and B pass through shared memory (fp32)
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
// Shape    16 x 16 threads per block, 2 KiB smem (2.1 with trans_b), 2 __syncthreads per tile.
// Trap     A thread outside C must still load and reach the barriers: no early return. Elements
//          outside A or B are 0 in the tile and add nothing.
// Next     Doubling TILE halves the global traffic: tiled.
template <int TILE, bool TRANS_B>
__device__ void multiply_tiles(const Matmul& p) {
  static_assert(TILE == 16 || TILE == 32, "PAD is free of bank conflicts for these two");
  // B^T is stored down the columns of its tile. With the pad those 32 stores hit 32 banks.
  constexpr int PAD = TRANS_B ? 32 / TILE : 0;
  __shared__ float A_smem[TILE][TILE];        // [rows of C, k]
  __shared__ float B_smem[TILE][TILE + PAD];  // [k, columns of C]

  const float* A = p.A + blockIdx.z * p.stride_a;
  const float* B = p.B + blockIdx.z * p.stride_b;
  float* C = p.C + blockIdx.z * p.stride_c;
  const int tx = threadIdx.x;
  const int ty = threadIdx.y;
  const int col0 = blockIdx.x * TILE;
  const int row = blockIdx.y * TILE + ty;
  const int col = col0 + tx;

  float acc = 0.0f;
  for (int k0 = 0; k0 < p.K; k0 += TILE) {
    A_smem[ty][tx] = row < p.M && k0 + tx < p.K ? A[row * p.lda + k0 + tx] : 0.0f;
    if constexpr (TRANS_B) {
      // Row n of B^T is column n of B. Lanes walk k, along memory, and the store transposes.
      const int n = col0 + ty;
      B_smem[tx][ty] = n < p.N && k0 + tx < p.K ? B[n * p.ldb + k0 + tx] : 0.0f;
    } else {
      const int k = k0 + ty;
      B_smem[ty][tx] = k < p.K && col < p.N ? B[k * p.ldb + col] : 0.0f;
    }
    __syncthreads();  // both tiles are complete

#pragma unroll
    for (int k = 0; k < TILE; ++k) {
      acc += A_smem[ty][k] * B_smem[k][tx];
    }
    __syncthreads();  // no warp still reads the tiles that the next trip overwrites
  }
  if (row < p.M && col < p.N) C[row * p.ldc + col] = acc;
}

constexpr int TILED_16_TILE = 16;  // tunable: 16, 32
constexpr int TILED_16_NUM_THREADS = TILED_16_TILE * TILED_16_TILE;

template <bool TRANS_B>
__global__ __launch_bounds__(TILED_16_NUM_THREADS) void matmul_tiled_16_kernel(const Matmul p) {
  multiply_tiles<TILED_16_TILE, TRANS_B>(p);
}

static void matmul_tiled_16(const MatmulProblem& p, cudaStream_t stream) {
  constexpr int TILE = TILED_16_TILE;
  for_each_slice(p, TILE, [&](const Matmul& s) {
    const auto kernel = s.trans_b ? matmul_tiled_16_kernel<true> : matmul_tiled_16_kernel<false>;
    const dim3 grid(ceil_div(s.N, TILE), ceil_div(s.M, TILE), s.batch);
    const dim3 block(TILE, TILE);
    kernel<<<grid, block, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_tiled_16_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// tiled: the largest square tile with one thread per element (fp32)
// Idea     A float loaded into a tile serves TILE threads; 32 x 32 = 1024 is the most threads a
//          block can have.
// Changes  vs tiled_16: TILE is 32. The kernel's body is multiply_tiles, above.
// FLOP/B   Global: TILE / 4 = 8 (tiled_16: 4). Shared: 0.25 requested, as before. Twice as many
//          FMAs share the loads, barriers and index arithmetic of a trip.
// Shape    32 x 32 threads per block, 8 KiB smem (8.1 with trans_b), 2 __syncthreads per tile.
// Trap     1024 threads leave at most 64 registers each; __launch_bounds__ holds nvcc to that. All
//          32 warps wait at each barrier, and few blocks fit on an SM to fill the gap.
// Next     Shared memory gives 2 floats per FMA. More needs registers: let a thread own several
//          elements of C, so that each float it reads serves more than one FMA.
constexpr int TILED_TILE = 32;  // tunable: 16, 32
constexpr int TILED_NUM_THREADS = TILED_TILE * TILED_TILE;

template <bool TRANS_B>
__global__ __launch_bounds__(TILED_NUM_THREADS) void matmul_tiled_kernel(const Matmul p) {
  multiply_tiles<TILED_TILE, TRANS_B>(p);
}

static void matmul_tiled(const MatmulProblem& p, cudaStream_t stream) {
  constexpr int TILE = TILED_TILE;
  for_each_slice(p, TILE, [&](const Matmul& s) {
    const auto kernel = s.trans_b ? matmul_tiled_kernel<true> : matmul_tiled_kernel<false>;
    const dim3 grid(ceil_div(s.N, TILE), ceil_div(s.M, TILE), s.batch);
    const dim3 block(TILE, TILE);
    kernel<<<grid, block, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_tiled_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr char OPTIONS[] = "trans_b";
static constexpr Rung<MatmulProblem> RUNGS[] = {
    {"naive", matmul_naive, {.options = OPTIONS}},
    {"coalesced", matmul_coalesced, {.options = OPTIONS}},
    {"tiled_16", matmul_tiled_16, {.options = OPTIONS}},
    {"tiled", matmul_tiled, {.options = OPTIONS}},
};

Ladder<MatmulProblem> matmul_ladder() { return RUNGS; }
