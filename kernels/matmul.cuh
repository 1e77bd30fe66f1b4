// matmul.cuh: what the files of the matmul ladder share: the problem as kernels see it, how a grid
// covers it, and the last step, from a sum to an element of C.
#pragma once

#include <type_traits>

#include "common.cuh"
#include "matmul.h"
#include "matrix.cuh"
#include "sum.cuh"

template <>
struct SumOf<int8_t> {
  using Type = int;
};

// The kernels' argument.
template <class T>
struct Matmul {
  Matrix<const T> A;       // [M, K], one per blockIdx.z
  Matrix<const T> B;       // [K, N]
  Matrix<T> C;             // [M, N], rows contiguous
  Matrix<const T> addend;  // [M, N], read if beta is not 0
  const T* bias;           // [N], or nullptr
  bool wide_output;        // whether C, addend and bias have elements of type Sum<T> instead
  int batch, M, N, K;
  Sum<T> alpha, beta;

  __host__ __device__ bool wide() const { return !std::is_same_v<T, Sum<T>> && wide_output; }
};

template <class T>
Matrix<T> matrix_of(const View& view) {
  // A dimension of size 1 has stride 0, so it is contiguous whatever it lies in.
  const bool rows = view.size[3] == 1 || view.stride[3] == 1;
  return {.data = view.as<T>(),
          .row_stride = rows ? view.stride[2] : 1,
          .col_stride = rows ? 1 : view.stride[3],
          .batch_stride = view.stride[1]};
}

template <class T>
Matmul<T> lowered(const MatmulProblem& p) {
  return {
      .A = matrix_of<const T>(p.A),
      .B = matrix_of<const T>(p.B),
      .C = matrix_of<T>(p.C),
      .addend = matrix_of<const T>(p.addend),
      .bias = p.bias.as<const T>(),
      .wide_output = p.C.dtype != p.A.dtype,
      .batch = static_cast<int>(p.C.size[1]),
      .M = static_cast<int>(p.C.size[2]),
      .N = static_cast<int>(p.C.size[3]),
      .K = static_cast<int>(p.A.size[3]),
      .alpha = static_cast<Sum<T>>(p.alpha),
      .beta = static_cast<Sum<T>>(p.beta),
  };
}

// Calls run(T()) with the type of the problem's elements, fp32 or fp64.
template <class Run>
void with_type(const MatmulProblem& p, Run run) {
  if (p.A.dtype == DType::float64) return run(double());
  return run(float());
}

// Calls launch(slice) for the parts of p that one grid can hold: 65535 blocks of rows_per_block
// rows along y, 65535 matrices along z. Nearly always that is one part, p itself; none if C is
// empty.
template <class T, class Launch>
void for_each_slice(const MatmulProblem& p, int rows_per_block, Launch launch) {
  const Matmul<T> all = lowered<T>(p);
  if (all.N == 0) return;
  const int64_t max_rows = MAX_GRID_YZ * rows_per_block;
  const int64_t per = all.wide() ? sizeof(Sum<T>) / sizeof(T) : 1;  // Ts per element of C
  for (int64_t outer = 0; outer < p.C.size[0]; ++outer) {
    for (int64_t b = 0; b < all.batch; b += MAX_GRID_YZ) {
      for (int64_t row = 0; row < all.M; row += max_rows) {
        Matmul<T> slice = all;
        slice.A =
            all.A.moved(outer * p.A.stride[0] + b * all.A.batch_stride + row * all.A.row_stride);
        slice.B = all.B.moved(outer * p.B.stride[0] + b * all.B.batch_stride);
        slice.C = all.C.moved(
            per * (outer * p.C.stride[0] + b * all.C.batch_stride + row * all.C.row_stride));
        if (all.beta != 0) {
          slice.addend =
              all.addend.moved(per * (outer * p.addend.stride[0] + b * all.addend.batch_stride +
                                      row * all.addend.row_stride));
        }
        slice.batch = static_cast<int>(min(all.batch - b, MAX_GRID_YZ));
        slice.M = static_cast<int>(min(all.M - row, max_rows));
        launch(slice);
      }
    }
  }
}

