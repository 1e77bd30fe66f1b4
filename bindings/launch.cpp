// launch.cpp: the part of arguments and calls that does not depend on the operator. See args.h and
// launch.h.
#include "launch.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <stdexcept>

#ifndef WORKBENCH_CPU
#include <cuda_runtime_api.h>
#endif
#ifdef WORKBENCH_SIMULATOR
#include "wbsim.h"
#endif

namespace {

// Whether `word` is in a list whose words are separated by spaces.
bool lists(const std::string& list, const std::string& word) {
  return (" " + list + " ").find(" " + word + " ") != std::string::npos;
}

std::string with_commas(const std::string& list) {
  std::string text;
  for (char c : list) text += c == ' ' ? ", " : std::string(1, c);
  return text;
}

#ifdef WORKBENCH_CPU
int compute_capability(int) { return 0; }
const char* launch_error() { return nullptr; }
#else
int compute_capability(int device) {
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    throw std::runtime_error("cannot read the compute capability of the device");
  }
  return 10 * major + minor;
}

// The error that a launch left behind, or nullptr.
const char* launch_error() {
  const cudaError_t left = cudaGetLastError();
  return left == cudaSuccess ? nullptr : cudaGetErrorString(left);
}
#endif

const char* take_report() {
#ifdef WORKBENCH_SIMULATOR
  return wbsim_take_report();
#else
  return nullptr;
#endif
}

}  // namespace

// ------------------------------------------------------------------------------------------------
// Messages

std::string brackets(const std::vector<int64_t>& numbers) {
  std::string text = "[";
  for (int64_t number : numbers) text += (text.size() > 1 ? ", " : "") + std::to_string(number);
  return text + "]";
}

Part::Part(double number) {
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%g", number);
  text = digits;
}

void fail(const std::string& op, std::initializer_list<Part> parts) {
  std::string text = op + ": ";
  for (const Part& part : parts) text += part.text;
  throw std::runtime_error(text);
}

// ------------------------------------------------------------------------------------------------
// An argument (args.h)

bool Arg::empty() const { return std::find(sizes.begin(), sizes.end(), 0) != sizes.end(); }

std::string Arg::text() const {
  return dtype + " " + brackets(sizes) + (contiguous ? "" : ", strides " + brackets(strides));
}

int64_t Arg::spanned_bytes() const {
  if (empty()) return 0;
  int64_t last = 0;
  for (int i = 0; i < rank(); ++i) last += (sizes[i] - 1) * strides[i];
  return (last + 1) * element_bytes;
}

void check_rank(const Arg& arg, int low, int high) {
  if (arg.rank() >= low && arg.rank() <= high) return;
  if (high == INT_MAX) {
    arg.reject(arg.name, " must have at least ", low, low == 1 ? " dimension" : " dimensions");
  }
  arg.reject(arg.name, " must have ", low, " to ", high, " dimensions");
}

void check_sizes(const Arg& arg, const std::vector<int64_t>& sizes, const std::string& why) {
  if (arg.sizes == sizes) return;
  arg.reject(arg.name, " must be ", brackets(sizes), " (", why, ")");
}

void check_limits(const Arg& arg, int from_end) {
  for (int i = 1; i <= std::min(from_end, arg.rank()); ++i) {
    if (arg.size(i) <= MAX_DIM) continue;
    arg.reject("a dimension of ", arg.name, " is above ", MAX_DIM, ", the most a kernel supports");
  }
}

void check_rows_contiguous(const Arg& arg, const char* advice) {
  if (arg.empty() || arg.size(1) == 1 || arg.stride(1) == 1) return;
  fail(arg.op, "the last dimension of ", arg.name, " must be contiguous (stride 1); got ",
       arg.text(), arg.output ? "" : advice);
}

void check_of_rows(const Arg& arg, const Arg& x) {
  check_sizes(arg, {x.sizes.begin(), x.sizes.end() - 1},
              "as " + x.name + " without its last dimension");
  const char* expected = x.dtype == "float64" ? "float64" : "float32";
  if (arg.dtype != expected) {
    arg.reject(arg.name, " must be ", expected, " where ", x.name, " is ", x.dtype);
  }
  if (!arg.contiguous) arg.reject(arg.name, " must be contiguous");
}

void check_dtype(const Arg& arg, const char* dtype) {
  if (arg.dtype != dtype) arg.reject(arg.name, " must be ", dtype);
}

void check_finite(const char* option, double value, const Arg& x) {
  const bool is_double = x.dtype == "float64";
  if (std::isfinite(is_double ? value : static_cast<float>(value))) return;
  fail(x.op, option, " must be finite", is_double ? "" : " in float32", "; got ", value);
}

