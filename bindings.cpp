// bindings.cpp: the one C++ file that knows both PyTorch and the ladders.
//
// It checks tensors, turns them into the plain problems of kernels/ladder.h, finds the rung and
// calls its launcher. It holds no device code and allocates nothing but scratch memory: outputs
// are given. The same file makes both targets:
//   -DUSE_CUDA              CUDA tensors, on the current stream of their device
//   -DWORKBENCH_SIMULATOR   CPU tensors, registered with the simulator around each launch
//
// Only PyTorch's stable ABI is used (torch/csrc/stable), which compiles in a second or two where
// torch/extension.h takes twenty, and runs under newer versions than it was compiled with.
#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 11) << 48))  // torch 2.11

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ladder.h"

#ifdef WORKBENCH_SIMULATOR
#include "wbsim.h"
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// ------------------------------------------------------------------------------------------------
// Errors: "matmul: b must have 3 rows, as a has 3 columns; got float32 [4, 5]".

template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream text;
  text << op << ": ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

template <class Numbers>
std::string brackets(const Numbers& numbers) {
  std::string text = "[";
  for (auto number : numbers) text += (text.size() > 1 ? ", " : "") + std::to_string(number);
  return text + "]";
}

std::string dtype_name(ScalarType dtype) {
  static constexpr std::pair<ScalarType, const char*> NAMES[] = {
      {ScalarType::Float, "float32"},
      {ScalarType::Double, "float64"},
      {ScalarType::Half, "float16"},
      {ScalarType::BFloat16, "bfloat16"},
      {ScalarType::Byte, "uint8"},
      {ScalarType::Char, "int8"},
      {ScalarType::Short, "int16"},
      {ScalarType::Int, "int32"},
      {ScalarType::Long, "int64"},
      {ScalarType::Bool, "bool"},
      {ScalarType::ComplexFloat, "complex64"},
      {ScalarType::ComplexDouble, "complex128"},
  };
  for (auto [known, name] : NAMES) {
    if (known == dtype) return name;
  }
  return torch::headeronly::toString(dtype);  // "Float8_e4m3fn" and such
}

std::string device_name(const Tensor& tensor) {
  return tensor.is_cpu() ? "cpu" : "cuda:" + std::to_string(tensor.get_device_index());
}

// ------------------------------------------------------------------------------------------------
// An argument: a tensor, its name, and what the checks ask of it.

struct Arg {
  const char* name;
  Tensor tensor;
  std::vector<int64_t> sizes, strides;
  ScalarType dtype;
  int64_t element_bytes;

  Arg(const char* name, const Tensor& t)
      : name(name),
        tensor(t),
        sizes(t.sizes().begin(), t.sizes().end()),
        strides(t.strides().begin(), t.strides().end()),
        dtype(t.scalar_type()),
        element_bytes(static_cast<int64_t>(t.element_size())) {}

  int rank() const { return static_cast<int>(sizes.size()); }
  bool empty() const { return std::find(sizes.begin(), sizes.end(), 0) != sizes.end(); }

  // Counted from the end: size(1) is the last dimension, and one that is missing has size 1.
  int64_t size(int from_end) const { return from_end <= rank() ? *(sizes.end() - from_end) : 1; }
  // 0 where the dimension has no second element to stride to.
  int64_t stride(int from_end) const {
    return size(from_end) > 1 ? *(strides.end() - from_end) : 0;
  }

  // "float32 [4, 3]", and the strides unless they are those of a contiguous tensor.
  std::string text() const {
    std::string text = dtype_name(dtype) + " " + brackets(sizes);
    if (!tensor.is_contiguous()) text += ", strides " + brackets(strides);
    return text;
  }

  const char* first_byte() const { return static_cast<const char*>(tensor.data_ptr()); }
  // From the first byte to behind the last one that an index can reach.
  int64_t spanned_bytes() const {
    if (empty()) return 0;
    int64_t last = 0;
    for (int i = 0; i < rank(); ++i) last += (sizes[i] - 1) * strides[i];
    return (last + 1) * element_bytes;
  }

