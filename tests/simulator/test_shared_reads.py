"""Races in global memory that many threads read: scattered, by vectors, by bytes, in stages."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

import simulator
from build import inline

SOURCE = Path(__file__).parents[1] / "kernels" / "shared_reads.cu"
KERNELS = ("column", "vectors", "bytes", "stage", "again", "two_warps", "chain")
ORDERS = ("ascending", "descending", "random")
pytestmark = pytest.mark.full  # compiling its kernels takes most of the time


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return inline(SOURCE.read_text(), (*KERNELS, "barriers"), target="simulator")


def lines(mark: str) -> set[int]:
    """The lines that end with this comment."""
    text = SOURCE.read_text().splitlines()
    return {i for i, line in enumerate(text, 1) if line.endswith(f"// {mark}")}


def run(kernel: object, ordered: bool, threads: int, order: str) -> None:
    x = torch.arange(32 * 64, dtype=torch.int32) % 50
    y = torch.zeros(256, dtype=torch.int32)
    with simulator.settings(checks=["all"], threads=threads, order=order, seed=3):
        kernel(x, y, ordered)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_a_write_after_reads_is_found_at_both_lines(kernels, name, threads, order) -> None:
    with pytest.raises(simulator.SimulatorError) as caught:
        run(getattr(kernels, name), False, threads, order)
    error = caught.value
    assert error.kind == "racecheck", str(error)
    read, write = lines(f"READ {name}"), lines(f"WRITE {name}")
    assert len(read) == len(write) == 1
    assert {error.line, error.other_line} == read | write, str(error)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_the_right_twin_is_silent(kernels, name, threads, order) -> None:
    run(getattr(kernels, name), True, threads, order)


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_that_wait_for_the_grid_let_the_others_run(kernels, order) -> None:
    y = torch.zeros(64, dtype=torch.int32)
    with (
        simulator.settings(checks=["all"], threads=1, order=order, seed=3),
        simulator.record(addresses=False) as launches,
    ):
        kernels.barriers(y, 8)
    assert (y == 8).all()
    # of each block at each barrier: two warps that go through it, and some rounds of one lane
    assert launches[0].warp_instructions / (64 * 8) < 300
