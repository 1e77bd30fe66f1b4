// attention_flash_registers.cu: attention on the CUDA cores. The contract is in attention.cu.
//
// Rungs
//   flash_registers   thread tiles as large as the registers allow, tiles of K and V prefetched
#include <type_traits>

#include "attention.cuh"
#include "ptx.cuh"

// ------------------------------------------------------------------------------------------------
// flash_registers: thread tiles as in matmul, asynchronous copies (fp32)
// Idea     A thread owns TM x TN scores and TM x TD numbers of O, as many as its registers hold: a
//          number from shared memory, read 16 B at a time, is used TM, TN or TD times. No block-wide
//          barrier for P: the lanes that share a query are in one warp.
// Changes  vs flash: thread tiles of 8 x 8, not 8 x 2; Q is scaled, not the scores; cp.async copies K
//          while the block computes P V, and V while it computes S. One tile for each suffices.
// FLOP/B   Global: BM / 2 = 64 (flash: 32). Shared, D = 64, per thread: 256 FMA per 16 loads of 16 B,
//          in S as in P V: 2 FLOP per byte (flash: 0.8 and 1.3). An SM starts 4 FMA and serves one
//          wavefront per clock: these FMA take 64 clocks, their loads 32.
//          Per key and 64 FMA, P costs 2.5 instructions and 5 wavefronts, through a part of shared
//          memory that is the warp's own. Passed from register to register by shuffles it would
//          cost 8 and 8: 8 % more instructions in P V, 4 % in all.
// Shape    D <= 64: 128 threads, 254 registers, 75 KiB smem, 2 blocks per SM. D <= 128: 256 threads,
//          155 KiB. 2 __syncthreads per tile, one more where a mask looks at pairs.
// Trap     255 registers are all there are: what is rare (tiles partly visible, edges) is in functions
//          that are not inlined, and gets values: a pointer to a local puts that into memory.
// Declines head dimensions above 256; those above 64 where a block's shared memory is too small.
// Next     85 % of the instructions are FMA: what is left to gain is on the tensor cores.
constexpr int REGISTERS_UNROLL = 4;  // tunable: 1, 2, 4
constexpr int REGISTERS_CHUNK = 2;   // tunable: 1, 2
constexpr int REGISTERS_PAD = 4;     // floats: rows that 8 lanes read are 4 banks apart

// A warp's WM queries are its own. LANES lanes share a query: each has the keys tx, tx + LANES, ...
// of a tile, and of O 4 adjacent columns of every 4 LANES. lane = ty % 2 + 2 tx + ty / 2 * 2 LANES,
// here for LANES = 8:
//
//                   keys 0   1   2   3   4   5   6   7   8 ...
//     query 0 (ty = 0)   0   2   4   6   8  10  12  14   0      Lanes i and i ^ 1 read the same of K
//           1            1   3   5   7   9  11  13  15   1      and V, i and i ^ 2 of Q and P: so a
//           2           16  18  20  22  24  26  28  30  16      load of 16 B per lane takes 2
//           3           17  19  21  23  25  27  29  31  17      wavefronts, the least. Others: 4.
//           4            0 ...
template <int HEAD_D, int NUM_WARPS, int NUM_LANES, int THREAD_M, int THREAD_N, bool HAS_BIAS>
struct RegistersTiles {
  static constexpr int D = HEAD_D, WARPS = NUM_WARPS, LANES = NUM_LANES;
  static constexpr bool BIAS = HAS_BIAS;
  static constexpr int TM = THREAD_M;        // queries per thread
  static constexpr int TN = THREAD_N;        // keys per thread
  static constexpr int TD = D / LANES;       // columns of O per thread
  static constexpr int GROUPS = 32 / LANES;  // of lanes; queries at the same time
  static constexpr int WM = GROUPS * TM;
  static constexpr int BM = WARPS * WM, BN = LANES * TN;
  static constexpr int NUM_THREADS = WARPS * 32;
  static constexpr int BLOCKS = 8 / WARPS;       // per SM, at least
  static constexpr int CHUNK = REGISTERS_CHUNK;  // keys per thread that P_smem holds
  static constexpr int SLOTS = LANES * CHUNK;    // and keys
  static_assert(GROUPS % 2 == 0 && TD % 4 == 0, "the lanes are arranged as above");
  static_assert(TN % CHUNK == 0 && SLOTS % 4 == 0, "chunks are whole");

