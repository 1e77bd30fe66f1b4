// softmax_vectorized.cu: the ladder of softmax.cu goes on, with all dtypes and options: 16-byte
// vectors, and rows that stay on the chip.
#include "softmax.cuh"

// ------------------------------------------------------------------------------------------------
// vectorized: 16 bytes per load and store (all dtypes, options)
// Idea     A lane's load takes 4 fp32 or 8 bf16 at once: a quarter or an eighth of the load
//          instructions, and a warp has 512 B under way with each.
// Changes  vs online: the row is cut into vectors and edges (Split in softmax.cuh), as 16-byte
//          accesses need addresses in multiples of 16. (m, l) is rescaled once per vector, not once
//          per element.
// Bytes    8 read + 4 written = 12 asked per fp32 element (floor: 8), 2.25 exp.
// Shape    256 threads per row, 256 B smem, 1 __syncthreads.
// Trap     x and y may lie differently towards the 16-byte boundaries. The row is cut where y has
//          them; where x has them elsewhere, its vectors are read element by element.
// Next     A row of 128 elements is 32 vectors: seven warps of eight have nothing to do.
constexpr int VECTORIZED_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024

// z of one element, or of the elements of a vector.
template <class T>
__device__ void scaled(const Softmax<T>& p, T x, Compute<T> (&z)[1]) {
  z[0] = p.prescale * Compute<T>(x);
}

template <class T>
__device__ void scaled(const Softmax<T>& p, const Vector<T>& x, Compute<T> (&z)[Vector<T>::SIZE]) {
#pragma unroll
  for (int i = 0; i < Vector<T>::SIZE; ++i) z[i] = p.prescale * Compute<T>(x.values[i]);
}

// From z to y, once the row's m and l are known.
template <class T>
struct Finish {
  using Number = Compute<T>;
  Number m, last;  // y = exp(slope * (z - m)) * last, or slope * (z - m) - last for the logarithm

  __device__ Finish(const Softmax<T>& p, const Online<Number>& row) : m(row.m) {
    last = p.log ? log(row.l) : 1 / row.l;
    if (row.l == INFINITY) last = NAN;  // +inf in the row: no softmax
  }
  template <int N>
  __device__ void operator()(const Softmax<T>& p, const Number (&z)[N], T* y) const {
    if (p.log) {
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] = T(p.slope * (z[i] - m) - last);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] = T(power_of_2(p.slope_log2 * (z[i] - m)) * last);
    }
  }
  __device__ T operator()(const Softmax<T>& p, T x) const {
    Number z[1];
    T y;
    scaled(p, x, z);
    (*this)(p, z, &y);
    return y;
  }
  __device__ Vector<T> operator()(const Softmax<T>& p, const Vector<T>& x) const {
    Number z[Vector<T>::SIZE];
    Vector<T> y;
    scaled(p, x, z);
    (*this)(p, z, y.values);
    return y;
  }
};

// Adds an element or a vector of x to what a part of a row comes to.
template <class T, class Elements>
__device__ void add(const Softmax<T>& p, const Elements& x, Online<Compute<T>>& row) {
  Compute<T> z[sizeof(Elements) / sizeof(T)];
  scaled(p, x, z);
  row.add(z, p.slope_log2);
}

template <class T>
__device__ void write_lse(const Softmax<T>& p, int64_t index, const Online<Compute<T>>& row) {
  if (p.lse != nullptr) p.lse[index] = p.slope * row.m + log(row.l);
}

// The part of row x that thread t of `threads` takes: an edge, and vectors t, t + threads, ...
template <class T>
__device__ Online<Compute<T>> read_row(const Softmax<T>& p, const T* x, const Split<T>& split,
                                       int t, int threads) {
  auto row = Online<Compute<T>>::nothing();
  const bool aligned = is_aligned(x + split.head);
  if (t < split.edges) add(p, x[split.edge_column(t)], row);
  for (int v = t; v < split.vectors; v += threads) {
    add(p, load_vector(x + split.column(v), aligned), row);
  }
  return row;
}

// The same part of y.
template <class T>
__device__ void write_row(const Softmax<T>& p, const T* x, T* y, const Split<T>& split,
                          const Online<Compute<T>>& row, int t, int threads) {
  const Finish<T> finish(p, row);
  const bool aligned = is_aligned(x + split.head);
  if (t < split.edges) y[split.edge_column(t)] = finish(p, x[split.edge_column(t)]);
  for (int v = t; v < split.vectors; v += threads) {
    const int col = split.column(v);
    store_vector(y + col, finish(p, load_vector(x + col, aligned)));
  }
}

