// matmul_mma.cuh: what the tensor-core rungs share: how a warp multiplies tiles of A and B, and how its
// sums become C. The tiles are in mma_tiles.cuh.
#pragma once

#include "matmul.cuh"
#include "mma_tiles.cuh"

// std::max, without <algorithm>.
__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }

// Rounds fp32 so that the upper 19 bits are the nearest tf32, ties away from zero: an mma ignores
// the others. cvt.rna.tf32 also clears them, and takes five instructions where this takes two. NaNs
// have to be quiet, as all are that arithmetic makes.
__device__ inline void round_to_tf32(uint32_t (&fragment)[4]) {
  for (uint32_t& bits : fragment) {
    const bool finite = fabsf(__uint_as_float(bits)) < INFINITY;  // a NaN could carry into its sign
    if (finite) bits += 0x1000;
  }
}

// ------------------------------------------------------------------------------------------------
// A warp's 16 x 8 sums, and what an mma adds to them

// HALF_SUMS: fp16's are fp16 too: half the registers, and on some GPUs twice the speed.
template <class T, bool HALF_SUMS = false>
struct Accumulator {
  Sum<T> sums[4] = {};

  __device__ void add(const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (std::is_same_v<T, fp16>) mma_f16(sums, a, b0, b1);
    if constexpr (std::is_same_v<T, bf16>) mma_bf16(sums, a, b0, b1);
    if constexpr (std::is_same_v<T, float>) mma_tf32(sums, a, b0, b1);
    if constexpr (std::is_same_v<T, int8_t>) mma_s8(sums, a, b0, b1);
  }
  __device__ Sum<T> operator[](int i) const { return sums[i]; }
};

template <>
struct Accumulator<fp16, true> {
  uint32_t sums[2] = {};  // two to a register

  __device__ void add(const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_f16_sums_f16(sums, a, b0, b1);
  }
  __device__ float operator[](int i) const {
    return cvt_f32_f16(static_cast<uint16_t>(sums[i / 2] >> 16 * (i % 2)));
  }
};

// ------------------------------------------------------------------------------------------------
// From sums to C

// Sums pass through shared memory, a few rows of a warp's at a time: straight from the registers
// each row of C would get 8 elements at a time, too few for a whole sector of 32 bytes if they have
// 2 bytes each.
template <class T, int ROWS, int COLS>
struct Staged {
  static constexpr int STRIDE = COLS + 8;  // so that lanes' pairs of 4 adjacent rows do not meet
  static_assert(COLS % 4 == 0 && ROWS * COLS % 128 == 0,
                "32 lanes write 4 elements each at a time");
  Sum<T> sums[ROWS][STRIDE];

  // By a whole warp: writes what becomes of the sums to C, from row row0 and column col0 on.
  __device__ void write(const Matmul<T>& p, int row0, int col0) const {
    const int64_t first = blockIdx.z * p.C.batch_stride + row0 * p.C.row_stride + col0;
    const int64_t bytes = p.wide() ? sizeof(Sum<T>) : sizeof(T);
    write_to(reinterpret_cast<char*>(p.C.data) + first * bytes, p.C.row_stride, p.M - row0,
             p.N - col0, p.wide(), is_plain(p) && p.N % 4 == 0 ? nullptr : &p, row0, col0);
  }

 private:
  // Not inlined: it would be compiled for every few rows. What a function that is called finds in p
  // it reads from memory, so p is for what is needed seldom, and else nullptr.
  __device__ __noinline__ void write_to(char* C, int64_t next_row, int rows, int cols, bool wide,
                                        const Matmul<T>* p, int row0, int col0) const {
#pragma unroll 1
    for (int four = threadIdx.x % 32; four < ROWS * COLS / 4; four += 32) {
      const int r = four / (COLS / 4), c = four % (COLS / 4) * 4;
      const Four<Sum<T>> sum = *reinterpret_cast<const Four<Sum<T>>*>(&sums[r][c]);
      if (r >= rows || c >= cols) continue;
      if (p != nullptr) {
        write_4(*p, row0 + r, col0 + c, sum, aligned_4(*p));
      } else if (wide) {
        reinterpret_cast<Four<Sum<T>>*>(C)[(r * next_row + c) / 4] = sum;
      } else {
        Four<T> narrow;
#pragma unroll
        for (int j = 0; j < 4; ++j) narrow.element[j] = static_cast<T>(sum.element[j]);
        reinterpret_cast<Four<T>*>(C)[(r * next_row + c) / 4] = narrow;
      }
    }
  }
};

// ------------------------------------------------------------------------------------------------
// A warp's part of the block's tile of C

// A block's tile of C is divided among warps, WM x WN elements each.
template <class ATile, class BTile, int WM, int WN, bool HALF_SUMS = false>
struct WarpMma {
  using T = typename ATile::Element;
  static constexpr int BM = ATile::OUTER, BN = BTile::OUTER, STEPS = ATile::STEPS;
  static_assert(BM % WM == 0 && BN % WN == 0, "warps cover the block's tile");
  static_assert(WM % 16 == 0 && WN % 16 == 0, "fragments, of 16, cover the warp's");
  static constexpr int NUM_THREADS = BM / WM * (BN / WN) * 32;
  static_assert(NUM_THREADS <= 1024, "a block has at most 1024 threads");
  static constexpr int TILES_M = WM / 16, TILES_N = WN / 8;
  using Staging = Staged<T, 8, WN>;
  static constexpr int STAGING_BYTES = NUM_THREADS / 32 * sizeof(Staging);

