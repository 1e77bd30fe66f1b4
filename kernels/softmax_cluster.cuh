// softmax_cluster.cuh: what the rungs cluster and cluster_pipelined share: how a cluster of blocks
// shares a row, and its launch.
//
//   slice   the vectors of a row that one thread handles: SLICE_BYTES per block and row, or more
//   held    how many of them stay in shared memory until they are written
//   slot    16 bytes of shared memory, for one of those
#pragma once

#include "cluster.cuh"
#include "softmax_elements.cuh"

constexpr int CLUSTER_NUM_THREADS = 512;    // tunable: 256, 512
constexpr int CLUSTER_SLICE_BYTES = 65536;  // tunable: 32768, 65536, 131072
constexpr int CLUSTER_BUSY_BLOCKS = 128;    // tunable: 0, 64, 128

constexpr int CLUSTER_ROUND_BYTES = CLUSTER_NUM_THREADS * 16;  // one vector of each thread

// How many blocks per SM the registers of a thread must allow.
#if __CUDA_ARCH__ >= 900
template <class T>
constexpr int CLUSTER_BLOCKS = sizeof(T) == 8 ? 1 : 1536 / CLUSTER_NUM_THREADS;
#else  // the kernels are empty
template <class T>
constexpr int CLUSTER_BLOCKS = 1;
#endif

// A row as the threads of a cluster share it. Vectors are counted from the last multiple of 128
// bytes before the row, and dealt out in turn: one to each thread of block 0, then of block 1, ...
//
//   cluster of 2    | block 0: v0 ... v511 | block 1: v512 ... v1023 |    each thread's vector 0
//                   | block 0: v1024 ...   | block 1: v1536 ...      |    each thread's vector 1
//
// So a thread's k-th vector has the same place in shared memory, and in its 128-byte line, for
// every row. A row that does not exist (index < 0 or >= rows) has no vectors and no edges.
template <class T>
struct ClusterRow {
  static constexpr int SIZE = Vector<T>::SIZE;
  const T* x;  // where vector 0 begins
  T* y;
  int first, vectors;  // the row's vectors are first, ..., first + vectors - 1
  int edge;            // this thread's, counted from x; INT_MIN: none. All edges go to block 0

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

  // Calls use(i, v) for i in 0..COUNT-1 if the row has vector v, the (k + i)-th of this thread.
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

// The vector that cp.async copied to this thread's i-th slot from `slots` on.
template <class T>
__device__ Vector<T> load_slot(const uint4* slots, int i) {
  Vector<T> vector;
  reinterpret_cast<uint4&>(vector) = slots[i * CLUSTER_NUM_THREADS];
  return vector;
}

// How a cluster shares a row.
struct ClusterPlan {
  int size;   // blocks of a cluster
  int slice;  // vectors per thread,
  int held;   // and how many of them shared memory holds: a multiple of `chunk`

  // Many blocks if the row is long, or if few rows have the GPU to themselves.
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

// Launches kernel(p, held, slice) for all rows, with clusters as large as the GPU has room for; if
// `resident`, no more of them than can run at the same time.
template <class T, class Kernel>
static void launch_rows(Kernel kernel, const Softmax<T>& p, int chunk, bool resident,
                        cudaStream_t stream) {
  const int room = allow_all_shared_memory(kernel);
  // A row that begins within a 128-byte line has up to 7 empty slots before it.
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
