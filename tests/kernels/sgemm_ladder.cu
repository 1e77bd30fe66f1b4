// sgemm_ladder.cu: eight steps of an fp32 matmul, C = A B, for which times on an A6000 are known.
//
// The steps, their tiles and their thread layouts are those of a published ladder
// (github.com/siboehm/SGEMM_CUDA); the code is our own. workbench/estimate compares its estimates for
// these kernels with the published times. Without alpha and beta: C is written, never read.
//
// A [M, K], B [K, N], C [M, N], row-major, contiguous. The sizes are multiples of the tiles.
#include <cstdint>
#include <stdexcept>

static void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// naive: one thread per element; the lanes of a warp take 32 rows of C, so every lane's load of A
// is in a separate line.
__global__ void naive_kernel(const float* A, const float* B, float* C, int M, int N, int K) {
  const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned col = blockIdx.y * blockDim.y + threadIdx.y;
  if (row >= M || col >= N) return;
  float acc = 0.0f;
  for (int k = 0; k < K; ++k) acc += A[row * K + k] * B[k * N + col];
  C[row * N + col] = acc;
}

void naive(const float* A, const float* B, float* C, int M, int N, int K, cudaStream_t stream) {
  require(M % 32 == 0 && N % 32 == 0, "M and N must be multiples of 32");
  naive_kernel<<<dim3(M / 32, N / 32), dim3(32, 32), 0, stream>>>(A, B, C, M, N, K);
}

// coalesced: the lanes of a warp take 32 columns.
template <int TILE>
__global__ void coalesced_kernel(const float* A, const float* B, float* C, int M, int N, int K) {
  const int row = blockIdx.x * TILE + threadIdx.x / TILE;
  const int col = blockIdx.y * TILE + threadIdx.x % TILE;
  if (row >= M || col >= N) return;
  float acc = 0.0f;
  for (int k = 0; k < K; ++k) acc += A[row * K + k] * B[k * N + col];
  C[row * N + col] = acc;
}

void coalesced(const float* A, const float* B, float* C, int M, int N, int K, cudaStream_t stream) {
  require(M % 32 == 0 && N % 32 == 0, "M and N must be multiples of 32");
  coalesced_kernel<32><<<dim3(M / 32, N / 32), 32 * 32, 0, stream>>>(A, B, C, M, N, K);
}

// shared: 32 x 32 tiles of A and B pass through shared memory.
template <int TILE>
__global__ void shared_kernel(const float* A, const float* B, float* C, int N, int K) {
  __shared__ float A_smem[TILE * TILE];
  __shared__ float B_smem[TILE * TILE];
  const unsigned tx = threadIdx.x % TILE;
  const unsigned ty = threadIdx.x / TILE;
  A += blockIdx.x * TILE * K;
  B += blockIdx.y * TILE;
  C += blockIdx.x * TILE * N + blockIdx.y * TILE;

  float acc = 0.0f;
  for (int k0 = 0; k0 < K; k0 += TILE) {
    A_smem[ty * TILE + tx] = A[ty * K + tx];
    B_smem[ty * TILE + tx] = B[ty * N + tx];
    __syncthreads();  // both tiles are complete
    A += TILE;
    B += TILE * N;
    for (int k = 0; k < TILE; ++k) acc += A_smem[ty * TILE + k] * B_smem[k * TILE + tx];
    __syncthreads();  // no warp still reads the tiles
  }
  C[ty * N + tx] = acc;
}

void shared(const float* A, const float* B, float* C, int M, int N, int K, cudaStream_t stream) {
  require(M % 32 == 0 && N % 32 == 0 && K % 32 == 0, "sizes must be multiples of 32");
  shared_kernel<32><<<dim3(M / 32, N / 32), 32 * 32, 0, stream>>>(A, B, C, N, K);
}

