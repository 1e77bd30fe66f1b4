// attention_flash_mma.cu: attention on tensor cores (fp16, bf16). The contract is in attention.cu;
// tiles, fragments and masks as bands are in attention_mma.cuh and mma_tiles.cuh.
//
// Rungs
//   flash_mma  both products by mma.sync; S, P and O stay in a warp's registers
#include "attention_mma.cuh"

// ------------------------------------------------------------------------------------------------
// flash_mma: FlashAttention-2 on tensor cores (fp16, bf16)
// Idea     A warp owns WARP_ROWS whole rows of S and O, in the fragments of mma.sync. What an mma
//          leaves in a lane's registers of S is what the next mma takes of P: so P is only rounded to
//          16 bits, and goes nowhere.
// Changes  vs flash_registers: mma.sync for FMAs, ldmatrix for loads; cp.async copies K while the block
//          is busy with P V, and V while it is with Q K^T.
// FLOP/B   Global: 4 BM BN D FLOP per 4 BN D bytes = BM = 128. Shared, D = 128: 4 * 32 * BN * D FLOP
//          per warp and 4 BN D bytes of K and V and 64 D of Q: 26.
// Shape    128 threads; 4 warps x 32 rows x 64 keys; D = 256: 256 threads, 8 warps x 16 rows, since
//          32 rows of 256 columns would fill all registers. 36 / 68 / 132 KiB smem for D = 64 / 128 /
//          256; 2 __syncthreads per tile.
// Trap     exp2(slope s - slope m) in one FMA takes the maximum of the products, before they are
//          scaled: for a negative scale their signs are flipped first.
//          A row of S is spread over four lanes, so its maximum takes two shuffles per tile.
// Next     A block waits for each tile that it asked for one product ago, and padding costs shared
//          memory.
constexpr int FLASH_MMA_BM = 128;   // tunable: 64, 128
constexpr int FLASH_MMA_BN = 64;    // tunable: 32, 64
constexpr int FLASH_MMA_ROWS = 32;  // of a warp. tunable: 16, 32

template <class T, int D>
using FlashMmaShape =
    MmaShape<T, D, FLASH_MMA_BM, FLASH_MMA_BN, D == 256 ? 16 : FLASH_MMA_ROWS, Banks::padded>;

template <class Shape>
__global__ __launch_bounds__(Shape::NUM_THREADS) void attention_flash_mma_kernel(
    const __grid_constant__ Attention<typename Shape::T> p, const int* sequence_of) {
  if constexpr (SINCE_SM_80) {
    constexpr int NUM_THREADS = Shape::NUM_THREADS;
    using KTile = typename Shape::KTile;
    using VTile = typename Shape::VTile;
    extern __shared__ __align__(128) char smem[];
    char* Q_smem = smem;
    char* K_smem = Q_smem + Shape::QTile::BYTES;
    char* V_smem = K_smem + KTile::BYTES;

    const BlockWork<Shape> work(p, sequence_of);
    if (work.is_empty()) return;
    const Scale scale(p.scale);
    WarpAttention<Shape> warp;
    int k0 = work.first();
    start_copy<typename Shape::QTile, NUM_THREADS>(Q_smem, work.Q, work.q0, work.Q.aligned());
    if (k0 < work.end) start_copy<KTile, NUM_THREADS>(K_smem, work.K, k0, work.aligned);
    cp_async_commit();

    // A tile of keys per trip: S = Q K^T while V arrives; O += P V while the next K does.
    while (k0 < work.end) {
      cp_async_wait<0>();
      __syncthreads();  // Q and K are complete, and no warp still reads V
      start_copy<VTile, NUM_THREADS>(V_smem, work.V, k0, work.aligned);
      cp_async_commit();
      warp.multiply_q_k(Q_smem, K_smem);
      cp_async_wait<0>();
      __syncthreads();  // V is complete, and no warp still reads K
      const int next = work.next(k0);
      if (next < work.end) start_copy<KTile, NUM_THREADS>(K_smem, work.K, next, work.aligned);
      cp_async_commit();

      scale.apply(warp);
      if (work.masks(k0)) work.mask(warp, k0);
      warp.softmax(scale.slope);
      warp.multiply_p_v(V_smem);
      k0 = next;
    }
    cp_async_wait<0>();
    __syncthreads();  // Q is complete, even if there was no tile: O takes its place
    warp.write(p, work.tile, scale.slope, Q_smem);
  }
}

template <class Shape>
constexpr int FLASH_MMA_BYTES = Shape::QTile::BYTES + Shape::KTile::BYTES + Shape::VTile::BYTES;

template <class Shape>
static void launch_flash_mma(const AttentionProblem& p, cudaStream_t stream) {
  launch_blocks<Shape>(p, "flash_mma", attention_flash_mma_kernel<Shape>, FLASH_MMA_BYTES<Shape>,
                       stream);
}

// Calls run with a value of the Shape for the problem's type and head dimensions.
template <class Run>
static void with_flash_mma_shape(const AttentionProblem& p, Run run) {
  with_16_bit_type(p, [&](auto type) {
    using T = decltype(type);
    if (larger_D(p) <= 64) return run(FlashMmaShape<T, 64>());
    if (larger_D(p) <= 128) return run(FlashMmaShape<T, 128>());
    run(FlashMmaShape<T, 256>());
  });
}

const char* attention_flash_mma_declines(const AttentionProblem& p) {
  if (const char* why = declines_long_rows(p)) return why;
  int needed = 0;
  with_flash_mma_shape(p, [&](auto shape) { needed = FLASH_MMA_BYTES<decltype(shape)>; });
  return declines_shared_memory(needed);
}

void attention_flash_mma(const AttentionProblem& p, cudaStream_t stream) {
  with_flash_mma_shape(p, [&](auto shape) { launch_flash_mma<decltype(shape)>(p, stream); });
}
