"""mbarriers in any order of warps; their misuse."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import SimulatorError, settings
from simulator.conformance.asynchronous import Program, tensor
from simulator.conformance.mbarrier_ops import RINGS, check_lanes, check_ring


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_ring_in_any_order_of_warps(order: str):
    with settings(order=order, seed=3):
        check_ring(RINGS.module("simulator"), "cpu")
        check_lanes(RINGS.module("simulator"), "cpu")


# ---- Misuse --------------------------------------------------------------------------------------

# What thread 5 of 32 does with `bar` (2 arrivals), and the report.
MISUSE = {
    "count 0": ("make_barrier(&bar, 0);", "synccheck", "for 0 arrivals"),
    "count too large": ("make_barrier(&bar, 1 << 20);", "synccheck", "for 1048576 arrivals"),
    "one arrival too many": (
        'asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 3;" : : "r"(smem(&bar)));',
        "synccheck",
        "3 arrivals at an mbarrier whose phase expects 2 more",
    ),
    "no arrival": (
        'asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;"'
        ' : : "r"(smem(&bar)), "r"(out[1]));',
        "synccheck",
        "0 arrivals",
    ),
    "noComplete completes": (
        'asm volatile("{.reg .b64 s; mbarrier.arrive.noComplete.shared::cta.b64 s, [%0], 2;}"'
        ' : : "r"(smem(&bar)));',
        "synccheck",
        "noComplete",
    ),
    "too many bytes": ("expect(&bar, 1 << 20);", "synccheck", "tx-count"),
    "bytes add up": (
        "expect(&bar, 1 << 19); expect(&bar, 1 << 19);",
        "synccheck",
        "tx-count of the mbarrier becomes 1048576",
    ),
    "never initialised": ("arrive(&other);", "synccheck", "no mbarrier at '"),
    "overwritten": ("bar = 12345; arrive(&bar);", "synccheck", "no mbarrier at '"),
    "invalidated": (
        'asm volatile("mbarrier.inval.shared::cta.b64 [%0];" : : "r"(smem(&bar))); arrive(&bar);',
        "synccheck",
        "no mbarrier at '",
    ),
    "misaligned": (
        "__shared__ u64 two[2]; make_barrier(reinterpret_cast<char*>(two) + 4, 1);",
        "memcheck",
        "multiple of 8",
    ),
    "outside": (
        "make_barrier(&bar + 1000, 1);",
        "memcheck",
        "outside the block's shared memory",
    ),
    "in global memory": (
        'asm volatile("mbarrier.init.b64 [%0], 1;" : : "l"(out));',
        "memcheck",
        "is not in shared memory",
    ),
    "parity 2": ("try_wait(&bar, 2);", "synccheck", "0 or 1, not 2"),
    "no state": (
        'asm volatile("{.reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%0], 7;}"'
        ' : : "r"(smem(&bar)));',
        "synccheck",
        "was not returned by an arrival",
    ),
    "nobody arrives": (
        "expect(&bar, 48); wait(&bar, 0);",
        "synccheck",
        r"deadlock: 1 thread waits forever for the mbarrier 'bar'(?s:.)*1 of 2 arrivals is missing,"
        " but 48 bytes that expect_tx announced have not come",
    ),
}


def misuse_source() -> str:
    text = ""
    for i, (body, _, _) in enumerate(MISUSE.values()):
        text += f"""
__global__ void misuse_{i}(unsigned* out) {{
  __shared__ u64 bar, other;
  if (threadIdx.x == 0) make_barrier(&bar, 2);
  __syncthreads();
  if (threadIdx.x == 5) {{
    {body}
    out[0] = static_cast<unsigned>(bar + other);
  }}
}}
void run_{i}(unsigned* out) {{ misuse_{i}<<<1, 32>>>(out); }}
"""
    return text


MISUSES = Program("mbarrier_misuse", misuse_source(), tuple(f"run_{i}" for i in range(len(MISUSE))))


@pytest.mark.parametrize("which", MISUSE)
def test_misuse_is_reported(which: str):
    _, kind, message = MISUSE[which]
    launch = getattr(MISUSES.module("simulator"), f"run_{list(MISUSE).index(which)}")
    with pytest.raises(SimulatorError, match=message) as error:
        launch(tensor(np.zeros(4, np.uint32), "cpu"))
    assert error.value.kind == kind
    assert error.value.thread == (5, 0, 0)
