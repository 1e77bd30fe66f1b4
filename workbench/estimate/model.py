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

from .counted import Counted
from .gpus import Gpu
from .resources import Occupancy, Resources, occupancy
from .schedule import Code, code_of

# The model's own constants, the same for all kernels and GPUs; docs/estimate.md says why.
UNIT_OVERLAP = 1.25  # exponent: the load-store unit beside the pipes of an SM; 1 adds, large hides
MEMORY_OVERLAP = 3.0  # the same for the SMs, L2 and DRAM
SHUFFLE_LANES = 32  # lanes that a shuffle serves in a clock; CUDA C++ Programming Guide
LOAD_STORE = ("L1", "shared")  # one unit does both
PORT_BYTES = 64  # between an SM and the L2, a clock
BAND = 0.3  # the error band that is printed; docs/estimate.md says what lies inside


@dataclass(frozen=True)
class Estimate:
    """The estimated time of a launch, or of several one after the other.

    Attributes:
        gpu: what --gpu calls the GPU.
        time_ms: in all.
        limiter: what takes longest: a key of ``parts``.
        parts: what each unit would take alone, in ms, what waiting adds to the SMs ("latency"),
            and the launch.
        occupancy: of the launch that takes longest.
        waves: its blocks over those that the GPU holds.
        band: relative error to expect.
        registers: of a thread of the launch that takes longest.
        spill_bytes: that its code stores and loads because registers are too few.
    """

    gpu: str
    time_ms: float
    limiter: str
    parts: Mapping[str, float]
    occupancy: Occupancy
    waves: float
    band: float = BAND
    registers: int = 0
    spill_bytes: int = 0


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
        registers=longest.registers,
        spill_bytes=longest.spill_bytes,
    )


