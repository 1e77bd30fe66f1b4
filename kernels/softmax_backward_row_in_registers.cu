// softmax_backward_row_in_registers.cu: the gradient of softmax in one pass. The contract is in
// softmax_backward.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   row_in_registers  dy and y stay in registers                        12
//
// Next rung, for longer rows: softmax_backward_cluster.cu.
#include "softmax_backward.cuh"

// ------------------------------------------------------------------------------------------------
// row_in_registers: dy and y are read once (all dtypes)
// Idea     A thread loads at most VECTORS vectors each of dy and y and keeps them while the sum is
//          computed. The longer the row, the more threads share it: 16 or 32 lanes of a warp, then
//          a block of as many warps as it takes. With few rows, each gets more threads.
//
//          lanes per row    16     32     64     ...    1024
//          fp32, up to     256    512   1024           16384 columns
//
// Changes  vs vectorized: one pass. All loads of a thread are issued before the first is used.
// Bytes    fp32, per element: 8 read + 4 written = 12 requested, the floor.
// Shape    Up to 32 lanes: 128 threads per block, 8 or 4 rows, no __syncthreads. Beyond: a block
//          per row, 1 __syncthreads. Registers: 32 of a thread hold data.
// Trap     The shuffles need all lanes of the warp: those past the last row stay, with a row of no
//          columns. And nvcc would keep 16-bit elements in registers as the fp32 to which they were
//          converted for the sum, twice the space: `forget` makes it convert them again.
// Declines rows of more than 1024 * VECTORS vectors, and rows of dy, y and dx that have different
//          addresses modulo 16: their 16-bit elements would be collected one per register.
// Next     Beyond 8192 columns (fp32) a block has its SM to itself: it loads, adds and stores in
//          turn. Beyond 16384 its registers cannot hold the row. Several blocks can.
constexpr int ROW_IN_REGISTERS_VECTORS = 4;           // tunable: 1, 2, 4
constexpr int ROW_IN_REGISTERS_NUM_THREADS = 128;     // tunable: 32, 64, 128, 256
constexpr int ROW_IN_REGISTERS_BUSY_THREADS = 32768;  // tunable: 0, 16384, 32768, 65536
constexpr int ROW_IN_REGISTERS_MAX_THREADS = 1024;

// Makes the compiler forget what it knows about v, such as its values in fp32.
template <class T>
__device__ void forget(Vector<T>& v) {
  auto& words = reinterpret_cast<uint4&>(v);
  asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
}

// Blocks of [rows, lanes]: a row is shared by 16 lanes, by a warp, or by the whole block.
template <class T>
__global__ void __launch_bounds__(ROW_IN_REGISTERS_MAX_THREADS)
    softmax_backward_row_in_registers_kernel(const SoftmaxBackward<T> p) {
  constexpr int VECTORS = ROW_IN_REGISTERS_VECTORS;
  __shared__ Compute<T> smem[32];
  const int lane = threadIdx.x, lanes = blockDim.x;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool exists = row < p.rows;
  const T* dy = p.dy + row * p.lddy;
  const T* y = p.y + row * p.ldy;
  T* dx = p.dx + row * p.lddx;
  const Compute<T> dlse = exists ? load_dlse(p, row) : 0;
  const Split<T> split(dx, exists ? p.cols : 0);

  // Load.
  Vector<T> dy_frag[VECTORS], y_frag[VECTORS];
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int i = lane + v * lanes;
    if (i >= split.vectors) break;
    dy_frag[v] = load_vector(dy + split.column(i));
    y_frag[v] = load_vector(y + split.column(i));
  }
  T dy_edge(0), y_edge(0);
  const int edge = split.edge_column(lane);
  if (lane < split.edges) {
    dy_edge = dy[edge];
    y_edge = y[edge];
  }

  // Reduce.
  Compute<T> sum = lane < split.edges ? term(p, dy_edge, y_edge) : Compute<T>(0);
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    if (lane + v * lanes >= split.vectors) break;
    sum += terms(p, dy_frag[v], y_frag[v]);
  }
  sum = lanes <= 32 ? group_reduce(sum, Add(), lanes)
                    : block_reduce_shuffles(sum, smem, Add(), Compute<T>(0));
  sum -= dlse;

  // Store.
  if (lane < split.edges) dx[edge] = gradient(p, dy_edge, y_edge, sum);
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    const int i = lane + v * lanes;
    if (i >= split.vectors) break;
    forget(dy_frag[v]);
    forget(y_frag[v]);
    store_vector(dx + split.column(i), gradients(p, dy_frag[v], y_frag[v], sum));
  }
}

// Whether one block can hold a row.
bool fits_in_registers(const SoftmaxBackwardProblem& p) {
  return vectors_of_a_row(p) <= ROW_IN_REGISTERS_MAX_THREADS * ROW_IN_REGISTERS_VECTORS;
}

const char* softmax_backward_row_in_registers_declines(const SoftmaxBackwardProblem& p) {
  if (!fits_in_registers(p)) {
    return reason("rows of %d columns are more than the registers of a block hold",
                  static_cast<int>(p.dx.size[3]));
  }
  return tensors_aligned_alike(p) ? nullptr : NOT_ALIGNED_ALIKE;
}

void softmax_backward_row_in_registers(const SoftmaxBackwardProblem& p, cudaStream_t stream) {
  const int vectors = vectors_of_a_row(p);
  with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int lanes = threads_of_a_row(p.dx.size[2], vectors, ROW_IN_REGISTERS_VECTORS,
                                       ROW_IN_REGISTERS_MAX_THREADS, ROW_IN_REGISTERS_BUSY_THREADS);
    const int rows = lanes <= 32 ? ROW_IN_REGISTERS_NUM_THREADS / lanes : 1;  // of a block
    const dim3 block(lanes, rows);
    for_each_slice<T>(p, [&](const SoftmaxBackward<T>& s) {
      const auto grid = static_cast<unsigned>(ceil_div<int64_t>(s.rows, rows));
      softmax_backward_row_in_registers_kernel<<<grid, block, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_backward_row_in_registers_kernel);
    });
  });
}
