"""The cost of counted work: the cycles for which it keeps each unit of an SM busy.

The only place that knows what an instruction or access costs a unit. The estimate of a launch
(model.py) gets the instructions from the machine code; ``explain`` ranks source lines, which only
the PTX counters distinguish, with the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from .gpus import Gpu

if TYPE_CHECKING:
    import simulator

# The model's constants, the same for all kernels and GPUs; docs/estimate.md says why.
UNIT_OVERLAP = 1.25  # exponent: load-store unit and pipes of an SM; 1 adds, large overlaps
MEMORY_OVERLAP = 3.0  # the same for the SMs, L2 and DRAM
LANES = 32  # of a warp
SHUFFLE_LANES = 32  # lanes that a shuffle serves per clock; CUDA C++ Programming Guide
PORT_BYTES = 64  # between an SM and the L2, per clock
SECTOR_BYTES = 32
LINE_SECTORS = 4


class Summed:
    """Figures that are added or scaled field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    def __sub__(self, other: Self) -> Self:
        """The difference, at least zero."""
        pairs = zip(_values(self), _values(other), strict=True)
        return type(self)(*(max(0.0, a - b) for a, b in pairs))

    def __mul__(self, factor: float) -> Self:
        return type(self)(*(factor * value for value in _values(self)))

    def __truediv__(self, divisor: float) -> Self:
        return type(self)(*(value / divisor for value in _values(self)))


def _values(figures: Summed) -> list[float]:
    return list(vars(figures).values())


@dataclass(frozen=True)
class Instructions:
    """Warp instructions, in total and by execution unit.

    Attributes:
        issued: all.
        fma: on the pipe for fused multiply-adds.
        fp16: on the same pipe, for pairs of half precision.
        integer: integers, logic, comparisons.
        fp64: double precision.
        special: exponentials, roots, reciprocals, conversions.
        shuffles: between the lanes of a warp.
    """

    issued: float
    fma: float
    fp16: float
    integer: float
    fp64: float
    special: float
    shuffles: float


def ptx(counted: simulator.Counters) -> Instructions:
    """The instructions as the simulator counts them. A line's do not count shuffles separately."""
    return Instructions(
        issued=counted.warp_instructions,
        fma=counted.fp32_instructions,
        fp16=counted.fp16_instructions,
        integer=counted.integer_instructions,
        fp64=counted.fp64_instructions,
        special=counted.special_function_instructions,
        shuffles=0,
    )


@dataclass(frozen=True)
class Cycles(Summed):
    """Cycles for which each unit of one SM is busy.

    Attributes:
        issue: the four warp schedulers.
        fma, integer, fp64, special, tensor: the pipes.
        l1, shared: the load-store unit, for global and local, or for shared memory and shuffles.
    """

    issue: float = 0.0
    fma: float = 0.0
    integer: float = 0.0
    fp64: float = 0.0
    special: float = 0.0
    tensor: float = 0.0
    l1: float = 0.0
    shared: float = 0.0

    @property
    def pipe(self) -> float:
        """The busiest unit except the load-store unit."""
        return max(self.issue, self.fma, self.integer, self.fp64, self.special, self.tensor)

    @property
    def load_store(self) -> float:
        """The load-store unit, which serves L1 and shared memory in turn."""
        return self.l1 + self.shared

    def by_name(self) -> dict[str, float]:
        """The units by their name as a limit."""
        return {
            "issue": self.issue,
            "FMA": self.fma,
            "integer": self.integer,
            "FP64": self.fp64,
            "special": self.special,
            "tensor": self.tensor,
            "L1": self.l1,
            "shared": self.shared,
        }


def pipes(work: Instructions, gpu: Gpu) -> Cycles:
    """The cycles that instructions take, without memory accesses."""
    return Cycles(
        issue=work.issued / gpu.issue,
        fma=work.fma * LANES / gpu.fp32 + work.fp16 * (2 * LANES / gpu.fp16),
        integer=work.integer * LANES / gpu.alu,
        fp64=work.fp64 * LANES / gpu.fp64,
        special=work.special * LANES / gpu.special,
        shared=work.shuffles * LANES / SHUFFLE_LANES,
    )


@dataclass(frozen=True)
class Traffic(Summed):
    """Requests of one kind to one memory.

    Attributes:
        requests: warp instructions.
        bytes: requested by their lanes.
        pieces: sectors of global memory, wavefronts of shared memory.
        ideal: the minimum number of pieces.
        passes: of the load-store unit: lines of global memory, wavefronts of shared memory.
        ideal_passes: the minimum number of passes.
    """

    requests: float
    bytes: float
    pieces: float
    ideal: float
    passes: float
    ideal_passes: float

    def cycles(self, gpu: Gpu) -> float:
        """Cycles of the load-store unit."""
        return busy(self.requests, self.passes, gpu)

    def ideal_cycles(self, gpu: Gpu) -> float:
        """Cycles if the lanes requested each byte once, contiguously."""
        return busy(self.requests, self.ideal_passes, gpu)


