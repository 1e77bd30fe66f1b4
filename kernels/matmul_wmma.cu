// matmul_wmma.cu: tensor cores by CUDA's own interface (fp16, bf16, tf32). The contract is in
// matmul.cu; tiles in shared memory are in mma_tiles.cuh.
//
// Rungs
//   wmma  a warp multiplies 16 x 16 matrices at a time
#include <mma.h>

#include "matmul_mma.cuh"

// ------------------------------------------------------------------------------------------------
// wmma: a warp multiplies 16 x 16 matrices at a time
// Idea     A tensor core does in one instruction what takes a warp 64 FMAs (tf32: 32). mma.h offers it
//          as functions on fragments: matrices spread over a warp's registers in an unspecified
//          layout.
// Changes  vs warp_tiles: load_matrix_sync for the reads of A_frag and B_frag, mma_sync for the
//          FMAs. Elements of 2 bytes, or tf32: fp32 rounded to 10 bits of mantissa.
// FLOP/B   2-byte types. Global: 2 BM BN FLOP per 2 (BM + BN) bytes = 64. Shared: a warp's 32 x 64
//          elements take 2 WM WN FLOP per 2 (WM + WN) bytes = 21.
// Shape    256 threads, 8 warps as 4 x 2, 36 KiB smem, 2 __syncthreads per tile; 2 blocks per SM.
// Trap     As nobody says which lane has which element, the sums have to pass through shared memory
//          to be scaled, biased, or cut at C's edge. And load_matrix_sync takes a pointer and a
//          leading dimension: rows can be padded, but tiles cannot be swizzled.
// Next     Use the layout that the PTX manual documents: mma.
constexpr int WMMA_BM = 128;  // tunable: 64, 128
constexpr int WMMA_BN = 128;  // tunable: 64, 128
constexpr int WMMA_BK = 128;  // bytes. tunable: 32, 64, 128
constexpr int WMMA_WM = 32;   // tunable: 32, 64
constexpr int WMMA_WN = 64;   // tunable: 32, 64
constexpr int WMMA_NUM_WARPS = WMMA_BM / WMMA_WM * (WMMA_BN / WMMA_WN);
constexpr int WMMA_NUM_THREADS = WMMA_NUM_WARPS * 32;
static_assert(WMMA_BM % WMMA_WM == 0 && WMMA_BN % WMMA_WN == 0, "warps cover the block's tile");
static_assert(WMMA_NUM_THREADS <= 1024, "a block has at most 1024 threads");

// mma.h's types for ours, which have the same bits, and its 16 x 16 x k matrices.
template <class T>
struct Wmma;
template <>
struct Wmma<fp16> {
  using Memory = __half;
  using Element = __half;
  static constexpr int K = 16;
};
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
template <>
struct Wmma<bf16> {
  using Memory = __nv_bfloat16;
  using Element = __nv_bfloat16;
  static constexpr int K = 16;
};
template <>
struct Wmma<float> {
  using Memory = float;
  using Element = nvcuda::wmma::precision::tf32;
  static constexpr int K = 8;
};
#endif

template <class T, class Use, bool ROW_MAJOR>
using WmmaFragment = nvcuda::wmma::fragment<
    Use, 16, 16, Wmma<T>::K, typename Wmma<T>::Element,
    std::conditional_t<ROW_MAJOR, nvcuda::wmma::row_major, nvcuda::wmma::col_major>>;

// Reads the fragment that begins at row `outer` of A, or column of B, and step `step` of k.
template <class Tile, class Fragment>
__device__ void load_fragment(Fragment& fragment, const char* tile, int outer, int step) {
  using T = typename Tile::Element;
  constexpr int K = Wmma<T>::K;
  const int row = Tile::BY_K ? step * K : outer, column = Tile::BY_K ? outer : step * K;
  const char* first = tile + Tile::offset(row, 0) + column * sizeof(T);
  nvcuda::wmma::load_matrix_sync(fragment, reinterpret_cast<const typename Wmma<T>::Memory*>(first),
                                 Tile::ROW_BYTES / sizeof(T));
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, float>) {
    for (float& x : fragment.x) x = nvcuda::wmma::__float_to_tf32(x);
  }
#endif
}

