// shared_reads.cu: global memory that many threads read, and that somebody writes. `ordered` is
// false: nothing is in between. Both sides of the race are marked.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

namespace cg = cooperative_groups;

// Every block reads a column of x [32, 64], lane by row; the last block then writes to an element.
__global__ void column_kernel(int* x, int* y, bool ordered) {
  const int t = threadIdx.x;
  int sum = 0;
  for (int i = 0; i < 3; i++) sum += x[t * 64 + i];  // READ column
  y[blockIdx.x * 32 + t] = sum;
  __syncthreads();
  if (!ordered && blockIdx.x == gridDim.x - 1 && t == 5) x[t * 64 + 1] = sum;  // WRITE column
}
void column(int* x, int* y, bool ordered) { column_kernel<<<6, 32>>>(x, y, ordered); }

// The same by vectors of four, each thread's own; a single element of one is written.
__global__ void vectors_kernel(int* x, int* y, bool ordered) {
  const int t = threadIdx.x;
  const int4 v = reinterpret_cast<const int4*>(x)[(t * 7) % 32];  // READ vectors
  y[blockIdx.x * 32 + t] = v.x + v.y + v.z + v.w;
  __syncthreads();
  if (!ordered && blockIdx.x == 3 && t == 0) x[4 * 9 + 2] = 100;  // WRITE vectors
}
void vectors(int* x, int* y, bool ordered) { vectors_kernel<<<4, 32>>>(x, y, ordered); }

// The same by bytes.
__global__ void bytes_kernel(int* x, int* y, bool ordered) {
  const int t = threadIdx.x;
  auto* bytes = reinterpret_cast<unsigned char*>(x);
  y[blockIdx.x * 32 + t] = bytes[37 * t];  // READ bytes
  __syncthreads();
  if (!ordered && blockIdx.x == 2 && t == 0) bytes[37 * 4] = 77;  // WRITE bytes
}
void bytes(int* x, int* y, bool ordered) { bytes_kernel<<<3, 32>>>(x, y, ordered); }

// All blocks read x; one writes to it, after a barrier of the grid or not.
__global__ void stage_kernel(int* x, int* y, bool ordered) {
  const int t = threadIdx.x;
  y[blockIdx.x * 32 + t] = x[31 - t] + x[blockIdx.x];  // READ stage
  if (ordered) cg::this_grid().sync();
  if (blockIdx.x == 1) x[t] = 3 * t;  // WRITE stage
}
void stage(int* x, int* y, bool ordered) {
  void* arguments[] = {&x, &y, &ordered};
  cudaLaunchCooperativeKernel(stage_kernel, 5, 32, arguments);
}

// The barrier of the grid comes between the first reads and the write, but not the second reads.
__global__ void again_kernel(int* x, int* y, bool ordered) {
  const int t = threadIdx.x;
  auto grid = cg::this_grid();
  const int first = x[t];
  grid.sync();
  y[blockIdx.x * 32 + t] = first + x[31 - t];  // READ again
  if (ordered) grid.sync();
  if (blockIdx.x == 2) x[t] = 3 * t;  // WRITE again
}
void again(int* x, int* y, bool ordered) {
  void* arguments[] = {&x, &y, &ordered};
  cudaLaunchCooperativeKernel(again_kernel, 5, 32, arguments);
}

// Two warps read, by different lines; one of them writes what it read itself.
__global__ void two_warps_kernel(int* x, int* y, bool ordered) {
  const int t = threadIdx.x;
  if (t == 0) y[0] = x[0];  // READ two_warps
  if (ordered) __syncthreads();
  if (t == 32) {
    y[1] = x[0];
    x[0] = 5;  // WRITE two_warps
  }
}
void two_warps(int* x, int* y, bool ordered) { two_warps_kernel<<<1, 64>>>(x, y, ordered); }

// Blocks pass a flag on: each reads x once its predecessor has, and the last one writes. Without
// the fence a block does not vouch for its own read.
__global__ void chain_kernel(int* x, int* y, bool ordered) {
  const int b = blockIdx.x;
  volatile int* flags = y;
  if (b > 0) {
    while (flags[b - 1] == 0) {
    }
    __threadfence();
  }
  const int v = x[7];  // READ chain
  if (b == gridDim.x - 1) {
    x[7] = v + 1;  // WRITE chain
  } else {
    if (ordered || b != gridDim.x - 2) __threadfence();
    flags[b] = v + 1;
  }
}
void chain(int* x, int* y, bool ordered) { chain_kernel<<<4, 1>>>(x, y, ordered); }

// Nothing but barriers of the grid.
__global__ void barriers_kernel(int* y, int n) {
  for (int i = 0; i < n; i++) cg::this_grid().sync();
  y[blockIdx.x] = n;
}
void barriers(int* y, int n) {
  void* arguments[] = {&y, &n};
  cudaLaunchCooperativeKernel(barriers_kernel, 64, 64, arguments);
}
