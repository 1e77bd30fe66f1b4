// softmax.cuh: what the files of the softmax ladders share: the problem as kernels see it, and
// parts of a row. Reductions are in reduce.cuh.
//
// Headers built on it: softmax_vectors.cuh (all dtypes, 16 bytes at a time), softmax_elements.cuh
// (scale, log, lse), softmax_cluster.cuh (several blocks per row).
#pragma once

#include <cmath>

#include "common.cuh"
#include "ptx.cuh"
#include "reduce.cuh"
#include "softmax.h"

// ------------------------------------------------------------------------------------------------
// The problem as kernels see it

// The type that kernels compute in: fp32, or fp64 for fp64.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

constexpr double LOG2_E = 1.4426950408889634;

template <class Number>
constexpr Number LARGEST = Number(3.4028234663852886e38);  // the largest finite number
template <>
constexpr double LARGEST<double> = 1.7976931348623157e308;

// SoftmaxProblem with types. fp32 rungs without options read only x, y, rows, cols, ldx and ldy.
//
// The scale is split into two factors, scale = prescale * slope. z = prescale * x is exact (unless
// subnormal), as prescale is 0 or a power of two up to 1, with the sign of scale. So the maximum of
// z is where that of scale * x is, and in slope * (z - m), slope >= 1, only the subtraction and the
// product are rounded.
template <class T>
struct Softmax {
  using Number = Compute<T>;
  const T* x;   // [rows, cols]
  T* y;         // [rows, cols]
  Number* lse;  // [rows], or nullptr
  int64_t rows;
  int cols;
  int64_t ldx, ldy;
  Number prescale, slope;
  Number rate;  // exp(slope * d) is exponential(rate, d)
  bool log;
};

template <class T>
Softmax<T> lowered(const SoftmaxProblem& p) {
  using Number = Compute<T>;
  double prescale = p.scale;
  if (p.scale != 0) {
    int exponent;
    std::frexp(p.scale, &exponent);  // scale = a number in [0.5, 1) * 2^exponent
    prescale = std::copysign(std::ldexp(1.0, min(exponent - 1, 0)), p.scale);
  }
  const double slope = p.scale == 0 ? 1 : p.scale / prescale;
  const double rate = sizeof(Number) == 4 ? min(slope * LOG2_E, LARGEST<float>) : slope;
  return {
      .x = p.x.as<const T>(),
      .y = p.y.as<T>(),
      .lse = p.lse.as<Number>(),
      .rows = p.x.size[2],
      .cols = static_cast<int>(p.x.size[3]),
      .ldx = p.x.stride[2],
      .ldy = p.y.stride[2],
      .prescale = static_cast<Number>(prescale),
      .slope = static_cast<Number>(slope),
      .rate = static_cast<Number>(rate),
      .log = p.log,
  };
}

// Calls launch(slice) for the parts of p that one grid can hold, 2^31 - 1 blocks each, at that many
// blocks per row. Nearly always that is one part, p itself; none if there is nothing to write.
template <class T, class Launch>
void for_each_slice(const SoftmaxProblem& p, Launch launch, int blocks = 1) {
  const Softmax<T> all = lowered<T>(p);
  if (all.cols == 0 && all.lse == nullptr) return;
  const int64_t most = MAX_GRID_X / blocks;
  for (int64_t row = 0; row < all.rows; row += most) {
    Softmax<T> slice = all;
    slice.x += row * all.ldx;
    slice.y += row * all.ldy;
    if (slice.lse != nullptr) slice.lse += row;
    slice.rows = min(all.rows - row, most);
    launch(slice);
  }
}

// ------------------------------------------------------------------------------------------------
// Arithmetic

// exp(slope * d): in fp32 a power of 2, for which there is an instruction.
__device__ inline float exponential(float rate, float d) { return ex2(rate * d); }
__device__ inline double exponential(double rate, double d) { return exp(rate * d); }

// ------------------------------------------------------------------------------------------------
// Parts of a row (from rung online on)

// A part of a row in two numbers: the maximum m of its z (z = x unless there is a scale, see struct
// Softmax) and the sum l of exp(slope * (z - m)). m is finite: an infinite z counts as the largest
// number, and makes l infinite. A NaN among the z makes l NaN.
template <class Number>
struct alignas(2 * sizeof(Number)) Online {
  Number m, l;

  static __device__ Online nothing() { return {-LARGEST<Number>, 0}; }

  template <int N>
  __device__ void add(const Number (&z)[N], Number rate) {
    Number m_new = m;
#pragma unroll
    for (int i = 0; i < N; ++i) m_new = max(m_new, z[i]);
    m_new = min(m_new, LARGEST<Number>);
    l *= exponential(rate, m - m_new);
#pragma unroll
    for (int i = 0; i < N; ++i) l += exponential(rate, z[i] - m_new);
    m = m_new;
  }
};

// Merges two parts of a row: each sum is scaled down to the larger maximum.
template <class Number>
struct Merge {
  Number rate;

  __device__ Online<Number> operator()(const Online<Number>& a, const Online<Number>& b) const {
    const Number m = max(a.m, b.m);
    return {m, a.l * exponential(rate, a.m - m) + b.l * exponential(rate, b.m - m)};
  }
};

template <class Number>
__device__ Online<Number> shuffle_xor(const Online<Number>& value, int distance) {
  return {shuffle_xor(value.m, distance), shuffle_xor(value.l, distance)};
}
