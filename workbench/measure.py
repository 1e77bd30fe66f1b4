"""Rows of a benchmark: each rung checked first, then timed (GPU) or counted (simulator)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from workbench import check, counters, estimate, inputs, operations, timing, traffic
from workbench.baselines import BASELINES, Baseline, torch_output
from workbench.estimate import DEFAULT_GPU, GPUS, Gpu
from workbench.ops import Rung
from workbench.problems import DEVICES, Case, Operation, Tensors
from workbench.results import Estimated, Row
from workbench.roofs import Roofs

if TYPE_CHECKING:
    import simulator


def _row(operation: Operation, kernel: str, case: Case, target: str, checked: bool) -> Row:
    unit = "gbps" if operation.flops is None else "tflops"
    shape = str(case.shape)
    return Row(operation.name, kernel, shape, case.dtype, target, checked, unit=unit)


def _not_run(row: Row, why: str) -> Row:
    note = f"{row.kernel} was not run: {why}"
    return dataclasses.replace(row, checked=False, refused=True, note=note)


def _checked(
    operation: Operation, rung: Rung, case: Case, target: str, faults: Mapping[str, str]
) -> Row:
    row = _row(operation, rung.name, case, target, False)
    if rung.name in faults:
        return dataclasses.replace(row, note=faults[rung.name])
    try:
        verdict = check.check_rung(operation, rung, case, target)
    except torch.OutOfMemoryError as error:
        return _not_run(row, f"needs more memory than there is ({check.first_line(error)})")
    if verdict.refused:
        device = torch.device(DEVICES[target])
        return _not_run(row, check.unmet_requirement(operation, rung, case, device) or "")
    note = "" if verdict.ok else verdict.report()
    return dataclasses.replace(row, checked=verdict.ok, share=verdict.share, note=note)


def edge_faults(
    operation: Operation, rungs: Sequence[Rung], dtype: str, target: str
) -> dict[str, str]:
    """Check every rung on the operation's edge cases; the report on each that is wrong, by name.

    Cases that a rung does not take are left out. A benchmark's own shapes are multiples of
    everything and would hide a missing guard.

    Raises:
        check.StickyError: a rung broke the GPU's context; the message names it.
    """
    device = torch.device(DEVICES[target])
    faults: dict[str, str] = {}
    for case in operation.edge_cases(dtype):
        for rung in rungs:
            if rung.name in faults or check.unmet_requirement(operation, rung, case, device):
                continue
            verdict = check.check_rung(operation, rung, case, target)
            if not verdict.ok:
                faults[rung.name] = verdict.report()
    return faults


def simulate(
    operation: Operation,
    rungs: Sequence[Rung],
    case: Case,
    faults: Mapping[str, str],
    gpu: Gpu = GPUS[DEFAULT_GPU],
) -> list[Row]:
    """Check every rung on the simulator, count what it does meanwhile, estimate a GPU's time.

    Args:
        operation: what the rungs compute.
        rungs: the rungs.
        case: the input.
        faults: reports on rungs that are known to be wrong and not run (``edge_faults``).
        gpu: which GPU's time is estimated.
    """
    rows = []
    for rung in rungs:
        checked: list[Row] = []
        launches = counters.record(
            lambda rung=rung, rows=checked: rows.append(
                _checked(operation, rung, case, "simulator", faults)
            )
        )
        row = checked[0]
        rows.append(_counted(operation, row, case, launches, gpu) if row.checked else row)
    return rows


def _counted(
    operation: Operation,
    row: Row,
    case: Case,
    launches: Sequence[simulator.Launch],
    gpu: Gpu,
) -> Row:
    """A right row with its counters and estimate; the note says if there is none."""
    row = dataclasses.replace(row, counters=counters.totals(launches))
    if not launches:
        return row
    if operation.flops is None:
        bytes_ = traffic.counted(row.counters, operation.ideal_bytes(case))
        row = dataclasses.replace(row, traffic=bytes_)
    try:
        found = estimate.estimate_launches(launches, estimate.ladder_sources(row.op), gpu)
    except estimate.EstimateError as error:
        note = f"{row.kernel}: no estimate for the {gpu.title}: {check.first_line(error)}"
        return dataclasses.replace(row, note=note)
    held = found.occupancy
    estimated = Estimated(
        gpu.name, found.time_ms, found.band, found.limiter, held.fraction, held.limiter
    )
    return dataclasses.replace(
        row,
        counters={**row.counters, counters.estimate_key(gpu.name): found.time_ms},
        estimate=estimated,
    )


def torch_share(operation: Operation, case: Case) -> float:
    """The error of torch's own CPU kernel over the error allowed to a rung."""
    expected = operations.expected(operation.name, case, "cpu")["out"]
    got = torch_output(operation.name, operation.values(case), case)
    return check.compare(got, expected).share


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something to be timed: its row so far and what runs it."""

    row: Row
    run: Callable[[], None]
    written: bool  # its outputs can be checked after timing


def time_on_gpu(
    operation: Operation,
    rungs: Sequence[Rung],
    case: Case,
    faults: Mapping[str, str],
    roofs: Roofs,
) -> list[Row]:
    """Check every rung, time the right ones and the vendor's in turns, check once more.

    Args:
        operation: what the rungs compute.
        rungs: the rungs.
        case: the input.
        faults: reports on rungs that are known to be wrong and not run (``edge_faults``).
        roofs: of the GPU.

    Raises:
        check.StickyError: a rung broke the GPU's context; the message names it.
        torch.OutOfMemoryError: the inputs and outputs do not fit on the GPU together.
    """
    device = torch.device(DEVICES["gpu"])
    rows = [_checked(operation, rung, case, "gpu", faults) for rung in rungs]
    if not any(row.checked for row in rows):
        return rows
    placed = operation.place_inputs(case, device)
    given = {name: tensor.view for name, tensor in placed.items()}
    outputs = operation.place_outputs(case, device)
    views = {name: tensor.view for name, tensor in outputs.items()}
    candidates = [
        _rung_candidate(operation, row, given, views, case, device) for row in rows if row.checked
    ]
    for baseline in BASELINES[operation.name]:
        if baseline.applies(case):
            candidate = _baseline_candidate(operation, baseline, given, views, case, device)
            rows.append(candidate.row)
            candidates += [] if candidate.row.refused else [candidate]
    timed = _time(operation, candidates, outputs, case, device, roofs)
    rows = [timed.get(row.kernel, row) for row in rows]
    return rows if operation.flops else [_with_traffic(operation, row, case) for row in rows]


def _with_traffic(operation: Operation, row: Row, case: Case) -> Row:
    """A timed rung's row with the bytes that the simulator counts; the note says why if not."""
    if row.baseline or row.time_ms is None:
        return row
    try:
        return dataclasses.replace(row, traffic=traffic.simulated(operation, row.kernel, case))
    except RuntimeError as error:  # BuildError is one
        note = f"{row.kernel}: its bytes are not counted: {check.first_line(error)}"
        return dataclasses.replace(row, note=note)


