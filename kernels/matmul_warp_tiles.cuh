// matmul_warp_tiles.cuh: how a warp covers its part of a block's tile of C, fp32.
#pragma once

#include <type_traits>

#include "matmul.cuh"
#include "ptx.cuh"

// A block's tile of BM x BN elements of C is divided among warps, WM x WN each, and that among 8 x 4
// lanes, each of which has 4 x 4 elements, GROUPS_M x GROUPS_N times:
//
//                          columns 0..3   4..7   8..11  12..15   16..19 ...
//           rows  0.. 3    lane    0       2       4       6        0
//                 4.. 7            1       3       5       7        1
//                 8..11            8      10      12      14        8
//                ..
//                28..31           25      27      29      31       25
//                32..35            0       2       4       6        0
//
// A warp's read of 16 bytes per lane takes four wavefronts, one for each quarter of its lanes; two,
// if all pairs of lanes i, i ^ 1, or all pairs i, i ^ 2, want the same. Here the first holds for
// the reads of B_smem, the second for those of A_smem.
template <int BLOCK_M, int BLOCK_N, int WM, int WN>
struct WarpTile {
  static constexpr int BM = BLOCK_M, BN = BLOCK_N;
  static_assert(BM % WM == 0 && BN % WN == 0, "warps cover the block's tile");
  static_assert(WM % 32 == 0 && WN % 16 == 0, "8 x 4 lanes with 4 x 4 elements cover the warp's");
  static constexpr int NUM_THREADS = BM / WM * (BN / WN) * 32;
  static constexpr int GROUPS_M = WM / 32, GROUPS_N = WN / 16;
  static_assert(NUM_THREADS <= 1024, "a block has at most 1024 threads");

  int m, n;  // the lane's first row and column within the block's tile
  float acc[GROUPS_M * 4][GROUPS_N][4] = {};

  __device__ WarpTile() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    m = warp / (BN / WN) * WM + (lane / 8 * 2 + lane % 2) * 4;
    n = warp % (BN / WN) * WN + lane / 2 % 4 * 4;
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
  constexpr bool MANY = Tile::GROUPS_M * 4 * Tile::GROUPS_N > 8;
  const bool aligned = aligned_4(p), plain = is_plain(p);
  tile.for_each_4([&](int m, int n, const float (&sums)[4]) {
    const int row = row0 + m, col = col0 + n;
    const Four<float> four = {sums[0], sums[1], sums[2], sums[3]};
    if (!MANY) {
      write_4(p, row, col, four, aligned);
    } else if (plain && row < p.M && col + 4 <= p.N) {
      *reinterpret_cast<Four<float>*>(p.C.of_batch(blockIdx.z).at(row, col)) = four;
    } else {
      call_write_4(p, row, col, four);
    }
  });
}

// A thread's share of the asynchronous copies that load a tile, as load_tile_4 does. They do not
// pass through registers. WIDE: 16 bytes each, along the row of the tile. Otherwise, for what has
// to be transposed or is not aligned, 4 bytes, adjacent threads along k.
//
// What stays the same from tile to tile is computed once.
template <int NUM_THREADS, int BK, int LENGTH, bool WIDE>
class AsyncCopies {
  static constexpr int WIDTH = WIDE ? 4 : 1;  // floats per copy
  static constexpr int COPIES = BK * LENGTH / (WIDTH * NUM_THREADS);
  static constexpr int ALONG = WIDE ? LENGTH / WIDTH : BK;  // adjacent threads, before they wrap
  static_assert(BK * LENGTH % (WIDTH * NUM_THREADS) == 0, "each thread starts as many copies");
  static_assert(NUM_THREADS % ALONG == 0, "a thread's copies are a constant distance apart");
  static constexpr int APART = NUM_THREADS / ALONG;  // rows of the tile if WIDE, else columns

