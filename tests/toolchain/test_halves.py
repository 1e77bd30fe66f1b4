"""CUDA sources with PyTorch's headers: what nvcc gets of them, and what the C++ compiler."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import torch

from build import inline, load
from workbench.toolchain import BuildError
from workbench.toolchain.inline.halves import halves, instances

# As tutorials have it: macros, dispatch over types, helpers, its own module.
TUTORIAL = r"""#include <torch/extension.h>
#include <cuda_runtime.h>

#define CHECK_CONTIGUOUS(x) TORCH_CHECK(x.is_contiguous(), #x " must be contiguous")
constexpr int BLOCK = 128;
inline unsigned cdiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

namespace {
template <class T>
__device__ __forceinline__ T sigmoid(T z) {
  return T(1) / (T(1) + exp(-z));
}
struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const { return a + b; }
};
__host__ __device__ int clamped(int i, int n) { return i < n ? i : n - 1; }
template <typename scalar_t, int N>
__global__ void __launch_bounds__(BLOCK) sigmoid_kernel(const scalar_t* __restrict__ in,
                                                        scalar_t* out, const int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[clamped(i, n)] = Add()(sigmoid(in[i]), scalar_t(N));
}
}  // namespace

static __global__ void gray_kernel(unsigned char* out, const unsigned char* in, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;  // <<<not a launch>>>(
  if (i < n) out[i] = (in[3 * i] + in[3 * i + 1] + in[3 * i + 2]) / 3;
}

torch::Tensor shifted_sigmoid(torch::Tensor x) {
  CHECK_CONTIGUOUS(x);
  auto out = torch::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "shifted_sigmoid", ([&] {
    sigmoid_kernel<scalar_t, 3><<<cdiv(x.numel(), BLOCK), BLOCK>>>(
        x.data_ptr<scalar_t>(), out.data_ptr<scalar_t>(), x.numel());
  }));
  return out;
}

