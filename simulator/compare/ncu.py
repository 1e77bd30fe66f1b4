"""Compares the simulator's counters with Nsight Compute's, launch by launch.

``python -m simulator.compare --ncu [FILE ...]`` runs the access patterns and every rung of the
ladders in the simulator and compares with FILE, which simulator.compare.measure wrote on a machine
with a GPU (further files add to the first); without FILE it measures here. It prints a table, lists
the differences, and writes docs/results/<gpu>-ncu.json.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import simulator
from simulator.compare import ComparisonError
from simulator.compare.metrics import METRICS
from simulator.compare.patterns import Pattern, patterns
from workbench.toolchain import command

REPO = Path(__file__).resolve().parents[2]
RESULTS = REPO / "docs" / "results"
MEMORY_BYTES = (4 << 20) + 1024 * 16  # BYTES in patterns.cu
MEASURED = {  # what a file of simulator.compare.measure has
    "device": str,
    "patterns": ("operation", "name", "metrics"),
    "rungs": ("kernel", "metrics"),
}
SHOWN = 40  # differences shown in the terminal; the file has all


@dataclass(frozen=True)
class Pair:
    """One counter of one launch: the simulator's value and the GPU's."""

    what: str  # "ldg4 stride2", "matmul tiled M=..,N=..,K=..: matmul_tiled_kernel"
    counter: str
    simulator: int
    gpu: int

    @property
    def equal(self) -> bool:
        """Whether both values agree."""
        return self.simulator == self.gpu


def simulate_patterns(some: Sequence[Pattern]) -> list[simulator.Launch]:
    """The simulator's record of each pattern's launch."""
    import torch

    from workbench.toolchain.inline import inline

    source = (Path(__file__).parent / "patterns.cu").read_text()
    module = inline(source, ["run_patterns"], target="simulator", name="patterns")
    text = "".join(p.line() + "\n" for p in some).encode()
    lines = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    memory = torch.zeros(MEMORY_BYTES, dtype=torch.uint8)
    with simulator.record() as launches:
        module.run_patterns(lines, len(text), memory)
    return launches


def simulate_rungs() -> list[tuple[dict[str, str], list[simulator.Launch]]]:
    """What ran, and its launches."""
    from simulator.compare import rungs

    done = []
    for name, launch in rungs.runs("simulator"):
        with simulator.record() as launches:
            ran = launch()
        if ran:
            done.append((name, list(launches)))
    return done


def counters_of(launch: simulator.Launch) -> dict[str, int]:
    """The counters that Nsight Compute also has."""
    return {name: getattr(launch, name) for name in METRICS}


def measured(metrics: Mapping[str, float], strict: bool = False) -> dict[str, int]:
    """The same counters from the metrics of a launch, if they were measured.

    strict: leave out a counter unless all metrics that it sums were measured.
    """
    return {
        name: int(sum(metrics[part] for part in parts if part in metrics))
        for name, parts in METRICS.items()
        if parts[0] in metrics and not (strict and any(part not in metrics for part in parts))
    }


def measured_pattern(operation: str, metrics: Mapping[str, float]) -> dict[str, int]:
    """The same for a launch of patterns.cu."""
    found = measured(metrics, strict=operation.startswith("copy"))
    if operation.startswith("stsm") and METRICS["shared_store_requests"][1] not in metrics:
        del found["shared_store_requests"]
    if operation.startswith("copy"):
        # Three loads without lanes precede the copy; they and the end of the warp count a wavefront
        # each.
        found.pop("shared_load_requests", None)
        everything = int(metrics["l1tex__data_pipe_lsu_wavefronts_mem_shared.sum"])
        found["shared_store_wavefronts"] = everything - 4
    return found


def base_name(kernel: str) -> str:
    """``matmul_tiled_kernel`` from a kernel's full name."""
    named = re.sub(r"(\(anonymous namespace\)|<unnamed>)::", "", kernel.removeprefix("void "))
    return re.split(r"[<(]", named)[0].split("::")[-1].strip()


def pattern_pairs(gpu: Sequence[Mapping], some: Sequence[Pattern]) -> Iterator[Pair]:
    """The counters of the patterns that the GPU ran."""
    known = {(p.operation, p.name): p for p in some}
    rows = [row for row in gpu if (row["operation"], row["name"]) in known]
    ours = simulate_patterns([known[row["operation"], row["name"]] for row in rows])
    for row, mine in zip(rows, ours, strict=True):
        for name, value in measured_pattern(row["operation"], row["metrics"]).items():
            yield Pair(f"{row['operation']} {row['name']}", name, getattr(mine, name), value)


