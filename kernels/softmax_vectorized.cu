// softmax_vectorized.cu: the ladder of softmax.cu goes on, with all dtypes and options: 16-byte
// vectors, and rows that stay on the chip.
//
// On first reading take `scaled`, `Finish` and `write_lse` for what they are without options: z = x,
// y = exp(z - m) / l, and nothing.
#include "softmax.cuh"

// ------------------------------------------------------------------------------------------------
// vectorized: 16 bytes per load and store (all dtypes, options)
// Idea     A lane's load takes 4 fp32 or 8 bf16 at once: a quarter or an eighth of the load
//          instructions, and a warp has 512 B under way with each.
// Changes  vs online: the row is cut into vectors and edges (Split in softmax.cuh), as 16-byte
//          accesses need addresses in multiples of 16. The walk is coarsened by vectors. (m, l) is
//          rescaled once per vector, not once per element.
// Bytes    8 read + 4 written = 12 asked per fp32 element (floor: 8), 2.25 exp.
// Shape    256 threads per row, 256 B smem, 1 __syncthreads.
// Trap     x and y may lie differently towards the 16-byte boundaries. The row is cut where y has
//          them; where x has them elsewhere, its vectors are read element by element.
// Next     A row of 128 elements is 32 vectors: seven warps of eight have nothing to do.
constexpr int VECTORIZED_NUM_THREADS = 256;  // tunable: 64, 128, 256, 512, 1024
constexpr int VECTORIZED_COARSENING = 4;     // tunable: 1, 2, 4, 8

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

// A bf16 is the upper half of an fp32: an instruction for each, where the plain conversion of the
// second in a word takes two.
__device__ inline void scaled(const Softmax<__nv_bfloat16>& p, const Vector<__nv_bfloat16>& x,
                              float (&z)[8]) {
  const auto& words = reinterpret_cast<const uint4&>(x);
  const uint32_t pairs[] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    z[2 * i] = p.prescale * __uint_as_float(pairs[i] << 16);
    z[2 * i + 1] = p.prescale * __uint_as_float(pairs[i] & 0xffff0000u);
  }
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
  __device__ T logarithm(const Softmax<T>& p, Number z) const {
    return T(p.slope * (z - m) - last);
  }
  __device__ T quotient(const Softmax<T>& p, Number z) const {
    return T(exponential(p.rate, z - m) * last);
  }
  // Of what `exponentiate` left in place of z.
  __device__ T exponentiated(const Softmax<T>& p, Number z) const {
    return p.log ? logarithm(p, z) : T(z * last);
  }
  __device__ T operator()(const Softmax<T>& p, T x) const {
    Number z[1];
    scaled(p, x, z);
    return p.log ? logarithm(p, z[0]) : quotient(p, z[0]);
  }
  __device__ Vector<T> operator()(const Softmax<T>& p, const Vector<T>& x) const {
    Number z[Vector<T>::SIZE];
    Vector<T> y;
    scaled(p, x, z);
    if (p.log) {
#pragma unroll
      for (int i = 0; i < Vector<T>::SIZE; ++i) y.values[i] = logarithm(p, z[i]);
    } else {
#pragma unroll
      for (int i = 0; i < Vector<T>::SIZE; ++i) y.values[i] = quotient(p, z[i]);
    }
    return y;
  }
};

// Adds an element or a vector of x to what a part of a row comes to.
template <class T, class Elements>
__device__ void add(const Softmax<T>& p, const Elements& x, Online<Compute<T>>& row) {
  Compute<T> z[sizeof(Elements) / sizeof(T)];
  scaled(p, x, z);
  row.add(z, p.rate);
}

template <class T>
__device__ void write_lse(const Softmax<T>& p, int64_t index, const Online<Compute<T>>& row) {
  if (p.lse != nullptr) p.lse[index] = p.slope * row.m + log(row.l);
}

// use(col, the vector of x at col) for every vector of thread t of `threads`.
template <bool ALIGNED, class T, class Use>
__device__ void walk_vectors(const T* x, const Split<T>& split, int t, int threads, Use use) {
  constexpr int COARSENING = ALIGNED ? VECTORIZED_COARSENING : 1;
  int v = t;
  for (; v + (COARSENING - 1) * threads < split.vectors; v += COARSENING * threads) {
    Vector<T> x_frag[COARSENING];
#pragma unroll
    for (int i = 0; i < COARSENING; ++i) {
      x_frag[i] = load_vector(x + split.column(v + i * threads), ALIGNED);
    }
#pragma unroll
    for (int i = 0; i < COARSENING; ++i) use(split.column(v + i * threads), x_frag[i]);
  }
  for (; v < split.vectors; v += threads) {
    use(split.column(v), load_vector(x + split.column(v), ALIGNED));
  }
}

