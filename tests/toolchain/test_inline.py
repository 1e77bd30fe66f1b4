"""inline(): kernels from strings, on every available target."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from build import inline
from workbench.toolchain import BuildError
from workbench.toolchain.inline.signatures import launchers

SAXPY = """
// void saxpy(float* not, this one) {
__global__ void saxpy_kernel(float* y, const float* x, float a, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
void saxpy(float* y, const float* x, float a, int n, cudaStream_t stream) {
  saxpy_kernel<<<(n + 255) / 256, 256, 0, stream>>>(y, x, a, n);
}
"""


@pytest.fixture(scope="module")
def saxpy(target: str, module_cache):
    return inline(SAXPY, "saxpy", target=target).saxpy


def test_result_and_signature(saxpy, device):
    x = torch.arange(1000, dtype=torch.float32, device=device)
    y = torch.ones_like(x)
    assert saxpy(y, x, 2, n=1000) is None
    assert torch.equal(y, 1 + 2 * x)
    assert str(inspect.signature(saxpy)) == "(y, x, a, n)"


def test_edited_source_is_compiled_again(saxpy, target: str, device):
    y, x = torch.zeros(4, device=device), torch.ones(4, device=device)
    saxpy(y, x, 2.0, 4)
    inline(SAXPY.replace("+=", "-="), "saxpy", target=target).saxpy(y, x, 0.5, 4)
    assert y.tolist() == [1.5] * 4


def test_same_source_is_not_compiled_again(saxpy, target: str, capfd):
    again = inline(SAXPY, "saxpy", target=target)
    assert capfd.readouterr() == ("", "")
    assert again.__file__.endswith(".so")


# One source for many launchers, as each compilation takes at least a second.
MANY = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

// Every kind of number.
namespace outer { namespace {
template <class... T> __global__ void store(double* out, T... values) {
  int i = 0;
  ((out[i++] = static_cast<double>(values)), ...);
}
}  // namespace
void numbers(double* __restrict__ out, /* an (int) */ int a, unsigned int b, std::int64_t c,
             const size_t d, float e, double f, bool g = true, cudaStream_t stream = nullptr) {
  store<<<1, 1, 0, stream>>>(out, a, b, c, d, e, f, g);
}
}  // namespace outer

// Every kind of tensor.
template <class T> __global__ void twice(T* y, const T* x) { y[0] = y[1] = x[0]; }
// PyTorch's flags would disable half's operators and conversions.
__global__ void half_operators(__half* x, float* y) { y[0] = x[0] * x[1] + __half(1.5f); }
void f16(__half* y, const __half* x) { twice<<<1, 1>>>(y, x); }
void bf16(__nv_bfloat16* y, const __nv_bfloat16* x) { twice<<<1, 1>>>(y, x); }
void f64(double* y, const double* x) { twice<<<1, 1>>>(y, x); }
void i64(int64_t* y, const int64_t* x) { twice<<<1, 1>>>(y, x); }
void i32(int* y, const int* x) { twice<<<1, 1>>>(y, x); }
void u8(unsigned char* y, const unsigned char* x) { twice<<<1, 1>>>(y, x); }
void flag(bool* y, const bool* x) { twice<<<1, 1>>>(y, x); }
__global__ void fill_kernel(float* y, const float* bias, int n) {
  for (int i = 0; i < n; ++i) y[i] = bias ? bias[i] : -1.0f;
}
void fill(float* y, const float* bias, int n) { fill_kernel<<<1, 1>>>(y, bias, n); }

// Errors.
__global__ void nothing() {}
void thrown(int n) { throw std::runtime_error("n must not be " + std::to_string(n)); }
void too_large() { nothing<<<1, 4096>>>(); }
cudaError_t returned() { return cudaErrorInvalidValue; }

// Names that are Python's keywords.
__global__ void copy_kernel(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }
void copy(const float* in, float* out) { copy_kernel<<<1, 32>>>(in, out); }
"""
TENSORS = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64, "i64": torch.int64,
    "i32": torch.int32, "u8": torch.uint8, "flag": torch.bool,
}  # fmt: skip


@pytest.fixture(scope="module")
def many(target: str, module_cache):
    names = ["numbers", *TENSORS, "fill", "thrown", "too_large", "returned", "copy"]
    return inline(MANY, names, target=target)


def test_every_kind_of_number_arrives(many, device):
    numbers = many.numbers
    out = torch.zeros(7, dtype=torch.float64, device=device)
    values = [-(2**31), 2**32 - 1, -(2**52), 2**53, 0.1, 0.1, False]
    numbers(out, *values)
    assert out.tolist() == [*values[:4], torch.tensor(0.1).item(), 0.1, 0.0]
    numbers(out, 1, 2, 3, 4, math.inf, -math.inf)
    assert out.tolist() == [1, 2, 3, 4, math.inf, -math.inf, 1]


