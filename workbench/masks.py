"""Attention masks as rules: which query sees which key, as a tensor, as text, as a picture.

``python -m workbench.masks full|causal|local`` prints one. For example, a causal mask of 6 queries
and 3 keys, and the tiles that a kernel visits in a mask of a 4 x 8 image:

    python -m workbench.masks causal --queries 6 --keys 3
    python -m workbench.masks local --window 3 --queries 4x8 --tiles 8,8 --draw local.png

The rules are those of github.com/nothingstopsme/tf_flash_attention, with ``none_end`` in addition.
Each query and each key has a place in every dimension of its sequence (``place``), and a mask
compares places. A window of W has 2W - 1 places per dimension, the query's own in the middle; the
picture in that project's README calls this a window of W - 1.
"""

from __future__ import annotations

# isort: off
if __name__ == "__main__":
    import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing
# isort: on

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SYNCS = ("none_end", "none_front", "scale_front", "scale_end")
MOST_STRIDE = 30  # log2_stride
MOST_REACH = 2**31 - 1  # window * 2**log2_stride
SHOWN = 4096  # most queries and most keys on the command line

# ------------------------------------------------------------------------------------------------
# Rules


def place(sync: str, length: int, other: int) -> tuple[int, int]:
    """The places of a tensor's positions in one dimension: position i is at offset + step * i.

    With L the longer of the two lengths, and step = L // length where the name has scale, else 1:

        none_front   i                     the first query and the first key share a place
        none_end     i + L - length        the last ones do; PyTorch calls this lower right
        scale_front  step * i              spread over L
        scale_end    step * (i + 1) - 1    spread over L, each at the end of its part

    Args:
        sync: one of ``SYNCS``.
        length: of this tensor in this dimension; with 0 there is no position and no error.
        other: of the other tensor, the keys for the queries and the queries for the keys.

    Returns:
        (offset, step).

    Raises:
        ValueError: an unknown ``sync`` or a negative length.
    """
    _check_sync(sync)
    _check_length("length", length)
    _check_length("other", other)
    longer = max(length, other)
    if sync == "none_front":
        return 0, 1
    if sync == "none_end":
        return longer - length, 1
    step = longer // length if length else 1
    return (0 if sync == "scale_front" else step - 1), step