 public:
  // The tiles begin at row i0 of the source, which is rows x cols, and at column k0.
  __device__ AsyncCopies(const Matrix<const float>& source, int i0, int rows, int k0, int cols) {
    const int first = threadIdx.x % ALONG, second = threadIdx.x / ALONG;
    i_ = WIDE ? first * WIDTH : second;
    k_ = WIDE ? second : first;
    rows_left_ = rows - (i0 + i_);
    cols_left_ = cols - (k0 + k_);
    from_ = source.at(i0 + i_, k0 + k_);
    apart_ = APART * (WIDE ? source.col_stride : source.row_stride);
    next_ = BK * source.col_stride;
  }

  // Starts copying the next tile. What does not exist becomes 0, and its address is not used.
  template <int STRIDE>
  __device__ void start(float (&tile)[BK][STRIDE]) {
    const int width = WIDE ? max(0, min(4, rows_left_)) : 1;
#pragma unroll
    for (int c = 0; c < COPIES; ++c) {
      const bool exists = c * APART < (WIDE ? cols_left_ : rows_left_) && (WIDE || cols_left_ > 0);
      const int bytes = exists ? width * sizeof(float) : 0;
      if constexpr (WIDE) {
        cp_async_16(&tile[k_ + c * APART][i_], from_ + c * apart_, bytes);
      } else {
        cp_async_4(&tile[k_][i_ + c * APART], from_ + c * apart_, bytes);
      }
    }
    from_ += next_;
    cols_left_ -= BK;
  }

 private:
  const float* from_;          // of the first copy
  int64_t apart_, next_;       // from one copy, from one tile to the next
  int i_, k_;                  // of the first copy, in the tile
  int rows_left_, cols_left_;  // of the source, from there on
};

// The sums of the tile's elements of C over steps begin..end-1 of k, with STAGES pairs of tiles on
// their way. The block's part of A begins at row0, that of B at col0.
template <class Tile, int BK, int STAGES, bool A_WIDE, bool B_WIDE>
__device__ void multiply_async(Tile& tile, const Matrix<const float>& A,
                               const Matrix<const float>& B, const Matmul<float>& p, int row0,
                               int col0, int begin, int end) {
  constexpr int BM = Tile::BM, BN = Tile::BN, NUM_THREADS = Tile::NUM_THREADS, PAD = 4;
  static_assert(STAGES >= 2, "one stage is multiplied while another is filled");
  static_assert(STAGES * BK * (BM + BN + 2 * PAD) * sizeof(float) <= 48 * 1024,
                "a kernel has at most 48 KiB of shared memory, unless it is dynamic");
  __shared__ alignas(16) float A_smem[STAGES][BK][BM + PAD];
  __shared__ alignas(16) float B_smem[STAGES][BK][BN + PAD];

  AsyncCopies<NUM_THREADS, BK, BM, A_WIDE> A_copies(A, row0, p.M, begin, end);
  AsyncCopies<NUM_THREADS, BK, BN, B_WIDE> B_copies(B.transposed(), col0, p.N, begin, end);
  const int trips = ceil_div(end - begin, BK);
  // Always commits: so the number of groups in flight says which have arrived.
  const auto start = [&](int trip) {
    const int stage = trip % STAGES;
    if (trip < trips) {
      A_copies.start(A_smem[stage]);
      B_copies.start(B_smem[stage]);
    }
    cp_async_commit();
  };
  for (int trip = 0; trip < STAGES - 1; ++trip) start(trip);

  for (int trip = 0; trip < trips; ++trip) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();  // this trip's tiles are complete; no warp still reads those of the last
    start(trip + STAGES - 1);

    const int stage = trip % STAGES;
#pragma unroll
    for (int k = 0; k < BK; ++k) tile.multiply(A_smem[stage][k], B_smem[stage][k]);
  }
}

// Returns run(a_wide, b_wide): whether tiles of A and B can be loaded 16 bytes at a time.
template <class Run>
void with_widths(const Matmul<float>& p, Run run) {
  const auto wide = [](const Matrix<const float>& m) { return m.col_stride != 1 && aligned_16(m); };
  const bool a = wide(p.A), b = wide(p.B.transposed());
  if (a && b) return run(std::true_type(), std::true_type());
  if (a) return run(std::true_type(), std::false_type());
  if (b) return run(std::false_type(), std::true_type());
  return run(std::false_type(), std::false_type());
}
