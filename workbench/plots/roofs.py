"""Rungs as dots under the roofs of a GPU: how far each is from what the hardware can do.

Where FLOPs matter, the height is FLOP/s and the place along is FLOP per byte that passes between
the L2 cache and the multiprocessors; the roofs are the rates of the units and of L2. Where only
bytes matter, the height is GB/s of the ideal bytes (each input read once, each output written once)
and the place along how many bytes pass per ideal byte; the roofs are those of the memory and of L2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench import operators
from workbench.estimate.gpus import Gpu
from workbench.harness import counters
from workbench.harness.results import Row
from workbench.harness.roofs import Roofs
from workbench.plots import style

TENSOR_INPUTS = {
    "float16": "fp16",
    "bfloat16": "fp16",
    "tf32": "tf32",
    "int8": "int8",
    "float64": "fp64",
}


@dataclass(frozen=True)
class Dot:
    """A rung.

    Attributes:
        name: its name.
        series: the dots that look alike: its dtype.
        x: FLOP per byte, or bytes per ideal byte.
        y: TFLOP/s or GB/s.
    """

    name: str
    series: str
    x: float
    y: float


@dataclass(frozen=True)
class Roof:
    """A limit: ``y = peak * x ** slope``."""

    name: str
    peak: float
    slope: int = 0

    def at(self, x: float) -> float:
        """Its height there."""
        return self.peak * x**self.slope


@dataclass(frozen=True)
class Roofline:
    """What is drawn.

    Attributes:
        dots: the rungs.
        roofs: the limits.
        lines: other rates by name: those of libraries, whose bytes nobody counted.
        of_bytes: whether only bytes matter.
        estimated: whether the heights are estimates.
    """

    dots: tuple[Dot, ...]
    roofs: tuple[Roof, ...]
    lines: tuple[tuple[str, float], ...] = ()
    of_bytes: bool = False
    estimated: bool = False

    @property
    def ceiling(self) -> float:
        """The highest rate there is."""
        flat = [roof.peak for roof in self.roofs if not roof.slope]
        return max(flat, default=max(dot.y for dot in self.dots))


def time_of(row: Row) -> float | None:
    """The time of a row in ms, measured or estimated; None if it has none."""
    if row.target == "simulator":
        return row.estimate.time_ms if row.estimate else None
    return row.time_ms


def roofline(rows: Sequence[Row], roofs: Sequence[Roof]) -> Roofline | None:
    """The roofline of an operator's rows; None if nothing is known to draw.

    Args:
        rows: those of one operator.
        roofs: of ``roofs_of``.
    """
    dots = tuple(dot for row in rows if (dot := _dot(row)) is not None)
    if not dots:
        return None
    lines = tuple(
        (style.short(row.kernel), rate) for row in rows if row.baseline and (rate := _rate(row))
    )
    of_bytes = operators.get(rows[0].op).flops is None
    return Roofline(dots, tuple(roofs), lines, of_bytes, rows[0].target == "simulator")


def _rate(row: Row) -> float | None:
    """TFLOP/s or GB/s."""
    time = time_of(row)
    if not time:
        return None
    operator = operators.get(row.op)
    if operator.flops is None:
        return operator.ideal_bytes(row.case) / (time * 1e-3) / 1e9
    return operator.flops(row.case) / (time * 1e-3) / 1e12


def _dot(row: Row) -> Dot | None:
    operator, rate = operators.get(row.op), _rate(row)
    if row.baseline or not rate:
        return None
    if operator.flops is None:
        x = row.traffic.moved if row.traffic else 0.0
    else:
        moved = counters.value(row.counters, "l2_moved_bytes")
        x = operator.flops(row.case) / moved if moved else 0.0
    return Dot(style.short(row.kernel), row.dtype, x, rate) if x else None


def roofs_of(rows: Sequence[Row], gpu: Gpu | None, device: Roofs | None = None) -> list[Roof]:
    """The roofs for these rows, of a GPU of the estimate or, if it is None, of a device."""
    if not rows:
        return []
    if operators.get(rows[0].op).flops is None:
        return _memory_roofs(gpu, device)
    if gpu is None:
        peak = device.tflops if device else None
        return [Roof("fp32, CUDA cores", peak)] if peak else []
    return _compute_roofs(gpu, {row.dtype for row in rows})


def _memory_roofs(gpu: Gpu | None, device: Roofs | None) -> list[Roof]:
    if gpu is None:
        peak = device.gbps if device else None
        return [Roof("memory", peak)] if peak else []
    return [Roof("memory", gpu.dram_gbps), Roof("L2", gpu.l2_gbps, -1)]


def _compute_roofs(gpu: Gpu, dtypes: set[str]) -> list[Roof]:
    per_clock = gpu.sms * gpu.clock_ghz / 1e3
    roofs = [Roof("L2", gpu.l2_gbps / 1e3, 1)]
    if dtypes & {"float32", "float16", "bfloat16", "tf32"}:
        roofs.append(Roof("fp32, CUDA cores", 2 * gpu.fp32 * per_clock))
    if "float64" in dtypes:
        roofs.append(Roof("fp64, CUDA cores", 2 * gpu.fp64 * per_clock))
    for kind in dict.fromkeys(TENSOR_INPUTS[name] for name in sorted(dtypes & {*TENSOR_INPUTS})):
        peak = gpu.tensor.get(kind, 0) * per_clock
        if peak and gpu.mma_sync < 1 and kind != "fp64":
            roofs.append(Roof(f"{kind}, mma.sync", peak * gpu.mma_sync))
            roofs.append(Roof(f"{kind}, wgmma", peak))
        elif peak:
            roofs.append(Roof(f"{kind}, tensor cores", peak))
    return roofs
