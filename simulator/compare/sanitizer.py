"""Compares the simulator's findings with compute-sanitizer's, kernel by kernel.

``python -m simulator.compare --sanitizer [FILE]`` runs the kernels of tests/kernels/wrong and their
correct twins in the simulator and compares with FILE, which simulator.compare.sanitize wrote on a
machine with a GPU; without FILE it measures here. It prints a table and writes
docs/results/<gpu>-sanitizer.json.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from simulator.compare import ComparisonError, sanitize, wrong
from simulator.compare.wrong import Wrong
from workbench.toolchain import command

MEASURED = {  # what a file of simulator.compare.sanitize has
    "device": str,
    "sanitizer": str,
    "failed": dict,
    "runs": ("name", "which", "tool", "status", "findings"),
}
RESULTS = wrong.REPO / "docs" / "results"


@dataclass(frozen=True)
class Row:
    """What both tools report on a kernel and its twin.

    Attributes:
        check: the kernel's file.
        name: the kernel's name.
        mistake: what is wrong with it.
        simulator: "racecheck 30, 34": kind and lines, or "" for none.
        sanitizer: the same for the tool of that kind; "hangs", or "not run".
        other_tools: what compute-sanitizer's other tools report, by tool.
        verdict: "agree", "agree, other lines", "simulator only", "sanitizer only", "neither",
            "not measured", or "right" for a kernel that only has a right one.
        twin: "" if both report nothing on the right twin and compute the same, else what differs.
    """

    check: str
    name: str
    mistake: str
    simulator: str
    sanitizer: str
    other_tools: dict[str, str]
    verdict: str
    twin: str


@dataclass(frozen=True)
class Simulated:
    """The simulator's finding on a kernel, and its result for the twin."""

    kind: str  # "": no finding
    lines: tuple[int, ...]
    twin: str  # a finding on the twin, "" for none
    twin_sum: float | None

    def text(self) -> str:
        """Kind and lines, or ""."""
        return shown(self.kind, self.lines)


def shown(kind: str, lines: Sequence[int]) -> str:
    """Kind and lines, formatted for the table."""
    return f"{kind} {', '.join(map(str, lines))}".strip()


def simulate(kernel: Wrong, module: object) -> Simulated:
    """Run a kernel and its twin in the simulator with all checks."""
    import simulator

    kind, lines, twin, twin_sum = "", (), "", None
    with simulator.settings(checks=["all"]):
        try:
            if "wrong" in kernel.launchers:
                wrong.launch(module, kernel, "wrong")  # type: ignore[arg-type]
        except simulator.SimulatorError as error:
            kind = error.kind
            sides = (error.line, getattr(error, "other_line", 0))
            lines = tuple(dict.fromkeys(line for line in sides if line))
        try:
            twin_sum = wrong.checksum(wrong.launch(module, kernel, "right"))  # type: ignore[arg-type]
        except simulator.SimulatorError as error:
            twin = shown(error.kind, (error.line,))
    return Simulated(kind, lines, twin, twin_sum)


def simulate_all() -> dict[str, Simulated]:
    """Kernel -> the simulator's result."""
    found = {}
    for check, module in wrong.build().items():
        found.update({k.name: simulate(k, module) for k in wrong.kernels(check)})
    return found


def compare(simulated: dict[str, Simulated], measured: dict) -> list[Row]:
    """One row per kernel, in the order of the files."""
    runs = {(r["name"], r["which"], r["tool"]): r for r in measured["runs"]}
    return [
        _row(kernel, simulated[kernel.name], runs)
        for check in wrong.FILES
        for kernel in wrong.kernels(check)
    ]


def _row(kernel: Wrong, ours: Simulated, runs: dict) -> Row:
    run = runs.get((kernel.name, "wrong", kernel.kind))
    others = {
        tool: said
        for tool in sanitize.TOOLS
        if tool != kernel.kind and (said := _said(runs.get((kernel.name, "wrong", tool))))
    }
    return Row(
        kernel.check,
        kernel.name,
        kernel.mistake,
        ours.text(),
        _said(run) if run else "",
        {tool: said for tool, said in others.items() if said != "not run"},
        _verdict(kernel, ours, run),
        _twin(ours, runs.get((kernel.name, "right", kernel.kind))),
    )


