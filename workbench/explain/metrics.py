"""The figures beside a source line: what they are called, what they mean, how they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.explain.costs import costs
from workbench.explain.kernels import Counts, Kernel
from workbench.harness.figures import amount, number, part, per, share


@dataclass(frozen=True)
class Metric:
    """A column of figures.

    Attributes:
        key: its name in the page.
        head: the column's head.
        title: what it says, in a sentence.
        value: the figure of a line, given the line's counters and the kernel's; None if the line
            has none.
        text: how the figure is written.
        heat: it can colour the lines.
        shown: whether it is shown for a kernel, given all its lines' values.
    """

    key: str
    head: str
    title: str
    value: Callable[[Counts, Kernel], float | None]
    text: Callable[[float], str] = amount
    heat: bool = False
    shown: Callable[[list[float]], bool] = any


def weight(counts: Counts) -> float:
    """The cycles a line takes of the unit that it keeps busy longest."""
    return costs(counts).slowest()[1] if counts else 0.0


def _weight(counts: Counts, kernel: Kernel) -> float | None:
    return share(weight(counts), kernel.summed(weight)) if counts else None


def _summed(counts: Counts, *names: str) -> int:
    return sum(counts.get(name, 0) for name in names)


def _part(*names: str) -> Callable[[Counts, Kernel], float | None]:
    """The line's share of the kernel's counters with these names."""

    def value(counts: Counts, kernel: Kernel) -> float | None:
        have = _summed(counts, *names)
        return share(have, _summed(kernel.counts, *names)) if have else None

    return value


def _amount(*names: str) -> Callable[[Counts, Kernel], float | None]:
    def value(counts: Counts, kernel: Kernel) -> float | None:
        return _summed(counts, *names) or None

    return value


def _ratio(above: tuple[str, ...], below: tuple[str, ...]) -> Callable[..., float | None]:
    def value(counts: Counts, kernel: Kernel) -> float | None:
        return per(_summed(counts, *above), _summed(counts, *below))

    return value


def _of_both(space: str, what: str) -> tuple[str, str]:
    return f"{space}_load_{what}", f"{space}_store_{what}"


def _bytes(value: float) -> str:
    return amount(value, "B")


_GLOBAL, _SHARED = "global", "shared"

METRICS = (
    Metric(
        "cost",
        "cost",
        "Rough share of the kernel's cycles: of the unit that the line keeps busy longest.",
        _weight,
        part,
        heat=True,
    ),
    Metric(
        "instructions",
        "instr.",
        "Share of the kernel's warp instructions.",
        _part("warp_instructions"),
        part,
        heat=True,
    ),
    Metric(
        "lanes",
        "lanes",
        "Active lanes of an instruction on average; a warp has 32.",
        _ratio(("thread_instructions",), ("warp_instructions",)),
        lambda value: f"{value:.1f}",
        shown=lambda values: min(values, default=32) < 31.95,
    ),
    Metric(
        "sectors",
        "sectors",
        "32-byte sectors of global memory for each request of a warp.",
        _ratio(_of_both(_GLOBAL, "sectors"), _of_both(_GLOBAL, "requests")),
        number,
        heat=True,
    ),
    Metric(
        "sectors_ideal",
        "ideal",
        "Sectors for each request if the bytes asked for lay side by side.",
        _ratio(_of_both(_GLOBAL, "sectors_ideal"), _of_both(_GLOBAL, "requests")),
        number,
    ),
    Metric(
        "global",
        "global",
        "Share of the kernel's global traffic, in sectors.",
        _part(*_of_both(_GLOBAL, "sectors")),
        part,
        heat=True,
    ),
    Metric(
        "wavefronts",
        "waves",
        "Shared-memory wavefronts for each request of a warp; more than the ideal are conflicts.",
        _ratio(_of_both(_SHARED, "wavefronts"), _of_both(_SHARED, "requests")),
        number,
        heat=True,
    ),
    Metric(
        "wavefronts_ideal",
        "ideal",
        "Wavefronts for each request without bank conflicts.",
        _ratio(_of_both(_SHARED, "wavefronts_ideal"), _of_both(_SHARED, "requests")),
        number,
    ),
    Metric(
        "shared",
        "shared",
        "Share of the kernel's shared-memory wavefronts.",
        _part(*_of_both(_SHARED, "wavefronts")),
        part,
        heat=True,
    ),
    Metric(
        "flops", "FLOP", "Floating-point operations; an FMA is two.", _amount("flops"), heat=True
    ),
    Metric(
        "global_bytes",
        "bytes",
        "Global bytes that the lanes asked for.",
        _amount(*_of_both(_GLOBAL, "bytes")),
        _bytes,
        heat=True,
    ),
    Metric(
        "l2",
        "L2",
        "Share of the sectors that the L1 cache does not answer and the L2 cache has to.",
        _part("l2_read_sectors", "l2_write_sectors"),
        part,
        heat=True,
    ),
    Metric(
        "bulk",
        "bulk",
        "Bytes of bulk copies (TMA).",
        _amount("bulk_load_bytes", "bulk_store_bytes"),
        _bytes,
    ),
    Metric("local", "local", "Bytes of local memory.", _amount("local_bytes"), _bytes, heat=True),
    Metric("atomics", "atomics", "Atomic operations of lanes.", _amount("atomics"), heat=True),
    Metric("barriers", "barriers", "Barriers that warps arrive at.", _amount("barriers")),
)


def columns(kernel: Kernel) -> tuple[Metric, ...]:
    """The metrics that say something about a kernel."""
    return tuple(metric for metric in METRICS if metric.shown(_values(metric, kernel)))


def _values(metric: Metric, kernel: Kernel) -> list[float]:
    values = (metric.value(counts, kernel) for counts in kernel.lines.values())
    return [value for value in values if value is not None]
