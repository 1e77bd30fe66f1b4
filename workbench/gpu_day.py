"""Everything that needs a GPU, for when one is available for a few minutes.

``python -m workbench.gpu_day [--minutes N] [--results FOLDER] [--force] [--list]`` checks every
rung, runs the conformance cases, measures the operators' tables, compares the simulator with Nsight
Compute and compute-sanitizer, and times the published ladders (workbench.cli.gpu_steps). Each step
is a process with a time limit, writes FOLDER/<device>-<step>.json, and is skipped next time unless
something that it depends on has changed (workbench.cli.gpu_run).

Exit status 0 if all that ran is fine, 1 if a rung is wrong or a step failed, 2 for an invalid
command line or a machine without a GPU, 130 after Ctrl-C.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from workbench.cli.gpu_run import Day, Outcome, Record, missing_tools
from workbench.cli.gpu_steps import Step, relative, steps
from workbench.harness.environment import environment
from workbench.harness.terminal import show
from workbench.toolchain import REPO, command

MINUTES = 14.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    asked = _parser().parse_args(arguments)
    if not torch.cuda.is_available():
        if asked.list:
            _list(steps(), Record.every(asked.results))
            return 0
        print("PyTorch finds no GPU here; --list shows what would run on one", file=sys.stderr)
        return 2
    record = Record.of(environment("gpu", torch.device("cuda"), REPO), asked.results)
    if asked.list:
        _list(steps(record.stem), [record])
        return 0
    day, interrupted = Day(record, 60 * asked.minutes, asked.force), False
    try:
        day.run(steps(record.stem))
    except KeyboardInterrupt:
        interrupted = True
    _print_table(day.outcomes)
    return 130 if interrupted else int(any(outcome.failed for outcome in day.outcomes))


def _parser() -> command.Parser:
    made = command.Parser(prog="python -m workbench.gpu_day", description=__doc__.splitlines()[0])
    made.add_argument(
        "--minutes",
        type=command.positive,
        default=MINUTES,
        metavar="N",
        help=f"time limit for the whole run; default: {MINUTES:g}",
    )
    made.add_argument(
        "--results",
        type=_folder,
        default=REPO / "docs" / "results",
        metavar="FOLDER",
        help="where results go; default: docs/results",
    )
    made.add_argument("--force", action="store_true", help="also run what is up to date")
    made.add_argument("--list", action="store_true", help="show the steps and run nothing")
    return made


def _folder(text: str) -> Path:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"there is no folder {command.shortened(text)}")
    return Path(text).resolve()


def _list(every: Sequence[Step], records: Sequence[Record]) -> None:
    """Print every step, and the devices for which it is up to date."""
    rows = []
    for step in every:
        seconds = max((record.seconds(step) for record in records), default=step.seconds)
        rows.append((step.name, f"{seconds:.0f}", _state(step, records), step.about))
    show("", ("step", "seconds", "state", "what"), rows, left=(0, 2, 3))


def _state(step: Step, records: Sequence[Record]) -> str:
    current = [record.machine["device"] for record in records if record.is_current(step)]
    if current:
        return f"up to date on {', '.join(current)}"
    missing = missing_tools(step)
    return f"needs {', '.join(missing)}" if missing else "would run"


def _print_table(outcomes: Sequence[Outcome]) -> None:
    rows = [
        (
            outcome.step.name,
            "" if outcome.seconds is None else f"{outcome.seconds:.0f}",
            outcome.result,
            relative(outcome.file) if outcome.file else "",
        )
        for outcome in outcomes
    ]
    print()
    show("", ("step", "seconds", "result", "file"), rows, left=(0, 2, 3))


if __name__ == "__main__":
    # `timeout` and the like end a program with SIGTERM; one in the background ignores SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    command.run(main)