template <class T, class Use>
__device__ void for_each_vector(const T* x, const Split<T>& split, int t, int threads, Use use) {
  if (is_aligned(x + split.head)) {
    walk_vectors<true>(x, split, t, threads, use);
  } else {
    walk_vectors<false>(x, split, t, threads, use);
  }
}

// The part of row x that thread t of `threads` takes: an edge, and vectors t, t + threads, ...
template <class T>
__device__ Online<Compute<T>> read_row(const Softmax<T>& p, const T* x, const Split<T>& split,
                                       int t, int threads) {
  auto row = Online<Compute<T>>::nothing();
  if (t < split.edges) add(p, x[split.edge_column(t)], row);
  for_each_vector(x, split, t, threads, [&](int, const Vector<T>& v) { add(p, v, row); });
  return row;
}

// The same part of y.
template <class T>
__device__ void write_row(const Softmax<T>& p, const T* x, T* y, const Split<T>& split,
                          const Online<Compute<T>>& row, int t, int threads) {
  const Finish<T> finish(p, row);
  if (t < split.edges) y[split.edge_column(t)] = finish(p, x[split.edge_column(t)]);
  for_each_vector(x, split, t, threads,
                  [&](int col, const Vector<T>& v) { store_vector(y + col, finish(p, v)); });
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
  row = block_reduce_shuffles(row, smem, Merge<Number>{p.rate}, Online<Number>::nothing());
  if (t == 0) write_lse(p, blockIdx.x, row);
  write_row(p, x, y, split, row, t, VECTORIZED_NUM_THREADS);
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

// ------------------------------------------------------------------------------------------------
// warp_per_row: one warp per row (all dtypes, options)
// Idea     A short row is a warp's work: 32 lanes reduce by shuffles alone, so there is nothing to
//          wait for, and four rows share a block of 128 threads.
// Changes  vs vectorized: 32 threads to a row for 256, group_reduce for block_reduce_shuffles.
// Bytes    8 read + 4 written = 12 asked per fp32 element (floor: 8), 2.25 exp. The second read of
//          a short row finds it in L1.
// Shape    4 rows per block of 128 threads, 0 B smem, 0 __syncthreads.
// Trap     Where rows are few, most SMs have nothing to do: a block per row uses eight times as many
//          threads.
// Declines rows of more than 8 vectors for each lane: 32 lanes take long over them.
// Next     A row short enough for a warp is short enough to stay in its registers.
constexpr int WARP_PER_ROW_NUM_THREADS = 128;  // tunable: 32, 64, 128, 256, 512, 1024
constexpr int WARP_PER_ROW_MAX_VECTORS = 256;  // tunable: 256, 1024, 16384; of a row

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
  row = group_reduce(row, Merge<Compute<T>>{p.rate});
  if (lane == 0) write_lse(p, index, row);
  write_row(p, x, y, split, row, lane, 32);
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
  return reason("rows of %d columns are too long for a warp: vectorized",
                static_cast<int>(p.x.size[3]));
}

// ------------------------------------------------------------------------------------------------
// row_in_registers: the row is read once (all dtypes, options)
// Idea     A thread takes up to 32 elements and keeps them in registers from the load to the store:
//          every element is read once, goes through exp once, and is written once. All loads of a
//          thread are under way before the first is used. The longer the row, the more threads share
//          it: 16 or 32 lanes of a warp, then a block of as many warps as it takes.
//
//          lanes per row    16     32     64     ...    512
//          elements to     512   1024   2048          16384      (fp64: half as many)
//
// Changes  vs warp_per_row: x_frag and z. With all elements at hand nothing has to go online: the
//          maximum comes first, then z becomes exp(z - m) in place, then the sum.
// Bytes    4 read + 4 written = 8 asked per fp32 element, the floor; 1 exp.
// Shape    Up to 32 lanes: 128 threads per block, 8 or 4 rows, no __syncthreads. Beyond: a block
//          per row, 2 __syncthreads. 32 registers of a thread hold data.
// Trap     Registers have no index: a loop over z that is not unrolled puts it into local memory,
//          which is global memory. And the shuffles want all lanes of the warp: those behind the
//          last row stay and take a row of no columns.
// Declines longer rows, and tensors that lie differently towards the 16-byte boundaries, whose
//          vectors would be collected element by element.
// Next     Longer rows, held by several blocks.
constexpr int ROW_IN_REGISTERS_VECTORS = 8;           // tunable: 2, 4, 8
constexpr int ROW_IN_REGISTERS_NUM_THREADS = 128;     // tunable: 32, 64, 128, 256
constexpr int ROW_IN_REGISTERS_MAX_THREADS = 512;     // tunable: 256, 512, 1024
constexpr int ROW_IN_REGISTERS_BUSY_THREADS = 32768;  // tunable: 0, 16384, 32768, 65536

