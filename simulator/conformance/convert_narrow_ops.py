"""Conversions to and from f16, bf16, tf32 and fp8 (PTX ISA 9.7.9.21, cvt; 9.7.9.22, cvt.pack).

Every result is rounded once, from the exact value. .sat clamps to [+0, 1] and turns NaN into +0;
.satfinite gives the largest number instead of an infinity; .relu gives +0 instead of a negative
number. A NaN becomes the canonical one, every bit set except the sign; as an f32 or f64, any NaN.
The result of .relu for -0 is unspecified; both zeros are accepted.
"""

# ruff: noqa: E731 (references are short enough for a lambda)

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

from simulator.conformance.convert_ops import INTEGERS, MODES, TO_INTEGER, limits
from simulator.conformance.exact import BF16, E4M3, E5M2, F16, F32, F64, NAN, TF32, Format, OneOf
from simulator.conformance.micro import Form, Pair, Suite, together

FORMATS = {"f16": F16, "bf16": BF16, "f32": F32, "f64": F64, "e4m3": E4M3, "e5m2": E5M2}


# ---- References ------------------------------------------------------------------------------


def clamped(g: Format, bits: int, sat: bool, relu: bool) -> object:
    """A number after .sat or .relu."""
    if sat:
        return 0 if bits & g.sign else min(bits, g.one)
    if relu and bits & g.sign:
        return OneOf((0, g.sign)) if g.is_zero(bits) else 0
    return bits


def narrowed(
    f: Format, g: Format, mode: str, ftz: bool = False, sat: bool = False,
    relu: bool = False, finite: bool = False,
) -> Callable[[int], object]:  # fmt: skip
    """The conversion of a number of format f to format g."""

    def reference(a: int) -> object:
        a = f.flushed(a) if ftz and f is F32 else a
        if f.is_nan(a):
            return 0 if sat else NAN if g in (F32, F64) else g.sign - 1
        sign = g.sign if a & f.sign else 0
        if f.is_infinite(a):
            result = (g.infinity if g.infinities and not finite else g.largest) | sign
        else:
            result = g.round(f.value(a), mode, sign)
        if finite and g.is_infinite(result):
            result = g.largest | sign
        result = g.flushed(result) if ftz and g is F32 else result
        return clamped(g, result, sat, relu)

    return reference


def of_integer(g: Format, mode: str, sat: bool) -> Callable[[int], object]:
    return lambda a: clamped(g, g.round(Fraction(a), mode), sat, False)


def to_integer(f: Format, to: str, mode: str) -> Callable[[int], int]:
    low, high = limits(to)

    def reference(a: int) -> int:
        if f.is_nan(a):
            return 1 << 63 if to[1:] == "64" else 0
        if f.is_infinite(a):
            return low if a & f.sign else high
        return min(max(TO_INTEGER[mode](f.value(a)), low), high)

    return reference


def to_integral(f: Format, mode: str, sat: bool) -> Callable[[int], object]:
    def reference(a: int) -> object:
        if f.is_nan(a):
            return 0 if sat else f.sign - 1
        if not f.is_infinite(a):
            a = f.round(Fraction(TO_INTEGER[mode](f.value(a))), "rn", a & f.sign)
        return clamped(f, a, sat, False)

    return reference


# ---- Operands at which rounding matters --------------------------------------------------------


def close_calls(f: Format, g: Format) -> list[int]:
    """Numbers of f: some of g's, the midpoints between neighbours, and those next to them."""
    patterns = [0, 1, 2, 3, g.smallest_normal - 1, g.smallest_normal, g.smallest_normal + 1]
    patterns += [g.one - 1, g.one, g.one + 1, g.one + 2, g.largest - 1, g.largest]
    values = []
    for bits in patterns:
        value = g.value(bits)
        gap = g.value(bits + 1) - value if bits < g.largest else value - g.value(bits - 1)
        values += [value, value + gap / 2, value + gap / 4]
    inside = {f.round(v, "rz") for v in values}
    edges = {b + d for b in inside for d in (-1, 0, 1) if 0 <= b + d <= f.infinity}
    edges |= {f.infinity + 1, f.sign - 1, f.infinity, f.largest, 1}
    return sorted(b | s for b in edges for s in (0, f.sign))


def conversion(
    modifiers: str, to: str, of: str, reference: Callable, edges: list[int] | None = None
) -> Form:
    """A form of cvt with one operand; to and of may name the register, as in "f16@32"."""
    types = (to.partition("@")[0], of.partition("@")[0])
    name = ".".join(filter(None, ("cvt", modifiers, *types)))
    label = name if (to, of) == types else f"{name} {to} {of}"
    return Form(label, to, of, reference, f"{name} %0, %1", {0: edges} if edges else {})


# ---- Scalars ---------------------------------------------------------------------------------


