"""``--explain`` and ``--html`` of the test scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import simulator
from workbench.estimate import DEFAULT_GPU, GPUS
from workbench.explain import page, terminal
from workbench.explain.report import Report, explained
from workbench.harness import checking, counting, verify
from workbench.harness.environment import command_line
from workbench.harness.terminal import progress
from workbench.operators.builds import Rung
from workbench.operators.operator import Case, Operator
from workbench.toolchain.files import write_whole


def run(
    operator: Operator,
    rungs: Sequence[Rung],
    cases: Sequence[Case],
    html: Path | None,
    printed: bool,
    gpu: str = DEFAULT_GPU,
    sample: int = 0,
) -> int:
    """Explain rungs; return the exit status, 1 if one is wrong or the page cannot be written.

    Args:
        operator: what the rungs compute.
        rungs: the rungs to explain.
        cases: the inputs.
        html: the file for the page; None for no page.
        printed: whether to print the explanation.
        gpu: the GPU to estimate time and occupancy for, a key of ``estimate.GPUS``.
        sample: simulate so many blocks of each launch, and check the rungs on small cases; 0: all.
    """
    reports = []
    with progress(len(cases) * len(rungs)) as step:
        for case in cases:
            for rung in rungs:
                step(f"{rung.name}, {case.text}")
                reports.append(report(operator, rung, case, gpu, sample))
    if printed:
        terminal.show(reports)
    wrong = any(made.wrong for made in reports)
    if html is None:
        return int(wrong)
    try:
        write_whole(html, page.render(reports, command_line()))
    except OSError as error:
        print(f"error: --html {html}: {error.strerror}", file=sys.stderr)
        return 1
    for made in reports if not printed else ():
        if made.note:
            print(made.note)
    print(f"\nwrote {html}")
    return int(wrong)


def _no_estimate(launches: Sequence[simulator.Launch]) -> Callable[[], str]:
    return lambda: "kernel by kernel, in what follows"


def report(
    operator: Operator, rung: Rung, case: Case, gpu: str = DEFAULT_GPU, sample: int = 0
) -> Report:
    """Run a rung once on the simulator, check it, and explain what it did.

    With a ``sample`` of the blocks it is checked on the operator's small cases.
    """
    layout = "" if case.layout == next(iter(operator.layouts)) else f" {case.layout}"
    about = (operator.name, rung.name, f"{case.text}{layout}", case.dtype)
    tried: dict[str, checking.Tried] = {}
    if sample:
        tried = checking.try_rungs(operator, [rung], operator.small_cases(case.dtype), "simulator")
    try:
        with simulator.record() as launches:
            [row] = counting.measure(operator, [rung], case, tried, _no_estimate, sample=sample)
    except (RuntimeError, MemoryError) as error:
        if not verify.is_out_of_memory(error):
            raise
        why = f"needs more memory than there is ({verify.first_line(error)})"
        return Report(*about, (), f"{rung.name} did not run: {why}")
    if row.refused:
        return Report(*about, (), f"{rung.name} did not run: it {row.refused}")
    kernels = explained(launches, GPUS[gpu], operator.name)
    if not row.checked:
        return Report(*about, kernels, row.note, wrong=True)
    return Report(*about, kernels, "" if kernels else f"{rung.name} launched no kernel")