// Vectors of a thread: 32 elements, 16 of fp64.
template <class T>
constexpr int HELD_VECTORS =
    sizeof(T) == 2 ? ROW_IN_REGISTERS_VECTORS / 2 : ROW_IN_REGISTERS_VECTORS;

// Puts exp(slope * (z - m)) in place of z, unless the logarithm is asked for. Returns their sum.
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

// Blocks of [rows, lanes]: a row is for 16 lanes, for a warp, or for all of the block.
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

  Vector<T> x_frag[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int v = t + i * lanes;
    if (v < split.vectors) x_frag[i] = load_vector(x + split.column(v));
  }
  const int edge = split.edge_column(t);
  Number z[VECTORS][SIZE], z_edge[1] = {-INFINITY};
  if (t < split.edges) scaled(p, x[edge], z_edge);

  const auto reduce = [&](Number value, Number(&smem)[32], auto op, Number none) {
    return lanes <= 32 ? group_reduce(value, op, lanes)
                       : block_reduce_shuffles(value, smem, op, none);
  };

  Number m = max(z_edge[0], -LARGEST<Number>);
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    if (t + i * lanes >= split.vectors) break;
    scaled(p, x_frag[i], z[i]);
#pragma unroll
    for (int j = 0; j < SIZE; ++j) m = max(m, z[i][j]);
  }
  m = min(reduce(m, warp_max, Max(), -LARGEST<Number>), LARGEST<Number>);

  Number l = t < split.edges ? exponentiate(p, m, z_edge) : 0;
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    if (t + i * lanes >= split.vectors) break;
    l += exponentiate(p, m, z[i]);
  }
  l = reduce(l, warp_sum, Sum(), 0);

  const Online<Number> row{m, l};
  if (exists && t == 0) write_lse(p, index, row);
  const Finish<T> finish(p, row);
  if (t < split.edges) y[edge] = finish.exponentiated(p, z_edge[0]);
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int v = t + i * lanes;
    if (v >= split.vectors) break;
    Vector<T> result;
#pragma unroll
    for (int j = 0; j < SIZE; ++j) result.values[j] = finish.exponentiated(p, z[i][j]);
    store_vector(y + split.column(v), result);
  }
}

template <class T>
static int lanes_of_a_row(const SoftmaxProblem& p) {
  const int vectors = static_cast<int>(p.x.size[3]) / Vector<T>::SIZE;
  return threads_of_a_row(p.x.size[2], vectors, HELD_VECTORS<T>, ROW_IN_REGISTERS_MAX_THREADS,
                          ROW_IN_REGISTERS_BUSY_THREADS);
}

// Whether one block holds a row.
static bool fits_in_registers(const SoftmaxProblem& p) {
  return with_dtype(p.x.dtype, [&](auto zero) {
    return lanes_of_a_row<decltype(zero)>(p) <= ROW_IN_REGISTERS_MAX_THREADS;
  });
}

static bool tensors_lie_alike(const SoftmaxProblem& p) {
  return with_dtype(p.x.dtype, [&](auto zero) { return lie_alike<decltype(zero)>(p.x, p.y); });
}

constexpr char LIE_DIFFERENTLY[] =
    "x and y lie differently towards the 16-byte boundaries: vectorized";

