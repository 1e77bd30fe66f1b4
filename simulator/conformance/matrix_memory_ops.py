"""ldmatrix, stmatrix and movmatrix (PTX ISA 9.7.14.5.15 to 9.7.14.5.17), and who may execute them.

Lane 8 i + r gives the address of row r of matrix i; element (row, column) of a matrix is in lane 4
row + column / 2, in the lower half of its register if column is even. With .trans it is element
(column, row).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from simulator.conformance.micro import Program

LANES = range(32)
WORDS = 1024  # of shared memory in the kernels below

# ---- Forms ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """One form; `address` is its kind: "u32", "u64" (of shared memory) or "generic"."""

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
        """Run with rows at random places, which overlap for loads.

        Lanes whose addresses do not count hold arbitrary values.
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
            PROGRAM.module(target).run(FORMS.index(self), out, after, torch.from_numpy(at))
            np.testing.assert_array_equal(out.numpy(), wanted)
            np.testing.assert_array_equal(after.numpy(), wanted_memory)

    def reference(
        self, memory: np.ndarray, registers: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The expected memory and registers afterwards."""
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


def source() -> str:
    """All forms: run(form, registers [4, 32], shared memory, byte offsets)."""
    cases = "\n".join(
        f"  case {i}: {{\n    {form.body}\n    break;\n  }}" for i, form in enumerate(FORMS)
    )
    return f"""
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
"""


PROGRAM = Program("matrix_memory", source)
