"""What --explain says about a rung: kernels with their source, findings and totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator import Counters, Launch
from workbench.estimate import (
    DEFAULT_GPU,
    GPUS,
    EstimateError,
    Gpu,
    Source,
    estimate_launches,
    ladder_sources,
    units,
)
from workbench.estimate.units import SECTOR_BYTES
from workbench.explain import annotate
from workbench.explain.detectors import find
from workbench.explain.findings import Finding
from workbench.explain.kernels import Kernel, by_kernel
from workbench.harness.figures import amount, duration, number, per, percent, share


@dataclass(frozen=True)
class Fact:
    """A figure for the whole kernel: its name, value and a note."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Explained:
    """A kernel, explained; ``part`` is roughly its share of the rung's cycles."""

    kernel: Kernel
    regions: tuple[annotate.Region, ...]
    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...]
    part: float = 1.0


@dataclass(frozen=True)
class Report:
    """A rung on a shape, explained.

    Attributes:
        op: the operator's name.
        rung: the rung's name.
        case: sizes, options and layout.
        dtype: torch's name for it.
        kernels: what it launched.
        note: why it did not run, or that its result is wrong.
        wrong: whether its result is wrong.
    """

    op: str
    rung: str
    case: str
    dtype: str
    kernels: tuple[Explained, ...]
    note: str = ""
    wrong: bool = False

    @property
    def title(self) -> str:
        """Operator, rung, case and dtype."""
        return f"{self.op} {self.rung}, {self.case} {self.dtype}"


def explained(
    launches: Sequence[Launch],
    gpu: Gpu | None = None,
    op: str | None = None,
    source: Source | None = None,
) -> tuple[Explained, ...]:
    """Explain recorded launches, kernel by kernel.

    Args:
        launches: what ``simulator.record()`` yields.
        gpu: the GPU whose rates rank lines and findings, and for which time and occupancy are
            estimated, which requires the kernels' files to compile on their own; None ranks by the
            default GPU.
        op: the operator of the kernels' ladder, which names their files if all of a kernel's lines
            are in headers.
        source: the file of the kernels, if it needs more than itself to compile.
    """
    sources: list[Path | Source] = [] if source is None else [source]
    kernels = by_kernel(launches, gpu or GPUS[DEFAULT_GPU])
    cycles = [kernel.work.cycles for kernel in kernels]
    return tuple(
        _explained(kernel, share(mine, sum(cycles)), gpu, [*sources, *_files(kernel, op)])
        for kernel, mine in zip(kernels, cycles, strict=True)
    )


def _files(kernel: Kernel, op: str | None) -> list[Path]:
    return [*kernel.sources, *(ladder_sources(op) if op else ())]


def _explained(
    kernel: Kernel, part: float, gpu: Gpu | None, sources: Sequence[Path | Source]
) -> Explained:
    files = annotate.sources(kernel)
    facts = _facts(kernel)
    if gpu is not None:
        facts = [*_estimated(kernel, gpu, sources), *facts]
    return Explained(
        kernel, annotate.regions(kernel, files), find(kernel, files), tuple(facts), part
    )


def _estimated(kernel: Kernel, gpu: Gpu, sources: Sequence[Path | Source]) -> list[Fact]:
    """Time and occupancy on a GPU; nothing if they cannot be estimated."""
    try:
        found = estimate_launches(kernel.records, tuple(dict.fromkeys(sources)), gpu)
    except EstimateError as error:
        return [Fact("estimated time", "-", str(error).splitlines()[0])]
    held = found.occupancy
    band = f"+-{percent(found.band)} on {gpu.title}; limit: {found.limiter}"
    spills = f"spills {amount(found.spill_bytes, 'B')}" if found.spill_bytes else "no spills"
    fits = f"{held.blocks} block{'s' if held.blocks > 1 else ''} on an SM"
    return [
        Fact("estimated time", duration(found.time_ms), band),
        Fact("occupancy", percent(held.fraction), f"{fits}; limit: {held.limiter}"),
        Fact("registers", str(found.registers), f"per thread; {spills}"),
    ]


def _size(numbers: tuple[int, int, int]) -> str:
    """``8 x 8``: without trailing dimensions of 1."""
    last = max((i for i, n in enumerate(numbers) if n != 1), default=0)
    return " x ".join(str(n) for n in numbers[: last + 1])


def _blocks(kernel: Kernel) -> str:
    return f"{_size(kernel.total.grid)} block{'s' if kernel.blocks > 1 else ''}"


def _facts(kernel: Kernel) -> list[Fact]:
    c = kernel.total
    times = "" if kernel.launches == 1 else f", launched {kernel.launches} times"
    facts = [
        Fact("grid", _blocks(kernel), f"of {_size(c.block)} threads{times}"),
        Fact(
            "instructions",
            amount(c.warp_instructions),
            f"of warps; {number(_lanes(c))} of 32 lanes active",
        ),
    ]
    if c.sampled_blocks < c.num_blocks:
        ran = f"{amount(c.sampled_blocks)} blocks"
        facts.append(Fact("sampled", ran, f"of {amount(c.num_blocks)} ran; counters are scaled"))
    facts += [*_arithmetic(c), *_global(c), *_shared(c)]
    if c.barriers:
        facts.append(Fact("barriers", amount(c.barriers), "warp arrivals"))
    if c.atomics:
        facts.append(Fact("atomics", amount(c.atomics), "per-lane operations"))
    return facts


def _lanes(c: Counters) -> float:
    return per(c.thread_instructions, c.warp_instructions) or 0.0


def _arithmetic(c: Counters) -> list[Fact]:
    if not c.flops:
        return []
    special = c.special_function_ops
    note = f"and {amount(special)} special functions" if special else ""
    return [Fact("FLOP", amount(c.flops), note)]


def _global(c: Launch) -> list[Fact]:
    asked = units.global_loads(c) + units.global_stores(c)
    if not asked.bytes:
        return []
    facts = [Fact("global memory", amount(asked.bytes, "B"), "requested by the lanes")]
    if asked.requests:
        each = f"{number(asked.pieces / asked.requests)} per request"
        ideal = f"{number(asked.ideal / asked.requests)} ideal"
        facts.append(Fact("sectors", amount(asked.pieces), f"of 32 B; {each}, {ideal}"))
        l2 = SECTOR_BYTES * (c.l2_read_sectors + c.l2_write_sectors)
        different = c.dram_read_bytes + c.dram_write_bytes
        note = f"missed in L1; {amount(different, 'B')} of it distinct"
        facts.append(Fact("L2 cache", amount(l2, "B"), note))
    return facts


def _shared(c: Launch) -> list[Fact]:
    asked = units.shared_loads(c) + units.shared_stores(c)
    if not c.shared_bytes and not c.shared_load_bytes:
        return []
    facts = [Fact("shared memory", amount(c.shared_bytes, "B"), "per block")]
    if asked.pieces:
        lost = asked.pieces - asked.ideal
        note = f"{amount(lost) if lost > 0 else 'no'} bank conflicts"
        facts.append(Fact("wavefronts", amount(asked.pieces), note))
    return facts
