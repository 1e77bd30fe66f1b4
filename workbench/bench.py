"""The command line of test_matmul.py, test_softmax.py and test_attention.py.

``python test_matmul.py [--kernel NAME ...] [--shape M=..,N=..,K=.. ...] [--dtype DTYPE]
[--target gpu|simulator] [--gpu NAME] [--check[=NAMES]] [--json FILE]`` checks every rung and, if it
is right, times it on a GPU, or counts what it does on the simulator and estimates a GPU's time.
With ``--check`` the simulator also looks for races, reads of what nobody wrote and the like.
``--explain NAME ...`` prints a rung's source with its counters instead, and ``--html FILE`` writes
that as a page (workbench.explain). The exit status is 0 if all rungs are right, 1 if one is wrong
or does not build or memory runs out, 2 for a command line that makes no sense.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

import simulator
from workbench import estimate, measure, ops, tables
from workbench.builds import sources
from workbench.check import StickyError, first_line, is_out_of_memory
from workbench.environment import environment, memory_bytes, smi_number
from workbench.estimate import DEFAULT_GPU, GPUS, Gpu
from workbench.explain import command as explain
from workbench.history import History, HistoryError, Previous, source_hash
from workbench.operations import OPERATIONS, expected
from workbench.problems import DEVICES, Case, Operation
from workbench.results import Environment, Row, write_json
from workbench.roofs import Roofs, device_roofs
from workbench.shapes import ShapeError
from workbench.toolchain import REPO, BuildError, cache_dir, kernels_dir
from workbench.toolchain.paths import shown

ROOF_SLACK = 1.02  # clocks and timers are this exact; a rate above is an error of measurement


class UsageError(ValueError):
    """A command line that makes no sense; the text is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    operation: Operation
    target: str
    why: str
    cases: tuple[Case, ...]
    rungs: tuple[ops.Rung, ...]
    json: Path | None
    gpu: Gpu  # whose time is estimated, on the simulator
    explain: bool = False  # print the source with its counters, in place of the table
    html: Path | None = None  # write it to this file
    checks: tuple[str, ...] = ()  # what the simulator looks for; empty: its defaults


