// attention_warp_dot.cu: attention with one score at a time. The contract is in attention.cu.
//
// Rungs
//   warp_dot   a warp computes a score as a dot product over its lanes, then updates m, l and O
#include "attention.cuh"

// ------------------------------------------------------------------------------------------------
// warp_dot: one score at a time by a warp's dot product (any type)
// Idea     Lane t of a warp has the columns t, t + 32, ... of q, k, v and o. A score is a dot
//          product over the lanes, added up by shuffles, and after each score m, l and o are
//          corrected: o = alpha o + exp(s - m_new) v, with alpha = exp(m - m_new). (As in
//          vectorquantized/100daysofcuda, day 31.)
// Changes  vs flash_v1: the loops are swapped. A block has a tile of queries, whose m, l and O stay
//          in registers: B * H * Nq / 64 blocks instead of B * H. There is no tile of scores.
// FLOP/B   Global: 4 BM BN D FLOP per 2 BN D floats of K and V = BM / 2 = 32. Shared: K and V are
//          read once for TM = 8 queries: 4 TM D FLOP per 8 D bytes = 4.
// Shape    256 threads, 64 queries by 32 keys, 16 KiB smem at D = 64. 2 __syncthreads per tile, one
//          more where a mask looks at pairs. Tiles without a visible pair are not visited.
// Trap     Per score a warp does 5 shuffles, 5 additions and 2 exp2 for D / 16 = 4 FMA at D = 64,
//          and shuffles have a quarter of the FMA's rate.
// Declines head dimensions above 256.
// Next     flash: lanes split the keys, and none of them needs another's part of a score.
constexpr int WARP_DOT_BM = 64;            // tunable: 32, 64
constexpr int WARP_DOT_BN = 32;            // tunable: 32, 64
constexpr int WARP_DOT_NUM_THREADS = 256;  // tunable: 128, 256
constexpr int WARP_DOT_WARPS = WARP_DOT_NUM_THREADS / 32;

// What lane t of a warp has of a score, D = 64:
//
//            0 .. 31   32 .. 63
//          +---------+---------+
//      q   |    t    | 32 + t  |   registers, for each of the warp's TM queries; acc_o alike
//      k   |    t    | 32 + t  |   a row of K_smem: 32 neighbours at a time, 32 banks
//          +---------+---------+
//      s = sum over both and over the lanes: 5 shuffles, after which all lanes have it
template <class Number, int D>
struct WarpDotTiles {
  // Of longer rows, as many would not fit into a warp's registers.
  static constexpr int BM = D * sizeof(Number) > 512 ? WARP_DOT_BM / 4 : WARP_DOT_BM;
  static constexpr int BN = WARP_DOT_BN;
  Number K_smem[BN][D];
  Number V_smem[BN][D];
};

// Copies rows 0 .. rows - 1 and columns 0 .. cols - 1 of src to the tile; the rest of it becomes 0.
template <class T, class Number, int ROWS, int COLS>
__device__ void load_tile(Number (&tile)[ROWS][COLS], const T* src, int64_t ld, int rows,
                          int cols) {
#pragma unroll 4
  for (int i = threadIdx.x; i < ROWS * COLS; i += WARP_DOT_NUM_THREADS) {
    const int row = i / COLS, d = i % COLS;
    tile[row][d] = row < rows && d < cols ? static_cast<Number>(src[row * ld + d]) : Number(0);
  }
}

// 2^x; in fp32 a single instruction, as there are two of them per score.
__device__ inline float power_of_2(float x) { return ex2(x); }
__device__ inline double power_of_2(double x) { return exp2(x); }

