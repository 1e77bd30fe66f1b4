"""The command line of test_matmul.py, test_softmax.py and test_attention.py.

``python test_matmul.py [--kernel NAME ...] [--shape M=..,N=..,K=.. ...] [--dtype DTYPE ...]
[--target gpu|simulator] [--gpu NAME] [--check[=NAMES]] [--json FILE]`` checks every rung and, if it
is right, times it on a GPU, or counts what it does on the simulator and estimates a GPU's time.
With ``--check`` the simulator also looks for races, reads of what nobody wrote and the like.
``--explain NAME ...`` prints a rung's source with its counters instead, and ``--html FILE`` writes
that as a page (workbench.explain). ``--backward`` takes the ladder of the gradient, where there is
one: for test_softmax.py the operation softmax_backward. The exit status is 0 if all rungs are
right, 1 if one is wrong or does not build or memory runs out, 2 for a command line that makes no
sense (workbench.request).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.table import Table

import simulator
from workbench import measure, tables, targets
from workbench.builds import sources
from workbench.check import StickyError, first_line, is_out_of_memory
from workbench.environment import environment, smi_number
from workbench.explain import command as explain
from workbench.history import History, HistoryError, Previous, source_hash
from workbench.operations import OPERATIONS, expected
from workbench.problems import DEVICES, Case, Operation
from workbench.request import Request, UsageError, request
from workbench.results import Environment, Row, write_json
from workbench.roofs import Roofs, device_roofs
from workbench.toolchain import REPO, BuildError, cache_dir, kernels_dir

ROOF_SLACK = 1.02  # clocks and timers are this exact; a rate above is an error of measurement


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run an operation's script; its exit status.

    Args:
        name: matmul, softmax or attention, whose script it is.
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
    results = _Results(history, here, asked.json, _source(asked.operation))
    faults = _Faults(asked)
    told: set[str] = set()
    for case in asked.cases:
        rungs, wrong = asked.rungs_for(case.dtype), faults.of(case.dtype)
        try:
            if asked.target == "gpu":
                rows = measure.time_on_gpu(asked.operation, rungs, case, wrong, roofs)
            else:
                rows = measure.simulate(asked.operation, rungs, case, wrong, asked.gpu)
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
    print(_legend(asked))
    if asked.target == "gpu" and asked.operation.flops is None:
        _show_targets(results.rows)
    return int(results.failed)


def _legend(asked: Request) -> str:
    of_bytes = asked.operation.flops is None
    if asked.target == "gpu":
        return tables.GPU_BYTES_LEGEND if of_bytes else tables.GPU_LEGEND
    return tables.simulator_legend(asked.gpu, of_bytes)


def _show_targets(rows: Sequence[Row]) -> None:
    """Print what the last rung should reach, and whether it does."""
    found = targets.goals([row.as_json() for row in rows])
    if found:
        print()
        tables.show(tables.plain("targets", targets.TITLES, [goal.cells() for goal in found]))
        print(targets.mean_line(found))


class _Faults:
    """What the rungs get wrong on edge cases, found out when a dtype is first asked for."""

    def __init__(self, asked: Request) -> None:
        self.asked = asked
        self.found: dict[str, dict[str, str]] = {}

    def of(self, dtype: str) -> dict[str, str]:
        """The report on each wrong rung by name; says which rungs do not take the dtype."""
        if dtype not in self.found:
            asked, rungs = self.asked, self.asked.rungs_for(dtype)
            without = [rung.name for rung in asked.rungs if rung not in rungs]
            if without:
                print(f"these do not take {dtype}: {', '.join(without)}")
            self.found[dtype] = measure.edge_faults(asked.operation, rungs, dtype, asked.target)
        return self.found[dtype]


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
    told: set[str],
) -> None:
    """Print a shape's table and its notes but for those ``told`` already."""
    operation = asked.operation
    print()
    tables.show(_table(asked, case, rows, previous))
    if asked.target == "simulator":
        share = tables.percent(measure.torch_share(operation, case))
        print(f"torch's own kernel on the CPU has an error of {share} of what is allowed")
    for row in rows:
        if row.note and row.note not in told:
            told.add(row.note)
            print(row.note)
        if not row.baseline and (row.roof_fraction or 0.0) > ROOF_SLACK:
            print(
                f"ALARM  {row.kernel}: {100 * row.roof_fraction:.0f}% of the roof is impossible; "
                "the time or the roof is wrong"
            )


def _table(
    asked: Request, case: Case, rows: Sequence[Row], previous: dict[str, Previous | None]
) -> Table:
    operation, ideal = asked.operation, asked.operation.ideal_bytes(case)
    about = f"{operation.name} {case.shape} {case.dtype}", rows, previous
    if operation.flops is None:
        of_bytes = tables.gpu_bytes_table if asked.target == "gpu" else tables.bytes_table
        return of_bytes(*about, ideal)
    if asked.target == "gpu":
        return tables.gpu_table(*about)
    return tables.simulator_table(*about, operation.flops(case.shape), ideal)


def _open_history() -> History | None:
    try:
        return History(cache_dir() / "history.db")
    except HistoryError as error:
        _warn(f"{error}; this run is not recorded")
        return None


def _source(operation: Operation) -> str | None:
    """The hash of everything that an edit of the operation's rungs can touch."""
    return source_hash(*sources(operation.name), *sorted(kernels_dir().glob("*.cuh")))
