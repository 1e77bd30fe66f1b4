"""Indices that lead from one array or tensor into another one: found with the checks on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import simulator
from simulator.conformance.micro import Program

SOURCE = """
#include <cuda_runtime.h>

__global__ void store_kernel(float* a, float* b, long long i) { a[i] = b[0]; }
void store(float* a, float* b, long long i) { store_kernel<<<1, 1>>>(a, b, i); }

// A pointer that advances, by a step that is an argument.
__global__ void walk_kernel(float* a, float* b, long long step, int n) {
  for (int k = 0; k < n; k++, a += step) *a = b[0];
}
void walk(float* a, float* b, long long step, int n) { walk_kernel<<<1, 1>>>(a, b, step, n); }

// Right whichever of the two it is, and the distance between them is right, too.
__global__ void choose_kernel(float* a, float* b, int n) {
  float* p = n % 2 ? a : b;
  p[3] = 1;
  a[b - a] = 2;
}
void choose(float* a, float* b, int n) { choose_kernel<<<1, 1>>>(a, b, n); }

// A pointer from memory, in one branch.
__global__ void table_kernel(float* a, float** table, int n) {
  float* p = a;
  if (n > 0) p = table[n];
  p[1] = 3;
}
void table(float* a, long long* table, int n) {
  table_kernel<<<1, 1>>>(a, reinterpret_cast<float**>(table), n);
}

struct Views {
  float* data[2];
  long long stride[2];
};
__global__ void views_kernel(Views v, int row) {
  v.data[0][row * v.stride[0]] = v.data[1][row * v.stride[1]];
}
void views(float* a, float* b, long long stride, int row) {
  views_kernel<<<1, 1>>>({{a, b}, {stride, 1}}, row);
}

// The lanes' part of dynamic shared memory, and a static array reached by both.
__global__ void parts_kernel(float* out, int n, long long shift) {
  extern __shared__ float rows[];
  __shared__ float first[32];
  float *half = rows + 32, *mine = n > 3 ? first : half;
  first[threadIdx.x] = rows[threadIdx.x] = half[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = mine[threadIdx.x] + half[int(threadIdx.x) - 32] + first[threadIdx.x + shift];
}
void parts(float* out, int n, long long shift) { parts_kernel<<<1, 32, 256>>>(out, n, shift); }
"""
PROGRAM = Program("bases", SOURCE, "store", "walk", "choose", "table", "views", "parts", alone=True)
ORDERS = ("ascending", "descending", "random")


@pytest.fixture
def kernels():
    return PROGRAM.module("simulator")


def pair() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Two tensors, and the elements from the first to the second."""
    a, b = torch.zeros(64), torch.zeros(32)
    return a, b, (b.data_ptr() - a.data_ptr()) // 4


def found(run: Callable[[], None]) -> str:
    with pytest.raises(simulator.SimulatorError) as caught:
        run()
    assert caught.value.kind == "memcheck" and caught.value.line > 0
    return str(caught.value)


@pytest.mark.parametrize("order", ORDERS)
def test_an_index_into_another_tensor(kernels, order: str) -> None:
    a, b, far = pair()
    with simulator.settings(checks="all", order=order):
        text = found(lambda: kernels.store(a, b, far + 5))
        assert "out-of-bounds write of 4 bytes in global memory" in text
        assert " of 'a' (" in text and "it is in 'b' (byte 20 of 128)" in text
        assert "of 'a'" in found(lambda: kernels.walk(a, b, far, 2))
        assert "of 'a'" in found(lambda: kernels.views(a, b, far, 1))
    with simulator.settings(checks="memcheck"):
        kernels.store(a, b, far + 5)  # only the other checks look at this
    assert b[5] == 0


def test_an_index_that_overflows_32_bits(kernels) -> None:
    a, b, _ = pair()
    places = {
        -(2**31): "8589934592 bytes before the start of 'a'",
        2**31 + 5: "8589934356 bytes past the end of 'a'",
    }
    overflow = "an index computed in 32 bits (int, unsigned) has overflowed"
    for index, place in places.items():
        text = found(lambda index=index: kernels.store(a, b, index))
        assert place in text and overflow in text
    assert overflow not in found(lambda: kernels.store(a, b, 10**8))


@pytest.mark.parametrize("order", ORDERS)
def test_right_ones_are_silent(kernels, order: str) -> None:
    a, b, _ = pair()
    with simulator.settings(checks="all", order=order):
        kernels.store(a, b, 63)
        kernels.walk(a, b, 3, 20)
        kernels.choose(a, b, 0)
        kernels.choose(a, b, 1)
        kernels.table(a, torch.zeros(2, dtype=torch.int64), 0)
        kernels.views(a, b, 2, 31)
        kernels.store(a[16:], a, -16)  # a view, and what surrounds it
        kernels.parts(a, 5, 0)
        kernels.parts(a, 2, 0)
    assert b[0] == 2 and a[63] == 0


@pytest.mark.parametrize("order", ORDERS)
def test_an_index_into_dynamic_shared_memory(kernels, order: str) -> None:
    a, _, _ = pair()
    with simulator.settings(checks="all", order=order):
        text = found(lambda: kernels.parts(a, 5, 8))
    assert "just past the end of 'first' (128 bytes); it is in 'rows' (byte 0)" in text
