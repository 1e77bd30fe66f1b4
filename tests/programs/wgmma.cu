// wgmma.cu: the tensor-core instruction of sm_90a: four warps multiply matrices in shared memory.
//
// Both operands are K-major: A [64, K], B [N, K]. An instruction takes 32 bytes of every row. Every
// shared-memory layout is tried with bf16, half, tf32 and e4m3; the layout is a formula below and
// two offsets in the matrix descriptor.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <vector>

#include "common.h"

constexpr int M = 64, N = 32, ROW_BYTES = 128;  // of K: four instructions
constexpr int NUM_THREADS = 128;

// Where byte k of a row goes. W = 32, 64, 128: the tile is cut into columns of W bytes; in each, the
// 16-byte chunks of a row are XORed with the row. W = 16, no swizzle: columns of 16 bytes.
template <int W>
__host__ __device__ int place(int row, int k, int rows) {
  int address = k / W * rows * W + row * W + k % W;
  constexpr int chunk_bits = W / 16 - 1;  // 128: 7, 64: 3, 32: 1, 16: 0
  return address ^ ((address >> 7 & chunk_bits) << 4);
}

// Bits 0-13 start, 16-29 leading, 32-45 stride distance, all in 16 bytes; 62-63 the swizzle.
template <int W>
__device__ uint64_t descriptor(const void* smem, int k, int rows) {
  constexpr uint64_t swizzle = W == 128 ? 1 : W == 64 ? 2 : W == 32 ? 3 : 0;
  // Start: within a swizzled column K advances by bytes, as if nothing were swizzled.
  uint64_t start = __cvta_generic_to_shared(smem) + k / W * rows * W + k % W;
  uint64_t leading = W == 16 ? rows * 16 : 16;  // no swizzle: from 16 bytes of K to the next 16
  uint64_t stride = 8 * W;                      // from eight rows to the next eight
  return start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | swizzle << 62;
}

#define WGMMA(shape_and_types, immediates)                                                      \
  asm volatile(                                                                                 \
      "{\n"                                                                                     \
      ".reg .pred accumulate;\n"                                                                \
      "setp.ne.b32 accumulate, %18, 0;\n"                                                       \
      "wgmma.mma_async.sync.aligned." shape_and_types                                           \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, "     \
      "accumulate, " immediates                                                                 \
      ";\n"                                                                                     \
      "}"                                                                                       \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),     \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), \
        "+f"(d[14]), "+f"(d[15])                                                                \
      : "l"(a), "l"(b), "r"(accumulate))

// Scale of A, scale of B, and for 16-bit types "transposed" of A and B.
__device__ void wgmma(float (&d)[16], uint64_t a, uint64_t b, int accumulate, __nv_bfloat16) {
  WGMMA("m64n32k16.f32.bf16.bf16", "1, 1, 0, 0");
}
__device__ void wgmma(float (&d)[16], uint64_t a, uint64_t b, int accumulate, __half) {
  WGMMA("m64n32k16.f32.f16.f16", "1, 1, 0, 0");
}
__device__ void wgmma(float (&d)[16], uint64_t a, uint64_t b, int accumulate, float) {
  WGMMA("m64n32k8.f32.tf32.tf32", "1, 1");
}
__device__ void wgmma(float (&d)[16], uint64_t a, uint64_t b, int accumulate, __nv_fp8_e4m3) {
  WGMMA("m64n32k32.f32.e4m3.e4m3", "1, 1");
}

template <class T, int W>
__global__ void __launch_bounds__(NUM_THREADS) wgmma_kernel(const T* A, const T* B, float* C) {
  __shared__ alignas(1024) uint8_t A_smem[M * ROW_BYTES];  // swizzles repeat every 1024 bytes
  __shared__ alignas(1024) uint8_t B_smem[N * ROW_BYTES];
  constexpr int K = ROW_BYTES / sizeof(T);
  for (int i = threadIdx.x; i < M * K; i += NUM_THREADS) {
    *reinterpret_cast<T*>(&A_smem[place<W>(i / K, i % K * sizeof(T), M)]) = A[i];
  }
  for (int i = threadIdx.x; i < N * K; i += NUM_THREADS) {
    *reinterpret_cast<T*>(&B_smem[place<W>(i / K, i % K * sizeof(T), N)]) = B[i];
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // wgmma reads what was just written
  __syncthreads();

  float d[16] = {};
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  for (int k = 0; k < ROW_BYTES; k += 32) {
    wgmma(d, descriptor<W>(A_smem, k, M), descriptor<W>(B_smem, k, N), k > 0, T());
  }
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");

  // A warp has 16 rows, a thread pairs of columns in rows r and r + 8.
  int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  for (int i = 0; i < 16; i++) {
    C[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
  }
}

template <class T>
void every_swizzle(const char* name) {
  constexpr int K = ROW_BYTES / sizeof(T);
  T *A = zeros<T>(M * K), *B = zeros<T>(N * K);
  Random random;
  for (int i = 0; i < M * K; i++) A[i] = T(random.uniform());
  for (int i = 0; i < N * K; i++) B[i] = T(random.uniform());
  std::vector<double> want(M * N);
  for (int i = 0; i < M * N; i++) {
    for (int k = 0; k < K; k++)
      want[i] += double(float(A[i / N * K + k])) * float(B[i % N * K + k]);
  }
  for (auto kernel :
       {wgmma_kernel<T, 16>, wgmma_kernel<T, 32>, wgmma_kernel<T, 64>, wgmma_kernel<T, 128>}) {
    float* C = zeros<float>(M * N);
    kernel<<<1, NUM_THREADS>>>(A, B, C);
    finish();
    // The sums of fp8 products keep fewer bits than a float.
    expect_close(name, C, want.data(), M * N, sizeof(T) == 1 ? 1e-3 : 1e-5);
  }
}

int main() {
  every_swizzle<__nv_bfloat16>("bf16");
  every_swizzle<__half>("half");
  every_swizzle<float>("tf32");
  every_swizzle<__nv_fp8_e4m3>("e4m3");
  std::printf("ok: wgmma m64n%d of bf16, half, tf32 and e4m3 with every swizzle\n", N);
}
