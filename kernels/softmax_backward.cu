// softmax_backward.cu: the gradient of row softmax.
//
// Contract (softmax_backward.h)
//   dy, y, dx [rows, cols], dlse [rows] or none
//   dx = scale * y * (dy - (sum(dy * y) - dlse))       y = softmax(scale * x)
//   dx = scale * (dy - exp(y) * (sum(dy) - dlse))      y = log_softmax(scale * x)
//   It needs y and not x. Row-major, rows any stride apart. Any rows, any cols.
//
// Rungs                                                         fp32 bytes per element, asked
//   naive             one thread per row, two passes                    20
//   block_per_row     one block per row, the sum by shuffles            20
//   vectorized        16-byte loads and stores, any alignment           20
//   row_in_registers  dy and y stay in registers                        12
//   cluster           a long row in the shared memory of a cluster      12
#include "softmax.cuh"
#include "softmax_backward.h"

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

// Calls launch(slice) for the parts of p that one grid can hold, with that many blocks for a row.
template <class T, class Launch>
static void for_each_slice(const SoftmaxBackwardProblem& p, Launch launch, int blocks = 1) {
  const int64_t rows = p.dx.size[2], most = MAX_GRID_X / blocks;
  const int cols = static_cast<int>(p.dx.size[3]);
  if (cols == 0) return;
  for (int64_t row = 0; row < rows; row += most) {
    const auto* dlse = p.dlse.as<const Compute<T>>();
    launch(SoftmaxBackward<T>{
        .dy = p.dy.as<const T>() + row * p.dy.stride[2],
        .y = p.y.as<const T>() + row * p.y.stride[2],
        .dlse = dlse == nullptr ? nullptr : dlse + row,
        .dx = p.dx.as<T>() + row * p.dx.stride[2],
        .rows = min(rows - row, most),
        .cols = cols,
        .lddy = p.dy.stride[2],
        .ldy = p.y.stride[2],
        .lddx = p.dx.stride[2],
        .scale = static_cast<Compute<T>>(p.scale),
        .log = p.log,
    });
  }
}

// What is subtracted from the row's sum. To be loaded early: behind a barrier all would wait for it.
template <class T>
__device__ Compute<T> load_dlse(const SoftmaxBackward<T>& p, int64_t row) {
  return p.dlse != nullptr ? p.dlse[row] : Compute<T>(0);
}

// What an element adds to the sum, and what it becomes once the sum (less dlse) is known.
template <class T>
__device__ Compute<T> term(const SoftmaxBackward<T>& p, T dy, T y) {
  return p.log ? Compute<T>(dy) : Compute<T>(dy) * Compute<T>(y);
}