template <class T, Along A_ALONG, Along B_ALONG>
__device__ void multiply_by_wmma(const Matmul<T>& p) {
  using namespace nvcuda;
  using ATile = Tile<T, A_ALONG, WMMA_BM, WMMA_BK, Banks::padded>;
  using BTile = Tile<T, B_ALONG, WMMA_BN, WMMA_BK, Banks::padded>;
  constexpr int TILES_M = WMMA_WM / 16, TILES_N = WMMA_WN / 16;
  using WarpStaging = Staged<T, 16, WMMA_WN>;
  constexpr int STAGING_BYTES = WMMA_NUM_WARPS * sizeof(WarpStaging);
  __shared__ alignas(128) char smem[larger(ATile::BYTES + BTile::BYTES, STAGING_BYTES)];
  char *A_smem = smem, *B_smem = smem + ATile::BYTES;

  const int row0 = blockIdx.y * WMMA_BM, col0 = blockIdx.x * WMMA_BN;
  const int warp = threadIdx.x / 32;
  const int m = warp / (WMMA_BN / WMMA_WN) * WMMA_WM;  // the warp's first row and column
  const int n = warp % (WMMA_BN / WMMA_WN) * WMMA_WN;
  const auto B_transposed = p.B.of_batch(blockIdx.z).transposed();
  TileLoader<ATile, WMMA_NUM_THREADS> A(p.A.of_batch(blockIdx.z), row0, p.M, p.K);
  TileLoader<BTile, WMMA_NUM_THREADS> B(B_transposed, col0, p.N, p.K);

  wmma::fragment<wmma::accumulator, 16, 16, Wmma<T>::K, float> acc[TILES_M][TILES_N];
  for (auto& row : acc) {
    for (auto& sums : row) wmma::fill_fragment(sums, 0.0f);
  }
  for (int k0 = 0; k0 < p.K; k0 += ATile::K) {
    A.load(A_smem);
    B.load(B_smem);
    __syncthreads();  // both tiles are complete

#pragma unroll 1
    for (int step = 0; step < ATile::STEPS; ++step) {
      WmmaFragment<T, wmma::matrix_b, BTile::BY_K> B_frag[TILES_N];
#pragma unroll
      for (int j = 0; j < TILES_N; ++j) load_fragment<BTile>(B_frag[j], B_smem, n + 16 * j, step);
#pragma unroll
      for (int i = 0; i < TILES_M; ++i) {
        WmmaFragment<T, wmma::matrix_a, !ATile::BY_K> A_frag;
        load_fragment<ATile>(A_frag, A_smem, m + 16 * i, step);
#pragma unroll
        for (int j = 0; j < TILES_N; ++j) wmma::mma_sync(acc[i][j], A_frag, B_frag[j], acc[i][j]);
      }
    }
    __syncthreads();  // no warp still reads the tiles that the next trip, or the sums, overwrite
  }

  auto& staged = reinterpret_cast<WarpStaging*>(smem)[warp];
#pragma unroll
  for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
    for (int j = 0; j < TILES_N; ++j) {
      wmma::store_matrix_sync(&staged.sums[0][16 * j], acc[i][j], WarpStaging::STRIDE,
                              wmma::mem_row_major);
    }
    __syncwarp();  // 16 rows are complete
    staged.write(p, row0 + m + 16 * i, col0 + n);
    __syncwarp();  // no lane still reads them
  }
}

template <class T, Along A_ALONG, Along B_ALONG>
__global__ __launch_bounds__(WMMA_NUM_THREADS,
                             2) void matmul_wmma_kernel(const __grid_constant__ Matmul<T> p) {
  if constexpr (SINCE_SM_80 || std::is_same_v<T, fp16>) multiply_by_wmma<T, A_ALONG, B_ALONG>(p);
}

template <class T>
static void launch_wmma(const MatmulProblem& p, cudaStream_t stream) {
  for_each_slice<T>(p, WMMA_BM, [&](const Matmul<T>& s) {
    const dim3 grid(ceil_div(s.N, WMMA_BN), ceil_div(s.M, WMMA_BM), s.batch);
    with_alongs(s, [&](auto a, auto b) {
      matmul_wmma_kernel<T, a.value, b.value><<<grid, WMMA_NUM_THREADS, 0, stream>>>(s);
      CUDA_CHECK_LAUNCH(matmul_wmma_kernel);
    });
  });
}

void matmul_wmma(const MatmulProblem& p, cudaStream_t stream) {
  with_tensor_type(p, [&](auto type) { launch_wmma<decltype(type)>(p, stream); });
}

const char* matmul_wmma_declines(const MatmulProblem& p) {
  int device = 0, major = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major >= 8 || p.A.dtype == DType::float16) return nullptr;
  return "before compute capability 8.0 tensor cores have neither bf16 nor tf32";
}
