"""Scalar and SIMD video instructions (PTX ISA 9.7.19, 9.7.20), against Python's integers.

Parts of the operands are extended by their type's sign, computed with unlimited precision, clamped
with .sat, then combined with the third operand.
"""

# ruff: noqa: E731 (references are short enough for a lambda)

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable

from simulator.conformance.micro import Form, Suite, together

TYPES = ("u32", "s32")
WIDTHS = {"b": 8, "h": 16}
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "absdiff": lambda a, b: abs(a - b),
    "min": min,
    "max": max,
}
COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
SECOND = {"add": operator.add, "min": min, "max": max}


def average(a: int, b: int) -> int:
    """Round half up if nonnegative; round a negative sum down."""
    return (a + b + 1) // 2 if a + b >= 0 else (a + b) // 2


def number(bits: int, width: int, t: str) -> int:
    """The low bits as a number of a type."""
    bits &= (1 << width) - 1
    return bits - (1 << width) if t == "s32" and bits >> (width - 1) else bits


def selected(bits: int, selector: str, t: str) -> int:
    """The part of a register named by a selector such as "h1"; "" is all of it."""
    if not selector:
        return number(bits, 32, t)
    width = WIDTHS[selector[0]]
    return number(bits >> width * int(selector[1]), width, t)


def clamped(value: int, width: int, t: str) -> int:
    low, high = (-1 << width - 1, (1 << width - 1) - 1) if t == "s32" else (0, (1 << width) - 1)
    return min(max(value, low), high)


def merged(value: int, c: int, selector: str) -> int:
    """The value inserted into c at the place that the selector names."""
    if not selector:
        return value
    width = WIDTHS[selector[0]]
    field, shift = (1 << width) - 1, width * int(selector[1])
    return c & ~(field << shift) | (value & field) << shift


# ---- Scalar ----------------------------------------------------------------------------------


def scalar(
    name: str, types: tuple[str, ...], compute: Callable, end: str = "", *,
    sat: bool = False, second: str = "", parts: tuple[str, str, str] = ("", "", ""),
) -> Form:  # fmt: skip
    """types: of d (unless the operation is a comparison), a and b. parts: of d, a and b."""
    d_type, a_type, b_type = types if len(types) == 3 else ("u32", *types)
    dsel, asel, bsel = parts

    def reference(a: int, b: int, c: int = 0) -> int:
        value = int(compute(selected(a, asel, a_type), selected(b, bsel, b_type)))
        if sat:
            value = clamped(value, WIDTHS[dsel[0]] if dsel else 32, d_type)
        if second:
            return SECOND[second](value, number(c, 32, d_type))
        return merged(value, c, dsel)

    words = ".".join(filter(None, (name, *types, "sat" * sat, end, second)))
    names = [f"%{i}.{part}" if part else f"%{i}" for i, part in enumerate(parts)]
    three = bool(second or dsel)
    text = f"{words} {', '.join(names + ['%3'] * three)}"
    return Form(text, "b32", "b32 b32 b32" if three else "b32 b32", reference, text)


PARTS = [
    ("", "b0", "h1"), ("", "h0", "b3"), ("", "b2", ""), ("b0", "", "h0"), ("b1", "b1", "b2"),
    ("b2", "h1", "h1"), ("b3", "", ""), ("h0", "b3", "h0"), ("h1", "", "b0"),
]  # fmt: skip


def scalar_forms() -> list[Form]:
    forms = []
    for op, compute in OPERATIONS.items():
        name = f"v{op}"
        every = list(itertools.product(TYPES, repeat=3))
        for i, types in enumerate(every):
            forms.append(scalar(name, types, compute, sat=i in (0, 3, 5, 6)))
        for i, second in enumerate(SECOND):
            forms.append(scalar(name, every[i], compute, second=second))
            forms.append(scalar(name, every[-1 - i], compute, sat=True, second=second))
        for i, parts in enumerate(PARTS):
            forms.append(scalar(name, every[3 * i % 8], compute, sat=i % 2 == 1, parts=parts))
    return forms


SHIFT_AMOUNTS = {"clamp": lambda b: min(b, 32), "wrap": lambda b: b % 32}


