"""The tables of a sweep: its combinations by time."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from rich.text import Text

from workbench.cli import columns
from workbench.cli.columns import Column, Entry
from workbench.cli.sweep import heat
from workbench.cli.sweep.outcome import Outcome, Sweep
from workbench.cli.sweep.plan import Plan
from workbench.harness.figures import amount, of
from workbench.harness.results import Estimated
from workbench.harness.terminal import show, text_width
from workbench.operators.operator import Case
from workbench.toolchain import kernels_dir
from workbench.toolchain.paths import shown


def _of_estimate(text: Callable[[Estimated], str]) -> Callable[[Entry], str]:
    return lambda entry: text(entry.row.estimate) if entry.row.estimate else "-"


def _registers(found: Estimated) -> str:
    spilled = f"+{amount(found.spill_bytes, 'B')} " if found.spill_bytes else ""
    return f"{spilled}{found.registers or '-'}"


REGISTERS = Column(
    "regis-\nters",
    "registers: per thread; +: bytes spilled to local memory",
    _of_estimate(_registers),
)
SHARED = Column(
    "shared\nmemory",
    "shared memory: per block",
    _of_estimate(lambda found: amount(found.shared_bytes, "B")),
)
MARKS = (
    "vs file: the time of the values in the file over this one; last column: the values in the "
    "file, the best{over}, or both"
)
ESTIMATED = (REGISTERS, SHARED, columns.OCCUPANCY, columns.LIMIT, columns.ESTIMATE)
TIMED = (columns.TIME, columns.SPREAD)


def heading(plan: Plan) -> str:
    """What is swept."""
    ranges = " x ".join(
        f"{name} ({', '.join(map(str, values))})"
        for name, values in zip(plan.names, plan.values.values(), strict=True)
    )
    files = ", ".join(dict.fromkeys(shown(kernels_dir() / t.file) for t in plan.values))
    count = of(len(plan.combinations), "combination")
    has = "have" if "," in files else "has"
    text = f"{plan.rung.name}: {count} of {ranges}; {files} {has} {plan.name(plan.in_file)}"
    return textwrap.fill(text, text_width(), subsequent_indent="  ", break_on_hyphens=False)


def legend(sweep: Sweep) -> str:
    """The meaning of the columns and marks."""
    simulated = sweep.asked.target == "simulator"
    over = " by the geometric mean over all tables" if len(sweep.cases) > 1 else ""
    marks = Column("", MARKS.format(over=over), lambda entry: "")
    shown = [*(ESTIMATED if simulated else TIMED), marks]
    return columns.legend(shown, sweep.asked.gpu.name if simulated else None)


def print_sweep(sweep: Sweep) -> None:
    """Print a table per case, best first, the heat maps, and what is wrong with the file's own."""
    for case in sweep.cases:
        if any(outcome.known(case) for outcome in sweep.outcomes):
            _print_case(sweep, case)
    for grid in grids(sweep):
        if grid.across:
            print()
            heat.print_grid(grid)
    for row in sweep.in_file.rows.values():
        if not (row.checked or row.refused):
            print(f"\n{row.note}")
            break


def _print_case(sweep: Sweep, case: Case) -> None:
    plan, best = sweep.plan, sweep.best
    known = [outcome for outcome in sweep.outcomes if outcome.known(case)]
    right = [outcome for outcome in known if outcome.time(case) is not None]
    right.sort(key=lambda outcome: outcome.time(case) or 0.0)
    figures = ESTIMATED if sweep.asked.target == "simulator" else TIMED
    titles = ["\n" + _below(plan, plan.names), *(c.title for c in figures), "vs\nfile", ""]
    title = f"\n{plan.rung.op} {plan.rung.name} {_subject(sweep, case)}"
    reasons = {outcome.why(case) for outcome in known}
    if not right and len(reasons) == 1:
        print(f"{title}: every combination {reasons.pop()}")
        return
    rows: list[list[str | Text]] = []
    for outcome in right:
        entry = Entry(outcome.rows[case])
        cells: list[str | Text] = [column.cell(entry) for column in figures]
        cells += [_ratio(sweep, outcome, case), _mark(sweep, outcome, best)]
        rows.append([_below(plan, outcome.combination), *cells])
    for outcome in known:
        if outcome not in right:
            why = outcome.why(case)
            style = "bold red" if why.startswith("WRONG") else ""
            rows.append([_below(plan, outcome.combination), Text(why, style=style)])
    print(title)
    show("", titles, rows, left=())


def _below(plan: Plan, values: Sequence[object]) -> str:
    """The values of a combination, or the names, each below the one above it."""
    columns = zip(plan.names, *plan.combinations, strict=True)
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    return "  ".join(f"{value!s:>{width}}" for value, width in zip(values, widths, strict=True))


def _ratio(sweep: Sweep, outcome: Outcome, case: Case) -> str:
    own, time = sweep.in_file.time(case), outcome.time(case)
    return f"{own / time:.2f}x" if own and time else ""


def _mark(sweep: Sweep, outcome: Outcome, best: Outcome | None) -> str:
    marks = {(True, True): "both", (True, False): "best", (False, True): "file"}
    return marks.get((outcome is best, outcome is sweep.in_file), "")


def _subject(sweep: Sweep, case: Case) -> str:
    """Sizes, options, layout and dtype, as in other tables."""
    rows = [outcome.rows[case] for outcome in sweep.outcomes if case in outcome.rows]
    return rows[0].subject if rows else f"{case.text} {case.dtype}"


def grids(sweep: Sweep) -> list[heat.Grid]:
    """The times of each case over two of the tunables."""
    plan, asked = sweep.plan, sweep.asked
    what = f"estimated time, {asked.gpu.title}" if asked.target == "simulator" else "time"
    return [
        heat.grid(
            f"{plan.rung.name}, {_subject(sweep, case)}: {what}",
            plan.names,
            plan.in_file,
            {outcome.combination: outcome.time(case) for outcome in sweep.outcomes},
        )
        for case in sweep.timed
    ]
