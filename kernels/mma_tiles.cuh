// mma_tiles.cuh: tiles of A and B in shared memory for tensor cores: where their elements lie, how
// fragments are read from them, and how they are filled.
//
// A tensor core multiplies small matrices whose elements lie spread over the registers of a warp,
// its fragments. An mma (ptx.cuh) takes 32 bytes of k, whatever the type: 16 elements of 2 bytes, 8
// of 4, 32 of 1. So all of this counts k in bytes. A is taken by rows, B by columns: "outer" is the
// index of those, M or N.
#pragma once

#include <type_traits>

#include "common.cuh"
#include "matrix.cuh"
#include "ptx.cuh"

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
//   banks  0..3  ...  28..31                      banks  0..3  ...  28..31
//   row 0     0 1 2 3 4 5 6 7                     row 0     0 1 2 3 4 5 6 7
//   row 1     - 0 1 2 3 4 5 6                     row 1     1 0 3 2 5 4 7 6
//   row 2     7 - 0 1 2 3 4 5                     row 2     2 3 0 1 6 7 4 5
//   padded: each row is a chunk longer            swizzled: row r has chunk c at c ^ r % 8
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
      next_row_ = source.col_stride;
      next_tile_ = Tile::K * source.col_stride;
    } else {
      from_ = source.at(outer + row, along);
      along_left_ = cols - along;
      across_left_ = rows - outer - row;
      next_row_ = source.row_stride;
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
      : source_(source.moved(outer * source.row_stride)),
        rows_left_(rows - outer),
        cols_left_(cols) {}

  __device__ void start(char* tile) { load(tile); }

  __device__ void load(char* tile) {
#pragma unroll 1
    for (int i = threadIdx.x; i < CHUNKS; i += NUM_THREADS) {
      // Adjacent threads read adjacent elements, if the rows are contiguous; else of adjacent rows.
      const bool by_rows = source_.col_stride == 1;
      const int row = by_rows ? i / Tile::CHUNKS : i % Tile::ROWS;
      const int chunk = by_rows ? i % Tile::CHUNKS : i / Tile::ROWS;
      const T* from = source_.at(row, chunk * PER_CHUNK);
      const int count = row < rows_left_ ? cols_left_ - chunk * PER_CHUNK : 0;
      Chunk<T> elements = {};
#pragma unroll
      for (int e = 0; e < PER_CHUNK; ++e) {
        if (e < count) elements.element[e] = from[e * source_.col_stride];
      }
      *reinterpret_cast<Chunk<T>*>(tile + Tile::offset(row, chunk)) = elements;
    }
    source_ = source_.moved(Tile::K * source_.col_stride);
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
