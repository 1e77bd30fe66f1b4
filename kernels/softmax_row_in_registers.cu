// softmax_row_in_registers.cu: softmax in one pass. The contract is in softmax.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   row_in_registers  the row stays in registers                         8
//
// Next rung, for longer rows: softmax_cluster.cu.
#include "softmax_elements.cuh"

// ------------------------------------------------------------------------------------------------
// row_in_registers: the row is read once (all dtypes, options)
// Idea     A thread takes up to 32 elements and keeps them in registers from the load to the store:
//          every element is read once, goes through exp once, and is written once. All loads of a
//          thread are in flight before the first is used. The longer the row, the more threads
//          share it: 16 or 32 lanes of a warp, then a block of as many warps as it takes.
//
//          lanes per row    16     32     64     ...    512
//          elements up to  512   1024   2048          16384      (fp64: half as many)
//
// Changes  vs warp_per_row: x_frag and z. With all elements at hand nothing needs to be online: the
//          maximum comes first, then z becomes exp(z - m) in place, then the sum.
// Bytes    4 read + 4 written = 8 requested per fp32 element, the floor; 1 exp.
// Shape    Up to 32 lanes: 128 threads per block, 8 or 4 rows, no __syncthreads. Beyond: a block
//          per row, 2 __syncthreads. 32 registers of a thread hold data.
// Trap     Registers cannot be indexed: a loop over z that is not unrolled puts it into local
//          memory, which is global memory. And the shuffles need all lanes of the warp: those past
//          the last row stay, with a row of no columns.
// Declines longer rows, and rows of x and y that have different addresses modulo 16: their vectors
//          would be collected element by element.
// Next     Longer rows, held by several blocks.
constexpr int ROW_IN_REGISTERS_VECTORS = 8;           // tunable: 2, 4, 8
constexpr int ROW_IN_REGISTERS_NUM_THREADS = 128;     // tunable: 32, 64, 128, 256
constexpr int ROW_IN_REGISTERS_MAX_THREADS = 512;     // tunable: 256, 512, 1024
constexpr int ROW_IN_REGISTERS_BUSY_THREADS = 32768;  // tunable: 0, 16384, 32768, 65536

// Vectors per thread: 32 elements, 16 of fp64. For 16-bit types, 8 vectors would be 64 z registers.
template <class T>
constexpr int HELD_VECTORS =
    sizeof(T) == 2 ? ROW_IN_REGISTERS_VECTORS / 2 : ROW_IN_REGISTERS_VECTORS;

// Replaces z by exp(slope * (z - m)), but keeps z for the logarithm. Returns the sum of exp.
template <class T, int N>
__device__ Compute<T> exponentiate(const Softmax<T>& p, Compute<T> m, Compute<T> (&z)[N]) {
  Compute<T> sum = 0;
  if (p.log) {
#pragma unroll
    for (int i = 0; i < N; ++i) sum += exponential(p.rate, z[i] - m);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) sum += z[i] = exponential(p.rate, z[i] - m);
  }
  return sum;
}

// y, from what exponentiate left in z.
template <class T>
__device__ T finished(const Softmax<T>& p, const Finish<T>& finish, Compute<T> z) {
  return p.log ? finish.logarithm(p, z) : T(z * finish.last);
}

