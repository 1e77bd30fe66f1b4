"""Rows of a benchmark on the simulator: each rung is checked, counted, and its time estimated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from workbench.harness import checking, counters, traffic, verify
from workbench.harness.checking import Step, Tried, no_step
from workbench.harness.results import Estimated, Row
from workbench.operators.builds import Declined, Rung
from workbench.operators.operator import DEVICES, Case, Operator, Tensors

if TYPE_CHECKING:
    import simulator


# Starts estimating recorded launches; what it returns completes that: the estimate, or why there
# is none.
Estimator = Callable[[Sequence["simulator.Launch"]], Callable[[], Estimated | str]]


def measure(
    operator: Operator,
    rungs: Sequence[Rung],
    case: Case,
    tried: Mapping[str, Tried],
    estimator: Estimator,
    *,
    sample: int = 0,
    step: Step = no_step,
    tensors: tuple[Tensors, Tensors] | None = None,
) -> list[Row]:
    """Check every rung on the simulator, count what it does, and estimate a GPU's time.

    Args:
        operator: what the rungs compute.
        rungs: the rungs.
        case: the input.
        tried: what small cases showed of the rungs; those that got one wrong are not run.
        estimator: what estimates the time.
        sample: run so many blocks of each launch, and scale what they count to its grid. Most of
            the output is not written then, so a rung is as right as it was in ``tried``. 0: all.
        step: is told which rung comes next.
        tensors: with a sample, those that ``tensors_for`` made; None makes them.
    """
    run = None
    if sample:
        device = torch.device(DEVICES["simulator"])
        tensors = tensors or checking.tensors_for(operator, case, device)
        run = _sampler(operator, case, tried, sample, tensors)
    complete: list[Callable[[], Row]] = []  # meanwhile the next rung runs
    for rung in rungs:
        step(f"{rung.name}, {case.text}")
        ran: list[Row] = []

        def check(rung: Rung = rung, rows: list[Row] = ran) -> None:
            rows.append(
                run(rung) if run else checking.row(operator, rung, case, "simulator", tried)
            )

        launches = counters.record(check)
        row = ran[0]
        if row.checked:
            row = checking.with_scratch(_counted(operator, row, case, launches), "simulator")
        notes = dict.fromkeys(str(note) for launch in launches for note in launch.notes if note.odd)
        row = dataclasses.replace(row, note="\n".join(filter(None, (row.note, *notes))))
        found = estimator(launches) if row.checked and launches else None
        complete.append(functools.partial(_estimated, row, found))
    return [completed() for completed in complete]


def _sampler(
    operator: Operator,
    case: Case,
    tried: Mapping[str, Tried],
    sample: int,
    tensors: tuple[Tensors, Tensors],
) -> Callable[[Rung], Row]:
    """What runs a sample of a rung's blocks: right, if the rung was right in ``tried``."""
    import simulator

    device = torch.device(DEVICES["simulator"])
    given, outputs = tensors

    def run(rung: Rung) -> Row:
        row = dataclasses.replace(
            checking.empty_row(operator, rung.name, case, "simulator"), sampled_blocks=sample
        )
        found = tried[rung.name]
        unmet = verify.unmet_need(operator, rung, case, device)
        if found.fault or unmet:
            return dataclasses.replace(row, note=found.fault, refused=unmet or "")
        subject = verify.describe(operator.name, rung.name, "simulator", case)

        def launch(given: Tensors, out: Tensors) -> None:
            operator.launch("simulator", given, out, case, rung.name)

        try:
            # What other kernels read, the blocks that did not run have not written.
            with simulator.settings(sample_blocks=sample, checks=("memcheck", "synccheck")):
                error = verify.run_launch(launch, given, outputs, device, subject)
        except torch.OutOfMemoryError as short:
            return checking.short_of_memory(row, short)
        if isinstance(error, Declined):
            return checking.not_run(row, f"declines: {error.reason}")
        if error is not None:
            verdict = verify.Verdict(subject, (f"raised {type(error).__name__}: {error}",))
            return dataclasses.replace(row, note=verdict.report())
        if found.share is None:
            return checking.not_run(
                row, "supports none of the operator's small cases, so it is not checked"
            )
        return dataclasses.replace(row, checked=True, share=found.share)

    return run


def _counted(
    operator: Operator,
    row: Row,
    case: Case,
    launches: Sequence[simulator.Launch],
) -> Row:
    """The row of a right rung with its counters."""
    row = dataclasses.replace(row, counters=counters.totals(launches))
    if operator.flops is None and launches:
        bytes_ = traffic.counted(row.counters, operator.ideal_bytes(case))
        row = dataclasses.replace(row, traffic=bytes_)
    return row


def _estimated(row: Row, complete: Callable[[], Estimated | str] | None) -> Row:
    """The row with its estimate; the note says if there is none."""
    if complete is None:
        return row
    found = complete()
    if isinstance(found, str):
        note = "\n".join(filter(None, (f"{row.kernel}: {found}", row.note)))
        return dataclasses.replace(row, note=note)
    estimated = {counters.estimate_key(found.gpu): found.time_ms}
    return dataclasses.replace(row, counters={**row.counters, **estimated}, estimate=found)
