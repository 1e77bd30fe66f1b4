// softmax_backward_cluster.cu: the gradient of softmax for long rows in one pass. The contract is
// in softmax_backward.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   cluster           a long row in the shared memory of a cluster      12
//
// This is the last rung.
#include "cluster.cuh"
#include "softmax_backward.cuh"

// ------------------------------------------------------------------------------------------------
// cluster: a long row in the shared memories of several blocks (all dtypes)
// Idea     The blocks of a cluster run at the same time and can store into each other's shared
//          memory. Each copies its part of dy and y into its own, sums it and sends the sum to all:
//
//          block 0   part 0 of the row   \  every warp stores its sum into every block
//          block 1   part 1 of the row    > before the second cluster barrier, and reads
//          ...                           /  all of them from its own block after it
//
// Changes  vs row_in_registers: shared memory in place of registers, filled by cp.async; up to 16
//          blocks per row.
// Bytes    fp32, per element: 8 read + 4 written = 12 requested, the floor, up to 462848 columns
//          (sm_90, 226 KiB per block); what 16 blocks cannot hold is read twice.
// Shape    512 threads, 1 to 16 blocks per row: the fewest that hold it in half an SM's shared
//          memory each, so that an SM has two, one of which loads while the other stores (three, if
//          parts are small); or more, if few rows would leave SMs idle. 0 __syncthreads, 2 cluster
//          barriers.
// Trap     A block must not store into one that has not started: hence the first barrier. All loads
//          are issued between arriving there and waiting, so it costs no time.
//          cp.async moves a 32-byte sector in one piece only if it is also one sector in shared
//          memory. So each part begins at a sector: it has an even number of slots, and if dy
//          begins in the middle of a sector, the first slot stays empty.
//
//          | -- v0 | v1 v2 | v3 v4 |    sectors in memory, pairs of slots
//
// Declines rows that row_in_registers finishes sooner than a cluster can start and synchronise,
//          and rows of dy, y and dx that have different addresses modulo 16.
// Next     A part larger than half the shared memory has its SM to itself, which then loads nothing
//          while it stores. It could load the next row, as the forward's `cluster_pipelined` does.
constexpr int CLUSTER_NUM_THREADS = 512;   // tunable: 256, 512
constexpr int CLUSTER_MIN_VECTORS = 2048;  // tunable: 1024, 2048, 4096
constexpr int CLUSTER_BUSY_BLOCKS = 128;   // tunable: 0, 64, 128

// How many blocks per SM the registers of a thread must allow.
#if __CUDA_ARCH__ >= 900
template <class T>
constexpr int CLUSTER_BLOCKS = (sizeof(T) == 8 ? 1024 : 1536) / CLUSTER_NUM_THREADS;
#else  // the kernel is empty
template <class T>
constexpr int CLUSTER_BLOCKS = 1;
#endif

// `capacity`: how many slots a block has, each for a vector of dy and one of y.
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
  const int held = min(size, capacity);  // the vectors beyond are read twice
  const int first = split.column(begin - empty);
  const int start = rank == 0 && t < empty ? t + NUM_THREADS : t;

  // Load, and add up: first what shared memory does not hold, while the copies arrive.
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
  cp_async_wait<0>();  // this thread's copies have arrived; it reads no others
#pragma unroll 1
  for (int i = start; i < held; i += NUM_THREADS) sum += terms(p, dy_smem[i], y_smem[i]);

  // Reduce the warp, then all warps of the cluster.
  sum = group_reduce(sum, Add());
  cluster_wait();  // every block has started
  if (lane < blocks) store_to_block(lane, &sums[rank * WARPS + warp], sum);
  cluster_sync();  // the sums of all warps of all blocks are in this block's shared memory
  sum = 0;
  for (int i = lane; i < blocks * WARPS; i += 32) sum += sums[i];
  sum = group_reduce(sum, Add()) - dlse;

  // Store.
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

// Blocks for a row of that many slots: the fewest that hold it with `half` slots each, or more if
// few rows have the GPU to themselves.
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
  constexpr int CUDA_BYTES = 1024;  // reserved by CUDA in each block
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

const char* softmax_backward_cluster_declines(const SoftmaxBackwardProblem& p) {
  if (fits_in_registers(p) && vectors_of_a_row(p) <= CLUSTER_MIN_VECTORS) {
    return reason("rows of %d columns fit into the registers of a block; use row_in_registers",
                  static_cast<int>(p.dx.size[3]));
  }
  return tensors_aligned_alike(p) ? nullptr : NOT_ALIGNED_ALIKE;
}

void softmax_backward_cluster(const SoftmaxBackwardProblem& p, cudaStream_t stream) {
  with_dtype(p.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_each_slice<T>(p, [&](const SoftmaxBackward<T>& s) { launch_rows(s, stream); }, MAX_CLUSTER);
  });
}
