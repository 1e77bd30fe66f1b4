// softmax_backward_vectorized.cu: the gradient of softmax, 16 bytes at a time. The contract is in
// softmax_backward.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   vectorized        16-byte loads and stores, any alignment           20
//
// Next rung: softmax_backward_row_in_registers.cu.
#include "softmax_backward.cuh"

// ------------------------------------------------------------------------------------------------
// vectorized: 16 bytes per load and store (all dtypes)
// Idea     A lane reads and writes 16 bytes at a time, 4 fp32 or 8 fp16. Such an access needs an
//          address that is a multiple of 16, so each row is cut into vectors and edges (Split).
// Changes  vs block_per_row: accesses of 16 bytes, a quarter (16-bit types: an eighth) as many.
// Bytes    fp32, per element: 20 requested, as before (floor: 12).
// Shape    256 threads per row, 128 B smem (fp64: 256 B), 10 shuffles, 1 __syncthreads.
// Trap     dy, y and dx have separate strides, so their rows may have different addresses modulo
//          16. The row is cut where dx is aligned; if dy or y is not aligned there, the vectors of
//          both are read element by element.
// Next     dy and y are still read twice.
constexpr int VECTORIZED_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024

// Calls use(col, dy_frag, y_frag) for the vectors of this thread, which begin at column col.
template <int NUM_THREADS, bool ALIGNED, class T, class Use>
__device__ void walk_vectors(const Split<T>& split, const T* dy, const T* y, Use use) {
#pragma unroll 2  // more would cost registers, and with them blocks per SM
  for (int i = threadIdx.x; i < split.vectors; i += NUM_THREADS) {
    const int col = split.column(i);
    use(col, load_vector(dy + col, ALIGNED), load_vector(y + col, ALIGNED));
  }
}

template <class T>
__global__ void softmax_backward_vectorized_kernel(const SoftmaxBackward<T> p) {
  constexpr int NUM_THREADS = VECTORIZED_NUM_THREADS;
  __shared__ Compute<T> smem[32];
  const int64_t row = blockIdx.x;
  const T* dy = p.dy + row * p.lddy;
  const T* y = p.y + row * p.ldy;
  T* dx = p.dx + row * p.lddx;
  const Compute<T> dlse = load_dlse(p, row);
  const Split<T> split(dx, p.cols);
  const bool aligned = is_aligned(dy + split.head) && is_aligned(y + split.head);
  const auto walk = [&](auto use) {
    aligned ? walk_vectors<NUM_THREADS, true>(split, dy, y, use)
            : walk_vectors<NUM_THREADS, false>(split, dy, y, use);
  };

  // Load, and add up.
  Compute<T> sum = 0;
  if (threadIdx.x < split.edges) {
    const int col = split.edge_column(threadIdx.x);
    sum = term(p, dy[col], y[col]);
  }
  walk([&](int, Vector<T> dy_frag, Vector<T> y_frag) { sum += terms(p, dy_frag, y_frag); });
  // Reduce.
  sum = block_reduce_shuffles(sum, smem, Add(), Compute<T>(0));
  sum -= dlse;
  // Load again, and store.
  if (threadIdx.x < split.edges) {
    const int col = split.edge_column(threadIdx.x);
    dx[col] = gradient(p, dy[col], y[col], sum);
  }
  walk([&](int col, Vector<T> dy_frag, Vector<T> y_frag) {
    store_vector(dx + col, gradients(p, dy_frag, y_frag, sum));
  });
}

void softmax_backward_vectorized(const SoftmaxBackwardProblem& p, cudaStream_t stream) {
  with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const SoftmaxBackward<T>& s) {
      const auto grid = static_cast<unsigned>(s.rows);
      softmax_backward_vectorized_kernel<<<grid, VECTORIZED_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_backward_vectorized_kernel);
    });
  });
}
