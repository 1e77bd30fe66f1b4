"""The row of a rung that was checked, before it is timed or counted; and what small cases show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from workbench.harness import inputs, verify
from workbench.harness.results import Row
from workbench.operators import builds
from workbench.operators.builds import Rung
from workbench.operators.operator import DEVICES, Case, Operator, Tensors

Step = Callable[[str], None]  # is told what comes next


def no_step(text: str) -> None:
    """Ignore the text."""


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


def empty_row(operator: Operator, kernel: str, case: Case, target: str) -> Row:
    """A row that says nothing yet: of something that was not checked."""
    return Row(
        operator.name,
        kernel,
        str(case.shape),
        case.dtype,
        target,
        checked=False,
        options=case.written_options,
        layout="" if case.layout == next(iter(operator.layouts)) else case.layout,
        unit="gbps" if operator.flops is None else "tflops",
    )


def not_run(row: Row, why: str) -> Row:
    """The row of a rung that was not run on the case, and why."""
    return dataclasses.replace(row, checked=False, refused=why)


def short_of_memory(row: Row, error: Exception) -> Row:
    """The row of a rung that was not run as the case takes too much memory."""
    return not_run(row, f"needs more memory than there is ({verify.first_line(error)})")


def row(operator: Operator, rung: Rung, case: Case, target: str, tried: Mapping[str, Tried]) -> Row:
    """The row of a rung that was run on a case and compared with the reference.

    One that small cases have shown to be wrong (``tried``) is not run.
    """
    row = empty_row(operator, rung.name, case, target)
    if rung.name in tried and tried[rung.name].fault:
        return dataclasses.replace(row, note=tried[rung.name].fault)
    try:
        verdict = verify.check_rung(operator, rung, case, target)
    except torch.OutOfMemoryError as error:
        return short_of_memory(row, error)
    if verdict.refused:
        return not_run(row, verdict.refused)
    note = "" if verdict.ok else verdict.report()
    return dataclasses.replace(row, checked=verdict.ok, share=verdict.share, note=note)


def with_scratch(row: Row, target: str) -> Row:
    """The row with the scratch memory of the last launch among its counters."""
    scratch = {"scratch_bytes": builds.scratch_bytes(target)}
    return dataclasses.replace(row, counters={**row.counters, **scratch})


def tensors_for(operator: Operator, case: Case, device: torch.device) -> tuple[Tensors, Tensors]:
    """The inputs and outputs of a case on a device."""
    given = inputs.place_inputs(operator, case, device)
    outputs = inputs.place_outputs(operator, case, device)
    return inputs.views(given), inputs.views(outputs)


def torch_share(operator: Operator, case: Case) -> float:
    """The error of torch's own CPU kernel, relative to the error allowed for a rung."""
    expected = verify.expected(operator.name, case, "cpu")[operator.main_output(case)]
    got = operator.by_torch(inputs.values(operator, case), operator.distinct(case))
    return verify.compare(got.contiguous(), expected).share
