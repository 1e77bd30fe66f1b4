// softmax_vectors.cuh: rows of any floating-point dtype, 16 bytes at a time. Forward and backward.
#pragma once

#include "half.cuh"
#include "softmax.cuh"

// Returns run(T()), where T is the C++ type of a dtype: kernels are instantiated for all four.
template <class Run>
auto with_dtype(DType dtype, Run run) {
  switch (dtype) {
    case DType::float32:
      return run(float());
    case DType::float64:
      return run(double());
    case DType::float16:
      return run(fp16());
    case DType::bfloat16:
      return run(bf16());
  }
  throw LaunchError("softmax takes floating-point numbers of 16, 32 or 64 bits");
}

// ------------------------------------------------------------------------------------------------
// Vectors

// 16 bytes of a row: the most that a lane loads or stores at once.
template <class T>
struct alignas(16) Vector {
  static constexpr int SIZE = 16 / sizeof(T);
  T values[SIZE];
};

template <class T>
__device__ bool is_aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Vector<T>) == 0;
}

// The vector at p: one load if p is `aligned` to 16 bytes, else one per element. It goes through a
// uint4 because the compiler may split the assignment of a Vector<T> into one access per element.
template <class T>
__device__ Vector<T> load_vector(const T* p, bool aligned = true) {
  Vector<T> vector;
  if (aligned) {
    reinterpret_cast<uint4&>(vector) = *reinterpret_cast<const uint4*>(p);
  } else {
#pragma unroll
    for (int i = 0; i < Vector<T>::SIZE; ++i) vector.values[i] = p[i];
  }
  return vector;
}

template <class T>
__device__ void store_vector(T* aligned, const Vector<T>& vector) {
  st_global_16(aligned, reinterpret_cast<const uint4&>(vector));
}

// ------------------------------------------------------------------------------------------------
// Rows

// 16-byte accesses need addresses that are multiples of 16; a row may begin and end anywhere:
//
//   |....ab|cdef|ghij|klmn|op....|    boxes of 16 bytes in memory
//        ^^ head               ^^ tail: these edges are accessed element by element, one per lane
//
// The row that is written decides where to cut. There are fewer edges than elements in two vectors.
template <class T>
struct Split {
  static constexpr int SIZE = Vector<T>::SIZE;
  int head, vectors, edges;

  __device__ Split(const T* row, int cols) {
    const int behind = reinterpret_cast<uintptr_t>(row) % sizeof(Vector<T>) / sizeof(T);
    head = min(cols, (SIZE - behind) % SIZE);
    vectors = (cols - head) / SIZE;
    edges = cols - vectors * SIZE;
  }
  __device__ int column(int v) const { return head + v * SIZE; }  // the first of vector v
  __device__ int edge_column(int i) const { return i < head ? i : i + vectors * SIZE; }
};

// Calls use(col, the vector at column col) for the vectors t, t + threads, ... of row x, those of
// thread t. COARSENING of them are loaded before the first is used.
template <bool ALIGNED, int COARSENING, class T, class Use>
__device__ void walk_vectors(const T* x, const Split<T>& split, int t, int threads, Use use) {
  int v = t;
  for (; v + (COARSENING - 1) * threads < split.vectors; v += COARSENING * threads) {
    Vector<T> x_frag[COARSENING];
#pragma unroll
    for (int i = 0; i < COARSENING; ++i) {
      x_frag[i] = load_vector(x + split.column(v + i * threads), ALIGNED);
    }
#pragma unroll
    for (int i = 0; i < COARSENING; ++i) use(split.column(v + i * threads), x_frag[i]);
  }
  for (; v < split.vectors; v += threads) {
    use(split.column(v), load_vector(x + split.column(v), ALIGNED));
  }
}

// The same, but whether the row's vectors are aligned is checked once, outside the loop. Unaligned
// ones take SIZE loads each, which are enough in flight without coarsening.
template <int COARSENING, class T, class Use>
__device__ void for_each_vector(const T* x, const Split<T>& split, int t, int threads, Use use) {
  if (is_aligned(x + split.head)) {
    walk_vectors<true, COARSENING>(x, split, t, threads, use);
  } else {
    walk_vectors<false, 1>(x, split, t, threads, use);
  }
}

// Whether each row of a has the same address modulo 16 as that row of b: then a cut that suits one
// also suits the other.
template <class T>
bool rows_aligned_alike(const View& a, const View& b) {
  const auto first = reinterpret_cast<uintptr_t>(a.data) ^ reinterpret_cast<uintptr_t>(b.data);
  const int64_t step = a.stride[2] ^ b.stride[2];
  return first % sizeof(Vector<T>) == 0 && step % Vector<T>::SIZE == 0;
}

// Threads per row if each holds up to `held` of its vectors: 16, 32, or a multiple of 32. While all
// rows together occupy fewer than `busy` threads, each thread takes fewer, as long as a row has at
// most `most` threads. A row that is too long yields more than `most`.
inline int threads_of_a_row(int64_t rows, int vectors, int held, int most, int busy) {
  int threads = ceil_div(vectors, held);
  while (threads < vectors && 2 * threads <= most && rows * threads < busy) threads *= 2;
  return threads <= 16 ? 16 : ceil_div(threads, 32) * 32;
}
