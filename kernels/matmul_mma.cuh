// matmul_mma.cuh: what the tensor-core rungs share: tiles of A and B in shared memory, how they are
// filled, and how a warp multiplies them.
//
// A tensor core multiplies small matrices whose elements lie spread over the registers of a warp,
// its fragments. An mma (ptx.cuh) takes 32 bytes of k, whatever the type: 16 elements of 2 bytes, 8
// of 4, 32 of 1. So all of this counts k in bytes. A is taken by rows, B by columns: "outer" is the
// index of those, M or N.
#pragma once

#include <type_traits>

#include "matmul.cuh"
#include "ptx.cuh"

// std::max, without <algorithm>.
__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }

// Rounds fp32 so that the upper 19 bits are the nearest tf32, ties away from zero: an mma ignores
// the others. cvt.rna.tf32 also clears them, and takes five instructions where this takes two.
__device__ inline void round_to_tf32(uint32_t (&fragment)[4]) {
  for (uint32_t& bits : fragment) {
    const bool finite = fabsf(__uint_as_float(bits)) < INFINITY;  // a NaN could carry into its sign
    if (finite) bits += 0x1000;
  }
}

// ------------------------------------------------------------------------------------------------
// A warp's 16 x 8 sums, and what an mma adds to them

// HALF_SUMS: fp16's are fp16 too: half the registers, and on some GPUs twice the speed.
template <class T, bool HALF_SUMS = false>
struct Accumulator {
  Sum<T> sums[4] = {};

  __device__ void add(const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (std::is_same_v<T, fp16>) mma_f16(sums, a, b0, b1);
    if constexpr (std::is_same_v<T, bf16>) mma_bf16(sums, a, b0, b1);
    if constexpr (std::is_same_v<T, float>) mma_tf32(sums, a, b0, b1);
    if constexpr (std::is_same_v<T, int8_t>) mma_s8(sums, a, b0, b1);
  }
  __device__ Sum<T> operator[](int i) const { return sums[i]; }
};

template <>
struct Accumulator<fp16, true> {
  uint32_t sums[2] = {};  // two to a register

  __device__ void add(const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_f16_sums_f16(sums, a, b0, b1);
  }
  __device__ float operator[](int i) const {
    return cvt_f32_f16(static_cast<uint16_t>(sums[i / 2] >> 16 * (i % 2)));
  }
};

// ------------------------------------------------------------------------------------------------
// Tiles

// Which index is contiguous in memory: k or the outer one; `neither`, if 16 bytes cannot be copied
// at a time, whichever it is.
enum class Along { k, outer, neither };

// A tile of OUTER rows of A, or columns of B, and BK bytes of k, in chunks of 16 bytes. A chunk has
// elements that are adjacent in memory: along k, and a row of the tile is one of A or column of B;
// or, for Along::outer, along that, and a row of the tile is one k.
//
// Eight chunks fill the 32 banks once. They are stored as they lie in memory, along the tile's row,
// and read down a column of it, so eight adjacent rows must not have the same chunk in the same
// banks:
//
//   PADDED     each row is a chunk longer        SWIZZLED  row r has its chunk c at c ^ r % 8
//     row 0   0 1 2 3 4 5 6 7 -                    row 0   0 1 2 3 4 5 6 7
//     row 1   - 0 1 2 3 4 5 6 7                    row 1   1 0 3 2 5 4 7 6
//     row 2   7 - 0 1 2 3 4 5 6                    row 2   2 3 0 1 6 7 4 5
enum class Banks { padded, swizzled };

template <class T, Along ALONG, int LENGTH, int BK, Banks BANKS>
struct Tile {
  using Element = T;
  static constexpr Along along = ALONG;
  static constexpr int OUTER = LENGTH;  // rows of A, or columns of B
  static constexpr int K = BK / sizeof(T);
  static constexpr int STEPS = BK / 32;                // of an mma
  static constexpr bool BY_K = ALONG == Along::outer;  // a row of the tile is one k
  static constexpr int PER_CHUNK = 16 / sizeof(T);
  static constexpr int ROWS = BY_K ? K : OUTER;
  static constexpr int CHUNKS = (BY_K ? OUTER : K) / PER_CHUNK;  // in a row
  // Single words of 4 bytes are read from four rows of 32 bytes: those must not meet.
  static constexpr int SHIFT = BY_K && sizeof(T) == 4 ? 2 : 1;
  static constexpr int ROW_BYTES = (CHUNKS + (BANKS == Banks::padded ? SHIFT : 0)) * 16;
  static constexpr int BYTES = ROWS * ROW_BYTES;
  // Where a row is shorter than the 32 banks, several have the same pattern.
  static constexpr int SAME = CHUNKS < 8 ? 8 / CHUNKS : 1, PATTERNS = CHUNKS < 8 ? CHUNKS : 8;
  static_assert(BK % 32 == 0, "an mma takes 32 bytes of k");
  static_assert(!BY_K || sizeof(T) > 1, "no instruction transposes bytes");

