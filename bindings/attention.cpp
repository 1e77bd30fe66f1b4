// attention.cpp: tensors to AttentionProblem.
#include "attention.h"

#include <cmath>

#include "launch.h"

namespace {

void attention(Call& call) {
  const Arg &q = call.input("q"), &k = call.input("k"), &v = call.input("v");
  const Arg &out = call.output("out"), &lse = call.output("lse", Role::statistic);
  check_rank(q, 2, 4);
  for (const Arg* arg : {&q, &k, &v}) check_limits(*arg, arg->rank());
  std::vector<int64_t> expected = q.sizes;
  if (k.rank() == q.rank()) expected[q.rank() - 2] = k.size(2);  // k's own Nk
  check_sizes(k, expected, "[.., Nk, D] with the leading dimensions and D of q");
  check_sizes(v, k.sizes, "as k");
  check_sizes(out, q.sizes, "as q");
  check_of_rows(lse, q);
  if (q.size(4) * q.size(3) > MAX_DIM) {
    q.reject("q has more than ", MAX_DIM, " heads in all");
  }
  call.check(attention_ladder());
  for (const Arg* arg : {&q, &k, &v, &out}) check_rows_contiguous(*arg);
  const double D = static_cast<double>(std::max<int64_t>(q.size(1), 1));
  call.run(attention_ladder(), {
                                   .Q = view_of(q),
                                   .K = view_of(k),
                                   .V = view_of(v),
                                   .O = view_of(out),
                                   .LSE = view_of(lse),
                                   .scale = call.number("scale", 1 / std::sqrt(D)),
                                   .causal = call.flag("causal"),
                                   .workspace = call.workspace(),
                               });
}

const Operator OPERATOR("attention", attention, attention_ladder());

}  // namespace
