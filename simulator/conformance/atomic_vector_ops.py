"""Atomic operations on vectors and on 128 bits (PTX ISA, atom, red).

A vector's elements are updated individually: the operation is not atomic for the whole vector. Each
form runs with a 16-byte cell per lane, against a reference, and with a few cells that the lanes of
many warps and blocks compete for. Where the result has the registers of the operand, rotated by
one, the operands must be read before a result is written.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from simulator.conformance import exact
from simulator.conformance.atomic_ops import active_lanes, float_sum, halves, pair_of
from simulator.conformance.micro import (
    BLOCK,
    FLOATS,
    Case,
    Operand,
    Program,
    edge_cases,
    grouped_source,
    random_value,
)

BLOCKS, MORE_BLOCKS = 2, 4  # of lanes with a cell of their own, and as many whose lanes compete
CELLS = 3  # that they compete for
WORD = (1 << 64) - 1


@dataclass(frozen=True)
class VectorAtomic:
    """One form: its effect on an element, from the old value and the operands to the new value."""

    name: str
    type: str
    count: int
    update: Callable[..., object] = field(compare=False)
    space: str = "global"  # also "generic" and "shared"
    rotated: bool = False  # the result has the registers of the operand

    def __str__(self) -> str:
        return self.name + (", in place" if self.rotated else "")

    @cached_property
    def red(self) -> bool:
        return self.name.startswith("red")

    @cached_property
    def operand(self) -> Operand:
        return Operand.parse(self.type)

    @cached_property
    def bits(self) -> int:
        return 128 if self.type == "b128" else self.operand.bits

    def elements(self, low: int, high: int) -> list[int]:
        """The elements in 16 bytes."""
        whole = low | high << 64
        return [whole >> self.bits * k & ((1 << self.bits) - 1) for k in range(self.count)]

    def agrees(self, value: int, wanted: object) -> bool:
        return value == wanted if self.type == "b128" else self.operand.agrees(value, wanted)


def lesser(pick: Callable, type_: str) -> Callable[[int, int], object]:
    """The minimum or maximum of two numbers or pairs."""
    f = FLOATS[type_.removesuffix("x2")]
    if not type_.endswith("x2"):
        return partial(pick, f)
    return lambda old, b: pair_of(*map(partial(pick, f), halves(old), halves(b)))


def forms() -> list[VectorAtomic]:
    found = []
    for opcode in ("atom", "red"):
        for count in (2, 4):
            for space in (".global", ""):
                name, update = f"{opcode}{space}.add.v{count}.f32", float_sum("f32", flushes=True)
                found.append(VectorAtomic(name, "f32", count, update))
        for type_ in ("f16", "bf16", "f16x2", "bf16x2"):
            for count in (2, 4) if type_.endswith("x2") else (2, 4, 8):
                for op, update in (
                    ("add", float_sum(type_, flushes=False)),
                    ("min", lesser(exact.smaller, type_)),
                    ("max", lesser(exact.larger, type_)),
                ):
                    name = f"{opcode}.global.{op}.noftz.v{count}.{type_}"
                    found.append(VectorAtomic(name, type_, count, update))
    found += [
        VectorAtomic(f.name, f.type, f.count, f.update, rotated=True)
        for f in found
        if not f.red and ".add." in f.name
    ]
    for space in ("global", "shared", "generic"):
        behind = "" if space == "generic" else f".{space}"
        exch, cas = lambda old, b, c: b, lambda old, b, c: c if old == b else old
        found.append(VectorAtomic(f"atom{behind}.exch.b128", "b128", 1, exch, space))
        found.append(VectorAtomic(f"atom{behind}.cas.b128", "b128", 1, cas, space))
    return found


FORMS = forms()


def instructions(form: VectorAtomic) -> list[str]:
    """PTX: %0 and %1 are the result's words, %3 the address, %4 to %7 those of the operands."""
    if form.type == "b128":
        values = "q1, q2" if ".cas." in form.name else "q1"
        return [
            ".reg .b128 q<3>",
            "mov.b128 q1, {%4, %5}",
            "mov.b128 q2, {%6, %7}",
            f"@run {form.name} q0, [%3+16], {values}",
            "@run mov.b128 {%0, %1}, q0",
        ]
    per_word = 64 // form.bits

    def words(name: str) -> list[str]:
        names = [f"{name}{k}" for k in range(2 * per_word)]
        return [f"{{{', '.join(names[i : i + per_word])}}}" for i in (0, per_word)]

    moves = [f"mov.b64 {part}, %{k}" for k, part in enumerate(words("a"))]
    moves += [f"mov.b64 {part}, %{k + 4}" for k, part in enumerate(words("b"))]
    operands = [f"b{k}" for k in range(form.count)]
    results = [f"a{k}" for k in range(form.count)]
    behind = []
    if form.rotated:
        places = operands[1:] + operands[:1]
        behind = [f"@run mov.b{form.bits} {a}, {b}" for a, b in zip(results, places, strict=True)]
        results = places
    result = "" if form.red else f"{{{', '.join(results)}}}, "
    operation = f"@run {form.name} {result}[%3+16], {{{', '.join(operands)}}}"
    back = [f"mov.b64 %{k}, {part}" for k, part in enumerate(words("a"))]
    return [f".reg .b{form.bits} a<8>, b<8>", *moves, operation, *behind, *back]


