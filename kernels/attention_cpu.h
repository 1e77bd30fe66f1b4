// attention_cpu.h: what the files of the CPU's attention ladder share: bfloat16, the problem as the
// rungs see it, and the loops that several of them need.
#pragma once

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>

#include "attention.h"

// ------------------------------------------------------------------------------------------------
// Numbers: bfloat16 is the upper half of a float. All rungs compute in float.

struct bf16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

inline void store(float* dst, float x) { *dst = x; }
inline void store(bf16* dst, float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  // Half a unit of the last bit kept, less one where that bit is even: ties go to even.
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  const uint32_t kept = std::isnan(x) ? bits | 0x400000 : rounded;  // a NaN must not round to inf
  dst->bits = static_cast<uint16_t>(kept >> 16);
}

// Calls run(T()) with the type of the problem's elements.
template <class Run>
void with_type(const AttentionProblem& p, Run run) {
  if (p.Q.dtype == DType::bfloat16) return run(bf16());
  run(float());
}

// ------------------------------------------------------------------------------------------------
// The problem as the rungs see it

// The strides of a [B, H, N, D] tensor: elements of a row are adjacent, other dimensions strided.
struct Strides {
  int64_t batch, head, row;

  // All 0 where there is nothing, so that no offset is ever added to a null pointer.
  explicit Strides(const View& view)
      : batch(view.data == nullptr ? 0 : view.stride[0]),
        head(view.data == nullptr ? 0 : view.stride[1]),
        row(view.data == nullptr ? 0 : view.stride[2]) {}
};

// The part of a problem that belongs to one head of queries.
template <class T>
struct Head {
  const T *Q, *K, *V;  // [N, D], by rows
  T* O;                // [Nq, Dv]
  float* LSE;          // [Nq], or nullptr: not wanted
};

template <class T>
struct Attention {
  const T *Q, *K, *V;
  T* O;
  float* LSE;
  int64_t B, H, group, Nq, Nk, D, Dv;  // `group` heads of Q share one of K and V
  Strides q, k, v, o;
  bool causal;
  float scale;

  explicit Attention(const AttentionProblem& p)
      : Q(p.Q.as<const T>()),
        K(p.K.as<const T>()),
        V(p.V.as<const T>()),
        O(p.O.as<T>()),
        LSE(p.LSE.as<float>()),
        B(p.Q.size[0]),
        H(p.Q.size[1]),
        group(p.K.size[1] == 0 ? 1 : p.Q.size[1] / p.K.size[1]),
        Nq(p.Q.size[2]),
        Nk(p.K.size[2]),
        D(p.Q.size[3]),
        Dv(p.V.size[3]),
        q(p.Q),
        k(p.K),
        v(p.V),
        o(p.O),
        causal(p.rule.causal),
        scale(static_cast<float>(p.scale)) {}

  int64_t heads() const { return B * H; }

  // Head 0 .. heads() - 1.
  Head<T> head(int64_t index) const {
    const int64_t b = index / H, h = index % H;
    return {.Q = Q + b * q.batch + h * q.head,
            .K = K + b * k.batch + h / group * k.head,
            .V = V + b * v.batch + h / group * v.head,
            .O = O + b * o.batch + h * o.head,
            .LSE = LSE == nullptr ? nullptr : LSE + index * Nq};
  }

  // A query sees the keys 0 .. keys_seen(query) - 1: all of them, or, if causal, those not after it,
  // where the last query meets the last key.
  int64_t keys_seen(int64_t query) const {
    return causal ? std::clamp<int64_t>(query + 1 + Nk - Nq, 0, Nk) : Nk;
  }
};

// Scratch memory for rows * cols floats. Not from within a parallel region.
inline float* scratch(const AttentionProblem& p, int64_t rows, int64_t cols) {
  if (rows == 0 || cols == 0) return nullptr;
  if (rows > INT64_MAX / 4 / cols) throw std::length_error("attention: scratch above 2^63 bytes");
  return static_cast<float*>(p.workspace(static_cast<size_t>(rows * cols) * sizeof(float)));
}

// ------------------------------------------------------------------------------------------------
// Loops over a row

// What is subtracted in exponents: the maximum, or 0 while that is infinite (inf - inf is NaN).
inline float exponent_base(float m) { return std::isinf(m) ? 0.0f : m; }

// Scores s [n] become weights exp(s) / sum(exp(s)), all 0 if every score is -inf. Returns
// log(sum(exp(s))). A NaN is never the larger one, but makes the sum NaN and so every weight.
inline float softmax_row(float* s, int64_t n) {
  float m = -INFINITY, l = 0;
  for (int64_t j = 0; j < n; ++j) m = s[j] > m ? s[j] : m;
  const float base = exponent_base(m);
  for (int64_t j = 0; j < n; ++j) l += s[j] = std::exp(s[j] - base);
  const float inverse = l == 0 ? 0.0f : 1 / l;
  for (int64_t j = 0; j < n; ++j) s[j] *= inverse;
  return base + std::log(l);
}

// The dot product of two rows [n]. The order of floating-point additions is part of a program's
// meaning, so a compiler does not vectorize a single sum; it does vectorize 16 of them.
template <class T>
float dot(const float* a, const T* b, int64_t n) {
  constexpr int SUMS = 16;  // tunable: 8, 16, 32
  float sums[SUMS] = {}, sum = 0;
  int64_t d = 0;
  for (; d + SUMS <= n; d += SUMS) {
    for (int i = 0; i < SUMS; ++i) sums[i] += a[d + i] * to_float(b[d + i]);
  }
  for (; d < n; ++d) sum += a[d] * to_float(b[d]);
  for (int i = 0; i < SUMS; ++i) sum += sums[i];
  return sum;
}

// dst [n] += sum over k < count of weights[k] * row k, four rows for each time that dst is loaded and
// stored. Elements are independent sums, which a compiler vectorizes.
template <class T>
void add_rows(float* __restrict dst, int64_t n, const float* __restrict weights, int64_t count,
              const T* __restrict rows, int64_t row_stride) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    const T *r0 = rows + k * row_stride, *r1 = r0 + row_stride, *r2 = r1 + row_stride,
            *r3 = r2 + row_stride;
    const float w0 = weights[k], w1 = weights[k + 1], w2 = weights[k + 2], w3 = weights[k + 3];
    for (int64_t d = 0; d < n; ++d) {
      dst[d] = dst[d] + w0 * to_float(r0[d]) + w1 * to_float(r1[d]) + w2 * to_float(r2[d]) +
               w3 * to_float(r3[d]);
    }
  }
  for (; k < count; ++k) {
    const T* row = rows + k * row_stride;
    for (int64_t d = 0; d < n; ++d) dst[d] += weights[k] * to_float(row[d]);
  }
}

// ------------------------------------------------------------------------------------------------
// The rungs

void attention_cpu_naive(const AttentionProblem& p, cudaStream_t stream);
void attention_cpu_blocked(const AttentionProblem& p, cudaStream_t stream);
void attention_cpu_fused_row(const AttentionProblem& p, cudaStream_t stream);
void attention_cpu_flash(const AttentionProblem& p, cudaStream_t stream);
void attention_cpu_simd(const AttentionProblem& p, cudaStream_t stream);
