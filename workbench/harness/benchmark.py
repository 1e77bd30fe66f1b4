"""Rows of a benchmark on a GPU or the CPU: each rung is checked, timed in turns, checked again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from workbench.harness import checking, inputs, timing, traffic, verify
from workbench.harness.checking import Step, Tried, no_step
from workbench.harness.results import Row
from workbench.harness.roofs import Roofs
from workbench.operators.builds import Rung
from workbench.operators.operator import DEVICES, Baseline, Case, Operator, Tensors


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something to time: its row so far and how to run it."""

    row: Row
    run: Callable[[], object]
    written: bool  # its outputs can be checked after timing


def measure(
    operator: Operator,
    rungs: Sequence[Rung],
    case: Case,
    tried: Mapping[str, Tried],
    target: str,
    roofs: Roofs,
    step: Step = no_step,
) -> list[Row]:
    """Check every rung, time the right ones and the baselines in turns, check again.

    Args:
        operator: what the rungs compute.
        rungs: the rungs.
        case: the input.
        tried: what small cases showed of the rungs; those that got one wrong are not run.
        target: "gpu" or "cpu".
        roofs: of the device.
        step: is told which rung comes next.

    Raises:
        verify.StickyError: a rung broke the GPU's context; the message names it.
        torch.OutOfMemoryError: the inputs and outputs together do not fit on the device.
    """
    device = torch.device(DEVICES[target])
    rows = []
    for rung in rungs:
        step(f"{rung.name}, {case.text}")
        row = checking.row(operator, rung, case, target, tried)
        rows.append(checking.with_scratch(row, target) if row.checked else row)
    if not any(row.checked for row in rows):
        return rows
    given = inputs.views(inputs.place_inputs(operator, case, device))
    outputs = inputs.place_outputs(operator, case, device)
    views = inputs.views(outputs)
    candidates = [
        candidate_of(operator, row, given, views, case, device) for row in rows if row.checked
    ]
    for baseline in operator.baselines:
        if baseline.target == target and baseline.applies(case):
            candidate = _baseline_candidate(operator, baseline, given, views, case, device)
            rows.append(candidate.row)
            candidates += [] if candidate.row.refused else [candidate]
    found = in_turns(operator, candidates, outputs, case, device, roofs)
    rows = [found.get(row.kernel, row) for row in rows]
    if operator.flops or target == "cpu":
        return rows
    counted = []
    for row in rows:
        if not row.baseline:
            step(f"bytes of {row.kernel}, {case.text}")
        counted.append(_with_traffic(operator, row, case))
    return counted


def steps(operator: Operator, rungs: Sequence[Rung], target: str) -> int:
    """How often ``measure``, here and in ``counting``, tells what comes next."""
    twice = target == "gpu" and not operator.flops
    return len(rungs) * (2 if twice else 1)


def _with_traffic(operator: Operator, row: Row, case: Case) -> Row:
    """A timed rung's row with the bytes counted by the simulator; if none, the note says why."""
    if row.baseline or row.time_ms is None:
        return row
    try:
        return dataclasses.replace(row, traffic=traffic.simulated(operator, row.kernel, case))
    except RuntimeError as error:  # includes BuildError
        note = f"{row.kernel}: its bytes were not counted: {verify.first_line(error)}"
        return dataclasses.replace(row, note=note)


def candidate_of(
    operator: Operator,
    row: Row,
    given: Tensors,
    views: Tensors,
    case: Case,
    device: torch.device,
) -> Candidate:
    """A rung to time on these inputs and outputs, given its row so far."""
    subject = verify.describe(operator.name, row.kernel, row.target, case)

    def run() -> None:
        try:
            operator.launch(row.target, given, views, case, row.kernel)
        except verify.LAUNCH_ERRORS as error:
            verify.raise_if_sticky(error, device, subject)
            raise

    return Candidate(row, run, True)


