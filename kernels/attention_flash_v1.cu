// attention_flash_v1.cu: FlashAttention, algorithm 1, with tile sizes of the caller's choice. The
// contract is in attention.cu.
//
// Rungs
//   flash_v1   a tile of scores at a time, keys outside, queries inside: sums in memory
#include <type_traits>

#include "attention.cuh"

// ------------------------------------------------------------------------------------------------
// flash_v1: tiles of keys outside, tiles of queries inside, online softmax (any type)
// Idea     A tile of BM x BN scores needs no whole rows: per query the maximum m, the sum l and O
//          over the keys so far are kept, and corrected when a tile raises m (FlashAttention,
//          algorithm 1): l_new = alpha l + sum(exp(s - m_new)), O_new = (alpha l O + exp(s - m_new)
//          V) / l_new, with alpha = exp(m - m_new).
// Changes  vs fused_row: a block has a head, not a query. K and V are read once, BN rows at a time;
//          Q is read, and O, m and l are read and written, once for each tile of keys.
// Bytes    Per score: 4 D / BN each for Q read, O read and O written, 12 at D = BN = 64 (fused_row:
//          512): BN / 3 = 21 FLOP per byte. In addition all lanes of a warp read m and l, the same
//          numbers: 4.
// Shape    512 threads per head, 66.5 KiB smem at D = 64 and 64 x 64 tiles. 4 __syncthreads per
//          tile, one more where a mask looks at pairs. Tiles without a visible pair are left out.
//          Scratch memory: 8 bytes per query; 16-bit types: 4 Dv more, for O.
// Trap     One block per head: every tile of keys updates all of O, so no two blocks can share a
//          head. B * H = 16 blocks leave 116 of 132 SMs idle: slower than fused_row, whose blocks
//          are B * H * Nq, at a 43rd of its bytes. With 132 heads it would take as long as with 16.
// Declines tiles that exceed shared memory. Sizes that are not given are halved until they fit.
// Next     flash swaps the loops: a block per tile of queries, whose O stays in registers.
constexpr int FLASH_V1_BM = 64;            // tunable: 16, 32, 64, 128
constexpr int FLASH_V1_BN = 64;            // tunable: 16, 32, 64, 128
constexpr int FLASH_V1_NUM_THREADS = 512;  // tunable: 128, 256, 512
constexpr int FLASH_V1_WARPS = FLASH_V1_NUM_THREADS / 32;
constexpr int FLASH_V1_TM = 4;  // queries that a warp computes at a time

// Shared memory. Rows of Q and K are padded to an odd number of 16-byte units: the 8 lanes served
// at a time read one unit each of 8 rows, and these cover all 32 banks once. Beyond queries, keys
// and D there are zeros.
//
//           row          keys               Dv
//         +-------+   +--------+  keys  +--------+
//    rows | Q     |   | S / P  |        |   V    |  keys
//         +-------+   +--------+        +--------+
//    keys | K     |
//         +-------+
struct FlashV1Tiles {
  int BM, BN;
  int rows, keys;  // BM in multiples of TM, BN in multiples of 4
  int row;         // numbers in a row of Q_smem and K_smem
  int Dv;

  FlashV1Tiles(int BM, int BN, int D, int Dv)
      : BM(BM),
        BN(BN),
        rows(ceil_div(BM, FLASH_V1_TM) * FLASH_V1_TM),
        keys(ceil_div(BN, 4) * 4),
        row((ceil_div(D, 4) | 1) * 4),
        Dv(Dv) {}

  // Of shared memory; double, because the caller's sizes may be large.
  double bytes(int bytes_of_number) const {
    const double numbers =
        (double(rows) + keys) * row + double(rows) * (keys + 2) + double(keys) * Dv;
    return numbers * bytes_of_number;
  }
};

// What a query keeps from tile to tile.
template <class Number>
struct FlashV1Sums {
  Number *m, *l;  // [B, H, Nq]; m in units of log2
  Number* O;      // [B, H, Nq, Dv], or nullptr: O itself
};

