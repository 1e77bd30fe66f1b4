// transpose.cuh: what the files of the transpose ladder share: the problem as kernels see it, and
// the launch of a block per tile.
#pragma once

#include "common.cuh"
#include "transpose.h"

// The kernels' argument; T stands for any type of its size.
template <class T>
struct Transpose {
  const T* x;  // [batch, M, N]
  T* y;        // [batch, N, M]
  int M, N;
  int64_t ldx, ldy;            // from one row to the next; ldx < 0 if x is read from its end
  int64_t stride_x, stride_y;  // from one matrix to the next
  int tiles_m, tiles_n;        // of a matrix
};

// Returns run(T()), where T is an unsigned type as large as an element: kernels are instantiated
// per size, not per dtype.
template <class Run>
auto with_bits(DType dtype, Run run) {
  switch (dtype) {
    case DType::int8:
      return run(uint8_t());
    case DType::float16:
    case DType::bfloat16:
      return run(uint16_t());
    case DType::float32:
      return run(uint32_t());
    case DType::float64:
      return run(uint64_t());
  }
  throw LaunchError("transpose takes elements of 1, 2, 4 or 8 bytes");
}

// Launches kernel(p) with a block of `threads` for every tile of tile_m x tile_n elements of x.
template <class T, class Kernel>
void launch_tiles(Kernel kernel, const char* name, const TransposeProblem& problem, int tile_m,
                  int tile_n, dim3 threads, cudaStream_t stream) {
  Transpose<T> p = {
      .x = problem.x.as<const T>(),
      .y = problem.y.as<T>(),
      .M = static_cast<int>(problem.x.size[2]),
      .N = static_cast<int>(problem.x.size[3]),
      .ldx = problem.x.stride[2],
      .ldy = problem.y.stride[2],
      .stride_x = problem.x.stride[1],
      .stride_y = problem.y.stride[1],
      .tiles_m = static_cast<int>(ceil_div<int64_t>(problem.x.size[2], tile_m)),
      .tiles_n = static_cast<int>(ceil_div<int64_t>(problem.x.size[3], tile_n)),
  };
  if (problem.rotate && p.M > 0) {  // from the last row of x upwards
    p.x += (p.M - 1) * p.ldx;
    p.ldx = -p.ldx;
  }
  const int64_t tiles = problem.x.size[1] * p.tiles_m * p.tiles_n;
  if (tiles == 0) return;
  if (tiles > MAX_GRID_X) throw LaunchError("%s: x has more than 2^31 - 1 tiles", name);
  kernel<<<static_cast<unsigned>(tiles), threads, 0, stream>>>(p);
  cuda_check(cudaGetLastError(), name, __FILE__, __LINE__);
}

// The block's tile: where it begins, and its matrices.
template <class T>
struct Tile {
  const T* x;
  T* y;
  int m0, n0;

  __device__ Tile(const Transpose<T>& p, int tile_m, int tile_n) {
    // Neighbouring blocks handle neighbouring tiles of a row of x: their loads share DRAM pages.
    const int in_matrix = blockIdx.x % (p.tiles_m * p.tiles_n);
    const int64_t b = blockIdx.x / (p.tiles_m * p.tiles_n);
    x = p.x + b * p.stride_x;
    y = p.y + b * p.stride_y;
    m0 = in_matrix / p.tiles_n * tile_m;
    n0 = in_matrix % p.tiles_n * tile_n;
  }
};
