"""What a warp executes of a kernel's machine code, and how long it takes alone.

The simulator counts PTX. The machine code shows what the compiler made of it, but not how often a
loop runs: that is derived from the counters.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .gpus import Gpu
from .machine_code import Op, Region
from .units import Instructions

if TYPE_CHECKING:
    import simulator

LOOP_TRIPS = 16  # rounds of an inner loop per outer round, if nothing tells
STORE_CYCLES = 15  # until a store has read its registers
OTHER_CYCLES = 25  # latency of what is not in the table: special registers, constants
MOST_PER_PTX = 1.25  # machine instructions per PTX instruction, at most: more were jumped over
BUSIEST = 2.0  # instructions of the busiest warp, over those of the average: no more than that
# What masks and bounds are made of, in machine code and in PTX: often jumped over, and counted
# separately for that.
DECISIONS = ("SEL", "FSEL", "FSETP", "ISETP", "LOP3", "PLOP3")
PTX_DECISIONS = ("setp", "selp", "slct", "set", "and", "or", "xor", "not", "lop3")


@dataclass(frozen=True)
class Code:
    """What a warp executes.

    Attributes:
        instructions: those of an average warp.
        walk: cycles that the busiest warp needs when it is alone.
        load_width: bytes per lane for a load from shared memory, on average.
        store_width: the same for stores.
        wgmma: whether the code waits for asynchronous tensor instructions.
        copies_ahead: whether a loop copies to shared memory asynchronously.
    """

    instructions: Instructions
    walk: float
    load_width: float
    store_width: float
    wgmma: bool
    copies_ahead: bool


def code_of(launch: simulator.Launch, machine: Sequence[Region], warps: int, gpu: Gpu) -> Code:
    """What a warp of a launch executes.

    Args:
        launch: the counters.
        machine: the kernel's loops.
        warps: number in the launch.
        gpu: the GPU whose latencies apply.

    Raises:
        ValueError: there is no machine code.
    """
    if not machine:
        raise ValueError(f"{launch.kernel} has no machine code")
    trips = _trips(launch, machine, warps)
    memory = load_latency(launch, gpu)
    decided = _decided(launch, machine, trips, warps)
    units: dict[str, float] = defaultdict(float)  # a shuffle is one instruction in both
    for region, count in zip(machine, trips, strict=True):
        for op in region.ops:
            if op.unit != "none":
                part = decided if op.name in DECISIONS else 1.0
                units["SHFL" if op.name == "SHFL" else op.unit] += count * part
    issued = sum(units.values())
    share = min(1.0, MOST_PER_PTX * launch.warp_instructions / warps / issued)
    walk = sum(n * _walk(r, memory, gpu, decided) for r, n in zip(machine, trips, strict=True))
    return Code(
        instructions=Instructions(
            issued=share * issued,
            fma=share * units["fma"],
            fp16=share * units["fp16"],
            integer=share * units["alu"],
            fp64=share * units["fp64"],
            special=share * units["special"],
            shuffles=share * units["SHFL"],
        ),
        walk=min(1.0, BUSIEST * share) * max(walk, issued),
        load_width=_width("LDS", machine, trips),
        store_width=_width("STS", machine, trips),
        wgmma=any(op.name == "HGMMA" for region in machine for op in region.ops),
        copies_ahead=any(
            op.name == "LDGSTS" for region in machine if region.depth for op in region.ops
        ),
    )


def _decided(
    launch: simulator.Launch, machine: Sequence[Region], trips: Sequence[float], warps: int
) -> float:
    """The share of the decisions in loops that are not jumped over."""
    found = sum(
        n * sum(op.name in DECISIONS for op in region.ops)
        for region, n in zip(machine, trips, strict=True)
    )
    counted = sum(
        n * (2 if form.endswith("64") else 1)
        for form, n in launch.forms.items()
        if form.split(".")[0] in PTX_DECISIONS
    )
    return min(1.0, MOST_PER_PTX * counted / warps / found) if found else 1.0


def _width(name: str, machine: Sequence[Region], trips: Sequence[float]) -> float:
    """Bytes per lane for an access of that name, on average; 0 if there are none."""
    total = count = 0.0
    for region, n in zip(machine, trips, strict=True):
        for op in region.ops:
            if op.name == name:
                total, count = total + n * op.width, count + n
    return total / count if count else 0.0


def _trips(launch: simulator.Launch, machine: Sequence[Region], warps: int) -> list[float]:
    """How often the busiest warp runs each region.

    Code outside all loops runs once, remainders of unrolling never. Loops at the same depth process
    the same data: one that loads twice as much per round runs half as often. All are scaled to
    match the counted bytes, barriers and shuffles; where these disagree, because some warps skip
    some, the largest counts. Where only outer loops have barriers, the barriers determine those,
    and the bytes the loops inside.
    """
    weights = [_weight(region, machine) for region in machine]
    asked = _asked_bytes(launch.forms) / warps
    barriers = launch.barriers / warps
    shuffles = sum(n for form, n in launch.forms.items() if form.startswith("shfl")) / warps

    def total(of: Callable[[Region], float], depths: Callable[[int], bool]) -> float:
        pairs = zip(weights, machine, strict=True)
        return sum((w if r.depth else 1.0) * of(r) for w, r in pairs if depths(r.depth))

    def scale(counted: float, of: Callable[[Region], float]) -> float:
        looped = total(of, lambda depth: depth > 0)
        return max(0.0, counted - total(of, lambda depth: depth == 0)) / looped if looped else 0.0

    def bars(region: Region) -> float:
        return sum(op.name == "BAR" for op in region.ops)

    def shfl(region: Region) -> float:
        return sum(op.name == "SHFL" for op in region.ops)

    inner = total(lambda r: r.bytes, lambda depth: depth > 1)
    if inner and barriers and not total(bars, lambda depth: depth > 1):
        outer = scale(barriers, bars)
        rest = asked - total(lambda r: r.bytes, lambda depth: depth == 0)
        rest -= outer * total(lambda r: r.bytes, lambda depth: depth == 1)
        scales = [1.0, outer, max(0.0, rest) / inner]
    else:
        found = max(
            scale(asked, lambda r: r.bytes), scale(barriers, bars), scale(shuffles, shfl)
        ) or scale(launch.warp_instructions / warps, lambda r: len(r.ops))
        scales = [1.0, found, found]
    pairs = zip(weights, machine, strict=True)
    return [scales[min(r.depth, 2)] * w if r.depth else 1.0 for w, r in pairs]


def _weight(region: Region, machine: Sequence[Region]) -> float:
    """How often a loop runs, relative to the others."""
    if region.depth == 0 or region.rest:
        return 0.0
    others = [r.loaded for r in machine if r.depth == region.depth and r.loaded and not r.rest]
    share = min(others) / region.loaded if region.loaded else 1.0
    return LOOP_TRIPS ** (region.depth - 1) * share


def _asked_bytes(forms: Mapping[str, int]) -> float:
    """Bytes per lane of loads, stores and tensor instructions, by Region's rules."""
    total = 0.0
    for form, count in forms.items():
        words = form.split(".")
        if words[0] in ("ld", "st") and {"global", "shared"} & {w.split(":")[0] for w in words}:
            bits = re.search(r"[busf](\d+)", words[-1])
            vector = next((int(w[1]) for w in words if w in ("v2", "v4")), 1)
            total += count * vector * (int(bits[1]) // 8 if bits else 4)
        elif words[0] == "ldmatrix":
            total += count * 4 * next((int(w[1]) for w in words if w in ("x2", "x4")), 1)
        elif words[:2] == ["cp", "async"] and "bulk" not in words and "shared" in form:
            total += 16 * count
        elif words[0] == "mma" or "mma_async" in words:
            total += 16 * count
    return total


def load_latency(launch: simulator.Launch, gpu: Gpu) -> float:
    """Latency of an average load from global memory, in cycles: L1, L2 or DRAM."""
    cycles = gpu.latency
    if not launch.global_load_sectors:
        return cycles.l1
    to_l2 = min(1.0, launch.l2_read_sectors / launch.global_load_sectors)
    l2_bytes = 32 * launch.l2_read_sectors
    to_dram = min(1.0, launch.dram_read_bytes / l2_bytes) if l2_bytes else 0.0
    return cycles.l1 + to_l2 * (cycles.l2 - cycles.l1 + to_dram * (cycles.dram - cycles.l2))


def _walk(region: Region, memory: float, gpu: Gpu, decided: float) -> float:
    """Cycles that a warp alone takes for a round of a region, as the compiler scheduled it.

    Args:
        region: the region.
        memory: latency of a load from global memory.
        gpu: the GPU.
        decided: the share of decisions that are not jumped over.
    """
    ready = [0.0] * 8
    rounds = 2 if region.depth else 1  # a loop's second has the first one's loads in flight
    now = before = 0.0
    for _ in range(rounds):
        before = now
        for op in region.ops:
            waits = [ready[b] for b in range(6) if op.waits >> b & 1]
            now = max([now, *waits])
            for b in op.sets:
                ready[b] = max(ready[b], now + _latency(op, memory, gpu))
            stall = op.stall * (decided if op.name in DECISIONS else 1.0)
            now += stall + (gpu.latency.barrier if op.name == "BAR" else 0)
    return now - before


def _latency(op: Op, memory: float, gpu: Gpu) -> float:
    cycles = gpu.latency
    if op.name in ("LDG", "LD"):
        return memory
    if op.name in ("LDS", "LDSM"):
        return cycles.shared
    if op.name == "SHFL":
        return cycles.shuffle
    if op.name == "LDL":
        return cycles.l1
    if op.name in ("ATOM", "ATOMG"):
        return cycles.l2
    if op.unit == "lsu":
        return STORE_CYCLES
    if op.unit == "special":
        return cycles.special
    return cycles.tensor if op.unit == "tensor" else OTHER_CYCLES