  struct Fragments {
    uint32_t A[TILES_M][4];
    uint32_t B[TILES_N / 2][4];
  };

  Accumulator<T, HALF_SUMS> acc[TILES_M][TILES_N];

  // The warp's first row and column within the block's tile.
  __device__ static int m() { return threadIdx.x / 32 / (BN / WN) * WM; }
  __device__ static int n() { return threadIdx.x / 32 % (BN / WN) * WN; }

  __device__ WarpMma()
      : A_lane_(ATile::template lane_offset<true>(m())),
        B_lane_(BTile::template lane_offset<false>(n())) {}

  __device__ Fragments read(const char* A_smem, const char* B_smem, int step) const {
    Fragments f;
#pragma unroll
    for (int i = 0; i < TILES_M; ++i) {
      ATile::template read<true>(f.A[i], shared_address(A_smem) + A_lane_, i, step);
    }
#pragma unroll
    for (int j = 0; j < TILES_N / 2; ++j) {
      BTile::template read<false>(f.B[j], shared_address(B_smem) + B_lane_, j, step);
    }
    return f;
  }

  // Rounds them, if need be.
  __device__ void multiply(Fragments& f) {
    if constexpr (std::is_same_v<T, float>) {
      for (auto& fragment : f.A) round_to_tf32(fragment);
      for (auto& fragment : f.B) round_to_tf32(fragment);
    }
#pragma unroll
    for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
      for (int j = 0; j < TILES_N; ++j) {
        acc[i][j].add(f.A[i], f.B[j / 2][j % 2 * 2], f.B[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  // All of both tiles.
  __device__ void multiply(const char* A_smem, const char* B_smem) {
#pragma unroll
    for (int step = 0; step < ATile::STEPS; ++step) {
      Fragments f = read(A_smem, B_smem, step);
      multiply(f);
    }
  }

 private:
  int A_lane_, B_lane_;  // where this lane reads, in either tile
};

// Writes what becomes of the block's sums, from row row0 and column col0 of C on. `smem`, of at
// least STAGING_BYTES, is no longer used by any thread of the block.
template <class Warp, class T>
__device__ void write_tile(const Matmul<T>& p, const Warp& warp, char* smem, int row0, int col0) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  auto& staged = reinterpret_cast<typename Warp::Staging*>(smem)[threadIdx.x / 32];
#pragma unroll
  for (int i = 0; i < Warp::TILES_M * 2; ++i) {
#pragma unroll
    for (int j = 0; j < Warp::TILES_N; ++j) {
      staged.sums[g][8 * j + 2 * t] = warp.acc[i / 2][j][i % 2 * 2];
      staged.sums[g][8 * j + 2 * t + 1] = warp.acc[i / 2][j][i % 2 * 2 + 1];
    }
    __syncwarp();  // 8 rows are complete
    staged.write(p, row0 + warp.m() + 8 * i, col0 + warp.n());
    __syncwarp();  // no lane still reads them
  }
}

// Computes and writes the block's tile of C, with one pair of tiles in shared memory.
template <class Warp, class ATile, class BTile, class T>
__device__ void multiply_tiles(const Matmul<T>& p, int row0, int col0) {
  constexpr int BYTES = ATile::BYTES + BTile::BYTES;
  __shared__ alignas(128) char smem[larger(BYTES, Warp::STAGING_BYTES)];
  char *A_smem = smem, *B_smem = smem + ATile::BYTES;
  const auto B_transposed = p.B.of_batch(blockIdx.z).transposed();
  TileLoader<ATile, Warp::NUM_THREADS> A(p.A.of_batch(blockIdx.z), row0, p.M, p.K);
  TileLoader<BTile, Warp::NUM_THREADS> B(B_transposed, col0, p.N, p.K);

  Warp warp;
  for (int k0 = 0; k0 < p.K; k0 += ATile::K) {
    A.load(A_smem);
    B.load(B_smem);
    __syncthreads();  // both tiles are complete
    warp.multiply(A_smem, B_smem);
    __syncthreads();  // no warp still reads the tiles that the next trip, or the sums, overwrite
  }
  write_tile(p, warp, smem, row0, col0);
}

// ------------------------------------------------------------------------------------------------
// Launching

// Calls run(T()) with the element type of the problem: float stands for tf32.
template <class Run>
void with_tensor_type(const MatmulProblem& p, Run run) {
  if (p.A.dtype == DType::float16) return run(fp16());
  if (p.A.dtype == DType::bfloat16) return run(bf16());
  return run(float());
}

// Calls run(a, b), constants of type Along: how A and the transpose of B are copied.
template <class T, class Run>
void with_alongs(const Matmul<T>& p, Run run) {
  constexpr std::integral_constant<Along, Along::k> k;
  constexpr std::integral_constant<Along, Along::outer> outer;
  constexpr std::integral_constant<Along, Along::neither> neither;
  const bool a_along_k = p.A.col_stride == 1, b_along_k = p.B.row_stride == 1;
  if (!aligned_16(p.A) || !aligned_16(p.B)) return run(neither, neither);
  if (a_along_k && b_along_k) return run(k, k);
  if constexpr (sizeof(T) == 1) {
    return run(neither, neither);
  } else {
    if (a_along_k) return run(k, outer);
    if (b_along_k) return run(outer, k);
    return run(outer, outer);
  }
}
