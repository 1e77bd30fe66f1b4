// attention_flash.cu: attention in one kernel. The contract is in attention.cu.
//
// Rungs
//   flash   one kernel with an online softmax: the scores never leave the SM
#include "attention.cuh"

// ------------------------------------------------------------------------------------------------
// flash: Q, K and V tiles in shared memory, online softmax (any type)
// Idea     A block owns BM queries and walks the keys BN at a time. Per query it carries the
//          running maximum m, the sum l and the unnormalised output acc_o. When a tile raises m,
//          everything summed before is scaled by alpha = exp(m_old - m_new) (FlashAttention-2,
//          algorithm 1); O = acc_o / l once, at the end.
//
//                     keys k0 .. k0 + BN
//                    +------------------+          16 lanes (tx) share a query and split its
//          BM        |  S, then P       |          keys in S and its D columns in acc_o;
//          queries   +------------------+          ty picks the queries ty, ty + 8, ... : TM = 8
//
// Changes  vs warp_dot: a tile of scores at a time. A score is one lane's own sum, without shuffles;
//          m, l and acc_o are corrected once per tile, and P passes through shared memory.
// FLOP/B   Global: 4 BM BN D FLOP per 2 BN D floats of K and V = BM / 2 = 32.
//          Shared, per thread and 4 steps of d or key: S 64 FMA per 10 loads of 16 B, acc_o (D =
//          128) 256 FMA per 8 loads of 16 B and 32 of 4 B: 0.8 and 2 FLOP per byte.
// Shape    128 threads per block, 25.5 / 37.5 / 61.5 KiB smem for D = 32 / 64 / 128: a T4 has 64.
//          4 __syncthreads per tile, one more where a mask looks at pairs. Tiles without a visible
//          pair are not visited.
// Trap     exp(-inf - -inf) is NaN: while a query has seen only scores of -inf (masked, or from an
//          input), m is -inf, and 0 is subtracted instead.
//          D is rounded up to 32, 64, 128 or 256: what is beyond it is 0, and computed.
// Declines head dimensions above 256.
// Next     A thread's tiles of 8 x 2 scores read 10 numbers for 16 FMA; and nothing is in flight while
//          the block computes.
constexpr int FLASH_BM = 64;            // tunable: 32, 64
constexpr int FLASH_BN = 32;            // tunable: 16, 32, 64
constexpr int FLASH_NUM_THREADS = 128;  // tunable: 64, 128, 256
constexpr int FLASH_LANES = 16;         // per query: half a warp, so that shuffles reach all

// Shared memory:
//
//        D + 4 floats              Rows of D floats are padded by 4: lanes that read 16 B each of
//      +-----------------+         neighbouring rows start 4 banks apart, and the 8 lanes served
//   BM |     Q_smem      |         at a time cover all 32 banks once.
//      +-----------------+  BN+16
//   BN |     KV_smem     | +------+  A warp stores P for two queries at a time, 16 lanes each: rows
//      +-----------------+ |P_smem|  that are 16 banks apart (mod 32) keep them from colliding.
//                       BM +------+
template <class Number, int D>
struct FlashTiles {
  static constexpr bool LONG = D > (sizeof(Number) == 8 ? 32 : 128);
  static constexpr int BM = LONG ? FLASH_BM / 2 : FLASH_BM;  // acc_o has to fit into registers
  static constexpr int BN = FLASH_BN;
  Number Q_smem[BM][D + 4];
  Number KV_smem[BN][D + 4];  // K, then V: with one tile for each, D = 128 exceeds a T4
  Number P_smem[BM][BN % 32 == 0 ? BN + 16 : BN];
};

// Copies rows 0 .. rows - 1 and columns 0 .. cols - 1 of src to the tile; the rest of it becomes 0,
// which adds nothing to a product. A thread goes down a column; neighbouring threads copy neighbouring
// elements: whole sectors, and no bank conflicts.
template <class T, class Number, int ROWS, int LENGTH>
__device__ void load_tile(Number (&tile)[ROWS][LENGTH], const T* src, int64_t ld, int rows,
                          int cols) {
  constexpr int COLS = LENGTH - 4, NUM_THREADS = FLASH_NUM_THREADS;
  constexpr int APART = NUM_THREADS > COLS ? NUM_THREADS / COLS : 1;
  const int row0 = threadIdx.x / COLS;
#pragma unroll
  for (int column = 0; column < COLS; column += NUM_THREADS) {
    const int d = column + threadIdx.x % COLS;
    const int end = d < cols ? rows : 0;
    const T* from = src + row0 * ld + d;
#pragma unroll 16
    for (int row = 0; row < ROWS; row += APART) {
      tile[row0 + row][d] = row0 + row < end ? static_cast<Number>(*from) : Number(0);
      from += APART * ld;
    }
  }
}

