"""Floating-point arithmetic in exact integers: what a correctly rounded instruction must return.

Numbers are bit patterns of a Format, such as f32 or e4m3. Nothing here computes in floating point,
so all rounding modes are equally simple: an exact value, one rounding.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property


class Nan:
    """Any NaN. PTX leaves the payload of single-precision results unspecified (9.7.3)."""

    def __repr__(self) -> str:
        return "NaN"


NAN = Nan()


@dataclass(frozen=True)
class OneOf:
    """Any one of several results."""

    choices: tuple[object, ...]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format."""

    bits: int
    precision: int  # bits of the significand, including the leading one
    infinities: bool = True  # without infinities the largest pattern is the only NaN, as in e4m3

    @cached_property
    def sign(self) -> int:
        return 1 << (self.bits - 1)

    def distance(self, a: int, b: int) -> int:
        """The distance of two numbers in representable numbers; -0 and +0 are one."""
        x, y = (-(v & ~self.sign) if v & self.sign else v for v in (a, b))
        return abs(x - y)

    @cached_property
    def infinity(self) -> int:
        return self.sign - self.smallest_normal if self.infinities else self.sign

    @cached_property
    def largest(self) -> int:
        return self.infinity - 1 if self.infinities else self.sign - 2

    @cached_property
    def smallest_normal(self) -> int:
        return 1 << (self.precision - 1)

    @cached_property
    def lowest_exponent(self) -> int:
        """The exponent of the last bit of a subnormal number."""
        return 3 - self.precision - (1 << (self.bits - self.precision - 1))

    @cached_property
    def one(self) -> int:
        return ((1 << (self.bits - self.precision - 1)) - 1) << (self.precision - 1)

    def is_nan(self, bits: int) -> bool:
        return bits & ~self.sign > max(self.infinity & ~self.sign, self.largest)

    def is_infinite(self, bits: int) -> bool:
        return bits & ~self.sign == self.infinity

    def is_zero(self, bits: int) -> bool:
        return bits & ~self.sign == 0

    def is_subnormal(self, bits: int) -> bool:
        return 0 < bits & ~self.sign < self.smallest_normal

    def flushed(self, bits: int) -> int:
        """.ftz: a subnormal becomes the zero of its sign."""
        return bits & self.sign if self.is_subnormal(bits) else bits

    def parts(self, bits: int) -> tuple[int, int]:
        """A finite number as (significand, exponent): its value is significand * 2**exponent."""
        magnitude = bits & ~self.sign
        exponent = magnitude >> (self.precision - 1)
        significand = magnitude & (self.smallest_normal - 1)
        if exponent:
            significand |= self.smallest_normal
            exponent -= 1
        return (-significand if bits & self.sign else significand), exponent + self.lowest_exponent

    def value(self, bits: int) -> Fraction:
        """A finite number, exactly."""
        significand, exponent = self.parts(bits)
        return Fraction(significand) * Fraction(2) ** exponent

    def float(self, bits: int) -> float:
        """Any number as a Python float, which can represent all numbers of these formats."""
        if self.bits < 32:
            if self.is_nan(bits):
                return math.nan
            sign = -1.0 if bits & self.sign else 1.0
            return sign * (math.inf if self.is_infinite(bits) else abs(float(self.value(bits))))
        kind, integer = (("<f", "<I"), ("<d", "<Q"))[self.bits == 64]
        return struct.unpack(kind, struct.pack(integer, bits))[0]

    def ordered(self, bits: int) -> int:
        """An integer index of representable numbers: neighbours differ by one."""
        return -(bits & ~self.sign) if bits & self.sign else bits

    def encode(
        self, negative: bool, significand: int, exponent: int, mode: str, sticky: bool = False
    ) -> int:
        """The number nearest to significand * 2**exponent in the direction of `mode`.

        significand is not negative. sticky: the true value is larger by less than one unit of the
        significand, which then has spare bits below the result's last.
        """
        last = max(significand.bit_length() + exponent - self.precision, self.lowest_exponent)
        shift = last - exponent
        if shift > 0:
            kept, rest, half = significand >> shift, significand % (1 << shift), 1 << (shift - 1)
        else:
            kept, rest, half = significand << -shift, 0, 1
            assert not sticky
        if mode == "rna":  # ties away from zero
            up = rest >= half
        elif mode == "rn":
            up = rest > half or (rest == half and (sticky or kept & 1))
        else:
            away = {"rz": False, "rm": negative, "rp": not negative}[mode]
            up = away and (rest > 0 or sticky)
        bits = ((last - self.lowest_exponent) << (self.precision - 1)) + kept + up
        if bits > self.largest:
            bounded = not self.infinities or mode in ("rz", "rp" if negative else "rm")
            bits = self.largest if bounded else self.infinity
        return bits | (self.sign if negative else 0)

    def round(self, value: Fraction, mode: str, zero_sign: int = 0) -> int:
        """A rational number, rounded; zero_sign gives the sign bit of an exact zero."""
        if value == 0:
            return self.sign if zero_sign else 0
        numerator, denominator = abs(value.numerator), value.denominator
        shift = max(0, self.precision + 3 + denominator.bit_length() - numerator.bit_length())
        quotient, rest = divmod(numerator << shift, denominator)
        return self.encode(value < 0, quotient, -shift, mode, rest != 0)


F32 = Format(32, 24)
F64 = Format(64, 53)
F16 = Format(16, 11)
BF16 = Format(16, 8)
TF32 = Format(19, 11)
E5M2 = Format(8, 3)
E4M3 = Format(8, 4, infinities=False)


