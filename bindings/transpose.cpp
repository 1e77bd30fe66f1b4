// transpose.cpp: tensors to TransposeProblem.
#include "transpose.h"

#include "launch.h"

namespace {

void transpose(Call& call) {
  const Arg &x = call.input("x"), &out = call.output("out");
  check_rank(x, 2, INT_MAX);
  check_limits(x, 2);
  std::vector<int64_t> expected = x.sizes;
  std::swap(expected[x.rank() - 2], expected[x.rank() - 1]);
  check_sizes(out, expected, "as x with its last two dimensions swapped");
  call.check(transpose_ladder());
  for (const Arg* arg : {&x, &out}) check_rows_contiguous(*arg);
  call.run(transpose_ladder(), {
                                   .x = view_of(x, 2, "matrices"),
                                   .y = view_of(out, 2, "matrices"),
                                   .rotate = call.flag("rotate"),
                               });
}

const Operator OPERATOR("transpose", transpose, transpose_ladder());

}  // namespace
