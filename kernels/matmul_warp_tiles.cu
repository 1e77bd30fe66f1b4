// matmul_warp_tiles.cu: a tile per warp, and copies that need no thread to wait for them; fp32. The
// contract is in matmul.cu, the tile in matmul_warp_tiles.cuh.
//
// Rungs
//   warp_tiles  a warp covers a nearly square part of C
//   async       the next tiles are on their way while this one is multiplied
#include "matmul_warp_tiles.cuh"

// ------------------------------------------------------------------------------------------------
// warp_tiles: a warp covers 32 x 32 elements of C instead of 8 x 128 (fp32)
// Idea     Lanes of a warp share what they read, so a warp pays for its distinct floats: WM + WN of
//          them per step of k, for WM x WN FMAs. A square is best: 64 floats, not 136.
// Changes  vs conflict_free: which elements a thread has (WarpTile); loads and tiles are the same.
// FLOP/B   Global: 32. Shared: 2 WM WN FLOP per 4 (WM + WN) distinct bytes = 8; conflict_free: 3.8.
//          But not fewer wavefronts: 16-byte reads take two at least, whatever lanes share. So it
//          is no faster yet than conflict_free: both wait for instructions to issue, and have as
//          many.
// Shape    512 threads, 16 warps as 4 x 4, 16.5 KiB smem, 2 __syncthreads per tile; 2 blocks per
//          SM.
// Trap     Lanes in plain 8 x 4 order have no pairs i, i ^ 1 or i, i ^ 2 that share B: its reads
//          take four wavefronts.
// Next     All threads wait for the loads of a tile, then for each other, then multiply: the FMA
//          units idle meanwhile.
constexpr int WARP_TILES_BM = 128;  // tunable: 64, 128
constexpr int WARP_TILES_BN = 128;  // tunable: 64, 128
constexpr int WARP_TILES_BK = 16;   // tunable: 16, 32
constexpr int WARP_TILES_WM = 32;   // tunable: 32, 64
constexpr int WARP_TILES_WN = 32;   // tunable: 16, 32, 64
using WarpTilesTile = WarpTile<WARP_TILES_BM, WARP_TILES_BN, WARP_TILES_WM, WARP_TILES_WN>;
constexpr int WARP_TILES_NUM_THREADS = WarpTilesTile::NUM_THREADS;

__global__ __launch_bounds__(WARP_TILES_NUM_THREADS, 2) void matmul_warp_tiles_kernel(
    const __grid_constant__ Matmul<float> p) {
  constexpr int BM = WARP_TILES_BM, BN = WARP_TILES_BN, BK = WARP_TILES_BK, PAD = 4;
  constexpr int NUM_THREADS = WARP_TILES_NUM_THREADS;
  __shared__ alignas(16) float A_smem[BK][BM + PAD];
  __shared__ alignas(16) float B_smem[BK][BN + PAD];

  const auto A = p.A.of_batch(blockIdx.z);
  const auto B = p.B.of_batch(blockIdx.z);
  const int row0 = blockIdx.y * BM;
  const int col0 = blockIdx.x * BN;

  WarpTilesTile tile;
  for (int k0 = 0; k0 < p.K; k0 += BK) {
    load_tile_4<NUM_THREADS, BM>(A_smem, A, row0, k0, p.M, p.K);
    load_tile_4<NUM_THREADS, BN>(B_smem, B.transposed(), col0, k0, p.N, p.K);
    __syncthreads();  // both tiles are complete

#pragma unroll
    for (int k = 0; k < BK; ++k) tile.multiply(A_smem[k], B_smem[k]);
    __syncthreads();  // no warp still reads the tiles that the next trip overwrites
  }
  write_tile(p, tile, row0, col0);
}

