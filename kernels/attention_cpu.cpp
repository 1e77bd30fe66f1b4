// attention_cpu.cpp: O = softmax(scale Q K^T) V on the CPU: the contract, the first rung, and the
// table of all of them.
//
// Contract (attention.h)
//   Q [B, H, Nq, D]   K [B, Hkv, Nk, D]   V [B, Hkv, Nk, Dv]   any strides between rows, heads, batches
//   O [B, H, Nq, Dv]  LSE [B, H, Nq], the natural logarithm of the sum of exp(score), if wanted
//   A query sees all keys or, if causal, keys 0 .. i + Nk - Nq. With no score above -inf it gets
//   O = 0 and LSE = -inf. A hidden key is not even multiplied by 0: its NaN goes nowhere. bf16 is
//   computed in fp32. Threads: as many as OpenMP has been told to use.
//
// To read the rungs (attention_cpu.h): p.head(i) has the pointers of one head, p.keys_seen(query) is
// the mask, to_float() and store() convert elements.
//
// Rungs
//   cpu_naive       the formula: every score of a head goes through memory, twice
//   cpu_blocked     the same, but both products go by blocks of 8 x 8
//   cpu_fused_row   a query at a time: its row of scores never leaves the cache
//   cpu_flash       a tile of scores at a time: no row has to fit anywhere
//   cpu_simd        the same in vector registers, a query per lane
// All but the first are in files of their own, attention_<name>.cpp.
#include "attention_cpu.h"

// ------------------------------------------------------------------------------------------------
// cpu_naive: the formula, one loop nest per operation (fp32, bf16)
// Idea     S = scale Q K^T, P = softmax(S), O = P V, head after head. Threads share the rows.
// Changes  First rung.
// FLOP/B   2 FLOP for 8 bytes that are loaded, 0.25, in both products.
// Shape    Scratch: one [Nq, Nk] matrix for all heads, S and then P: 4 Nq Nk bytes, 256 MiB at
//          N = 8192. Three parallel loops per head; rows of a causal mask differ in length, so
//          threads take them as they go.
// Trap     A sum waits for its own last addition, which takes 3 or 4 cycles: one multiplication and
//          addition in that time, where a core with AVX-512 can do 2 x 16 per cycle. And each number
//          of O walks down a column of V, a cache line per key.
// Next     cpu_blocked has 64 sums at a time, and uses 8 times what it loads.
template <class T>
static void run_naive(const AttentionProblem& problem) {
  const Attention<T> p(problem);
  if (p.heads() == 0 || p.Nq == 0) return;
  float* S = scratch(problem, p.Nq, p.Nk);

  for (int64_t h = 0; h < p.heads(); ++h) {
    const Head<T> head = p.head(h);

#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < p.Nq; ++i) {  // S = scale Q K^T
      for (int64_t j = 0; j < p.keys_seen(i); ++j) {
        float sum = 0;
        for (int64_t d = 0; d < p.D; ++d) {
          sum += to_float(head.Q[i * p.q.row + d]) * to_float(head.K[j * p.k.row + d]);
        }
        S[i * p.Nk + j] = p.scale * sum;
      }
    }

#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < p.Nq; ++i) {  // P = softmax(S)
      const float lse = softmax_row(S + i * p.Nk, p.keys_seen(i));
      if (head.LSE != nullptr) head.LSE[i] = lse;
    }

#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < p.Nq; ++i) {  // O = P V
      for (int64_t d = 0; d < p.Dv; ++d) {
        float sum = 0;
        for (int64_t j = 0; j < p.keys_seen(i); ++j) {
          sum += S[i * p.Nk + j] * to_float(head.V[j * p.v.row + d]);
        }
        store(&head.O[i * p.o.row + d], sum);
      }
    }
  }
}

void attention_cpu_naive(const AttentionProblem& p, cudaStream_t) {
  with_type(p, [&](auto type) { run_naive<decltype(type)>(p); });
}

// ------------------------------------------------------------------------------------------------
// The ladder, slowest idea first. A line here is all it takes to register a rung.
static constexpr Needs ANY = {.dtypes = "float32 bfloat16", .options = "causal scale"};
static constexpr Needs ANY_TILES = {.dtypes = "float32 bfloat16", .options = "causal scale br bc"};
static constexpr Rung<AttentionProblem> RUNGS[] = {
    {"cpu_naive", attention_cpu_naive, ANY},         {"cpu_blocked", attention_cpu_blocked, ANY},
    {"cpu_fused_row", attention_cpu_fused_row, ANY}, {"cpu_flash", attention_cpu_flash, ANY_TILES},
    {"cpu_simd", attention_cpu_simd, ANY},
};

Ladder<AttentionProblem> attention_ladder() { return RUNGS; }
