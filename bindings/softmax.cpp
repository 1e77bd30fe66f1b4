// softmax.cpp: tensors to SoftmaxProblem.
#include "softmax.h"

#include "launch.h"

namespace {

void softmax(Call& call) {
  const Arg &x = call.input("x"), &out = call.output("out");
  const Arg* lse = call.optional_output("lse", Role::statistic);
  const double scale = call.number("scale", 1);
  check_rank(x, 1, INT_MAX);
  check_sizes(out, x.sizes, "as x");
  check_limits(x, 1);
  if (lse != nullptr) check_of_rows(*lse, x);
  check_finite("scale", scale, x);
  call.check(softmax_ladder());
  for (const Arg* arg : {&x, &out}) check_rows_contiguous(*arg);
  call.run(softmax_ladder(), {
                                 .x = rows_of(x),
                                 .y = rows_of(out),
                                 .lse = lse != nullptr ? view_of(*lse, 0, "rows") : View{},
                                 .scale = scale,
                                 .log = call.flag("log"),
                             });
}

const Operator OPERATOR("softmax", softmax, softmax_ladder());

}  // namespace
