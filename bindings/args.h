// args.h: an argument of an operator, and the checks of tensors that several operators make.
//
// No torch here: bindings.cpp turns torch's tensors into Args, so an operator's binding compiles in
// half a second. Errors give the operator, the argument, what was expected and what was given:
// "matmul: b must have 3 rows, as a has 3 columns; got float32 [4, 5]".
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ladder.h"

template <class... Parts>
[[noreturn]] void fail(const std::string& op, const Parts&... parts) {
  std::ostringstream text;
  text << op << ": ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

inline std::string brackets(const std::vector<int64_t>& numbers) {
  std::string text = "[";
  for (int64_t number : numbers) text += (text.size() > 1 ? ", " : "") + std::to_string(number);
  return text + "]";
}

// ------------------------------------------------------------------------------------------------
// The dtypes that kernels support, by torch's names.

constexpr std::pair<const char*, DType> DTYPES[] = {
    {"float32", DType::float32},   {"float64", DType::float64}, {"float16", DType::float16},
    {"bfloat16", DType::bfloat16}, {"int8", DType::int8},
};

// ------------------------------------------------------------------------------------------------
// An argument.

// data: of the operator's dtype, moved in whole rows. statistic: one number per row, in the type
// that kernels compute in: float64 for float64, float32 for all others.
enum class Role { data, statistic };

struct Arg {
  std::string op;  // the operator it belongs to, for messages
  std::string name;
  void* data = nullptr;
  std::string dtype;  // torch's name
  int64_t element_bytes = 0;
  std::vector<int64_t> sizes, strides;
  bool contiguous = false;
  Role role = Role::data;  // set by the operator's binding
  bool output = false;
  bool optional = false;  // passing it is an option, with its name
  bool taken = false;     // the binding has requested it

  int rank() const { return static_cast<int>(sizes.size()); }
  bool empty() const { return std::find(sizes.begin(), sizes.end(), 0) != sizes.end(); }

  // Counted from the end: size(1) is the last dimension; a missing one has size 1.
  int64_t size(int from_end) const { return from_end <= rank() ? *(sizes.end() - from_end) : 1; }
  // 0 if the dimension has no second element to stride to.
  int64_t stride(int from_end) const {
    return size(from_end) > 1 ? *(strides.end() - from_end) : 0;
  }

  // "float32 [4, 3]", and the strides unless they are those of a contiguous tensor.
  std::string text() const {
    return dtype + " " + brackets(sizes) + (contiguous ? "" : ", strides " + brackets(strides));
  }

  const char* first_byte() const { return static_cast<const char*>(data); }
  // From the first byte to one past the last that an index can reach.
  int64_t spanned_bytes() const {
    if (empty()) return 0;
    int64_t last = 0;
    for (int i = 0; i < rank(); ++i) last += (sizes[i] - 1) * strides[i];
    return (last + 1) * element_bytes;
  }

  // Throws "<op>: <what is wrong>; got <this argument>".
  template <class... Parts>
  [[noreturn]] void reject(const Parts&... parts) const {
    fail(op, parts..., "; got ", text());
  }
};

using Args = std::vector<const Arg*>;

// ------------------------------------------------------------------------------------------------
// Checks.

inline void check_rank(const Arg& arg, int low, int high) {
  if (arg.rank() >= low && arg.rank() <= high) return;
  if (high == INT_MAX) arg.reject(arg.name, " must have at least one dimension");
  arg.reject(arg.name, " must have ", low, " to ", high, " dimensions");
}

inline void check_sizes(const Arg& arg, const std::vector<int64_t>& sizes, const std::string& why) {
  if (arg.sizes == sizes) return;
  arg.reject(arg.name, " must be ", brackets(sizes), " (", why, ")");
}

// Every dimension must fit a kernel's int. Softmax has 64-bit rows and passes `from_end` = 1.
inline void check_limits(const Arg& arg, int from_end) {
  for (int i = 1; i <= std::min(from_end, arg.rank()); ++i) {
    if (arg.size(i) <= MAX_DIM) continue;
    arg.reject("a dimension of ", arg.name, " is above ", MAX_DIM, ", the most a kernel supports");
  }
}

inline void check_rows_contiguous(const Arg& arg,
                                  const char* advice = ". Call .contiguous() first") {
  if (arg.empty() || arg.size(1) == 1 || arg.stride(1) == 1) return;
  fail(arg.op, "the last dimension of ", arg.name, " must be contiguous (stride 1); got ",
       arg.text(), arg.output ? "" : advice);
}

// One number per row of x.
inline void check_of_rows(const Arg& arg, const Arg& x) {
  check_sizes(arg, {x.sizes.begin(), x.sizes.end() - 1},
              "as " + x.name + " without its last dimension");
  const char* expected = x.dtype == "float64" ? "float64" : "float32";
  if (arg.dtype != expected) {
    arg.reject(arg.name, " must be ", expected, " where ", x.name, " is ", x.dtype);
  }
  if (!arg.contiguous) arg.reject(arg.name, " must be contiguous");
}

// An option must be finite in the type that kernels compute in.
inline void check_finite(const char* option, double value, const Arg& x) {
  const bool is_double = x.dtype == "float64";
  if (std::isfinite(is_double ? value : static_cast<float>(value))) return;
  fail(x.op, option, " must be finite", is_double ? "" : " in float32", "; got ", value);
}

// No two elements of an output may share memory: with the dimensions sorted by stride, each must
// step over everything that the smaller ones span.
inline void check_no_self_overlap(const Arg& out) {
  if (out.empty()) return;
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int i = 0; i < out.rank(); ++i) {
    if (out.sizes[i] > 1) dims.emplace_back(out.strides[i], out.sizes[i]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t last = 0;  // the furthest element so far
  for (auto [stride, size] : dims) {
    if (stride <= last) out.reject("elements of ", out.name, " share memory");
    last += (size - 1) * stride;
  }
}

inline void check_no_overlap(const Arg& out, const Arg& other) {
  const char* out_end = out.first_byte() + out.spanned_bytes();
  const char* other_end = other.first_byte() + other.spanned_bytes();
  if (out.spanned_bytes() == 0 || other.spanned_bytes() == 0) return;
  if (out_end <= other.first_byte() || other_end <= out.first_byte()) return;
  fail(out.op, "the memory that ", out.name,
       " spans from its first element to its last overlaps that of ", other.name, "; give ",
       out.name, " its own memory");
}

// ------------------------------------------------------------------------------------------------
// Views.

inline DType dtype_of(const Arg& arg) {
  for (auto [name, dtype] : DTYPES) {
    if (arg.dtype == name) return dtype;
  }
  arg.reject("kernels do not support ", arg.dtype);
}

// The tensor as a ladder sees it. All dimensions except the last `inner` are merged into one, of
// `what`, which must have a constant stride.
inline View view_of(const Arg& arg, int inner, const char* what) {
  View view = {.data = arg.data, .dtype = dtype_of(arg)};
  for (int i = 1; i <= inner; ++i) {
    view.size[4 - i] = arg.size(i);
    view.stride[4 - i] = arg.stride(i);
  }
  int64_t size = 1, stride = 0;
  for (int i = inner + 1; i <= arg.rank(); ++i) {
    if (arg.size(i) == 1) continue;  // its stride is never used
    if (size == 1) {
      stride = arg.stride(i);
    } else if (arg.stride(i) != size * stride && !arg.empty()) {
      fail(arg.op, "the ", what, " of ", arg.name, " must have a constant stride; got ", arg.text(),
           ". Call .contiguous() first");
    }
    size *= arg.size(i);
  }
  if (inner < 4) {
    view.size[3 - inner] = size;
    view.stride[3 - inner] = stride;
  }
  return view;
}

// With at most four dimensions, unmerged.
inline View view_of(const Arg& arg) { return view_of(arg, 4, ""); }
// [1, 1, rows, cols].
inline View rows_of(const Arg& arg) { return view_of(arg, 1, "rows"); }
