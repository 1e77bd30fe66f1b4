"""Loads and stores: ld, ldu, st and prefetch in every state space (PTX ISA 9.7.9).

Each form of ld and st runs with address patterns that an implementation may special-case: rows, one
address for all, strides of either sign, a different pattern in each half of the warp, permutations;
with all lanes and with some. A narrow value in a wide register is extended, with its sign if its
type has one; a store changes only its own bytes.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simulator.conformance.micro import BLOCK, Case, Operand, Program, asm_block, grouped_source

LANES = 32
WINDOW = 8 * BLOCK  # bytes: the buffer that the lanes of a block access
LOCAL = 64  # bytes: a lane's local array
MASKS = (0xFFFFFFFF, 0x80000000, 0x0000FFFF, 0x13579BDF, 0)


@dataclass(frozen=True)
class Access:
    """One form of ld or st: `count` elements of a type, in registers of some width."""

    op: str
    space: str  # "global", "shared", "local", "const", or "generic " and one of the first three
    type: str
    register: int
    count: int = 1
    modifiers: str = ""  # "volatile", "L1::no_allocate", ...; a leading "." puts them last

    def __str__(self) -> str:
        width = f"@{self.register}" if self.register != max(self.operand.bits, 16) else ""
        generic = f" ({self.space})" if self.space.startswith("generic") else ""
        return f"{self.name}{width}{generic}"

    @cached_property
    def name(self) -> str:
        space = "" if self.space.startswith("generic") else self.space
        vector = f"v{self.count}" if self.count > 1 and not self.wide else ""
        before, after = (
            (self.modifiers, "") if self.modifiers[:1] != "." else ("", self.modifiers[1:])
        )
        return ".".join(filter(None, (self.op, before, space, after, vector, self.type)))

    @cached_property
    def window(self) -> str:
        return self.space.removeprefix("generic ")

    @property
    def wide(self) -> bool:
        """Whether it is one 128-bit register, not a vector."""
        return self.type == "b128"

    @cached_property
    def operand(self) -> Operand:
        return Operand.parse("b64" if self.wide else f"{self.type}@{self.register}")

    @cached_property
    def bytes(self) -> int:
        return self.count * self.operand.bits // 8


# 128 bits: a register that enters and leaves a kernel as two of 64.
WIDE = ("b128", 64, 2)
SCALARS = [(f"{kind}{bits}", width) for bits in (8, 16, 32, 64) for kind in "usb"
           for width in (16, 32, 64) if width >= bits]  # fmt: skip
SCALARS += [("f32", 32), ("f64", 64)]
PAIRS = [("u8", 16), ("s8", 32), ("b8", 16), ("u16", 16), ("s16", 32), ("s16", 64), ("b16", 16),
         ("u32", 32), ("s32", 64), ("b32", 32), ("f32", 32), ("u64", 64), ("s64", 64), ("b64", 64),
         ("f64", 64)]  # fmt: skip
QUADS = [("u8", 16), ("s8", 32), ("b8", 16), ("u16", 16), ("s16", 16), ("b16", 16), ("u32", 32),
         ("s32", 32), ("b32", 32), ("f32", 32)]  # fmt: skip
EVERY = [(t, w, n) for n, types in ((1, SCALARS), (2, PAIRS), (4, QUADS)) for t, w in types]
EVERY += [WIDE]
SOME = [(t, max(16, int(t[1:])), 1) for t in dict.fromkeys(t for t, _ in SCALARS)]
SOME += [("s8", 32, 1), ("s32", 64, 1), ("b8", 16, 4), ("u16", 16, 2), ("u64", 64, 2),
         ("f32", 32, 4), WIDE]  # fmt: skip
SCOPES = ("cta", "cluster", "gpu", "sys")
ORDERS = {"ld": ("relaxed", "acquire"), "st": ("relaxed", "release")}
# For global accesses: modifiers and type, with the number of elements if there are several.
CACHES = {
    "ld": ("ca u32", "cg u32", "cs u32", "lu u32", "cv u32", "nc u32", "cg b32", "cg s32 4",
           "cs b16", "cs f32", "cs f32 4", "cs s32 4", "nc f32", "nc u64", "nc f64 2", "nc u64 2",
           "nc u32 4", "L1::no_allocate u32", "L1::evict_first.L2::128B u32",
           "nc.L1::evict_last.L2::64B u32", "L2::cache_hint u32",
           "nc.L1::no_allocate.L2::cache_hint.L2::256B f32 4"),
    "st": ("wb u32", "cg u32", "cs u32", "wt u32", "cg s32 4", "cs b16", "cs f32", "cs s32 4",
           "wt b16", "L1::evict_unchanged u32", "L2::cache_hint u32", "L2::cache_hint f32 4"),
}  # fmt: skip


def forms() -> list[Access]:
    found = []
    for op in ("ld", "st"):
        for space in ("global", "shared", "local"):
            found += [Access(op, space, *which) for which in EVERY]
            found += [Access(op, f"generic {space}", *which) for which in SOME]
        found += ordered_forms(op)
        for text in CACHES[op]:
            cache, type_, *count = text.split()
            register = max(16, int(type_[1:]))
            found.append(Access(op, "global", type_, register, int((count or "1")[0]), f".{cache}"))
    found += [Access("ld", "const", *which) for which in SOME]
    found += [
        Access("ldu", "global", t, w, n)
        for t, w, n in (("s8", 32, 1), ("u32", 32, 1), ("s32", 64, 1), ("f64", 64, 1),
                        ("u64", 64, 2), ("f32", 32, 4))
    ]  # fmt: skip
    return found


def ordered_forms(op: str) -> list[Access]:
    """Every memory order and scope."""
    orders = [f"{order}.{scope}" for order in ORDERS[op] for scope in SCOPES]
    found = [
        Access(op, space, "u32", 32, 1, order)
        for space in ("global", "shared")
        for order in ("volatile", "weak", *orders)
    ]
    strict = "acquire.sys" if op == "ld" else "release.sys"
    found += [Access(op, "global", *WIDE, order) for order in ("volatile", "relaxed.gpu", strict)]
    for order in orders:
        if ".cluster" not in order:
            found += [Access(op, "generic global", "u32", 32, count, order) for count in (1, 2)]
    found.append(Access(op, "global", "u32", 32, 1, "mmio.relaxed.sys"))
    if op == "st":
        found.append(Access(op, "generic shared", "b32", 32, 1, "relaxed.cta"))
    return found


FORMS = forms()
CONSTANT = [(0x0123456789ABCDEF * (k + 1)) % (1 << 64) for k in range(BLOCK)]


def body(form: Access) -> str:
    """The CUDA of one form.

    in: each lane's place (a multiple of the access size in the block's window), then the memory's
    contents (ld) or the elements to store (st). out: the loaded elements (ld), or the memory (st).
    """
    o, store, local = form.operand, form.op == "st", form.window == "local"
    source = "out" if store else "in + n"
    name = f"m_{zlib.crc32(str(form).encode()):x}"
    lines = [f"[[maybe_unused]] const int place = in[i], lane = threadIdx.x, size = {form.bytes};"]
    if form.window == "shared":
        lines += [f"__shared__ __align__(16) unsigned long long {name}[{BLOCK}];"]
        lines += [f"{name}[lane] = ({source})[i]; __syncthreads();"]
    elif local:
        lines += [f"alignas(16) unsigned long long {name}[8];"]
        lines += [f"for (int k = 0; k < 8; k++) {name}[k] = ({source})[k * n + i];"]
        lines += [f'asm volatile("" : : "l"({name}) : "memory");']
    elif form.window == "global":
        lines += [f"const unsigned long long* {name} = {source} + (i - lane);"]
    else:
        name = "constant"
    # The address is off by 16 bytes either way, and the instruction's offset compensates.
    offset = 16 if len(form.type) % 2 else -16
    lines += [
        f"const char* pointer = reinterpret_cast<const char*>({name}) + place * size - {offset};"
    ]
    address, convert = Operand.parse("b64"), ""
    if not form.space.startswith("generic") and form.window != "global":
        convert = f".reg .b64 window; cvta.to.{form.window}.u64 window, %ADDRESS; "
    registers = [(o, f"r{k}") for k in range(form.count)]
    numbers = [f"%{k + store}" for k in range(form.count)]
    elements = numbers[0] if form.count == 1 else "{" + ", ".join(numbers) + "}"
    at, policy = f"[{'window' if convert else '%ADDRESS'}+{offset}]", ""
    if "cache_hint" in form.modifiers:
        convert += ".reg .b64 policy; createpolicy.fractional.L2::evict_last.b64 policy, 0.5; "
        policy = ", policy"
    if form.wide:
        convert += ".reg .b128 q; "
    value = "q" if form.wide else elements
    text = f"@run {form.name} {f'{at}, {value}' if store else f'{value}, {at}'}{policy}"
    if form.wide:
        pack, unpack = f"mov.b128 q, {elements}; {text}", f"{text}; @run mov.b128 {elements}, q"
        text = pack if store else unpack
    text = convert + text
    text = text.replace("%ADDRESS", "%0" if store else f"%{form.count}")
    rows = [f"in[({k} + 1) * n + i]" if store else f"out[{k} * n + i]" for k in range(form.count)]
    lines += [f"{o.ctype} r{k} = {row};" for k, row in enumerate(rows)]
    results, operands = ([], registers) if store else (registers, [])
    everything = [(address, "pointer"), *operands]
    lines += [asm_block(text.split("; "), results, everything)]
    if not store:
        lines += [f"{row} = r{k};" for k, row in enumerate(rows)]
    elif form.window == "shared":
        lines += [f"__syncthreads(); out[i] = {name}[lane];"]
    elif local:
        lines += [f"for (int k = 0; k < 8; k++) out[k * n + i] = {name}[k];"]
    return "\n".join(lines)


def source() -> str:
    values = ", ".join(f"{v:#x}ull" for v in CONSTANT)
    constant = f"__constant__ unsigned long long constant[{BLOCK}] = {{{values}}};\n"
    return constant + grouped_source(
        [body(form) if PROGRAM.compiles(form) else "" for form in FORMS]
    )


PROGRAM = Program("memory_ops", source)


def patterns(form: Access, rng: random.Random) -> list[list[int]]:
    """Places in the window for the 64 lanes of a block; all different for a store."""
    places = (LOCAL if form.window == "local" else WINDOW) // form.bytes
    lanes = range(BLOCK)
    private = form.window == "local"
    found = [[k % places for k in lanes]]
    found += [[(places - 1 - k) % places for k in lanes]]
    if form.op != "st" or private:
        found += [[places // 2] * BLOCK]
        found += [[(k // 16 * 5) % places for k in lanes]]
        found += [[(0 if k % 32 < 16 else k) % places for k in lanes]]
        found += [[k * 3 % places for k in lanes]]
        found += [[(k % 16 * (2, -1, 1, 0)[k // 16] + 15) % places for k in lanes]]
        found += [[rng.randrange(places) for _ in lanes]]
        found += [[(k % 16 * 2 + 1 if k != 7 else 0) % places for k in lanes]]
    else:
        found += [[(k * 3 + 1) % places if places % 3 else k for k in lanes]]
        found += [[(k ^ 16) % places for k in lanes]]
        found += [[(k // 16 * 16 + (15 - k % 16)) % places for k in lanes]]
        found += [[k % places if k != 5 else 20 for k in lanes]]
        found += [rng.sample(range(places), min(places, BLOCK)) for _ in range(2)]
        found = [p for p in found if len(set(p)) >= min(places, BLOCK)] or [list(lanes)]
    return found


def check_load(form: Access, target: str) -> None:
    rng = random.Random(zlib.crc32(str(form).encode()))
    blocks = patterns(form, rng)
    blocks += blocks[-4:]  # again, with some of the lanes
    n = BLOCK * len(blocks)
    o = form.operand
    rows = 9 if form.window == "local" else 2
    inputs = np.random.default_rng(rng.getrandbits(32)).integers(0, 1 << 64, (rows, n), np.uint64)
    inputs[0] = np.concatenate(blocks)
    active = activity(n, full=n - 4 * BLOCK)
    out = np.zeros((form.count, n), dtype=np.uint64)
    out[:] = 0xABCD % (1 << o.register)
    PROGRAM.run(target, FORMS.index(form), inputs, out, np.array(active, dtype=np.int32), n)
    for i in range(n):
        if form.window == "local":
            memory = inputs[1:, i].tobytes()
        elif form.window == "const":
            memory = np.array(CONSTANT, dtype=np.uint64).tobytes()
        else:
            memory = inputs[1, i // BLOCK * BLOCK :][:BLOCK].tobytes()
        for k in range(form.count):
            first = int(inputs[0, i]) * form.bytes + k * o.bits // 8
            raw = int.from_bytes(memory[first : first + o.bits // 8], "little")
            wanted = o.decode(raw) % (1 << o.register) if active[i] else 0xABCD
            got = int(out[k, i])
            assert got == wanted, f"lane {i}, element {k}: {got:#x}, wanted {wanted:#x}"


def check_store(form: Access, target: str) -> None:
    rng = random.Random(zlib.crc32(str(form).encode()))
    blocks = [p for p in patterns(form, rng) if form.window == "local" or distinct(form, p)]
    full = len(blocks) * BLOCK
    blocks += blocks[-4:]
    n = BLOCK * len(blocks)
    o = form.operand
    numbers = np.random.default_rng(rng.getrandbits(32))
    inputs = numbers.integers(0, 1 << 64, (1 + form.count, n), np.uint64)
    inputs[0] = [p for block in blocks for p in (block * BLOCK)[:BLOCK]]
    active = activity(n, full)
    if form.window != "local":  # lanes without a separate place in the window stay inactive
        size = WINDOW // form.bytes
        active = [on if i % BLOCK < size else 0 for i, on in enumerate(active)]
    rows = 8 if form.window == "local" else 1
    out = numbers.integers(0, 1 << 64, (rows, n), np.uint64)
    memory = [bytearray(out[:, i].tobytes()) for i in range(n)]  # by lane, if local
    if form.window != "local":
        memory = [bytearray(out[0, i : i + BLOCK].tobytes()) for i in range(0, n, BLOCK)]
    for i in range(n):
        region = memory[i] if form.window == "local" else memory[i // BLOCK]
        for k in range(form.count if active[i] else 0):
            first = int(inputs[0, i]) * form.bytes + k * o.bits // 8
            value = int(inputs[1 + k, i]) % (1 << o.bits)
            region[first : first + o.bits // 8] = value.to_bytes(o.bits // 8, "little")
    PROGRAM.run(target, FORMS.index(form), inputs, out, np.array(active, dtype=np.int32), n)
    for k, region in enumerate(memory):
        got = out[:, k] if form.window == "local" else out[0, k * BLOCK : (k + 1) * BLOCK]
        wanted = np.frombuffer(bytes(region), dtype=np.uint64)
        assert got.tolist() == wanted.tolist(), f"memory of {'lane' if rows > 1 else 'block'} {k}"


def distinct(form: Access, places: list[int]) -> bool:
    """Whether storing lanes have separate places; otherwise any of them might win."""
    stored = (places * BLOCK)[: min(BLOCK, WINDOW // form.bytes)]
    return len(set(stored)) == len(stored)


def activity(n: int, full: int) -> list[int]:
    """All lanes of the first warps are active, then those of MASKS."""
    return [1 if i < full else MASKS[i // LANES % len(MASKS)] >> i % LANES & 1 for i in range(n)]


def access_case(form: Access) -> Case:
    check = check_store if form.op == "st" else check_load
    return Case(str(form), lambda full, target: check(form, target), (form,))


# ---- Cases outside the tables --------------------------------------------------------------------

SCENARIOS = """
#include <cstdint>
struct alignas(16) Table { unsigned values[6]; unsigned char bytes[8]; double last; };
extern "C" {
__device__ unsigned module_variable[4] = {11, 22, 33, 44};
}

