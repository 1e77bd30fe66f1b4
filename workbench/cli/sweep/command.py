"""Runs ``--sweep``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch

from workbench.cli.request import Request
from workbench.cli.sweep import heat, measuring, table
from workbench.cli.sweep.best import write_best
from workbench.cli.sweep.outcome import Sweep
from workbench.cli.sweep.plan import BEST, plans
from workbench.harness.environment import environment
from workbench.harness.results import Row, json_text
from workbench.operators.operator import DEVICES
from workbench.toolchain import REPO
from workbench.toolchain.errors import Failure


def check(asked: Request) -> None:
    """Raise UsageError if there is nothing to sweep, or BuildError for an invalid ladder file."""
    plans(asked)


def run(asked: Request) -> int:
    """Sweep; the exit status is 1 if the values in a file are wrong, or something is not saved."""
    done: list[Sweep] = []
    status = 0
    for plan in plans(asked):
        sweep = Sweep.of(asked, plan)
        if not sweep.cases:
            dtypes = ", ".join(dict.fromkeys(case.dtype for case in asked.cases))
            print(f"\n{plan.rung.name} does not support {dtypes}")
            continue
        print(f"\n{table.heading(plan)}")
        done.append(sweep)
        try:
            measuring.measure(sweep)
        except (KeyboardInterrupt, Failure):
            table.print_sweep(sweep)  # what there is
            raise
        table.print_sweep(sweep)
        status |= int(sweep.in_file.wrong) | _save(asked, done)
    if done:
        print(f"\n{table.legend(done[0])}")
    if BEST in asked.words.sweep:
        found = [(sweep.plan, sweep.best.combination) for sweep in done if sweep.best]
        status |= write_best(found)
    pictures = [grid for sweep in done for grid in table.grids(sweep)]
    if asked.words.plot:
        status |= heat.draw(asked.words.plot, pictures)
    return status


def _save(asked: Request, done: Sequence[Sweep]) -> int:
    """Write what there is so far to the file of --json; return the exit status."""
    if "--json" not in asked.saved.paths:
        return 0
    here = environment(asked.target, torch.device(DEVICES[asked.target]), REPO)
    found = [pair for sweep in done for pair in _rows(sweep)]
    document = json.loads(json_text(here, [row for row, _ in found]))
    for row, (_, more) in zip(document["rows"], found, strict=True):
        row |= more
    problems = list(asked.saved.put("--json", json.dumps(document, indent=2) + "\n"))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return int(bool(problems))


def _rows(sweep: Sweep) -> list[tuple[Row, dict[str, Any]]]:
    """A row per combination and case, and what --json adds to it: the tunables."""
    plan, best = sweep.plan, sweep.best
    rows = []
    for outcome in sweep.outcomes:
        values = {t.name: v for t, v in zip(plan.values, outcome.combination, strict=True)}
        marks = {"in_file": outcome is sweep.in_file, "best": outcome is best}
        more = {"kernel": plan.rung.name, "tunables": values, **marks}
        for case in sweep.cases:
            row = outcome.rows.get(case)
            row = row or measuring.unmeasured(sweep, case, outcome.why(case))
            rows.append((row, more))
    return rows
