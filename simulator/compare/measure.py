"""The GPU's half of the comparison with Nsight Compute.

``python3 -m simulator.compare.measure OUT [--seconds N]`` compiles patterns.cu, runs its patterns
and every rung of the ladders under ``ncu`` and writes OUT/ncu.json: what was launched, and each
launch's metrics. It needs nvcc, ncu and Python; the rungs also need the workbench's requirements.
What cannot be measured is left out and noted in the file.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from simulator.compare import metrics
from simulator.compare.patterns import GROUPS, Pattern, patterns
from workbench.toolchain import command

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
EVERYTHING = (*GROUPS, "rungs", "source")
CHUNK = 120  # patterns per run of ncu: what is lost if it fails
SOURCE_NAMES = (
    "row", "broadcast", "pairs", "pairs_apart", "quarters", "stride2", "stride3", "stride32",
    "overlap_8", "row+4", "row/even", "random64-0", "random64-1", "random64m-0", "dense", "pitch8",
)  # fmt: skip
SOURCE_OPERATIONS = (
    "ldg4", "ldg8", "ldg16", "stg4", "stg16", "lds4", "lds8", "lds16", "sts4", "sts8", "sts16",
    "ldsm4", "stsm4", "atoms4", "redg4", "copy16",
)  # fmt: skip


def run(command: Sequence[str | Path], seconds: float) -> str:
    """Run a program in the repository; return "" or why it failed."""
    try:
        done = subprocess.run(
            list(map(str, command)),
            cwd=REPO,
            timeout=max(seconds, 1),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return f"{type(error).__name__}: {error}"[:500]
    return "" if done.returncode == 0 else f"exit status {done.returncode}: {done.stdout[-1500:]}"


def output(*command: str) -> str:
    """A program's output; "" if it cannot run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (subprocess.TimeoutExpired, OSError):
        return ""


def available(wanted: Sequence[str], known: str) -> list[str]:
    """The metrics that this ncu supports; ``known`` is its list, "" if there is none."""
    names = set(re.findall(r"^\s*([a-z0-9]+__[\w]+)", known, re.M))
    return [m for m in wanted if not names or m.startswith("launch__") or m.split(".")[0] in names]


def read_csv(path: Path) -> list[dict[str, str]]:
    """The launches in a log of ``ncu --csv --page raw``, in order."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    rows = list(csv.DictReader(lines[start:]))
    return [row for row in rows if (row.get("ID") or "").isdigit()]  # skip the row of units


def numbers(row: dict[str, str], wanted: Sequence[str]) -> dict[str, float]:
    """The metrics of one launch."""
    found = {}
    for name in wanted:
        text = (row.get(name) or "").replace(",", "").split(" ")[0]
        try:
            value = float(text)
        except ValueError:
            continue
        found[name] = int(value) if value.is_integer() else value
    return found


def ncu(
    log: Path, wanted: Sequence[str], *options: str, tool: str | Path = "ncu"
) -> list[str | Path]:
    """The command line up to the program."""
    return [
        tool, "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none",
        "--log-file", log, "--force-overwrite", "--metrics", ",".join(wanted), *options,
    ]  # fmt: skip


def profile(
    log: Path,
    wanted: list[str],
    options: Sequence[str],
    program: Sequence[object],
    seconds: float,
    tool: str | Path = "ncu",
) -> tuple[str, list[dict[str, str]], list[str]]:
    """Run a program under ncu: what failed ("": nothing), its launches, and their metrics.

    An unknown metric makes ncu measure nothing: it is then left out.
    """
    while True:
        log.unlink(missing_ok=True)
        failed = run([*ncu(log, wanted, *options, tool=tool), *program], seconds)
        rows = read_csv(log)
        text = log.read_text(errors="replace") if log.exists() else ""
        errors = "\n".join(re.findall(r"^==(?:ERROR|WARNING)==.*", text + failed, re.M))
        unknown = [m for m in wanted if re.search(rf"(?<!\w){re.escape(m)}(?!\w)", errors)]
        if rows or not unknown:
            return f"{failed} {errors}".strip() if failed or not rows else "", rows, wanted
        wanted = [m for m in wanted if m not in unknown]


class Measurement:
    """Everything measured so far; written after each step."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.out, self.end = out, time.monotonic() + seconds
        self.content: dict[str, object] = {"patterns": [], "source": [], "rungs": [], "failed": []}
        self.known = ""

    @property
    def left(self) -> float:
        """The seconds left."""
        return self.end - time.monotonic()

    def add(self, kind: str, entry: dict[str, object]) -> None:
        """Append an entry to a list."""
        self.content[kind].append(entry)  # type: ignore[attr-defined]

    def fail(self, what: str, why: str) -> None:
        """Record that something could not be measured."""
        print(f"FAILED {what}: {why}", flush=True)
        self.add("failed", {"what": what, "why": why})

    def write(self) -> None:
        """Save the results so far."""
        (self.out / "ncu.json").write_text(json.dumps(self.content, separators=(",", ":")))

    def run_patterns(self, program: Path, chunk: Sequence[Pattern], group: str, kind: str) -> None:
        """One run of ncu over some patterns."""
        started = time.monotonic()
        lines, log = self.out / "lines.txt", self.out / "log.csv"
        lines.write_text("".join(p.line() + "\n" for p in chunk))
        wanted = available(metrics.of_group(group), "" if kind == "source" else self.known)
        failed, rows, wanted = profile(log, wanted, (), [program, lines], min(self.left, 150))
        if failed or len(rows) != len(chunk):
            self.fail(f"{group} ({len(rows)} of {len(chunk)})", failed)
        if len(rows) == len(chunk):
            for pattern, row in zip(chunk, rows, strict=True):
                named = {"operation": pattern.operation, "name": pattern.name}
                self.add(kind, {**named, "metrics": numbers(row, wanted)})
        self.write()
        spent = time.monotonic() - started
        print(f"{kind} {group}: {len(rows)} launches, {spent:.1f} s", flush=True)

    def run_rungs(self) -> None:
        """Every rung of the ladders."""
        manifest, log = self.out / "rungs.json", self.out / "log.csv"
        rungs = [sys.executable, "-m", "simulator.compare.rungs", "gpu", manifest]
        failed = run([*rungs, "--build"], self.left)
        if failed:
            return self.fail("building the rungs", failed)
        wanted = available(metrics.of_group("rungs"), self.known)
        options = ("--kernel-name", "regex:^(matmul|softmax|attention)_.*_kernel")
        failed, rows, wanted = profile(log, wanted, options, rungs, min(self.left, 200))
        if failed:
            self.fail(f"rungs ({len(rows)} launches)", failed)
        for row in rows:
            self.add(
                "rungs",
                {
                    "kernel": row["Kernel Name"],
                    "grid": row.get("Grid Size", ""),
                    "block": row.get("Block Size", ""),
                    "metrics": numbers(row, wanted),
                },
            )
        if manifest.exists():
            self.content["runs"] = json.loads(manifest.read_text())
        manifest.unlink(missing_ok=True)
        self.write()
        print(f"rungs: {len(rows)} launches", flush=True)


