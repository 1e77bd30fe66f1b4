"""From counters, machine code and a GPU's rates to a time: pure functions.

The model, which docs/estimate.md explains:

1. What each unit of an SM has to do for a block, in cycles: issue slots, FMA, integer, special
   function and tensor pipes, and the load-store unit.
2. How much of that the resident warps keep going. A warp alone spends a share s of its time
   waiting, as the compiler's schedule and the latencies say; n warps of a scheduler leave it idle
   for s^n of the time.
3. Waves: the blocks go to the SMs in rounds of as many as are resident; the last may be smaller.
4. L2 and DRAM move bytes for the whole GPU. The slowest of all sets the time; what comes close to
   it adds a little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .gpus import Gpu
from .machine_code import Op, Region
from .resources import Occupancy, Resources, occupancy

# The model's own constants, the same for all kernels and GPUs; docs/estimate.md says why.
UNIT_OVERLAP = 1.25  # exponent: the load-store unit beside the pipes of an SM; 1 adds, large hides
MEMORY_OVERLAP = 3.0  # the same for the SMs, L2 and DRAM
LOOP_TRIPS = 16  # an inner loop runs so often for each round of the loop around it, if not known
STORE_CYCLES = 15  # until a store has read its registers
OTHER_CYCLES = 25  # latency of what has none in the table: special registers, constants
PORT_BYTES = 64  # between an SM and the L2, a clock
BAND = 0.3  # the error band that is printed: two of three published steps lie inside


class Counted(Protocol):
    """What the model reads of a launch: fields of simulator.Launch."""

    kernel: str
    block: tuple[int, int, int]
    shared_bytes: int
    num_blocks: int
    warp_instructions: int
    global_load_requests: int
    global_load_sectors: int
    global_load_sectors_ideal: int
    global_store_requests: int
    global_store_sectors: int
    global_store_sectors_ideal: int
    global_load_bytes: int
    global_store_bytes: int
    local_requests: int
    local_sectors: int
    shared_load_requests: int
    shared_load_wavefronts: int
    shared_load_bytes: int
    shared_store_requests: int
    shared_store_wavefronts: int
    shared_store_bytes: int
    atomic_requests: int
    atomic_sectors: int
    shared_atomic_requests: int
    shared_atomic_wavefronts: int
    l2_read_sectors: int
    l2_write_sectors: int
    dram_read_bytes: int
    dram_write_bytes: int
    tensor_flops: int
    forms: Mapping[str, int]


@dataclass(frozen=True)
class Estimate:
    """The estimated time of a launch, or of several one after the other.

    Attributes:
        gpu: what --gpu calls the GPU.
        time_ms: in all.
        limiter: what takes longest: a key of ``parts``.
        parts: what each unit would take alone, in ms; "latency" is what waiting adds to the SMs.
        occupancy: of the launch that takes longest.
        waves: its blocks over those that the GPU holds.
        band: relative error to expect.
    """

    gpu: str
    time_ms: float
    limiter: str
    parts: Mapping[str, float]
    occupancy: Occupancy
    waves: float
    band: float = BAND


@dataclass(frozen=True)
class Code:
    """What a warp executes of the machine code, weighted by how often each loop runs.

    Attributes:
        instructions: issued by a warp.
        units: instructions by unit.
        walk: cycles that a warp alone needs, for given latencies of memory.
        widths: bytes of a lane for a shared memory load, store: average.
        wgmma: the code waits for asynchronous tensor instructions.
    """

    instructions: float
    units: Mapping[str, float]
    walk: float
    shuffles: float
    load_width: float
    store_width: float
    wgmma: bool


def estimate(launches: Sequence[Counted], resources: Mapping[str, Resources], gpu: Gpu) -> Estimate:
    """The estimated time of launches that follow one another.

    Args:
        launches: what the simulator recorded.
        resources: of their kernels on the GPU's architecture, by name.
        gpu: the GPU.

    Raises:
        KeyError: a kernel has no resources.
        ValueError: there are no launches, or a block does not fit on the GPU.
    """
    if not launches:
        raise ValueError("no kernel was launched")
    each = [_of_launch(launch, resources[launch.kernel], gpu) for launch in launches]
    longest = max(each, key=lambda e: e.time_ms)
    names = dict.fromkeys(name for e in each for name in e.parts)
    return Estimate(
        gpu=gpu.name,
        time_ms=sum(e.time_ms for e in each),
        limiter=longest.limiter,
        parts={name: sum(e.parts.get(name, 0.0) for e in each) for name in names},
        occupancy=longest.occupancy,
        waves=longest.waves,
    )


def _of_launch(launch: Counted, resources: Resources, gpu: Gpu) -> Estimate:
    threads = math.prod(launch.block)
    held = occupancy(gpu, threads, resources.registers, launch.shared_bytes)
    if held.blocks == 0:
        raise ValueError(f"a block of {launch.kernel} needs more {held.limiter} than an SM has")
    warps = -(-threads // 32)
    code = _code(launch, resources.machine, warps * launch.num_blocks, gpu)
    units = _units(launch, code, warps, gpu)
    waves = launch.num_blocks / (gpu.sms * held.blocks)
    core, pipes, waiting = _rounds(units, code, launch.num_blocks, held.blocks, warps, gpu)
    memory = _memory(launch, held.blocks, gpu)
    seconds = _overlapped([core, *memory.values()], MEMORY_OVERLAP)
    parts = {name: 1e3 * s for name, s in (pipes | memory).items()}
    limiter = max(parts, key=lambda name: parts[name])
    if waiting > max(parts.values()) / 1e3:
        limiter = "latency"
    parts["latency"] = 1e3 * waiting
    time_ms = 1e3 * seconds + gpu.launch_us / 1e3
    if gpu.launch_us / 1e3 > 0.5 * time_ms:
        limiter = "launch"
    return Estimate(gpu.name, time_ms, limiter, parts, held, waves)


def _overlapped(seconds: Sequence[float], exponent: float) -> float:
    """The slowest, and a part of the others: the norm of that exponent."""
    most = max(seconds)
    if most == 0:
        return 0.0
    return most * sum((s / most) ** exponent for s in seconds) ** (1 / exponent)


def _rounds(
    units: Mapping[str, float], code: Code, blocks: int, resident: int, warps: int, gpu: Gpu
) -> tuple[float, dict[str, float], float]:
    """The SMs' time in s, that of each unit alone, and that for which all warps wait.

    Args:
        units: cycles of a block by unit.
        code: of a warp.
        blocks: of the grid.
        resident: blocks that an SM holds.
        warps: of a block.
        gpu: the GPU.
    """
    full, rest = divmod(blocks, gpu.sms * resident)
    rounds = [(full, resident), (1 if rest else 0, -(-rest // gpu.sms))]
    pipe = max(cycles for unit, cycles in units.items() if unit != "shared memory")
    total = waiting = 0.0
    for count, held in rounds:
        if count and held:
            idle = _idle(pipe, code, warps, held * warps)
            busy = held * pipe / (1 - idle)
            waiting += count * (busy if idle > 0.5 else 0.0)
            total += count * _overlapped([busy, held * units["shared memory"]], UNIT_OVERLAP)
    most = sum(count * held for count, held in rounds)  # blocks of the SM that has most
    pipes = {unit: gpu.seconds(most * cycles) for unit, cycles in units.items() if cycles}
    return gpu.seconds(total), pipes, gpu.seconds(waiting)


def _idle(pipe: float, code: Code, warps: int, resident_warps: int) -> float:
    """The share of time for which a scheduler has no warp that can go on.

    Args:
        pipe: cycles of the busiest pipe for a block.
        code: of a warp.
        warps: of a block.
        resident_warps: of an SM.
    """
    if code.wgmma:
        return 0.0
    alone = min(1.0, max(4 * pipe / warps, 1.0) / code.walk)  # the share a warp alone keeps busy
    schedulers = min(4, resident_warps)
    return (1 - alone * 1.0) ** (resident_warps / schedulers) if alone < 1 else 0.0


def _units(launch: Counted, code: Code, warps: int, gpu: Gpu) -> dict[str, float]:
    """Cycles that a block keeps each unit of its SM busy."""
    fp16 = 2 * 32 / gpu.fp16  # an instruction works on pairs
    cycles = {
        "issue": code.instructions / gpu.issue,
        "FMA": code.units.get("fma", 0.0) * 32 / gpu.fp32 + code.units.get("fp16", 0.0) * fp16,
        "integer": code.units.get("alu", 0.0) * 32 / gpu.alu,
        "FP64": code.units.get("fp64", 0.0) * 32 / gpu.fp64,
        "special functions": code.units.get("special", 0.0) * 32 / gpu.special,
    }
    of_block = {unit: warps * count for unit, count in cycles.items()}
    of_block["tensor"] = _tensor(launch, gpu) / launch.num_blocks
    of_block["shared memory"] = _load_store(launch, code, gpu) / launch.num_blocks
    of_block["shared memory"] += warps * code.shuffles * 32 / gpu.lsu_lanes
    return of_block


TYPES = (
    ("fp8", (".e4m3", ".e5m2")),
    ("int8", (".s8", ".u8")),
    ("tf32", (".tf32",)),
    ("fp64", (".f64",)),
    ("fp16", (".f16", ".bf16")),
)


def _tensor(launch: Counted, gpu: Gpu) -> float:
    """Cycles of one SM's tensor cores for the whole launch, by the type that is used most."""
    if not launch.tensor_flops:
        return 0.0
    used = {form: n for form, n in launch.forms.items() if "mma" in form.split(".")[0]}
    form = max(used, key=lambda f: used[f], default="")
    found = (kind for kind, marks in TYPES if any(mark in form for mark in marks))
    rate = gpu.tensor.get(next(found, "fp16"))
    if rate is None:
        raise ValueError(f"the {gpu.title} has no tensor cores for {form}")
    return launch.tensor_flops / rate


