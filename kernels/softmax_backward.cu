// softmax_backward.cu: the gradient of row softmax.
//
// Contract (softmax_backward.h)
//   dy, y, dx [rows, cols], dlse [rows] or none
//   dx = scale * y * (dy - (sum(dy * y) - dlse))       y = softmax(scale * x)
//   dx = scale * (dy - exp(y) * (sum(dy) - dlse))      y = log_softmax(scale * x)
//   It needs y, not x. Row-major, rows any stride apart. Any rows, any cols. fp32, fp64, fp16 and
//   bf16, computed in fp32 (fp64 in fp64).
//
// Rungs                                                         requested fp32 bytes per element
//   naive             one thread per row, two passes                    20
//   block_per_row     one block per row, the sum by shuffles            20
//   vectorized        16-byte loads and stores, any alignment           20
//   row_in_registers  dy and y stay in registers                        12
//   cluster           a long row in the shared memory of a cluster      12
//
// The last three have their own files, softmax_backward_<rung>.cu.
#include "softmax_backward.cuh"

// ------------------------------------------------------------------------------------------------
// naive: one thread per row (all dtypes)
// Idea     The definition: a thread walks its row for the sum, and once more to write.
// Changes  First rung.
// Bytes    fp32, per element: 16 read + 4 written = 20 requested (floor: 12). The 32 lanes of a
//          warp read 32 rows: 32 sectors of 32 B for 128 B requested.
// Shape    256 rows per block, 0 B smem, 0 __syncthreads.
// Next     One block per row: neighbouring lanes on neighbouring elements.
constexpr int NAIVE_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024

template <class T>
__global__ void softmax_backward_naive_kernel(const SoftmaxBackward<T> p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * NAIVE_NUM_THREADS + threadIdx.x;
  if (row >= p.rows) return;
  const T* dy = p.dy + row * p.lddy;
  const T* y = p.y + row * p.ldy;
  T* dx = p.dx + row * p.lddx;
  const Compute<T> dlse = load_dlse(p, row);

  Compute<T> sum = 0;
  for (int col = 0; col < p.cols; ++col) sum += term(p, dy[col], y[col]);
  sum -= dlse;
  for (int col = 0; col < p.cols; ++col) dx[col] = gradient(p, dy[col], y[col], sum);
}

static void softmax_backward_naive(const SoftmaxBackwardProblem& p, cudaStream_t stream) {
  with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const SoftmaxBackward<T>& s) {
      const auto grid = static_cast<unsigned>(ceil_div<int64_t>(s.rows, NAIVE_NUM_THREADS));
      softmax_backward_naive_kernel<<<grid, NAIVE_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_backward_naive_kernel);
    });
  });
}

// ------------------------------------------------------------------------------------------------
// block_per_row: one block per row (all dtypes)
// Idea     Thread t handles columns t, t + NUM_THREADS, ...; the partial sums of a warp are
//          combined by five shuffles, those of the warps in shared memory (block_reduce_shuffles).
// Changes  vs naive: a block shares the row; still two passes.
// Bytes    fp32, per element: 20 requested, as before (floor: 12). A warp loads 32 adjacent floats:
//          4 sectors for 128 B requested (naive: 32).
// Shape    256 threads per row, 128 B smem (fp64: 256 B), 10 shuffles, 1 __syncthreads.
// Trap     Only lane 0 of a warp needs the warp's sum after the shuffles, but all lanes of all
//          warps need the row's: so every warp does the second round.
// Next     Each load brings a lane 4 bytes (fp16, bf16: 2); it could bring 16.
constexpr int BLOCK_PER_ROW_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024

template <class T>
__global__ void softmax_backward_block_per_row_kernel(const SoftmaxBackward<T> p) {
  constexpr int NUM_THREADS = BLOCK_PER_ROW_NUM_THREADS;
  __shared__ Compute<T> smem[32];
  const int64_t row = blockIdx.x;
  const T* dy = p.dy + row * p.lddy;
  const T* y = p.y + row * p.ldy;
  T* dx = p.dx + row * p.lddx;
  const Compute<T> dlse = load_dlse(p, row);

  Compute<T> sum = 0;
  for (int col = threadIdx.x; col < p.cols; col += NUM_THREADS) sum += term(p, dy[col], y[col]);
  sum = block_reduce_shuffles(sum, smem, Add(), Compute<T>(0));
  sum -= dlse;

  for (int col = threadIdx.x; col < p.cols; col += NUM_THREADS) {
    dx[col] = gradient(p, dy[col], y[col], sum);
  }
}

static void softmax_backward_block_per_row(const SoftmaxBackwardProblem& p, cudaStream_t stream) {
  with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const SoftmaxBackward<T>& s) {
      const auto grid = static_cast<unsigned>(s.rows);
      softmax_backward_block_per_row_kernel<<<grid, BLOCK_PER_ROW_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_backward_block_per_row_kernel);
    });
  });
}

// ------------------------------------------------------------------------------------------------
// Rungs in other files, so that an edit to one compiles in a second or two.

void softmax_backward_vectorized(const SoftmaxBackwardProblem& p, cudaStream_t stream);

void softmax_backward_row_in_registers(const SoftmaxBackwardProblem& p, cudaStream_t stream);
const char* softmax_backward_row_in_registers_declines(const SoftmaxBackwardProblem& p);

void softmax_backward_cluster(const SoftmaxBackwardProblem& p, cudaStream_t stream);
const char* softmax_backward_cluster_declines(const SoftmaxBackwardProblem& p);

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr Needs ALL = {.dtypes = "float32 float64 float16 bfloat16",
                              .options = "scale log dlse"};
static constexpr Needs ALL_SM90 = {
    .dtypes = ALL.dtypes, .options = ALL.options, .compute_capability = 90};
static constexpr Rung<SoftmaxBackwardProblem> RUNGS[] = {
    {"naive", softmax_backward_naive, ALL},
    {"block_per_row", softmax_backward_block_per_row, ALL},
    {"vectorized", softmax_backward_vectorized, ALL},
    {"row_in_registers", softmax_backward_row_in_registers, ALL,
     softmax_backward_row_in_registers_declines},
    {"cluster", softmax_backward_cluster, ALL_SM90, softmax_backward_cluster_declines},
};

Ladder<SoftmaxBackwardProblem> softmax_backward_ladder() { return RUNGS; }
