// slow to compile
// needs: cutlass_library/source/include
// cute_mma.cu: a matrix product written with CuTe, the tensor algebra of CUTLASS 3 and 4.
//
// C [M, N] = A [M, K] * B [N, K]^T, half in, float out: tensor cores of sm_80, swizzled shared
// memory, cp.async and ldmatrix. Shapes and layouts are types; the comment at the end of a line
// gives a tensor's modes.
#include <cute/tensor.hpp>

#include <vector>

#include "common.h"

using namespace cute;
using Half = cute::half_t;

using BM = Int<64>;
using BN = Int<64>;
using BK = Int<32>;
using Mma = decltype(make_tiled_mma(SM80_16x8x16_F32F16F16F32_TN{}, Layout<Shape<_2, _2>>{},
                                    Tile<_32, _32, _16>{}));
// Rows of 32 halves, 16-byte chunks XORed with the row.
using Swizzled = decltype(composition(Swizzle<2, 3, 3>{}, Layout<Shape<_8, BK>, Stride<BK, _1>>{}));
using SmemLayout = decltype(tile_to_shape(Swizzled{}, Shape<BM, BK>{}));
// 128 threads copy [32, 32] halves at a time, 16 bytes each.
using GlobalCopy =
    decltype(make_tiled_copy(Copy_Atom<SM80_CP_ASYNC_CACHEGLOBAL<uint128_t>, Half>{},
                             Layout<Shape<_32, _4>, Stride<_4, _1>>{}, Layout<Shape<_1, _8>>{}));

__global__ void __launch_bounds__(128)
    gemm_kernel(const Half* A, const Half* B, float* C, int M, int N, int K) {
  __shared__ alignas(128) Half A_smem[cosize_v<SmemLayout>], B_smem[cosize_v<SmemLayout>];
  Tensor mA = make_tensor(make_gmem_ptr(A), make_shape(M, K), make_stride(K, _1{}));
  Tensor mB = make_tensor(make_gmem_ptr(B), make_shape(N, K), make_stride(K, _1{}));
  Tensor mC = make_tensor(make_gmem_ptr(C), make_shape(M, N), make_stride(N, _1{}));
  Tensor gA = local_tile(mA, Shape<BM, BK>{}, make_coord(blockIdx.y, _));           // BM, BK, k
  Tensor gB = local_tile(mB, Shape<BN, BK>{}, make_coord(blockIdx.x, _));           // BN, BK, k
  Tensor gC = local_tile(mC, Shape<BM, BN>{}, make_coord(blockIdx.y, blockIdx.x));  // BM, BN
  Tensor sA = make_tensor(make_smem_ptr(A_smem), SmemLayout{});                     // BM, BK
  Tensor sB = make_tensor(make_smem_ptr(B_smem), SmemLayout{});                     // BN, BK

  auto copy_in = GlobalCopy{}.get_slice(threadIdx.x);
  Tensor tAgA = copy_in.partition_S(gA);  // CPY, CPY_M, CPY_K, k
  Tensor tAsA = copy_in.partition_D(sA);  // CPY, CPY_M, CPY_K
  Tensor tBgB = copy_in.partition_S(gB);  // CPY, CPY_N, CPY_K, k
  Tensor tBsB = copy_in.partition_D(sB);  // CPY, CPY_N, CPY_K

  Mma mma;
  auto of_thread = mma.get_slice(threadIdx.x);
  Tensor tCrA = of_thread.partition_fragment_A(sA);  // MMA, MMA_M, MMA_K
  Tensor tCrB = of_thread.partition_fragment_B(sB);  // MMA, MMA_N, MMA_K
  Tensor tCgC = of_thread.partition_C(gC);           // MMA, MMA_M, MMA_N
  Tensor acc = of_thread.make_fragment_C(tCgC);
  clear(acc);

  // ldmatrix distributes the shared tiles in the order that the tensor cores need.
  Copy_Atom<SM75_U32x4_LDSM_N, Half> ldmatrix;
  auto load_A = make_tiled_copy_A(ldmatrix, mma);
  auto load_B = make_tiled_copy_B(ldmatrix, mma);
  Tensor tXsA = load_A.get_slice(threadIdx.x).partition_S(sA);
  Tensor tXsB = load_B.get_slice(threadIdx.x).partition_S(sB);
  Tensor tXrA = load_A.get_slice(threadIdx.x).retile_D(tCrA);
  Tensor tXrB = load_B.get_slice(threadIdx.x).retile_D(tCrB);

  for (int k = 0; k < size<2>(gA); k++) {
    copy(GlobalCopy{}, tAgA(_, _, _, k), tAsA);
    copy(GlobalCopy{}, tBgB(_, _, _, k), tBsB);
    cp_async_fence();
    cp_async_wait<0>();
    __syncthreads();  // both tiles have arrived
    copy(load_A, tXsA, tXrA);
    copy(load_B, tXsB, tXrB);
    gemm(mma, tCrA, tCrB, acc);
    __syncthreads();  // no thread still reads the tiles
  }
  copy(acc, tCgC);
}

int main() {
  constexpr int M = 128, N = 192, K = 160;
  Half *A = zeros<Half>(M * K), *B = zeros<Half>(N * K);
  float* C = zeros<float>(M * N);
  Random random;
  for (int i = 0; i < M * K; i++) A[i] = Half(random.uniform());
  for (int i = 0; i < N * K; i++) B[i] = Half(random.uniform());
  gemm_kernel<<<dim3(N / BN{}, M / BM{}), 128>>>(A, B, C, M, N, K);
  finish();
  std::vector<double> want(M * N);
  for (int i = 0; i < M * N; i++) {
    for (int k = 0; k < K; k++)
      want[i] += double(float(A[i / N * K + k])) * float(B[i % N * K + k]);
  }
  expect_close("C", C, want.data(), M * N, 1e-5);
  std::printf("ok: a CuTe matrix product, %dx%dx%d\n", M, N, K);
}
