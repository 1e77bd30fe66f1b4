// matmul_mma.cu: tensor cores by their own instruction (fp16, bf16, tf32; int8). The contract is in
// matmul.cu; tiles, fragments and the way to C are in matmul_mma*.cuh.
//
// Rungs
//   mma  mma.sync on fragments that ldmatrix reads from padded tiles
#include "matmul_mma.cuh"

// ------------------------------------------------------------------------------------------------
// mma: mma.sync and ldmatrix, padded tiles
// Idea     The instructions that wmma hides. One ldmatrix reads four 8 x 8 matrices, 16 bytes per
//          lane, straight into the registers in which mma expects them.
// Changes  vs wmma: fragments have a documented layout, so tiles can be laid out at will. An mma
//          computes 16 x 8 sums from 32 bytes of k: any element type, one code. int8 has its sums
//          in int32, exact for K < 2^17. (The sums could go from the registers to C, but a row of
//          8 x 2 bytes is less than a sector.)
// FLOP/B   2-byte types. Global: 2 BM BN FLOP per 2 (BM + BN) bytes = 64. Shared: a warp's 64 x 32
//          elements take 2 WM WN FLOP per 2 (WM + WN) bytes = 21.
// Shape    256 threads, 8 warps as 2 x 4, 35 KiB smem (A B^T: 36), 2 __syncthreads per tile; 2 blocks
//          per SM.
// Trap     ldmatrix reads 8 rows of 16 bytes at once. Without padding, rows of 128 bytes have all
//          eight in the same banks: 8 wavefronts for 1. And of a matrix that lies along M or N,
//          ldmatrix.trans exchanges elements of 2 bytes only: tf32 is read word by word, int8 is
//          transposed on the way to shared memory.
// Next     No faster than wmma, which has the same HMMA and no more loads. But now tiles need not be
//          matrices with a leading dimension: mma_swizzled.
constexpr int MMA_BM = 128;       // tunable: 64, 128
constexpr int MMA_BN = 128;       // tunable: 64, 128
constexpr int MMA_BK = 128;       // bytes; int8: half of it. tunable: 64, 128
constexpr int MMA_WM = 64;        // tunable: 32, 64
constexpr int MMA_WN = 32;        // tunable: 32, 64
constexpr int MMA_HALF_SUMS = 0;  // fp16's sums in fp16: 11 bits. tunable: 0, 1

constexpr int MMA_NUM_THREADS = MMA_BM / MMA_WM * (MMA_BN / MMA_WN) * 32;

template <class T, Along A_ALONG, Along B_ALONG>
__global__ __launch_bounds__(MMA_NUM_THREADS,
                             2) void matmul_mma_kernel(const __grid_constant__ Matmul<T> p) {
  if constexpr (SINCE_SM_80) {
    constexpr int BK = sizeof(T) == 1 ? MMA_BK / 2 : MMA_BK;  // fewer bytes in flight, no spills
    using ATile = Tile<T, A_ALONG, MMA_BM, BK, Banks::padded>;
    using BTile = Tile<T, B_ALONG, MMA_BN, BK, Banks::padded>;
    const int row0 = blockIdx.y * MMA_BM, col0 = blockIdx.x * MMA_BN;
    constexpr bool HALF_SUMS = MMA_HALF_SUMS && std::is_same_v<T, fp16>;
    multiply_tiles<WarpMma<ATile, BTile, MMA_WM, MMA_WN, HALF_SUMS>, ATile, BTile>(p, row0, col0);
  }
}

template <class T>
static void launch_mma(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<T>(p, MMA_BM, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, MMA_BN), ceil_div(s.M, MMA_BM), s.batch);
    with_alongs(s, [&](auto a, auto b) {
      matmul_mma_kernel<T, a.value, b.value><<<grid, MMA_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(matmul_mma_kernel);
    });
  });
}

void matmul_mma(const MatmulProblem& p, cudaStream_t stream) {
  if (p.A.dtype == DType::int8) return launch_mma<int8_t>(p, stream);
  with_tensor_type(p, [&](auto type) { launch_mma<decltype(type)>(p, stream); });
}
