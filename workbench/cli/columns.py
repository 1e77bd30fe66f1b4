"""The columns of result tables, each with its title, legend and cells.

A table is a list of columns (``columns``) over entries, one row of results each. Two renderers turn
both into text: workbench.harness.terminal and ``markdown``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from workbench import operators
from workbench.estimate.gpus import GPUS
from workbench.estimate.model import BAND
from workbench.harness import counters
from workbench.harness.changes import SAME_ESTIMATE
from workbench.harness.figures import against, amount, duration, percent, times
from workbench.harness.results import Row
from workbench.harness.terminal import PLAIN_WIDTH, text_width
from workbench.history import Previous
from workbench.operators.operator import Case, Operator


@dataclass(frozen=True)
class Entry:
    """A row of results, and what the previous run measured, if any."""

    row: Row
    previous: Previous | None = None

    @property
    def operator(self) -> Operator:
        """The operator that the row's rung belongs to."""
        return operators.get(self.row.op)

    @property
    def case(self) -> Case:
        """The row's input."""
        return self.row.case

    @property
    def ideal_bytes(self) -> int:
        """The bytes of reading every input once and writing every output once."""
        return self.operator.ideal_bytes(self.case)

    def counted(self, name: str) -> float | None:
        """A counter, or a value derived from counters (workbench.harness.counters)."""
        return counters.value(self.row.counters, name)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading, in lines.
        legend: its entry in the legend below the table; empty if the title is enough.
        cell: an entry's value as text.
        only_terminal: it compares with the previous run, so it has no place on a page.
        spare: which columns go first where a table would be too wide: the smallest number; 0 never
            goes.
    """

    title: str
    legend: str
    cell: Callable[[Entry], str]
    only_terminal: bool = False
    spare: int = 0


def columns(row: Row, baselines: Sequence[str] = ()) -> tuple[Column, ...]:
    """The columns of the table that a row belongs to.

    Args:
        row: any row of the table.
        baselines: the ones that the table's rungs are compared with.
    """
    operator = operators.get(row.op)
    of_bytes = operator.flops is None
    if row.target == "simulator":
        more = tuple(MORE[name] for name in operator.columns)
        first, last = (_BYTES, _BYTES_TIMES) if of_bytes else (_FLOPS, _FLOPS_TIMES)
        return (KERNEL, ERROR, INSTRUCTIONS, *first, *more, OCCUPANCY, ESTIMATE, *last)
    ratios = tuple(_ratio(name) for name in baselines)
    if of_bytes:
        rate = Column("\nGB/s", "", _rate)
        return (*_TIMED, rate, ROOF_OF_MEMORY, *_TRAFFIC, *ratios, TIME_CHANGE)
    scratch = (SCRATCH,) if "scratch" in operator.columns else ()
    rate, roof = (GFLOPS, ()) if row.target == "cpu" else (TFLOPS, (ROOF,))
    return (*_TIMED, rate, *roof, *scratch, *ratios, TIME_CHANGE)


def baselines_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """The baselines that any of these rows is compared with."""
    return tuple(dict.fromkeys(name for row in rows for name in row.ratios))


# Cells.


def sectors_per_request(counted: Mapping[str, float]) -> str:
    """Sectors that a global load or store touches on average, and the minimum: ``16.5/4``."""
    requests = counters.value(counted, "global_requests")
    if not requests:
        return "-"
    sectors = counted["global_load_sectors"] + counted["global_store_sectors"]
    least = counters.value(counted, "global_sectors_ideal") or 0.0
    return f"{sectors / requests:.3g}/{least / requests:.2g}"


def bandwidth(entry: Entry) -> float | None:
    """The rate of moving the ideal bytes in the estimated time, as a share of the peak."""
    estimate = entry.row.estimate
    if estimate is None:
        return None
    gbps = entry.ideal_bytes / (estimate.time_ms * 1e-3) / 1e9
    return gbps / GPUS[estimate.gpu].dram_gbps


def counter_change(entry: Entry, name: str, same: float = 0.0) -> str:
    """Change of a counter since the previous run: ``new``, ``-12.3%``, or ``=`` up to ``same``."""
    if entry.previous is None:
        return "new"
    change = counters.change(entry.row.counters, entry.previous.counters, name)
    if change is None:
        return "new"
    return "=" if abs(change) <= same else f"{100 * change:+.3g}%"


def _estimate_change(entry: Entry) -> str:
    if entry.row.estimate is None:
        return ""
    return counter_change(entry, counters.estimate_key(entry.row.estimate.gpu), SAME_ESTIMATE)


def time_change(entry: Entry) -> str:
    """Change of the time since the previous run; ``same`` if within the spreads."""
    row, last = entry.row, entry.previous
    if last is None or not last.time_ms or row.time_ms is None:
        return "new"
    noise = max(row.spread or 0.0, last.spread or 0.0)
    if abs(row.time_ms - last.time_ms) <= noise:
        return "same"
    return f"{100 * (row.time_ms / last.time_ms - 1):+.3g}%"


def _flops(entry: Entry) -> str:
    ideal, flops = entry.operator.flops, entry.counted("flops")
    return times(flops, ideal(entry.case) if ideal else None) or amount(flops)


def _conflicts(entry: Entry) -> str:
    ideal = entry.counted("shared_wavefronts_ideal")
    return times(entry.counted("shared_wavefronts"), ideal) or "-"


def _moved(counter: str) -> Callable[[Entry], str]:
    return lambda entry: against(entry.counted(counter), "B", entry.ideal_bytes)


def _bandwidth(entry: Entry) -> str:
    share = bandwidth(entry)
    return "<0.1%" if share is not None and share < 1e-3 else percent(share)


def _of_estimate(text: Callable[..., str]) -> Callable[[Entry], str]:
    return lambda entry: text(entry.row.estimate) if entry.row.estimate else "-"


def _spread(entry: Entry) -> str:
    spread, time_ms = entry.row.spread, entry.row.time_ms
    return percent((spread or 0.0) / time_ms) if time_ms else ""


def _rate(entry: Entry, factor: float = 1.0) -> str:
    rate = None if entry.row.rate is None else factor * entry.row.rate
    return "-" if rate is None else f"{rate:.0f}" if rate >= 1000 else f"{rate:.3g}"


def _of_traffic(name: str) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        traffic = entry.row.traffic
        return times(getattr(traffic, name), 1) if traffic else ""

    return cell


def _ratio(name: str) -> Column:
    def cell(entry: Entry) -> str:
        ratio = entry.row.ratios.get(name)
        return "" if ratio is None else f"{ratio:.2f}x"

    return Column(f"vs\n{name}", "", cell)


# The columns.

KERNEL = Column("\nrung", "", lambda e: e.row.kernel)
ERROR = Column(
    "\nerror",
    "error: the largest of an element, as a share of the error allowed there",
    lambda e: percent(e.row.share),
    spare=4,
)
INSTRUCTIONS = Column("warp\ninstr.", "", lambda e: amount(e.counted("warp_instructions")), spare=2)
SECTORS = Column(
    "sectors\n/request",
    "sectors/request: 32-byte sectors of global memory, actual/minimum",
    lambda e: sectors_per_request(e.row.counters),
)
BYTES_MOVED = Column(
    "sector\nbytes",
    "sector bytes: of those sectors, before any cache; x: relative to the ideal, each input read "
    "once and each output written once",
    _moved("global_moved_bytes"),
)
BANK_CONFLICTS = Column(
    "bank\nconf.", "bank conf.: shared-memory wavefronts, relative to the minimum", _conflicts
)
FLOP = Column("\nFLOP", "FLOP: relative to the mathematical minimum", _flops, spare=1)
OCCUPANCY = Column(
    "\nocc.",
    "occ.: occupancy",
    _of_estimate(lambda estimate: percent(estimate.occupancy)),
    spare=3,
)
ESTIMATE = Column("estim.\ntime", "", _of_estimate(lambda estimate: duration(estimate.time_ms)))
ESTIMATE_CHANGE = Column(
    "\nchange",
    "change: of the time since the previous run",
    _estimate_change,
    only_terminal=True,
)
LIMIT = Column("\nlimit", "limit: the bottleneck", _of_estimate(lambda e: e.limiter))
ASKED = Column(
    "bytes\nrequested",
    "bytes requested: by the lanes; x: relative to the ideal, each input read once and each output "
    "written once",
    _moved("asked_bytes"),
)
L2_MOVED = Column(
    "bytes\nmoved",
    "bytes moved: between multiprocessors and L2, in sectors",
    _moved("l2_moved_bytes"),
)
BANDWIDTH = Column(
    "band-\nwidth",
    "bandwidth: ideal bytes over the estimated time, as a share of the memory's peak",
    _bandwidth,
)

SCRATCH = Column(
    "\nscratch",
    "scratch: memory that a call needs in addition to its tensors",
    lambda e: amount(e.counted("scratch_bytes"), "B"),
)

# The simulator's tables: columns before the occupancy, and columns after the estimated time.
_FLOPS = (SECTORS, BYTES_MOVED, BANK_CONFLICTS, FLOP)
_FLOPS_TIMES = (ESTIMATE_CHANGE, LIMIT)
_BYTES = (ASKED, L2_MOVED)
_BYTES_TIMES = (BANDWIDTH, ESTIMATE_CHANGE, LIMIT)
# Columns that an operator may add (``Operator.columns``).
MORE = {"bank conflicts": BANK_CONFLICTS, "sectors": SECTORS, "scratch": SCRATCH}

TIME = Column("\ntime", "time: median", lambda e: duration(e.row.time_ms))
SPREAD = Column("\n+-", "+-: interquartile range, as a share of the median", _spread)
ROOF = Column(
    "\nroof", "roof: share of the hardware's peak", lambda e: percent(e.row.roof_fraction)
)
ROOF_OF_MEMORY = Column("\nroof", "roof: share of the memory's peak", ROOF.cell)
TFLOPS = Column("\nTFLOP/s", "", _rate)
GFLOPS = Column("\nGFLOP/s", "", lambda e: _rate(e, 1e3))
TIME_CHANGE = Column(
    "\nchange",
    "change: since the previous run, 'same' if within the interquartile ranges",
    time_change,
    only_terminal=True,
)
_TRAFFIC = (
    Column(
        "bytes\nrequested",
        "bytes requested: by the lanes, relative to the ideal (each input read once, each output "
        "written once); counted on the simulator for a smaller input",
        _of_traffic("asked"),
    ),
    Column(
        "bytes\nmoved",
        "bytes moved: between multiprocessors and L2, also relative to the ideal",
        _of_traffic("moved"),
    ),
)
_TIMED = (KERNEL, ERROR, TIME, SPREAD)

ESTIMATE_LEGEND = (
    "estim. time: an ESTIMATE for the {title}, +-{band:.0f}%, from counters and the compiler's\n"
    "report: nothing was measured. See docs/estimate.md. Others: --gpu {others}"
)


def legend(shown: Sequence[Column], gpu: str | None = None) -> str:
    """The meaning of the columns; given the ``--gpu``, also that its times are estimates."""
    meanings = "; ".join(column.legend for column in shown if column.legend)
    lines = textwrap.wrap(meanings, text_width(), break_on_hyphens=False)
    if gpu is not None:
        others = ", ".join(name for name in GPUS if name != gpu)
        about = {"title": GPUS[gpu].title, "band": 100 * BAND, "others": others}
        text = ESTIMATE_LEGEND.format(**about)
        narrow = text_width() < PLAIN_WIDTH
        lines += textwrap.wrap(text, text_width()) if narrow else [text]
    return "\n".join(lines)


# Rows of a table.


def figureless(row: Row) -> str:
    """The text that replaces the figures of a row without any; empty if it has figures."""
    if row.refused:
        return row.refused
    has_figures = row.checked if row.target == "simulator" else row.time_ms is not None
    return "" if has_figures else "WRONG"


def cells(shown: Sequence[Column], entries: Sequence[Entry]) -> Iterator[list[str | Text]]:
    """The rows of a table for a terminal; a row without figures has two cells."""
    for entry in entries:
        words = figureless(entry.row)
        if words:
            yield [entry.row.kernel, Text(words, style="bold red" if words == "WRONG" else "")]
        else:
            dim = "dim" if entry.row.baseline else ""
            yield [Text(column.cell(entry), style=dim) for column in shown]


def fitting(shown: Sequence[Column], entries: Sequence[Entry], width: int) -> Sequence[Column]:
    """The columns of a table of at most ``width``, as far as leaving out spare ones helps."""
    rows: list[list[str | Text]] = [[column.title for column in shown]]
    rows += [row for row in cells(shown, entries) if len(row) == len(shown)]
    deep = [[max(map(len, str(cell).split("\n"))) for cell in row] for row in rows]
    widths = dict(zip(shown, (max(column) + 2 for column in zip(*deep, strict=True)), strict=True))
    for column in sorted(filter(lambda column: column.spare, shown), key=lambda c: c.spare):
        if sum(widths.values()) - 2 > width:
            del widths[column]
    return [*widths]


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A page's table: the first column left-aligned, the others right-aligned."""
    lines = [
        "| " + " | ".join(map(_in_one_line, titles)),
        "| ---" + " | ---:" * (len(titles) - 1),
    ]
    for row in rows:
        filled = [*row, *[""] * (len(titles) - len(row))]
        lines.append("| " + " | ".join(" ".join(cell.split()) for cell in filled))
    return "\n".join(f"{line} |" for line in lines)


def _in_one_line(title: str) -> str:
    return title.replace("-\n", "").replace("\n/", "/").replace("\n", " ").strip()


def page_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns of a page's tables for these rows.

    Columns that compare with an earlier run are left out, and so are those that no row has a value
    for: results kept by an older workbench may lack some.
    """
    every = columns(rows[0], baselines_of(rows))
    shown = [column for column in every if not column.only_terminal]
    entries = [Entry(row) for row in rows if not figureless(row)]
    empty = ("", "-")
    known = [c for c in shown if any(c.cell(entry) not in empty for entry in entries)]
    return known or shown


def page_table(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    """Results as a page's table."""
    body = [
        [entry.row.kernel, words] if words else [column.cell(entry) for column in shown]
        for entry in map(Entry, rows)
        for words in [figureless(entry.row)]
    ]
    return markdown([column.title for column in shown], body)