const char* softmax_row_in_registers_declines(const SoftmaxProblem& p) {
  if (!fits_in_registers(p)) {
    return reason("rows of %d columns are more than the registers of a block hold",
                  static_cast<int>(p.x.size[3]));
  }
  return tensors_lie_alike(p) ? nullptr : LIE_DIFFERENTLY;
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

// ------------------------------------------------------------------------------------------------
// cluster: a long row in the shared memory of several SMs (all dtypes, options; sm_90)
// Idea     Up to 16 blocks, a cluster, run at the same time and can store into each other's shared
//          memory. They share a row, each keeps its slice, and tells its (m, l) to the others:
//
//            block 0   slice 0 of x -> (m, l) of it \            / y of slice 0
//            block 1   slice 1 of x -> (m, l) of it  > all to all  y of slice 1
//            ...                                    /            \ ...
//
// Changes  vs row_in_registers: shared memory for registers, filled by cp.async. A thread uses only
//          what it copied itself, so no barrier guards it: cp_async_wait is enough.
// Bytes    4 read + 4 written = 8 asked per fp32 element, the floor; 2.25 exp. What 16 blocks cannot
//          hold, 224 KiB each, is read twice.
// Shape    512 threads and mostly up to 64 KiB smem per block, so that an SM has three: one loads
//          while another writes. 1 __syncthreads, 2 cluster barriers. The first lets no block store
//          into one that has not started; all loads lie between arriving and waiting, so that it
//          costs no time.
// Trap     cp.async moves a 32-byte sector in one piece only if it is one in shared memory, too. Rows
//          that begin elsewhere in a line of 128 bytes keep that distance in shared memory.
// Declines rows that row_in_registers can hold, and tensors that lie differently towards the 16-byte
//          boundaries.
// Next     A block that waits at a barrier, or for another SM, neither loads nor writes.
constexpr int CLUSTER_NUM_THREADS = 512;    // tunable: 256, 512
constexpr int CLUSTER_SLICE_BYTES = 65536;  // tunable: 32768, 65536, 131072
constexpr int CLUSTER_BUSY_BLOCKS = 128;    // tunable: 0, 64, 128

constexpr int CLUSTER_ROUND_BYTES = CLUSTER_NUM_THREADS * 16;  // a vector of each thread

// Blocks that an SM shall have registers for.
#if __CUDA_ARCH__ >= 900
template <class T>
constexpr int CLUSTER_BLOCKS = sizeof(T) == 8 ? 1 : 1536 / CLUSTER_NUM_THREADS;
#else  // the kernels are empty
template <class T>
constexpr int CLUSTER_BLOCKS = 1;
#endif

// A row as the threads of a cluster share it. Vectors are counted from the last multiple of 128 bytes
// in front of the row, and go round: one to each thread of block 0, then of block 1, ...
template <class T>
struct ClusterRow {
  static constexpr int SIZE = Vector<T>::SIZE;
  const T* x;  // of vector 0
  T* y;
  int first,
      vectors;  // the row has vectors first, ..., first + vectors - 1; none if it is not there
  int edge;     // of this thread, counted from x; INT_MIN: none. Block 0 takes them all

  __device__ ClusterRow(const Softmax<T>& p, int64_t index) {
    const Split<T> split(p.y + index * p.ldy, index >= 0 && index < p.rows ? p.cols : 0);
    x = p.x + index * p.ldx + split.head;
    first = reinterpret_cast<uintptr_t>(x) % 128 / sizeof(Vector<T>);
    x -= first * SIZE;
    y = p.y + index * p.ldy + split.head - first * SIZE;
    vectors = split.vectors;
    const bool takes = cluster_rank() == 0 && threadIdx.x < split.edges;
    edge = takes ? split.edge_column(threadIdx.x) - split.head + first * SIZE : INT_MIN;
  }
  // Calls use(i, v) for COUNT vectors of this thread from its k-th on, where the row has them.
  template <int COUNT, class Use>
  __device__ void for_each(int k, Use use) const {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int round = (k + i) * cluster_size() + cluster_rank();
      const int v = round * CLUSTER_NUM_THREADS + threadIdx.x;
      if (static_cast<unsigned>(v - first) < static_cast<unsigned>(vectors)) use(i, v);
    }
  }
  __device__ const T* x_vector(int v) const { return x + v * SIZE; }
  __device__ T* y_vector(int v) const { return y + v * SIZE; }
};

// What cp.async brought for this thread's i-th vector from `slots` on.
template <class T>
__device__ Vector<T> load_slot(const uint4* slots, int i) {
  Vector<T> vector;
  reinterpret_cast<uint4&>(vector) = slots[i * CLUSTER_NUM_THREADS];
  return vector;
}