template <class T>
__device__ T gradient(const SoftmaxBackward<T>& p, T dy, T y, Compute<T> sum) {
  const Compute<T> grad(dy), value(y);
  return T(p.scale * (p.log ? grad - exp(value) * sum : value * (grad - sum)));
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
// Idea     Thread t takes the columns t, t + NUM_THREADS, ...; the partial sums of a warp meet in
//          five shuffles, those of the warps in shared memory:
//
//          warp 0    32 lanes -> 1 sum -> smem[0] \
//          warp 1    32 lanes -> 1 sum -> smem[1]  > every warp reads all and adds them up again
//          ...                            ...     /
//
// Changes  vs naive: the row is shared by a block; still two passes.
// Bytes    fp32, per element: 20 asked as before (floor: 12). A warp's load is 32 adjacent floats:
//          4 sectors for 128 B asked (naive: 32).
// Shape    256 threads per row, 128 B smem (fp64: 256 B), 10 shuffles, 1 __syncthreads.
// Trap     Only lane 0 of a warp needs the warp's sum after the shuffles, but all lanes of all
//          warps need the row's: hence the second round is done by every warp.
// Next     Each load brings a lane 4 bytes (fp16, bf16: 2); it can bring 16.
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
  sum = block_reduce_shuffles(sum, smem, Sum(), Compute<T>(0));
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
// vectorized: 16 bytes per load and store (all dtypes)
// Idea     A lane reads and writes 16 bytes at a time, 4 floats or 8 halves. Such an access has to
//          lie on a 16-byte boundary, and rows begin and end where they like:
//
//          |....ab|cdef|ghij|klmn|op....|    boxes of 16 bytes in memory
//               ^^ head               ^^ tail: element by element, one to a thread
//
// Changes  vs block_per_row: accesses of 16 bytes, a quarter (16-bit types: an eighth) as many.
// Bytes    fp32, per element: 20 asked as before (floor: 12).
// Shape    256 threads per row, 128 B smem (fp64: 256 B), 10 shuffles, 1 __syncthreads.
// Trap     dy, y and dx have strides of their own, and may lie differently towards the boundaries.
//          The row is cut where dx has them; if dy or y has them elsewhere, the vectors of both are
//          read element by element.
// Next     dy and y are still read twice.
constexpr int VECTORIZED_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024

// term() and gradient() of a vector.
template <class T>
__device__ Compute<T> terms(const SoftmaxBackward<T>& p, Vector<T> dy_frag, Vector<T> y_frag) {
  Compute<T> sum = 0;
#pragma unroll
  for (int i = 0; i < Vector<T>::SIZE; ++i) sum += term(p, dy_frag.values[i], y_frag.values[i]);
  return sum;
}

template <class T>
__device__ Vector<T> gradients(const SoftmaxBackward<T>& p, Vector<T> dy_frag, Vector<T> y_frag,
                               Compute<T> sum) {
  Vector<T> dx_frag;
#pragma unroll
  for (int i = 0; i < Vector<T>::SIZE; ++i) {
    dx_frag.values[i] = gradient(p, dy_frag.values[i], y_frag.values[i], sum);
  }
  return dx_frag;
}

// use(col, dy_frag, y_frag) for the vectors of this thread.
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

  Compute<T> sum = 0;
  if (threadIdx.x < split.edges) {
    const int col = split.edge_column(threadIdx.x);
    sum = term(p, dy[col], y[col]);
  }
  walk([&](int, Vector<T> dy_frag, Vector<T> y_frag) { sum += terms(p, dy_frag, y_frag); });
  sum = block_reduce_shuffles(sum, smem, Sum(), Compute<T>(0));
  sum -= dlse;

  if (threadIdx.x < split.edges) {
    const int col = split.edge_column(threadIdx.x);
    dx[col] = gradient(p, dy[col], y[col], sum);
  }
  walk([&](int col, Vector<T> dy_frag, Vector<T> y_frag) {
    store_vector(dx + col, gradients(p, dy_frag, y_frag, sum));
  });
}

static void softmax_backward_vectorized(const SoftmaxBackwardProblem& p, cudaStream_t stream) {
  with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const SoftmaxBackward<T>& s) {
      const auto grid = static_cast<unsigned>(s.rows);
      softmax_backward_vectorized_kernel<<<grid, VECTORIZED_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_backward_vectorized_kernel);
    });
  });
}

// ------------------------------------------------------------------------------------------------
// row_in_registers: dy and y are read once (all dtypes)
// Idea     A thread takes at most VECTORS vectors of dy and of y and keeps them while the sum is
//          made. The longer the row, the more threads share it: 16 or 32 lanes of a warp, then a
//          block of as many warps as it takes. Where rows are few, each takes more threads.
//
//          lanes per row    16     32     64     ...    1024
//          fp32, up to     256    512   1024           16384 columns
//
// Changes  vs vectorized: one pass. All loads of a thread are issued before the first is used.
// Bytes    fp32, per element: 8 read + 4 written = 12 asked, the floor.
// Shape    Up to 32 lanes: 128 threads per block, 8 or 4 rows, no __syncthreads. Beyond: a block
//          per row, 1 __syncthreads. Registers: 32 of a thread hold data.
// Trap     The shuffles want all lanes of the warp: those behind the last row stay and take a row
//          of no columns. And what was converted to fp32 for the sum would stay in registers until
//          it is written, twice the room of 16 bits: `forget` has it converted again.
// Declines rows of more than 1024 * VECTORS vectors, and tensors that lie differently towards the
//          boundaries, whose vectors of 16-bit elements would be collected one element per register.
// Next     Beyond 8192 columns (fp32) a block is alone on its SM: it loads, adds and stores in turn.
//          Beyond 16384 its registers cannot hold the row. A cluster of blocks can.
constexpr int ROW_IN_REGISTERS_VECTORS = 4;           // tunable: 1, 2, 4
constexpr int ROW_IN_REGISTERS_NUM_THREADS = 128;     // tunable: 32, 64, 128, 256
constexpr int ROW_IN_REGISTERS_BUSY_THREADS = 32768;  // tunable: 0, 16384, 32768, 65536
constexpr int ROW_IN_REGISTERS_MAX_THREADS = 1024;
constexpr int ROW_IN_REGISTERS_MAX_VECTORS =
    ROW_IN_REGISTERS_MAX_THREADS * ROW_IN_REGISTERS_VECTORS;

