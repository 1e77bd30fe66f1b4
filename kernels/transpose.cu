// transpose.cu: y = x^T, to learn what it takes to move bytes at the speed of a copy.
//
// Contract (transpose.h)
//   x [batch, M, N]   y [batch, N, M]   y[b, n, m] = x[b, m, n]
//   Row-major: elements of a row are adjacent, rows are ldx, ldy apart. Any M, N, batch.
//   With rotate, y[b, n, m] = x[b, M - 1 - m, n]: the rows of x counted from the last one up.
//   Elements of 1, 2, 4 or 8 bytes, moved as they are.
//
// Rungs                                      fp32: sectors of a warp's    wavefronts of its shared
//                                            load and store               store and load
//   naive       one thread per element             4, 32
//   tiled       through a tile                     4, 4                        1, 32
//   padded      its rows are one word longer       4, 4                        1, 1
//   swizzled    its columns trade places           4, 4                        1, 1
//   vectorized  16 bytes per access               16, 16                       4, 4
#include "common.cuh"
#include "transpose.h"

// What the kernels are given; T stands for any type of its size.
template <class T>
struct Transpose {
  const T* x;  // [batch, M, N]
  T* y;        // [batch, N, M]
  int M, N;
  int64_t ldx, ldy;            // from one row to the next; below 0 where x is read from its end
  int64_t stride_x, stride_y;  // from one matrix to the next
  int tiles_m, tiles_n;        // of a matrix
};

// What run(T()) returns, T being an unsigned type as large as an element.
template <class Run>
static auto with_bits(DType dtype, Run run) {
  switch (dtype) {
    case DType::int8:
      return run(uint8_t());
    case DType::float16:
    case DType::bfloat16:
      return run(uint16_t());
    case DType::float32:
      return run(uint32_t());
    case DType::float64:
      return run(uint64_t());
  }
  throw LaunchError("transpose takes elements of 1, 2, 4 or 8 bytes");
}

// Launches kernel(p) with a block of `threads` for every tile of tile_m x tile_n elements of x.
template <class T, class Kernel>
static void launch_tiles(Kernel kernel, const char* name, const TransposeProblem& problem,
                         int tile_m, int tile_n, dim3 threads, cudaStream_t stream) {
  Transpose<T> p = {
      .x = problem.x.as<const T>(),
      .y = problem.y.as<T>(),
      .M = static_cast<int>(problem.x.size[2]),
      .N = static_cast<int>(problem.x.size[3]),
      .ldx = problem.x.stride[2],
      .ldy = problem.y.stride[2],
      .stride_x = problem.x.stride[1],
      .stride_y = problem.y.stride[1],
      .tiles_m = static_cast<int>(ceil_div<int64_t>(problem.x.size[2], tile_m)),
      .tiles_n = static_cast<int>(ceil_div<int64_t>(problem.x.size[3], tile_n)),
  };
  if (problem.rotate && p.M > 0) {  // from the last row of x upwards
    p.x += (p.M - 1) * p.ldx;
    p.ldx = -p.ldx;
  }
  const int64_t tiles = problem.x.size[1] * p.tiles_m * p.tiles_n;
  if (tiles == 0) return;
  if (tiles > MAX_GRID_X) throw LaunchError("%s: x has more than 2^31 - 1 tiles", name);
  kernel<<<static_cast<unsigned>(tiles), threads, 0, stream>>>(p);
  cuda_check(cudaGetLastError(), name, __FILE__, __LINE__);
}

// The block's tile: where it begins, and its matrices.
template <class T>
struct Tile {
  const T* x;
  T* y;
  int m0, n0;

  __device__ Tile(const Transpose<T>& p, int tile_m, int tile_n) {
    // Neighbouring blocks lie side by side in a row of x, so that their loads share DRAM pages.
    const int in_matrix = blockIdx.x % (p.tiles_m * p.tiles_n);
    const int64_t b = blockIdx.x / (p.tiles_m * p.tiles_n);
    x = p.x + b * p.stride_x;
    y = p.y + b * p.stride_y;
    m0 = in_matrix / p.tiles_n * tile_m;
    n0 = in_matrix % p.tiles_n * tile_n;
  }
};

// ------------------------------------------------------------------------------------------------
// naive: one thread per element (all dtypes)
// Idea     The definition. Lanes side by side read elements side by side, and write them a row of y
//          apart.
// Changes  First rung.
// Bytes    fp32, of a warp: 128 B in 4 sectors loaded, 128 B in 32 sectors stored: 1152 B moved for
//          256 B asked (floor: 256).
// Shape    32 x 8 threads per 32 x 32 tile, 0 B smem, 0 __syncthreads.
// Trap     One of the two accesses is scattered, whichever way the threads lie. A store of 4 B into
//          each of 32 sectors is the worse one to have: L2 has to merge them.
// Next     Shared memory has no rows that must be read in order: tiled.
constexpr int TILE = 32;  // elements each way, of the first four rungs
constexpr int TILE_ROWS =
    8;  // tunable: 4, 8, 16, 32; of the tile, that a block's threads cover at once
