"""The command line of test_matmul.py, test_softmax.py and test_attention.py.

``python test_matmul.py [--kernel NAME ...] [--shape M=..,N=..,K=.. ...] [--dtype DTYPE]
[--target gpu|simulator] [--json FILE]`` checks every rung and, if it is right, times it on a
GPU or counts what it does on the simulator. The exit status is 0 if all rungs are right, 1 if
one is wrong or does not build, 2 for a command line that makes no sense.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from workbench import measure, ops, tables
from workbench.check import StickyError
from workbench.environment import environment, smi_number
from workbench.history import History, HistoryError, Previous, source_hash
from workbench.operations import OPERATIONS
from workbench.problems import DEVICES, Case, Operation
from workbench.results import Environment, Row, write_json
from workbench.roofs import Roofs, device_roofs
from workbench.shapes import ShapeError
from workbench.toolchain import REPO, BuildError, cache_dir, kernels_dir

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
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
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
    operation: Operation, names: Sequence[str] | None, dtype: str
) -> tuple[ops.Rung, ...]:
    """The named rungs, or all, in table order. Raises UsageError for unknown names or dtypes."""
    ladder = ops.rungs(operation.name)
    known = [rung.name for rung in ladder]
    for name in names or ():
        if name not in known:
            raise UsageError(f"--kernel {name}: {operation.name} has {', '.join(known)}")
    dtypes = list(dict.fromkeys(d for rung in ladder for d in rung.dtypes))
    if dtype not in dtypes:
        raise UsageError(f"--dtype {dtype}: {operation.name} takes {', '.join(dtypes)}")
    return tuple(rung for rung in ladder if names is None or rung.name in names)


def request(operation: Operation, arguments: Sequence[str] | None) -> Request:
    """Read the command line; builds the kernels, to know the rungs. Raises UsageError."""
    asked = parser(operation).parse_args(arguments)
    target, why = choose_target(asked.target)
    try:
        shapes = [
            operation.case(text, dtype=asked.dtype)
            for text in asked.shape or operation.defaults[target]
        ]
    except ShapeError as error:
        raise UsageError(f"--shape: {error}") from error
    if asked.json is not None and not asked.json.absolute().parent.is_dir():
        raise UsageError(f"--json {asked.json}: there is no folder {asked.json.parent}")
    rungs = choose_rungs(operation, asked.kernel, asked.dtype)
    return Request(operation, target, why, tuple(shapes), rungs, asked.json)


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run an operation's script; its exit status.

    Args:
        name: matmul, softmax or attention.
        arguments: the command line, ``sys.argv[1:]`` if None.
    """
    operation = OPERATIONS[name]
    try:
        return _run(request(operation, arguments))
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
    here = environment(asked.target, device, REPO)
    history = _open_history()
    roofs = Roofs(None, None)
    if asked.target == "gpu":
        roofs = device_roofs(device, smi_number("clocks.max.sm", device))
    rows: list[Row] = []
    for case in asked.cases:
        if asked.target == "gpu":
            measured = measure.time_on_gpu(asked.operation, asked.rungs, case, roofs)
        else:
            measured = measure.simulate(asked.operation, asked.rungs, case)
        _show(asked, case, measured, _previous(history, measured, here))
        rows += measured
    print()
    print(tables.GPU_LEGEND if asked.target == "gpu" else tables.SIMULATOR_LEGEND)
    _record(history, here, rows, asked.operation)
    if asked.json is not None:
        write_json(asked.json, here, rows)
    return 1 if any(_is_wrong(row) for row in rows) else 0


def _is_wrong(row: Row) -> bool:
    return not (row.checked or row.refused or row.baseline)


def _show(
    asked: Request, case: Case, rows: Sequence[Row], previous: dict[str, Previous | None]
) -> None:
    operation = asked.operation
    title = f"{operation.name} {case.shape} {case.dtype}"
    if asked.target == "gpu":
        table = tables.gpu_table(title, rows, previous)
    else:
        flops = operation.flops(case.shape) if operation.flops else None
        table = tables.simulator_table(
            title, rows, previous, flops, operation.ideal_bytes(case.shape)
        )
    print()
    tables.show(table)
    if asked.target == "simulator":
        share = tables.percent(measure.torch_share(operation, case))
        print(f"torch's own kernel on the CPU has an error of {share} of what is allowed")
    for row in rows:
        if row.note:
            print(row.note)
        if row.roof_fraction is not None and row.roof_fraction > ROOF_SLACK:
            print(
                f"ALARM  {row.kernel}: {100 * row.roof_fraction:.0f}% of the roof is impossible; "
                "the time or the roof is wrong"
            )


def _open_history() -> History | None:
    try:
        return History(cache_dir() / "history.db")
    except HistoryError as error:
        print(f"warning: {error}; this run is not recorded", file=sys.stderr)
        return None


def _previous(
    history: History | None, rows: Sequence[Row], here: Environment
) -> dict[str, Previous | None]:
    if history is None:
        return {}
    return {row.kernel: history.previous(row, here.device) for row in rows}


def _record(
    history: History | None, here: Environment, rows: Sequence[Row], operation: Operation
) -> None:
    if history is None:
        return
    source = source_hash(kernels_dir() / f"{operation.name}.cu")
    try:
        history.record(here, rows, source)
    except HistoryError as error:
        print(f"warning: {error}; this run is not recorded", file=sys.stderr)
