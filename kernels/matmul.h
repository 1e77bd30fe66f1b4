// matmul.h: the problem of the matmul ladder.
#pragma once

#include "ladder.h"

// C = alpha A B + beta addend + bias, for every matrix of a batch. No output overlaps an input.
//
// A and B are read through their strides: of the last two, one is 1, so a matrix and the transpose
// of one look alike. The other views have adjacent elements in a row. A batch dimension of stride 0
// repeats the same matrix.
struct MatmulProblem {
  View A;            // [outer, inner, M, K], outer x inner matrices
  View B;            // [outer, inner, K, N]
  View C;            // [outer, inner, M, N]; fully written, never read. Of A's dtype; for fp16 and
                     // bf16 also fp32, for int8 int32
  View addend = {};  // [outer, inner, M, N], what BLAS calls C, as C; never read if beta is 0
  View bias = {};    // [1, 1, 1, N], added to every row; of C's dtype
  double alpha = 1, beta = 0;
  Workspace workspace = {};
};

Ladder<MatmulProblem> matmul_ladder();
