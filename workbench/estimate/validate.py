"""Compares estimated times with times measured on a GPU.

Two kinds of measurements: published ladders, whose kernels are in tests/kernels, and the files
docs/results/<device>-<op>.json that the test scripts wrote on a GPU. Each kernel runs here on the
simulator with a few of its blocks, and its counters are scaled to the whole grid.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import estimate, operators
from workbench.estimate.gpus import GPUS, Gpu, by_device
from workbench.estimate.published import Ladder, ladders
from workbench.harness.results import Row

if TYPE_CHECKING:
    from workbench.operators.operator import Case

SAMPLE_BLOCKS = 24
# Elements of the largest tensor in the largest cases that run. A rung whose blocks take many rows
# each runs nearly all of a case, although it is a sample.
LARGEST = 2**26
TIE = 0.05  # measured times this close may come in any order


@dataclass(frozen=True)
class Step:
    """One kernel: measured and estimated."""

    kernel: str
    measured_ms: float
    estimated_ms: float
    limiter: str
    occupancy: float
    parts: dict[str, float]

    @property
    def error(self) -> float:
        """0.1: the estimate is ten percent too long."""
        return self.estimated_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Comparison:
    """A ladder, or the rungs of one operator on one case, on one GPU."""

    name: str
    gpu: str
    source: str
    shape: str
    steps: tuple[Step, ...]

    def as_json(self) -> dict[str, Any]:
        """The comparison as in docs/results/estimate-validation.json."""
        steps = [
            {
                "kernel": step.kernel,
                "measured_ms": round(step.measured_ms, 5),
                "estimated_ms": round(step.estimated_ms, 5),
                "error": round(step.error, 4),
                "limiter": step.limiter,
                "occupancy": round(step.occupancy, 4),
                "parts_ms": {name: round(ms, 5) for name, ms in step.parts.items()},
            }
            for step in self.steps
        ]
        return {
            "name": self.name,
            "gpu": self.gpu,
            "source": self.source,
            "shape": self.shape,
            "steps": steps,
            "rank_correlation": round(rank_correlation(self.steps), 4),
            "wrong_pairs": [list(pair) for pair in wrong_pairs(self.steps)],
            "median_error": round(median_error(self.steps), 4),
        }


def median_error(steps: Sequence[Step]) -> float:
    """The median of the absolute errors."""
    return statistics.median(abs(step.error) for step in steps)


def rank_correlation(steps: Sequence[Step]) -> float:
    """Spearman's: 1 if the estimates order the steps as measured."""
    n = len(steps)
    if n < 2:
        return 1.0
    ranks = [
        {id(s): rank for rank, s in enumerate(sorted(steps, key=key))}
        for key in (lambda s: s.measured_ms, lambda s: s.estimated_ms)
    ]
    squares = sum((ranks[0][id(s)] - ranks[1][id(s)]) ** 2 for s in steps)
    return 1 - 6 * squares / (n * (n * n - 1))


