"""Writes the tables of the documentation from the saved results.

``python -m workbench.cli.pages`` reads docs/results/<device>-<op>.json, written by ``--json`` of
the test scripts, and puts each table between the markers of its page:

    <!-- results: simulator-<op> -->
    ...
    <!-- end -->

``<!-- table: simulator-<op> -->`` takes the first table of a run as a terminal shows it,
``<!-- excerpt: <name> -->`` one of docs/results/excerpts.json (docs/excerpts.py), ``<!-- goals:
<op> -->`` what every GPU's run of an operator says of its goals (workbench.harness.goals),
``<!-- results: simulator-<op>-precision -->`` the tables of workbench.cli.precision.

``--dry-run`` writes nothing and exits with 1 if a page is not up to date.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import io
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.cli import precision
from workbench.cli.columns import Entry, cells, legend, markdown, page_columns, page_table
from workbench.estimate.gpus import GPUS
from workbench.harness import goals, parents
from workbench.harness.figures import duration, percent
from workbench.harness.results import Row
from workbench.harness.terminal import show
from workbench.toolchain import command
from workbench.toolchain.errors import Failure
from workbench.toolchain.paths import REPO

PAGE_WIDTH = 100
RESULTS = REPO / "docs" / "results"
MARKED = re.compile(
    r"(<!-- (results|table|excerpt|goals): ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL
)


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def table(run: Mapping[str, Any]) -> str:
    """The Markdown of one run: a table per shape, and where and how it was measured.

    For a comparison with Nsight Compute: how far its counters and the simulator's agree. For
    precisions: a table per dtype.
    """
    if "precision" in run:
        return _precisions(run)
    if "ladders" in run:
        return _comparisons(run)
    if "of_rungs" in run:
        return _agreement(run)
    rows = [Row.from_json(row) for row in run["rows"]]
    shown = page_columns(rows)
    parts = []
    for subject in dict.fromkeys(row.subject for row in rows):
        table = page_table([row for row in rows if row.subject == subject], shown)
        case, _, dtype = subject.rpartition(" ")
        parts.append(f"`{case}`, {dtype}:\n\n{table}")
        slower = list(parents.reasons([row for row in rows if row.subject == subject]))
        if slower:
            parts.append("\n".join(f"- {reason}" for reason in slower))
    parts.append(textwrap.fill(f"What the columns mean: {legend(shown)}.", PAGE_WIDTH))
    gpus = dict.fromkeys(row.estimate.gpu for row in rows if row.estimate)
    estimates = "".join(f" Times are estimates for the {GPUS[gpu].title}." for gpu in gpus)
    some = dict.fromkeys(f"{row.sampled_blocks}" for row in rows if row.sampled_blocks)
    if some:
        estimates += f" Counted on {', '.join(some)} blocks of each launch, scaled to its grid."
    measured = f"Measured on: {run['device']}, by `{_public(run['command'])}`.{estimates}"
    parts.append(textwrap.fill(measured, PAGE_WIDTH, break_on_hyphens=False))
    return "\n\n".join(parts) + "\n"


def first_table(run: Mapping[str, Any]) -> str:
    """The table of a run's first case as the script prints it, as a block of code."""
    rows = [Row.from_json(row) for row in run["rows"]]
    rows = [row for row in rows if row.subject == rows[0].subject]
    shown, entries = page_columns(rows), [Entry(row) for row in rows]
    file = io.StringIO()
    title = f"{rows[0].op} {rows[0].subject}"
    show(title, [column.title for column in shown], list(cells(shown, entries)), file)
    return f"```\n{file.getvalue()}```\n"


