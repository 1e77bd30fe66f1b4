"""Sets estimated times beside times that were measured on a GPU.

Two kinds of measurements: published ladders, whose kernels stand in tests/kernels, and the files
docs/results/<device>-<op>.json that the test scripts wrote on a GPU. Each kernel runs here on the
simulator with a few of its blocks, and its counters are scaled to the whole grid.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import estimate
from workbench.estimate.gpus import GPUS, Gpu
from workbench.estimate.published import LADDERS, Ladder

if TYPE_CHECKING:
    from workbench.problems import Case

SAMPLE_BLOCKS = 24
# Elements of a tensor, of the largest cases that are run. A rung whose blocks take many rows each
# runs nearly all of a case, although it is a sample.
LARGEST = 2**26
TIE = 0.05  # measured times this close to each other may come in any order
# The device's name, as CUDA has it, by what --gpu calls it.
DEVICES = {
    "h200": "H200",
    "h100": "H100 80GB HBM3",
    "a100": "A100-SXM4-80GB",
    "rtx4090": "GeForce RTX 4090",
    "a6000": "RTX A6000",
    "t4": "(Tesla )?T4",
}


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
    """A ladder, or the rungs of one operation on one shape, on one GPU."""

    name: str
    gpu: str
    source: str
    shape: str
    steps: tuple[Step, ...]

    def as_json(self) -> dict[str, Any]:
        """The comparison as docs/results/estimate-validation.json has it."""
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
    """The median of the errors, whatever their sign."""
    return statistics.median(abs(step.error) for step in steps)


def rank_correlation(steps: Sequence[Step]) -> float:
    """Spearman's: 1 if the estimates put the steps in the order that was measured."""
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
    """Pairs of steps, the faster first, that the estimates put in the other order.

    Pairs whose measured times are within TIE of each other have no order.
    """
    return [
        (a.kernel, b.kernel)
        for a in steps
        for b in steps
        if a.measured_ms * (1 + TIE) < b.measured_ms and a.estimated_ms >= b.estimated_ms
    ]


def published(sample_blocks: int = SAMPLE_BLOCKS) -> Iterator[Comparison]:
    """The published ladders beside their estimates, of which so many blocks are run."""
    for ladder in LADDERS:
        steps = [
            _step(name, ms, _runner(ladder, name), (ladder.file,), GPUS[ladder.gpu], sample_blocks)
            for name, ms in ladder.published_ms.items()
        ]
        shape = " x ".join(map(str, ladder.shape))
        yield Comparison(ladder.name, ladder.gpu, ladder.source, shape, tuple(steps))


def _runner(ladder: Ladder, name: str) -> Callable[[], None]:
    """A call of one launcher of a ladder on the simulator."""
    import torch

    from workbench import inputs
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
    return lambda: getattr(module, name)(*tensors, *ladder.shape)


@dataclass(frozen=True)
class _Timed:
    """The rows of a GPU's results for one shape and dtype."""

    gpu: Gpu
    source: str
    op: str
    shape: str
    dtype: str
    rows: tuple[dict[str, Any], ...]

    def case(self) -> Case:
        from workbench.operations import OPERATIONS

        return OPERATIONS[self.op].case(self.shape, dtype=self.dtype)

    def elements(self) -> int:
        """Those of its largest tensor."""
        from workbench.operations import OPERATIONS

        operation, case = OPERATIONS[self.op], self.case()
        arrangement = operation.arrangement(case)
        shapes = operation.input_shapes(case, arrangement) | operation.output_shapes(
            case, arrangement
        )
        return max(map(math.prod, shapes.values()))


def _results(results: Path) -> Iterator[_Timed]:
    for file in sorted(results.glob("*.json")):
        run = json.loads(file.read_text())
        gpu = _known(run.get("device", ""))
        rows = [row for row in run.get("rows", ()) if gpu and row.get("target") == "gpu"]
        for key in dict.fromkeys((r["op"], r["shape"], r["dtype"]) for r in rows):
            here = tuple(r for r in rows if (r["op"], r["shape"], r["dtype"]) == key)
            yield _Timed(gpu, file.name, *key, here)


def measured(results: Path) -> Iterator[Comparison]:
    """The rungs that were timed on a known GPU, by shape, from docs/results/<device>-<op>.json.

    Without the cases that ``left_out`` tells of.
    """
    for timed in _results(results):
        steps = tuple(_rung_steps(timed)) if timed.elements() <= LARGEST else ()
        if steps:
            shape = f"{timed.shape}, {timed.dtype}"
            yield Comparison(timed.op, timed.gpu.name, timed.source, shape, steps)


def left_out(results: Path) -> list[str]:
    """The measured cases that are too large to run: ``softmax rows=.., float32 on h200``."""
    return [
        f"{timed.op} {timed.shape}, {timed.dtype} on {timed.gpu.name}"
        for timed in _results(results)
        if timed.elements() > LARGEST
    ]


def timed(results: Path, sample_blocks: int = SAMPLE_BLOCKS) -> Iterator[Comparison]:
    """Our kernels of the published ladders where --measure has timed them on a known GPU."""
    for file in sorted(results.glob("*-ladders.json")):
        run = json.loads(file.read_text())
        gpu = _known(run["device"])
        for ladder in LADDERS if gpu else ():
            times = {r["name"]: r["time_ms"] for r in run["ladders"]}.get(ladder.name, {})
            steps = [
                _step(name, ms, _runner(ladder, name), (ladder.file,), gpu, sample_blocks)
                for name, ms in times.items()
            ]
            shape = " x ".join(map(str, ladder.shape))
            yield Comparison(ladder.name, gpu.name, file.name, shape, tuple(steps))


def _known(device: str) -> Gpu | None:
    """The GPU of that name, if there is one in the table."""
    for name, pattern in DEVICES.items():
        if re.fullmatch(rf"(NVIDIA )?{pattern}", device):
            return GPUS[name]
    return None


def _rung_steps(timed: _Timed) -> Iterator[Step]:
    import torch

    from workbench import ops
    from workbench.operations import OPERATIONS

    operation, case = OPERATIONS[timed.op], timed.case()
    device = torch.device("cpu")
    given = {name: t.view for name, t in operation.place_inputs(case, device).items()}
    out = {name: t.view for name, t in operation.place_outputs(case, device).items()}
    names = {rung.name for rung in ops.rungs(timed.op)}
    for row in timed.rows:
        if row["kernel"] in names and row["time_ms"] and row["checked"]:
            yield _step(
                row["kernel"],
                row["time_ms"],
                lambda kernel=row["kernel"]: operation.launch(
                    "simulator", given, out, case, kernel
                ),
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
    from workbench import counters

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
