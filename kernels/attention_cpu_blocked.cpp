// attention_cpu_blocked.cpp: attention on the CPU, both products by blocks. The contract is in
// attention_cpu.cpp.
//
// Rungs
//   cpu_blocked   the three steps of cpu_naive, with 64 sums at a time in both products
#include "attention_cpu.h"

// ------------------------------------------------------------------------------------------------
// cpu_blocked: products by blocks of 8 x 8 (fp32, bf16)
// Idea     A block of 8 x 8 elements of a product is 64 sums. Each step along the inner dimension
//          loads 8 numbers of either factor and uses each of them 8 times.
// Changes  vs cpu_naive: the loops of both products. Scratch, softmax and threads are untouched.
// FLOP/B   128 FLOP for 64 bytes that are loaded: 2, 8 times that of cpu_naive. In addition the
//          64 sums are independent, so that additions overlap, and the compiler uses vectors.
// Shape    Blocks of rows are shared among threads. Scratch: 4 Nq Nk bytes, as before.
// Trap     Ends are ragged: indices beyond the last row or column repeat the last (std::min), whose
//          sums nobody stores. But a query must not even multiply a hidden key by 0, as that key's
//          V may be NaN: the block stops at the first query's last key, and the few keys that only
//          later queries of the block see are added one by one.
// Next     S still goes through memory: written, read and written by the softmax, and read, 16 bytes
//          per score. cpu_fused_row keeps a row of it in the cache.
constexpr int BLOCKED_SIZE = 8;  // tunable: 4, 8

// acc[i][j] = sum over n < count of a[i][n * a_step] * b[j][n * b_step].
template <class A, class B>
static void block_product(const A* const (&a)[BLOCKED_SIZE], const B* const (&b)[BLOCKED_SIZE],
                          int64_t b_step, int64_t count, float (&acc)[BLOCKED_SIZE][BLOCKED_SIZE]) {
  float sums[BLOCKED_SIZE][BLOCKED_SIZE] = {};
  for (int64_t n = 0; n < count; ++n) {
    float row[BLOCKED_SIZE];
    for (int j = 0; j < BLOCKED_SIZE; ++j) row[j] = to_float(b[j][n * b_step]);
    for (int i = 0; i < BLOCKED_SIZE; ++i) {
      for (int j = 0; j < BLOCKED_SIZE; ++j) sums[i][j] += to_float(a[i][n]) * row[j];
    }
  }
  std::copy(&sums[0][0], &sums[0][0] + BLOCKED_SIZE * BLOCKED_SIZE, &acc[0][0]);
}

// Pointers to 8 rows of a matrix from `first` on, or to 8 elements of its first row if the stride is
// 1. Of an empty matrix: null pointers, which nobody follows.
template <class T>
static void point_to(const T* (&rows)[BLOCKED_SIZE], const T* matrix, int64_t stride, int64_t first,
                     int64_t end) {
  if (matrix == nullptr) stride = 0;
  for (int i = 0; i < BLOCKED_SIZE; ++i) rows[i] = matrix + std::min(first + i, end - 1) * stride;
}

template <class T>
static void run_blocked(const AttentionProblem& problem) {
  constexpr int SIZE = BLOCKED_SIZE;
  const Attention<T> p(problem);
  if (p.heads() == 0 || p.Nq == 0) return;
  float* S = scratch(problem, p.Nq, p.Nk);

  for (int64_t h = 0; h < p.heads(); ++h) {
    const Head<T> head = p.head(h);

#pragma omp parallel for schedule(dynamic)
    for (int64_t i0 = 0; i0 < p.Nq; i0 += SIZE) {  // S = scale Q K^T
      const int64_t i1 = std::min(i0 + SIZE, p.Nq), keys = p.keys_seen(i1 - 1);
      const T *q[SIZE], *k[SIZE];
      point_to(q, head.Q, p.q.row, i0, p.Nq);
      for (int64_t j0 = 0; j0 < keys; j0 += SIZE) {
        float acc[SIZE][SIZE];
        point_to(k, head.K, p.k.row, j0, keys);
        block_product(q, k, 1, p.D, acc);
        for (int64_t i = i0; i < i1; ++i) {
          for (int64_t j = j0; j < std::min(j0 + SIZE, keys); ++j) {
            S[i * p.Nk + j] = p.scale * acc[i - i0][j - j0];
          }
        }
      }
    }

#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < p.Nq; ++i) {  // P = softmax(S)
      const float lse = softmax_row(S + i * p.Nk, p.keys_seen(i));
      if (head.LSE != nullptr) head.LSE[i] = lse;
    }

#pragma omp parallel for schedule(dynamic)
    for (int64_t i0 = 0; i0 < p.Nq; i0 += SIZE) {  // O = P V
      const int64_t i1 = std::min(i0 + SIZE, p.Nq), common = p.keys_seen(i0);
      const float* weights[SIZE];
      const T* v[SIZE];
      point_to(weights, S, p.Nk, i0, p.Nq);
      for (int64_t d0 = 0; d0 < p.Dv; d0 += SIZE) {
        float acc[SIZE][SIZE];
        point_to(v, head.V, 1, d0, p.Dv);
        block_product(weights, v, p.v.row, common, acc);
        for (int64_t i = i0; i < i1; ++i) {
          for (int64_t d = d0; d < std::min(d0 + SIZE, p.Dv); ++d) {
            float sum = acc[i - i0][d - d0];
            for (int64_t j = common; j < p.keys_seen(i); ++j) {
              sum += S[i * p.Nk + j] * to_float(head.V[j * p.v.row + d]);
            }
            store(&head.O[i * p.o.row + d], sum);
          }
        }
      }
    }
  }
}

void attention_cpu_blocked(const AttentionProblem& p, cudaStream_t) {
  with_type(p, [&](auto type) { run_blocked<decltype(type)>(p); });
}