  template <class T>
  T* data() const {
    return static_cast<T*>(tensor.data_ptr());
  }
};

using Args = std::vector<const Arg*>;

// ------------------------------------------------------------------------------------------------
// Checks that every operator makes.

void check_rank(const char* op, const Arg& arg, int low, int high) {
  if (arg.rank() >= low && arg.rank() <= high) return;
  if (high == INT_MAX) fail(op, arg.name, " must have at least one dimension; got ", arg.text());
  fail(op, arg.name, " must have ", low, " to ", high, " dimensions; got ", arg.text());
}

void check_sizes(const char* op, const Arg& arg, const std::vector<int64_t>& sizes,
                 const char* why) {
  if (arg.sizes == sizes) return;
  fail(op, arg.name, " must be ", brackets(sizes), " (", why, "); got ", arg.text());
}

// Every dimension fits a kernel's int. Rows of softmax are 64-bit: they pass `from_end` = 1.
void check_limits(const char* op, const Arg& arg, int from_end) {
  for (int i = 1; i <= std::min(from_end, arg.rank()); ++i) {
    if (arg.size(i) <= MAX_DIM) continue;
    fail(op, "a dimension of ", arg.name, " is above ", MAX_DIM, ", the largest a kernel takes; ",
         "got ", arg.text());
  }
}

void check_rows_contiguous(const char* op, const Arg& arg,
                           const char* advice = ". Call .contiguous() first") {
  if (arg.empty() || arg.size(1) == 1 || arg.stride(1) == 1) return;
  fail(op, "the last dimension of ", arg.name, " must be contiguous (stride 1); got ", arg.text(),
       advice);
}

struct Collapsed {
  int64_t size = 1;
  int64_t stride = 0;
};

// All but the last `inner` dimensions as one: how many `what` there are, and how far apart.
Collapsed collapse(const char* op, const Arg& arg, int inner, const char* what) {
  Collapsed all;
  for (int i = inner + 1; i <= arg.rank(); ++i) {
    if (arg.size(i) == 1) continue;  // its stride is never taken
    if (all.size == 1) {
      all.stride = arg.stride(i);
    } else if (arg.stride(i) != all.size * all.stride && !arg.empty()) {
      fail(op, "the ", what, " of ", arg.name, " must be one stride apart; got ", arg.text(),
           ". Call .contiguous() first");
    }
    all.size *= arg.size(i);
  }
  return all;
}

