"""cp.async: misuse."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import SimulatorError
from simulator.conformance.async_copy_ops import FORMS, SINGLE, operands
from simulator.conformance.asynchronous import tensor

# launcher, what one thread does wrong, and the report.
MISUSE = {
    "source misaligned": ("ca8", 4, 8, "misaligned read of 8 bytes"),
    "part of the source misaligned": ("sized8", 4, 3, "source of cp.async is misaligned"),
    "source outside": ("cg16", 4096, 16, "out-of-bounds read of 16 bytes.*just past the end of"),
    "part of the source outside": ("sized16", 4096, 5, "out-of-bounds read of 5 bytes"),
    "source larger than the copy": ("sized16", 0, 17, "16 bytes with a source of 17"),
}


@pytest.mark.parametrize("which", MISUSE)
def test_misuse_is_reported(which: str):
    launcher, start, size, message = MISUSE[which]
    data, starts, sizes, run = operands(launcher, 0)
    starts[7], sizes[7] = start, size
    out = np.zeros((2, 64, FORMS[launcher][0]), np.uint8)
    arguments = [tensor(a, "cpu") for a in (data, starts, sizes, run, out)]
    with pytest.raises(SimulatorError, match=message) as error:
        getattr(SINGLE.module("simulator"), launcher)(*arguments)
    assert error.value.kind == "memcheck"
    assert error.value.thread == (7, 0, 0)