// Blocks of [rows, lanes]: a row is shared by 16 lanes, by a warp, or by the whole block.
template <class T>
__global__ void __launch_bounds__(ROW_IN_REGISTERS_MAX_THREADS,
                                  sizeof(T) == 8 ? 1 : 1024 / ROW_IN_REGISTERS_MAX_THREADS)
    softmax_row_in_registers_kernel(const Softmax<T> p) {
  using Number = Compute<T>;
  constexpr int VECTORS = HELD_VECTORS<T>, SIZE = Vector<T>::SIZE;
  __shared__ Number warp_max[32], warp_sum[32];
  const int t = threadIdx.x, lanes = blockDim.x;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool exists = index < p.rows;
  const T* x = p.x + index * p.ldx;
  T* y = p.y + index * p.ldy;
  const Split<T> split(y, exists ? p.cols : 0);

  // Calls use(i, v) for this thread's vectors: its i-th one is the row's v-th.
  const auto for_each = [&](auto use) {
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
      const int v = t + i * lanes;
      if (v >= split.vectors) break;
      use(i, v);
    }
  };
  const auto reduce = [&](Number value, Number(&smem)[32], auto op, Number none) {
    return lanes <= 32 ? group_reduce(value, op, lanes)
                       : block_reduce_shuffles(value, smem, op, none);
  };

  // Load. No load depends on whether this thread has another: all may be issued at once.
  Vector<T> x_frag[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int v = t + i * lanes;
    if (v < split.vectors) x_frag[i] = load_vector(x + split.column(v));
  }
  const int edge = split.edge_column(t);
  Number z[VECTORS][SIZE], z_edge[1] = {-INFINITY};
  if (t < split.edges) scaled(p, x[edge], z_edge);

  // Reduce: the maximum, kept finite.
  Number m = max(z_edge[0], -LARGEST<Number>);
  for_each([&](int i, int) {
    scaled(p, x_frag[i], z[i]);
#pragma unroll
    for (int j = 0; j < SIZE; ++j) m = max(m, z[i][j]);
  });
  m = min(reduce(m, warp_max, Max(), -LARGEST<Number>), LARGEST<Number>);

  // Exp, and reduce: the sum.
  Number l = t < split.edges ? exponentiate(p, m, z_edge) : 0;
  for_each([&](int i, int) { l += exponentiate(p, m, z[i]); });
  l = reduce(l, warp_sum, Add(), 0);

  // Store.
  const Online<Number> row{m, l};
  if (exists && t == 0) write_lse(p, index, row);
  const Finish<T> finish(p, row);
  if (t < split.edges) y[edge] = finished(p, finish, z_edge[0]);
  for_each([&](int i, int v) {
    Vector<T> y_frag;
#pragma unroll
    for (int j = 0; j < SIZE; ++j) y_frag.values[j] = finished(p, finish, z[i][j]);
    store_vector(y + split.column(v), y_frag);
  });
}

template <class T>
static int lanes_of_a_row(const SoftmaxProblem& p) {
  const int vectors = static_cast<int>(p.x.size[3]) / Vector<T>::SIZE;
  return threads_of_a_row(p.x.size[2], vectors, HELD_VECTORS<T>, ROW_IN_REGISTERS_MAX_THREADS,
                          ROW_IN_REGISTERS_BUSY_THREADS);
}

// Whether one block can hold a row.
bool fits_in_registers(const SoftmaxProblem& p) {
  return with_dtype(p.x.dtype, [&](auto zero) {
    return lanes_of_a_row<decltype(zero)>(p) <= ROW_IN_REGISTERS_MAX_THREADS;
  });
}

const char* softmax_row_in_registers_declines(const SoftmaxProblem& p) {
  if (!fits_in_registers(p)) {
    return reason("rows of %d columns are more than the registers of a block hold",
                  static_cast<int>(p.x.size[3]));
  }
  return tensors_aligned_alike(p) ? nullptr : NOT_ALIGNED_ALIKE;
}

void softmax_row_in_registers(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int lanes = lanes_of_a_row<T>(p);
    const int rows = lanes <= 32 ? ROW_IN_REGISTERS_NUM_THREADS / lanes : 1;  // of a block
    const dim3 block(lanes, rows);
    for_each_slice<T>(p, [&](const Softmax<T>& s) {
      const auto grid = static_cast<unsigned>(ceil_div<int64_t>(s.rows, rows));
      softmax_row_in_registers_kernel<<<grid, block, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_row_in_registers_kernel);
    });
  });
}
