// attention.cuh: what the files of the attention ladder share: the problem as kernels see it, and
// which keys a query sees.
#pragma once

#include "attention.h"
#include "common.cuh"
#include "reduce.cuh"
#include "sum.cuh"

constexpr double LOG2_E = 1.4426950408889634;  // exp(x) = exp2(x * LOG2_E)
constexpr double LN_2 = 0.6931471805599453;    // log(x) = log2(x) * LN_2

// ------------------------------------------------------------------------------------------------
// Masks as rules

// Places in one dimension: query i is at q_offset + q_step * i, key j at k_offset + k_step * j.
struct Axis {
  int q_offset = 0, q_step = 1, k_offset = 0, k_step = 1;

  Axis() = default;
  __host__ __device__ Axis(Sync sync, int q, int k) {
    const int longest = q > k ? q : k;
    if (sync == Sync::none_end) {
      q_offset = longest - q;
      k_offset = longest - k;
    } else if (sync != Sync::none_front && q > 0 && k > 0) {
      q_step = longest / q;
      k_step = longest / k;
      if (sync == Sync::scale_end) {
        q_offset = q_step - 1;
        k_offset = k_step - 1;
      }
    }
  }

  // How far the query's place is after the key's.
  __device__ int distance(int query, int key) const {
    return q_offset + q_step * query - (k_offset + k_step * key);
  }
};

// MaskRule for sequences of given lengths.
struct Rule {
  bool causal, windowed, ends_meet;  // ends_meet: Sync::none_end
  int reach, between;    // within the window, at most so far; places between are skipped
  int q_width, k_width;  // 0: one dimension
  Axis rows, columns;    // in one dimension, a single row

  __host__ __device__ Rule(const MaskRule& rule, int Nq, int Nk)
      : causal(rule.causal),
        windowed(rule.window > 0),
        ends_meet(rule.sync == Sync::none_end),
        reach((rule.window - 1) << rule.log2_stride),
        between((1 << rule.log2_stride) - 1),
        q_width(rule.q_width),
        k_width(rule.k_width) {
    if (q_width > 0) {
      rows = Axis(rule.sync, Nq / q_width, Nk / k_width);
      columns = Axis(rule.sync, q_width, k_width);
    } else {
      columns = Axis(rule.sync, Nq, Nk);
    }
  }

  // Where a query is, seen from a key.
  struct Distance {
    int rows, columns;
    __device__ bool is_after() const { return rows > 0 || (rows == 0 && columns >= 0); }
  };
  __device__ Distance distance(int query, int key) const {
    if (q_width == 0) return {0, columns.distance(query, key)};
    return {rows.distance(query / q_width, key / k_width),
            columns.distance(query % q_width, key % k_width)};
  }

  __device__ bool near(int distance) const {
    return abs(distance) <= reach && (abs(distance) & between) == 0;
  }

  // Whether the query sees the key.
  __device__ bool sees(int query, int key) const {
    const Distance d = distance(query, key);
    return (!causal || d.is_after()) && (!windowed || (near(d.rows) && near(d.columns)));
  }
};

// ------------------------------------------------------------------------------------------------
// The problem as kernels see it

// The strides of a [B, H, N, D] tensor: elements of a row are adjacent, other dimensions strided.
struct Strides {
  int64_t batch, head, row;
};

// A head's mask as a tensor. Neither pointer: none.
template <class T>
struct MaskTensor {
  const bool* shown;  // [Nq, Nk]
  const T* bias;      // the same
  int64_t row, column;

  __device__ int64_t at(int query, int key) const { return query * row + key * column; }

  // A score of -inf counts as not seen.
  __device__ bool sees(int query, int key) const {
    if (shown != nullptr) return shown[at(query, key)];
    return bias == nullptr || static_cast<Sum<T>>(bias[at(query, key)]) != -INFINITY;
  }

  // What is added to the scaled score.
  __device__ Sum<T> added(int query, int key) const {
    return bias == nullptr ? Sum<T>(0) : static_cast<Sum<T>>(bias[at(query, key)]);
  }
};

// The part of a problem that belongs to one head of queries.
template <class T>
struct Head {
  const T *Q, *K, *V;  // [N, D]
  T* O;                // [Nq, Dv]
  Sum<T>* LSE;         // [Nq]
  MaskTensor<T> mask;
};

// The kernels' argument.
template <class T>
struct Attention {
  const T* Q;   // [B, H, Nq, D]
  const T* K;   // [B, H / group, Nk, D]
  const T* V;   // [B, H / group, Nk, Dv]
  T* O;         // [B, H, Nq, Dv]
  Sum<T>* LSE;  // [B, H, Nq], contiguous
  int B, H, group, Nq, Nk, D, Dv;
  Strides q, k, v, o;
  MaskTensor<T> mask;  // of the first head
  int64_t mask_batch, mask_head;
  Rule rule;
  Sum<T> scale;
  // Of sequences of different lengths, for rungs that support them; else there is one.
  const int *q_starts, *k_starts;  // [sequences + 1]
  int sequences;