def _load_store(launch: Counted, code: Code, gpu: Gpu) -> float:
    """Cycles of one SM's load-store unit for the whole launch.

    An instruction takes the unit for its addresses (32 lanes at ``lsu_lanes`` a clock) or for its
    wavefronts, whichever is more. The compiler joins neighbouring shared memory accesses of PTX
    into wider ones: fewer instructions for the same bytes.
    """
    addresses = 32 / gpu.lsu_lanes
    total = 0.0
    for kind, width in (("load", code.load_width), ("store", code.store_width)):
        requests = getattr(launch, f"shared_{kind}_requests")
        if requests:
            asked = getattr(launch, f"shared_{kind}_bytes") / (32 * requests)
            joined = max(1.0, width / asked) if asked else 1.0
            wavefronts = getattr(launch, f"shared_{kind}_wavefronts")
            total += max(requests * addresses, wavefronts) / joined
    for kind in ("load", "store"):
        requests = getattr(launch, f"global_{kind}_requests")
        sectors = getattr(launch, f"global_{kind}_sectors")
        ideal = getattr(launch, f"global_{kind}_sectors_ideal")
        lines = ideal / 4 + max(0, sectors - ideal)  # sectors beyond the least lie alone in a line
        total += max(requests * addresses, lines)
    total += max(launch.local_requests * addresses, launch.local_sectors / 4)
    total += max(launch.atomic_requests * addresses, launch.atomic_sectors)
    return total + max(launch.shared_atomic_requests * addresses, launch.shared_atomic_wavefronts)


