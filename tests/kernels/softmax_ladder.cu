// softmax_ladder.cu: five steps of a row softmax for which times on a T4 are known.
//
// The steps and their block sizes are those of a published ladder
// (github.com/tobiasvanderwerff/flash-attention, README); the code is our own, and where the
// original lacks a barrier, ours has it. workbench/estimate compares its estimates for these
// kernels with the published times, which include torch::zeros for the output:
// `zeros` here, launched before each step.
//
// x, y [rows, cols], contiguous; a block takes a row, and cols is a multiple of 1024.
#include <cub/block/block_reduce.cuh>
#include <cuda/functional>
#include <stdexcept>

static void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

constexpr unsigned ALL_LANES = 0xffffffffu;

__global__ void zeros_kernel(float4* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

static void zeros(float* y, int rows, int cols, cudaStream_t stream) {
  const int n = rows * cols / 4;
  zeros_kernel<<<(n + 127) / 128, 128, 0, stream>>>(reinterpret_cast<float4*>(y), n);
}

// shared_tree: each piece of a row is reduced by a tree in shared memory.
template <int BLOCK, class Combine>
__device__ float tree(float* smem, float value, Combine combine) {
  __syncthreads();  // all threads have read the previous tree's result
  smem[threadIdx.x] = value;
  __syncthreads();
  for (int stride = BLOCK / 2; stride >= 1; stride /= 2) {
    if (threadIdx.x < stride) {
      smem[threadIdx.x] = combine(smem[threadIdx.x], smem[threadIdx.x + stride]);
    }
    __syncthreads();  // this level is complete
  }
  return smem[0];
}

template <int BLOCK>
__global__ void shared_tree_kernel(const float* x, float* y, int cols) {
  __shared__ float smem[BLOCK];
  x += blockIdx.x * cols;
  y += blockIdx.x * cols;
  float m = -INFINITY;
  for (int c = threadIdx.x; c < cols; c += BLOCK) {
    m = fmaxf(m, tree<BLOCK>(smem, x[c], [](float a, float b) { return fmaxf(a, b); }));
  }
  float sum = 0.0f;
  for (int c = threadIdx.x; c < cols; c += BLOCK) {
    const float e = expf(x[c] - m);
    y[c] = e;
    sum += tree<BLOCK>(smem, e, [](float a, float b) { return a + b; });
  }
  for (int c = threadIdx.x; c < cols; c += BLOCK) y[c] /= sum;
}

void shared_tree(const float* x, float* y, int rows, int cols, cudaStream_t stream) {
  require(cols % 1024 == 0, "cols must be a multiple of 1024");
  zeros(y, rows, cols, stream);
  shared_tree_kernel<128><<<rows, 128, 0, stream>>>(x, y, cols);
}

// warp_shuffle: warps reduce in registers; shared memory holds one value per warp.
__device__ float warp_max(float v) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, d));
  return v;
}

__device__ float warp_sum(float v) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) v += __shfl_xor_sync(ALL_LANES, v, d);
  return v;
}

// `value` reduced over the block by `reduce`; `empty` stands for absent warps. smem has a
// float per warp and one for the result.
template <int BLOCK, class Reduce>
__device__ float across_warps(float* smem, float value, float empty, Reduce reduce) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  value = reduce(value);
  if (lane == 0) smem[warp] = value;
  __syncthreads();  // every warp has written its value
  if (warp == 0) {
    value = reduce(lane < BLOCK / 32 ? smem[lane] : empty);
    if (lane == 0) smem[BLOCK / 32] = value;
  }
  __syncthreads();  // the block's value is written
  value = smem[BLOCK / 32];
  __syncthreads();  // all have read it
  return value;
}

template <int BLOCK>
__global__ void warp_shuffle_kernel(const float* x, float* y, int cols) {
  __shared__ float smem[BLOCK / 32 + 1];
  x += blockIdx.x * cols;
  y += blockIdx.x * cols;
  float m = -INFINITY;
  for (int c = threadIdx.x; c < cols; c += BLOCK) {
    m = across_warps<BLOCK>(smem, fmaxf(m, x[c]), -INFINITY, warp_max);
  }
  float sum = 0.0f;
  for (int c = threadIdx.x; c < cols; c += BLOCK) {
    const float e = expf(x[c] - m);
    y[c] = e;
    sum += across_warps<BLOCK>(smem, e, 0.0f, warp_sum);
  }
  for (int c = threadIdx.x; c < cols; c += BLOCK) y[c] /= sum;
}

