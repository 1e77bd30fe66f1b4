// transpose.cu: y = x^T, to learn what it takes to move bytes at the speed of a copy.
//
// Contract (transpose.h)
//   x [batch, M, N]   y [batch, N, M]   y[b, n, m] = x[b, m, n]
//   Row-major: elements of a row are adjacent, rows are ldx, ldy apart. Any M, N, batch.
//   With rotate, y[b, n, m] = x[b, M - 1 - m, n]: the rows of x counted from the last one up.
//   Elements of 1, 2, 4 or 8 bytes, moved unchanged.
//
// Rungs                                      fp32: sectors of a warp's    wavefronts of its shared
//                                            load and store               store and load
//   naive       one thread per element             4, 32
//   tiled       through a tile                     4, 4                        1, 32
//   padded      its rows are one word longer       4, 4                        1, 1
//   swizzled    its columns are permuted           4, 4                        1, 1
//   vectorized  16 bytes per access               16, 16                       4, 4
//
// vectorized is in transpose_vectorized.cu.
#include "transpose.cuh"

// ------------------------------------------------------------------------------------------------
// naive: one thread per element (all dtypes)
// Idea     The definition. Neighbouring lanes read neighbouring elements, and write them a row of y
//          apart.
// Changes  First rung.
// Bytes    fp32, per warp: 128 B in 4 sectors loaded, 128 B in 32 sectors stored: 1152 B moved for
//          256 B requested (floor: 256).
// Shape    32 x 8 threads per 32 x 32 tile, 0 B smem, 0 __syncthreads.
// Trap     One of the two accesses is scattered, whichever way the threads are mapped. Scattered
//          stores are the worse choice: L2 has to merge 4 B into each of 32 sectors.
// Next     Transpose the tile where order costs nothing, in shared memory: tiled.
constexpr int TILE = 32;      // elements each way
constexpr int TILE_ROWS = 8;  // tunable: 4, 8, 16, 32; rows that a block's threads cover at once
static_assert(TILE % TILE_ROWS == 0, "each thread takes as many rows as any other");

template <class T>
__global__ void transpose_naive_kernel(const Transpose<T> p) {
  const Tile<T> tile(p, TILE, TILE);
  const int n = tile.n0 + threadIdx.x;
  for (int i = threadIdx.y; i < TILE; i += TILE_ROWS) {
    const int m = tile.m0 + i;
    if (m < p.M && n < p.N) tile.y[n * p.ldy + m] = tile.x[m * p.ldx + n];
  }
}

static void transpose_naive(const TransposeProblem& p, cudaStream_t stream) {
  with_bits(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_tiles<T>(transpose_naive_kernel<T>, "transpose_naive", p, TILE, TILE,
                    dim3(TILE, TILE_ROWS), stream);
  });
}

// ------------------------------------------------------------------------------------------------
// tiled: through a tile in shared memory (all dtypes)
// Idea     A block copies a tile row by row into shared memory and column by column out of it: what
//          it reads down a column of the tile is a row of y.
//
//          x  m0 +--------+        y  n0 +--------+
//                | -----> |              | -----> |    both along memory; the turn is in between,
//                |        |  tile        |        |    where a column need not cost more than a row
//                +--------+              +--------+
//                n0                      m0
//
// Changes  vs naive: the tile, and a barrier.
// Bytes    fp32, per warp: 4 sectors loaded, 4 stored: the floor.
// Shape    32 x 8 threads, 4 KiB smem (elements of 8 B: 8), 1 __syncthreads.
// Trap     A column does cost more: its 32 elements are 32 words apart, all in one bank, and a bank
//          delivers one word per wavefront: 32 wavefronts, not 1.
// Next     Shift the rows so that a column uses all banks: padded.
template <class T>
__global__ void transpose_tiled_kernel(const Transpose<T> p) {
  __shared__ T tile_smem[TILE][TILE];  // [m, n]
  const Tile<T> tile(p, TILE, TILE);
  for (int i = threadIdx.y; i < TILE; i += TILE_ROWS) {
    const int m = tile.m0 + i, n = tile.n0 + threadIdx.x;
    if (m < p.M && n < p.N) tile_smem[i][threadIdx.x] = tile.x[m * p.ldx + n];
  }
  __syncthreads();  // the tile is complete
  for (int i = threadIdx.y; i < TILE; i += TILE_ROWS) {
    const int m = tile.m0 + threadIdx.x, n = tile.n0 + i;
    if (m < p.M && n < p.N) tile.y[n * p.ldy + m] = tile_smem[threadIdx.x][i];
  }
}

static void transpose_tiled(const TransposeProblem& p, cudaStream_t stream) {
  with_bits(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_tiles<T>(transpose_tiled_kernel<T>, "transpose_tiled", p, TILE, TILE,
                    dim3(TILE, TILE_ROWS), stream);
  });
}

