"""Launch records made by hand, for tests of what explains them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import simulator

COUNTERS = sorted(
    {f.name for f in fields(simulator.LineCounters)} - {"file", "line"}
    | {f"global_{kind}_{what}" for kind in ("load", "store") for what in ("requests", "sectors")}
    | {f"global_{kind}_sectors_ideal" for kind in ("load", "store")}
    | {f"shared_{kind}_{what}" for kind in ("load", "store") for what in ("requests", "wavefronts")}
    | {f"shared_{kind}_wavefronts_ideal" for kind in ("load", "store")}
    | {"l2_read_sectors", "l2_write_sectors", "fp32_instructions", "integer_instructions"}
    | {"control_instructions", "special_function_instructions", "special_function_ops"}
    | {"atomic_requests", "atomic_sectors", "local_sectors", "local_requests"}
)

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
    """The file of KERNEL."""
    file = folder / "strided.cu"
    file.write_text(KERNEL)
    return file


def line(file: Path | str, number: int, **counts: int) -> SimpleNamespace:
    """A line's counters, zero but for those given; all lanes are active unless told otherwise."""
    given = {"warp_instructions": 32} | counts
    given.setdefault("thread_instructions", 32 * given["warp_instructions"])
    return SimpleNamespace(**dict.fromkeys(COUNTERS, 0) | given, file=str(file), line=number)


def launch(*lines: SimpleNamespace, **more: object) -> SimpleNamespace:
    """A launch of ``strided_kernel<32>`` with these lines, its counters their sums."""
    totals = {name: sum(getattr(one, name) for one in lines) for name in COUNTERS}
    about = {
        "kernel": "strided_kernel<32>",
        "grid": (4, 1, 1),
        "block": (64, 1, 1),
        "shared_bytes": 4096,
        "dram_read_bytes": totals["global_load_bytes"],
        "dram_write_bytes": totals["global_store_bytes"],
        "seconds": 0.1,
        "lines": lines,
        "forms": {},
    }
    return SimpleNamespace(**totals | about | more)