// Of a thread's `slice` vectors the first `held` are kept in shared memory.
template <class T>
__global__ void __launch_bounds__(CLUSTER_NUM_THREADS, CLUSTER_BLOCKS<T>)
    softmax_cluster_kernel(const Softmax<T> p, int held, int slice) {
#if __CUDA_ARCH__ >= 900
  using Number = Compute<T>;
  extern __shared__ __align__(128) uint4 smem[];
  __shared__ Online<Number> warps[32], blocks[MAX_CLUSTER];
  cluster_arrive_relaxed();                 // this block has started
  uint4* const slots = smem + threadIdx.x;  // this thread's: every NUM_THREADS-th
  const int t = threadIdx.x, size = cluster_size();
  const int64_t index = blockIdx.x / size;
  const ClusterRow<T> row(p, index);
  const Merge<Number> merge{p.rate};
  const auto nothing = Online<Number>::nothing();

  for (int k = 0; k < held; ++k) {
    row.template for_each<1>(
        k, [&](int, int v) { cp_async_16(slots + k * CLUSTER_NUM_THREADS, row.x_vector(v)); });
  }
  cp_async_commit();
  auto part = nothing;
  const T x_edge = row.edge == INT_MIN ? T(0) : row.x[row.edge];
  if (row.edge != INT_MIN) add(p, x_edge, part);
  for (int k = held; k < slice; ++k) {
    row.template for_each<1>(k, [&](int, int v) { add(p, load_vector(row.x_vector(v)), part); });
  }
  cp_async_wait<0>();  // this thread's copies are there
  for (int k = 0; k < held; ++k) {
    row.template for_each<1>(k, [&](int, int) { add(p, load_slot<T>(slots, k), part); });
  }

  part = block_reduce_shuffles(part, warps, merge, nothing);
  cluster_wait();  // every block has started
  if (t < size) {
    store_to_block(t, &blocks[cluster_rank()].m, part.m);
    store_to_block(t, &blocks[cluster_rank()].l, part.l);
  }
  cluster_sync();  // every block has sent its part
  const int block = t % MAX_CLUSTER;
  const auto result = group_reduce(block < size ? blocks[block] : nothing, merge, MAX_CLUSTER);
  if (cluster_rank() == 0 && t == 0) write_lse(p, index, result);

  const Finish<T> finish(p, result);
  if (row.edge != INT_MIN) row.y[row.edge] = finish(p, x_edge);
  for (int k = 0; k < slice; ++k) {
    row.template for_each<1>(k, [&](int, int v) {
      const auto x = k < held ? load_slot<T>(slots, k) : load_vector(row.x_vector(v));
      store_vector(row.y_vector(v), finish(p, x));
    });
  }
#endif
}

// How a row is shared out: the blocks of its cluster, a thread's vectors, and those of them that
// shared memory holds, a multiple of `chunk`.
struct ClusterPlan {
  int size, slice, held;

  // Many blocks for a long row, or where a few rows have the GPU to themselves.
  ClusterPlan(int64_t rows, int64_t row_bytes, int room_bytes, int max_size, int chunk) : size(1) {
    const auto more_than = [&](int bytes) { return row_bytes > int64_t{size} * bytes; };
    while (size < max_size &&
           (more_than(CLUSTER_SLICE_BYTES) ||
            (rows * size < CLUSTER_BUSY_BLOCKS && more_than(2 * CLUSTER_ROUND_BYTES)))) {
      size *= 2;
    }
    slice = static_cast<int>(ceil_div(row_bytes, int64_t{size} * CLUSTER_ROUND_BYTES));
    held = min(ceil_div(slice, chunk), room_bytes / (chunk * CLUSTER_ROUND_BYTES)) * chunk;
  }
};

// Launches kernel(p, held, slice) for all rows, with clusters as large as the GPU has room for. If
// `resident`, of no more clusters than run at the same time.
template <class T, class Kernel>
static void launch_rows(Kernel kernel, const Softmax<T>& p, int chunk, bool resident,
                        cudaStream_t stream) {
  const int room = allow_all_shared_memory(kernel);
  const int misaligned =
      reinterpret_cast<uintptr_t>(p.x) % 128 != 0 || p.ldx * sizeof(T) % 128 != 0;
  const int64_t row_bytes = int64_t{p.cols} * sizeof(T) + (misaligned ? 112 : 0);
  for (int max_size = MAX_CLUSTER; max_size > 0; max_size /= 2) {
    const ClusterPlan plan(p.rows, row_bytes, room, max_size, chunk);
    if (launch_clusters(kernel, p.rows, resident, plan.size, CLUSTER_NUM_THREADS,
                        plan.held * CLUSTER_ROUND_BYTES, stream, p, plan.held, plan.slice)) {
      return;
    }
  }
  throw LaunchError("this GPU has no room for a block of %d threads", CLUSTER_NUM_THREADS);
}