// Tells the compiler that nothing is known of v any more.
template <class T>
__device__ void forget(Vector<T>& v) {
  auto& words = reinterpret_cast<uint4&>(v);
  asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
}

// Blocks of [rows, lanes]: a row is for 16 lanes, for a warp, or for all of the block.
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

  Compute<T> sum = lane < split.edges ? term(p, dy_edge, y_edge) : Compute<T>(0);
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    if (lane + v * lanes >= split.vectors) break;
    sum += terms(p, dy_frag[v], y_frag[v]);
  }
  sum = lanes <= 32 ? group_reduce(sum, Sum(), lanes)
                    : block_reduce_shuffles(sum, smem, Sum(), Compute<T>(0));
  sum -= dlse;

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

// The vectors of a row.
static int vectors_of_a_row(const SoftmaxBackwardProblem& p) {
  return with_dtype(p.dx.dtype, [&](auto zero) {
    return static_cast<int>(p.dx.size[3]) / Vector<decltype(zero)>::SIZE;
  });
}

static bool tensors_lie_alike(const SoftmaxBackwardProblem& p) {
  return with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    return lie_alike<T>(p.dx, p.dy) && lie_alike<T>(p.dx, p.y);
  });
}

constexpr char LIE_DIFFERENTLY[] =
    "dy, y and dx lie differently towards the 16-byte boundaries: vectorized";

static const char* row_in_registers_declines(const SoftmaxBackwardProblem& p) {
  if (vectors_of_a_row(p) > ROW_IN_REGISTERS_MAX_VECTORS) {
    return reason("rows of %d columns are more than the registers of a block hold",
                  static_cast<int>(p.dx.size[3]));
  }
  return tensors_lie_alike(p) ? nullptr : LIE_DIFFERENTLY;
}