// Parameters by a dynamic index.
__global__ void parameters(unsigned* out, Table table, unsigned shift) {
  const unsigned lane = threadIdx.x;
  out[lane] = table.values[(lane + shift) % 6];
  out[32 + lane] = table.bytes[(lane * 3 + shift) % 8];
  out[64 + lane] = static_cast<unsigned>(table.last) + lane;
}

// Parameters by name: each type reads the first bytes of the table, the last row four at once.
extern "C" __global__ void typed(Table table, unsigned long long* out) {
  unsigned long long value;
  TYPED
  asm volatile("{.reg .b128 q; ld.param.b128 q, [typed_param_0]; mov.b128 {%0, %1}, q;}"
               : "=l"(out[16]), "=l"(out[17]));
  unsigned a, b, c, d;
  asm volatile("{.reg .b16 h<4>; ld.param.v4.u8 {h0, h1, h2, h3}, [typed_param_0+24];"
               "cvt.u32.u16 %0, h0; cvt.u32.u16 %1, h1; cvt.u32.u16 %2, h2; cvt.u32.u16 %3, h3;}"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d));
  out[14] = a | b << 8 | c << 16 | d << 24;
  asm volatile("{.reg .b32 t<2>; ld.param.v2.u32 {t0, t1}, [typed_param_0]; mov.b64 %0, {t0, t1};}"
               : "=l"(out[15]));
}