static_assert(TILE % TILE_ROWS == 0, "the rows of a tile go round without a rest");

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
// Idea     A block copies a tile row by row into shared memory, and out of it column by column: what
//          it reads down a column of the tile is a row of y.
//
//          x  m0 +--------+        y  n0 +--------+
//                | -----> |              | -----> |      both along memory; the turn is in between,
//                |        |  tile        |        |      where a column costs no more than a row
//                +--------+              +--------+
//                n0                      m0
//
// Changes  vs naive: the tile, and a barrier.
// Bytes    fp32, of a warp: 4 sectors loaded, 4 stored: the floor.
// Shape    32 x 8 threads, 4 KiB smem (elements of 8 B: 8), 1 __syncthreads.
// Trap     But it does cost more: the 32 elements of a column lie 32 words apart, all in one bank,
//          and the banks hand over one word each at a time: 32 wavefronts for 1.
// Next     Move the rows so that a column meets all banks: padded.
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
// padded: a column meets all banks (all dtypes)
// Idea     Rows of 33 words instead of 32: each begins one bank further on than the one above it.
//
//          row 0   bank  0  1  2  3 ...       column 0 lies in the banks 0, 1, 2, 3, ...
//          row 1   bank  1  2  3  4 ...
//          row 2   bank  2  3  4  5 ...
//
// Changes  vs tiled: one word more in a row.
// Bytes    As tiled. Shared memory: 1 wavefront per request, for rows and columns (elements of 8 B:
//          2, the least for 256 B).
// Shape    32 x 8 threads, 4.1 KiB smem (elements of 8 B: 8.3), 1 __syncthreads.
// Trap     The pad is counted in words of a bank, 4 B: two elements of 2 B, four of 1 B, of which
//          neighbours share a bank anyway.
// Next     The pad is memory that holds nothing, and it spoils the alignment of the rows: swizzled
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
// swizzled: the columns of each row trade places (all dtypes)
// Idea     Element (m, n) lies at column n ^ m of row m. For a fixed m that is a permutation of the
//          row, for a fixed n one of the banks: rows and columns both meet each bank once.
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
// Trap     n ^ m stays inside of the row only if the row's length is a power of two, at least as
//          large as m can be: a tile of 32 x 24 would write into its neighbours' rows.
// Next     Each access still moves 4 B of a lane: vectorized.
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
// vectorized: 16 bytes per load and store, in global and in shared memory (all dtypes)
// Idea     A thread takes a square of E x E elements, E of which are 16 bytes: it loads E vectors,
//          turns the square in its registers, and has E vectors of y.
//
//          x   | v0 v1 v2 ...       lanes along a row of x: each load of a warp is of whole lines.
//              |                    But the vectors of y that a warp then has lie in many rows. They
//          y   | v0                 go through shared memory once more, as vectors, and out along
//              | v1                 the rows of y.
//
// Changes  vs swizzled: a square for an element; vectors trade places in the tile, not elements.
// Bytes    As tiled, in a quarter of the requests (fp32): 16 sectors each, 4 wavefronts each.
// Shape    SIDE x SIDE squares and as many threads: 16 x 16; 16 KiB smem for fp32 (8 B: 8, 2 B: 32).
//          Elements of 1 B: 8 x 8, 16 KiB. 1 __syncthreads.
// Trap     A square has E elements in each of E registers of 16 bytes. Elements that are narrower
//          than a register cannot be moved one by one without a register for each: byte_perm turns
//          two words at a time.
// Declines nothing, but needs pointers and rows in multiples of 16 bytes.
// Next     It asks for each byte once, in whole lines: what is left is to have enough of them under
//          way.
constexpr int VECTORIZED_SIDE = 16;  // tunable: 8, 16; squares each way, for elements of 1 B half

// A row of a square.
template <class T>
struct alignas(16) Vector {
  static constexpr int SIZE = 16 / sizeof(T);
  uint32_t words[4];
};

// The first `count` elements at p, which lies on a multiple of 16 bytes; the others are anything.
template <class T>
__device__ Vector<T> load(const T* p, int count) {
  Vector<T> vector = {};
  if (count >= Vector<T>::SIZE) {
    reinterpret_cast<uint4&>(vector) = *reinterpret_cast<const uint4*>(p);
  } else {
    // Bit by bit into the words: an array that is indexed by a variable would be local memory.
#pragma unroll
    for (int i = 0; i < Vector<T>::SIZE; ++i) {
      if (i >= count) break;
      if constexpr (sizeof(T) == 8) {
        vector.words[2 * i] = static_cast<uint32_t>(p[i]);
        vector.words[2 * i + 1] = static_cast<uint32_t>(p[i] >> 32);
      } else {
        constexpr int IN_WORD = 4 / sizeof(T);
        vector.words[i / IN_WORD] |= static_cast<uint32_t>(p[i]) << i % IN_WORD * 8 * sizeof(T);
      }
    }
  }
  return vector;
}

