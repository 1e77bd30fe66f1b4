// matmul_split_k.cu: a grid that fills the GPU, whatever C's shape; fp32. The contract is in
// matmul.cu, the tile in matmul_warp_tiles.cuh, the choice in matmul_split_k.cuh.
//
// Rungs
//   split_k  several blocks share an element of C, each with its part of k
#include "matmul_split_k.cuh"
#include "matmul_warp_tiles.cuh"

// ------------------------------------------------------------------------------------------------
// split_k: several blocks share an element of C (fp32)
// Idea     A C of 16 x 4096 elements has 16 tiles of 128 x 256, for 132 SMs. Smaller tiles are more,
//          and a tile's sum over k can be that of several blocks, which leave their parts in a
//          workspace; a second kernel adds these up.
// Changes  vs async: two tile shapes, and the number of parts, chosen by shape before the launch. A
//          large C is computed as by async.
// FLOP/B   128 x 256: as async. 32 x 64: global 2 BM BN / (4 (BM + BN)) = 10.7.
// Shape    256 threads, 36.75 KiB smem, 1 block per SM; or 128 threads, 19.5 KiB, 6 blocks per SM.
// Trap     Atomic adds into C would need no second kernel, but the order of the parts would be that
//          in which blocks finish: results would differ in the last bits from run to run.
// Next     The CUDA cores have no more to give. Hopper's tensor cores do 16 times as many FMAs of
//          2-byte types, 8 times as many of tf32: wmma.
constexpr int SPLIT_K_BK = 8;         // of 128 x 256. tunable: 8, 16
constexpr int SPLIT_K_SMALL_BM = 32;  // tunable: 32, 64
constexpr int SPLIT_K_SMALL_BN = 64;  // tunable: 64, 128
constexpr int SPLIT_K_SMALL_BK = 16;  // tunable: 8, 16, 32
constexpr int SPLIT_K_STAGES = 3;     // tunable: 2, 3, 4

using SplitKTile = WarpTile<128, 256, 64, 64>;
using SplitKSmallTile = WarpTile<SPLIT_K_SMALL_BM, SPLIT_K_SMALL_BN, 32, 16>;

// Blocks along z: the parts of the first matrix, those of the second, ...
template <class Tile, int BK, int MIN_BLOCKS, bool A_WIDE, bool B_WIDE>
__global__ __launch_bounds__(Tile::NUM_THREADS, MIN_BLOCKS) void matmul_split_k_kernel(
    const __grid_constant__ Matmul<float> p, int parts) {
  if constexpr (SINCE_SM_80) {
    const int row0 = blockIdx.y * Tile::BM, col0 = blockIdx.x * Tile::BN;
    const int batch = blockIdx.z / parts, part = blockIdx.z % parts;
    const int steps = steps_per_part(p.K, parts, BK);
    const int begin = min(p.K, part * steps), end = min(p.K, begin + steps);
    Tile tile;
    multiply_async<Tile, BK, SPLIT_K_STAGES, A_WIDE, B_WIDE>(
        tile, p.A.of_batch(batch), p.B.of_batch(batch), p, row0, col0, begin, end);
    write_tile(p, tile, row0, col0);
  }
}

template <class Tile, int BK, int MIN_BLOCKS>
static void launch_split_k(const Matmul<float>& p, int parts, cudaStream_t stream) {
  const dim3 grid(ceil_div(p.N, Tile::BN), ceil_div(p.M, Tile::BM), p.batch * parts);
  with_widths(p, [&](auto a_wide, auto b_wide) {
    const auto kernel = matmul_split_k_kernel<Tile, BK, MIN_BLOCKS, a_wide.value, b_wide.value>;
    kernel<<<grid, Tile::NUM_THREADS, 0, stream>>>(p, parts);
    CUDA_CHECK_LAUNCH(matmul_split_k_kernel);
  });
}

void matmul_split_k(const MatmulProblem& p, cudaStream_t stream) {
  static constexpr TileShape SHAPES[] = {
      {.BM = SplitKTile::BM, .BN = SplitKTile::BN, .BK = SPLIT_K_BK, .per_sm = 1, .trip = 1.2},
      {.BM = SplitKSmallTile::BM,
       .BN = SplitKSmallTile::BN,
       .BK = SPLIT_K_SMALL_BK,
       .per_sm = 6,
       .trip = 0.27},
  };
  for_each_slice<float>(p, SPLIT_K_SMALL_BM, [&](const Matmul<float>& s) {
    const Split split = choose_split(s, SHAPES);
    in_parts(p, s, split.parts, stream, [&](const Matmul<float>& part, int parts) {
      if (split.shape == 0) return launch_split_k<SplitKTile, SPLIT_K_BK, 1>(part, parts, stream);
      launch_split_k<SplitKSmallTile, SPLIT_K_SMALL_BK, 6>(part, parts, stream);
    });
  });
}
