"""A ladder as bars: the time of each rung in the order of the table, beside the libraries'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.harness.figures import duration
from workbench.harness.results import Row
from workbench.plots import style
from workbench.plots.roofs import time_of

LOG_FROM = 8.0  # times as slow as the fastest: from there on the axis is logarithmic
_PAD = 4.0  # points, between a bar and its text
_THICK = 26.0  # points, of a bar at most


@dataclass(frozen=True)
class Bar:
    """A rung or a library.

    Attributes:
        name: its name.
        series: the bars that look alike: its dtype.
        time_ms: None if there is none.
        text: beside the bar: the limit; why there is no time.
        library: whether it is a library's.
    """

    name: str
    series: str
    time_ms: float | None
    text: str = ""
    library: bool = False


def bars(rows: Sequence[Row]) -> list[Bar]:
    """The bars of an operator's rows, by series, libraries last."""
    estimated = any(row.estimate for row in rows)
    found = [_bar(row, estimated) for row in rows]
    order = list(dict.fromkeys(bar.series for bar in found))
    return sorted(found, key=lambda bar: (order.index(bar.series), bar.library))


def _bar(row: Row, estimated: bool) -> Bar:
    time, text = time_of(row), ""
    if row.refused:
        text = "declines" if row.refused.startswith("declines") else "not run"
    elif not row.checked and not row.baseline:
        text, time = "WRONG", None
    elif time is None:
        text = "no time"
    elif row.estimate:
        text = row.estimate.limiter
    elif estimated:
        text = "measured"
    return Bar(
        style.short(row.kernel), row.dtype, None if row.refused else time, text, row.baseline
    )


def drawable(found: Sequence[Bar]) -> bool:
    """Whether a rung has a time."""
    return any(bar.time_ms and not bar.library for bar in found)


def lines(found: Sequence[Bar]) -> list[tuple[float, Bar | str]]:
    """What stands where, in lines from the top: bars, and above each of several series its name."""
    order = list(dict.fromkeys(bar.series for bar in found))
    shown: list[tuple[float, Bar | str]] = []
    for name in order:
        at = shown[-1][0] + 1.3 if shown else 0.0
        of_series: list[Bar | str] = [bar for bar in found if bar.series == name]
        head: list[Bar | str] = [name] if len(order) > 1 else []
        shown += [(at + i, line) for i, line in enumerate(head + of_series)]
    return shown


def names_width(figure: Any, found: Sequence[Bar]) -> float:
    """The width of the longest name, in pixels."""
    return max(style.text_size(figure, bar.name, style.BODY)[0] for bar in found)


def draw(axes: Any, found: Sequence[Bar], series: dict[str, tuple[str, str]], label: str) -> None:
    """Draw into axes whose size is final; the names go to their left.

    Args:
        axes: matplotlib's.
        found: at least one with a time.
        series: colour and marker of each, by ``roofline.series_of``.
        label: of the axis: what kind of time.
    """
    style.plain(axes)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    shown = lines(found)
    placed = [(at, line) for at, line in shown if isinstance(line, Bar)]
    axes.set_ylim(shown[-1][0] + 0.6, -0.6)
    scale = _Scale.of(axes, found)
    limits = any(bar.time_ms and bar.text for bar in found)
    label += " (logarithmic)" * scale.log + ", and what limits it" * limits
    axes.set_xlabel(label)
    axes.set_yticks([at for at, _ in placed], [bar.name for _, bar in placed])
    for text, (_, bar) in zip(axes.get_yticklabels(), placed, strict=True):
        text.set_color(style.MUTED if bar.library else style.INK)
    for at, line in shown:
        if isinstance(line, str):
            _head(axes, at, line, *series[line])
    best = {name: min(_times(found, name), default=None) for name in series}
    for at, bar in placed:
        if bar.time_ms:
            colour = series[bar.series][0]
            _draw_bar(axes, at, bar, colour, bar.time_ms == best[bar.series], scale.low)
        _write_beside(axes, at, bar, scale)
    for name in series:
        _draw_lines(axes, [(at, bar) for at, bar in placed if bar.series == name])


def _times(found: Sequence[Bar], series: str) -> list[float]:
    """The rungs' times."""
    return [b.time_ms for b in found if b.time_ms and b.series == series and not b.library]


