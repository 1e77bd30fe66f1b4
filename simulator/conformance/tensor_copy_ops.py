"""cp.async.bulk.tensor (PTX ISA 9.7.9.27): boxes of tensors, against numpy index arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

from simulator.conformance.asynchronous import Case, Program, tensor
from simulator.conformance.tensor_maps import TYPES, Map

KERNELS = r"""
struct alignas(128) TensorMap {
  uint8_t bytes[128];
};
#define LOAD(FORM, BEHIND)                                                                        \
  asm volatile(FORM BEHIND ";" : : "r"(to), "l"(map), "r"(smem(&bar)), "r"(at[0]), "r"(at[1]),    \
               "r"(at[2]), "r"(at[3]), "r"(at[4]), "h"(static_cast<short>(at[5])),                \
               "h"(static_cast<short>(at[6])), "h"(static_cast<short>(at[7])), "l"(u64{0}),       \
               "h"(static_cast<short>(1)) : "memory")
#define STORE(FORM, BEHIND)                                                                       \
  asm volatile(FORM BEHIND ";" : : "r"(from), "l"(map), "r"(0), "r"(at[0]), "r"(at[1]),           \
               "r"(at[2]), "r"(at[3]), "r"(at[4]), "h"(static_cast<short>(at[5])),                \
               "h"(static_cast<short>(at[6])), "h"(static_cast<short>(at[7])), "l"(u64{0})        \
               : "memory")