// ------------------------------------------------------------------------------------------------
// padded: a column uses all banks (all dtypes)
// Idea     Rows of 33 words instead of 32: each begins one bank after the one above it.
//
//          row 0   bank  0  1  2  3 ...       column 0 is in banks 0, 1, 2, 3, ...
//          row 1   bank  1  2  3  4 ...
//          row 2   bank  2  3  4  5 ...
//
// Changes  vs tiled: each row is one word longer.
// Bytes    As tiled. Shared memory: 1 wavefront per request, for rows and columns (elements of 8 B:
//          2, the least for 256 B).
// Shape    32 x 8 threads, 4.1 KiB smem (elements of 8 B: 8.3), 1 __syncthreads.
// Trap     The pad is counted in words of a bank, 4 B: two elements of 2 B, four of 1 B, of which
//          neighbours share a bank anyway.
// Next     The pad is memory that holds nothing, and it breaks the alignment of the rows: swizzled
//          does without.
template <class T>
__global__ void transpose_padded_kernel(const Transpose<T> p) {
  constexpr int PAD = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
  __shared__ T tile_smem[TILE][TILE + PAD];  // [m, n]
  const Tile<T> tile(p, TILE, TILE);
  for (int i = threadIdx.y; i < TILE; i += TILE_ROWS) {
    const int m = tile.m0 + i, n = tile.n0 + threadIdx.x;
    if (m < p.M && n < p.N) tile_smem[i][threadIdx.x] = tile.x[m * p.ldx + n];
  }
  __syncthreads();  // the tile is complete
  for (int i = threadIdx.y; i < TILE; i += TILE_ROWS) {
    const int m = tile.m0 + threadIdx.x, n = tile.n0 + i;
    if (m < p.M && n < p.N) tile.y[n * p.ldy + m] = tile_smem[threadIdx.x][i];
  }
}

static void transpose_padded(const TransposeProblem& p, cudaStream_t stream) {
  with_bits(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_tiles<T>(transpose_padded_kernel<T>, "transpose_padded", p, TILE, TILE,
                    dim3(TILE, TILE_ROWS), stream);
  });
}

// ------------------------------------------------------------------------------------------------
// swizzled: the columns of each row are permuted (all dtypes)
// Idea     Element (m, n) is stored at column n ^ m of row m. For a fixed m that is a permutation
//          of the row, for a fixed n one of the banks: rows and columns both use each bank once.
//
//                  n = 0  1  2  3               n ^ m for m, n < 4; each number, and so each bank,
//          m = 0       0  1  2  3               once in a row and once in a column
//          m = 1       1  0  3  2
//          m = 2       2  3  0  1
//          m = 3       3  2  1  0
//
// Changes  vs padded: n ^ m for n, and no pad.
// Bytes    As tiled. Shared memory: 1 wavefront per request (elements of 8 B: 2), as padded.
// Shape    32 x 8 threads, 4 KiB smem (elements of 8 B: 8), 1 __syncthreads.
// Trap     n ^ m stays within the row only if the row's length is a power of two and no m reaches
//          it: a tile of 32 x 24 would write into its neighbours' rows.
// Next     Each access still moves only 4 B per lane: vectorized.
template <class T>
__global__ void transpose_swizzled_kernel(const Transpose<T> p) {
  __shared__ T tile_smem[TILE][TILE];  // [m, n ^ m]
  const Tile<T> tile(p, TILE, TILE);
  for (int i = threadIdx.y; i < TILE; i += TILE_ROWS) {
    const int m = tile.m0 + i, n = tile.n0 + threadIdx.x;
    if (m < p.M && n < p.N) tile_smem[i][threadIdx.x ^ i] = tile.x[m * p.ldx + n];
  }
  __syncthreads();  // the tile is complete
  for (int i = threadIdx.y; i < TILE; i += TILE_ROWS) {
    const int m = tile.m0 + threadIdx.x, n = tile.n0 + i;
    if (m < p.M && n < p.N) tile.y[n * p.ldy + m] = tile_smem[threadIdx.x][i ^ threadIdx.x];
  }
}

static void transpose_swizzled(const TransposeProblem& p, cudaStream_t stream) {
  with_bits(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_tiles<T>(transpose_swizzled_kernel<T>, "transpose_swizzled", p, TILE, TILE,
                    dim3(TILE, TILE_ROWS), stream);
  });
}

// ------------------------------------------------------------------------------------------------
// A rung in another file, so that an edit to either compiles in a second or two.

void transpose_vectorized(const TransposeProblem& p, cudaStream_t stream);

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr Needs ALL = {.dtypes = "int8 float16 bfloat16 float32 float64",
                              .options = "rotate"};
static constexpr Needs ALL_ALIGNED = {
    .dtypes = ALL.dtypes, .options = ALL.options, .alignment = 16};
static constexpr Rung<TransposeProblem> RUNGS[] = {
    {"naive", transpose_naive, ALL},
    {"tiled", transpose_tiled, ALL},
    {"padded", transpose_padded, ALL},
    {"swizzled", transpose_swizzled, ALL},
    {"vectorized", transpose_vectorized, ALL_ALIGNED},
};

Ladder<TransposeProblem> transpose_ladder() { return RUNGS; }