template <class T>
__device__ void store(T* p, const Vector<T>& vector, int count) {
  if (count >= Vector<T>::SIZE) {
    *reinterpret_cast<uint4*>(p) = reinterpret_cast<const uint4&>(vector);
  } else {
#pragma unroll
    for (int i = 0; i < Vector<T>::SIZE; ++i) {
      if (i >= count) break;
      if constexpr (sizeof(T) == 8) {
        p[i] = vector.words[2 * i] | static_cast<T>(vector.words[2 * i + 1]) << 32;
      } else {
        constexpr int IN_WORD = 4 / sizeof(T);
        p[i] = static_cast<T>(vector.words[i / IN_WORD] >> i % IN_WORD * 8 * sizeof(T));
      }
    }
  }
}

// Turns a square: row i, element j becomes row j, element i.
//
//          elements of 2 B, words of two rows:    a1 a0   ->   b0 a0    to row 2w
//                                                 b1 b0        b1 a1    to row 2w + 1
template <class T>
__device__ void turn(const Vector<T> (&in)[Vector<T>::SIZE], Vector<T> (&out)[Vector<T>::SIZE]) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (sizeof(T) == 8) {
      out[w / 2].words[w % 2] = in[0].words[w];
      out[w / 2].words[w % 2 + 2] = in[1].words[w];
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[w].words[i] = in[i].words[w];
    } else if constexpr (sizeof(T) == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t a = in[2 * i].words[w], b = in[2 * i + 1].words[w];
        out[2 * w].words[i] = __byte_perm(a, b, 0x5410);
        out[2 * w + 1].words[i] = __byte_perm(a, b, 0x7632);
      }
    } else {  // bytes: 2 x 2 blocks of them first, then pairs
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t a = in[4 * i].words[w], b = in[4 * i + 1].words[w];
        const uint32_t c = in[4 * i + 2].words[w], d = in[4 * i + 3].words[w];
        const uint32_t ab_low = __byte_perm(a, b, 0x5140), ab_high = __byte_perm(a, b, 0x7362);
        const uint32_t cd_low = __byte_perm(c, d, 0x5140), cd_high = __byte_perm(c, d, 0x7362);
        out[4 * w].words[i] = __byte_perm(ab_low, cd_low, 0x5410);
        out[4 * w + 1].words[i] = __byte_perm(ab_low, cd_low, 0x7632);
        out[4 * w + 2].words[i] = __byte_perm(ab_high, cd_high, 0x5410);
        out[4 * w + 3].words[i] = __byte_perm(ab_high, cd_high, 0x7632);
      }
    }
  }
}

template <class T, int SIDE>
__global__ __launch_bounds__(SIDE* SIDE) void transpose_vectorized_kernel(const Transpose<T> p) {
  constexpr int E = Vector<T>::SIZE;
  __shared__ Vector<T> tile_smem[SIDE * E][SIDE];  // [n, square of m], columns traded
  const Tile<T> tile(p, SIDE * E, SIDE * E);
  const int lane = threadIdx.x % SIDE, row = threadIdx.x / SIDE;

  // Square (row, lane) of x: m from m0 + row * E on, n from n0 + lane * E on.
  Vector<T> x_frag[E], y_frag[E];
  const int n = tile.n0 + lane * E;
#pragma unroll
  for (int i = 0; i < E; ++i) {
    const int m = tile.m0 + row * E + i;
    x_frag[i] = load(tile.x + m * p.ldx + n, m < p.M ? p.N - n : 0);
  }
  turn(x_frag, y_frag);
  // Lanes store down a column of the tile. Row n belongs to the squares of column n / E = lane.
#pragma unroll
  for (int j = 0; j < E; ++j) tile_smem[lane * E + j][row ^ lane] = y_frag[j];
  __syncthreads();  // the tile is complete

  const int m = tile.m0 + lane * E;
#pragma unroll
  for (int j = 0; j < E; ++j) {
    const int i = j * SIDE + row;  // lanes read along a row of the tile
    if (tile.n0 + i >= p.N) break;
    store(tile.y + (tile.n0 + i) * p.ldy + m, tile_smem[i][lane ^ i / E], p.M - m);
  }
}

static void transpose_vectorized(const TransposeProblem& p, cudaStream_t stream) {
  with_bits(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int SIDE = VECTORIZED_SIDE / (sizeof(T) == 1 ? 2 : 1);
    constexpr int SPAN = SIDE * Vector<T>::SIZE;
    launch_tiles<T>(transpose_vectorized_kernel<T, SIDE>, "transpose_vectorized", p, SPAN, SPAN,
                    dim3(SIDE * SIDE), stream);
  });
}

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