// No two elements of an output may share memory: with the dimensions sorted by stride, each must
// step over all that the smaller ones span.
void check_no_self_overlap(const char* op, const Arg& out) {
  if (out.empty()) return;
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int i = 0; i < out.rank(); ++i) {
    if (out.sizes[i] > 1) dims.emplace_back(out.strides[i], out.sizes[i]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t last = 0;  // the furthest element so far
  for (auto [stride, size] : dims) {
    if (stride <= last) fail(op, "elements of ", out.name, " share memory; got ", out.text());
    last += (size - 1) * stride;
  }
}

void check_no_overlap(const char* op, const Arg& out, const Arg& other) {
  const char* out_end = out.first_byte() + out.spanned_bytes();
  const char* other_end = other.first_byte() + other.spanned_bytes();
  if (out.spanned_bytes() == 0 || other.spanned_bytes() == 0) return;
  if (out_end <= other.first_byte() || other_end <= out.first_byte()) return;
  fail(op, "the memory that ", out.name, " spans from its first element to its last overlaps what ",
       other.name, " spans; give ", out.name, " memory of its own");
}

void check_one_device(const char* op, const Args& args) {
  const Arg& first = *args.front();
  for (const Arg* arg : args) {
    if (device_name(arg->tensor) == device_name(first.tensor)) continue;
    fail(op, "all tensors must be on one device; ", first.name, " is on ",
         device_name(first.tensor), " and ", arg->name, " on ", device_name(arg->tensor));
  }
}

// An output shares memory with nothing, itself included.
void check_outputs(const char* op, const Args& outs, const Args& ins) {
  for (const Arg* out : outs) {
    check_no_self_overlap(op, *out);
    for (const Arg* in : ins) check_no_overlap(op, *out, *in);
    for (const Arg* other : outs) {
      if (other != out) check_no_overlap(op, *out, *other);
    }
  }
}

// ------------------------------------------------------------------------------------------------
// Which rung: requirements against what came.

struct Facts {
  std::string dtype;
  int64_t alignment = 128;  // of every pointer and stride, in bytes; no rung asks for more
  int64_t head_dim = 0;     // attention only
  std::string options;      // softmax: what is asked for beyond it, separated by spaces
  int device = 0;           // CUDA's number of it; the simulator has one device
  std::string came;         // "a float32 [4, 3], b float32 [3, 5]"

  explicit Facts(const Args& args) {
    const Arg& first = *args.front();
    dtype = dtype_name(first.dtype);
    if (!first.tensor.is_cpu()) device = first.tensor.get_device_index();
    for (const Arg* arg : args) {
      auto misaligned = [this](int64_t bytes) { return bytes % alignment != 0; };
      while (misaligned(reinterpret_cast<int64_t>(arg->first_byte()))) alignment /= 2;
      for (int i = 2; i <= arg->rank(); ++i) {
        while (misaligned(arg->stride(i) * arg->element_bytes)) alignment /= 2;
      }
      came += (came.empty() ? "" : ", ") + (arg->name + (" " + arg->text()));
    }
  }
};

// Is `word` one of a list whose words are separated by spaces? An empty list takes all.
bool lists(const std::string& list, const std::string& word) {
  return list.empty() || (" " + list + " ").find(" " + word + " ") != std::string::npos;
}

int compute_capability(int device) {
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    throw std::runtime_error("the compute capability of the device cannot be read");
  }
  return 10 * major + minor;
}

std::string with_commas(const std::string& list) {
  std::string text;
  for (char c : list) text += c == ' ' ? ", " : std::string(1, c);
  return text;
}

// All dtypes that any rung of a ladder takes, separated by spaces.
template <class Problem>
std::string dtypes_of(const Rung<Problem>* (*ladder)(int*)) {
  int n = 0;
  const Rung<Problem>* rungs = ladder(&n);
  std::string all;
  for (int i = 0; i < n; ++i) {
    std::istringstream dtypes(rungs[i].needs.dtypes);
    for (std::string dtype; dtypes >> dtype;) {
      if (all.empty() || !lists(all, dtype)) all += (all.empty() ? "" : " ") + dtype;
    }
  }
  return all;
}

template <class Problem>
void check_one_dtype(const char* op, const Rung<Problem>* (*ladder)(int*), const Args& args) {
  const Arg& first = *args.front();
  for (const Arg* arg : args) {
    if (arg->dtype == first.dtype) continue;
    fail(op, "all tensors must have one dtype, and the kernels take ",
         with_commas(dtypes_of(ladder)), "; got ", first.name, " ", first.text(), ", ", arg->name,
         " ", arg->text());
  }
}

// The first of the options asked for that a rung does not know, or "".
std::string unknown_option(const Requirements& needs, const Facts& facts) {
  std::istringstream asked(facts.options);
  for (std::string option; asked >> option;) {
    if (*needs.options == '\0' || !lists(needs.options, option)) return option;
  }
  return "";
}

