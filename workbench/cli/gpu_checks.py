"""Checks every rung of an operator on the GPU: right, refused or wrong.

``python -m workbench.cli.gpu_checks OP --json FILE`` checks the operator's edge cases in every
dtype and samples of its test grids. FILE is written after each check, so it also names a rung that
hangs. A rung that breaks the GPU's context ends the process; a new process checks the others. Exit
status 1 if a rung is wrong.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import importlib
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from workbench import operators
from workbench.harness import verify
from workbench.harness.environment import environment
from workbench.harness.terminal import show
from workbench.operators import builds
from workbench.operators.operator import DEVICES, Case, Operator
from workbench.toolchain import REPO, command
from workbench.toolchain.errors import Failure

REPORTS = 5  # kept per rung
TITLES = ("rung", "right", "refused", "no memory", "wrong", "error / allowed")


@dataclass
class Tally:
    """The results of checking a rung.

    Attributes:
        kernel: its name.
        right: number of cases in which it is right.
        refused: number of cases whose input it refuses, by reason.
        no_memory: number of cases that did not fit in memory.
        wrong: number of cases in which it is wrong.
        share: the largest error over the allowed error.
        reports: on the first wrong cases.
    """

    kernel: str
    right: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    no_memory: int = 0
    wrong: int = 0
    share: float = 0.0
    reports: list[str] = field(default_factory=list)

    @property
    def result(self) -> str:
        """The result over all its cases, in one word."""
        if self.wrong:
            return "wrong"
        if self.right:
            return "right"
        return "refused" if self.refused else "not checked"

    def add(self, verdict: verify.Verdict) -> None:
        """Count a case."""
        if not verdict.ok:
            self.fail(verdict.report())
        elif verdict.refused:
            self.refused[verdict.refused] = self.refused.get(verdict.refused, 0) + 1
        else:
            self.right += 1
            self.share = max(self.share, verdict.share)

    def fail(self, report: str) -> None:
        """Count a wrong case."""
        self.wrong += 1
        if len(self.reports) < REPORTS:
            self.reports.append(report)

    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        counts = (self.right, sum(self.refused.values()), self.no_memory, self.wrong)
        return self.kernel, *map(str, counts), f"{self.share:.2f}"


class Results:
    """The tallies of all rungs, and the file that holds them."""

    def __init__(
        self, operator: Operator, target: str, path: Path, broken: Collection[str] = ()
    ) -> None:
        self.operator, self.path = operator, path
        self.tallies = {rung.name: Tally(rung.name) for rung in ladder(operator, target)}
        if broken:
            try:
                for row in json.loads(path.read_bytes())["rungs"]:
                    if row["kernel"] in broken:
                        del row["result"]
                        self.tallies[row["kernel"]] = Tally(**row)
            except (OSError, ValueError, TypeError, LookupError):
                raise Failure(f"--broken: {path} is not what this command wrote") from None
        head = asdict(environment(target, torch.device(DEVICES[target]), REPO))
        del head["clocks"]
        words = f"python -m workbench.cli.gpu_checks {operator.name}"
        self.head = head | {"command": words, "op": operator.name}

    def write(self, checking: str | None) -> None:
        """Save the results so far; ``checking`` is what runs next, None at the end."""
        rows = [{**asdict(tally), "result": tally.result} for tally in self.tallies.values()]
        document = {**self.head, "checking": checking, "rungs": rows}
        self.path.write_text(json.dumps(document, indent=1) + "\n")

    def of(self, result: str) -> list[str]:
        """The rungs with the given result."""
        return [tally.kernel for tally in self.tallies.values() if tally.result == result]


def ladder(operator: Operator, target: str) -> tuple[builds.Rung, ...]:
    """The rungs of a target's build. Raises BuildError."""
    return builds.extension(target).ladders[operator.name]


def cases(operator: Operator, rungs: Sequence[builds.Rung]) -> list[Case]:
    """The edge cases in every dtype that a rung supports, then samples of the test grids."""
    dtypes = dict.fromkeys(dtype for rung in rungs for dtype in rung.dtypes)
    edges = [case for dtype in dtypes for case in operator.edge_cases(dtype)]
    return list(dict.fromkeys([*edges, *_grids(operator)]))


def _grids(operator: Operator) -> Iterator[Case]:
    """The arguments of the scripts' ``grid`` markers: (operator, sample, ...)."""
    for script in sorted(REPO.glob("test_*.py")):
        for test in vars(importlib.import_module(script.stem)).values():
            for mark in getattr(test, "pytestmark", ()):
                if mark.name == "grid" and mark.args[0] is operator and len(mark.args) > 1:
                    yield from mark.args[1]


def check_all(
    operator: Operator, target: str, results: Results, broken: Collection[str] = ()
) -> str | None:
    """Check every rung except the broken ones on every case.

    Returns:
        The rung that broke the GPU's context, which ends this process; None otherwise.
    """
    rungs = ladder(operator, target)
    checked = [rung for rung in rungs if rung.name not in broken]
    for case in cases(operator, rungs):
        for rung in checked:
            tally = results.tallies[rung.name]
            results.write(verify.describe(operator.name, rung.name, target, case))
            try:
                tally.add(verify.check_rung(operator, rung, case, target))
            except verify.StickyError as error:
                tally.fail(str(error))
                results.write(None)
                return rung.name
            except (RuntimeError, MemoryError) as error:
                if not verify.is_out_of_memory(error):
                    raise
                tally.no_memory += 1
    results.write(None)
    return None


def main(arguments: Sequence[str] | None = None, target: str = "gpu") -> int:
    """Run the command line; return the exit status."""
    parser = command.Parser(
        prog="python -m workbench.cli.gpu_checks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("op", choices=operators.OPERATORS)
    parser.add_argument(
        "--json", type=command.output, required=True, metavar="FILE", help="the results file"
    )
    parser.add_argument(
        "--broken",
        nargs="+",
        default=[],
        metavar="NAME",
        help="rungs that broke the GPU's context: keep what FILE says about them",
    )
    asked = parser.parse_args(arguments)
    operator = operators.get(asked.op)
    results = Results(operator, target, asked.json, asked.broken)
    lost = check_all(operator, target, results, asked.broken)
    if lost:
        print(f"{lost} broke the GPU's context; a new process checks the others", flush=True)
        again = [asked.op, "--json", str(asked.json), "--broken", *asked.broken, lost]
        os.execv(sys.executable, [sys.executable, "-m", "workbench.cli.gpu_checks", *again])
    show(operator.name, TITLES, [tally.cells() for tally in results.tallies.values()])
    for tally in results.tallies.values():
        print("".join(f"{report}\n" for report in tally.reports), end="")
    wrong = results.of("wrong")
    print(f"wrong: {', '.join(wrong)}" if wrong else f"no rung of {operator.name} is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    command.run(main)