// tile_1d: a thread owns TM elements of a column of C.
template <int BM, int BN, int BK, int TM>
__global__ void tile_1d_kernel(const float* A, const float* B, float* C, int N, int K) {
  static_assert(BM * BK == BM * BN / TM && BN * BK == BM * BN / TM, "a thread loads one float");
  __shared__ float A_smem[BM * BK];
  __shared__ float B_smem[BK * BN];
  const int col = threadIdx.x % BN;
  const int row = threadIdx.x / BN;
  A += blockIdx.y * BM * K;
  B += blockIdx.x * BN;
  C += blockIdx.y * BM * N + blockIdx.x * BN;
  const unsigned a_col = threadIdx.x % BK, a_row = threadIdx.x / BK;
  const unsigned b_col = threadIdx.x % BN, b_row = threadIdx.x / BN;

  float acc[TM] = {};
  for (unsigned k0 = 0; k0 < K; k0 += BK) {
    A_smem[a_row * BK + a_col] = A[a_row * K + a_col];
    B_smem[b_row * BN + b_col] = B[b_row * N + b_col];
    __syncthreads();  // both tiles are complete
    A += BK;
    B += BK * N;
    for (unsigned k = 0; k < BK; ++k) {
      const float b = B_smem[k * BN + col];
      for (unsigned i = 0; i < TM; ++i) acc[i] += A_smem[(row * TM + i) * BK + k] * b;
    }
    __syncthreads();  // no warp still reads the tiles
  }
  for (unsigned i = 0; i < TM; ++i) C[(row * TM + i) * N + col] = acc[i];
}

void tile_1d(const float* A, const float* B, float* C, int M, int N, int K, cudaStream_t stream) {
  constexpr int BM = 64, BN = 64, BK = 8, TM = 8;
  require(M % BM == 0 && N % BN == 0 && K % BK == 0, "M, N, K must be multiples of 64, 64, 8");
  tile_1d_kernel<BM, BN, BK, TM><<<dim3(N / BN, M / BM), BM * BN / TM, 0, stream>>>(A, B, C, N, K);
}

// tile_2d: a thread owns TM x TN elements of C.
template <int BM, int BN, int BK, int TM, int TN>
__global__ void __launch_bounds__((BM * BN) / (TM * TN), 1)
    tile_2d_kernel(const float* A, const float* B, float* C, int N, int K) {
  constexpr unsigned NUM_THREADS = (BM * BN) / (TM * TN);
  constexpr unsigned A_ROWS = NUM_THREADS / BK;  // rows of a tile that one pass loads
  constexpr unsigned B_ROWS = NUM_THREADS / BN;
  __shared__ float A_smem[BM * BK];
  __shared__ float B_smem[BK * BN];
  const int col = threadIdx.x % (BN / TN);
  const int row = threadIdx.x / (BN / TN);
  A += blockIdx.y * BM * K;
  B += blockIdx.x * BN;
  C += blockIdx.y * BM * N + blockIdx.x * BN;
  const unsigned a_col = threadIdx.x % BK, a_row = threadIdx.x / BK;
  const unsigned b_col = threadIdx.x % BN, b_row = threadIdx.x / BN;

  float acc[TM * TN] = {};
  float a[TM], b[TN];
  for (unsigned k0 = 0; k0 < K; k0 += BK) {
    for (unsigned r = 0; r < BM; r += A_ROWS) {
      A_smem[(a_row + r) * BK + a_col] = A[(a_row + r) * K + a_col];
    }
    for (unsigned r = 0; r < BK; r += B_ROWS) {
      B_smem[(b_row + r) * BN + b_col] = B[(b_row + r) * N + b_col];
    }
    __syncthreads();  // both tiles are complete
    A += BK;
    B += BK * N;
    for (unsigned k = 0; k < BK; ++k) {
      for (unsigned i = 0; i < TM; ++i) a[i] = A_smem[(row * TM + i) * BK + k];
      for (unsigned j = 0; j < TN; ++j) b[j] = B_smem[k * BN + col * TN + j];
      for (unsigned i = 0; i < TM; ++i) {
        for (unsigned j = 0; j < TN; ++j) acc[i * TN + j] += a[i] * b[j];
      }
    }
    __syncthreads();  // no warp still reads the tiles
  }
  for (unsigned i = 0; i < TM; ++i) {
    for (unsigned j = 0; j < TN; ++j) {
      C[(row * TM + i) * N + col * TN + j] = acc[i * TN + j];
    }
  }
}

void tile_2d(const float* A, const float* B, float* C, int M, int N, int K, cudaStream_t stream) {
  constexpr int BM = 128, BN = 128, BK = 8, TM = 8, TN = 8;
  require(M % BM == 0 && N % BN == 0 && K % BK == 0, "M, N, K must be multiples of 128, 128, 8");
  tile_2d_kernel<BM, BN, BK, TM, TN>
      <<<dim3(N / BN, M / BM), (BM * BN) / (TM * TN), 0, stream>>>(A, B, C, N, K);
}

