"""f16, bf16 and pairs of them (PTX ISA 9.7.4, 9.7.7): bit-exact, except for approximations.

add, sub, mul and fma round once, to nearest, against exact integer arithmetic. A NaN from
arithmetic is the canonical one, 0x7fff. Subnormal numbers are kept unless .ftz is given, which only
f16 has. Errors that the ISA allows:

    ex2.approx.f16        relative 2**-9.9, subnormal results included      (9.7.4.10)
    ex2.approx.ftz.bf16   relative 2**-7
    tanh.approx.f16       absolute 2**-10.987                               (9.7.4.9)
    tanh.approx.bf16      relative 2**-8

The result of .relu for -0 is unspecified; both zeros are accepted.
"""

# ruff: noqa: E731 (references are short enough for a lambda)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

from simulator.conformance import exact
from simulator.conformance.exact import BF16, F16, F32, NAN, Format, OneOf
from simulator.conformance.micro import Form, Pair, Suite, Within, together

FORMATS = {"f16": F16, "bf16": BF16}
QUIET = 0x7FFF


def both(reference: Callable[..., object]) -> Callable[..., Pair]:
    """The reference for a packed form: the scalar one on the low and the high halves."""

    def pair(*operands: int) -> Pair:
        halves = [[o >> shift & 0xFFFF for o in operands] for shift in (0, 16)]
        return Pair(*(reference(*h) for h in halves))

    return pair


def scalar_and_packed(name: str, t: str, count: int, reference: Callable, **options) -> list[Form]:
    """A form with `count` operands for t, and for pairs of t. name: the opcode and modifiers."""
    return [
        Form(f"{name}.{t}", t, " ".join([t] * count), reference, **options),
        Form(f"{name}.{t}x2", f"{t}x2", " ".join([f"{t}x2"] * count), both(reference), **options),
    ]


# ---- Arithmetic ------------------------------------------------------------------------------


def finished(f: Format, result: object, sat: bool, relu: bool) -> object:
    """A result after .sat or .relu, with the canonical NaN."""
    if isinstance(result, OneOf):
        return OneOf(tuple(finished(f, choice, sat, relu) for choice in result.choices))
    if sat:
        return exact.saturated(f, result)
    if result is NAN:
        return QUIET
    if relu and result & f.sign:
        return OneOf((0, f.sign)) if f.is_zero(result) else 0
    return result


def arithmetic(f: Format, operation: Callable, ftz: bool, sat: bool, relu: bool) -> Callable:
    def reference(*operands: int) -> object:
        if ftz:
            result = exact.flushing(f, operation, *operands, mode="rn")
        else:
            result = operation(f, *operands, "rn")
        return finished(f, result, sat, relu)

    return reference


def arithmetic_forms() -> list[Form]:
    forms = []
    table = [
        ("add", exact.add, 2, ("", "rn")),
        ("sub", exact.sub, 2, ("", "rn")),
        ("mul", exact.mul, 2, ("", "rn")),
        ("fma", exact.fma, 3, ("rn",)),
    ]
    for (op, operation, count, modes), (t, f) in itertools.product(table, FORMATS.items()):
        for mode, ftz in itertools.product(modes, (False, True) if t == "f16" else (False,)):
            ends = ["", "sat"] if t == "f16" else [""]
            ends += ["relu"] if op == "fma" else []
            for end in ends:
                name = ".".join(filter(None, (op, mode, "ftz" * ftz, end)))
                reference = arithmetic(f, operation, ftz, end == "sat", end == "relu")
                forms += scalar_and_packed(name, t, count, reference)
    return forms


