// attention.h: the problem of the attention ladder.
#pragma once

#include "ladder.h"

// How the places of q queries and k keys correspond; L = max(q, k), and divisions round down.
//   none_end     query i at i + L - q,          key j at j + L - k: the last ones meet
//   none_front   query i at i,                  key j at j: the first ones meet
//   scale_front  query i at i (L / q),          key j at j (L / k)
//   scale_end    query i at (i + 1) (L / q) - 1, key j at (j + 1) (L / k) - 1
enum class Sync { none_end, none_front, scale_front, scale_end };

// Which keys a query sees.
struct MaskRule {
  bool causal = false;  // those whose place is not after its own; with columns: row by row
  int window = 0;       // those fewer than `window` strides away in every dimension; 0: all
  int log2_stride = 0;  // and whole strides of 2^log2_stride
  Sync sync = Sync::none_end;
  int q_width = 0, k_width = 0;  // columns of a two-dimensional sequence; 0: one dimension
};

// O[b, h] = softmax(scale Q K^T + bias) V over the keys that a query sees, for every batch b and head
// h, and LSE = log(sum(exp(scale Q K^T + bias))). A query with no score above -inf, as one that sees
// no key, gets O = 0 and LSE = -inf.
// Elements of a row are adjacent, but for mask and bias. No output overlaps an input.
struct AttentionProblem {
  View Q;          // [B, H, Nq, D]
  View K;          // [B, Hkv, Nk, D]; head h of Q sees head h / (H / Hkv) of K and V
  View V;          // [B, Hkv, Nk, Dv]
  View O;          // [B, H, Nq, Dv]
  View LSE;        // [1, B, H, Nq], contiguous, natural logarithm
  View mask = {};  // [B, H, Nq, Nk], boolean: whether the query sees the key; any strides
  View bias = {};  // [B, H, Nq, Nk], of Q's dtype; any strides. There is at most one of the two
  // Variable length: B = 1, and sequence s has the queries q_starts[s] .. q_starts[s + 1] - 1, and
  // as many keys by k_starts. int32 [1, 1, 1, sequences + 1], from 0 up to Nq and Nk.
  View q_starts = {}, k_starts = {};
  double scale = 1;
  MaskRule rule = {};
  int block_queries = 0, block_keys = 0;  // tile sizes; 0: the rung's own
  Workspace workspace = {};
};

Ladder<AttentionProblem> attention_ladder();
