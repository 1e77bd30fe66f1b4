// softmax_vectorized.cu: softmax, 16 bytes at a time. The contract is in softmax.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   vectorized        16-byte loads and stores, any alignment           12
//
// From here on the ladder supports all dtypes and options: see softmax_elements.cuh for add, Finish
// and write_lse. Next rung: softmax_warp_per_row.cu.
#include "softmax_elements.cuh"

// ------------------------------------------------------------------------------------------------
// vectorized: 16 bytes per load and store (all dtypes, options)
// Idea     A lane loads 4 fp32 or 8 bf16 at once: a quarter or an eighth of the load
//          instructions, and each of them puts 512 B per warp in flight.
//
//          online       lane 0: a      lane 1: b      ...    4 B x 32 lanes =  128 B per load
//          vectorized   lane 0: abcd   lane 1: efgh   ...   16 B x 32 lanes =  512 B per load
//
// Changes  vs online: the row is cut into vectors and edges (Split in softmax_vectors.cuh), because
//          16-byte accesses need addresses that are multiples of 16. The walk is coarsened by
//          vectors. (m, l) is rescaled once per vector, not once per element.
// Bytes    8 read + 4 written = 12 requested per fp32 element (floor: 8), 2.25 exp.
// Shape    256 threads per row, 256 B smem, 1 __syncthreads.
// Trap     x and y may have different addresses modulo 16. The row is cut where y is aligned; if x
//          is not aligned there, its vectors are read element by element.
// Next     A row of 128 elements is 32 vectors: seven of eight warps have nothing to do.
constexpr int VECTORIZED_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024
constexpr int VECTORIZED_COARSENING = 4;     // tunable: 1, 2, 4, 8

template <class T>
__global__ void softmax_vectorized_kernel(const Softmax<T> p) {
  using Number = Compute<T>;
  constexpr int NUM_THREADS = VECTORIZED_NUM_THREADS, COARSENING = VECTORIZED_COARSENING;
  __shared__ Online<Number> smem[32];
  const int t = threadIdx.x;
  const T* x = p.x + blockIdx.x * p.ldx;
  T* y = p.y + blockIdx.x * p.ldy;
  const Split<T> split(y, p.cols);

  // Load, and reduce what this thread loads.
  auto row = Online<Number>::nothing();
  if (t < split.edges) add(p, x[split.edge_column(t)], row);
  for_each_vector<COARSENING>(x, split, t, NUM_THREADS,
                              [&](int, const Vector<T>& x_frag) { add(p, x_frag, row); });
  // Reduce the block.
  row = block_reduce_shuffles(row, smem, Merge<Number>{p.rate}, Online<Number>::nothing());
  if (t == 0) write_lse(p, blockIdx.x, row);
  // Load again, exp, store.
  const Finish<T> finish(p, row);
  if (t < split.edges) y[split.edge_column(t)] = finish(p, x[split.edge_column(t)]);
  for_each_vector<COARSENING>(x, split, t, NUM_THREADS, [&](int col, const Vector<T>& x_frag) {
    store_vector(y + col, finish(p, x_frag));
  });
}

void softmax_vectorized(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const Softmax<T>& s) {
      const auto grid = static_cast<unsigned>(s.rows);
      softmax_vectorized_kernel<<<grid, VECTORIZED_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_vectorized_kernel);
    });
  });
}