void warp_shuffle(const float* x, float* y, int rows, int cols, cudaStream_t stream) {
  require(cols % 1024 == 0, "cols must be a multiple of 1024");
  zeros(y, rows, cols, stream);
  warp_shuffle_kernel<1024><<<rows, 1024, 0, stream>>>(x, y, cols);
}

__device__ float max4(float4 v) { return fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)); }

__device__ float4 exp4(float4 v, float m) {
  return make_float4(expf(v.x - m), expf(v.y - m), expf(v.z - m), expf(v.w - m));
}

__device__ float4 divided(float4 v, float sum) {
  return make_float4(v.x / sum, v.y / sum, v.z / sum, v.w / sum);
}

// float4: the same with four floats per load, and one warp per row.
template <int BLOCK>
__global__ void float4_kernel(const float4* x, float4* y, int quads) {
  __shared__ float smem[BLOCK / 32 + 1];
  x += blockIdx.x * quads;
  y += blockIdx.x * quads;
  float m = -INFINITY;
  for (int c = threadIdx.x; c < quads; c += BLOCK) {
    m = across_warps<BLOCK>(smem, fmaxf(m, max4(x[c])), -INFINITY, warp_max);
  }
  float sum = 0.0f;
  for (int c = threadIdx.x; c < quads; c += BLOCK) {
    const float4 e = exp4(x[c], m);
    y[c] = e;
    sum += across_warps<BLOCK>(smem, e.x + e.y + e.z + e.w, 0.0f, warp_sum);
  }
  for (int c = threadIdx.x; c < quads; c += BLOCK) y[c] = divided(y[c], sum);
}

void float4_shared(const float* x, float* y, int rows, int cols, cudaStream_t stream) {
  require(cols % 1024 == 0, "cols must be a multiple of 1024");
  zeros(y, rows, cols, stream);
  float4_kernel<32><<<rows, 32, 0, stream>>>(reinterpret_cast<const float4*>(x),
                                             reinterpret_cast<float4*>(y), cols / 4);
}

// float4_registers: one warp per row needs no shared memory.
__global__ void float4_registers_kernel(const float4* x, float4* y, int quads) {
  x += blockIdx.x * quads;
  y += blockIdx.x * quads;
  float m = -INFINITY;
  for (int c = threadIdx.x; c < quads; c += 32) m = warp_max(fmaxf(m, max4(x[c])));
  float sum = 0.0f;
  for (int c = threadIdx.x; c < quads; c += 32) {
    const float4 e = exp4(x[c], m);
    y[c] = e;
    sum += warp_sum(e.x + e.y + e.z + e.w);
  }
  for (int c = threadIdx.x; c < quads; c += 32) y[c] = divided(y[c], sum);
}

void float4_registers(const float* x, float* y, int rows, int cols, cudaStream_t stream) {
  require(cols % 1024 == 0, "cols must be a multiple of 1024");
  zeros(y, rows, cols, stream);
  float4_registers_kernel<<<rows, 32, 0, stream>>>(reinterpret_cast<const float4*>(x),
                                                   reinterpret_cast<float4*>(y), cols / 4);
}

// cub_reduce: as shared_tree, but CUB reduces over the block.
template <int BLOCK>
__global__ void cub_reduce_kernel(const float* x, float* y, int cols) {
  using Reduce = cub::BlockReduce<float, BLOCK>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ float shared;
  x += blockIdx.x * cols;
  y += blockIdx.x * cols;
  float m = -INFINITY;
  for (int c = threadIdx.x; c < cols; c += BLOCK) {
    m = fmaxf(m, Reduce(storage).Reduce(x[c], cuda::maximum<>{}));
    __syncthreads();  // the storage is reused
  }
  if (threadIdx.x == 0) shared = m;  // only thread 0 has the whole row's
  __syncthreads();
  m = shared;
  float sum = 0.0f;
  for (int c = threadIdx.x; c < cols; c += BLOCK) {
    const float e = expf(x[c] - m);
    y[c] = e;
    sum += Reduce(storage).Sum(e);
    __syncthreads();  // the storage is reused, and m was read by all
  }
  if (threadIdx.x == 0) shared = sum;
  __syncthreads();
  sum = shared;
  for (int c = threadIdx.x; c < cols; c += BLOCK) y[c] /= sum;
}

void cub_reduce(const float* x, float* y, int rows, int cols, cudaStream_t stream) {
  require(cols % 1024 == 0, "cols must be a multiple of 1024");
  zeros(y, rows, cols, stream);
  cub_reduce_kernel<128><<<rows, 128, 0, stream>>>(x, y, cols);
}
