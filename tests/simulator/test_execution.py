"""What holds for every instruction: an unknown one stops the launch, names belong to a block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from simulator import SimulatorError
from tests.simulator import (
    test_atomics,
    test_compare_ops,
    test_convert_ops,
    test_divergent_callers,
    test_float_ops,
    test_integer_ops,
    test_memory_ops,
    test_move_ops,
    test_warp_ops,
)
from tests.support import REPO
from workbench.toolchain.inline import inline

# Instructions of the ISA that the simulator has no use for: textures, surfaces, video, and forms of
# opcodes that it knows. What gets implemented leaves this list.
UNSUPPORTED = {
    "texture": ("tex.1d.v4.f32.s32 {f0, f1, f2, f3}, [handle, {r0}]", "tex.1d.v4.f32.s32"),
    "texture query": ("txq.width.b32 r0, [handle]", "txq.width.b32"),
    "surface": ("suld.b.1d.b32.trap r0, [handle, {r1}]", "suld.b.1d.b32.trap"),
    "video": ("vadd.s32.s32.s32.sat r0, r1, r2", "vadd.s32.s32.s32.sat"),
    "profiler": ("pmevent 1", "pmevent 1"),
    "a form of lop3": ("lop3.or.b32 r0|p0, r1, r2, r3, 0x3f, p1", "lop3.or.b32"),
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


@pytest.fixture(scope="module")
def source() -> str:
    texts = (text for text, _ in UNSUPPORTED.values())
    return "".join(kernel(n, t) for n, t in zip(names(), texts, strict=True))


@pytest.fixture(scope="module")
def unsupported(source: str):
    return inline(source, names(), target="simulator", name="unsupported")


@pytest.mark.parametrize("which", UNSUPPORTED)
def test_unsupported_instruction_stops_the_launch(unsupported, source: str, which: str):
    index = list(UNSUPPORTED).index(which)
    _, opcode = UNSUPPORTED[which]
    out = torch.zeros(65, dtype=torch.uint32)
    out[64] = 1
    with pytest.raises(SimulatorError) as error:
        getattr(unsupported, f"run_{index}")(out)
    finding = error.value
    assert finding.kind == "unsupported"
    assert finding.kernel == f"run_{index}_kernel"
    assert Path(finding.file).name == "unsupported.cu"
    line = source.splitlines()[finding.line - 1]
    assert line.endswith(f"// run_{index}"), line
    assert finding.thread == (1, 0, 0)
    assert re.search(rf"^\s*PTX: .*{re.escape(opcode)}", str(finding), re.M), str(finding)
    assert "does not implement" in str(finding)
    # What came before has happened, what comes after has not.
    lanes = out.tolist()
    assert lanes[:32] == [1] * 32
    assert [lanes[32 + lane] for lane in range(1, 32, 2)] == [0] * 16


@pytest.mark.parametrize("which", UNSUPPORTED)
def test_unsupported_instruction_that_nobody_reaches_does_no_harm(unsupported, which: str):
    out = torch.zeros(65, dtype=torch.uint32)
    out[64] = 7
    getattr(unsupported, f"run_{list(UNSUPPORTED).index(which)}")(out)
    assert out.tolist() == [1] * 32 + [3] * 32 + [7]


SCOPES = """
// The same names in blocks side by side and inside of each other.
__global__ void scopes(int* out) {
  int a, b, c;
  asm volatile("{.reg .pred p; mov.u32 %0, 0;"
               "LOOP: add.u32 %0, %0, 1; setp.lt.u32 p, %0, 5; @p bra LOOP;}" : "=r"(a));
  asm volatile("{.reg .pred p; mov.u32 %0, 10;"
               "LOOP: add.u32 %0, %0, 1; setp.lt.u32 p, %0, 15; @!p bra DONE; bra LOOP; DONE:"
               "mov.b32 %0, %0;}" : "=r"(b));
  asm volatile("{.reg .b32 t; .reg .pred p; mov.u32 t, 100; mov.u32 %0, 0;"
               "LOOP: {.reg .b32 t; mov.u32 t, 0;"
               "       LOOP: add.u32 t, t, 1; setp.lt.u32 p, t, 3; @p bra LOOP;"
               "       add.u32 %0, %0, t;}"
               "setp.lt.u32 p, %0, 9; @p bra LOOP; add.u32 %0, %0, t;}" : "=r"(c));
  out[0] = a;
  out[1] = b;
  out[2] = c;
}
void run_scopes(int* out) { scopes<<<1, 1>>>(out); }
"""


def test_labels_and_registers_belong_to_their_block():
    out = torch.zeros(3, dtype=torch.int32)
    inline(SCOPES, "run_scopes", target="simulator", name="scopes").run_scopes(out)
    assert out.tolist() == [5, 15, 109]


def opcodes_with_a_form() -> set[str]:
    """The opcodes of every form that these modules run."""
    suites = (test_integer_ops, test_float_ops, test_compare_ops, test_convert_ops)
    text = [s for module in suites for form in module.FORMS for s in form.statements]
    text += [s for form in test_move_ops.MOVES for s in form.statements]
    text += [s for c in test_warp_ops.COLLECTIVES for s in c.form.statements]
    text += [form.name for form in (*test_atomics.FORMS, *test_memory_ops.FORMS)]
    for source in (
        test_convert_ops.addresses_source(),
        test_memory_ops.SCENARIOS,
        test_divergent_callers.SCENARIOS,
    ):
        text += re.findall(r"[\";{}]\s*(?:@!?\w+ )?([a-z][a-z0-9]*[.][\w.:]+ [^;\"]*)", source)
    words = (re.sub(r"^@!?\w+ ", "", s).split(".")[0].strip() for s in text)
    return {word for word in words if word.isidentifier()} | {"lop3"}


def test_every_opcode_has_a_form():
    """No opcode is in the tables without a test here; control flow is tested elsewhere."""
    tables = set()
    for file in sorted((REPO / "simulator/src/ops").glob("*_ops.cpp")):
        if file.name not in ("control_ops.cpp", "call_ops.cpp"):
            _, _, table = file.read_text().partition("constexpr Opcode OPCODES[] = {")
            tables |= set(re.findall(r'\{"(\w+)",', table.partition("};")[0]))
    assert len(tables) > 60
    assert sorted(tables - opcodes_with_a_form()) == []
