// attention_cpu_simd.cpp: FlashAttention on the CPU in vector registers. The contract is in
// attention_cpu.cpp.
//
// Rungs
//   cpu_simd   a query per lane, sums in registers, the widest vectors of the machine
#include "attention_cpu.h"
#include "attention_cpu_simd.h"

// ------------------------------------------------------------------------------------------------
// cpu_simd: queries are lanes, sums are registers (fp32, bf16)
// Idea     Each lane of a vector is a query. Maximum, sum, exponential and mask are then the same
//          operation in all lanes, and no lane ever needs another's number. Of K and V one number at a
//          time goes to all lanes, so neither has to be transposed.
// Changes  vs cpu_flash: tiles are transposed, [keys, queries], and so are the sums of O. One loop,
//          multiply_add, does both products, on a tile of sums that stays in registers; exp2 is a
//          polynomial on vectors; the width of vectors is chosen when the program runs.
// FLOP/B   Loads, 8 keys by 32 queries: 512 FLOP per step for 8 + 32 floats, 3.2 (cpu_flash: 0.33).
//          Beyond the L2 cache: 128 queries share K and V, 64.
// Shape    Lanes x vectors x rows: AVX-512 16 x 2 x 8, AVX2 8 x 3 x 4, any other machine 4 x 4 x 2;
//          19 of 32 registers with AVX-512, all 16 with AVX2. A strip is NQ = lanes x vectors queries,
//          a block 4 strips. Scratch per thread: BN (NQ + D + Dv) + 4 NQ (D + Dv + 2) floats, Dv
//          rounded up to a multiple of the rows: 145 KiB for AVX-512 at D = Dv = 64.
// Trap     Code for AVX-512 must not run before the machine is known to have it, and the body of an
//          OpenMP loop becomes a function of its own, without the attribute `target`. So the loop
//          stands outside, in plain code, and calls a function per block.
// Next     Per score there are 2 D FMA in the products and 15 instructions around exp2: at D = 64 a
//          tenth. What is left is instructions that multiply bf16 itself, two at a time.
constexpr int SIMD_BN = 128;           // tunable: 32, 64, 128, 256
constexpr int SIMD_STRIPS = 4;         // tunable: 1, 2, 4, 8
constexpr float LOG2_E = 1.44269504f;  // exp(x) = exp2(x * LOG2_E)
constexpr float LN_2 = 0.693147181f;   // log(x) = log2(x) * LN_2

// Where things are in a thread's scratch memory, in floats from its start.
template <class Tile>
struct Layout {
  int64_t Dv;       // rounded up to whole tiles of sums
  int64_t O, m, l;  // in a strip, which starts with Q [D, NQ]: O [Dv, NQ], m [NQ], l [NQ]
  int64_t strip;    // floats of a strip
  int64_t P, K, V;  // after the strips: P [BN, NQ], K [BN, D], V [BN, Dv]
  int64_t floats;   // of all, whole cache lines

  Layout(int64_t D, int64_t columns)
      : Dv((columns + Tile::ROWS - 1) / Tile::ROWS * Tile::ROWS),
        O(D * Tile::NQ),
        m(O + Dv * Tile::NQ),
        l(m + Tile::NQ),
        strip(l + Tile::NQ),
        P(SIMD_STRIPS * strip),
        K(P + SIMD_BN * Tile::NQ),
        V(K + SIMD_BN * D),
        floats((V + SIMD_BN * Dv + 15) / 16 * 16) {}
};

