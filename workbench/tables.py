"""Benchmark results as tables for a terminal, a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from workbench import counters
from workbench.estimate.gpus import GPUS, Gpu
from workbench.estimate.model import BAND
from workbench.history import Previous
from workbench.results import Row

PLAIN_WIDTH = 100  # columns where the output is not a terminal
SAME_ESTIMATE = 0.005  # where tensors lie in memory moves an estimate by so much

SIMULATOR_COLUMNS = (
    "\nkernel",
    "\nerror",
    "warp\ninstr.",
    "sectors\n/request",
    "bytes\nmoved",
    "bank\nconf.",
    "\nFLOP",
    "\nocc.",
    "estim.\ntime",
    "\nchange",
    "\nlimit",
)

# Of operations without FLOPs worth counting: softmax and what else is all about memory.
BYTES_COLUMNS = (
    "\nkernel",
    "\nerror",
    "warp\ninstr.",
    "bytes\nasked",
    "bytes\nmoved",
    "\nocc.",
    "estim.\ntime",
    "band-\nwidth",
    "\nchange",
    "\nlimit",
)

SIMULATOR_LEGEND = (
    "error: largest, of what is allowed; sectors/request: of global memory, and the least; bytes\n"
    "moved: in those sectors; x: times the least; bank conf.: shared memory's wavefronts, times\n"
    "the least; occ.: occupancy; limit: what holds it up; change: against the previous run\n"
)
BYTES_LEGEND = (
    "ideal: bytes if each input is read once and each output written once; x: times that; error:\n"
    "largest, of what is allowed; bytes asked: by the lanes; bytes moved: between multiprocessors\n"
    "and L2, in sectors; occ.: occupancy; bandwidth: ideal bytes in the estimated time, of the\n"
    "memory's peak; limit: what holds it up; change: of the time against the previous run\n"
)
ESTIMATE_LEGEND = (
    "estim. time: an ESTIMATE for the {title}, +-{band:.0f}%, from counters and the compiler's\n"
    "report: nothing was measured. See docs/estimate.md. Others: --gpu {others}"
)
GPU_LEGEND = (
    "time: median; +-: interquartile range; roof: share of the hardware's peak; change: against\n"
    "the previous run, 'same' if within the interquartile ranges"
)


GPU_BYTES_LEGEND = (
    "time: median; +-: interquartile range; roof: share of the memory's peak; asked, moved: bytes\n"
    "that the lanes ask for and that go between multiprocessors and L2, times the ideal, counted\n"
    "on the simulator for a few rows; change: of the time against the previous run, 'same' if\n"
    "within the interquartile ranges"
)


def simulator_legend(gpu: Gpu, of_bytes: bool = False) -> str:
    """What the columns of the simulator's table mean, and that its times are estimates."""
    others = ", ".join(name for name in GPUS if name != gpu.name)
    return (BYTES_LEGEND if of_bytes else SIMULATOR_LEGEND) + ESTIMATE_LEGEND.format(
        title=gpu.title, band=100 * BAND, others=others
    )


def console(file: TextIO | None = None) -> Console:
    """A console for a table: plain where ``file`` is no terminal."""
    file = file or sys.stdout
    width = None if file.isatty() else PLAIN_WIDTH
    return Console(file=file, width=width, highlight=False)


def show(table: Table, file: TextIO | None = None) -> None:
    """Print a table; where it does not go to a terminal, in full however wide it is."""
    to = console(file)
    if not to.is_terminal:
        wide = to.options.update(width=10 * PLAIN_WIDTH)
        to.width = max(PLAIN_WIDTH, to.measure(table, options=wide).maximum)
    with to.capture() as capture:
        to.print(table)
    lines = capture.get().splitlines()
    to.file.write("".join(f"{line.rstrip()}\n" for line in lines))


def amount(value: float | None, unit: str = "") -> str:
    """Three significant digits and a decimal prefix: ``1.23 M``, ``45.6 kB``; - for None."""
    if value is None:
        return "-"
    for prefix, factor in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if abs(value) < 999.5 * factor or prefix == "T":
            break
    scaled = value / factor
    digits = 0 if prefix == "" and value == int(value) else max(0, 3 - len(str(int(abs(scaled)))))
    return f"{scaled:.{digits}f} {prefix}{unit}".rstrip()


def times(value: float | None, ideal: float | None) -> str:
    """How often ``value`` is the ideal: ``x4.00``; empty without one."""
    if value is None or not ideal:
        return ""
    ratio = value / ideal
    return f"x{ratio:.2f}" if ratio < 10 else f"x{ratio:.1f}" if ratio < 100 else f"x{ratio:.0f}"


