// args.h: an argument of an operator, and the checks of tensors that several operators make.
//
// No torch here: bindings.cpp turns torch's tensors into Args. What can be compiled once is in
// launch.cpp, so that an operator's binding compiles in under a second. Errors give the operator,
// the argument, what was expected and what was given:
// "matmul: b must have 3 rows, as a has 3 columns; got float32 [4, 5]".
#pragma once

#include <climits>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "ladder.h"

std::string brackets(const std::vector<int64_t>& numbers);  // "[4, 3]"

// A part of a message.
struct Part {
  std::string text;

  Part(const char* text) : text(text) {}
  Part(const std::string& text) : text(text) {}
  Part(std::integral auto number) : text(std::to_string(number)) {}
  Part(double number);
};

// Throws std::runtime_error("<op>: <parts, one after the other>").
[[noreturn]] void fail(const std::string& op, std::initializer_list<Part> parts);
template <class... Parts>
[[noreturn]] void fail(const std::string& op, const Parts&... parts) {
  fail(op, std::initializer_list<Part>{Part(parts)...});
}

// ------------------------------------------------------------------------------------------------
// The dtypes that kernels are given, by torch's names.

constexpr std::pair<const char*, DType> DTYPES[] = {
    {"float32", DType::float32},   {"float64", DType::float64}, {"float16", DType::float16},
    {"bfloat16", DType::bfloat16}, {"int8", DType::int8},       {"int32", DType::int32},
    {"bool", DType::boolean},
};

// ------------------------------------------------------------------------------------------------
// An argument.

// data: of the operator's dtype, moved in whole rows. statistic: one number per row, in the type
// that kernels compute in: float64 for float64, float32 for all others. sum: data, or the type that
// kernels sum in: float32 for the 16-bit types; only that, int32, for int8. other: of a dtype that
// the operator's binding checks.
enum class Role { data, statistic, sum, other };

struct Arg {
  std::string op;  // the operator it belongs to, for messages
  std::string name;
  void* data = nullptr;
  std::string dtype;  // torch's name
  int64_t element_bytes = 0;
  std::vector<int64_t> sizes, strides;
  bool contiguous = false;
  Role role = Role::data;  // as the operator's binding says
  bool output = false;
  bool optional = false;  // passing it counts as an option with its name
  bool taken = false;     // the binding has requested it

  int rank() const { return static_cast<int>(sizes.size()); }
  bool empty() const;  // has a dimension of size 0

  // Counted from the end: size(1) is the last dimension; a missing one has size 1.
  int64_t size(int from_end) const { return from_end <= rank() ? *(sizes.end() - from_end) : 1; }
  // 0 if the dimension has no second element to stride to.
  int64_t stride(int from_end) const {
    return size(from_end) > 1 ? *(strides.end() - from_end) : 0;
  }

  // "float32 [4, 3]", and the strides unless they are those of a contiguous tensor.
  std::string text() const;

  const char* first_byte() const { return static_cast<const char*>(data); }
  // From the first byte to just past the last one that an index can reach.
  int64_t spanned_bytes() const;

  // Throws "<op>: <what is wrong>; got <this argument>".
  template <class... Parts>
  [[noreturn]] void reject(const Parts&... parts) const {
    fail(op, {Part(parts)..., "; got ", text()});
  }
};

using Args = std::vector<const Arg*>;

// ------------------------------------------------------------------------------------------------
// Checks: each throws unless the argument is as its name says.

void check_rank(const Arg& arg, int low, int high);
void check_sizes(const Arg& arg, const std::vector<int64_t>& sizes, const std::string& why);
// Every dimension fits a kernel's int. Rows of softmax are 64-bit: they pass `from_end` = 1.
void check_limits(const Arg& arg, int from_end);
void check_rows_contiguous(const Arg& arg, const char* advice = ". Call .contiguous() first");
// One number per row of x.
void check_of_rows(const Arg& arg, const Arg& x);
// Of one dtype, whatever the others have.
void check_dtype(const Arg& arg, const char* dtype);
// An option has to be finite in the type that kernels compute in.
void check_finite(const char* option, double value, const Arg& x);
// No two elements of an output share memory.
void check_no_self_overlap(const Arg& out);
void check_no_overlap(const Arg& out, const Arg& other);

// ------------------------------------------------------------------------------------------------
// Views.

// The tensor as a ladder sees it. All dimensions except the last `inner` become one, of `what`,
// which must be a constant stride apart.
View view_of(const Arg& arg, int inner, const char* what);
// For at most four dimensions, each kept as it is.
inline View view_of(const Arg& arg) { return view_of(arg, 4, ""); }
// [1, 1, rows, cols].
inline View rows_of(const Arg& arg) { return view_of(arg, 1, "rows"); }
