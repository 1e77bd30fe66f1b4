// matmul_split_k.cuh: C in a grid that fills the GPU, by splitting k: how many parts, and how their
// sums become C.
#pragma once

#include "matmul.cuh"

// A tile of C that a rung can choose.
struct TileShape {
  int BM, BN, BK;
  int per_sm;   // blocks that an SM holds at a time
  double trip;  // an SM's time for BK steps of k of one block, in us; those of several add up
};

// What a launch looks like.
struct Split {
  int shape = 0;  // which of the tile shapes
  int parts = 1;  // of k, a block each
};

inline int multiprocessors() {
  int device = 0, count = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// The shape and the number of parts that should take the least time. Blocks run in waves; the last may
// leave SMs partly or wholly idle. The constants are guesses for an H200. On a GPU with other
// proportions the choice may be the second best.
template <class T, int SHAPES>
Split choose_split(const Matmul<T>& p, const TileShape (&shapes)[SHAPES]) {
  constexpr int MOST_PARTS = 32;
  constexpr double MOST_BYTES = 64e6;   // of the workspace
  constexpr double START = 1.5;         // until a wave's first tiles have arrived, in us
  constexpr double LAUNCH = 4.0;        // of the kernel that adds up the parts
  constexpr double BYTES_PER_US = 3e6;  // of the parts, which are written and read
  const int64_t sms = multiprocessors();
  Split best;
  double best_time = -1;
  for (int i = 0; i < SHAPES; ++i) {
    const TileShape& shape = shapes[i];
    const int64_t tiles = int64_t{ceil_div(p.M, shape.BM)} * ceil_div(p.N, shape.BN) * p.batch;
    const int trips = ceil_div(p.K, shape.BK);
    const double bytes = 2.0 * sizeof(Sum<T>) * p.M * p.N * p.batch;  // of each part
    for (int parts = 1; parts == 1 || (parts <= MOST_PARTS && parts <= trips); ++parts) {
      if (parts > 1 && (tiles * parts > MAX_GRID_YZ || parts * bytes / 2 > MOST_BYTES)) break;
      const int64_t waves = tiles * parts / (sms * shape.per_sm);
      const int64_t rest = ceil_div(tiles * parts % (sms * shape.per_sm), sms);  // on an SM
      const double block = shape.trip * ceil_div(trips, parts);
      double time = waves * (START + shape.per_sm * block);
      if (rest > 0) time += START + rest * block;
      if (parts > 1) time += LAUNCH + parts * bytes / BYTES_PER_US;
      if (best_time < 0 || time < best_time) {
        best = {i, parts};
        best_time = time;
      }
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
  part.wide_output = true;
  part.bias = nullptr;
  part.alpha = 1;
  part.beta = 0;
  run(part, parts);
  constexpr int NUM_THREADS = 256;
  const dim3 grid(ceil_div(elements, int64_t{NUM_THREADS}), 1, p.batch);
  matmul_add_parts_kernel<T><<<grid, NUM_THREADS, 0, stream>>>(p, sums, parts);
  CUDA_CHECK_LAUNCH(matmul_add_parts_kernel);
}
