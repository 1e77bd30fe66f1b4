"""Writes docs/results/excerpts.json: what README.md shows of the scripts' output.

``python -m docs.excerpts`` runs them; ``python -m workbench.cli.pages`` then puts the
excerpts into the page. ``--dry-run`` writes nothing and exits with 1 if one is not up to date.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.harness.terminal import progress
from workbench.toolchain import command
from workbench.toolchain.paths import REPO, kernels_dir

FILE = REPO / "docs" / "results" / "excerpts.json"
BARRIER = "    __syncthreads();  // both tiles are complete\n"
SOURCE_LINE = re.compile(r"^[ >]{2} +\d+ ")


def explained() -> str:
    """The lines of ``tiled`` that are marked as hot, and the first finding."""
    out = _script("--explain", "tiled").splitlines()
    finding = next(i for i, line in enumerate(out) if line.startswith("1. "))
    source = [i for i, line in enumerate(out[:finding]) if SOURCE_LINE.match(line)]
    lines: list[str] = []
    for first, end in zip(source, [*source[1:], finding - 1], strict=True):
        if out[first].lstrip().startswith(">"):
            head = next(line for line in reversed(out[:first]) if line.startswith("   line "))
            lines += [head] * (head not in lines) + out[first:end]
    return "\n".join([*lines, "", *out[finding : out.index("", finding)]])


def race() -> str:
    """What --check says of ``tiled`` without its first barrier."""
    with tempfile.TemporaryDirectory() as folder:
        for file in kernels_dir().iterdir():
            if file.suffix in (".h", ".cuh") or file.name.startswith("matmul"):
                shutil.copy2(file, folder)
        edited = Path(folder, "matmul.cu")
        text = edited.read_text()
        if BARRIER not in text:
            raise SystemExit(f"{edited.name} has no line {BARRIER.strip()!r} to take away")
        edited.write_text(text.replace(BARRIER, "\n"))
        out = _script("--check", "--kernel", "tiled", WORKBENCH_KERNELS=folder, status=1)
        out = out.replace(folder, "kernels")
    report = out[out.index("racecheck: ", out.index("raised SimulatorError")) :]
    return "\n".join(line.removeprefix("  ") for line in report.splitlines()[:8])


def _script(*arguments: str, status: int = 0, **environment: str) -> str:
    words = [sys.executable, "test_matmul.py", "--target", "simulator", *arguments]
    # on one core: of several blocks that race at once, it is always the same one
    variables: Mapping[str, str] = {
        **os.environ,
        "WORKBENCH_SIMULATOR": "threads=1",
        **environment,
    }
    done = subprocess.run(words, cwd=REPO, env=variables, capture_output=True, text=True)
    if done.returncode != status:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}\n{done.stderr}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scripts and write the file, or with ``--dry-run`` say what is not up to date."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    dry = parser.parse_args(arguments).dry_run
    excerpts = {}
    with progress(2) as step:
        for name, made in (("explain", explained), ("race", race)):
            step(name)
            excerpts[name] = made()
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    stale = [name for name, text in excerpts.items() if kept.get(name) != text]
    for name in stale:
        print(f"{FILE.relative_to(REPO)}: {name} is {'not up to date' if dry else 'updated'}")
    if not dry:
        FILE.write_text(json.dumps(excerpts, indent=2) + "\n")
    return int(dry and bool(stale))


if __name__ == "__main__":
    command.run(main)
