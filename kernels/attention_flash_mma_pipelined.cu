// attention_flash_mma_pipelined.cu: attention on tensor cores that do not wait for memory (fp16, bf16).
// The contract is in attention.cu; tiles, fragments and masks as bands are in attention_mma.cuh and
// mma_tiles.cuh.
//
// Rungs
//   flash_mma_pipelined  K and V in stages, on their way while others are multiplied; swizzled
#include "attention_mma.cuh"

// ------------------------------------------------------------------------------------------------
// flash_mma_pipelined: the next tiles arrive during a whole trip (fp16, bf16)
// Idea     Two stages, each with a tile of K and one of V: while one is multiplied the other is filled,
//          for a whole trip. One barrier per trip is enough: what it makes free is filled right after
//          it.
// Changes  vs flash_mma: stages; swizzled tiles in place of padded ones, so that both fit.
// FLOP/B   As flash_mma.
// Shape    128 threads; D = 256: 256. 48 / 96 / 192 KiB smem for D = 64 / 128 / 256; 1
//          __syncthreads per tile; 2 blocks per SM, D = 256: 1.
// Trap     The copy into a stage starts after the barrier of the next trip: before it, a slow warp
//          may still read what it overwrites.
// Declines GPUs whose shared memory does not hold as many blocks: an A100 for D above 64.
// Next     A warp waits for its own softmax before it multiplies again; and on Hopper mma.sync is the
//          slower of two ways to reach the tensor cores: wgmma reads whole tiles from shared memory.
constexpr int FLASH_MMA_PIPELINED_BM = 128;  // tunable: 64, 128
constexpr int FLASH_MMA_PIPELINED_BN = 64;   // tunable: 32, 64

template <class T, int D>
using PipelinedShape = MmaShape<T, D, FLASH_MMA_PIPELINED_BM, FLASH_MMA_PIPELINED_BN,
                                D == 256 ? 16 : 32, Banks::swizzled>;

template <class Shape>
struct Stage {
  char K_smem[Shape::KTile::BYTES];
  char V_smem[Shape::VTile::BYTES];
};

template <class Shape>
__global__ __launch_bounds__(Shape::NUM_THREADS) void attention_flash_mma_pipelined_kernel(
    const __grid_constant__ Attention<typename Shape::T> p, const int* sequence_of) {
  if constexpr (SINCE_SM_80) {
    using KTile = typename Shape::KTile;
    using VTile = typename Shape::VTile;
    constexpr int NUM_THREADS = Shape::NUM_THREADS;
    extern __shared__ __align__(128) char smem[];
    char* Q_smem = smem;
    auto* stages = reinterpret_cast<Stage<Shape>*>(Q_smem + Shape::QTile::BYTES);

    const BlockWork<Shape> work(p, sequence_of);
    if (work.is_empty()) return;
    const Scale scale(p.scale);
    WarpAttention<Shape> warp;
    // Starts to fill a stage with the tiles of keys from k0 on.
    const auto fill = [&](Stage<Shape>& stage, int k0) {
      start_copy<KTile, NUM_THREADS>(stage.K_smem, work.K, k0, work.aligned);
      start_copy<VTile, NUM_THREADS>(stage.V_smem, work.V, k0, work.aligned);
    };

    int k0 = work.first(), next = work.next(k0), turn = 0;
    start_copy<typename Shape::QTile, NUM_THREADS>(Q_smem, work.Q, work.q0, work.Q.aligned());
    if (k0 < work.end) fill(stages[0], k0);
    cp_async_commit();
    while (k0 < work.end) {
      const Stage<Shape>& stage = stages[turn];
      turn ^= 1;
      cp_async_wait<0>();
      __syncthreads();  // this trip's tiles are complete, and no warp still reads those before
      if (next < work.end) fill(stages[turn], next);
      cp_async_commit();
      warp.multiply_q_k(Q_smem, stage.K_smem);
      scale.apply(warp);
      if (work.masks(k0)) work.mask(warp, k0);
      warp.softmax(scale.slope);
      warp.multiply_p_v(stage.V_smem);
      k0 = next;
      next = work.next(k0);
    }
    cp_async_wait<0>();
    __syncthreads();  // Q is complete, even if there was no tile: O takes its place
    warp.write(p, work.tile, scale.slope, Q_smem);
  }
}

template <class Shape>
constexpr int PIPELINED_BYTES = Shape::QTile::BYTES + 2 * sizeof(Stage<Shape>);

template <class Shape>
static void launch_flash_mma_pipelined(const AttentionProblem& p, cudaStream_t stream) {
  launch_blocks<Shape>(p, "flash_mma_pipelined", attention_flash_mma_pipelined_kernel<Shape>,
                       PIPELINED_BYTES<Shape>, stream);
}

// Calls run with a value of the Shape for the problem's type and head dimensions.
template <class Run>
static void with_pipelined_shape(const AttentionProblem& p, Run run) {
  with_16_bit_type(p, [&](auto type) {
    using T = decltype(type);
    if (larger_D(p) <= 64) return run(PipelinedShape<T, 64>());
    if (larger_D(p) <= 128) return run(PipelinedShape<T, 128>());
    run(PipelinedShape<T, 256>());
  });
}

const char* attention_flash_mma_pipelined_declines(const AttentionProblem& p) {
  if (const char* why = declines_long_rows(p)) return why;
  int needed = 0;
  with_pipelined_shape(p, [&](auto shape) {
    using Shape = decltype(shape);
    needed = PIPELINED_BYTES<Shape> * (Shape::D == 256 ? 1 : 2);
  });
  const int most = most_shared_memory();
  if (needed <= most) return nullptr;
  return reason("an SM's blocks need %d bytes of shared memory, this GPU has %d: flash_mma", needed,
                most);
}

void attention_flash_mma_pipelined(const AttentionProblem& p, cudaStream_t stream) {
  with_pipelined_shape(p,
                       [&](auto shape) { launch_flash_mma_pipelined<decltype(shape)>(p, stream); });
}
