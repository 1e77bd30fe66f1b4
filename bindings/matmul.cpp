// matmul.cpp: tensors to MatmulProblem.
#include "matmul.h"

#include "launch.h"

namespace {

using Sizes = std::vector<int64_t>;

// The matrices of an argument, whose leading dimensions must equal those of a.
View matrices(const Arg& arg, const Sizes& batch, const char* or_none = "") {
  if (!std::equal(batch.begin(), batch.end(), arg.sizes.begin(), arg.sizes.end() - 2)) {
    arg.reject(arg.name, " must have the batch dimensions ", brackets(batch), " of a", or_none);
  }
  const View all = view_of(arg, 2, "matrices");
  if (all.size[1] > MAX_DIM) {
    fail(arg.op, "there are more than ", MAX_DIM, " matrices in ", arg.text());
  }
  return all;
}

void matmul(Call& call) {
  const bool trans_b = call.flag("trans_b");
  const Arg &a = call.input("a"), &b = call.input("b"), &out = call.output("out");
  for (const Arg* arg : {&a, &b}) {
    check_rank(*arg, 2, 4);
    check_limits(*arg, arg->rank());
  }
  const int64_t M = a.size(2), K = a.size(1), N = trans_b ? b.size(2) : b.size(1);
  if ((trans_b ? b.size(1) : b.size(2)) != K) {
    fail(call.name, "b must have ", K, trans_b ? " columns" : " rows", ", as a has ", K,
         " columns (", trans_b ? "a [.., M, K], b [.., N, K]" : "a [.., M, K], b [.., K, N]",
         "); got a ", a.text(), ", b ", b.text());
  }
  const Sizes batch(a.sizes.begin(), a.sizes.end() - 2);
  Sizes expected = batch;
  expected.insert(expected.end(), {M, N});
  check_sizes(out, expected, "[.., M, N]");
  call.check(matmul_ladder());
  check_rows_contiguous(a);
  check_rows_contiguous(b, trans_b ? ". Call .contiguous() first"
                                   : ". Give its transpose to matmul_nt, or call .contiguous() "
                                     "first");
  check_rows_contiguous(out);
  call.run(matmul_ladder(), {
                                .A = matrices(a, batch),
                                .B = b.rank() == 2 ? view_of(b) : matrices(b, batch, ", or none"),
                                .C = matrices(out, batch),
                                .trans_b = trans_b,
                            });
}

const Operator OPERATOR("matmul", matmul, matmul_ladder());

}  // namespace
