"""Rows of a benchmark: each rung is checked first, then timed (GPU, CPU) or counted (simulator)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from workbench.harness import counters, inputs, timing, traffic, verify
from workbench.harness.results import Estimated, Row
from workbench.harness.roofs import Roofs
from workbench.operators import builds
from workbench.operators.builds import Declined, Rung
from workbench.operators.operator import DEVICES, Baseline, Case, Operator, Tensors

if TYPE_CHECKING:
    import simulator


# Starts estimating recorded launches; what it returns completes that: the estimate, or why there
# is none.
Estimator = Callable[[Sequence["simulator.Launch"]], Callable[[], Estimated | str]]
Step = Callable[[str], None]  # is told what comes next


def no_step(text: str) -> None:
    """Ignore the text."""


def _row(operator: Operator, kernel: str, case: Case, target: str, checked: bool) -> Row:
    return Row(
        operator.name,
        kernel,
        str(case.shape),
        case.dtype,
        target,
        checked,
        options=case.written_options,
        layout="" if case.layout == next(iter(operator.layouts)) else case.layout,
        unit="gbps" if operator.flops is None else "tflops",
    )


def _not_run(row: Row, why: str) -> Row:
    return dataclasses.replace(row, checked=False, refused=why)


def _short_of_memory(row: Row, error: Exception) -> Row:
    return _not_run(row, f"needs more memory than there is ({verify.first_line(error)})")


def checked(
    operator: Operator, rung: Rung, case: Case, target: str, tried: Mapping[str, Tried]
) -> Row:
    """The row of a rung that was run on a case and compared with the reference.

    One that small cases have shown to be wrong (``tried``) is not run.
    """
    row = _row(operator, rung.name, case, target, False)
    if rung.name in tried and tried[rung.name].fault:
        return dataclasses.replace(row, note=tried[rung.name].fault)
    try:
        verdict = verify.check_rung(operator, rung, case, target)
    except torch.OutOfMemoryError as error:
        return _short_of_memory(row, error)
    if verdict.refused:
        return _not_run(row, verdict.refused)
    note = "" if verdict.ok else verdict.report()
    return dataclasses.replace(row, checked=verdict.ok, share=verdict.share, note=note)


@dataclasses.dataclass(frozen=True)
class Tried:
    """What small cases showed of a rung.

    Attributes:
        fault: the report on the first case that it got wrong; "" if there is none.
        share: the largest error over the error allowed; None if it took none of the cases.
    """

    fault: str = ""
    share: float | None = None


def try_rungs(
    operator: Operator,
    rungs: Sequence[Rung],
    cases: Sequence[Case],
    target: str,
    step: Step = no_step,
) -> dict[str, Tried]:
    """Check every rung on small cases, until it gets one wrong; by its name.

    Cases that a rung does not support are left out. A benchmark's own shapes are multiples of
    everything and would hide a missing guard.

    Raises:
        verify.StickyError: a rung broke the GPU's context; the message names it.
    """
    device = torch.device(DEVICES[target])
    found = {rung.name: Tried() for rung in rungs}
    for case in cases:
        for rung in rungs:
            step(f"{rung.name}, {case.text}")
            if found[rung.name].fault or verify.unmet_need(operator, rung, case, device):
                continue
            verdict = verify.check_rung(operator, rung, case, target)
            if not verdict.ok:
                found[rung.name] = Tried(verdict.report())
            elif not verdict.refused:
                share = max(verdict.share, found[rung.name].share or 0.0)
                found[rung.name] = Tried(share=share)
    return found


def simulate(
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
        tensors = tensors or tensors_for(operator, case, device)
        run = _sampler(operator, case, tried, sample, tensors)
    complete: list[Callable[[], Row]] = []  # meanwhile the next rung runs
    for rung in rungs:
        step(f"{rung.name}, {case.text}")
        ran: list[Row] = []

        def check(rung: Rung = rung, rows: list[Row] = ran) -> None:
            rows.append(run(rung) if run else checked(operator, rung, case, "simulator", tried))

        launches = counters.record(check)
        row = ran[0]
        if row.checked:
            row = _with_scratch(_counted(operator, row, case, launches), "simulator")
        notes = dict.fromkeys(str(note) for launch in launches for note in launch.notes if note.odd)
        row = dataclasses.replace(row, note="\n".join(filter(None, (row.note, *notes))))
        found = estimator(launches) if row.checked and launches else None
        complete.append(functools.partial(_estimated, row, found))
    return [completed() for completed in complete]


def _with_scratch(row: Row, target: str) -> Row:
    """The row with the scratch memory of the last launch among its counters."""
    scratch = {"scratch_bytes": builds.scratch_bytes(target)}
    return dataclasses.replace(row, counters={**row.counters, **scratch})


def tensors_for(operator: Operator, case: Case, device: torch.device) -> tuple[Tensors, Tensors]:
    """The inputs and outputs of a case on a device."""
    given = inputs.place_inputs(operator, case, device)
    outputs = inputs.place_outputs(operator, case, device)
    return inputs.views(given), inputs.views(outputs)


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
            _row(operator, rung.name, case, "simulator", False), sampled_blocks=sample
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
            return _short_of_memory(row, short)
        if isinstance(error, Declined):
            return _not_run(row, f"declines: {error.reason}")
        if error is not None:
            verdict = verify.Verdict(subject, (f"raised {type(error).__name__}: {error}",))
            return dataclasses.replace(row, note=verdict.report())
        if found.share is None:
            return _not_run(
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


def torch_share(operator: Operator, case: Case) -> float:
    """The error of torch's own CPU kernel, relative to the error allowed for a rung."""
    expected = verify.expected(operator.name, case, "cpu")[operator.main_output(case)]
    got = operator.by_torch(inputs.values(operator, case), operator.distinct(case))
    return verify.compare(got.contiguous(), expected).share


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something to time: its row so far and how to run it."""

    row: Row
    run: Callable[[], object]
    written: bool  # its outputs can be checked after timing


def timed(
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
        row = checked(operator, rung, case, target, tried)
        rows.append(_with_scratch(row, target) if row.checked else row)
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
    found = time_in_turns(operator, candidates, outputs, case, device, roofs)
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
    """How often ``timed`` and ``simulate`` tell what comes next."""
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
    row = _row(operator, baseline.name, case, baseline.target, False)
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
        row = _not_run(row, verify.first_line(error))
    return Candidate(row, lambda: baseline.run(given, views, case), False)


def _compared(row: Row, main: str, comparison: verify.Comparison) -> Row:
    """A baseline's row with the result of its comparison with the reference."""
    lines = [f"{row.kernel} differs from the reference:"]
    lines += [f"  {line}" for line in verify.comparison_lines(main, comparison)]
    right = comparison.wrong == 0
    note = "" if right else "\n".join(lines)
    return dataclasses.replace(row, checked=right, share=comparison.share, note=note)


def time_in_turns(
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