def rounding_forms() -> list[Form]:
    forms = []

    def add(modifiers: str, to: str, of: str, mode: str = "rn", **flags: bool) -> None:
        f, g = FORMATS[of], FORMATS[to]
        edges = close_calls(f, g) if g.precision < f.precision else None
        words = [word for word in ("ftz", "relu", "satfinite", "sat") if flags.get(word)]
        reference = narrowed(
            f, g, mode, flags.get("ftz", False), flags.get("sat", False),
            flags.get("relu", False), flags.get("satfinite", False),
        )  # fmt: skip
        forms.append(
            conversion(".".join([modifiers, *words][not modifiers :]), to, of, reference, edges)
        )

    for mode in MODES:
        for to, of in (("f16", "bf16"), ("bf16", "f16"), ("bf16", "f64"), ("f64", "bf16")):
            add(mode, to, of, mode)
        for sat in (False, True):
            add(mode, "f16", "f64", mode, sat=sat)
            for ftz in (False, True):
                add(mode, "f16", "f32", mode, sat=sat, ftz=ftz)
        for ftz in (False, True):
            add(mode, "bf16", "f32", mode, ftz=ftz)
            add(mode, "f32", "bf16", mode, ftz=ftz)
    for mode, to in itertools.product(("rn", "rz"), ("f16", "bf16")):
        add(mode, to, "f32", mode, relu=True)
        add(mode, to, "f32", mode, satfinite=True)
        add(mode, to, "f32", mode, relu=True, satfinite=True)
    for ftz in (False, True):
        add("", "f32", "bf16", ftz=ftz)
        for sat in (False, True):
            add("", "f32", "f16", ftz=ftz, sat=sat)
    for sat in (False, True):
        add("", "f64", "f16", sat=sat)
    add("", "f64", "bf16")
    return forms


def same_forms() -> list[Form]:
    """From a type to itself: a copy, or the nearest integral number."""
    forms = []
    for t, sats in (("f16", (False, True)), ("bf16", (False,))):
        f = FORMATS[t]
        for sat, mode in itertools.product(sats, TO_INTEGER):
            name = f"{mode}.sat" if sat else mode
            forms.append(conversion(name, t, t, to_integral(f, mode, sat)))
        copy = lambda a, f=f: NAN if f.is_nan(a) else a
        forms.append(conversion("", t, t, copy))
    saturated = lambda a: 0 if F16.is_nan(a) else clamped(F16, a, True, False)
    return [*forms, conversion("sat", "f16", "f16", saturated)]


