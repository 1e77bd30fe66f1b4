"""What counters cost: the cycles that the units of one multiprocessor (SM) need for them.

This ranks findings against each other, nothing more. The rates are those of a current data-centre
GPU, rounded; the estimated times of the tables come from a finer model.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.explain.kernels import Counts

ISSUE = 4  # warp instructions per cycle
FP32 = 4
FP64 = 2
INTEGER = 2
SPECIAL = 0.5
SECTORS_PER_CYCLE = 4  # of the L1 cache, if they lie side by side
APART = 2  # sectors that are read beyond the ideal and lie in lines of their own
L2_SECTORS = 1
DRAM_BYTES = 20
BARRIER = 1  # cycles that a warp's barrier costs the others of its SM
ATOMIC = 1  # lanes per cycle


@dataclass(frozen=True)
class Costs:
    """Cycles of each unit, for a line or a kernel; all multiprocessors' work on one."""

    issue: float
    fp32: float
    fp64: float
    integer: float
    special: float
    memory: float  # global, local and shared accesses share one pipe
    l2: float
    dram: float
    barriers: float
    atomics: float

    def slowest(self) -> tuple[str, float]:
        """The unit that needs the most cycles, and how many; at least one."""
        name, cycles = max(vars(self).items(), key=lambda item: item[1])
        return name, max(cycles, 1.0)


def global_cycles(requests: float, sectors: float, ideal: float) -> float:
    """Cycles of the memory pipe for global or local accesses."""
    return max(requests, min(sectors, ideal) / SECTORS_PER_CYCLE) + excess(sectors, ideal)


def excess(sectors: float, ideal: float) -> float:
    """Cycles for the sectors beyond the ideal."""
    return max(0.0, sectors - ideal) / APART


def shared_cycles(c: Counts) -> float:
    """Cycles of the memory pipe for shared memory."""
    names = ("shared_load_wavefronts", "shared_store_wavefronts", "shared_atomic_wavefronts")
    return sum(c.get(name, 0) for name in names)


def costs(c: Counts) -> Costs:
    """The cycles for a line's or a kernel's counters."""
    kinds = ("global_load", "global_store")
    memory = sum(global_cycles(*(c.get(f"{kind}_{what}", 0) for what in _PARTS)) for kind in kinds)
    local = c.get("local_sectors", 0) / SECTORS_PER_CYCLE
    return Costs(
        issue=c.get("warp_instructions", 0) / ISSUE,
        fp32=c.get("fp32_instructions", 0) / FP32,
        fp64=c.get("fp64_instructions", 0) / FP64,
        integer=c.get("integer_instructions", 0) / INTEGER,
        special=c.get("special_function_instructions", 0) / SPECIAL,
        memory=memory + max(local, c.get("local_requests", 0)) + shared_cycles(c),
        l2=(c.get("l2_read_sectors", 0) + c.get("l2_write_sectors", 0)) / L2_SECTORS,
        dram=(c.get("dram_read_bytes", 0) + c.get("dram_write_bytes", 0)) / DRAM_BYTES,
        barriers=c.get("barriers", 0) * BARRIER,
        atomics=(c.get("atomics", 0)) / ATOMIC,
    )


_PARTS = ("requests", "sectors", "sectors_ideal")
