// matmul_mma_tuned.cu: tensor cores that wait neither for memory nor for fragments (fp16, bf16,
// tf32). The contract is in matmul.cu; tiles, fragments and the way to C are in matmul_mma*.cuh.
//
// Rungs
//   mma_tuned  fragments too are read while others are multiplied; tiles by C's shape, in an order
//              that reuses L2
#include "matmul_mma_ring.cuh"
#include "matmul_split_k.cuh"

// ------------------------------------------------------------------------------------------------
// mma_tuned: fragments are read ahead, and no SM waits for another
// Idea     Two sets of fragments: a warp reads the next step's while it multiplies this one's. Warp
//          tiles of 64 x 64 read a third less of shared memory for each FLOP than 64 x 32.
// Changes  vs mma_pipelined: 128 x 256 tiles, fragments one step ahead (multiply_ahead), blocks in
//          groups of GROUP rows. For a C of few tiles, smaller ones, and parts of k, as split_k.
// FLOP/B   2-byte types. Global: 2 BM BN / (2 (BM + BN)) = 85; mma_pipelined: 64. Shared: 32; 21.
//          64 x 128 tiles: 43 and 16.
// Shape    256 threads, 24 KiB smem per stage: 96; 1 __syncthreads per tile; 1 block per SM: 128
//          registers of sums and 64 of fragments per thread. Small tiles: 256 threads, 48 KiB, 4
//          blocks per SM.
// Trap     The last step of a trip already reads the next trip's tiles: the wait for them comes
//          before it, not at the trip's end.
//          In the order of the grid, blocks walk along a row of tiles of C. If the row is long, those
//          that run at one time need one tile of A and most of B; in groups of rows, a few of both.
// Next     On Hopper mma.sync itself tops out at about 63% of what wgmma reaches, which reads whole
//          tiles from shared memory.
constexpr int MMA_TUNED_BM = 128;          // tunable: 64, 128, 256
constexpr int MMA_TUNED_BN = 256;          // tunable: 64, 128, 256
constexpr int MMA_TUNED_BK = 64;           // bytes. tunable: 64, 128
constexpr int MMA_TUNED_WM = 64;           // tunable: 32, 64
constexpr int MMA_TUNED_WN = 64;           // tunable: 32, 64
constexpr int MMA_TUNED_STAGES = 4;        // tunable: 2, 3, 4
constexpr int MMA_TUNED_GROUP = 8;         // rows of blocks. tunable: 1, 4, 8, 16
constexpr int MMA_TUNED_SMALL_BM = 64;     // tunable: 32, 64
constexpr int MMA_TUNED_SMALL_BN = 128;    // tunable: 64, 128
constexpr int MMA_TUNED_SMALL_STAGES = 4;  // tunable: 2, 3, 4

template <class T, Along A_ALONG, Along B_ALONG, int BM, int BN, int WM, int WN, int STAGES>
struct MmaTuned {
  using ATile = Tile<T, A_ALONG, BM, MMA_TUNED_BK, Banks::swizzled>;
  using BTile = Tile<T, B_ALONG, BN, MMA_TUNED_BK, Banks::swizzled>;
  using Warp = WarpMma<ATile, BTile, WM, WN>;
  using Tiles = Ring<ATile, BTile, STAGES, Warp::NUM_THREADS>;
  static constexpr int SMEM_BYTES = larger(Tiles::BYTES, Warp::STAGING_BYTES);
};

template <class T, Along A, Along B>
using MmaTunedLarge =
    MmaTuned<T, A, B, MMA_TUNED_BM, MMA_TUNED_BN, MMA_TUNED_WM, MMA_TUNED_WN, MMA_TUNED_STAGES>;
template <class T, Along A, Along B>
using MmaTunedSmall =
    MmaTuned<T, A, B, MMA_TUNED_SMALL_BM, MMA_TUNED_SMALL_BN, 32, 32, MMA_TUNED_SMALL_STAGES>;

struct BlockPlace {
  int row, col;
};

// The place of this block's tile among those of C: down GROUP rows, then the next column, so that
// blocks that run at one time share tiles of both A and B.
template <int GROUP>
__device__ BlockPlace grouped_place() {
  const int rows = gridDim.y, cols = gridDim.x;
  const int index = blockIdx.y * cols + blockIdx.x;  // in the order in which blocks start
  const int group = index / (GROUP * cols), within = index % (GROUP * cols);
  const int height = min(GROUP, rows - group * GROUP);
  return {group * GROUP + within % height, within / height};
}

// Blocks along z: the parts of the first matrix, those of the second, ...
template <class T, class Types>
__global__ __launch_bounds__(Types::Warp::NUM_THREADS) void matmul_mma_tuned_kernel(
    const __grid_constant__ Matmul<T> p, int parts) {
  if constexpr (SINCE_SM_80) {
    using Warp = typename Types::Warp;
    extern __shared__ __align__(128) char smem[];
    const BlockPlace place = grouped_place<MMA_TUNED_GROUP>();
    const int row0 = place.row * Warp::BM, col0 = place.col * Warp::BN;
    const int batch = blockIdx.z / parts, part = blockIdx.z % parts;
    const int steps = steps_per_part(p.K, parts, Types::ATile::K);
    const int begin = min(p.K, part * steps), end = min(p.K, begin + steps);

    typename Types::Tiles ring(smem, p, batch, row0, col0, begin, end);
    Warp warp;
    multiply_ahead(warp, ring);
    write_tile(p, warp, smem, row0, col0);
  }
}

template <class T, class Types>
static void launch_mma_tuned(const Matmul<T>& p, int parts, cudaStream_t stream) {
  using Warp = typename Types::Warp;
  const dim3 grid(ceil_div(p.N, Warp::BN), ceil_div(p.M, Warp::BM), p.batch * parts);
  const auto kernel = matmul_mma_tuned_kernel<T, Types>;
  allow_shared_memory(kernel, Types::SMEM_BYTES);
  kernel<<<grid, Warp::NUM_THREADS, Types::SMEM_BYTES, stream>>>(p, parts);
  CUDA_CHECK_LAUNCH(matmul_mma_tuned_kernel);
}

template <class T>
static void launch_mma_tuned(const MatmulProblem& p, cudaStream_t stream) {
  constexpr int BK = MMA_TUNED_BK / sizeof(T);
  static constexpr TileShape SHAPES[] = {
      {.BM = MMA_TUNED_BM, .BN = MMA_TUNED_BN, .BK = BK, .per_sm = 1, .trip = 0.5},
      {.BM = MMA_TUNED_SMALL_BM, .BN = MMA_TUNED_SMALL_BN, .BK = BK, .per_sm = 4, .trip = 0.25},
  };
  for_each_slice<T>(p, MMA_TUNED_SMALL_BM, [&](const Matmul<T>& s) {
    const Split split = choose_split(s, SHAPES);
    with_alongs(s, [&](auto a, auto b) {
      in_parts(p, s, split.parts, stream, [&](const Matmul<T>& part, int parts) {
        using Large = MmaTunedLarge<T, a.value, b.value>;
        using Small = MmaTunedSmall<T, a.value, b.value>;
        if (split.shape == 0) return launch_mma_tuned<T, Large>(part, parts, stream);
        launch_mma_tuned<T, Small>(part, parts, stream);
      });
    });
  });
}

void matmul_mma_tuned(const MatmulProblem& p, cudaStream_t stream) {
  with_tensor_type(p, [&](auto type) { launch_mma_tuned<decltype(type)>(p, stream); });
}