def _draw_bar(axes: Any, place: float, bar: Bar, colour: str, best: bool, low: float) -> None:
    looks: dict[str, Any] = {"color": colour if best else style.lighter(colour)}
    if bar.library:
        looks = {"color": style.FAINT, "edgecolor": style.MUTED, "hatch": "////", "linewidth": 0.6}
    line = abs(axes.transData.transform((1, 1))[1] - axes.transData.transform((1, 0))[1])
    thick = min(0.68, _THICK * axes.figure.dpi / 72 / line)
    axes.barh([place], [(bar.time_ms or 0.0) - low], left=low, height=thick, zorder=2, **looks)


def _write_beside(axes: Any, place: float, bar: Bar, scale: _Scale) -> None:
    """The time, and in grey what there is to say about it."""
    time, more = _texts(bar)
    x = scale.pixel(bar.time_ms) if bar.time_ms else axes.get_window_extent().x0
    x = x / axes.figure.dpi + _PAD / 72
    y = axes.transData.transform((1.0, place))[1] / axes.figure.dpi
    box: dict[str, Any] = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 1.0}
    settings: dict[str, Any] = {"ha": "left", "zorder": 5, "bbox": box}
    if time:
        style.write(axes.figure, (x, y), time, style.SMALL, **settings)
        x += style.text_size(axes.figure, time, style.SMALL)[0] / axes.figure.dpi + _PAD / 72
    if more:
        colour = style.darker(style.COLOURS[1]) if more == "WRONG" else style.MUTED
        style.write(axes.figure, (x, y), more, style.SMALL, color=colour, **settings)


def _texts(bar: Bar) -> tuple[str, str]:
    return duration(bar.time_ms) if bar.time_ms else "", bar.text


def _head(axes: Any, place: float, name: str, colour: str, marker: str) -> None:
    """The line above a series: its name, with the marker of its dots."""
    edge = axes.get_window_extent().x0 / axes.figure.dpi
    y = axes.transData.transform((1.0, place))[1] / axes.figure.dpi
    from matplotlib.lines import Line2D

    settings: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6, "linestyle": ""}
    transform = axes.figure.dpi_scale_trans
    axes.figure.add_artist(Line2D([edge + 0.06], [y], transform=transform, **settings))
    look: dict[str, Any] = {"color": style.darker(colour), "ha": "left", "weight": "bold"}
    style.write(axes.figure, (edge + 0.16, y), name, **look)


def _draw_lines(axes: Any, placed: Sequence[tuple[float, Bar]]) -> None:
    """From each library's bar a line up through the rungs that it is compared with."""
    top = min((place for place, _ in placed), default=0) - 0.45
    for place, bar in placed:
        if bar.library and bar.time_ms:
            axes.plot([bar.time_ms] * 2, [top, place], zorder=3, **style.DASHED)


@dataclass(frozen=True)
class _Scale:
    """The axis of times, such that the text beside the longest bar fits."""

    axes: Any
    log: bool
    low: float
    high: float

    @classmethod
    def of(cls, axes: Any, found: Sequence[Bar]) -> _Scale:
        """Choose the axis for these bars, and set it."""
        times = [bar.time_ms for bar in found if bar.time_ms]
        log = max(times) > LOG_FROM * min(times)
        low = _below(min(times)) if log else 0.0
        at = math.log10 if log else float
        start = at(low) if log else 0.0
        width = axes.get_window_extent().width
        room = [(bar.time_ms, width - _room(axes.figure, bar)) for bar in found if bar.time_ms]
        end = max((at(time) - start) * width / free for time, free in room) + start
        scale = cls(axes, log, low, 10**end if log else end)
        scale.set()
        return scale

    def set(self) -> None:
        """Give the axes their limits and numbers."""
        self.axes.set_xscale("log" if self.log else "linear")
        self.axes.set_xlim(self.low, self.high)
        values = style.ticks(self.low, self.high, 5) if self.log else style.even_ticks(self.high)
        style.put_ticks(self.axes.xaxis, values, [duration(v) if v else "0" for v in values])

    def pixel(self, time_ms: float) -> float:
        """Where a bar of that time ends."""
        return self.axes.transData.transform((time_ms, 0))[0]


def _below(time: float) -> float:
    """Where a logarithmic axis begins: a round number that leaves some of the shortest bar."""
    decade = 10 ** math.floor(math.log10(time))
    return max(step * decade for step in (0.2, 0.5, 1.0, 2.0, 5.0) if step * decade <= time / 1.5)


def _room(figure: Any, bar: Bar) -> float:
    """The pixels that the texts beside a bar take."""
    pad = _PAD * figure.dpi / 72
    return sum(style.text_size(figure, t, style.SMALL)[0] + pad for t in _texts(bar) if t) + pad