const char* softmax_cluster_declines(const SoftmaxProblem& p) {
  if (fits_in_registers(p)) {
    return reason("rows of %d columns fit into the registers of a block: row_in_registers",
                  static_cast<int>(p.x.size[3]));
  }
  return tensors_lie_alike(p) ? nullptr : LIE_DIFFERENTLY;
}

void softmax_cluster(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(
        p,
        [&](const Softmax<T>& s) { launch_rows(softmax_cluster_kernel<T>, s, 1, false, stream); },
        MAX_CLUSTER);
  });
}

// ------------------------------------------------------------------------------------------------
// cluster_pipelined: while one row is written, the next is loaded (all dtypes, options; sm_90)
// Idea     A cluster takes row after row. A chunk's place in shared memory is free as soon as its y
//          is written, and the next row's chunk goes there at once:
//
//            step              0        1        2        3        4        5
//            write y, row r    chunk 0  chunk 1  chunk 2  chunk 3
//            load x, row r+1   chunk 0  chunk 1  chunk 2  chunk 3                 cp.async
//            add up, row r+1                     chunk 0  chunk 1  chunk 2  chunk 3
//
// Changes  vs cluster: the loop above. Each part of a row is sent with a message to the receiver's
//          mbarrier (st.async): a cluster barrier would first wait for the stores of y. Rows beyond
//          the shared memory of 16 SMs have 32 KiB more of each block in registers, then hold 2^20
//          fp32.
// Bytes    as cluster. Shape: as cluster, but 1 __syncthreads and 1 wait for messages per row, and
//          as many clusters as the GPU runs at a time.
// Trap     A mailbox may be filled again only when all warps of its block have read it. There are
//          two, for even and for odd rows:
//
//            block A   send r | wait r | read r | sync | send r+1 | wait r+1 | ... | send r+2
//            block B   send r | wait r | read r | sync | send r+1 |
//
//          A is past "wait r+1", so B has sent r+1, and did so behind a __syncthreads that its warps
//          reach after reading r.
constexpr int PIPELINED_VECTORS = 2;  // tunable: 1, 2, 4
constexpr int PIPELINED_LAG = 2;      // tunable: 1, 2, 3
constexpr int PIPELINED_REGISTERS =
    4;  // tunable: 2, 4; vectors of a thread in registers, if need be
static_assert(PIPELINED_LAG > 0, "a chunk is used a step after it was asked for, or later");

// Where the parts of a row meet: those of the block's warps, and those that all blocks send.
template <class Number>
struct Mailbox {
  Online<Number> warps[32], blocks[MAX_CLUSTER];
  uint64_t full;  // barrier: all blocks' parts have come
};

// (m, l) of the whole row, from those of all threads of the cluster: a block sends its own to the
// mailboxes of all blocks, and every warp merges what came.
template <class Number>
__device__ Online<Number> cluster_reduce(Online<Number> part, Mailbox<Number>& mailbox,
                                         uint32_t parity, Merge<Number> merge) {
  const auto nothing = Online<Number>::nothing();
  part = block_reduce_shuffles(part, mailbox.warps, merge, nothing);
  const int size = cluster_size(), t = threadIdx.x;
  if (t == 0) mbarrier_arrive_expect(&mailbox.full, size * sizeof(part));
  if (t < size) st_async(t, &mailbox.blocks[cluster_rank()], part.m, part.l, &mailbox.full);
  mbarrier_wait(&mailbox.full, parity);
  const int block = t % MAX_CLUSTER;
  return group_reduce(block < size ? mailbox.blocks[block] : nothing, merge, MAX_CLUSTER);
}

