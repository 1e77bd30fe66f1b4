// softmax_cub.cu: softmax with the library's reductions. The contract is in softmax.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   cub               reductions by CUB, for comparison                 16
//
// CUB's headers take longer to compile than all rungs of softmax.cu together.
#include <cub/block/block_reduce.cuh>

#include "softmax.cuh"

// cub: reductions by CUB (fp32)
// Idea     For comparison: the library's block reduction, written by those who know the hardware.
// Changes  vs warp_shuffles: cub::BlockReduce in place of block_reduce_shuffles. Only thread 0 gets
//          its result, so shared memory and a second barrier pass it on to the others.
// Bytes    16 requested per element (floor: 8), 2 exp.
// Shape    256 threads per row, 4 loads in flight per thread, 2 __syncthreads per reduction.
// Trap     Reduce() may overwrite its TempStorage as soon as it is called again: here each
//          reduction has its own storage, because each Op instantiates a separate function.
// Next     Nothing: reductions are a small part of the work, whichever way they are written.
constexpr int CUB_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024
constexpr int CUB_COARSENING = 4;     // tunable: 1, 2, 4, 8

namespace {

// The walk of rung coarsened: COARSENING loads, then their uses; the rest one by one.
template <class Use>
__device__ void walk_row(const float* x, int cols, Use use) {
  int col = threadIdx.x;
  for (; col + (CUB_COARSENING - 1) * CUB_NUM_THREADS < cols;
       col += CUB_COARSENING * CUB_NUM_THREADS) {
    float x_frag[CUB_COARSENING];
#pragma unroll
    for (int i = 0; i < CUB_COARSENING; ++i) x_frag[i] = x[col + i * CUB_NUM_THREADS];
#pragma unroll
    for (int i = 0; i < CUB_COARSENING; ++i) use(col + i * CUB_NUM_THREADS, x_frag[i]);
  }
  for (; col < cols; col += CUB_NUM_THREADS) use(col, x[col]);
}

// Reduces the values of all threads of the block by op. All get the result.
template <class Op>
__device__ float block_reduce_cub(float value, Op op) {
  using Reduce = cub::BlockReduce<float, CUB_NUM_THREADS>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ float result;
  value = Reduce(storage).Reduce(value, op);
  if (threadIdx.x == 0) result = value;
  __syncthreads();  // thread 0 has stored the result
  return result;
}

__global__ void softmax_cub_kernel(const Softmax<float> p) {
  const float* x = p.x + blockIdx.x * p.ldx;
  float* y = p.y + blockIdx.x * p.ldy;

  float m = -INFINITY;
  walk_row(x, p.cols, [&](int, float v) { m = fmaxf(m, v); });
  m = block_reduce_cub(m, Max());

  float sum = 0.0f;
  walk_row(x, p.cols, [&](int, float v) { sum += expf(v - m); });
  sum = block_reduce_cub(sum, Add());

  const float inverse = 1.0f / sum;
  walk_row(x, p.cols, [&](int col, float v) { y[col] = expf(v - m) * inverse; });
}

}  // namespace

void softmax_cub(const SoftmaxProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, [&](const Softmax<float>& s) {
    softmax_cub_kernel<<<static_cast<unsigned>(s.rows), CUB_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(softmax_cub_kernel);
  });
}
