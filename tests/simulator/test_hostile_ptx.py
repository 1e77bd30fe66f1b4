"""PTX whose parts multiply: a megabyte of it takes neither minutes nor gigabytes.

Each text makes something quadratic or worse if it is done naively: rows that are filled up, lists
that are written out, names that are looked up in every block around them, functions that all call
each other. The answer does not matter; fuzz.py ends the process after some seconds of CPU time or
with too much memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.simulator.test_fuzz import run_fuzz
from workbench.toolchain.simulator import process_simulator

SIZE = 1_000_000
HEAD = ".version 9.0\n.target sm_90a\n.address_size 64\n"
DEEP = 55  # nested blocks


def repeated(line: str, size: int = SIZE) -> str:
    """Lines with a number in place of #, of about that size together."""
    count = size // (len(line) + 6)
    return "".join(line.replace("#", str(i)) + "\n" for i in range(count))


def kernel(body: str, registers: str = ".reg .b32 r<9>; .reg .b64 rd<9>; .reg .pred p;") -> str:
    return f".visible .entry k() {{\n{registers}\n{body}\nret;\n}}\n"


def blocks(opening: str, inside: str) -> str:
    return opening * DEEP + inside + "}" * DEEP


def doubled(count: int) -> str:
    """A mangled name of 2 ** count letters: each argument is a pair of the one before."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    before = [
        f"S{digits[2 * i // 36] if i >= 18 else ''}{digits[2 * i % 36]}_" for i in range(count)
    ]
    return f"_Z1fI1a{''.join(f'St4pairI{name}{name}E' for name in before)}EvT_"


TEXTS: dict[str, Callable[[], str]] = {
    "dimensions": lambda: f".global .b8 x{'[1]' * (SIZE // 3)};",
    "filled_rows": lambda: repeated(".global .b8 x#[2][33554432] = {{1}, {2}};"),
    "empty_rows": lambda: f".global .b8 x[99999][9999] = {{{'{},' * (SIZE // 3)}}};",
    "target_ranges": lambda: kernel(repeated("L#: .branchtargets N<60000>;")),
    "target_lists": lambda: kernel("{" + repeated("L#: .branchtargets N;") + "}"),
    "targets_of_branches": lambda: kernel(
        "all: .branchtargets " + ", ".join(["M"] * (SIZE // 6)) + ";\n"
        "M: " + repeated("brx.idx r1, all;", SIZE // 2)
    ),
    "symbols_in_blocks": lambda: kernel(blocks("{ L: ", repeated("mov.u64 rd1, x;"))),
    "arguments_in_blocks": lambda: kernel(
        blocks("{ L: ", "call f, (" + ", ".join(["x"] * (SIZE // 3)) + ");")
    ),
    "registers_in_blocks": lambda: kernel(
        blocks("{ .reg .b32 q<9>; ", repeated("mov.b32 r1234567, r2345678;")),
        ".reg .b32 r<9999999>;",
    ),
    "digits_of_a_register": lambda: kernel(f"mov.b32 r{'1' * SIZE}, 1;"),
    "digits_of_a_number": lambda: kernel(f"mov.b32 r1, {'1' * SIZE};"),
    "digits_of_a_float": lambda: kernel(f"mov.b32 r1, 0.{'1' * SIZE}e-9;"),
    "mangled": lambda: kernel("trap;").replace("k()", f"{doubled(30)}()"),
    "pointers_to_functions": lambda: (
        repeated(".func f#() { .reg .b64 a; mov.u64 a, f#; P: .callprototype _; call a, P; ret; }")
        + kernel("mov.u64 rd1, f1; P: .callprototype _; call rd1, P;")
    ),
    "calls_of_all": lambda: (
        repeated(".func f#() { call g; call h; ret; }", SIZE // 2)
        + ".func g() { call h; ret; } .func h() { call g; ret; }"
        + kernel(repeated("call f#;", SIZE // 6))
    ),
    "shared_of_functions": lambda: (
        repeated(".shared .b8 s#[1];", SIZE // 3)
        + repeated(".func f#() { ret; }", SIZE // 3)
        + kernel(repeated("mov.u64 rd1, s#;", SIZE // 6) + repeated("call f#;", SIZE // 6))
    ),
    "live_registers": lambda: kernel(
        repeated("L#: @p bra L#; add.u32 q#, q#, r1;"), ".reg .b32 r<9>, q<99999>; .reg .pred p;"
    ),
    "loops_in_loops": lambda: kernel(
        backwards(SIZE // 60), ".reg .b32 q<99999>; .reg .pred p; setp.eq.u32 p, 0, 1;"
    ),
    "operands": lambda: kernel(f"add.u32 {', '.join(['r1'] * (SIZE // 4))};"),
    "modifiers": lambda: kernel(f"add{'.u32' * (SIZE // 4)} r1, r2, r3;"),
    "parameters": lambda: (
        f".func f({', '.join(f'.param .b8 x{i}' for i in range(SIZE // 20))}) {{ ret; }}"
        + kernel("call f, (r1);")
    ),
}


def backwards(count: int) -> str:
    """Branches that each go to the place before the last: what is live spreads one at a time."""
    lines: Iterable[str] = (
        f"L{i}: add.u32 q{i}, q{i}, 1; @p bra L{max(i - 1, 0)};" for i in range(count)
    )
    return "\n".join(lines)


@pytest.mark.parametrize("text", [pytest.param(t, marks=pytest.mark.full) for t in TEXTS])
def test_a_megabyte(text: str, tmp_path: Path):
    path = tmp_path / "hostile.ptx"
    path.write_text(HEAD + TEXTS[text]())
    lines, how = run_fuzz(process_simulator().library, path)
    assert not how and lines, f"{text}: {how}"