def integer_forms() -> list[Form]:
    forms = []
    for t, f in (("f16", F16), ("bf16", BF16)):
        types = [i for i in INTEGERS if t == "f16" or i[1:] != "8"]
        for integer, mode in itertools.product(types, MODES):
            near = [f.value(b) + d for b in range(f.one, f.infinity, f.smallest_normal // 2 - 3)
                    for d in (-1, 0, 1)]  # fmt: skip
            low, high = limits(integer)
            mask = (1 << int(integer[1:])) - 1
            edges = [s * int(v) & mask for v in near for s in (1, -1) if low <= s * int(v) <= high]
            edges += [0, 1, mask, low & mask, high, high - 1]
            forms.append(conversion(mode, t, integer, of_integer(f, mode, False), edges))
            if t == "f16":
                forms.append(
                    conversion(f"{mode}.sat", t, integer, of_integer(f, mode, True), edges)
                )
        for integer, mode in itertools.product(types, TO_INTEGER):
            forms.append(conversion(mode, integer, t, to_integer(f, integer, mode)))
    for mode in TO_INTEGER:  # .sat changes nothing: integers are always clamped
        sat = [conversion(f"{mode}.sat", i, "f16", to_integer(F16, i, mode)) for i in INTEGERS]
        forms.append(together(f"cvt.{mode}.sat.f16 to every integer", sat))
    return forms


def wide_register_forms() -> list[Form]:
    """A number in a register wider than itself."""
    widen = narrowed(F16, F32, "rn")
    narrow = narrowed(F32, F16, "rn")
    edges = close_calls(F32, F16)
    forms = [conversion("", "f32", f"f16@{bits}", widen) for bits in (32, 64)]
    forms += [conversion("rn", f"f16@{bits}", "f32", narrow, edges) for bits in (32, 64)]
    return [
        *forms,
        conversion("rzi", "s32", "f32@64", to_integer(F32, "s32", "rzi")),
        conversion("rn", "f32@64", "s32", of_integer(F32, "rn", False)),
        conversion("", "f64", "f32@64", narrowed(F32, F64, "rn")),
        conversion("rn", "f32@64", "f64", narrowed(F64, F32, "rn"), close_calls(F64, F32)),
        conversion("rn", "f16", "u8@64", of_integer(F16, "rn", False)),
        conversion("rni", "u8@64", "f16", to_integer(F16, "u8", "rni")),
    ]


# ---- Pairs, fp8, tf32 ------------------------------------------------------------------------


def both(reference: Callable[[int], object], bits: int) -> Callable[[int], Pair]:
    """For the halves of a register, each `bits` wide."""
    low = (1 << bits) - 1
    return lambda a: Pair(reference(a & low), reference(a >> bits))


def pair_forms() -> list[Form]:
    forms = []
    table = [(t, mode, finite) for t in ("f16", "bf16") for mode in ("rn", "rz")
             for finite in (False, True)]  # fmt: skip
    table += [("e4m3", "rn", True), ("e5m2", "rn", True)]
    for (t, mode, finite), relu in itertools.product(table, (False, True)):
        g = FORMATS[t]
        words = ".".join([mode, *["relu"] * relu, *["satfinite"] * finite])
        one = narrowed(F32, g, mode, relu=relu, finite=finite)
        edges = close_calls(F32, g)
        forms.append(
            Form(
                f"cvt.{words}.{t}x2.f32", f"{t}x2", "f32 f32",
                lambda a, b, one=one: Pair(one(b), one(a)),
                edges={0: edges, 1: edges[::-1]},
            )
        )  # fmt: skip
    for t, relu in itertools.product(("e4m3", "e5m2"), (False, True)):
        g, word = FORMATS[t], ".relu" * relu
        down = narrowed(F16, g, "rn", relu=relu, finite=True)
        up = narrowed(g, F16, "rn", relu=relu)
        edges = close_calls(F16, g)
        pairs = [a | b << 16 for a, b in zip(edges, edges[7:] + edges[:7], strict=True)]
        every = [v | (255 - v) << 8 for v in range(256)]
        forms += [
            Form(
                f"cvt.rn{word}.satfinite.{t}x2.f16x2", f"{t}x2", "f16x2", both(down, 16),
                edges={0: pairs},
            ),
            Form(f"cvt.rn{word}.f16x2.{t}x2", "f16x2", f"{t}x2", both(up, 8), edges={0: every}),
        ]  # fmt: skip
    return forms


def reordered_forms() -> list[Form]:
    """.satfinite before .relu, which ptxas also accepts."""
    of_f32, of_f16 = [], []
    for t, modes in (("f16", "rn rz"), ("bf16", "rn rz"), ("e4m3", "rn"), ("e5m2", "rn")):
        for mode in modes.split():
            name = f"cvt.{mode}.satfinite.relu.{t}"
            one = narrowed(F32, FORMATS[t], mode, relu=True, finite=True)
            pair = lambda a, b, one=one: Pair(one(b), one(a))
            of_f32.append(Form(f"{name}x2.f32", f"{t}x2", "f32 f32", pair))
            if t in ("f16", "bf16"):
                of_f32.append(Form(f"{name}.f32", t, "f32", one))
            else:
                down = both(narrowed(F16, FORMATS[t], mode, relu=True, finite=True), 16)
                of_f16.append(Form(f"{name}x2.f16x2", f"{t}x2", "f16x2", down))
    return [
        together("cvt.satfinite.relu of f32", of_f32),
        together("cvt.satfinite.relu of f16x2", of_f16),
    ]


def tf32_forms() -> list[Form]:
    forms = []
    for words in ("rna", "rna.satfinite", "rn", "rn.relu", "rz", "rz.relu"):
        mode = words.partition(".")[0]
        one = narrowed(F32, TF32, mode, relu="relu" in words, finite="finite" in words)

        def reference(a: int, one: Callable = one) -> object:
            if F32.is_nan(a):
                return NAN
            result = one(a)
            choices = result.choices if isinstance(result, OneOf) else (result,)
            return OneOf(tuple(c << 13 for c in choices))

        edges = close_calls(F32, TF32)
        forms.append(conversion(words, "tf32", "f32", reference, edges))
    return [
        Form(f.name, "f32", "f32", f.reference, f.ptx, f.edges) for f in forms
    ]  # tf32 comes in a register for an f32


def pack_forms() -> list[Form]:
    forms = []
    for t in ("u2", "s2", "u4", "s4", "u8", "s8", "u16", "s16"):
        n = int(t[1:])
        low, high = limits(t)
        edges = [
            low - 1,
            low,
            low + 1,
            high - 1,
            high,
            high + 1,
            0,
            1,
            -1,
            -(1 << 31),
            (1 << 31) - 1,
        ]
        edges = [e & 0xFFFFFFFF for e in edges]

        def reference(a: int, b: int, c: int = 0, n: int = n, ends: tuple = (low, high)) -> int:
            fields = [min(max(v, ends[0]), ends[1]) & ((1 << n) - 1) for v in (b, a)]
            return fields[0] | fields[1] << n | c << 2 * n

        three = n < 16
        name = f"cvt.pack.sat.{t}.s32{'.b32' * three}"
        sources = "s32 s32 b32" if three else "s32 s32"
        forms.append(Form(name, "b32", sources, reference, edges={0: edges, 1: edges[::-1]}))
    return forms


FORMS = [
    *rounding_forms(),
    *same_forms(),
    *integer_forms(),
    *wide_register_forms(),
    *pair_forms(),
    *reordered_forms(),
    *tf32_forms(),
    *pack_forms(),
]
SUITE = Suite("convert_narrow_ops", FORMS)
