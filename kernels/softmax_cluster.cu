// softmax_cluster.cu: softmax of long rows in one pass. The contract is in softmax.cu.
//
// Rungs                                                         requested fp32 bytes per element
//   cluster           a long row in the shared memory of a cluster       8
//
// softmax_cluster.cuh explains how a row is shared. Next rung: softmax_cluster_pipelined.cu.
#include "softmax_cluster.cuh"

// ------------------------------------------------------------------------------------------------
// cluster: a long row in the shared memory of several SMs (all dtypes, options; sm_90)
// Idea     Up to 16 blocks, a cluster, run at the same time and can store into each other's shared
//          memory. They share a row: each keeps its slice, and sends its (m, l) to the others:
//
//            block 0   slice 0 of x -> (m, l) of it \            / y of slice 0
//            block 1   slice 1 of x -> (m, l) of it  > all to all  y of slice 1
//            ...                                    /            \ ...
//
// Changes  vs row_in_registers: shared memory in place of registers, filled by cp.async. A thread
//          uses only what it copied itself, so no barrier guards it: cp_async_wait is enough.
// Bytes    4 read + 4 written = 8 requested per fp32 element, the floor; 2.25 exp. What 16 blocks
//          cannot hold, 224 KiB each, is read twice.
// Shape    512 threads and mostly up to 64 KiB smem per block, so that an SM has three: one loads
//          while another writes. 1 __syncthreads, 2 cluster barriers. The first one keeps a block
//          from storing into one that has not started; all loads are issued between arriving there
//          and waiting, so it costs no time.
// Trap     cp.async moves a 32-byte sector in one piece only if it is also one sector in shared
//          memory. So a row that begins within a 128-byte line does so in shared memory as well.
// Declines rows that row_in_registers can hold, and rows of x and y that have different addresses
//          modulo 16.
// Next     A block that waits at a barrier, or for another SM, neither loads nor writes.

// The first `held` of a thread's `slice` vectors are kept in shared memory, the others read twice.
template <class T>
__global__ void __launch_bounds__(CLUSTER_NUM_THREADS, CLUSTER_BLOCKS<T>)
    softmax_cluster_kernel(const Softmax<T> p, int held, int slice) {
#if __CUDA_ARCH__ >= 900
  using Number = Compute<T>;
  extern __shared__ __align__(128) uint4 smem[];
  __shared__ Online<Number> warps[32], blocks[MAX_CLUSTER];
  cluster_arrive_relaxed();                 // this block has started
  uint4* const slots = smem + threadIdx.x;  // this thread's, NUM_THREADS apart
  const int t = threadIdx.x, size = cluster_size();
  const int64_t index = blockIdx.x / size;
  const ClusterRow<T> row(p, index);
  const Merge<Number> merge{p.rate};
  const auto nothing = Online<Number>::nothing();

  // Load, and reduce what this thread loads: first what shared memory does not hold, while the
  // copies arrive.
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
  cp_async_wait<0>();  // this thread's copies have arrived
  for (int k = 0; k < held; ++k) {
    row.template for_each<1>(k, [&](int, int) { add(p, load_slot<T>(slots, k), part); });
  }

  // Reduce the block, then the cluster.
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

  // Exp, store.
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

const char* softmax_cluster_declines(const SoftmaxProblem& p) {
  if (fits_in_registers(p)) {
    return reason("rows of %d columns fit into the registers of a block; use row_in_registers",
                  static_cast<int>(p.x.size[3]));
  }
  return tensors_aligned_alike(p) ? nullptr : NOT_ALIGNED_ALIKE;
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
