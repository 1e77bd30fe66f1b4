// softmax_backward.cuh: what the files of the backward ladder share: the problem as kernels see it,
// and what an element contributes and becomes.
#pragma once

#include "softmax_backward.h"
#include "softmax_vectors.cuh"

// SoftmaxBackwardProblem with its types. The scale, however, needs no care here: unlike in the
// forward pass, no exponential magnifies its rounding.
template <class T>
struct SoftmaxBackward {
  const T* dy;             // [rows, cols]
  const T* y;              // [rows, cols]
  const Compute<T>* dlse;  // [rows], or nullptr
  T* dx;                   // [rows, cols]
  int64_t rows;
  int cols;
  int64_t lddy, ldy, lddx;
  Compute<T> scale;
  bool log;
};

// Calls launch(slice) for the parts of p that one grid can hold, at that many blocks per row.
template <class T, class Launch>
void for_each_slice(const SoftmaxBackwardProblem& p, Launch launch, int blocks = 1) {
  const int64_t rows = p.dx.size[2], most = MAX_GRID_X / blocks;
  const int cols = static_cast<int>(p.dx.size[3]);
  if (cols == 0) return;
  for (int64_t row = 0; row < rows; row += most) {
    const auto* dlse = p.dlse.as<const Compute<T>>();
    launch(SoftmaxBackward<T>{
        .dy = p.dy.as<const T>() + row * p.dy.stride[2],
        .y = p.y.as<const T>() + row * p.y.stride[2],
        .dlse = dlse == nullptr ? nullptr : dlse + row,
        .dx = p.dx.as<T>() + row * p.dx.stride[2],
        .rows = min(rows - row, most),
        .cols = cols,
        .lddy = p.dy.stride[2],
        .ldy = p.y.stride[2],
        .lddx = p.dx.stride[2],
        .scale = static_cast<Compute<T>>(p.scale),
        .log = p.log,
    });
  }
}

// What is subtracted from the row's sum. Kernels load it first: after a barrier all threads would
// wait for it.
template <class T>
__device__ Compute<T> load_dlse(const SoftmaxBackward<T>& p, int64_t row) {
  return p.dlse != nullptr ? p.dlse[row] : Compute<T>(0);
}

// What an element adds to the sum. Backward options are run-time values, like the forward's
// (softmax_elements.cuh): the branches below are the same for all threads.
template <class T>
__device__ Compute<T> term(const SoftmaxBackward<T>& p, T dy, T y) {
  return p.log ? Compute<T>(dy) : Compute<T>(dy) * Compute<T>(y);
}

// What an element becomes once the sum, less dlse, is known.
template <class T>
__device__ T gradient(const SoftmaxBackward<T>& p, T dy, T y, Compute<T> sum) {
  const Compute<T> grad(dy), value(y);
  return T(p.scale * (p.log ? grad - exp(value) * sum : value * (grad - sum)));
}

// The same two for a vector: what its elements add to the sum, and what they become.
template <class T>
__device__ Compute<T> terms(const SoftmaxBackward<T>& p, Vector<T> dy_frag, Vector<T> y_frag) {
  Compute<T> sum = 0;
#pragma unroll
  for (int i = 0; i < Vector<T>::SIZE; ++i) sum += term(p, dy_frag.values[i], y_frag.values[i]);
  return sum;
}

template <class T>
__device__ Vector<T> gradients(const SoftmaxBackward<T>& p, Vector<T> dy_frag, Vector<T> y_frag,
                               Compute<T> sum) {
  Vector<T> dx_frag;
#pragma unroll
  for (int i = 0; i < Vector<T>::SIZE; ++i) {
    dx_frag.values[i] = gradient(p, dy_frag.values[i], y_frag.values[i], sum);
  }
  return dx_frag;
}

// ------------------------------------------------------------------------------------------------
// What a rung declines

constexpr char NOT_ALIGNED_ALIKE[] =
    "dy, y and dx have different addresses modulo 16; use vectorized";

inline bool tensors_aligned_alike(const SoftmaxBackwardProblem& p) {
  return with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    return rows_aligned_alike<T>(p.dx, p.dy) && rows_aligned_alike<T>(p.dx, p.y);
  });
}

// The number of vectors in a row.
inline int vectors_of_a_row(const SoftmaxBackwardProblem& p) {
  return with_dtype(p.dx.dtype, [&](auto zero) {
    return static_cast<int>(p.dx.size[3]) / Vector<decltype(zero)>::SIZE;
  });
}

bool fits_in_registers(const SoftmaxBackwardProblem& p);  // softmax_backward_row_in_registers.cu
