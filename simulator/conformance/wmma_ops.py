"""Matrix products in opaque fragments: wmma.load, wmma.mma, wmma.store (PTX ISA 9.7.14.4).

Nothing is assumed about where a fragment has its elements, except what a program may rely on: that
load, mma and store agree; that c and d of one shape and type have one layout; and that a kernel may
treat all elements alike.
"""

from __future__ import annotations

import itertools
import re
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from simulator.conformance.fragments import BITS, check_product, decode, encode, is_float, operands
from simulator.conformance.micro import Program
from simulator.conformance.mma_ops import check_chain

BYTES = 8192  # of the buffers and of shared memory
FILL = 0xA5

# Registers of a fragment of A and of B; those of C and D follow from their size.
AB_REGISTERS = {
    ("m16n16k16", "f16"): (8, 8), ("m8n32k16", "f16"): (8, 8), ("m32n8k16", "f16"): (8, 8),
    ("m16n16k16", "bf16"): (4, 4), ("m8n32k16", "bf16"): (2, 8), ("m32n8k16", "bf16"): (8, 2),
    ("m16n16k16", "s8"): (2, 2), ("m8n32k16", "s8"): (1, 4), ("m32n8k16", "s8"): (4, 1),
    ("m16n16k16", "u8"): (2, 2), ("m8n32k16", "u8"): (1, 4), ("m32n8k16", "u8"): (4, 1),
    ("m16n16k8", "tf32"): (4, 4), ("m8n8k4", "f64"): (1, 1), ("m8n8k32", "s4"): (1, 1),
    ("m8n8k32", "u4"): (1, 1), ("m8n8k128", "b1"): (1, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Wmma:
    """A load of A, B and C, a product, and a store of D.

    layouts: those of A, B, C and D in memory. space: "global", "shared" (with 32-bit addresses),
    "shared::cta" (64-bit) or "" (generic, to global memory). padding: 16-byte units between the
    lines; None omits the stride.
    """

    shape: str
    types: tuple[str, str, str, str]  # D, A, B, C
    layouts: tuple[str, str, str, str] = ("row", "col", "row", "row")
    space: str = "global"
    padding: int | None = 0
    before: str = ""  # before .sync: ".xor.popc"
    after: str = ""  # at the end: ".satfinite", ".rz"

    @property
    def needs(self) -> tuple[Wmma, ...]:
        return (self,)

    @property
    def name(self) -> str:
        a, b, c, d = self.layouts
        space = self.space or "generic"
        return f"{self.instruction} c {c} d {d} {space} padding {self.padding}"

    @property
    def instruction(self) -> str:
        d, a, b, c = self.types
        types = f"{d}.{c}" if a == "f16" else f"{d}.{a}.{b}.{c}"
        layouts = ".".join(self.layouts[:2])
        return f"wmma.mma{self.before}.sync.aligned.{layouts}.{self.shape}.{types}{self.after}"

    @property
    def forms(self) -> tuple[str, ...]:
        return (*(self.access(x) for x in "abcd"), self.instruction)

    @property
    def mnk(self) -> tuple[int, int, int]:
        m, n, k = map(int, re.findall(r"\d+", self.shape))
        return m, n, k

    def access(self, which: str) -> str:
        """The load or store of one matrix."""
        op = "store" if which == "d" else "load"
        layout = self.layouts["abcd".index(which)]
        space = f".{self.space}" if self.space else ""
        type_ = self.types["dabc".index(which)]
        return f"wmma.{op}.{which}.sync.aligned.{layout}.{self.shape}{space}.{type_}"

    def size(self, which: str) -> tuple[int, int]:
        m, n, k = self.mnk
        return {"a": (m, k), "b": (k, n)}.get(which, (m, n))

    def registers(self, which: str) -> int:
        if which in "ab":
            return AB_REGISTERS[self.shape, self.types[1]]["ab".index(which)]
        m, n, _ = self.mnk
        return m * n // 32 // (2 if self.types["dabc".index(which)] == "f16" else 1)

    def stride(self, which: str) -> int:
        rows, columns = self.size(which)
        line = columns if self.layouts["abcd".index(which)] == "row" else rows
        return line + (self.padding or 0) * 128 // BITS[self.types["dabc".index(which)]]

    @property
    def body(self) -> str:
        """A kernel: a, b, c and d are byte pointers to matrices in the space of the accesses."""
        lines = ["{"]
        names = {}
        for which in "abcd":
            type_ = self.types["dabc".index(which)]
            kind = {"f32": "f", "f64": "d"}.get(type_, "r")
            ctype = {"f": "float", "d": "double", "r": "unsigned"}[kind]
            names[which] = (kind, [f"{which}{i}_" for i in range(self.registers(which))])
            lines.append(f"{ctype} {', '.join(names[which][1])};")
        for which in "abc":
            kind, registers = names[which]
            vector = "{" + ", ".join(f"%{i}" for i in range(len(registers))) + "}"
            outs = ", ".join(f'"={kind}"({r})' for r in registers)
            lines.append(self.memory(which, f"{vector}, [%{len(registers)}]", outs, ""))
        vectors, number = [], itertools.count()
        for which in "dabc":
            vectors.append("{" + ", ".join(f"%{next(number)}" for _ in names[which][1]) + "}")
        outs = ", ".join(f'"={names["d"][0]}"({r})' for r in names["d"][1])
        ins = ", ".join(f'"{names[w][0]}"({r})' for w in "abc" for r in names[w][1])
        lines.append(f'asm volatile("{self.instruction} {", ".join(vectors)};" : {outs} : {ins});')
        kind, registers = names["d"]
        vector = "{" + ", ".join(f"%{i}" for i in range(len(registers))) + "}"
        ins = ", ".join(f'"{kind}"({r})' for r in registers) + ", "
        lines.append(self.memory("d", f"[%{len(registers)}], {vector}", "", ins))
        return "\n    ".join([*lines, "}"])

    def memory(self, which: str, arguments: str, outs: str, ins: str) -> str:
        pointer = {
            "shared": '"r"(static_cast<unsigned>(__cvta_generic_to_shared({})))',
            "shared::cta": '"l"(__cvta_generic_to_shared({}))',
            "global": '"l"(__cvta_generic_to_global({}))',
            "": '"l"({})',
        }[self.space].format(which)
        stride = ""
        if self.padding is not None:
            stride, pointer = f", %{arguments.count('%')}", f'{pointer}, "r"({self.stride(which)})'
        text = f"{self.access(which)} {arguments}{stride};"
        return f'asm volatile("{text}" : {outs} : {ins}{pointer} : "memory");'

    def to_memory(self, which: str, matrix: np.ndarray) -> np.ndarray:
        """The bytes of a matrix of bit patterns, with lines that are `stride` elements apart."""
        lines = matrix if self.layouts["abcd".index(which)] == "row" else matrix.T
        bits, stride = BITS[self.types["dabc".index(which)]], self.stride(which)
        memory = np.full(BYTES, FILL, dtype=np.uint8)
        bytes_ = _bytes(lines, bits)
        for i, line in enumerate(bytes_):
            at = i * stride * bits // 8
            memory[at : at + len(line)] = line
        return memory

    def from_memory(self, memory: np.ndarray) -> np.ndarray:
        """D; checks that nothing around it was written."""
        rows, columns = self.size("d")
        by_row = self.layouts[3] == "row"
        count, length = (rows, columns) if by_row else (columns, rows)
        width, stride = BITS[self.types[0]] // 8, self.stride("d")
        untouched = np.ones(BYTES, dtype=bool)
        lines = []
        for i in range(count):
            at = i * stride * width
            untouched[at : at + length * width] = False
            raw = memory[at : at + length * width].copy()
            lines.append(raw.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[width]))
        assert (memory[untouched] == FILL).all(), f"{self.name}: wrote outside D"
        matrix = np.array(lines).astype(np.uint64)
        return matrix if by_row else matrix.T

    def check(self, full: bool = False, target: str = "simulator") -> None:
        """Run on every kind of operands and compare."""
        kinds = ("small", "normal", "cancel", "special") if is_float(self.types[0]) else (
            "small", "extreme")  # fmt: skip
        for round_, kind in itertools.product(range(8 if full else 1), kinds):
            seed = zlib.crc32(f"{self.name} {kind} {round_}".encode())
            matrices = operands(self.types[1:], *self.mnk, kind, seed)
            memory = [
                torch.from_numpy(self.to_memory(w, x)) for w, x in zip("abc", matrices, strict=True)
            ]
            out = torch.full((BYTES,), FILL, dtype=torch.uint8)
            PROGRAM.module(target).run(WMMAS.index(self), *memory, out)
            self.compare(matrices, self.from_memory(out.numpy()), f"{self.name} ({kind})", target)

    def compare(self, matrices: tuple, got: np.ndarray, what: str, target: str) -> None:
        if self.types[0] == "f64":
            check_chain(matrices, got, self.after[1:] or "rn", what)
        elif self.types[1] == "b1":
            a, b, c = matrices
            operation = np.bitwise_and if "and" in self.before else np.bitwise_xor
            bits = operation(a[:, :, None], b[None]).sum(1).astype(np.int64)
            np.testing.assert_array_equal(got, encode("s32", bits + decode("s32", c)), what)
        else:
            saturate = "satfinite" in self.after
            check_product(self.types, matrices, got, saturate=saturate, target=target, what=what)


def _bytes(lines: np.ndarray, bits: int) -> np.ndarray:
    """Lines of elements as bytes, the first element lowest."""
    places = np.arange(bits, dtype=np.uint64)
    one_by_one = (lines[..., None] >> places) & np.uint64(1)
    flat = one_by_one.reshape(lines.shape[0], -1).astype(np.uint8)
    return np.packbits(flat, axis=1, bitorder="little")


SPACES = ("global", "shared", "", "shared::cta")


def _forms() -> list[Wmma]:
    """Every product with every layout; every access with every space; any padding."""
    every = list(itertools.product(("row", "col"), repeat=4))
    layouts_of_ab = every[::5]  # row row, row col, col row and col col; C like A, D like B
    paddings = itertools.cycle((1, None, 2, 0, 3))
    forms = []

    def space(layouts: tuple[str, ...], turn: int = 0) -> str:
        """Over all layouts, each of A to D is in each space with either of its layouts."""
        a, b, c, d = (layout == "col" for layout in layouts)
        return SPACES[(a ^ c | (b ^ d) << 1) ^ turn]

    def add(shape: str, types: tuple[str, str, str, str], layouts: list, **more: str) -> None:
        for chosen in layouts:
            forms.append(
                Wmma(shape, types, chosen, space(chosen), next(paddings), **more)  # type: ignore
            )

    tall = ("m16n16k16", "m8n32k16", "m32n8k16")
    for shape in tall:
        for d, c in itertools.product(("f16", "f32"), repeat=2):
            add(shape, (d, "f16", "f16", c), every if d == c else layouts_of_ab)
        add(shape, ("f32", "bf16", "bf16", "f32"), every)
        for t in ("s8", "u8"):
            add(shape, ("s32", t, t, "s32"), every)
            add(shape, ("s32", t, t, "s32"), layouts_of_ab, after=".satfinite")
    add("m16n16k8", ("f32", "tf32", "tf32", "f32"), every)
    add("m8n8k4", ("f64",) * 4, every)
    for mode in (".rn", ".rz", ".rm", ".rp"):
        add("m8n8k4", ("f64",) * 4, layouts_of_ab, after=mode)
    # Below a byte A is by rows and B by columns, so the spaces alternate.
    narrow = [x for x in every if x[:2] == ("row", "col")]
    for i, (t, after) in enumerate(itertools.product(("s4", "u4"), ("", ".satfinite"))):
        forms += [Wmma("m8n8k32", ("s32", t, t, "s32"), x, space(x, i), 1, after=after)
                  for x in narrow]  # fmt: skip
    for turn, op in ((0, ".xor.popc"), (3, ".and.popc")):
        forms += [Wmma("m8n8k128", ("s32", "b1", "b1", "s32"), x, space(x, turn), 1, before=op)
                  for x in narrow]  # fmt: skip
    return forms


WMMAS = _forms()
CASES = WMMAS


def source() -> str:
    """All forms: run(form, a, b, c, d) with bytes of memory."""
    size = 16
    kernels, calls = [], []
    for shared in (False, True):
        chosen = [(i, f) for i, f in enumerate(WMMAS) if f.space.startswith("shared") == shared]
        for first in range(0, len(chosen), size):
            some = chosen[first : first + size]
            here = [(i, form) for i, form in some if PROGRAM.compiles(form)]
            cases = "\n".join(f"  case {i}: {form.body} break;" for i, form in here)
            name = f"{'shared' if shared else 'plain'}_{first // size}"
            kernels.append(_kernel(name, cases, shared))
            bytes_ = f", 4 * {BYTES}" if shared else ""
            labels = " ".join(f"case {i}:" for i, _ in some)
            calls.append(f"{labels} {name}<<<1, 32{bytes_}>>>(form, a, b, c, d); break;")
    launcher = f"""
void run(int form, const unsigned char* a, const unsigned char* b, const unsigned char* c,
         unsigned char* d) {{
  switch (form) {{
{chr(10).join(calls)}
  }}
}}"""
    return "\n".join([*kernels, launcher])


PROGRAM = Program("wmma_forms", source)


def _kernel(name: str, cases: str, shared: bool) -> str:
    names = "const unsigned char* {0}, const unsigned char* {1}, const unsigned char* {2}"
    if not shared:
        return f"""
__global__ void {name}(int form, {names.format("a", "b", "c")}, unsigned char* d) {{
  switch (form) {{
{cases}
  }}
}}"""
    return f"""
__global__ void {name}(int form, {names.format("from_a", "from_b", "from_c")},
                       unsigned char* to_d) {{
  extern __shared__ __align__(128) unsigned char memory[];
  unsigned char *a = memory, *b = a + {BYTES}, *c = b + {BYTES}, *d = c + {BYTES};
  for (int i = threadIdx.x; i < {BYTES}; i += 32) {{
    a[i] = from_a[i];
    b[i] = from_b[i];
    c[i] = from_c[i];
    d[i] = to_d[i];
  }}
  __syncthreads();
  switch (form) {{
{cases}
  }}
  __syncthreads();
  for (int i = threadIdx.x; i < {BYTES}; i += 32) to_d[i] = d[i];
}}"""
