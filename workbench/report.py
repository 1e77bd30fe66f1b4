"""Writes the tables of the documentation from the results that are kept: never typed.

``python -m workbench.report`` reads docs/results/<device>-<op>.json, as ``--json`` of the test
scripts writes them, and puts each table between the markers of its page:

    <!-- results: simulator-matmul -->
    ...
    <!-- end -->

``<!-- targets: softmax -->`` takes what every GPU's run of an operation says of its targets
(workbench.targets), ``<!-- results: simulator-softmax-precision -->`` the tables of
workbench.precision.

``--check`` writes nothing and exits with 1 if a page is not up to date.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import counters, precision, targets
from workbench.estimate import GPUS
from workbench.tables import against, amount, duration, percent, sectors_per_request, times

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "docs" / "results"
MARKED = re.compile(r"(<!-- (results|targets): ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def table(run: Mapping[str, Any]) -> str:
    """The Markdown of one run: a table per shape, and where and how it was measured.

    Of a comparison with Nsight Compute: how far its counters and the simulator's agree. Of
    precisions: a table per dtype.
    """
    if "precision" in run:
        return _precisions(run)
    if "ladders" in run:
        return _comparisons(run)
    if "of_rungs" in run:
        return _agreement(run)
    parts = []
    shapes = dict.fromkeys((row["shape"], row["dtype"]) for row in run["rows"])
    for shape, dtype in shapes:
        rows = [r for r in run["rows"] if (r["shape"], r["dtype"]) == (shape, dtype)]
        if rows[0]["target"] == "gpu":
            lines = _time_lines(rows)
        else:
            lines = (_bytes_lines if "traffic" in rows[0] else _counter_lines)(rows)
        parts.append(f"`{shape}`, {dtype}:\n\n" + "\n".join(lines))
    parts.append(f"Measured on: {run['device']}, by `{_public(run['command'])}`.")
    return "\n\n".join(parts) + "\n"


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


def _public(command: str) -> str:
    """The command without the option that names the file it was kept in."""
    return re.sub(r" --json \S+", "", command)


def _counter_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    gpu = next((row["estimate"]["gpu"] for row in rows if row.get("estimate")), "")
    lines = [
        "| rung | warp instructions | sectors per request | bytes moved | bank conflicts "
        f"| occupancy | estimated time, {gpu} | limit |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        if not row["checked"]:
            word = "not run" if row.get("refused") else "WRONG"
            lines.append(f"| {row['kernel']} | {word} |" + " |" * 6)
            continue
        c, estimate = row["counters"], row["estimate"]
        ideal = counters.value(c, "shared_wavefronts_ideal")
        cells = (
            row["kernel"],
            amount(c["warp_instructions"]),
            sectors_per_request(c),
            amount(counters.value(c, "global_moved_bytes"), "B"),
            times(counters.value(c, "shared_wavefronts"), ideal) or "-",
            percent(estimate["occupancy"]) if estimate else "-",
            duration(estimate["time_ms"]) if estimate else "-",
            estimate["limiter"] if estimate else "-",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _bytes_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of a simulated ladder that is all about memory."""
    gpu = next((row["estimate"]["gpu"] for row in rows if row.get("estimate")), "")
    lines = [
        "| rung | warp instructions | sectors per request | bytes asked | bytes moved | occupancy "
        f"| estimated time, {gpu} | of its bandwidth | limit |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        traffic, c, estimate = row.get("traffic"), row["counters"], row.get("estimate")
        if traffic is None:
            word = "not run" if row.get("refused") else "WRONG"
            lines.append(f"| {row['kernel']} | {word} |" + " |" * 7)
            continue
        ideal = traffic["ideal_bytes"]
        cells = (
            row["kernel"],
            amount(c["warp_instructions"]),
            sectors_per_request(c),
            against(traffic["asked"] * ideal, "B", ideal),
            against(traffic["moved"] * ideal, "B", ideal),
            percent(estimate["occupancy"]) if estimate else "-",
            duration(estimate["time_ms"]) if estimate else "-",
            percent(_bandwidth(ideal, estimate)) if estimate else "-",
            estimate["limiter"] if estimate else "-",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _bandwidth(ideal_bytes: float, estimate: Mapping[str, Any]) -> float:
    return ideal_bytes / estimate["time_ms"] / 1e6 / GPUS[estimate["gpu"]].dram_gbps


def _precisions(run: Mapping[str, Any]) -> str:
    """The Markdown of docs/results/simulator-softmax-precision.json."""
    found = [precision.Precision(**one) for one in run["precision"]]
    parts = []
    for dtype in dict.fromkeys(one.dtype for one in found):
        titles, rows = precision.lines(found, dtype)
        table = _markdown(["rung", *titles[1:]], rows)
        parts.append(f"{dtype}, largest (mean) error in ulp:\n\n" + "\n".join(table))
    parts.append(f"Measured on: {run['device']}, by `{run['command']}`.")
    return "\n\n".join(parts) + "\n"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _targets(operation: str) -> str:
    """What the runs of an operation on GPUs, torch.compile beside them, say of its targets."""
    parts = []
    for file in sorted(RESULTS.glob(f"*-{operation}.json")):
        run = json.loads(file.read_text())
        found = targets.goals(run["rows"]) if _has_libraries(run["rows"]) else []
        if not found:
            continue
        titles = [title.replace("\n", " ") for title in targets.TITLES]
        table = _markdown(titles, [goal.cells() for goal in found])
        parts += ["\n".join(table), targets.mean_line(found)]
        parts.append(f"Measured on: {run['device']}, by `{_public(run['command'])}`.")
    return "\n\n".join(parts or ["Not measured yet."]) + "\n"


def _has_libraries(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["target"] == "gpu" and row["kernel"] == "compile" for row in rows)


def _ladder_lines(ladder: Mapping[str, Any]) -> list[str]:
    """A published ladder beside its estimates."""
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


def _time_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    unit = "tflops" if "tflops" in rows[0] else "gbps"
    name = {"tflops": "TFLOP/s", "gbps": "GB/s"}[unit]
    ratios = sorted({key for row in rows for key in row if key.startswith("ratio_vs_")})
    titles = ["kernel", "time", name, "of the roof"]
    of_bytes = any("traffic" in row for row in rows)
    titles += ["bytes asked", "bytes moved"] if of_bytes else []
    titles += [f"ratio to {key.removeprefix('ratio_vs_')}" for key in ratios]
    table = []
    for row in rows:
        cells = [row["kernel"], duration(row["time_ms"])]
        cells += [_rate(row[unit]), percent(row["roof_fraction"])]
        if of_bytes:
            traffic = row.get("traffic") or {}
            cells += [times(traffic.get(name), 1) for name in ("asked", "moved")]
        cells += [f"{row[key]:.2f}" if row.get(key) else "" for key in ratios]
        table.append(cells)
    return _markdown(titles, table)


def _rate(value: float | None) -> str:
    if not value:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def updated(text: str) -> str:
    """A page's text with every table as the results have it.

    Raises FileNotFoundError, naming the file, for a marker without results.
    """

    def replace(match: re.Match[str]) -> str:
        head, kind, name, end = match.groups()
        if kind == "targets":
            return f"{head}{_targets(name)}{end}"
        return f"{head}{table(json.loads((RESULTS / f'{name}.json').read_text()))}{end}"

    return MARKED.sub(replace, text)


def main() -> int:
    """Update the pages, or with ``--check`` name those that are not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = False
    for page in pages():
        text = page.read_text()
        new = updated(text)
        if new != text:
            stale = True
            print(f"{page.relative_to(REPO)}: {'not up to date' if check else 'updated'}")
            if not check:
                page.write_text(new)
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
