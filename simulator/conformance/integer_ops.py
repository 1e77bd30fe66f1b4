"""Integer arithmetic, extended precision, logic, shifts and bit fields against Python integers.

PTX ISA 9.7.1 (integer arithmetic), 9.7.2 (extended precision), 9.7.7 (logic and shift). Where the
ISA leaves a result to the machine, it is that of sm_90 as its compiler generates the instruction: a
division by zero gives all ones, and so does its remainder.
"""

# ruff: noqa: E731 (references are short enough for a lambda)

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable

import numpy as np

from simulator.conformance.micro import Case, Form, Program, Suite, grouped_source

SIZES = (16, 32, 64)
INTEGERS = [f"{sign}{bits}" for bits in SIZES for sign in "us"]
SHIFTS = (0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 1 << 31, (1 << 32) - 1)
FIELDS = (0, 1, 2, 7, 15, 16, 24, 31, 32, 33, 40, 63, 64, 65, 200, 255, 256 + 4)


def bits_of(type_: str) -> int:
    return int(type_[1:])


def ones(bits: int) -> int:
    return (1 << bits) - 1


def wrapped(value: int, type_: str) -> int:
    """An integer wrapped to its type."""
    value &= ones(bits_of(type_))
    return value - (value >> (bits_of(type_) - 1) << bits_of(type_)) if type_[0] == "s" else value


def clamped(value: int) -> int:
    """.sat of s32."""
    return min(max(value, -(1 << 31)), (1 << 31) - 1)


def quotient(a: int, b: int) -> int:
    """Division rounding towards zero."""
    if b == 0:
        return -1
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int) -> int:
    return a - b * quotient(a, b) if b else -1


def same(op: str, type_: str, count: int, reference: Callable[..., int], **options) -> Form:
    """A form whose operands and result all have one type."""
    return Form(f"{op}.{type_}", type_, " ".join([type_] * count), reference, **options)


def arithmetic_forms() -> list[Form]:
    forms = []
    for t in INTEGERS:
        n = bits_of(t)
        high = lambda a, b, n=n: (a * b) >> n
        forms += [
            same("add", t, 2, operator.add),
            same("sub", t, 2, operator.sub),
            same("mul.lo", t, 2, operator.mul),
            same("mul.hi", t, 2, high),
            same("mad.lo", t, 3, lambda a, b, c: a * b + c),
            same("mad.hi", t, 3, lambda a, b, c, high=high: high(a, b) + c),
            same("div", t, 2, quotient),
            same("rem", t, 2, remainder),
            same("min", t, 2, min),
            same("max", t, 2, max),
            same("sad", t, 3, lambda a, b, c: c + abs(a - b)),
        ]
        if t[0] == "s":
            forms += [same("abs", t, 1, abs), same("neg", t, 1, operator.neg)]
    for t in ("u16", "s16", "u32", "s32"):
        wide = f"{t[0]}{2 * bits_of(t)}"
        forms += [
            Form(f"mul.wide.{t}", wide, f"{t} {t}", operator.mul),
            Form(f"mad.wide.{t}", wide, f"{t} {t} {wide}", lambda a, b, c: a * b + c),
        ]
    return forms


def packed_forms() -> list[Form]:
    """u16x2 and s16x2: the operation on the low and on the high halves."""
    forms = []
    for t in ("u16", "s16"):
        table = {"add": operator.add, "min": min, "max": max}
        if t == "s16":
            table |= {
                "min.relu": lambda a, b: max(min(a, b), 0),
                "max.relu": lambda a, b: max(a, b, 0),
            }
        for op, f in table.items():

            def halves(a: int, b: int, f: Callable = f, t: str = t) -> int:
                low, high = (
                    f(wrapped(a >> shift, t), wrapped(b >> shift, t)) & 0xFFFF for shift in (0, 16)
                )
                return high << 16 | low

            forms.append(Form(f"{op}.{t}x2", f"{t}x2", f"{t}x2 {t}x2", halves))
    return [
        *forms,
        same("min.relu", "s32", 2, lambda a, b: max(min(a, b), 0)),
        same("max.relu", "s32", 2, lambda a, b: max(a, b, 0)),
    ]