  float Q_smem[BM][D + REGISTERS_PAD];
  float K_smem[BN][D + REGISTERS_PAD];
  float V_smem[BN][D];
  // Rows 16 banks apart: lanes of two queries store, or read, without a conflict.
  float P_smem[BM][SLOTS % 32 == 16 ? SLOTS : SLOTS + 16];
};

// COUNT floats, in one access.
template <int COUNT>
struct alignas(4 * COUNT) Floats {
  float element[COUNT];
};

// Rows 0 .. rows - 1 and columns 0 .. cols - 1 of a matrix, from src on.
struct MatrixPart {
  const float* src;
  int64_t ld;
  int rows, cols;
  bool aligned;  // rows begin at multiples of 16 bytes
};

// Starts copying a part that does not fill the tile. The rest of the tile becomes 0, which adds
// nothing to a product.
template <class Tiles>
__device__ __noinline__ void start_copy_of_edge(float* tile, int tile_rows, int tile_ld,
                                                MatrixPart part) {
  const auto [src, ld, rows, cols, aligned] = part;
  const int width = aligned ? 4 : 1;
  for (int i = threadIdx.x * width; i < tile_rows * Tiles::D; i += Tiles::NUM_THREADS * width) {
    const int row = i / Tiles::D, d = i % Tiles::D;
    const int bytes = row < rows ? max(0, min(width, cols - d)) * 4 : 0;
    if (aligned) {
      cp_async_16(tile + row * tile_ld + d, src + row * ld + d, bytes);
    } else {
      cp_async_4(tile + row * tile_ld + d, src + row * ld + d, bytes);
    }
  }
}

// Starts copying a part to the tile: adjacent threads copy adjacent 16 bytes.
template <class Tiles, int ROWS, int LENGTH>
__device__ void start_copy(float (&tile)[ROWS][LENGTH], const MatrixPart& part) {
  constexpr int ALONG = Tiles::D / 4, APART = Tiles::NUM_THREADS / ALONG;
  static_assert(Tiles::NUM_THREADS % ALONG == 0 && ROWS % APART == 0, "threads share evenly");
  if (!part.aligned || part.rows < ROWS || part.cols != Tiles::D) {
    return start_copy_of_edge<Tiles>(tile[0], ROWS, LENGTH, part);
  }
  const int first = threadIdx.x / ALONG, d = threadIdx.x % ALONG * 4;
  const float* from = part.src + first * part.ld + d;
#pragma unroll
  for (int row = 0; row < ROWS; row += APART, from += APART * part.ld) {
    cp_async_16(&tile[first + row][d], from);
  }
}

// The first tile of keys from k0 on that the tile of queries from q0 on sees a part of, and which
// of this thread's pairs are visible. k0 >= Nk: none.
struct NextTile {
  int k0;
  uint64_t shown;
};
template <class Tiles>
__device__ __noinline__ NextTile next_tile(const Attention<float>& p, int q0, int k0, int ty,
                                           int tx) {
  const Head<float> head = p.head(blockIdx.x / ceil_div(p.Nq, Tiles::BM));
  uint64_t shown = 0;
  for (; k0 < p.Nk; k0 += Tiles::BN) {
    const auto pair = [=](int n) {
      return Pair{q0 + ty + Tiles::GROUPS * (n / Tiles::TN),
                  k0 + tx + Tiles::LANES * (n % Tiles::TN)};
    };
    constexpr int PAIRS = Tiles::TM * Tiles::TN;
    if (any_visible<PAIRS>(p, head, q0, Tiles::BM, k0, Tiles::BN, pair, shown)) break;
  }
  return {k0, shown};
}

