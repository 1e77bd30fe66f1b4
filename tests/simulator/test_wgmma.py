"""wgmma: every type, shape and layout of operands, and when a product takes effect.

A form's kernel copies an image of shared memory into place, executes one product and stores the
accumulators. Matrices are laid into the image by the formulas of the PTX ISA ("Asynchronous
Warpgroup Level Matrix Shared Memory Layout"), swizzles by the tables of its figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
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
    arguments = (
        torch.from_numpy(image[:shared_bytes].view(np.int32)).to(device),
        shared_bytes // UNIT,
        signed(a_layout.descriptor(M)),
        torch.from_numpy(np.ascontiguousarray(a_registers(values.a))).to(device),
        signed(b_layout.descriptor(form.n)),
        scale_d,
        d,
    )
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


# ---- Special values -----------------------------------------------------------------------------


def check_special_values(target: str) -> None:
    """Infinities, NaNs, denormals, overflow and signed zeros, in rows and columns of their own."""
    form = Form("f32", "bf16", "bf16", 8)
    a, b = torch.ones(M, 16), torch.ones(8, 16)
    a[0, 3], a[1, 3], a[2, 3] = float("inf"), float("-inf"), float("nan")
    a[3, 0], a[3, 1] = float("inf"), float("-inf")
    a[4] = 2.0**-133  # the smallest denormal
    a[5] = 3e38
    a[6] = -0.0
    a[7], a[7, 0] = 0.0, 2.0**127
    b[1] = 0.0  # infinity times zero
    b[2] = -1.0
    b[3, 0] = float("inf")
    b[4] = 2.0**-16  # products below the smallest denormal, f32 holds their sum
    d = np.zeros((M, 8), np.float32)
    d[6] = -0.0
    d[8:16] = np.array([np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38, 1], np.float32)
    values = Operands(to_bytes("bf16", a), to_bytes("bf16", b), d)
    actual = run(target, form, values, Layout(128), Layout(128, at=48 * 1024))
    with np.errstate(all="ignore"):
        exact = d.astype(np.float64) + numbers_of("bf16", values.a) @ numbers_of("bf16", values.b).T
        wanted = exact.astype(np.float32)
    assert np.array_equal(np.isnan(actual), np.isnan(wanted))
    assert (actual.view(np.uint32)[np.isnan(wanted)] == 0x7FFFFFFF).all(), "NaNs are canonical"
    infinite = np.isinf(wanted)
    assert infinite.any() and np.array_equal(actual[infinite], wanted[infinite])
    finite = np.isfinite(wanted)
    close = np.abs(actual[finite] - exact[finite]) <= 1e-6 * np.abs(exact[finite]) + 2.0**-149
    assert close.all()
    assert (actual[4, 0], actual[4, 4]) == (2.0**-129, 2.0**-145)


def check_narrow_rounding(target: str) -> None:
    """An f16 accumulator is rounded once, to nearest even, and overflows to infinity."""
    form = Form("f16", "f16", "f16", 8)
    a, b = torch.zeros(M, 16), torch.ones(8, 16)
    a[0, :2] = torch.tensor([1024.0, 1.0])  # 2049: a tie, and more than a tie
    a[1, :3] = torch.tensor([1024.0, 1.0, 2.0**-10])
    a[2] = 4096.0  # 65536
    a[3], a[3, 0] = 0.0, 2.0**-24
    b[1] *= 2.0**-1  # the denormal becomes a tie with zero
    d = np.zeros((M, 8), np.float16)
    d[0] = d[1] = 1024
    values = Operands(to_bytes("f16", a), to_bytes("f16", b), d)
    actual = run(target, form, values, Layout(), Layout(at=48 * 1024))
    exact = d.astype(np.float64) + numbers_of("f16", values.a) @ numbers_of("f16", values.b).T
    with np.errstate(over="ignore"):
        assert np.array_equal(actual, exact.astype(np.float16))
    assert [float(actual[i, 0]) for i in range(4)] == [2048, 2050, np.inf, 2.0**-24]
    assert actual[3, 1] == 0


SPECIAL = [
    Case("special values", (FORMS[0].name,), check_special_values),
    Case("f16 rounding", (Form("f16", "f16", "f16", 8).name,), check_narrow_rounding),
]


# ---- When a product takes effect ----------------------------------------------------------------

SCENARIOS = (
    PROLOGUE
    + """
