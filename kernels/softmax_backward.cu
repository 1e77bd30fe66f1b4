// softmax_backward.cu: the gradient of row softmax.
//
// Contract (ladder.h, SoftmaxBackwardProblem)
//   dy, y, dx [rows, cols], dlse [rows] or none
//   dx = scale * y * (dy - (sum(dy * y) - dlse))       y = softmax(scale * x)
//   dx = scale * (dy - exp(y) * (sum(dy) - dlse))      y = log_softmax(scale * x)
//   It needs y and not x. Row-major, rows any stride apart. Any rows, any cols.
//
// Rungs
//   naive          one thread per row, two passes
#include "softmax.cuh"

// SoftmaxBackwardProblem with its types: what the kernels are given.
template <class T>
struct SoftmaxBackward {
  const T* dy;             // [rows, cols]
  const T* y;              // [rows, cols]
  const Compute<T>* dlse;  // [rows], or nullptr
  T* dx;                   // [rows, cols]
  int64_t rows;
  int cols;
  int64_t lddy, ldy, lddx;
  Compute<T> scale;
  bool log;
};

// Calls launch(slice) for the parts of p that one grid can hold, 2^31 - 1 rows each.
template <class T, class Launch>
static void for_each_slice(const SoftmaxBackwardProblem& p, Launch launch) {
  if (p.cols == 0) return;
  for (int64_t row = 0; row < p.rows; row += MAX_GRID_X) {
    const Compute<T>* dlse = static_cast<const Compute<T>*>(p.dlse);
    launch(SoftmaxBackward<T>{
        .dy = static_cast<const T*>(p.dy) + row * p.lddy,
        .y = static_cast<const T*>(p.y) + row * p.ldy,
        .dlse = dlse == nullptr ? nullptr : dlse + row,
        .dx = static_cast<T*>(p.dx) + row * p.lddx,
        .rows = min(p.rows - row, MAX_GRID_X),
        .cols = p.cols,
        .lddy = p.lddy,
        .ldy = p.ldy,
        .lddx = p.lddx,
        .scale = static_cast<Compute<T>>(p.scale),
        .log = p.log,
    });
  }
}

// ------------------------------------------------------------------------------------------------
// naive: one thread per row (all dtypes)
// Idea     The definition: a thread walks its row for the sum, and once more to write.
// Changes  First rung.
// Bytes    fp32, per element: 16 read + 4 written = 20 asked (floor: 12). The 32 lanes of a warp
//          read 32 rows: 32 sectors of 32 B for 128 B asked.
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

  Compute<T> sum = p.dlse == nullptr ? Compute<T>(0) : -p.dlse[row];
  for (int col = 0; col < p.cols; ++col) {
    const Compute<T> grad(dy[col]), weight(y[col]);
    sum += p.log ? grad : grad * weight;
  }
  for (int col = 0; col < p.cols; ++col) {
    const Compute<T> grad(dy[col]), value(y[col]);
    dx[col] = T(p.scale * (p.log ? grad - exp(value) * sum : value * (grad - sum)));
  }
}

static void softmax_backward_naive(const SoftmaxBackwardProblem& p, cudaStream_t stream) {
  with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const SoftmaxBackward<T>& s) {
      const auto grid = static_cast<unsigned>(ceil_div<int64_t>(s.rows, NAIVE_NUM_THREADS));
      softmax_backward_naive_kernel<<<grid, NAIVE_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_backward_naive_kernel);
    });
  });
}

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr char ALL[] = "float32 float64 float16 bfloat16";
static constexpr char OPTIONS[] = "scale log lse";
static constexpr Rung<SoftmaxBackwardProblem> RUNGS[] = {
    {"naive", softmax_backward_naive, {.dtypes = ALL, .options = OPTIONS}},
};

extern "C" const Rung<SoftmaxBackwardProblem>* softmax_backward_rungs(int* n) {
  *n = sizeof(RUNGS) / sizeof(RUNGS[0]);
  return RUNGS;
}