def _said(run: dict | None) -> str:
    """compute-sanitizer's report: the tool, and the lines of its first finding with lines."""
    if run is None or run["status"] == "not run":
        return "not run"
    if not run["findings"]:
        return "" if run["status"] == "ended" else run["status"]
    lines = next((f["lines"] for f in run["findings"] if f["lines"]), [])
    return shown(run["tool"], lines)


def _verdict(kernel: Wrong, ours: Simulated, run: dict | None) -> str:
    if "wrong" not in kernel.launchers:
        return "right"
    if run is None or run["status"] not in ("ended", "hangs"):
        return "not measured"
    found = bool(run["findings"])
    here = any(set(f["lines"]) & kernel.lines for f in run["findings"])
    if ours.kind and found:
        return "agree" if here and set(ours.lines) & kernel.lines else "agree, other lines"
    if ours.kind or found:
        return "simulator only" if ours.kind else "sanitizer only"
    return "neither"


def _twin(ours: Simulated, run: dict | None) -> str:
    problems = [f"simulator: {ours.twin}"] if ours.twin else []
    if run and run["status"] != "not run":
        if said := _said(run):
            problems.append(f"compute-sanitizer: {said}")
        elif run["error"]:
            problems.append(f"CUDA error {run['error']} on the GPU")
        elif run["sum"] != ours.twin_sum:
            problems.append(f"checksum {run['sum']} on the GPU, {ours.twin_sum} in the simulator")
    return "; ".join(problems)


def print_rows(rows: Sequence[Row], measured: dict, console: Console) -> None:
    """Print the table and the number of each verdict."""
    table = Table(title=f"compute-sanitizer {measured['sanitizer']} on {measured['device']}")
    table.add_column("kernel", no_wrap=True)
    for column in ("simulator", "compute-sanitizer", "verdict", "other tools", "twin"):
        table.add_column(column)
    for row in rows:
        others = ", ".join(dict.fromkeys(row.other_tools.values()))
        table.add_row(
            f"{row.check}/{row.name}",
            row.simulator or "-",
            row.sanitizer or "-",
            row.verdict,
            others,
            row.twin or "ok",
        )
    console.print(table)
    counts = Counter(row.verdict for row in rows)
    console.print(", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
    for check, text in measured["failed"].items():
        console.print(f"{check}.cu did not compile: {text}", markup=False)


def result(rows: Sequence[Row], measured: dict) -> str:
    """The content of the results file."""
    content = {
        "device": measured["device"],
        "sanitizer": measured["sanitizer"],
        "verdicts": dict(Counter(row.verdict for row in rows).most_common()),
        "kernels": [asdict(row) for row in rows],
    }
    return json.dumps(content, indent=1) + "\n"


def result_path(device: str) -> Path:
    """docs/results/<gpu>-sanitizer.json; `device` is name and driver."""
    name = re.sub(r"[^a-z0-9]+", "-", device.split(",")[0].lower()).strip("-")
    return RESULTS / f"{name}-sanitizer.json"


def measure() -> dict:
    """Run compute-sanitizer on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        if sanitize.main([folder]) != 0:
            raise ComparisonError("compute-sanitizer ran no program here; is it installed?")
        return json.loads((Path(folder) / "sanitizer.json").read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; exit status 0 unless twins are reported or the simulator misses a kernel."""
    parser = command.Parser(
        prog="python -m simulator.compare --sanitizer", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "file",
        type=command.JsonInput("simulator.compare.sanitize", MEASURED),
        nargs="?",
        help="sanitizer.json from simulator.compare.sanitize",
    )
    parser.add_argument(
        "--json", type=command.output, metavar="FILE", help="the result (default: in docs/results)"
    )
    arguments = parser.parse_args(argv)
    measured = arguments.file or measure()
    rows = compare(simulate_all(), measured)
    print_rows(rows, measured, Console())
    path = arguments.json or result_path(measured["device"])
    path.write_text(result(rows, measured))
    missed = [row.name for row in rows if row.verdict != "right" and not row.simulator]
    return 1 if missed or any(row.twin for row in rows) else 0


if __name__ == "__main__":
    command.run(main)
