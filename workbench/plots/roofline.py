"""Draws a roofline: roofs, dots, and a name for each that covers no other."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from workbench.harness.figures import number
from workbench.plots import style
from workbench.plots.labels import GAP, Box, Point, Segment, clusters, place
from workbench.plots.roofs import Roof, Roofline

DOT = 6.5  # points, their diameter
_LINE = 34  # characters, of the names of dots that look like one
_ROOM = 1.6  # beyond the outermost dots and roofs, as a factor


def series_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by series, in order of appearance."""
    styles = zip(style.COLOURS, style.MARKERS, strict=True)
    return dict(zip(dict.fromkeys(names), styles, strict=False))


def legend(axes: Any, series: dict[str, tuple[str, str]]) -> None:
    """Name the series above the axes; a figure whose ladder does so needs none."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=colour, marker=marker, markersize=DOT, linestyle="", label=name)
        for name, (colour, marker) in series.items()
    ]
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.0}
    axes.legend(handles=marks, ncols=len(marks), frameon=False, handletextpad=0.1, **place)


def draw(axes: Any, what: Roofline, series: dict[str, tuple[str, str]]) -> int:
    """Draw into axes whose size is final; return how many names found no room.

    series: colour and marker of each, by ``series_of``.
    """
    style.plain(axes)
    xs, ys = _limits(axes, what)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*xs)
    axes.set_ylim(*ys)
    for axis, ends in ((axes.xaxis, xs), (axes.yaxis, ys)):
        values = style.ticks(*ends)
        style.put_ticks(axis, values, [f"{value:g}" for value in values])
    _say(axes, what)
    lines = [line for path in _paths(what, xs) for line in pairwise(path)]
    for path in _paths(what, xs):
        axes.plot(*zip(*path, strict=True), color=style.MUTED, linewidth=1.6, zorder=2)
    for _, rate in what.lines:
        axes.axhline(rate, zorder=2, **style.DASHED)
        lines.append(((xs[0], rate), (xs[1], rate)))
    for dot in what.dots:
        colour, marker = series[dot.series]
        edge = {"markeredgecolor": style.PAPER, "markeredgewidth": 0.7}
        axes.plot([dot.x], [dot.y], marker, color=colour, markersize=DOT, zorder=4, **edge)
    return _name(axes, what, series, lines)


def _say(axes: Any, what: Roofline) -> None:
    """Name the axes."""
    how = ", estimated" if what.estimated else ", measured"
    if what.of_bytes:
        axes.set_xlabel("bytes moved between L2 and the multiprocessors, per ideal byte")
        title = f"GB/s of the ideal bytes{how}"
    else:
        axes.set_xlabel("FLOP per byte moved between L2 and the multiprocessors")
        title = f"TFLOP/s{how}"
    axes.set_title(title, loc="left", fontsize=style.BODY, color=style.MUTED)


def _limits(axes: Any, what: Roofline) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of the axes: all dots and roofs, with room for names to their right and above."""
    xs = [dot.x for dot in what.dots]
    for roof in what.roofs:  # where the sloping one meets the highest of the others, if near
        if roof.slope:
            knee = (what.ceiling / roof.peak) ** (1 / roof.slope)
            xs += [knee] if 0.2 * min(xs) < knee < 5 * max(xs) else []
    left = min(xs) / max(_ROOM, (max(xs) / min(xs)) ** 0.1)
    right, width = max(xs) * _ROOM, axes.get_window_extent().width
    for dot in what.dots:
        name = style.text_size(axes.figure, dot.name, style.SMALL)[0] + 4 * DOT
        right = max(right, left * (dot.x / left) ** (1 / max(0.4, 1 - name / width)))
    ys = [dot.y for dot in what.dots] + [rate for _, rate in what.lines]
    low, high = min(ys), max(what.ceiling, *ys)
    return (left, right), (low / _ROOM, high * max(_ROOM, (high / low) ** 0.1))


def _paths(what: Roofline, xs: tuple[float, float]) -> list[list[Point]]:
    """Each flat roof, up to where a sloping one is lower."""
    flat = [roof for roof in what.roofs if not roof.slope]
    slope = next((roof for roof in what.roofs if roof.slope), None)
    if slope is None:
        return [[(xs[0], roof.peak), (xs[1], roof.peak)] for roof in flat]
    paths = []
    for roof in flat:
        knee = (roof.peak / slope.peak) ** (1 / slope.slope)
        knee = min(max(knee, xs[0]), xs[1])
        low, high = (xs[0], xs[1])
        sloping, level = (low, high) if slope.slope > 0 else (high, low)
        path = [(sloping, slope.at(sloping)), (knee, min(roof.peak, slope.at(knee)))]
        paths.append([*path, (level, min(roof.peak, slope.at(level)))])
    return paths