def _rung_candidate(
    operation: Operation,
    row: Row,
    given: Tensors,
    views: Tensors,
    case: Case,
    device: torch.device,
) -> Candidate:
    subject = check.describe(operation.name, row.kernel, "gpu", case)

    def run() -> None:
        try:
            operation.launch("gpu", given, views, case, row.kernel)
        except check.LAUNCH_ERRORS as error:
            check.raise_if_sticky(error, device, subject)
            raise

    return Candidate(row, run, True)


def _baseline_candidate(
    operation: Operation,
    baseline: Baseline,
    given: Tensors,
    views: Tensors,
    case: Case,
    device: torch.device,
) -> Candidate:
    row = dataclasses.replace(_row(operation, baseline.name, case, "gpu", False), baseline=True)
    try:
        got = baseline.run(given, views, case)
        if baseline.comparable:
            expected = operations.expected(operation.name, case, str(device))["out"]
            row = _compared(row, check.compare(got.contiguous(), expected))
    except RuntimeError as error:
        subject = check.describe(operation.name, baseline.name, "gpu", case)
        check.raise_if_sticky(error, device, subject)
        row = _not_run(row, check.first_line(error))
    return Candidate(row, lambda: baseline.run(given, views, case), False)


def _compared(row: Row, comparison: check.Comparison) -> Row:
    """A baseline's row with what its comparison with the reference says."""
    lines = [f"{row.kernel} differs from the reference:"]
    lines += [f"  {line}" for line in check.comparison_lines("out", comparison)]
    right = comparison.wrong == 0
    note = "" if right else "\n".join(lines)
    return dataclasses.replace(row, checked=right, share=comparison.share, note=note)


def _time(
    operation: Operation,
    candidates: Sequence[Candidate],
    outputs: Mapping[str, inputs.Placed],
    case: Case,
    device: torch.device,
    roofs: Roofs,
) -> dict[str, Row]:
    if not candidates:
        return {}
    runs = {candidate.row.kernel: candidate.run for candidate in candidates}
    try:
        times = timing.time_interleaved(runs, device)
    except RuntimeError as error:
        check.raise_if_sticky(error, device, f"{operation.name}, one of {', '.join(runs)}")
        raise
    vendors = {c.row.kernel: times[c.row.kernel].median_ms for c in candidates if c.row.baseline}
    rows = {}
    for candidate in candidates:
        row = _with_time(operation, candidate.row, case, times[candidate.row.kernel], roofs)
        ratios = {name: ms / row.time_ms for name, ms in vendors.items() if name != row.kernel}
        row = dataclasses.replace(row, ratios=ratios)
        rows[row.kernel] = _check_again(operation, candidate, outputs, row, case, device)
    return rows


def _with_time(
    operation: Operation, row: Row, case: Case, time: timing.Timing, roofs: Roofs
) -> Row:
    work = operation.flops(case.shape) if operation.flops else operation.ideal_bytes(case)
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
    operation: Operation,
    candidate: Candidate,
    outputs: Mapping[str, inputs.Placed],
    row: Row,
    case: Case,
    device: torch.device,
) -> Row:
    """Run a timed rung once more and look at what it left; a wrong row loses its figures."""
    if not candidate.written:
        return row
    expected = operations.expected(operation.name, case, str(device))
    findings: list[str] = []
    for placed in outputs.values():
        inputs.fill_guard(placed.buffer)
        inputs.fill_unwritten(placed.view)
    candidate.run()
    for name, placed in outputs.items():
        got = placed.view.clone(memory_format=torch.contiguous_format)
        findings += check.comparison_lines(name, check.compare(got, expected[name]))
        findings += check.guard_lines(name, placed)
    if not findings:
        return row
    subject = check.describe(operation.name, row.kernel, "gpu", case)
    verdict = check.Verdict(f"{subject}, after timing", tuple(findings))
    return dataclasses.replace(candidate.row, checked=False, note=verdict.report())
