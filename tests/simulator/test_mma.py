"""Counters of matrix products."""

from __future__ import annotations

import numpy as np
import pytest

import simulator
from simulator.conformance.mma_ops import CASES, LANES, PROGRAM, Mma


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_counted_operations(case: Mma):
    m, n, k = case.mnk
    _, a, b, c = case.fragments
    zeros = [np.zeros((f.rows, f.columns), dtype=np.uint64) for f in (a, b, c)]
    extra = [np.full((1, LANES), 0x44444444, dtype=np.uint64)] if case.sparse else []
    with simulator.record() as launches:
        case.run(PROGRAM.module("simulator"), *zeros, *extra)
    assert launches[0].flops == 2 * m * n * k * case.quads
