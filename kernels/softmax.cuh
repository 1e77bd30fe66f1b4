// softmax.cuh: what the softmax ladders (softmax.cu, softmax_cub.cu, softmax_backward.cu) share:
// problems with their types, dtypes as template arguments, and rows cut into 16-byte vectors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common.cuh"

// What a kernel computes in: fp32, and fp64 for fp64.
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

// SoftmaxProblem with its types: what the kernels are given.
template <class T>
struct Softmax {
  const T* x;       // [rows, cols]
  T* y;             // [rows, cols]
  Compute<T>* lse;  // [rows], or nullptr
  int64_t rows;
  int cols;
  int64_t ldx, ldy;
  Compute<T> scale;
  bool log;
};

// Calls run(T()) with the C++ type of a dtype.
template <class Run>
void with_dtype(DType dtype, Run run) {
  switch (dtype) {
    case DType::float32:
      return run(float());
    case DType::float64:
      return run(double());
    case DType::float16:
      return run(__half());
    case DType::bfloat16:
      return run(__nv_bfloat16());
  }
}

// Calls launch(slice) for the parts of p that one grid can hold, 2^31 - 1 rows each. Nearly always
// there is one part, p itself; none if nothing is to be written.
template <class T, class Launch>
void for_each_slice(const SoftmaxProblem& p, Launch launch) {
  if (p.cols == 0 && p.lse == nullptr) return;
  for (int64_t row = 0; row < p.rows; row += MAX_GRID_X) {
    launch(Softmax<T>{
        .x = static_cast<const T*>(p.x) + row * p.ldx,
        .y = static_cast<T*>(p.y) + row * p.ldy,
        .lse = p.lse == nullptr ? nullptr : static_cast<Compute<T>*>(p.lse) + row,
        .rows = min(p.rows - row, MAX_GRID_X),
        .cols = p.cols,
        .ldx = p.ldx,
        .ldy = p.ldy,
        .scale = static_cast<Compute<T>>(p.scale),
        .log = p.log,
    });
  }
}
