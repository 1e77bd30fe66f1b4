// memcheck.cu: accesses outside of what a thread may touch.
//
// Each kernel is wrong at the line marked WRONG and right in its twin. In front of it stands
//   name (in N, out M): what is wrong
// Its launchers are name_wrong and name_right; their arrays have N and M elements.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

namespace cg = cooperative_groups;

// tile_edge (in 100, out 100): the last thread but one passes the guard, too.
template <bool RIGHT>
__global__ void tile_edge_kernel(const float* in, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, n = 100;
  const bool inside = RIGHT ? i < n : i <= n;
  if (inside) out[i] = 2 * in[i];  // WRONG tile_edge
}
void tile_edge_wrong(const float* in, float* out) { tile_edge_kernel<false><<<4, 32>>>(in, out); }
void tile_edge_right(const float* in, float* out) { tile_edge_kernel<true><<<4, 32>>>(in, out); }

// ragged_row (in 900, out 30): a tile of 32 columns over rows of 30. The other rows read on in the
// next one.
template <bool RIGHT>
__global__ void ragged_row_kernel(const float* in, float* out) {
  constexpr int ROWS = 30, COLUMNS = 30;
  const int row = threadIdx.y, column = threadIdx.x;
  float value = 0;
  if (row < ROWS && (!RIGHT || column < COLUMNS)) {
    value = in[row * COLUMNS + column];  // WRONG ragged_row
  }
  for (int n = 16; n > 0; n /= 2) value += __shfl_xor_sync(0xffffffff, value, n);
  if (row < ROWS && column == 0) out[row] = value;
}
void ragged_row_wrong(const float* in, float* out) {
  ragged_row_kernel<false><<<1, dim3(32, 32)>>>(in, out);
}
void ragged_row_right(const float* in, float* out) {
  ragged_row_kernel<true><<<1, dim3(32, 32)>>>(in, out);
}

// negative_index (in 256, out 256): the first element has no left neighbour.
template <bool RIGHT>
__global__ void negative_index_kernel(const float* in, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  float left = 0;
  if (!RIGHT || i > 0) left = in[i - 1];  // WRONG negative_index
  out[i] = in[i] - left;
}
void negative_index_wrong(const float* in, float* out) {
  negative_index_kernel<false><<<2, 128>>>(in, out);
}
void negative_index_right(const float* in, float* out) {
  negative_index_kernel<true><<<2, 128>>>(in, out);
}

// misaligned (in 128, out 32): rows of 30 floats do not start where a float4 can.
template <bool RIGHT>
__global__ void misaligned_kernel(const float* in, float* out) {
  constexpr int PITCH = RIGHT ? 32 : 30;
  const float* row = in + threadIdx.x / 8 * PITCH;
  const float4 v = reinterpret_cast<const float4*>(row)[threadIdx.x % 8];  // WRONG misaligned
  out[threadIdx.x] = v.x + v.y + v.z + v.w;
}
void misaligned_wrong(const float* in, float* out) { misaligned_kernel<false><<<1, 32>>>(in, out); }
void misaligned_right(const float* in, float* out) { misaligned_kernel<true><<<1, 32>>>(in, out); }

// write_to_input (in 64, out 64): the result goes where the caller's data is.
template <bool RIGHT>
__global__ void write_to_input_kernel(const float* in, float* out) {
  float* to = RIGHT ? out : const_cast<float*>(in);
  to[threadIdx.x] = 3 * in[threadIdx.x];  // WRONG write_to_input
}
void write_to_input_wrong(const float* in, float* out) {
  write_to_input_kernel<false><<<1, 64>>>(in, out);
}
void write_to_input_right(const float* in, float* out) {
  write_to_input_kernel<true><<<1, 64>>>(in, out);
}

// local_array (in 64, out 64): an index of 4 to 6 into an array of four.
template <bool RIGHT>
__global__ void local_array_kernel(const int* in, int* out) {
  int weights[4];
  for (int i = 0; i < 4; i++) weights[i] = in[i] + 1;
  const int at = in[threadIdx.x];
  weights[RIGHT ? at % 4 : at] += 10;  // WRONG local_array
  out[threadIdx.x] = weights[0] + 100 * weights[threadIdx.x % 4];
}
void local_array_wrong(const int* in, int* out) { local_array_kernel<false><<<1, 64>>>(in, out); }
void local_array_right(const int* in, int* out) { local_array_kernel<true><<<1, 64>>>(in, out); }