// Copies a matrix of rows * cols elements to the tile, a warp per row; the rest of it becomes 0.
template <class T, class Number>
__device__ void load_rows(Number* tile, int tile_rows, int tile_cols, const T* src, int64_t ld,
                          int rows, int cols) {
  for (int row = threadIdx.x / 32; row < tile_rows; row += FLASH_V1_WARPS) {
    for (int d = threadIdx.x % 32; d < tile_cols; d += 32) {
      const bool inside = row < rows && d < cols;
      tile[row * tile_cols + d] = inside ? static_cast<Number>(src[row * ld + d]) : Number(0);
    }
  }
}

template <class T>
__global__ __launch_bounds__(FLASH_V1_NUM_THREADS, 1) void attention_flash_v1_kernel(
    const __grid_constant__ Attention<T> p, const FlashV1Tiles tiles,
    const FlashV1Sums<Sum<T>> sums) {
  using Number = Sum<T>;
  constexpr int TM = FLASH_V1_TM, WARPS = FLASH_V1_WARPS, NUM_THREADS = FLASH_V1_NUM_THREADS;
  extern __shared__ float4 flash_v1_smem[];                   // float4 for its alignment
  Number* Q_smem = reinterpret_cast<Number*>(flash_v1_smem);  // [rows, row]
  Number* K_smem = Q_smem + tiles.rows * tiles.row;           // [keys, row]
  Number* S_smem = K_smem + tiles.keys * tiles.row;           // [rows, keys]: S, then P
  Number* keep_smem = S_smem + tiles.rows * tiles.keys;       // [rows]: factor of O so far
  Number* gain_smem = keep_smem + tiles.rows;                 // [rows]: factor of P V
  Number* V_smem = gain_smem + tiles.rows;                    // [keys, Dv]

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Head<T> head = p.head(blockIdx.x);
  const Number scale_log2 = p.scale * Number(LOG2_E);
  Number* m_sum = sums.m + int64_t{blockIdx.x} * p.Nq;
  Number* l_sum = sums.l + int64_t{blockIdx.x} * p.Nq;
  Number* O_sum;  // [Nq, Dv]
  int64_t ld_O = p.Dv;
  if constexpr (std::is_same_v<T, Number>) {
    O_sum = head.O;
    ld_O = p.o.row;
  } else {
    O_sum = sums.O + int64_t{blockIdx.x} * p.Nq * p.Dv;
  }

  // Prologue: no query has seen a key yet.
  for (int query = warp; query < p.Nq; query += WARPS) {
    for (int d = lane; d < p.Dv; d += 32) O_sum[query * ld_O + d] = 0;
    if (lane == 0) {
      m_sum[query] = -INFINITY;
      l_sum[query] = 0;
    }
  }

  for (int k0 = 0; k0 < p.Nk; k0 += tiles.BN) {
    const int keys = min(tiles.BN, p.Nk - k0);
    load_rows(K_smem, tiles.keys, tiles.row, head.K + k0 * p.k.row, p.k.row, keys, p.D);
    load_rows(V_smem, tiles.keys, p.Dv, head.V + k0 * p.v.row, p.v.row, keys, p.Dv);
    for (int q0 = 0; q0 < p.Nq; q0 += tiles.BM) {
      const int rows = min(tiles.BM, p.Nq - q0);

      // Where one has to look at each pair, S_smem gets what is added to its score. Tiles without a
      // visible pair are left out.
      const Visible tile = visible(p, q0, q0 + rows, k0, k0 + keys);
      if (tile == Visible::none) continue;
      if (tile == Visible::some) {
        bool any = false;
        for (int r = warp; r < rows; r += WARPS) {
          for (int n = lane; n < keys; n += 32) {
            const bool sees = p.sees(head, q0 + r, k0 + n);
            any |= sees;
            S_smem[r * tiles.keys + n] =
                sees ? p.bias(head, q0 + r, k0 + n) * Number(LOG2_E) : -Number(INFINITY);
          }
        }
        if (!__syncthreads_or(any)) continue;
      }
      load_rows(Q_smem, tiles.rows, tiles.row, head.Q + q0 * p.q.row, p.q.row, rows, p.D);
      __syncthreads();  // Q, K and V are complete; at first, so are m, l and O

      // S = scale Q K^T + bias, TM queries and a key per thread, 4 steps of d per trip: 1 + TM
      // loads of 16 B for 4 TM FMA.
      for (int i = threadIdx.x; i < tiles.rows / TM * tiles.keys; i += NUM_THREADS) {
        const int r0 = i / tiles.keys * TM, n = i % tiles.keys;
        Number s[TM] = {};
#pragma unroll 1
        for (int d = 0; d < p.D; d += 4) {
          const auto K_frag = load_4(&K_smem[n * tiles.row + d]);
#pragma unroll
          for (int j = 0; j < TM; ++j) {
            const auto Q_frag = load_4(&Q_smem[(r0 + j) * tiles.row + d]);
#pragma unroll
            for (int u = 0; u < 4; ++u) s[j] += Q_frag.element[u] * K_frag.element[u];
          }
        }
#pragma unroll
        for (int j = 0; j < TM; ++j) {
          Number& score = S_smem[(r0 + j) * tiles.keys + n];
          const Number added = n >= keys                                ? -Number(INFINITY)
                               : tile == Visible::some && r0 + j < rows ? score
                                                                        : Number(0);
          score = added == -INFINITY ? added : s[j] * scale_log2 + added;
        }
      }
      __syncthreads();  // S is complete

      // S becomes P, and m and l become those of all keys so far: a warp per query.
      for (int r = warp; r < rows; r += WARPS) {
        Number* s = S_smem + r * tiles.keys;
        const Number m_old = m_sum[q0 + r], l_old = l_sum[q0 + r];
        Number m_new = m_old;
        for (int n = lane; n < tiles.keys; n += 32) m_new = max(m_new, s[n]);
        m_new = group_reduce(m_new, Max());
        const Number base = exponent_base(m_new);
        Number l_tile = 0;
        for (int n = lane; n < tiles.keys; n += 32) {
          s[n] = exp2(s[n] - base);
          l_tile += s[n];
        }
        l_tile = group_reduce(l_tile, Add());
        const Number alpha = m_new > m_old ? exp2(m_old - base) : Number(1);
        const Number l_new = l_old * alpha + l_tile;
        const Number inverse = l_new == 0 ? Number(0) : 1 / l_new;
        __syncwarp();  // no lane still reads m and l
        if (lane == 0) {
          m_sum[q0 + r] = m_new;
          l_sum[q0 + r] = l_new;
          keep_smem[r] = l_old * alpha * inverse;
          gain_smem[r] = inverse;
        }
      }
      __syncthreads();  // P and its factors are complete

      // O = keep O + gain P V, TM queries and a column per thread, 4 keys per trip: TM loads of
      // 16 B of P and 4 of V for 4 TM FMA.
      for (int i = threadIdx.x; i < tiles.rows / TM * p.Dv; i += NUM_THREADS) {
        const int r0 = i / p.Dv * TM, d = i % p.Dv;
        Number acc[TM] = {};
#pragma unroll 1
        for (int n = 0; n < tiles.keys; n += 4) {
          Four<Number> P_frag[TM];
#pragma unroll
          for (int j = 0; j < TM; ++j) P_frag[j] = load_4(&S_smem[(r0 + j) * tiles.keys + n]);
#pragma unroll
          for (int u = 0; u < 4; ++u) {
            const Number v = V_smem[(n + u) * p.Dv + d];
#pragma unroll
            for (int j = 0; j < TM; ++j) acc[j] += P_frag[j].element[u] * v;
          }
        }
#pragma unroll
        for (int j = 0; j < TM; ++j) {
          if (r0 + j >= rows) continue;
          Number& o = O_sum[(q0 + r0 + j) * ld_O + d];
          o = keep_smem[r0 + j] * o + gain_smem[r0 + j] * acc[j];
        }
      }
      __syncthreads();  // no warp still reads Q, P and its factors; K and V, after the last tile
    }
  }

  // Epilogue: LSE, and O in its own type.
  __syncthreads();  // m, l and O are complete, even without a tile
  for (int query = warp; query < p.Nq; query += WARPS) {
    if constexpr (!std::is_same_v<T, Number>) {
      for (int d = lane; d < p.Dv; d += 32) {
        head.O[query * p.o.row + d] = static_cast<T>(O_sum[query * ld_O + d]);
      }
    }
    const Number l = l_sum[query], base = exponent_base(m_sum[query]);
    if (lane == 0) head.LSE[query] = l == 0 ? -Number(INFINITY) : base * Number(LN_2) + log(l);
  }
}

