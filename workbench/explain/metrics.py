"""The metrics shown for a source line: their names, meanings and formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulator import Counters, LineCounters
from workbench.estimate import units
from workbench.estimate.units import Traffic
from workbench.explain.annotate import SourceLine
from workbench.explain.kernels import Kernel
from workbench.harness.figures import amount, number, part, per, share


@dataclass(frozen=True)
class Metric:
    """A column of figures.

    Attributes:
        key: its name in the page.
        head: the column's heading.
        title: its meaning, in a sentence.
        value: the value for a line, given the line's counters and the kernel; None if the line
            has none.
        text: how the value is formatted.
        heat: whether it can colour the lines.
        shown: whether it is shown for a kernel, given all its lines' values.
    """

    key: str
    head: str
    title: str
    value: Callable[[LineCounters, Kernel], float | None]
    text: Callable[[float], str] = amount
    heat: bool = False
    shown: Callable[[list[float]], bool] = any

    def of(self, line: SourceLine, kernel: Kernel) -> float | None:
        """The value for a source line; None if it has none or was not executed."""
        return None if line.counters is None else self.value(line.counters, kernel)


Value = Callable[[LineCounters, Kernel], float | None]


def _part(of: Callable[[Counters], float]) -> Value:
    """The line's share of the kernel's total."""

    def value(line: LineCounters, kernel: Kernel) -> float | None:
        return share(of(line), of(kernel.total)) if of(line) else None

    return value


def _amount(of: Callable[[Counters], float]) -> Value:
    return lambda line, kernel: of(line) or None


def _ratio(above: Callable[[Counters], float], below: Callable[[Counters], float]) -> Value:
    return lambda line, kernel: per(above(line), below(line))


def _bytes(value: float) -> str:
    return amount(value, "B")


def _global(c: Counters) -> Traffic:
    return units.global_loads(c) + units.global_stores(c)


def _shared(c: Counters) -> Traffic:
    return units.shared_loads(c) + units.shared_stores(c)


METRICS = (
    Metric(
        "cost",
        "cost",
        "Rough share of the kernel's cycles, by the estimate's model, as if lines ran one by one.",
        lambda line, kernel: kernel.cost(line),
        part,
        heat=True,
    ),
    Metric(
        "instructions",
        "instr.",
        "Share of the kernel's warp instructions.",
        _part(lambda c: c.warp_instructions),
        part,
        heat=True,
    ),
    Metric(
        "lanes",
        "lanes",
        "Active lanes per instruction on average; a warp has 32.",
        _ratio(lambda c: c.thread_instructions, lambda c: c.warp_instructions),
        lambda value: f"{value:.1f}",
        shown=lambda values: min(values, default=32) < 31.95,
    ),
    Metric(
        "sectors",
        "sectors",
        "32-byte sectors of global memory per warp request.",
        _ratio(lambda c: _global(c).pieces, lambda c: _global(c).requests),
        number,
        heat=True,
    ),
    Metric(
        "sectors_ideal",
        "ideal",
        "Sectors per request if the requested bytes were contiguous.",
        _ratio(lambda c: _global(c).ideal, lambda c: _global(c).requests),
        number,
    ),
    Metric(
        "global",
        "global",
        "Share of the kernel's global traffic, in sectors.",
        _part(lambda c: _global(c).pieces),
        part,
        heat=True,
    ),
    Metric(
        "wavefronts",
        "waves",
        "Shared-memory wavefronts per warp request; more than the ideal are conflicts.",
        _ratio(lambda c: _shared(c).pieces, lambda c: _shared(c).requests),
        number,
        heat=True,
    ),
    Metric(
        "wavefronts_ideal",
        "ideal",
        "Wavefronts per request without bank conflicts.",
        _ratio(lambda c: _shared(c).ideal, lambda c: _shared(c).requests),
        number,
    ),
    Metric(
        "shared",
        "shared",
        "Share of the kernel's shared-memory wavefronts.",
        _part(lambda c: _shared(c).pieces),
        part,
        heat=True,
    ),
    Metric(
        "flops",
        "FLOP",
        "Floating-point operations; an FMA is two.",
        _amount(lambda c: c.flops),
        heat=True,
    ),
    Metric(
        "global_bytes",
        "bytes",
        "Global bytes requested by the lanes.",
        _amount(lambda c: _global(c).bytes),
        _bytes,
        heat=True,
    ),
    Metric(
        "l2",
        "L2",
        "Share of the sectors that miss in the L1 cache and go to the L2 cache.",
        _part(lambda c: c.l2_read_sectors + c.l2_write_sectors),
        part,
        heat=True,
    ),
    Metric(
        "bulk",
        "bulk",
        "Bytes of bulk copies (TMA).",
        _amount(lambda c: c.bulk_load_bytes + c.bulk_store_bytes),
        _bytes,
    ),
    Metric(
        "local",
        "local",
        "Bytes of local memory.",
        _amount(lambda c: c.local_bytes),
        _bytes,
        heat=True,
    ),
    Metric(
        "atomics",
        "atomics",
        "Atomic operations, counted per lane.",
        _amount(lambda c: c.atomics),
        heat=True,
    ),
    Metric("barriers", "barriers", "Barrier arrivals of warps.", _amount(lambda c: c.barriers)),
)


def columns(kernel: Kernel) -> tuple[Metric, ...]:
    """The metrics that are informative for a kernel."""
    return tuple(metric for metric in METRICS if metric.shown(_values(metric, kernel)))


def _values(metric: Metric, kernel: Kernel) -> list[float]:
    values = (metric.value(line, kernel) for line in kernel.lines.values())
    return [value for value in values if value is not None]
