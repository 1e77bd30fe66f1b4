"""Conversions between integers and f32/f64 (PTX ISA 9.7.9.21, cvt), and between address spaces.

A narrow operand may be in a wide register: its upper bits are ignored, and a narrow result is
extended to its register, with its sign if the type has one. A float is rounded to an integer, then
clamped to the range of its type; a NaN gives 0 or, if f64 or a 64-bit integer is involved, only the
top bit of the result set.
"""

# ruff: noqa: E731 (references are short enough for a lambda)

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from simulator.conformance import exact
from simulator.conformance.exact import F32, F64, NAN, Format
from simulator.conformance.micro import Case, Form, Program, Suite

FORMATS = {"f32": F32, "f64": F64}
INTEGERS = [f"{sign}{bits}" for bits in (8, 16, 32, 64) for sign in "us"]
MODES = ("rn", "rz", "rm", "rp")
TO_INTEGER: dict[str, Callable[[Fraction], int]] = {
    "rni": round,  # ties to even
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


def limits(t: str) -> tuple[int, int]:
    """The smallest and the largest integer of a type."""
    n = int(t[1:])
    return (-(1 << n - 1), (1 << n - 1) - 1) if t[0] == "s" else (0, (1 << n) - 1)


def clamped(value: int, t: str) -> int:
    low, high = limits(t)
    return min(max(value, low), high)


def truncated(value: int, t: str) -> int:
    low, _ = limits(t)
    return (value - low) % (1 << int(t[1:])) + low


def conversion(modifiers: str, to: str, of: str, reference: Callable, widths: str = "") -> Form:
    """A form of cvt; widths: register widths, "32<-64", unless they are the smallest ones."""
    d, _, a = widths.partition("<-")
    name = ".".join(filter(None, ("cvt", modifiers, to, of)))
    return Form(
        f"{name} {widths}" if widths else name,
        f"{to}@{d}" if d else to,
        f"{of}@{a}" if a else of,
        reference,
        f"{name} %0, %1",
    )


def integer_forms() -> list[Form]:
    forms = []
    for to in INTEGERS:
        plain = lambda a, to=to: truncated(a, to)
        sat = lambda a, to=to: clamped(a, to)
        for of in INTEGERS:
            narrower = limits(to)[0] > limits(of)[0] or limits(to)[1] < limits(of)[1]
            forms.append(conversion("", to, of, plain))
            if narrower:
                forms.append(conversion("sat", to, of, sat))
            if to[1:] != "64" or of[1:] != "64":
                forms.append(conversion("", to, of, plain, "64<-64"))
            if to[1:] in ("8", "16") and of[1:] != "64":
                forms.append(conversion("", to, of, plain, "32<-32"))
                if narrower:
                    forms.append(conversion("sat", to, of, sat, "32<-32"))
    return forms


def integer_of(f: Format, to: str, mode: str, ftz: bool = False) -> Callable[[int], int]:
    """The reference for a conversion from float to integer."""
    n = int(to[1:])

    def reference(a: int) -> int:
        a = f.flushed(a) if ftz else a
        if f.is_nan(a):
            return limits(f"s{n}")[0] if to[0] == "s" and wide else wide << (n - 1)
        if f.is_infinite(a):
            return limits(to)[0 if a & f.sign else 1]
        return clamped(TO_INTEGER[mode](f.value(a)), to)

    wide = f is F64 or n == 64
    return reference


def float_edges(f: Format) -> list[int]:
    """Numbers around every limit of an integer type, and halves, where rounding matters."""
    values = [Fraction(0), Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(5, 2)]
    values += [Fraction(1, 3), Fraction(2, 3), Fraction(254, 4), Fraction(511, 2)]
    values += [
        Fraction(1 << n) + Fraction(d, 2) for n in (7, 8, 15, 16) for d in (-3, -2, -1, 0, 1)
    ]
    values += [
        Fraction(1 << n) + d for n in (31, 32) for d in (Fraction(-1), Fraction(-1, 2), 0, 1)
    ]
    bits = {f.round(v, "rz") for v in values}
    for n in (23, 31, 32, 52, 63, 64):
        power = f.round(Fraction(1 << n), "rn")
        bits |= {power - 1, power, power + 1}
    bits |= {0, 1, f.smallest_normal - 1, f.smallest_normal, f.largest, f.infinity}
    bits |= {f.one - 1, f.one + 1, f.infinity + 1, f.infinity | f.smallest_normal >> 1}
    return sorted(b | s for b in bits for s in (0, f.sign))


def from_float_forms() -> list[Form]:
    forms = []
    for of, f in FORMATS.items():
        edges = {0: float_edges(f)}
        add = lambda form, edges=edges: forms.append(
            Form(form.name, form.results, form.operands, form.reference, form.ptx, edges)
        )
        for to in INTEGERS:
            for mode in TO_INTEGER:
                reference = integer_of(f, to, mode)
                add(conversion(mode, to, of, reference))
                add(conversion(f"{mode}.sat", to, of, reference))
                if f is F32:
                    add(conversion(f"{mode}.ftz", to, of, integer_of(f, to, mode, True)))
            if to[1:] != "64":
                add(conversion("rzi", to, of, integer_of(f, to, "rzi"), f"64<-{of[1:]}"))
            if to[1:] in ("8", "16"):
                add(conversion("rni", to, of, integer_of(f, to, "rni"), f"32<-{of[1:]}"))
    return forms


def to_float_forms() -> list[Form]:
    forms = []
    halfway = [
        (1 << n) + d for n in (24, 25, 53, 54, 63) for d in (-1, 0, 1, 2, 3, 5, 6, 1 << n - 24)
    ]
    for to, f in FORMATS.items():
        for of in INTEGERS:
            n = int(of[1:])
            edges = {v for h in halfway for v in (h, -h) if abs(v) < 1 << n}
            edges |= {0, 1, -1, *limits(of), limits(of)[1] - 1, limits(of)[0] + 1}
            for mode in MODES:
                nearest = lambda a, f=f, mode=mode: f.round(Fraction(a), mode)
                sat = lambda a, f=f, mode=mode: exact.saturated(f, f.round(Fraction(a), mode))
                for suffix, reference in (("", nearest), (".sat", sat)):
                    form = conversion(mode + suffix, to, of, reference)
                    forms.append(Form(form.name, to, of, reference, form.ptx, {0: sorted(edges)}))
            nearest = lambda a, f=f: f.round(Fraction(a), "rn")
            if n < 64:
                forms.append(conversion("rn", to, of, nearest, f"{to[1:]}<-64"))
            if n < 32:
                forms.append(conversion("rn", to, of, nearest, f"{to[1:]}<-32"))
    return forms


def rounded_to(to: Format, of: Format, mode: str, ftz: bool, sat: bool) -> Callable[[int], object]:
    """The reference for a conversion from float to float."""

    def convert(_: Format, a: int, mode: str) -> object:
        if of.is_nan(a):
            return NAN
        sign = to.sign if a & of.sign else 0
        if of.is_infinite(a):
            return to.infinity | sign
        if mode in TO_INTEGER:
            whole = TO_INTEGER[mode](of.value(a))
            return to.round(Fraction(whole), "rn", zero_sign=sign)
        return to.round(of.value(a), mode, zero_sign=sign)

    def reference(a: int) -> object:
        if ftz and of is F32:
            a = of.flushed(a)
        # Only f32 is ever flushed.
        if ftz and to is F32 and of is F64:
            tiny = exact.flushing(to, lambda f, x, m: convert(f, a, m), 0, mode=mode)
            return exact.saturated(to, tiny) if sat else tiny
        result = convert(to, a, mode)
        return exact.saturated(to, result) if sat else result

    return reference


def float_forms() -> list[Form]:
    forms = []

    def add(modifiers: str, to: str, of: str, mode: str) -> None:
        for ftz in ("", "ftz") if "f32" in (to, of) else ("",):
            for sat in ("", "sat"):
                name = ".".join(filter(None, (modifiers, ftz, sat)))
                reference = rounded_to(FORMATS[to], FORMATS[of], mode, bool(ftz), bool(sat))
                edges = {0: narrowing_edges() if of == "f64" else float_edges(F32)}
                form = conversion(name, to, of, reference)
                forms.append(Form(form.name, to, of, reference, form.ptx, edges))

    for mode in MODES:
        add(mode, "f32", "f64", mode)
    add("", "f64", "f32", "rn")
    for t in FORMATS:
        add("", t, t, "rn")
        for mode in TO_INTEGER:
            add(mode, t, t, mode)
    return forms


def narrowing_edges() -> list[int]:
    """f64 numbers around those at which an f32 rounds, overflows or becomes subnormal."""
    bits = set()
    for b in (
        1,
        2,
        F32.smallest_normal - 1,
        F32.smallest_normal,
        F32.one,
        F32.one + 1,
        F32.largest,
    ):
        exactly = F64.round(F32.value(b), "rn")
        halfway = F64.round(F32.value(b) + (F32.value(b) - F32.value(b - 1)) / 2, "rn")
        bits |= {exactly, exactly - 1, exactly + 1, halfway - 1, halfway, halfway + 1}
    return sorted(set(float_edges(F64)) | bits | {b | F64.sign for b in bits})


FORMS = [*integer_forms(), *from_float_forms(), *to_float_forms(), *float_forms()]
SUITE = Suite("convert_ops", FORMS)


# ---- Address spaces ----------------------------------------------------------------------------

ADDRESSES = """
__device__ int global_variable[4];
__constant__ int constant_variable[4] = {5, 6, 7, 8};

// out[row * 32 + lane]: the result of each query for the lane's address.
struct Parameter { unsigned values[32]; };
__global__ void addresses(unsigned long long* out, const unsigned long long* buffer,
                          const __grid_constant__ Parameter parameter) {
  __shared__ unsigned shared[64];
  unsigned local[4];
  const int lane = threadIdx.x;
  shared[lane] = 100 + lane;
  shared[32 + lane] = 0;
  for (int i = 0; i < 4; i++) local[i] = lane * 10 + i;
  asm volatile("" : : "l"(local) : "memory");
  __syncthreads();
  unsigned long long result[ROWS];
  unsigned long long s, l, g, back;
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(shared + lane));
  asm volatile("{.reg .u64 t; cvt.u64.u32 t, %1; cvta.shared.u64 %0, t;}" : "=l"(s) : "r"(at));
  asm volatile("{.reg .u64 t; cvta.to.local.u64 t, %1; cvta.local.u64 %0, t;}"
               : "=l"(l) : "l"(local + lane % 4));
  asm volatile("cvta.to.global.u64 %0, %1;" : "=l"(g) : "l"(buffer + lane));
  asm volatile("cvta.to.shared.u64 %0, %1;" : "=l"(back) : "l"(s));
  // Each address is read through its generic form; inactive lanes keep the 1.
  unsigned read = 1;
  asm volatile("{.reg .pred p; setp.lt.u32 p, %2, 20; @p ld.u32 %0, [%1];}"
               : "+r"(read) : "l"(s), "r"(lane));
  result[0] = read;
  asm volatile("ld.u32 %0, [%1];" : "=r"(read) : "l"(l));
  result[1] = read;
  asm volatile("ld.u64 %0, [%1];" : "=l"(result[2]) : "l"(g));
  result[3] = back == at;
  unsigned long long constant, p, shared_too;
  asm volatile("{.reg .u64 t; cvta.to.const.u64 t, %1; cvta.const.u64 %0, t;}"
               : "=l"(constant) : "l"(constant_variable + lane % 4));
  asm volatile("{.reg .u64 t; cvta.to.param.u64 t, %1; cvta.param.u64 %0, t;"
               "cvta.to.param::entry.u64 t, %0; cvta.param::entry.u64 %0, t;}"
               : "=l"(p) : "l"(parameter.values + lane));
  asm volatile("{.reg .u64 t; cvta.to.shared::cta.u64 t, %1; cvta.shared::cta.u64 %0, t;}"
               : "=l"(shared_too) : "l"(s));
  const unsigned long long places[5] = {s, l, g, constant, p};
  unsigned long long mixed = places[lane % 5];
  QUERIES
  asm volatile("ld.u32 %0, [%1];" : "=r"(read) : "l"(mixed));
  result[7] = read;
  // Stores through generic addresses reach the windows.
  asm volatile("st.u32 [%0], %1;" : : "l"(s + 128), "r"(lane + 7) : "memory");
  result[8] = shared[32 + lane];
  asm volatile("ld.u32 %0, [%1];" : "=r"(read) : "l"(constant));
  result[9] = read;
  asm volatile("{.reg .b64 t; cvta.to.param.u64 t, %1; ld.param.u32 %0, [t];}"
               : "=r"(read) : "l"(p));
  result[10] = read;
  result[11] = shared_too == s;
  for (int i = 0; i < ROWS; i++) out[i * 32 + lane] = result[i];
}
void run(unsigned long long* out, const unsigned long long* buffer) {
  Parameter parameter;
  for (int i = 0; i < 32; i++) parameter.values[i] = 500 + i;
  addresses<<<1, 32>>>(out, buffer, parameter);
}
"""


# One query of ADDRESSES: lane 31 is inactive and keeps the 2.
QUERY = """{
    unsigned yes = 2;
    asm volatile("{.reg .pred p, q; setp.ne.u32 p, %2, 31; setp.eq.u32 q, %0, 3;"
                 "@p isspacep.SPACE q, %1; @p selp.u32 %0, 1, 0, q;}"
                 : "+r"(yes) : "l"(mixed), "r"(lane));
    result[ROW] = yes;
  }
"""


def addresses_source() -> str:
    """ADDRESSES with its queries, one for each space."""
    rows = {"shared": 4, "local": 5, "global": 6}
    rows |= {space: 12 + k for k, space in enumerate(MORE_SPACES)}
    texts = (QUERY.replace("SPACE", space).replace("ROW", str(row)) for space, row in rows.items())
    return ADDRESSES.replace("QUERIES", "  ".join(texts)).replace("ROWS", str(len(WANTED)))


PROGRAM = Program("addresses", addresses_source)
LANES = range(32)
SPACES = {"is shared": 0, "is local": 1, "is global": 2}  # the residue of their lanes
MORE_SPACES = {"shared::cta": 0, "shared::cluster": 0, "const": 3, "param": 4, "param::entry": 4}
MIXED = [(100 + i, i * 10 + i % 4, 1000 + i, 5 + i % 4, 500 + i)[i % 5] for i in LANES]


def lanes_of(residue: int) -> list[int]:
    """The result of a query; lane 31 is inactive."""
    return [int(i % 5 == residue) if i < 31 else 2 for i in LANES]


WANTED = {
    "shared read": [100 + i if i < 20 else 1 for i in LANES],
    "local read": [i * 10 + i % 4 for i in LANES],
    "global read": [1000 + i for i in LANES],
    "back": [1] * 32,
    **{name: lanes_of(k) for name, k in SPACES.items()},
    "mixed read": MIXED,
    "generic store": [i + 7 for i in LANES],
    "constant read": [5 + i % 4 for i in LANES],
    "parameter read": [500 + i for i in LANES],
    "shared twice": [1] * 32,
    **{f"is {name}, too": lanes_of(k) for name, k in MORE_SPACES.items()},
}


def check_addresses(full: bool, target: str) -> None:
    """The results of the lanes of ADDRESSES, by query."""
    out = np.zeros((len(WANTED), 32), dtype=np.uint64)
    PROGRAM.run(target, out, np.arange(1000, 1032, dtype=np.uint64))
    for (query, wanted), got in zip(WANTED.items(), out.tolist(), strict=True):
        assert got == wanted, query


CASES = [Case("cvta and isspacep", check_addresses)]
