"""f32 and f64 arithmetic (PTX ISA 9.7.3): bit-exact if correctly rounded, else within bounds.

Correctly rounded: add, sub, mul, fma, mad, and div, rcp, sqrt with a rounding mode, against exact
integer arithmetic. The .approx family, against the error bounds that the ISA documents:

    div.approx, div.full  2 ulp; div.approx gives 0 (NaN for an infinite dividend) where
                          2**126 < |b| < 2**128                                       (9.7.3.8)
    rcp.approx            1 ulp                                                       (9.7.3.13)
    rcp.approx.ftz.f64    the upper 32 bits of 1 / (upper 32 bits of a), lower ones 0; taken here
                          as 1 unit of the last of the upper bits                     (9.7.3.14)
    sqrt.approx           relative 2**-23                                             (9.7.3.15)
    rsqrt.approx          relative 2**-22.9; f64: no bound is given, 2 ulp used here  (9.7.3.16)
    rsqrt.approx.ftz.f64  as rcp.approx.ftz.f64                                       (9.7.3.17)
    sin, cos              absolute 2**-20.5 in [-2 pi, 2 pi], 2**-14.7 in [-100 pi, 100 pi], no
                          bound outside                                       (9.7.3.18, 9.7.3.19)
    lg2                   absolute 2**-22 in (0.5, 2), relative 2**-22 outside        (9.7.3.20)
    ex2                   2 ulp                                                       (9.7.3.21)
    tanh                  relative 2**-11; subnormal numbers pass through             (9.7.3.22)

Relative bounds hold for normal results; a subnormal one may be off by one more unit in its last
place. NaN payloads are ignored: single-precision instructions return an unspecified one (9.7.3).
"""

# ruff: noqa: E731 (references are short enough for a lambda)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

from simulator.conformance import exact
from simulator.conformance.exact import F32, F64, NAN, Format, OneOf
from simulator.conformance.micro import Form, Suite, Within

FORMATS = {"f32": F32, "f64": F64}
MODES = ("rn", "rz", "rm", "rp")
PI = math.pi


def f32(value: float) -> int:
    """The bits of the nearest f32."""
    return F32.round(Fraction(value), "rn")


# ---- Correctly rounded -----------------------------------------------------------------------


def correctly_rounded(t: str, operation: Callable, mode: str, ftz: bool, sat: bool) -> Callable:
    """The reference for an operation of exact.py."""
    f = FORMATS[t]

    def reference(*operands: int) -> object:
        if ftz:
            result = exact.flushing(f, operation, *operands, mode=mode)
        else:
            result = operation(f, *operands, mode)
        return exact.saturated(f, result) if sat else result

    return reference


def rounded_forms() -> list[Form]:
    forms = []
    table = [
        ("add", exact.add, 2, ("", *MODES), True),
        ("sub", exact.sub, 2, ("", *MODES), True),
        ("mul", exact.mul, 2, ("", *MODES), True),
        ("fma", exact.fma, 3, MODES, True),
        ("mad", exact.fma, 3, MODES, True),
        ("div", exact.div, 2, MODES, False),
        ("rcp", exact.rcp, 1, MODES, False),
        ("sqrt", exact.sqrt, 1, MODES, False),
    ]
    for op, operation, count, modes, saturates in table:
        for t, mode in itertools.product(FORMATS, modes):
            variants = itertools.product((False, True), (False, True) if saturates else (False,))
            for ftz, sat in variants if t == "f32" else [(False, False)]:
                name = ".".join(filter(None, (op, mode, "ftz" * ftz, "sat" * sat, t)))
                reference = correctly_rounded(t, operation, mode or "rn", ftz, sat)
                forms.append(Form(name, t, " ".join([t] * count), reference))
    return forms


# ---- Signs, minimum and maximum, classes -------------------------------------------------------


def sign_forms() -> list[Form]:
    forms = []
    for t, f in FORMATS.items():
        forms += [
            Form(f"neg.{t}", t, t, lambda a, f=f: NAN if f.is_nan(a) else a ^ f.sign),
            Form(f"abs.{t}", t, t, lambda a, f=f: NAN if f.is_nan(a) else a & ~f.sign),
            Form(
                f"copysign.{t}", t, f"{t} {t}",
                lambda a, b, f=f: (a & f.sign) | (b & ~f.sign),
            ),
        ]  # fmt: skip
    forms += [
        Form("neg.ftz.f32", "f32", "f32", lambda a: nan_or(F32.flushed(a) ^ F32.sign)),
        Form("abs.ftz.f32", "f32", "f32", lambda a: nan_or(F32.flushed(a) & ~F32.sign)),
    ]
    return forms