def shift_forms() -> list[Form]:
    forms = []
    for mode, amount in SHIFT_AMOUNTS.items():
        left = lambda a, b, n=amount: a << n(b)
        right = lambda a, b, n=amount: a >> n(b)
        for name, compute in (("vshl", left), ("vshr", right)):
            for d, a, sat in itertools.product(TYPES, TYPES, (False, True)):
                types = (d, a, "u32")
                forms.append(scalar(name, types, compute, mode, sat=sat))
                forms.append(scalar(name, types, compute, mode, sat=sat, parts=("b1", "h0", "b0")))
            for second in SECOND:
                types = ("s32", "u32", "u32")
                forms.append(
                    scalar(name, types, compute, mode, second=second, parts=("", "h1", "b3"))
                )
    return forms


def compare_forms() -> list[Form]:
    forms = []
    for name, compute in COMPARISONS.items():
        for types in itertools.product(TYPES, repeat=2):
            forms.append(scalar("vset", types, compute, name))
            forms.append(scalar("vset", types, compute, name, parts=("h1", "b0", "b1")))
        for second in SECOND:
            forms.append(scalar("vset", ("s32", "u32"), compute, name, second=second))
    return forms


def multiply_forms() -> list[Form]:
    """Negated operands have a minus sign: (a * b) is negated if one of a and b is."""
    forms = []
    signs = [("", "", ""), ("-", "", ""), ("", "-", ""), ("-", "-", ""), ("", "", "-")]
    every = itertools.product(itertools.product(TYPES, repeat=2), signs, (False, True))
    shifts = itertools.cycle(("", "shr7", "shr15"))
    for ((a_type, b_type), sign, sat), shift in zip(every, shifts, strict=False):
        negative = (sign[0] != sign[1]) or sign[2] == "-"
        t = "s32" if "s32" in (a_type, b_type) or negative else "u32"
        plus_one = sign == ("-", "-", "")  # instead of a form that negates nothing: .po

        def reference(
            a: int, b: int, c: int, a_type: str = a_type, b_type: str = b_type, sign: tuple = sign,
            sat: bool = sat, shift: str = shift, t: str = t, plus_one: bool = plus_one,
        ) -> int:  # fmt: skip
            product = selected(a, "h1", a_type) * number(b, 32, b_type)
            product = -product if sign[0] != sign[1] else product
            total = product + plus_one
            total += 1 + number(~c, 32, "s32") if sign[2] else number(c, 32, t)
            total >>= int(shift[3:] or 0)
            return clamped(total, 32, t) if sat else total

        words = [f"vmad.{t}.{a_type}.{b_type}", "po" * plus_one, "sat" * sat, shift]
        x, y, z = ("", "", "") if plus_one else sign
        text = f"{'.'.join(filter(None, words))} %0, {x}%1.h1, {y}%2, {z}%3"
        forms.append(Form(text, "b32", "b32 b32 b32", reference, text))
    return forms


# ---- SIMD ------------------------------------------------------------------------------------


def simd(
    n: int, name: str, types: tuple[str, ...], compute: Callable, end: str = "", *,
    sat: bool = False, add: bool = False, parts: tuple[str, str, str] = ("", "", ""),
) -> Form:  # fmt: skip
    """n: of the elements. parts: digits that select elements of d, a and b, the highest first."""
    d_type, a_type, b_type = types if len(types) == 3 else ("u32", *types)
    letter, width = ("h", 16) if n == 2 else ("b", 8)
    defaults = ("10", "10", "32") if n == 2 else ("3210", "3210", "7654")
    mask, asel, bsel = (p or d for p, d in zip(parts, defaults, strict=True))

    def reference(a: int, b: int, c: int) -> int:
        pair = a | b << 32
        result = c
        for i in range(n):
            x = number(pair >> width * int(asel[-1 - i]), width, a_type)
            y = number(pair >> width * int(bsel[-1 - i]), width, b_type)
            value = int(compute(x, y))
            value = clamped(value, width, d_type) if sat else value
            if str(i) in mask:
                result = result + value if add else merged(value, result, f"{letter}{i}")
        return result

    words = ".".join(filter(None, (f"{name}{n}", *types, "sat" * sat, end, "add" * add)))
    names = [f"%{i}.{letter}{part}" if part else f"%{i}" for i, part in enumerate(parts)]
    text = f"{words} {', '.join(names)}, %3"
    return Form(text, "b32", "b32 b32 b32", reference, text)