def _baseline_candidate(
    operator: Operator,
    baseline: Baseline,
    given: Tensors,
    views: Tensors,
    case: Case,
    device: torch.device,
) -> Candidate:
    row = checking.empty_row(operator, baseline.name, case, baseline.target)
    row = dataclasses.replace(row, baseline=True)
    try:
        got = baseline.run(given, views, case)
        if baseline.comparable:
            main = operator.main_output(case)
            expected = verify.expected(operator.name, case, str(device))[main]
            row = _compared(row, main, verify.compare(got.contiguous(), expected))
    except RuntimeError as error:
        subject = verify.describe(operator.name, baseline.name, baseline.target, case)
        verify.raise_if_sticky(error, device, subject)
        row = checking.not_run(row, verify.first_line(error))
    return Candidate(row, lambda: baseline.run(given, views, case), False)


def _compared(row: Row, main: str, comparison: verify.Comparison) -> Row:
    """A baseline's row with the result of its comparison with the reference."""
    lines = [f"{row.kernel} differs from the reference:"]
    lines += [f"  {line}" for line in verify.comparison_lines(main, comparison)]
    right = comparison.wrong == 0
    note = "" if right else "\n".join(lines)
    return dataclasses.replace(row, checked=right, share=comparison.share, note=note)


def in_turns(
    operator: Operator,
    candidates: Sequence[Candidate],
    outputs: Mapping[str, inputs.Placed],
    case: Case,
    device: torch.device,
    roofs: Roofs,
) -> dict[str, Row]:
    """Time candidates in turns, then check their outputs again; the rows by their kernels."""
    if not candidates:
        return {}
    runs = {candidate.row.kernel: candidate.run for candidate in candidates}
    try:
        times = timing.time_interleaved(runs, device)
    except RuntimeError as error:
        verify.raise_if_sticky(error, device, f"{operator.name}, one of {', '.join(runs)}")
        raise
    vendors = {c.row.kernel: times[c.row.kernel].median_ms for c in candidates if c.row.baseline}
    rows = {}
    for candidate in candidates:
        row = _with_time(operator, candidate.row, case, times[candidate.row.kernel], roofs)
        own = times[row.kernel].median_ms
        ratios = {name: ms / own for name, ms in vendors.items() if name != row.kernel}
        row = dataclasses.replace(row, ratios=ratios)
        rows[row.kernel] = _check_again(operator, candidate, outputs, row, case, device)
    return rows


def _with_time(operator: Operator, row: Row, case: Case, time: timing.Timing, roofs: Roofs) -> Row:
    work = operator.flops(case) if operator.flops else operator.ideal_bytes(case)
    giga_per_s = work / (time.median_ms * 1e-3) / 1e9
    rate = giga_per_s if row.unit == "gbps" else giga_per_s / 1e3
    roof = roofs.of(row.unit)
    return dataclasses.replace(
        row,
        time_ms=time.median_ms,
        spread=time.spread_ms,
        rate=rate,
        roof_fraction=rate / roof if roof else None,
    )


def _check_again(
    operator: Operator,
    candidate: Candidate,
    outputs: Mapping[str, inputs.Placed],
    row: Row,
    case: Case,
    device: torch.device,
) -> Row:
    """Run a timed rung again and check its outputs; a wrong row loses its figures."""
    if not candidate.written:
        return row
    expected = verify.expected(operator.name, case, str(device))
    findings: list[str] = []
    for placed in outputs.values():
        inputs.fill_guard(placed.buffer)
        inputs.fill_unwritten(placed.view)
    candidate.run()
    for name, placed in outputs.items():
        got = placed.view.clone(memory_format=torch.contiguous_format)
        findings += verify.comparison_lines(name, verify.compare(got, expected[name]))
        findings += verify.guard_lines(name, placed)
    if not findings:
        return row
    subject = verify.describe(operator.name, row.kernel, row.target, case)
    verdict = verify.Verdict(f"{subject}, after timing", tuple(findings))
    return dataclasses.replace(candidate.row, checked=False, note=verdict.report())
