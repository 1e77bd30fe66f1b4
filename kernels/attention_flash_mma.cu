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
//          32 rows of 256 columns would fill all registers. 34 / 68 / 132 KiB smem for D = 64 / 128 /
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
    using T = typename Shape::T;
    constexpr int BM = Shape::BM, BN = Shape::BN, NUM_THREADS = Shape::NUM_THREADS;
    using KTile = typename Shape::KTile;
    using VTile = typename Shape::VTile;
    extern __shared__ __align__(128) char smem[];
    char* Q_smem = smem;
    char* K_smem = Q_smem + Shape::QTile::BYTES;
    char* V_smem = K_smem + KTile::BYTES;

    // Prologue. The last queries come first: with a causal mask they have most to do.
    const int64_t heads = p.heads();
    const int tiles = gridDim.x / heads;
    const int index = tiles - 1 - static_cast<int>(blockIdx.x / heads);
    const QueryTile<T> tile = query_tile<BM>(p, blockIdx.x % heads, index, sequence_of);
    if (tile.q0 >= tile.Nq) return;
    const int q0 = tile.q0, q1 = min(q0 + BM, tile.Nq);
    const Band band(p.rule, tile.Nq, tile.Nk);
    const Scale scale(p.scale);
    const Rows<T> Q = {tile.head.Q, p.q.row, tile.Nq, p.D};
    const Rows<T> K = {tile.head.K, p.k.row, tile.Nk, p.D};
    const Rows<T> V = {tile.head.V, p.v.row, tile.Nk, p.Dv};
    const bool K_aligned = K.aligned(), V_aligned = V.aligned();
    const int end = band.end_of_keys(q1, tile.Nk);
    // The first tile from k0 on with a visible pair.
    const auto next_tile = [&](int k0) {
      while (k0 < end && !band.sees_any(q0, q1, k0, min(k0 + BN, tile.Nk))) k0 += BN;
      return k0;
    };

    WarpAttention<Shape> warp;
    int k0 = next_tile(band.first_key(q0) / BN * BN);
    start_copy<typename Shape::QTile, NUM_THREADS>(Q_smem, Q, q0, Q.aligned());
    if (k0 < end) start_copy<KTile, NUM_THREADS>(K_smem, K, k0, K_aligned);
    cp_async_commit();

    // Mainloop, a tile of keys per trip: S = Q K^T while V arrives; O += P V while the next K does.
    while (k0 < end) {
      cp_async_wait<0>();
      __syncthreads();  // Q and K are complete, and no warp still reads V
      start_copy<VTile, NUM_THREADS>(V_smem, V, k0, V_aligned);
      cp_async_commit();
      warp.multiply_q_k(Q_smem, K_smem);
      cp_async_wait<0>();
      __syncthreads();  // V is complete, and no warp still reads K
      const int next = next_tile(k0 + BN);
      if (next < end) start_copy<KTile, NUM_THREADS>(K_smem, K, next, K_aligned);
      cp_async_commit();

      scale.apply(warp);
      const int k1 = k0 + BN;
      if (k1 > tile.Nk || !band.sees_all(q0, q1, k0, k1)) warp.mask(band, q0, k0, tile.Nk);
      warp.softmax(scale.slope);
      warp.multiply_p_v(V_smem);
      k0 = next;
    }
    cp_async_wait<0>();  // a block that ends has none in flight
    warp.write(p, tile, scale.slope);
  }
}

template <class Shape>
static void launch_flash_mma(const AttentionProblem& problem, cudaStream_t stream) {
  using T = typename Shape::T;
  const Attention<T> p = lowered<T>(problem);
  if (p.heads() == 0 || p.Nq == 0) return;
  const QueryTiles tiles = query_tiles<Shape::BM>(problem, p, stream);
  const int64_t blocks = p.heads() * tiles.count;
  if (blocks > MAX_GRID_X) throw LaunchError("attention flash_mma: it needs more than 2^31 blocks");
  constexpr int SMEM_BYTES = Shape::QTile::BYTES + Shape::KTile::BYTES + Shape::VTile::BYTES;
  const auto kernel = attention_flash_mma_kernel<Shape>;
  allow_shared_memory(kernel, SMEM_BYTES);
  kernel<<<static_cast<unsigned>(blocks), Shape::NUM_THREADS, SMEM_BYTES, stream>>>(
      p, tiles.sequence_of);
  CUDA_CHECK_LAUNCH(attention_flash_mma_kernel);
}

const char* attention_flash_mma_declines(const AttentionProblem& p) {
  const int64_t D = max(p.Q.size[3], p.V.size[3]);
  if (D <= 256) return nullptr;
  return reason("its tiles are made for head dimensions up to 256; got %d", static_cast<int>(D));
}

void attention_flash_mma(const AttentionProblem& p, cudaStream_t stream) {
  const int64_t D = max(p.Q.size[3], p.V.size[3]);
  with_16_bit_type(p, [&](auto type) {
    using T = decltype(type);
    if (D <= 64) return launch_flash_mma<FlashMmaShape<T, 64>>(p, stream);
    if (D <= 128) return launch_flash_mma<FlashMmaShape<T, 128>>(p, stream);
    launch_flash_mma<FlashMmaShape<T, 256>>(p, stream);
  });
}