def test_every_kind_of_tensor_arrives(many, device):
    for name, dtype in TENSORS.items():
        x = torch.tensor([1], dtype=dtype, device=device)
        y = torch.zeros(2, dtype=dtype, device=device)
        getattr(many, name)(y, x)
        assert y.tolist() == [1, 1], name


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(4, dtype=torch.float64)}, TypeError,
         r"saxpy: x is torch.float64; expected torch.float32 for const float\* x"),
        ({"x": [1.0]}, TypeError, r"saxpy: x is list; expected a tensor for const float\* x"),
        ({"x": torch.ones(4, 2)[:, 0]}, ValueError, r"x is not contiguous: shape \[4\], strides"),
        ({"y": torch.ones(4).requires_grad_()}, ValueError, "y requires grad.*no backward"),
        ({"x": torch.ones(4, device="meta")}, ValueError, "x is a torch.strided tensor on meta"),
        ({"x": torch.ones(4).to_sparse()}, ValueError, "x is a torch.sparse_coo tensor"),
        ({"n": 4.0}, TypeError, "n is 4.0; expected an integer for int"),
        ({"n": 2**31}, OverflowError, "n is 2147483648; int holds -2147483648 to 2147483647"),
        ({"a": "2"}, TypeError, "a is str; expected a number"),
        ({"a": 1e39}, OverflowError, "a is 1e[+]39; float is limited to"),
        ({"b": 1}, TypeError, r"saxpy\(y, x, a, n\): got an unexpected keyword argument 'b'"),
    ],
)  # fmt: skip
def test_wrong_arguments(saxpy, device, change: dict, error: type, message: str):
    arguments = {"y": torch.zeros(4), "x": torch.ones(4), "a": 1.0, "n": 4} | change
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and value.device.type == "cpu":
            arguments[name] = value.detach().to(device).requires_grad_(value.requires_grad)
    if "x" in change and isinstance(change["x"], torch.Tensor) and change["x"].stride() == (2,):
        arguments["x"] = torch.ones(4, 2, device=device)[:, 0]
    with pytest.raises(error, match=message):
        saxpy(**arguments)
    assert arguments["y"].sum() == (4 if "y" in change else 0), "nothing ran"


def test_missing_argument(saxpy, device):
    with pytest.raises(TypeError, match=r"saxpy\(y, x, a, n\): missing a required argument: 'n'"):
        saxpy(torch.zeros(4, device=device), torch.zeros(4, device=device), 1.0)


def test_empty_tensor_and_null_pointer(many, device):
    y = torch.zeros(3, device=device)
    many.fill(y, None, 3)
    assert y.tolist() == [-1, -1, -1]
    many.fill(y[:0], torch.ones(0, device=device), 0)


def test_errors_of_the_launcher(many):
    with pytest.raises(RuntimeError, match="^thrown: n must not be 7$"):
        many.thrown(7)
    with pytest.raises(RuntimeError, match="cudaErrorInvalidConfiguration|at most 1024"):
        many.too_large()
    with pytest.raises(RuntimeError, match="^returned: cudaErrorInvalidValue: "):
        many.returned()


def test_parameters_named_like_python_keywords(many, device):
    x, y = torch.arange(32.0, device=device), torch.zeros(32, device=device)
    many.copy(in_=x, out=y)
    assert torch.equal(x, y)


def test_compile_error_names_the_line_of_the_string(target: str, module_cache):
    with pytest.raises(BuildError) as error:
        inline("void run() {\n  undefined_thing();\n}\n", "run", target=target)
    first, source, caret, *_ = str(error.value).splitlines()
    assert first == 'run.cu:2: error: identifier "undefined_thing" is undefined'
    assert (source, caret) == ("    undefined_thing();", "    ^")


@pytest.mark.full
def test_include_paths_and_flags(target: str, device, module_cache, tmp_path):
    (tmp_path / "research").mkdir()
    header = tmp_path / "research/value.cuh"
    header.write_text("#define VALUE 3\n")
    source = """
    #include "value.cuh"
    __global__ void kernel(int* y) { y[0] = VALUE + MORE; }
    void run(int* y) { kernel<<<1, 1>>>(y); }
    """
    y = torch.zeros(1, dtype=torch.int32, device=device)
    options = {"extra_include_paths": [str(header.parent)], "extra_cuda_cflags": ["-DMORE=10"]}
    inline(source, "run", target=target, **options).run(y)
    assert y.item() == 13
    header.write_text("#define VALUE 4\n")
    inline(source, "run", target=target, **options).run(y)
    assert y.item() == 14


# Only on the simulator.


def test_out_of_bounds_names_the_argument(module_cache):
    from simulator import SimulatorError

    saxpy = inline(SAXPY, "saxpy", target="simulator").saxpy
    y, x = torch.zeros(10), torch.ones(8)
    with pytest.raises(SimulatorError) as error:
        saxpy(y, x, 1.0, 10)
    report = str(error.value)
    assert "saxpy.cu:5" in report and "saxpy_kernel" in report
    assert "`x`" in report or " x " in report or "'x'" in report, report
    y.zero_()
    saxpy(y, x, 1.0, 8)  # the error does not stick
    assert y.sum() == 8


