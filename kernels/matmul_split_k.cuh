// matmul_split_k.cuh: C in a grid that fills the GPU, by splitting k: how many parts, and how their
// sums become C.
#pragma once

#include "matmul.cuh"

// What a launch looks like: tiles of C times parts of k.
struct Split {
  int tile;   // which of the tile shapes
  int parts;  // of k, a block each
  double cost;
};

// A tile of C that a rung can choose.
struct TileShape {
  int BM, BN, BK;
  double trip;  // what BK steps of k cost a block, relative to others
  int per_sm;   // blocks on an SM
};

inline int multiprocessors() {
  int device = 0, count = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// The cheapest of the shapes and the numbers of parts. Blocks run in waves, each as long as one
// block, and a wave that is not full costs as much as a full one. A block takes START trips longer
// than its share of k; adding up the parts costs ADD trips each.
template <class T, int SHAPES>
Split choose_split(const Matmul<T>& p, const TileShape (&shapes)[SHAPES]) {
  constexpr int MOST_PARTS = 32, START = 6, ADD = 3;
  const int64_t sms = multiprocessors();
  Split best = {0, 1, -1};
  for (int i = 0; i < SHAPES; ++i) {
    const TileShape& shape = shapes[i];
    const int64_t tiles = int64_t{ceil_div(p.M, shape.BM)} * ceil_div(p.N, shape.BN) * p.batch;
    const int trips = ceil_div(p.K, shape.BK);
    for (int parts = 1; parts <= MOST_PARTS && parts <= max(1, trips); ++parts) {
      if (parts > 1 && tiles * parts > MAX_GRID_YZ) break;
      const int64_t waves = ceil_div(tiles * parts, sms * shape.per_sm);
      const double adding = parts > 1 ? ADD * parts : 0;
      const double cost =
          shape.trip * shape.per_sm * waves * (ceil_div(trips, parts) + START) + adding;
      if (best.cost < 0 || cost < best.cost) best = {i, parts, cost};
    }
  }
  return best;
}

// The steps of k of a part: a multiple of BK, except for the last.
__host__ __device__ inline int steps_per_part(int K, int parts, int BK) {
  return ceil_div(ceil_div(K, BK), parts) * BK;
}

// partial_sums: [batch, parts, M, N]. Adds the parts of each element in order, so that the result is
// the same every time, and writes what becomes of the sum.
template <class T>
__global__ void matmul_add_parts_kernel(const __grid_constant__ Matmul<T> p,
                                        const Sum<T>* partial_sums, int parts) {
  const int64_t element = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t elements = int64_t{p.M} * p.N;
  if (element >= elements) return;
  const Sum<T>* from = partial_sums + blockIdx.z * parts * elements + element;
  Sum<T> sum = 0;
  for (int part = 0; part < parts; ++part) sum += from[part * elements];
  write(p, element / p.N, element % p.N, sum);
}

// Launches run(problem, parts) with a problem whose batch is p.batch * parts and whose C is a
// workspace for the parts' sums, then adds them up; if there is one part, just run(p, 1).
template <class T, class Run>
void in_parts(const MatmulProblem& problem, const Matmul<T>& p, int parts, cudaStream_t stream,
              Run run) {
  if (parts == 1) return run(p, 1);
  const int64_t elements = int64_t{p.M} * p.N;
  auto* sums = static_cast<Sum<T>*>(problem.workspace(p.batch * parts * elements * sizeof(Sum<T>)));
  Matmul<T> part = p;
  part.C = {reinterpret_cast<T*>(sums), p.N, 1, elements};
  part.wide = true;
  part.bias = nullptr;
  part.alpha = 1;
  part.beta = 0;
  run(part, parts);
  constexpr int NUM_THREADS = 256;
  const dim3 grid(ceil_div(elements, int64_t{NUM_THREADS}), 1, p.batch);
  matmul_add_parts_kernel<T><<<grid, NUM_THREADS, 0, stream>>>(p, sums, parts);
  CUDA_CHECK_LAUNCH(matmul_add_parts_kernel);
}