template <class T>
__global__ void softmax_vectorized_kernel(const Softmax<T> p) {
  using Number = Compute<T>;
  __shared__ Online<Number> smem[32];
  const int t = threadIdx.x;
  const T* x = p.x + blockIdx.x * p.ldx;
  T* y = p.y + blockIdx.x * p.ldy;
  const Split<T> split(y, p.cols);

  auto row = read_row(p, x, split, t, VECTORIZED_NUM_THREADS);
  row = block_reduce_shuffles(row, smem, Merge<Number>{p.slope_log2}, Online<Number>::nothing());
  if (t == 0) write_lse(p, blockIdx.x, row);
  write_row(p, x, y, split, row, t, VECTORIZED_NUM_THREADS);
}

void softmax_vectorized(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const Softmax<T>& s) {
      const auto grid = static_cast<unsigned>(s.rows);
      softmax_vectorized_kernel<<<grid, VECTORIZED_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_vectorized_kernel);
    });
  });
}

// ------------------------------------------------------------------------------------------------
// warp_per_row: one warp per row (all dtypes, options)
// Idea     A short row is a warp's work: 32 lanes reduce by shuffles alone, so there is nothing to
//          wait for, and four rows share a block of 128 threads.
// Changes  vs vectorized: 32 threads to a row for 256, group_reduce for block_reduce_shuffles.
// Bytes    8 read + 4 written = 12 asked per fp32 element (floor: 8), 2.25 exp. The second read of
//          a short row finds it in L1.
// Shape    4 rows per block of 128 threads, 0 B smem, 0 __syncthreads.
// Trap     A row of 65536 is a warp's work too, and 32 lanes take long over it.
// Next     A row short enough for a warp is short enough to stay in its registers.
constexpr int WARP_PER_ROW_NUM_THREADS = 128;  // tunable: 32, 64, 128, 256, 512, 1024

template <class T>
__global__ void softmax_warp_per_row_kernel(const Softmax<T> p) {
  constexpr int ROWS = WARP_PER_ROW_NUM_THREADS / 32;  // of a block
  const int64_t index = static_cast<int64_t>(blockIdx.x) * ROWS + threadIdx.x / 32;
  if (index >= p.rows) return;  // the whole warp
  const int lane = threadIdx.x % 32;
  const T* x = p.x + index * p.ldx;
  T* y = p.y + index * p.ldy;
  const Split<T> split(y, p.cols);

  auto row = read_row(p, x, split, lane, 32);
  row = group_reduce(row, Merge<Compute<T>>{p.slope_log2});
  if (lane == 0) write_lse(p, index, row);
  write_row(p, x, y, split, row, lane, 32);
}

void softmax_warp_per_row(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const Softmax<T>& s) {
      constexpr int ROWS = WARP_PER_ROW_NUM_THREADS / 32;
      const auto grid = static_cast<unsigned>(ceil_div<int64_t>(s.rows, ROWS));
      softmax_warp_per_row_kernel<<<grid, WARP_PER_ROW_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(softmax_warp_per_row_kernel);
    });
  });
}

// ------------------------------------------------------------------------------------------------
// row_in_registers: the row is read once (all dtypes, options)
// Idea     A thread takes up to 8 vectors and keeps them in registers from the load to the store:
//          every element is read once and written once, and all loads of a thread are under way
//          before the first is used. The longer the row, the more threads share it: 16 or 32 lanes
//          of a warp, then a block of as many warps as it takes.
//
//          lanes per row    16     32     64     ...    512
//          fp32, up to     512   1024   2048          16384 columns
//
// Changes  vs warp_per_row: x_frag; the maximum comes before the sum, as all elements are at hand.
// Bytes    4 read + 4 written = 8 asked per fp32 element, the floor; 2 exp.
// Shape    Up to 32 lanes: 128 threads per block, 8 or 4 rows, no __syncthreads. Beyond: a block
//          per row, 1 __syncthreads. 32 registers of a thread hold data.
// Trap     Registers have no index: a loop over x_frag that is not unrolled puts it into local
//          memory, which is global memory. And the shuffles want all lanes of the warp: those
//          behind the last row stay and take a row of no columns.
// Limit    Rows of more than 512 * 8 vectors go through `vectorized`; so do tensors that lie
//          differently towards the 16-byte boundaries, whose vectors would be collected element by
//          element, a register for each.
// Next     Longer rows, held by several blocks.
constexpr int ROW_IN_REGISTERS_VECTORS = 8;        // tunable: 2, 4, 8
constexpr int ROW_IN_REGISTERS_NUM_THREADS = 128;  // tunable: 32, 64, 128, 256
constexpr int ROW_IN_REGISTERS_MAX_THREADS = 512;

