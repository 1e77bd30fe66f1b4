"""cp.async.bulk, cp.reduce.async.bulk, st.async and red.async (PTX ISA 9.7.9.25.4)."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

from simulator.conformance.asynchronous import Case, Program, tensor

LOADS = """
#define LOAD(TO, HINT, POLICY)                                                                  \\
  asm volatile("cp.async.bulk." TO ".global.mbarrier::complete_tx::bytes" HINT                  \\
               " [%0], [%1], %2, [%3]" POLICY ";"                                               \\
               : : "r"(smem(data)), "l"(in), "r"(bytes), "r"(smem(&bar)), "l"(u64{0}) : "memory")

// Outputs shared memory before and after the wait. order: whether the phase is told the bytes
// before the copy is issued, or after.
__global__ void load_kernel(const uint8_t* in, uint8_t* out, unsigned bytes, int form, int order) {
  extern __shared__ __align__(16) uint8_t data[];
  __shared__ u64 bar;
  const int t = threadIdx.x;
  for (unsigned i = t; i < bytes; i += 32) data[i] = 0xee;
  if (t == 0) make_barrier(&bar, 1);
  __syncthreads();
  if (t == 0) {
    if (order == 0) {
      asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;"
                   : : "r"(smem(&bar)), "r"(bytes) : "memory");
    } else if (order == 1) {
      expect(&bar, bytes);
    }
    switch (form) {
      case 0: LOAD("shared::cluster", "", ""); break;
      case 1: LOAD("shared::cta", "", ""); break;
      case 2: LOAD("shared::cluster", ".L2::cache_hint", ", %4"); break;
    }
    if (order == 0) arrive(&bar);
    if (order == 2) expect(&bar, bytes);
  }
  __syncthreads();
  for (unsigned i = t; i < bytes; i += 32) out[i] = data[i];
  wait(&bar, 0);
  for (unsigned i = t; i < bytes; i += 32) out[bytes + i] = data[i];
}
void load(const uint8_t* in, uint8_t* out, unsigned bytes, int form, int order) {
  load_kernel<<<1, 32, bytes>>>(in, out, bytes, form, order);
}

// A ring of stages: one thread copies, two warps sum what has arrived.
__global__ void ring_kernel(const int* in, int* out, int tiles) {
  constexpr int STAGES = 3, N = 64;
  __shared__ alignas(16) int data[STAGES][2][N];
  __shared__ u64 full[STAGES], empty[STAGES];
  const int t = threadIdx.x;
  if (t == 0) {
    for (int s = 0; s < STAGES; s++) {
      make_barrier(&full[s], 1);
      make_barrier(&empty[s], 2);
    }
    asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;"
                 : : : "memory");
  }
  __syncthreads();
  if (t < 32) {
    for (int i = 0; i < tiles && t == 0; i++) {
      const int s = i % STAGES;
      wait(&empty[s], i / STAGES % 2 ^ 1);
      expect(&full[s], 2 * N * 4);
      for (int half = 0; half < 2; half++) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1], %2, [%3];" : : "r"(smem(data[s][half])),
                     "l"(in + (2 * i + half) * N), "r"(N * 4), "r"(smem(&full[s])) : "memory");
      }
    }
  } else {
    int sum = 0;
    for (int i = 0; i < tiles; i++) {
      const int s = i % STAGES;
      wait(&full[s], i / STAGES % 2);
      sum += data[s][0][t - 32] * 3 + data[s][1][95 - t];
      __syncwarp();
      if (t % 32 == 0) arrive(&empty[s]);
    }
    out[t - 32] = sum;
  }
}
void ring(const int* in, int* out, int tiles) { ring_kernel<<<1, 96>>>(in, out, tiles); }