template <class T, int D>
__global__ __launch_bounds__(WARP_DOT_NUM_THREADS) void attention_warp_dot_kernel(
    const __grid_constant__ Attention<T> p) {
  using Number = Sum<T>;
  using Tiles = WarpDotTiles<Number, D>;
  constexpr int BM = Tiles::BM, BN = Tiles::BN;
  constexpr int TM = BM / WARP_DOT_WARPS;  // queries per warp
  constexpr int TD = D / 32;               // columns per lane
  static_assert(BM % WARP_DOT_WARPS == 0 && BN % 32 == 0, "warps share evenly");
  extern __shared__ float4 smem[];  // float4 for its alignment
  auto& [K_smem, V_smem] = *reinterpret_cast<Tiles*>(smem);

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int q_tiles = ceil_div(p.Nq, BM);
  const Head<T> head = p.head(blockIdx.x / q_tiles);
  const int q0 = blockIdx.x % q_tiles * BM;
  const int first = q0 + warp * TM;  // of this warp's queries
  const Number scale_log2 = p.scale * Number(LOG2_E);

  Number q[TM][TD];  // scaled: scores are in units of log2
  Number acc_o[TM][TD] = {};
  Number m[TM], l[TM];  // the same in all lanes
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    m[i] = -INFINITY;
    l[i] = 0;
#pragma unroll
    for (int c = 0; c < TD; ++c) {
      const int d = lane + 32 * c;
      const bool inside = first + i < p.Nq && d < p.D;
      q[i][c] =
          inside ? static_cast<Number>(head.Q[(first + i) * p.q.row + d]) * scale_log2 : Number(0);
    }
  }

  for (int k0 = 0; k0 < p.Nk; k0 += BN) {
    // Bit i + TM * j of `shown` is about query i of the warp and this lane's j-th key.
    const auto pair = [&](int n) { return Pair{first + n % TM, k0 + lane + 32 * (n / TM)}; };
    uint64_t shown;
    if (!any_visible<TM * BN / 32>(p, head, q0, BM, k0, BN, pair, shown)) continue;
    load_tile(K_smem, head.K + k0 * p.k.row, p.k.row, p.Nk - k0, p.D);
    load_tile(V_smem, head.V + k0 * p.v.row, p.v.row, p.Nk - k0, p.Dv);
    __syncthreads();  // K and V are complete

    // Of the 32 keys from n on: which of them query i sees, a bit each, and this lane's own bias.
    uint32_t sees[TM];
    Number bias[TM];
#pragma unroll 1
    for (int n = 0; n < BN; ++n) {
      if (n % 32 == 0) {
#pragma unroll
        for (int i = 0; i < TM; ++i) {
          const bool seen = shown >> (n / 32 * TM + i) & 1;
          sees[i] = __ballot_sync(ALL_LANES, seen);
          bias[i] = seen ? p.bias(head, first + i, k0 + n + lane) * Number(LOG2_E) : Number(0);
        }
      }
      Number k[TD], v[TD];
#pragma unroll
      for (int c = 0; c < TD; ++c) {
        k[c] = K_smem[n][lane + 32 * c];
        v[c] = V_smem[n][lane + 32 * c];
      }
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        // The lane that has the bias starts its sum with it.
        Number s = lane == n % 32 ? bias[i] : Number(0);
#pragma unroll
        for (int c = 0; c < TD; ++c) s += q[i][c] * k[c];
        s = group_reduce(s, Add());
        if ((sees[i] >> (n % 32) & 1) == 0) s = -INFINITY;
        const Number m_new = max(m[i], s), base = exponent_base(m_new);
        const Number alpha = power_of_2(m[i] - base), prob = power_of_2(s - base);
        m[i] = m_new;
        l[i] = l[i] * alpha + prob;
#pragma unroll
        for (int c = 0; c < TD; ++c) acc_o[i][c] = acc_o[i][c] * alpha + prob * v[c];
      }
    }
    __syncthreads();  // no warp still reads K and V, which the next trip overwrites
  }

#pragma unroll
  for (int i = 0; i < TM; ++i) {
    if (first + i >= p.Nq) break;
    const bool sees_none = l[i] == 0;  // every score was -inf
    const Number inverse = sees_none ? Number(0) : 1 / l[i];
#pragma unroll
    for (int c = 0; c < TD; ++c) {
      const int d = lane + 32 * c;
      if (d < p.Dv) head.O[(first + i) * p.o.row + d] = static_cast<T>(acc_o[i][c] * inverse);
    }
    if (lane == 0) {
      head.LSE[first + i] =
          sees_none ? -Number(INFINITY) : exponent_base(m[i]) * Number(LN_2) + log(l[i]);
    }
  }
}

template <class T, int D>
static void launch_warp_dot(const Attention<T>& p, cudaStream_t stream) {
  using Tiles = WarpDotTiles<Sum<T>, D>;
  const int64_t blocks = p.heads() * ceil_div(p.Nq, Tiles::BM);
  if (blocks == 0) return;
  if (blocks > MAX_GRID_X) {
    throw LaunchError("attention warp_dot: B * H * ceil(Nq / BM) is above 2^31 - 1");
  }
  const auto kernel = attention_warp_dot_kernel<T, D>;
  allow_shared_memory(kernel, sizeof(Tiles));
  const auto grid = static_cast<unsigned>(blocks);
  kernel<<<grid, WARP_DOT_NUM_THREADS, sizeof(Tiles), stream>>>(p);
  CUDA_CHECK_LAUNCH(attention_warp_dot_kernel);
}

// Calls run(constant) with the columns that a warp keeps in registers.
template <class Run>
static void with_warp_dot_D(int64_t D, Run run) {
  if (D <= 64) return run(std::integral_constant<int, 64>());
  if (D <= 128) return run(std::integral_constant<int, 128>());
  run(std::integral_constant<int, 256>());
}

const char* attention_warp_dot_declines(const AttentionProblem& p) {
  if (const char* why = declines_long_rows(p)) return why;
  int needed = 0;
  with_warp_dot_D(larger_D(p), [&](auto D) {
    const bool wide = p.Q.dtype == DType::float64;
    needed = wide ? sizeof(WarpDotTiles<double, D.value>) : sizeof(WarpDotTiles<float, D.value>);
  });
  return declines_shared_memory(needed);
}

void attention_warp_dot(const AttentionProblem& problem, cudaStream_t stream) {
  with_type(problem, [&](auto type) {
    using T = decltype(type);
    with_warp_dot_D(larger_D(problem),
                    [&](auto D) { launch_warp_dot<T, D.value>(lowered<T>(problem), stream); });
  });
}
