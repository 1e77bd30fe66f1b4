"""A sheet of white paper on which boxes, lines and words become a plain-text SVG.

Colors are those of Okabe and Ito, made for readers who tell few colors apart; every box also has a
name. The background is white, also where the page around it is dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

INK, PALE, LINE = "#222222", "#666666", "#888888"
FILLS = {  # what a box holds: its color and that of its border
    "Q": ("#cfe4f3", "#0072b2"),
    "K": ("#fbe3b3", "#a86f00"),
    "V": ("#c5e8dc", "#00775a"),
    "S": ("#efd3e2", "#a3487f"),
    "O": ("#f6cdb5", "#b34a00"),
    "sums": ("#e4e4e4", "#555555"),
    "plain": ("#ffffff", "#888888"),
    "part": ("#f7f7f7", "#cccccc"),
}
WIDE, WIDE_MONO = 0.62, 0.605  # of a letter, as a share of its size: those of a wide font
STYLE = "text{font:13px sans-serif;fill:#222}.m{font-family:monospace}.b{font-weight:bold}"

Point = tuple[float, float]


@dataclass(frozen=True)
class Words:
    """A piece of text and the box that it is in, in pixels from the top left."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Words) -> bool:
        """Whether the two cover each other."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass
class Canvas:
    """A picture while it is drawn.

    Attributes:
        width: pixels.
        height: pixels.
        title: what it shows, for readers who do not see it.
        parts: its elements.
        words: every piece of text, and where it is.
    """

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        kind: str = "plain",
        words: str = "",
        **style: Any,
    ) -> None:
        """A rectangle, kind one of FILLS or a color, with words in its middle: ``text``'s style."""
        fill, edge = FILLS.get(kind, (kind, "none"))
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" '
            f'stroke="{edge}"/>'
        )
        if words:
            self.text(x + width / 2, y + height / 2, words, anchor="middle", **style)

    def frame(
        self, x: float, y: float, width: float, height: float, color: str, thick: float = 1
    ) -> None:
        """The outline of a rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" '
            f'stroke="{color}" stroke-width="{thick:g}"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        anchor: str = "start",
        color: str = INK,
        mono: bool = False,
        bold: bool = False,
    ) -> None:
        """Words whose middle line is at height y."""
        wide = len(words) * size * (WIDE_MONO if mono else WIDE)
        left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        self.words.append(Words(words, left, y - 0.55 * size, left + wide, y + 0.55 * size))
        classes = " ".join(name for name, on in (("m", mono), ("b", bold)) if on)
        marks = f' class="{classes}"' if classes else ""
        marks += "" if anchor == "start" else f' text-anchor="{anchor}"'
        style = "" if size == 13 else f"font-size:{size:g}px;"
        style += "" if color == INK else f"fill:{color};"
        marks += f' style="{style.rstrip(";")}"' if style else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y + 0.36 * size:g}"{marks}>{html.escape(words)}</text>'
        )

    def line(
        self,
        points: Sequence[Point],
        color: str = LINE,
        thick: float = 1.5,
        *,
        arrow: bool = False,
        dashed: bool = False,
    ) -> None:
        """A line through points; with an arrow at its end."""
        if arrow:
            points = [*points[:-1], self._tip(points[-2], points[-1], color)]
        way = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<polyline points="{way}" fill="none" stroke="{color}" '
            f'stroke-width="{thick:g}"{dash}/>'
        )

    def _tip(self, start: Point, end: Point, color: str) -> Point:
        """Draw the tip of an arrow; where its line ends."""
        length = math.dist(start, end)
        ux, uy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
        x, y = end[0] - 8 * ux, end[1] - 8 * uy
        corners = (end, (x - 4 * uy, y + 4 * ux), (x + 4 * uy, y - 4 * ux))
        way = " ".join(f"{round(a, 2):g},{round(b, 2):g}" for a, b in corners)
        self.parts.append(f'<polygon points="{way}" fill="{color}"/>')
        return round(x, 2), round(y, 2)

    def svg(self) -> str:
        """The picture's text."""
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}">',
            f"<title>{html.escape(self.title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect width="{self.width}" height="{self.height}" fill="#fff"/>',
            *self.parts,
            "</svg>\n",
        ])  # fmt: skip
