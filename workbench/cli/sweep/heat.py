"""Heat maps of sweeps: times over the values of two tunables, as text or as a picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from workbench.harness.figures import duration
from workbench.harness.terminal import show
from workbench.plots import style

# From the fastest to FULL times as slow, and beyond: ColorBrewer's RdYlBu, which the colour-blind
# can tell apart, and on which black text is readable.
COLORS = ("#74add1", "#abd9e9", "#e0f3f8", "#fee090", "#fdae61", "#f46d43")
FULL = 2.0


@dataclass(frozen=True)
class Grid:
    """Times over the values of two tunables.

    Attributes:
        title: what was measured.
        down: the tunable whose values are the rows.
        across: the one whose values are the columns; "" if only one varies.
        rows: the values of the former, ascending.
        columns: those of the latter.
        times: in ms, the shortest of all that differ in other tunables only; None if none is right.
        in_file: the row and the column in the file.
        others: those other tunables.
    """

    title: str
    down: str
    across: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    times: tuple[tuple[float | None, ...], ...]
    in_file: tuple[int, int]
    others: tuple[str, ...] = ()

    @property
    def best(self) -> float | None:
        """The shortest time; None if there is none."""
        return min((time for row in self.times for time in row if time is not None), default=None)

    @property
    def subtitle(self) -> str:
        """What its axes and cells are."""
        text = f"{self.down} down" + (f", {self.across} across" if self.across else "")
        return text + (f"; best of all {', '.join(self.others)}" if self.others else "")


def grid(
    title: str,
    names: Sequence[str],
    in_file: Sequence[int],
    times: Mapping[tuple[int, ...], float | None],
) -> Grid:
    """The grid over two tunables; of more, over those whose best values matter most.

    Args:
        title: what was measured.
        names: the tunables that vary.
        in_file: their values in the file.
        times: by combination, in ms; None for one that is not right.
    """
    picked = sorted(_two(names, times))
    cells: dict[tuple[int, ...], list[float]] = {}
    for key, time in times.items():
        here = cells.setdefault(tuple(key[i] for i in picked), [])
        here += [] if time is None else [time]
    rows, *more = (tuple(sorted({key[i] for key in times})) for i in picked)
    columns = more[0] if more else (0,)
    return Grid(
        title,
        names[picked[0]],
        names[picked[1]] if more else "",
        rows,
        columns,
        tuple(tuple(_shortest(cells, (y, x)[: len(picked)]) for x in columns) for y in rows),
        (in_file[picked[0]], in_file[picked[1]] if more else 0),
        tuple(names[i] for i in _several(names, times) if i not in picked),
    )


def _shortest(cells: Mapping[tuple[int, ...], Sequence[float]], place: tuple[int, ...]) -> Any:
    return min(cells.get(place, ()), default=None)


def _two(names: Sequence[str], times: Mapping[tuple[int, ...], float | None]) -> list[int]:
    """The indices of the tunables to show: the two for which a wrong value costs most."""

    def cost(i: int) -> float:
        best: dict[int, float] = {}
        for key, time in times.items():
            if time is not None:
                best[key[i]] = min(time, best.get(key[i], math.inf))
        return max(best.values()) / min(best.values()) if best else 1.0

    return sorted(_several(names, times) or [0], key=cost, reverse=True)[:2]


def _several(names: Sequence[str], times: Mapping[tuple[int, ...], Any]) -> list[int]:
    """The indices of the tunables with more than one value."""
    return [i for i in range(len(names)) if len({key[i] for key in times}) > 1]


def print_grid(grid: Grid) -> None:
    """Print a heat map; coloured in a terminal, unless NO_COLOR is set."""
    best = grid.best
    if best is None:
        return
    rows: list[list[str | Text]] = []
    for value, times in zip(grid.rows, grid.times, strict=True):
        cells = [_cell(time, best) for time in times]
        rows.append([str(value), *cells])
    titles = ["", *(f"{value} " for value in grid.columns)]
    print(f"{grid.title}\n{grid.subtitle}")
    show("", titles, rows)


def _cell(time: float | None, best: float) -> Text:
    if time is None:
        return Text("- ")
    mark = "*" if time == best else " "
    return Text(f"{duration(time)}{mark}", style=f"black on {COLORS[_shade(time, best)]}")


def _shade(time: float, best: float) -> int:
    """The color of a time."""
    share = math.log(time / best) / math.log(FULL)
    return min(len(COLORS) - 1, math.floor(share * len(COLORS)))


@style.look()
def draw(path: Path, grids: Sequence[Grid]) -> int:
    """Draw heat maps below each other; tell what became of the file, return the exit status.

    Raises Failure without matplotlib.
    """
    if not grids:
        print(f"error: --plot {path}: nothing to draw, no combination has a time", file=sys.stderr)
        return 1
    height = [1.3 + 0.45 * len(grid.rows) for grid in grids]
    width = 2.2 + 1.1 * max(len(grid.columns) for grid in grids)
    figure = style.figure(max(5.0, width), sum(height), layout="constrained")
    every = figure.subplots(len(grids), 1, squeeze=False, height_ratios=height)[:, 0]
    for axes, one in zip(every, grids, strict=True):
        _draw(axes, one)
    figure.supxlabel("bold: the best; framed: the values in the file", fontsize=style.SMALL)
    try:
        style.save(figure, path)
    except OSError as error:
        print(f"error: --plot {path}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"\nwrote {path}")
    return 0


def _draw(axes: Any, grid: Grid) -> None:
    """One heat map: white where nothing is right, a frame around the values in the file."""
    from matplotlib.colors import ListedColormap

    best = grid.best or 1.0
    shades = [[math.nan if t is None else _shade(t, best) for t in row] for row in grid.times]
    colors = ListedColormap(COLORS)
    axes.imshow(shades, cmap=colors, vmin=-0.5, vmax=len(COLORS) - 0.5, aspect="auto")
    for y, row in enumerate(grid.times):
        for x, time in enumerate(row):
            weight = "bold" if time == grid.best else "normal"
            axes.text(x, y, duration(time), ha="center", va="center", fontweight=weight)
    axes.set_yticks(range(len(grid.rows)), [str(value) for value in grid.rows])
    axes.set_xticks(range(len(grid.columns)), [str(v) if grid.across else "" for v in grid.columns])
    axes.set_ylabel(grid.down)
    axes.set_xlabel(grid.across)
    note = f"; best of all {', '.join(grid.others)}" if grid.others else ""
    axes.set_title(f"{grid.title}{note}", fontsize=style.BODY)
    if grid.in_file[0] in grid.rows and grid.in_file[1] in grid.columns:
        from matplotlib.patches import Rectangle

        y, x = grid.rows.index(grid.in_file[0]), grid.columns.index(grid.in_file[1])
        axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False, linewidth=2))
