"""Ladders with published GPU times, and kernels of our own that do the same work.

tests/kernels/published.json lists them, with the source of each figure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import operators
from workbench.toolchain.paths import REPO

if TYPE_CHECKING:
    import torch

    from workbench.operators.operator import Case

KERNELS = REPO / "tests" / "kernels"


@dataclass(frozen=True)
class Ladder:
    """A published ladder.

    Attributes:
        name: its name here.
        op: the operator that it computes.
        case: the input; its launchers take the sizes after the tensors.
        gpu: what it ran on, by its name for --gpu.
        source: where the figures are from.
        file: our kernels.
        published_ms: time by launcher, slowest first in the source's order.
    """

    name: str
    op: str
    case: Case
    gpu: str
    source: str
    file: Path
    published_ms: Mapping[str, float]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the problem, the launchers' last arguments."""
        return self.case.shape.numbers()

    @property
    def written(self) -> str:
        """The sizes as in the results: ``1024 x 1024``."""
        return " x ".join(map(str, self.sizes))

    def tensor_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the launchers' tensors: the inputs, then the output."""
        operator = operators.get(self.op)
        tensors = operator.inputs(self.case) | operator.outputs(self.case)
        return [tensor.shape for tensor in tensors.values()]

    def expected(self, given: Sequence[torch.Tensor]) -> torch.Tensor:
        """What torch computes from the inputs."""
        operator = operators.get(self.op)
        names = operator.inputs(self.case)
        return operator.by_torch(dict(zip(names, given, strict=True)), self.case)


def ladders() -> tuple[Ladder, ...]:
    """All published ladders."""
    return tuple(_ladder(**entry) for entry in json.loads((KERNELS / "published.json").read_text()))


def _ladder(
    name: str,
    op: str,
    case: str,
    gpu: str,
    source: str,
    file: str,
    ms: Mapping[str, float] | None = None,
    gflops: Mapping[str, float] | None = None,
) -> Ladder:
    operator = operators.get(op)
    of = operator.case(case)
    if gflops and operator.flops:
        ms = {kernel: operator.flops(of) / rate / 1e6 for kernel, rate in gflops.items()}
    return Ladder(name, op, of, gpu, source, KERNELS / file, ms or {})