  // Of a chunk, from the tile's first byte on.
  __device__ static int offset(int row, int chunk) {
    const int pattern = BANKS == Banks::swizzled ? row * SHIFT / SAME % PATTERNS : 0;
    return row * ROW_BYTES + (chunk ^ pattern) * 16;
  }

  // Whether rows that far apart have the same pattern.
  __host__ __device__ static constexpr bool same_pattern(int apart) {
    return BANKS == Banks::padded || apart * SHIFT / SAME % PATTERNS == 0;
  }

  // The shared address `rows` and `chunks` after another: constants, rows of the same pattern, and
  // chunks whose bits the other's number lacks, so that to add them is to exchange these bits.
  __device__ static uint32_t after(uint32_t other, int rows, int chunks) {
    if constexpr (BANKS == Banks::padded) return other + rows * ROW_BYTES + chunks * 16;
    return (other ^ chunks % PATTERNS * 16) + rows * ROW_BYTES + chunks / PATTERNS * 128;
  }

  // What an mma takes of 16 rows of A (FOR_A), or two of them take of 2 x 8 columns of B: four 8 x 8
  // matrices, one per register,
  //   for A   r[0], r[1] of rows 0..7 and 8..15,              r[2], r[3] of the next 16 bytes of k
  //   for B   r[0], r[1] of columns 0..7 and both parts of k, r[2], r[3] of columns 8..15
  template <bool FOR_A>
  __host__ __device__ static constexpr int second_outer(int i) {
    return FOR_A ? i % 2 : i / 2;
  }
  template <bool FOR_A>
  __host__ __device__ static constexpr int second_k(int i) {
    return FOR_A ? i / 2 : i % 2;
  }

  // Where this lane begins to read, for the fragments from `outer` on.
  template <bool FOR_A>
  __device__ static int lane_offset(int outer) {
    const int lane = threadIdx.x % 32, i = lane / 8;  // i: the matrix of which it gives a row
    if constexpr (!BY_K) {
      return offset(outer + 8 * second_outer<FOR_A>(i) + lane % 8, second_k<FOR_A>(i));
    } else if constexpr (sizeof(T) == 2) {
      return offset(8 * second_k<FOR_A>(i) + lane % 8, outer / 8 + second_outer<FOR_A>(i));
    } else {
      return offset(lane % 4, (outer + lane / 4) / 4) + lane / 4 % 4 * 4;
    }
  }

  // Reads the fragment 16 * n further along the outer index, and 32 * step bytes along k. `from` is
  // the tile's shared address plus lane_offset.
  template <bool FOR_A>
  __device__ static void read(uint32_t (&r)[4], uint32_t from, int n, int step) {
    if constexpr (!BY_K) {
      static_assert(same_pattern(16));
      ldmatrix_x4(r, after(from, 16 * n, 2 * step));
    } else if constexpr (sizeof(T) == 2) {
      static_assert(same_pattern(16));
      ldmatrix_x4_trans(r, after(from, 16 * step, 2 * n));
    } else {  // ldmatrix would take the words apart
      static_assert(same_pattern(4));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int rows = 8 * step + 4 * second_k<FOR_A>(i);
        r[i] = ld_shared(after(from, rows, 4 * n + 2 * second_outer<FOR_A>(i)));
      }
    }
  }
};

// ------------------------------------------------------------------------------------------------
// Filling tiles, one after the other along k. What does not exist in the matrix is 0 in the tile.

template <class T>
struct alignas(16) Chunk {
  T element[16 / sizeof(T)];
};

// A thread's share of the copies of whole chunks: all in one column of the tile, APART rows apart.
// What stays the same from tile to tile is computed once. "Along" is the index that is contiguous
// in memory, "across" the other one.
template <class Tile, int NUM_THREADS>
class ChunkLoader {
  using T = typename Tile::Element;
  static constexpr int PER_CHUNK = Tile::PER_CHUNK;
  static constexpr int APART = NUM_THREADS / Tile::CHUNKS;
  static constexpr int COPIES = Tile::ROWS / APART;
  static_assert(NUM_THREADS % Tile::CHUNKS == 0 && Tile::ROWS % APART == 0,
                "each thread copies the same number of chunks, all in one column of the tile");
  static_assert(Tile::same_pattern(APART), "the rows of a thread's chunks have the same pattern");

