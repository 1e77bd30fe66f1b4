"""What a line or a kernel has to do, by the estimate's units, and the cycles that takes in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from workbench.estimate import units
from workbench.estimate.gpus import Gpu
from workbench.estimate.units import Cycles

if TYPE_CHECKING:
    import simulator


@dataclass(frozen=True)
class Work:
    """Cycles of one SM, as if it did everything.

    L2 and DRAM, which all SMs share, count as if each SM had its part of their rates: as in a grid
    that fills the GPU, whatever the size of the one that ran.

    Attributes:
        sm: by unit.
        waiting: for which the SM's warps stand at barriers.
        l2: for the sectors that go to L2 and come from there.
        dram: for the bytes of DRAM.
    """

    sm: Cycles = Cycles()
    waiting: float = 0.0
    l2: float = 0.0
    dram: float = 0.0

    @property
    def cycles(self) -> float:
        """In all; the units overlap as in the estimate of a launch."""
        core = (self.sm.pipe + self.waiting, self.sm.load_store)
        sm = units.overlapped(core, units.UNIT_OVERLAP)
        return units.overlapped((sm, self.l2, self.dram), units.MEMORY_OVERLAP)

    @property
    def slowest(self) -> float:
        """What the busiest unit takes alone."""
        return max(self.sm.pipe, self.sm.load_store, self.l2, self.dram)

    def __sub__(self, other: Self) -> Self:
        """What is left, at least nothing."""
        return type(self)(
            self.sm - other.sm,
            max(0.0, self.waiting - other.waiting),
            max(0.0, self.l2 - other.l2),
            max(0.0, self.dram - other.dram),
        )


def work(counted: simulator.Counters, tensor_rate: float, gpu: Gpu, dram_bytes: int = 0) -> Work:
    """The work behind counters.

    Args:
        counted: of a line or a kernel; its instructions are those of PTX.
        tensor_rate: FLOP of an SM's tensor cores in a clock.
        gpu: the GPU.
        dram_bytes: what DRAM moves; only known of whole kernels.
    """
    sm = units.pipes(units.ptx(counted), gpu) + units.accesses(counted, gpu)
    return Work(
        sm=sm + Cycles(tensor=counted.tensor_flops / tensor_rate),
        waiting=counted.barriers * barrier_cycles(gpu),
        l2=l2_cycles(counted.l2_read_sectors + counted.l2_write_sectors, gpu),
        dram=gpu.sms * gpu.cycles(units.dram_seconds(dram_bytes, gpu)),
    )


def barrier_cycles(gpu: Gpu) -> float:
    """What a warp's barrier costs its SM.

    A warp waits for the barrier, and for what the slowest of its block still has in flight, mostly
    an access to shared memory. All warps of the SM share that time.
    """
    return (gpu.latency.barrier + gpu.latency.shared) / gpu.warps


def l2_cycles(sectors: float, gpu: Gpu) -> float:
    """Cycles of an SM's part of L2."""
    return gpu.sms * gpu.cycles(units.l2_seconds(sectors, gpu.sms, gpu))
