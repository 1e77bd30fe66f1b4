"""Hand-made launch records, for tests of what explains them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import simulator

COUNTERS = [f.name for f in fields(simulator.Counters)]

KERNEL = """\
// A comment with a brace { and "a quote.
namespace {

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};

__device__ float twice(float x) {
  return 2.0f * x;
}

}  // namespace

template <int TILE>
__global__ void strided_kernel(float* out, const float* in, int stride, int n) {
  __shared__ float tile[TILE][TILE];
  const int i = blockIdx.x * TILE + threadIdx.x;
  const float* row = in + threadIdx.x * stride;
  float acc[4];
  tile[threadIdx.x][0] = in[i * stride];
  __syncthreads();
  acc[0] = tile[threadIdx.x][1] * tile[0][threadIdx.x];
  if (i < n && "<b>&amp;") out[i] = twice(row[3] + acc[0]);
}

void unused() {
  int never = 0;
}
"""
LOAD, BARRIER, PRODUCT, STORE, TWICE = 20, 21, 22, 23, 9


def write_kernel(folder: Path) -> Path:
    """The file with KERNEL."""
    file = folder / "strided.cu"
    file.write_text(KERNEL)
    return file


def line(file: Path | str, number: int, **counts: int) -> simulator.LineCounters:
    """A line's counters, zero unless given; all lanes are active unless specified."""
    given = {"warp_instructions": 32} | counts
    given.setdefault("thread_instructions", 32 * given["warp_instructions"])
    zeros = dict.fromkeys(COUNTERS, 0)
    return simulator.LineCounters(**zeros | given, file=str(file), line=number)


def launch(*lines: simulator.LineCounters, **more: object) -> simulator.Launch:
    """A launch of ``strided_kernel<32>`` with these lines; its counters are their sums."""
    totals = {name: sum(getattr(one, name) for one in lines) for name in COUNTERS}
    about = {
        "kernel": "strided_kernel<32>",
        "grid": (4, 1, 1),
        "block": (64, 1, 1),
        "shared_bytes": 4096,
        "num_blocks": 4,
        "sampled_blocks": 4,
        "dram_read_bytes": totals["global_load_bytes"],
        "l2_repeated_sectors": 0,
        "dram_write_bytes": totals["global_store_bytes"],
        "entry": "",
        "module": 0,
        "seconds": 0.1,
        "lines": lines,
        "forms": {},
    }
    return simulator.Launch(**totals | about | more)
