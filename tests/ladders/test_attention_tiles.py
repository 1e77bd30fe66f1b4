"""Tiles without a visible pair are skipped, exactly: counted against the mask itself."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import simulator
from workbench import attention, masks, rungs
from workbench.masks import Mask

N, D = 512, 64


@dataclass(frozen=True)
class Tiles:
    """A rung's tiles for D = 64: queries by keys."""

    queries: int
    keys: int


TILES = {
    "warp_dot": Tiles(64, 32),
    "flash": Tiles(64, 32),
    "flash_registers": Tiles(128, 64),
    "flash_mma": Tiles(128, 64),
    "flash_mma_pipelined": Tiles(128, 64),
}
MASKS = {
    "full": masks.full(),
    "causal": masks.causal(),
    "causal from the front": masks.causal("none_front"),
    "window": masks.local(40),
    "narrow": masks.local(1),
    "stride beyond a tile": masks.local(2, log2_stride=8),
    "causal stride": masks.local(2, log2_stride=7, causal=True),
    "spread": masks.local(9, sync="scale_end"),
    "columns": masks.local(3, q_width=32, k_width=32),
    "narrow rows": masks.local(2, q_width=16, k_width=16),
}


def tiles_visited(rung: str, mask: Mask, nq: int, nk: int) -> float:
    """Tiles of K and V that a rung loads, from the bytes that it loads."""
    dtype = torch.float16 if "mma" in rung else torch.float32
    q, k = torch.zeros(nq, D, dtype=dtype), torch.zeros(nk, D, dtype=dtype)
    with simulator.record() as launches:
        attention(q, k, k, mask=mask, kernel=rung)
    (launch,) = launches
    copies = [n for form, n in launch.forms.items() if form.startswith("cp.async.cg")]
    loaded = 16 * 32 * sum(copies) or launch.global_load_bytes
    tile_bytes = 2 * TILES[rung].keys * D * dtype.itemsize
    return (loaded - q.numel() * dtype.itemsize) / tile_bytes


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("rung", TILES)
@pytest.mark.parametrize(("nq", "nk"), [(N, N), (N // 2, N), (N, N // 2)])
def test_tiles_are_visited_if_a_pair_is_visible(rung, mask, nq, nk):
    tiles = TILES[rung]
    options = {option for option, on in (
        (mask.sync, mask.sync != "none_end"), ("q_width", mask.q_width)) if on}  # fmt: skip
    (found,) = (one for one in rungs("attention") if one.name == rung)
    if not options <= set(found.options):
        with pytest.raises(RuntimeError, match="does not support"):
            tiles_visited(rung, mask, nq, nk)
        return
    visible = mask.visible(nq, nk)
    expected = masks.tiles_visited(visible, tiles.queries, tiles.keys)
    assert tiles_visited(rung, mask, nq, nk) == int(expected.sum())