// Of a thread's `slice` vectors the first `held` are kept in shared memory, REGISTERS in registers.
template <class T, int REGISTERS>
__global__ void __launch_bounds__(CLUSTER_NUM_THREADS, REGISTERS > 0 ? 1 : CLUSTER_BLOCKS<T>)
    softmax_cluster_pipelined_kernel(const Softmax<T> p, int held, int slice) {
#if __CUDA_ARCH__ >= 900
  using Number = Compute<T>;
  constexpr int VECTORS = PIPELINED_VECTORS, LAG = PIPELINED_LAG;
  extern __shared__ __align__(128) uint4 smem[];
  __shared__ Mailbox<Number> mailboxes[2];
  uint4* const slots = smem + threadIdx.x;  // this thread's: every NUM_THREADS-th
  const int64_t clusters = gridDim.x / cluster_size();
  const Merge<Number> merge{p.rate};

  if (threadIdx.x < 2) mbarrier_init(&mailboxes[threadIdx.x].full, 1);
  cluster_sync();  // every block has started, with its barriers
  int64_t index = blockIdx.x / cluster_size();
  ClusterRow<T> row(p, -1);                 // the row that is written,
  auto result = Online<Number>::nothing();  // its m and l,
  T row_edge(0);                            // and its edge
  Vector<T> x_frag[REGISTERS + 1];          // of row, then of next
  for (uint32_t turn = 0;; ++turn, index += clusters) {
    const ClusterRow<T> next(p, index);  // the row that is loaded
    const T next_edge = next.edge == INT_MIN ? T(0) : next.x[next.edge];
    auto part = Online<Number>::nothing();
    const Finish<T> finish(p, result);

    row.template for_each<REGISTERS>(
        held, [&](int i, int v) { store_vector(row.y_vector(v), finish(p, x_frag[i])); });
    next.template for_each<REGISTERS>(
        held, [&](int i, int v) { x_frag[i] = load_vector(next.x_vector(v)); });
    for (int k = held + REGISTERS; k < slice; ++k) {
      row.template for_each<1>(k, [&](int, int v) {
        store_vector(row.y_vector(v), finish(p, load_vector(row.x_vector(v))));
      });
    }
    for (int k = 0; k < held + LAG * VECTORS; k += VECTORS) {
      if (k < held) {
        uint4* const chunk = slots + k * CLUSTER_NUM_THREADS;
        row.template for_each<VECTORS>(k, [&](int i, int v) {
          store_vector(row.y_vector(v), finish(p, load_slot<T>(chunk, i)));
        });
        next.template for_each<VECTORS>(k, [&](int i, int v) {
          cp_async_16(chunk + i * CLUSTER_NUM_THREADS, next.x_vector(v));
        });
      }
      cp_async_commit();
      cp_async_wait<LAG>();  // the chunk of LAG steps ago is there
      const int there = k - LAG * VECTORS;
      if (there < 0) continue;
      const uint4* const chunk = slots + there * CLUSTER_NUM_THREADS;
      next.template for_each<VECTORS>(there,
                                      [&](int i, int) { add(p, load_slot<T>(chunk, i), part); });
    }
    next.template for_each<REGISTERS>(held, [&](int i, int) { add(p, x_frag[i], part); });
    for (int k = held + REGISTERS; k < slice; ++k) {
      next.template for_each<1>(k,
                                [&](int, int v) { add(p, load_vector(next.x_vector(v)), part); });
    }
    if (row.edge != INT_MIN) row.y[row.edge] = finish(p, row_edge);
    if (index >= p.rows) break;
    if (next.edge != INT_MIN) add(p, next_edge, part);
    result = cluster_reduce(part, mailboxes[turn % 2], turn / 2 % 2, merge);
    if (cluster_rank() == 0 && threadIdx.x == 0) write_lse(p, index, result);
    row = next;
    row_edge = next_edge;
  }
#endif
}

template <class T>
static void launch_pipelined(const Softmax<T>& p, cudaStream_t stream) {
  const auto kernel = softmax_cluster_pipelined_kernel<T, 0>;
  const int64_t in_shared_memory = int64_t{MAX_CLUSTER} * allow_all_shared_memory(kernel);
  if (int64_t{p.cols} * sizeof(T) + 112 <= in_shared_memory) {
    launch_rows(kernel, p, PIPELINED_VECTORS, true, stream);
  } else {
    launch_rows(softmax_cluster_pipelined_kernel<T, PIPELINED_REGISTERS>, p, PIPELINED_VECTORS,
                true, stream);
  }
}

void softmax_cluster_pipelined(const SoftmaxProblem& p, cudaStream_t stream) {
  with_dtype(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const Softmax<T>& s) { launch_pipelined(s, stream); });
  });
}
