// attention_cpu_flash.cpp: FlashAttention on the CPU, with tile sizes of the caller's choice. The
// contract is in attention_cpu.cpp.
//
// Rungs
//   cpu_flash   a tile of queries by a tile of keys at a time, with running maximum and sum
#include "attention_cpu.h"

// ------------------------------------------------------------------------------------------------
// cpu_flash: tiles of queries outside, tiles of keys inside, online softmax (fp32, bf16)
// Idea     A row of scores need not be complete. Per query the maximum m, the sum l and O over the
//          keys so far are kept; a tile of keys that raises m first multiplies l and O by
//          exp(m_old - m_new). O is divided by l once, at the end (FlashAttention-2).
// Changes  vs cpu_fused_row: a thread has a tile of BM queries, and for each tile of BN keys it goes
//          through all of them, so K and V come from beyond the L2 cache once per BM queries. K's
//          tile is transposed on the way: then both products add up rows, and no dot product is left.
// FLOP/B   Beyond the L2 cache: 4 D FLOP per score for 8 D / BM bytes: BM / 2 = 32. In the L1 cache as
//          P V before: 0.33.
// Shape    64 queries by 64 keys, both clamped to Nq and Nk. Scratch per thread: BM (D + Dv + 2) +
//          BN (D + 1) floats, 48.8 KiB at D = Dv = 64.
// Trap     A maximum of -inf (no key yet, or scores of -inf) must not be subtracted: -inf + inf is
//          NaN. exponent_base() makes it 0, and every weight is exp(-inf) = 0.
// Next     The baseline of x86-64 has vectors of 4 and no FMA, and each sum is loaded and stored for
//          four additions: cpu_simd keeps sums in the registers of the machine that it runs on.
constexpr int FLASH_BM = 64;  // tunable: 16, 32, 64, 128
constexpr int FLASH_BN = 64;  // tunable: 16, 32, 64, 128

template <class T>
static void run_flash(const AttentionProblem& problem) {
  const Attention<T> p(problem);
  if (p.heads() == 0 || p.Nq == 0) return;
  const int br = problem.block_queries, bc = problem.block_keys;
  const int64_t BM = std::min<int64_t>(br > 0 ? br : FLASH_BM, p.Nq);
  const int64_t BN = std::min<int64_t>(bc > 0 ? bc : FLASH_BN, p.Nk);
  const int64_t q_tiles = (p.Nq + BM - 1) / BM;
  const int64_t floats = BM * (p.D + p.Dv + 2) + BN * (p.D + 1);
  float* memory = scratch(problem, omp_get_max_threads(), floats);

#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < p.heads() * q_tiles; ++index) {
    float* Q = memory + omp_get_thread_num() * floats;  // [BM, D], scaled
    float* O = Q + BM * p.D;                            // [BM, Dv], not divided by l yet
    float* m = O + BM * p.Dv;                           // [BM]
    float* l = m + BM;                                  // [BM]
    float* K = l + BM;                                  // [D, BN], K's tile transposed
    float* s = K + BN * p.D;                            // [BN], a row of the tile of scores

    // The last tiles first: with a causal mask they take longest.
    const int64_t q0 = (q_tiles - 1 - index % q_tiles) * BM, rows = std::min(BM, p.Nq - q0);
    const Head<T> head = p.head(index / q_tiles);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t d = 0; d < p.D; ++d) {
        Q[i * p.D + d] = to_float(head.Q[(q0 + i) * p.q.row + d]) * p.scale;
      }
    }
    std::fill(O, O + rows * p.Dv, 0.0f);
    std::fill(m, m + rows, -INFINITY);
    std::fill(l, l + rows, 0.0f);

    const int64_t last = p.keys_seen(q0 + rows - 1);  // the last query sees most
    for (int64_t k0 = 0; k0 < last; k0 += BN) {
      for (int64_t j = 0; j < std::min(BN, last - k0); ++j) {
        for (int64_t d = 0; d < p.D; ++d) K[d * BN + j] = to_float(head.K[(k0 + j) * p.k.row + d]);
      }
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t keys = std::min(BN, p.keys_seen(q0 + i) - k0);
        if (keys <= 0) continue;
        std::fill(s, s + keys, 0.0f);
        add_rows(s, keys, Q + i * p.D, p.D, K, BN);  // s = q K^T

        float m_new = m[i];
        for (int64_t j = 0; j < keys; ++j) m_new = s[j] > m_new ? s[j] : m_new;
        const float base = exponent_base(m_new), alpha = std::exp(m[i] - base);
        float sum = 0;
        for (int64_t j = 0; j < keys; ++j) sum += s[j] = std::exp(s[j] - base);
        m[i] = m_new;
        l[i] = l[i] * alpha + sum;

        float* o = O + i * p.Dv;
        for (int64_t d = 0; d < p.Dv; ++d) o[d] *= alpha;
        add_rows(o, p.Dv, s, keys, head.V + k0 * p.v.row, p.v.row);  // o += p V
      }
    }

    for (int64_t i = 0; i < rows; ++i) {
      const float inverse = l[i] == 0 ? 0.0f : 1 / l[i];  // 0: every score was -inf
      for (int64_t d = 0; d < p.Dv; ++d) {
        store(&head.O[(q0 + i) * p.o.row + d], O[i * p.Dv + d] * inverse);
      }
      if (head.LSE != nullptr) head.LSE[q0 + i] = exponent_base(m[i]) + std::log(l[i]);
    }
  }
}

void attention_cpu_flash(const AttentionProblem& p, cudaStream_t) {
  with_type(p, [&](auto type) { run_flash<decltype(type)>(p); });
}