// `lanes` threads per row: 16, 32, or the block.
template <class T>
__global__ void __launch_bounds__(ROW_IN_REGISTERS_MAX_THREADS)
    softmax_row_in_registers_kernel(const Softmax<T> p, int lanes) {
  using Number = Compute<T>;
  constexpr int VECTORS = ROW_IN_REGISTERS_VECTORS, SIZE = Vector<T>::SIZE;
  __shared__ Online<Number> smem[32];
  const int t = threadIdx.x % lanes;
  const int64_t index =
      static_cast<int64_t>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  const bool exists = index < p.rows;
  const T* x = p.x + index * p.ldx;
  T* y = p.y + index * p.ldy;
  const Split<T> split(y, exists ? p.cols : 0);

  Vector<T> x_frag[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int v = t + i * lanes;
    if (v < split.vectors) x_frag[i] = load_vector(x + split.column(v));
  }
  const int edge = split.edge_column(t);
  const T x_edge = t < split.edges ? x[edge] : T(-INFINITY);

  // The maximum of the thread's z, then the sum of exp(slope * (z - m)).
  Number z[SIZE], z_edge[1];
  scaled(p, x_edge, z_edge);
  auto row = Online<Number>::nothing();
  if (t < split.edges) row.m = max(row.m, z_edge[0]);
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    if (t + i * lanes >= split.vectors) break;
    scaled(p, x_frag[i], z);
#pragma unroll
    for (int j = 0; j < SIZE; ++j) row.m = max(row.m, z[j]);
  }
  row.m = min(row.m, LARGEST<Number>);
  if (t < split.edges) row.l = power_of_2(p.slope_log2 * (z_edge[0] - row.m));
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    if (t + i * lanes >= split.vectors) break;
    forget(x_frag[i]);
    scaled(p, x_frag[i], z);
#pragma unroll
    for (int j = 0; j < SIZE; ++j) row.l += power_of_2(p.slope_log2 * (z[j] - row.m));
  }
  const Merge<Number> merge{p.slope_log2};
  row = lanes <= 32 ? group_reduce(row, merge, lanes)
                    : block_reduce_shuffles(row, smem, merge, Online<Number>::nothing());

  if (exists && t == 0) write_lse(p, index, row);
  const Finish<T> finish(p, row);
  if (t < split.edges) y[edge] = finish(p, x_edge);
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int v = t + i * lanes;
    if (v >= split.vectors) break;
    forget(x_frag[i]);
    store_vector(y + split.column(v), finish(p, x_frag[i]));
  }
}

void softmax_row_in_registers(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int threads = ceil_div(p.cols / Vector<T>::SIZE, ROW_IN_REGISTERS_VECTORS);
    if (threads > ROW_IN_REGISTERS_MAX_THREADS || !lie_alike<T>(p.x, p.ldx, p.y, p.ldy, p.rows)) {
      return softmax_vectorized(p, stream);
    }
    const int lanes = threads <= 16 ? 16 : ceil_div(threads, 32) * 32;
    const int block = max(lanes, lanes <= 32 ? ROW_IN_REGISTERS_NUM_THREADS : 0);
    for_each_slice<T>(p, [&](const Softmax<T>& s) {
      const auto grid = static_cast<unsigned>(ceil_div<int64_t>(s.rows, block / lanes));
      softmax_row_in_registers_kernel<<<grid, block, 0, stream>>>(s, lanes);
      CUDA_CHECK_LAUNCH(softmax_row_in_registers_kernel);
    });
  });
}