def nan_or(bits: int) -> object:
    return NAN if F32.is_nan(bits) else bits


def extremum(f: Format, pick: Callable, ftz: bool, nan: bool, xorsign: bool) -> Callable:
    """The reference for min or max (9.7.3.11, 9.7.3.12); .NaN gives the canonical NaN."""
    canonical = f.sign - 1

    def reference(a: int, b: int) -> int:
        if ftz:
            a, b = f.flushed(a), f.flushed(b)
        sign = (a ^ b) & f.sign
        if nan and (f.is_nan(a) or f.is_nan(b)):
            return canonical
        if xorsign:
            a, b = a & ~f.sign, b & ~f.sign
        result = pick(f, a, b)
        return result | sign if xorsign and result is not NAN else result

    return reference


def extremum_forms() -> list[Form]:
    forms = []
    for op, pick in (("min", exact.smaller), ("max", exact.larger)):
        for flags in itertools.product((False, True), repeat=3):
            words = ("ftz", "NaN", "xorsign.abs")
            modifiers = [word for word, on in zip(words, flags, strict=True) if on]
            name = ".".join([op, *modifiers, "f32"])
            forms.append(Form(name, "f32", "f32 f32", extremum(F32, pick, *flags)))
        plain = extremum(F64, pick, False, False, False)
        forms.append(Form(f"{op}.f64", "f64", "f64 f64", plain))
    return forms


def class_forms() -> list[Form]:
    """Test with testp; zero counts as normal (9.7.3.1)."""
    classes: dict[str, Callable[[Format, int], bool]] = {
        "finite": lambda f, a: not f.is_nan(a) and not f.is_infinite(a),
        "infinite": lambda f, a: f.is_infinite(a),
        "number": lambda f, a: not f.is_nan(a),
        "notanumber": lambda f, a: f.is_nan(a),
        "normal": lambda f, a: (
            not (f.is_nan(a) or f.is_infinite(a) or f.is_subnormal(a)) or f.is_zero(a)
        ),
        "subnormal": lambda f, a: f.is_subnormal(a),
    }
    return [
        Form(f"testp.{name}.{t}", "pred", t, lambda a, f=f, test=test: int(test(f, a)))
        for name, test in classes.items()
        for t, f in FORMATS.items()
    ]


# ---- Approximations ----------------------------------------------------------------------------


def near(f: Format, bits: object, ulps: int) -> object:
    """Any number within `ulps` of a correctly rounded result."""
    if not isinstance(bits, int):
        return bits
    if f.is_infinite(bits) or f.is_zero(bits):
        inner = bits if f.is_zero(bits) else bits - ulps
        neighbours = range(inner, inner + ulps + 1)
        return OneOf(tuple(neighbours))
    steps = range(-ulps, ulps + 1)
    return OneOf(tuple(bits + s for s in steps if 0 <= (bits & ~f.sign) + s <= f.infinity))


def relative(value: float, bound: float, ftz: bool) -> object:
    """Within a relative error of a positive or negative f32; one more unit if that is subnormal."""
    smallest = 2.0**-126
    room = abs(value) * bound + (2.0**-149 if abs(value) < 2 * smallest else 0)
    if ftz and abs(value) - room < smallest:
        low, high = (0.0, max(smallest, abs(value) + room))
        return Within(low, high) if value > 0 else Within(-high, -low)
    return Within(value - room, value + room)


def special(
    function: Callable[[float], object], table: dict[float, object], ftz: bool
) -> Callable[[int], object]:
    """A reference from a table of special operands and a function for the others.

    table: results for -inf, -0, +0, +inf and "-normal" (every other negative number).
    """
    flush = F32.flushed if ftz else lambda bits: bits

    def reference(a: int) -> object:
        a = flush(a)
        if F32.is_nan(a):
            return NAN
        if a in table:
            return table[a]
        if a & F32.sign and "-normal" in table:
            return table["-normal"]
        return function(F32.float(a))

    return reference


