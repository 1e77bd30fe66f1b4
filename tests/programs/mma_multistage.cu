// mma_multistage.cu: the tensor-core matrix product of sm_80. cp.async fills a ring of stages,
// ldmatrix takes fragments from swizzled shared memory, mma.sync multiplies them.
//
// C [M, N] = A [M, K] * B [K, N], row-major; half in, float out. Dimensions are multiples of tiles.
#include <cuda_fp16.h>

#include <vector>

#include "common.h"

constexpr int BM = 64, BN = 64, BK = 32, WM = 32, WN = 32, STAGES = 3;
constexpr int NUM_THREADS = BM / WM * (BN / WN) * 32;

// A tile's row is cut into chunks of 16 bytes, which ldmatrix reads: eight rows, the same chunk.
// XORing the chunk with the row puts those eight into different banks.
__device__ int A_at(int row, int chunk) {  // [BM, BK]: two rows share the 128 bytes of all banks
  return row * BK + (chunk ^ (row / 2 % 4)) * 8;
}
__device__ int B_at(int row, int chunk) {  // [BK, BN]: a row has all the banks
  return row * BN + (chunk ^ (row % 8)) * 8;
}

__device__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
__device__ void cp_async16(void* smem, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(smem)),
               "l"(global));
}
__device__ void cp_async_commit() { asm volatile("cp.async.commit_group;"); }
template <int PENDING>
__device__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
__device__ void ldmatrix(unsigned (&r)[4], const __half* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ void ldmatrix_trans(unsigned (&r)[4], const __half* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__global__ void __launch_bounds__(NUM_THREADS)
    gemm_kernel(const __half* A, const __half* B, float* C, int N, int K) {
  __shared__ __align__(128) __half A_smem[STAGES][BM * BK], B_smem[STAGES][BK * BN];
  int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN, tiles = K / BK;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;

  auto load = [&](int tile) {
    if (tile < tiles) {
      int stage = tile % STAGES, k0 = tile * BK;
      for (int i = threadIdx.x; i < BM * BK / 8; i += NUM_THREADS) {
        int row = i / (BK / 8), chunk = i % (BK / 8);
        cp_async16(&A_smem[stage][A_at(row, chunk)], &A[(m0 + row) * K + k0 + chunk * 8]);
      }
      for (int i = threadIdx.x; i < BK * BN / 8; i += NUM_THREADS) {
        int row = i / (BN / 8), chunk = i % (BN / 8);
        cp_async16(&B_smem[stage][B_at(row, chunk)], &B[(k0 + row) * N + n0 + chunk * 8]);
      }
    }
    cp_async_commit();  // a group for every tile, even one that does not exist: waits count groups
  };

  for (int tile = 0; tile < STAGES - 1; tile++) load(tile);
  float acc[WM / 16][WN / 8][4] = {};
  for (int tile = 0; tile < tiles; tile++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();  // all of this tile has arrived; no thread still reads the previous one
    load(tile + STAGES - 1);
    int stage = tile % STAGES;
    for (int k = 0; k < BK; k += 16) {
      unsigned a[WM / 16][4], b[WN / 16][4];
      // Lanes 0-15 name the rows of the left halves, lanes 16-31 those of the right halves.
      for (int i = 0; i < WM / 16; i++) {
        ldmatrix(a[i], &A_smem[stage][A_at(wm + i * 16 + lane % 16, k / 8 + lane / 16)]);
      }
      for (int j = 0; j < WN / 16; j++) {
        ldmatrix_trans(b[j], &B_smem[stage][B_at(k + lane % 16, (wn + j * 16) / 8 + lane / 16)]);
      }
      for (int i = 0; i < WM / 16; i++) {
        for (int j = 0; j < WN / 8; j++) {
          mma_m16n8k16(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }
  for (int i = 0; i < WM / 16; i++) {
    for (int j = 0; j < WN / 8; j++) {
      int row = m0 + wm + i * 16 + lane / 4, column = n0 + wn + j * 8 + lane % 4 * 2;
      auto* c = acc[i][j];
      *reinterpret_cast<float2*>(&C[row * N + column]) = {c[0], c[1]};
      *reinterpret_cast<float2*>(&C[(row + 8) * N + column]) = {c[2], c[3]};
    }
  }
}

int main() {
  constexpr int M = 128, N = 192, K = 160;
  __half *A = zeros<__half>(M * K), *B = zeros<__half>(K * N);
  float* C = zeros<float>(M * N);
  Random random;
  for (int i = 0; i < M * K; i++) A[i] = random.uniform();
  for (int i = 0; i < K * N; i++) B[i] = random.uniform();
  gemm_kernel<<<dim3(N / BN, M / BM), NUM_THREADS>>>(A, B, C, N, K);
  finish();
  std::vector<double> want(M * N);
  for (int m = 0; m < M; m++) {
    for (int k = 0; k < K; k++) {
      for (int n = 0; n < N; n++)
        want[m * N + n] += double(float(A[m * K + k])) * float(B[k * N + n]);
    }
  }
  expect_close("C", C, want.data(), M * N, 1e-5);
  std::printf("ok: mma.sync with ldmatrix and %d cp.async stages, %dx%dx%d\n", STAGES, M, N, K);
}