// at: coordinates, then offsets. out: shared memory before and after the wait.
__device__ void load_box(const void* map, const int* at, uint8_t* out, int bytes, int tx, int form,
                         int offset) {
  extern __shared__ __align__(1024) uint8_t data[];
  __shared__ u64 bar;
  for (int i = threadIdx.x; i < bytes; i += 32) data[i] = 0xee;
  if (threadIdx.x == 0) make_barrier(&bar, 1);
  asm volatile("fence.proxy.async.shared::cta;"
               "fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" : : "l"(map) : "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned to = smem(data) + offset;
    expect(&bar, tx);
    switch (form) {
      LOAD_CASES
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < bytes; i += 32) out[i] = data[i];
  wait(&bar, 0);
  for (int i = threadIdx.x; i < bytes; i += 32) out[bytes + i] = data[i];
}
__global__ void load_param(const __grid_constant__ TensorMap map, const int* at, uint8_t* out,
                           int bytes, int tx, int form, int offset) {
  load_box(&map, at, out, bytes, tx, form, offset);
}
__global__ void load_global(const void* map, const int* at, uint8_t* out, int bytes, int tx,
                            int form, int offset) {
  load_box(map, at, out, bytes, tx, form, offset);
}
// data: the tensor, which the kernel only knows by its map.
void load(const void* data, const void* map, const int* at, uint8_t* out, int bytes, int tx,
          int form, int offset, int param) {
  if (param) {
    TensorMap copy;
    cudaMemcpy(&copy, map, sizeof(copy), cudaMemcpyDefault);
    cudaFuncSetAttribute(load_param, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    load_param<<<1, 32, bytes>>>(copy, at, out, bytes, tx, form, offset);
  } else {
    cudaFuncSetAttribute(load_global, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    load_global<<<1, 32, bytes>>>(map, at, out, bytes, tx, form, offset);
  }
}

// in: the box in shared memory.
__global__ void store_kernel(const void* map, const int* at, const uint8_t* in, int bytes, int form,
                             int offset) {
  extern __shared__ __align__(1024) uint8_t data[];
  for (int i = threadIdx.x; i < bytes; i += 32) data[i] = in[i];
  asm volatile("fence.proxy.async.shared::cta;"
               "fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" : : "l"(map) : "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned from = smem(data) + offset;
    switch (form) {
      STORE_CASES
    }
    asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" : : : "memory");
  }
}
void store(const void* map, const int* at, const uint8_t* in, uint8_t* out, int bytes, int form,
           int offset) {
  cudaFuncSetAttribute(store_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  store_kernel<<<1, 32, bytes>>>(map, at, in, bytes, form, offset);
}

// Block r of the cluster loads row r of boxes to all blocks of the mask.
__global__ void __cluster_dims__(2) multicast_kernel(const void* map, int* out) {
  __shared__ alignas(128) int data[2][64];
  __shared__ u64 bar;
  const unsigned rank = cluster_rank();
  if (threadIdx.x == 0) {
    make_barrier(&bar, 1);
    expect(&bar, sizeof(data));
    asm volatile("prefetch.tensormap [%0]; prefetch.param.tensormap [%0];"
                 "prefetch.const.tensormap [%0];" : : "l"(map) : "memory");
  }
  cluster_sync();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {0, %2}], [%3], %4;"
                 : : "r"(smem(data[rank])), "l"(map), "r"(rank * 2), "r"(smem(&bar)),
                 "h"(static_cast<short>(3)) : "memory");
  }
  wait(&bar, 0);
  for (int i = threadIdx.x; i < 128; i += 32) out[rank * 128 + i] = data[i / 64][i % 64];
  cluster_sync();
}
void multicast(const void* map, const int* in, int* out) { multicast_kernel<<<2, 32>>>(map, out); }

// Another tensor's map made from a template: every field is replaced, in shared memory (by a shared
// or a generic address) or in global memory.
#define FIELD(NAME, TYPE, LETTER, VALUE)                                            \
  asm volatile("tensormap.replace.tile." NAME SPACE ".b1024." TYPE " [%0], %1;"     \
               : : AT, LETTER(VALUE) : "memory")
#define FIELD_OF(NAME, TYPE, DIM, LETTER, VALUE)                                            \
  asm volatile("tensormap.replace.tile." NAME SPACE ".b1024." TYPE " [%0], " DIM ", %1;"    \
               : : AT, LETTER(VALUE) : "memory")
#define FIELDS                                    \
  FIELD("global_address", "b64", "l", in);        \
  FIELD("rank", "b32", "r", 1);                   \
  FIELD_OF("box_dim", "b32", "0", "r", 32);       \
  FIELD_OF("box_dim", "b32", "1", "r", 16);       \
  FIELD_OF("global_dim", "b32", "0", "r", 40);    \
  FIELD_OF("global_dim", "b32", "1", "r", 9);     \
  FIELD_OF("global_stride", "b64", "0", "l", 80ull); \
  FIELD_OF("element_stride", "b32", "0", "r", 1); \
  FIELD_OF("element_stride", "b32", "1", "r", 2); \
  FIELD("elemtype", "b32", "n", 6);               \
  FIELD("interleave_layout", "b32", "n", 0);      \
  FIELD("swizzle_mode", "b32", "n", 2);           \
  FIELD("fill_mode", "b32", "n", 1);
__global__ void replace_kernel(const int* from, int* made, const short* in, short* out, int where) {
  __shared__ alignas(128) int map[32];
  __shared__ alignas(1024) short data[1024];
  __shared__ u64 bar;
  const int t = threadIdx.x;
  map[t] = made[t] = from[t];
  __syncwarp();
  if (t == 0) {
    if (where == 0) {
#define SPACE ".shared::cta"
#define AT "r"(smem(map))
      FIELDS
#undef SPACE
#undef AT
    } else if (where == 1) {
#define SPACE ""
#define AT "l"(map)
      FIELDS
#undef SPACE
#undef AT
    } else {
#define SPACE ".global"
#define AT "l"(made)
      FIELDS
#undef SPACE
#undef AT
    }
    make_barrier(&bar, 1);
  }
  __syncwarp();
  if (where < 2) {
    asm volatile("tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync"
                 ".aligned [%0], [%1], 128;" : : "l"(made), "r"(smem(map)) : "memory");
  } else {
    asm volatile("fence.proxy.tensormap::generic.release.gpu;" : : : "memory");
  }
  asm volatile("fence.proxy.tensormap::generic.acquire.cta [%0], 128;"
               "fence.proxy.tensormap::generic.acquire.cluster [%0], 128;"
               "fence.proxy.tensormap::generic.acquire.gpu [%0], 128;"
               "fence.proxy.tensormap::generic.acquire.sys [%0], 128;" : : "l"(made) : "memory");
  if (t == 0) {
    expect(&bar, 512);
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {16, 3}], [%2];"
                 : : "r"(smem(data)), "l"(made), "r"(smem(&bar)) : "memory");
  }
  wait(&bar, 0);
  for (int i = t; i < 256; i += 32) out[i] = data[i];
}
void replace(const int* from, int* made, const short* in, short* out, int where) {
  replace_kernel<<<1, 32>>>(from, made, in, out, where);
}

