"""Writes the tables of the documentation from the results that are kept: never typed.

``python -m workbench.report`` reads docs/results/<device>-<op>.json, as ``--json`` of the test
scripts writes them, and puts each table between the markers of its page:

    <!-- results: simulator-matmul -->
    ...
    <!-- end -->

``--check`` writes nothing and exits with 1 if a page is not up to date.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import counters
from workbench.tables import amount, duration, percent, sectors_per_request, times

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "docs" / "results"
MARKED = re.compile(r"(<!-- results: ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def table(run: Mapping[str, Any]) -> str:
    """The Markdown of one run: a table per shape, and where and how it was measured.

    Of a comparison with Nsight Compute: how far its counters and the simulator's agree.
    """
    if "ladders" in run:
        return _comparisons(run)
    if "of_rungs" in run:
        return _agreement(run)
    parts = []
    shapes = dict.fromkeys((row["shape"], row["dtype"]) for row in run["rows"])
    for shape, dtype in shapes:
        rows = [r for r in run["rows"] if (r["shape"], r["dtype"]) == (shape, dtype)]
        lines = _counter_lines(rows) if rows[0]["target"] == "simulator" else _time_lines(rows)
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
    return "\n\n".join(parts) + "\n"


def _time_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    unit = "tflops" if "tflops" in rows[0] else "gbps"
    name = {"tflops": "TFLOP/s", "gbps": "GB/s"}[unit]
    ratios = sorted({key for row in rows for key in row if key.startswith("ratio_vs_")})
    titles = ["kernel", "time", name, "of the roof"]
    titles += [f"ratio to {key.removeprefix('ratio_vs_')}" for key in ratios]
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    for row in rows:
        cells = [row["kernel"], duration(row["time_ms"])]
        cells += [f"{row[unit]:.3g}" if row[unit] else "", percent(row["roof_fraction"])]
        cells += [f"{row[key]:.2f}" if row.get(key) else "" for key in ratios]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def updated(text: str) -> str:
    """A page's text with every table as the results have it.

    Raises FileNotFoundError, naming the file, for a marker without results.
    """

    def replace(match: re.Match[str]) -> str:
        run = json.loads((RESULTS / f"{match[2]}.json").read_text())
        return f"{match[1]}{table(run)}{match[3]}"

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