@dataclass(frozen=True)
class Mask:
    """Which keys a query sees: all those that no rule hides. The default hides none.

    Places are those of ``place``. A two-dimensional sequence is stored row by row: position i is
    in row i // width and column i % width, and has a place among the rows and one among the
    columns.

    Attributes:
        causal: hide the keys whose place comes after the query's; in two dimensions, places are
            compared by row, and within a row by column.
        window: W >= 1 hides the keys for which delta // 2**log2_stride >= W in any dimension,
            where delta is the distance of the two places; 0 has no such rule.
        log2_stride: also hides the keys for which delta is no multiple of 2**log2_stride.
        sync: how queries and keys of different lengths are aligned, one of ``SYNCS``.
        q_width: columns of a two-dimensional sequence of queries; 0 for one dimension.
        k_width: the same for the keys; both or neither are 0.

    Raises:
        ValueError: naming the attribute, what was expected and what was given.
    """

    causal: bool = False
    window: int = 0
    log2_stride: int = 0
    sync: str = SYNCS[0]
    q_width: int = 0
    k_width: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.causal, bool):
            raise ValueError(f"causal: expected True or False, got {self.causal!r}")
        _check_whole("window", self.window)
        _check_whole("log2_stride", self.log2_stride, MOST_STRIDE)
        if self.log2_stride and not self.window:
            raise ValueError(
                f"log2_stride: expected 0 where there is no window, got {self.log2_stride}"
            )
        if self.window << self.log2_stride > MOST_REACH:
            raise ValueError(
                f"window: expected window * 2**log2_stride to be at most {MOST_REACH}, "
                f"got {self.window} * 2**{self.log2_stride}"
            )
        _check_sync(self.sync)
        _check_whole("q_width", self.q_width)
        _check_whole("k_width", self.k_width)
        if bool(self.q_width) != bool(self.k_width):
            none, given = ("k_width", "q_width") if self.q_width else ("q_width", "k_width")
            raise ValueError(
                f"{none}: expected a number of columns, because {given} is "
                f"{getattr(self, given)}, got 0"
            )

    def visible(
        self,
        nq: int,
        nk: int,
        device: torch.device | str | None = None,
        queries: slice = slice(None),
    ) -> torch.Tensor:
        """The mask as a tensor: bool [nq, nk], True where the query sees the key.

        Args:
            nq: queries, a multiple of ``q_width`` in two dimensions.
            nk: keys, a multiple of ``k_width`` in two dimensions.
            device: of the result; None takes PyTorch's default.
            queries: only the rows of these, where all of them would take too much memory.

        Raises:
            ValueError: a negative number, or one that is no such multiple.
        """
        places = [(q[queries], k) for q, k in self._places(nq, nk, device)]
        seen = torch.ones(len(places[0][0]), nk, dtype=torch.bool, device=device)
        if self.window:
            for q, k in places:
                delta = (q - k).abs()
                seen &= delta >> self.log2_stride < self.window
                seen &= delta & ((1 << self.log2_stride) - 1) == 0
        if self.causal:
            not_after = torch.ones_like(seen)
            for q, k in reversed(places):
                not_after = (q > k) | ((q == k) & not_after)
            seen &= not_after
        return seen

    def _places(
        self, nq: int, nk: int, device: torch.device | str | None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The places of queries [nq, 1] and keys [1, nk] in every dimension, rows first."""
        sizes = zip(_sizes("q", nq, self.q_width), _sizes("k", nk, self.k_width), strict=True)
        at_q = _positions(nq, self.q_width, device)
        at_k = _positions(nk, self.k_width, device)
        found = []
        for (q_size, k_size), q, k in zip(sizes, at_q, at_k, strict=True):
            q_offset, q_step = place(self.sync, q_size, k_size)
            k_offset, k_step = place(self.sync, k_size, q_size)
            found.append(((q_offset + q_step * q)[:, None], (k_offset + k_step * k)[None, :]))
        return found


def _check_whole(name: str, value: Any, high: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < 0 or (high is not None and value > high):
        most = "" if high is None else f" to {high}"
        raise ValueError(f"{name}: expected a whole number from 0{most or ' up'}, got {value!r}")


def _check_length(name: str, length: int) -> None:
    if length < 0:
        raise ValueError(f"{name}: expected at least 0, got {length}")


def _check_sync(sync: str) -> None:
    if sync not in SYNCS:
        raise ValueError(f"sync: expected one of {', '.join(SYNCS)}, got {sync!r}")


def _sizes(letter: str, count: int, width: int) -> tuple[int, ...]:
    """The lengths of a sequence in its dimensions."""
    _check_length(f"n{letter}", count)
    if width and count % width:
        raise ValueError(f"n{letter}: expected a multiple of {letter}_width = {width}, got {count}")
    return (count // width, width) if width else (count,)


def _positions(
    count: int, width: int, device: torch.device | str | None
) -> tuple[torch.Tensor, ...]:
    """Where each element of a sequence is in its dimensions: int64 [count] each."""
    index = torch.arange(count, device=device)
    return (index // width, index % width) if width else (index,)


def full() -> Mask:
    """The mask with which every query sees every key."""
    return Mask()


def causal(sync: str = SYNCS[0], q_width: int = 0, k_width: int = 0) -> Mask:
    """The mask that hides the keys whose place comes after the query's; arguments as in Mask."""
    return Mask(causal=True, sync=sync, q_width=q_width, k_width=k_width)


def local(
    window: int,
    log2_stride: int = 0,
    causal: bool = False,
    sync: str = SYNCS[0],
    q_width: int = 0,
    k_width: int = 0,
) -> Mask:
    """The mask that hides keys outside a window; arguments as in Mask, but window is at least 1."""
    if window == 0:
        raise ValueError("window: expected at least 1, got 0; full() and causal() have no window")
    return Mask(causal, window, log2_stride, sync, q_width, k_width)


def tiles_visited(visible: torch.Tensor, bm: int, bn: int) -> torch.Tensor:
    """The tiles of bm queries x bn keys that a kernel has to visit: those with a visible pair.

    Args:
        visible: bool [nq, nk], as ``Mask.visible`` returns it.
        bm: queries of a tile, at least 1; the last tile may have fewer.
        bn: keys of a tile, likewise.

    Returns:
        bool [ceil(nq / bm), ceil(nk / bn)].

    Raises:
        ValueError: a tile without a query or a key.
    """
    for name, size in (("bm", bm), ("bn", bn)):
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")
    nq, nk = visible.shape
    padded = torch.nn.functional.pad(visible, (0, -nk % bn, 0, -nq % bm))
    return padded.unflatten(1, (-1, bn)).unflatten(0, (-1, bm)).any(3).any(1)


# ------------------------------------------------------------------------------------------------
# Text


def text(mask: Mask, nq: int, nk: int, symbols: str = "01") -> str:
    """The mask as text: a line for each query, with a character for each key.

    Args:
        mask: what to show; where it has two dimensions, ``|`` separates the rows of keys.
        nq: queries.
        nk: keys.
        symbols: for a hidden key and for a visible one.

    Raises:
        ValueError: as for ``Mask.visible``, or other than two symbols.
    """
    if len(symbols) != 2:
        raise ValueError(f"symbols: expected two characters, got {symbols!r}")
    width = mask.k_width or max(nk, 1)
    rows = mask.visible(nq, nk, "cpu").split(width, dim=1)
    parts = [[_line(query, symbols) for query in part.tolist()] for part in rows]
    return "\n".join("|".join(query) for query in zip(*parts, strict=True))


def _line(query: list[bool], symbols: str) -> str:
    return "".join(symbols[seen] for seen in query)


def describe(mask: Mask) -> str:
    """The rules in words: ``local, window 2, stride 4, causal, none_end``."""
    if not mask.window and not mask.causal:
        return "full"
    words = [f"local, window {mask.window}"] if mask.window else []
    words += [f"stride {2**mask.log2_stride}"] if mask.log2_stride else []
    words += ["causal"] if mask.causal else []
    return ", ".join([*words, mask.sync])


def summary(visible: torch.Tensor, tiles: tuple[int, int] | None = None) -> str:
    """How much is visible: ``36 of 64 pairs visible, 3 of 4 tiles (4 x 4) visited``.

    Args:
        visible: bool [nq, nk].
        tiles: queries and keys of a tile; None leaves tiles out.
    """
    words = f"{int(visible.sum())} of {visible.numel()} pairs visible"
    if tiles is None:
        return words
    visited = tiles_visited(visible, *tiles)
    size = "{} x {}".format(*tiles)
    return f"{words}, {int(visited.sum())} of {visited.numel()} tiles ({size}) visited"


# ------------------------------------------------------------------------------------------------
# Picture

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
            from workbench.toolchain.errors import Failure

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
            " x ".join(map(str, _sizes(letter, count, width)))
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


# ------------------------------------------------------------------------------------------------
# Command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the mask that the arguments describe, and draw it; return the exit status."""
    from workbench.toolchain.errors import UsageError

    asked = _parser().parse_args(arguments)
    queries = asked.queries or asked.keys or (8,)
    keys = asked.keys or queries
    nq, nk = math.prod(queries), math.prod(keys)
    try:
        mask = _mask(asked, queries, keys)
        if asked.draw:
            draw(mask, nq, nk, asked.draw, asked.tiles)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print(text(mask, nq, nk, "·█" if asked.blocks else "01"))
    print(f"{describe(mask)}: {summary(mask.visible(nq, nk), asked.tiles)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    from workbench.toolchain import command

    made = command.Parser(
        prog="python -m workbench.masks",
        description="Print an attention mask: a line for each query, 1 for each key that it sees.",
    )
    made.add_argument(
        "kind",
        choices=("full", "causal", "local"),
        help="all keys; those not after the query; those near the query",
    )
    sizes = {
        "--queries": "how many, or rows x columns; default: as for the keys, or 8",
        "--keys": "how many, or rows x columns; default: as for the queries",
    }
    for flag, words in sizes.items():
        made.add_argument(flag, type=_lengths, metavar="N|RxC", help=words)
    made.add_argument(
        "--window",
        type=command.Whole(1),
        metavar="W",
        help="local: keys less than W places away, so 2 W - 1 of them; default: 2",
    )
    made.add_argument(
        "--log2-stride",
        type=command.Whole(0, MOST_STRIDE),
        metavar="S",
        help="local: only keys a multiple of 2**S places away, still 2 W - 1 of them; default: 0",
    )
    made.add_argument("--causal", action="store_true", help="local: hide later keys, too")
    made.add_argument(
        "--sync", choices=SYNCS, help=f"how unequal lengths are aligned; default: {SYNCS[0]}"
    )
    tiles = "count the tiles of BM queries x BN keys that a kernel has to visit"
    made.add_argument("--tiles", type=_tiles, metavar="BM,BN", help=tiles)
    made.add_argument("--blocks", action="store_true", help="print █ and · instead of 1 and 0")
    made.add_argument(
        "--draw", type=command.output, metavar="FILE.png", help="also draw the mask (needs Pillow)"
    )
    return made


def _mask(asked: argparse.Namespace, queries: Sequence[int], keys: Sequence[int]) -> Mask:
    """The mask that was asked for. ValueError if the arguments do not go together."""
    kind = asked.kind
    local_only = {
        "--window": asked.window,
        "--log2-stride": asked.log2_stride,
        "--causal": asked.causal or None,
    }
    unused = [flag for flag, value in local_only.items() if value is not None and kind != "local"]
    unused += ["--sync"] if asked.sync and kind == "full" else []
    if unused:
        raise ValueError(f"{unused[0]}: a {kind} mask does not support it")
    if len(queries) != len(keys):
        few, many = sorted((("--queries", queries), ("--keys", keys)), key=lambda one: len(one[1]))
        shown = "x".join(map(str, many[1]))
        raise ValueError(f"{few[0]}: expected RxC, because {many[0]} is {shown}, got {few[1][0]}")
    sync = asked.sync or SYNCS[0]
    widths = (queries[1], keys[1]) if len(queries) == 2 else (0, 0)
    if kind == "full":
        return Mask(q_width=widths[0], k_width=widths[1])
    if kind == "causal":
        return causal(sync, *widths)
    return local(asked.window or 2, asked.log2_stride or 0, asked.causal, sync, *widths)


def _lengths(word: str) -> tuple[int, ...]:
    sizes = _whole_numbers(word, "x")
    if len(sizes) not in (1, 2) or not 0 < math.prod(sizes) <= SHOWN:
        raise argparse.ArgumentTypeError(
            f"{word!r} is not N or RxC, from 1 to {SHOWN} positions in all"
        )
    return sizes


def _tiles(word: str) -> tuple[int, ...]:
    sizes = _whole_numbers(word, ",")
    if len(sizes) != 2 or not all(0 < size <= SHOWN for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{word!r} is not BM,BN, two whole numbers from 1 to {SHOWN}"
        )
    return sizes


def _whole_numbers(word: str, separator: str) -> tuple[int, ...]:
    """The numbers in a word; none if anything else is in it."""
    parts = word.split(separator)
    if not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        return ()
    return tuple(int(part) for part in parts)


if __name__ == "__main__":
    from workbench.toolchain import command

    command.run(main)