static void softmax_backward_row_in_registers(const SoftmaxBackwardProblem& p,
                                              cudaStream_t stream) {
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

// ------------------------------------------------------------------------------------------------
// cluster: a long row in the shared memories of several blocks (all dtypes)
// Idea     The blocks of a cluster run at the same time and reach each other's shared memory. Each
//          copies its part of dy and y there, adds it up, and tells all the others:
//
//          block 0   part 0 of the row   \  every warp writes its sum to every block,
//          block 1   part 1 of the row    > in front of the second cluster barrier, and
//          ...                           /  reads all of them from its own behind it
//
// Changes  vs row_in_registers: shared memory, filled by cp.async past the registers; up to 16
//          blocks per row.
// Bytes    fp32, per element: 8 read + 4 written = 12 asked, the floor, up to 462848 columns (sm_90,
//          226 KiB per block); what 16 blocks cannot hold is read twice.
// Shape    512 threads, 1 to 16 blocks per row: the fewest that hold it in half a shared memory
//          each, so that an SM has two, of which one loads while the other stores (three, where
//          parts are small); or more, where few rows would leave SMs idle. 0 __syncthreads, 2 cluster
//          barriers.
// Trap     A block must not store into one that has not started: hence the first barrier. All the
//          loads lie between arriving at it and waiting for it, so it costs no time.
//          cp.async moves a 32-byte sector in one piece only if it is one in shared memory too. So
//          all parts begin at a sector: their slots are even in number, and where dy begins in the
//          middle of a sector, the first slot stays empty.
//
//          | -- v0 | v1 v2 | v3 v4 |    sectors in memory, pairs of slots
//
// Declines rows that a block of row_in_registers reads sooner than a cluster meets, and tensors that
//          lie differently towards the 16-byte boundaries.
// Next     A part of more than half a shared memory has its SM for itself, which then loads nothing
//          while it stores. It could load the next row, as the forward's `cluster_pipelined` does.
constexpr int CLUSTER_NUM_THREADS = 512;   // tunable: 256, 512
constexpr int CLUSTER_MIN_VECTORS = 2048;  // tunable: 1024, 2048, 4096
constexpr int CLUSTER_BUSY_BLOCKS = 128;   // tunable: 0, 64, 128

// Blocks that an SM shall have registers for.
#if __CUDA_ARCH__ >= 900
template <class T>
constexpr int CLUSTER_BLOCKS = (sizeof(T) == 8 ? 1024 : 1536) / CLUSTER_NUM_THREADS;
#else  // the kernel is empty
template <class T>
constexpr int CLUSTER_BLOCKS = 1;
#endif

// `capacity`: the slots of a block, for a vector of dy and one of y each.
template <class T>
__global__ void __launch_bounds__(CLUSTER_NUM_THREADS, CLUSTER_BLOCKS<T>)
    softmax_backward_cluster_kernel(const SoftmaxBackward<T> p, int capacity) {
#if __CUDA_ARCH__ >= 900
  constexpr int NUM_THREADS = CLUSTER_NUM_THREADS;
  constexpr int WARPS = NUM_THREADS / 32;
  constexpr int SIZE = Vector<T>::SIZE;
  extern __shared__ __align__(128) uint4 smem[];
  __shared__ Compute<T> sums[MAX_CLUSTER * WARPS];
  auto* dy_smem = reinterpret_cast<Vector<T>*>(smem);  // [capacity]
  Vector<T>* y_smem = dy_smem + capacity;              // [capacity]
  cluster_arrive_relaxed();                            // this block has started

  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  const int blocks = cluster_size(), rank = cluster_rank();
  const int64_t row = blockIdx.x / blocks;
  const T* dy = p.dy + row * p.lddy;
  const T* y = p.y + row * p.ldy;
  T* dx = p.dx + row * p.lddx;
  const Compute<T> dlse = load_dlse(p, row);
  const Split<T> split(dx, p.cols);
  const int empty = reinterpret_cast<uintptr_t>(dy + split.head) / sizeof(Vector<T>) % 2;
  const int slots = empty + split.vectors;
  const int part = ceil_div(slots, 2 * blocks) * 2;
  const int begin = min(rank * part, slots);
  const int size = min(part, slots - begin);
  const int held = min(size, capacity);  // the vectors behind are read twice
  const int first = split.column(begin - empty);
  const int start = rank == 0 && t < empty ? t + NUM_THREADS : t;

#pragma unroll 1
  for (int i = start; i < held; i += NUM_THREADS) {
    cp_async_16(&dy_smem[i], dy + first + i * SIZE);
    cp_async_16(&y_smem[i], y + first + i * SIZE);
  }
  cp_async_commit();

  T dy_edge(0), y_edge(0);
  const int edge = rank == 0 && t < split.edges ? split.edge_column(t) : -1;
  if (edge >= 0) {
    dy_edge = dy[edge];
    y_edge = y[edge];
  }
  Compute<T> sum = edge >= 0 ? term(p, dy_edge, y_edge) : Compute<T>(0);
#pragma unroll 1
  for (int i = held + t; i < size; i += NUM_THREADS) {
    const int col = first + i * SIZE;
    sum += terms(p, load_vector(dy + col), load_vector(y + col));
  }
  cp_async_wait<0>();  // this thread reads what it copied itself, and nothing else
#pragma unroll 1
  for (int i = start; i < held; i += NUM_THREADS) sum += terms(p, dy_smem[i], y_smem[i]);

  sum = group_reduce(sum, Sum());
  cluster_wait();  // every block has started
  if (lane < blocks) store_to_block(lane, &sums[rank * WARPS + warp], sum);
  cluster_sync();  // the sums of all warps of all blocks are in this block's shared memory
  sum = 0;
  for (int i = lane; i < blocks * WARPS; i += 32) sum += sums[i];
  sum = group_reduce(sum, Sum()) - dlse;

  if (edge >= 0) dx[edge] = gradient(p, dy_edge, y_edge, sum);
#pragma unroll 1
  for (int i = start; i < held; i += NUM_THREADS) {
    store_vector(dx + first + i * SIZE, gradients(p, dy_smem[i], y_smem[i], sum));
  }
#pragma unroll 1
  for (int i = held + t; i < size; i += NUM_THREADS) {
    const int col = first + i * SIZE;
    store_vector(dx + col, gradients(p, load_vector(dy + col), load_vector(y + col), sum));
  }
#endif
}

// Blocks for a row of so many slots: the fewest that hold it in `half` of them each, or more where
// a few rows have the GPU to themselves.
static int blocks_of_a_row(int64_t rows, int slots, int half, int max_blocks) {
  int blocks = 1;
  const auto more_than = [&](int each) { return slots > int64_t{blocks} * each; };
  while (blocks < max_blocks && (more_than(half) || (rows * blocks < CLUSTER_BUSY_BLOCKS &&
                                                     more_than(2 * CLUSTER_NUM_THREADS)))) {
    blocks *= 2;
  }
  return blocks;
}

template <class T>
static void launch_rows(const SoftmaxBackward<T>& p, cudaStream_t stream) {
  constexpr int SLOT_BYTES = 2 * sizeof(Vector<T>);
  constexpr int SUMS_BYTES = MAX_CLUSTER * CLUSTER_NUM_THREADS / 32 * sizeof(Compute<T>);
  constexpr int CUDA_BYTES = 1024;  // that CUDA takes for itself, from every block
  const auto kernel = softmax_backward_cluster_kernel<T>;
  const int room = allow_all_shared_memory(kernel);
  const int full = room / SLOT_BYTES / 2 * 2;
  const int half = (room - SUMS_BYTES - CUDA_BYTES) / 2 / SLOT_BYTES / 2 * 2;  // two blocks per SM
  const int slots = p.cols / Vector<T>::SIZE + 1;  // the first may stay empty
  for (int max_blocks = MAX_CLUSTER; max_blocks > 0; max_blocks /= 2) {
    const int blocks = blocks_of_a_row(p.rows, slots, half, max_blocks);
    const int capacity = min(ceil_div(slots, 2 * blocks) * 2, full);
    if (launch_clusters(kernel, p.rows, false, blocks, CLUSTER_NUM_THREADS, capacity * SLOT_BYTES,
                        stream, p, capacity)) {
      return;
    }
  }
  throw LaunchError("this GPU has no room for a block of %d threads", CLUSTER_NUM_THREADS);
}

static const char* cluster_declines(const SoftmaxBackwardProblem& p) {
  if (vectors_of_a_row(p) <= min(CLUSTER_MIN_VECTORS, ROW_IN_REGISTERS_MAX_VECTORS)) {
    return reason("rows of %d columns fit into the registers of a block: row_in_registers",
                  static_cast<int>(p.dx.size[3]));
  }
  return tensors_lie_alike(p) ? nullptr : LIE_DIFFERENTLY;
}

static void softmax_backward_cluster(const SoftmaxBackwardProblem& p, cudaStream_t stream) {
  with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const SoftmaxBackward<T>& s) { launch_rows(s, stream); }, MAX_CLUSTER);
  });
}

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
    {"row_in_registers", softmax_backward_row_in_registers, ALL, row_in_registers_declines},
    {"cluster", softmax_backward_cluster, ALL_SM90, cluster_declines},
};

Ladder<SoftmaxBackwardProblem> softmax_backward_ladder() { return RUNGS; }
