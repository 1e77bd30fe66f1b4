"""Handwritten PTX: block-scoped names, vector registers, constant expressions, directives."""

from __future__ import annotations

import ctypes

import pytest
import torch

import simulator
from simulator.conformance.micro import Program

TEXTS = """
// The same names in sibling and nested blocks.
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
// Variables that hide others; one of the module, declared in a block.
__global__ void variables(int* out) {
  int a, b, c, d;
  asm volatile("{.shared .b32 x; .reg .b32 t; st.shared.u32 [x], 1;"
               " {.shared .b32 y, x; st.shared.u32 [x], 2; st.shared.u32 [y], 5;"
               "  {.shared .align 16 .b32 x[4]; st.shared.u32 [x+12], 3;"
               "   ld.shared.u32 %2, [x+12];}"
               "  ld.shared.u32 %1, [x];}"
               " ld.shared.u32 %0, [x];"
               " {.local .b32 x; .global .b32 y = 40; ld.global.u32 t, [y];"
               "  st.local.u32 [x], t; ld.local.u32 %3, [x];}}"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : : "memory");
  out[0] = a;
  out[1] = b;
  out[2] = c;
  out[3] = d;
}
// Vector registers, whole and by component, alone and numbered.
__global__ void vectors(int* out) {
  int a, b, c;
  asm volatile("{.reg .v4 .b32 v; .reg.v2.u32 w<3>; .reg.b64 at; cvta.to.global.u64 at, %3;"
               "mov.b32 v.x, 1; mov.b32 v.g, 2; mov.b32 v.z, 3; mov.b32 v.a, 4;"
               "st.global.v4.u32 [at+16], v; ld.global.v2.u32 w2, [at+24];"
               "add.u32 %0, w2.x, w2.y; add.u32 %1, v.r, v.w; mov.b64 at, {v.x, w2.y};"
               "cvt.u32.u64 %2, at;}"
               : "=r"(a), "=r"(b), "=r"(c) : "l"(out) : "memory");
  out[0] = a;
  out[1] = b;
  out[2] = c;
}
// Constant expressions (PTX ISA 4.5.5) and the last register of a range.
__global__ void constants(int* out) {
  int v[8];
  asm volatile("{.reg .b32 r<9>; .reg .f32 f; mov.b32 r8, (1 << 4) + 2 * 3; mov.b32 %0, r8;"
               "mov.b32 %1, -7 / 2; mov.b32 %2, (-16 >> 2) | 1; mov.b32 %3, ~(0xf0 & 0x3c) ^ 5;"
               "mov.b32 %4, 017 - 0b11; mov.b32 %5, !0 + !7; mov.f32 f, 1.5e+3; mov.b32 %6, f;"
               "mov.b32 %7, 0xffffffffffffffffU / 0x100000000;}"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]), "=r"(v[4]), "=r"(v[5]),
                 "=r"(v[6]), "=r"(v[7]));
  for (int i = 0; i < 8; i++) out[i] = v[i];
}
void run_variables(int* out) { variables<<<1, 1>>>(out); }
void run_vectors(int* out) { vectors<<<1, 1>>>(out); }
void run_constants(int* out) { constants<<<1, 1>>>(out); }
"""


NAMES = ("scopes", "variables", "vectors", "constants")
PROGRAM = Program("texts", TEXTS, *(f"run_{name}" for name in NAMES))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("scopes", [5, 15, 109]),
        ("variables", [1, 2, 3, 40]),
        ("vectors", [7, 5, 1, 0, 1, 2, 3, 4]),
        ("constants", [22, -3, -3, ~0x30 ^ 5, 12, 1, 0x44BB8000, -1]),
    ],
)
def test_text(name: str, wanted: list[int]):
    out = torch.zeros(8, dtype=torch.int32)
    getattr(PROGRAM.module("simulator"), f"run_{name}")(out)
    assert out.tolist()[: len(wanted)] == wanted


# ---- Invalid PTX -------------------------------------------------------------------------------


def problem_of(text: str) -> str:
    """The simulator's error for a module; "" if all of it runs."""
    try_module = simulator.library().wbsim_try_module
    try_module.restype, try_module.argtypes = ctypes.c_char_p, [ctypes.c_char_p, ctypes.c_size_t]
    image = text.encode()
    return (try_module(image, len(image)) or b"").decode()


ENTRY = ".entry k() {{ .reg .b32 a, b; .reg .pred p; {} ret; }}"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("@q mov.b32 a, 1;", "expected a predicate register"),
        ("@%tid.x mov.b32 a, 1;", "expected a predicate register"),
        ("mov.b32 a, {b;", "expected ',' or '}'"),
        ("mov.b32 a, [;", "expected a number"),
        ("mov.b32 a, 99999999999999999999;", "expected a number"),
        ("mov.b32 a, 1 / 0;", "division by zero"),
        ("mov.b32 a, 12abc;", "expected a number"),
        ("mov.b32 a, !b;", "expected a predicate after '!'"),
        ("L: L: mov.b32 a, 1;", "appears twice"),
        (".reg .b32 a;", "declared twice"),
        (".reg .f33 x;", "expected a type"),
        (".local .align 3 .b8 x[4];", "power of two"),
        (".local .b8 x[4000000000];", "bytes"),
        (".shared .b8 x[9999999999999];", "number from"),
        ("{" * 300, "nested too deeply"),
        ("}", "expected a declaration"),
        ('mov.b32 a, "', "end of a string"),
        ("mov.b32 \x01a;", "got '?'"),
    ],
    ids=str,
)
def test_broken_text_is_an_error_that_says_where(body: str, says: str):
    problem = problem_of(ENTRY.format(body))
    assert says in problem and ("PTX line 1" in problem or "bytes" in problem), problem


def test_sound_text_runs():
    assert problem_of(ENTRY.format("mov.b32 a, 1;")) == ""
    assert problem_of(".global .b32 x[2][2] = {{1}, {2, 3}};" + ENTRY.format("")) == ""
    assert "more initial values" in problem_of(".global .b32 x[2] = {1, 2, 3};")
    assert "holds no PTX" in problem_of("") or "empty" in problem_of("")


def test_a_range_of_registers_may_be_huge():
    """As text: nvcc runs ptxas on its PTX, which takes half a minute for this many."""
    body = ".reg .b32 r<1000000000>; mov.b32 r999999999, 22; "
    body += "setp.ne.u32 p, r999999999, {}; @p trap;"
    assert problem_of(ENTRY.format(body.format(22))) == ""
    assert "trap" in problem_of(ENTRY.format(body.format(23)))


@pytest.mark.parametrize(
    "instruction",
    [
        "frobnicate.u32 a, b",
        "add.fast.u32 a, a, b",
        "add.u32 a, d, 1",  # a register of another width
        "add.u64 d, d, a",
        "add.u16 s, s, %tid.x",
        "mov.b32 a, d",
        "and.b32 a, a, s",
        "add.u32 a, a, b, b, b, b",
        "selp.b32 a, b, a, b",
        "bra NOWHERE",
    ],
)
def test_what_ptxas_would_refuse_stops_the_launch(instruction: str):
    problem = problem_of(ENTRY.format(f".reg .b16 s; .reg .b64 d; {instruction};"))
    assert problem.startswith("k: unsupported"), problem
    assert f"PTX: {instruction}" in problem
