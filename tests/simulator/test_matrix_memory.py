"""ldmatrix, stmatrix, movmatrix: invalid row addresses, and which lanes may execute them."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

import simulator
from simulator import SimulatorError
from simulator.conformance.matrix_memory_ops import FORMS, LANES, PROGRAM, WORDS, Form
from simulator.conformance.micro import Program

# ---- Invalid row addresses -----------------------------------------------------------------------

SHARED = [f for f in FORMS if f.count == 4 and not f.trans]


@pytest.mark.parametrize("form", SHARED, ids=lambda form: form.name)
@pytest.mark.parametrize("lane", [0, 13, 31])
@pytest.mark.checks("memcheck")  # the row is another lane's, too
def test_misaligned_row(form: Form, lane: int):
    at = np.arange(32, dtype=np.uint32) * 16
    at[lane] += 8
    with pytest.raises(SimulatorError, match="misaligned .* of 16 bytes") as error:
        _run(form, at)
    assert error.value.kind == "memcheck" and error.value.thread == (lane, 0, 0)


@pytest.mark.parametrize("form", [f for f in SHARED if f.space], ids=lambda form: form.name)
@pytest.mark.parametrize("lane", [0, 13, 31])
def test_row_outside_of_shared_memory(form: Form, lane: int):
    at = np.arange(32, dtype=np.uint32) * 16
    at[lane] = 4 * WORDS
    with pytest.raises(SimulatorError, match="just past the end of the block's shared") as error:
        _run(form, at)
    assert error.value.kind == "memcheck" and error.value.thread == (lane, 0, 0)


GLOBAL = Program(
    "matrix_global",
    """
__global__ void k(const unsigned* a, unsigned* out) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.b16 {%0, %0, %0, %0}, [%1];"
               : "=r"(out[threadIdx.x]) : "l"(a + 4 * threadIdx.x));
}
void run(const unsigned* a, unsigned* out) { k<<<1, 32>>>(a, out); }""",
)


def test_generic_address_of_global_memory():
    """The instructions are for shared memory, whatever the address looks like."""
    module = GLOBAL.module("simulator")
    a, out = torch.zeros(128, dtype=torch.uint32), torch.zeros(32, dtype=torch.uint32)
    with pytest.raises(SimulatorError, match="is for shared memory") as error:
        module.run(a, out)
    assert error.value.kind == "memcheck"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_counted_bytes(form: Form):
    with simulator.record() as launches:
        _run(form, np.arange(32, dtype=np.uint32) * 16)
    own = 4 * WORDS  # the kernel fills and reads shared memory itself
    bytes_ = 128 * form.count
    assert launches[0].shared_load_bytes - own == (bytes_ if form.op == "ldmatrix" else 0)
    assert launches[0].shared_store_bytes - own == (bytes_ if form.op == "stmatrix" else 0)


def _run(form: Form, at: np.ndarray) -> None:
    registers = torch.zeros(4, 32, dtype=torch.uint32)
    contents = torch.zeros(WORDS, dtype=torch.uint32)
    PROGRAM.module("simulator").run(FORMS.index(form), registers, contents, torch.from_numpy(at))


# ---- Who executes it -----------------------------------------------------------------------------

CALLERS = """
__device__ unsigned transposed(unsigned v) {
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
  return v;
}
// Lanes from `late` on arrive by a backward jump, after the others.
__global__ void late(unsigned* out, unsigned first) {
  unsigned v = threadIdx.x;
  asm volatile("{.reg .pred late; setp.ge.u32 late, %0, %1; @late bra LATE;"
               "HERE: movmatrix.sync.aligned.m8n8.trans.b16 %0, %0; bra DONE;"
               "LATE: add.u32 %0, %0, 0; bra HERE; DONE: }" : "+r"(v) : "r"(first));
  out[threadIdx.x] = v;
}
__global__ void left(unsigned* out, unsigned first) {
  if (threadIdx.x >= first) return;
  out[threadIdx.x] = transposed(threadIdx.x);
}
__global__ void guarded(unsigned* out, unsigned first) {
  unsigned v = threadIdx.x;
  asm volatile("{.reg .pred p; setp.lt.u32 p, %0, %1;"
               "@p movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;}" : "+r"(v) : "r"(first));
  out[threadIdx.x] = v;
}
__global__ void elsewhere(unsigned* out, unsigned first) {
  unsigned v = threadIdx.x;
  if (threadIdx.x >= first) {
    v = transposed(v);
  } else {
    __syncwarp();
  }
  out[threadIdx.x] = v;
}
__global__ void whole(unsigned* out, unsigned) { out[threadIdx.x] = transposed(threadIdx.x); }

void run_late(unsigned* out, unsigned first, int threads) { late<<<1, threads>>>(out, first); }
void run_left(unsigned* out, unsigned first, int threads) { left<<<1, threads>>>(out, first); }
void run_guarded(unsigned* out, unsigned first, int threads) {
  guarded<<<1, threads>>>(out, first);
}
void run_elsewhere(unsigned* out, unsigned first, int threads) {
  elsewhere<<<1, threads>>>(out, first);
}
void run_whole(unsigned* out, unsigned first, int threads) { whole<<<1, threads>>>(out, first); }
"""


NAMES = ("late", "left", "guarded", "elsewhere", "whole")
SCENARIOS = Program("matrix_callers", CALLERS, *(f"run_{name}" for name in NAMES))


@pytest.fixture
def callers() -> ModuleType:
    return SCENARIOS.module("simulator")


def _transposed() -> list[int]:
    """The result of movmatrix for registers that hold the lane's number."""
    low = [4 * (2 * (lane % 4)) + lane // 8 for lane in LANES]  # element (2t, g), if g is even
    high = [4 * (2 * (lane % 4) + 1) + lane // 8 for lane in LANES]
    return [0 if lane // 4 % 2 else low[lane] | high[lane] << 16 for lane in LANES]


@pytest.mark.parametrize("name", ["late", "left", "guarded", "whole"])
@pytest.mark.parametrize("first", [1, 20, 31, 32])
def test_lanes_that_come_in_the_end(callers: ModuleType, name: str, first: int):
    if first < 32 and name in ("left", "guarded"):
        return
    out = torch.zeros(32, dtype=torch.uint32)
    getattr(callers, f"run_{name}")(out, first, 32)
    assert out.tolist() == _transposed()


@pytest.mark.parametrize(
    ("name", "first", "threads", "says"),
    [
        ("left", 20, 32, "all 32 lanes of a warp, but lane 20 has exited or never existed"),
        ("whole", 0, 16, "all 32 lanes of a warp, but lane 16 has exited or never existed"),
        ("guarded", 12, 32, "all 32 lanes of a warp, but the guard of lane 12 is false"),
        ("elsewhere", 7, 32, "25 at a warp-wide instruction|deadlock"),
    ],
)
def test_lanes_that_never_come(callers: ModuleType, name: str, first: int, threads: int, says: str):
    out = torch.zeros(32, dtype=torch.uint32)
    with pytest.raises(SimulatorError, match=says) as error:
        getattr(callers, f"run_{name}")(out, first, threads)
    assert error.value.kind == "synccheck" and error.value.line
    assert "movmatrix.sync" in str(error.value) or name == "elsewhere"
