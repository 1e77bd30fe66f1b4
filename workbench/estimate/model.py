"""Computes a time from counters, machine code and a GPU's rates: pure functions.

The model, which docs/estimate.md explains:

1. The work of each unit of an SM per block, in cycles (units.py): issue slots, FMA, integer,
   special-function and tensor pipes, and the load-store unit.
2. How busy the resident warps keep them. A warp alone spends a share s of its time waiting,
   according to the compiler's schedule and the latencies; n warps of a scheduler leave it idle for
   s^n of the time.
3. Waves: the blocks run on the SMs in waves of all resident blocks; the last may be smaller.
4. L2 and DRAM move bytes for the whole GPU. The slowest unit sets the time; those close to it add
   a little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import units
from .gpus import Gpu
from .resources import Occupancy, Resources, occupancy
from .schedule import Code, code_of
from .units import MEMORY_OVERLAP, SECTOR_BYTES, UNIT_OVERLAP, Cycles, overlapped

if TYPE_CHECKING:
    import simulator

BAND = 0.3  # the error band that is printed; docs/estimate.md says what is inside it


@dataclass(frozen=True)
class Estimate:
    """The estimated time of a launch, or of several in sequence.

    Attributes:
        gpu: the GPU's name for --gpu.
        time_ms: in total.
        limiter: the bottleneck: a key of ``parts``.
        parts: what each unit would take alone, in ms, what waiting adds to the SMs ("latency"), and
            the launch.
        occupancy: of the longest launch.
        waves: its blocks divided by the blocks resident on the GPU.
        band: expected relative error.
        registers: per thread; this and the next two are the most of any launch.
        shared_bytes: per block, static and dynamic.
        spill_bytes: bytes that its code stores and loads for lack of registers.
    """

    gpu: str
    time_ms: float
    limiter: str
    parts: Mapping[str, float]
    occupancy: Occupancy
    waves: float
    band: float = BAND
    registers: int = 0
    shared_bytes: int = 0
    spill_bytes: int = 0


def estimate(
    launches: Sequence[simulator.Launch], resources: Mapping[str, Resources], gpu: Gpu
) -> Estimate:
    """The estimated time of consecutive launches.

    Args:
        launches: what the simulator recorded.
        resources: those of their kernels on the GPU's architecture, by name.
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
        registers=max(e.registers for e in each),
        shared_bytes=max(e.shared_bytes for e in each),
        spill_bytes=max(e.spill_bytes for e in each),
    )


def _of_launch(launch: simulator.Launch, resources: Resources, gpu: Gpu) -> Estimate:
    threads = math.prod(launch.block)
    held = occupancy(gpu, threads, resources.registers, launch.shared_bytes)
    if held.blocks == 0:
        raise ValueError(f"a block of {launch.kernel} needs more {held.limiter} than an SM has")
    warps = -(-threads // 32)
    code = code_of(launch, resources.machine, warps * launch.num_blocks, gpu)
    of_block = _units(launch, code, warps, gpu)
    core, parts = _rounds(of_block, code, launch.num_blocks, held.blocks, warps, gpu)
    memory = _memory(launch, held.blocks, gpu)
    launching = gpu.launch_us / 1e6
    parts |= memory | {"launch": launching}
    seconds = overlapped([core, *memory.values()], MEMORY_OVERLAP) + launching
    return Estimate(
        gpu=gpu.name,
        time_ms=1e3 * seconds,
        limiter=max(parts, key=lambda name: parts[name]),
        parts={name: 1e3 * s for name, s in parts.items() if s},
        occupancy=held,
        waves=launch.num_blocks / (gpu.sms * held.blocks),
        registers=resources.registers,
        shared_bytes=launch.shared_bytes,
        spill_bytes=resources.spill_bytes,
    )


def _rounds(
    of_block: Cycles, code: Code, blocks: int, resident: int, warps: int, gpu: Gpu
) -> tuple[float, dict[str, float]]:
    """The SMs' time in s, and its parts: each unit's alone, and the time for which all warps wait.

    Args:
        of_block: cycles for which a block keeps each unit busy.
        code: what a warp executes.
        blocks: number in the grid.
        resident: resident blocks per SM.
        warps: of a block.
        gpu: the GPU.
    """
    full, rest = divmod(blocks, gpu.sms * resident)
    rounds = [(full, resident), (1, -(-rest // gpu.sms))]  # the last one may be smaller
    pipe, load_store = of_block.pipe, of_block.load_store
    exponent = MEMORY_OVERLAP if code.copies_ahead else UNIT_OVERLAP
    total = waiting = 0.0
    for count, held in rounds:
        if count and held:
            alone = max(1.0, 4 / (held * warps))  # with few warps some schedulers have none
            busy = alone * held * pipe / (1 - _idle(pipe, code, warps, held * warps))
            waiting += count * (busy - held * pipe)
            total += count * overlapped([busy, held * load_store], exponent)
    most = sum(count * held for count, held in rounds)  # blocks of the busiest SM
    parts = {unit: gpu.seconds(most * cycles) for unit, cycles in of_block.by_name().items()}
    return gpu.seconds(total), parts | {"latency": gpu.seconds(waiting)}


def _idle(pipe: float, code: Code, warps: int, resident_warps: int) -> float:
    """The share of time for which every warp of a scheduler is stalled.

    Args:
        pipe: cycles of the busiest pipe per block.
        code: what a warp executes.
        warps: of a block.
        resident_warps: of an SM.
    """
    if code.wgmma:  # asynchronous: the schedule says nothing
        return 0.0
    alone = min(1.0, 4 * pipe / warps / code.walk)  # share for which a warp alone has work
    return (1 - alone) ** max(1.0, resident_warps / 4)


def _units(launch: simulator.Launch, code: Code, warps: int, gpu: Gpu) -> Cycles:
    """Cycles for which a block keeps each unit of its SM busy."""
    of_launch = units.accesses(launch, gpu, code.load_width, code.store_width)
    if launch.tensor_flops:
        of_launch += Cycles(tensor=launch.tensor_flops / units.tensor(launch, gpu))
    return of_launch / launch.num_blocks + units.pipes(code.instructions, gpu) * warps


def _memory(launch: simulator.Launch, resident: int, gpu: Gpu) -> dict[str, float]:
    """Seconds that L2 and DRAM need for their bytes."""
    sectors = launch.l2_read_sectors + launch.l2_write_sectors
    # Data moved again is still in L2, unless all that the resident blocks moved does not fit.
    again = SECTOR_BYTES * launch.l2_repeated_sectors
    once = SECTOR_BYTES * sectors - again
    at_once = min(1.0, gpu.sms * resident / launch.num_blocks) * once
    missed = max(0.0, 1 - gpu.l2_bytes / at_once) if at_once else 0.0
    moved = launch.dram_read_bytes + launch.dram_write_bytes + missed * again
    return {
        "L2": units.l2_seconds(sectors, min(gpu.sms, launch.num_blocks), gpu),
        "DRAM": units.dram_seconds(moved, gpu),
    }
