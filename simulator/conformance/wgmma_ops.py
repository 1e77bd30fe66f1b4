"""Matrix products by four warps: wgmma.mma_async, and setmaxnreg (PTX ISA 9.7.15).

A kernel copies an image of shared memory into place, executes one product and stores the
accumulators. Matrices are laid out in the image by the formulas of the PTX ISA ("Asynchronous
Warpgroup Level Matrix Shared Memory Layout"), swizzles by the tables of its figures. Every number
of columns of every combination of types runs, and some forms in every layout and with every
modifier.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from simulator.conformance.micro import Program

M = 64
THREADS = 128
UNIT = 16  # bytes
ROW_BYTES = 32  # of a row of A, or a column of B
BEHIND = 16 * 1024  # the start of B, after A
MAX_SHARED_BYTES = 200 * 1024
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


def random_rows(type_: str, rows: int, bytes_: int, rng: np.random.Generator) -> np.ndarray:
    """Rows with elements of moderate size; any integer, any bit."""
    if type_ in INTEGERS:
        return rng.integers(0, 256, (rows, bytes_), dtype=np.uint8)
    numbers = torch.from_numpy(rng.standard_normal((rows, 8 * bytes_ // BITS[type_])))
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

# The 16-byte unit of a row at each place, for the eight rows of a pattern (figures of the swizzling
# modes). A row is as long as the swizzle is wide.
PATTERNS = {
    32: [[0, 1]] * 4 + [[1, 0]] * 4,
    64: [[0, 1, 2, 3]] * 2 + [[1, 0, 3, 2]] * 2 + [[2, 3, 0, 1]] * 2 + [[3, 2, 1, 0]] * 2,
    128: [[place ^ row for place in range(8)] for row in range(8)],
}
LAYOUT_TYPES = {0: 0, 128: 1, 64: 2, 32: 3}


@dataclass(frozen=True)
class Layout:
    """The layout of a matrix in shared memory.

    swizzle: bytes of a swizzled row, or 0.
    along_k: K-major; otherwise MN-major, for 16-bit types.
    at: the byte where the tile's first swizzle pattern starts.
    skip: bytes along a swizzled row from there to the product's first K element (K-major), as in a
        loop over a row.
    gap: unused patterns between one and the next.
    base_offset: the descriptor's, in 128-byte lines.
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
        along_rows = 4 * step  # after four steps along k, as many as any B has
        return (along_rows, step) if self.swizzle else (step, along_rows)

    def units(self, rows: int, bytes_: int) -> np.ndarray:
        """The positions of a matrix's 16-byte units [line, unit], counted in units.

        Lines are its rows along K (K-major), or its columns along the rows.
        """
        line, unit = np.ogrid[:rows, : bytes_ // UNIT]
        if not self.along_k:
            line, unit = np.ogrid[: bytes_ // 2, : 2 * rows // UNIT]
        return self.place(line, UNIT * unit, rows) // UNIT

    def place(self, line: np.ndarray, byte: np.ndarray, rows: int) -> np.ndarray:
        """The positions of the bytes of lines."""
        leading, stride = self.strides(rows)
        wide = self.swizzle or UNIT
        along, outer = byte, byte // wide
        if self.along_k:
            along = byte + self.skip
            blocks = stride * (line // 8) + (0 if self.swizzle else leading * outer)
        elif self.swizzle:
            blocks = leading * outer + stride * (line // 8)
        else:
            blocks = stride * outer + leading * (line // 8)
        unit = along % wide // UNIT
        if self.swizzle:
            unit = np.argsort(PATTERNS[self.swizzle])[line % 8, unit]
        return self.at + blocks + wide * (line % 8) + UNIT * unit

    def lay(self, matrix: np.ndarray, image: np.ndarray) -> int:
        """Put rows of bytes into an image of shared memory; return the end offset."""
        rows, bytes_ = matrix.shape
        lines = matrix
        if not self.along_k:
            lines = np.ascontiguousarray(matrix.view(np.uint16).T).view(np.uint8)
        places = self.units(rows, bytes_)
        image.reshape(-1, UNIT)[places] = lines.reshape(*places.shape, UNIT)
        return UNIT * (int(places.max()) + 1)

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
    sparse: bool = False
    selector: int = 0

    @property
    def b_bytes(self) -> int:
        """Of a column."""
        return ROW_BYTES * (2 if self.sparse else 1)

    @property
    def k(self) -> int:
        return 8 * self.b_bytes // BITS[self.a]

    @property
    def types(self) -> str:
        return f"{self.d}.{self.a}.{self.b}" + ".and.popc" * (self.a == "b1")

    @property
    def registers(self) -> int:
        return self.n // (4 if self.d == "f16" else 2)

    @property
    def name(self) -> str:
        shape = f"m64n{self.n}k{self.k}"
        text = f"wgmma.mma_async{'.sp' * self.sparse}.sync.aligned.{shape}.{self.types}"
        return text + ".satfinite" * self.satfinite

    @property
    def id(self) -> str:
        parts = [self.d, self.a, self.b, f"n{self.n}"]
        parts += [f"sparse{self.selector}"] * self.sparse
        parts += ["registers"] * self.a_in_registers + ["satfinite"] * self.satfinite
        if self.signs != (1, 1):
            parts.append("".join("+-"[s < 0] for s in self.signs))
        if self.majors != (0, 0):
            parts.append("".join("km"[m] for m in self.majors))
        return "-".join(parts)

    def ptx(self) -> str:
        """The instruction; its operands are those of `kernel`."""
        immediates: list[int] = []
        if self.a not in INTEGERS:
            immediates += self.signs
        if BITS[self.a] == 16:
            immediates += self.majors[self.a_in_registers :]
        d = ", ".join(f"d{i}" for i in range(self.registers))
        a = "{a0, a1, a2, a3}" if self.a_in_registers else "%1"
        b = "%3" + f", e, {self.selector}" * self.sparse
        return f"{self.name} {{{d}}}, {a}, {b}, p" + "".join(f", {i}" for i in immediates) + ";"


def kernel(n: int, forms: list[Form]) -> str:
    """A kernel with all forms of n columns, of which it executes one. %0 is D in memory."""
    d, a = range(n // 2), range(4)
    lines = [".reg .b32 d<128>, a<4>, e;", ".reg .pred p, q;", "setp.ne.b32 p, %4, 0;"]
    lines += [f"ld.global.b32 d{i}, [%0 + {4 * THREADS * i}];" for i in d]
    lines += [f"ld.global.b32 a{i}, [%2 + {4 * THREADS * i}];" for i in a]
    lines += [f"ld.global.b32 e, [%2 + {4 * THREADS * len(a)}];", "wgmma.fence.sync.aligned;"]
    for i, form in enumerate(forms):
        if not PROGRAM.compiles(form):
            continue
        lines += [f"setp.ne.b32 q, %5, {i};", f"@q bra NEXT{i};", form.ptx(), "bra.uni DONE;"]
        lines += [f"NEXT{i}:"]
    lines += ["DONE:", "wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0;"]
    lines += [f"st.global.b32 [%0 + {4 * THREADS * i}], d{i};" for i in d]
    return f"""
__global__ void product_{n}(const uint4* image, int units, int which, u64 a, const int* registers,
                            u64 b, int scale_d, unsigned* d) {{
  const u64 base = fill(image, units);
  asm volatile("{{{" ".join(lines)}}}"
               :: "l"(d + threadIdx.x), "l"(a + base), "l"(registers + threadIdx.x), "l"(b + base),
                  "r"(scale_d), "r"(which) : "memory");
}}
"""


PROLOGUE = """
#include <cstdint>
using u64 = unsigned long long;
extern __shared__ __align__(1024) uint4 shared[];
// Copies the image; returns the start of shared memory in descriptor units.
__device__ u64 fill(const uint4* image, int units) {
  for (int i = threadIdx.x; i < units; i += blockDim.x) shared[i] = image[i];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  return (static_cast<uint32_t>(__cvta_generic_to_shared(shared)) & 0x3FFFF) >> 4;
}
"""


FLOATS = [("f16", "f16"), ("f32", "f16"), ("f32", "bf16"), ("f32", "tf32")]
FLOAT_TYPES = [(d, a, a) for d, a in FLOATS] + list(
    itertools.product(("f16", "f32"), ("e4m3", "e5m2"), ("e4m3", "e5m2"))
)
INTEGER_TYPES = [("s32", a, b) for a, b in itertools.product(("s8", "u8"), repeat=2)]


def sweeps() -> Iterator[list[Form]]:
    """Every number of columns of each combination of types; a third has A in registers."""
    for sparse in (False, True):
        for types in FLOAT_TYPES:
            wide = sparse and BITS[types[1]] > 8
            yield [
                Form(*types, n, n % 24 == 0, sparse=sparse, selector=n // 8 % 2 if wide else 0)
                for n in ALL_N
            ]
        for types, s in itertools.product(INTEGER_TYPES, (False, True)):
            yield [Form(*types, n, n % 24 == 0, satfinite=s, sparse=sparse) for n in INTEGER_N]
    yield [Form("s32", "b1", "b1", n, n % 24 == 0) for n in INTEGER_N]


def variants() -> Iterator[Form]:
    """The forms that run in every layout."""
    yield from (Form("f32", "bf16", "bf16", n) for n in (8, 16, 256))
    yield from (Form(*types, 8) for types in FLOAT_TYPES + INTEGER_TYPES)
    yield from (Form("s32", "b1", "b1", n) for n in (8, 256))
    one_each = [*FLOAT_TYPES[:6], ("s32", "u8", "s8"), ("s32", "b1", "b1")]
    yield from (Form(*types, 16, a_in_registers=True) for types in one_each)
    for signs in ((-1, 1), (1, -1), (-1, -1)):
        yield Form("f32", "f16", "f16", 16, signs=signs)
    yield Form("f16", "e4m3", "e4m3", 16, signs=(-1, 1))
    yield Form("f32", "tf32", "tf32", 16, signs=(1, -1), a_in_registers=True)
    for majors in ((0, 1), (1, 0), (1, 1)):
        yield from (Form("f32", "bf16", "bf16", n, majors=majors) for n in (64, 256))
    yield Form("f32", "f16", "f16", 128, majors=(1, 1))
    yield Form("f16", "f16", "f16", 64, majors=(0, 1), a_in_registers=True)
    for types in (*FLOAT_TYPES[:6], INTEGER_TYPES[1]):
        for selector in (0, 1) if BITS[types[1]] > 8 else (0,):
            yield Form(*types, 24, sparse=True, selector=selector)
            yield Form(*types, 16, True, sparse=True, selector=selector)
    for majors in ((0, 1), (1, 0), (1, 1)):
        yield Form("f32", "bf16", "bf16", 64, majors=majors, sparse=True)
    yield Form("f16", "f16", "f16", 64, True, signs=(1, -1), majors=(0, 1), sparse=True)


SWEEPS, VARIANTS = list(sweeps()), list(dict.fromkeys(variants()))
EVERY = dict.fromkeys([*itertools.chain(*SWEEPS), *VARIANTS])
KERNELS = {n: [form for form in EVERY if form.n == n] for n in ALL_N}


def source() -> str:
    """All forms: product(n, which one of that n, ...)."""
    calls = "".join(f"    case {n}: return launch(product_{n});\n" for n in KERNELS)
    return f"""{PROLOGUE}{"".join(itertools.starmap(kernel, KERNELS.items()))}
void product(int n, int which, const int* image, int units, long long a, const int* a_registers,
             long long b, int scale_d, int* d) {{
  auto launch = [&](auto kernel) {{
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, {MAX_SHARED_BYTES});
    kernel<<<1, {THREADS}, 16 * units>>>(reinterpret_cast<const uint4*>(image), units, which, a,
                                         a_registers, b, scale_d, reinterpret_cast<unsigned*>(d));
  }};
  switch (n) {{
{calls}  }}
}}
"""


PROGRAM = Program("wgmma_forms", source, "product")


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


# ---- Sparse A -----------------------------------------------------------------------------------
# A row holds two of every four elements along k (a chunk), and their positions as two bits each.
# For
# tf32 it holds one of two: 0b0100 is the first, 0b1110 the second (PTX ISA 9.7.15.6.1).

PAIRS = [first | last << 2 for first, last in itertools.combinations(range(4), 2)]
CODES = {False: PAIRS, True: [0b0100, 0b1110]}


def metadata(form: Form, codes: np.ndarray) -> np.ndarray:
    """The metadata register [thread]; threads that are not read hold arbitrary values.

    For 16-bit and tf32 elements, two lanes of every four count, those that the selector names: they
    hold four chunks of row g in bits 0-15 and those of row g + 8 in bits 16-31. For 8-bit elements
    all four do: lane 0 holds eight chunks of row g, lane 1 those of row g + 8, lanes 2 and 3 the
    next eight.
    """
    chunks = codes.astype(np.uint32).reshape(4, 2, 8, -1, 4)  # [warp, upper rows, g, fours, chunk]
    fours = np.bitwise_or.reduce(chunks << np.arange(0, 16, 4, dtype=np.uint32), axis=-1)
    words = noise()[: 4 * THREADS].view(np.uint32).reshape(4, 8, 4).copy()  # [warp, g, lane]
    if BITS[form.a] == 8:
        eights = fours[..., 0::2] | fours[..., 1::2] << np.uint32(16)
        words[..., 0::2], words[..., 1::2] = eights[:, 0], eights[:, 1]
    else:
        first = 2 * form.selector
        words[..., first : first + 2] = fours[:, 0] | fours[:, 1] << np.uint32(16)
    return words.reshape(THREADS).view(np.int32)


def places(form: Form, codes: np.ndarray) -> np.ndarray:
    """The positions along k of the elements that A holds [64, held]."""
    chunk = np.arange(codes.shape[1])
    if form.a == "tf32":
        return 2 * chunk + (codes == 0b1110)
    both = np.stack([codes & 3, codes >> 2], axis=-1) + 4 * chunk[:, None]
    return both.reshape(M, -1)


def numbers_of_a(form: Form, values: Operands) -> np.ndarray:
    """A as float64 [64, k], with zeros where a sparse one holds nothing."""
    held = numbers_of(form.a, values.a)
    if not form.sparse:
        return held
    dense = np.zeros((M, form.k))
    np.put_along_axis(dense, places(form, values.codes), held, axis=1)
    return dense


# ---- Running and comparing ----------------------------------------------------------------------


@dataclass
class Operands:
    a: np.ndarray  # [64, 32] bytes
    b: np.ndarray  # [n, 32 or, if A is sparse, 64] bytes
    d: np.ndarray  # [64, n]
    # For sparse A: [64, chunks], 4 bits of metadata each.
    codes: np.ndarray = field(default_factory=lambda: np.zeros((M, 8), int))


def operands(form: Form, seed: int) -> Operands:
    rng = np.random.default_rng(seed)
    if form.d == "s32":
        d = rng.integers(-(2**31), 2**31, (M, form.n)).astype(np.int32)
    else:
        d = rng.standard_normal((M, form.n)).astype(np.float32 if form.d == "f32" else np.float16)
    a = random_rows(form.a, M, ROW_BYTES, rng)
    b = random_rows(form.b, form.n, form.b_bytes, rng)
    return Operands(a, b, d, rng.choice(CODES[form.a == "tf32"], (M, 16 if form.k == 64 else 8)))


@cache
def noise() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, MAX_SHARED_BYTES, dtype=np.uint8)


def run(
    target: str, form: Form, values: Operands, a: Layout, b: Layout, scale_d: int = 1
) -> np.ndarray:
    """D after the product, in the type of its elements."""
    image = noise().copy()
    size = max(a.lay(values.a, image), b.lay(values.b, image))
    before = to_registers(form, values.d)
    registers = np.zeros((form.n // 2, THREADS), np.int32)  # the maximum over the forms of n
    registers[: len(before)] = before
    device = "cuda" if target == "gpu" else "cpu"
    a_and_metadata = np.vstack([a_registers(values.a), metadata(form, values.codes)])
    words = [image[:size].view(np.int32), a_and_metadata, registers]
    image_, a_words, d = (torch.from_numpy(w).to(device) for w in words)
    PROGRAM.module(target).product(
        form.n,
        KERNELS[form.n].index(form),
        image_,
        size // UNIT,
        signed(a.descriptor(M)),
        a_words,
        signed(b.descriptor(form.n)),
        scale_d,
        d,
    )
    return from_registers(form, d.cpu().numpy()[: len(before)])


def signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A B^T without BLAS, whose threads are not worth starting for these small matrices."""
    return np.einsum("ik,jk->ij", a, b)


def expect(form: Form, values: Operands, scale_d: int, actual: np.ndarray, what: str) -> None:
    """Compare with the product of float64, or of exact integers."""
    a, b = numbers_of_a(form, values), numbers_of(form.b, values.b)
    sign = form.signs[0] * form.signs[1]
    before = values.d.astype(np.float64) * scale_d
    exact = before + sign * product(a, b)
    if form.d == "s32":
        whole = exact.astype(np.int64)
        low, high = -(2**31), 2**31 - 1
        wanted = np.clip(whole, low, high) if form.satfinite else whole.astype(np.int32)
        assert np.array_equal(actual, wanted), f"{form.name}, {what}"
        return
    size = np.abs(before) + product(np.abs(a), np.abs(b))
    bound = 1.01 * form.k * 2.0**-24 * size
    if form.d == "f16":
        bound += 2.0**-11 * np.abs(exact) * 1.01 + 2.0**-25
    wrong = ~(np.abs(actual.astype(np.float64) - exact) <= bound)
    assert not wrong.any(), (
        f"{form.name}, {what}: {wrong.sum()} of {wrong.size} elements, first at "
        f"{np.argwhere(wrong)[0]}: {actual[wrong][0]}, expected {exact[wrong][0]}"
    )


# Of A and of B; tiles of B follow those of A.
def layouts(form: Form) -> Iterator[tuple[Layout, Layout]]:
    a_k, b_k = (not major for major in form.majors)
    b_32 = 64 if form.sparse and b_k else 32  # a swizzled row has a whole column of B
    for swizzle in (0, 32, 64, 128):
        # MN-major needs a whole swizzled row of M or N.
        b_swizzle = swizzle if b_k or 2 * form.n % (swizzle or 1) == 0 else 32
        b_swizzle = b_32 if b_swizzle == 32 else b_swizzle
        yield Layout(swizzle, a_k), Layout(b_swizzle, b_k, BEHIND)
    yield Layout(64, a_k, gap=1), Layout(0, b_k, BEHIND, gap=2)
    if a_k and b_k:
        yield Layout(128, skip=32), Layout(128, at=BEHIND, skip=128 - form.b_bytes, gap=1)
        yield Layout(64, skip=32), Layout(b_32, at=BEHIND)
    yield (
        Layout(128, a_k, at=3 * 128, base_offset=3),
        Layout(0 if 2 * form.n % 64 and not b_k else 64, b_k, BEHIND + 128 * 2, base_offset=2),
    )


# ---- Cases --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Something to check on a target."""

    name: str
    run: Callable[[str], None]
    needs: tuple[Form, ...] = ()  # of the program

    def check(self, full: bool = False, target: str = "simulator") -> None:
        del full  # every case always runs in full
        self.run(target)


def check_layouts(form: Form) -> Case:
    def check(target: str) -> None:
        for i, (a, b) in enumerate(layouts(form)):
            values = operands(form, seed=i)
            scale_d = 0 if i == 1 else 1
            actual = run(target, form, values, a, b, scale_d)
            expect(form, values, scale_d, actual, f"A in {a}, B in {b}, scale-d {scale_d}")

    return Case(form.id, check, (form,))


def check_sweep(forms: list[Form]) -> Case:
    def check(target: str) -> None:
        for form, swizzle in zip(forms, itertools.cycle((64, 128, 0)), strict=False):
            values = operands(form, seed=form.n)
            actual = run(target, form, values, Layout(swizzle), Layout(swizzle, at=BEHIND))
            expect(form, values, 1, actual, f"swizzle {swizzle}")

    sparse = "sparse " * forms[0].sparse
    name = f"{sparse}{forms[0].types}{'.satfinite' * forms[0].satfinite}, every n"
    return Case(name, check, tuple(forms))


# ---- Special values -----------------------------------------------------------------------------


SPECIAL = Form("f32", "bf16", "bf16", 8)
UNSELECTED = Form("f32", "bf16", "bf16", 8, sparse=True, selector=1)
NARROW = Form("f16", "f16", "f16", 8)


def check_special_values(target: str) -> None:
    """Infinities, NaNs, denormals, overflow and signed zeros, in separate rows and columns."""
    form = SPECIAL
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
    b[4] = 2.0**-16  # products below the smallest denormal, but f32 holds their sum
    d = np.zeros((M, 8), np.float32)
    d[6] = -0.0
    d[8:16] = np.array([np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38, 1], np.float32)
    values = Operands(to_bytes("bf16", a), to_bytes("bf16", b), d)
    actual = run(target, form, values, Layout(128), Layout(128, at=BEHIND))
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


def check_unselected_elements(target: str) -> None:
    """Even rows hold elements 0 and 1 of each four, odd ones 2 and 3, where B is not finite."""
    form = UNSELECTED
    a, b = torch.full((M, 16), -1.0), torch.ones(8, 32)
    b[0, 2::4], b[1, 3::4], b[2, 2::4] = float("inf"), float("nan"), float("-inf")
    codes = np.full((M, 8), 0b0100)
    codes[1::2] = 0b1110
    d = np.full((M, 8), -0.0, np.float32)
    values = Operands(to_bytes("bf16", a), to_bytes("bf16", b), d, codes)
    actual = run(target, form, values, Layout(), Layout(at=BEHIND))
    assert (actual[0::2] == -16).all()
    odd = np.array([-np.inf, np.nan, np.inf, -16, -16, -16, -16, -16], np.float32)
    assert np.array_equal(actual[1::2], np.tile(odd, (M // 2, 1)), equal_nan=True)


def check_narrow_rounding(target: str) -> None:
    """An f16 accumulator is rounded once, to nearest even, and overflows to infinity."""
    form = NARROW
    a, b = torch.zeros(M, 16), torch.ones(8, 16)
    a[0, :2] = torch.tensor([1024.0, 1.0])  # 2049: a tie, and more than a tie
    a[1, :3] = torch.tensor([1024.0, 1.0, 2.0**-10])
    a[2] = 4096.0  # 65536
    a[3], a[3, 0] = 0.0, 2.0**-24
    b[1] *= 2.0**-1  # the denormal becomes a tie with zero
    d = np.zeros((M, 8), np.float16)
    d[0] = d[1] = 1024
    values = Operands(to_bytes("f16", a), to_bytes("f16", b), d)
    actual = run(target, form, values, Layout(), Layout(at=BEHIND))
    exact = d.astype(np.float64) + numbers_of("f16", values.a) @ numbers_of("f16", values.b).T
    with np.errstate(over="ignore"):
        assert np.array_equal(actual, exact.astype(np.float16))
    assert [float(actual[i, 0]) for i in range(4)] == [2048, 2050, np.inf, 2.0**-24]
    assert actual[3, 1] == 0


# ---- A pipeline ---------------------------------------------------------------------------------

GROUPS = """
__device__ void arrive() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ void wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }
"""

PIPELINE = Program(
    "wgmma_pipeline",
    PROLOGUE
    + GROUPS
    + """
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
""",
    "run_pipeline",
)


def check_pipeline(target: str) -> None:
    torch.manual_seed(0)
    device = "cuda" if target == "gpu" else "cpu"
    k = 64 * 5
    a, b = torch.randn(128, k).bfloat16(), torch.randn(32, k).bfloat16()
    c = torch.zeros(128, 32, device=device)
    words = [t.view(torch.int32).to(device) for t in (a, b)]
    PIPELINE.module(target).run_pipeline(*words, c, k)
    exact = a.double() @ b.double().T
    bound = 1.01 * k * 2.0**-24 * (a.double().abs() @ b.double().abs().T)
    assert ((c.cpu().double() - exact).abs() <= bound).all()


CASES = [
    *map(check_layouts, VARIANTS),
    *map(check_sweep, SWEEPS),
    Case("special values", check_special_values, (SPECIAL,)),
    Case("unselected elements", check_unselected_elements, (UNSELECTED,)),
    Case("f16 rounding", check_narrow_rounding, (NARROW,)),
    Case("pipeline", check_pipeline),
]