// shared_size (in 128, out 128): the launch asks for half of the shared memory that is used.
__global__ void shared_size_kernel(const float* in, float* out) {
  extern __shared__ float tile[];
  tile[threadIdx.x] = in[threadIdx.x];  // WRONG shared_size
  __syncthreads();
  out[threadIdx.x] = tile[127 - threadIdx.x];
}
void shared_size_wrong(const float* in, float* out) {
  shared_size_kernel<<<1, 128, 64 * sizeof(float)>>>(in, out);
}
void shared_size_right(const float* in, float* out) {
  shared_size_kernel<<<1, 128, 128 * sizeof(float)>>>(in, out);
}

// shared_index (in 32, out 32): the neighbour of the last element.
template <bool RIGHT>
__global__ void shared_index_kernel(const float* in, float* out) {
  __shared__ float tile[32];
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const int next = RIGHT ? (threadIdx.x + 1) % 32 : threadIdx.x + 1;
  out[threadIdx.x] = tile[next];  // WRONG shared_index
}
void shared_index_wrong(const float* in, float* out) {
  shared_index_kernel<false><<<1, 32>>>(in, out);
}
void shared_index_right(const float* in, float* out) {
  shared_index_kernel<true><<<1, 32>>>(in, out);
}

// workspace (in 128, out 100): 128 threads, and room for 100.
template <bool RIGHT>
__global__ void workspace_kernel(const float* in, float* workspace) {
  const int i = threadIdx.x;
  if (!RIGHT || i < 100) workspace[i] = in[i];  // WRONG workspace
}
__global__ void copy_kernel(const float* from, float* to) { to[threadIdx.x] = from[threadIdx.x]; }

template <bool RIGHT>
void workspace(const float* in, float* out) {
  float* workspace;
  cudaMalloc(&workspace, 100 * sizeof(float));
  workspace_kernel<RIGHT><<<1, 128>>>(in, workspace);
  copy_kernel<<<1, 100>>>(workspace, out);
  cudaFree(workspace);
}
void workspace_wrong(const float* in, float* out) { workspace<false>(in, out); }
void workspace_right(const float* in, float* out) { workspace<true>(in, out); }

// freed (in 64, out 64): the workspace is used after it was given back.
__global__ void freed_kernel(const float* in, float* workspace) {
  workspace[threadIdx.x] = 2 * in[threadIdx.x];  // WRONG freed
}

template <bool RIGHT>
void freed(const float* in, float* out) {
  float* workspace;
  cudaMalloc(&workspace, 64 * sizeof(float));
  if (!RIGHT) cudaFree(workspace);
  freed_kernel<<<1, 64>>>(in, workspace);
  copy_kernel<<<1, 64>>>(workspace, out);
  if (RIGHT) cudaFree(workspace);
}
void freed_wrong(const float* in, float* out) { freed<false>(in, out); }
void freed_right(const float* in, float* out) { freed<true>(in, out); }

// null (in 64, out 64): an optional argument is not there.
template <bool RIGHT>
__global__ void null_kernel(const float* in, const float* bias, float* out) {
  float value = in[threadIdx.x];
  if (!RIGHT || bias) value += bias[threadIdx.x];  // WRONG null
  out[threadIdx.x] = value;
}
void null_wrong(const float* in, float* out) { null_kernel<false><<<1, 64>>>(in, nullptr, out); }
void null_right(const float* in, float* out) { null_kernel<true><<<1, 64>>>(in, nullptr, out); }

// bins (in 200, out 6): values from 0 to 6 are counted in six bins.
template <bool RIGHT>
__global__ void bins_kernel(const int* in, int* out) {
  const int bin = in[blockIdx.x * blockDim.x + threadIdx.x];
  if (!RIGHT || bin < 6) atomicAdd(&out[bin], 1);  // WRONG bins
}
void bins_wrong(const int* in, int* out) { bins_kernel<false><<<2, 100>>>(in, out); }
void bins_right(const int* in, int* out) { bins_kernel<true><<<2, 100>>>(in, out); }

// unstarted (in 64, out 64): each block of a cluster writes into the other's shared memory, which
// may not have started.
template <bool RIGHT>
__global__ void __cluster_dims__(2, 1, 1) unstarted_kernel(const float* in, float* out) {
  __shared__ float theirs[32];
  const auto cluster = cg::this_cluster();
  const int t = threadIdx.x, rank = cluster.block_rank();
  if (RIGHT) cluster.sync();
  cluster.map_shared_rank(theirs, 1 - rank)[t] = in[rank * 32 + t];  // WRONG unstarted
  cluster.sync();
  out[rank * 32 + t] = theirs[t];
}
void unstarted_wrong(const float* in, float* out) { unstarted_kernel<false><<<2, 32>>>(in, out); }
void unstarted_right(const float* in, float* out) { unstarted_kernel<true><<<2, 32>>>(in, out); }