SIMD_PARTS = {
    2: [("0", "", ""), ("1", "32", "01"), ("10", "33", "20"), ("", "01", "")],
    4: [("0", "", ""), ("3", "7654", "0123"), ("210", "7070", "1234"), ("32", "", "5555"),
        ("", "0246", "")],
}  # fmt: skip
SIMD_OPERATIONS = {**OPERATIONS, "avrg": average}


def simd_forms() -> list[Form]:
    forms = []
    for n, (op, compute) in itertools.product((2, 4), SIMD_OPERATIONS.items()):
        every = list(itertools.product(TYPES, repeat=3))
        cases = [(types, ("", "", "")) for types in every]
        cases += [(every[3 * i % 8], parts) for i, parts in enumerate(SIMD_PARTS[n])]
        for (types, parts), end in zip(cases, itertools.cycle(("sat", "", "add")), strict=False):
            flags = {"sat": end == "sat", "add": end == "add"}
            forms.append(simd(n, f"v{op}", types, compute, parts=parts, **flags))
    for n, (name, compute) in itertools.product((2, 4), COMPARISONS.items()):
        for i, (types, add) in enumerate(
            itertools.product(itertools.product(TYPES, repeat=2), (False, True))
        ):
            parts = SIMD_PARTS[n][i % len(SIMD_PARTS[n])] if i % 2 else ("", "", "")
            forms.append(simd(n, "vset", types, compute, name, add=add, parts=parts))
    return forms


# ---- Every combination of types and modifiers, many per case ----------------------------------


def combinations() -> list[Form]:
    """On whole operands, or their default elements."""
    forms = []
    ends = list(itertools.product((False, True), ("", *SECOND)))
    for (op, compute), d, a in itertools.product(OPERATIONS.items(), TYPES, TYPES):
        some = [
            scalar(f"v{op}", (d, a, b), compute, sat=sat, second=second)
            for b, (sat, second) in itertools.product(TYPES, ends)
        ]
        forms.append(together(f"v{op}.{d}.{a} combinations", some))
    for (mode, amount), name in itertools.product(SHIFT_AMOUNTS.items(), ("vshl", "vshr")):
        shift = operator.lshift if name == "vshl" else operator.rshift
        compute = lambda a, b, shift=shift, amount=amount: shift(a, amount(b))
        for d in TYPES:
            some = [
                scalar(name, (d, a, "u32"), compute, mode, sat=sat, second=second)
                for a, (sat, second) in itertools.product(TYPES, ends)
            ]
            forms.append(together(f"{name}.{d} {mode} combinations", some))
    for types in itertools.product(TYPES, repeat=2):
        some = [
            scalar("vset", types, compute, name, second=second)
            for (name, compute), second in itertools.product(COMPARISONS.items(), SECOND)
        ]
        forms.append(together(f"vset.{'.'.join(types)} combinations", some))
    for n, (op, compute), d in itertools.product((2, 4), SIMD_OPERATIONS.items(), TYPES):
        some = [
            simd(n, f"v{op}", (d, a, b), compute, sat=end == "sat", add=end == "add")
            for a, b, end in itertools.product(TYPES, TYPES, ("", "sat", "add"))
        ]
        forms.append(together(f"v{op}{n}.{d} combinations", some))
    return forms + [multiply_combinations(*types) for types in itertools.product(TYPES, repeat=3)]


def multiply_combinations(d: str, a: str, b: str) -> Form:
    """The type of the result changes nothing: it is signed if a or b is (PTX ISA 9.7.19, vmad)."""
    t = "s32" if "s32" in (a, b) else "u32"
    forms = []
    for po, sat, shift in itertools.product(("", "po"), ("", "sat"), ("", "shr7", "shr15")):

        def reference(
            x: int, y: int, z: int, po: str = po, sat: str = sat, shift: int = int(shift[3:] or 0)
        ) -> int:
            total = number(x, 32, a) * number(y, 32, b) + number(z, 32, t) + bool(po) >> shift
            return clamped(total, 32, t) if sat else total

        text = ".".join(filter(None, (f"vmad.{d}.{a}.{b}", po, sat, shift)))
        forms.append(Form(text, "b32", "b32 b32 b32", reference))
    return together(f"vmad.{d}.{a}.{b} combinations", forms)


FORMS = [
    *scalar_forms(),
    *shift_forms(),
    *compare_forms(),
    *multiply_forms(),
    *simd_forms(),
    *combinations(),
]
SUITE = Suite("video_ops", FORMS)