// A tile of keys for a strip of queries: P = K Q^T, the online softmax, O += V^T P. The strip sees
// `keys` keys of the tile. All lanes see the first `common` of them, and of the others key j is seen by
// lanes hidden + j and above.
template <class Tile>
ALWAYS_INLINE void strip_by_tile(float* strip_memory, float* memory, const Layout<Tile>& at,
                                 int64_t D, int64_t keys, int64_t common, int32_t hidden) {
  constexpr int VECTORS = Tile::VECTORS, ROWS = Tile::ROWS;
  using Floats = typename Tile::Floats;
  const auto* Q = reinterpret_cast<const Floats*>(strip_memory);
  auto* O = reinterpret_cast<Floats*>(strip_memory + at.O);
  auto* m = reinterpret_cast<Floats*>(strip_memory + at.m);
  auto* l = reinterpret_cast<Floats*>(strip_memory + at.l);
  auto* P = reinterpret_cast<Floats*>(memory + at.P);
  typename Tile::LaneNumbers lane;
  for (int i = 0; i < Tile::NQ; ++i) lane[i / Tile::W][i % Tile::W] = i;

  // P = K Q^T, and the maximum.
  typename Tile::Row m_new, base, alpha, sum;
  for (int n = 0; n < VECTORS; ++n) m_new[n] = m[n];
  for (int64_t j0 = 0; j0 < keys; j0 += ROWS) {
    typename Tile::Sums acc = {};
    multiply_add<Tile>(memory + at.K + j0 * D, D, 1, Q, 0, D, acc, lane);
    if (j0 + ROWS > common) {
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        const auto first = j0 + i < common ? 0 : hidden + static_cast<int32_t>(j0 + i);
#pragma GCC unroll 8
        for (int n = 0; n < VECTORS; ++n) {
          acc[i][n] = lane[n] >= first ? acc[i][n] : Floats{} - INFINITY;
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 8
      for (int n = 0; n < VECTORS; ++n) {
        m_new[n] = acc[i][n] > m_new[n] ? acc[i][n] : m_new[n];
        P[(j0 + i) * VECTORS + n] = acc[i][n];
      }
    }
  }

  // P = exp2(P - m), and the sum. The base is what exponent_base() says, lane by lane.
#pragma GCC unroll 8
  for (int n = 0; n < VECTORS; ++n) {
    base[n] = m_new[n] == INFINITY ? Floats{} : m_new[n];
    base[n] = base[n] == -INFINITY ? Floats{} : base[n];
    alpha[n] = m[n] - base[n];
    exp2_lanes<Tile>(alpha[n]);
    sum[n] = Floats{};
  }
  for (int64_t j = 0; j < keys; ++j) {
#pragma GCC unroll 8
    for (int n = 0; n < VECTORS; ++n) {
      Floats x = P[j * VECTORS + n] - base[n];
      exp2_lanes<Tile>(x);
      sum[n] += x;
      P[j * VECTORS + n] = x;
    }
  }
  for (int n = 0; n < VECTORS; ++n) m[n] = m_new[n], l[n] = l[n] * alpha[n] + sum[n];

  // O = alpha O + V^T P. Sums of one tile first: a long sum rounds more.
  for (int64_t d0 = 0; d0 < at.Dv; d0 += ROWS) {
    typename Tile::Sums acc = {};
    const float* V = memory + at.V + d0;
    multiply_add<Tile>(V, 1, at.Dv, P, 0, common, acc, lane);
    multiply_add<Tile, true>(V, 1, at.Dv, P, common, keys, acc, lane, hidden);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 8
      for (int n = 0; n < VECTORS; ++n) {
        Floats& o = O[(d0 + i) * VECTORS + n];
        o = o * alpha[n] + acc[i][n];
      }
    }
  }
}