// An element of addend or bias.
template <class T>
__device__ Sum<T> widened(const T* data, int64_t index, bool wide) {
  return wide ? reinterpret_cast<const Sum<T>*>(data)[index] : static_cast<Sum<T>>(data[index]);
}

// What becomes of a sum: element (row, col) of the block's matrix C. With alpha = 1 and neither
// addend nor bias it is the sum itself.
template <class T>
__device__ Sum<T> finished(const Matmul<T>& p, int64_t row, int64_t col, Sum<T> sum) {
  Sum<T> value = p.alpha * sum;
  // 0 times a NaN is a NaN, so beta = 0 must not even look.
  if (p.beta != 0) {
    const int64_t index = blockIdx.z * p.addend.batch_stride + row * p.addend.row_stride + col;
    value += p.beta * widened(p.addend.data, index, p.wide());
  }
  if (p.bias != nullptr) value += widened(p.bias, col, p.wide());
  return value;
}

template <class T>
__device__ void write(const Matmul<T>& p, int64_t row, int64_t col, Sum<T> sum) {
  const Sum<T> value = finished(p, row, col, sum);
  if (p.wide()) {
    p.C.template as<Sum<T>>().of_batch(blockIdx.z)(row, col) = value;
  } else {
    p.C.of_batch(blockIdx.z)(row, col) = static_cast<T>(value);
  }
}

// ------------------------------------------------------------------------------------------------
// Tiles in shared memory, for the rungs in which a thread computes many elements of C

// Copies a tile of a matrix of rows x cols elements, transposed:
// tile[k][i] = source(i0 + i, k0 + k). For A that is [BK, BM]; for B, pass its transpose: [BK, BN]. Columns that do not exist are 0, so
// that they add nothing. Rows that do not exist repeat the last: what becomes of them is not
// written to C. Adjacent threads read adjacent elements, whichever way they lie.
template <int NUM_THREADS, class T, int BK, int LENGTH>
__device__ void load_tile(T (&tile)[BK][LENGTH], const Matrix<const T>& source, int i0, int k0,
                          int rows, int cols) {
  static_assert(BK * LENGTH % NUM_THREADS == 0, "each thread loads the same number of elements");
  const bool along_k = source.col_stride == 1;
#pragma unroll
  for (int start = 0; start < BK * LENGTH; start += NUM_THREADS) {
    const int element = start + threadIdx.x;
    const int i = along_k ? element / BK : element % LENGTH;
    const int k = along_k ? element % BK : element / LENGTH;
    // Loading unconditionally, from where there is something, leaves all loads in flight at once.
    const T value = source(min(i0 + i, rows - 1), min(k0 + k, cols - 1));
    tile[k][i] = k0 + k < cols ? value : T(0);
  }
}

// ------------------------------------------------------------------------------------------------
// Four fp32 elements at a time, along memory

// The first `count` of the four floats at p; 0 in place of the others. One load if `aligned`, that
// is if p is a multiple of 16, and all four exist; else one by one.
__device__ inline float4 load_4(const float* p, int count, bool aligned) {
  if (aligned && count >= 4) return *reinterpret_cast<const float4*>(p);
  return {count > 0 ? p[0] : 0.0f, count > 1 ? p[1] : 0.0f, count > 2 ? p[2] : 0.0f,
          count > 3 ? p[3] : 0.0f};
}

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T element[4];
};

// Whether every row of C begins at a multiple of four elements.
template <class T>
__device__ bool aligned_4(const Matmul<T>& p) {
  const int four = 4 * (p.wide() ? sizeof(Sum<T>) : sizeof(T));
  return reinterpret_cast<uintptr_t>(p.C.data) % four == 0 && p.C.row_stride % 4 == 0 &&
         p.C.batch_stride % 4 == 0;
}

// Whether C's elements are the sums themselves, and can be written four at a time.
template <class T>
__device__ bool is_plain(const Matmul<T>& p) {
  return p.alpha == 1 && p.beta == 0 && p.bias == nullptr && aligned_4(p);
}