// Loads a tile of A, transposing it on the way, and a tile of B, four floats at a time.
template <int BM, int BN, int BK, int NUM_THREADS>
__device__ void load_tiles(const float* A, const float* B, float* A_smem, float* B_smem, int N,
                           int K) {
  const unsigned a_row = threadIdx.x / (BK / 4), a_col = threadIdx.x % (BK / 4);
  const unsigned b_row = threadIdx.x / (BN / 4), b_col = threadIdx.x % (BN / 4);
  constexpr unsigned A_ROWS = NUM_THREADS * 4 / BK;  // rows of a tile that one pass loads
  constexpr unsigned B_ROWS = NUM_THREADS / (BN / 4);
  for (unsigned r = 0; r + A_ROWS <= BM; r += A_ROWS) {
    const float4 v = *reinterpret_cast<const float4*>(&A[(a_row + r) * K + a_col * 4]);
    A_smem[(a_col * 4 + 0) * BM + a_row + r] = v.x;
    A_smem[(a_col * 4 + 1) * BM + a_row + r] = v.y;
    A_smem[(a_col * 4 + 2) * BM + a_row + r] = v.z;
    A_smem[(a_col * 4 + 3) * BM + a_row + r] = v.w;
  }
  for (unsigned r = 0; r + B_ROWS <= BK; r += B_ROWS) {
    *reinterpret_cast<float4*>(&B_smem[(b_row + r) * BN + b_col * 4]) =
        *reinterpret_cast<const float4*>(&B[(b_row + r) * N + b_col * 4]);
  }
}

// vectorised: loads of four floats; A is transposed in shared memory, so that a thread's floats
// of A are adjacent, too.
template <int BM, int BN, int BK, int TM, int TN, int NUM_THREADS>
__global__ void __launch_bounds__(NUM_THREADS)
    vectorised_kernel(const float* A, const float* B, float* C, int N, int K) {
  static_assert(NUM_THREADS == (BM * BN) / (TM * TN), "a thread owns TM x TN elements of C");
  __shared__ float A_smem[BK * BM];
  __shared__ float B_smem[BK * BN];
  const int col = threadIdx.x % (BN / TN);
  const int row = threadIdx.x / (BN / TN);
  A += blockIdx.y * BM * K;
  B += blockIdx.x * BN;
  C += blockIdx.y * BM * N + blockIdx.x * BN;

  float acc[TM * TN] = {};
  float a[TM], b[TN];
  for (unsigned k0 = 0; k0 < K; k0 += BK) {
    load_tiles<BM, BN, BK, NUM_THREADS>(A, B, A_smem, B_smem, N, K);
    __syncthreads();  // both tiles are complete
    A += BK;
    B += BK * N;
    for (unsigned k = 0; k < BK; ++k) {
      for (unsigned i = 0; i < TM; ++i) a[i] = A_smem[k * BM + row * TM + i];
      for (unsigned j = 0; j < TN; ++j) b[j] = B_smem[k * BN + col * TN + j];
      for (unsigned i = 0; i < TM; ++i) {
        for (unsigned j = 0; j < TN; ++j) acc[i * TN + j] += a[i] * b[j];
      }
    }
    __syncthreads();  // no warp still reads the tiles
  }
  for (unsigned i = 0; i < TM; ++i) {
    for (unsigned j = 0; j < TN; j += 4) {
      const float* t = &acc[i * TN + j];
      *reinterpret_cast<float4*>(&C[(row * TM + i) * N + col * TN + j]) =
          make_float4(t[0], t[1], t[2], t[3]);
    }
  }
}

template <int BK>
static void launch_vectorised(const float* A, const float* B, float* C, int M, int N, int K,
                              cudaStream_t stream) {
  constexpr int BM = 128, BN = 128, TM = 8, TN = 8, NUM_THREADS = 256;
  require(M % BM == 0 && N % BN == 0 && K % BK == 0, "M, N, K must be multiples of 128, 128, 16");
  vectorised_kernel<BM, BN, BK, TM, TN, NUM_THREADS>
      <<<dim3(N / BN, M / BM), NUM_THREADS, 0, stream>>>(A, B, C, N, K);
}