// Variables by name, with an offset; constants as stored values; discarded parts.
__global__ void named(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned a, b, c;
  asm volatile("{.shared .align 16 .b32 words[64]; .reg .b32 at; .reg .pred p;"
               "mov.u32 at, words; shl.b32 %0, %3, 2; add.u32 at, at, %0;"
               "st.shared.u32 [at+128], %3; bar.sync 0; ld.shared.u32 %0, [words+140];"
               "setp.eq.u32 p, %3, 9; @p st.shared.v2.u32 [words+16], {5, %3};"
               "@p st.shared.v2.u32 [words+24], {%3, %3}; bar.sync 0;"
               "ld.shared.u32 %1, [words+20]; ld.shared.v4.u32 {_, %2, _, _}, [words+12+4];}"
               : "=r"(a), "=r"(b), "=r"(c) : "r"(lane) : "memory");
  out[lane] = a;
  out[32 + lane] = b;
  out[64 + lane] = c;
  asm volatile("{.reg .b64 g; mov.u64 g, module_variable; ld.global.u32 %0, [g+8];"
               "prefetch.global.L2 [g]; prefetch.global.L1 [g]; prefetch.L1 [g]; prefetch.L2 [g];"
               "cvta.global.u64 g, g; prefetchu.L1 [g];}" : "=r"(a));
  unsigned local = lane;
  asm volatile("{.reg .b64 l; cvta.to.local.u64 l, %0; prefetch.local.L1 [l];"
               "prefetch.local.L2 [l];}" : : "l"(&local));
  out[96 + lane] = a;
  asm volatile("st.global.f32 [%0], 0f3F800000;" : : "l"(out + 128 + lane) : "memory");
  asm volatile("st.global.v4.u8 [%0], {1, 2, 3, 4};" : : "l"(out + 160 + lane) : "memory");
}