def busy(requests: float, passes: float, gpu: Gpu) -> float:
    """Cycles of the load-store unit: for the lanes' addresses or its passes, whichever is more."""
    return max(requests * LANES / gpu.lsu_lanes, passes)


def global_loads(c: simulator.Counters) -> Traffic:
    """Loads from global memory."""
    sectors, ideal = c.global_load_sectors, c.global_load_sectors_ideal
    lines, least = c.global_load_lines, ideal / LINE_SECTORS
    return Traffic(c.global_load_requests, c.global_load_bytes, sectors, ideal, lines, least)


def global_stores(c: simulator.Counters) -> Traffic:
    """Stores to global memory."""
    sectors, ideal = c.global_store_sectors, c.global_store_sectors_ideal
    lines, least = c.global_store_lines, ideal / LINE_SECTORS
    return Traffic(c.global_store_requests, c.global_store_bytes, sectors, ideal, lines, least)


def shared_loads(c: simulator.Counters) -> Traffic:
    """Loads from shared memory."""
    waves, ideal = c.shared_load_wavefronts, c.shared_load_wavefronts_ideal
    return Traffic(c.shared_load_requests, c.shared_load_bytes, waves, ideal, waves, ideal)


def shared_stores(c: simulator.Counters) -> Traffic:
    """Stores to shared memory."""
    waves, ideal = c.shared_store_wavefronts, c.shared_store_wavefronts_ideal
    return Traffic(c.shared_store_requests, c.shared_store_bytes, waves, ideal, waves, ideal)


def atomics(c: simulator.Counters, gpu: Gpu) -> Cycles:
    """Atomics. Lanes with one address are serialised, and each turn requests its sectors."""
    return Cycles(
        l1=busy(c.atomic_requests, c.atomic_sectors, gpu),
        shared=busy(c.shared_atomic_requests, c.shared_atomic_wavefronts, gpu),
    )


def local(c: simulator.Counters, gpu: Gpu) -> Cycles:
    """Loads and stores of local memory."""
    return Cycles(l1=busy(c.local_requests, c.local_sectors / LINE_SECTORS, gpu))


def accesses(
    c: simulator.Counters, gpu: Gpu, load_width: float = 0.0, store_width: float = 0.0
) -> Cycles:
    """The cycles that all memory accesses take.

    Args:
        c: the counters.
        gpu: the GPU.
        load_width: bytes per lane for a load from shared memory in machine code; 0: as in PTX.
        store_width: the same for stores.
    """
    loads = Cycles(l1=global_loads(c).cycles(gpu), shared=_joined(shared_loads(c), load_width, gpu))
    stores = Cycles(
        l1=global_stores(c).cycles(gpu), shared=_joined(shared_stores(c), store_width, gpu)
    )
    return local(c, gpu) + atomics(c, gpu) + loads + stores


def _joined(traffic: Traffic, width: float, gpu: Gpu) -> float:
    """The cycles if the compiler merged PTX accesses: fewer requests for the same bytes."""
    asked = traffic.bytes / (LANES * traffic.requests) if traffic.requests else 0.0
    return traffic.cycles(gpu) / (max(1.0, width / asked) if asked else 1.0)


TYPES = (
    ("fp8", (".e4m3", ".e5m2")),
    ("int8", (".s8", ".u8")),
    ("tf32", (".tf32",)),
    ("fp64", (".f64",)),
    ("fp16", (".f16", ".bf16")),
)


def tensor(launch: simulator.Launch, gpu: Gpu) -> float:
    """FLOP per clock of an SM's tensor cores, for the type that a launch uses most.

    Raises:
        ValueError: the GPU has no tensor cores for that type.
    """
    used = {form: n for form, n in launch.forms.items() if "mma" in form.split(".")[0]}
    form = max(used, key=lambda f: used[f], default="")
    found = (kind for kind, marks in TYPES if any(mark in form for mark in marks))
    kind = next(found, "fp16")
    rate = gpu.tensor.get(kind)
    if rate is None:
        raise ValueError(f"the {gpu.title} has no tensor cores for {form}")
    own = form.startswith("wgmma") or kind == "fp64"  # which only mma.sync has
    return rate if own else rate * gpu.mma_sync


def l2_seconds(sectors: float, sms: int, gpu: Gpu) -> float:
    """The time in which L2 moves sectors from and to a number of SMs."""
    moved = SECTOR_BYTES * sectors
    return max(moved / (gpu.l2_gbps * 1e9), gpu.seconds(moved / sms / PORT_BYTES))


def dram_seconds(moved: float, gpu: Gpu) -> float:
    """The time in which DRAM moves a number of bytes."""
    return moved / (gpu.dram_reach * gpu.dram_gbps * 1e9)


def overlapped(parts: Sequence[float], exponent: float) -> float:
    """The slowest plus a part of the others: the norm with that exponent."""
    most = max(parts)
    if most == 0:
        return 0.0
    return most * sum((part / most) ** exponent for part in parts) ** (1 / exponent)
