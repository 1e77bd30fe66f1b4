// attention_cpu_simd.h: vectors of floats for attention_cpu_simd.cpp: tiles of sums in registers, the
// product, and 2^x. They are GCC's and Clang's vector types: operators work on all lanes, in the
// instructions of whatever machine the calling function is compiled for.
#pragma once

#include "attention_cpu.h"

// Vectors are passed by reference, to functions that are always inlined: how they are passed by value
// depends on the machine.
#define ALWAYS_INLINE inline __attribute__((always_inline))

// TARGET(isa) compiles a function for machines with those instructions, HAS(isa) asks this one.
#ifdef __x86_64__
#define TARGET(isa) __attribute__((target(isa)))
#define HAS(isa) __builtin_cpu_supports(isa)
#else  // vectors of 4 floats everywhere
#define TARGET(isa)
#define HAS(isa) false
#endif

// The sums that a thread has in registers, for ROWS keys, or columns of V, and NQ queries. Each step
// takes one number for each row, in all lanes, times a row of NQ numbers:
//
//                          NQ queries
//                     +--------+--------+
//                     | row[0] | row[1] |   of Q^T, or of the weights P
//                     +--------+--------+
//            +---+    +--------+--------+
//            | a |    |        |        |
//      ROWS  | a |    |  acc   |  acc   |
//            | a |    |        |        |
//            +---+    +--------+--------+
//       of K or V        W lanes  W lanes
template <int LANES, int VECTORS_, int ROWS_>
struct Tile {
  static constexpr int W = LANES, VECTORS = VECTORS_, ROWS = ROWS_;
  static constexpr int NQ = VECTORS * W;
  typedef float Floats __attribute__((vector_size(4 * LANES), may_alias));
  typedef int32_t Ints __attribute__((vector_size(4 * LANES), may_alias));
  typedef uint32_t Bits __attribute__((vector_size(4 * LANES), may_alias));
  using Row = Floats[VECTORS];
  using LaneNumbers = Ints[VECTORS];
  using Sums = Floats[ROWS][VECTORS];
};

// acc[i] += sum over first <= k < end of a[i * a_row + k * a_step] times row k of b [.., NQ].
// MASKED: only in lanes hidden + k and above; the others are not even multiplied by 0.
template <class Tile, bool MASKED = false>
ALWAYS_INLINE void multiply_add(const float* a, int64_t a_row, int64_t a_step,
                                const typename Tile::Floats* b, int64_t first, int64_t end,
                                typename Tile::Sums& acc, const typename Tile::LaneNumbers& lane,
                                int32_t hidden = 0) {
  for (int64_t k = first; k < end; ++k) {
    typename Tile::Row row;
#pragma GCC unroll 8
    for (int n = 0; n < Tile::VECTORS; ++n) row[n] = b[k * Tile::VECTORS + n];
#pragma GCC unroll 8
    for (int i = 0; i < Tile::ROWS; ++i) {
      const float x = a[i * a_row + k * a_step];
#pragma GCC unroll 8
      for (int n = 0; n < Tile::VECTORS; ++n) {
        const typename Tile::Floats sum = acc[i][n] + x * row[n];
        if constexpr (MASKED) {
          acc[i][n] = lane[n] >= hidden + static_cast<int32_t>(k) ? sum : acc[i][n];
        } else {
          acc[i][n] = sum;
        }
      }
    }
  }
}

// x becomes 2^x, to about 1 ulp: 0 or a subnormal number below -126, inf above 128, NaN if it is NaN.
// With n the nearest integer, 2^(x - n) is a polynomial, exact at 0, to whose exponent n is added.
// Next to 1.5 * 2^23 a float has no bit left for a fraction: adding that number rounds x, and n is in
// the lowest bits. The lowest bits of a NaN are anything, so it is left as it is.
template <class Tile>
ALWAYS_INLINE void exp2_lanes(typename Tile::Floats& x) {
  using Floats = typename Tile::Floats;
  using Bits = typename Tile::Bits;
  const Floats lowest = Floats{} - 127.0f, highest = Floats{} + 128.0f;
  x = lowest > x ? lowest : x;  // one instruction, which yields its second operand for NaN
  x = highest < x ? highest : x;
  const Floats shifted = x + 12582912.0f;
  const Floats f = x - (shifted - 12582912.0f);
  Floats y = f * 0.000155946782f + 0.00134066439f;
  y = y * f + 0.00961769297f;
  y = y * f + 0.0555031055f;
  y = y * f + 0.240226528f;
  y = y * f + 0.693147215f;
  y = y * f + 1.0f;
  const Bits bits = reinterpret_cast<Bits>(y) + (reinterpret_cast<Bits>(shifted) << 23);
  x = x == x ? reinterpret_cast<Floats>(bits) : x;
}

// Copies a matrix [rows, cols] to a tile of tile_rows rows of tile_cols floats: beyond the last row
// the last one again, whose scores change no maximum, and beyond the last column zeros.
template <class T>
ALWAYS_INLINE void load_tile(float* tile, int64_t tile_rows, int64_t tile_cols, const T* src,
                             int64_t src_row, int64_t rows, int64_t cols) {
  for (int64_t j = 0; j < tile_rows; ++j) {
    const T* row = src + std::min(j, rows - 1) * src_row;
    for (int64_t d = 0; d < cols; ++d) tile[j * tile_cols + d] = to_float(row[d]);
    for (int64_t d = cols; d < tile_cols; ++d) tile[j * tile_cols + d] = 0;
  }
}