def _memory(launch: Counted, resident: int, gpu: Gpu) -> dict[str, float]:
    """Seconds that L2 and DRAM need for their bytes."""
    to_l2 = 32 * (launch.l2_read_sectors + launch.l2_write_sectors)
    busy_sms = min(gpu.sms, launch.num_blocks)
    port = gpu.seconds(to_l2 / busy_sms / PORT_BYTES)
    least = launch.dram_read_bytes + launch.dram_write_bytes
    at_once = min(1.0, gpu.sms * resident / launch.num_blocks) * least
    missed = max(0.0, 1 - gpu.l2_bytes / at_once) if at_once else 0.0
    moved = least + missed * max(0, to_l2 - least)
    return {
        "L2": max(to_l2 / (gpu.l2_gbps * 1e9), port),
        "DRAM": moved / (gpu.dram_reach * gpu.dram_gbps * 1e9),
    }


def _code(launch: Counted, machine: Sequence[Region], warps: int, gpu: Gpu) -> Code:
    """What a warp executes: the loops, weighted so that the bytes are those that were counted."""
    if not machine:
        raise ValueError(f"{launch.kernel} has no machine code")
    trips = _trips(launch, machine, warps)
    memory = _load_latency(launch, gpu)
    units: dict[str, float] = {}
    instructions = walk = 0.0
    widths: dict[str, list[float]] = {"LDS": [], "STS": []}
    times: dict[str, list[float]] = {"LDS": [], "STS": []}
    for region, count in zip(machine, trips, strict=True):
        walk += count * _walk(region, memory, gpu)
        for op in region.ops:
            if op.unit == "none":
                continue
            instructions += count
            key = "SHFL" if op.name == "SHFL" else op.unit
            units[key] = units.get(key, 0.0) + count
            if op.name in widths:
                widths[op.name].append(count * op.width)
                times[op.name].append(count)
    mean = {name: sum(widths[name]) / n if (n := sum(times[name])) else 0.0 for name in widths}
    wgmma = any(op.name == "HGMMA" for region in machine for op in region.ops)
    return Code(
        instructions,
        units,
        max(walk, instructions),
        units.get("SHFL", 0.0),
        mean["LDS"],
        mean["STS"],
        wgmma,
    )