def body(form: VectorAtomic) -> str:
    """The CUDA of one form.

    in: the number of the lane's cell (within its block in shared memory), b and c, of two words
    each. out: the old values, of two words each, then the cells.
    """
    shared = form.space == "shared"
    text = "; ".join(instructions(form))
    address = '"r"(at)' if shared else '"l"(at)'
    words = ", ".join(f'"l"(in[{k} * n + i])' for k in range(1, 5))
    return f"""
unsigned long long r0 = out[i], r1 = out[n + i];
ulonglong2* cells = reinterpret_cast<ulonglong2*>(out + 2 * n);
__shared__ ulonglong2 shared[{BLOCK}];
shared[threadIdx.x] = cells[i];
__syncthreads();
const {"unsigned" if shared else "ulonglong2*"} at =
    {"(unsigned)__cvta_generic_to_shared(shared + in[i]) - 16" if shared else "cells + in[i] - 1"};
asm volatile("{{.reg .pred run; setp.ne.b32 run, %2, 0; {text};}}"
             : "+l"(r0), "+l"(r1) : "r"(active[i]), {address}, {words} : "memory");
__syncthreads();
if ({int(shared)}) cells[i] = shared[threadIdx.x];
out[i] = r0;
out[n + i] = r1;
"""


PROGRAM = Program("atomic_vector_ops", lambda: grouped_source([body(form) for form in FORMS]))


def random_words(form: VectorAtomic, rng: random.Random, competes: bool) -> tuple[int, int]:
    """16 bytes: edge cases and other numbers; for competing lanes, numbers from 1 to 4."""
    if form.type == "b128":
        value = rng.randrange(5) << 63 if competes else rng.getrandbits(128)
        return value & WORD, value >> 64
    whole, o = 0, form.operand
    for k in range(128 // form.bits):
        value = rng.choice(edge_cases(o)) if rng.randrange(3) else random_value(o, rng)
        if competes:
            f = FLOATS[form.type.removesuffix("x2")]
            value = f.one + rng.getrandbits(f.precision)
            if form.type.endswith("x2"):
                value |= (f.one + rng.getrandbits(f.precision)) << 16
        whole |= value << form.bits * k
    return whole & WORD, whole >> 64


def check_form(form: VectorAtomic, full: bool, target: str) -> None:
    own = BLOCK * (MORE_BLOCKS if full else BLOCKS)
    n = 2 * own
    rng = random.Random(zlib.crc32(str(form).encode()))
    inputs = np.zeros((5, n), dtype=np.uint64)
    cells = np.zeros((n, 2), dtype=np.uint64)
    place = []
    for i in range(n):
        first = i // BLOCK * BLOCK if i < own or form.space == "shared" else own
        at = i % BLOCK if i < own else i // 32 % CELLS if i // BLOCK % 2 else i % CELLS
        place.append(first + at)
        inputs[0, i] = at if form.space == "shared" else first + at
        cells[i] = random_words(form, rng, i >= own)
        inputs[1:3, i] = cells[i] if i < own and i % 2 else random_words(form, rng, i >= own)
        inputs[3:5, i] = random_words(form, rng, i >= own)
    active = active_lanes(n)
    out = np.concatenate([np.full(2 * n, 0x1234567890ABCDEF, np.uint64), cells.ravel()])
    PROGRAM.run(target, FORMS.index(form), inputs, out, np.array(active, dtype=np.int32), n)
    old = [form.elements(*map(int, out[i : 2 * n : n])) for i in range(n)]
    after = [form.elements(*map(int, pair)) for pair in out[2 * n :].reshape(n, 2)]
    before = [form.elements(*map(int, pair)) for pair in cells]
    operands = [[form.elements(*map(int, inputs[k : k + 2, i])) for k in (1, 3)] for i in range(n)]
    untouched = form.elements(0x1234567890ABCDEF, 0x1234567890ABCDEF)
    for i in range(n):
        if form.red or not active[i]:
            assert old[i] == untouched, f"lane {i}: an unexpected result"
    lanes_of: dict[int, list[int]] = {i: [] for i in range(n)}
    for i in range(n):
        if active[i]:
            lanes_of[place[i]].append(i)
    for cell, lanes in lanes_of.items():
        for e in range(form.count):
            check_element(form, before[cell][e], after[cell][e], [
                (old[i][e], *(o[e] for o in operands[i])) for i in lanes])  # fmt: skip


def check_element(form: VectorAtomic, first: int, last: int, lanes: list[tuple[int, ...]]) -> None:
    """Check one element of one cell: each lane has seen another one's result."""
    update = form.update if form.type == "b128" else lambda old, b, c: form.update(old, b)
    if len(lanes) == 1:
        old, b, c = lanes[0]
        wanted = update(first, b, c)
        assert form.agrees(last, wanted), f"({first:#x}, {b:#x}) made {last:#x}, not {wanted}"
        assert form.red or old == first, f"returned {old:#x}, not {first:#x}"
    elif not form.red:
        made = [update(*lane) for lane in lanes]
        assert Counter([first, *made]) == Counter([*(lane[0] for lane in lanes), last])
    elif ".add." not in form.name:  # in any order
        for _, b, c in lanes:
            first = update(first, b, c)
        assert last == first
    else:
        f, part = FLOATS[form.type.removesuffix("x2")], (1 << FLOATS[
            form.type.removesuffix("x2")].bits) - 1  # fmt: skip
        for shift in range(0, form.bits, f.bits):
            parts = [f.value(v >> shift & part) for v in (first, *(b for _, b, _ in lanes))]
            error = abs(f.value(last >> shift & part) - sum(parts))
            assert error <= sum(parts) * len(lanes) / 2 ** (f.precision - 1)


def form_case(form: VectorAtomic) -> Case:
    return Case(str(form), lambda full, target: check_form(form, full, target))


CASES = [form_case(form) for form in FORMS]
