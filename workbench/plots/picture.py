"""A run as one figure: for each shape its ladder as bars and, where known, its roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.estimate.gpus import GPUS, Gpu
from workbench.harness.figures import of
from workbench.harness.results import Row
from workbench.harness.roofs import Roofs
from workbench.plots import ladder, roofline, roofs, style

MOST_SHAPES = 6
WIDTH = 12.0  # inches, as all that follows
MARGIN, GAP = 0.3, 0.75
LINE, TALLEST_LINE = 0.27, 0.5  # of bars
LEAST = 3.0  # of a roofline
TITLE, HEAD, FOOT = 0.92, 0.5, 0.55
_LETTERS = 10  # of a title, in an inch


@dataclass(frozen=True)
class Panel:
    """A shape's part of the figure: its bars, and the roofline if one is known."""

    title: str
    bars: tuple[ladder.Bar, ...]
    roofline: roofs.Roofline | None

    @property
    def height(self) -> float:
        """Of the axes, in inches."""
        lines = ladder.lines(self.bars)[-1][0] + 1.2
        return max(lines * LINE, LEAST if self.roofline else min(LEAST, lines * TALLEST_LINE))


def panels(rows: Sequence[Row], gpu: Gpu | None, device: Roofs | None = None) -> list[Panel]:
    """The panels of a run, one for each shape, options and layout whose rungs have times."""
    found = []
    for title in dict.fromkeys(map(_title, rows)):
        some = [row for row in rows if _title(row) == title]
        bars = tuple(ladder.bars(some))
        if ladder.drawable(bars):
            line = None
            if some[0].target != "cpu":
                right = [row for row in some if row.checked or row.baseline]
                line = roofs.roofline(right, roofs.roofs_of(some, gpu, device))
            found.append(Panel(title, bars, line))
    return found


def most(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows that fit into a figure, those of the first shapes; and how many shapes there are."""
    titles = list(dict.fromkeys(_title(row) for row in rows))
    shown = titles[:MOST_SHAPES]
    return [row for row in rows if _title(row) in shown], len(titles)


def _title(row: Row) -> str:
    return row.subject.removesuffix(f" {row.dtype}")


def headline(row: Row, device: str) -> tuple[str, str]:
    """The title of a run's figure, and the line below it."""
    if row.estimate is None:
        return f"{row.op} on the {device}", "measured: median times"
    estimate = row.estimate
    some = f"{of(row.sampled_blocks, 'block')} of each launch"
    counted = some if row.sampled_blocks else "every block"
    below = f"ESTIMATE, ±{100 * estimate.band:.0f}%: no rung was measured; counted by simulating "
    return f"{row.op} on the {GPUS[estimate.gpu].title}", below + counted


@style.look()
def figure(
    rows: Sequence[Row], gpu: Gpu | None, device: str = "", roofs_of_device: Roofs | None = None
) -> Any:
    """The figure of a run; None if no rung has a time.

    Args:
        rows: those of one operator and target.
        gpu: whose roofs are drawn; None if the estimate does not know it.
        device: the name of what times were measured on.
        roofs_of_device: those of a measured device, if ``gpu`` is None.
    """
    shown = panels(rows, gpu, roofs_of_device)
    if not shown:
        return None
    lines = _in_lines(shown)
    height = TITLE + sum(map(_height, lines)) + MARGIN / 2
    made = style.figure(WIDTH, height)
    first = next(row for row in rows if roofs.time_of(row))
    title, below = headline(first, device)
    look: dict[str, Any] = {"ha": "left", "va": "baseline"}
    style.write(made, (MARGIN, height - 0.42), title, style.LARGE, weight="bold", **look)
    style.write(made, (MARGIN, height - 0.66), below, color=style.MUTED, **look)
    series = roofline.series_of([bar.series for panel in shown for bar in panel.bars])
    label = "estimated time" if first.estimate else "time"
    top = height - TITLE
    for line in lines:
        for i, panel in enumerate(line):
            _draw(made, panel, _columns(line)[i], top, series, label)
        top -= _height(line)
    return made


def _in_lines(shown: Sequence[Panel]) -> list[list[Panel]]:
    """Panels with a roofline each in a line of its own, others two in a line."""
    lines: list[list[Panel]] = []
    for panel in shown:
        last = lines[-1] if lines else []
        if panel.roofline is None and len(last) == 1 and last[0].roofline is None:
            last.append(panel)
        else:
            lines.append([panel])
    return lines


def _height(line: Sequence[Panel]) -> float:
    return HEAD + max(panel.height for panel in line) + FOOT


def _columns(line: Sequence[Panel]) -> list[tuple[float, float]]:
    """From where to where the bars of a line's panels and their names go."""
    half = (WIDTH - GAP) / 2
    if len(line) == 1 and line[0].roofline is None:
        return [(MARGIN, WIDTH - MARGIN)]
    return [(MARGIN, half), (half + GAP, WIDTH - MARGIN)]


def _draw(
    made: Any,
    panel: Panel,
    column: tuple[float, float],
    top: float,
    series: dict[str, tuple[str, str]],
    label: str,
) -> None:
    """Draw a panel below ``top``, in inches from the bottom."""
    left, right = column
    names = ladder.names_width(made, panel.bars) / made.dpi + 0.1
    bottom = top - HEAD - panel.height
    room = (WIDTH - MARGIN if panel.roofline else right) - left
    title = style.short(panel.title, int(_LETTERS * room))
    style.write(made, (left, top - 0.05), title, weight="bold", ha="left", va="top")
    box = (left + names, bottom, right - left - names, panel.height)
    ladder.draw(style.axes(made, *box), panel.bars, series, label)
    if panel.roofline is None:
        return
    left, right = right + GAP, WIDTH - MARGIN
    box = (left, bottom, right - left, panel.height)
    lost = roofline.draw(style.axes(made, *box), panel.roofline, series)
    if lost:
        at, text = (right, bottom + panel.height + 0.1), f"{of(lost, 'name')} left out: no room"
        style.write(made, at, text, style.SMALL, color=style.MUTED, ha="right")


@style.look()
def write(made: Any, path: Path) -> None:
    """Write the figure to a file of its suffix's format. Raises OSError."""
    style.save(made, path)