void matmul_warp_tiles(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, WARP_TILES_BM, [&](const Matmul<float>& s) {
    const dim3 grid(ceil_div(s.N, WARP_TILES_BN), ceil_div(s.M, WARP_TILES_BM), s.batch);
    matmul_warp_tiles_kernel<<<grid, WARP_TILES_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_warp_tiles_kernel);
  });
}

// ------------------------------------------------------------------------------------------------
// async: tiles are copied while others are multiplied (fp32; cp.async needs sm_80)
// Idea     cp.async copies from global to shared memory without a register, and without a thread
//          that waits. A ring of STAGES pairs of tiles: one is multiplied, the others are on their
//          way.
//
//          trip t        stage 0      stage 1      stage 2
//             0          multiply     arriving     start
//             1          start        multiply     arriving
//             2          arriving     start        multiply
//
// Changes  vs warp_tiles: AsyncCopies for load_tile_4, a ring for the one pair of tiles. As copies
//          hide their latency themselves, 8 warps of 64 x 64 suffice, and each thread has 16 x 8
//          elements.
// FLOP/B   Global: 2 BM BN / (4 (BM + BN)) = 43; warp_tiles: 32. Shared: 2.67 FLOP per byte read, 16
//          per distinct byte; warp_tiles: 1.33 and 8.
// Shape    256 threads, 12.25 KiB smem per stage: 36.75; 1 __syncthreads per tile; 1 block per SM,
//          as 128 sums per thread leave room for no other.
// Trap     One barrier serves two purposes: this trip's copies of *all* threads have arrived (each
//          has waited for its own), and nobody still multiplies the stage that is filled next,
//          which is that of the trip before. So the copies start after it. A, along k, is
//          transposed on the way: 4 bytes per copy. Only B goes by 16.
// Next     It is limited by the instructions that warps issue, and 88% of those are FMAs. But where
//          C has few tiles, most SMs have none: split_k.
constexpr int ASYNC_BM = 128;    // tunable: 64, 128
constexpr int ASYNC_BN = 256;    // tunable: 64, 128, 256
constexpr int ASYNC_BK = 8;      // tunable: 8, 16
constexpr int ASYNC_WM = 64;     // tunable: 32, 64
constexpr int ASYNC_WN = 64;     // tunable: 16, 32, 64
constexpr int ASYNC_STAGES = 3;  // tunable: 2, 3, 4
using AsyncTile = WarpTile<ASYNC_BM, ASYNC_BN, ASYNC_WM, ASYNC_WN>;
constexpr int ASYNC_NUM_THREADS = AsyncTile::NUM_THREADS;
// Blocks per SM that its registers have room for: more than 64 sums per thread leave it for one.
constexpr int ASYNC_MIN_BLOCKS = ASYNC_WM * ASYNC_WN / 32 > 64 ? 1 : 2;

template <bool A_WIDE, bool B_WIDE>
__global__ __launch_bounds__(ASYNC_NUM_THREADS, ASYNC_MIN_BLOCKS) void matmul_async_kernel(
    const __grid_constant__ Matmul<float> p) {
  if constexpr (SINCE_SM_80) {
    const int row0 = blockIdx.y * ASYNC_BM, col0 = blockIdx.x * ASYNC_BN;
    AsyncTile tile;
    multiply_async<AsyncTile, ASYNC_BK, ASYNC_STAGES, A_WIDE, B_WIDE>(
        tile, p.A.of_batch(blockIdx.z), p.B.of_batch(blockIdx.z), p, row0, col0, 0, p.K);
    write_tile(p, tile, row0, col0);
  }
}

void matmul_async(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, ASYNC_BM, [&](const Matmul<float>& s) {
    const dim3 grid(ceil_div(s.N, ASYNC_BN), ceil_div(s.M, ASYNC_BM), s.batch);
    with_widths(s, [&](auto a_wide, auto b_wide) {
      const auto kernel = matmul_async_kernel<a_wide.value, b_wide.value>;
      kernel<<<grid, ASYNC_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(matmul_async_kernel);
    });
  });
}