// Why a rung cannot take the input, or "".
std::string unmet(const Requirements& needs, const Facts& facts) {
  std::ostringstream why;
  const std::string head_dim = std::to_string(facts.head_dim);
  const std::string unknown = unknown_option(needs, facts);
  if (!lists(needs.dtypes, facts.dtype)) {
    why << "takes " << with_commas(needs.dtypes) << "; got " << facts.dtype;
  } else if (!lists(needs.head_dims, head_dim)) {
    why << "takes D = " << with_commas(needs.head_dims) << "; got D = " << head_dim;
  } else if (!unknown.empty()) {
    why << "knows no " << unknown;
  } else if (facts.alignment % needs.alignment != 0) {
    why << "needs pointers and strides in multiples of " << needs.alignment
        << " bytes; got multiples of " << facts.alignment;
  } else if (needs.compute_capability > 0) {
    const int came = compute_capability(facts.device);
    if (came < needs.compute_capability) {
      why << "needs compute capability " << needs.compute_capability << "; got " << came;
    }
  }
  return why.str();
}

// The rung named `kernel`, or, for "", the last one of the ladder that takes the input.
template <class Problem>
const Rung<Problem>& choose(const char* op, const Rung<Problem>* (*ladder)(int*),
                            const std::string& kernel, const Facts& facts) {
  int n = 0;
  const Rung<Problem>* rungs = ladder(&n);
  if (!kernel.empty()) {
    if (const Rung<Problem>* rung = find_rung(ladder, kernel.c_str())) {
      const std::string why = unmet(rung->needs, facts);
      if (why.empty()) return *rung;
      fail(op, "kernel '", kernel, "' ", why, " (", facts.came, ")");
    }
    std::string names;
    for (int i = 0; i < n; ++i) names += (i > 0 ? ", " : "") + std::string(rungs[i].name);
    fail(op, "there is no kernel '", kernel, "'; the ladder has ", names);
  }
  std::string reasons, why_last;
  bool one_reason = true;
  for (int i = n - 1; i >= 0; --i) {
    const std::string why = unmet(rungs[i].needs, facts);
    if (why.empty()) return rungs[i];
    one_reason = one_reason && (why_last.empty() || why == why_last);
    why_last = why;
    reasons += std::string("\n  ") + rungs[i].name + " " + why;
  }
  if (one_reason) fail(op, "every kernel ", why_last, " (", facts.came, ")");
  fail(op, "no kernel takes this input (", facts.came, "):", reasons);
}

// ------------------------------------------------------------------------------------------------
// One launch: device, stream, scratch memory, and the simulator's view of the tensors.

// Lives around a launch. On a GPU it makes the tensors' device the current one; for the simulator
// it registers which bytes the kernels may touch.
class Launch {
 public:
  Launch(const char* op, const Args& ins, const Args& outs) : op_(op), like_(ins.front()->tensor) {
    for (const Arg* arg : ins) register_tensor(*arg, false);
    for (const Arg* arg : outs) register_tensor(*arg, true);
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // A launcher that does not check its launches must not leave their errors to the next operator.
  template <class Problem>
  void run(const Rung<Problem>& rung, const Problem& problem) {
    take_report();  // one that somebody else left
    const std::string kernel = std::string("kernel '") + rung.name + "': ";
    std::string error;
    try {
      rung.launch(problem, stream());
    } catch (const std::exception& thrown) {
      error = kernel + thrown.what();
    }
    if (const char* report = take_report()) throw std::runtime_error(report);
    if (!error.empty()) fail(op_, error);
    const cudaError_t left = cudaGetLastError();
    if (left != cudaSuccess) fail(op_, kernel, "launch failed: ", cudaGetErrorString(left));
  }

  // Scratch memory for launchers, released with this object. On a GPU that is before the kernels
  // have run, and safe: torch hands memory out again in the order of the stream.
  Workspace workspace() {
    return {[](void* self, size_t bytes) { return static_cast<Launch*>(self)->allocate(bytes); },
            this};
  }

 private:
  void* allocate(size_t bytes) {
    const int64_t size = static_cast<int64_t>(bytes), stride = 1;
    int32_t device_type = 0;
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like_.get(), &device_type));
    if (aoti_torch_empty_strided(1, &size, &stride, aoti_torch_dtype_uint8(), device_type,
                                 like_.get_device_index(), &handle) != TORCH_SUCCESS) {
      throw std::runtime_error("no memory for a workspace of " + std::to_string(bytes) + " bytes");
    }
    register_tensor(scratch_.emplace_back("workspace", Tensor(handle)), true);
    return scratch_.back().data<void>();
  }

  const char* op_;
  Tensor like_;  // gives the device
  std::vector<Arg> scratch_;

