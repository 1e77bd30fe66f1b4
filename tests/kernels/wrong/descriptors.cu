// descriptors.cu: wgmma descriptors that do not describe the matrix in shared memory: another swizzle
// than that of the tensor map that wrote it, strides exchanged or in the wrong unit. How to read this
// file: memcheck.cu; OTHER is the copy. `in` is A [64, K], then B [8, K], row by row; D = A * B^T.
#include <cuda_runtime.h>

#include "hopper.h"
#include "ptx.h"

// ---- Tiles of tensor copies: rows of 32 floats, 128 bytes.

constexpr int K = 32, A_BYTES = 64 * K * 4, B_BYTES = 8 * K * 4;

struct Tiles {
  alignas(1024) float A[64 * K];
  alignas(1024) float B[8 * K];
  uint64_t full;

  __device__ void init() {
    if (threadIdx.x == 0) {
      MBARRIER_INIT(&full, 1);
      FENCE_MBARRIER_INIT();
      MBARRIER_ARRIVE_EXPECT(&full, A_BYTES + B_BYTES);
    }
    __syncthreads();
  }
};

// Bits 62 and 63 of a descriptor.
enum Swizzle : uint64_t { NO_SWIZZLE = 0, SWIZZLE_128B = 1, SWIZZLE_64B = 2, SWIZZLE_32B = 3 };

// Rows of 128 bytes, from some element of the first row on.
__device__ uint64_t rows(const float* smem, Swizzle swizzle) {
  const uint64_t start = SMEM(smem), leading = 16, stride = 8 * 128;
  return start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | swizzle << 62;
}

struct Maps {
  CUtensorMap A, B;
};

Maps maps_of(const float* in, CUtensorMapSwizzle swizzle) {
  float* data = const_cast<float*>(in);
  return {tensor_map(data, 64, K, 64, K, swizzle), tensor_map(data + 64 * K, 8, K, 8, K, swizzle)};
}