  __host__ __device__ int64_t heads() const { return int64_t{B} * H; }

  // Head 0 .. heads() - 1.
  __device__ Head<T> head(int64_t index) const {
    const int64_t b = index / H, h = index % H;
    const int64_t at = b * mask_batch + h * mask_head;
    return {.Q = Q + b * q.batch + h * q.head,
            .K = K + b * k.batch + h / group * k.head,
            .V = V + b * v.batch + h / group * v.head,
            .O = O + b * o.batch + h * o.head,
            .LSE = LSE + index * Nq,
            .mask = {mask.shown == nullptr ? nullptr : mask.shown + at,
                     mask.bias == nullptr ? nullptr : mask.bias + at, mask.row, mask.column}};
  }

  // Whether the query sees the key.
  __device__ bool sees(const Head<T>& head, int query, int key) const {
    return rule.sees(query, key) && head.mask.sees(query, key);
  }

  // What is added to the scaled score.
  __device__ Sum<T> bias(const Head<T>& head, int query, int key) const {
    return head.mask.added(query, key);
  }
};

template <class T>
Attention<T> lowered(const AttentionProblem& p) {
  const auto strides = [](const View& view) {
    return Strides{.batch = view.stride[0], .head = view.stride[1], .row = view.stride[2]};
  };
  const View& mask = p.bias.data != nullptr ? p.bias : p.mask;
  const int Nq = static_cast<int>(p.Q.size[2]), Nk = static_cast<int>(p.K.size[2]);
  const int64_t kv_heads = p.K.size[1];
  return {
      .Q = p.Q.as<const T>(),
      .K = p.K.as<const T>(),
      .V = p.V.as<const T>(),
      .O = p.O.as<T>(),
      .LSE = p.LSE.as<Sum<T>>(),
      .B = static_cast<int>(p.Q.size[0]),
      .H = static_cast<int>(p.Q.size[1]),
      .group = kv_heads == 0 ? 1 : static_cast<int>(p.Q.size[1] / kv_heads),
      .Nq = Nq,
      .Nk = Nk,
      .D = static_cast<int>(p.Q.size[3]),
      .Dv = static_cast<int>(p.V.size[3]),
      .q = strides(p.Q),
      .k = strides(p.K),
      .v = strides(p.V),
      .o = strides(p.O),
      .mask = {p.mask.as<const bool>(), p.bias.as<const T>(), mask.stride[2], mask.stride[3]},
      .mask_batch = mask.stride[0],
      .mask_head = mask.stride[1],
      .rule = Rule(p.rule, Nq, Nk),
      .scale = static_cast<Sum<T>>(p.scale),
      .q_starts = p.q_starts.as<const int>(),
      .k_starts = p.k_starts.as<const int>(),
      .sequences = p.q_starts.data == nullptr ? 1 : static_cast<int>(p.q_starts.size[3]) - 1,
  };
}

// Calls run(T()) with the type of the problem's elements.
template <class Run>
void with_type(const AttentionProblem& p, Run run) {
  if (p.Q.dtype == DType::float64) return run(double());
  if (p.Q.dtype == DType::float16) return run(fp16());
  if (p.Q.dtype == DType::bfloat16) return run(bf16());
  return run(float());
}

// The longest row of Q, K or V.
inline int64_t larger_D(const AttentionProblem& p) { return max(p.Q.size[3], p.V.size[3]); }

inline const char* declines_long_rows(const AttentionProblem& p) {
  if (larger_D(p) <= 256) return nullptr;
  return reason("its tiles are made for head dimensions up to 256; got %d",
                static_cast<int>(larger_D(p)));
}

// What is subtracted in exponents: the maximum, or 0 while that is infinite (inf - inf is NaN).
template <class Number>
__device__ Number exponent_base(Number m) {
  return isinf(m) ? Number(0) : m;
}

// ------------------------------------------------------------------------------------------------
// Tiles of scores: queries q0 .. q1 - 1 by keys k0 .. k1 - 1

// Which pairs of a tile are visible; `some`, if one has to look at each: it may turn out to be none.
enum class Visible { none, some, all };

