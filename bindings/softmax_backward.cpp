// softmax_backward.cpp: tensors to SoftmaxBackwardProblem.
#include "softmax_backward.h"

#include "launch.h"

namespace {

void softmax_backward(Call& call) {
  const Arg &dy = call.input("dy"), &y = call.input("y"), &dx = call.output("dx");
  const Arg* dlse = call.optional_input("dlse", Role::statistic);
  const double scale = call.number("scale", 1);
  check_rank(dy, 1, INT_MAX);
  check_sizes(y, dy.sizes, "as dy");
  check_sizes(dx, dy.sizes, "as dy");
  check_limits(dy, 1);
  if (dlse != nullptr) check_of_rows(*dlse, dy);
  check_finite("scale", scale, dy);
  call.check(softmax_backward_ladder());
  for (const Arg* arg : {&dy, &y, &dx}) check_rows_contiguous(*arg);
  call.run(softmax_backward_ladder(),
           {
               .dy = rows_of(dy),
               .y = rows_of(y),
               .dlse = dlse != nullptr ? view_of(*dlse, 0, "rows") : View{},
               .dx = rows_of(dx),
               .scale = scale,
               .log = call.flag("log"),
           });
}

const Operator OPERATOR("softmax_backward", softmax_backward, softmax_backward_ladder());

}  // namespace