def rung_pairs(gpu: Sequence[Mapping], runs: Sequence[Mapping]) -> Iterator[Pair]:
    """The counters of the rungs' launches, in the same order on both sides."""
    rest = iter(gpu)
    for name, launches in simulate_rungs():
        if name not in runs:
            continue
        for number, launch in enumerate(launches):
            row = next(rest, None)
            if row is None or base_name(row["kernel"]) != base_name(launch.kernel):
                raise ComparisonError(
                    f"{name['operation']} {name['kernel']} {name['shape']} launches "
                    f"{launch.kernel}, where the GPU ran {row['kernel'] if row else 'nothing'}"
                )
            seen = [base_name(other.kernel) for other in launches[: number + 1]]
            what = f"{name['operation']} {name['kernel']} {name['shape']}: {seen[-1]}"
            what += f" {seen.count(seen[-1])}" if seen.count(seen[-1]) > 1 else ""
            mine = counters_of(launch)
            for counter, value in measured(row["metrics"]).items():
                yield Pair(what, counter, mine[counter], value)


def joined(contents: Sequence[dict]) -> dict:
    """The first file, plus the patterns and metrics that the others measured."""
    first = contents[0]
    rows = {(row["operation"], row["name"]): row for row in first["patterns"]}
    for content in contents[1:]:
        for row in content["patterns"]:
            known = rows.setdefault((row["operation"], row["name"]), row)
            known["metrics"] = {**known["metrics"], **row["metrics"]}
        if content["rungs"]:
            first["rungs"], first["runs"] = content["rungs"], content["runs"]
    return {**first, "patterns": list(rows.values())}


def show(console: Console, title: str, pairs: Sequence[Pair]) -> None:
    """Print how many are equal, by counter; then the unequal ones."""
    table = Table(title=title)
    for column in ("counter", "launches", "equal", "largest difference"):
        table.add_column(column, justify="left" if column == "counter" else "right")
    for counter, row in agreement(pairs).items():
        largest = f"{100 * row['largest']:.1f}%"
        table.add_row(counter, str(row["launches"]), str(row["equal"]), largest)
    console.print(table)
    for pair in [p for p in pairs if not p.equal][:SHOWN]:
        console.print(
            f"{pair.what}: {pair.counter} {pair.simulator}, on the GPU {pair.gpu}", markup=False
        )


def agreement(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """By counter: launches where it is nonzero, where both agree, and the largest difference."""
    by_counter: dict[str, dict[str, float]] = {}
    for p in pairs:
        if p.simulator or p.gpu:
            row = by_counter.setdefault(p.counter, {"launches": 0, "equal": 0, "largest": 0.0})
            row["launches"] += 1
            row["equal"] += p.equal
            difference = abs(p.simulator - p.gpu) / max(p.simulator, p.gpu)
            row["largest"] = max(row["largest"], round(difference, 4))
    return by_counter


def to_json(device: str, of_patterns: Sequence[Pair], of_rungs: Sequence[Pair]) -> str:
    """The agreement; the GPU's counters of each pattern; both sides' of each rung's launch."""
    patterns_rows: dict[str, dict[str, int]] = {}
    for p in of_patterns:
        if p.gpu and not p.counter.startswith("dram"):
            patterns_rows.setdefault(p.what, {})[p.counter] = p.gpu
    rung_rows: dict[str, dict[str, list[int]]] = {}
    for p in of_rungs:
        if p.gpu or p.simulator:
            rung_rows.setdefault(p.what, {})[p.counter] = [p.simulator, p.gpu]
    parts = {
        "of_patterns": agreement(of_patterns),
        "of_rungs": agreement(of_rungs),
        "patterns": patterns_rows,
        "rungs": rung_rows,
    }
    text = [f'"device": {json.dumps(device)}']
    for name, part in parts.items():
        rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in part.items())
        text.append(f'"{name}": {{\n{rows}\n}}')
    return "{" + ",\n".join(text) + "}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = command.Parser(
        prog="python -m simulator.compare --ncu", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "files",
        nargs="*",
        type=command.JsonInput("simulator.compare.measure", MEASURED),
        help="ncu.json from simulator.compare.measure",
    )
    parser.add_argument(
        "--patterns", action="store_true", help="access patterns only, without the ladders"
    )
    arguments = parser.parse_args(argv)
    if arguments.files:
        content = joined(arguments.files)
    else:
        from simulator.compare.measure import measure

        with tempfile.TemporaryDirectory() as folder:
            content = measure(Path(folder), 300).content
    if "device" not in content or content.get("failed"):
        raise ComparisonError(f"ncu did not measure everything: {content.get('failed')}")
    console = Console()
    of_patterns = list(pattern_pairs(content["patterns"], patterns()))
    of_rungs = []
    if not arguments.patterns:
        of_rungs = list(rung_pairs(content["rungs"], content.get("runs", ())))
    show(console, "Access patterns", of_patterns)
    show(console, "Ladders", of_rungs)
    if not arguments.patterns:
        name = re.sub(r"[^a-z0-9]+", "-", content["device"].split(",")[0].lower()).strip("-")
        (RESULTS / f"{name}-ncu.json").write_text(to_json(content["device"], of_patterns, of_rungs))
    return 0
