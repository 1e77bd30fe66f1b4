// matmul.h: the problem of the matmul ladder.
#pragma once

#include "ladder.h"

// C[b] = A[b] B[b] for every b in 0..batch-1; with trans_b, C[b] = A[b] B[b]^T.
// Elements of a row are adjacent. No output overlaps an input.
struct MatmulProblem {
  View A;  // [1, batch, M, K]
  View B;  // [1, batch, K, N], or [1, batch, N, K] with trans_b; batch may be 1
  View C;  // [1, batch, M, N]
  bool trans_b = false;
};

Ladder<MatmulProblem> matmul_ladder();