template <class T>
__device__ Visible visible(const Attention<T>& p, int q0, int q1, int k0, int k1) {
  bool looks = p.mask.shown != nullptr || p.mask.bias != nullptr;
  if (p.rule.windowed && p.rule.q_width == 0) {
    // Distances are largest from the last query to the first key.
    const int most = p.rule.columns.distance(q1 - 1, k0);
    const int least = p.rule.columns.distance(q0, k1 - 1);
    if (least > p.rule.reach || most < -p.rule.reach) return Visible::none;
    looks |= p.rule.between != 0 || least < -p.rule.reach || most > p.rule.reach;
  } else {
    looks |= p.rule.windowed;
  }
  if (p.rule.causal) {
    // The last query sees most, of the keys the first is seen by most.
    if (!p.rule.distance(q1 - 1, k0).is_after()) return Visible::none;
    if (!p.rule.distance(q0, k1 - 1).is_after()) return Visible::some;
  }
  return looks ? Visible::some : Visible::all;
}

// Which pairs of a tile are this thread's: pair(n) is the n-th, of up to 64.
struct Pair {
  int query, key;
};

// Bit n: whether this thread's n-th pair is visible. Pairs beyond the last query or key are not. Not
// inlined: few tiles need it. By value, so that nothing is read from memory for every pair.
template <int PAIRS, class T, class NthPair>
__device__ __noinline__ uint64_t visible_pairs(Rule rule, MaskTensor<T> mask, int Nq, int Nk,
                                               NthPair pair) {
  static_assert(PAIRS <= 64, "a bit for each");
  uint64_t shown = 0;
#pragma unroll 1
  for (int n = 0; n < PAIRS; ++n) {
    const auto [query, key] = pair(n);
    const bool exists = query < Nq && key < Nk;
    const bool sees = exists && rule.sees(query, key) && mask.sees(query, key);
    shown |= uint64_t{sees} << n;
  }
  return shown;
}

// Whether any pair of the tile of BM queries from q0 on and BN keys from k0 on is visible; the same
// answer for all threads of the block, whose pairs together are those of the tile. `shown` becomes
// the bits of this thread's pairs.
template <int PAIRS, class T, class NthPair>
__device__ bool any_visible(const Attention<T>& p, const Head<T>& head, int q0, int BM, int k0,
                            int BN, NthPair pair, uint64_t& shown) {
  shown = ~uint64_t{0};
  const Visible tile = visible(p, q0, min(q0 + BM, p.Nq), k0, min(k0 + BN, p.Nk));
  if (tile == Visible::none) return false;
  if (tile == Visible::all && k0 + BN <= p.Nk) return true;
  shown = visible_pairs<PAIRS>(p.rule, head.mask, p.Nq, p.Nk, pair);
  return __syncthreads_or(shown != 0);
}

// Adds factor * bias to the scores of this thread's pairs. Not inlined: most problems have no bias.
template <int PAIRS, class T, class NthPair>
__device__ __noinline__ void add_bias(MaskTensor<T> mask, int Nq, int Nk, NthPair pair,
                                      Sum<T> factor, Sum<T> (&scores)[PAIRS]) {
#pragma unroll 1
  for (int n = 0; n < PAIRS; ++n) {
    const auto [query, key] = pair(n);
    if (query < Nq && key < Nk) scores[n] += factor * mask.added(query, key);
  }
}

// ------------------------------------------------------------------------------------------------
// Four numbers from shared memory, in loads of 16 bytes

template <class Number>
struct alignas(16) Four {
  Number element[4];
};
template <class Number>
__device__ Four<Number> load_4(const Number* src) {
  return *reinterpret_cast<const Four<Number>*>(src);
}

// ------------------------------------------------------------------------------------------------
// The rungs in files of their own

void attention_blocked(const AttentionProblem& p, cudaStream_t stream);
void attention_fused_row(const AttentionProblem& p, cudaStream_t stream);
const char* attention_fused_row_declines(const AttentionProblem& p);
void attention_flash_v1(const AttentionProblem& p, cudaStream_t stream);
const char* attention_flash_v1_declines(const AttentionProblem& p);
void attention_warp_dot(const AttentionProblem& p, cudaStream_t stream);
const char* attention_warp_dot_declines(const AttentionProblem& p);
void attention_flash(const AttentionProblem& p, cudaStream_t stream);
const char* attention_flash_declines(const AttentionProblem& p);
void attention_flash_registers(const AttentionProblem& p, cudaStream_t stream);
const char* attention_flash_registers_declines(const AttentionProblem& p);
void attention_flash_mma(const AttentionProblem& p, cudaStream_t stream);
const char* attention_flash_mma_declines(const AttentionProblem& p);
void attention_flash_mma_pipelined(const AttentionProblem& p, cudaStream_t stream);
const char* attention_flash_mma_pipelined_declines(const AttentionProblem& p);
void attention_flash_split_kv(const AttentionProblem& p, cudaStream_t stream);
const char* attention_flash_split_kv_declines(const AttentionProblem& p);
