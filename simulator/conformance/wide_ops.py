"""Accesses of 128 bits, and atomics on several elements at once (PTX ISA 9.7.9, 9.7.13).

Every lane has 16 bytes of its own, in global memory or copied to shared memory. Sums, minima and
maxima of halves are those of exact.py; the cells hold numbers, subnormal ones too, and no NaN.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from simulator.conformance import exact
from simulator.conformance.exact import BF16, F16, F32
from simulator.conformance.micro import BLOCK, Case, Program, grouped_source

FORMATS = {"f32": F32, "f16": F16, "bf16": BF16}
OPERATIONS: dict[str, Callable] = {
    "add": lambda f, a, b: exact.add(f, a, b, "rn"),
    "min": exact.smaller,
    "max": exact.larger,
}
WHOLE = (1 << 128) - 1
# With %0, %1 for the old value, %2 for the address, %3, %4 and %5, %6 for b and c.
WIDE = {
    "ld": "ld{space}.b128 d, [%2]",
    "st": "mov.b128 d, c; st{space}.b128 [%2], b",
    "atom.exch": "atom{space}.exch.b128 d, [%2], b",
    "atom.cas": "atom{space}.cas.b128 d, [%2], b, c",
}
UPDATES: dict[str, Callable[[int, int, int], tuple[int, int]]] = {  # to the new cell and d
    "ld": lambda old, b, c: (old, old),
    "st": lambda old, b, c: (b, c),
    "atom.exch": lambda old, b, c: (b, old),
    "atom.cas": lambda old, b, c: (c if old == b else old, old),
}


@dataclass(frozen=True)
class Wide:
    """One form: its instruction, and what it makes of a lane's cell, b and c."""

    name: str
    space: str  # "", ".global" or ".shared"
    asm: str  # an asm statement's text, outputs and inputs, without the address
    update: Callable[[int, int, int], tuple[int, int]] = field(compare=False)
    numbers: str = ""  # the type of the elements, where they must be numbers


def whole_forms() -> list[Wide]:
    forms = []
    for op, text in WIDE.items():
        for space in ("", ".global", ".shared"):
            body = (
                ".reg .b128 b, c, d; mov.b128 b, {%3, %4}; mov.b128 c, {%5, %6}; "
                f"{text.format(space=space)}; mov.b128 {{%0, %1}}, d;"
            )
            opcode, _, operation = op.partition(".")
            name = ".".join(filter(None, (opcode + space, operation, "b128")))
            forms.append(Wide(name, space, body, UPDATES[op]))
    return forms


def vector_forms() -> list[Wide]:
    forms = []
    shapes = [("f32", n, "") for n in (2, 4)]
    shapes += [(f, n, "") for f in ("f16", "bf16") for n in (2, 4, 8)]
    shapes += [(f, n, "x2") for f in ("f16", "bf16") for n in (2, 4)]
    for type_, count, pair in shapes:
        noftz = "" if type_ == "f32" else ".noftz"
        for op in ("add", "min", "max") if noftz else ("add",):
            for red in (False, True):
                forms.append(vector_form(op + noftz, type_, count, pair, red))
    return forms


