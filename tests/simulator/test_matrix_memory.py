"""ldmatrix, stmatrix and movmatrix (PTX ISA 9.7.14.5.15 to 9.7.14.5.17), and who may execute them.

Lane 8 i + r gives the address of row r of matrix i; element (row, column) of a matrix is in lane
4 row + column / 2, in the lower half of its register if column is even. With .trans it is the
element (column, row).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import pytest
import torch

from simulator import SimulatorError
from workbench.toolchain.inline import inline

LANES = range(32)
WORDS = 1024  # of shared memory in the kernels below

# ---- Forms ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """One form; `address` is how it comes: "u32", "u64" (of shared memory) or "generic"."""

    op: str  # "ldmatrix", "stmatrix", "movmatrix"
    count: int = 1
    trans: bool = False
    space: str = ""  # ".shared", ".shared::cta"; "" is generic
    address: str = "generic"
    offset: int = 0

    @property
    def instruction(self) -> str:
        trans = ".trans" if self.trans else ""
        if self.op == "movmatrix":
            return "movmatrix.sync.aligned.m8n8.trans.b16"
        return f"{self.op}.sync.aligned.m8n8.x{self.count}{trans}{self.space}.b16"

    @property
    def name(self) -> str:
        where = f" {self.address}+{self.offset}" if self.op != "movmatrix" else ""
        return self.instruction + where

    @property
    def forms(self) -> tuple[str, ...]:
        return (self.instruction,)

    @property
    def body(self) -> str:
        """`r` are the registers; `at` is the lane's byte offset in `memory`, which is shared."""
        if self.op == "movmatrix":
            return f'asm volatile("{self.instruction} %0, %0;" : "+r"(r[0]));'
        kind, pointer = {
            "u32": ("r", "static_cast<unsigned>(__cvta_generic_to_shared(p))"),
            "u64": ("l", "__cvta_generic_to_shared(p)"),
            "generic": ("l", "p"),
        }[self.address]
        vector = "{" + ", ".join(f"%{i}" for i in range(self.count)) + "}"
        address = f"[%{self.count}+{self.offset}]" if self.offset else f"[%{self.count}]"
        arguments = f"{vector}, {address}" if self.op == "ldmatrix" else f"{address}, {vector}"
        registers = ", ".join(f'"+r"(r[{i}])' for i in range(self.count))
        return (
            f"const char* p = reinterpret_cast<const char*>(memory) + at - {self.offset};\n"
            f'    asm volatile("{self.instruction} {arguments};" : {registers} : '
            f'"{kind}"({pointer}) : "memory");'
        )

    def check(self, full: bool = False, target: str = "simulator") -> None:
        """Run with rows at random places, which overlap in loads.

        Lanes whose addresses do not count hold anything.
        """
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        for _ in range(20 if full else 3):
            memory = rng.integers(0, 1 << 32, WORDS).astype(np.uint32)
            registers = rng.integers(0, 1 << 32, (4, 32)).astype(np.uint32)
            rows = rng.choice(WORDS // 4, 32, replace=self.op == "ldmatrix")
            at = (16 * rows).astype(np.uint32)
            at[8 * self.count :] = rng.integers(0, 1 << 28, 32 - 8 * self.count)
            wanted_memory, wanted = self.reference(memory, registers, rows)
            out, after = torch.from_numpy(registers), torch.from_numpy(memory)
            build(target).run(FORMS.index(self), out, after, torch.from_numpy(at))
            np.testing.assert_array_equal(out.numpy(), wanted)
            np.testing.assert_array_equal(after.numpy(), wanted_memory)

    def reference(
        self, memory: np.ndarray, registers: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Memory and registers afterwards."""
        halves = memory.copy().view(np.uint16).reshape(-1, 8)
        held = registers.copy().view(np.uint16).reshape(4, 32, 2)
        before = held.copy()
        for i in range(self.count):
            for row in range(8):
                for column in range(8):
                    lane, half = 4 * row + column // 2, column % 2
                    r, c = (column, row) if self.trans or self.op == "movmatrix" else (row, column)
                    if self.op == "ldmatrix":
                        held[i, lane, half] = halves[rows[8 * i + r], c]
                    elif self.op == "stmatrix":
                        halves[rows[8 * i + r], c] = before[i, lane, half]
                    else:
                        held[0, lane, half] = before[0, 4 * r + c // 2, c % 2]
        return halves.reshape(-1).view(np.uint32), held.view(np.uint32)[..., 0]


def _forms() -> list[Form]:
    forms = [Form("movmatrix")]
    for op in ("ldmatrix", "stmatrix"):
        for count in (1, 2, 4):
            for trans in (False, True):
                forms += [
                    Form(op, count, trans, ".shared", "u32", 48),
                    Form(op, count, trans, ".shared::cta", "u64", 16),
                    Form(op, count, trans),
                ]
    return forms


FORMS = _forms()
CASES = FORMS


@cache
def build(target: str) -> ModuleType:
    """All forms in one module: run(form, registers [4, 32], shared memory, byte offsets)."""
    cases = "\n".join(
        f"  case {i}: {{\n    {form.body}\n    break;\n  }}" for i, form in enumerate(FORMS)
    )
    return inline(
        f"""
__global__ void forms(int form, unsigned* registers, unsigned* contents, const unsigned* offsets) {{
  __shared__ __align__(128) unsigned memory[{WORDS}];
  const int l = threadIdx.x;
  for (int i = l; i < {WORDS}; i += 32) memory[i] = contents[i];
  unsigned r[4];
  for (int i = 0; i < 4; i++) r[i] = registers[i * 32 + l];
  const unsigned at = offsets[l];
  __syncthreads();
  switch (form) {{
{cases}
  }}
  __syncthreads();
  for (int i = 0; i < 4; i++) registers[i * 32 + l] = r[i];
  for (int i = l; i < {WORDS}; i += 32) contents[i] = memory[i];
}}
void run(int form, unsigned* registers, unsigned* contents, const unsigned* offsets) {{
  forms<<<1, 32>>>(form, registers, contents, offsets);
}}
""",
        "run",
        target=target,
        name="matrix_memory",
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_form(case: Form):
    case.check()


# ---- Rows that are not where they may be ---------------------------------------------------------

SHARED = [f for f in FORMS if f.count == 4 and not f.trans]


@pytest.mark.parametrize("form", SHARED, ids=lambda form: form.name)
@pytest.mark.parametrize("lane", [0, 13, 31])
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


def _run(form: Form, at: np.ndarray) -> None:
    registers = torch.zeros(4, 32, dtype=torch.uint32)
    contents = torch.zeros(WORDS, dtype=torch.uint32)
    build("simulator").run(FORMS.index(form), registers, contents, torch.from_numpy(at))


# ---- Who executes it -----------------------------------------------------------------------------

CALLERS = """
__device__ unsigned transposed(unsigned v) {
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
  return v;
}
// Lanes from `late` on come by a jump back, when the others are there.
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


@pytest.fixture(scope="module")
def callers() -> ModuleType:
    names = [f"run_{n}" for n in ("late", "left", "guarded", "elsewhere", "whole")]
    return inline(CALLERS, names, target="simulator", name="matrix_callers")


def _transposed() -> list[int]:
    """What movmatrix makes of registers that hold the lane's number."""
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
        ("left", 20, 32, "all 32 lanes of a warp, but lane 20 has exited or never was"),
        ("whole", 0, 16, "all 32 lanes of a warp, but lane 16 has exited or never was"),
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
