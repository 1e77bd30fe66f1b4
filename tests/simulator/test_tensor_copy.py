"""Copies of boxes of tensors: misuse."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import SimulatorError
from simulator.conformance.asynchronous import tensor
from simulator.conformance.tensor_copy_ops import PROGRAM, encoded
from simulator.conformance.tensor_maps import Map

# ---- Misuse --------------------------------------------------------------------------------------

TILE = Map("s32", (64, 8), (256,), (32, 4))


def launch(m: Map, form: int = 2, offset: int = 0, sizes: tuple[int, ...] | None = None) -> None:
    """Loads a box; sizes: of the tensor that the map is made for, larger than there is memory."""
    data = tensor(np.zeros(m.tensor_bytes, np.uint8), "cpu")
    claimed = Map(m.type, sizes or m.sizes, m.strides, m.box, swizzle=m.swizzle)
    out = tensor(np.zeros((2, 1024), np.uint8), "cpu")
    at = tensor(np.zeros(8, np.int32), "cpu")
    run = PROGRAM.module("simulator").load
    run(data, encoded(claimed, data, "cpu"), at, out, 1024, claimed.bytes, form, offset, 0)


def store_beyond() -> None:
    """Stores to a tensor that is 8 rows high, with a map that says 20."""
    m = Map("s32", (64, 8), (256,), (32, 16))
    data = tensor(np.zeros(m.tensor_bytes, np.uint8), "cpu")
    claimed = Map("s32", (64, 20), (256,), (32, 16))
    arguments = [tensor(np.zeros(n, d), "cpu") for n, d in ((8, np.int32), (2048, np.uint8))]
    run = PROGRAM.module("simulator").store
    run(encoded(claimed, data, "cpu"), *arguments, data, 2048, 2, 0)


def no_map() -> None:
    out = tensor(np.zeros((2, 1024), np.uint8), "cpu")
    zeros = tensor(np.zeros(128, np.uint8), "cpu")
    at = tensor(np.zeros(8, np.int32), "cpu")
    PROGRAM.module("simulator").load(zeros, zeros, at, out, 1024, 512, 2, 0, 0)


def local_map() -> None:
    data = tensor(np.zeros(64, np.uint8), "cpu")
    m = Map("u8", (64,), (), (64,))
    out, at = tensor(np.zeros((2, 64), np.uint8), "cpu"), tensor(np.zeros(8, np.int32), "cpu")
    PROGRAM.module("simulator").copied(encoded(m, data, "cpu"), at, out)


MISUSE = {
    "rank": (lambda: launch(TILE, form=3), "3-dimensional tiled tensor.*2-dimensional tiled one"),
    "mode": (lambda: launch(TILE, form=7), "4-dimensional im2col tensor"),
    "alignment": (lambda: launch(TILE, offset=64), "destination.*not a multiple of 128"),
    "destination": (lambda: launch(TILE, offset=640), r"destination.*\(512 bytes\) lies outside"),
    "no map": (no_map, "are no tensor map"),
    "map in local memory": (local_map, "tensor map lies neither(?s:.)*__grid_constant__"),
    "store": (store_beyond, "out-of-bounds write of 128 bytes.*past the end of 'out'"),
}


@pytest.mark.parametrize("which", MISUSE)
def test_misuse_is_reported(which: str):
    run, message = MISUSE[which]
    with pytest.raises(SimulatorError, match=message) as error:
        run()
    assert error.value.kind == "memcheck"
    assert error.value.thread == (0, 0, 0)
