"""wmma as used by programs, through nvcuda::wmma, and its errors."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from simulator import SimulatorError
from simulator.conformance.micro import Program

# ---- Operations on fragments ---------------------------------------------------------------------

PRODUCTS = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
using namespace nvcuda;

// D = relu(scale * A B + C): elements of a fragment are changed one by one, and those of the
// product meet those of another fragment of the same kind. C [M, N], A [M, K], B [N, K].
template <int WM, int WN, int WK, class S, class ACC, class T>
__global__ void scaled(const T* a, const T* b, const float* c, float* d, int n, int k,
                       float scale) {
  using namespace wmma;
  const int row = blockIdx.y * WM, column = (blockIdx.x * 2 + threadIdx.x / 32) * WN;
  fragment<matrix_a, WM, WN, WK, S, row_major> fa;
  fragment<matrix_b, WM, WN, WK, S, col_major> fb;
  fragment<accumulator, WM, WN, WK, ACC> sum;
  fragment<accumulator, WM, WN, WK, float> fc;
  fill_fragment(sum, ACC(0.0f));
  for (int k0 = 0; k0 < k; k0 += WK) {
    load_matrix_sync(fa, a + row * k + k0, k);
    load_matrix_sync(fb, b + column * k + k0, k);
    if constexpr (sizeof(T) == 4) {
      for (int i = 0; i < fa.num_elements; i++) fa.x[i] = wmma::__float_to_tf32(fa.x[i]);
      for (int i = 0; i < fb.num_elements; i++) fb.x[i] = wmma::__float_to_tf32(fb.x[i]);
    }
    for (int i = 0; i < fa.num_elements; i++) fa.x[i] = T(2.0f) * static_cast<T>(fa.x[i]);
    mma_sync(sum, fa, fb, sum);
  }
  load_matrix_sync(fc, c + row * n + column, n, mem_row_major);
  for (int i = 0; i < fc.num_elements; i++) {
    const float v = scale * static_cast<float>(sum.x[i]) + fc.x[i];
    fc.x[i] = v > 0 ? v : 0;
  }
  store_matrix_sync(d + row * n + column, fc, n, mem_row_major);
}
template <int WM, int WN, int WK, class S, class ACC, class T>
void launch(const T* a, const T* b, const float* c, float* d, int m, int n, int k, float scale) {
  scaled<WM, WN, WK, S, ACC><<<dim3(n / WN / 2, m / WM), 64>>>(a, b, c, d, n, k, scale);
}

void run(int which, const unsigned char* a, const unsigned char* b, const float* c, float* d, int m,
         int n, int k, float scale) {
  auto ha = reinterpret_cast<const __half*>(a), hb = reinterpret_cast<const __half*>(b);
  auto ba = reinterpret_cast<const __nv_bfloat16*>(a);
  auto bb = reinterpret_cast<const __nv_bfloat16*>(b);
  auto fa = reinterpret_cast<const float*>(a), fb = reinterpret_cast<const float*>(b);
  switch (which) {
    case 0: return launch<16, 16, 16, __half, float>(ha, hb, c, d, m, n, k, scale);
    case 1: return launch<16, 16, 16, __half, __half>(ha, hb, c, d, m, n, k, scale);
    case 2: return launch<8, 32, 16, __half, __half>(ha, hb, c, d, m, n, k, scale);
    case 3: return launch<32, 8, 16, __half, float>(ha, hb, c, d, m, n, k, scale);
    case 4: return launch<32, 8, 16, __nv_bfloat16, float>(ba, bb, c, d, m, n, k, scale);
    case 5: return launch<16, 16, 8, wmma::precision::tf32, float>(fa, fb, c, d, m, n, k, scale);
  }
}
"""


PROGRAM = Program("wmma_programs", PRODUCTS)


@pytest.fixture
def programs() -> ModuleType:
    return PROGRAM.module("simulator")


@pytest.mark.parametrize(
    ("which", "dtype", "error"),
    [
        (0, torch.float16, 1e-5), (1, torch.float16, 2e-2), (2, torch.float16, 2e-2),
        (3, torch.float16, 1e-5), (4, torch.bfloat16, 1e-5), (5, torch.float32, 2e-2),
    ],
)  # fmt: skip
def test_elements_of_fragments(programs: ModuleType, which: int, dtype: torch.dtype, error: float):
    torch.manual_seed(which)
    m, n, k = 64, 64, 48
    a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    c, d = torch.randn(m, n), torch.zeros(m, n)
    programs.run(which, a.view(torch.uint8), b.view(torch.uint8), c, d, m, n, k, 0.25)
    wanted = torch.relu(0.5 * (a.double() @ b.double().T) + c.double())
    assert (d.double() - wanted).abs().max() < error * 4


# ---- Memory --------------------------------------------------------------------------------------

ACCESSES = """
__global__ void load_kernel(const unsigned short* a, unsigned* out, int offset, int stride,
                            int lane) {
  unsigned r[8];
  const unsigned short* p = a + offset + (threadIdx.x == lane ? 16 : 0);
  asm volatile("wmma.load.a.sync.aligned.row.m16n16k16.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, [%8], %9;"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]), "=r"(r[4]), "=r"(r[5]), "=r"(r[6]),
                 "=r"(r[7]) : "l"(p), "r"(stride));
  out[threadIdx.x] = r[0];
}
__global__ void store_kernel(const unsigned short* a, unsigned* out, int offset, int stride) {
  asm volatile("wmma.store.d.sync.aligned.col.m16n16k16.f16 [%0], {%1, %1, %1, %1}, %2;"
               :: "l"(a + offset), "r"(threadIdx.x), "r"(stride) : "memory");
}
void load(const unsigned short* a, unsigned* out, int offset, int stride, int lane) {
  load_kernel<<<1, 32>>>(a, out, offset, stride, lane);
}
void store(const unsigned short* a, unsigned* out, int offset, int stride) {
  store_kernel<<<1, 32>>>(a, out, offset, stride);
}
"""
FRAGMENTS = Program("wmma_accesses", ACCESSES, "load", "store")


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "says"),
    [
        ("load", (0, 24, 99), "memcheck", "across the end of 'a'|past the end of 'a'"),
        ("load", (4, 16, 99), "memcheck", "misaligned read"),
        ("load", (0, 17, 99), "memcheck", "misaligned read"),
        ("load", (0, 16, 5), "synccheck", "lane 5 has a different address"),
        ("store", (0, 16), "memcheck", "write to 'a'"),
    ],
)
def test_findings(function: str, arguments: tuple[int, ...], kind: str, says: str):
    module = FRAGMENTS.module("simulator")
    a = torch.zeros(272, dtype=torch.uint16)
    with pytest.raises(SimulatorError, match=says) as error:
        getattr(module, function)(a, torch.zeros(32, dtype=torch.uint32), *arguments)
    assert error.value.kind == kind