def test_arch_flag_is_refused_on_the_simulator(module_cache):
    with pytest.raises(BuildError, match="compute_90a"):
        inline(SAXPY, "saxpy", target="simulator", extra_cuda_cflags=["-arch=sm_80"])


@pytest.mark.parametrize("header", ["c10/cuda/CUDAStream.h", "ATen/cuda/CUDAContext.h"])
def test_cuda_headers_of_pytorch_give_one_clear_error(module_cache, capfd, header: str):
    source = f"#include <torch/extension.h>\n#include <{header}>\nvoid f(at::Tensor x) {{}}\n"
    with pytest.raises(BuildError, match=f"^<{header}> needs a GPU.*\n.*default stream"):
        inline(source, "f", target="simulator")
    with pytest.raises(BuildError, match=f"^<{header}> needs a GPU"):
        inline(name="f", cpp_sources="", cuda_sources=[source], functions=["f"], target="simulator")
    assert capfd.readouterr() == ("", ""), "nothing was built"


# Reading signatures.


def test_comments_strings_templates_and_calls_do_not_confuse_the_parser():
    source = r"""
    // void run(float* wrong) {
    /* void run(double* wrong) { */
    #define DECLARE(x) \
      void run(bool x) {
    const char* text = "void run(char* wrong) { \" ";
    const char* raw = R"(void run(short* wrong) {)";
    template <class T, int N = (3 > 2)> __global__ void kernel(T* x) {}
    void run(const float* const __restrict__ x, int64_t n);
    struct S { void run(int inside) {} };
    void caller() { run(nullptr, 1); }
    extern "C" {
    static inline void run(const float* x, int64_t n) { if (n > 0) { kernel<float><<<1, 1>>>(0); } }
    }
    """
    (found,) = launchers(source, ["run"])
    assert [(p.name, p.ctype, p.kind, p.const) for p in found.parameters] == [
        ("x", "float", "pointer", True),
        ("n", "int64_t", "scalar", False),
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("void run(std::vector<int> x) {}", r"run: the parameter `std::vector<int> x` cannot be"),
        ("void run(float& x) {}", r"the parameter `float& x` cannot be passed"),
        ("void run(float** x) {}", r"the parameter `float\*\* x` cannot be passed"),
        ("void run(float x[4]) {}", r"the parameter `float x\[4\]` cannot be passed"),
        ("void run(float4* x) {}", r"the parameter `float4\* x` cannot be passed"),
        ("void run(cudaStream_t a, cudaStream_t b) {}", "more than one cudaStream_t"),
        ("__global__ void run(float* x) {}", "run is a kernel .__global__.. Name a host function"),
        ("__device__ void run(float* x) {}", "run is a __device__ function"),
        ("template <int N> void run(float* x) {}", "run is a template"),
        ("int run(float* x) { return 0; }", "run returns int; a launcher returns void or cuda"),
        ("void run(int x) {} void run(float x) {}", "run is overloaded"),
        ("void walk() {}", r"the source defines no function run\(...\)"),
        ("void run(int n = f(3)) {}", None),
    ],
)
def test_launchers_that_cannot_be_called(source: str, message: str | None, module_cache):
    if message is None:
        source, message = "int f(int); " + source, "the default n = f.3. is not a plain number"
    with pytest.raises(ValueError, match=message):
        inline(source, "run", target="simulator")


def test_functions_must_be_named():
    with pytest.raises(ValueError, match="functions is empty"):
        inline(SAXPY, [], target="simulator")
    with pytest.raises(
        TypeError, match="extra_ldflags: only for sources that load_inline compiles"
    ):
        inline(SAXPY, "saxpy", target="simulator", extra_ldflags=["-lm"])


# load_inline itself: PyTorch's headers take a minute to compile.

TORCH_SOURCE = """
__global__ void scale_kernel(float* y, const float* x, float a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i];
}
torch::Tensor scale(torch::Tensor x, double a, int64_t more) {
  auto y = torch::empty_like(x);
  int n = static_cast<int>(x.numel() + more);
  scale_kernel<<<(n + 63) / 64, 64>>>(y.data_ptr<float>(), x.data_ptr<float>(), a, n);
  return y;
}
"""


@pytest.mark.full
def test_load_inline(target: str, device, module_cache):
    module = inline(
        name="scaling", cpp_sources="torch::Tensor scale(torch::Tensor x, double a, int64_t more);",
        cuda_sources=TORCH_SOURCE, functions=["scale"], target=target,
    )  # fmt: skip
    x = torch.arange(100, dtype=torch.float32, device=device)
    assert torch.equal(module.scale(x, 3.0, 0), 3 * x)
    if target == "simulator":
        from simulator import SimulatorError

        with pytest.raises(SimulatorError, match="argument 0"):
            module.scale(x, 3.0, 1)
        assert torch.equal(module.scale(x, 2.0, 0), 2 * x)
