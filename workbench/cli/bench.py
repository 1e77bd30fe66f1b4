"""Measures rungs again and again: what ``--watch`` and ``--against`` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from workbench import estimate
from workbench.cli.request import Request
from workbench.harness import benchmark, checking, counting
from workbench.harness.results import Estimated, Row
from workbench.harness.roofs import Roofs
from workbench.operators.builds import Rung
from workbench.operators.operator import DEVICES, Case, Tensors

if TYPE_CHECKING:
    import simulator


@dataclass(frozen=True)
class Measured:
    """A rung's row, and its launches on the simulator; none elsewhere, or if it is wrong."""

    row: Row
    launches: tuple[simulator.Launch, ...] = ()


class Bench:
    """Measures rungs on the cases of a request, always with the same tensors."""

    def __init__(self, asked: Request) -> None:
        self.asked = asked
        self._tensors: dict[Case, tuple[Tensors, Tensors]] = {}

    def run(
        self, case: Case, rungs: Sequence[Rung], step: checking.Step = checking.no_step
    ) -> list[Measured]:
        """Check rungs on small cases and measure the right ones, as a script's table does.

        Raises:
            RuntimeError: what measuring raises, as when memory is short.
        """
        asked, operator = self.asked, self.asked.operator
        small = operator.edge_cases(case.dtype)
        small += operator.small_cases(case.dtype) if asked.sample else []
        tried = checking.try_rungs(operator, rungs, small, asked.target)
        if asked.target != "simulator":
            about = operator, rungs, case, tried, asked.target, Roofs(None, None)
            return [Measured(row) for row in benchmark.measure(*about, step) if not row.baseline]
        return [self._simulated(case, rung, tried, step) for rung in rungs]

    def _simulated(
        self, case: Case, rung: Rung, tried: Mapping[str, checking.Tried], step: checking.Step
    ) -> Measured:
        asked = self.asked
        launches: list[simulator.Launch] = []

        def estimator(made: Sequence[simulator.Launch]) -> Callable[[], Estimated | str]:
            launches.extend(made)
            return estimate.begin(made, asked.operator.name, asked.gpu)

        [row] = counting.measure(
            asked.operator,
            [rung],
            case,
            tried,
            estimator,
            sample=asked.sample,
            step=step,
            tensors=self.tensors(case) if asked.sample else None,
        )
        return Measured(row, tuple(launches))

    def tensors(self, case: Case) -> tuple[Tensors, Tensors]:
        """The inputs and outputs of a case, on the target's device."""
        if case not in self._tensors:
            device = torch.device(DEVICES[self.asked.target])
            self._tensors[case] = checking.tensors_for(self.asked.operator, case, device)
        return self._tensors[case]