def wrong_pairs(steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Pairs of steps, the faster first, that the estimates order the other way.

    Pairs whose measured times are within TIE of each other are unordered.
    """
    return [
        (a.kernel, b.kernel)
        for a in steps
        for b in steps
        if a.measured_ms * (1 + TIE) < b.measured_ms and a.estimated_ms >= b.estimated_ms
    ]


def published(sample_blocks: int = SAMPLE_BLOCKS) -> Iterator[Comparison]:
    """The published ladders alongside their estimates, from a number of blocks."""
    for ladder in ladders():
        steps = _ladder_steps(ladder, ladder.published_ms, GPUS[ladder.gpu], sample_blocks)
        yield Comparison(ladder.name, ladder.gpu, ladder.source, ladder.written, tuple(steps))


def _ladder_steps(
    ladder: Ladder, times: Mapping[str, float], gpu: Gpu, sample_blocks: int
) -> Iterator[Step]:
    run = runner(ladder)
    for name, ms in times.items():
        yield _step(name, ms, partial(run, name), (ladder.file,), gpu, sample_blocks)


def runner(ladder: Ladder) -> Callable[[str], None]:
    """A function that calls a ladder's launcher by name, on the simulator."""
    import torch

    from workbench.harness import inputs
    from workbench.toolchain.inline import inline

    module = inline(
        ladder.file.read_text(),
        list(ladder.published_ms),
        target="simulator",
        name=ladder.file.stem,
    )
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    tensors = [
        inputs.empty(math.prod(shape), torch.float32, cpu).view(shape).uniform_()
        for shape in ladder.tensor_shapes()
    ]
    return lambda name: getattr(module, name)(*tensors, *ladder.sizes)


@dataclass(frozen=True)
class _Timed:
    """The rows of a GPU's results for one case."""

    gpu: Gpu
    source: str
    rows: tuple[Row, ...]

    @property
    def op(self) -> str:
        return self.rows[0].op

    def case(self) -> Case:
        return self.rows[0].case

    def __str__(self) -> str:
        case, _, dtype = self.rows[0].subject.rpartition(" ")
        return f"{case}, {dtype}"

    def elements(self) -> int:
        """Elements of its largest tensor."""
        operator, case = operators.get(self.op), self.case()
        tensors = operator.inputs(case) | operator.outputs(case)
        return max(tensor.numel() for tensor in tensors.values())


def _results(results: Path) -> Iterator[_Timed]:
    for file in sorted(results.glob("*.json")):
        run = json.loads(file.read_text())
        gpu = by_device(run.get("device", ""))
        if gpu is None:
            continue
        every = [Row.from_json(row) for row in run.get("rows", ())]
        rows = [row for row in every if row.target == "gpu"]
        for key in dict.fromkeys((row.op, row.subject) for row in rows):
            yield _Timed(gpu, file.name, tuple(row for row in rows if (row.op, row.subject) == key))


def measured(results: Path) -> Iterator[Comparison]:
    """The rungs that were timed on a known GPU, by shape, from docs/results/<device>-<op>.json.

    Without the cases of ``left_out``.
    """
    for timed in _results(results):
        steps = tuple(_rung_steps(timed)) if timed.elements() <= LARGEST else ()
        if steps:
            yield Comparison(timed.op, timed.gpu.name, timed.source, str(timed), steps)


def left_out(results: Path) -> list[str]:
    """The measured cases that are too large to run: ``<op> M=.., float32 on h200``."""
    return [
        f"{timed.op} {timed} on {timed.gpu.name}"
        for timed in _results(results)
        if timed.elements() > LARGEST
    ]


def timed(results: Path, sample_blocks: int = SAMPLE_BLOCKS) -> Iterator[Comparison]:
    """Our kernels for the published ladders where --measure has timed them on a known GPU."""
    for file in sorted(results.glob("*-ladders.json")):
        run = json.loads(file.read_text())
        gpu = by_device(run["device"])
        if gpu is None:
            continue
        for ladder in ladders():
            times = {r["name"]: r["time_ms"] for r in run["ladders"]}.get(ladder.name, {})
            steps = _ladder_steps(ladder, times, gpu, sample_blocks)
            yield Comparison(ladder.name, gpu.name, file.name, ladder.written, tuple(steps))


def _rung_steps(timed: _Timed) -> Iterator[Step]:
    import torch

    from workbench.harness import inputs
    from workbench.operators.builds import rungs

    operator, case = operators.get(timed.op), timed.case()
    device = torch.device("cpu")
    given = inputs.views(inputs.place_inputs(operator, case, device))
    out = inputs.views(inputs.place_outputs(operator, case, device))
    names = {rung.name for rung in rungs(timed.op)}
    for row in timed.rows:
        if row.kernel in names and row.time_ms and row.checked:
            yield _step(
                row.kernel,
                row.time_ms,
                partial(operator.launch, "simulator", given, out, case, row.kernel),
                estimate.ladder_sources(timed.op),
                timed.gpu,
            )


def _step(
    kernel: str,
    measured_ms: float,
    run: Callable[[], None],
    sources: Sequence[Path],
    gpu: Gpu,
    sample_blocks: int = SAMPLE_BLOCKS,
) -> Step:
    import simulator
    from workbench.harness import counters

    with simulator.settings(sample_blocks=sample_blocks):
        launches = counters.record(run)
    found = estimate.estimate_launches(launches, sources, gpu)
    return Step(
        kernel,
        measured_ms,
        found.time_ms,
        found.limiter,
        found.occupancy.fraction,
        dict(found.parts),
    )