// Adds the bias to a thread's scores, from (query0, key0) on, and hides what is not visible: also
// pairs past the last query or key, for which any bias does.
template <class Tiles>
__device__ void mask_scores(float (&s)[Tiles::TM][Tiles::TN], const Attention<float>& p,
                            const Head<float>& head, int query0, int key0, uint64_t shown) {
  constexpr int TN = Tiles::TN, PAIRS = Tiles::TM * TN;
#pragma unroll
  for (int n = 0; n < (Tiles::BIAS ? PAIRS : 0); ++n) {
    const int query = min(query0 + Tiles::GROUPS * (n / TN), p.Nq - 1);
    const int key = min(key0 + Tiles::LANES * (n % TN), p.Nk - 1);
    const float bias = head.mask.bias[query * head.mask.row + key * head.mask.column];
    s[n / TN][n % TN] += bias * static_cast<float>(LOG2_E);
  }
  if (shown == ~uint64_t{0}) return;
#pragma unroll
  for (int n = 0; n < PAIRS; ++n) {
    if (!(shown >> n & 1)) s[n / TN][n % TN] = -INFINITY;
  }
}

// Writes four adjacent numbers of O, times a factor; `left` columns are left in the row.
__device__ static void store_4(float* O, int left, bool aligned, const float (&four)[4],
                               float factor) {
  if (aligned && left >= 4) {
    *reinterpret_cast<float4*>(O) = {four[0] * factor, four[1] * factor, four[2] * factor,
                                     four[3] * factor};
    return;
  }
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if (w < left) O[w] = four[w] * factor;
  }
}

