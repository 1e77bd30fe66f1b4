// transpose.h: the problem of the transpose ladder.
#pragma once

#include "ladder.h"

// y[b] = x[b]^T for every b in 0..batch-1: y[b, n, m] = x[b, m, n]. With `rotate` x is turned
// clockwise by 90 degrees: y[b, n, m] = x[b, M - 1 - m, n]. Bits are moved, nothing is computed.
// Elements of a row are adjacent. y overlaps nothing.
struct TransposeProblem {
  View x;  // [1, batch, M, N]
  View y;  // [1, batch, N, M], of x's dtype
  bool rotate = false;
};

Ladder<TransposeProblem> transpose_ladder();