def _trips(launch: Counted, machine: Sequence[Region], warps: int) -> list[float]:
    """How often a warp runs each region.

    What is outside all loops runs once. Loops run so often that the bytes which a lane asks for
    are those that were counted; of two loops at the same depth the one that moves more bytes a
    round runs more often, because the smaller is what unrolling left over.
    """
    asked = sum(
        getattr(launch, f"{space}_{kind}_bytes")
        for space in ("global", "shared")
        for kind in ("load", "store")
    )
    once = sum(region.bytes for region in machine if region.depth == 0)
    weights = [
        LOOP_TRIPS ** (region.depth - 1) * region.bytes if region.depth else 0.0
        for region in machine
    ]
    looped = sum(w * region.bytes for w, region in zip(weights, machine, strict=True))
    if looped:
        scale = max(0.0, asked / (32 * warps) - once) / looped
    else:  # loops without memory: as many instructions as PTX has
        weights = [float(LOOP_TRIPS ** (r.depth - 1)) if r.depth else 0.0 for r in machine]
        sizes = sum(w * len(r.ops) for w, r in zip(weights, machine, strict=True))
        outside = sum(len(r.ops) for r in machine if r.depth == 0)
        scale = max(0.0, launch.warp_instructions / warps - outside) / sizes if sizes else 0.0
    return [scale * w if r.depth else 1.0 for w, r in zip(weights, machine, strict=True)]


def _load_latency(launch: Counted, gpu: Gpu) -> float:
    """Cycles of an average load from global memory: L1, L2 or DRAM."""
    cycles = gpu.latency
    if not launch.global_load_sectors:
        return cycles.l1
    to_l2 = min(1.0, launch.l2_read_sectors / launch.global_load_sectors)
    l2_bytes = 32 * launch.l2_read_sectors
    to_dram = min(1.0, launch.dram_read_bytes / l2_bytes) if l2_bytes else 0.0
    return cycles.l1 + to_l2 * (cycles.l2 - cycles.l1 + to_dram * (cycles.dram - cycles.l2))


def _walk(region: Region, memory: float, gpu: Gpu) -> float:
    """Cycles that a warp alone takes for a round of a region, as the compiler scheduled it."""
    ready = [0.0] * 8
    rounds = 2 if region.depth else 1  # a loop's second round has the first one's loads in flight
    now = before = 0.0
    for _ in range(rounds):
        before = now
        for op in region.ops:
            waits = [ready[b] for b in range(6) if op.waits >> b & 1]
            now = max([now, *waits])
            for b in op.sets:
                ready[b] = max(ready[b], now + _latency(op, memory, gpu))
            now += op.stall + (gpu.latency.barrier if op.name == "BAR" else 0)
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