// With the dimensions sorted by stride, each must step over everything that the smaller ones span.
void check_no_self_overlap(const Arg& out) {
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

void check_no_overlap(const Arg& out, const Arg& other) {
  const char* out_end = out.first_byte() + out.spanned_bytes();
  const char* other_end = other.first_byte() + other.spanned_bytes();
  if (out.spanned_bytes() == 0 || other.spanned_bytes() == 0) return;
  if (out_end <= other.first_byte() || other_end <= out.first_byte()) return;
  fail(out.op, "the memory that ", out.name,
       " spans from its first element to its last overlaps that of ", other.name, "; give ",
       out.name, " its own memory");
}

static DType dtype_of(const Arg& arg) {
  for (auto [name, dtype] : DTYPES) {
    if (arg.dtype == name) return dtype;
  }
  arg.reject("kernels do not support ", arg.dtype);
}

View view_of(const Arg& arg, int inner, const char* what) {
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

// ------------------------------------------------------------------------------------------------
// Operators

std::vector<const Operator*>& Operator::all() {
  static std::vector<const Operator*> operators;
  return operators;
}

// A line for each rung: name, dtypes, options, alignment, compute_capability, composed_of.
std::string table_text(const std::vector<Table>& tables) {
  std::ostringstream text;
  for (const auto& [name, needs] : tables) {
    text << name << '\t' << needs.dtypes << '\t' << needs.options << '\t' << needs.alignment << '\t'
         << needs.compute_capability << '\t' << needs.composed_of << '\n';
  }
  return text.str();
}

const Operator* Operator::find(const std::string& name) {
  for (const Operator* op : all()) {
    if (op->name == name) return op;
  }
  return nullptr;
}

// ------------------------------------------------------------------------------------------------
// Arguments and options

const Arg* Call::find(const char* name, Role role, bool output, bool optional) {
  for (Arg& arg : args_) {
    if (arg.name != name) continue;
    arg.role = role;
    arg.output = output;
    arg.optional = optional;
    arg.taken = true;
    return &arg;
  }
  return nullptr;
}

const Arg& Call::take(const char* name, Role role, bool output) {
  if (const Arg* arg = find(name, role, output, false)) return *arg;
  fail(this->name, "there is no argument ", name);
}

double Call::number(const char* name, double otherwise) {
  read_.push_back(name);
  const auto found = options_.find(name);
  return found == options_.end() ? otherwise : found->second;
}

Args Call::arguments(bool outputs) const {
  Args found;
  for (const Arg& arg : args_) {
    if (arg.output == outputs) found.push_back(&arg);
  }
  return found;
}

// An argument or option that the binding does not read would be ignored silently.
void Call::check_all_taken() const {
  for (const Arg& arg : args_) {
    if (!arg.taken) fail(name, "it has no argument ", arg.name);
  }
  for (const auto& [option, value] : options_) {
    if (std::find(read_.begin(), read_.end(), option) == read_.end()) {
      fail(name, "it has no option ", option);
    }
  }
}

// Throws unless the argument is of the operator's dtype, or of the type that sums of it have.
static void check_sum(const Arg& arg, const Arg& first) {
  const bool narrow = first.dtype == "float16" || first.dtype == "bfloat16";
  const bool bytes = first.dtype == "int8";
  if (arg.dtype == (bytes ? "int32" : first.dtype) || (narrow && arg.dtype == "float32")) return;
  arg.reject(arg.name, " must be ", bytes ? "int32" : first.dtype, narrow ? " or float32" : "",
             " where ", first.name, " is ", first.dtype);
}

void Call::check_arguments(const std::string& dtypes) const {
  const Arg& first = args_.front();
  for (const Arg& arg : args_) {
    if (arg.role != Role::data || arg.dtype == first.dtype) continue;
    fail(name, "all tensors must have the same dtype, and the kernels support ",
         with_commas(dtypes), "; got ", first.name, " ", first.text(), ", ", arg.name, " ",
         arg.text());
  }
  if (!lists(dtypes, first.dtype) && computes_in_.empty()) {
    const char* one_of = dtypes.find(' ') == std::string::npos ? "" : "one of ";
    first.reject(first.name, " must be ", one_of, with_commas(dtypes));
  }
  for (const Arg& arg : args_) {
    if (arg.role == Role::sum) check_sum(arg, first);
  }
  const Args ins = arguments(false), outs = arguments(true);
  for (const Arg* out : outs) {
    check_no_self_overlap(*out);
    for (const Arg* in : ins) check_no_overlap(*out, *in);
    for (const Arg* other : outs) {
      if (other != out) check_no_overlap(*out, *other);
    }
  }
}

// ------------------------------------------------------------------------------------------------
// Choosing a rung: what it needs against what was given.

Call::Facts Call::facts_of_call() const {
  Facts facts;
  facts.dtype = computes_in_.empty() ? args_.front().dtype : computes_in_;
  for (const auto& [option, value] : options_) {
    if (option != computes_in_) facts.options.push_back(option);
  }
  for (const Arg& arg : args_) {
    if (arg.optional) facts.options.push_back(arg.name);
    // These are moved element by element.
    if (arg.role == Role::statistic || arg.role == Role::other) continue;
    const auto misaligned = [&](int64_t bytes) { return bytes % facts.alignment != 0; };
    while (misaligned(reinterpret_cast<int64_t>(arg.data))) facts.alignment /= 2;
    for (int i = 2; i <= arg.rank(); ++i) {
      while (misaligned(arg.stride(i) * arg.element_bytes)) facts.alignment /= 2;
    }
    facts.came += (facts.came.empty() ? "" : ", ") + arg.name + " " + arg.text();
  }
  return facts;
}

// Why a rung does not support the call, or "".
std::string Call::unmet(const Needs& needs, const Facts& facts) const {
  std::ostringstream why;
  if (!lists(needs.dtypes, facts.dtype)) {
    why << "supports " << with_commas(needs.dtypes) << "; got " << facts.dtype;
    return why.str();
  }
  for (const std::string& option : facts.options) {
    if (!lists(needs.options, option)) return "does not support " + option;
  }
  if (facts.alignment % needs.alignment != 0) {
    why << "needs pointers and strides in multiples of " << needs.alignment
        << " bytes; got multiples of " << facts.alignment;
  } else if (needs.compute_capability > 0) {
    const int came = compute_capability(device_.index);
    if (came < needs.compute_capability) {
      why << "needs compute capability " << needs.compute_capability << "; got " << came;
    }
  }
  return why.str();
}

// All dtypes that any rung of a ladder supports.
std::string Call::dtypes_of(const std::vector<Table>& tables) {
  std::string all;
  for (const Table& rung : tables) {
    std::istringstream dtypes(rung.needs.dtypes);
    for (std::string dtype; dtypes >> dtype;) {
      if (dtype == "tf32") continue;  // no dtype of tensors
      if (!lists(all, dtype)) all += (all.empty() ? "" : " ") + dtype;
    }
  }
  return all;
}

void Call::fail_unknown(const std::vector<Table>& tables) const {
  std::string names;
  for (const Table& rung : tables) names += (names.empty() ? "" : ", ") + std::string(rung.name);
  fail(name, "there is no kernel '", kernel_, "'; the ladder has ", names);
}

void Call::fail_none(const std::vector<std::pair<std::string, std::string>>& reasons,
                     const std::string& came) const {
  std::string text;
  bool one_reason = true;
  for (const auto& [rung, why] : reasons) {
    one_reason = one_reason && why == reasons.front().second;
    text += "\n  " + rung + " " + why;
  }
  if (one_reason) fail(name, "every kernel ", reasons.front().second, " (", came, ")");
  fail(name, "no kernel accepts this input (", came, "):", text);
}

// ------------------------------------------------------------------------------------------------
// The launch

Call::~Call() {
#ifdef WORKBENCH_SIMULATOR
  for (const auto& [first, name] : known_) wbsim_unregister_tensor(first, name.c_str());
#endif
}

// Tells the simulator which bytes the kernels may touch.
void Call::make_known(const Arg& arg, bool output) {
#ifdef WORKBENCH_SIMULATOR
  if (arg.empty()) return;
  wbsim_register_tensor(arg.data, static_cast<size_t>(arg.spanned_bytes()), arg.name.c_str(),
                        arg.text().c_str(), output ? WBSIM_OUT : WBSIM_IN);
  known_.emplace_back(arg.data, arg.name);
#endif
}

// A launcher that does not check its launches must not leave their errors to the next operator.
void Call::launch(const char* rung, const std::function<void()>& run) {
  for (const Arg& arg : args_) make_known(arg, arg.output);
  take_report();  // discards one left by an earlier call
  const std::string kernel = std::string("kernel '") + rung + "': ";
  std::string error;
  try {
    run();
  } catch (const std::exception& thrown) {
    error = kernel + thrown.what();
  }
  if (const char* report = take_report()) throw std::runtime_error(report);
  if (!error.empty()) fail(name, error);
  if (const char* left = launch_error()) fail(name, kernel, "launch failed: ", left);
}

void* Call::scratch(size_t bytes) {
  scratch_.push_back(device_.allocate(bytes));
  make_known(scratch_.back(), true);
  return scratch_.back().data;
}
