"""The command line of the scripts test_<op>.py.

``python test_<op>.py [--kernel NAME ...] [--shape SIZE=.. ...] [--option NAME ...] [--layout NAME
...] [--dtype DTYPE ...] [--target gpu|simulator|cpu] [--gpu NAME] [--sample BLOCKS]
[--check[=NAMES]] [--json FILE] [--csv FILE] [--plot FILE]`` checks every rung and, if it is right,
times it on a GPU or the CPU, or counts what it does on the simulator and estimates a GPU's time: of
a sample of the blocks, at a GPU's sizes, unless ``--shape`` asks for others.
With ``--check`` the simulator also looks for races, reads of unwritten memory and the like.
``--explain NAME ...`` and the other views (workbench.cli.views) show something else instead.
``--backward`` selects the ladder of the gradient, if there is one. The exit status is 0 if all
rungs are right, 1 if one is wrong or does not build or memory runs out, 2 for an invalid command
line (workbench.cli.request).
"""

from __future__ import annotations

import functools
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext

import torch

import simulator
from workbench import estimate, operators
from workbench.cli import columns, plot
from workbench.cli.recorded import Results, open_history
from workbench.cli.request import Request, request
from workbench.harness import benchmark, checking, counting, goals, parents
from workbench.harness.environment import environment, smi_number
from workbench.harness.figures import percent
from workbench.harness.results import Row
from workbench.harness.roofs import Roofs, device_roofs
from workbench.harness.terminal import PLAIN_WIDTH, progress, show, text_width
from workbench.harness.verify import expected, first_line, is_out_of_memory
from workbench.history import Previous
from workbench.operators import builds
from workbench.operators.operator import DEVICES, Case
from workbench.toolchain import REPO, command

ROOF_SLACK = 1.02  # accuracy of clocks and timers; a rate above it is a measurement error


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run an operator's script; return its exit status.

    Args:
        name: the operator whose script it is.
        arguments: the command line, ``sys.argv[1:]`` if None.
    """

    def run() -> int:
        asked = request(operators.get(name), arguments)
        with (
            asked.saved.alone(),
            simulator.settings(checks=asked.checks) if asked.checks else nullcontext(),
        ):
            return _run(asked)

    return command.status(run, f"test_{name}.py")


def _run(asked: Request) -> int:
    device = torch.device(DEVICES[asked.target])
    print(f"target: {asked.target} ({asked.why})")
    if asked.checks:
        print(f"checks: {', '.join(asked.checks)}")
    if asked.view is not None:
        return asked.view.run(asked)
    here = environment(asked.target, device, REPO)
    history = open_history()
    roofs = Roofs(None, None)
    if asked.target == "gpu":
        roofs = device_roofs(device, smi_number("clocks.max.sm", device))
    sources = builds.texts(asked.operator.name, asked.target)
    results = Results(history, here, asked.saved, sources, asked.words.note)
    small = _Small(asked)
    told: set[str] = set()
    estimator = functools.partial(estimate.begin, op=asked.operator.name, gpu=asked.gpu)
    for case in asked.cases:
        rungs, tried = asked.rungs_for(case.dtype), small.of(case.dtype)
        about = asked.operator, rungs, case, tried
        try:
            with progress(benchmark.steps(asked.operator, rungs, asked.target)) as step:
                if asked.target == "simulator":
                    rows = counting.measure(*about, estimator, sample=asked.sample, step=step)
                else:
                    rows = benchmark.measure(*about, asked.target, roofs, step)
            previous = results.previous(rows)
            results.add(rows)
            _show(asked, case, rows, previous, told)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            text = first_line(error)
            print(f"error: {case.text}: not enough memory ({text})", file=sys.stderr)
            results.failed = True
        expected.cache_clear()
    if results.rows:
        shown = columns.columns(results.rows[0], columns.baselines_of(results.rows))
        gpu = asked.gpu.name if asked.target == "simulator" else None
        print(f"\n{columns.legend(shown, gpu)}")
    _show_goals(results.rows)
    if asked.words.plot:
        results.failed |= not plot.draw(asked, here, results.rows, roofs)
    return int(results.failed)


def _show_goals(rows: Sequence[Row]) -> None:
    """Print the goals of the last rung, if any, and whether it meets them."""
    found = goals.goals(rows)
    if found:
        print()
        show("goals", goals.TITLES, [goal.cells() for goal in found])
        print(goals.mean_line(found))


class _Small:
    """What small cases show of the rungs, computed when a dtype is first requested."""

    def __init__(self, asked: Request) -> None:
        self.asked = asked
        self.found: dict[str, dict[str, checking.Tried]] = {}

    def of(self, dtype: str) -> dict[str, checking.Tried]:
        """The results by rung; prints which rungs do not support the dtype."""
        if dtype not in self.found:
            asked, rungs = self.asked, self.asked.rungs_for(dtype)
            without = [rung.name for rung in asked.rungs if rung not in rungs]
            if without:
                print(f"these do not support {dtype}: {', '.join(without)}")
            cases = asked.operator.edge_cases(dtype)
            if asked.sample:
                cases += asked.operator.small_cases(dtype)
            with progress(len(cases) * len(rungs)) as step:
                about = asked.operator, rungs, cases, asked.target
                self.found[dtype] = checking.try_rungs(*about, step)
            if asked.sample:
                print(_sampled(asked, cases))
        return self.found[dtype]


def _sampled(asked: Request, cases: Sequence[Case]) -> str:
    blocks = "1 block" if asked.sample == 1 else f"{asked.sample} blocks"
    return (
        f"checked on {len(cases)} small shapes; the tables count {blocks} of each launch, scaled "
        "to its grid\n(--shape runs and checks every block)"
    )


def _show(
    asked: Request,
    case: Case,
    rows: Sequence[Row],
    previous: dict[str, Previous | None],
    told: set[str],
) -> None:
    """Print a case's table and its notes, except for those already ``told``."""
    entries = [columns.Entry(row, previous.get(row.kernel)) for row in rows]
    every = columns.columns(rows[0], columns.baselines_of(rows))
    shown = columns.fitting(every, entries, text_width())
    print()
    show(
        f"{asked.operator.name} {rows[0].subject}",
        [column.title for column in shown],
        list(columns.cells(shown, entries)),
    )
    missing = [column.title for column in columns.fitting(every, entries, PLAIN_WIDTH)]
    missing = [title for title in missing if title not in {column.title for column in shown}]
    if missing:
        names = ", ".join(" ".join(title.split()) for title in missing)
        print(f"left out, as the terminal is narrow: {names}")
    if asked.target == "simulator":
        small = asked.operator.small_cases(case.dtype)[0] if asked.sample else case
        share = percent(checking.torch_share(asked.operator, small))
        print(f"torch's own CPU kernel uses {share} of the allowed error")
    for reason in parents.reasons(rows):
        print(textwrap.fill(reason, text_width(), subsequent_indent="  "))
    for row in rows:
        if row.note and row.note not in told:
            told.add(row.note)
            print(row.note)
        share_of_roof = row.roof_fraction or 0.0
        if not row.baseline and share_of_roof > ROOF_SLACK:
            print(
                f"ALARM  {row.kernel}: {100 * share_of_roof:.0f}% of the roof is impossible; "
                "the time or the roof is wrong"
            )
