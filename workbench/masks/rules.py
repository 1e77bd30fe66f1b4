"""The rules: where a position is, and which query sees which key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

SYNCS = ("none_end", "none_front", "scale_front", "scale_end")
MOST_STRIDE = 30  # log2_stride
MOST_REACH = 2**31 - 1  # window * 2**log2_stride


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
        sizes = zip(sizes_of("q", nq, self.q_width), sizes_of("k", nk, self.k_width), strict=True)
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


def sizes_of(letter: str, count: int, width: int) -> tuple[int, ...]:
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