// The address register receives the loaded value: pointer chasing, with lane k's pointer set to
// element order[k].
__global__ void chain(unsigned long long* out, const unsigned long long* order) {
  const unsigned lane = threadIdx.x;
  unsigned long long* next = out + 96;
  next[lane] = reinterpret_cast<unsigned long long>(next + order[lane]);
  __syncwarp();
  unsigned long long at = reinterpret_cast<unsigned long long>(next + lane), low, high;
  high = reinterpret_cast<unsigned long long>(next + lane / 2 * 2);
  asm volatile("ld.global.u64 %0, [%0]; ld.global.u64 %0, [%0];" : "+l"(at));
  asm volatile("ld.global.v2.u64 {%0, %1}, [%1];" : "=l"(low), "+l"(high));
  out[lane] = at;
  out[32 + lane] = low;
  out[64 + lane] = high;
}

// Cache instructions change nothing, except that a discarded line of 128 bytes is lost until it is
// written again.
__device__ __align__(128) unsigned lines[5 * 32];
__global__ void caches(unsigned* result) {
  const unsigned lane = threadIdx.x;
  unsigned* out = lines;
  for (unsigned i = 0; i < 5; i++) out[32 * i + lane] = 100 * i + lane;
  __syncwarp();
  unsigned long long a, b, c, d, e;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;"
               "createpolicy.fractional.L2::evict_normal.L2::evict_first.b64 %1, 0.5;"
               "createpolicy.range.global.L2::evict_last.L2::evict_unchanged.b64 %2, [%5], 64, 128;"
               "createpolicy.range.L2::evict_first.b64 %3, [%5], %6, %6;"
               "createpolicy.cvt.L2.b64 %4, %0;"
               : "=&l"(a), "=&l"(b), "=&l"(c), "=&l"(d), "=&l"(e) : "l"(out), "r"(128));
  unsigned x, y;
  asm volatile("ld.global.L2::cache_hint.u32 %0, [%2], %3;"
               "ld.global.L2::cache_hint.u32 %1, [%2], %4;"
               : "=r"(x), "=r"(y) : "l"(out + lane), "l"(a), "l"(e));
  asm volatile("{.reg .pred p; setp.eq.u32 p, %1, 7;"
               "@p applypriority.global.L2::evict_normal [%0], 128;"
               "@p applypriority.L2::evict_normal [%0+128], 128;"
               "prefetch.global.L2::evict_last [%0]; prefetch.global.L2::evict_normal [%0];"
               "@p discard.global.L2 [%0+128], 128; @p discard.L2 [%0+256], 128;}"
               : : "l"(out), "r"(lane) : "memory");
  __syncwarp();
  asm volatile("st.global.L2::cache_hint.u32 [%0], %1, %2;"
               : : "l"(out + 32 + lane), "r"((x + y) / 2 + 100), "l"(d) : "memory");
  __syncwarp();
  for (unsigned i = 0; i < 5; i++) result[32 * i + lane] = out[32 * i + lane];
}