void vectorised(const float* A, const float* B, float* C, int M, int N, int K,
                cudaStream_t stream) {
  launch_vectorised<8>(A, B, C, M, N, K, stream);
}

// autotuned: the tile sizes that a search found for an A6000; only BK changes.
void autotuned(const float* A, const float* B, float* C, int M, int N, int K, cudaStream_t stream) {
  launch_vectorised<16>(A, B, C, M, N, K, stream);
}

// warp_tiled: a warp owns WM x WN elements of C, a thread TM x (N_STEPS x TN) of them.
template <int BM, int BN, int BK, int WM, int WN, int N_STEPS, int TM, int TN, int NUM_THREADS>
__global__ void __launch_bounds__(NUM_THREADS)
    warp_tiled_kernel(const float* A, const float* B, float* C, int N, int K) {
  constexpr unsigned M_STEPS = (WM * WN) / (32 * TM * TN * N_STEPS);
  constexpr unsigned STEP_M = WM / M_STEPS;
  constexpr unsigned STEP_N = WN / N_STEPS;
  static_assert((BM / WM) * (BN / WN) == NUM_THREADS / 32, "the warps cover the tile of C");
  __shared__ float A_smem[BK * BM];
  __shared__ float B_smem[BK * BN];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned warp_row = warp / (BN / WN), warp_col = warp % (BN / WN);
  const unsigned row = lane / (STEP_N / TN), col = lane % (STEP_N / TN);
  A += blockIdx.y * BM * K;
  B += blockIdx.x * BN;
  C += (blockIdx.y * BM + warp_row * WM) * N + blockIdx.x * BN + warp_col * WN;

  float acc[M_STEPS * TM * N_STEPS * TN] = {};
  float a[M_STEPS * TM], b[N_STEPS * TN];
  for (unsigned k0 = 0; k0 < K; k0 += BK) {
    load_tiles<BM, BN, BK, NUM_THREADS>(A, B, A_smem, B_smem, N, K);
    __syncthreads();  // both tiles are complete
    for (unsigned k = 0; k < BK; ++k) {
      for (unsigned s = 0; s < M_STEPS; ++s) {
        for (unsigned i = 0; i < TM; ++i) {
          a[s * TM + i] = A_smem[k * BM + warp_row * WM + s * STEP_M + row * TM + i];
        }
      }
      for (unsigned s = 0; s < N_STEPS; ++s) {
        for (unsigned j = 0; j < TN; ++j) {
          b[s * TN + j] = B_smem[k * BN + warp_col * WN + s * STEP_N + col * TN + j];
        }
      }
      for (unsigned i = 0; i < M_STEPS * TM; ++i) {
        for (unsigned j = 0; j < N_STEPS * TN; ++j) acc[i * N_STEPS * TN + j] += a[i] * b[j];
      }
    }
    A += BK;
    B += BK * N;
    __syncthreads();  // no warp still reads the tiles
  }
  for (unsigned m = 0; m < M_STEPS; ++m) {
    for (unsigned n = 0; n < N_STEPS; ++n) {
      for (unsigned i = 0; i < TM; ++i) {
        for (unsigned j = 0; j < TN; j += 4) {
          const float* t = &acc[(m * TM + i) * N_STEPS * TN + n * TN + j];
          float* to = &C[(m * STEP_M + row * TM + i) * N + n * STEP_N + col * TN + j];
          *reinterpret_cast<float4*>(to) = make_float4(t[0], t[1], t[2], t[3]);
        }
      }
    }
  }
}

void warp_tiled(const float* A, const float* B, float* C, int M, int N, int K,
                cudaStream_t stream) {
  constexpr int BM = 128, BN = 128, BK = 16, WM = 64, WN = 64, N_STEPS = 4, TM = 8, TN = 4;
  constexpr int NUM_THREADS = 128;
  require(M % BM == 0 && N % BN == 0 && K % BK == 0, "M, N, K must be multiples of 128, 128, 16");
  warp_tiled_kernel<BM, BN, BK, WM, WN, N_STEPS, TM, TN, NUM_THREADS>
      <<<dim3(N / BN, M / BM), NUM_THREADS, 0, stream>>>(A, B, C, N, K);
}