// Block 1 of a cluster copies to every block of the mask at once.
__global__ void __cluster_dims__(4) multicast_kernel(const int* in, int* out, unsigned mask) {
  __shared__ alignas(16) int data[32];
  __shared__ u64 bar;
  const int t = threadIdx.x;
  const unsigned rank = cluster_rank();
  data[t] = -1;
  if (t == 0) {
    make_barrier(&bar, 1);
    if (mask >> rank & 1) expect(&bar, 128);
  }
  cluster_sync();
  if (rank == 1 && t == 0) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1], 128, [%2], %3;"
                 : : "r"(smem(data)), "l"(in), "r"(smem(&bar)),
                 "h"(static_cast<short>(mask)) : "memory");
  }
  if (mask >> rank & 1) wait(&bar, 0);
  out[rank * 32 + t] = data[t];
  cluster_sync();
}
void multicast(const int* in, int* out, unsigned mask) {
  multicast_kernel<<<4, 32>>>(in, out, mask);
}

// Each block sends its numbers to the next block of the cluster.
__global__ void __cluster_dims__(4) send_kernel(int* out) {
  __shared__ alignas(16) int mine[32], got[32];
  __shared__ u64 bar;
  const int t = threadIdx.x;
  const unsigned rank = cluster_rank(), next = (rank + 1) % 4;
  mine[t] = rank * 100 + t;
  got[t] = -1;
  if (t == 0) {
    make_barrier(&bar, 1);
    expect(&bar, 128);
  }
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
  cluster_sync();
  if (t == 0) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
                 "[%0], [%1], 128, [%2];"
                 : : "r"(peer(got, next)), "r"(smem(mine)), "r"(peer(&bar, next)) : "memory");
  }
  out[rank * 64 + t] = got[t];
  wait(&bar, 0);
  out[rank * 64 + 32 + t] = got[t];
  cluster_sync();
}
void send(int* out) { send_kernel<<<4, 32>>>(out); }
"""

STORES = """
// Three groups of one store each. seen: the content of global memory after each wait. The source is
// overwritten once the wait says that it has been read.
__global__ void store_kernel(int* out, int* seen, int waits) {
  __shared__ alignas(16) int data[3][4];
  for (int g = 0; g < 3; g++) {
    for (int i = 0; i < 4; i++) data[g][i] = 10 * g + i;
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 16;"
                 "cp.async.bulk.commit_group;" : : "l"(out + 4 * g), "r"(smem(data[g])) : "memory");
  }
  const volatile int* v = out;
#define SEE(N) for (int i = 0; i < 12; i++) seen[N * 12 + i] = v[i];
  SEE(0)
  if (waits) asm volatile("cp.async.bulk.wait_group.read 1;" : : : "memory");
  for (int g = 0; g < 2; g++) data[g][0] = 99;  // group 2 may not have been read
  SEE(1)
  if (waits) asm volatile("cp.async.bulk.wait_group 1;" : : : "memory");
  SEE(2)
  if (waits) asm volatile("cp.async.bulk.wait_group 0;" : : : "memory");
  SEE(3)
}
void store(int* out, int* seen, int waits) { store_kernel<<<1, 1>>>(out, seen, waits); }

