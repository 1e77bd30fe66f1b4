"""A mask as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.toolchain.errors import Failure

from .rules import Mask, sizes_of, tiles_visited
from .words import describe, summary

HIDDEN, VISIBLE, IN_VAIN, SKIPPED = range(4)  # what a cell of the picture shows
COLORS = ("#ffffff", "#0072b2", "#f6d9a0", "#d4d4d4")  # told apart by lightness, too
INK, GRID, ROW_LINE, TILE_LINE, CROSS = "#222222", "#cccccc", "#666666", "#000000", "#9a9a9a"
TITLE_SIZE, TEXT_SIZE, LINE = 16, 13, 22  # of letters, and from line to line
MARGIN, LARGEST_CELL, LARGEST_MASK = 14, 28, 900  # pixels
LEGEND = {
    VISIBLE: "visible: the query sees the key",
    IN_VAIN: "hidden, in a tile that is visited",
    SKIPPED: "hidden, in a tile that is skipped",
}


@dataclass(frozen=True)
class Layout:
    """Where the cells of a picture are, in pixels from its top left corner.

    Attributes:
        left: of the first key's column.
        top: of the first query's row.
        cell: width and height of a cell, lines included.
    """

    left: int
    top: int
    cell: int

    @classmethod
    def of(cls, mask: Mask, nq: int, nk: int) -> Layout:
        """The layout of a mask's picture."""
        two = bool(mask.q_width)
        return cls(
            left=MARGIN + LINE + 42 + two * 48,
            top=MARGIN + (4 + two) * LINE,
            cell=max(1, min(LARGEST_CELL, LARGEST_MASK // max(nq, nk))),
        )

    def centre(self, query: int, key: int) -> tuple[int, int]:
        """The pixel (x, y) in the middle of a pair's cell."""
        half = self.cell // 2
        return self.left + self.cell * key + half, self.top + self.cell * query + half


def draw(
    mask: Mask, nq: int, nk: int, path: Path | str, tiles: tuple[int, int] | None = None
) -> None:
    """Write the mask as a PNG: queries down, keys across, one cell for each pair.

    Args:
        mask: what to draw.
        nq: queries, at least 1.
        nk: keys, at least 1.
        path: the file, which ends in .png.
        tiles: queries and keys of a kernel's tile; draws the tiles and which of them are visited.

    Raises:
        ValueError: as for ``Mask.visible`` and ``tiles_visited``, another kind of file, or a mask
            without pairs.
        Failure: Pillow is not installed.
        OSError: the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"path: expected a file name that ends in .png, got {str(path)!r}")
    visible = mask.visible(nq, nk, "cpu")
    if not visible.numel():
        raise ValueError(f"nq, nk: expected at least one query and one key, got {nq} and {nk}")
    visited = None if tiles is None else tiles_visited(visible, *tiles)
    _Picture(mask, visible, tiles, visited).drawn().save(path, format="PNG")


class _Picture:
    """A picture while it is drawn."""

    def __init__(
        self,
        mask: Mask,
        visible: torch.Tensor,
        tiles: tuple[int, int] | None,
        visited: torch.Tensor | None,
    ) -> None:
        try:
            from PIL import Image, ImageDraw, ImageFont
        except ImportError:
            raise Failure("a picture of a mask needs Pillow: pip install pillow") from None
        self.pillow: Any = Image
        self.mask, self.visible, self.tiles, self.visited = mask, visible, tiles, visited
        self.nq, self.nk = visible.shape
        self.layout = Layout.of(mask, self.nq, self.nk)
        self.right = self.layout.left + self.layout.cell * self.nk
        self.bottom = self.layout.top + self.layout.cell * self.nq
        self.font: Any = ImageFont.load_default(TEXT_SIZE)
        self.title_font: Any = ImageFont.load_default(TITLE_SIZE)
        self.shown = (VISIBLE,) if tiles is None else (VISIBLE, IN_VAIN, SKIPPED)
        self.image: Any = Image.new("RGB", self._size(), "#ffffff")
        self.pen: Any = ImageDraw.Draw(self.image)

    def drawn(self) -> Any:
        """The picture, a PIL.Image.Image."""
        self._draw_cells()
        self._draw_lines()
        self._draw_titles()
        self._draw_numbers()
        self._draw_legend()
        return self.image

    def _size(self) -> tuple[int, int]:
        heading, counted = self._titles()
        lines = [counted, *("mm" + LEGEND[kind] for kind in self.shown)]
        wide = max(self.title_font.getlength(heading), *map(self.font.getlength, lines))
        right = max(self.right, self.layout.left + math.ceil(wide))
        return right + 2 * MARGIN, self.bottom + LINE * (len(self.shown) + 1)

    def _titles(self) -> tuple[str, str]:
        sizes = [
            " x ".join(map(str, sizes_of(letter, count, width)))
            for letter, count, width in (
                ("q", self.nq, self.mask.q_width),
                ("k", self.nk, self.mask.k_width),
            )
        ]
        heading = f"{describe(self.mask)}; queries: {sizes[0]}, keys: {sizes[1]}"
        return heading, summary(self.visible, self.tiles)

    def _draw_cells(self) -> None:
        kinds = self.visible.to(torch.uint8)  # HIDDEN, VISIBLE
        if self.visited is not None and self.tiles is not None:
            visited = self.visited.repeat_interleave(self.tiles[0], 0)[: self.nq]
            visited = visited.repeat_interleave(self.tiles[1], 1)[:, : self.nk]
            kinds[~visited] = SKIPPED
            kinds[visited & ~self.visible] = IN_VAIN
        pairs = self.pillow.frombytes("P", (self.nk, self.nq), kinds.numpy().tobytes())
        pairs.putpalette(b"".join(bytes.fromhex(color[1:]) for color in COLORS))
        cell = self.layout.cell
        pairs = pairs.resize((cell * self.nk, cell * self.nq), self.pillow.Resampling.NEAREST)
        self.image.paste(pairs.convert("RGB"), (self.layout.left, self.layout.top))

    def _draw_lines(self) -> None:
        wide = 2 if self.layout.cell >= 6 else 1
        if wide > 1:
            self._draw_grid(1, 1, GRID, 1)
        if self.mask.q_width:
            self._draw_grid(self.mask.q_width, self.mask.k_width, ROW_LINE, wide)
        if self.tiles is not None:
            self._cross_out_tiles(*self.tiles)
            self._draw_grid(*self.tiles, TILE_LINE, wide)
        box = (self.layout.left, self.layout.top, self.right, self.bottom)
        self.pen.rectangle(box, outline=INK, width=1 if self.tiles is None else wide)

    def _draw_grid(self, queries: int, keys: int, color: str, wide: int) -> None:
        """Lines after every so many queries and keys, unless they would cover the cells."""
        cell, left, top = self.layout.cell, self.layout.left, self.layout.top
        if cell * min(queries, keys) < 4 * wide:
            return
        for y in range(top, self.bottom, cell * queries):
            self.pen.line((left, y, self.right, y), color, wide)
        for x in range(left, self.right, cell * keys):
            self.pen.line((x, top, x, self.bottom), color, wide)

    def _cross_out_tiles(self, bm: int, bn: int) -> None:
        high, wide = self.layout.cell * bm, self.layout.cell * bn
        if self.visited is None or min(high, wide) < 12:
            return
        for row, column in (~self.visited).nonzero().tolist():
            x, y = self.layout.left + wide * column, self.layout.top + high * row
            self._cross_out(x, y, min(x + wide, self.right), min(y + high, self.bottom))

    def _cross_out(self, left: int, top: int, right: int, bottom: int) -> None:
        self.pen.line((left, top, right, bottom), CROSS)
        self.pen.line((left, bottom, right, top), CROSS)

    def _draw_titles(self) -> None:
        heading, counted = self._titles()
        left, top = self.layout.left, self.layout.top
        self.pen.text((left, MARGIN), heading, INK, self.title_font)
        self.pen.text((left, MARGIN + LINE), counted, INK, self.font)
        above = MARGIN + 2 * LINE + LINE // 2
        self.pen.text(((left + self.right) / 2, above), "keys", INK, self.font, "mm")
        word = self.pillow.new("RGB", (60, LINE), "#ffffff")
        type(self.pen)(word).text((30, LINE / 2), "queries", INK, self.font, "mm")
        middle = max((top + self.bottom) // 2, top + 30 - LINE)
        self.image.paste(word.rotate(90, expand=True), (MARGIN, middle - 30))

    def _draw_numbers(self) -> None:
        left, top = self.layout.left, self.layout.top
        q_width, k_width = self.mask.q_width, self.mask.k_width
        for at, number in self._numbers(self.nk, k_width, across=True):
            self.pen.text((left + at, top - 12), number, INK, self.font, "mm")
        for at, number in self._numbers(self.nq, q_width, across=False):
            self.pen.text((left - 8, top + at), number, INK, self.font, "rm")
        for at, number in self._row_numbers(self.nk, k_width, across=True):
            self.pen.text((left + at, top - 12 - LINE), number, INK, self.font, "mm")
        for at, number in self._row_numbers(self.nq, q_width, across=False):
            self.pen.text((left - 40, top + at), number, INK, self.font, "rm")

    def _numbers(self, count: int, width: int, across: bool) -> Iterator[tuple[float, str]]:
        """Positions, or columns if two of each row fit: where, in pixels, and which."""
        width = width or count
        step = self._step(self.layout.cell, str(width - 1), across)
        if step > width // 2 and step > 1 and width < count:
            return
        for index in range(count):
            if index % width % step == 0:
                yield self.layout.cell * (index + 0.5), str(index % width)

    def _row_numbers(self, count: int, width: int, across: bool) -> Iterator[tuple[float, str]]:
        """Rows of two-dimensional sequences: where their middle is, in pixels, and which."""
        if width:
            rows, size = count // width, self.layout.cell * width
            for row in range(0, rows, self._step(size, f"row {rows - 1}", across)):
                yield size * (row + 0.5), f"row {row}"

    def _step(self, size: int, longest: str, across: bool) -> int:
        """Which of the numbers, ``size`` pixels apart, fit: every 2nd, 4th, 8th ..."""
        needed = self.font.getlength(longest) + 8 if across else 2 * TEXT_SIZE
        return 1 << max(0, math.ceil(math.log2(needed / size)))

    def _draw_legend(self) -> None:
        x, side = self.layout.left, TEXT_SIZE
        for line, kind in enumerate(self.shown):
            y = self.bottom + LINE * line + LINE // 2
            self.pen.rectangle((x, y, x + side, y + side), COLORS[kind], INK)
            if kind == SKIPPED:
                self._cross_out(x, y, x + side, y + side)
            middle = y + side / 2
            self.pen.text((x + side + 8, middle), LEGEND[kind], INK, self.font, "lm")