def measure(out: Path, seconds: float, only: Sequence[str] = EVERYTHING) -> Measurement:
    """Measure what the time allows: first what distinguishes between rules, then the rest.

    only: groups of patterns, "rungs", and "source" for the metrics of the source view.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = Measurement(out, seconds)
    program = out / "patterns"
    flags = ["-arch=sm_90a", "-std=c++17", "-O3", "-lineinfo", "-o", program]
    failed = run(["nvcc", *flags, HERE / "patterns.cu"], 120)
    if failed:
        made.fail("nvcc", failed)
        return made
    failed = run(["ncu", "--version"], 60)
    if failed:
        made.fail("ncu", failed)
        return made
    made.known = output("ncu", "--query-metrics", "--chips", "gh100")
    (out / "known.txt").write_text(made.known)
    query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    made.content["device"] = output("nvidia-smi", *query).strip()
    measure_all(made, program, only)
    for name in ("patterns", "lines.txt", "log.csv"):
        (out / name).unlink(missing_ok=True)
    return made


def measure_all(made: Measurement, program: Path, only: Sequence[str]) -> None:
    """Measure patterns and rungs until time runs out."""
    every = patterns()
    chunks = []
    for group in ("walk", "shared", "matrix", "global", "copy"):
        of_group = [p for p in every if p.group == group and group in only]
        chunks += [(group, of_group[i : i + CHUNK]) for i in range(0, len(of_group), CHUNK)]
    for group, chunk in chunks[:2]:
        made.run_patterns(program, chunk, group, "patterns")
    if "rungs" in only:
        made.run_rungs()
    for group, chunk in chunks[2:]:
        if made.left < 20:
            made.fail(group, "no time left")
            continue
        made.run_patterns(program, chunk, group, "patterns")
    some = [p for p in every if p.name in SOURCE_NAMES and p.operation in SOURCE_OPERATIONS]
    if "source" in only and made.left > 20:
        made.run_patterns(program, some, "source", "source")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=command.folder, help="a folder for ncu.json")
    parser.add_argument(
        "--seconds", type=command.positive, default=300, help="approximate time limit"
    )
    parser.add_argument("--only", nargs="+", choices=EVERYTHING, default=EVERYTHING)
    arguments = parser.parse_args(argv)
    made = measure(arguments.out, arguments.seconds, arguments.only)
    made.write()
    counts = {k: len(v) for k, v in made.content.items() if isinstance(v, list)}
    print(counts)
    return 1 if made.content["failed"] else 0


if __name__ == "__main__":
    command.run(main)