def combined_lop3_forms() -> list[Form]:
    """lop3.BoolOp d|p: p is (d != 0) BoolOp q."""
    forms = []
    table = {0x80: lambda a, b, c: a & b & c, 0x96: lambda a, b, c: a ^ b ^ c}
    for (op, f), (k, g), negated in itertools.product(
        {"or": operator.or_, "and": operator.and_}.items(), table.items(), (0, 1)
    ):

        def reference(
            a: int, b: int, c: int, q: int, f: Callable = f, g: Callable = g, n: int = negated
        ) -> tuple[int, int]:
            d = g(a, b, c)
            return d, f(int(d != 0), q ^ n)

        name, sign = f"lop3.{op}.b32", "!" * negated
        few = (0, 1, 0xFF, 0xFF00, ones(32))
        edges = {0: few, 1: few, 2: few}
        ends = f"%2, %3, %4, {k}, {sign}%5"
        forms.append(
            Form(
                f"{name} {k:#x} {sign}q", "b32 pred", "b32 b32 b32 pred", reference,
                f"{name} %0|%1, {ends}", edges,
            )
        )  # fmt: skip
    only = lambda a, b, c, q: int(a & b & c != 0) | q
    text = "lop3.or.b32 _|%0, %1, %2, %3, 0x80, %4"
    forms.append(Form(text, "pred", "b32 b32 b32 pred", only, text, edges))
    return forms


def saturating_and_24_bit_forms() -> list[Form]:
    forms = [
        same("add.sat", "s32", 2, lambda a, b: clamped(a + b)),
        same("sub.sat", "s32", 2, lambda a, b: clamped(a - b)),
        same("mad.hi.sat", "s32", 3, lambda a, b, c: clamped((a * b >> 32) + c)),
    ]
    edges = (0, 1, 0x7FFFFF, 0x800000, 0x800001, 0xFFFFFF, 0x1000000, 0xFF000001, 0xFFFFFFFF)
    for t in ("u32", "s32"):
        low = lambda v, t=t: wrapped(v << 8, t) >> 8
        product = lambda a, b, low=low: low(a) * low(b)
        bits = {"lo": lambda p: p, "hi": lambda p: p >> 16}
        for part, pick in bits.items():
            f = lambda a, b, p=product, k=pick: k(p(a, b))
            g = lambda a, b, c, t=t, f=f: wrapped(f(a, b), t) + c
            forms.append(same(f"mul24.{part}", t, 2, f, edges={0: edges, 1: edges}))
            forms.append(same(f"mad24.{part}", t, 3, g, edges={0: edges, 1: edges}))
    saturating = lambda a, b, c: clamped(
        (wrapped(a << 8, "s32") >> 8) * (wrapped(b << 8, "s32") >> 8) // 65536 + c
    )
    forms.append(same("mad24.hi.sat", "s32", 3, saturating, edges={0: edges, 1: edges}))
    return forms


def logic_forms() -> list[Form]:
    forms = []
    for t in ("pred", "b16", "b32", "b64"):
        for op, f in (("and", operator.and_), ("or", operator.or_), ("xor", operator.xor)):
            forms.append(same(op, t, 2, f))
    for bits in SIZES:
        forms += [
            same("not", f"b{bits}", 1, operator.invert),
            same("cnot", f"b{bits}", 1, lambda a: int(a == 0)),
            Form(f"shl.b{bits}", f"b{bits}", f"b{bits} u32", shifted_left, edges={1: SHIFTS}),
        ]
        for sign in "bus":
            t = f"{sign}{bits}"
            forms.append(Form(f"shr.{t}", t, f"{t} u32", shifted_right, edges={1: SHIFTS}))
    forms += [
        same("not", "pred", 1, lambda a: 1 - a),
        Form("and.pred !", "pred", "pred pred", lambda a, b: a & (1 - b), "and.pred %0, %1, !%2"),
        Form("or.pred !", "pred", "pred pred", lambda a, b: (1 - a) | b, "or.pred %0, !%1, %2"),
        Form("xor.pred !", "pred", "pred pred", lambda a, b: 1 - (a ^ b), "xor.pred %0, %1, !%2"),
    ]
    for side in "lr":
        for mode in ("wrap", "clamp"):
            forms.append(
                Form(
                    f"shf.{side}.{mode}.b32",
                    "b32",
                    "b32 b32 u32",
                    lambda a, b, c, side=side, mode=mode: funnel(side, mode, a, b, c),
                    edges={2: SHIFTS},
                )
            )
    return forms


