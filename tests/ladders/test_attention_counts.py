"""What the headers of kernels/attention*.cu count, against the simulator's counters."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch

import simulator
from workbench import attention
from workbench.operators import builds

N, D = 2048, 64
FLOPS = 4 * N * N * D


@dataclass(frozen=True)
class Count:
    """A rung's counts for D = 64, each with the words in its header that state it.

    Attributes:
        flops: per byte of K and V that it requests of global memory.
        threads: of a block.
        kib: shared memory of a block.
        barriers: per tile of ``keys`` keys.
        keys: see above.
    """

    flops: tuple[float, str]
    threads: tuple[int, str]
    kib: tuple[float, str]
    barriers: tuple[int, str]
    keys: int


COUNTS = {
    "warp_dot": Count(
        (32, "BM / 2 = 32"), (256, "256 threads"), (16, "16 KiB smem at D = 64"),
        (2, "2 __syncthreads per tile"), 32,
    ),
    "flash": Count(
        (32, "BM / 2 = 32"), (128, "128 threads"), (37.5, "25.5 / 37.5 / 61.5 KiB"),
        (4, "4 __syncthreads per tile"), 32,
    ),
    "flash_registers": Count(
        (64, "BM / 2 = 64"), (128, "128 threads"), (75, "75 KiB smem"),
        (2, "2 __syncthreads per tile"), 64,
    ),
    "flash_mma": Count(
        (128, "= BM = 128"), (128, "128 threads"), (36, "36 / 68 / 132 KiB"),
        (2, "2 __syncthreads per tile"), 64,
    ),
    "flash_mma_pipelined": Count(
        (128, "As flash_mma"), (128, "128 threads"), (48, "48 / 96 / 192 KiB"),
        (1, "1 __syncthreads per tile"), 64,
    ),
}  # fmt: skip


def header(rung: str) -> str:
    """The comment above a rung's code, as one line."""
    for file in builds.sources("attention"):
        if found := re.search(rf"^// {rung}: (?:.*\n//)*.*", file.read_text(), re.M):
            return re.sub(r"\s*\n//\s*", " ", found[0])
    raise AssertionError(f"no header for {rung}")


@pytest.mark.parametrize("rung", COUNTS)
def test_the_counts_of_the_header(rung: str) -> None:
    expected, text = COUNTS[rung], header(rung)
    q = torch.zeros(N, D, dtype=torch.float16 if "mma" in rung else torch.float32)
    with simulator.settings(sample_blocks=1, checks=["memcheck"]), simulator.record() as launches:
        attention(q, q, q, kernel=rung)
    (launch,) = launches
    for _, words in (expected.flops, expected.threads, expected.kib, expected.barriers):
        assert words in text
    copies = [n for form, n in launch.forms.items() if form.startswith("cp.async.cg")]
    loaded = 16 * 32 * sum(copies) or launch.global_load_bytes
    assert FLOPS / (loaded - q.nbytes) == pytest.approx(expected.flops[0], rel=0.02)
    assert launch.block[0] == expected.threads[0]
    assert launch.shared_bytes == expected.kib[0] * 1024
    per_block = launch.barriers / launch.num_blocks / (launch.block[0] / 32)
    tiles = N / expected.keys
    assert per_block == pytest.approx(expected.barriers[0] * tiles, abs=2)
