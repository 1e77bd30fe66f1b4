// softmax.h: the problem of the softmax ladder.
#pragma once

#include "ladder.h"

// y[r] = softmax(scale * x[r]) for every row r, or with `log` its logarithm, and
// lse[r] = log(sum(exp(scale * x[r]))).
// Elements of a row are adjacent. Outputs overlap nothing.
struct SoftmaxProblem {
  View x;            // [1, 1, rows, cols]
  View y;            // [1, 1, rows, cols], of x's dtype
  View lse;          // [1, 1, 1, rows], contiguous, float32 (float64: float64); data may be nullptr
  double scale = 1;  // finite
  bool log = false;
};

Ladder<SoftmaxProblem> softmax_ladder();
