// matmul_mma_pipelined.cu: tensor cores that do not wait for memory (fp16, bf16, tf32). The contract
// is in matmul.cu; tiles, fragments and the way to C are in matmul_mma.cuh.
//
// Rungs
//   mma_pipelined  tiles arrive by cp.async while others are multiplied
//   mma_tuned      fragments too are read while others are multiplied; larger tiles; blocks in an
//                  order that L2 likes
#include "matmul_mma.cuh"

// A ring of STAGES pairs of tiles in shared memory.
template <class ATile, class BTile, int STAGES, int NUM_THREADS>
class Ring {
  using T = typename ATile::Element;
  static constexpr int STAGE_BYTES = ATile::BYTES + BTile::BYTES;
  static_assert(STAGES >= 2, "one stage is multiplied while another is filled");

 public:
  static constexpr int BYTES = STAGES * STAGE_BYTES;

  __device__ Ring(char* smem, const Matmul<T>& p, int row0, int col0)
      : left(ceil_div(p.K, ATile::K)),
        smem_(smem),
        A_(p.A.of_batch(blockIdx.z), row0, p.M, p.K),
        B_(p.B.of_batch(blockIdx.z).transposed(), col0, p.N, p.K) {
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) fill(stage * STAGE_BYTES, stage < left);
  }

  int left;  // trips along k, this one included

  // This trip's tiles are complete, and no warp still reads those of the trip before.
  __device__ void wait() const {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
  }

  // Starts to fill the stage of the trip before.
  __device__ void start() {
    fill(stage_ == 0 ? BYTES - STAGE_BYTES : stage_ - STAGE_BYTES, left >= STAGES);
  }

  // Goes on to the next trip.
  __device__ void turn() {
    stage_ = stage_ == BYTES - STAGE_BYTES ? 0 : stage_ + STAGE_BYTES;
    --left;
  }

  // The tiles of this trip.
  __device__ const char* A() const { return smem_ + stage_; }
  __device__ const char* B() const { return smem_ + stage_ + ATile::BYTES; }

 private:
  // Always commits: so the number of groups in flight says which have arrived.
  __device__ void fill(int stage, bool exists) {
    if (exists) {
      A_.start(smem_ + stage);
      B_.start(smem_ + stage + ATile::BYTES);
    }
    cp_async_commit();
  }

  char* smem_;
  int stage_ = 0;  // of this trip, in bytes
  TileLoader<ATile, NUM_THREADS> A_;
  TileLoader<BTile, NUM_THREADS> B_;
};

