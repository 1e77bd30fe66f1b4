"""Ladders whose times on a GPU were published, with kernels of our own that do the same work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.toolchain.paths import REPO

KERNELS = REPO / "tests" / "kernels"


@dataclass(frozen=True)
class Ladder:
    """A published ladder.

    Attributes:
        name: what it is called here.
        gpu: what it ran on, as --gpu calls it.
        source: where the figures stand.
        file: our kernels.
        shape: sizes of the problem, in the order of the launchers' last arguments.
        published_ms: time by launcher, slowest first in the source's order.
    """

    name: str
    gpu: str
    source: str
    file: Path
    shape: tuple[int, ...]
    published_ms: Mapping[str, float]

    def tensor_shapes(self) -> list[tuple[int, ...]]:
        """Of the launchers' tensors: the inputs, then the output."""
        if self.name == "sgemm":
            m, n, k = self.shape
            return [(m, k), (k, n), (m, n)]
        return [self.shape, self.shape]


def _sgemm_ms(gflops: float, n: int = 4096) -> float:
    return 2 * n**3 / gflops / 1e6


LADDERS = (
    Ladder(
        "sgemm",
        "a6000",
        "github.com/siboehm/SGEMM_CUDA, README: GFLOP/s at 4096",
        KERNELS / "sgemm_ladder.cu",
        (4096, 4096, 4096),
        {
            "naive": _sgemm_ms(309.0),
            "coalesced": _sgemm_ms(1986.5),
            "shared": _sgemm_ms(2980.3),
            "tile_1d": _sgemm_ms(8474.7),
            "tile_2d": _sgemm_ms(15971.7),
            "vectorised": _sgemm_ms(18237.3),
            "autotuned": _sgemm_ms(19721.0),
            "warp_tiled": _sgemm_ms(21779.3),
        },
    ),
    Ladder(
        "softmax",
        "t4",
        "github.com/tobiasvanderwerff/flash-attention, README: 1024 x 1024",
        KERNELS / "softmax_ladder.cu",
        (1024, 1024),
        {
            "shared_tree": 0.110,
            "warp_shuffle": 0.085,
            "float4_shared": 0.073,
            "float4_registers": 0.072,
            "cub_reduce": 0.071,
        },
    ),
)