def shifted_left(a: int, n: int) -> int:
    return a << min(n, 64)


def shifted_right(a: int, n: int) -> int:
    return a >> min(n, 64)


def funnel(side: str, mode: str, low: int, high: int, n: int) -> int:
    n = n % 32 if mode == "wrap" else min(n, 32)
    pair = high << 32 | low
    return pair << n >> 32 if side == "l" else pair >> n


def digits(value: int, bits: int) -> str:
    """The bits of a value, the lowest first."""
    return f"{value & ones(bits):0{bits}b}"[::-1]


def number(text: str) -> int:
    return int(text[::-1], 2)


def bit_forms() -> list[Form]:
    forms = []
    for n in (32, 64):
        t = f"b{n}"
        forms += [
            Form(f"popc.{t}", "u32", t, lambda a, n=n: digits(a, n).count("1")),
            Form(f"clz.{t}", "u32", t, lambda a, n=n: n - a.bit_length()),
            same("brev", t, 1, lambda a, n=n: int(digits(a, n), 2)),
            Form(
                f"bfi.{t}", t, f"{t} {t} u32 u32",
                lambda a, b, c, d, n=n: inserted(a, b, c, d, n), edges={2: FIELDS, 3: FIELDS},
            ),
        ]  # fmt: skip
        for t in (f"u{n}", f"s{n}"):
            forms.append(
                Form(
                    f"bfe.{t}", t, f"{t} u32 u32",
                    lambda a, b, c, t=t: extracted(a, b, c, t), edges={1: FIELDS, 2: FIELDS},
                )
            )  # fmt: skip
            for shift in ("", ".shiftamt"):
                f = lambda a, t=t, shift=shift: found(a, t, bool(shift))
                forms.append(Form(f"bfind{shift}.{t}", "u32", t, f))
    for mode in ("wrap", "clamp"):
        edges = {0: SHIFTS, 1: SHIFTS}
        f = lambda a, b, mode=mode: mask(a, b, mode)
        forms.append(same(f"bmsk.{mode}", "b32", 2, f, edges=edges))
        for t in ("u32", "s32"):
            f = lambda a, b, t=t, mode=mode: extended(a, b, t, mode)
            forms.append(Form(f"szext.{mode}.{t}", t, f"{t} u32", f, edges={1: SHIFTS}))
    offsets = (0, 1, 2, 3, 5, 16, 31, 32, 33, -1, -2, -3, -16, -32, -33, 1 << 31, (1 << 31) - 1)
    edges = {1: (0, 1, 2, 15, 16, 30, 31), 2: offsets}
    forms.append(
        Form("fns.b32", "b32", "b32 b32 s32", nth_set, edges=edges, only=frozenset({1, 2}))
    )
    return forms


def inserted(a: int, b: int, start: int, length: int, n: int) -> int:
    start, length = start & 255, length & 255
    field = list(digits(b, n))
    source = digits(a, n)
    for i in range(min(length, n - start)):
        field[start + i] = source[i]
    return number("".join(field))


def extracted(a: int, start: int, length: int, type_: str) -> int:
    start, length, n = start & 255, length & 255, bits_of(type_)
    source = digits(a, n)
    fill = source[min(start + length - 1, n - 1)] if type_[0] == "s" and length else "0"
    field = source[start : start + length]
    return number((field + fill * n)[:n])


def found(a: int, type_: str, shift: bool) -> int:
    value = ~a if a < 0 else a
    if value == 0:
        return -1
    place = value.bit_length() - 1
    return bits_of(type_) - 1 - place if shift else place