// Calls run(C) with C as a matrix of its elements' type.
template <class T, class Run>
__device__ void with_C(const Matmul<T>& p, Run run) {
  if (p.wide()) return run(p.C.template as<Sum<T>>().of_batch(blockIdx.z));
  run(p.C.of_batch(blockIdx.z));
}

// Writes what becomes of the sums of four adjacent elements, those within C. aligned: aligned_4(p).
template <class T>
__device__ void write_4(const Matmul<T>& p, int row, int col, Four<Sum<T>> sums, bool aligned) {
  if (row >= p.M) return;
  const bool whole = aligned && col + 4 <= p.N;
  with_C(p, [&](const auto& C) {
    using Out = std::remove_reference_t<decltype(C(0, 0))>;
    Out* at = C.at(row, col);
    if (whole) {
      Four<Out> four;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        four.element[j] = static_cast<Out>(finished(p, row, col + j, sums.element[j]));
      }
      *reinterpret_cast<Four<Out>*>(at) = four;
      return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (col + j < p.N) at[j] = static_cast<Out>(finished(p, row, col + j, sums.element[j]));
    }
  });
}

// For threads with many sums: not inlined, it is compiled once, and not for every four of them.
template <class T>
__device__ __noinline__ void call_write_4(const Matmul<T>& p, int row, int col, Four<Sum<T>> sums) {
  write_4(p, row, col, sums, aligned_4(p));
}

// load_tile, four elements along memory at a time. A row of the tile may be longer than LENGTH.
template <int NUM_THREADS, int LENGTH, int BK, int STRIDE>
__device__ void load_tile_4(float (&tile)[BK][STRIDE], const Matrix<const float>& source, int i0,
                            int k0, int rows, int cols) {
  static_assert(
      BK * LENGTH % (4 * NUM_THREADS) == 0,
      "BK x LENGTH is a multiple of 4 floats per thread: choose a larger BK or fewer threads");
  const bool along_k = source.col_stride == 1, aligned = aligned_16(source);
#pragma unroll
  for (int start = 0; start < BK * LENGTH / 4; start += NUM_THREADS) {
    const int four = start + threadIdx.x;
    if (along_k) {  // transposed on the way: down a column of the tile
      const int i = four / (BK / 4), k = four % (BK / 4) * 4;
      const int count = i0 + i < rows ? cols - (k0 + k) : 0;
      const float4 v = load_4(source.at(i0 + i, k0 + k), count, aligned);
      tile[k][i] = v.x;
      tile[k + 1][i] = v.y;
      tile[k + 2][i] = v.z;
      tile[k + 3][i] = v.w;
    } else {
      const int i = four % (LENGTH / 4) * 4, k = four / (LENGTH / 4);
      const int count = k0 + k < cols ? rows - (i0 + i) : 0;
      *reinterpret_cast<float4*>(&tile[k][i]) = load_4(source.at(i0 + i, k0 + k), count, aligned);
    }
  }
}

// ------------------------------------------------------------------------------------------------
// The rungs in files of their own

void matmul_thread_tile_1d(const MatmulProblem& p, cudaStream_t stream);
void matmul_thread_tile(const MatmulProblem& p, cudaStream_t stream);
void matmul_vectorized(const MatmulProblem& p, cudaStream_t stream);
void matmul_conflict_free(const MatmulProblem& p, cudaStream_t stream);
void matmul_warp_tiles(const MatmulProblem& p, cudaStream_t stream);
void matmul_async(const MatmulProblem& p, cudaStream_t stream);
void matmul_split_k(const MatmulProblem& p, cudaStream_t stream);
void matmul_wmma(const MatmulProblem& p, cudaStream_t stream);
const char* matmul_wmma_declines(const MatmulProblem& p);
void matmul_mma(const MatmulProblem& p, cudaStream_t stream);
void matmul_mma_swizzled(const MatmulProblem& p, cudaStream_t stream);
void matmul_mma_pipelined(const MatmulProblem& p, cudaStream_t stream);
void matmul_mma_tuned(const MatmulProblem& p, cudaStream_t stream);