torch::Tensor gray(torch::Tensor image) {
  auto out = torch::empty({image.size(0), image.size(1)}, image.options());
  const int n = out.numel();
  gray_kernel<<<dim3(cdiv(n, BLOCK)),
                dim3(BLOCK)>>>(out.data_ptr<uint8_t>(), image.data_ptr<uint8_t>(), n);
  TORCH_CHECK(cudaGetLastError() == cudaSuccess);
  return out;
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("shifted_sigmoid", &shifted_sigmoid);
  m.def("gray", &gray);
}
"""


def test_halves_of_a_tutorial():
    split = halves(TUTORIAL)
    assert split.templates == ("sigmoid_kernel",)
    for half in (split.host, split.device):
        assert half.count("\n") == TUTORIAL.count("\n")
        assert "inline namespace workbench_unnamed {" in half
        assert "constexpr int BLOCK = 128;" in half
    lines, device = TUTORIAL.splitlines(), split.device.splitlines()
    for number, line in enumerate(lines):  # kernels are on their own lines, nothing else is left
        assert (
            device[number].split() in ([], line.split()) or "namespace" in line or "static" in line
        )
    for word in ("torch", "TORCH_CHECK(cuda", "PYBIND11", "cdiv(", "gray(", "<<<dim3"):
        assert word not in split.device
    for word in ("sigmoid(T z)", "__global__", "<<<cdiv", "threadIdx", "__device__"):
        assert word not in split.host
    assert (
        "(workbench_push(dim3(cdiv(n, BLOCK)),\n                dim3(BLOCK))) ? (void)0 : gray_"
        in (split.host)
    )
    assert re.search(r"^inline +int clamped\(", split.host, re.M), "both halves define it"
    line = next(i for i, text in enumerate(lines) if text.startswith("torch::Tensor gray"))
    assert split.host.splitlines()[line] == lines[line]


@pytest.mark.parametrize(
    "source",
    [
        "__global__ void k(torch::PackedTensorAccessor32<float, 1> x) { x[0] = 1; }",
        "__global__ void k(float* x) { x[0] = c10::Half(1); }",
        "__constant__ float table[4];\nvoid f() { cudaMemcpyToSymbol(table, 0, 16); }",
        "__device__ int counter = 0;",
        "__device__ float f(at::Half x) { return x; }",
        "torch::Tensor f(torch::Tensor x) { auto g = [] __device__ (int i) { return i; }; }",
    ],
)
def test_what_cannot_be_separated(source: str):
    assert halves(source) is None


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("k<<<1, 2>>>(x);", "(workbench_push(1, 2)) ? (void)0 : k(x);"),
        ("ns::k<T, (3 > 2)><<<g, b, 0, s>>>(x);",
         "(workbench_push(g, b, 0, s)) ? (void)0 : ns::k<T, (3 > 2)>(x);"),
        ("if (n) k <<<f(1, 2), b>>> (x);",
         "if (n) (workbench_push(f(1, 2), b)) ? (void)0 : k (x);"),
        ("int a = 1 << 2 >> 1;", "int a = 1 << 2 >> 1;"),
        ('puts("k<<<1, 2>>>(x)");', 'puts("k<<<1, 2>>>(x)");'),
    ],
)  # fmt: skip
def test_launches(source: str, host: str):
    assert halves(f"void f() {{ {source} }}").host == f"void f() {{ {host} }}"


def test_variables_exist_once():
    text = "const int A = 1;\nstatic const float B[2] = {1, 2};\nint count = 0;\n"
    text += "std::vector<int> v;\nusing T = float;\n"
    text += "constexpr int twice(int n) { return 2 * n; }\nint g(int n) { return n; }\n"
    split = halves(text)
    assert split.host == text
    assert [line.strip() for line in split.device.splitlines()] == [
        "const int A = 1;", "static const float B[2] = {1, 2};", "", "", "using T = float;",
        "constexpr int twice(int n) { return 2 * n; }", "",
    ]  # fmt: skip


def test_instances_of_templates():
    symbols = ["void a::k<float, 3>(float*, int)", "void k<c10::Half>(c10::Half*)"]
    symbols += ["at::empty(int)", "void other<int>(int)"]
    assert instances(symbols, ("k",)).splitlines() == [
        "#include <c10/util/Half.h>",
        "template __global__ void a::k<float, 3>(float*, int);",
        "template __global__ void k<c10::Half>(c10::Half*);",
    ]
    assert instances(symbols, ()) == ""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"functions": "h"}, ValueError, r"the sources have no function h\(...\)"),
        ({}, ValueError, "functions is empty; expected names, or a PYBIND11_MODULE"),
        ({"functions": "f", "build_directory": "x"}, TypeError, "build_directory: set by the work"),
        ({"functions": "f", "use_pch": True}, TypeError, "use_pch: not supported"),
    ],
)
def test_wrong_requests(options: dict, error: type, message: str):
    source = "#include <torch/extension.h>\ntorch::Tensor f(torch::Tensor x) { return x; }\n"
    with pytest.raises(error, match=message):
        inline(source, target="simulator", **options)


# With the compilers: PyTorch's headers take them many seconds.


@pytest.mark.full
def test_tutorial(target: str, device, module_cache, capfd):
    module = inline(TUTORIAL, name="tutorial", target=target)
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(500, dtype=dtype, device=device)
        torch.testing.assert_close(module.shifted_sigmoid(x), torch.sigmoid(x) + 3)
    image = torch.randint(0, 256, (33, 20, 3), dtype=torch.uint8, device=device)
    assert torch.equal(module.gray(image), (image.int().sum(-1) // 3).to(torch.uint8))
    assert module.gray.check(image)
    assert module.gray.time(image, **({"gpu": "t4"} if target == "gpu" else {})).time_ms is not None
    capfd.readouterr()
    started = time.monotonic()
    edited = inline(TUTORIAL.replace(") / 3;", ") / 6;"), name="tutorial", target=target)
    seconds = time.monotonic() - started
    told = capfd.readouterr().err
    assert "built tutorial in" in told and "host code" not in told, f"an edit took {seconds:.1f} s"
    assert torch.equal(edited.gray(image), (image.int().sum(-1) // 6).to(torch.uint8))
    with pytest.raises(RuntimeError, match="x must be contiguous"):
        module.shifted_sigmoid(torch.ones(4, 4, device=device).t())


@pytest.mark.full
def test_files_in_cuda_and_cpp(target: str, device, module_cache, tmp_path: Path):
    cuda, cpp = tmp_path / "ones.cu", tmp_path / "ones.cpp"
    (tmp_path / "block.h").write_text("constexpr int BLOCK = 64;\n")
    cuda.write_text(
        '#include <torch/extension.h>\n#include "block.h"\n'
        "__global__ void ones_kernel(float* y, int n) {\n"
        "  const int i = blockIdx.x * BLOCK + threadIdx.x;\n  if (i < n) y[i] = 1;\n}\n"
        "torch::Tensor ones_cuda(torch::Tensor like) {\n  auto y = torch::empty_like(like);\n"
        "  const int n = y.numel();\n"
        "  ones_kernel<<<(n + BLOCK - 1) / BLOCK, BLOCK>>>(y.data_ptr<float>(), n);\n"
        "  return y;\n}\n"
    )
    cpp.write_text(
        "#include <torch/extension.h>\ntorch::Tensor ones_cuda(torch::Tensor like);\n"
        "torch::Tensor ones(torch::Tensor like) {\n"
        '  TORCH_CHECK(like.dim() == 1, "one dimension");\n  return ones_cuda(like);\n}\n'
        'PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("ones", &ones); }\n'
    )
    module = load("ones", [cuda, cpp], target=target)
    x = torch.zeros(100, device=device)
    assert module.ones(x).sum() == 100
    if target == "simulator":
        assert module.ones.explain(x).findings[0].places[0][0] == os.path.realpath(cuda)
    cuda.write_text(cuda.read_text().replace("BLOCK + threadIdx", "BLOK + threadIdx"))
    with pytest.raises(BuildError, match=r'ones.cu:4: error: identifier "BLOK" is undefined'):
        load("ones", [cuda, cpp], target=target)
    cpp.write_text(cpp.read_text().replace("like.dim()", "like.dims()"))
    with pytest.raises(BuildError, match=r"ones.cpp:4: error: .*no member named .dims."):
        load("ones", [cuda, cpp], target=target)


@pytest.mark.full
def test_kernels_with_types_of_pytorch_are_left_to_nvcc(target: str, device, module_cache):
    source = """#include <torch/extension.h>
    __global__ void fill(torch::PackedTensorAccessor32<float, 1> x) { x[threadIdx.x] = 2; }
    void run(torch::Tensor x) { fill<<<1, 4>>>(x.packed_accessor32<float, 1>()); }
    """
    x = torch.zeros(4, device=device)
    inline(source, "run", target=target).run(x)
    assert x.tolist() == [2.0] * 4