def add(f: Format, a: int, b: int, mode: str) -> int | Nan:
    """The sum of a and b."""
    if f.is_nan(a) or f.is_nan(b):
        return NAN
    if f.is_infinite(a) or f.is_infinite(b):
        if f.is_infinite(a) and f.is_infinite(b) and a != b:
            return NAN
        return a if f.is_infinite(a) else b
    if f.is_zero(a) and f.is_zero(b) and a == b:
        return a
    (x, p), (y, q) = f.parts(a), f.parts(b)
    low = min(p, q)
    return _rounded(f, (x << (p - low)) + (y << (q - low)), low, mode)


def sub(f: Format, a: int, b: int, mode: str) -> int | Nan:
    """The difference a - b."""
    return add(f, a, b if f.is_nan(b) else b ^ f.sign, mode)


def mul(f: Format, a: int, b: int, mode: str) -> int | Nan:
    """The product of a and b."""
    sign = (a ^ b) & f.sign
    if f.is_nan(a) or f.is_nan(b):
        return NAN
    if f.is_infinite(a) or f.is_infinite(b):
        return NAN if f.is_zero(a) or f.is_zero(b) else f.infinity | sign
    if f.is_zero(a) or f.is_zero(b):
        return sign
    (x, p), (y, q) = f.parts(a), f.parts(b)
    return _rounded(f, x * y, p + q, mode)


def fma(f: Format, a: int, b: int, c: int, mode: str) -> int | Nan:
    """The sum of a * b and c, rounded once."""
    product = mul(f, a, b, "rn")
    if product is NAN or f.is_nan(c):
        return NAN
    if f.is_infinite(a) or f.is_infinite(b) or f.is_infinite(c):
        if f.is_infinite(a) or f.is_infinite(b):
            return NAN if f.is_infinite(c) and c != product else product
        return c
    if f.is_zero(a) or f.is_zero(b):
        return add(f, product, c, mode)
    (x, p), (y, q), (z, r) = f.parts(a), f.parts(b), f.parts(c)
    low = min(p + q, r)
    return _rounded(f, (x * y << (p + q - low)) + (z << (r - low)), low, mode)


def div(f: Format, a: int, b: int, mode: str) -> int | Nan:
    """The quotient a / b."""
    sign = (a ^ b) & f.sign
    if f.is_nan(a) or f.is_nan(b) or (f.is_infinite(a) and f.is_infinite(b)):
        return NAN
    if f.is_zero(a) and f.is_zero(b):
        return NAN
    if f.is_infinite(a) or f.is_zero(b):
        return f.infinity | sign
    if f.is_infinite(b) or f.is_zero(a):
        return sign
    (x, p), (y, q) = f.parts(a), f.parts(b)
    shift = f.precision + 3 + abs(y).bit_length()
    quotient, rest = divmod(abs(x) << shift, abs(y))
    return f.encode(sign != 0, quotient, p - q - shift, mode, rest != 0)


def rcp(f: Format, a: int, mode: str) -> int | Nan:
    """The quotient 1 / a."""
    return div(f, f.one, a, mode)


def sqrt(f: Format, a: int, mode: str) -> int | Nan:
    """The square root of a."""
    if f.is_nan(a) or (a & f.sign and not f.is_zero(a)):
        return NAN
    if f.is_infinite(a) or f.is_zero(a):
        return a
    x, p = f.parts(a)
    shift = 2 * f.precision + 4 + p % 2
    root = math.isqrt(x << shift)
    return f.encode(False, root, (p - shift) // 2, mode, root * root != x << shift)


def _rounded(f: Format, x: int, exponent: int, mode: str) -> int:
    """Round x * 2**exponent; an exact zero is positive unless rounding goes down."""
    if x == 0:
        return f.sign if mode == "rm" else 0
    return f.encode(x < 0, abs(x), exponent, mode)


def flushing(f: Format, operation, *operands: int, mode: str) -> object:
    """An operation under .ftz: subnormal operands and results become zeros of their sign.

    A value that rounds up to the smallest normal number may also count as subnormal: PTX does not
    say whether tininess is detected before or after rounding.
    """
    result = operation(f, *map(f.flushed, operands), mode)
    if result is NAN:
        return NAN
    if result & ~f.sign == f.smallest_normal:
        inner = operation(f, *map(f.flushed, operands), "rz")
        if f.is_subnormal(inner):
            return OneOf((result, result & f.sign))
    return f.flushed(result)


def saturated(f: Format, result: object) -> object:
    """.sat: clamped to [+0, 1]; NaN becomes +0."""
    if isinstance(result, OneOf):
        return OneOf(tuple(saturated(f, choice) for choice in result.choices))
    if result is NAN or result & f.sign:
        return 0
    return min(result, f.one)


def smaller(f: Format, a: int, b: int) -> int | Nan:
    """The minimum, as min.f32 defines it: -0 is below +0, a NaN loses against a number."""
    if f.is_nan(a) or f.is_nan(b):
        return (NAN if f.is_nan(b) else b) if f.is_nan(a) else a
    if f.is_zero(a) and f.is_zero(b):
        return a | b
    return a if f.ordered(a) < f.ordered(b) else b


def larger(f: Format, a: int, b: int) -> int | Nan:
    """The maximum, as max.f32 defines it."""
    if f.is_nan(a) or f.is_nan(b):
        return (NAN if f.is_nan(b) else b) if f.is_nan(a) else a
    if f.is_zero(a) and f.is_zero(b):
        return a & b
    return a if f.ordered(a) > f.ordered(b) else b