// d += A * B, m64n8k16; both matrices are K-major without a swizzle.
__device__ u64 descriptor(const void* p) {
  const u64 start = (static_cast<uint32_t>(__cvta_generic_to_shared(p)) & 0x3FFFF) >> 4;
  return start | u64{128 / 16} << 16 | u64{256 / 16} << 32;
}
__device__ void multiply(float (&d)[4], u64 a, u64 b, int scale_d = 1) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %6, 0;"
               "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p,"
               "1, 1, 0, 0;}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b), "r"(scale_d));
}
__device__ void arrive() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ void wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }

constexpr int A_BYTES = 64 * 32, B_BYTES = 8 * 32;
constexpr unsigned ONE = 0x3F803F80, TWO = 0x40004000;  // pairs of bf16

// Matrices of a constant: A, then three B.
__device__ unsigned* constant(int at, int bytes, unsigned value) {
  unsigned* p = reinterpret_cast<unsigned*>(shared) + at / 4;
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) p[i] = value;
  return p;
}
struct Tiles { unsigned *a, *b0, *b1, *b2; };
__device__ Tiles tiles() {
  Tiles t{constant(0, A_BYTES, ONE), constant(A_BYTES, B_BYTES, ONE),
          constant(A_BYTES + B_BYTES, B_BYTES, ONE), constant(A_BYTES + 2 * B_BYTES, B_BYTES, ONE)};
  __syncthreads();
  return t;
}

// In PTX: nvcc would copy the accumulators that are stored too early, and these copies wait.
#define PRODUCT(d, b) "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {" \\
  #d "0, " #d "1, " #d "2, " #d "3}, %1, " #b ", 1, 1, 1, 0, 0;"
#define COMMIT "wgmma.commit_group.sync.aligned;"
#define WAIT(n) "wgmma.wait_group.sync.aligned " #n ";"
#define STORE(at, r) "st.global.f32 [%0 + " #at "], " #r ";"
__global__ void groups(float* out) {
  const Tiles t = tiles();
  asm volatile("{.reg .f32 x<4>, y<4>, z<4>;"
               "mov.b32 x0, 0; mov.b32 x1, 0; mov.b32 x2, 0; mov.b32 x3, 0;"
               "mov.b32 y0, 0; mov.b32 y1, 0; mov.b32 y2, 0; mov.b32 y3, 0;"
               "mov.b32 z0, 0; mov.b32 z1, 0; mov.b32 z2, 0; mov.b32 z3, 0;"
               "wgmma.fence.sync.aligned;"
               PRODUCT(x, %2) PRODUCT(x, %2) COMMIT PRODUCT(y, %3) COMMIT PRODUCT(z, %4) COMMIT
               WAIT(2) STORE(0, x0) STORE(512, y0)
               WAIT(1) STORE(1024, y1) STORE(1536, z1)
               WAIT(0) STORE(2048, z2) "}"
               :: "l"(out + threadIdx.x), "l"(descriptor(t.a)), "l"(descriptor(t.b0)),
                  "l"(descriptor(t.b1)), "l"(descriptor(t.b2)) : "memory");
}
void run_groups(float* out) { groups<<<1, 128, 4096>>>(out); }

// Each stage of shared memory is filled again: before its product was waited for, and after.
__global__ void overwritten(float* out) {
  const Tiles t = tiles();
  float x[4] = {}, y[4] = {};
  arrive();
  multiply(x, descriptor(t.a), descriptor(t.b0));
  commit();
  constant(A_BYTES, B_BYTES, TWO);
  __syncthreads();
  wait<0>();
  out[threadIdx.x] = x[0];
  multiply(y, descriptor(t.a), descriptor(t.b1));
  commit();
  wait<0>();
  __syncthreads();
  constant(A_BYTES + B_BYTES, B_BYTES, TWO);
  __syncthreads();
  out[128 + threadIdx.x] = y[0];
}
void run_overwritten(float* out) { overwritten<<<1, 128, 4096>>>(out); }

// nvcc copies the accumulators of the first product, which is still on its way.
__global__ void copied(float* out, int two) {
  const Tiles t = tiles();
  float x[4] = {}, y[4];
  arrive();
  multiply(x, descriptor(t.a), descriptor(t.b0));
  for (int i = 0; i < 4; i++) asm volatile("mov.f32 %0, %1;" : "=f"(y[i]) : "f"(x[i]));
  multiply(x, descriptor(t.a), descriptor(t.b0));
  multiply(y, descriptor(t.a), descriptor(t.b0), two);
  multiply(y, descriptor(t.a), descriptor(t.b0), two);
  commit();
  wait<0>();
  out[threadIdx.x] = x[3];
  out[128 + threadIdx.x] = y[3];
}
void run_copied(float* out) { copied<<<1, 128, 4096>>>(out, 2); }