#ifdef WORKBENCH_SIMULATOR
 public:
  ~Launch() {
    for (auto [first, name] : registered_) wbsim_unregister_tensor(first, name);
  }

 private:
  static const char* take_report() { return wbsim_take_report(); }
  void register_tensor(const Arg& arg, bool output) {
    if (arg.empty()) return;
    wbsim_register_tensor(arg.first_byte(), static_cast<size_t>(arg.spanned_bytes()), arg.name,
                          arg.text().c_str(), output ? WBSIM_OUT : WBSIM_IN);
    registered_.emplace_back(arg.first_byte(), arg.name);
  }
  cudaStream_t stream() const { return nullptr; }
  std::vector<std::pair<const void*, const char*>> registered_;
#else
  static const char* take_report() { return nullptr; }
  void register_tensor(const Arg&, bool) {}
  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like_.get_device_index(), &stream));
    return static_cast<cudaStream_t>(stream);
  }
  torch::stable::accelerator::DeviceGuard guard_{like_.get_device_index()};
#endif
};

// ------------------------------------------------------------------------------------------------
// The operators.

// The matrices of an argument, whose leading dimensions must be those of a.
Collapsed matrices(const char* op, const Arg& arg, const std::vector<int64_t>& batch,
                   const char* or_none = "") {
  if (!std::equal(batch.begin(), batch.end(), arg.sizes.begin(), arg.sizes.end() - 2)) {
    fail(op, arg.name, " must have the batch dimensions ", brackets(batch), " of a", or_none,
         "; got ", arg.text());
  }
  const Collapsed all = collapse(op, arg, 2, "matrices");
  if (all.size > MAX_DIM) fail(op, "there are more than ", MAX_DIM, " matrices in ", arg.text());
  return all;
}

void matmul_out(Tensor a_, Tensor b_, Tensor out_, bool b_transposed, std::string kernel) {
  const char* op = b_transposed ? "matmul_nt" : "matmul";
  const Arg a("a", a_), b("b", b_), out("out", out_);
  for (const Arg* arg : {&a, &b}) {
    check_rank(op, *arg, 2, 4);
    check_limits(op, *arg, arg->rank());
  }
  const int64_t M = a.size(2), K = a.size(1);
  const int64_t N = b_transposed ? b.size(2) : b.size(1);
  if ((b_transposed ? b.size(1) : b.size(2)) != K) {
    fail(op, "b must have ", K, b_transposed ? " columns" : " rows", ", as a has ", K, " columns (",
         b_transposed ? "a [.., M, K], b [.., N, K]" : "a [.., M, K], b [.., K, N]", "); got a ",
         a.text(), ", b ", b.text());
  }
  const std::vector<int64_t> batch(a.sizes.begin(), a.sizes.end() - 2);
  std::vector<int64_t> expected = batch;
  expected.insert(expected.end(), {M, N});
  check_sizes(op, out, expected, "[.., M, N]");
  const Collapsed as = matrices(op, a, batch);
  const Collapsed bs = b.rank() == 2 ? Collapsed{} : matrices(op, b, batch, ", or none");
  const Collapsed outs = matrices(op, out, batch);

  check_one_device(op, {&a, &b, &out});
  check_one_dtype(op, matmul_rungs, {&a, &b, &out});
  check_outputs(op, {&out}, {&a, &b});
  check_rows_contiguous(op, a);
  check_rows_contiguous(op, b,
                        b_transposed ? ". Call .contiguous() first"
                                     : ". Give its transpose to matmul_nt, or call "
                                       ".contiguous() first");
  check_rows_contiguous(op, out, "");
  const auto& rung = choose(op, matmul_rungs, kernel, Facts({&a, &b, &out}));

  const MatmulProblem problem{
      .A = a.data<const float>(),
      .B = b.data<const float>(),
      .C = out.data<float>(),
      .batch = static_cast<int>(as.size),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .K = static_cast<int>(K),
      .lda = a.stride(2),
      .ldb = b.stride(2),
      .ldc = out.stride(2),
      .stride_a = as.stride,
      .stride_b = bs.stride,
      .stride_c = outs.stride,
      .b_transposed = b_transposed,
  };
  Launch(op, {&a, &b}, {&out}).run(rung, problem);
}

