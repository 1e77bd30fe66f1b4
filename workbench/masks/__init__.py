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

from .picture import draw
from .rules import MOST_REACH, MOST_STRIDE, SYNCS, Mask, causal, full, local, place, tiles_visited
from .words import describe, summary, text

__all__ = [
    "MOST_REACH",
    "MOST_STRIDE",
    "SYNCS",
    "Mask",
    "causal",
    "describe",
    "draw",
    "full",
    "local",
    "place",
    "summary",
    "text",
    "tiles_visited",
]