NEG_INF, NEG_ZERO, ZERO, INF = F32.infinity | F32.sign, F32.sign, 0, F32.infinity
ROOT_TABLE = {NEG_INF: NAN, NEG_ZERO: NEG_ZERO, ZERO: ZERO, INF: INF, "-normal": NAN}
RSQRT_TABLE = {NEG_INF: NAN, NEG_ZERO: NEG_INF, ZERO: INF, INF: ZERO, "-normal": NAN}
SIN_TABLE = {NEG_INF: NAN, NEG_ZERO: NEG_ZERO, ZERO: ZERO, INF: NAN}
COS_TABLE = {NEG_INF: NAN, NEG_ZERO: F32.one, ZERO: F32.one, INF: NAN}
LG2_TABLE = {NEG_INF: NAN, NEG_ZERO: NEG_INF, ZERO: NEG_INF, INF: INF, "-normal": NAN}
EX2_TABLE = {NEG_INF: ZERO, NEG_ZERO: F32.one, ZERO: F32.one, INF: INF}
TANH_TABLE = {NEG_INF: F32.one | F32.sign, NEG_ZERO: NEG_ZERO, ZERO: ZERO, INF: F32.one}


def trigonometric(function: Callable[[float], float]) -> Callable[[float], Within]:
    def reference(x: float) -> Within:
        bound = 2**-20.5 if abs(x) <= 2 * PI else 2**-14.7 if abs(x) <= 100 * PI else 2.0
        return Within(function(x) - bound, function(x) + bound)

    return reference


def logarithm(x: float) -> Within:
    value = math.log2(x)
    bound = 2.0**-22 * (1 if 0.5 < x < 2 else abs(value))
    return Within(value - bound, value + bound)


def exponential(ftz: bool) -> Callable[[float], object]:
    def reference(x: float) -> object:
        result = F32.round(Fraction(2.0 ** min(max(x, -200.0), 200.0)), "rn")
        choices = near(F32, result, 2).choices
        if ftz:
            choices = tuple(F32.flushed(c) for c in choices)
        return OneOf(choices)

    return reference


def hyperbolic(x: float) -> object:
    return relative(math.tanh(x), 2.0**-11, False) if abs(x) >= 2.0**-126 else f32(x)


ANGLES = [f32(PI * k / 4) ^ s for k in (1, 2, 3, 4, 6, 8, 25, 200, 400) for s in (0, F32.sign)]
POWERS = [f32(x) for x in (
    0.5, -0.5, 1.5, 126, 127, 127.99999, 128, 129, -125, -126, -126.5, -127, -148.5, -149, -149.5,
    -150, -150.5, -151, -1000, 1000, 1e-3, -1e-3, 23.25, 1e-10, -1e-10,
)]  # fmt: skip
LOGARITHMS = [f32(x) for x in (0.5, 0.50000006, 0.99999994, 1, 1.0000001, 2, 4, 1e-30, 1e30)]
BASIC = [ZERO, NEG_ZERO, INF, NEG_INF, F32.infinity | 1, 1, F32.sign | 1, F32.smallest_normal - 1]
BASIC += [F32.smallest_normal, F32.largest, F32.largest | F32.sign, F32.one, F32.one | F32.sign]


def approximate_forms() -> list[Form]:
    forms = []
    for ftz in (False, True):
        m = "approx.ftz.f32" if ftz else "approx.f32"
        root = lambda x, ftz=ftz: relative(math.sqrt(x), 2.0**-23, ftz)
        inverse = lambda x, ftz=ftz: relative(1 / math.sqrt(x), 2**-22.9, ftz)
        table = [
            ("sqrt", root, ROOT_TABLE, []),
            ("rsqrt", inverse, RSQRT_TABLE, []),
            ("sin", trigonometric(math.sin), SIN_TABLE, ANGLES),
            ("cos", trigonometric(math.cos), COS_TABLE, ANGLES),
            ("lg2", logarithm, LG2_TABLE, LOGARITHMS),
            ("ex2", exponential(ftz), EX2_TABLE, POWERS),
        ]
        for op, function, special_values, edges in table:
            reference = special(function, special_values, ftz)
            options = {"edges": {0: BASIC + edges}} if edges else {}
            forms.append(Form(f"{op}.{m}", "f32", "f32", reference, **options))
        ulps = correctly_rounded("f32", exact.rcp, "rn", ftz, False)
        one_ulp = lambda a, f=ulps, ftz=ftz: flushed_or_near(f(a), 1, ftz)
        forms.append(Form(f"rcp.{m}", "f32", "f32", one_ulp))
        for kind in ("approx", "full"):
            name = f"div.{kind}.ftz.f32" if ftz else f"div.{kind}.f32"
            forms.append(Form(name, "f32", "f32 f32", quotient(kind, ftz)))
    reference = special(hyperbolic, TANH_TABLE, False)
    forms.append(Form("tanh.approx.f32", "f32", "f32", reference))
    return forms