// Special registers (PTX ISA 10).
__global__ void special(unsigned* out) {
  const unsigned at = (blockIdx.x + gridDim.x * blockIdx.y) * 96 + threadIdx.x +
                      blockDim.x * threadIdx.y;
  unsigned value[20];
  unsigned long long wide;
  asm volatile("mov.u32 %0, %%laneid; mov.u32 %1, %%warpid; mov.u32 %2, %%nwarpid;"
               "mov.u32 %3, %%tid.x; mov.u32 %4, %%tid.y; mov.u32 %5, %%ntid.x;"
               "mov.u32 %6, %%ntid.y; mov.u32 %7, %%ctaid.x; mov.u32 %8, %%ctaid.y;"
               "mov.u32 %9, %%nctaid.x;"
               : "=r"(value[0]), "=r"(value[1]), "=r"(value[2]), "=r"(value[3]), "=r"(value[4]),
                 "=r"(value[5]), "=r"(value[6]), "=r"(value[7]), "=r"(value[8]), "=r"(value[9]));
  asm volatile("mov.u32 %0, %%nctaid.y; mov.u32 %1, %%lanemask_eq; mov.u32 %2, %%lanemask_le;"
               "mov.u32 %3, %%lanemask_lt; mov.u32 %4, %%lanemask_ge; mov.u32 %5, %%lanemask_gt;"
               "mov.u32 %6, WARP_SZ; {.reg .u16 h; mov.u16 h, %%tid.x; cvt.u32.u16 %7, h;}"
               "cvt.u32.u16 %8, %%tid.x; cvt.u64.u32 %9, %%tid.y;"
               : "=r"(value[10]), "=r"(value[11]), "=r"(value[12]), "=r"(value[13]),
                 "=r"(value[14]), "=r"(value[15]), "=r"(value[16]), "=r"(value[17]),
                 "=r"(value[18]), "=l"(wide));
  value[19] = wide;
  for (int k = 0; k < 20; k++) out[k * 384 + at] = value[k];
}
__global__ void clocks(long long* out) {
  long long a, b, t, u;
  unsigned c, d;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  asm volatile("mov.u64 %0, %%clock64; mov.u32 %1, %%clock;" : "=l"(a), "=r"(c));
  #pragma unroll 1
  for (int i = 0; i < 100; i++) asm volatile("membar.cta;");
  asm volatile("mov.u64 %0, %%clock64; mov.u32 %1, %%clock;" : "=l"(b), "=r"(d));
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(u));
  out[0] = b - a;
  out[1] = d - c;
  out[2] = u - t;
}