def parser(operation: Operation) -> argparse.ArgumentParser:
    """The command line of an operation's script."""
    made = _Parser(
        prog=f"test_{operation.name}.py",
        description=f"Check and time the {operation.name} ladder. pytest runs its tests.",
    )
    example = operation.keys.example()
    made.add_argument(
        "--kernel", nargs="+", action="extend", metavar="NAME", help="these rungs alone"
    )
    made.add_argument(
        "--shape", nargs="+", action="extend", metavar="SHAPE", help=f"for example {example}"
    )
    made.add_argument("--dtype", default="float32", help="default: %(default)s")
    made.add_argument("--target", choices=tuple(DEVICES), help="default: the GPU if there is one")
    made.add_argument(
        "--gpu",
        choices=tuple(GPUS),
        help=f"the GPU to estimate times for, on the simulator; default: {DEFAULT_GPU}",
    )
    made.add_argument(
        "--check",
        nargs="?",
        const="all",
        metavar="NAMES",
        help=f"look for races and the like; all, or some of {','.join(simulator.CHECKS)}",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    made.add_argument(
        "--explain",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="print these rungs' source with what each line costs, and what to change",
    )
    made.add_argument(
        "--html", type=Path, metavar="FILE", help="write that to FILE, a page for a browser"
    )
    return made


def choose_target(asked: str | None) -> tuple[str, str]:
    """The target and why it is used. Raises UsageError if a GPU is asked for and there is none."""
    if asked == "simulator":
        return asked, "asked for"
    if torch.cuda.is_available():
        return "gpu", torch.cuda.get_device_name()
    if torch.version.cuda is None:
        reason = "this PyTorch is built without CUDA"
    else:
        reason = "PyTorch finds no GPU"
    if asked == "gpu":
        raise UsageError(f"--target gpu: {reason}; --target simulator runs the same kernels")
    return "simulator", reason


def choose_rungs(
    operation: Operation, names: Sequence[str] | None, dtype: str, flag: str = "--kernel"
) -> tuple[ops.Rung, ...]:
    """The named rungs, or all, in table order. Raises UsageError for unknown names or dtypes."""
    ladder = ops.rungs(operation.name)
    known = [rung.name for rung in ladder]
    for name in names or ():
        if name not in known:
            file = shown(kernels_dir() / f"{operation.name}.cu")
            raise UsageError(
                f"{flag} {name}: {operation.name} has {', '.join(known)}; a rung needs its "
                f"line in the table at the end of {file}"
            )
    dtypes = list(dict.fromkeys(d for rung in ladder for d in rung.dtypes))
    if dtype not in dtypes:
        raise UsageError(f"--dtype {dtype}: {operation.name} takes {', '.join(dtypes)}")
    return tuple(rung for rung in ladder if names is None or rung.name in names)


def request(operation: Operation, arguments: Sequence[str] | None) -> Request:
    """Read the command line; builds the kernels, to know the rungs. Raises UsageError."""
    asked = parser(operation).parse_args(arguments)
    explains = bool(asked.explain or asked.html)
    if explains:
        target, why = "simulator", explain.WHY
        _check_explain(asked)
    elif asked.check is not None:
        target, why = "simulator", "--check runs there"
    else:
        target, why = choose_target(asked.target)
    checks = choose_checks(asked)
    if asked.gpu and target == "gpu":
        raise UsageError(f"--gpu {asked.gpu}: estimates are for --target simulator")
    defaults = operation.defaults[target][: 1 if explains else None]
    try:
        shapes = [operation.case(text, dtype=asked.dtype) for text in asked.shape or defaults]
    except ShapeError as error:
        raise UsageError(f"--shape: {error}") from error
    for flag, file in (("--json", asked.json), ("--html", asked.html)):
        if file is not None:
            _check_file(flag, file)
    if target == "simulator":
        estimate.prepare(operation.name, GPUS[asked.gpu or DEFAULT_GPU])
    names, flag = (asked.explain, "--explain") if asked.explain else (asked.kernel, "--kernel")
    rungs = choose_rungs(operation, names, asked.dtype, flag)
    for case in shapes:
        _check_size(operation, case, target)
    gpu, explains = GPUS[asked.gpu or DEFAULT_GPU], bool(asked.explain)
    return Request(
        operation,
        target,
        why,
        tuple(shapes),
        rungs,
        asked.json,
        gpu,
        explains,
        asked.html,
        checks,
    )


def choose_checks(asked: argparse.Namespace) -> tuple[str, ...]:
    """The checks of --check, none without it. Raises UsageError."""
    if asked.check is None:
        return ()
    if asked.target == "gpu":
        raise UsageError("--check runs on the simulator: leave --target gpu out")
    try:
        return simulator.check_names(asked.check, "--check")
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_explain(asked: argparse.Namespace) -> None:
    """Raise UsageError for options that make no sense together."""
    if asked.json is not None:
        raise UsageError("--json keeps the table, and --explain and --html make none")
    if asked.explain and asked.kernel:
        raise UsageError("--explain names the rungs itself: leave --kernel out")
    if asked.check is not None:
        raise UsageError("--explain and --html count and do not look for races: leave --check out")


def _check_file(flag: str, path: Path) -> None:
    """Raise UsageError now rather than lose the results later."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{flag} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{flag} {path}: this is a folder; give a file")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageError(f"{flag} {path}: it cannot be written")


def _check_size(operation: Operation, case: Case, target: str) -> None:
    """Raise UsageError for a shape that this machine cannot hold."""
    need, have = operation.least_bytes(case), memory_bytes(target)
    if need > have:
        place = "the GPU" if target == "gpu" else "this machine"
        raise UsageError(
            f"--shape {case.shape}: its tensors and references take at least "
            f"{tables.amount(need, 'B')}; {place} has {tables.amount(have, 'B')}"
        )


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run an operation's script; its exit status.

    Args:
        name: matmul, softmax or attention.
        arguments: the command line, ``sys.argv[1:]`` if None.
    """
    operation = OPERATIONS[name]
    try:
        asked = request(operation, arguments)
        with simulator.settings(checks=asked.checks) if asked.checks else nullcontext():
            return _run(asked)
    except UsageError as error:
        print(f"test_{name}.py: error: {error}", file=sys.stderr)
        return 2
    except (BuildError, StickyError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(asked: Request) -> int:
    device = torch.device(DEVICES[asked.target])
    print(f"target: {asked.target} ({asked.why})")
    if asked.checks:
        print(f"checks: {', '.join(asked.checks)}")
    if asked.explain or asked.html:
        about = asked.operation, asked.rungs, asked.cases, asked.html
        return explain.run(*about, printed=asked.explain, gpu=asked.gpu.name)
    here = environment(asked.target, device, REPO)
    history = _open_history()
    roofs = Roofs(None, None)
    if asked.target == "gpu":
        roofs = device_roofs(device, smi_number("clocks.max.sm", device))
    dtype = asked.cases[0].dtype
    faults = measure.edge_faults(asked.operation, asked.rungs, dtype, asked.target)
    results = _Results(history, here, asked.json, _source(asked.operation))
    for i, case in enumerate(asked.cases):
        try:
            if asked.target == "gpu":
                rows = measure.time_on_gpu(asked.operation, asked.rungs, case, faults, roofs)
            else:
                rows = measure.simulate(asked.operation, asked.rungs, case, faults, asked.gpu)
            told = faults.values() if i else ()
            _show(asked, case, rows, results.previous(rows), told)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            text = first_line(error)
            print(f"error: {case.shape}: not enough memory ({text})", file=sys.stderr)
            results.failed = True
        else:
            results.add(rows)
        expected.cache_clear()
    print()
    print(tables.GPU_LEGEND if asked.target == "gpu" else tables.simulator_legend(asked.gpu))
    return int(results.failed)


class _Results:
    """What was measured so far. Kept after every shape, so that no later error can lose it."""

    def __init__(
        self, history: History | None, here: Environment, json: Path | None, source: str | None
    ) -> None:
        self.history, self.here, self.json, self.source = history, here, json, source
        self.rows: list[Row] = []
        self.run: int | None = None
        self.failed = False  # a rung is wrong, or a shape could not be run

    def previous(self, rows: Sequence[Row]) -> dict[str, Previous | None]:
        """What the last run measured, by kernel."""
        if self.history is None:
            return {}
        try:
            return {row.kernel: self.history.previous(row, self.here.device) for row in rows}
        except HistoryError as error:
            _warn(f"{error}; changes are not shown")
            return {}

    def add(self, rows: Sequence[Row]) -> None:
        """Record the rows of one shape."""
        self.rows += rows
        wrong = (not (row.checked or row.refused or row.baseline) for row in rows)
        self.failed = self.failed or any(wrong)
        if self.history is not None:
            try:
                self.run = self.history.record(self.here, rows, self.source, self.run)
            except HistoryError as error:
                _warn(f"{error}; this is not recorded")
        if self.json is not None:
            try:
                write_json(self.json, self.here, self.rows)
            except OSError as error:
                _warn(f"--json {self.json}: {error.strerror}; it lacks {rows[0].shape}")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _show(
    asked: Request,
    case: Case,
    rows: Sequence[Row],
    previous: dict[str, Previous | None],
    told: Collection[str],
) -> None:
    """Print a shape's table and its notes but for those ``told`` already."""
    operation = asked.operation
    title = f"{operation.name} {case.shape} {case.dtype}"
    if asked.target == "gpu":
        table = tables.gpu_table(title, rows, previous)
    else:
        flops = operation.flops(case.shape) if operation.flops else None
        table = tables.simulator_table(title, rows, previous, flops, operation.ideal_bytes(case))
    print()
    tables.show(table)
    if asked.target == "simulator":
        share = tables.percent(measure.torch_share(operation, case))
        print(f"torch's own kernel on the CPU has an error of {share} of what is allowed")
    for row in rows:
        if row.note and row.note not in told:
            print(row.note)
        if not row.baseline and (row.roof_fraction or 0.0) > ROOF_SLACK:
            print(
                f"ALARM  {row.kernel}: {100 * row.roof_fraction:.0f}% of the roof is impossible; "
                "the time or the roof is wrong"
            )


def _open_history() -> History | None:
    try:
        return History(cache_dir() / "history.db")
    except HistoryError as error:
        _warn(f"{error}; this run is not recorded")
        return None


def _source(operation: Operation) -> str | None:
    """The hash of everything that an edit of the operation's rungs can touch."""
    return source_hash(*sources(operation.name), *sorted(kernels_dir().glob("*.cuh")))
