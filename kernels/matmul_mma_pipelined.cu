// matmul_mma_pipelined.cu: tensor cores that do not wait for memory (fp16, bf16, tf32). The contract
// is in matmul.cu; tiles, fragments and the way to C are in matmul_mma*.cuh.
//
// Rungs
//   mma_pipelined  tiles arrive by cp.async while others are multiplied
#include "matmul_mma_ring.cuh"

// ------------------------------------------------------------------------------------------------
// mma_pipelined: STAGES pairs of tiles, on their way while one is multiplied
// Idea     As async: cp.async copies without registers and without waiting, and the next STAGES - 1
//          trips are under way while this one is multiplied.
// Changes  vs mma_swizzled: the Ring, one barrier per trip instead of two.
// FLOP/B   As mma_swizzled.
// Shape    256 threads, 16 KiB smem per stage: 64; 1 __syncthreads per tile; 2 blocks
//          per SM.
// Trap     More than 48 KiB of shared memory must be dynamic, and asked for by
//          cudaFuncSetAttribute: without it the launch fails. And cp.async writes 0 where the matrix
//          ends only if it is told how many bytes there are.
// Next     A warp reads its fragments, waits for them, multiplies, reads the next: its tensor core
//          has nothing to do meanwhile, unless another warp has.
constexpr int MMA_PIPELINED_BM = 128;    // tunable: 64, 128
constexpr int MMA_PIPELINED_BN = 128;    // tunable: 64, 128
constexpr int MMA_PIPELINED_BK = 64;     // bytes. tunable: 32, 64, 128
constexpr int MMA_PIPELINED_WM = 64;     // tunable: 32, 64
constexpr int MMA_PIPELINED_WN = 32;     // tunable: 32, 64
constexpr int MMA_PIPELINED_STAGES = 4;  // tunable: 2, 3, 4

constexpr int MMA_PIPELINED_NUM_THREADS =
    MMA_PIPELINED_BM / MMA_PIPELINED_WM * (MMA_PIPELINED_BN / MMA_PIPELINED_WN) * 32;

template <class T, Along A_ALONG, Along B_ALONG>
struct MmaPipelined {
  using ATile = Tile<T, A_ALONG, MMA_PIPELINED_BM, MMA_PIPELINED_BK, Banks::swizzled>;
  using BTile = Tile<T, B_ALONG, MMA_PIPELINED_BN, MMA_PIPELINED_BK, Banks::swizzled>;
  using Tiles = Ring<ATile, BTile, MMA_PIPELINED_STAGES, MMA_PIPELINED_NUM_THREADS>;
  using Warp = WarpMma<ATile, BTile, MMA_PIPELINED_WM, MMA_PIPELINED_WN>;
  static constexpr int SMEM_BYTES = larger(Tiles::BYTES, Warp::STAGING_BYTES);
};

template <class T, Along A_ALONG, Along B_ALONG>
__global__ __launch_bounds__(MMA_PIPELINED_NUM_THREADS, 2) void matmul_mma_pipelined_kernel(
    const __grid_constant__ Matmul<T> p) {
  if constexpr (SINCE_SM_80) {
    using Types = MmaPipelined<T, A_ALONG, B_ALONG>;
    extern __shared__ __align__(128) char smem[];
    const int row0 = blockIdx.y * MMA_PIPELINED_BM, col0 = blockIdx.x * MMA_PIPELINED_BN;
    typename Types::Tiles ring(smem, p, blockIdx.z, row0, col0, 0, p.K);

    typename Types::Warp warp;
    for (; ring.left > 0; ring.turn()) {
      ring.wait();
      ring.start();
      warp.multiply(ring.A(), ring.B());
    }
    __syncthreads();  // no warp still reads the tiles that the sums overwrite
    write_tile(p, warp, smem, row0, col0);
  }
}

template <class T>
static void launch_mma_pipelined(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<T>(p, MMA_PIPELINED_BM, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, MMA_PIPELINED_BN), ceil_div(s.M, MMA_PIPELINED_BM), s.batch);
    with_alongs(s, [&](auto a, auto b) {
      const auto kernel = matmul_mma_pipelined_kernel<T, a.value, b.value>;
      constexpr int BYTES = MmaPipelined<T, a.value, b.value>::SMEM_BYTES;
      allow_shared_memory(kernel, BYTES);
      kernel<<<grid, MMA_PIPELINED_NUM_THREADS, BYTES, stream>>>(s);
      CUDA_CHECK_LAUNCH(matmul_mma_pipelined_kernel);
    });
  });
}

void matmul_mma_pipelined(const MatmulProblem& p, cudaStream_t stream) {
  with_tensor_type(p, [&](auto type) { launch_mma_pipelined<decltype(type)>(p, stream); });
}