DType compute_dtype(const char* op, const Arg& arg) {
  switch (arg.dtype) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    default:
      fail(op, "kernels are not given ", dtype_name(arg.dtype), "; got ", arg.text());
  }
}

// The options of softmax that a call asks for, as Requirements.options has them.
std::string softmax_options(double scale, bool log, bool lse) {
  return std::string(scale != 1 ? " scale" : "") + (log ? " log" : "") + (lse ? " lse" : "");
}

// Kernels compute in float, but in double for float64; the scale has to be finite there.
void check_scale(const char* op, double scale, const Arg& x) {
  const bool is_double = x.dtype == ScalarType::Double;
  if (std::isfinite(is_double ? scale : static_cast<float>(scale))) return;
  fail(op, "scale must be finite", is_double ? "" : " in float32", "; got ", scale);
}

// lse or its gradient: a number for each row of x, in the type that kernels compute in.
void check_of_rows(const char* op, const Arg& arg, const Arg& x) {
  check_sizes(op, arg, {x.sizes.begin(), x.sizes.end() - 1},
              (std::string("as ") + x.name + " without its last dimension").c_str());
  const bool is_double = x.dtype == ScalarType::Double;
  if (arg.dtype != (is_double ? ScalarType::Double : ScalarType::Float)) {
    fail(op, arg.name, " must be ", is_double ? "float64" : "float32", " where ", x.name, " is ",
         dtype_name(x.dtype), "; got ", arg.text());
  }
  if (!arg.tensor.is_contiguous()) fail(op, arg.name, " must be contiguous; got ", arg.text());
}

void softmax_out(Tensor x_, Tensor out_, std::optional<Tensor> lse_, double scale, bool log,
                 std::string kernel) {
  const char* op = "softmax";
  const Arg x("x", x_), out("out", out_);
  std::optional<Arg> lse;
  Args outs = {&out};
  if (lse_) outs.push_back(&lse.emplace("lse", *lse_));
  check_rank(op, x, 1, INT_MAX);
  check_sizes(op, out, x.sizes, "as x");
  check_limits(op, x, 1);
  check_one_device(op, lse ? Args{&x, &out, &*lse} : Args{&x, &out});
  check_one_dtype(op, softmax_rungs, {&x, &out});
  if (lse) check_of_rows(op, *lse, x);
  check_scale(op, scale, x);
  check_outputs(op, outs, {&x});
  check_rows_contiguous(op, x);
  check_rows_contiguous(op, out, "");
  const Collapsed rows = collapse(op, x, 1, "rows");
  const Collapsed out_rows = collapse(op, out, 1, "rows");
  Facts facts({&x, &out});  // lse is written element by element
  facts.options = softmax_options(scale, log, lse.has_value());
  const auto& rung = choose(op, softmax_rungs, kernel, facts);

  const SoftmaxProblem problem{
      .x = x.data<const void>(),
      .y = out.data<void>(),
      .lse = lse ? lse->data<void>() : nullptr,
      .dtype = compute_dtype(op, x),
      .rows = rows.size,
      .cols = static_cast<int>(x.size(1)),
      .ldx = rows.stride,
      .ldy = out_rows.stride,
      .scale = scale,
      .log = log,
  };
  Launch(op, {&x}, outs).run(rung, problem);
}

