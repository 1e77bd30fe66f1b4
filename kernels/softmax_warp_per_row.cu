// softmax_warp_per_row.cu: softmax of short rows. The contract is in softmax.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   warp_per_row      a warp for a short row, no barrier                12
//
// Next rung: softmax_row_in_registers.cu.
#include "softmax_elements.cuh"

// ------------------------------------------------------------------------------------------------
// warp_per_row: one warp per row (all dtypes, options)
// Idea     A short row is work for one warp: 32 lanes reduce by shuffles alone, so no warp waits
//          for another, and four rows share a block of 128 threads.
// Changes  vs vectorized: 32 threads per row, not 256; group_reduce, not block_reduce_shuffles.
// Bytes    8 read + 4 written = 12 requested per fp32 element (floor: 8), 2.25 exp. The second read
//          of a short row finds it in L1.
// Shape    4 rows per block of 128 threads, 0 B smem, 0 __syncthreads.
// Trap     With few rows most SMs are idle: a block per row uses eight times as many threads.
// Declines rows of more than 8 vectors per lane: 32 lanes take too long over them.
// Next     A row short enough for a warp is short enough to stay in its registers.
constexpr int WARP_PER_ROW_NUM_THREADS = 128;  // tunable: 32, 64, 128, 256, 512, 1024
constexpr int WARP_PER_ROW_COARSENING = 4;     // tunable: 1, 2, 4, 8
constexpr int WARP_PER_ROW_MAX_VECTORS = 256;  // tunable: 256, 1024, 16384; of a row

template <class T>
__global__ void softmax_warp_per_row_kernel(const Softmax<T> p) {
  constexpr int ROWS = WARP_PER_ROW_NUM_THREADS / 32;  // per block
  constexpr int COARSENING = WARP_PER_ROW_COARSENING;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * ROWS + threadIdx.x / 32;
  if (index >= p.rows) return;  // the whole warp
  const int lane = threadIdx.x % 32;
  const T* x = p.x + index * p.ldx;
  T* y = p.y + index * p.ldy;
  const Split<T> split(y, p.cols);

  // Load, and reduce what this lane loads.
  auto row = Online<Compute<T>>::nothing();
  if (lane < split.edges) add(p, x[split.edge_column(lane)], row);
  for_each_vector<COARSENING>(x, split, lane, 32,
                              [&](int, const Vector<T>& x_frag) { add(p, x_frag, row); });
  // Reduce the warp.
  row = group_reduce(row, Merge<Compute<T>>{p.rate});
  if (lane == 0) write_lse(p, index, row);
  // Load again, exp, store.
  const Finish<T> finish(p, row);
  if (lane < split.edges) y[split.edge_column(lane)] = finish(p, x[split.edge_column(lane)]);
  for_each_vector<COARSENING>(x, split, lane, 32, [&](int col, const Vector<T>& x_frag) {
    store_vector(y + col, finish(p, x_frag));
  });
}

void softmax_warp_per_row(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const Softmax<T>& s) {
      constexpr int ROWS = WARP_PER_ROW_NUM_THREADS / 32;
      const auto grid = static_cast<unsigned>(ceil_div<int64_t>(s.rows, ROWS));
      softmax_warp_per_row_kernel<<<grid, WARP_PER_ROW_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_warp_per_row_kernel);
    });
  });
}

const char* softmax_warp_per_row_declines(const SoftmaxProblem& p) {
  const int most = with_dtype(p.x.dtype, [](auto zero) {
    return (WARP_PER_ROW_MAX_VECTORS + 1) * Vector<decltype(zero)>::SIZE - 1;
  });
  if (p.x.size[3] <= most) return nullptr;
  return reason("rows of %d columns are too long for a warp; use vectorized",
                static_cast<int>(p.x.size[3]));
}