// Two stores in one group to the same place: the later one wins. A load without a wait.
__global__ void order_kernel(int* out, const int* in) {
  __shared__ alignas(16) int data[3][4];
  __shared__ u64 bar;
  for (int i = 0; i < 4; i++) data[0][i] = i, data[1][i] = 50 + i;
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
  for (int k = 0; k < 2; k++) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], 16, %2;"
                 : : "l"(out), "r"(smem(data[k])), "l"(u64{0}) : "memory");
  }
  asm volatile("cp.async.bulk.commit_group;" : : : "memory");
  make_barrier(&bar, 1);
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], 16;" : : "l"(in) : "memory");
  asm volatile("cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%0], [%1], 16, [%2];"
               : : "r"(smem(data[2])), "l"(in), "r"(smem(&bar)) : "memory");
}
void order(int* out, const int* in) { order_kernel<<<1, 1>>>(out, in); }
"""

# A region of shared memory reduced into global memory.
REDUCE = """
__global__ void NAME_kernel(const uint4* in, uint4* out) {
  __shared__ uint4 data[BYTES / 16];
  for (int i = 0; i < BYTES / 16; i++) data[i] = in[i];
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.TEXT [%0], [%1], %2;"
               "cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
               : : "l"(out), "r"(smem(data)), "n"(BYTES) : "memory");
}
void NAME(const void* in, void* out) {
  NAME_kernel<<<1, 1>>>(static_cast<const uint4*>(in), static_cast<uint4*>(out));
}
"""

# The same into the shared memory of the cluster's other block: in bulk, or value by value.
REMOTE = """
__global__ void __cluster_dims__(2) NAME_kernel(const uint4* in, uint4* out) {
  __shared__ uint4 data[BYTES / 16], sum[BYTES / 16];
  __shared__ u64 bar;
  const unsigned rank = cluster_rank();
  for (int i = 0; i < BYTES / 16; i++) data[i] = in[i], sum[i] = out[i];
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
  make_barrier(&bar, 1);
  expect(&bar, BYTES);
  cluster_sync();
  if (rank == 0) {
    const TYPE* values = reinterpret_cast<const TYPE*>(data);
    for (unsigned i = 0; i < COUNT; i++) {
      asm volatile("INSTRUCTION"
                   : : "r"(peer(sum, 1) + i * BYTES / COUNT), "r"(smem(data)), "r"(BYTES),
                   "r"(peer(&bar, 1)), VALUES : "memory");
    }
  } else {
    wait(&bar, 0);
    for (int i = 0; i < BYTES / 16; i++) out[i] = sum[i];
  }
  cluster_sync();
}
void NAME(const void* in, void* out) {
  NAME_kernel<<<2, 1>>>(static_cast<const uint4*>(in), static_cast<uint4*>(out));
}
"""

BYTES = 128
DTYPES = {
    "u32": np.uint32,
    "s32": np.int32,
    "b32": np.uint32,
    "u64": np.uint64,
    "s64": np.int64,
    "b64": np.uint64,
    "f16": np.float16,
    "bf16": np.uint16,
    "f32": np.float32,
    "f64": np.float64,
}
TO_GLOBAL = {
    "add": ("u32", "s32", "u64", "f16", "bf16", "f32", "f64"),
    "min": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "max": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "inc": ("u32",),
    "dec": ("u32",),
    "and": ("b32", "b64"),
    "or": ("b32", "b64"),
    "xor": ("b32", "b64"),
}
TO_CLUSTER = {
    "add": ("u32", "s32", "u64"),
    "min": ("u32", "s32"),
    "max": ("u32", "s32"),
    "inc": ("u32",),
    "dec": ("u32",),
    "and": ("b32",),
    "or": ("b32",),
    "xor": ("b32",),
}
COMPLETES = "mbarrier::complete_tx::bytes"


@dataclass(frozen=True)
class Reduction:
    kind: str  # "global", "bulk" or "value": red.async
    op: str
    type: str

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.op}_{self.type}"

    @property
    def text(self) -> str:
        noftz = ".noftz" if self.op == "add" and self.type in ("f16", "bf16") else ""
        return f"{self.op}{noftz}.{self.type}"

    @property
    def form(self) -> str:
        if self.kind == "global":
            return f"cp.reduce.async.bulk.global.shared::cta.bulk_group.{self.text}"
        if self.kind == "bulk":
            return f"cp.reduce.async.bulk.shared::cluster.shared::cta.{COMPLETES}.{self.text}"
        return f"red.async.relaxed.cluster.shared::cluster.{COMPLETES}.{self.text}"

    @property
    def source(self) -> str:
        if self.kind == "global":
            text = REDUCE.replace("TEXT", self.text)
        elif self.kind == "bulk":
            text = remote(f"{self.form} [%0], [%1], %2, [%3];", "unsigned", 1, '"r"(values[0])')
        else:
            wide = self.type[1:] == "64"
            ctype, letter = ("u64", "l") if wide else ("unsigned", "r")
            count = BYTES // (8 if wide else 4)
            text = remote(f"{self.form} [%0], %4, [%3];", ctype, count, f'"{letter}"(values[i])')
        return text.replace("NAME", self.name).replace("BYTES", str(BYTES))


def remote(instruction: str, ctype: str, count: int, values: str) -> str:
    text = REMOTE.replace("INSTRUCTION", instruction).replace("TYPE", ctype)
    return text.replace("COUNT", str(count)).replace("VALUES", values)


# st.async: type and elements; C type of an element and the constraint of its registers.
SENDS = [
    *((t, 1) for t in ("b32", "b64", "u32", "u64", "s32", "s64", "f32", "f64")),
    *((t, 2) for t in ("b32", "b64", "u32", "u64", "s32", "s64", "f32", "f64")),
    *((t, 4) for t in ("b32", "u32", "s32", "f32")),
]
CTYPES = {"32": ("unsigned", "r"), "64": ("u64", "l")}
CTYPES |= {"f32": ("float", "f"), "f64": ("double", "d")}


def send_source(type_: str, n: int) -> str:
    ctype, letter = CTYPES.get(type_) or CTYPES[type_[1:]]
    size = int(type_[1:]) // 8 * n
    registers = ", ".join(f"%{4 + i}" for i in range(n))
    value = f"{{{registers}}}" if n > 1 else registers
    vector = f"v{n}." if n > 1 else ""
    form = f"st.async.shared::cluster.{COMPLETES}.{vector}{type_}"
    values = ", ".join(f'"{letter}"(values[i * {n} + {k}])' for k in range(n))
    source = remote(f"{form} [%0], {value}, [%3];", ctype, BYTES // size, values)
    return source.replace("NAME", f"send_{type_}_{n}").replace("BYTES", str(BYTES))


REDUCTIONS = [
    *(Reduction("global", op, t) for op, types in TO_GLOBAL.items() for t in types),
    *(Reduction("bulk", op, t) for op, types in TO_CLUSTER.items() for t in types),
    *(Reduction("value", op, t) for op, types in TO_CLUSTER.items() for t in types),
]
COPIES = Program(
    "bulk_copies", LOADS + STORES, ("load", "ring", "multicast", "send", "store", "order")
)
REDUCES = Program(
    "bulk_reductions",
    "".join(r.source for r in REDUCTIONS) + "".join(send_source(*send) for send in SENDS),
    (*(r.name for r in REDUCTIONS), *(f"send_{t}_{n}" for t, n in SENDS)),
)


def check_load(module: ModuleType, device: str) -> None:
    for bytes_ in (16, 48, 1024, 40000):
        data = np.random.default_rng(bytes_).integers(0, 256, bytes_).astype(np.uint8)
        for form in range(3):
            for order in range(3):
                out = tensor(np.zeros((2, bytes_), np.uint8), device)
                module.load(tensor(data, device), out, bytes_, form, order)
                got = out.cpu().numpy()
                assert np.array_equal(got[1], data), (bytes_, form, order)
                if device == "cpu":
                    assert (got[0] == 0xEE).all(), "before the wait"


def check_ring(module: ModuleType, device: str) -> None:
    for tiles in (1, 3, 14):
        data = np.random.default_rng(tiles).integers(-99, 99, (tiles, 2, 64)).astype(np.int32)
        out = tensor(np.zeros(64, np.int32), device)
        module.ring(tensor(data, device), out, tiles)
        assert np.array_equal(out.cpu().numpy(), (data[:, 0] * 3 + data[:, 1, ::-1]).sum(0))


def check_multicast(module: ModuleType, device: str) -> None:
    data = np.arange(32, dtype=np.int32) + 5
    for mask in (0b0001, 0b0010, 0b1101, 0b1111):
        out = tensor(np.zeros((4, 32), np.int32), device)
        module.multicast(tensor(data, device), out, mask)
        chosen = (mask >> np.arange(4) & 1).astype(bool)[:, None]
        assert np.array_equal(out.cpu().numpy(), np.where(chosen, data, -1))


def check_send(module: ModuleType, device: str) -> None:
    out = tensor(np.zeros((4, 2, 32), np.int32), device)
    module.send(out)
    before = (np.arange(4) + 3) % 4
    got = out.cpu().numpy()
    assert np.array_equal(got[:, 1], before[:, None] * 100 + np.arange(32))


def check_store(module: ModuleType, device: str) -> None:
    stored = (10 * np.arange(3)[:, None] + np.arange(4)).astype(np.int32)
    late = stored.copy()
    late[:2, 0] = 99  # read after it was overwritten
    for waits in (1, 0):
        out = tensor(np.full((3, 4), -1, np.int32), device)
        seen = tensor(np.zeros((4, 3, 4), np.int32), device)
        module.store(out, seen, waits)
        if waits or device == "cpu":
            assert np.array_equal(out.cpu().numpy(), stored if waits else late)
        if device == "cpu":
            groups = np.array([0, 0, 2, 3] if waits else [0] * 4)[:, None, None]
            wanted = np.where(np.arange(3)[:, None] < groups, stored, -1)
            assert np.array_equal(seen.cpu().numpy(), wanted)


def check_order(module: ModuleType, device: str) -> None:
    out = tensor(np.zeros(4, np.int32), device)
    module.order(out, tensor(np.arange(4, dtype=np.int32), device))
    assert out.cpu().tolist() == [50, 51, 52, 53]


def values(type_: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dtype = DTYPES[type_]
    bits = rng.integers(0, 256, BYTES).astype(np.uint8).view(dtype)
    if type_[0] in "fb" and type_ not in ("b32", "b64"):
        n = bits.size
        plain = rng.normal(size=n) * 10.0 ** rng.integers(-7, 4, n)
        if type_ == "bf16":
            plain = torch.from_numpy(plain).bfloat16().view(torch.int16).numpy().view(np.uint16)
        special = bits.copy()
        special[::2] = plain.astype(dtype)[::2]
        return special
    if seed % 2:  # small ones, which wrap with inc and dec
        return (bits % 5).astype(dtype)
    return bits


def flushed(v: np.ndarray) -> np.ndarray:
    """Flush denormals to zeros of their sign."""
    return np.where(np.abs(v) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), v), v)


def reduced(op: str, type_: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """op(a, b) for each element; canonical NaN for every NaN."""
    if type_ == "bf16":
        a, b = (torch.from_numpy(v.view(np.int16)).view(torch.bfloat16) for v in (a, b))
        if op == "add":
            result = a + b
        else:
            a, b = a.float().numpy(), b.float().numpy()
            chosen = np.minimum(a, b) if op == "min" else np.maximum(a, b)
            return np.where(np.isnan(a), b, np.where(np.isnan(b), a, chosen))
        return result.float().numpy()
    if type_ == "f32":
        a, b = map(flushed, (a, b))
    with np.errstate(all="ignore"):
        if op in ("inc", "dec"):
            up = np.where(a >= b, 0, a + 1)
            return up if op == "inc" else np.where((a == 0) | (a > b), b, a - 1)
        table = {"add": np.add, "min": np.fmin, "max": np.fmax}
        table |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
        result = table[op](a, b)
    if type_ == "f32":
        result = flushed(result)
    return result


def check_reduction(reduction: Reduction):
    def run(module: ModuleType, device: str) -> None:
        for seed in range(4):
            old, operand = (values(reduction.type, 2 * seed + k) for k in range(2))
            out = tensor(old.view(np.uint8), device)
            getattr(module, reduction.name)(tensor(operand.view(np.uint8), device), out)
            got = out.cpu().numpy().view(DTYPES[reduction.type])
            wanted = reduced(reduction.op, reduction.type, old, operand)
            if reduction.type == "bf16":
                got = (got.astype(np.uint32) << 16).view(np.float32)
            assert np.array_equal(got, wanted, equal_nan=got.dtype.kind == "f"), f"seed {seed}"

    return run


def check_value_send(type_: str, n: int):
    def run(module: ModuleType, device: str) -> None:
        data = np.random.default_rng(1).integers(0, 256, BYTES).astype(np.uint8)
        out = tensor(np.zeros(BYTES, np.uint8), device)
        getattr(module, f"send_{type_}_{n}")(tensor(data, device), out)
        assert np.array_equal(out.cpu().numpy(), data)

    return run


CASES = [
    Case("load", COPIES, check_load),
    Case("ring", COPIES, check_ring),
    Case("multicast", COPIES, check_multicast),
    Case("send", COPIES, check_send),
    Case("store", COPIES, check_store),
    Case("order", COPIES, check_order),
    *(Case(r.name, REDUCES, check_reduction(r)) for r in REDUCTIONS),
    *(Case(f"st.async {n} {t}", REDUCES, check_value_send(t, n)) for t, n in SENDS),
]