def flushed_or_near(result: object, ulps: int, ftz: bool) -> object:
    """Near a correctly rounded result; under .ftz subnormal neighbours become zeros."""
    if isinstance(result, OneOf):
        return OneOf(tuple(near(F32, r, ulps) for r in result.choices))
    allowed = near(F32, result, ulps)
    if ftz and isinstance(allowed, OneOf):
        return OneOf(tuple(F32.flushed(c) for c in allowed.choices))
    return allowed


ANYTHING = OneOf((NAN, Within(-math.inf, math.inf)))


def quotient(kind: str, ftz: bool) -> Callable[[int, int], object]:
    """The reference for div.approx and div.full."""
    divide = correctly_rounded("f32", exact.div, "rn", ftz, False)
    large = f32(2.0**126)

    def reference(a: int, b: int) -> object:
        magnitude = b & ~F32.sign
        if kind == "approx" and large < magnitude < F32.infinity and not F32.is_nan(a):
            return NAN if F32.is_infinite(a) else (a ^ b) & F32.sign
        if kind == "approx" and F32.is_subnormal(b) and not ftz:
            return ANYTHING  # there is no bound for it
        return flushed_or_near(divide(a, b), 2, ftz)

    return reference


def upper_word(operation: Callable[[Format, int, str], object]) -> Callable[[int], object]:
    """The reference for the .approx.ftz.f64 forms, which only use and return the upper 32 bits."""
    low = (1 << 32) - 1

    def reference(a: int) -> object:
        a = F64.flushed(a & ~low)
        if F64.is_nan(a):
            return 0x7FFFFFFF00000000
        result = operation(F64, a, "rz")
        if result is NAN or F64.is_infinite(result) or F64.is_zero(result):
            return result
        cut = result & ~low
        choices = [cut + s for s in (-low - 1, 0, low + 1)]
        return OneOf(tuple(F64.flushed(c) for c in choices))

    return reference


def reciprocal_root(f: Format, a: int, mode: str) -> object:
    """1 / sqrt(a), with a few more bits than the format has."""
    if f.is_nan(a) or (a & f.sign and not f.is_zero(a)):
        return NAN
    if f.is_infinite(a) or f.is_zero(a):
        return 0 if f.is_infinite(a) else f.infinity | (a & f.sign)
    x, p = f.parts(a)
    x, p = x << p % 2, p - p % 2
    digits = 3 * f.precision
    root = math.isqrt((1 << 2 * digits) // x)
    return f.round(Fraction(root) * Fraction(2) ** (-p // 2 - digits), mode)


def double_forms() -> list[Form]:
    return [
        Form("rcp.approx.ftz.f64", "f64", "f64", upper_word(exact.rcp)),
        Form("rsqrt.approx.ftz.f64", "f64", "f64", upper_word(reciprocal_root)),
        Form(
            "rsqrt.approx.f64", "f64", "f64",
            lambda a: near(F64, reciprocal_root(F64, a, "rn"), 2),
        ),
    ]  # fmt: skip


def immediate_forms() -> list[Form]:
    """Constants instead of registers, in each of PTX's notations."""
    third = F64.round(Fraction(1, 3), "rn")
    half = f32(0.5)
    return [
        Form(
            f"{op}.{t} {text}", t, t, lambda a, f=f, g=g, b=b: g(f, a, b, "rn"),
            f"{op}.{t} %0, %1, {text}",
        )
        for op, t, f, g, text, b in (
            ("add", "f32", F32, exact.add, "0f3F000000", half),
            ("mul", "f32", F32, exact.mul, "0.5", half),
            ("sub", "f32", F32, exact.sub, "-0.5", half | F32.sign),
            ("mul.rn", "f64", F64, exact.mul, "0d3FD5555555555555", third),
            ("add", "f64", F64, exact.add, "-2.5", F64.round(Fraction(-5, 2), "rn")),
        )
    ]  # fmt: skip


FORMS = [
    *rounded_forms(),
    *sign_forms(),
    *extremum_forms(),
    *class_forms(),
    *approximate_forms(),
    *double_forms(),
    *immediate_forms(),
]
SUITE = Suite("float_ops", FORMS)
