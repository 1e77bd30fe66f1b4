// attention.h: the problem of the attention ladder.
#pragma once

#include "ladder.h"

// O[b, h] = softmax(scale * Q K^T) V for every batch b and head h, and
// LSE = log(sum(exp(scale * Q K^T))).
// causal: query i sees the keys 0 .. i + Nk - Nq (the last query sees all). A query that sees none
// gets O = 0 and LSE = -inf.
// Elements of a row are adjacent. No output overlaps an input.
struct AttentionProblem {
  View Q;    // [B, H, Nq, D]
  View K;    // [B, H, Nk, D]
  View V;    // [B, H, Nk, D]
  View O;    // [B, H, Nq, D]
  View LSE;  // [1, B, H, Nq], contiguous, natural logarithm
  double scale = 1;
  bool causal = false;
  Workspace workspace = {};
};

Ladder<AttentionProblem> attention_ladder();