 public:
  // The tiles begin at row `outer` of the source (for B: of its transpose), which is rows x cols.
  __device__ ChunkLoader(const Matrix<const T>& source, int outer, int rows, int cols) {
    const int row = threadIdx.x / Tile::CHUNKS, chunk = threadIdx.x % Tile::CHUNKS;
    const int along = chunk * PER_CHUNK;
    to_ = Tile::offset(row, chunk);
    if constexpr (Tile::BY_K) {
      from_ = source.at(outer + along, row);
      along_left_ = rows - outer - along;
      across_left_ = cols - row;
      next_row_ = source.col;
      next_tile_ = Tile::K * source.col;
    } else {
      from_ = source.at(outer + row, along);
      along_left_ = cols - along;
      across_left_ = rows - outer - row;
      next_row_ = source.row;
      next_tile_ = Tile::K;
    }
  }

  // Starts to copy the next tile: the copies belong to the next cp_async_commit.
  __device__ void start(char* tile) {
#pragma unroll
    for (int c = 0; c < COPIES; ++c) {
      cp_async_16(tile + to(c), from(c), count(c) * sizeof(T));
    }
    advance();
  }

  // Copies the next tile, through registers.
  __device__ void load(char* tile) {
    Chunk<T> chunks[COPIES];
#pragma unroll
    for (int c = 0; c < COPIES; ++c) {
      if (count(c) == PER_CHUNK) chunks[c] = *reinterpret_cast<const Chunk<T>*>(from(c));
    }
#pragma unroll
    for (int c = 0; c < COPIES; ++c) {
      if (count(c) == PER_CHUNK) {
        *reinterpret_cast<Chunk<T>*>(tile + to(c)) = chunks[c];
      } else {
        copy_part(reinterpret_cast<T*>(tile + to(c)), from(c), count(c));
      }
    }
    advance();
  }

 private:
  __device__ int to(int c) const { return to_ + c * APART * Tile::ROW_BYTES; }
  __device__ const T* from(int c) const { return from_ + c * APART * next_row_; }

  // How many elements of copy c there are.
  __device__ int count(int c) const {
    return c * APART < across_left_ ? max(0, min(PER_CHUNK, along_left_)) : 0;
  }

  // At an edge of the matrix: what there is, then 0.
  __device__ static void copy_part(T* to, const T* from, int count) {
#pragma unroll 1
    for (int e = 0; e < PER_CHUNK; ++e) to[e] = e < count ? from[e] : T();
  }

  __device__ void advance() {
    from_ += next_tile_;
    (Tile::BY_K ? across_left_ : along_left_) -= Tile::K;
  }

  int to_;                        // of the first copy, within the tile
  const T* from_;                 // of the first copy
  int64_t next_row_, next_tile_;  // elements of the source, to there
  int along_left_, across_left_;  // elements that there are, from the first copy's on
};

// The slower path, where 16 bytes cannot be copied at a time: element by element. (cp.async copies
// no less than 4 bytes.)
template <class Tile, int NUM_THREADS>
class ElementLoader {
  using T = typename Tile::Element;
  static constexpr int CHUNKS = Tile::ROWS * Tile::CHUNKS, PER_CHUNK = Tile::PER_CHUNK;
  static_assert(CHUNKS % NUM_THREADS == 0, "each thread fills the same number of chunks");

 public:
  __device__ ElementLoader(const Matrix<const T>& source, int outer, int rows, int cols)
      : source_(source.moved(outer * source.row)), rows_left_(rows - outer), cols_left_(cols) {}

  __device__ void start(char* tile) { load(tile); }

  __device__ void load(char* tile) {
#pragma unroll 1
    for (int i = threadIdx.x; i < CHUNKS; i += NUM_THREADS) {
      // Adjacent threads read adjacent elements, if the rows are contiguous; else of adjacent rows.
      const bool by_rows = source_.col == 1;
      const int row = by_rows ? i / Tile::CHUNKS : i % Tile::ROWS;
      const int chunk = by_rows ? i % Tile::CHUNKS : i / Tile::ROWS;
      const T* from = source_.at(row, chunk * PER_CHUNK);
      const int count = row < rows_left_ ? cols_left_ - chunk * PER_CHUNK : 0;
      Chunk<T> elements = {};
#pragma unroll
      for (int e = 0; e < PER_CHUNK; ++e) {
        if (e < count) elements.element[e] = from[e * source_.col];
      }
      *reinterpret_cast<Chunk<T>*>(tile + Tile::offset(row, chunk)) = elements;
    }
    source_ = source_.moved(Tile::K * source_.col);
    cols_left_ -= Tile::K;
  }

