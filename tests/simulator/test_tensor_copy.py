"""Copies of tensor boxes: misuse."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import SimulatorError
from simulator.conformance.asynchronous import tensor
from simulator.conformance.tensor_copy_ops import LOAD_FORMS, PROGRAM, STORE_FORMS, encoded, numbers
from simulator.conformance.tensor_maps import Map

# ---- Misuse --------------------------------------------------------------------------------------

TILE = Map("s32", (64, 8), (256,), (32, 4))
THREE_DIMENSIONS = next(i for i, f in enumerate(LOAD_FORMS) if f.rank == 3)
IM2COL = next(i for i, f in enumerate(LOAD_FORMS) if f.rank == 4 and f.im2col)


def launch(
    m: Map, form: int | None = None, offset: int = 0, sizes: tuple[int, ...] | None = None
) -> None:
    """Loads a box; sizes: those of the map's tensor, larger than the allocation."""
    data = tensor(np.zeros(m.tensor_bytes, np.uint8), "cpu")
    out = tensor(np.zeros((2, 1024), np.uint8), "cpu")
    at = tensor(np.zeros(8, np.int32), "cpu")
    run = PROGRAM.module("simulator").load
    form = numbers(LOAD_FORMS, m)[0] if form is None else form
    run(data, encoded(m, data, "cpu"), at, out, 1024, m.bytes, form, offset, 0)


def store_beyond() -> None:
    """Stores to a tensor of 8 rows, with a map that says 20."""
    m = Map("s32", (64, 8), (256,), (32, 16))
    data = tensor(np.zeros(m.tensor_bytes, np.uint8), "cpu")
    claimed = Map("s32", (64, 20), (256,), (32, 16))
    arguments = [tensor(np.zeros(n, d), "cpu") for n, d in ((8, np.int32), (2048, np.uint8))]
    run = PROGRAM.module("simulator").store
    run(encoded(claimed, data, "cpu"), *arguments, data, 2048, numbers(STORE_FORMS, m)[0], 0)


def no_map() -> None:
    out = tensor(np.zeros((2, 1024), np.uint8), "cpu")
    zeros = tensor(np.zeros(128, np.uint8), "cpu")
    at = tensor(np.zeros(8, np.int32), "cpu")
    PROGRAM.module("simulator").load(
        zeros, zeros, at, out, 1024, 512, numbers(LOAD_FORMS, TILE)[0], 0, 0
    )


def local_map() -> None:
    data = tensor(np.zeros(64, np.uint8), "cpu")
    m = Map("u8", (64,), (), (64,))
    out, at = tensor(np.zeros((2, 64), np.uint8), "cpu"), tensor(np.zeros(8, np.int32), "cpu")
    PROGRAM.module("simulator").copied(encoded(m, data, "cpu"), at, out)


MISUSE = {
    "rank": (
        lambda: launch(TILE, THREE_DIMENSIONS),
        "3-dimensional tiled .* a 2-dimensional",
    ),
    "mode": (lambda: launch(TILE, IM2COL), "4-dimensional im2col tensor"),
    "alignment": (lambda: launch(TILE, offset=64), "destination.*not a multiple of 128"),
    "destination": (lambda: launch(TILE, offset=640), r"destination.*\(512 bytes\) is outside"),
    "no map": (no_map, "are not a tensor map"),
    "map in local memory": (local_map, "tensor map is neither(?s:.)*__grid_constant__"),
    "store": (store_beyond, "out-of-bounds write of 128 bytes.*past the end of 'out'"),
}


@pytest.mark.parametrize("which", MISUSE)
def test_misuse_is_reported(which: str):
    run, message = MISUSE[which]
    with pytest.raises(SimulatorError, match=message) as error:
        run()
    assert error.value.kind == "memcheck"
    assert error.value.thread == (0, 0, 0)
