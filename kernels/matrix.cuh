// matrix.cuh: a matrix in memory, as kernels see it.
#pragma once

#include <cstdint>

// A matrix, of which either the rows or the columns are contiguous: one of these strides is 1. So the
// transpose of a matrix is a matrix, with the two strides exchanged.
template <class T>
struct Matrix {
  T* data;
  int64_t row_stride, col_stride;  // from one row to the next, from one column to the next
  int64_t batch_stride;            // from one matrix to the next; 0 repeats the same one

  __host__ __device__ T* at(int64_t i, int64_t j) const {
    return data + i * row_stride + j * col_stride;
  }
  __device__ T& operator()(int64_t i, int64_t j) const { return *at(i, j); }
  __host__ __device__ Matrix of_batch(int64_t b) const { return moved(b * batch_stride); }
  __host__ __device__ Matrix moved(int64_t elements) const {
    return {data + elements, row_stride, col_stride, batch_stride};
  }
  __host__ __device__ Matrix transposed() const {
    return {data, col_stride, row_stride, batch_stride};
  }
  // The same places, taken for elements of another type.
  template <class U>
  __host__ __device__ Matrix<U> as() const {
    return {reinterpret_cast<U*>(data), row_stride, col_stride, batch_stride};
  }
};

// Whether every row or column of a matrix begins at a multiple of 16 bytes.
template <class T>
__host__ __device__ bool aligned_16(const Matrix<T>& m) {
  constexpr int ELEMENTS = 16 / sizeof(T);
  const int64_t step = m.col_stride == 1 ? m.row_stride : m.col_stride;
  return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && step % ELEMENTS == 0 &&
         m.batch_stride % ELEMENTS == 0;
}
