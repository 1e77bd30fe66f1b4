"""Versions of one rung, each a build of its own, checked and measured like rungs of one table.

``builds.using`` selects a version's build. A row's ``kernel`` is the version's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from workbench.harness import benchmark, checking, counting, inputs, verify
from workbench.harness.benchmark import Candidate
from workbench.harness.checking import Step, Tried, no_step
from workbench.harness.counting import Estimator
from workbench.harness.results import Row
from workbench.harness.roofs import Roofs
from workbench.operators import builds
from workbench.operators.builds import Extension, Rung
from workbench.operators.operator import DEVICES, Case, Operator

CHUNK = 8  # versions that are timed in turns, with the first of all as a common measure
FINALISTS = 4  # the best of all chunks, which are timed in turns once more


@dataclass(frozen=True)
class Version:
    """A build of a rung; ``name`` is unique among its versions."""

    name: str
    build: Extension


def try_version(
    operator: Operator, rung: Rung, version: Version, cases: Sequence[Case], target: str
) -> Tried:
    """Check a version on small cases, until it gets one wrong. Raises StickyError."""
    with _selected(version):
        return checking.try_rungs(operator, [rung], cases, target)[rung.name]


def simulate(
    operator: Operator,
    rung: Rung,
    version: Version,
    case: Case,
    tried: Tried,
    estimator: Estimator,
    sample: int,
) -> Row:
    """The row of a version on the simulator, as ``counting.measure`` makes it."""
    by_name = {rung.name: tried}
    with _selected(version):
        [row] = counting.measure(operator, [rung], case, by_name, estimator, sample=sample)
    return dataclasses.replace(row, kernel=version.name)


def time(
    operator: Operator,
    rung: Rung,
    versions: Sequence[Version],
    case: Case,
    tried: Mapping[str, Tried],
    target: str,
    step: Step = no_step,
) -> list[Row]:
    """Check every version, then time the right ones in turns, CHUNK at a time.

    Times of different chunks are not comparable to the last percent, so the fastest of all chunks
    are timed together once more.

    Args:
        operator: what the rung computes.
        rung: the rung.
        versions: the first is timed in every chunk, if it is right.
        case: the input.
        tried: what small cases showed of each version, by name.
        target: "gpu" or "cpu".
        step: is told which version comes next.

    Raises:
        verify.StickyError: a version broke the GPU's context.
        torch.OutOfMemoryError: the tensors do not fit on the device.
    """
    rows: dict[str, Row] = {}
    for version in versions:
        step(version.name)
        found = {rung.name: tried[version.name]}
        with _selected(version):
            rows[version.name] = checking.row(operator, rung, case, target, found)
    device = torch.device(DEVICES[target])
    right = [version for version in versions if rows[version.name].checked]
    if right:
        given = inputs.views(inputs.place_inputs(operator, case, device))
        outputs = inputs.place_outputs(operator, case, device)
        views = inputs.views(outputs)

        def race(chosen: Sequence[Version]) -> dict[str, Row]:
            candidates = []
            for version in chosen:
                row = dataclasses.replace(rows[version.name], kernel=rung.name)
                made = benchmark.candidate_of(operator, row, given, views, case, device)
                candidates.append(_candidate(version, made))
            return benchmark.in_turns(
                operator, candidates, outputs, case, device, Roofs(None, None)
            )

        rows |= _races(right, race)
    return [dataclasses.replace(row, kernel=name) for name, row in rows.items()]


def _races(
    versions: Sequence[Version], race: Callable[[Sequence[Version]], dict[str, Row]]
) -> dict[str, Row]:
    """The rows of versions that are timed in chunks, and the fastest together once more."""
    first, *others = versions
    rows: dict[str, Row] = {}
    for start in range(0, max(len(others), 1), CHUNK):
        rows |= race([first, *others[start : start + CHUNK]])
    if len(others) <= CHUNK:
        return rows
    ranked = [version for version in others if rows[version.name].time_ms is not None]
    ranked.sort(key=lambda version: rows[version.name].time_ms or 0.0)
    return rows | race([first, *ranked[:FINALISTS]])


def _candidate(version: Version, made: Candidate) -> Candidate:
    """What times a version, under its name."""

    def run() -> None:
        with _selected(version):
            made.run()

    row = dataclasses.replace(made.row, kernel=version.name)
    return dataclasses.replace(made, row=row, run=run)


@contextmanager
def _selected(version: Version) -> Iterator[None]:
    """Let a version's build be the current one; errors that end the run name the version."""
    try:
        with builds.using(version.build):
            yield
    except verify.StickyError as error:
        raise verify.StickyError(f"{version.name}: {error}") from None