def against(value: float | None, unit: str, ideal: float | None) -> str:
    """An amount and how often it is the ideal: ``134 MB  x171``."""
    ratio = times(value, ideal)
    return amount(value, unit) + (f" {ratio:>5}" if ratio else "")


def duration(ms: float | None) -> str:
    """A time in a readable unit, given in ms."""
    if ms is None:
        return "-"
    return (
        amount(ms / 1e3, "s") if ms >= 1e3 else f"{ms:.3g} ms" if ms >= 1 else f"{ms * 1e3:.3g} us"
    )


def percent(value: float | None) -> str:
    """A fraction in percent; - for None."""
    if value is None:
        return "-"
    return f"{100 * value:.2g}%" if value < 0.1 else f"{100 * value:.0f}%"


def counter_change(row: Row, last: Previous | None, name: str, same: float = 0.0) -> str:
    """Change of a counter since the previous run: ``new``, ``-12.3%``, or ``=`` up to ``same``."""
    if last is None:
        return "new"
    change = counters.change(row.counters, last.counters, name)
    if change is None:
        return "new"
    return "=" if abs(change) <= same else f"{100 * change:+.3g}%"


def time_change(row: Row, last: Previous | None, short: bool = False) -> str:
    """Change of the time against the previous run; ``same`` if within the spreads."""
    if last is None or not last.time_ms or row.time_ms is None:
        return "new"
    noise = max(row.spread or 0.0, last.spread or 0.0)
    if abs(row.time_ms - last.time_ms) <= noise:
        return "same"
    change = row.time_ms / last.time_ms - 1
    if short:
        return f"{100 * change:+.3g}%"
    return f"{'faster' if change < 0 else 'slower'} {100 * abs(change):.3g}%"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    return table


def plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of words; line breaks in its titles are aligned at the bottom."""
    deep = max(column.count("\n") for column in columns)
    padded = ["\n" * (deep - column.count("\n")) + column for column in columns]
    table = _table(title, padded)
    for row in rows:
        table.add_row(*row)
    return table


def _cells_without_figures(row: Row, count: int, place: int = 1) -> list[Text | str]:
    word = Text("not run") if row.refused else Text("WRONG", style="bold red")
    return [row.kernel, *[""] * (place - 1), word, *[""] * (count - 1 - place)]


def sectors_per_request(counted: Mapping[str, float]) -> str:
    """Sectors that a global load or store touches on average, and the least: ``16.5/4``."""
    requests = counters.value(counted, "global_requests")
    if not requests:
        return "-"
    sectors = counted["global_load_sectors"] + counted["global_store_sectors"]
    actual, least = sectors / requests, counters.value(counted, "global_sectors_ideal") / requests
    return f"{actual:.3g}/{least:.2g}"


def estimate_change(row: Row, last: Previous | None) -> str:
    """Change of the estimated time against the previous run: ``new``, ``=`` or ``-12.3%``."""
    if row.estimate is None:
        return ""
    return counter_change(row, last, counters.estimate_key(row.estimate.gpu), SAME_ESTIMATE)


def simulator_table(
    title: str,
    rows: Sequence[Row],
    previous: Mapping[str, Previous | None],
    ideal_flops: float | None,
    ideal_bytes: float,
) -> Table:
    """What the simulator counted and what a GPU might take, a row for each rung.

    Args:
        title: operation, shape and dtype.
        rows: the rungs' rows.
        previous: the last run's row by kernel, None or absent if there was none.
        ideal_flops: floating-point operations the operation needs, None for none of interest.
        ideal_bytes: global bytes it has to move.
    """
    table = _table(title, SIMULATOR_COLUMNS)
    for row in rows:
        if not row.checked:
            table.add_row(*_cells_without_figures(row, len(SIMULATOR_COLUMNS)))
            continue
        counted, estimate = row.counters, row.estimate
        flops = counters.value(counted, "flops")
        wavefronts = counters.value(counted, "shared_wavefronts")
        table.add_row(
            row.kernel,
            percent(row.share),
            amount(counters.value(counted, "warp_instructions")),
            sectors_per_request(counted),
            against(counters.value(counted, "global_moved_bytes"), "B", ideal_bytes),
            times(wavefronts, counters.value(counted, "shared_wavefronts_ideal")) or "-",
            times(flops, ideal_flops) or amount(flops),
            percent(estimate.occupancy) if estimate else "-",
            duration(estimate.time_ms) if estimate else "-",
            estimate_change(row, previous.get(row.kernel)),
            estimate.limiter if estimate else "-",
        )
    return table


def bandwidth(row: Row) -> float | None:
    """Share of the peak of the memory that moving the ideal bytes in the estimated time is."""
    if row.estimate is None or row.traffic is None:
        return None
    gbps = row.traffic.ideal_bytes / (row.estimate.time_ms * 1e-3) / 1e9
    return gbps / GPUS[row.estimate.gpu].dram_gbps


def _bandwidth_cell(row: Row) -> str:
    share = bandwidth(row)
    return "<0.1%" if share is not None and share < 1e-3 else percent(share)


def bytes_table(
    title: str, rows: Sequence[Row], previous: Mapping[str, Previous | None], ideal_bytes: float
) -> Table:
    """What the simulator counted of an operation that is all about memory; a row for each rung.

    Args:
        title: operation, shape and dtype.
        rows: the rungs' rows.
        previous: the last run's row by kernel, None or absent if there was none.
        ideal_bytes: global bytes it has to move.
    """
    table = _table(f"{title}, ideal {amount(ideal_bytes, 'B')}", BYTES_COLUMNS)
    for row in rows:
        if not row.checked:
            table.add_row(*_cells_without_figures(row, len(BYTES_COLUMNS), place=3))
            continue
        counted, estimate = row.counters, row.estimate
        table.add_row(
            row.kernel,
            percent(row.share),
            amount(counters.value(counted, "warp_instructions")),
            against(counters.value(counted, "asked_bytes"), "B", ideal_bytes),
            against(counters.value(counted, "l2_moved_bytes"), "B", ideal_bytes),
            percent(estimate.occupancy) if estimate else "-",
            duration(estimate.time_ms) if estimate else "-",
            _bandwidth_cell(row),
            estimate_change(row, previous.get(row.kernel)),
            estimate.limiter if estimate else "-",
        )
    return table


def gpu_bytes_table(
    title: str, rows: Sequence[Row], previous: Mapping[str, Previous | None], ideal_bytes: float
) -> Table:
    """``gpu_table`` of an operation that is all about memory, with bytes asked for and moved."""
    baselines = list(dict.fromkeys(name for row in rows for name in row.ratios))
    columns = ("\nkernel", "\nerror", "\ntime", "\n+-", "\nGB/s", "\nroof", "bytes\nasked")
    columns += ("bytes\nmoved", *(f"vs\n{name}" for name in baselines), "\nchange")
    table = _table(f"{title}, ideal {amount(ideal_bytes, 'B')}", columns)
    for row in rows:
        if row.time_ms is None:
            table.add_row(*_cells_without_figures(row, len(columns)))
            continue
        traffic = row.traffic
        table.add_row(
            row.kernel,
            percent(row.share),
            duration(row.time_ms),
            percent((row.spread or 0.0) / row.time_ms),
            "-" if row.rate is None else f"{row.rate:.4g}",
            percent(row.roof_fraction),
            times(traffic.asked, 1) if traffic else "",
            times(traffic.moved, 1) if traffic else "",
            *(f"{row.ratios[name]:.2f}x" if name in row.ratios else "" for name in baselines),
            time_change(row, previous.get(row.kernel), short=True),
            style="dim" if row.baseline else None,
        )
    return table


def gpu_table(title: str, rows: Sequence[Row], previous: Mapping[str, Previous | None]) -> Table:
    """Times and rates, a row for each rung and then for each vendor baseline."""
    baselines = list(dict.fromkeys(name for row in rows for name in row.ratios))
    unit = {"tflops": "TFLOP/s", "gbps": "GB/s"}[rows[0].unit] if rows else ""
    columns = (
        "kernel",
        "error",
        "time",
        "+-",
        unit,
        "roof",
        *(f"vs {name}" for name in baselines),
        "change",
    )
    table = _table(title, columns)
    for row in rows:
        if row.time_ms is None:
            table.add_row(*_cells_without_figures(row, len(columns)))
            continue
        ratios = [f"{row.ratios[name]:.2f}x" if name in row.ratios else "" for name in baselines]
        table.add_row(
            row.kernel,
            percent(row.share),
            duration(row.time_ms),
            duration(row.spread),
            "-" if row.rate is None else f"{row.rate:.4g}",
            percent(row.roof_fraction),
            *ratios,
            time_change(row, previous.get(row.kernel)),
            style="dim" if row.baseline else None,
        )
    return table