// A in registers that are used again at once; nobody waits for the last product.
__global__ void captured(float* out) {
  const Tiles t = tiles();
  float x[4] = {}, y[4] = {};
  arrive();
  asm volatile("{.reg .b32 r<4>; mov.b32 r0, %5; mov.b32 r1, %5; mov.b32 r2, %5; mov.b32 r3, %5;"
               "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3},"
               "{r0, r1, r2, r3}, %4, 1, 1, 1, 0; mov.b32 r0, 0; mov.b32 r1, 0;}"
               : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
               : "l"(descriptor(t.b0)), "r"(TWO));
  commit();
  multiply(y, descriptor(t.a), descriptor(t.b1));
  wait<0>();
  asm volatile("st.global.f32 [%0], %1;" :: "l"(out + threadIdx.x), "f"(x[2]) : "memory");
  asm volatile("st.global.f32 [%0], %1;" :: "l"(out + 128 + threadIdx.x), "f"(y[2]) : "memory");
}
void run_captured(float* out) { captured<<<1, 128, 4096>>>(out); }

// A pipeline over K with two warpgroups, 128-byte rows, and a descriptor that advances along them.
// C [128, N] = A [128, K] B [N, K]^T.
constexpr int BK = 64, STAGES = 2;
__device__ u64 advancing(const void* p) {
  const u64 start = (static_cast<uint32_t>(__cvta_generic_to_shared(p)) & 0x3FFFF) >> 4;
  return start | u64{1} << 16 | u64{1024 / 16} << 32 | u64{1} << 62;
}
__device__ void stage(uint4* to, const uint4* from, int rows, int k_units) {
  for (int i = threadIdx.x; i < rows * 8; i += blockDim.x) {
    const int row = i / 8, unit = i % 8;
    to[8 * row + (unit ^ (row % 8))] = from[row * k_units + unit];
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__global__ void __launch_bounds__(256) pipeline(const uint4* A, const uint4* B, float* C, int K) {
  constexpr int N = 32;
  constexpr int UNITS = (128 + N) * 8;
  const int group = threadIdx.x / 128;
  if (group == 0) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  else asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
  float d[16];
  for (int i = 0; i < 16; i++) d[i] = 0;
  for (int k = 0; k < K / BK; k++) {
    uint4* a = shared + k % STAGES * UNITS;
    uint4* b = a + 128 * 8;
    stage(a, A + k * 8, 128, K / 8);
    stage(b, B + k * 8, N, K / 8);
    __syncthreads();
    arrive();
    for (int i = 0; i < BK / 16; i++) {
      asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
                   "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15},"
                   "%16, %17, 1, 1, 1, 0, 0;"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                     "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                     "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
                   : "l"(advancing(a + group * 64 * 8) + 2 * i), "l"(advancing(b) + 2 * i));
    }
    commit();
    wait<1>();
    __syncthreads();
  }
  wait<0>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = 0; i < 16; i++) {
    const int row = warp * 16 + lane / 4 + 8 * (i / 2 % 2);
    C[row * N + 8 * (i / 4) + lane % 4 * 2 + i % 2] = d[i];
  }
}
void run_pipeline(const int* a, const int* b, float* c, int k) {
  cudaFuncSetAttribute(pipeline, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536);
  pipeline<<<1, 256, STAGES * (128 + 32) * 128>>>(
      reinterpret_cast<const uint4*>(a), reinterpret_cast<const uint4*>(b), c, k);
}