 private:
  Matrix<const T> source_;  // from the next tile on
  int rows_left_, cols_left_;
};

template <class Tile, int NUM_THREADS>
using TileLoader =
    std::conditional_t<Tile::along == Along::neither, ElementLoader<Tile, NUM_THREADS>,
                       ChunkLoader<Tile, NUM_THREADS>>;

// ------------------------------------------------------------------------------------------------
// From sums to C

// Sums pass through shared memory, a few rows of a warp's at a time: straight from the registers
// each row of C would get 8 elements at a time, too few for a whole sector of 32 bytes if they have
// 2 bytes each.
template <class T, int ROWS, int COLS>
struct Staged {
  static constexpr int STRIDE = COLS + 8;  // so that lanes' pairs of 4 adjacent rows do not meet
  static_assert(COLS % 4 == 0 && ROWS * COLS % 128 == 0,
                "32 lanes write 4 elements each at a time");
  Sum<T> sums[ROWS][STRIDE];

  // By a whole warp: writes what becomes of the sums to C, from row row0 and column col0 on.
  __device__ void write(const Matmul<T>& p, int row0, int col0) const {
    const int64_t first = blockIdx.z * p.C.batch + row0 * p.C.row + col0;
    const int64_t bytes = p.wide() ? sizeof(Sum<T>) : sizeof(T);
    write_to(reinterpret_cast<char*>(p.C.data) + first * bytes, p.C.row, p.M - row0, p.N - col0,
             p.wide(), is_plain(p) && p.N % 4 == 0 ? nullptr : &p, row0, col0);
  }

 private:
  // Not inlined: it would be compiled for every few rows. What a function that is called finds in p
  // it reads from memory, so p is for what is needed seldom, and else nullptr.
  __device__ __noinline__ void write_to(char* C, int64_t next_row, int rows, int cols, bool wide,
                                        const Matmul<T>* p, int row0, int col0) const {
#pragma unroll 1
    for (int four = threadIdx.x % 32; four < ROWS * COLS / 4; four += 32) {
      const int r = four / (COLS / 4), c = four % (COLS / 4) * 4;
      const Four<Sum<T>> sum = *reinterpret_cast<const Four<Sum<T>>*>(&sums[r][c]);
      if (r >= rows || c >= cols) continue;
      if (p != nullptr) {
        write_4(*p, row0 + r, col0 + c, sum, aligned_4(*p));
      } else if (wide) {
        reinterpret_cast<Four<Sum<T>>*>(C)[(r * next_row + c) / 4] = sum;
      } else {
        Four<T> narrow;
#pragma unroll
        for (int j = 0; j < 4; ++j) narrow.element[j] = static_cast<T>(sum.element[j]);
        reinterpret_cast<Four<T>*>(C)[(r * next_row + c) / 4] = narrow;
      }
    }
  }
};

// ------------------------------------------------------------------------------------------------
// A warp's part of the block's tile of C

// A block's tile of C is divided among warps, WM x WN elements each.
template <class ATile, class BTile, int WM, int WN, bool HALF_SUMS = false>
struct WarpMma {
  using T = typename ATile::Element;
  static constexpr int BM = ATile::OUTER, BN = BTile::OUTER, STEPS = ATile::STEPS;
  static_assert(BM % WM == 0 && BN % WN == 0, "warps cover the block's tile");
  static_assert(WM % 16 == 0 && WN % 16 == 0, "fragments, of 16, cover the warp's");
  static constexpr int NUM_THREADS = BM / WM * (BN / WN) * 32;
  static_assert(NUM_THREADS <= 1024, "a block has at most 1024 threads");
  static constexpr int TILES_M = WM / 16, TILES_N = WN / 8;
  using Staging = Staged<T, 8, WN>;
  static constexpr int STAGING_BYTES = NUM_THREADS / 32 * sizeof(Staging);

  struct Fragments {
    uint32_t A[TILES_M][4];
    uint32_t B[TILES_N / 2][4];
  };

  Accumulator<T, HALF_SUMS> acc[TILES_M][TILES_N];

  // The warp's first row and column within the block's tile.
  __device__ static int m() { return threadIdx.x / 32 / (BN / WN) * WM; }
  __device__ static int n() { return threadIdx.x / 32 % (BN / WN) * WN; }

  __device__ WarpMma()
      : A_lane_(ATile::template lane_offset<true>(m())),
        B_lane_(BTile::template lane_offset<false>(n())) {}