template <class T, int D>
__global__ __launch_bounds__(FLASH_NUM_THREADS, 1) void attention_flash_kernel(
    const __grid_constant__ Attention<T> p) {
  using Number = Sum<T>;
  using Tiles = FlashTiles<Number, D>;
  constexpr int BM = Tiles::BM, BN = Tiles::BN, LANES = FLASH_LANES;
  constexpr int GROUPS = FLASH_NUM_THREADS / LANES;  // queries at the same time
  constexpr int TM = BM / GROUPS;                    // queries per thread
  constexpr int TN = BN / LANES;                     // keys per thread
  constexpr int TD = D / LANES;                      // columns of O per thread
  static_assert(BM % GROUPS == 0 && BN % LANES == 0 && D % LANES == 0, "threads share evenly");
  extern __shared__ float4 smem[];  // float4 for its alignment
  auto& [Q_smem, KV_smem, P_smem] = *reinterpret_cast<Tiles*>(smem);

  // Prologue: which queries are this block's, and Q, which stays for the whole loop over the keys.
  const int tx = threadIdx.x % LANES;
  const int ty = threadIdx.x / LANES;
  const int q_tiles = ceil_div(p.Nq, BM);
  const Head<T> head = p.head(blockIdx.x / q_tiles);
  const int q0 = blockIdx.x % q_tiles * BM;
  const Number scale_log2 = p.scale * Number(LOG2_E);

  // Row i of these belongs to query q0 + ty + GROUPS * i.
  Number acc_o[TM][TD] = {};
  Number m[TM];       // maximum of the scores so far, in units of log2
  Number l[TM] = {};  // this lane's part of the sum of exp2(score - m)
#pragma unroll
  for (int i = 0; i < TM; ++i) m[i] = -INFINITY;

  load_tile(Q_smem, head.Q + q0 * p.q.row, p.q.row, p.Nq - q0, p.D);
  // Mainloop, a tile of keys per trip: load K; S = Q K^T; load V over K; S to P; acc_o += P V.
  for (int k0 = 0; k0 < p.Nk; k0 += BN) {
    const auto pair = [=](int n) {
      return Pair{q0 + ty + GROUPS * (n / TN), k0 + tx + LANES * (n % TN)};
    };
    uint64_t shown;
    if (!any_visible<TM * TN>(p, head, q0, BM, k0, BN, pair, shown)) continue;
    load_tile(KV_smem, head.K + k0 * p.k.row, p.k.row, p.Nk - k0, p.D);
    __syncthreads();  // Q and K are complete

    // S = Q K^T, 4 steps of d per trip: TM + TN loads of 16 B for 4 TM TN FMA. Lanes of equal ty
    // read the same Q_frag, one broadcast.
    Number s[TM][TN] = {};
#pragma unroll 4
    for (int d = 0; d < D; d += 4) {
      Four<Number> Q_frag[TM], K_frag[TN];
#pragma unroll
      for (int i = 0; i < TM; ++i) Q_frag[i] = load_4(&Q_smem[ty + GROUPS * i][d]);
#pragma unroll
      for (int j = 0; j < TN; ++j) K_frag[j] = load_4(&KV_smem[tx + LANES * j][d]);
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) {
#pragma unroll
          for (int u = 0; u < 4; ++u) s[i][j] += Q_frag[i].element[u] * K_frag[j].element[u];
        }
      }
    }
    __syncthreads();  // no warp still reads K
    load_tile(KV_smem, head.V + k0 * p.v.row, p.v.row, p.Nk - k0, p.Dv);

    // Scale, and add the bias if there is one: in a copy, which unlike registers has an address.
#pragma unroll
    for (int n = 0; n < TM * TN; ++n) s[n / TN][n % TN] *= scale_log2;
    if (p.mask.bias != nullptr) {
      Number scores[TM * TN];
#pragma unroll
      for (int n = 0; n < TM * TN; ++n) scores[n] = s[n / TN][n % TN];
      add_bias(head.mask, p.Nq, p.Nk, pair, Number(LOG2_E), scores);
#pragma unroll
      for (int n = 0; n < TM * TN; ++n) s[n / TN][n % TN] = scores[n];
    }

    // Online softmax, one query per trip.
#pragma unroll
    for (int i = 0; i < TM; ++i) {
      // Mask. Keys past Nk are masked like keys that a query does not see.
      Number m_new = m[i];
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        if (!(shown >> (i * TN + j) & 1)) s[i][j] = -INFINITY;
        m_new = max(m_new, s[i][j]);
      }
      // The maximum over the 16 lanes that share the query.