void softmax_backward_out(Tensor dy_, Tensor y_, std::optional<Tensor> dlse_, Tensor dx_,
                          double scale, bool log, std::string kernel) {
  const char* op = "softmax_backward";
  const Arg dy("dy", dy_), y("y", y_), dx("dx", dx_);
  std::optional<Arg> dlse;
  Args ins = {&dy, &y};
  if (dlse_) ins.push_back(&dlse.emplace("dlse", *dlse_));
  check_rank(op, dy, 1, INT_MAX);
  check_sizes(op, y, dy.sizes, "as dy");
  check_sizes(op, dx, dy.sizes, "as dy");
  check_limits(op, dy, 1);
  check_one_device(op, dlse ? Args{&dy, &y, &*dlse, &dx} : Args{&dy, &y, &dx});
  check_one_dtype(op, softmax_backward_rungs, {&dy, &y, &dx});
  if (dlse) check_of_rows(op, *dlse, dy);
  check_scale(op, scale, dy);
  check_outputs(op, {&dx}, ins);
  for (const Arg* arg : {&dy, &y}) check_rows_contiguous(op, *arg);
  check_rows_contiguous(op, dx, "");
  const Collapsed rows = collapse(op, dy, 1, "rows");
  const Collapsed y_rows = collapse(op, y, 1, "rows");
  const Collapsed dx_rows = collapse(op, dx, 1, "rows");
  Facts facts({&dy, &y, &dx});  // dlse is read element by element
  facts.options = softmax_options(scale, log, dlse.has_value());
  const auto& rung = choose(op, softmax_backward_rungs, kernel, facts);

  const SoftmaxBackwardProblem problem{
      .dy = dy.data<const void>(),
      .y = y.data<const void>(),
      .dlse = dlse ? dlse->data<const void>() : nullptr,
      .dx = dx.data<void>(),
      .dtype = compute_dtype(op, dy),
      .rows = rows.size,
      .cols = static_cast<int>(dy.size(1)),
      .lddy = rows.stride,
      .ldy = y_rows.stride,
      .lddx = dx_rows.stride,
      .scale = scale,
      .log = log,
  };
  Launch(op, ins, {&dx}).run(rung, problem);
}

void attention_out(Tensor q_, Tensor k_, Tensor v_, Tensor out_, Tensor lse_, bool causal,
                   double scale, std::string kernel) {
  const char* op = "attention";
  const Arg q("q", q_), k("k", k_), v("v", v_), out("out", out_), lse("lse", lse_);
  check_rank(op, q, 2, 4);
  for (const Arg* arg : {&q, &k, &v}) check_limits(op, *arg, arg->rank());

  std::vector<int64_t> expected = q.sizes;
  if (k.rank() == q.rank()) expected[q.rank() - 2] = k.size(2);  // k's own Nk
  check_sizes(op, k, expected, "[.., Nk, D] with the leading dimensions and D of q");
  check_sizes(op, v, k.sizes, "as k");
  check_sizes(op, out, q.sizes, "as q");
  check_sizes(op, lse, {q.sizes.begin(), q.sizes.end() - 1}, "as q without its last dimension");
  check_one_device(op, {&q, &k, &v, &out, &lse});
  check_one_dtype(op, attention_rungs, {&q, &k, &v, &out});
  if (lse.dtype != ScalarType::Float) fail(op, "lse must be float32; got ", lse.text());
  check_outputs(op, {&out, &lse}, {&q, &k, &v});
  for (const Arg* arg : {&q, &k, &v}) check_rows_contiguous(op, *arg);
  check_rows_contiguous(op, out, "");
  if (!lse_.is_contiguous()) fail(op, "lse must be contiguous; got ", lse.text());
  if (q.size(4) * q.size(3) > MAX_DIM) {
    fail(op, "q has more than ", MAX_DIM, " heads in all; got ", q.text());
  }
  Facts facts({&q, &k, &v, &out});
  facts.head_dim = q.size(1);
  const auto& rung = choose(op, attention_rungs, kernel, facts);

  Launch launch(op, {&q, &k, &v}, {&out, &lse});
  const auto strides = [](const Arg& arg) {
    return Strides{.batch = arg.stride(4), .head = arg.stride(3), .row = arg.stride(2)};
  };
  const AttentionProblem problem{
      .Q = q.data<const float>(),
      .K = k.data<const float>(),
      .V = v.data<const float>(),
      .O = out.data<float>(),
      .LSE = lse.data<float>(),
      .B = static_cast<int>(q.size(4)),
      .H = static_cast<int>(q.size(3)),
      .Nq = static_cast<int>(q.size(2)),
      .Nk = static_cast<int>(k.size(2)),
      .D = static_cast<int>(q.size(1)),
      .q = strides(q),
      .k = strides(k),
      .v = strides(v),
      .o = strides(out),
      .causal = causal,
      .scale = static_cast<float>(scale),
      .workspace = launch.workspace(),
  };
  launch.run(rung, problem);
}

