"""Clusters: blocks that see each other's shared memory (PTX ISA, mapa, barrier.cluster).

Each form of an access to shared::cluster goes to the next block of the cluster, at addresses that
differ between lanes. Barriers are right if they make visible what a block wrote before.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from simulator.conformance import exact
from simulator.conformance.exact import F32
from simulator.conformance.micro import BLOCK, Case, Operand, Program

BLOCKS = 4  # per cluster, unless noted
CELL = 16  # bytes


@dataclass(frozen=True)
class Remote:
    """One form of ld, st, atom or red; with `count` elements of a type."""

    op: str  # "ld", "st", "atom.add", ...
    type: str
    count: int = 1
    address: str = "u32"  # or "u64", or "generic" for the result of mapa without .shared::cluster

    def __str__(self) -> str:
        return self.name + ("" if self.address == "u32" else f" ({self.address})")

    @property
    def name(self) -> str:
        opcode, _, operation = self.op.partition(".")
        space = "" if self.address == "generic" else "shared::cluster"
        vector = f"v{self.count}" if self.count > 1 else ""
        return ".".join(filter(None, (opcode, space, operation, vector, self.type)))

    @property
    def bits(self) -> int:
        return int(self.type[1:])


SCALARS = ("b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64",
           "f64")  # fmt: skip
FORMS = [
    *(Remote(op, t) for op in ("ld", "st") for t in SCALARS),
    *(Remote(op, t, n) for op in ("ld", "st") for t, n in (
        ("f32", 2), ("f32", 4), ("b32", 4), ("b64", 2))),
    *(Remote(op, "u32", 1, address) for op in ("ld", "st") for address in ("u64", "generic")),
    *(Remote(f"{opcode}.{op}", t) for opcode in ("atom", "red") for op, t in (
        ("add", "u32"), ("add", "f32"), ("min", "s32"), ("max", "u64"))),
    *(Remote(f"{opcode}.add", "u32", 1, address) for opcode in ("atom", "red")
      for address in ("u64", "generic")),
    Remote("atom.exch", "b32"),
    Remote("atom.cas", "b64"),
]  # fmt: skip

ACCESS_KERNEL = """
__global__ void __cluster_dims__({blocks}) access_{index}(const uint4* in, uint4* out) {{
  __shared__ uint4 cells[{lanes}];
  const unsigned lane = threadIdx.x, i = blockIdx.x * {lanes} + lane;
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  cells[lane] = in[i];
  asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" : : : "memory");
  const uint4* mine = cells + lane * 5 % {lanes};
  const unsigned next = (rank + 1) % {blocks};
  {address}
  uint4 value = in[gridDim.x * {lanes} + i];
  unsigned* r = reinterpret_cast<unsigned*>(&value);
  {asm}
  asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" : : : "memory");
  out[2 * i] = cells[lane];
  out[2 * i + 1] = value;
}}
"""

ADDRESSES = {
    "u32": """unsigned at;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(at) : "r"((unsigned)__cvta_generic_to_shared(mine)), "r"(next));""",
    "u64": """unsigned long long at;
  asm("mapa.shared::cluster.u64 %0, %1, %2;"
      : "=l"(at) : "l"((unsigned long long)__cvta_generic_to_shared(mine)), "r"(next));""",
    "generic": """unsigned long long at;
  asm("mapa.u64 %0, %1, %2;" : "=l"(at) : "l"(mine), "r"(next));""",
}


def access(form: Remote) -> str:
    """Inline assembly that reads the lane's value from, or writes it to, `value`."""
    width = max(form.bits, 16)
    names = [f"t{k}" for k in range(form.count)]
    kind = "f" if form.type[0] == "f" else "b"
    lines = [f".reg .{kind}{width} t<{form.count}>"]
    words = max(form.bits // 32, 1)
    for k, name in enumerate(names):
        if form.bits == 64:
            lines.append(f"mov.b64 {name}, {{%{2 * k}, %{2 * k + 1}}}")
        else:
            lines.append(f"{'cvt.u16.u32' if width == 16 else 'mov.b32'} {name}, %{k}")
    value = names[0] if form.count == 1 else f"{{{', '.join(names)}}}"
    operation = {
        "ld": f"{value}, [%4]",
        "st": f"[%4], {value}",
        "red": f"[%4], {value}",
        "atom": f"{value}, [%4], {value}",
    }[form.op.partition(".")[0]]
    compared = f", {value}" if form.op == "atom.cas" else ""
    lines.append(f"{form.name} {operation}{compared}")
    for k, name in enumerate(names):
        if words == 2:
            lines.append(f"mov.b64 {{%{2 * k}, %{2 * k + 1}}}, {name}")
        elif width == 16:
            lines.append(f"cvt.u32.u16 %{k}, {name}")
        else:
            lines.append(f"mov.b32 %{k}, {name}")
    outs = ", ".join(f'"+r"(r[{k}])' for k in range(4))
    constraint = "r" if form.address == "u32" else "l"
    text = "; ".join(lines)
    return f'asm volatile("{{{text};}}" : {outs} : "{constraint}"(at) : "memory");'


def access_source() -> str:
    """A kernel for each form: those with __cluster_dims__ are launched like any other."""
    kernels = [
        ACCESS_KERNEL.format(
            index=k, blocks=BLOCKS, lanes=BLOCK, address=ADDRESSES[f.address], asm=access(f)
        )
        for k, f in enumerate(FORMS)
    ]
    calls = "\n".join(
        f"    case {k}: access_{k}<<<{2 * BLOCKS}, {BLOCK}>>>(source, target); break;"
        for k in range(len(FORMS))
    )
    return (
        "".join(kernels)
        + "void run(int form, const unsigned* in, unsigned* out) {\n"
        + "  const uint4* source = reinterpret_cast<const uint4*>(in);\n"
        + "  uint4* target = reinterpret_cast<uint4*>(out);\n"
        + f"  switch (form) {{\n{calls}\n  }}\n}}\n"
    )


ACCESSES = Program("cluster_accesses", access_source)


def accessed(form: Remote, cell: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The cell and the lane's 16 bytes after an access."""
    size, registers = form.bits // 8, max(form.bits // 8, 4)
    o = Operand.parse(form.type)
    for k in range(form.count):
        place, lane = slice(k * size, (k + 1) * size), slice(k * registers, (k + 1) * registers)
        old = o.decode(int.from_bytes(cell[place], "little"))
        b = o.decode(int.from_bytes(value[lane], "little"))
        new = {
            "ld": lambda old, b: old,
            "st": lambda old, b: b,
            "add": lambda old, b: exact.add(F32, old, b, "rn") if form.type == "f32" else old + b,
            "min": min,
            "max": max,
            "exch": lambda old, b: b,
            "cas": lambda old, b: b if old == b else old,
        }[form.op.partition(".")[2] or form.op](old, b)
        cell = _with(cell, place, new, size)
        if form.op == "ld" or form.op.startswith("atom"):
            value = _with(value, lane, old & ((1 << max(form.bits, 16)) - 1), registers)
        elif size < 4:  # the register holds 16 bits of it
            value = _with(value, lane, int.from_bytes(value[lane], "little") & 0xFFFF, registers)
    return cell, value


def _with(whole: bytes, place: slice, value: int, size: int) -> bytes:
    new = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return whole[: place.start] + new + whole[place.stop :]


def target_cell(thread: int) -> int:
    """The cell that a thread accesses, in the next block of its cluster."""
    block, lane = divmod(thread, BLOCK)
    first = block // BLOCKS * BLOCKS
    return (first + (block + 1) % BLOCKS) * BLOCK + lane * 5 % BLOCK


def check_access(form: Remote, target: str) -> None:
    """Two clusters; each lane has its own cell in the next block."""
    n = 2 * BLOCKS * BLOCK
    rng = np.random.default_rng(len(form.name))
    data = rng.integers(0, 1 << 32, (2, n, 4), np.uint32)
    if form.type == "f32" and "add" in form.op:  # no NaN: its payload is not specified
        data &= 0xBFFFFFFF
    if form.op == "atom.cas":
        data[1, ::2] = data[0, [target_cell(i) for i in range(0, n, 2)]]
    out = np.zeros((n, 2, 4), dtype=np.uint32)
    ACCESSES.run(target, FORMS.index(form), data, out)
    cells = [row.tobytes() for row in data[0]]
    values = [row.tobytes() for row in data[1]]
    for i in range(n):
        to = target_cell(i)
        cells[to], values[i] = accessed(form, cells[to], values[i])
    for i in range(n):
        got = out[i, 0].tobytes(), out[i, 1].tobytes()
        assert got[0] == cells[i], f"cell {i}: {got[0].hex()}, wanted {cells[i].hex()}"
        assert got[1] == values[i], f"lane {i}: {got[1].hex()}, wanted {values[i].hex()}"


# ---- Barriers ------------------------------------------------------------------------------------

ARRIVE = [f"barrier.cluster.arrive{order}{aligned}" for order, aligned in itertools.product(
    ("", ".release", ".relaxed"), ("", ".aligned"))]  # fmt: skip
WAIT = [f"barrier.cluster.wait{order}{aligned}" for order, aligned in itertools.product(
    ("", ".acquire"), ("", ".aligned"))]  # fmt: skip
BARRIERS = list(itertools.product(ARRIVE, WAIT))

# Blocks of a cluster pass a number on, block by block and round by round.
RING_KERNEL = """
__global__ void ring_{index}(unsigned* out) {{
  __shared__ unsigned slot[2][96];
  const unsigned lane = threadIdx.x;
  unsigned rank, value = blockIdx.x * 1000 + lane, at;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  {barrier}  // all blocks have started
  #pragma unroll 1
  for (unsigned round = 0; round < 7; round++) {{
    unsigned mine = (unsigned)__cvta_generic_to_shared(&slot[round % 2][lane]);
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(at) : "r"(mine), "r"((rank + 1) % 3));
    asm volatile("st.shared::cluster.u32 [%0], %1;" : : "r"(at), "r"(value + 1) : "memory");
    {barrier}
    value = slot[round % 2][lane];
  }}
  out[blockIdx.x * 96 + lane] = value;
}}
"""

SCENARIOS = """
#include <cuda_runtime.h>
#define ARRIVE asm volatile("barrier.cluster.arrive;" : : : "memory")
#define WAIT asm volatile("barrier.cluster.wait;" : : : "memory")
#define SPECIAL(K, NAME) asm volatile("mov.u32 %0, %%" NAME ";" : "=r"(value[K]))

__device__ void special_registers(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  unsigned value[18];
  SPECIAL(0, "clusterid.x"); SPECIAL(1, "clusterid.y"); SPECIAL(2, "clusterid.z");
  SPECIAL(3, "nclusterid.x"); SPECIAL(4, "nclusterid.y"); SPECIAL(5, "nclusterid.z");
  SPECIAL(6, "cluster_ctaid.x"); SPECIAL(7, "cluster_ctaid.y"); SPECIAL(8, "cluster_ctaid.z");
  SPECIAL(9, "cluster_nctaid.x"); SPECIAL(10, "cluster_nctaid.y");
  SPECIAL(11, "cluster_nctaid.z"); SPECIAL(12, "cluster_ctarank");
  SPECIAL(13, "cluster_nctarank"); SPECIAL(15, "ctaid.x"); SPECIAL(16, "ctaid.y");
  SPECIAL(17, "ctaid.z");
  asm volatile("{.reg .pred p; mov.pred p, %%is_explicit_cluster; selp.u32 %0, 1, 0, p;}"
               : "=r"(value[14]));
  for (int k = 0; k < 18; k++) out[18 * block + k] = value[k];
}
__global__ void special(unsigned* out) { special_registers(out); }
__global__ void __cluster_dims__(2, 1, 2) special_fixed(unsigned* out) { special_registers(out); }

template <class... A>
void launch(void (*kernel)(A...), dim3 grid, int threads, dim3 cluster, bool early, A... a) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = cluster.x;
  attributes[0].val.clusterDim.y = cluster.y;
  attributes[0].val.clusterDim.z = cluster.z;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = early;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.attrs = attributes;
  config.numAttrs = early ? 2 : 1;
  cudaLaunchKernelEx(&config, kernel, a...);
}
void run_special(int how, unsigned x, unsigned y, unsigned z, unsigned* out) {
  if (how == 0) special<<<dim3(4, 6, 2), 1>>>(out);
  if (how == 1) special_fixed<<<dim3(4, 6, 2), 1>>>(out);
  if (how == 2) launch(special, dim3(4, 6, 2), 1, dim3(x, y, z), false, out);
}

// Addresses of every block, in each of their forms.
__global__ void addresses(unsigned* out) {
  __shared__ unsigned slot[64];
  const unsigned lane = threadIdx.x;
  unsigned rank, size;
  asm volatile("mov.u32 %0, %%cluster_ctarank; mov.u32 %1, %%cluster_nctarank;"
               : "=r"(rank), "=r"(size));
  slot[lane] = rank * 100 + lane;
  ARRIVE;
  WAIT;
  const unsigned other = lane % size, mine = (unsigned)__cvta_generic_to_shared(slot + lane);
  unsigned narrow, found[6];
  unsigned long long wide, generic, same, back;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(narrow) : "r"(mine), "r"(other));
  asm volatile("mapa.shared::cluster.u64 %0, %1, %2;"
               : "=l"(wide) : "l"((unsigned long long)mine), "r"(other));
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(generic) : "l"(slot + lane), "r"(other));
  asm volatile("cvta.shared::cluster.u64 %0, %1;" : "=l"(same) : "l"(wide));
  asm volatile("cvta.to.shared::cluster.u64 %0, %1;" : "=l"(back) : "l"(generic));
  asm volatile("getctarank.shared::cluster.u32 %0, %1;" : "=r"(found[0]) : "r"(narrow));
  asm volatile("getctarank.shared::cluster.u64 %0, %1;" : "=r"(found[1]) : "l"(wide));
  asm volatile("getctarank.u64 %0, %1;" : "=r"(found[2]) : "l"(generic));
  asm volatile("getctarank.shared::cluster.u32 %0, %1;" : "=r"(found[3]) : "r"(mine));
  asm volatile("getctarank.u64 %0, %1;" : "=r"(found[4]) : "l"(slot));
  asm volatile("{.reg .pred p, q; isspacep.shared::cluster p, %1; isspacep.shared::cta q, %1;"
               "selp.u32 %0, 2, 0, p; @q add.u32 %0, %0, 1;}" : "=r"(found[5]) : "l"(generic));
  unsigned read[4];
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(read[0]) : "r"(narrow));
  asm volatile("ld.u32 %0, [%1];" : "=r"(read[1]) : "l"(generic));
  asm volatile("ld.u32 %0, [%1];" : "=r"(read[2]) : "l"(same));
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(read[3]) : "l"(back));
  ARRIVE;
  WAIT;
  out += 10 * (blockIdx.x * 64 + lane);
  for (int k = 0; k < 6; k++) out[k] = found[k];
  for (int k = 0; k < 4; k++) out[6 + k] = read[k];
}
void run_addresses(unsigned blocks, unsigned* out) {
  launch(addresses, dim3(2 * blocks), 64, dim3(blocks), false, out);
}

// All threads of a cluster take tickets from its first block.
__global__ void __cluster_dims__(4) tickets(unsigned* out) {
  __shared__ unsigned next;
  if (threadIdx.x == 0) next = 0;
  ARRIVE;
  WAIT;
  unsigned at, ticket;
  asm volatile("mapa.shared::cluster.u32 %0, %1, 0;"
               : "=r"(at) : "r"((unsigned)__cvta_generic_to_shared(&next)));
  asm volatile("atom.shared::cluster.add.u32 %0, [%1], 1;" : "=r"(ticket) : "r"(at) : "memory");
  asm volatile("red.shared::cluster.add.u32 [%0], 1;" : : "r"(at) : "memory");
  ARRIVE;
  WAIT;
  out[blockIdx.x * 97 + threadIdx.x] = ticket;
  if (threadIdx.x == 0) out[blockIdx.x * 97 + 96] = next;
}
void run_tickets(unsigned* out) { tickets<<<8, 96>>>(out); }

// Exited threads are not waited for: some lanes, a warp, a whole block. The others arrive on two
// paths, and do other work before they wait.
__global__ void __cluster_dims__(3) leavers(unsigned* out) {
  const unsigned lane = threadIdx.x, block = blockIdx.x % 3;
  unsigned rounds = 0;
  if (block == 2 || lane / 32 == 1 || lane % 32 == 5) return;
  #pragma unroll 1
  for (; rounds < 3; rounds++) {
    if (lane % 2) {
      ARRIVE;
    } else {
      asm volatile("barrier.cluster.arrive.release;" : : : "memory");
    }
    out[blockIdx.x * 96 + lane] = rounds;
    if (rounds == 1 && block == 1) return;
    WAIT;
  }
  out[blockIdx.x * 96 + lane] = rounds * 10;
}
void run_leavers(unsigned* out) { leavers<<<6, 96>>>(out); }

// A kernel that may start before the previous one has ended, and waits for what that wrote.
__global__ void first(unsigned* out) {
  asm volatile("griddepcontrol.launch_dependents;");
  out[threadIdx.x] = threadIdx.x + 1;
}
__global__ void second(unsigned* out) {
  asm volatile("griddepcontrol.wait;" : : : "memory");
  out[64 + threadIdx.x] = out[threadIdx.x] * 3;
}
void run_dependents(unsigned* out) {
  first<<<1, 64>>>(out);
  launch(second, dim3(1), 64, dim3(1), true, out);
}
"""
NAMES = ("ring", "special", "addresses", "tickets", "leavers", "dependents")


def source() -> str:
    """SCENARIOS, and a ring for each pair of barrier instructions."""
    rings = []
    for index, (arrive, wait) in enumerate(BARRIERS):
        fence = "fence.acq_rel.cluster; " if "relaxed" in arrive else ""
        barrier = f'asm volatile("{fence}{arrive};" : : : "memory");'
        if "aligned" not in arrive:  # lanes arrive on two paths
            barrier = f"if (lane % 3) {{ {barrier} }} else {{ {barrier} }}"
        barrier += f' asm volatile("{wait};" : : : "memory");'
        rings.append(RING_KERNEL.format(index=index, barrier=barrier))
    calls = "\n".join(
        f"    case {k}: launch(ring_{k}, dim3(6), 96, dim3(3), false, out); break;"
        for k in range(len(BARRIERS))
    )
    return (
        SCENARIOS
        + "".join(rings)
        + f"void run_ring(int which, unsigned* out) {{\n  switch (which) {{\n{calls}\n  }}\n}}\n"
    )


PROGRAM = Program("cluster_ops", source, *(f"run_{name}" for name in NAMES))


def run(name: str, target: str, shape: tuple[int, ...], *arguments: int) -> np.ndarray:
    """What a scenario writes."""
    out = np.zeros(shape, dtype=np.uint32)
    PROGRAM.run(target, *arguments, out, function=f"run_{name}")
    return out


def check_ring(index: int, target: str) -> None:
    out = run("ring", target, (6, 96), index)
    for block in range(6):
        start = block // 3 * 3 + (block % 3 - 7) % 3  # seven rounds ago
        assert out[block].tolist() == [start * 1000 + lane + 7 for lane in range(96)]


def check_special(full: bool, target: str) -> None:
    """Without clusters, with __cluster_dims__, and with a launch attribute."""
    grid = (4, 6, 2)
    fixed = (1, (2, 1, 2))
    for how, dims in ((0, (1, 1, 1)), fixed, (2, (1, 3, 1)), (2, (2, 3, 1)), (2, (4, 1, 2))):
        out = run("special", target, (48, 18), how, *dims)
        for block, got in enumerate(out.tolist()):
            place = (block % 4, block // 4 % 6, block // 24)
            inside = [p % d for p, d in zip(place, dims, strict=True)]
            wanted = [p // d for p, d in zip(place, dims, strict=True)]
            wanted += [g // d for g, d in zip(grid, dims, strict=True)]
            wanted += [*inside, *dims, inside[0] + dims[0] * (inside[1] + dims[1] * inside[2])]
            wanted += [dims[0] * dims[1] * dims[2], int(how > 0), *place]
            assert got == wanted, f"clusters {dims}, block {place}"


def check_addresses(full: bool, target: str) -> None:
    """Every form of an address gives the same result."""
    for blocks in (1, 2, 5, 8):
        out = run("addresses", target, (2 * blocks, 64, 10), blocks)
        for block, lane in itertools.product(range(2 * blocks), range(64)):
            rank, other = block % blocks, lane % blocks
            wanted = [other] * 3 + [rank] * 2 + [2 + (rank == other)] + [other * 100 + lane] * 4
            assert out[block, lane].tolist() == wanted, f"block {rank} of {blocks}, lane {lane}"


def check_tickets(full: bool, target: str) -> None:
    """A cluster's tickets are all different; the counter counted them and as many more."""
    out = run("tickets", target, (2, 4, 97))
    for cluster in out:
        assert len(set(cluster[:, :96].ravel().tolist())) == 4 * 96
        assert cluster[0, 96] == 2 * 4 * 96
        assert cluster[1:, 96].tolist() == [0] * 3


def check_leavers(full: bool, target: str) -> None:
    out = run("leavers", target, (2, 3, 96))
    for cluster in out.tolist():
        for block, last in ((0, 30), (1, 1), (2, 0)):
            stays = [lane // 32 != 1 and lane % 32 != 5 for lane in range(96)]
            assert cluster[block] == [last * int(s) for s in stays], f"block {block}"


def check_dependents(full: bool, target: str) -> None:
    out = run("dependents", target, (2, 64)).tolist()
    assert out == [[i + 1 for i in range(64)], [3 * i + 3 for i in range(64)]]


def access_case(form: Remote) -> Case:
    return Case(str(form), lambda full, target: check_access(form, target))


def ring_case(index: int) -> Case:
    name = " + ".join(BARRIERS[index])
    return Case(name, lambda full, target: check_ring(index, target))


CASES = [
    *map(access_case, FORMS),
    *map(ring_case, range(len(BARRIERS))),
    Case("special registers", check_special),
    Case("addresses", check_addresses),
    Case("tickets", check_tickets),
    Case("early exits", check_leavers),
    Case("griddepcontrol", check_dependents),
]