  __device__ Fragments read(const char* A_smem, const char* B_smem, int step) const {
    Fragments f;
#pragma unroll
    for (int i = 0; i < TILES_M; ++i) {
      ATile::template read<true>(f.A[i], shared_address(A_smem) + A_lane_, i, step);
    }
#pragma unroll
    for (int j = 0; j < TILES_N / 2; ++j) {
      BTile::template read<false>(f.B[j], shared_address(B_smem) + B_lane_, j, step);
    }
    return f;
  }

  // Rounds them, if need be.
  __device__ void multiply(Fragments& f) {
    if constexpr (std::is_same_v<T, float>) {
      for (auto& fragment : f.A) round_to_tf32(fragment);
      for (auto& fragment : f.B) round_to_tf32(fragment);
    }
#pragma unroll
    for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
      for (int j = 0; j < TILES_N; ++j) {
        acc[i][j].add(f.A[i], f.B[j / 2][j % 2 * 2], f.B[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  // All of both tiles.
  __device__ void multiply(const char* A_smem, const char* B_smem) {
#pragma unroll
    for (int step = 0; step < ATile::STEPS; ++step) {
      Fragments f = read(A_smem, B_smem, step);
      multiply(f);
    }
  }

 private:
  int A_lane_, B_lane_;  // where this lane reads, in either tile
};

// Writes what becomes of the block's sums, from row row0 and column col0 of C on. `smem`, of at
// least STAGING_BYTES, is no longer used by any thread of the block.
template <class Warp, class T>
__device__ void write_tile(const Matmul<T>& p, const Warp& warp, char* smem, int row0, int col0) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  auto& staged = reinterpret_cast<typename Warp::Staging*>(smem)[threadIdx.x / 32];
#pragma unroll
  for (int i = 0; i < Warp::TILES_M * 2; ++i) {
#pragma unroll
    for (int j = 0; j < Warp::TILES_N; ++j) {
      staged.sums[g][8 * j + 2 * t] = warp.acc[i / 2][j][i % 2 * 2];
      staged.sums[g][8 * j + 2 * t + 1] = warp.acc[i / 2][j][i % 2 * 2 + 1];
    }
    __syncwarp();  // 8 rows are complete
    staged.write(p, row0 + warp.m() + 8 * i, col0 + warp.n());
    __syncwarp();  // no lane still reads them
  }
}

// Computes and writes the block's tile of C, with one pair of tiles in shared memory.
template <class Warp, class ATile, class BTile, class T>
__device__ void multiply_tiles(const Matmul<T>& p, int row0, int col0) {
  constexpr int BYTES = ATile::BYTES + BTile::BYTES;
  __shared__ alignas(128) char smem[larger(BYTES, Warp::STAGING_BYTES)];
  char *A_smem = smem, *B_smem = smem + ATile::BYTES;
  const auto B_transposed = p.B.of_batch(blockIdx.z).transposed();
  TileLoader<ATile, Warp::NUM_THREADS> A(p.A.of_batch(blockIdx.z), row0, p.M, p.K);
  TileLoader<BTile, Warp::NUM_THREADS> B(B_transposed, col0, p.N, p.K);

  Warp warp;
  for (int k0 = 0; k0 < p.K; k0 += ATile::K) {
    A.load(A_smem);
    B.load(B_smem);
    __syncthreads();  // both tiles are complete
    warp.multiply(A_smem, B_smem);
    __syncthreads();  // no warp still reads the tiles that the next trip, or the sums, overwrite
  }
  write_tile(p, warp, smem, row0, col0);
}

// ------------------------------------------------------------------------------------------------
// Launching

// Calls run(T()) with the element type of the problem: float stands for tf32.
template <class Run>
void with_tensor_type(const MatmulProblem& p, Run run) {
  if (p.A.dtype == DType::float16) return run(fp16());
  if (p.A.dtype == DType::bfloat16) return run(bf16());
  return run(float());
}

// Calls run(a, b), constants of type Along: how A and the transpose of B are copied.
template <class T, class Run>
void with_alongs(const Matmul<T>& p, Run run) {
  constexpr std::integral_constant<Along, Along::k> k;
  constexpr std::integral_constant<Along, Along::outer> outer;
  constexpr std::integral_constant<Along, Along::neither> neither;
  const bool a_along_k = p.A.col == 1, b_along_k = p.B.row == 1;
  if (!aligned_16(p.A) || !aligned_16(p.B)) return run(neither, neither);
  if (a_along_k && b_along_k) return run(k, k);
  if constexpr (sizeof(T) == 1) {
    return run(neither, neither);
  } else {
    if (a_along_k) return run(k, outer);
    if (b_along_k) return run(outer, k);
    return run(outer, outer);
  }
}
