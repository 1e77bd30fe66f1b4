// softmax_backward.h: the problem of softmax's gradient.
#pragma once

#include "ladder.h"

// The gradient dx with respect to x, given dy, the gradient of y, and dlse, that of lse:
//   dx = scale * y * (dy - (sum(dy * y) - dlse))
//   dx = scale * (dy - exp(y) * (sum(dy) - dlse))    with `log`, y being a log-softmax
// Elements of a row are adjacent. dx overlaps nothing.
struct SoftmaxBackwardProblem {
  View dy;           // [1, 1, rows, cols]
  View y;            // [1, 1, rows, cols]
  View dlse;         // [1, 1, 1, rows], contiguous, of lse's dtype; data may be nullptr: zeros
  View dx;           // [1, 1, rows, cols]
  double scale = 1;  // finite
  bool log = false;
};

Ladder<SoftmaxBackwardProblem> softmax_backward_ladder();
