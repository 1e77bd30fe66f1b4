// matmul.cpp: tensors to MatmulProblem.
#include "matmul.h"

#include <algorithm>
#include <cmath>

#include "launch.h"

namespace {

using Sizes = std::vector<int64_t>;

// The batch dimensions of a call, and the arguments that have them. As many as possible of the
// innermost ones become a problem's inner dimension, as many as possible of the others its outer
// one. What is left, nearly always nothing, takes a problem for each index.
class Batch {
 public:
  Batch(const Sizes& sizes, std::initializer_list<const Arg*> arguments) {
    for (size_t dim = 0; dim < sizes.size(); ++dim) {
      if (sizes[dim] != 1) dims_.push_back({sizes[dim], static_cast<int>(sizes.size() - dim) + 2});
    }
    while (inner_ < dims_.size() && !follows(inner_, dims_.size(), arguments)) ++inner_;
    while (outer_ < inner_ && !follows(outer_, inner_, arguments)) ++outer_;
  }

  int64_t problems() const { return product(0, outer_); }

  // The argument's matrices in a problem, [outer, inner, rows, cols]. It may lack dimensions, or
  // have size 1.
  View view(const Arg& arg, int64_t problem) const {
    Arg one = arg;  // a single matrix of it
    one.sizes.assign(arg.sizes.end() - 2, arg.sizes.end());
    one.strides.assign(arg.strides.end() - 2, arg.strides.end());
    View view = view_of(one);
    view.size[0] = product(outer_, inner_);
    view.size[1] = product(inner_, dims_.size());
    view.stride[0] = outer_ == inner_ ? 0 : stride(arg, inner_ - 1);
    view.stride[1] = inner_ == dims_.size() ? 0 : stride(arg, dims_.size() - 1);
    if (view.size[1] > MAX_DIM) {
      fail(arg.op, "there are more than ", MAX_DIM, " matrices in ", arg.text());
    }
    int64_t offset = 0;
    for (size_t dim = outer_; dim-- > 0; problem /= dims_[dim].size) {
      offset += problem % dims_[dim].size * stride(arg, dim);
    }
    if (arg.data != nullptr) {
      view.data = static_cast<char*>(arg.data) + offset * arg.element_bytes;
    }
    return view;
  }

 private:
  struct Dim {
    int64_t size;
    int from_end;
  };

  int64_t stride(const Arg& arg, size_t dim) const { return arg.stride(dims_[dim].from_end); }

  int64_t product(size_t begin, size_t end) const {
    int64_t product = 1;
    for (size_t dim = begin; dim < end; ++dim) product *= dims_[dim].size;
    return product;
  }

  // Whether each argument walks the dimensions begin..end-1 with one stride.
  bool follows(size_t begin, size_t end, std::initializer_list<const Arg*> arguments) const {
    for (const Arg* arg : arguments) {
      for (size_t dim = begin; dim + 1 < end; ++dim) {
        if (stride(*arg, dim) != dims_[dim + 1].size * stride(*arg, dim + 1)) return false;
      }
    }
    return true;
  }

  std::vector<Dim> dims_;  // those with more than one matrix, outermost first
  size_t outer_ = 0;       // where the outer ones begin,
  size_t inner_ = 0;       // and the inner ones
};

// What the leading dimensions of a and b broadcast to, as in torch.matmul.
Sizes broadcast(const Arg& a, const Arg& b) {
  Sizes sizes(std::max(a.rank(), b.rank()) - 2);
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    const int from_end = static_cast<int>(sizes.size() - dim) + 2;
    const int64_t x = a.size(from_end), y = b.size(from_end);
    if (x != y && x != 1 && y != 1) {
      fail(a.op, "batch dimensions of a and b must be equal, or 1; got a ", a.text(), ", b ",
           b.text());
    }
    sizes[dim] = x == 1 ? y : x;
  }
  return sizes;
}

void check_rows_or_columns_contiguous(const Arg& arg) {
  if (arg.empty()) return;
  for (int from_end : {1, 2}) {
    if (arg.size(from_end) == 1 || arg.stride(from_end) == 1) return;
  }
  arg.reject("the rows or the columns of ", arg.name,
             " must be contiguous (one of the last two strides 1); call .contiguous() first");
}

void check_leading(const Arg& c, const Sizes& out) {
  bool right = c.rank() >= 2 && c.rank() <= static_cast<int>(out.size());
  for (int i = 1; right && i <= c.rank(); ++i) {
    const int64_t size = *(out.end() - i);
    right = c.size(i) == size || (i > 2 && c.size(i) == 1);
  }
  if (!right) c.reject("c must be ", brackets(out), ", as the product, or lack batch dimensions");
}

// int8 is multiplied in integers, alpha and beta included.
void check_factor(const char* name, double value, const Arg& a) {
  check_finite(name, value, a);
  const bool fits = std::abs(value) <= INT_MAX && value == std::trunc(value);
  if (a.dtype == "int8" && !fits) {
    fail(a.op, name, " must be a whole number where a is int8; got ", value);
  }
}

void matmul(Call& call) {
  const Arg &a = call.input("a"), &b = call.input("b"), &out = call.output("out", Role::sum);
  const Arg* c = call.optional_input("c", Role::sum);
  const Arg* bias = call.optional_input("bias", Role::sum);
  const double alpha = call.number("alpha", 1), beta = call.number("beta", 0);
  for (const Arg* arg : {&a, &b}) {
    check_rank(*arg, 2, INT_MAX);
    check_limits(*arg, 2);
  }
  const int64_t M = a.size(2), K = a.size(1), N = b.size(1);
  if (b.size(2) != K) {
    fail(call.name, "b must have ", K, " rows, as a has ", K,
         " columns (a [.., M, K], b [.., K, N]); got a ", a.text(), ", b ", b.text());
  }
  const Sizes batch = broadcast(a, b);
  Sizes expected = batch;
  expected.insert(expected.end(), {M, N});
  check_sizes(out, expected, "[.., M, N]");
  if (c != nullptr) check_leading(*c, expected);
  if (c == nullptr && beta != 0) fail(call.name, "beta is ", beta, ", but there is no c");
  if (bias != nullptr) check_sizes(*bias, {N}, "[N]");
  check_factor("alpha", alpha, a);
  check_factor("beta", beta, a);
  if (call.flag("tf32")) {
    if (a.dtype != "float32") a.reject("tf32 is a way to multiply float32");
    call.compute_in("tf32");
  }
  call.check(matmul_ladder());
  for (const Arg* arg : {c, bias}) {
    if (arg == nullptr || arg->dtype == out.dtype) continue;
    arg->reject(arg->name, " must be ", out.dtype, ", as the result");
  }
  check_rows_or_columns_contiguous(a);
  check_rows_or_columns_contiguous(b);
  check_rows_contiguous(out);
  if (c != nullptr) check_rows_contiguous(*c);
  if (bias != nullptr) check_rows_contiguous(*bias);

  const Batch walk(batch, {&a, &b, &out, c == nullptr ? &out : c});
  std::vector<MatmulProblem> problems;
  for (int64_t i = 0; i < walk.problems(); ++i) {
    problems.push_back({
        .A = walk.view(a, i),
        .B = walk.view(b, i),
        .C = walk.view(out, i),
        .addend = c == nullptr ? View() : walk.view(*c, i),
        .bias = bias == nullptr ? View() : view_of(*bias),
        .alpha = alpha,
        .beta = beta,
        .workspace = call.workspace(),
    });
  }
  call.run(matmul_ladder(), problems);
}

const Operator OPERATOR("matmul", matmul, matmul_ladder());

}  // namespace
