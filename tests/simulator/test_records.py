"""Records of whole kernels: lines, L1, units, sampling, against numbers computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import simulator
from simulator.conformance.micro import Program

SOURCE = """
#include <cuda_fp16.h>
__global__ void walk_kernel(const float* x, float* y, int n, int rounds) {
  float sum = 0;
  for (int r = 0; r < rounds; r++) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      sum += x[i];  // LOAD
    }
    __syncthreads();
  }
  y[blockIdx.x * blockDim.x + threadIdx.x] = sum;  // STORE
}
void walk(const float* x, float* y, int n, int rounds, int blocks) {
  walk_kernel<<<blocks, 128>>>(x, y, n, rounds);
}
__global__ void again_kernel(float* x) {
  x[threadIdx.x] = 1;
  __syncthreads();
  const float other = x[127 - threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = other + 1;
}
void again(float* x) { again_kernel<<<1, 128>>>(x); }
__global__ void generic_kernel(const float* x, float* y, int odd) {
  __shared__ float smem[64];
  smem[threadIdx.x] = 2;
  smem[threadIdx.x + 32] = 3;
  __syncthreads();
  const float* p = threadIdx.x % 2 == odd ? smem + threadIdx.x : x + threadIdx.x;
  y[threadIdx.x] = *p;  // MIXED
}
void generic(const float* x, float* y, int odd) { generic_kernel<<<1, 32>>>(x, y, odd); }
__global__ void units_kernel(float* f, double* d, __half2* h, int* i) {
  const int t = threadIdx.x;
  f[t] = fmaf(f[t], f[t], 1.0f);
  f[t + 32] = exp2f(f[t + 32]) + rsqrtf(f[t + 64]);
  d[t] = d[t] * d[t];
  h[t] = __hfma2(h[t], h[t], h[t]);
  i[t] = i[t] ^ 5;
}
void units(float* f, double* d, half* h, int* i) {
  units_kernel<<<1, 32>>>(f, d, (__half2*)h, i);
}
"""


PROGRAM = Program("counted", SOURCE, "walk", "again", "generic", "units")


@pytest.fixture
def kernels():
    return PROGRAM.module("simulator")


def recorded(run: Callable[[], None]) -> simulator.Launch:
    with simulator.record() as launches:
        run()
    (launch,) = launches
    return launch


def line_with(text: str) -> int:
    return next(i for i, line in enumerate(SOURCE.splitlines(), 1) if text in line)


def test_what_was_loaded_is_in_l1(kernels):
    # 16 KB are 512 sectors; the second and third rounds hit. 128 threads write 16 sectors.
    x, y = torch.ones(4096), torch.zeros(128)
    launch = recorded(lambda: kernels.walk(x, y, 4096, 3, 1))
    assert launch.global_load_sectors == 3 * 512
    assert launch.l2_read_sectors == 512
    assert launch.l2_write_sectors == 16
    assert (launch.dram_read_bytes, launch.dram_write_bytes) == (16384, 512)


def test_what_is_larger_than_l1_comes_again(kernels):
    # 1 MB in order: the least recently used line is evicted, so nothing ever hits.
    x, y = torch.ones(1 << 18), torch.zeros(128)
    launch = recorded(lambda: kernels.walk(x, y, 1 << 18, 2, 1))
    assert launch.l2_read_sectors == launch.global_load_sectors == 2 * (1 << 20) // 32
    assert launch.dram_read_bytes == 1 << 20


def test_each_block_has_its_own_l1(kernels):
    x, y = torch.ones(1024), torch.zeros(3 * 128)
    launch = recorded(lambda: kernels.walk(x, y, 1024, 2, 3))
    assert launch.l2_read_sectors == 3 * 128
    assert launch.dram_read_bytes == 4096


def test_lines_sum_up_to_the_kernel(kernels):
    x, y = torch.ones(4096), torch.zeros(128)
    launch = recorded(lambda: kernels.walk(x, y, 4096, 2, 1))
    lines = {line.line: line for line in launch.lines}
    assert lines[line_with("// LOAD")].global_load_sectors == launch.global_load_sectors == 1024
    assert lines[line_with("// LOAD")].l2_read_sectors == launch.l2_read_sectors == 512
    assert lines[line_with("// STORE")].global_store_requests == 4
    assert sum(line.warp_instructions for line in launch.lines) == launch.warp_instructions


@pytest.mark.parametrize("odd", [0, 1])
def test_generic_accesses_count_where_they_go(kernels, odd):
    # 16 lanes go to shared memory, 16 to global memory: every second float of 128 bytes.
    x, y = torch.ones(32), torch.zeros(32)
    launch = recorded(lambda: kernels.generic(x, y, odd))
    line = next(line for line in launch.lines if line.line == line_with("// MIXED"))
    assert (line.shared_load_bytes, line.global_load_bytes) == (64, 64)
    assert (line.global_load_requests, line.global_load_sectors) == (1, 4)
    assert (line.shared_load_requests, line.shared_load_wavefronts) == (1, 1)


def test_work_by_unit(kernels):
    f, d = torch.ones(96), torch.ones(32, dtype=torch.float64)
    h, i = torch.ones(64, dtype=torch.float16), torch.ones(32, dtype=torch.int32)
    launch = recorded(lambda: kernels.units(f, d, h, i))
    assert launch.fp64_flops == 32  # a product
    assert launch.fp16_flops == 32 * 4  # two fused multiply-adds in a pair
    assert launch.fp32_flops >= 32 * 3  # one fused multiply-add, one sum; exp2f may scale
    assert launch.special_function_ops == 32 * 2
    assert launch.special_function_instructions == 2
    assert launch.tensor_flops == launch.tensor_instructions == 0
    assert launch.memory_instructions == 4 + 2 + 5  # loads; f twice more; stores
    by_unit = [name for name in dir(launch) if name.endswith("_instructions")]
    by_unit = set(by_unit) - {"warp_instructions", "thread_instructions"}
    assert sum(getattr(launch, name) for name in by_unit) <= launch.warp_instructions


def test_a_sampled_grid_is_scaled(kernels):
    x, y = torch.ones(1024), torch.zeros(1000 * 128)
    whole = recorded(lambda: kernels.walk(x, y, 1024, 1, 1000))
    with simulator.settings(sample_blocks=10):
        some = recorded(lambda: kernels.walk(x, y, 1024, 1, 1000))
    assert (whole.num_blocks, whole.sampled_blocks) == (1000, 1000)
    assert (some.num_blocks, some.sampled_blocks) == (1000, 10)
    # All blocks do the same, so scaling is exact.
    for name in ("warp_instructions", "global_load_sectors", "l2_read_sectors", "barriers"):
        assert getattr(some, name) == getattr(whole, name), name
    assert some.forms == whole.forms
    # each block read all of x: there is no more of it than that.
    assert some.dram_read_bytes == whole.dram_read_bytes == 4096
    assert some.dram_write_bytes == whole.dram_write_bytes == 1000 * 512
    assert some.lines[0].warp_instructions == whole.lines[0].warp_instructions


def test_a_sample_is_spread_over_the_grid(kernels):
    y = torch.zeros(1024 * 128)
    with simulator.settings(sample_blocks=64):
        kernels.walk(torch.ones(128), y, 128, 1, 1024)
    ran = y.reshape(1024, 128)[:, 0].nonzero().flatten().tolist()
    assert len(ran) == 64
    assert [block // 16 for block in ran] == list(range(64))  # one of each segment
    assert len({block % 32 for block in ran}) > 16  # and not in a column of blocks


def test_a_sample_of_a_small_grid_is_the_grid(kernels):
    y = torch.zeros(4 * 128)
    with simulator.settings(sample_blocks=10):
        launch = recorded(lambda: kernels.walk(torch.ones(128), y, 128, 1, 4))
    assert launch.sampled_blocks == 4
    assert bool((y != 0).all())


def test_what_was_stored_is_in_l1(kernels):
    # The block stores 16 full sectors; later it loads what it stored.
    x = torch.ones(128)
    launch = recorded(lambda: kernels.walk(x, x, 128, 1, 1))
    assert (launch.l2_read_sectors, launch.l2_write_sectors) == (16, 16)
    launch = recorded(lambda: kernels.again(x))
    assert (launch.global_load_sectors, launch.l2_read_sectors) == (16, 0)


def test_addresses_are_counted_when_asked_for(kernels):
    x, y = torch.ones(4096), torch.zeros(128)
    with simulator.record(addresses=False) as work:
        kernels.walk(x, y, 4096, 2, 1)
        with simulator.record() as everything:
            kernels.walk(x, y, 4096, 2, 1)
        kernels.walk(x, y, 4096, 2, 1)
    assert [launch.global_load_sectors for launch in work] == [0, 1024, 0]
    assert [launch.global_load_sectors for launch in everything] == [1024]
    assert len({launch.global_load_bytes for launch in work}) == 1
    assert len({launch.warp_instructions for launch in work}) == 1
