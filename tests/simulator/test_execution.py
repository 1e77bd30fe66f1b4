"""What holds for every instruction: unknown ones stop the launch, known ones are listed."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import torch

from simulator import SimulatorError, library
from simulator.conformance.coverage import listed
from simulator.conformance.micro import Program
from tests.support import REPO

# Instructions that the simulator lacks: textures, surfaces, and a few more. Newly implemented ones
# leave this list.
UNSUPPORTED = {
    "texture": ("tex.1d.v4.f32.s32 {f0, f1, f2, f3}, [handle, {r0}]", "tex.1d.v4.f32.s32"),
    "texture query": ("txq.width.b32 r0, [handle]", "txq.width.b32"),
    "surface": ("suld.b.1d.b32.trap r0, [handle, {r1}]", "suld.b.1d.b32.trap"),
}


def kernel(name: str, instruction: str) -> str:
    return f"""
__global__ void {name}_kernel(unsigned* out) {{
  const unsigned lane = threadIdx.x;
  out[lane] = 1;
  const unsigned taken = out[64];
  if (lane % 2 == taken) {{
    asm volatile("{{.reg .b32 r<4>; .reg .f32 f<4>; .reg .b64 handle; .reg .pred p<2>;"
                 "mov.b64 handle, 0; mov.b32 r1, 0; mov.b32 r2, 0; mov.b32 r3, 0; mov.b32 r0, 0;"
                 "setp.eq.u32 p1, r1, 0;" : : : "memory");
    asm volatile("{instruction};" : : : "memory");  // {name}
    asm volatile("}}" : : : "memory");
    out[lane] = 2;
  }}
  out[32 + lane] = 3;
}}
void {name}(unsigned* out) {{ {name}_kernel<<<1, 32>>>(out); }}
"""


def names() -> list[str]:
    return [f"run_{i}" for i in range(len(UNSUPPORTED))]


SOURCE = "".join(
    kernel(name, text) for name, (text, _) in zip(names(), UNSUPPORTED.values(), strict=True)
)
PROGRAM = Program("unsupported", SOURCE, *names())


@pytest.fixture
def unsupported():
    return PROGRAM.module("simulator")


@pytest.mark.parametrize("which", UNSUPPORTED)
def test_unsupported_instruction_stops_the_launch(unsupported, which: str):
    index = list(UNSUPPORTED).index(which)
    _, opcode = UNSUPPORTED[which]
    out = torch.zeros(65, dtype=torch.uint32)
    out[64] = 1
    with pytest.raises(SimulatorError) as error:
        getattr(unsupported, f"run_{index}")(out)
    finding = error.value
    assert finding.kind == "unsupported"
    assert finding.kernel.endswith(f"run_{index}_kernel")
    assert Path(finding.file).name == "unsupported.cu"
    line = SOURCE.splitlines()[finding.line - 1]
    assert line.endswith(f"// run_{index}"), line
    assert finding.thread == (1, 0, 0)
    assert re.search(rf"^\s*PTX: .*{re.escape(opcode)}", str(finding), re.M), str(finding)
    assert "does not implement" in str(finding)
    # Earlier instructions have executed, later ones have not.
    lanes = out.tolist()
    assert lanes[:32] == [1] * 32
    assert [lanes[32 + lane] for lane in range(1, 32, 2)] == [0] * 16


@pytest.mark.parametrize("which", UNSUPPORTED)
def test_unsupported_instruction_that_nobody_reaches_does_no_harm(unsupported, which: str):
    out = torch.zeros(65, dtype=torch.uint32)
    out[64] = 7
    getattr(unsupported, f"run_{list(UNSUPPORTED).index(which)}")(out)
    assert out.tolist() == [1] * 32 + [3] * 32 + [7]


def test_every_opcode_is_listed():
    """Every opcode in the C++ tables has a form that conformance requires."""
    tables = set()
    for file in sorted((REPO / "simulator/src/exec/ops").glob("*_ops.cpp")):
        _, _, table = file.read_text().partition("constexpr Opcode OPCODES[] = {")
        tables |= set(re.findall(r'\{"(\w+)",', table.partition("\n};")[0]))
    assert len(tables) > 60
    assert sorted(tables - {form.split(".")[0] for form in listed()}) == []


def test_every_form_has_one_row():
    """Families that share an opcode choose by its modifiers: one of them takes it, and no other."""
    count_rows = library().wbsim_count_rows
    count_rows.restype, count_rows.argtypes = ctypes.c_int, [ctypes.c_char_p]
    rows = {form: count_rows(form.encode()) for form in listed()}
    assert {form: n for form, n in rows.items() if n != 1} == {}
    assert count_rows(b"tex.1d.v4.f32.s32") == 0