def _name(
    axes: Any, what: Roofline, series: dict[str, tuple[str, str]], lines: Sequence[Segment]
) -> int:
    """Name roofs, lines and dots; return how many dots have no name, for want of room."""
    figure = axes.figure
    to_pixels = axes.transData.transform
    frame = axes.get_window_extent()
    inside = Box(frame.x0, frame.y0, frame.x1, frame.y1).grown(-4)
    drawn = [(tuple(to_pixels(start)), tuple(to_pixels(end))) for start, end in lines]
    radius = DOT / 2 * figure.dpi / 72
    named = _names(what, to_pixels, radius)
    dots = [at for _, _, at in named]
    marks = [Box(*dot, *dot).grown(radius + 1) for dot in dots]
    taken = _name_roofs(axes, what, marks, inside, drawn)
    sizes = [style.text_size(figure, text, style.SMALL) for text, _, _ in named]
    lost = 0
    for (text, dtype, at), box in zip(
        named, place(dots, radius, sizes, inside, taken, drawn), strict=True
    ):
        if box is None:
            lost += 1 + text.count(",")
            continue
        colour = style.darker(series[dtype][0])
        _write(figure, box, text, colour)
        _lead(figure, at, box, radius, colour)
    return lost


def _names(
    what: Roofline, to_pixels: Callable[[Point], Any], radius: float
) -> list[tuple[str, str, Point]]:
    """What to write next to which place, and the series: dots that look like one share a text."""
    found = []
    for name in dict.fromkeys(dot.series for dot in what.dots):
        dots = [dot for dot in what.dots if dot.series == name]
        places = [tuple(to_pixels((dot.x, dot.y))) for dot in dots]
        for some in clusters(places, radius / 2):
            text = ", ".join(dots[i].name for i in some)
            found.append((_in_lines(text), name, places[some[0]]))
    return found


def _in_lines(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _LINE, break_long_words=False, break_on_hyphens=False))


def _lead(figure: Any, dot: Point, box: Box, radius: float, colour: str) -> None:
    """Join a dot with its name, unless they are next to each other."""
    from matplotlib.lines import Line2D

    x, y = box.nearest(dot)
    if abs(x - dot[0]) + abs(y - dot[1]) > radius + 1.5 * GAP:
        ends = [[dot[0] / figure.dpi, x / figure.dpi], [dot[1] / figure.dpi, y / figure.dpi]]
        settings: dict[str, Any] = {"color": colour, "linewidth": 0.6, "alpha": 0.7, "zorder": 3}
        figure.add_artist(Line2D(*ends, transform=figure.dpi_scale_trans, **settings))


def _write(figure: Any, box: Box, text: str, colour: str) -> None:
    middle = ((box.left + box.right) / 2 / figure.dpi, (box.bottom + box.top) / 2 / figure.dpi)
    style.write(figure, middle, text, style.SMALL, color=colour)


def _name_roofs(
    axes: Any, what: Roofline, dots: Sequence[Box], inside: Box, lines: Sequence[Segment]
) -> list[Box]:
    """Write the names of roofs and lines where they cover nothing; return what they cover."""
    found: list[Box] = []
    named = [(roof, _rate_text(roof, what.of_bytes)) for roof in what.roofs]
    named += [
        (roof, _rate_text(roof, what.of_bytes)) for roof in (Roof(*line) for line in what.lines)
    ]
    for roof, text in named:
        size = style.text_size(axes.figure, text, style.SMALL)
        places = [
            box
            for box in _along(axes, roof, size, inside, what)
            if not any(box.overlaps(other) for other in (*found, *dots))
        ]
        clear = (box for box in places if not any(box.meets(line) for line in lines))
        box = next(clear, places[0] if places else None)
        if box is not None:
            found.append(box)
            _write(axes.figure, box, text, style.MUTED)
    return found


def _rate_text(roof: Roof, of_bytes: bool) -> str:
    if roof.slope:
        return f"{roof.name}: {number(roof.peak if not of_bytes else roof.peak / 1e3)} TB/s"
    return f"{roof.name}: {number(roof.peak)} {'GB/s' if of_bytes else 'TFLOP/s'}"


def _along(
    axes: Any, roof: Roof, size: tuple[float, float], inside: Box, what: Roofline
) -> Iterator[Box]:
    """Places for a roof's name: above it, from its outer end inwards; then below."""
    width, height = size
    to_pixels, to_data = axes.transData.transform, axes.transData.inverted().transform
    slopes = [one.slope for one in what.roofs if one.slope]
    # Flat roofs are drawn where the sloping one is higher; their names begin at the other end.
    from_left = roof.slope > 0 or (not roof.slope and slopes[:1] == [-1])
    for above in (True, False):
        for step in range(int(inside.right - inside.left - width) // 8):
            left = inside.left + 8 * step if from_left else inside.right - width - 8 * step
            lower = left if (roof.slope > 0) != above else left + width  # the critical corner
            y = to_pixels((1, roof.at(to_data((lower, 0))[0])))[1]
            bottom = y + GAP if above else y - GAP - height
            box = Box(left, bottom, left + width, bottom + height)
            if box.inside(inside):
                yield box
