// matmul_warp_tiles.cu: a tile per warp, and copies that need no thread to wait for them; fp32. The
// contract is in matmul.cu, the tile in matmul_warp_tiles.cuh.
//
// Rungs
//   warp_tiles  a warp covers a nearly square part of C
//   async       the next tiles are on their way while this one is multiplied
#include "matmul_warp_tiles.cuh"

// ------------------------------------------------------------------------------------------------
// warp_tiles: a warp covers 64 x 32 elements of C instead of 16 x 128 (fp32)
// Idea     Lanes of a warp share what they read in one access, so a warp pays for its distinct
//          floats: WM + WN of them per step of k, for WM x WN FMAs. A square is best.
// Changes  vs conflict_free: which elements a thread has (WarpTile); the loads and tiles are the same.
// FLOP/B   Global: 32. Shared: 2 WM WN FLOP per 4 (WM + WN) distinct bytes = 10.7;
//          conflict_free: 7.1.
// Shape    256 threads, 8 warps as 2 x 4, 8.25 KiB smem, 2 __syncthreads per tile.
// Trap     8 x 4 lanes, not 4 x 8: a warp's four rows of four in A are one wavefront of 128 bytes.
// Next     All threads wait for the loads of a tile, then for each other, then multiply: the FMA
//          units idle meanwhile.
constexpr int WARP_TILES_BM = 128;  // tunable: 64, 128
constexpr int WARP_TILES_BN = 128;  // tunable: 64, 128
constexpr int WARP_TILES_BK = 8;    // tunable: 8, 16
constexpr int WARP_TILES_WM = 64;   // tunable: 32, 64
constexpr int WARP_TILES_WN = 32;   // tunable: 16, 32, 64
using WarpTilesTile = WarpTile<WARP_TILES_BM, WARP_TILES_BN, WARP_TILES_WM, WARP_TILES_WN>;
constexpr int WARP_TILES_NUM_THREADS = WarpTilesTile::NUM_THREADS;

__global__ __launch_bounds__(WARP_TILES_NUM_THREADS) void matmul_warp_tiles_kernel(
    const Matmul<float> p) {
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
// Changes  vs warp_tiles: load_tile_async for load_tile_4, a ring for the one pair of tiles.
// FLOP/B   As warp_tiles.
// Shape    256 threads, 8.25 KiB smem per stage: 24.75; 1 __syncthreads per tile.
// Trap     One barrier does for two things: this trip's copies of *all* threads have arrived (each
//          has waited for its own), and nobody still multiplies the stage that is filled next, which
//          is that of the trip before. So the copies start after it.
//          A, along k, is transposed on the way: 4 bytes per copy. Only B goes by 16.
// Next     C of 128 x 128 elements is a single tile: one SM of 132 has work. split_k.
constexpr int ASYNC_BM = 128;    // tunable: 64, 128
constexpr int ASYNC_BN = 128;    // tunable: 64, 128
constexpr int ASYNC_BK = 8;      // tunable: 8, 16
constexpr int ASYNC_WM = 64;     // tunable: 32, 64
constexpr int ASYNC_WN = 32;     // tunable: 16, 32, 64
constexpr int ASYNC_STAGES = 3;  // tunable: 2, 3, 4
using AsyncTile = WarpTile<ASYNC_BM, ASYNC_BN, ASYNC_WM, ASYNC_WN>;
constexpr int ASYNC_NUM_THREADS = AsyncTile::NUM_THREADS;
static_assert(ASYNC_STAGES >= 2, "one stage is multiplied while another is filled");

__global__ __launch_bounds__(ASYNC_NUM_THREADS) void matmul_async_kernel(const Matmul<float> p) {
  constexpr int BM = ASYNC_BM, BN = ASYNC_BN, BK = ASYNC_BK, STAGES = ASYNC_STAGES, PAD = 4;
  constexpr int NUM_THREADS = ASYNC_NUM_THREADS;
  __shared__ alignas(16) float A_smem[STAGES][BK][BM + PAD];
  __shared__ alignas(16) float B_smem[STAGES][BK][BN + PAD];

  const auto A = p.A.of_batch(blockIdx.z);
  const auto B = p.B.of_batch(blockIdx.z);
  const int row0 = blockIdx.y * BM;
  const int col0 = blockIdx.x * BN;
  const int trips = ceil_div(p.K, BK);
  // Always commits: so the number of groups in flight says which have arrived.
  const auto start = [&](int trip) {
    const int stage = trip % STAGES;
    if (trip < trips) {
      load_tile_async<NUM_THREADS, BM>(A_smem[stage], A, row0, trip * BK, p.M, p.K);
      load_tile_async<NUM_THREADS, BN>(B_smem[stage], B.transposed(), col0, trip * BK, p.N, p.K);
    }
    cp_async_commit();
  };
  for (int trip = 0; trip < STAGES - 1; ++trip) start(trip);

  AsyncTile tile;
  for (int trip = 0; trip < trips; ++trip) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();  // this trip's tiles are complete; no warp still reads those of the last
    start(trip + STAGES - 1);

    const int stage = trip % STAGES;
#pragma unroll
    for (int k = 0; k < BK; ++k) tile.multiply(A_smem[stage][k], B_smem[stage][k]);
  }
  write_tile(p, tile, row0, col0);
}

void matmul_async(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<float>(p, ASYNC_BM, [&](const Matmul<float>& s) {
    const dim3 grid(ceil_div(s.N, ASYNC_BN), ceil_div(s.M, ASYNC_BM), s.batch);
    matmul_async_kernel<<<grid, ASYNC_NUM_THREADS, 0, stream>>>(s);
    CUDA_CHECK_LAUNCH(matmul_async_kernel);
  });
}
