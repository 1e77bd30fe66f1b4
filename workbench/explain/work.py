"""The work of a line or a kernel, by the estimate's units, and the cycles it takes in total."""

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

    L2 and DRAM, which all SMs share, count as if each SM had its share of their rates: as in a grid
    that fills the GPU, whatever the size of the one that ran.

    Attributes:
        sm: cycles by unit.
        waiting: cycles for which the SM's warps wait at barriers.
        l2: cycles for the sectors that go to and come from L2.
        dram: cycles for the bytes of DRAM.
    """

    sm: Cycles = Cycles()
    waiting: float = 0.0
    l2: float = 0.0
    dram: float = 0.0

    @property
    def cycles(self) -> float:
        """The total; the units overlap as in the estimate of a launch."""
        core = (self.sm.pipe + self.waiting, self.sm.load_store)
        sm = units.overlapped(core, units.UNIT_OVERLAP)
        return units.overlapped((sm, self.l2, self.dram), units.MEMORY_OVERLAP)

    @property
    def slowest(self) -> float:
        """The cycles of the busiest unit alone."""
        return max(self.sm.pipe, self.sm.load_store, self.l2, self.dram)

    def __sub__(self, other: Self) -> Self:
        """The difference, at least zero."""
        return type(self)(
            self.sm - other.sm,
            max(0.0, self.waiting - other.waiting),
            max(0.0, self.l2 - other.l2),
            max(0.0, self.dram - other.dram),
        )


def work(counted: simulator.Counters, tensor_rate: float, gpu: Gpu, dram_bytes: int = 0) -> Work:
    """The work behind counters.

    Args:
        counted: counters of a line or a kernel; its instructions are PTX.
        tensor_rate: FLOP per clock of an SM's tensor cores.
        gpu: the GPU.
        dram_bytes: bytes moved by DRAM; only known for whole kernels.
    """
    sm = units.pipes(units.ptx(counted), gpu) + units.accesses(counted, gpu)
    return Work(
        sm=sm + Cycles(tensor=counted.tensor_flops / tensor_rate),
        waiting=counted.barriers * barrier_cycles(gpu),
        l2=l2_cycles(counted.l2_read_sectors + counted.l2_write_sectors, gpu),
        dram=gpu.sms * gpu.cycles(units.dram_seconds(dram_bytes, gpu)),
    )


def barrier_cycles(gpu: Gpu) -> float:
    """The cost of a warp's barrier for its SM.

    A warp waits for the barrier, and for what the slowest warp of its block still has in flight,
    mostly an access to shared memory. All warps of the SM share that time.
    """
    return (gpu.latency.barrier + gpu.latency.shared) / gpu.warps


def l2_cycles(sectors: float, gpu: Gpu) -> float:
    """Cycles of an SM's share of L2."""
    return gpu.sms * gpu.cycles(units.l2_seconds(sectors, gpu.sms, gpu))
