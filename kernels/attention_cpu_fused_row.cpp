// attention_cpu_fused_row.cpp: attention on the CPU, a query at a time. The contract is in
// attention_cpu.cpp.
//
// Rungs
//   cpu_fused_row   score row, softmax, times V: one row of scores per thread
#include "attention_cpu.h"

// ------------------------------------------------------------------------------------------------
// cpu_fused_row: the row of scores of one query at a time (fp32, bf16)
// Idea     The softmax needs one row of scores at a time, not all of them. A thread computes the row
//          of its query, the softmax of it, and from that the row of O; then it reuses the memory.
// Changes  vs cpu_blocked: three parallel loops per head become one over all heads and queries, and
//          4 Nq Nk bytes of scores become 4 Nk per thread: 32 KiB at Nk = 8192, which the L1 or L2
//          cache holds. The blocks are gone: what is loaded of K and V serves one query.
// FLOP/B   A dot product: 2 FLOP for 8 bytes, 0.25. P V: 8 FLOP for 24 bytes, as each load and store
//          of O serves four keys, 0.33. Blocks had 2, but 64 sums do not fit 16 registers of 4
//          floats, and gathered K element by element; here both loops run along rows in memory.
// Shape    Scratch per thread: Nk + D + Dv floats.
// Trap     K and V are read whole for every query: 4 Nk (D + Dv) bytes for Nk (D + Dv) FMA. At
//          N = 8192, D = 64 that is 4 MiB per query, from the L3 cache. cpu_blocked reads them once
//          per 8 queries, which is why it keeps up, for all the scores that it moves.
// Next     cpu_flash reads them once for a tile of queries, and needs no whole row.
template <class T>
static void run_fused_row(const AttentionProblem& problem) {
  const Attention<T> p(problem);
  const int64_t queries = p.heads() * p.Nq, floats = p.Nk + p.D + p.Dv;
  if (queries == 0) return;
  float* memory = scratch(problem, omp_get_max_threads(), floats);

#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < queries; ++index) {
    float* s = memory + omp_get_thread_num() * floats;  // [Nk]
    float* q = s + p.Nk;                                // [D], scaled
    float* o = q + p.D;                                 // [Dv]
    const Head<T> head = p.head(index / p.Nq);
    const int64_t query = index % p.Nq, keys = p.keys_seen(query);

    for (int64_t d = 0; d < p.D; ++d) q[d] = to_float(head.Q[query * p.q.row + d]) * p.scale;
    for (int64_t j = 0; j < keys; ++j) s[j] = dot(q, head.K + j * p.k.row, p.D);
    const float lse = softmax_row(s, keys);
    std::fill(o, o + p.Dv, 0.0f);
    add_rows(o, p.Dv, s, keys, head.V, p.v.row);

    for (int64_t d = 0; d < p.Dv; ++d) store(&head.O[query * p.o.row + d], o[d]);
    if (head.LSE != nullptr) head.LSE[query] = lse;
  }
}

void attention_cpu_fused_row(const AttentionProblem& p, cudaStream_t) {
  with_type(p, [&](auto type) { run_fused_row<decltype(type)>(p); });
}