def tie_forms() -> list[Form]:
    """Products halfway between two numbers, and values of c that tip them either way."""
    forms = []
    for t, f in FORMATS.items():
        step = f.smallest_normal
        powers = [1, 2, *range(step, f.infinity, 2 * step)]
        factors = [f.one + k * step + last for k in (0, 6) for last in (1, 3)]
        edges = {
            0: factors,
            1: [f.one + step // 2],
            2: [p | s for p in powers for s in (0, f.sign)],
        }
        reference = arithmetic(f, exact.fma, False, False, False)
        forms.append(
            Form(
                f"fma.rn.{t} ties", t, f"{t} {t} {t}", reference,
                f"fma.rn.{t} %0, %1, %2, %3", edges,
            )
        )  # fmt: skip
    return forms


def sign_forms() -> list[Form]:
    """Neg and abs: the payload and sign of a NaN are undefined."""
    forms = []
    for t, f in FORMATS.items():
        for ftz in (False, True) if t == "f16" else (False,):
            flush = f.flushed if ftz else lambda bits: bits
            negated = lambda a, f=f, flush=flush: NAN if f.is_nan(a) else flush(a) ^ f.sign
            absolute = lambda a, f=f, flush=flush: NAN if f.is_nan(a) else flush(a) & ~f.sign
            ending = ".ftz" * ftz
            forms += scalar_and_packed(f"neg{ending}", t, 1, negated)
            forms += scalar_and_packed(f"abs{ending}", t, 1, absolute)
    return forms


def extremum(f: Format, pick: Callable, ftz: bool, nan: bool, xorsign: bool) -> Callable:
    def reference(a: int, b: int) -> int:
        if ftz:
            a, b = f.flushed(a), f.flushed(b)
        sign = (a ^ b) & f.sign
        if nan and (f.is_nan(a) or f.is_nan(b)):
            return QUIET
        if xorsign:
            a, b = a & ~f.sign, b & ~f.sign
        result = pick(f, a, b)
        if result is NAN:
            return QUIET
        return result | sign if xorsign else result

    return reference


def extremum_forms() -> list[Form]:
    forms = []
    for op, pick in (("min", exact.smaller), ("max", exact.larger)):
        for t, flags in itertools.product(FORMATS, itertools.product((False, True), repeat=3)):
            if t == "f16" or not flags[0]:
                words = ("ftz", "NaN", "xorsign.abs")
                modifiers = [word for word, on in zip(words, flags, strict=True) if on]
                reference = extremum(FORMATS[t], pick, *flags)
                forms += scalar_and_packed(".".join([op, *modifiers]), t, 2, reference)
    return forms


# ---- Approximations --------------------------------------------------------------------------


def within(f: Format, low: float, high: float) -> object:
    """The numbers of an interval, and the nearest ones to its ends."""
    largest = f.float(f.largest)
    if low > largest:
        return f.infinity
    if high > largest:
        return OneOf((Within(low, high), f.infinity))
    return Within(low, high)


def exponential(f: Format, ftz: bool) -> Callable[[int], object]:
    error = 2**-9.9 if f is F16 else 2.0**-7
    last = f.float(1) / 2

    def reference(a: int) -> object:
        if f.is_nan(a):
            return QUIET
        if f.is_infinite(a):
            return 0 if a & f.sign else a
        value = 2.0 ** max(min(f.float(f.flushed(a) if ftz else a), 300.0), -300.0)
        if ftz and value * (1 - error) < f.float(f.smallest_normal):
            flushed = value * (1 + error) < f.float(f.smallest_normal)
            return 0 if flushed else OneOf((0, within(f, value * (1 - error), value * (1 + error))))
        room = max(value * error, last)
        return within(f, value - room, value + room)

    return reference


def hyperbolic(f: Format) -> Callable[[int], object]:
    def reference(a: int) -> object:
        if f.is_nan(a):
            return QUIET
        if f.is_zero(a):
            return a
        if f.is_infinite(a):
            return f.one | (a & f.sign)
        value = math.tanh(f.float(a))
        room = 2**-10.987 if f is F16 else max(abs(value) * 2**-8, f.float(1))
        return within(f, value - room, value + room)

    return reference


def approximate_forms() -> list[Form]:
    numbers = [0.5, 1.5, 10, 14.99, 15.99, 16, 24, 24.9, 25, 126, 127.5, 0.01, 3, 0.1, 4.5, 100]
    forms = []
    for t, f in FORMATS.items():
        edges = [f.round(Fraction(s * x), "rn") for x in numbers for s in (1, -1)]
        edges += [1, f.sign | 1, 0, f.sign, f.infinity, f.infinity | f.sign, f.infinity | 1, f.one]
        pairs = [a | b << 16 for a, b in zip(edges, edges[5:] + edges[:5], strict=True)]
        name = "ex2.approx" if t == "f16" else "ex2.approx.ftz"
        for op, reference in ((name, exponential(f, t == "bf16")), ("tanh.approx", hyperbolic(f))):
            one, two = scalar_and_packed(op, t, 1, reference)
            forms.append(Form(one.name, t, t, reference, edges={0: edges}))
            forms.append(Form(two.name, f"{t}x2", f"{t}x2", two.reference, edges={0: pairs}))
    return forms


# ---- Comparisons -----------------------------------------------------------------------------

ORDERED: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "num": lambda a, b: True,
    "nan": lambda a, b: False,
}
COMPARISONS = [*ORDERED, "equ", "neu", "ltu", "leu", "gtu", "geu"]
COMBINE = {"and": lambda t, c: t & c, "or": lambda t, c: t | c, "xor": lambda t, c: t ^ c}