// Block `index` of queries by all keys that it sees.
template <class Tile, class T>
ALWAYS_INLINE void attend(const Attention<T>& p, int64_t index, float* memory) {
  constexpr int NQ = Tile::NQ, BM = SIMD_STRIPS * NQ, BN = SIMD_BN, ROWS = Tile::ROWS;
  static_assert(BN % ROWS == 0, "a tile of keys is whole tiles of sums");
  const Layout<Tile> at(p.D, p.Dv);

  // The last blocks first: with a causal mask they take longest.
  const int64_t blocks = (p.Nq + BM - 1) / BM;
  const int64_t q0 = (blocks - 1 - index % blocks) * BM, q1 = std::min(q0 + BM, p.Nq);
  const Head<T> head = p.head(index / blocks);

  // Prologue: Q transposed and scaled to units of log2; lanes beyond the last query repeat it.
  for (int64_t i = 0; i < BM; ++i) {
    float* column = memory + i / NQ * at.strip + i % NQ;
    const T* q = head.Q + std::min(q0 + i, q1 - 1) * p.q.row;
    for (int64_t d = 0; d < p.D; ++d) column[d * NQ] = to_float(q[d]) * (p.scale * LOG2_E);
    for (int64_t d = 0; d < at.Dv; ++d) column[at.O + d * NQ] = 0;
    column[at.m] = -INFINITY;
    column[at.l] = 0;
  }

  // Mainloop
  const int64_t last = p.keys_seen(q1 - 1);  // the last query sees most
  for (int64_t k0 = 0; k0 < last; k0 += BN) {
    const int64_t tile = std::min<int64_t>(BN, last - k0), rows = (tile + ROWS - 1) / ROWS * ROWS;
    load_tile(memory + at.K, rows, p.D, head.K + k0 * p.k.row, p.k.row, tile, p.D);
    load_tile(memory + at.V, tile, at.Dv, head.V + k0 * p.v.row, p.v.row, tile, p.Dv);
    for (int64_t s0 = q0; s0 < q1; s0 += NQ) {
      const int64_t keys = std::min(tile, p.keys_seen(std::min(s0 + NQ, q1) - 1) - k0);
      if (keys <= 0) continue;
      const int64_t common = std::clamp<int64_t>(p.keys_seen(s0) - k0, 0, keys);
      const auto hidden = static_cast<int32_t>(k0 - p.Nk + p.Nq - s0);
      strip_by_tile(memory + (s0 - q0) / NQ * at.strip, memory, at, p.D, keys, common, hidden);
    }
  }

  // Epilogue
  for (int64_t i = 0; i < q1 - q0; ++i) {
    const float* column = memory + i / NQ * at.strip + i % NQ;
    const float m = column[at.m], l = column[at.l];
    const float inverse = l == 0 ? 0.0f : 1 / l;  // 0: every score was -inf
    for (int64_t d = 0; d < p.Dv; ++d) {
      store(&head.O[(q0 + i) * p.o.row + d], column[at.O + d * NQ] * inverse);
    }
    if (head.LSE != nullptr) head.LSE[q0 + i] = exponent_base(m) * LN_2 + std::log(l);
  }
}

// The same for three machines. Lanes, vectors and rows: what their registers hold.
using TileAVX512 = Tile<16, 2, 8>;
using TileAVX2 = Tile<8, 3, 4>;
using TileBaseline = Tile<4, 4, 2>;

template <class T>
TARGET("avx512f,fma")
static void attend_avx512(const Attention<T>& p, int64_t index, float* memory) {
  attend<TileAVX512>(p, index, memory);
}
template <class T>
TARGET("avx2,fma")
static void attend_avx2(const Attention<T>& p, int64_t index, float* memory) {
  attend<TileAVX2>(p, index, memory);
}
template <class T>
static void attend_baseline(const Attention<T>& p, int64_t index, float* memory) {
  attend<TileBaseline>(p, index, memory);
}

template <class Tile, class T>
static void launch_simd(const AttentionProblem& problem,
                        void (*attend_block)(const Attention<T>&, int64_t, float*)) {
  constexpr int BM = SIMD_STRIPS * Tile::NQ;
  const Attention<T> p(problem);
  const int64_t blocks = p.heads() * ((p.Nq + BM - 1) / BM);
  if (blocks == 0) return;
  const int64_t floats = Layout<Tile>(p.D, p.Dv).floats;
  // One thread's more, to start at a whole cache line: vectors must not straddle two.
  void* memory = scratch(problem, omp_get_max_threads() + 1, floats);
  const auto address = (reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64;
  auto* aligned = reinterpret_cast<float*>(address);

#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < blocks; ++index) {
    attend_block(p, index, aligned + omp_get_thread_num() * floats);
  }
}

void attention_cpu_simd(const AttentionProblem& p, cudaStream_t) {
  with_type(p, [&](auto type) {
    using T = decltype(type);
    if (HAS("avx512f") && HAS("fma")) return launch_simd<TileAVX512, T>(p, attend_avx512);
    if (HAS("avx2") && HAS("fma")) return launch_simd<TileAVX2, T>(p, attend_avx2);
    launch_simd<TileBaseline, T>(p, attend_baseline);
  });
}