// Lets a kernel have more shared memory than 48 KiB, the most without asking.
template <class Kernel>
static void allow_shared_memory(Kernel* kernel, int bytes) {
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

// ------------------------------------------------------------------------------------------------
// mma_pipelined: STAGES pairs of tiles, on their way while one is multiplied
// Idea     As async: cp.async copies without registers and without waiting, and the next STAGES - 1
//          trips are under way while this one is multiplied.
// Changes  vs mma_swizzled: the Ring, one barrier per trip instead of two.
// FLOP/B   As mma_swizzled.
// Shape    256 threads, 16 KiB smem per stage (2-byte types): 64; 1 __syncthreads per tile; 2 blocks
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
  using Types = MmaPipelined<T, A_ALONG, B_ALONG>;
  extern __shared__ __align__(128) char smem[];
  const int row0 = blockIdx.y * MMA_PIPELINED_BM, col0 = blockIdx.x * MMA_PIPELINED_BN;
  typename Types::Tiles ring(smem, p, row0, col0);

  typename Types::Warp warp;
  for (; ring.left > 0; ring.turn()) {
    ring.wait();
    ring.start();
    warp.multiply(ring.A(), ring.B());
  }
  __syncthreads();  // no warp still reads the tiles that the sums overwrite
  write_tile(p, warp, smem, row0, col0);
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

// ------------------------------------------------------------------------------------------------
// mma_tuned: no instruction waits for the one before
// Idea     Two sets of fragments: a warp reads the next step's while it multiplies this one's. Warp
//          tiles of 64 x 64 read a third less of shared memory for each FLOP than 64 x 32.
// Changes  vs mma_pipelined: 128 x 256 tiles, fragments one step ahead, a ring's turn within the
//          trip, blocks in groups of GROUP rows.
// FLOP/B   2-byte types. Global: 2 BM BN / (2 (BM + BN)) = 85; mma_pipelined: 64. Shared: 32; 21.
// Shape    256 threads, 24 KiB smem per stage (2-byte types): 96; 1 __syncthreads per tile; 1 block
//          per SM: 128 registers of sums and 64 of fragments per thread.
// Trap     The last step of a trip already reads the next trip's tiles: the wait for them comes
//          before it, not at the trip's end.
//          Blocks in the order of the grid walk along a row of C: the blocks that run at one time
//          need one tile of A and all of B. In groups of rows they need a few of both.
// Next     Hopper's tensor cores read both tiles from shared memory themselves (wgmma); fed by
//          registers they reach about two thirds of their speed.
constexpr int MMA_TUNED_BM = 128;    // tunable: 64, 128, 256
constexpr int MMA_TUNED_BN = 256;    // tunable: 64, 128, 256
constexpr int MMA_TUNED_BK = 64;     // bytes. tunable: 64, 128
constexpr int MMA_TUNED_WM = 64;     // tunable: 32, 64
constexpr int MMA_TUNED_WN = 64;     // tunable: 32, 64
constexpr int MMA_TUNED_STAGES = 4;  // tunable: 2, 3, 4
constexpr int MMA_TUNED_GROUP = 8;   // rows of blocks. tunable: 1, 4, 8, 16

constexpr int MMA_TUNED_NUM_THREADS =
    MMA_TUNED_BM / MMA_TUNED_WM * (MMA_TUNED_BN / MMA_TUNED_WN) * 32;

template <class T, Along A_ALONG, Along B_ALONG>
struct MmaTuned {
  using ATile = Tile<T, A_ALONG, MMA_TUNED_BM, MMA_TUNED_BK, Banks::swizzled>;
  using BTile = Tile<T, B_ALONG, MMA_TUNED_BN, MMA_TUNED_BK, Banks::swizzled>;
  using Tiles = Ring<ATile, BTile, MMA_TUNED_STAGES, MMA_TUNED_NUM_THREADS>;
  using Warp = WarpMma<ATile, BTile, MMA_TUNED_WM, MMA_TUNED_WN>;
  static constexpr int SMEM_BYTES = larger(Tiles::BYTES, Warp::STAGING_BYTES);
  static_assert(ATile::STEPS % 2 == 0, "two sets of fragments take turns within a trip");
};

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

template <class T, Along A_ALONG, Along B_ALONG>
__global__ __launch_bounds__(MMA_TUNED_NUM_THREADS) void matmul_mma_tuned_kernel(
    const __grid_constant__ Matmul<T> p) {
  using Types = MmaTuned<T, A_ALONG, B_ALONG>;
  extern __shared__ __align__(128) char smem[];
  const BlockPlace place = grouped_place<MMA_TUNED_GROUP>();
  const int row0 = place.row * MMA_TUNED_BM, col0 = place.col * MMA_TUNED_BN;
  typename Types::Tiles ring(smem, p, row0, col0);

  typename Types::Warp warp;
  typename Types::Warp::Fragments f[2];
  const auto read = [&](int step) { f[step % 2] = warp.read(ring.A(), ring.B(), step); };
  ring.wait();
  if (ring.left > 0) read(0);
  while (ring.left > 0) {
    ring.start();
#pragma unroll
    for (int step = 0; step < Types::ATile::STEPS - 1; ++step) {
      read(step + 1);
      warp.multiply(f[step % 2]);
    }
    ring.turn();
    ring.wait();
    if (ring.left > 0) read(0);
    warp.multiply(f[1]);
  }
  __syncthreads();  // no warp still reads the tiles that the sums overwrite
  write_tile(p, warp, smem, row0, col0);
}

template <class T>
static void launch_mma_tuned(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<T>(p, MMA_TUNED_BM, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, MMA_TUNED_BN), ceil_div(s.M, MMA_TUNED_BM), s.batch);
    with_alongs(s, [&](auto a, auto b) {
      const auto kernel = matmul_mma_tuned_kernel<T, a.value, b.value>;
      constexpr int BYTES = MmaTuned<T, a.value, b.value>::SMEM_BYTES;
      allow_shared_memory(kernel, BYTES);
      kernel<<<grid, MMA_TUNED_NUM_THREADS, BYTES, stream>>>(s);
      CUDA_CHECK_LAUNCH(matmul_mma_tuned_kernel);
    });
  });
}

void matmul_mma_tuned(const MatmulProblem& p, cudaStream_t stream) {
  with_tensor_type(p, [&](auto type) { launch_mma_tuned<decltype(type)>(p, stream); });
}