void run_parameters(unsigned* out, unsigned shift) {
  Table table = {{10, 11, 12, 13, 14, 15}, {1, 2, 3, 4, 5, 6, 7, 250}, 1000.5};
  parameters<<<1, 32>>>(out, table, shift);
}
void run_typed(unsigned long long* out) {
  Table table = {{0x89abcdefu, 0xfedcba98u}, {1, 2, 3, 250}};
  typed<<<1, 1>>>(table, out);
}
void run_named(unsigned* out) { named<<<1, 32>>>(out); }
void run_chain(unsigned long long* out, const unsigned long long* order) {
  chain<<<1, 32>>>(out, order);
}
void run_caches(unsigned* out) { caches<<<1, 32>>>(out); }
void run_special(unsigned* out) { special<<<dim3(2, 2), dim3(16, 6)>>>(out); }
void run_clocks(long long* out) { clocks<<<1, 1>>>(out); }
"""


TYPES = [f"{kind}{bits}" for bits in (8, 16, 32, 64) for kind in "bus"] + ["f32", "f64"]


def scenarios() -> str:
    """SCENARIOS with one parameter load per type."""
    loads = []
    for k, t in enumerate(TYPES):
        bits = int(t[1:])
        register = f"b{max(16, bits)}" if t[0] != "f" else t
        widen = "mov.b64 %0, t" if bits == 64 else f"cvt.u64.u{max(16, bits)} %0, t"
        move = ".reg .b32 u; mov.b32 u, t; cvt.u64.u32 %0, u" if t == "f32" else widen
        loads.append(
            f'asm volatile("{{.reg .{register} t; ld.param.{t} t, [typed_param_0]; {move};}}" '
            f': "=l"(value)); out[{k}] = value;'
        )
    return SCENARIOS.replace("TYPED", "\n  ".join(loads))


NAMES = ("parameters", "typed", "named", "chain", "caches", "special", "clocks")
SCENARIO_PROGRAM = Program("memory_scenarios", scenarios, *(f"run_{name}" for name in NAMES))


def check_parameters(full: bool, target: str) -> None:
    out = np.zeros((3, 32), dtype=np.uint32)
    SCENARIO_PROGRAM.run(target, out, 4, function="run_parameters")
    table = [1, 2, 3, 4, 5, 6, 7, 250]
    assert out.tolist() == [
        [10 + (k + 4) % 6 for k in range(32)],
        [table[(k * 3 + 4) % 8] for k in range(32)],
        [1000 + k for k in range(32)],
    ]


def check_typed(full: bool, target: str) -> None:
    """Parameters of every type; signed ones are extended to registers of 16 bits or more."""
    out = np.zeros(18, dtype=np.uint64)
    SCENARIO_PROGRAM.run(target, out, function="run_typed")
    whole = 0xFEDCBA9889ABCDEF
    wanted = []
    for t in TYPES:
        bits = int(t[1:])
        value = Operand.parse(t).decode(whole)
        wanted.append(value & ((1 << max(16, bits)) - 1))
    assert out.tolist() == [*wanted, 0xFA030201, whole, whole, 0]


def check_named(full: bool, target: str) -> None:
    """Variables by name, and constants as stored values."""
    out = np.zeros((6, 32), dtype=np.uint32)
    SCENARIO_PROGRAM.run(target, out, function="run_named")
    rows = [row[0] for row in out.tolist()]
    assert rows == [3, 9, 9, 33, 0x3F800000, 0x04030201]
    assert all(len(set(row)) == 1 for row in out.tolist())


def check_chain(full: bool, target: str) -> None:
    """The address register is also a destination."""
    order = np.array([(7 * k + 3) % 32 for k in range(32)], dtype=np.uint64)
    out = np.zeros((4, 32), dtype=np.uint64)
    SCENARIO_PROGRAM.run(target, out, order, function="run_chain")
    twice, low, high, values = out.tolist()
    assert values == [values[0] + 8 * (int(k) - int(order[0])) for k in order]
    assert twice == [values[order[k]] for k in range(32)]
    assert low == [values[k // 2 * 2] for k in range(32)]
    assert high == [values[k // 2 * 2 + 1] for k in range(32)]


def check_caches(full: bool, target: str) -> None:
    """Of five lines the third is lost; the second is rewritten after its discard."""
    out = np.zeros((5, 32), dtype=np.uint32)
    SCENARIO_PROGRAM.run(target, out, function="run_caches")
    lanes = np.arange(32)
    for line in (0, 1, 3, 4):
        assert out[line].tolist() == (100 * line + lanes).tolist()


def check_special_registers(full: bool, target: str) -> None:
    out = np.zeros((20, 4, 96), dtype=np.uint32)
    SCENARIO_PROGRAM.run(target, out, function="run_special")
    for block in range(4):
        for thread in range(96):
            lane, bit = thread % 32, 1 << thread % 32
            below = bit - 1
            wanted = [
                lane,
                thread // 32,
                3,
                thread % 16,
                thread // 16,
                16,
                6,
                block % 2,
                block // 2,
            ]
            wanted += [2, 2, bit, bit | below, below, 0xFFFFFFFF ^ below, 0xFFFFFFFF ^ below ^ bit]
            wanted += [32, thread % 16, thread % 16, thread // 16]
            assert out[:, block, thread].tolist() == wanted, f"block {block}, thread {thread}"


def check_clocks(full: bool, target: str) -> None:
    out = np.zeros(3, dtype=np.int64)
    SCENARIO_PROGRAM.run(target, out, function="run_clocks")
    assert all(value > 0 for value in out.tolist()), "a clock does not advance"


CASES = [
    *map(access_case, FORMS),
    Case("parameters by index", check_parameters),
    Case("parameters of every type", check_typed),
    Case("variables by name, constants", check_named),
    Case("address register as destination", check_chain),
    Case("what concerns caches", check_caches),
    Case("special registers", check_special_registers),
    Case("clocks go forward", check_clocks),
]
