// matmul_warp_tiles.cuh: how a warp covers its part of a block's tile of C, fp32.
#pragma once

#include "matmul.cuh"
#include "ptx.cuh"

// A block's tile of BM x BN elements of C is divided among warps, WM x WN each, and that among 8 x 4
// lanes. A lane has fours of rows 32 apart and fours of columns 16 apart:
//
//                 n = lane % 4:   0    1    2    3    0    1    2    3
//     m = lane / 4:  0          |----|    |    |    |----|    |    |     4 x 4 elements each,
//                    1          |    |    |    |    |    |    |    |     GROUPS_M x GROUPS_N of
//                    ..                                                  them per lane
//                    7
//                    0          |----|    |    |    |----|    |    |
//
// So the 16-byte reads of a warp are 128 adjacent bytes of A_smem and 64 of B_smem, each of which
// goes to several lanes at once.
template <int BM, int BN, int WM, int WN>
struct WarpTile {
  static_assert(BM % WM == 0 && BN % WN == 0, "warps cover the block's tile");
  static_assert(WM % 32 == 0 && WN % 16 == 0, "8 x 4 lanes with 4 x 4 elements cover the warp's");
  static constexpr int NUM_THREADS = BM / WM * (BN / WN) * 32;
  static constexpr int GROUPS_M = WM / 32, GROUPS_N = WN / 16;
  static_assert(NUM_THREADS <= 1024, "a block has at most 1024 threads");

  int m, n;  // the lane's first row and column within the block's tile
  float acc[GROUPS_M * 4][GROUPS_N][4] = {};

  __device__ WarpTile() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    m = warp / (BN / WN) * WM + lane / 4 * 4;
    n = warp % (BN / WN) * WN + lane % 4 * 4;
  }

  // One step of k: a row of either tile.
  __device__ void multiply(const float* A_smem, const float* B_smem) {
    float4 A_frag[GROUPS_M], B_frag[GROUPS_N];
#pragma unroll
    for (int i = 0; i < GROUPS_M; ++i) {
      A_frag[i] = *reinterpret_cast<const float4*>(&A_smem[m + 32 * i]);
    }
#pragma unroll
    for (int j = 0; j < GROUPS_N; ++j) {
      B_frag[j] = *reinterpret_cast<const float4*>(&B_smem[n + 16 * j]);
    }
#pragma unroll
    for (int i = 0; i < GROUPS_M; ++i) {
#pragma unroll
      for (int j = 0; j < GROUPS_N; ++j) {
        multiply_row(acc[4 * i][j], A_frag[i].x, B_frag[j]);
        multiply_row(acc[4 * i + 1][j], A_frag[i].y, B_frag[j]);
        multiply_row(acc[4 * i + 2][j], A_frag[i].z, B_frag[j]);
        multiply_row(acc[4 * i + 3][j], A_frag[i].w, B_frag[j]);
      }
    }
  }

  // Calls visit(row, col, sums) for each four adjacent sums, with their place in the tile.
  template <class Visit>
  __device__ void for_each_4(Visit visit) const {
#pragma unroll
    for (int i = 0; i < GROUPS_M * 4; ++i) {
#pragma unroll
      for (int j = 0; j < GROUPS_N; ++j) visit(m + i / 4 * 32 + i % 4, n + 16 * j, acc[i][j]);
    }
  }

 private:
  __device__ static void multiply_row(float (&sums)[4], float a, const float4& b) {
    sums[0] += a * b.x;
    sums[1] += a * b.y;
    sums[2] += a * b.z;
    sums[3] += a * b.w;
  }
};

// Writes the block's tile of C, whose first element is (row0, col0).
template <class Tile>
__device__ void write_tile(const Matmul<float>& p, const Tile& tile, int row0, int col0) {
  const bool aligned = aligned_16({p.C.data, p.C.row, p.C.col, p.C.batch});
  tile.for_each_4([&](int m, int n, const float (&sums)[4]) {
    if (row0 + m < p.M) write_4(p, row0 + m, col0 + n, sums, aligned);
  });
}

// load_tile_4 by asynchronous copies, which do not pass through registers. Those that lie along a
// row of the tile take 16 bytes at a time. What has to be transposed, or is not aligned, takes 4.
template <int NUM_THREADS, int LENGTH, int BK, int STRIDE>
__device__ void load_tile_async(float (&tile)[BK][STRIDE], const Matrix<const float>& source,
                                int i0, int k0, int rows, int cols) {
  static_assert(BK * LENGTH % (4 * NUM_THREADS) == 0, "each thread starts as many copies");
  const bool along_k = source.col == 1;
  if (!along_k && aligned_16(source)) {
#pragma unroll
    for (int start = 0; start < BK * LENGTH / 4; start += NUM_THREADS) {
      const int four = start + threadIdx.x;
      const int i = four % (LENGTH / 4) * 4, k = four / (LENGTH / 4);
      const int count = k0 + k < cols ? max(0, min(4, rows - (i0 + i))) : 0;
      const float* from = count > 0 ? source.at(i0 + i, k0 + k) : source.data;
      cp_async_16(&tile[k][i], from, count * sizeof(float));
    }
    return;
  }
#pragma unroll
  for (int start = 0; start < BK * LENGTH; start += NUM_THREADS) {
    const int element = start + threadIdx.x;
    const int i = along_k ? element / BK : element % LENGTH;
    const int k = along_k ? element % BK : element / LENGTH;
    const bool exists = i0 + i < rows && k0 + k < cols;
    const float* from = exists ? source.at(i0 + i, k0 + k) : source.data;
    cp_async_4(&tile[k][i], from, exists ? sizeof(float) : 0);
  }
}