def _of_launch(launch: Counted, resources: Resources, gpu: Gpu) -> Estimate:
    threads = math.prod(launch.block)
    held = occupancy(gpu, threads, resources.registers, launch.shared_bytes)
    if held.blocks == 0:
        raise ValueError(f"a block of {launch.kernel} needs more {held.limiter} than an SM has")
    warps = -(-threads // 32)
    code = code_of(launch, resources.machine, warps * launch.num_blocks, gpu)
    units = _units(launch, code, warps, gpu)
    core, parts = _rounds(units, code, launch.num_blocks, held.blocks, warps, gpu)
    memory = _memory(launch, held.blocks, gpu)
    launching = gpu.launch_us / 1e6
    parts |= memory | {"launch": launching}
    seconds = _overlapped([core, *memory.values()], MEMORY_OVERLAP) + launching
    return Estimate(
        gpu=gpu.name,
        time_ms=1e3 * seconds,
        limiter=max(parts, key=lambda name: parts[name]),
        parts={name: 1e3 * s for name, s in parts.items() if s},
        occupancy=held,
        waves=launch.num_blocks / (gpu.sms * held.blocks),
        registers=resources.registers,
        spill_bytes=resources.spill_bytes,
    )


def _overlapped(seconds: Sequence[float], exponent: float) -> float:
    """The slowest, and a part of the others: the norm of that exponent."""
    most = max(seconds)
    if most == 0:
        return 0.0
    return most * sum((s / most) ** exponent for s in seconds) ** (1 / exponent)


def _rounds(
    units: Mapping[str, float], code: Code, blocks: int, resident: int, warps: int, gpu: Gpu
) -> tuple[float, dict[str, float]]:
    """The SMs' time in s, and its parts: each unit's alone, and that for which all warps wait.

    Args:
        units: cycles of a block by unit.
        code: of a warp.
        blocks: of the grid.
        resident: blocks that an SM holds.
        warps: of a block.
        gpu: the GPU.
    """
    full, rest = divmod(blocks, gpu.sms * resident)
    rounds = [(full, resident), (1, -(-rest // gpu.sms))]  # the last one may be smaller
    pipe = max(cycles for unit, cycles in units.items() if unit not in LOAD_STORE)
    load_store = sum(units.get(unit, 0.0) for unit in LOAD_STORE)
    total = waiting = 0.0
    for count, held in rounds:
        if count and held:
            alone = max(1.0, 4 / (held * warps))  # few warps leave schedulers without any
            busy = alone * held * pipe / (1 - _idle(pipe, code, warps, held * warps))
            waiting += count * (busy - held * pipe)
            total += count * _overlapped([busy, held * load_store], UNIT_OVERLAP)
    most = sum(count * held for count, held in rounds)  # blocks of the SM that has most
    parts = {unit: gpu.seconds(most * cycles) for unit, cycles in units.items()}
    return gpu.seconds(total), parts | {"latency": gpu.seconds(waiting)}


def _idle(pipe: float, code: Code, warps: int, resident_warps: int) -> float:
    """The share of time for which no warp of a scheduler can go on.

    Args:
        pipe: cycles of the busiest pipe for a block.
        code: of a warp.
        warps: of a block.
        resident_warps: of an SM.
    """
    if code.wgmma:  # asynchronous: the schedule does not tell
        return 0.0
    alone = min(1.0, 4 * pipe / warps / code.walk)  # the share for which a warp alone has work
    return (1 - alone) ** max(1.0, resident_warps / 4)


def _units(launch: Counted, code: Code, warps: int, gpu: Gpu) -> dict[str, float]:
    """Cycles that a block keeps each unit of its SM busy."""
    fp16 = 2 * 32 / gpu.fp16  # an instruction works on pairs
    cycles = {
        "issue": code.instructions / gpu.issue,
        "FMA": code.units.get("fma", 0.0) * 32 / gpu.fp32 + code.units.get("fp16", 0.0) * fp16,
        "integer": code.units.get("alu", 0.0) * 32 / gpu.alu,
        "FP64": code.units.get("fp64", 0.0) * 32 / gpu.fp64,
        "special": code.units.get("special", 0.0) * 32 / gpu.special,
    }
    of_block = {unit: warps * count for unit, count in cycles.items()}
    of_block["tensor"] = _tensor(launch, gpu) / launch.num_blocks
    of_block["L1"] = _global_accesses(launch, gpu) / launch.num_blocks
    of_block["shared"] = _shared_accesses(launch, code, gpu) / launch.num_blocks
    of_block["shared"] += warps * code.units.get("SHFL", 0.0) * 32 / SHUFFLE_LANES
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


def _shared_accesses(launch: Counted, code: Code, gpu: Gpu) -> float:
    """Cycles of one SM's load-store unit for all accesses to shared memory.

    An instruction takes the unit for its addresses (32 lanes at ``lsu_lanes`` a clock) or for its
    wavefronts, whichever is more. The compiler joins neighbouring accesses of PTX into wider ones:
    fewer instructions for the same bytes.
    """
    addresses = 32 / gpu.lsu_lanes
    total = max(launch.shared_atomic_requests * addresses, launch.shared_atomic_wavefronts)
    for kind, width in (("load", code.load_width), ("store", code.store_width)):
        requests = getattr(launch, f"shared_{kind}_requests")
        if requests:
            asked = getattr(launch, f"shared_{kind}_bytes") / (32 * requests)
            joined = max(1.0, width / asked) if asked else 1.0
            wavefronts = getattr(launch, f"shared_{kind}_wavefronts")
            total += max(requests * addresses, wavefronts) / joined
    return total


def _global_accesses(launch: Counted, gpu: Gpu) -> float:
    """The same for global and local memory: a cycle for each line of 128 bytes that is touched."""
    addresses = 32 / gpu.lsu_lanes
    total = max(launch.local_requests * addresses, launch.local_sectors / 4)
    total += max(launch.atomic_requests * addresses, launch.atomic_sectors)
    for kind in ("load", "store"):
        requests = getattr(launch, f"global_{kind}_requests")
        lines = getattr(launch, f"global_{kind}_lines")
        total += max(requests * addresses, lines)
    return total


def _memory(launch: Counted, resident: int, gpu: Gpu) -> dict[str, float]:
    """Seconds that L2 and DRAM need for their bytes."""
    to_l2 = 32 * (launch.l2_read_sectors + launch.l2_write_sectors)
    busy_sms = min(gpu.sms, launch.num_blocks)
    port = gpu.seconds(to_l2 / busy_sms / PORT_BYTES)
    # What blocks move again is still in L2, unless that cannot hold what all resident blocks moved.
    again = 32 * launch.l2_repeated_sectors
    at_once = min(1.0, gpu.sms * resident / launch.num_blocks) * (to_l2 - again)
    missed = max(0.0, 1 - gpu.l2_bytes / at_once) if at_once else 0.0
    moved = launch.dram_read_bytes + launch.dram_write_bytes + missed * again
    return {
        "L2": max(to_l2 / (gpu.l2_gbps * 1e9), port),
        "DRAM": moved / (gpu.dram_reach * gpu.dram_gbps * 1e9),
    }
