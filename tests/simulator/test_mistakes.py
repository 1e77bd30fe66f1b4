"""What a launch reports on mistakes: kind, line, block, thread, and what to do."""

from __future__ import annotations

import pytest
import torch

import simulator
from simulator.conformance.micro import Program
from tests.support import REPO

SOURCE = (REPO / "tests" / "kernels" / "mistakes.cu").read_text()

# name: kind, text of the report, the advice
MISTAKES = {
    "unknown": ("unsupported", "does not implement this instruction", "README.md"),
    "divergent": (
        "synccheck",
        "a barrier that other lanes of their warp never reach: lanes 8-31 of warp 1 are elsewhere",
        "out of the branch",
    ),
    "grid_sync": ("trap", "the kernel executed a trap", "cudaLaunchCooperativeKernel"),
    "waits": ("synccheck", "128 threads wait forever for the mbarrier 'barrier'", "72 of 200"),
    "polls": ("synccheck", "128 threads wait forever for the mbarrier 'barrier'", "72 of 200"),
    "cluster": (
        "synccheck",
        "the barrier of the cluster: 64 of its 128 threads arrived",
        "must reach it",
    ),
    "misaligned": ("memcheck", "misaligned write of 16 bytes", "float4"),
    "wild": ("memcheck", "out-of-bounds write of 4 bytes in global memory", "null pointer"),
    "shared": ("memcheck", "just past the end of the block's shared memory", "check the index"),
    "too_much_shared": ("launch", "100000 bytes of dynamic shared memory", "cudaFuncSetAttribute"),
    "too_many_threads": ("launch", "has 2048 threads", "at most 1024"),
    "cluster_of_three": ("launch", "grid (3, 1, 1) is not a multiple of the cluster", "(2, 1, 1)"),
}
THREADS = {"unknown": (3, 0, 0), "divergent": (32, 0, 0), "shared": (31, 0, 0)}


PROGRAM = Program("mistakes", SOURCE, *MISTAKES, alone=True)


@pytest.fixture
def kernels():
    return PROGRAM.module("simulator")


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(kernels, name: str, order: str) -> None:
    kind, says, advice = MISTAKES[name]
    out = torch.zeros(64, dtype=torch.int32)
    with simulator.settings(order=order), pytest.raises(simulator.SimulatorError) as caught:
        getattr(kernels, name)(out)
    error = caught.value
    text = str(error)
    assert error.kind == kind
    assert says in text
    assert advice in text
    assert error.kernel
    if kind == "launch":
        assert error.line > 0 and "block (0, 0, 0)" not in text
        return
    marks = [i for i, line in enumerate(SOURCE.splitlines(), 1) if f"MISTAKE {name}" in line]
    if marks:  # a multi-line instruction is placed at its first line
        assert marks[0] - 3 <= error.line <= marks[0], text
    assert "block (" in text and "thread (" in text and "PTX: " in text
    if order == "ascending":
        assert error.thread == THREADS.get(name, (0, 0, 0))