// ------------------------------------------------------------------------------------------------
// Tables as text, a line per rung: name, dtypes, alignment, head_dims, compute_capability, options.
template <class Problem>
std::string table_text(const Rung<Problem>* (*ladder)(int*)) {
  int n = 0;
  const Rung<Problem>* rungs = ladder(&n);
  std::ostringstream text;
  for (int i = 0; i < n; ++i) {
    const Requirements& needs = rungs[i].needs;
    text << rungs[i].name << '\t' << needs.dtypes << '\t' << needs.alignment << '\t'
         << needs.head_dims << '\t' << needs.compute_capability << '\t' << needs.options << '\n';
  }
  return text.str();
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The ladder of `op` ("matmul", "softmax", ...), or NULL where there is none of the name.
EXPORT const char* workbench_rungs(const char* op) {
  static thread_local std::string text;
  const std::string name = op;
  if (name == "matmul") {
    text = table_text(matmul_rungs);
  } else if (name == "softmax") {
    text = table_text(softmax_rungs);
  } else if (name == "softmax_backward") {
    text = table_text(softmax_backward_rungs);
  } else if (name == "attention") {
    text = table_text(attention_rungs);
  } else {
    return nullptr;
  }
  return text.c_str();
}

// Defines torch.ops.<ns>.*, once per loaded copy of this library; 0 on success. The macro
// STABLE_TORCH_LIBRARY would fix the namespace when compiling: every edited build needs another
// one, and a name that changes on the command line would recompile every file for an edit of one.
// These are the objects the macro makes, never deleted: an operator may be called until exit.
EXPORT int workbench_register(const char* ns) {
  using torch::stable::detail::StableLibrary;
#ifdef USE_CUDA
  const char* key = "CUDA";
#else
  const char* key = "CPU";
#endif
  try {
    auto& schemas = *new StableLibrary(StableLibrary::Kind::DEF, ns, nullptr, __FILE__, __LINE__);
    schemas.def(
        "matmul_out(Tensor a, Tensor b, Tensor(a!) out, bool b_transposed, str kernel) -> ()");
    schemas.def(
        "softmax_out(Tensor x, Tensor(a!) out, Tensor(b!)? lse, float scale, bool log, "
        "str kernel) -> ()");
    schemas.def(
        "softmax_backward_out(Tensor dy, Tensor y, Tensor? dlse, Tensor(a!) dx, float scale, "
        "bool log, str kernel) -> ()");
    schemas.def(
        "attention_out(Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!) lse, bool causal, "
        "float scale, str kernel) -> ()");
    auto& kernels = *new StableLibrary(StableLibrary::Kind::IMPL, ns, key, __FILE__, __LINE__);
    kernels.impl("matmul_out", TORCH_BOX(&matmul_out));
    kernels.impl("softmax_out", TORCH_BOX(&softmax_out));
    kernels.impl("softmax_backward_out", TORCH_BOX(&softmax_backward_out));
    kernels.impl("attention_out", TORCH_BOX(&attention_out));
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