def _agreement(run: Mapping[str, Any]) -> str:
    from simulator.compare.metrics import METRICS

    lines = [
        "| counter | Nsight Compute | patterns: equal | ladders: equal | largest difference |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for counter, metrics in METRICS.items():
        of_patterns, of_rungs = run["of_patterns"].get(counter), run["of_rungs"].get(counter)
        equal = [f"{r['equal']} of {r['launches']}" if r else "" for r in (of_patterns, of_rungs)]
        names = "<br>".join(f"`{m.removesuffix('.sum')}`" for m in dict.fromkeys(metrics))
        largest = percent(of_rungs["largest"]) if of_rungs and of_rungs["largest"] else ""
        if any(equal):
            lines.append(f"| {counter} | {names} | {equal[0]} | {equal[1]} | {largest} |")
    measured = f"Measured on: {run['device']}, by `python -m simulator.compare --ncu`."
    return "\n".join(lines) + f"\n\n{measured}\n"


def _public(words: str) -> str:
    """The command without the option that names its output file."""
    return re.sub(r" --json \S+", "", words)


def _precisions(run: Mapping[str, Any]) -> str:
    """The Markdown of docs/results/simulator-<op>-precision.json."""
    found = [precision.Precision(**one) for one in run["precision"]]
    parts = []
    for dtype in dict.fromkeys(one.dtype for one in found):
        titles, rows = precision.lines(found, dtype)
        table = markdown(["rung", *titles[1:]], rows)
        parts.append(f"{dtype}, largest (mean) error in ulp:\n\n{table}")
    parts.append(f"Measured on: {run['device']}, by `{run['command']}`.")
    return "\n\n".join(parts) + "\n"


def _goals(op: str) -> str:
    """The goals of an operator, from its GPU runs that include torch.compile; else nothing."""
    parts = []
    for file in sorted(RESULTS.glob(f"*-{op}.json")):
        run = _read(file)
        rows = [Row.from_json(row) for row in run["rows"]]
        found = goals.goals(rows) if _has_libraries(rows) else []
        if not found:
            continue
        table = markdown(goals.TITLES, [goal.cells() for goal in found])
        parts += [table, goals.mean_line(found)]
        parts.append(f"Measured on: {run['device']}, by `{_public(run['command'])}`.")
    return "\n\n".join(parts) + "\n" if parts else ""


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise Failure(f"{file}: not JSON: {error}") from None


def _has_libraries(rows: Sequence[Row]) -> bool:
    return any(row.target == "gpu" and row.kernel == "compile" for row in rows)


def _ladder_lines(ladder: Mapping[str, Any]) -> list[str]:
    """A published ladder alongside its estimates."""
    lines = [
        "| step | measured | estimated | error | occupancy | limit |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for step in ladder["steps"]:
        cells = (
            step["kernel"],
            duration(step["measured_ms"]),
            duration(step["estimated_ms"]),
            f"{100 * step['error']:+.0f}%",
            percent(step["occupancy"]),
            step["limiter"],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _comparisons(run: Mapping[str, Any]) -> str:
    """The Markdown of docs/results/estimate-validation.json."""
    parts = []
    for ladder in run["ladders"]:
        parts.append(f"{ladder['name']}, {ladder['shape']}, {ladder['gpu']} ({ladder['source']}):")
        parts.append("\n".join(_ladder_lines(ladder)))
        parts.append(
            f"Rank correlation {ladder['rank_correlation']:.2f}, "
            f"pairs in the wrong order: {len(ladder['wrong_pairs'])}, "
            f"median error {percent(ladder['median_error'])}."
        )
    every = sum(len(ladder["steps"]) for ladder in run["ladders"])
    parts.append(
        f"All {every}: median error {percent(run['median_error'])}, {run['inside_band']} within "
        f"{percent(run['band'])}. Made by `{run['command']}`."
    )
    if run.get("left_out"):
        parts.append("Too large to be simulated: " + "; ".join(run["left_out"]) + ".")
    return "\n\n".join(parts) + "\n"


def updated(text: str) -> str:
    """A page's text with every table updated from the results.

    Raises FileNotFoundError, naming the file, for a marker without results.
    """

    def replace(match: re.Match[str]) -> str:
        head, kind, name, end = match.groups()
        if kind == "goals":
            return f"{head}{_goals(name)}{end}"
        if kind == "excerpt":
            text = _read(RESULTS / "excerpts.json")[name]
            return f"{head}```\n{text}\n```\n{end}"
        run = _read(RESULTS / f"{name}.json")
        return f"{head}{(first_table if kind == 'table' else table)(run)}{end}"

    return MARKED.sub(replace, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Update the pages, or with ``--dry-run`` name those that are out of date."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    dry = parser.parse_args(arguments).dry_run
    stale = False
    for page in pages():
        text = page.read_text()
        new = updated(text)
        if new != text:
            stale = True
            print(f"{page.relative_to(REPO)}: {'not up to date' if dry else 'updated'}")
            if not dry:
                page.write_text(new)
    return 1 if dry and stale else 0


if __name__ == "__main__":
    command.run(main)
