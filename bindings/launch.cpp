// launch.cpp: the parts of a Call that do not depend on the operator. See launch.h.
#include "launch.h"

#ifdef WORKBENCH_SIMULATOR
#include "wbsim.h"
#endif

namespace {

// Whether `word` is in a space-separated list.
bool lists(const std::string& list, const std::string& word) {
  return (" " + list + " ").find(" " + word + " ") != std::string::npos;
}

std::string with_commas(const std::string& list) {
  std::string text;
  for (char c : list) text += c == ' ' ? ", " : std::string(1, c);
  return text;
}

int compute_capability(int device) {
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    throw std::runtime_error("cannot read the compute capability of the device");
  }
  return 10 * major + minor;
}

const char* take_report() {
#ifdef WORKBENCH_SIMULATOR
  return wbsim_take_report();
#else
  return nullptr;
#endif
}

}  // namespace

// ------------------------------------------------------------------------------------------------
// Operators

std::vector<const Operator*>& Operator::all() {
  static std::vector<const Operator*> operators;
  return operators;
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

// What the caller passes and the binding does not request would be silently ignored.
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

void Call::check_arguments(const std::string& dtypes) const {
  const Arg& first = args_.front();
  for (const Arg& arg : args_) {
    if (arg.role != Role::data || arg.dtype == first.dtype) continue;
    fail(name, "all tensors must have the same dtype, and the kernels support ",
         with_commas(dtypes), "; got ", first.name, " ", first.text(), ", ", arg.name, " ",
         arg.text());
  }
  if (!lists(dtypes, first.dtype)) {
    const char* one_of = dtypes.find(' ') == std::string::npos ? "" : "one of ";
    first.reject(first.name, " must be ", one_of, with_commas(dtypes));
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
// Choosing a rung: its requirements against the arguments.

Call::Facts Call::facts_of_call() const {
  Facts facts;
  facts.dtype = args_.front().dtype;
  for (const auto& [option, value] : options_) facts.options.push_back(option);
  for (const Arg& arg : args_) {
    if (arg.optional) facts.options.push_back(arg.name);
    if (arg.role != Role::data) continue;  // statistics are moved element by element
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

// Tells the simulator which bytes the kernels may access.
void Call::make_known(const Arg& arg, bool output) {
#ifdef WORKBENCH_SIMULATOR
  if (arg.empty()) return;
  wbsim_register_tensor(arg.data, static_cast<size_t>(arg.spanned_bytes()), arg.name.c_str(),
                        arg.text().c_str(), output ? WBSIM_OUT : WBSIM_IN);
  known_.emplace_back(arg.data, arg.name);
#endif
}

// A launcher that does not check its launches must not leave errors for the next operator.
void Call::launch(const char* rung, const std::function<void()>& run) {
  for (const Arg& arg : args_) make_known(arg, arg.output);
  take_report();  // drop an earlier one
  const std::string kernel = std::string("kernel '") + rung + "': ";
  std::string error;
  try {
    run();
  } catch (const std::exception& thrown) {
    error = kernel + thrown.what();
  }
  if (const char* report = take_report()) throw std::runtime_error(report);
  if (!error.empty()) fail(name, error);
  const cudaError_t left = cudaGetLastError();
  if (left != cudaSuccess) fail(name, kernel, "launch failed: ", cudaGetErrorString(left));
}

void* Call::scratch(size_t bytes) {
  scratch_.push_back(device_.allocate(bytes));
  make_known(scratch_.back(), true);
  return scratch_.back().data;
}
