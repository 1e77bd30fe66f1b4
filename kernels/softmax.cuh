// softmax.cuh: what the files of the softmax ladders (softmax*.cu) share: dtypes as template
// arguments, rows cut into 16-byte vectors, reductions, launches of clusters.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "common.cuh"
#include "ptx.cuh"
#include "softmax.h"

// ------------------------------------------------------------------------------------------------
// Types

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

// What run(T()) returns, T being the C++ type of a dtype.
template <class Run>
auto with_dtype(DType dtype, Run run) {
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
  throw LaunchError("softmax takes floating-point numbers of 16, 32 or 64 bits");
}

constexpr double LOG2_E = 1.4426950408889634;

template <class Number>
constexpr Number LARGEST = Number(3.4028234663852886e38);  // the largest finite number
template <>
constexpr double LARGEST<double> = 1.7976931348623157e308;

// SoftmaxProblem with its types: what the kernels are given.
//
// The scale comes in two factors. z = prescale * x, prescale being 0 or a power of two up to 1 with
// the sign of scale, is exact (but for results below the normal numbers). So the maximum of z is
// where that of scale * x is, and slope * (z - m), slope >= 1, has no rounding but that of z - m and
// its own.
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

// Calls launch(slice) for the parts of p that one grid can hold, 2^31 - 1 blocks each, with that
// many blocks for a row. Nearly always there is one part, p itself; none if nothing is to be written.
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

struct Max {
  template <class Number>
  __device__ Number operator()(Number a, Number b) const {
    return max(a, b);  // the other one if one is NaN
  }
};

struct Sum {
  template <class Number>
  __device__ Number operator()(Number a, Number b) const {
    return a + b;
  }
};

// ------------------------------------------------------------------------------------------------
// Vectors

// 16 bytes of a row: what one lane loads or stores at once.
template <class T>
struct alignas(16) Vector {
  static constexpr int SIZE = 16 / sizeof(T);
  T values[SIZE];
};

template <class T>
__device__ bool is_aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Vector<T>) == 0;
}

// The vector at p, in one load if p is `aligned` to 16 bytes. Moved as a uint4: a Vector<T> that is
// assigned may come out as one access per element, where the compiler takes it apart.
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

// A row begins and ends where it likes; a 16-byte access does not:
//
//   |....ab|cdef|ghij|klmn|op....|    boxes of 16 bytes in memory
//        ^^ head               ^^ tail: these edges go element by element, one to a lane
//
// The row that is written decides where to cut. Edges are fewer than two vectors.
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
  __device__ int column(int v) const { return head + v * SIZE; }  // the vector's first
  __device__ int edge_column(int i) const { return i < head ? i : i + vectors * SIZE; }
};

// Whether two tensors' rows lie alike towards 16-byte boundaries, all of them.
template <class T>
bool lie_alike(const View& a, const View& b) {
  const auto first = reinterpret_cast<uintptr_t>(a.data) ^ reinterpret_cast<uintptr_t>(b.data);
  const int64_t step = a.stride[2] ^ b.stride[2];
  return first % sizeof(Vector<T>) == 0 && step % Vector<T>::SIZE == 0;
}

// Threads for a row, each taking up to `held` of its vectors: 16, 32, or a multiple of 32. Where all
// rows together keep fewer than `busy` threads, each takes fewer, as long as `most` threads do. More
// than that if the row is too long.
inline int threads_of_a_row(int64_t rows, int vectors, int held, int most, int busy) {
  int threads = ceil_div(vectors, held);
  while (threads < vectors && 2 * threads <= most && rows * threads < busy) threads *= 2;
  return threads <= 16 ? 16 : ceil_div(threads, 32) * 32;
}

// ------------------------------------------------------------------------------------------------
// Reductions by shuffles

template <class Number>
__device__ Number shuffle_xor(Number value, int distance) {
  return __shfl_xor_sync(ALL_LANES, value, distance);
}

// op over the values of `lanes` neighbouring lanes, a power of two up to 32, given to each of them.
//
//   distance 4   0 1 2 3 4 5 6 7     lane t takes what lane t ^ 4 has: 0 and 4 now have the same
//   distance 2   0 1 2 3
//   distance 1   0 1                 after log2(lanes) steps all have all
template <class Value, class Op>
__device__ Value group_reduce(Value value, Op op, int lanes = 32) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value = op(value, shuffle_xor(value, distance));
  }
  return value;
}

// op over the values of all threads of the block, given to each of them; `none` changes nothing.
// Two reductions in a row need an smem each: a warp may be at the second while another still reads
// the first.
template <class Value, class Op>
__device__ Value block_reduce_shuffles(Value value, Value (&smem)[32], Op op, Value none) {
  const int lane = threadIdx.x % 32;
  value = group_reduce(value, op);
  if (lane == 0) smem[threadIdx.x / 32] = value;
  __syncthreads();  // every warp's result is in smem
  return group_reduce(lane < blockDim.x / 32 ? smem[lane] : none, op);
}

// ------------------------------------------------------------------------------------------------
// Parts of a row (rung online)

// What a part of a row comes to: the maximum m of its z (z = x but for a scale, see struct Softmax) and
// the sum l of exp(slope * (z - m)). m is finite: an infinite z counts as the largest number, and
// makes l infinite. A NaN among the z makes l NaN.
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

// ------------------------------------------------------------------------------------------------
// Clusters (sm_90)

// The most blocks a cluster may have on any GPU.
constexpr int MAX_CLUSTER = 16;

// The dynamic shared memory that a block of the kernel may have on this GPU. The kernel is allowed
// it once and for all, and not what one launch needs: that setting is shared by all threads.
template <class Kernel>
int allow_all_shared_memory(Kernel kernel) {
  int device = 0, limit = 0;
  cudaFuncAttributes attributes;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  const int room = limit - static_cast<int>(attributes.sharedSizeBytes);
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, room));
  return room;
}

// Launches clusters of `size` blocks, at most `clusters`, and if `resident` no more than run at the
// same time. False, and nothing is launched, if this GPU has no room for such a cluster.
template <class... Params, class... Args>
bool launch_clusters(void (*kernel)(Params...), int64_t clusters, bool resident, int size,
                     int threads, int smem_bytes, cudaStream_t stream, const Args&... args) {
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchAttribute cluster = {.id = cudaLaunchAttributeClusterDimension};
  cluster.val.clusterDim = {static_cast<unsigned>(size), 1, 1};
  cudaLaunchConfig_t config = {
      .gridDim = static_cast<unsigned>(size),
      .blockDim = static_cast<unsigned>(threads),
      .dynamicSmemBytes = static_cast<size_t>(smem_bytes),
      .stream = stream,
      .attrs = &cluster,
      .numAttrs = 1,
  };
  int active = 0;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&active, kernel, &config);
  if (error == cudaErrorInvalidClusterSize) {
    cudaGetLastError();  // a GPU that has no clusters of this size at all
    return false;
  }
  CUDA_CHECK(error);
  if (active == 0) return false;
  if (resident) clusters = min(int64_t{active}, clusters);
  config.gridDim.x *= static_cast<unsigned>(clusters);
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Params(args)...));
  return true;
}
