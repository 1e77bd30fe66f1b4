"""Comparison and selection (PTX ISA 9.7.6): setp, set, selp, slct."""

# ruff: noqa: E731 (references are short enough for a lambda)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from simulator.conformance.exact import F32, F64
from simulator.conformance.micro import Form, Suite

FORMATS = {"f32": F32, "f64": F64}
INTEGERS = [f"{sign}{bits}" for bits in (16, 32, 64) for sign in "us"]
BITS = ("b16", "b32", "b64")

# Comparisons of numbers; the unordered ones of floats also hold where an operand is NaN.
ORDERED: dict[str, Callable[[float, float], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
COMBINE = {"and": lambda r, c: r & c, "or": lambda r, c: r | c, "xor": lambda r, c: r ^ c}


def float_comparison(op: str, t: str, ftz: bool) -> Callable[[int, int], int]:
    """A comparison of bit patterns as numbers."""
    f = FORMATS[t]

    def holds(a: int, b: int) -> int:
        if ftz:
            a, b = f.flushed(a), f.flushed(b)
        unordered = f.is_nan(a) or f.is_nan(b)
        if op in ("num", "nan"):
            return int(unordered == (op == "nan"))
        if unordered:
            return int(len(op) == 3)
        return int(ORDERED[op[:2]](f.float(a), f.float(b)))

    return holds


def comparisons(t: str) -> list[str]:
    """The names of the comparisons of a type."""
    if t in BITS:
        return ["eq", "ne"]
    if t in FORMATS:
        return [*ORDERED, *(f"{op}u" for op in ORDERED), "num", "nan"]
    return [*ORDERED, *(UNSIGNED if t[0] == "u" else ())]


def comparison(op: str, t: str, ftz: bool = False) -> Callable[[int, int], int]:
    if t in FORMATS:
        return float_comparison(op, t, ftz)
    return lambda a, b: int(ORDERED[UNSIGNED.get(op, op)](a, b))


def setp_forms() -> list[Form]:
    forms = []
    for t in (*BITS, *INTEGERS, *FORMATS):
        for op in comparisons(t):
            for ftz in ("", ".ftz") if t == "f32" else ("",):
                holds = comparison(op, t, bool(ftz))
                forms.append(Form(f"setp.{op}{ftz}.{t}", "pred", f"{t} {t}", holds))
    types = ("u16", "u32", "s32", "f32", "f64")
    for (how, f), t, sign in itertools.product(COMBINE.items(), types, "!_"):
        holds = comparison("lt", t)
        negate = int(sign == "!")
        combined = lambda a, b, c, f=f, holds=holds, n=negate: f(holds(a, b), c ^ n)
        both = lambda a, b, c, f=f, holds=holds, n=negate: (
            f(holds(a, b), c ^ n),
            f(1 - holds(a, b), c ^ n),
        )
        c = sign.strip("_")
        forms += [
            Form(
                f"setp.lt.{how}.{t} {c}", "pred", f"{t} {t} pred", combined,
                f"setp.lt.{how}.{t} %0, %1, %2, {c}%3",
            ),
            Form(
                f"setp.lt.{how}.{t} p|q {c}", "pred pred", f"{t} {t} pred", both,
                f"setp.lt.{how}.{t} %0|%1, %2, %3, {c}%4",
            ),
        ]  # fmt: skip
    for t in ("b32", "s64", "f32"):
        holds = comparison("eq", t)
        forms.append(
            Form(
                f"setp.eq.{t} p|q", "pred pred", f"{t} {t}",
                lambda a, b, holds=holds: (holds(a, b), 1 - holds(a, b)),
                f"setp.eq.{t} %0|%1, %2, %3",
            )
        )  # fmt: skip
    return [*forms, *setp_special_forms()]


def setp_special_forms() -> list[Form]:
    """Constants as operands, and predicates that are source and destination at once."""
    return [
        Form("setp.gt.s32 5", "pred", "s32", lambda a: int(a > 5), "setp.gt.s32 %0, %1, 5"),
        Form("setp.lt.s16 -1", "pred", "s16", lambda a: int(a < -1), "setp.lt.s16 %0, %1, -1"),
        Form(
            "setp.ge.f32 0f", "pred", "f32",
            lambda a: float_comparison("ge", "f32", False)(a, F32.one),
            "setp.ge.f32 %0, %1, 0f3F800000",
        ),
        Form(
            "setp.lt.or.u32 p, p", "pred", "u32 u32 pred", lambda a, b, c: int(a < b) | c,
            "mov.pred %0, %3; setp.lt.or.u32 %0, %1, %2, %0",
        ),
        Form(
            "setp.lt.xor.u32 p|q, q", "pred pred", "u32 u32 pred",
            lambda a, b, c: (int(a < b) ^ c, int(a >= b) ^ c),
            "mov.pred %1, %4; setp.lt.xor.u32 %0|%1, %2, %3, %1",
        ),
    ]  # fmt: skip


def set_forms() -> list[Form]:
    forms = []
    true = {"u32": (1 << 32) - 1, "s32": -1, "f32": F32.one}
    for d, t in itertools.product(true, (*BITS, *INTEGERS, *FORMATS)):
        for op in comparisons(t) if d == "u32" else ("eq", "ne"):
            for ftz in ("", ".ftz") if t == "f32" else ("",):
                holds = comparison(op, t, bool(ftz))
                value = lambda a, b, holds=holds, one=true[d]: one * holds(a, b)
                forms.append(Form(f"set.{op}{ftz}.{d}.{t}", d, f"{t} {t}", value))
    for (how, f), t, sign in itertools.product(COMBINE.items(), ("s32", "f32"), ("", "!")):
        holds = comparison("le", t)
        negate = int(sign == "!")
        value = lambda a, b, c, f=f, holds=holds, n=negate: -f(holds(a, b), c ^ n)
        forms.append(
            Form(
                f"set.le.{how}.u32.{t} {sign}", "u32", f"{t} {t} pred", value,
                f"set.le.{how}.u32.{t} %0, %1, %2, {sign}%3",
            )
        )  # fmt: skip
    return forms


def selection_forms() -> list[Form]:
    forms = []
    for t in (*BITS, *INTEGERS, *FORMATS):
        pick = lambda a, b, p: a if p else b
        forms.append(Form(f"selp.{t}", t, f"{t} {t} pred", pick))
        for by in ("s32", "f32", "ftz.f32"):
            c = by.removeprefix("ftz.")
            name = f"slct.ftz.{t}.f32" if by == "ftz.f32" else f"slct.{t}.{by}"
            forms.append(Form(name, t, f"{t} {t} {c}", slct(by)))
    forms.append(
        Form(
            "selp.b32 !p", "b32", "b32 b32 pred", lambda a, b, p: b if p else a,
            "selp.b32 %0, %1, %2, !%3",
        )
    )  # fmt: skip
    forms.append(
        Form(
            "selp.f32 0f", "f32", "pred", lambda p: F32.one * p, "selp.f32 %0, 1.0, 0f00000000, %1"
        )
    )
    return forms


def slct(by: str) -> Callable[[int, int, int], int]:
    """Pick a where c >= 0: a NaN is not, -0 is, and with .ftz a negative subnormal (9.7.6.4)."""

    def pick(a: int, b: int, c: int) -> int:
        if by == "s32":
            return a if c >= 0 else b
        value = F32.float(F32.flushed(c) if by == "ftz.f32" else c)
        return a if not math.isnan(value) and value >= 0 else b

    return pick


FORMS = [*setp_forms(), *set_forms(), *selection_forms()]
SUITE = Suite("compare_ops", FORMS)