def holds(f: Format, op: str, ftz: bool) -> Callable[[int, int], int]:
    def reference(a: int, b: int) -> int:
        if f.is_nan(a) or f.is_nan(b):
            return int(op not in ORDERED or op == "nan")
        if ftz:
            a, b = f.flushed(a), f.flushed(b)
        x, y = (Fraction(0) if f.is_zero(v) else Fraction(f.ordered(v)) for v in (a, b))
        return int(ORDERED[op if op in ORDERED else op[:-1]](x, y))

    return reference


def compare_forms() -> list[Form]:
    forms = []
    for (t, f), op in itertools.product(FORMATS.items(), COMPARISONS):
        for ftz in (False, True) if t == "f16" and op in ("eq", "ltu", "geu") else (False,):
            test = holds(f, op, ftz)
            value = lambda a, b, f=f, g=test: f.one * g(a, b)
            name = f"{op}{'.ftz' * ftz}"
            halves = lambda a, b, test=test: (test(a & 0xFFFF, b & 0xFFFF), test(a >> 16, b >> 16))
            packed = f"{t}x2 {t}x2"
            forms += [
                Form(f"setp.{name}.{t}", "pred", f"{t} {t}", test),
                Form(
                    f"setp.{name}.{t}x2", "pred pred", packed, halves,
                    f"setp.{name}.{t}x2 %0|%1, %2, %3",
                ),
                Form(f"set.{name}.{t}.{t}", t, f"{t} {t}", value),
                Form(f"set.{name}.{t}x2.{t}x2", f"{t}x2", packed, both(value)),
            ]  # fmt: skip
    return forms


