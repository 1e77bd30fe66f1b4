// softmax_elements.cuh: what happens to an element, with the options scale, log and lse, for the
// rungs from vectorized on. A kernel walks a row as if there were no options:
//
//   scaled      x to z = prescale * x       without a scale z = x
//   add         x to what a part of a row comes to, (m, l)
//   Finish      x to y, once the row's (m, l) is known: y = exp(slope * (z - m)) / l
//   write_lse   (m, l) to the row's lse     without the option nothing
//
// scale = prescale * slope; softmax.cuh explains why, and what rate is.
//
// Options are run-time values. All threads take the same branch, once per vector, and scale is a
// product in every kernel: one kernel per dtype and rung suffices. With log as a template argument
// there would be two, and an edit would take twice as long to compile.
#pragma once

#include "softmax_vectors.cuh"

// z of one element.
template <class T>
__device__ void scaled(const Softmax<T>& p, T x, Compute<T> (&z)[1]) {
  z[0] = p.prescale * Compute<T>(x);
}

// z of the elements of a vector.
template <class T>
__device__ void scaled(const Softmax<T>& p, const Vector<T>& x, Compute<T> (&z)[Vector<T>::SIZE]) {
#pragma unroll
  for (int i = 0; i < Vector<T>::SIZE; ++i) z[i] = p.prescale * Compute<T>(x.values[i]);
}

// A bf16 is the upper half of an fp32: each takes one instruction, a shift or a mask; extracting
// and converting the second bf16 of a word would take two.
__device__ inline void scaled(const Softmax<bf16>& p, const Vector<bf16>& x, float (&z)[8]) {
  const auto& words = reinterpret_cast<const uint4&>(x);
  const uint32_t pairs[] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    z[2 * i] = p.prescale * __uint_as_float(pairs[i] << 16);
    z[2 * i + 1] = p.prescale * __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

// Adds an element or a vector of x to a part of a row.
template <class T, class Elements>
__device__ void add(const Softmax<T>& p, const Elements& x, Online<Compute<T>>& row) {
  Compute<T> z[sizeof(Elements) / sizeof(T)];
  scaled(p, x, z);
  row.add(z, p.rate);
}

// From x to y, once the row's m and l are known.
template <class T>
struct Finish {
  using Number = Compute<T>;
  Number m, last;  // y = exp(slope * (z - m)) * last, or slope * (z - m) - last for the logarithm

  // One division or logarithm per thread and row, then one product or difference per element.
  __device__ Finish(const Softmax<T>& p, const Online<Number>& row) : m(row.m) {
    last = p.log ? log(row.l) : 1 / row.l;
    if (row.l == INFINITY) last = NAN;  // +inf in the row: no softmax
  }
  __device__ T logarithm(const Softmax<T>& p, Number z) const {
    return T(p.slope * (z - m) - last);
  }
  __device__ T quotient(const Softmax<T>& p, Number z) const {
    return T(exponential(p.rate, z - m) * last);
  }
  __device__ T operator()(const Softmax<T>& p, T x) const {
    Number z[1];
    scaled(p, x, z);
    return p.log ? logarithm(p, z[0]) : quotient(p, z[0]);
  }
  __device__ Vector<T> operator()(const Softmax<T>& p, const Vector<T>& x) const {
    Number z[Vector<T>::SIZE];
    Vector<T> y;
    scaled(p, x, z);
    if (p.log) {
#pragma unroll
      for (int i = 0; i < Vector<T>::SIZE; ++i) y.values[i] = logarithm(p, z[i]);
    } else {
#pragma unroll
      for (int i = 0; i < Vector<T>::SIZE; ++i) y.values[i] = quotient(p, z[i]);
    }
    return y;
  }
};

// Writes lse of row `index`. Called by one of the threads that share the row.
template <class T>
__device__ void write_lse(const Softmax<T>& p, int64_t index, const Online<Compute<T>>& row) {
  if (p.lse != nullptr) p.lse[index] = p.slope * row.m + log(row.l);
}

// ------------------------------------------------------------------------------------------------
// What a rung declines

constexpr char NOT_ALIGNED_ALIKE[] = "x and y have different addresses modulo 16; use vectorized";

inline bool tensors_aligned_alike(const SoftmaxProblem& p) {
  return with_dtype(p.x.dtype,
                    [&](auto zero) { return rows_aligned_alike<decltype(zero)>(p.x, p.y); });
}

bool fits_in_registers(const SoftmaxProblem& p);  // softmax_row_in_registers.cu
