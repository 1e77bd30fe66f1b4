// matmul_mma_swizzled.cu: tiles that need no padding, for tensor cores (fp16, bf16, tf32). The contract
// is in matmul.cu; tiles, fragments and the way to C are in matmul_mma*.cuh.
//
// Rungs
//   mma_swizzled  as mma, but the chunks of a tile's row are permuted
#include "matmul_mma.cuh"

// ------------------------------------------------------------------------------------------------
// mma_swizzled: chunks are permuted within their row instead of padded apart
// Idea     Padding keeps eight adjacent rows apart by making each longer. An exclusive or of the
//          chunk's number with the row's does it within the row.
// Changes  vs mma: Banks::swizzled. Tiles of 16 KiB instead of up to 18.
// FLOP/B   As mma.
// Shape    256 threads, 32 KiB smem, 2 __syncthreads per tile; 2 blocks per SM.
// Trap     The pattern repeats after 128 bytes, not after a row: two rows of 64 bytes share the
//          banks, and have the same pattern.
// Next     No faster yet: the exclusive ors take instructions, and shared memory was not what limited
//          it. But stages of tiles, on their way while others are multiplied, need all of it:
//          mma_pipelined.
constexpr int MMA_SWIZZLED_BM = 128;  // tunable: 64, 128
constexpr int MMA_SWIZZLED_BN = 128;  // tunable: 64, 128
constexpr int MMA_SWIZZLED_BK = 128;  // bytes. tunable: 64, 128
constexpr int MMA_SWIZZLED_WM = 64;   // tunable: 32, 64
constexpr int MMA_SWIZZLED_WN = 32;   // tunable: 32, 64

constexpr int MMA_SWIZZLED_NUM_THREADS =
    MMA_SWIZZLED_BM / MMA_SWIZZLED_WM * (MMA_SWIZZLED_BN / MMA_SWIZZLED_WN) * 32;

template <class T, Along A_ALONG, Along B_ALONG>
__global__ __launch_bounds__(MMA_SWIZZLED_NUM_THREADS, 2) void matmul_mma_swizzled_kernel(
    const __grid_constant__ Matmul<T> p) {
  if constexpr (SINCE_SM_80) {
    using ATile = Tile<T, A_ALONG, MMA_SWIZZLED_BM, MMA_SWIZZLED_BK, Banks::swizzled>;
    using BTile = Tile<T, B_ALONG, MMA_SWIZZLED_BN, MMA_SWIZZLED_BK, Banks::swizzled>;
    const int row0 = blockIdx.y * MMA_SWIZZLED_BM, col0 = blockIdx.x * MMA_SWIZZLED_BN;
    using Warp = WarpMma<ATile, BTile, MMA_SWIZZLED_WM, MMA_SWIZZLED_WN>;
    multiply_tiles<Warp, ATile, BTile>(p, row0, col0);
  }
}

template <class T>
static void launch_mma_swizzled(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<T>(p, MMA_SWIZZLED_BM, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, MMA_SWIZZLED_BN), ceil_div(s.M, MMA_SWIZZLED_BM), s.batch);
    with_alongs(s, [&](auto a, auto b) {
      const auto kernel = matmul_mma_swizzled_kernel<T, a.value, b.value>;
      kernel<<<grid, MMA_SWIZZLED_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(matmul_mma_swizzled_kernel);
    });
  });
}

void matmul_mma_swizzled(const MatmulProblem& p, cudaStream_t stream) {
  with_tensor_type(p, [&](auto type) { launch_mma_swizzled<decltype(type)>(p, stream); });
}
