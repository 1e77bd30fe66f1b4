"""The compiler's report on launched kernels, from the PTX that the simulator ran."""

import re
import subprocess

import pytest
import torch

import simulator
from build import inline
from workbench import matmul
from workbench.estimate import launched, resources
from workbench.toolchain import BuildError, kernels_dir
from workbench.toolchain.ptx_text import only_kernel

SOURCE = """
__constant__ float factor[2];
__device__ __noinline__ float twice(float x) { return factor[1] + x; }
__global__ void first(float* y) { y[threadIdx.x] = twice(y[threadIdx.x]); }
__global__ void second(float* y) {
  __shared__ float all[64];
  all[threadIdx.x] = y[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = all[threadIdx.x ^ 1];
}
void one(float* y) { first<<<1, 32>>>(y); }
void two(float* y) { second<<<1, 32>>>(y); }
"""


@pytest.fixture(scope="module")
def launches():
    module = inline(SOURCE, ["one", "two"], target="simulator")
    with simulator.record() as found:
        module.one(torch.zeros(32))
        module.two(torch.zeros(32))
    return found


def test_a_launch_names_its_entry_and_its_module(launches):
    first, second = launches
    assert (first.entry, second.entry) == ("_Z5firstPf", "_Z6secondPf")
    assert first.module == second.module
    assert ".entry _Z5firstPf(" in simulator.module_ptx(first.module)
    assert simulator.module_ptx(10**9) == ""


def test_a_kernel_alone_keeps_functions_and_variables(launches):
    ptx = simulator.module_ptx(launches[0].module)
    first = only_kernel(ptx, "_Z5firstPf")
    assert re.findall(r"\.entry (\w+)\(", first) == ["_Z5firstPf"]
    assert re.search(r"\.func .*_Z5twicef\(", first) and "factor[8]" in first
    second = only_kernel(ptx, "_Z6secondPf")
    assert re.findall(r"\.entry (\w+)\(", second) == ["_Z6secondPf"]
    assert second.count("{") == second.count("}")


def test_the_report_is_that_of_the_whole_file(launches):
    """nvcc, which compiles a file as a whole, says the same of each kernel."""
    torch.manual_seed(1)
    with simulator.record() as found:
        matmul(torch.randn(40, 50), torch.randn(50, 60), kernel="tiled")
    (launch,) = found
    whole = resources.of_file(kernels_dir() / "matmul.cu", launched.ARCH)[launch.kernel]
    assert launched.begin(found)[launch.kernel].result() == whole
    assert whole.registers > 16 and whole.shared_bytes == 2 * 32 * 32 * 4


def test_kernels_compile_once(launches, monkeypatch):
    launched.begin(launches)["second"].result()

    def refuse(*arguments, **settings):
        raise AssertionError(f"ran {arguments}")

    monkeypatch.setattr(subprocess, "run", refuse)
    report = launched.begin(launches)["second"].result()
    assert report.shared_bytes == 256


def test_ptx_that_ptxas_refuses_is_an_error_in_one_line():
    text = ".version 8.8\n.target sm_90a\n.address_size 64\n.entry broken() { nonsense; }\n"
    with pytest.raises(BuildError, match=r"^broken does not compile for sm_90a: ptxas [^\n]*$"):
        launched._begin(text, "broken").result()
