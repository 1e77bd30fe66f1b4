"""Masks as text, and in words."""

from __future__ import annotations

import torch

from .rules import Mask, tiles_visited


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