def mask(start: int, width: int, mode: str) -> int:
    if mode == "wrap":
        start, width = start % 32, width % 32
    return ones(min(width, 32)) << start if start < 32 else 0


def extended(a: int, n: int, type_: str, mode: str) -> int:
    n = n % 32 if mode == "wrap" else min(n, 32)
    return wrapped(a & ones(n), f"{type_[0]}{n}") if n else 0


def nth_set(value: int, base: int, offset: int) -> int:
    """The bit that is |offset| set bits away from base, counting base itself; -1 for none."""
    bits = [i for i in range(32) if value >> i & 1]
    if offset == 0:
        return base if base in bits else -1
    on_the_way = [i for i in bits if (i >= base if offset > 0 else i <= base)]
    if offset < 0:
        on_the_way.reverse()
    return on_the_way[abs(offset) - 1] if abs(offset) <= len(on_the_way) else -1


# The bytes of (b:a) that prmt's modes select, from the lowest of the result to the highest, for
# each
# value of the selector's two low bits (9.7.9.7).
PERMUTE_MODES = {
    "f4e": [[s, s + 1, s + 2, s + 3] for s in range(4)],
    "b4e": [[s, (s - 1) % 8, (s - 2) % 8, (s - 3) % 8] for s in range(4)],
    "rc8": [[s] * 4 for s in range(4)],
    "ecl": [[max(s, i) for i in range(4)] for s in range(4)],
    "ecr": [[min(s, i) for i in range(4)] for s in range(4)],
    "rc16": [[2 * (s % 2), 2 * (s % 2) + 1] * 2 for s in range(4)],
}


def byte_forms() -> list[Form]:
    selectors = (0x3210, 0x7654, 0x0123, 0xFEDC, 0x89AB, 0x0000, 0x8888, 0x4444, 0xF7F7, 0xABCD3210)
    forms = [same("prmt", "b32", 3, permuted, edges={2: selectors})]
    for mode, table in PERMUTE_MODES.items():
        forms.append(
            Form(
                f"prmt.b32.{mode}", "b32", "b32 b32 b32",
                lambda a, b, c, table=table: picked(a, b, table[c & 3]),
                edges={2: (0, 1, 2, 3, 0xFFFFFFFC, 0x12345679)},
            )
        )  # fmt: skip
    for a in ("u32", "s32"):
        for b in ("u32", "s32"):
            types = {"results": "b32", "operands": "b32 b32 b32"}
            f = lambda x, y, c, a=a, b=b: dot(x, y, c, (a, 8), (b, 8), 0)
            forms.append(Form(f"dp4a.{a}.{b}", reference=f, **types))
            for half in ("lo", "hi"):
                f = lambda x, y, c, a=a, b=b, h=half: dot(x, y, c, (a, 16), (b, 8), 2 * (h == "hi"))
                forms.append(Form(f"dp2a.{half}.{a}.{b}", reference=f, **types))
    return forms


def permuted(a: int, b: int, selector: int) -> int:
    pool = (b << 32 | a).to_bytes(8, "little")
    result = []
    for i in range(4):
        choice = selector >> (4 * i) & 15
        byte = pool[choice & 7]
        result.append((255 if byte >= 128 else 0) if choice & 8 else byte)
    return int.from_bytes(result, "little")


def picked(a: int, b: int, places: list[int]) -> int:
    pool = (b << 32 | a).to_bytes(8, "little")
    return int.from_bytes([pool[p] for p in places], "little")


