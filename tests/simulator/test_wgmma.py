"""wgmma: every type, shape and layout of operands, and when a product takes effect.

A form's kernel copies an image of shared memory into place, executes one product and stores the
accumulators. Matrices are laid into the image by the formulas of the PTX ISA ("Asynchronous
Warpgroup Level Matrix Shared Memory Layout"), swizzles by the tables of its figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType

import numpy as np
import pytest
import torch

from simulator import SimulatorError
from workbench.toolchain.inline import inline

M = 64
THREADS = 128
UNIT = 16  # bytes
ROW_BYTES = 32  # of a row of A, or a column of B
SHARED_BYTES = 200 * 1024
ALL_N = range(8, 257, 8)
INTEGER_N = (8, 16, 24, 32, *range(48, 257, 16))

# ---- Elements -----------------------------------------------------------------------------------

DTYPES = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "s8": torch.int8,
    "u8": torch.uint8,
}
BITS = {"f16": 16, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8, "b1": 1}
INTEGERS = ("s8", "u8", "b1")


def random_rows(type_: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of ROW_BYTES bytes with elements of moderate size; any integer, any bit."""
    if type_ in INTEGERS:
        return rng.integers(0, 256, (rows, ROW_BYTES), dtype=np.uint8)
    numbers = torch.from_numpy(rng.standard_normal((rows, 8 * ROW_BYTES // BITS[type_])))
    return to_bytes(type_, numbers)


def to_bytes(type_: str, numbers: torch.Tensor) -> np.ndarray:
    return numbers.float().to(DTYPES[type_]).contiguous().view(torch.uint8).numpy().copy()


def numbers_of(type_: str, rows: np.ndarray) -> np.ndarray:
    """The elements as float64; they and the products of 8-bit integers are exact."""
    if type_ == "b1":
        return np.unpackbits(rows, axis=1, bitorder="little").astype(np.float64)
    if type_ == "tf32":
        bits = rows.view(np.uint32) & np.uint32(0xFFFFE000)
        return bits.view(np.float32).astype(np.float64)
    elements = torch.from_numpy(rows.copy()).view(DTYPES[type_])
    return elements.to(torch.float64).numpy()


# ---- Layouts ------------------------------------------------------------------------------------

# Which 16-byte unit of a row lies at each place, for the eight rows of a pattern (figures of the
# swizzling modes). A row is as long as the swizzle is wide.
PATTERNS = {
    32: [[0, 1]] * 4 + [[1, 0]] * 4,
    64: [[0, 1, 2, 3]] * 2 + [[1, 0, 3, 2]] * 2 + [[2, 3, 0, 1]] * 2 + [[3, 2, 1, 0]] * 2,
    128: [[place ^ row for place in range(8)] for row in range(8)],
}
LAYOUT_TYPES = {0: 0, 128: 1, 64: 2, 32: 3}


@dataclass(frozen=True)
class Layout:
    """How a matrix lies in shared memory.

    swizzle: bytes of a swizzled row, or 0.
    along_k: K-major; otherwise MN-major, for 16-bit types.
    at: the byte where the tile's first swizzle pattern starts.
    skip: bytes along a swizzled row from there to the product's first K element (K-major), as in
        a loop over a row.
    gap: patterns left free between one and the next.
    base_offset: of the descriptor, in 128-byte lines.
    """

    swizzle: int = 0
    along_k: bool = True
    at: int = 0
    skip: int = 0
    gap: int = 0
    base_offset: int = 0

    @property
    def period(self) -> int:
        """Bytes of a core matrix, or of eight swizzled rows."""
        return 8 * (self.swizzle or UNIT)

    def strides(self, rows: int) -> tuple[int, int]:
        """Leading and stride byte offsets."""
        step = self.period * (1 + self.gap)
        if self.along_k:
            return (step * (rows // 8) if not self.swizzle else 16), step
        if not self.swizzle:  # along k, then along the rows
            return step, 2 * step
        return 2 * step, step

    def place(self, row: int, byte: int, rows: int) -> int:
        """Where a byte lies: of a row along K (K-major), or of a column along the rows."""
        leading, stride = self.strides(rows)
        wide = self.swizzle or UNIT
        if self.along_k:
            line, along = row, byte + self.skip
            blocks = stride * (row // 8) + (leading * (along // UNIT) if not self.swizzle else 0)
        else:
            line, along = row, byte  # line: k, along: bytes along the rows
            outer = along // wide
            blocks = (stride if not self.swizzle else leading) * outer
            blocks += (leading if not self.swizzle else stride) * (line // 8)
        unit, rest = divmod(along % wide, UNIT)
        if self.swizzle:
            unit = PATTERNS[self.swizzle][line % 8].index(unit)
        elif self.along_k:
            unit = 0
        return self.at + blocks + wide * (line % 8) + UNIT * unit + rest

    def lay(self, matrix: np.ndarray, image: np.ndarray) -> None:
        """Put rows of ROW_BYTES bytes into an image of shared memory."""
        rows = len(matrix)
        if self.along_k:
            for row, byte in itertools.product(range(rows), range(0, ROW_BYTES, UNIT)):
                at = self.place(row, byte, rows)
                image[at : at + UNIT] = matrix[row, byte : byte + UNIT]
            return
        columns = np.ascontiguousarray(matrix.view(np.uint16).T).view(np.uint8)  # [K, 2 * rows]
        for k, byte in itertools.product(range(len(columns)), range(0, 2 * rows, UNIT)):
            at = self.place(k, byte, rows)
            image[at : at + UNIT] = columns[k, byte : byte + UNIT]

    def descriptor(self, rows: int) -> int:
        leading, stride = self.strides(rows)
        bits = (self.at + self.skip) >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32
        return bits | self.base_offset << 49 | LAYOUT_TYPES[self.swizzle] << 62


# ---- Forms --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """An instruction: types, columns and modifiers."""

    d: str
    a: str
    b: str
    n: int
    a_in_registers: bool = False
    signs: tuple[int, int] = (1, 1)
    majors: tuple[int, int] = (0, 0)  # 1: MN-major
    satfinite: bool = False

    @property
    def k(self) -> int:
        return 8 * ROW_BYTES // BITS[self.a]

    @property
    def registers(self) -> int:
        return self.n // (4 if self.d == "f16" else 2)

    @property
    def name(self) -> str:
        text = f"wgmma.mma_async.sync.aligned.m64n{self.n}k{self.k}.{self.d}.{self.a}.{self.b}"
        return text + ".and.popc" * (self.a == "b1") + ".satfinite" * self.satfinite

    @property
    def id(self) -> str:
        parts = [self.d, self.a, self.b, f"n{self.n}"]
        parts += ["registers"] * self.a_in_registers + ["satfinite"] * self.satfinite
        if self.signs != (1, 1):
            parts.append("".join("+-"[s < 0] for s in self.signs))
        if self.majors != (0, 0):
            parts.append("".join("km"[m] for m in self.majors))
        return "-".join(parts)

    def ptx(self) -> str:
        """The whole kernel: %0 is D in memory, %1 and %2 are A and B, %3 is scale-d."""
        registers = range(self.registers)
        immediates: list[int] = []
        if self.a not in INTEGERS:
            immediates += self.signs
        if BITS[self.a] == 16:
            immediates += self.majors[self.a_in_registers :]
        a = "{a0, a1, a2, a3}" if self.a_in_registers else "%1"
        lines = [".reg .b32 d<128>, a<4>;", ".reg .pred p;", "setp.ne.b32 p, %3, 0;"]
        lines += [f"ld.global.b32 d{i}, [%0 + {4 * THREADS * i}];" for i in registers]
        if self.a_in_registers:
            lines += [f"ld.global.b32 a{i}, [%1 + {4 * THREADS * i}];" for i in range(4)]
        lines += [
            "wgmma.fence.sync.aligned;",
            f"{self.name} {{{', '.join(f'd{i}' for i in registers)}}}, {a}, %2, p"
            + "".join(f", {i}" for i in immediates)
            + ";",
            "wgmma.commit_group.sync.aligned;",
            "wgmma.wait_group.sync.aligned 0;",
        ]
        lines += [f"st.global.b32 [%0 + {4 * THREADS * i}], d{i};" for i in registers]
        return "{" + " ".join(lines) + "}"

    def kernel(self, index: int) -> str:
        a = "a + threadIdx.x * 4" if self.a_in_registers else "a + base"
        return f"""
__global__ void product_{index}_kernel(const uint4* image, int units, u64 a, u64 b, int scale_d,
                                       unsigned* d) {{
  const u64 base = fill(image, units);
  asm volatile("{self.ptx()}"
               :: "l"(d + threadIdx.x), "l"({a}), "l"(b + base), "r"(scale_d) : "memory");
}}
void product_{index}(const int* image, int units, long long a, const int* a_registers, long long b,
                     int scale_d, int* d) {{
  cudaFuncSetAttribute(product_{index}_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       {SHARED_BYTES});
  product_{index}_kernel<<<1, {THREADS}, 16 * units>>>(
      reinterpret_cast<const uint4*>(image), units,
      {"reinterpret_cast<u64>(a_registers)" if self.a_in_registers else "a"}, b, scale_d,
      reinterpret_cast<unsigned*>(d));
}}
"""


PROLOGUE = """
#include <cstdint>
using u64 = unsigned long long;
extern __shared__ __align__(1024) uint4 shared[];
// Copies the image; the start of shared memory, as descriptors count it.
__device__ u64 fill(const uint4* image, int units) {
  for (int i = threadIdx.x; i < units; i += blockDim.x) shared[i] = image[i];
#ifdef FENCE
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  __syncthreads();
  return (static_cast<uint32_t>(__cvta_generic_to_shared(shared)) & 0x3FFFF) >> 4;
}
"""


def all_forms() -> Iterator[Form]:
    yield from (Form("f32", "bf16", "bf16", n) for n in ALL_N)
    some = (8, 24, 256)
    for d in ("f32", "f16"):
        yield from (Form(d, "f16", "f16", n) for n in some)
    yield from (Form("f32", "tf32", "tf32", n) for n in some)
    for a, b in itertools.product(("e4m3", "e5m2"), repeat=2):
        yield Form("f32", a, b, 256 if a == b else 8)
        yield Form("f16", a, b, 24 if a == b else 8)
    for a, b in itertools.product(("s8", "u8"), repeat=2):
        yield from (Form("s32", a, b, 24, satfinite=s) for s in (False, True))
    yield from (Form("s32", "s8", "u8", n) for n in (8, 80, 256))
    yield from (Form("s32", "b1", "b1", n) for n in some)
    one_each = [("f32", t, t) for t in ("f16", "bf16", "tf32", "e4m3")]
    one_each += [("f16", "f16", "f16"), ("f16", "e5m2", "e4m3"), ("s32", "u8", "s8")]
    one_each += [("s32", "b1", "b1")]
    yield from (Form(*types, 16, a_in_registers=True) for types in one_each)
    for signs in ((-1, 1), (1, -1), (-1, -1)):
        yield Form("f32", "f16", "f16", 16, signs=signs)
    yield Form("f16", "e4m3", "e4m3", 16, signs=(-1, 1))
    yield Form("f32", "tf32", "tf32", 16, signs=(1, -1), a_in_registers=True)
    for majors in ((0, 1), (1, 0), (1, 1)):
        yield from (Form("f32", "bf16", "bf16", n, majors=majors) for n in (64, 256))
    yield Form("f32", "f16", "f16", 128, majors=(1, 1))
    yield Form("f16", "f16", "f16", 64, majors=(0, 1), a_in_registers=True)


FORMS = list(all_forms())


@cache
def module(target: str) -> ModuleType:
    source = PROLOGUE + "".join(form.kernel(i) for i, form in enumerate(FORMS))
    names = [f"product_{i}" for i in range(len(FORMS))]
    return inline(source, names, target=target, name="wgmma_forms")


# ---- Accumulators -------------------------------------------------------------------------------


def positions(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of D of each element [element, thread] (PTX ISA, register fragments)."""
    element, thread = np.meshgrid(np.arange(n // 2), np.arange(THREADS), indexing="ij")
    warp, lane = thread // 32, thread % 32
    rows = 16 * warp + lane // 4 + 8 * (element // 2 % 2)
    return rows, 8 * (element // 4) + 2 * (lane % 4) + element % 2


def to_registers(form: Form, d: np.ndarray) -> np.ndarray:
    """D of 32-bit or f16 elements, as its registers [register, thread]."""
    elements = d[positions(form.n)]
    if form.d != "f16":
        return elements.view(np.int32)
    pairs = elements.view(np.uint16).astype(np.uint32)
    return (pairs[0::2] | pairs[1::2] << 16).view(np.int32)


def from_registers(form: Form, registers: np.ndarray) -> np.ndarray:
    if form.d == "f16":
        words = registers.view(np.uint32)
        elements = np.empty((form.n // 2, THREADS), np.uint16)
        elements[0::2], elements[1::2] = words & 0xFFFF, words >> 16
        elements = elements.view(np.float16)
    else:
        elements = registers.view(np.float32 if form.d == "f32" else np.int32)
    d = np.empty((M, form.n), elements.dtype)
    d[positions(form.n)] = elements
    return d


def a_registers(rows: np.ndarray) -> np.ndarray:
    """A [64, 32 bytes] as its four registers [register, thread]."""
    register, thread = np.meshgrid(np.arange(4), np.arange(THREADS), indexing="ij")
    row = 16 * (thread // 32) + thread % 32 // 4 + 8 * (register % 2)
    return rows.view(np.int32)[row, 4 * (register // 2) + thread % 4]


# ---- Running and comparing ----------------------------------------------------------------------


@dataclass
class Operands:
    a: np.ndarray  # [64, 32] bytes
    b: np.ndarray  # [n, 32] bytes
    d: np.ndarray  # [64, n]


def operands(form: Form, seed: int) -> Operands:
    rng = np.random.default_rng(seed)
    if form.d == "s32":
        d = rng.integers(-(2**31), 2**31, (M, form.n)).astype(np.int32)
    else:
        d = rng.standard_normal((M, form.n)).astype(np.float32 if form.d == "f32" else np.float16)
    return Operands(random_rows(form.a, M, rng), random_rows(form.b, form.n, rng), d)


def run(
    target: str,
    form: Form,
    values: Operands,
    a_layout: Layout,
    b_layout: Layout,
    scale_d: int = 1,
    shared_bytes: int = SHARED_BYTES,
) -> np.ndarray:
    """D after the product, in the type of its elements."""
    image = np.random.default_rng(1).integers(0, 256, SHARED_BYTES, dtype=np.uint8)
    a_layout.lay(values.a, image)
    b_layout.lay(values.b, image)
    device = "cuda" if target == "gpu" else "cpu"
    d = torch.from_numpy(to_registers(form, values.d).copy()).to(device)
    to_signed = (1 << 63) - 1
    arguments = (
        torch.from_numpy(image[:shared_bytes].view(np.int32)).to(device),
        shared_bytes // UNIT,
        signed(a_layout.descriptor(M)),
        torch.from_numpy(np.ascontiguousarray(a_registers(values.a))).to(device),
        signed(b_layout.descriptor(form.n)),
        scale_d,
        d,
    )
    assert to_signed
    getattr(module(target), f"product_{FORMS.index(form)}")(*arguments)
    return from_registers(form, d.cpu().numpy())


def signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


def expect(form: Form, values: Operands, scale_d: int, actual: np.ndarray, what: str) -> None:
    """Compare with the product of float64, or of exact integers."""
    a, b = numbers_of(form.a, values.a), numbers_of(form.b, values.b)
    sign = form.signs[0] * form.signs[1]
    before = values.d.astype(np.float64) * scale_d
    exact = before + sign * (a @ b.T)
    if form.d == "s32":
        whole = exact.astype(np.int64)
        low, high = -(2**31), 2**31 - 1
        wanted = np.clip(whole, low, high) if form.satfinite else whole.astype(np.int32)
        assert np.array_equal(actual, wanted), f"{form.name}, {what}"
        return
    size = np.abs(before) + np.abs(a) @ np.abs(b).T
    bound = 1.01 * form.k * 2.0**-24 * size
    if form.d == "f16":
        bound += 2.0**-11 * np.abs(exact) * 1.01 + 2.0**-25
    wrong = ~(np.abs(actual.astype(np.float64) - exact) <= bound)
    assert not wrong.any(), (
        f"{form.name}, {what}: {wrong.sum()} of {wrong.size} elements, first at "
        f"{np.argwhere(wrong)[0]}: {actual[wrong][0]}, expected {exact[wrong][0]}"
    )


# Of A and of B; tiles of B stand behind those of A.
def layouts(form: Form) -> Iterator[tuple[Layout, Layout]]:
    a_k, b_k = (not major for major in form.majors)
    behind = 48 * 1024
    for swizzle in (0, 32, 64, 128):
        # MN-major needs a whole swizzled row of M or N.
        b_swizzle = swizzle if b_k or 2 * form.n % (swizzle or 1) == 0 else 32
        yield Layout(swizzle, a_k), Layout(b_swizzle, b_k, behind)
    yield Layout(64, a_k, gap=1), Layout(0, b_k, behind, gap=2)
    if a_k and b_k:
        yield Layout(128, skip=32), Layout(128, at=behind, skip=96, gap=1)
        yield Layout(64, skip=32), Layout(32, at=behind)
    yield (
        Layout(128, a_k, at=3 * 128, base_offset=3),
        Layout(0 if 2 * form.n % 64 and not b_k else 64, b_k, behind + 128 * 2, base_offset=2),
    )


# ---- Cases --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Something to check; `forms` are the instructions that it executes."""

    name: str
    forms: tuple[str, ...]
    run: Callable[[str], None]

    def __str__(self) -> str:
        return self.name

    def check(self, full: bool = False, target: str = "simulator") -> None:
        self.run(target)


def check_form(form: Form) -> Callable[[str], None]:
    def check(target: str) -> None:
        for i, (a, b) in enumerate(layouts(form)):
            values = operands(form, seed=i)
            scale_d = 0 if i == 1 else 1
            actual = run(target, form, values, a, b, scale_d)
            expect(form, values, scale_d, actual, f"A in {a}, B in {b}, scale-d {scale_d}")

    return check


CASES = [Case(form.id, (form.name,), check_form(form)) for form in FORMS]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wgmma(case: Case):
    case.check()
