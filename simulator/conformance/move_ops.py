"""mov: plain, packing and unpacking."""

# ruff: noqa: E731 (references are short enough for a lambda)
from __future__ import annotations

from simulator.conformance.micro import Form, Suite


def move_forms() -> list[Form]:
    forms = [
        Form(f"mov.{t}", t, t, lambda a: a)
        for t in (
            "pred",
            "b16",
            "u16",
            "s16",
            "b32",
            "u32",
            "s32",
            "f32",
            "b64",
            "u64",
            "s64",
            "f64",
        )
    ]
    for whole, part, count in ((32, 16, 2), (64, 32, 2), (64, 16, 4)):
        parts = " ".join([f"b{part}"] * count)
        numbers = [f"%{k}" for k in range(count + 1)]
        pack = lambda *v, part=part: sum(x << part * k for k, x in enumerate(v))
        unpack = lambda a, part=part, n=count: tuple(
            a >> part * k & (1 << part) - 1 for k in range(n)
        )
        forms += [
            Form(
                f"mov.b{whole} pack {count}", f"b{whole}", parts, pack,
                f"mov.b{whole} %0, {{{', '.join(numbers[1:])}}}",
            ),
            Form(
                f"mov.b{whole} unpack {count}", parts, f"b{whole}", unpack,
                f"mov.b{whole} {{{', '.join(numbers[:-1])}}}, {numbers[-1]}",
            ),
        ]  # fmt: skip
    forms += [
        Form("mov.b64 {_, d}", "b32", "b64", lambda a: a >> 32, "mov.b64 {_, %0}, %1"),
        Form("mov.b64 {d, _}", "b32", "b64", lambda a: a & 0xFFFFFFFF, "mov.b64 {%0, _}, %1"),
        Form("mov.b64 {a, 7}", "b64", "b32", lambda a: a | 7 << 32, "mov.b64 %0, {%1, 7}"),
        Form(
            "mov.b64 swap", "b64", "b64", lambda a: a >> 32 | (a & 0xFFFFFFFF) << 32,
            ".reg .b32 lo, hi; mov.b64 {lo, hi}, %1; mov.b64 %0, {hi, lo}",
        ),
        Form(
            "mov.b32 bytes", "b32", "b32", lambda a: int.from_bytes(a.to_bytes(4, "big"), "little"),
            ".reg .b8 b<4>; mov.b32 {b0, b1, b2, b3}, %1; mov.b32 %0, {b3, b2, b1, b0}",
        ),
        Form(
            "mov.b16 bytes", "b16", "b16", lambda a: a >> 8 | (a & 255) << 8,
            ".reg .b8 b<2>; mov.b16 {b0, b1}, %1; mov.b16 %0, {b1, b0}",
        ),
        Form(
            "mov.b128 halves", "b64 b64", "b64 b64", lambda a, b: (b, a),
            ".reg .b128 q<2>; mov.b128 q0, {%2, %3}; mov.b128 q1, q0; mov.b128 {%1, %0}, q1",
        ),
        Form(
            "mov.b128 quarters", "b32 b32 b32 b32", "b32 b32 b32 b32",
            lambda a, b, c, d: (d, c, b, a),
            ".reg .b128 q; mov.b128 q, {%4, %5, %6, %7}; mov.b128 {%3, %2, %1, %0}, q",
        ),
        Form("mov.b32 {a}", "b32", "b32", lambda a: a, "mov.b32 %0, {%1}"),
        Form("mov.pred !p", "pred", "pred", lambda a: 1 - a, "not.pred %0, %1"),
        Form("mov.u32 -1", "u32", "u32", lambda a: -1, "mov.u32 %0, -1"),
        Form("mov.f32 0f", "f32", "u32", lambda a: 0x7FC01234, "mov.f32 %0, 0f7FC01234"),
        Form("mov.f32 decimal", "f32", "u32", lambda a: 0x3DCCCCCD, "mov.f32 %0, 0.1"),
        Form("mov.f64 0d", "f64", "u32", lambda a: 0xFFF8 << 48, "mov.f64 %0, 0dFFF8000000000000"),
        Form("mov.u64 big", "u64", "u32", lambda a: -1, "mov.u64 %0, 0xffffffffffffffff"),
        Form("mov.s16 negative", "s16", "u32", lambda a: -300, "mov.s16 %0, -300"),
    ]  # fmt: skip
    return forms


SUITE = Suite("move_ops", move_forms())
