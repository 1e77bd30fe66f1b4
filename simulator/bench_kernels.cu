// Matrix products on the tensor cores, for `python -m simulator.bench`: C = A B^T for row-major
// A [M, K] and B [N, K] in bf16, C in fp32. M, N and K are multiples of the tiles.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

using bf16 = __nv_bfloat16;

__device__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// ---- mma.sync: blocks of 4 warps, 32 x 32 of C each; ldmatrix from padded shared memory ---------
constexpr int TILE = 64, BK = 32, ROW = BK + 8;

__device__ void load_matrices(unsigned (&r)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}

__global__ void __launch_bounds__(128)
    mma_kernel(const bf16* A, const bf16* B, float* C, int M, int N, int K) {
  __shared__ __align__(16) bf16 A_smem[TILE * ROW], B_smem[TILE * ROW];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int m0 = warp / 2 * 32, n0 = warp % 2 * 32;
  const bf16* A_block = A + int64_t{TILE} * blockIdx.y * K;
  const bf16* B_block = B + int64_t{TILE} * blockIdx.x * K;
  float acc[2][4][4] = {};
  for (int k0 = 0; k0 < K; k0 += BK) {
    for (int i = threadIdx.x; i < TILE * BK / 8; i += blockDim.x) {
      const int row = i / (BK / 8), col = i % (BK / 8) * 8;
      const int64_t from = int64_t{row} * K + k0 + col;
      *reinterpret_cast<uint4*>(A_smem + row * ROW + col) =
          *reinterpret_cast<const uint4*>(A_block + from);
      *reinterpret_cast<uint4*>(B_smem + row * ROW + col) =
          *reinterpret_cast<const uint4*>(B_block + from);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
      unsigned a[2][4], b[2][4];
      for (int i = 0; i < 2; i++) {
        load_matrices(a[i], A_smem + (m0 + 16 * i + lane % 16) * ROW + k + lane / 16 * 8);
        load_matrices(
            b[i], B_smem + (n0 + 16 * i + lane % 8 + lane / 16 * 8) * ROW + k + lane / 8 % 2 * 8);
      }
      for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 4; j++) {
          float (&d)[4] = acc[i][j];
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
              "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
              : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
              : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j / 2][j % 2 * 2]),
                "r"(b[j / 2][j % 2 * 2 + 1]));
        }
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < 4; j++) {
      for (int e = 0; e < 4; e++) {
        const int row = m0 + 16 * i + lane / 4 + e / 2 * 8, col = n0 + 8 * j + lane % 4 * 2 + e % 2;
        C[(int64_t{TILE} * blockIdx.y + row) * N + TILE * blockIdx.x + col] = acc[i][j][e];
      }
    }
  }
}

// ---- wgmma: blocks of one warpgroup, 64 x 256 of C; both operands in swizzled shared memory -----
constexpr int WM = 64, WN = 256, WK = 64;  // WK: one row of 128 bytes

// A matrix descriptor: rows of 128 bytes, 128-byte swizzle, 8 rows every 1024 bytes.
__device__ uint64_t descriptor(const bf16* tile) {
  return (shared_address(tile) & 0x3ffff) >> 4 | uint64_t{1} << 16 | uint64_t{64} << 32 |
         uint64_t{1} << 62;
}

// Copies `rows` rows of 64 numbers; the swizzle permutes the 16-byte pieces of each row.
__device__ void fill(bf16* tile, const bf16* from, int rows, int K) {
  for (int i = threadIdx.x; i < rows * 8; i += blockDim.x) {
    const int row = i / 8, piece = i % 8;
    *reinterpret_cast<uint4*>(tile + row * WK + (piece ^ row % 8) * 8) =
        *reinterpret_cast<const uint4*>(from + int64_t{row} * K + piece * 8);
  }
}

// d += A B^T for 16 values of k.
__device__ void multiply(float (&d)[128], uint64_t a, uint64_t b) {
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D32(i) \
  D4(i), D4(i + 4), D4(i + 8), D4(i + 12), D4(i + 16), D4(i + 20), D4(i + 24), D4(i + 28)
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"
      "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,"
      "%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,"
      "%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,"
      "%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
      "%128, %129, 1, 1, 1, 0, 0;"
      : D32(0), D32(32), D32(64), D32(96)
      : "l"(a), "l"(b));
#undef D32
#undef D4
}

__global__ void __launch_bounds__(128)
    wgmma_kernel(const bf16* A, const bf16* B, float* C, int M, int N, int K) {
  extern __shared__ __align__(1024) bf16 smem[];
  bf16 *A_smem = smem, *B_smem = smem + WM * WK;
  float acc[128] = {};
  for (int k0 = 0; k0 < K; k0 += WK) {
    fill(A_smem, A + int64_t{WM} * blockIdx.y * K + k0, WM, K);
    fill(B_smem, B + int64_t{WN} * blockIdx.x * K + k0, WN, K);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int k = 0; k < WK; k += 16) {
      multiply(acc, descriptor(A_smem + k), descriptor(B_smem + k));
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    __syncthreads();  // all threads have read the tiles
  }
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
  float* C_tile = C + (int64_t{WM} * blockIdx.y + row) * N + WN * blockIdx.x + col;
  for (int i = 0; i < 128; i++) {
    C_tile[int64_t{i / 2 % 2 * 8} * N + i / 4 * 8 + i % 2] = acc[i];
  }
}

void mma(const uint16_t* A, const uint16_t* B, float* C, int M, int N, int K) {
  mma_kernel<<<dim3(N / TILE, M / TILE), 128>>>(reinterpret_cast<const bf16*>(A),
                                                reinterpret_cast<const bf16*>(B), C, M, N, K);
}

void wgmma(const uint16_t* A, const uint16_t* B, float* C, int M, int N, int K) {
  constexpr int BYTES = (WM + WN) * WK * sizeof(bf16);
  cudaFuncSetAttribute(wgmma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
  wgmma_kernel<<<dim3(N / WN, M / WM), 128, BYTES>>>(reinterpret_cast<const bf16*>(A),
                                                     reinterpret_cast<const bf16*>(B), C, M, N, K);
}
