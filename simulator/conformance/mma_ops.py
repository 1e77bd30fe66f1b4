"""Matrix products in the registers of a warp: mma.sync and mma.sp (PTX ISA 9.7.14.5, .6).

Element positions follow the ISA's formulas, form by form. Every form runs on integers, whose result
is exact, on numbers with an error bound, and on special values.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch

from simulator.conformance import exact
from simulator.conformance.fragments import (
    BITS,
    LANES,
    Fragment,
    check_product,
    decode,
    encode,
    is_float,
    operands,
)
from simulator.conformance.micro import Program

Place = Callable[[int, int], tuple[int, int]]

# ---- Fragments -----------------------------------------------------------------------------------
# By (shape, bits per element), as in the ISA: maps a lane and the index of an element in it to row
# and
# column.

A_PLACES: dict[tuple[str, int], Place] = {
    ("m8n8k4", 64): lambda lane, i: (lane >> 2, lane % 4),
    ("m8n8k16", 8): lambda lane, i: (lane >> 2, lane % 4 * 4 + i),
    ("m8n8k32", 4): lambda lane, i: (lane >> 2, lane % 4 * 8 + i),
    ("m8n8k128", 1): lambda lane, i: (lane >> 2, lane % 4 * 32 + i),
    ("m16n8k4", 32): lambda lane, i: ((lane >> 2) + (8 if i == 1 else 0), lane % 4),
    ("m16n8k4", 64): lambda lane, i: ((lane >> 2) + (8 if i == 1 else 0), lane % 4),
    ("m16n8k8", 16): lambda lane, i: ((lane >> 2) + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)),
    ("m16n8k8", 32): lambda lane, i: (
        (lane >> 2) + (0 if i in (0, 2) else 8),
        lane % 4 + (0, 0, 4, 4)[i],
    ),
    ("m16n8k8", 64): lambda lane, i: (
        (lane >> 2) + (0 if i in (0, 2) else 8),
        lane % 4 + (0, 0, 4, 4)[i],
    ),
    ("m16n8k16", 16): lambda lane, i: (
        (lane >> 2) + (0 if 0 <= i < 2 or 4 <= i < 6 else 8),
        lane % 4 * 2 + (i & 1) + (0 if i < 4 else 8),
    ),
    ("m16n8k16", 64): lambda lane, i: (
        (lane >> 2) + (0 if i % 2 == 0 else 8),
        (i * 2 if i % 2 == 0 else i * 2 - 2) + lane % 4,
    ),
    ("m16n8k16", 8): lambda lane, i: ((lane >> 2) + (0 if i < 4 else 8), lane % 4 * 4 + (i & 3)),
    ("m16n8k32", 4): lambda lane, i: ((lane >> 2) + (0 if i < 8 else 8), lane % 4 * 8 + (i & 7)),
    ("m16n8k32", 8): lambda lane, i: (
        (lane >> 2) + (0 if 0 <= i < 4 or 8 <= i < 12 else 8),
        lane % 4 * 4 + (i & 3) + (0 if i < 8 else 16),
    ),
    ("m16n8k64", 4): lambda lane, i: (
        (lane >> 2) + (0 if 0 <= i < 8 or 16 <= i < 24 else 8),
        lane % 4 * 8 + (i & 7) + (0 if i < 16 else 32),
    ),
    ("m16n8k128", 1): lambda lane, i: (
        (lane >> 2) + (0 if i < 32 else 8),
        lane % 4 * 32 + (i & 31),
    ),
    ("m16n8k256", 1): lambda lane, i: (
        (lane >> 2) + (0 if 0 <= i < 32 or 64 <= i < 96 else 8),
        lane % 4 * 32 + (i & 31) + (0 if i < 64 else 128),
    ),
}
B_PLACES: dict[tuple[str, int], Place] = {
    ("m8n8k4", 64): lambda lane, i: (lane % 4, lane >> 2),
    ("m8n8k16", 8): lambda lane, i: (lane % 4 * 4 + i, lane >> 2),
    ("m8n8k32", 4): lambda lane, i: (lane % 4 * 8 + i, lane >> 2),
    ("m8n8k128", 1): lambda lane, i: (lane % 4 * 32 + i, lane >> 2),
    ("m16n8k4", 32): lambda lane, i: (lane % 4, lane >> 2),
    ("m16n8k4", 64): lambda lane, i: (lane % 4, lane >> 2),
    ("m16n8k8", 16): lambda lane, i: (lane % 4 * 2 + i, lane >> 2),
    ("m16n8k8", 32): lambda lane, i: (lane % 4 + (0 if i == 0 else 4), lane >> 2),
    ("m16n8k8", 64): lambda lane, i: (lane % 4 + (0 if i == 0 else 4), lane >> 2),
    ("m16n8k16", 16): lambda lane, i: (lane % 4 * 2 + (i & 1) + (0 if i < 2 else 8), lane >> 2),
    ("m16n8k16", 64): lambda lane, i: (lane % 4 + i * 4, lane >> 2),
    ("m16n8k16", 32): lambda lane, i: (lane % 4 + i * 4, lane >> 2),  # of mma.sp, like those below
    ("m16n8k16", 8): lambda lane, i: (lane % 4 * 4 + i, lane >> 2),
    ("m16n8k32", 4): lambda lane, i: (lane % 4 * 8 + (i & 7), lane >> 2),
    ("m16n8k32", 8): lambda lane, i: (lane % 4 * 4 + (i & 3) + (0 if i < 4 else 16), lane >> 2),
    ("m16n8k32", 16): lambda lane, i: (lane % 4 * 2 + (i & 1) + i // 2 * 8, lane >> 2),
    ("m16n8k64", 4): lambda lane, i: (lane % 4 * 8 + (i & 7) + (0 if i < 8 else 32), lane >> 2),
    ("m16n8k64", 8): lambda lane, i: (lane % 4 * 4 + (i & 3) + i // 4 * 16, lane >> 2),
    ("m16n8k128", 1): lambda lane, i: (lane % 4 * 32 + (i & 31), lane >> 2),
    ("m16n8k128", 4): lambda lane, i: (lane % 4 * 8 + (i & 7) + i // 8 * 32, lane >> 2),
    ("m16n8k256", 1): lambda lane, i: (
        lane % 4 * 32 + (i & 31) + (0 if i < 32 else 128),
        lane >> 2,
    ),
}
# A of mma.sp holds half of the columns, laid out as for the product with half the k.
HALF_K = {"m16n8k8": "m16n8k4", "m16n8k16": "m16n8k8", "m16n8k32": "m16n8k16",
          "m16n8k64": "m16n8k32", "m16n8k128": "m16n8k64"}  # fmt: skip


def c_place(lane: int, i: int) -> tuple[int, int]:
    """C and D of every form except m8n8k4 with f16."""
    return (lane >> 2) + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)


# m8n8k4 with f16: the four products are stacked vertically (A, C) or side by side (B).
QUAD_PLACES: dict[str, Place] = {
    "a row": lambda lane, i: (lane % 16 // 4 * 8 + lane % 4 + (0 if lane < 16 else 4), i),
    "a col": lambda lane, i: (lane % 16 // 4 * 8 + i % 4 + (0 if lane < 16 else 4), lane % 4),
    "b row": lambda lane, i: (lane % 4, lane % 16 // 4 * 8 + i + (0 if lane < 16 else 4)),
    "b col": lambda lane, i: (i, lane % 16 // 4 * 8 + lane % 4 + (0 if lane < 16 else 4)),
    "c f16": lambda lane, i: (lane % 16 // 4 * 8 + lane % 4 + (0 if lane < 16 else 4), i),
    "c f32": lambda lane, i: (
        lane % 16 // 4 * 8 + (lane & 0b1) + (i & 0b10) + (0 if lane < 16 else 4),
        (i & 0b100) + (lane & 0b10) + (i & 0b1),
    ),
}


# ---- Forms ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mma:
    """One form: types of (D, A, B, C), and the modifiers around them."""

    shape: str
    types: tuple[str, str, str, str]
    layouts: tuple[str, str] = ("row", "col")
    before: str = ""  # between the layouts and the types: ".satfinite"
    after: str = ""  # ".xor.popc", ".rz"
    sparse: str = ""  # ".sp", ".sp::ordered_metadata"
    selector: int = 0

    @property
    def instruction(self) -> str:
        types = ".".join(self.types)
        return (
            f"mma{self.sparse}.sync.aligned.{self.shape}.{'.'.join(self.layouts)}"
            f"{self.before}.{types}{self.after}"
        )

    @property
    def name(self) -> str:
        return self.instruction + (f", {self.selector}" if self.sparse else "")

    @property
    def forms(self) -> tuple[str, ...]:
        return (self.instruction,)

    @property
    def mnk(self) -> tuple[int, int, int]:
        m, n, k = map(int, re.findall(r"\d+", self.shape))
        return m, n, k

    @property
    def quads(self) -> int:
        return 4 if self.shape == "m8n8k4" and self.types[1] == "f16" else 1

    @cached_property
    def fragments(self) -> tuple[Fragment, Fragment, Fragment, Fragment]:
        """The fragments of D, A, B, C."""
        (m, n, k), (d, a, b, c) = self.mnk, self.types
        if self.quads > 1:
            return (
                Fragment(d, 32, 8, 8, QUAD_PLACES[f"c {d}"]),
                Fragment(a, 32, 4, 4, QUAD_PLACES[f"a {self.layouts[0]}"]),
                Fragment(b, 4, 32, 4, QUAD_PLACES[f"b {self.layouts[1]}"]),
                Fragment(c, 32, 8, 8, QUAD_PLACES[f"c {c}"]),
            )
        held = k // 2 if self.sparse else k
        a_shape = HALF_K[self.shape] if self.sparse else self.shape
        return (
            Fragment(d, m, n, m * n // LANES, c_place),
            Fragment(a, m, held, m * held // LANES, A_PLACES[a_shape, BITS[a]]),
            Fragment(b, k, n, k * n // LANES, B_PLACES[self.shape, BITS[b]]),
            Fragment(c, m, n, m * n // LANES, c_place),
        )

    @property
    def kernel(self) -> str:
        """The body of a kernel: `in` and `out` are [register, lane], in the order a, b, c, e."""
        constraint = {64: "d", 32: "r"}
        d, a, b, c = self.fragments

        def kind(f: Fragment) -> str:
            return "f" if f.type == "f32" else constraint[max(32, BITS[f.type])]

        ctype = {"r": "unsigned", "f": "float", "d": "double"}
        cast = {
            "r": "static_cast<unsigned>({})",
            "f": "__uint_as_float(static_cast<unsigned>({}))",
            "d": "__longlong_as_double(static_cast<long long>({}))",
        }
        back = {"r": "{}", "f": "__float_as_uint({})", "d": "__double_as_longlong({})"}
        lines, names, at = [], {}, 0
        for letter, f in (("a", a), ("b", b), ("c", c)):
            names[letter] = [f"{letter}{i}" for i in range(f.registers)]
            for name in names[letter]:
                lines.append(
                    f"{ctype[kind(f)]} {name} = {cast[kind(f)].format(f'in[{at} * 32 + l]')};"
                )
                at += 1
        names["d"] = [f"d{i}" for i in range(d.registers)]
        lines.append(f"{ctype[kind(d)]} {', '.join(names['d'])};")
        number, vectors = itertools.count(), []
        for letter in "dabc":
            vectors.append("{" + ", ".join(f"%{next(number)}" for _ in names[letter]) + "}")
        ins = [f'"{kind(f)}"({name})' for letter, f in (("a", a), ("b", b), ("c", c))
               for name in names[letter]]  # fmt: skip
        text = f"{self.instruction} {', '.join(vectors)}"
        if self.sparse:
            lines.append(f"unsigned e = static_cast<unsigned>(in[{at} * 32 + l]);")
            text += f", %{next(number)}, {self.selector}"
            ins.append('"r"(e)')
        outs = [f'"={kind(d)}"({name})' for name in names["d"]]
        lines.append(f'asm volatile("{text};" : {", ".join(outs)} : {", ".join(ins)});')
        for i, name in enumerate(names["d"]):
            lines.append(f"out[{i} * 32 + l] = {back[kind(d)].format(name)};")
        return "\n    ".join(lines)

    def run(
        self, module: ModuleType, a: np.ndarray, b: np.ndarray, c: np.ndarray, *extra: np.ndarray
    ) -> np.ndarray:
        """D for matrices of bit patterns; A as held in registers."""
        d, *inputs = self.fragments
        packed = [f.pack(x) for f, x in zip(inputs, (a, b, c), strict=True)]
        registers = np.concatenate([*packed, *extra])
        out = np.zeros((d.registers, LANES), dtype=np.uint64)
        module.run(MMAS.index(self), torch.from_numpy(registers), torch.from_numpy(out))
        return d.unpack(out)

    def check(self, full: bool = False, target: str = "simulator") -> None:
        """Run on every kind of operands and compare."""
        module = PROGRAM.module(target)
        kinds = ("small", "normal", "cancel", "tiny", "special")
        if not is_float(self.types[0]):
            kinds = ("small", "extreme")
        for round_ in range(8 if full else 1):
            for kind in kinds:
                seed = zlib.crc32(f"{self.name} {kind} {round_}".encode())
                (self.check_sparse if self.sparse else self.check_dense)(module, kind, seed, target)

    def check_dense(self, module: ModuleType, kind: str, seed: int, target: str) -> None:
        m, n, k = self.mnk
        parts = [operands(self.types[1:], m, n, k, kind, seed + q) for q in range(self.quads)]
        a, b, c = (np.concatenate(x, axis=axis) for x, axis in zip(zip(*parts, strict=True),
                   (0, 1, 0), strict=True))  # fmt: skip
        got = self.run(module, a, b, c)
        for q, matrices in enumerate(parts):
            self.compare(matrices, got[q * m : (q + 1) * m], f"{self.name} ({kind})", target)

    def compare(
        self,
        matrices: tuple,
        got: np.ndarray,
        what: str,
        target: str,
        held: np.ndarray | None = None,
    ) -> None:
        if self.types[0] == "f64":
            check_chain(matrices, got, self.after[1:] or self.before[1:] or "rn", what)
        elif self.types[1] == "b1":
            operation = np.bitwise_and if "and" in self.after else np.bitwise_xor
            a, b, c = matrices
            bits = operation(a[:, :, None], b[None]).sum(1)
            np.testing.assert_array_equal(got, encode("s32", bits.astype(np.int64) +
                                                      decode("s32", c)), what)  # fmt: skip
        else:
            saturate = "satfinite" in self.before
            check_product(
                self.types,
                matrices,
                got,
                saturate=saturate,
                held=held,
                target=target,
                what=what,
            )

    def check_sparse(self, module: ModuleType, kind: str, seed: int, target: str) -> None:
        """A is made dense here, from the elements that are held and their places.

        Elements of B where A holds nothing do not matter, even if infinite.
        """
        m, n, k = self.mnk
        bits = BITS[self.types[1]]
        held, b, c = operands(self.types[1:], m, n, k, kind, seed)
        held = held[:, : k // 2]
        rng = np.random.default_rng(seed)
        dense, is_held = np.zeros((m, k), dtype=np.uint64), np.zeros((m, k), dtype=bool)
        codes = np.zeros((m, k // (8 if bits == 4 else 2 if bits == 32 else 4)), dtype=np.uint64)
        for row, chunk in np.ndindex(*codes.shape):
            if bits == 32:  # one of two: 0b0100 is the first, 0b1110 the second
                second = rng.integers(2)
                codes[row, chunk] = 0b1110 if second else 0b0100
                dense[row, 2 * chunk + second] = held[row, chunk]
                is_held[row, 2 * chunk + second] = True
                continue
            first, last = sorted(rng.choice(4, 2, replace=False))
            codes[row, chunk] = first | last << 2
            for i, place in enumerate((first, last)):
                if bits == 4:  # pairs
                    at, source = 8 * chunk + 2 * place, 4 * chunk + 2 * i
                    dense[row, at : at + 2] = held[row, source : source + 2]
                else:
                    is_held[row, 4 * chunk + place] = True
                    dense[row, 4 * chunk + place] = held[row, 2 * chunk + i]
        got = self.run(module, held, b, c, self.metadata(codes, rng))
        self.compare((dense, b, c), got, f"{self.name} ({kind})", target, is_held)

    def metadata(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The metadata register; lanes that are not read hold arbitrary values.

        PTX ISA, figures "Sparse MMA metadata layout": for 16-bit and tf32 elements, a lane of group
        g holds four chunks of row g in bits 0-15 and those of row g + 8 in bits 16-31, the next
        lane the next four; for narrower elements it holds eight chunks of row g, the next lane
        those of row g + 8, the two after them the next eight.
        """
        register = rng.integers(0, 1 << 32, LANES).astype(np.uint64)
        chunks = codes.shape[1]
        wide = BITS[self.types[1]] >= 16
        lanes = chunks // 4
        for g in range(8):
            for lane in range(lanes):
                word = 0
                for i in range(8):
                    if wide:
                        code = codes[g + (8 if i >= 4 else 0), 4 * lane + i % 4]
                    else:
                        code = codes[g + lane % 2 * 8, 8 * (lane // 2) + i]
                    word |= int(code) << (4 * i)
                register[4 * g + self.selector * lanes + lane] = word
        return register[None]


def check_chain(matrices: tuple, got: np.ndarray, mode: str, what: str) -> None:
    """f64: fused multiply-adds from C on, in order of k."""
    a, b, c = (x.tolist() for x in matrices)
    for row, column in np.ndindex(*got.shape):
        wanted = c[row][column]
        for k in range(len(b)):
            wanted = exact.fma(exact.F64, a[row][k], b[k][column], wanted, mode)
            if wanted is exact.NAN:
                break
        value = int(got[row, column])
        right = exact.F64.is_nan(value) if wanted is exact.NAN else value == wanted
        assert right, f"{what}: [{row}, {column}] is {value:#x}, wanted {wanted!r}"


def _forms() -> list[Mma]:
    """Every form that ptxas accepts for sm_90a."""
    forms = [Mma(s, (t, "f16", "f16", t)) for s in ("m16n8k8", "m16n8k16") for t in ("f16", "f32")]
    for layouts in itertools.product(("row", "col"), repeat=2):
        for d, c in (("f16", "f16"), ("f32", "f16"), ("f32", "f32")):
            forms.append(Mma("m8n8k4", (d, "f16", "f16", c), layouts))
    forms += [Mma(s, ("f32", "bf16", "bf16", "f32")) for s in ("m16n8k8", "m16n8k16")]
    forms += [Mma(s, ("f32", "tf32", "tf32", "f32")) for s in ("m16n8k4", "m16n8k8")]
    for shape in ("m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16"):
        forms.append(Mma(shape, ("f64",) * 4))
        for mode in (".rn", ".rz", ".rm", ".rp"):  # ptxas accepts it in either place
            forms += [Mma(shape, ("f64",) * 4, before=mode), Mma(shape, ("f64",) * 4, after=mode)]
    for width, shapes in (("8", ("m8n8k16", "m16n8k16", "m16n8k32")),
                          ("4", ("m8n8k32", "m16n8k32", "m16n8k64"))):  # fmt: skip
        for shape, a, b, s in itertools.product(shapes, "su", "su", ("", ".satfinite")):
            forms.append(Mma(shape, ("s32", a + width, b + width, "s32"), before=s))
    for shape, op in itertools.product(("m8n8k128", "m16n8k128", "m16n8k256"), ("xor", "and")):
        forms.append(Mma(shape, ("s32", "b1", "b1", "s32"), after=f".{op}.popc"))
    fp8 = list(itertools.product(("e4m3", "e5m2"), repeat=2))
    for shape, (a, b), t in itertools.product(("m16n8k16", "m16n8k32"), fp8, ("f16", "f32")):
        forms.append(Mma(shape, (t, a, b, t)))
    return forms + _sparse_forms(fp8)


def _sparse_forms(fp8: list[tuple[str, str]]) -> list[Mma]:
    forms = []
    for shapes, types in (
        (("m16n8k16", "m16n8k32"), ("f16", "f16", "f16", "f16")),
        (("m16n8k16", "m16n8k32"), ("f32", "f16", "f16", "f32")),
        (("m16n8k16", "m16n8k32"), ("f32", "bf16", "bf16", "f32")),
        (("m16n8k8", "m16n8k16"), ("f32", "tf32", "tf32", "f32")),
    ):
        for shape, selectors in zip(shapes, (4, 2), strict=True):
            for selector in range(selectors):
                sparse = (".sp", ".sp::ordered_metadata")[selector % 2]
                forms.append(Mma(shape, types, sparse=sparse, selector=selector))
    for width, shapes in (("8", ("m16n8k32", "m16n8k64")), ("4", ("m16n8k64", "m16n8k128"))):
        for shape, selectors in zip(shapes, (2, 1), strict=True):
            modifiers = itertools.product((".sp", ".sp::ordered_metadata"), ("", ".satfinite"))
            for i, (sparse, before) in enumerate(modifiers):
                for a, b in itertools.product("su", "su"):
                    types = ("s32", a + width, b + width, "s32")
                    forms.append(
                        Mma(shape, types, before=before, sparse=sparse,
                            selector=(0, 1, 1, 0)[i] % selectors)
                    )  # fmt: skip
    for sparse, (a, b) in itertools.product((".sp", ".sp::ordered_metadata"), fp8):
        forms.append(Mma("m16n8k64", ("f32", a, b, "f32"), sparse=sparse))
    return forms


MMAS = _forms()
CASES = MMAS


def source() -> str:
    """All forms: run(form, in, out)."""
    parts = ["#include <cstdint>"]
    size = 12
    for first in range(0, len(MMAS), size):
        cases = "\n".join(
            f"  case {first + i}: {{\n    {form.kernel}\n    break;\n  }}"
            for i, form in enumerate(MMAS[first : first + size])
        )
        parts.append(
            f"__global__ void group_{first // size}(int form, const unsigned long long* in,\n"
            "                        unsigned long long* out) {\n"
            f"  const int l = threadIdx.x;\n  switch (form) {{\n{cases}\n  }}\n}}"
        )
    calls = "\n".join(
        f"  if (form / {size} == {g}) group_{g}<<<1, 32>>>(form, in, out);"
        for g in range((len(MMAS) + size - 1) // size)
    )
    parts.append(
        f"void run(int form, const unsigned long long* in, unsigned long long* out) {{\n{calls}\n}}"
    )
    return "\n".join(parts)


PROGRAM = Program("mma_forms", source)