// swizzle_mode (in 2304, out 512): the descriptors have the swizzle of rows of 64 bytes.
template <bool RIGHT>
__global__ void swizzle_mode_kernel(const __grid_constant__ Maps in, float* out) {
  __shared__ Tiles smem;
  smem.init();
  if (threadIdx.x == 0) {
    TMA_LOAD(smem.A, &in.A, 0, 0, &smem.full);  // OTHER swizzle_mode
    TMA_LOAD(smem.B, &in.B, 0, 0, &smem.full);
  }
  MBARRIER_WAIT(&smem.full, 0);
  constexpr Swizzle MODE = RIGHT ? SWIZZLE_128B : SWIZZLE_64B;
  float d[4] = {};
  WGMMA_FENCE();
  for (int k = 0; k < K; k += 8) {
    WGMMA(d, rows(smem.A + k, MODE), rows(smem.B + k, MODE));  // WRONG swizzle_mode
  }
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void swizzle_mode_wrong(const float* in, float* out) {
  swizzle_mode_kernel<false><<<1, 128>>>(maps_of(in, CU_TENSOR_MAP_SWIZZLE_128B), out);
}
void swizzle_mode_right(const float* in, float* out) {
  swizzle_mode_kernel<true><<<1, 128>>>(maps_of(in, CU_TENSOR_MAP_SWIZZLE_128B), out);
}

// swizzle_of_map (in 2304, out 512): the tensor maps have no swizzle, the descriptors have one.
__global__ void swizzle_of_map_kernel(const __grid_constant__ Maps in, float* out) {
  __shared__ Tiles smem;
  smem.init();
  if (threadIdx.x == 0) {
    TMA_LOAD(smem.A, &in.A, 0, 0, &smem.full);  // OTHER swizzle_of_map
    TMA_LOAD(smem.B, &in.B, 0, 0, &smem.full);
  }
  MBARRIER_WAIT(&smem.full, 0);
  float d[4] = {};
  WGMMA_FENCE();
  for (int k = 0; k < K; k += 8) {
    WGMMA(d, rows(smem.A + k, SWIZZLE_128B),  // WRONG swizzle_of_map
          rows(smem.B + k, SWIZZLE_128B));
  }
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void swizzle_of_map_wrong(const float* in, float* out) {
  swizzle_of_map_kernel<<<1, 128>>>(maps_of(in, CU_TENSOR_MAP_SWIZZLE_NONE), out);
}
void swizzle_of_map_right(const float* in, float* out) {
  swizzle_of_map_kernel<<<1, 128>>>(maps_of(in, CU_TENSOR_MAP_SWIZZLE_128B), out);
}

// swizzle_ignored (in 2304, out 512): the descriptors have no swizzle, the tensor maps have one.
template <bool RIGHT>
__global__ void swizzle_ignored_kernel(const __grid_constant__ Maps in, float* out) {
  __shared__ Tiles smem;
  smem.init();
  if (threadIdx.x == 0) {
    TMA_LOAD(smem.A, &in.A, 0, 0, &smem.full);  // OTHER swizzle_ignored
    TMA_LOAD(smem.B, &in.B, 0, 0, &smem.full);
  }
  MBARRIER_WAIT(&smem.full, 0);
  constexpr Swizzle MODE = RIGHT ? SWIZZLE_128B : NO_SWIZZLE;
  float d[4] = {};
  WGMMA_FENCE();
  for (int k = 0; k < K; k += 8) {
    WGMMA(d, rows(smem.A + k, MODE), rows(smem.B + k, MODE));  // WRONG swizzle_ignored
  }
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void swizzle_ignored_wrong(const float* in, float* out) {
  swizzle_ignored_kernel<false><<<1, 128>>>(maps_of(in, CU_TENSOR_MAP_SWIZZLE_128B), out);
}
void swizzle_ignored_right(const float* in, float* out) {
  swizzle_ignored_kernel<true><<<1, 128>>>(maps_of(in, CU_TENSOR_MAP_SWIZZLE_128B), out);
}

// swizzle_of_b (in 2304, out 512): A is read as it was written, B is not.
template <bool RIGHT>
__global__ void swizzle_of_b_kernel(const __grid_constant__ Maps in, float* out) {
  __shared__ Tiles smem;
  smem.init();
  if (threadIdx.x == 0) {
    TMA_LOAD(smem.A, &in.A, 0, 0, &smem.full);
    TMA_LOAD(smem.B, &in.B, 0, 0, &smem.full);  // OTHER swizzle_of_b
  }
  MBARRIER_WAIT(&smem.full, 0);
  float d[4] = {};
  WGMMA_FENCE();
  for (int k = 0; k < K; k += 8) {
    WGMMA(d, rows(smem.A + k, SWIZZLE_128B),  // WRONG swizzle_of_b
          rows(smem.B + k, RIGHT ? SWIZZLE_128B : SWIZZLE_32B));
  }
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void swizzle_of_b_wrong(const float* in, float* out) {
  swizzle_of_b_kernel<false><<<1, 128>>>(maps_of(in, CU_TENSOR_MAP_SWIZZLE_128B), out);
}
void swizzle_of_b_right(const float* in, float* out) {
  swizzle_of_b_kernel<true><<<1, 128>>>(maps_of(in, CU_TENSOR_MAP_SWIZZLE_128B), out);
}

// swizzle_of_refill (in 4352, out 512): the second A comes through a map without a swizzle.
__global__ void swizzle_of_refill_kernel(const __grid_constant__ Maps first,
                                         const __grid_constant__ CUtensorMap second, float* out) {
  __shared__ Tiles smem;
  smem.init();
  float d[4] = {};
  for (int use = 0; use < 2; use++) {
    if (threadIdx.x == 0) {
      if (use == 0) {
        TMA_LOAD(smem.A, &first.A, 0, 0, &smem.full);
        TMA_LOAD(smem.B, &first.B, 0, 0, &smem.full);
      } else {
        MBARRIER_ARRIVE_EXPECT(&smem.full, A_BYTES);
        TMA_LOAD(smem.A, &second, 0, 0, &smem.full);  // OTHER swizzle_of_refill
      }
    }
    MBARRIER_WAIT(&smem.full, use);
    WGMMA_FENCE();
    for (int k = 0; k < K; k += 8) {
      WGMMA(d, rows(smem.A + k, SWIZZLE_128B),  // WRONG swizzle_of_refill
            rows(smem.B + k, SWIZZLE_128B));
    }
    WGMMA_COMMIT();
    WGMMA_WAIT(0);
    __syncthreads();  // all warps have read A
  }
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void swizzle_of_refill(const float* in, float* out, CUtensorMapSwizzle second) {
  const Maps first = maps_of(in, CU_TENSOR_MAP_SWIZZLE_128B);
  swizzle_of_refill_kernel<<<1, 128>>>(first, maps_of(in + 2304, second).A, out);
}
void swizzle_of_refill_wrong(const float* in, float* out) {
  swizzle_of_refill(in, out, CU_TENSOR_MAP_SWIZZLE_NONE);
}
void swizzle_of_refill_right(const float* in, float* out) {
  swizzle_of_refill(in, out, CU_TENSOR_MAP_SWIZZLE_128B);
}

// ---- Strides. A [64, 8] and B [8, 8] lie in two columns of 16 bytes: see `descriptor` in ptx.h.

struct Columns {
  alignas(128) float A[512], B[64];

  __device__ void store(const float* in) {  // rows of 8
    for (int i = threadIdx.x; i < 512; i += 128) A[i % 8 / 4 * 256 + i / 8 * 4 + i % 4] = in[i];
    if (threadIdx.x < 64) {
      const int i = threadIdx.x;
      B[i % 8 / 4 * 32 + i / 8 * 4 + i % 4] = in[512 + i];
    }
    FENCE_PROXY_ASYNC();
    __syncthreads();
  }
};

// strides_exchanged (in 576, out 512): LBO separates groups of rows, SBO the halves of a row.
template <bool RIGHT>
__global__ void strides_exchanged_kernel(const float* in, float* out) {
  __shared__ Columns smem;
  smem.store(in);
  uint64_t a = descriptor(smem.A, 64);
  if (!RIGHT) a = SMEM(smem.A) >> 4 | (8 * 16 >> 4) << 16 | uint64_t{64 * 16 >> 4} << 32;
  float d[4] = {};
  WGMMA_FENCE();
  WGMMA(d, a, descriptor(smem.B, 8));  // WRONG strides_exchanged
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void strides_exchanged_wrong(const float* in, float* out) {
  strides_exchanged_kernel<false><<<1, 128>>>(in, out);
}
void strides_exchanged_right(const float* in, float* out) {
  strides_exchanged_kernel<true><<<1, 128>>>(in, out);
}

// strides_in_bytes (in 576, out 512): they are in units of 16 bytes.
template <bool RIGHT>
__global__ void strides_in_bytes_kernel(const float* in, float* out) {
  __shared__ Columns smem;
  smem.store(in);
  const uint64_t strides = uint64_t{64 * 16} << 16 | uint64_t{8 * 16} << 32;
  float d[4] = {};
  WGMMA_FENCE();
  WGMMA(d, SMEM(smem.A) >> 4 | (RIGHT ? strides >> 4 : strides),  // WRONG strides_in_bytes
        descriptor(smem.B, 8));
  WGMMA_COMMIT();
  WGMMA_WAIT(0);
  for (int j = 0; j < 4; j++) out[d_index(j)] = d[j];
}
void strides_in_bytes_wrong(const float* in, float* out) {
  strides_in_bytes_kernel<false><<<1, 128>>>(in, out);
}
void strides_in_bytes_right(const float* in, float* out) {
  strides_in_bytes_kernel<true><<<1, 128>>>(in, out);
}