// aligned: rows of Q, K, V and O begin at multiples of 16 bytes.
template <class Tiles>
__global__ __launch_bounds__(
    Tiles::NUM_THREADS,
    Tiles::BLOCKS) void attention_flash_registers_kernel(const __grid_constant__ Attention<float> p,
                                                         const bool aligned) {
  if constexpr (SINCE_SM_80) {
    constexpr int D = Tiles::D, BM = Tiles::BM, BN = Tiles::BN, LANES = Tiles::LANES;
    constexpr int TM = Tiles::TM, TN = Tiles::TN, TD = Tiles::TD;
    constexpr int GROUPS = Tiles::GROUPS, CHUNK = Tiles::CHUNK, NUM_THREADS = Tiles::NUM_THREADS;
    extern __shared__ float4 smem[];  // float4 for its alignment
    auto& [Q_smem, K_smem, V_smem, P_smem] = *reinterpret_cast<Tiles*>(smem);

    // Prologue: which queries are this block's, and Q. Under a causal mask the last queries see most
    // keys: their blocks start first, so that none of them is left over at the end.
    const int lane = threadIdx.x % 32;
    const int tx = lane / 2 % LANES;
    const int ty = threadIdx.x / 32 * Tiles::WM + lane / (2 * LANES) * 2 + lane % 2;
    const int q_tiles = ceil_div(p.Nq, BM);
    const Head<float> head = p.head(blockIdx.x / q_tiles);
    const int q0 = (q_tiles - 1 - blockIdx.x % q_tiles) * BM;

    // Row i of these belongs to query q0 + ty + GROUPS * i.
    float acc_o[TM][TD] = {};
    float m[TM];       // maximum of the scores so far, in units of log2
    float l[TM] = {};  // this lane's part of the sum of exp2(score - m)
#pragma unroll
    for (int i = 0; i < TM; ++i) m[i] = -INFINITY;

    const auto start_K = [&](int k0) {
      if (k0 >= p.Nk) return;
      start_copy<Tiles>(K_smem, {head.K + k0 * p.k.row, p.k.row, p.Nk - k0, p.D, aligned});
    };
    start_copy<Tiles>(Q_smem, {head.Q + q0 * p.q.row, p.q.row, p.Nq - q0, p.D, aligned});
    NextTile next = next_tile<Tiles>(p, q0, 0, ty, tx);
    start_K(next.k0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();  // Q is complete
    const float scale_log2 = p.scale * static_cast<float>(LOG2_E);
    for (int i = threadIdx.x; i < BM * D; i += NUM_THREADS) Q_smem[i / D][i % D] *= scale_log2;

    // Mainloop, a tile of keys per trip: S = Q K^T, S becomes P, acc_o += P V.
    while (next.k0 < p.Nk) {
      const auto [k0, shown] = next;
      cp_async_wait<0>();
      __syncthreads();  // K, and Q before the first trip, are complete; no warp still reads V
      start_copy<Tiles>(V_smem, {head.V + k0 * p.v.row, p.v.row, p.Nk - k0, p.Dv, aligned});
      cp_async_commit();

      // S, in units of log2. 4 steps of d per trip: TM + TN loads for 4 TM TN FMA.
      float s[TM][TN] = {};
#pragma unroll REGISTERS_UNROLL
      for (int d = 0; d < D; d += 4) {
        Four<float> Q_frag[TM];
#pragma unroll
        for (int i = 0; i < TM; ++i) Q_frag[i] = load_4(&Q_smem[ty + GROUPS * i][d]);
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          const Four<float> K_frag = load_4(&K_smem[tx + LANES * j][d]);
#pragma unroll
          for (int i = 0; i < TM; ++i) {
#pragma unroll
            for (int u = 0; u < 4; ++u) s[i][j] += Q_frag[i].element[u] * K_frag.element[u];
          }
        }
      }
      cp_async_wait<0>();
      __syncthreads();  // V is complete; no warp still reads K

      mask_scores<Tiles>(s, p, head, q0 + ty, k0 + tx, shown);
      next = next_tile<Tiles>(p, q0, k0 + BN, ty, tx);
      start_K(next.k0);
      cp_async_commit();

      // Online softmax, as in flash: S becomes P.
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        float m_new = m[i];
#pragma unroll
        for (int j = 0; j < TN; ++j) m_new = max(m_new, s[i][j]);
#pragma unroll
        for (int step = LANES; step > 1; step /= 2) {  // tx is all bits of the lane but the lowest
          m_new = max(m_new, __shfl_xor_sync(ALL_LANES, m_new, step));
        }
        const float base = exponent_base(m_new);
        const float alpha = m_new > m[i] ? ex2(m[i] - base) : 1.0f;
        m[i] = m_new;
        l[i] *= alpha;
#pragma unroll
        for (int c = 0; c < TD; ++c) acc_o[i][c] *= alpha;
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          s[i][j] = ex2(s[i][j] - base);
          l[i] += s[i][j];
        }
      }

      // acc_o += P V, a chunk of keys after the other: slot tx * CHUNK + j of P_smem is the lane's
      // j-th key of the chunk. 4 slots per trip: TM + TD loads for 4 TM TD FMA.
#pragma unroll
      for (int j0 = 0; j0 < TN; j0 += CHUNK) {
        __syncwarp();  // no lane still reads P
#pragma unroll
        for (int i = 0; i < TM; ++i) {
          Floats<CHUNK> probs;
#pragma unroll
          for (int j = 0; j < CHUNK; ++j) probs.element[j] = s[i][j0 + j];
          *reinterpret_cast<Floats<CHUNK>*>(&P_smem[ty + GROUPS * i][tx * CHUNK]) = probs;
        }
        __syncwarp();  // P is complete
#pragma unroll 1
        for (int slot = 0; slot < Tiles::SLOTS; slot += 4) {
          Four<float> P_frag[TM];
#pragma unroll
          for (int i = 0; i < TM; ++i) P_frag[i] = load_4(&P_smem[ty + GROUPS * i][slot]);
#pragma unroll
          for (int u = 0; u < 4; ++u) {
            const int key = slot / CHUNK + u / CHUNK + LANES * (j0 + u % CHUNK);
#pragma unroll
            for (int c = 0; c < TD; c += 4) {
              const Four<float> V_frag = load_4(&V_smem[key][tx * 4 + LANES * c]);
#pragma unroll
              for (int i = 0; i < TM; ++i) {
#pragma unroll
                for (int w = 0; w < 4; ++w) {
                  acc_o[i][c + w] += P_frag[i].element[u] * V_frag.element[w];
                }
              }
            }
          }
        }
      }
    }

    // Epilogue: add up the partial sums of a query, normalise O, convert LSE from base 2.
