"""What the headers of kernels/matmul*.cu count, against the simulator's counters."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch

import simulator
from workbench import matmul, rungs
from workbench.operators import builds
from workbench.operators.operator import torch_dtype

M = N = 256
K = 4096  # so that what happens once per tile of C hardly counts
FMAS = M * N * K


@dataclass(frozen=True)
class Count:
    """A rung's counts, each with the words in its header that state it, if any do.

    Attributes:
        of_global: FLOP per byte requested of global memory, with the words.
        of_shared: FLOP per byte requested of shared memory; None without.
        threads: of a block.
        kib: shared memory of a block.
        barriers: per tile of ``step`` columns of A.
        step: see above.
        wavefronts: of reads from shared memory, per FMA of a warp.
    """

    of_global: tuple[float, str]
    of_shared: tuple[float, str] | None
    threads: tuple[int, str]
    kib: tuple[float, str]
    barriers: tuple[int, str]
    step: int = 1
    wavefronts: float | None = None


NO = (0, "0 B smem, 0 __syncthreads")
TWO = (2, "2 __syncthreads per")
ONE = (1, "1 __syncthreads per tile")
SQUARE = (1024, "32 x 32 threads per block")
COUNTS = {
    "naive": Count((0.25, "2 FLOP per 2 floats requested = 0.25"), None, SQUARE, NO, NO),
    "coalesced": Count((0.25, "0.25 requested"), None, SQUARE, NO, NO),
    "tiled_16": Count(
        (4, "TILE / 4 = 4"), (0.25, "2 FLOP per 2 floats = 0.25"), (256, "16 x 16 threads"),
        (2, "2 KiB smem"), TWO, step=16, wavefronts=2,
    ),
    "tiled": Count(
        (8, "TILE / 4 = 8"), (0.25, "0.25 requested"), SQUARE, (8, "8 KiB smem"), TWO,
        step=32, wavefronts=2,
    ),
    "thread_tile_1d": Count(
        (16, "= 16; tiled: 8"), (0.444, "= 0.44; tiled: 0.25"), (512, "512 threads"),
        (4, "4 KiB smem"), TWO, step=8, wavefronts=9 / 8,
    ),
    "thread_tile": Count(
        (32, "= 32; thread_tile_1d: 16"), (1.333, "= 1.33; thread_tile_1d: 0.44"),
        (512, "512 threads"), (8, "8 KiB smem"), TWO, step=8, wavefronts=(2 + 4 * 4 + 6) / 32,
    ),
    "vectorized": Count(
        (32, "32 global"), (1.333, "1.33 shared"), (512, "512 threads"), (16, "16 KiB smem"), TWO,
        step=16, wavefronts=8 / 32,
    ),
    "conflict_free": Count(
        (32, "As before"), (1.333, "As before"), (512, "512 threads"), (16.5, "16.5 KiB smem"), TWO,
        step=16, wavefronts=6 / 32,
    ),
    "warp_tiles": Count(
        (32, "Global: 32"), (1.333, ""), (512, "512 threads"), (16.5, "16.5 KiB smem"),
        TWO, step=16, wavefronts=6 / 32,
    ),
    "async": Count(
        (42.67, "= 43; warp_tiles: 32"), (2.667, "2.67 FLOP per byte read"), (256, "256 threads"),
        (36.75, "per stage: 36.75"), ONE, step=8, wavefronts=12 / 128,
    ),
    "split_k": Count(
        (10.67, "= 10.7"), (1, ""), (128, "128 threads"), (19.5, "19.5 KiB"),
        (1, ""), step=16, wavefronts=4 / 16,
    ),
    "wmma": Count(
        (64, "= 64"), (21.33, "= 21"), (256, "256 threads"), (36, "36 KiB smem"), TWO, step=64,
    ),
    "mma": Count(
        (64, "= 64"), (21.33, "= 21"), (256, "256 threads"), (35, "35 KiB smem"), TWO, step=64,
    ),
    "mma_swizzled": Count(
        (64, "As mma"), (21.33, "As mma"), (256, "256 threads"), (32, "32 KiB smem"), TWO, step=64,
    ),
    "mma_pipelined": Count(
        (64, "As mma_swizzled"), (21.33, "As mma_swizzled"), (256, "256 threads"),
        (64, "per stage: 64"), ONE, step=32,
    ),
    "mma_tuned": Count(
        (42.67, "64 x 128 tiles: 43"), (16, "43 and 16"), (256, "Small tiles: 256 threads"),
        (48, "48 KiB"), ONE, step=32,
    ),
}  # fmt: skip


def header(rung: str) -> str:
    """The comment above a rung's code, as one line."""
    for file in builds.sources("matmul"):
        if found := re.search(rf"^// {rung}: (?:.*\n//)*.*", file.read_text(), re.M):
            return re.sub(r"\s*\n//\s*", " ", found[0])
    raise AssertionError(f"no header for {rung}")


def launch_of(rung: builds.Rung) -> simulator.Launch:
    dtype = torch_dtype("float32" if "float32" in rung.dtypes else "float16")
    a, b = torch.ones(M, K, dtype=dtype), torch.ones(K, N, dtype=dtype)
    with simulator.settings(sample_blocks=1, checks=["memcheck"]), simulator.record() as launches:
        matmul(a, b, kernel=rung.name)
    return launches[0]


def test_every_rung_is_counted():
    assert list(COUNTS) == [rung.name for rung in rungs("matmul")]


@pytest.mark.parametrize("rung", rungs("matmul"), ids=lambda rung: rung.name)
def test_the_counts_of_the_header(rung):
    expected, text, launch = COUNTS[rung.name], header(rung.name), launch_of(rung)
    threads = launch.block[0] * launch.block[1]
    parts = launch.grid[2]  # of k, for split_k and mma_tuned
    rel = 0.02 if parts == 1 else 0.13  # each part waits for its first tiles, and stages its sums
    stated = (expected.of_global, expected.of_shared, expected.threads, expected.kib,
              expected.barriers)  # fmt: skip
    for _, words in filter(None, stated):
        assert words in text
    assert 2 * FMAS / launch.global_load_bytes == pytest.approx(expected.of_global[0], rel=0.02)
    if expected.of_shared:
        flops = 2 * FMAS / launch.shared_load_bytes
        assert flops == pytest.approx(expected.of_shared[0], rel=rel)
    assert threads == expected.threads[0]
    assert launch.shared_bytes == expected.kib[0] * 1024
    trips = launch.barriers / launch.num_blocks / (threads / 32)
    assert trips * parts == pytest.approx(expected.barriers[0] * K / expected.step, rel=rel)
    if expected.wavefronts:
        assert launch.shared_load_wavefronts / (FMAS / 32) == pytest.approx(expected.wavefronts)
