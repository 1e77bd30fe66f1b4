"""Bulk copies in any order of warps; their misuse."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import SimulatorError, settings
from simulator.conformance.asynchronous import Program, tensor
from simulator.conformance.bulk_copy_ops import COMPLETES, COPIES, check_ring


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_ring_in_any_order_of_warps(order: str):
    with settings(order=order, seed=5):
        check_ring(COPIES.module("simulator"), "cpu")


# ---- Misuse --------------------------------------------------------------------------------------

# What thread 0 of block 0 does, and the report. Blocks of a cluster of 2 have `data` and `bar`.
LOAD = f'"cp.async.bulk.shared::cluster.global.{COMPLETES} [%0], [%1], %2, [%3];"'
STORE = '"cp.async.bulk.global.shared::cta.bulk_group [%1], [%0], %2;"'
MISUSE = {
    "size": (LOAD, "smem(data)", "in", 24, "smem(&bar)", "24 bytes; the size is a multiple of 16"),
    "shared alignment": (LOAD, "smem(data) + 8", "in", 16, "smem(&bar)", "destination.*misaligned"),
    "global alignment": (LOAD, "smem(data)", "in + 2", 16, "smem(&bar)", "source.*not aligned"),
    "outside of the source": (
        LOAD,
        "smem(data)",
        "in + 60",
        32,
        "smem(&bar)",
        "out-of-bounds read of 32 bytes in global memory, across the end of 'in'",
    ),
    "outside of the destination": (
        LOAD,
        "smem(data)",
        "in",
        256,
        "smem(&bar)",
        r"the destination of the copy \(256 bytes\) is outside",
    ),
    "store to an input": (STORE, "smem(data)", "in", 16, "smem(&bar)", "write to 'in'.*an input"),
    "no mbarrier": (LOAD, "smem(data)", "in", 16, "smem(data)", "there is no mbarrier"),
    "mbarrier of another block": (
        LOAD,
        "smem(data)",
        "in",
        16,
        "peer(&bar, 1)",
        "destination is in block 0 of the cluster and its mbarrier in block 1",
    ),
    "no such block": (
        LOAD,
        "smem(data) + (9 << 24)",
        "in",
        16,
        "smem(&bar)",
        "block 8 of the cluster, which has 2",
    ),
}
MISUSE_KERNEL = """
__global__ void __cluster_dims__(2) NAME_kernel(const int* in) {
  __shared__ alignas(16) int data[32];
  __shared__ u64 bar;
  data[threadIdx.x] = 0;
  if (threadIdx.x == 0) make_barrier(&bar, 1);
  cluster_sync();
  if (threadIdx.x == 0 && cluster_rank() == 0) {
    asm volatile(TEXT : : "r"(TO), "l"(FROM), "r"(SIZE), "r"(SIGNAL) : "memory");
  }
  cluster_sync();
}
void NAME(const int* in) { NAME_kernel<<<2, 32>>>(in); }
"""
EXITED = """
__global__ void __cluster_dims__(2) exited_kernel(const int* in) {
  __shared__ alignas(16) int data[32];
  __shared__ u64 bar;
  data[threadIdx.x] = 0;
  if (threadIdx.x == 0) make_barrier(&bar, 1);
  cluster_sync();
  if (cluster_rank() == 1) return;
  for (volatile int i = 0; i < 100000; i++) {
  }
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], 16, [%2];"
                 : : "r"(peer(data, 1)), "l"(in), "r"(peer(&bar, 1)) : "memory");
  }
}
void exited(const int* in) { exited_kernel<<<2, 32>>>(in); }
"""


def misuse_source(i: int) -> str:
    text, to, source, size, signal, _ = list(MISUSE.values())[i]
    pairs = {"TEXT": text, "TO": to, "FROM": source, "SIZE": str(size), "SIGNAL": signal}
    out = MISUSE_KERNEL.replace("NAME", f"misuse_{i}")
    for key, value in pairs.items():
        out = out.replace(key, value)
    return out


MISUSES = Program(
    "bulk_misuse",
    "".join(map(misuse_source, range(len(MISUSE)))) + EXITED,
    (*(f"misuse_{i}" for i in range(len(MISUSE))), "exited"),
    alone=True,
)


@pytest.mark.parametrize("which", MISUSE)
def test_misuse_is_reported(which: str):
    launch = getattr(MISUSES.module("simulator"), f"misuse_{list(MISUSE).index(which)}")
    with pytest.raises(SimulatorError, match=MISUSE[which][-1]) as error:
        launch(tensor(np.zeros(64, np.int32), "cpu"))
    assert error.value.kind == ("synccheck" if which == "no mbarrier" else "memcheck")
    assert (error.value.block, error.value.thread) == ((0, 0, 0), (0, 0, 0))


def test_copy_to_a_block_that_has_exited_is_reported():
    with pytest.raises(SimulatorError, match="block 1, which has exited"):
        MISUSES.module("simulator").exited(tensor(np.zeros(64, np.int32), "cpu"))