// ------------------------------------------------------------------------------------------------
// cluster: a long row in the shared memory of several SMs (all dtypes, options; sm_90)
// Idea     A cluster of up to 16 blocks takes a row. Each block keeps its slice in shared memory, at
//          most 224 KiB, and tells its (m, l) to the others by stores into their shared memory. A
//          row is read once; 16 blocks hold 917504 fp32.
//          A cluster takes row after row, and while it writes one, it reads the next:
//
//            step              0        1        2        3        4        5
//            write y, row r    chunk 0  chunk 1  chunk 2  chunk 3
//            load x, row r+1   chunk 0  chunk 1  chunk 2  chunk 3                 cp.async
//            add up, row r+1                     chunk 0  chunk 1  chunk 2  chunk 3
//
//          A chunk's place in shared memory is free as soon as its y is written.
// Changes  vs row_in_registers: slots in shared memory for registers; cp.async fills them. A thread
//          uses only slots it filled itself, so no barrier guards them: cp_async_wait is enough.
// Bytes    4 read + 4 written = 8 asked per fp32 element, the floor; 2 exp. What 16 blocks cannot
//          hold is read twice.
// Shape    512 threads per block, 16 KiB to 224 KiB smem, 1 cluster barrier per row. Rows of up to
//          16384 elements are left to row_in_registers.
// Trap     A block must not store into one that has not started: hence the barrier at the start.
//          A row's slots for (m, l) are used again two rows later, when the barrier of the row
//          between has seen every block past reading them.
constexpr int CLUSTER_NUM_THREADS = 512;    // tunable: 256, 512, 1024
constexpr int CLUSTER_VECTORS = 2;          // tunable: 1, 2, 4
constexpr int CLUSTER_LAG = 2;              // tunable: 1, 2, 3
constexpr int CLUSTER_SLICE_BYTES = 65536;  // tunable: 32768, 65536, 131072
constexpr int CLUSTER_MIN_COLS = 16384;     // tunable: 0, 8192, 16384, 32768

constexpr int MAX_CLUSTER = 16;
constexpr int CLUSTER_MAX_SMEM_BYTES = 224 << 10;
constexpr int CLUSTER_CHUNK_BYTES = CLUSTER_NUM_THREADS * CLUSTER_VECTORS * 16;

// What a thread does with a chunk: use(i, v) for its vectors. Of chunk c, each block of the cluster
// takes NUM_THREADS * VECTORS neighbouring vectors.
template <class Use>
__device__ void for_each_vector(int chunk, int vectors, Use use) {
  const int first = (chunk * cluster_size() + cluster_rank()) * CLUSTER_VECTORS;
#pragma unroll
  for (int i = 0; i < CLUSTER_VECTORS; ++i) {
    const int v = (first + i) * CLUSTER_NUM_THREADS + threadIdx.x;
    if (v < vectors) use(i, v);
  }
}

// Where this thread keeps vector i of a chunk: [chunk, i, thread].
__device__ inline uint4* slot(int chunk, int i) {
  extern __shared__ uint4 slots[];
  return slots + (chunk * CLUSTER_VECTORS + i) * CLUSTER_NUM_THREADS + threadIdx.x;
}

template <class T>
__device__ Vector<T> load_slot(int chunk, int i) {
  Vector<T> vector;
  reinterpret_cast<uint4&>(vector) = *slot(chunk, i);
  return vector;
}

// A row, and the part of it that this thread takes.
template <class T>
struct ClusterRow {
  const T* x;
  T* y;
  int vectors;  // 0 if there is no such row
  int edge;     // of this thread, counted from x; INT_MIN: none. Block 0 takes them all

  __device__ ClusterRow(const Softmax<T>& p, int64_t index) {
    const T* row = p.y + index * p.ldy;
    const Split<T> split(row, index >= 0 && index < p.rows ? p.cols : 0);
    x = p.x + index * p.ldx + split.head;  // of vector 0
    y = p.y + index * p.ldy + split.head;
    vectors = split.vectors;
    const bool takes = cluster_rank() == 0 && threadIdx.x < split.edges;
    edge = takes ? split.edge_column(threadIdx.x) - split.head : INT_MIN;
  }
};

// (m, l) of the whole row, from those of all threads of the cluster: a block sends its own to all
// blocks, and after the barrier every warp merges all. The next call needs other `blocks`.
template <class Number>
__device__ Online<Number> cluster_reduce(Online<Number> part, Online<Number> (&warps)[32],
                                         Online<Number> (&blocks)[MAX_CLUSTER],
                                         Merge<Number> merge) {
  const auto nothing = Online<Number>::nothing();
  part = block_reduce_shuffles(part, warps, merge, nothing);
  if (threadIdx.x < cluster_size()) {
    Online<Number>& to = blocks[cluster_rank()];
    store_to_block(threadIdx.x, &to.m, part.m);
    store_to_block(threadIdx.x, &to.l, part.l);
  }
  cluster_sync();  // every block has sent its part
  const int block = threadIdx.x % MAX_CLUSTER;
  return group_reduce(block < cluster_size() ? blocks[block] : nothing, merge, MAX_CLUSTER);
}

