// bindings.cpp: the layer between PyTorch and the ladders, for all operators.
//
// The only file that knows torch: it turns tensors into the plain arguments of bindings/args.h and
// finds the operator. bindings/<op>.cpp checks them and lowers them to the operator's problem;
// bindings/launch.h finds the rung and launches it. Nothing here contains device code, or allocates
// anything except scratch memory: outputs are passed in. The same files build every target:
//   -DUSE_CUDA              CUDA tensors, on the current stream of their device
//   -DWORKBENCH_SIMULATOR   CPU tensors, registered with the simulator around each launch
//   -DWORKBENCH_CPU         CPU tensors, for rungs in C++ that run on as many threads as PyTorch
//
// Only PyTorch's stable ABI is used (torch/csrc/stable), which compiles in a second or two instead
// of twenty for torch/extension.h, and runs under newer versions than it was compiled with.
#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 11) << 48))  // torch 2.11

#ifdef WORKBENCH_CPU
#include <omp.h>
#include <torch/csrc/stable/ops.h>
#endif
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include "bindings/launch.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
  return torch::headeronly::toString(dtype);  // "Float8_e4m3fn" and the like
}

Arg argument(const std::string& op, const std::string& name, const Tensor& tensor) {
  return {
      .op = op,
      .name = name,
      .data = tensor.data_ptr(),
      .dtype = dtype_name(tensor.scalar_type()),
      .element_bytes = static_cast<int64_t>(tensor.element_size()),
      .sizes = {tensor.sizes().begin(), tensor.sizes().end()},
      .strides = {tensor.strides().begin(), tensor.strides().end()},
      .contiguous = tensor.is_contiguous(),
  };
}

Tensor empty_bytes(const Tensor& like, size_t bytes) {
  const int64_t size = static_cast<int64_t>(bytes), stride = 1;
  int32_t device_type = 0;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  if (aoti_torch_empty_strided(1, &size, &stride, aoti_torch_dtype_uint8(), device_type,
                               like.get_device_index(), &handle) != TORCH_SUCCESS) {
    throw std::runtime_error("no memory for a workspace of " + std::to_string(bytes) + " bytes");
  }
  return Tensor(handle);
}

#ifdef USE_CUDA
cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

thread_local int64_t scratch_bytes = 0;  // of this thread's last launch

// Runs an operator.
//
// called: the operator's name in messages. kernel: a rung, or "" to let the table choose. names,
// tensors: the arguments, data before statistics. options, values: the requested options, 1 for a
// flag. The caller has checked that all tensors are dense and on one device.
void launch(std::string op, std::string called, std::string kernel, std::vector<std::string> names,
            std::vector<Tensor> tensors, std::vector<std::string> options,
            std::vector<double> values) {
  const Operator* found = Operator::find(op);
  if (found == nullptr) fail(op, "this build has no such operator");
  std::deque<Arg> args;
  for (size_t i = 0; i < tensors.size(); ++i) {
    args.push_back(argument(called, names[i], tensors[i]));
  }
  std::map<std::string, double> given;
  for (size_t i = 0; i < options.size(); ++i) given[options[i]] = values[i];

  // On a GPU scratch memory is released before the kernels have run, which is safe: torch reuses
  // memory in stream order.
  std::deque<Tensor> scratch;
  Device device;
#ifdef USE_CUDA
  device.index = tensors.front().get_device_index();
  device.stream = current_stream(device.index);
  const torch::stable::accelerator::DeviceGuard guard(device.index);
#endif
#ifdef WORKBENCH_CPU
  omp_set_num_threads(static_cast<int>(torch::stable::get_num_threads()));
#endif
  scratch_bytes = 0;
  device.allocate = [&](size_t bytes) {
    scratch_bytes += static_cast<int64_t>(bytes);
    scratch.push_back(empty_bytes(tensors.front(), bytes));
    return argument(called, "workspace", scratch.back());
  };
  Call call(called, kernel, std::move(args), std::move(given), std::move(device));
  found->run(call);
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The ladder of `op` as text (table_text), or NULL if there is none with that name.
EXPORT const char* workbench_rungs(const char* op) {
  const Operator* found = Operator::find(op);
  return found == nullptr ? nullptr : found->table.c_str();
}

// The scratch memory of this thread's last launch, in bytes.
EXPORT int64_t workbench_scratch_bytes() { return scratch_bytes; }

// Defines torch.ops.<ns>.launch, once per loaded copy of this library; 0 on success. The macro
// STABLE_TORCH_LIBRARY would fix the namespace at compile time: every edited build needs a new one,
// and passing it on the command line would recompile every file for an edit to one.
// These are the objects the macro creates, never deleted: an operator may be called until exit.
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
        "launch(str op, str called, str kernel, str[] names, Tensor[] tensors, str[] options, "
        "float[] values) -> ()");
    auto& kernels = *new StableLibrary(StableLibrary::Kind::IMPL, ns, key, __FILE__, __LINE__);
    kernels.impl("launch", TORCH_BOX(&launch));
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
