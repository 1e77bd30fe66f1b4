"""The line that a report names: an accessor's caller's, but not a lambda's or a loop's caller."""

import pytest
import torch

import simulator
from build import inline

SOURCE = """\
struct View {
  int* data;
  __device__ int& operator()(int i) const { return data[i]; }
  __device__ int operator[](int i) const { return data[i]; }
  __device__ int at(int i) const { return (*this)[i]; }
  __device__ int sum(int n) const { return (*this)[n] + data[n - 1]; }
  __device__ int operator()(int i, int n) const {
    int found = 0;
    for (int k = i; k < n; k++) {
      found += data[k];  // several lines
    }
    return found;
  }
};
__global__ void call_kernel(int* x, int n) {
  const View view{x};
  x[0] = view(n);  // call
}
__global__ void subscript_kernel(int* x, int n) {
  const View view{x};
  x[0] = view[n];  // subscript
}
__global__ void at_kernel(int* x, int n) {
  const View view{x};
  x[0] = view.at(n);  // at
}
__global__ void sum_kernel(int* x, int n) {
  const View view{x};
  x[0] = view.sum(n);
}
__global__ void several_kernel(int* x, int n) {
  const View view{x};
  x[0] = view(0, n + 1);
}
__global__ void lambda_kernel(int* x, int n) {
  const auto get = [=](int i) {
    return x[i];  // lambda
  };
  x[0] = get(n);
}
void call(int* x, int n) { call_kernel<<<1, 1>>>(x, n); }
void subscript(int* x, int n) { subscript_kernel<<<1, 1>>>(x, n); }
void at(int* x, int n) { at_kernel<<<1, 1>>>(x, n); }
void sum(int* x, int n) { sum_kernel<<<1, 1>>>(x, n); }
void several(int* x, int n) { several_kernel<<<1, 1>>>(x, n); }
void lambda(int* x, int n) { lambda_kernel<<<1, 1>>>(x, n); }
"""
LINES = {
    "call": "// call",
    "subscript": "// subscript",
    "at": "// at",
    "sum": "int sum(int n)",
    "several": "// several lines",
    "lambda": "// lambda",
}


@pytest.fixture(scope="module")
def kernels():
    return inline(SOURCE, list(LINES), target="simulator")


@pytest.mark.parametrize("name", LINES)
def test_the_line_of(kernels, name):
    with pytest.raises(simulator.SimulatorError) as caught:
        getattr(kernels, name)(torch.zeros(7, dtype=torch.int32), 7)
    wanted = next(i for i, line in enumerate(SOURCE.splitlines(), 1) if LINES[name] in line)
    assert (caught.value.kind, caught.value.line) == ("memcheck", wanted), str(caught.value)