template <class T>
__global__ void __launch_bounds__(CLUSTER_NUM_THREADS)
    softmax_cluster_kernel(const Softmax<T> p, int chunks, int held) {
#if __CUDA_ARCH__ >= 900
  using Number = Compute<T>;
  constexpr int SIZE = Vector<T>::SIZE;
  __shared__ Online<Number> warps[32], blocks[2][MAX_CLUSTER];
  const int64_t clusters = gridDim.x / cluster_size();
  const Merge<Number> merge{p.slope_log2};

  cluster_sync();                           // every block has started
  auto result = Online<Number>::nothing();  // of `row`
  int parity = 0;
  for (int64_t index = blockIdx.x / cluster_size() - clusters; index < p.rows; index += clusters) {
    const ClusterRow<T> row(p, index), next(p, index + clusters);
    const Finish<T> finish(p, result);
    auto part = Online<Number>::nothing();  // of `next`

    for (int step = 0; step < chunks + CLUSTER_LAG; ++step) {
      if (step < held) {
        for_each_vector(step, row.vectors, [&](int i, int v) {
          store_vector(row.y + v * SIZE, finish(p, load_slot<T>(step, i)));
        });
        for_each_vector(step, next.vectors,
                        [&](int i, int v) { cp_async_16(slot(step, i), next.x + v * SIZE); });
      } else {
        for_each_vector(step, row.vectors, [&](int, int v) {
          store_vector(row.y + v * SIZE, finish(p, load_vector(row.x + v * SIZE)));
        });
      }
      cp_async_commit();
      cp_async_wait<CLUSTER_LAG>();  // the chunk of LAG steps ago is there
      const int chunk = step - CLUSTER_LAG;
      if (chunk < 0) continue;
      if (chunk < held) {
        for_each_vector(chunk, next.vectors,
                        [&](int i, int) { add(p, load_slot<T>(chunk, i), part); });
      } else {
        for_each_vector(chunk, next.vectors,
                        [&](int, int v) { add(p, load_vector(next.x + v * SIZE), part); });
      }
    }
    if (row.edge != INT_MIN) row.y[row.edge] = finish(p, row.x[row.edge]);
    if (index + clusters >= p.rows) break;
    if (next.edge != INT_MIN) add(p, next.x[next.edge], part);
    result = cluster_reduce(part, warps, blocks[parity], merge);
    if (cluster_rank() == 0 && threadIdx.x == 0) write_lse(p, index + clusters, result);
    parity ^= 1;
  }
#endif
}

// How a row is shared out: the blocks of its cluster, the chunks of a block's slice, and how many of
// them shared memory holds.
struct ClusterPlan {
  int size, chunks, held;

  ClusterPlan(int64_t row_bytes) : size(1) {
    while (size < MAX_CLUSTER && row_bytes > int64_t(size) * CLUSTER_SLICE_BYTES) size *= 2;
    chunks = static_cast<int>(ceil_div<int64_t>(row_bytes, int64_t(size) * CLUSTER_CHUNK_BYTES));
    held = min(chunks, CLUSTER_MAX_SMEM_BYTES / CLUSTER_CHUNK_BYTES);
  }
};

template <class T>
static void launch_cluster(const Softmax<T>& p, cudaStream_t stream) {
  const ClusterPlan plan(int64_t(p.cols) * sizeof(T));
  const auto kernel = softmax_cluster_kernel<T>;
  const int smem_bytes = plan.held * CLUSTER_CHUNK_BYTES;
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes));
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));

  cudaLaunchAttribute cluster = {.id = cudaLaunchAttributeClusterDimension};
  cluster.val.clusterDim = {static_cast<unsigned>(plan.size), 1, 1};
  cudaLaunchConfig_t config = {
      .gridDim = static_cast<unsigned>(plan.size),
      .blockDim = CLUSTER_NUM_THREADS,
      .dynamicSmemBytes = static_cast<size_t>(smem_bytes),
      .stream = stream,
      .attrs = &cluster,
      .numAttrs = 1,
  };
  int clusters = 0;  // that run at the same time
  CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
  if (clusters == 0)
    throw LaunchError("this GPU has no room for a cluster of %d blocks", plan.size);
  config.gridDim.x *= static_cast<unsigned>(min(int64_t{clusters}, p.rows));
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, p, plan.chunks, plan.held));
}

void softmax_cluster(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (p.cols <= CLUSTER_MIN_COLS || !lie_alike<T>(p.x, p.ldx, p.y, p.ldy, p.rows)) {
      return softmax_row_in_registers(p, stream);
    }
    for_each_slice<T>(p, [&](const Softmax<T>& s) { launch_cluster(s, stream); });
  });
}