def combined_forms() -> list[Form]:
    """A comparison and a predicate operand, plain and negated; every result type of set."""
    forms = []
    for (t, f), (word, combine) in itertools.product(FORMATS.items(), COMBINE.items()):
        test = holds(f, "lt", False)
        for negated in (False, True):
            end, name = ("!" * negated), "not " * negated
            value = lambda a, b, c, g=test, h=combine, n=negated: h(g(a, b), c ^ n)
            halves = lambda a, b, c, v=value: (v(a & 0xFFFF, b & 0xFFFF, c), v(a >> 16, b >> 16, c))
            one = f.one
            forms += [
                Form(
                    f"setp.lt.{word}.{t} {name}", "pred", f"{t} {t} pred", value,
                    f"setp.lt.{word}.{t} %0, %1, %2, {end}%3",
                ),
                Form(
                    f"setp.lt.{word}.{t}x2 {name}", "pred pred", f"{t}x2 {t}x2 pred", halves,
                    f"setp.lt.{word}.{t}x2 %0|%1, %2, %3, {end}%4",
                ),
                Form(
                    f"set.lt.{word}.{t}.{t} {name}", t, f"{t} {t} pred",
                    lambda a, b, c, v=value, one=one: one * v(a, b, c),
                    f"set.lt.{word}.{t}.{t} %0, %1, %2, {end}%3",
                ),
                Form(
                    f"set.lt.{word}.{t}x2.{t}x2 {name}", f"{t}x2", f"{t}x2 {t}x2 pred",
                    lambda a, b, c, h=halves, one=one: Pair(*(one * v for v in h(a, b, c))),
                    f"set.lt.{word}.{t}x2.{t}x2 %0, %1, %2, {end}%3",
                ),
            ]  # fmt: skip
    return forms


INTEGERS = ("u16", "s16", "u32", "s32")
TRUE = {"f16": 0x3C00, "bf16": 0x3F80, "u16": 0xFFFF, "s16": -1, "u32": 0xFFFFFFFF, "s32": -1}


def set_forms() -> list[Form]:
    """Every result type of set, with every comparison; also of integers and f32."""
    forms = []
    for (t, f), op in itertools.product(FORMATS.items(), COMPARISONS):
        for ftz in (False, True) if t == "f16" else (False,):
            test, name = holds(f, op, ftz), f"set.{op}{'.ftz' * ftz}"
            low_high = lambda a, b, g=test: (g(a & 0xFFFF, b & 0xFFFF), g(a >> 16, b >> 16))
            masks = lambda a, b, g=low_high: g(a, b)[0] * 0xFFFF | g(a, b)[1] * 0xFFFF0000
            numbers = lambda a, b, g=low_high, one=f.one: Pair(*(one * v for v in g(a, b)))
            scalar = {to: lambda a, b, g=test, v=TRUE[to]: v * g(a, b) for to in (t, *INTEGERS)}
            packed = {f"{t}x2": numbers, "u32": masks, "s32": masks}
            for of, results in ((t, scalar), (f"{t}x2", packed)):
                some = [Form(f"{name}.{to}.{of}", to, f"{of} {of}", r) for to, r in results.items()]
                forms.append(together(f"{name}.{of} to every type", some))
    for to, of in itertools.product(("f16", "bf16"), ("b16", "u16", "s32", "u64")):
        forms.append(
            Form(f"set.eq.{to}.{of}", to, f"{of} {of}", lambda a, b, to=to: TRUE[to] * (a == b))
        )
    for to in ("f16", "bf16"):
        less = lambda a, b, to=to: TRUE[to] * int(F32.float(a) < F32.float(b))
        forms.append(Form(f"set.lt.{to}.f32", to, "f32 f32", less))
    return forms


def flushing_setp_forms() -> list[Form]:
    """Setp with .ftz, every comparison at once."""
    scalar, packed = [], []
    for op in COMPARISONS:
        test, name = holds(F16, op, True), f"setp.{op}.ftz.f16"
        halves = lambda a, b, g=test: (g(a & 0xFFFF, b & 0xFFFF), g(a >> 16, b >> 16))
        scalar.append(Form(name, "pred", "f16 f16", test))
        packed.append(
            Form(f"{name}x2", "pred pred", "f16x2 f16x2", halves, f"{name}x2 %0|%1, %2, %3")
        )
    return [
        together("setp.ftz.f16 every comparison", scalar),
        together("setp.ftz.f16x2 every comparison", packed),
    ]


FORMS = [
    *arithmetic_forms(),
    *tie_forms(),
    *sign_forms(),
    *extremum_forms(),
    *approximate_forms(),
    *compare_forms(),
    *combined_forms(),
    *set_forms(),
    *flushing_setp_forms(),
]
SUITE = Suite("half_ops", FORMS)