// ---- Mistakes ----
__global__ void mistaken(int how, float* out) {
  float x[4] = {};
  u64 a = descriptor(shared), b = a;
  if (how == 1) b += (4096 - 256) / 16;      // fits exactly
  if (how == 2) b += (4096 - 256) / 16 + 1;  // the last unit does not
  if (how == 3) b = b - 1;                   // in front of shared memory
  if (how == 4) a += u64{64} << 32;          // a stride that is too long, for A
  if (how == 5 && threadIdx.x == 37) return;
  if (how == 6 && threadIdx.x % 32 >= 16) {
    asm volatile("nanosleep.u32 1;");
    multiply(x, a, b);
  } else {
    multiply(x, a, b);  // how 6: the lanes never meet
  }
  commit();
  wait<0>();
  out[threadIdx.x] = x[0];
}
void run_mistaken(int how, int threads, float* out) { mistaken<<<1, threads, 4096>>>(how, out); }
__global__ void guarded(float* out) {
  float x[4] = {};
  asm volatile("{.reg .pred p; .reg .b32 r; mov.u32 r, %%laneid; setp.lt.u32 p, r, 9;"
               "@p wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %4,"
               "1, 1, 1, 0, 0;}"
               : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3]) : "l"(descriptor(shared)));
  out[threadIdx.x] = x[0];
}
void run_guarded(float* out) { guarded<<<1, 128, 4096>>>(out); }
"""
)


@cache
def scenarios(target: str) -> ModuleType:
    names = [f"run_{n}" for n in ("groups", "overwritten", "copied", "captured", "pipeline")]
    if target == "simulator":
        names += ["run_mistaken", "run_guarded"]
    return inline(SCENARIOS, names, target=target, name="wgmma_scenarios")


def output(name: str, rows: int) -> list[set[float]]:
    """The different values in each row of 128 that a scenario writes."""
    out = torch.zeros(rows, THREADS)
    getattr(scenarios("simulator"), f"run_{name}")(out)
    return [set(row.tolist()) for row in out]


def test_groups_complete_in_order():
    # One product is 16. Each wait leaves the youngest groups with their old values.
    assert output("groups", 5) == [{32.0}, {0.0}, {16.0}, {0.0}, {16.0}]


def test_shared_memory_is_read_when_the_product_takes_effect():
    # The first stage was overwritten with twos before its wait.
    assert output("overwritten", 2) == [{32.0}, {16.0}]


def test_a_copy_of_accumulators_waits_for_their_product():
    assert output("copied", 2) == [{32.0}, {48.0}]


def test_operands_in_registers_are_captured_and_nobody_waits():
    assert output("captured", 2) == [{32.0}, {0.0}]


def check_pipeline(target: str) -> None:
    torch.manual_seed(0)
    device = "cuda" if target == "gpu" else "cpu"
    k = 64 * 5
    a, b = torch.randn(128, k).bfloat16(), torch.randn(32, k).bfloat16()
    c = torch.zeros(128, 32, device=device)
    words = [t.view(torch.int32).to(device) for t in (a, b)]
    scenarios(target).run_pipeline(*words, c, k)
    exact = a.double() @ b.double().T
    bound = 1.01 * k * 2.0**-24 * (a.double().abs() @ b.double().abs().T)
    assert ((c.cpu().double() - exact).abs() <= bound).all()


PIPELINE = Case(
    "pipeline",
    (
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16",
        "setmaxnreg.inc.sync.aligned.u32",
        "setmaxnreg.dec.sync.aligned.u32",
    ),
    check_pipeline,
)


# ---- Findings -----------------------------------------------------------------------------------


def finding(name: str, *arguments: object) -> SimulatorError:
    with pytest.raises(SimulatorError) as error:
        getattr(scenarios("simulator"), f"run_{name}")(*arguments)
    return error.value


def test_operands_outside_of_shared_memory_are_found():
    out = torch.zeros(THREADS)
    scenarios("simulator").run_mistaken(1, THREADS, out)
    for how, text in (
        (2, "matrix B leads out of bounds: a read of 16 bytes ends 16 bytes past the end"),
        (3, "matrix B leads out of bounds: a read of 16 bytes ends 16 bytes before the start"),
        (4, "matrix A leads out of bounds"),
    ):
        found = finding("mistaken", how, THREADS, out)
        assert found.kind == "memcheck" and text in str(found), str(found)
        assert "wgmma.mma_async" in str(found), "at the product, not at the wait"


def test_all_lanes_take_part():
    out = torch.zeros(THREADS)
    found = finding("mistaken", 5, THREADS, out)
    assert found.kind == "synccheck" and "lane 5 has exited" in str(found), str(found)
    assert finding("mistaken", 6, THREADS, out).kind == "synccheck"
    found = finding("guarded", out)
    assert found.kind == "synccheck" and "the guard of lane 9 is false" in str(found), str(found)


def test_a_warpgroup_is_complete():
    for threads, text in ((96, "warpgroup 0"), (120, "warpgroup 0"), (160, "warpgroup 1")):
        found = finding("mistaken", 0, threads, torch.zeros(threads))
        assert found.kind == "synccheck" and text in str(found), str(found)


CASES = [Case(form.id, (form.name,), check_form(form)) for form in FORMS] + SPECIAL + [PIPELINE]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wgmma(case: Case):
    case.check()