#pragma unroll
      for (int step = LANES / 2; step > 0; step /= 2) {
        m_new = max(m_new, __shfl_xor_sync(ALL_LANES, m_new, step));
      }
      // All 16 lanes know the new maximum. Scale down what was summed relative to the old one.
      const Number base = exponent_base(m_new);
      const Number alpha = m_new > m[i] ? exp2(m[i] - base) : Number(1);
      m[i] = m_new;
      l[i] *= alpha;
#pragma unroll
      for (int c = 0; c < TD; ++c) acc_o[i][c] *= alpha;
      // S becomes P. Each lane sums its own keys; the 16 sums are added up once, in the epilogue.
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        const Number prob = exp2(s[i][j] - base);
        l[i] += prob;
        P_smem[ty + GROUPS * i][tx + LANES * j] = prob;
      }
    }
    __syncthreads();  // V and P are complete

    // acc_o += P V, 4 keys per trip. P is one broadcast for the 16 lanes of a query.
#pragma unroll 1
    for (int n = 0; n < BN; n += 4) {
      Four<Number> P_frag[TM];
#pragma unroll
      for (int i = 0; i < TM; ++i) P_frag[i] = load_4(&P_smem[ty + GROUPS * i][n]);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
#pragma unroll
        for (int c = 0; c < TD; ++c) {
          const Number v = KV_smem[n + u][tx + LANES * c];
#pragma unroll
          for (int i = 0; i < TM; ++i) acc_o[i][c] += P_frag[i].element[u] * v;
        }
      }
    }
    __syncthreads();  // no warp still reads V or P, which the next trip overwrites
  }

  // Epilogue: add up the 16 partial sums of a query, normalise O, convert LSE from base 2.
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
      l[i] += __shfl_xor_sync(ALL_LANES, l[i], step);
    }
    const int query = q0 + ty + GROUPS * i;
    if (query >= p.Nq) continue;
    const bool sees_none = l[i] == 0;  // every score so far was -inf
    const Number inverse = sees_none ? Number(0) : 1 / l[i];
#pragma unroll
    for (int c = 0; c < TD; ++c) {
      const int d = tx + LANES * c;
      if (d < p.Dv) head.O[query * p.o.row + d] = static_cast<T>(acc_o[i][c] * inverse);
    }
    if (tx == 0) {
      head.LSE[query] =
          sees_none ? -Number(INFINITY) : exponent_base(m[i]) * Number(LN_2) + log(l[i]);
    }
  }
}

template <class T, int D>
static void launch_flash(const Attention<T>& p, cudaStream_t stream) {
  using Tiles = FlashTiles<Sum<T>, D>;
  const int64_t blocks = p.heads() * ceil_div(p.Nq, Tiles::BM);
  if (blocks == 0) return;
  if (blocks > MAX_GRID_X) {
    throw LaunchError("attention flash: B * H * ceil(Nq / BM) is above 2^31 - 1");
  }
  const auto kernel = attention_flash_kernel<T, D>;
  allow_shared_memory(kernel, sizeof(Tiles));
  const auto grid = static_cast<unsigned>(blocks);
  kernel<<<grid, FLASH_NUM_THREADS, sizeof(Tiles), stream>>>(p);
  CUDA_CHECK_LAUNCH(attention_flash_kernel);
}

// Calls run(constant) with the D that the tiles have: a thread's accumulators are registers, which
// cannot be indexed, so it is a template argument.
template <class Run>
static void with_flash_D(int64_t D, Run run) {
  if (D <= 32) return run(std::integral_constant<int, 32>());
  if (D <= 64) return run(std::integral_constant<int, 64>());
  if (D <= 128) return run(std::integral_constant<int, 128>());
  run(std::integral_constant<int, 256>());
}

const char* attention_flash_declines(const AttentionProblem& p) {
  if (const char* why = declines_long_rows(p)) return why;
  int needed = 0;
  with_flash_D(larger_D(p), [&](auto D) {
    const bool wide = p.Q.dtype == DType::float64;
    needed = wide ? sizeof(FlashTiles<double, D.value>) : sizeof(FlashTiles<float, D.value>);
  });
  return declines_shared_memory(needed);
}

void attention_flash(const AttentionProblem& problem, cudaStream_t stream) {
  with_type(problem, [&](auto type) {
    using T = decltype(type);
    with_flash_D(larger_D(problem),
                 [&](auto D) { launch_flash<T, D.value>(lowered<T>(problem), stream); });
  });
}