def vector_form(op: str, type_: str, count: int, pair: str, red: bool) -> Wide:
    """Atom or red of a vector; pair: whether its elements are pairs of numbers."""
    name = f"{'red' if red else 'atom'}.global.{op}.v{count}.{type_}{pair}"
    bits = FORMATS[type_].bits * (2 if pair else 1)
    registers = [[f"{x}{k}" for k in range(count)] for x in "db"]
    d, b = ("{" + ", ".join(r) + "}" for r in registers)
    packed = []  # (b0, b1, ...) from the two words of b, and the same back
    for word in range(2):
        here = slice(word * 64 // bits, (word + 1) * 64 // bits)
        parts = ["{" + ", ".join(r[here]) + "}" for r in registers]
        if count > word * 64 // bits:
            packed.append((f"mov.b64 {parts[1]}, %{3 + word};", f"mov.b64 %{word}, {parts[0]};"))
    if count * bits == 32:  # half a word
        whole = ["{" + ", ".join(r) + "}" for r in registers]
        packed = [(f".reg .b32 w; cvt.u32.u64 w, %3; mov.b32 {whole[1]}, w;",
                   f"mov.b32 w, {whole[0]}; cvt.u64.u32 %0, w;")]  # fmt: skip
    instruction = f"{name} {'' if red else d + ', '}[%2], {b};"
    results = "" if red else " ".join(back for _, back in packed)
    body = (
        f".reg .b{bits} {', '.join(sum(registers, []))}; {' '.join(there for there, _ in packed)} "
        f"{instruction} {results}"
    )
    f, total = FORMATS[type_], count * (2 if pair else 1)

    def update(old: int, b: int, c: int) -> tuple[int, int]:
        mask, new = (1 << f.bits) - 1, old
        for k in range(total):
            at = k * f.bits
            result = OPERATIONS[op.split(".")[0]](f, old >> at & mask, b >> at & mask)
            new = new & ~(mask << at) | result << at
        size = total * f.bits
        kept = c >> max(size, 64) << max(size, 64)  # what is behind the words of the result
        return new, c if red else old & ((1 << size) - 1) | kept

    return Wide(name, ".global", body, update, type_)


FORMS = [*whole_forms(), *vector_forms()]


def body(form: Wide) -> str:
    """in: b, c and the cells, two words each, by lane; out: d, the cells."""
    shared = form.space == ".shared"
    cell = "static_cast<unsigned>(__cvta_generic_to_shared(shared + lane))"
    address = f'"r"({cell})' if shared else '"l"(cells + i)'
    words = ", ".join(f'"l"(in[{k} * n + i])' for k in range(4))
    copy = "shared[lane] = cells[i]; __syncthreads();"
    back = "__syncthreads(); cells[i] = shared[lane];"
    return f"""
__shared__ ulonglong2 shared[{BLOCK}];
ulonglong2* cells = reinterpret_cast<ulonglong2*>(out + 2 * n);
const int lane = threadIdx.x;
unsigned long long low = in[2 * n + i], high = in[3 * n + i];
{copy if shared else ""}
if (active[i]) {{
  asm volatile("{{{form.asm}}}" : "+l"(low), "+l"(high) : {address}, {words} : "memory");
}}
{back if shared else ""}
out[i] = low;
out[n + i] = high;
"""


PROGRAM = Program("wide_ops", lambda: grouped_source([body(form) for form in FORMS]))


def values(form: Wide, count: int, rng: random.Random) -> list[int]:
    """128 bits each; numbers of small magnitude, and subnormal ones, where they must be some."""
    if not form.numbers:
        return [rng.getrandbits(128) for _ in range(count)]
    f = FORMATS[form.numbers]
    found = []
    for _ in range(count):
        whole = 0
        for k in range(128 // f.bits):
            number = f.one + rng.getrandbits(f.precision)
            if rng.randrange(4) == 0 and f is not F32:  # those of f32 are flushed
                number = rng.getrandbits(f.precision - 1)
            whole |= (number | rng.getrandbits(1) * f.sign) << k * f.bits
        found.append(whole)
    return found


def check_wide(form: Wide, target: str) -> None:
    rng = random.Random(form.name)
    n = 2 * BLOCK
    cells, b, c = (values(form, n, rng) for _ in range(3))
    b = [cell if ".cas." in form.name and i % 2 else x
         for i, (cell, x) in enumerate(zip(cells, b, strict=True))]  # fmt: skip
    active = [int(i < BLOCK or rng.randrange(3) > 0) for i in range(n)]
    low = (1 << 64) - 1
    inputs = np.array([[x >> s & low for x in v] for v in (b, c) for s in (0, 64)], np.uint64)
    out = np.zeros(4 * n, np.uint64)
    out[2 * n :] = [x >> s & low for x in cells for s in (0, 64)]
    PROGRAM.run(target, FORMS.index(form), inputs, out, np.array(active, np.int32), n)
    found = [int(x) for x in out]
    for i in range(n):
        new, old = form.update(cells[i], b[i], c[i]) if active[i] else (cells[i], c[i])
        got = found[2 * n + 2 * i] | found[2 * n + 2 * i + 1] << 64
        assert got == new & WHOLE, f"lane {i}: the cell is {got:#x}, wanted {new:#x}"
        got = found[i] | found[n + i] << 64
        assert got == old & WHOLE, f"lane {i}: the result is {got:#x}, wanted {old:#x}"


def wide_case(form: Wide) -> Case:
    return Case(form.name, lambda full, target: check_wide(form, target))


CASES = [wide_case(form) for form in FORMS]
