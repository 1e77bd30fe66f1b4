"""``python -m simulator.conformance``: which instruction forms run, and whether they are right.

Exit status 0: every case passes, and passing cases executed every form of forms.tsv and no other.
Otherwise 1.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import simulator
from simulator.conformance import FAMILIES, Checked, cases, programs
from simulator.conformance.coverage import form_name, listed
from simulator.conformance.micro import compile_together
from workbench.toolchain import BuildError, command
from workbench.toolchain.errors import UsageError
from workbench.toolchain.terminals import can_erase

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
SHOWN = 12  # items of a long list


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case."""

    family: str
    name: str
    error: str = ""  # empty if it passed
    forms: frozenset[str] = frozenset()  # executed by the simulator
    distance: int = 0  # between two targets, in units of the last place


@dataclass
class Report:
    """All outcomes of a run, and a summary."""

    device: str
    full: bool
    whole: bool  # all cases ran, so that missing forms are meaningful
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failing(self) -> list[Outcome]:
        """The cases that failed."""
        return [o for o in self.outcomes if o.error]

    @property
    def executed(self) -> set[str]:
        """The forms that a passing case executed."""
        return {form for o in self.outcomes if not o.error for form in o.forms}

    @property
    def not_covered(self) -> list[str]:
        """Forms in the table that no passing case executed."""
        return sorted(set(listed()) - self.executed)

    @property
    def unlisted(self) -> list[str]:
        """Executed forms that are not in the table."""
        return sorted(self.executed - set(listed()))

    @property
    def ok(self) -> bool:
        """Whether nothing fails and, after a full run, nothing is missing."""
        return not self.failing and not (self.whole and (self.not_covered or self.unlisted))

    def families(self) -> dict[str, dict[str, int]]:
        """Family -> cases, failing ones, forms listed and covered."""
        rows: dict[str, dict[str, int]] = {}
        for family in dict.fromkeys([*FAMILIES, *listed().values()]):
            forms = {form for form, of in listed().items() if of == family}
            here = [o for o in self.outcomes if o.family == family]
            rows[family] = {
                "cases": len(here),
                "failing": sum(bool(o.error) for o in here),
                "forms": len(forms),
                "covered": len(forms & self.executed),
            }
        return rows

    def to_json(self) -> str:
        """The result as a file, deterministic for given outcomes."""
        content: dict[str, object] = {
            "device": self.device,
            "operands": "more" if self.full else "standard",
            "forms": len(listed()),
            "covered": len(listed()) - len(self.not_covered),
            "families": self.families(),
            "failing": {f"{o.family}/{o.name}": o.error.splitlines()[0] for o in self.failing},
            "not_covered": self.not_covered,
            "unlisted": self.unlisted,
        }
        apart = {f"{o.family}/{o.name}": o.distance for o in self.outcomes if o.distance}
        if apart:
            content["largest_distance_in_ulps"] = apart
        return json.dumps(content, indent=1) + "\n"


def run_case(family: str, case: Checked, full: bool, targets: Sequence[str]) -> Outcome:
    """Run a case on each target; with two, compare them if the case can.

    If `full`, launches also count what depends on addresses.
    """
    error, distance = "", 0
    with simulator.record(addresses=full) as launches:
        try:
            compare = getattr(case, "compare", None)
            if compare and len(targets) > 1:
                distance = compare(full, targets)
            else:
                for target in targets:
                    case.check(full, target)
        except (AssertionError, RuntimeError, BuildError) as problem:
            error = str(problem) or type(problem).__name__
    forms = frozenset(form_name(form) for launch in launches for form in launch.forms)
    return Outcome(family, case.name, error, forms, distance)


def chosen(patterns: Sequence[str | re.Pattern[str]]) -> list[tuple[str, Checked]]:
    """The cases whose "family/name" matches any of the patterns; all without patterns."""
    every = [(family, case) for family in FAMILIES for case in cases(family)]
    if not patterns:
        return every
    match = [re.compile(p) for p in patterns]
    return [(f, c) for f, c in every if any(m.search(f"{f}/{c.name}") for m in match)]


def print_report(report: Report, console: Console) -> None:
    """Print a table of the families, then what fails and what is missing."""
    table = Table(title=f"Conformance on {report.device}")
    table.add_column("family")
    for column in ("cases", "failing", "forms", "covered"):
        table.add_column(column, justify="right")
    for family, row in report.families().items():
        if row["cases"] or report.whole:
            table.add_row(family, *map(str, row.values()))
    console.print(table)
    for outcome in report.failing[:SHOWN]:
        console.print(f"FAILS {outcome.family}/{outcome.name}\n{outcome.error}\n", markup=False)
    if len(report.failing) > SHOWN:
        console.print(f"... and {len(report.failing) - SHOWN} more failures")
    if report.whole:
        _print_forms("not covered", report.not_covered, console)
        _print_forms("executed, but not in forms.tsv", report.unlisted, console)
    total = f"{len(listed()) - len(report.not_covered)} of {len(listed())} forms covered, "
    console.print((total if report.whole else "") + f"{len(report.failing)} cases failing")


def _print_forms(what: str, forms: list[str], console: Console) -> None:
    if forms:
        rest = f" ... and {len(forms) - SHOWN} more" if len(forms) > SHOWN else ""
        console.print(f"{len(forms)} forms {what}: {', '.join(forms[:SHOWN])}{rest}", markup=False)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m simulator.conformance", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        type=command.expression,
        help='regular expressions for "family/form"',
    )
    parser.add_argument("--full", action="store_true", help="run more operands")
    parser.add_argument("--gpu", action="store_true", help="also run on the GPU, and compare")
    parser.add_argument(
        "--json", type=command.output, metavar="FILE", help="the result (default: in docs/results)"
    )
    args = parser.parse_args(argv)
    if args.gpu and not torch.cuda.is_available():
        parser.error(
            "--gpu: PyTorch finds no GPU here; without --gpu only the simulator is checked"
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen cases, print and write the result; return the exit status."""
    args = _arguments(argv)
    console = Console()
    selected = chosen(args.names)
    if not selected:
        raise UsageError(f"no case matches {' '.join(name.pattern for name in args.names)}")
    targets = ("simulator", "gpu") if args.gpu else ("simulator",)
    device = torch.cuda.get_device_name() if args.gpu else "simulator"
    report = Report(device, args.full, whole=not args.names)
    for target in targets:
        compile_together(programs(dict.fromkeys(f for f, _ in selected)), target, "conformance")
    bar = Console(stderr=True)
    with Progress(console=bar, transient=True, disable=not can_erase(sys.stderr)) as progress:
        task = progress.add_task("", total=len(selected))
        for family, case in selected:
            progress.update(task, description=family)
            report.outcomes.append(run_case(family, case, args.full, targets))
            progress.advance(task)
    print_report(report, console)
    path = args.json
    if path is None and report.whole:
        path = RESULTS / f"conformance-{re.sub(r'[^a-z0-9]+', '-', device.lower())}.json"
    if path:
        path.write_text(report.to_json())
    return 0 if report.ok else 1


if __name__ == "__main__":
    command.run(main)