// A parameter without __grid_constant__ is copied to local memory when its address is taken.
__global__ void copied_kernel(TensorMap map, const int* at, uint8_t* out) {
  load_box(&map, at, out, 64, 64, 0, 0);
}
void copied(const void* map, const int* at, uint8_t* out) {
  TensorMap copy;
  cudaMemcpy(&copy, map, sizeof(copy), cudaMemcpyDefault);
  copied_kernel<<<1, 32, 64>>>(copy, at, out);
}
"""
LOADED = "mbarrier::complete_tx::bytes"
OPS = ("add", "min", "max", "inc", "dec", "and", "or", "xor")


@dataclass(frozen=True)
class Form:
    """A form of a copy between a tensor and shared memory, and its operands after the first."""

    text: str
    rank: int
    im2col: bool
    op: str = ""  # of a reduction

    @property
    def operands(self) -> str:
        """From %0: shared memory, map, mbarrier, 5 coordinates, 3 offsets, cache policy, blocks."""
        box = f"[%1, {{{', '.join(f'%{3 + i}' for i in range(self.rank))}}}]"
        if "prefetch" in self.text:
            out = box
        elif LOADED in self.text:
            out = f"[%0], {box}, [%2]"
        else:
            return f"{box}, [%0]" + (", %11" if "cache_hint" in self.text else "")
        if self.im2col:
            out += f", {{{', '.join(f'%{8 + i}' for i in range(self.rank - 2))}}}"
        out += ", %12" if "multicast" in self.text else ""
        return out + (", %11" if "cache_hint" in self.text else "")


def load_forms() -> list[Form]:
    found = []
    for rank, mode in MODES:
        start = f"cp.async.bulk.tensor.{rank}d"
        im2col = mode == ".im2col"
        for end in ("", ".L2::cache_hint", ".multicast::cluster"):
            text = f"{start}.shared::cluster.global{mode}.{LOADED}{end}"
            found.append(Form(text, rank, im2col))
        found.append(Form(f"{start}.shared::cta.global{mode}.{LOADED}", rank, im2col))
    return found


def store_forms() -> list[Form]:
    found = []
    for rank, mode in MODES:
        end = f"{'.im2col_no_offs' if mode == '.im2col' else mode}.bulk_group"
        im2col = mode == ".im2col"
        start = f"{rank}d.global.shared::cta"
        for hint in ("", ".L2::cache_hint"):
            text = f"cp.async.bulk.tensor.{start}{end}{hint}"
            found.append(Form(text, rank, im2col))
        for op in OPS:
            text = f"cp.reduce.async.bulk.tensor.{start}.{op}{end}"
            found.append(Form(text, rank, im2col, op))
    return found


MODES = [
    *((rank, mode) for rank in range(1, 6) for mode in ("", ".tile")),
    *((rank, ".im2col") for rank in range(3, 6)),
]
LOAD_FORMS = load_forms()
STORE_FORMS = store_forms()
PREFETCHES = [
    Form(f"cp.async.bulk.prefetch.tensor.{rank}d.L2.global{mode}", rank, mode == ".im2col")
    for rank, mode in MODES
]


def switch(macro: str, forms: list[Form], first: int = 0) -> str:
    return "\n".join(
        f'      case {first + i}: {macro}("{f.text}", " {f.operands}"); break;'
        for i, f in enumerate(forms)
    )


PROGRAM = Program(
    "tensor_copies",
    KERNELS.replace(
        "      LOAD_CASES", switch("LOAD", LOAD_FORMS) + "\n" + switch("LOAD", PREFETCHES, 100)
    ).replace("      STORE_CASES", switch("STORE", STORE_FORMS)),
    ("load", "store", "multicast", "replace", "copied"),
)


def numbers(forms: list[Form], m: Map, op: str = "") -> list[int]:
    """The forms for a map."""
    wanted = (m.rank, m.corners is not None, op)
    return [i for i, f in enumerate(forms) if (f.rank, f.im2col, f.op) == wanted]


SMEM = 96 * 1024


def random_map(rng: np.random.Generator, rank: int, type_: str = "") -> Map:
    """A tiled map of moderate size, of any type, box, padding and swizzle."""
    type_ = type_ or rng.choice([t for t in TYPES if "tf32" not in t and "ftz" not in t])
    item = TYPES[type_][1]
    swizzle = int(rng.choice((0, 0, 32, 64, 128)))
    row = 16 * rng.integers(1, (swizzle or 256 * item) // 16 + 1)
    row = min(row, 256 * item, 512)
    sizes = [int(rng.integers(1, 2 * row // item + 2))]
    strides, box, steps = [], [row // item], [1]
    extent = sizes[0] * item
    budget = SMEM // 2 // row
    for _ in range(1, rank):
        stride = -(-extent // 16) * 16 + 16 * int(rng.integers(0, 3))
        strides.append(stride)
        sizes.append(int(rng.integers(1, 14 if rank < 4 else 6)))
        box.append(int(rng.integers(1, min(16, max(2, budget)) + 1)))
        steps.append(int(rng.integers(1, 4)) if rng.random() < 0.3 else 1)
        budget //= -(-box[-1] // steps[-1])
        extent = stride * sizes[-1]
    nan = bool(type_[0] == "f" or type_ == "bf16") and rng.random() < 0.5
    return Map(type_, tuple(sizes), tuple(strides), tuple(box), tuple(steps), swizzle, nan)


def random_im2col(rng: np.random.Generator, rank: int, type_: str = "") -> Map:
    type_ = type_ or rng.choice(["u8", "f16", "f32", "u32"])
    item = TYPES[type_][1]
    swizzle = int(rng.choice((0, 32, 64, 128)))
    channels = (swizzle or 16 * int(rng.integers(1, 5))) // item
    sizes = [int(rng.integers(channels // 2 + 1, channels * 2))]
    sizes += [int(n) for n in rng.integers(5, 9, rank - 2)] + [int(rng.integers(1, 4))]
    strides, extent = [], -(-sizes[0] * item // 16) * 16
    for n in sizes[1:]:
        strides.append(extent + 16 * int(rng.integers(0, 2)))
        extent = strides[-1] * n
    lower = tuple(int(v) for v in rng.integers(-2, 2, rank - 2))
    upper = tuple(int(v) for v in rng.integers(-2, 2, rank - 2))
    steps = (1, *(int(v) for v in rng.integers(1, 3, rank - 2)), 1)
    box = (channels, int(rng.integers(1, 65)))
    return Map(type_, tuple(sizes), tuple(strides), box, steps, swizzle, corners=(lower, upper))


def random_place(rng: np.random.Generator, m: Map) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The origin of a box, which may be outside the tensor, and the offsets of im2col."""
    if not m.corners:
        low = [-b for b in m.box]
        return tuple(int(rng.integers(a, n + 2)) for a, n in zip(low, m.sizes, strict=True)), ()
    first = [*m.corners[0], 0]
    all_ = [p for p, _ in zip(m.positions(tuple(first)), range(200), strict=False)]
    start = all_[rng.integers(0, len(all_))]
    shifts = tuple(int(v) for v in rng.integers(0, 4, m.rank - 2))
    return (int(rng.integers(-8, m.sizes[0])), *start), shifts


