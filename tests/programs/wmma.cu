// wmma.cu: nvcuda::wmma. A half-precision matrix product through shared memory, and one tile each
// of tf32 and int8.
#include <cuda_fp16.h>
#include <mma.h>

#include <vector>

#include "common.h"

namespace wmma = nvcuda::wmma;

// C [M, N] = A [M, K] * B [K, N], all row-major. A warp computes 32x32 of the block's 64x64.
constexpr int BM = 64, BN = 64, BK = 32, NUM_THREADS = 128;
constexpr int PAD = 8;  // halves: rows start in other banks

__global__ void __launch_bounds__(NUM_THREADS)
    gemm_kernel(const __half* A, const __half* B, float* C, int M, int N, int K) {
  __shared__ __align__(32) __half A_smem[BM][BK + PAD];
  __shared__ __align__(32) __half B_smem[BK][BN + PAD];
  int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  int wm = threadIdx.x / 32 / 2 * 32, wn = threadIdx.x / 32 % 2 * 32;

  wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc[2][2];
  for (auto& row : acc) {
    for (auto& tile : row) wmma::fill_fragment(tile, 0);
  }
  for (int k0 = 0; k0 < K; k0 += BK) {
    for (int i = threadIdx.x; i < BM * BK; i += NUM_THREADS) {
      A_smem[i / BK][i % BK] = A[(m0 + i / BK) * K + k0 + i % BK];
    }
    for (int i = threadIdx.x; i < BK * BN; i += NUM_THREADS) {
      B_smem[i / BN][i % BN] = B[(k0 + i / BN) * N + n0 + i % BN];
    }
    __syncthreads();  // both tiles have arrived
    for (int k = 0; k < BK; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> a[2];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> b[2];
      for (int i = 0; i < 2; i++) {
        wmma::load_matrix_sync(a[i], &A_smem[wm + i * 16][k], BK + PAD);
        wmma::load_matrix_sync(b[i], &B_smem[k][wn + i * 16], BN + PAD);
      }
      for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) wmma::mma_sync(acc[i][j], a[i], b[j], acc[i][j]);
      }
    }
    __syncthreads();  // no warp still reads the tiles
  }
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < 2; j++) {
      wmma::store_matrix_sync(&C[(m0 + wm + i * 16) * N + n0 + wn + j * 16], acc[i][j], N,
                              wmma::mem_row_major);
    }
  }
}

// 16x16x8: the elements are floats, whose lower 13 bits the product ignores.
__global__ void tf32_kernel(const float* A, const float* B, float* C) {
  wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::col_major> b;
  wmma::fragment<wmma::accumulator, 16, 16, 8, float> acc;
  wmma::load_matrix_sync(a, A, 8);
  wmma::load_matrix_sync(b, B, 8);
  wmma::load_matrix_sync(acc, C, 16, wmma::mem_row_major);
  for (auto& x : a.x) x = wmma::__float_to_tf32(x);
  for (auto& x : b.x) x = wmma::__float_to_tf32(x);
  wmma::mma_sync(acc, a, b, acc);
  wmma::store_matrix_sync(C, acc, 16, wmma::mem_row_major);
}

// 32x8x16, C column-major.
__global__ void int8_kernel(const signed char* A, const signed char* B, int* C) {
  wmma::fragment<wmma::matrix_a, 32, 8, 16, signed char, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 32, 8, 16, signed char, wmma::col_major> b;
  wmma::fragment<wmma::accumulator, 32, 8, 16, int> acc;
  wmma::load_matrix_sync(a, A, 16);
  wmma::load_matrix_sync(b, B, 16);
  wmma::fill_fragment(acc, -5);
  wmma::mma_sync(acc, a, b, acc);
  wmma::store_matrix_sync(C, acc, 32, wmma::mem_col_major);
}

int main() {
  Random random;
  constexpr int M = 128, N = 64, K = 96;
  __half *A = zeros<__half>(M * K), *B = zeros<__half>(K * N);
  for (int i = 0; i < M * K; i++) A[i] = random.uniform();
  for (int i = 0; i < K * N; i++) B[i] = random.uniform();
  float* C = zeros<float>(M * N);
  gemm_kernel<<<dim3(N / BN, M / BM), NUM_THREADS>>>(A, B, C, M, N, K);
  finish();
  std::vector<double> want(M * N);
  for (int m = 0; m < M; m++) {
    for (int n = 0; n < N; n++) {
      for (int k = 0; k < K; k++)
        want[m * N + n] += double(float(A[m * K + k])) * float(B[k * N + n]);
    }
  }
  expect_close("half", C, want.data(), M * N, 1e-5);

  float *A_tf32 = zeros<float>(16 * 8), *B_tf32 = zeros<float>(8 * 16), *C_tf32 = zeros<float>(256);
  for (int i = 0; i < 128; i++) {
    A_tf32[i] = random.uniform();  // ten fractional bits: tf32 holds them
    B_tf32[i] = random.uniform();
  }
  for (int i = 0; i < 256; i++) {
    want[i] = C_tf32[i] = random.uniform();
    for (int k = 0; k < 8; k++) want[i] += double(A_tf32[i / 16 * 8 + k]) * B_tf32[i % 16 * 8 + k];
  }
  tf32_kernel<<<1, 32>>>(A_tf32, B_tf32, C_tf32);
  finish();
  expect_close("tf32", C_tf32, want.data(), 256, 1e-5);

  auto *A_int8 = zeros<signed char>(32 * 16), *B_int8 = zeros<signed char>(16 * 8);
  int* C_int8 = zeros<int>(32 * 8);
  for (int i = 0; i < 32 * 16; i++) A_int8[i] = random.next();
  for (int i = 0; i < 16 * 8; i++) B_int8[i] = random.next();
  for (int i = 0; i < 256; i++) {
    want[i] = -5;
    for (int k = 0; k < 16; k++) want[i] += A_int8[i % 32 * 16 + k] * B_int8[i / 32 * 16 + k];
  }
  int8_kernel<<<1, 32>>>(A_int8, B_int8, C_int8);
  finish();
  expect_equal("int8", C_int8, want.data(), 256);
  std::printf("ok: wmma of half (%dx%dx%d), tf32 and int8\n", M, N, K);
}
