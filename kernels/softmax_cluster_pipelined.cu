// softmax_cluster_pipelined.cu: softmax that loads one row while it writes another. The contract is
// in softmax.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   cluster_pipelined loads the next row while writing one               8
//
// softmax_cluster.cuh explains how a row is shared. This is the last rung.
#include "softmax_cluster.cuh"

// ------------------------------------------------------------------------------------------------
// cluster_pipelined: while one row is written, the next is loaded (all dtypes, options; sm_90)
// Idea     A cluster processes row after row. A chunk's place in shared memory is free as soon as
//          its y is written, and the next row's chunk goes there at once:
//
//            step              0        1        2        3        4        5
//            write y, row r    chunk 0  chunk 1  chunk 2  chunk 3
//            load x, row r+1   chunk 0  chunk 1  chunk 2  chunk 3                 cp.async
//            add up, row r+1                     chunk 0  chunk 1  chunk 2  chunk 3
//
// Changes  vs cluster: the loop above. Each part of a row is sent with a message to the receiver's
//          mbarrier (st.async): a cluster barrier would first wait for the stores of y. If a row
//          exceeds the shared memory of 16 SMs, each block keeps another 32 KiB in registers: up to
//          2^20 fp32 per row.
// Bytes    As cluster.
// Shape    As cluster, but 1 __syncthreads and 1 wait for messages per row, and as many clusters as
//          the GPU runs at a time.
// Trap     A mailbox may be refilled only after all warps of its block have read it. There are
//          two, for even and for odd rows:
//
//            block A   send r | wait r | read r | sync | send r+1 | wait r+1 | ... | send r+2
//            block B   send r | wait r | read r | sync | send r+1 |
//
//          A is past "wait r+1", so B has sent r+1, which it did after a __syncthreads that its
//          warps reach only after reading r.
// Declines what cluster declines.
// Next     Nothing: it requests every byte once, and always has some in flight.
constexpr int PIPELINED_VECTORS = 2;    // tunable: 1, 2, 4; of a thread, in a chunk
constexpr int PIPELINED_LAG = 2;        // tunable: 1, 2, 3; steps from a chunk's load to its use
constexpr int PIPELINED_REGISTERS = 4;  // tunable: 2, 4; vectors of a thread, for the longest rows
static_assert(PIPELINED_LAG > 0, "a chunk is used at least one step after it was requested");

// Where the parts of a row meet: those of this block's warps, and those that all blocks send.
template <class Number>
struct Mailbox {
  Online<Number> warps[32], blocks[MAX_CLUSTER];
  uint64_t full;  // barrier: all blocks' parts have arrived
};

// (m, l) of the whole row, from those of all threads of the cluster: each block sends its own to
// the mailboxes of all blocks, and every warp merges what arrived.
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

// A thread's `slice` vectors: the first `held` are kept in shared memory, REGISTERS more in
// registers, and the others are read twice.
template <class T, int REGISTERS>
__global__ void __launch_bounds__(CLUSTER_NUM_THREADS, REGISTERS > 0 ? 1 : CLUSTER_BLOCKS<T>)
    softmax_cluster_pipelined_kernel(const Softmax<T> p, int held, int slice) {
#if __CUDA_ARCH__ >= 900
  using Number = Compute<T>;
  constexpr int VECTORS = PIPELINED_VECTORS, LAG = PIPELINED_LAG;
  extern __shared__ __align__(128) uint4 smem[];
  __shared__ Mailbox<Number> mailboxes[2];
  uint4* const slots = smem + threadIdx.x;  // this thread's, NUM_THREADS apart
  const int64_t clusters = gridDim.x / cluster_size();
  const Merge<Number> merge{p.rate};

  if (threadIdx.x < 2) mbarrier_init(&mailboxes[threadIdx.x].full, 1);
  cluster_sync();  // every block has started and initialised its barriers
  int64_t index = blockIdx.x / cluster_size();
  ClusterRow<T> row(p, -1);                 // the row that is written: none in the first turn,
  auto result = Online<Number>::nothing();  // its m and l,
  T row_edge(0);                            // and its edge
  Vector<T> x_frag[REGISTERS + 1];          // of row, then of next
  for (uint32_t turn = 0;; ++turn, index += clusters) {
    const ClusterRow<T> next(p, index);  // the row that is loaded
    const T next_edge = next.edge == INT_MIN ? T(0) : next.x[next.edge];
    auto part = Online<Number>::nothing();
    const Finish<T> finish(p, result);

    // Vectors beyond shared memory: exp and store of row, load of next.
    row.template for_each<REGISTERS>(
        held, [&](int i, int v) { store_vector(row.y_vector(v), finish(p, x_frag[i])); });
    next.template for_each<REGISTERS>(
        held, [&](int i, int v) { x_frag[i] = load_vector(next.x_vector(v)); });
    for (int k = held + REGISTERS; k < slice; ++k) {
      row.template for_each<1>(k, [&](int, int v) {
        store_vector(row.y_vector(v), finish(p, load_vector(row.x_vector(v))));
      });
    }
    // Chunks in shared memory: exp and store of row, load of next into the same place, and LAG
    // steps later reduce.
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
      cp_async_wait<LAG>();  // the chunk of LAG steps ago has arrived
      const int there = k - LAG * VECTORS;
      if (there < 0) continue;
      const uint4* const chunk = slots + there * CLUSTER_NUM_THREADS;
      next.template for_each<VECTORS>(there,
                                      [&](int i, int) { add(p, load_slot<T>(chunk, i), part); });
    }
    // Vectors beyond shared memory: reduce.
    next.template for_each<REGISTERS>(held, [&](int i, int) { add(p, x_frag[i], part); });
    for (int k = held + REGISTERS; k < slice; ++k) {
      next.template for_each<1>(k,
                                [&](int, int v) { add(p, load_vector(next.x_vector(v)), part); });
    }
    if (row.edge != INT_MIN) row.y[row.edge] = finish(p, row_edge);
    if (index >= p.rows) break;
    if (next.edge != INT_MIN) add(p, next_edge, part);
    // Reduce the cluster. Then next is the row to write.
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