class Copy:
    """One copy: its tensor's bytes, its place in the tensor and in shared memory."""

    def __init__(self, m: Map, seed: int, store: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.map = m
        self.at, self.shifts = random_place(rng, m)
        if store:
            self.shifts = (0,) * len(self.shifts)
        self.data = rng.integers(0, 256, m.tensor_bytes).astype(np.uint8)
        self.shared = rng.integers(0, 256, m.bytes + 2048).astype(np.uint8)
        self.offset = 128 * int(rng.integers(0, 8))

    def arguments(self) -> np.ndarray:
        at = [*self.at, *[0] * (5 - len(self.at)), *self.shifts]
        return np.array(at + [0] * (8 - len(at)), np.int32)

    def elements(self) -> tuple[np.ndarray, np.ndarray]:
        """Byte by byte: the box's place in the tensor (-1: outside) and in shared memory."""
        offsets = self.map.offsets(self.at, self.shifts)
        each = np.arange(self.map.item)
        source = np.where(offsets[:, None] < 0, -1, offsets[:, None] + each).ravel()
        return source, self.map.swizzled(self.offset) + self.offset


def encoded(m: Map, data: torch.Tensor, device: str) -> torch.Tensor:
    return tensor(m.encode(data.data_ptr(), device), device)


def check_load(m: Map, seed: int, module: ModuleType, device: str) -> None:
    copy = Copy(m, seed)
    data = tensor(copy.data, device)
    size = len(copy.shared)
    out = tensor(np.zeros((2, size), np.uint8), device)
    at = tensor(copy.arguments(), device)
    forms = numbers(LOAD_FORMS, m)
    form = forms[seed % len(forms)]
    parameters = size, m.bytes, form, copy.offset, seed % 2
    module.load(data, encoded(m, data, device), at, out, *parameters)
    source, place = copy.elements()
    inside = source >= 0
    got = out.cpu().numpy()
    boxed = got[1][place]
    assert np.array_equal(boxed[inside], copy.data[source[inside]]), m
    if m.nan_fill:
        dtype = {2: np.uint16, 4: np.float32, 8: np.float64}[m.item]
        filled = boxed.view(dtype)[~inside[:: m.item]]
        values = (filled.astype(np.uint32) << 16).view(np.float32) if m.type == "bf16" else filled
        assert np.isnan(filled.view(np.float16) if m.type == "f16" else values).all(), m
    else:
        assert (boxed[~inside] == 0).all(), m
    if device == "cpu":
        assert (got[0] == 0xEE).all(), "before the wait"
    others = np.ones(size, bool)
    others[place] = False
    assert (got[1][others] == 0xEE).all(), m


def check_store(m: Map, seed: int, module: ModuleType, device: str) -> None:
    copy = Copy(m, seed, store=True)
    data = tensor(copy.data, device)
    at, shared = tensor(copy.arguments(), device), tensor(copy.shared, device)
    forms = numbers(STORE_FORMS, m)
    form = forms[seed % len(forms)]
    size = len(copy.shared)
    module.store(encoded(m, data, device), at, shared, data, size, form, copy.offset)
    source, place = copy.elements()
    wanted = copy.data.copy()
    wanted[source[source >= 0]] = copy.shared[place][source >= 0]
    assert np.array_equal(data.cpu().numpy(), wanted), m


def many(check, make, rank: int):
    def run(module: ModuleType, device: str) -> None:
        for seed in range(24):
            check(make(np.random.default_rng((rank, seed)), rank), seed, module, device)

    return run


# Whole tiles, as used by kernels.
TILES = [
    Map("bf16", (200, 300), (400,), (64, 128), swizzle=128),
    Map("f16", (64, 64), (128,), (32, 64), swizzle=64),
    Map("f32", (100, 77), (400,), (8, 256), swizzle=32),
    Map("u8", (256, 16), (256,), (256, 16)),
    Map("f64", (40, 5, 9), (320, 1600), (16, 4, 8), swizzle=128),
]


def check_tiles(module: ModuleType, device: str) -> None:
    for i, m in enumerate(TILES):
        for seed in range(4):
            check_load(m, 10 * i + seed, module, device)
            check_store(m, 10 * i + seed, module, device)


REDUCED = {
    "add": ("u32", "s32", "u64", "f16", "f32"),
    "min": ("u32", "s32", "u64", "s64", "f16"),
    "max": ("u32", "s32", "u64", "s64", "f16"),
    "inc": ("u32",),
    "dec": ("u32",),
    "and": ("u32", "u64"),
    "or": ("u32", "u64"),
    "xor": ("u32", "u64"),
}
NUMPY = {
    "u32": np.uint32,
    "s32": np.int32,
    "u64": np.uint64,
    "s64": np.int64,
    "f16": np.float16,
    "f32": np.float32,
}


def reduced(op: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if op == "inc":
        return np.where(a >= b, 0, a + 1)
    if op == "dec":
        return np.where((a == 0) | (a > b), b, a - 1)
    table = {"add": np.add, "min": np.minimum, "max": np.maximum}
    table |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
    return table[op](a, b)


def check_reduce(op: str):
    def run(module: ModuleType, device: str) -> None:
        for form in (i for i, f in enumerate(STORE_FORMS) if f.op == op):
            make = random_im2col if STORE_FORMS[form].im2col else random_map
            for seed, type_ in enumerate(REDUCED[op]):
                rng = np.random.default_rng((form, seed))
                m = make(rng, STORE_FORMS[form].rank, type_)
                reduce_box(op, m, form, seed, module, device)

    return run


def reduce_box(op: str, m: Map, form: int, seed: int, module: ModuleType, device: str) -> None:
    copy = Copy(m, seed, store=True)
    rng = np.random.default_rng(seed)
    dtype, item = NUMPY[m.type], m.item
    copy.data = rng.integers(0, 9, m.tensor_bytes // item).astype(dtype)
    copy.shared = rng.integers(0, 9, (m.bytes + 2048) // item).astype(dtype)
    data = tensor(copy.data.view(np.uint8), device)
    shared = tensor(copy.shared.view(np.uint8), device)
    at = tensor(copy.arguments(), device)
    size = len(copy.shared) * item
    module.store(encoded(m, data, device), at, shared, data, size, form, copy.offset)
    source, place = (v[::item] // item for v in copy.elements())
    wanted, inside = copy.data.copy(), source >= 0
    old, new = copy.data[source[inside]], copy.shared[place[inside]]
    wanted[source[inside]] = reduced(op, old, new)
    assert np.array_equal(data.cpu().numpy().view(dtype), wanted), m


def check_prefetch(module: ModuleType, device: str) -> None:
    """A prefetch, followed by a wait for no bytes."""
    for i, form in enumerate(PREFETCHES):
        make = random_im2col if form.im2col else random_map
        copy = Copy(make(np.random.default_rng(i), form.rank), i)
        data, at = tensor(copy.data, device), tensor(copy.arguments(), device)
        out = tensor(np.zeros((2, 64), np.uint8), device)
        module.load(data, encoded(copy.map, data, device), at, out, 64, 0, 100 + i, 0, i % 2)
        assert (out.cpu().numpy() == 0xEE).all()


def check_converted(module: ModuleType, device: str) -> None:
    """f32 to tf32, and denormals to zero, on loading."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 32, 64, dtype=np.uint64).astype(np.uint32)
    values[::5] &= 0x807FFFFF  # denormals
    values[((values >> 23) & 0xFF) == 0xFF] = 0x3F801234
    for type_ in ("f32_ftz", "tf32", "tf32_ftz"):
        m = Map(type_, (64,), (), (64,))
        data = tensor(values.view(np.uint8), device)
        out = tensor(np.zeros((2, 256), np.uint8), device)
        at = tensor(np.zeros(8, np.int32), device)
        module.load(data, encoded(m, data, device), at, out, 256, 256, 0, 0, 0)
        got = out.cpu().numpy()[1].view(np.uint32)
        denormal = (values & 0x7F800000) == 0
        wanted = np.where(denormal & (type_ != "tf32"), values & 0x80000000, values)
        if type_ == "f32_ftz":
            assert np.array_equal(got, wanted)
        else:
            assert (got & 0x1FFF == 0).all()
            apart = np.abs((got & 0x7FFFFFFF).astype(int) - (wanted & 0x7FFFFFFF).astype(int))
            assert (apart <= 0x1000).all()


def check_multicast(module: ModuleType, device: str) -> None:
    m = Map("s32", (32, 4), (128,), (32, 2))
    data = tensor(np.arange(128, dtype=np.int32), device)
    out = tensor(np.zeros((2, 128), np.int32), device)
    module.multicast(encoded(m, data, device), data, out)
    assert np.array_equal(out.cpu().numpy(), np.tile(np.arange(128), (2, 1)))


def check_replace(module: ModuleType, device: str) -> None:
    for where in range(3):  # a shared, a generic, a global address
        check_replaced(module, device, where)


def check_replaced(module: ModuleType, device: str, where: int) -> None:
    template = Map("u8", (16, 16, 16), (16, 256), (16, 1, 1))
    values = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float16)
    data = tensor(values.view(np.int16), device)
    made = tensor(np.zeros(32, np.int32), device)
    out = tensor(np.zeros(256, np.int16), device)
    encoding = tensor(template.encode(data.data_ptr(), device).view(np.int32), device)
    module.replace(encoding, made, data, out, where)
    m = Map("f16", (40, 9), (80,), (32, 16), (1, 2), 64, True)
    place = m.swizzled(0)[::2] // 2
    got = out.cpu().numpy()[place].view(np.float16)
    source = m.offsets((16, 3)) // 2
    wanted = np.where(source < 0, np.float16("nan"), values.ravel()[source])
    assert np.array_equal(got, wanted, equal_nan=True)


CASES = [
    *(Case(f"load {r}d", PROGRAM, many(check_load, random_map, r)) for r in range(1, 6)),
    *(Case(f"load im2col {r}d", PROGRAM, many(check_load, random_im2col, r)) for r in (3, 4, 5)),
    *(Case(f"store {r}d", PROGRAM, many(check_store, random_map, r)) for r in range(1, 6)),
    *(Case(f"store im2col {r}d", PROGRAM, many(check_store, random_im2col, r)) for r in (3, 4, 5)),
    Case("tiles", PROGRAM, check_tiles),
    *(Case(f"reduce {op}", PROGRAM, check_reduce(op)) for op in OPS),
    Case("prefetch", PROGRAM, check_prefetch),
    Case("converted", PROGRAM, check_converted),
    Case("multicast", PROGRAM, check_multicast),
    Case("replace", PROGRAM, check_replace),
]