def dot(x: int, y: int, c: int, a: tuple[str, int], b: tuple[str, int], first: int) -> int:
    (a_type, a_bits), (b_type, b_bits) = a, b
    total = c
    for i in range(32 // a_bits):
        left = wrapped(x >> (a_bits * i), f"{a_type[0]}{a_bits}")
        total += left * wrapped(y >> (b_bits * (first + i)), f"{b_type[0]}{b_bits}")
    return total


def carry_forms() -> list[Form]:
    """Sums and products of two words, and the carry flag as a separate result."""
    forms = []
    for t in ("u32", "s32", "u64", "s64"):
        n = bits_of(t)
        u = f"u{n}"

        def words(value: int, n: int = n) -> tuple[int, int]:
            return value & ones(n), value >> n

        def pair(low: int, high: int, n: int = n) -> int:
            return high << n | low

        four = f"{u} {u} {u} {u}"
        forms += [
            Form(
                f"add.cc.{t}; addc.{t}", f"{u} {u}", four,
                lambda a, b, c, d, w=words, p=pair: w(p(a, b) + p(c, d)),
                f"add.cc.{t} %0, %2, %4; addc.{t} %1, %3, %5",
            ),
            Form(
                f"add.cc.{t}; addc.cc.{t}; addc.{t}", f"{u} {u} {u}", four,
                lambda a, b, c, d, n=n, p=pair: three_words(p(a, b) + p(c, d), n),
                f"add.cc.{t} %0, %3, %5; addc.cc.{t} %1, %4, %6; addc.{t} %2, 0, 0",
            ),
            Form(
                f"sub.cc.{t}; subc.{t}", f"{u} {u}", four,
                lambda a, b, c, d, w=words, p=pair: w(p(a, b) - p(c, d)),
                f"sub.cc.{t} %0, %2, %4; subc.{t} %1, %3, %5",
            ),
            Form(
                f"sub.cc.{t}; subc.cc.{t}; subc.{t}", f"{u} {u} {u}", four,
                lambda a, b, c, d, n=n, p=pair: three_words(p(a, b) - p(c, d), n),
                f"sub.cc.{t} %0, %3, %5; subc.cc.{t} %1, %4, %6; subc.{t} %2, 0, 0",
            ),
            Form(
                f"mad.lo.cc.{t}; madc.hi.{t}", f"{u} {u}", f"{t} {t} {u} {u}",
                lambda a, b, c, d, w=words, p=pair: w(a * b + p(c, d)),
                f"mad.lo.cc.{t} %0, %2, %3, %4; madc.hi.{t} %1, %2, %3, %5",
            ),
            Form(
                f"mad.hi.cc.{t}; madc.lo.cc.{t}; addc.{t}", f"{u} {u} {u}", f"{t} {t} {u} {u}",
                lambda a, b, c, d, n=n: mad_chain(a, b, c, d, n),
                f"mad.hi.cc.{t} %0, %3, %4, %5; madc.lo.cc.{t} %1, %3, %4, %6; addc.{t} %2, 0, 0",
            ),
            Form(
                f"add.cc.{t}; madc.hi.cc.{t}; madc.lo.{t}", f"{u} {u} {u}", f"{t} {t} {u} {u}",
                lambda a, b, c, d, n=n: madc_chain(a, b, c, d, n),
                f"add.cc.{t} %0, %5, %6; madc.hi.cc.{t} %1, %3, %4, %5; madc.lo.{t} %2, %3, %4, 0",
            ),
            # The inactive lanes keep the flag of the first sum.
            Form(
                f"add.cc.{t}; @run add.cc.{t}; addc.{t}", u, f"{u} {u} {u} {u} u32",
                lambda a, b, c, d, run, n=n: (c + d if run else a + b) >> n,
                f".reg .b{n} t; setp.ne.u32 run, %5, 0; add.cc.{t} t, %1, %2; "
                f"@run add.cc.{t} t, %3, %4; addc.{t} %0, 0, 0",
                edges={4: (0, 1)},
            ),
        ]  # fmt: skip
    return forms


def three_words(value: int, n: int) -> tuple[int, int, int]:
    return value & ones(n), value >> n & ones(n), value >> 2 * n


def mad_chain(a: int, b: int, c: int, d: int, n: int) -> tuple[int, int, int]:
    first = (a * b >> n & ones(n)) + c
    second = (a * b & ones(n)) + d + (first >> n)
    return first, second, second >> n


def madc_chain(a: int, b: int, c: int, d: int, n: int) -> tuple[int, int, int]:
    second = (a * b >> n & ones(n)) + c + (c + d >> n)
    return c + d, second, a * b + (second >> n)


def immediate_forms() -> list[Form]:
    """Constants instead of registers."""
    table = [
        ("add.s16", "s16", "%1, -3", lambda a: a - 3),
        ("add.s32", "s32", "%1, -2147483648", lambda a: a - 2**31),
        ("add.s64", "s64", "%1, -1", lambda a: a - 1),
        ("sub.u64", "u64", "0xffffffffffffffff, %1", lambda a: 2**64 - 1 - a),
        ("mul.lo.u16", "u16", "%1, 40503", lambda a: a * 40503),
        ("mul.hi.u32", "u32", "%1, 0xAAAAAAABU", lambda a: a * 0xAAAAAAAB >> 32),
        ("mad.lo.s32", "s32", "%1, 0x10001, 0b101", lambda a: a * 0x10001 + 5),
        ("and.b32", "b32", "%1, 0xff00ff00", lambda a: a & 0xFF00FF00),
        ("and.b64", "b64", "%1, -256", lambda a: a & -256),
        ("xor.b16", "b16", "%1, -1", lambda a: ~a),
        ("shl.b32", "b32", "%1, 31", lambda a: a << 31),
        ("shl.b64", "b64", "%1, 64", lambda a: 0),
        ("shr.s32", "s32", "%1, 0x7fffffff", lambda a: a >> 40),
        ("shr.u16", "u16", "%1, 017", lambda a: a >> 15),
        ("bfe.s32", "s32", "%1, 4, 8", lambda a: wrapped(a >> 4, "s8")),
        ("prmt.b32", "b32", "%1, 0, 0x4041", lambda a: (a >> 8 & 255) | (a & 255) << 16),
        ("lop3.b32", "b32", "%1, 0x0f0f0f0f, -1, 0x28", lambda a: a ^ 0x0F0F0F0F),
        ("min.s64", "s64", "%1, -5", lambda a: min(a, -5)),
    ]  # fmt: skip
    return [Form(f"{op} {text}", t, t, f, f"{op} %0, {text}") for op, t, text, f in table]


FORMS = [
    *packed_forms(),
    *combined_lop3_forms(),
    *arithmetic_forms(),
    *saturating_and_24_bit_forms(),
    *logic_forms(),
    *bit_forms(),
    *byte_forms(),
    *carry_forms(),
    *immediate_forms(),
]
SUITE = Suite("integer_ops", FORMS)


def every_lop3() -> str:
    """CUDA that runs lop3 with each of its 256 tables."""
    text = "\n".join(
        f'{{ unsigned d = 77; asm volatile("{{.reg .pred run; setp.ne.b32 run, %4, 0; '
        f'@run lop3.b32 %0, %1, %2, %3, {table};}}" : "+r"(d) : "r"(a), "r"(b), "r"(c), '
        f'"r"(active[i])); out[{table} * n + i] = d; }}'
        for table in range(256)
    )
    body = f"unsigned a = in[i], b = in[n + i], c = in[2 * n + i];\n{text}"
    return grouped_source([body])


LOP3 = Program("lop3", every_lop3)


def lop3_operands() -> np.ndarray:
    rng = np.random.default_rng(3)
    operands = rng.integers(0, 1 << 32, (3, 64), dtype=np.uint64)
    operands[:, :8] = [[-(i >> k & 1) & 0xFFFFFFFF for i in range(8)] for k in (2, 1, 0)]
    return operands


def check_lop3(full: bool, target: str) -> None:
    """Every table; the second warp's even lanes are inactive."""
    out = np.zeros((256, 64), dtype=np.uint64)
    active = np.array([1] * 32 + [0, 1] * 16, dtype=np.int32)
    LOP3.run(target, 0, lop3_operands(), out, active, 64)
    a, b, c = lop3_operands()
    for table in range(256):
        wanted = np.zeros(64, dtype=np.uint64)
        for bit in range(32):
            index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1)
            wanted |= (np.uint64(table) >> index & 1) << np.uint64(bit)
        wanted[32::2] = 77
        assert out[table].tolist() == wanted.tolist(), f"table {table:#x}"


CASES = [Case("lop3.b32, every table", check_lop3)]