// The caller's tile sizes, or the own ones, halved until they fit into shared memory.
static FlashV1Tiles flash_v1_tiles(const AttentionProblem& p, int bytes_of_number, int most) {
  const auto size = [](int wanted, int own, int64_t N) {
    return static_cast<int>(min(int64_t{wanted > 0 ? wanted : own}, max(N, int64_t{1})));
  };
  for (int BM = FLASH_V1_BM, BN = FLASH_V1_BN;; BM /= 2, BN /= 2) {
    const FlashV1Tiles tiles(size(p.block_queries, BM, p.Q.size[2]),
                             size(p.block_keys, BN, p.K.size[2]), static_cast<int>(p.Q.size[3]),
                             static_cast<int>(p.V.size[3]));
    if (tiles.bytes(bytes_of_number) <= most || min(BM, BN) <= FLASH_V1_TM) return tiles;
  }
}

template <class T>
static void launch_flash_v1(const AttentionProblem& problem, cudaStream_t stream) {
  using Number = Sum<T>;
  const Attention<T> p = lowered<T>(problem);
  const int64_t rows = p.heads() * p.Nq;
  if (rows == 0) return;
  if (p.heads() > MAX_GRID_X) throw LaunchError("attention flash_v1: B * H is above 2^31 - 1");
  FlashV1Sums<Number> sums = {
      .m = static_cast<Number*>(problem.workspace(rows * sizeof(Number))),
      .l = static_cast<Number*>(problem.workspace(rows * sizeof(Number))),
      .O = nullptr,
  };
  if (!std::is_same_v<T, Number>) {
    sums.O = static_cast<Number*>(problem.workspace(rows * p.Dv * sizeof(Number)));
  }
  const FlashV1Tiles tiles = flash_v1_tiles(problem, sizeof(Number), most_shared_memory());
  const auto bytes = static_cast<int>(tiles.bytes(sizeof(Number)));
  const auto kernel = attention_flash_v1_kernel<T>;
  allow_shared_memory(kernel, bytes);
  const auto grid = static_cast<unsigned>(p.heads());
  kernel<<<grid, FLASH_V1_NUM_THREADS, bytes, stream>>>(p, tiles, sums);
  CUDA_CHECK_LAUNCH(attention_flash_v1_kernel);
}

const char* attention_flash_v1_declines(const AttentionProblem& p) {
  if (const char* why = declines_long_rows(p)) return why;
  const int bytes_of_number = p.Q.dtype == DType::float64 ? 8 : 4;
  const int most = most_shared_memory();
  const FlashV1Tiles tiles = flash_v1_tiles(p, bytes_of_number, most);
  const double needed = tiles.bytes(bytes_of_number);
  if (needed <= most) return nullptr;
  return reason("tiles of %d queries and %d keys need %.0f bytes of shared memory; this GPU has %d",
                tiles.BM, tiles.BN, needed, most);
}

void attention_flash_v1(const AttentionProblem& p, cudaStream_t stream) {
  with_type(p, [&](auto type) { launch_flash_v1<decltype(type)>(p, stream); });
}