#pragma unroll
    for (int i = 0; i < TM; ++i) {
#pragma unroll
      for (int step = LANES; step > 1; step /= 2) l[i] += __shfl_xor_sync(ALL_LANES, l[i], step);
      const int query = q0 + ty + GROUPS * i;
      if (query >= p.Nq) continue;
      const bool sees_none = l[i] == 0;  // every score so far was -inf
      const float inverse = sees_none ? 0.0f : 1 / l[i];
      float* O = head.O + query * p.o.row;
#pragma unroll
      for (int c = 0; c < TD; c += 4) {
        const int d = tx * 4 + LANES * c;
        const float four[4] = {acc_o[i][c], acc_o[i][c + 1], acc_o[i][c + 2], acc_o[i][c + 3]};
        store_4(O + d, p.Dv - d, aligned, four, inverse);
      }
      if (tx == 0) {
        const float lse = exponent_base(m[i]) * static_cast<float>(LN_2) + log(l[i]);
        head.LSE[query] = sees_none ? -INFINITY : lse;
      }
    }
  }
}

template <class Tiles>
static void launch_flash_registers(const Attention<float>& p, cudaStream_t stream) {
  const int64_t blocks = p.heads() * ceil_div(p.Nq, Tiles::BM);
  if (blocks == 0) return;
  if (blocks > MAX_GRID_X) {
    throw LaunchError("attention flash_registers: B * H * ceil(Nq / BM) is above 2^31 - 1");
  }
  const auto in_16 = [](const float* data, const Strides& s) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && (s.batch | s.head | s.row) % 4 == 0;
  };
  const bool aligned = in_16(p.Q, p.q) && in_16(p.K, p.k) && in_16(p.V, p.v) && in_16(p.O, p.o);
  const auto kernel = attention_flash_registers_kernel<Tiles>;
  allow_shared_memory(kernel, sizeof(Tiles));
  const auto grid = static_cast<unsigned>(blocks);
  kernel<<<grid, Tiles::NUM_THREADS, sizeof(Tiles), stream>>>(p, aligned);
  CUDA_CHECK_LAUNCH(attention_flash_registers_kernel);
}

// Calls run(type) with the tiles for a problem: the fastest that fit into a block's shared memory.
template <bool BIAS, class Run>
static void with_registers_tiles(const AttentionProblem& p, Run run) {
  using Large = RegistersTiles<256, 8, 8, 4, 4, BIAS>;
  using Small = RegistersTiles<256, 8, 16, 4, 2, BIAS>;
  constexpr int TN = BIAS ? 4 : 8;  // the bias' addresses need registers, too
  if (larger_D(p) <= 64) return run(std::type_identity<RegistersTiles<64, 4, 8, 8, TN, BIAS>>());
  if (larger_D(p) <= 128) return run(std::type_identity<RegistersTiles<128, 8, 16, 8, 4, BIAS>>());
  const bool fits = int{sizeof(Large)} <= most_shared_memory();
  if (fits && p.Q.size[2] > Small::BM) return run(std::type_identity<Large>());
  run(std::type_identity<Small>());
}
template <class Run>
static void with_registers_tiles(const AttentionProblem& p, Run run) {
  if (p.bias.data == nullptr) return with_registers_tiles<false>(p, run);
  with_registers_tiles<true>(p, run);
}

const char* attention_flash_registers_declines(const AttentionProblem& p) {
  if (const char* why = declines_long_rows(p)) return why;
  int needed = 0;
  with_registers_tiles(p, [&](auto tiles) { needed = sizeof(typename decltype(tiles)::type); });
  return declines_shared_memory(needed);
}

void attention_flash_registers(const AttentionProblem& problem, cudaStream_t stream) {
  with_registers_tiles(problem, [&](auto tiles) {
    launch_flash_registers<typename decltype(tiles)::type>(lowered<float>(problem), stream);
  });
}
