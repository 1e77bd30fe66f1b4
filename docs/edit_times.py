"""Measures how long an edit takes from the save to the verdict, and where that time goes.

``python -m docs.edit_times`` edits a copy of the ladder matmul twenty times in each of three ways
and writes docs/results/edit-times.json and the table in docs/scripts.md. Times are those of the
machine it runs on, which nothing else should keep busy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.harness.environment import cpu_name
from workbench.harness.terminal import progress
from workbench.toolchain import command
from workbench.toolchain.paths import REPO

RESULTS = REPO / "docs" / "results" / "edit-times.json"
PAGE = REPO / "docs" / "scripts.md"
TIMES = 20
WORDS = ("--kernel", "tiled", "--target", "simulator")
LINE = "acc += A_smem[ty][k] * B_smem[k][tx];"
TILE = "constexpr int TILED_TILE = 32;"
_MARKS = re.compile(r"(<!-- edit times -->\n).*?(<!-- end -->)", re.S)


@contextmanager
def ladder() -> Iterator[Path]:
    """A copy of the ladder matmul, that this process and its children run."""
    with tempfile.TemporaryDirectory() as scratch:
        for pattern in ("*.h", "*.cuh", "matmul*.cu"):
            for file in (REPO / "kernels").glob(pattern):
                shutil.copy2(file, scratch)
        os.environ["WORKBENCH_KERNELS"] = scratch
        yield Path(scratch, "matmul.cu")


class Clock:
    """Adds up the time of functions, by a name for each."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}

    def around(self, owner: Any, attribute: str, name: str) -> None:
        """Time a function from now on; what another timed one calls counts twice."""
        real: Callable[..., Any] = getattr(owner, attribute)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return real(*arguments, **named)
            finally:
                more = time.perf_counter() - started
                self.taken[name] = self.taken.get(name, 0.0) + more

        setattr(owner, attribute, timed)


def watched(file: Path, edit: Callable[[str, int], str], step: Callable[[str], None]) -> dict:
    """The medians of the parts of a verdict in a process that stays."""
    from workbench import operators
    from workbench.cli import watch
    from workbench.cli.request import request
    from workbench.estimate import launched
    from workbench.harness import checking, counters
    from workbench.toolchain import device_code, library
    import simulator  # isort: skip

    text = file.read_text()
    made = watch.Watch(request(operators.get("matmul"), WORDS))
    made.begin()
    clock = Clock()
    clock.around(device_code.DeviceCode, "_compile", "nvcc: PTX")
    clock.around(device_code, "_host_code", "nvcc's front end: is the host code the same?")
    clock.around(library, "build_library", "build of the library")
    clock.around(simulator, "replace_ptx", "loading the PTX")
    clock.around(checking, "try_rungs", "checks on small shapes")
    clock.around(counters, "record", "counting a sample of the blocks")
    clock.around(launched, "_compiled", "ptxas, beside the counting")
    rows = []
    for i in range(TIMES):
        step(f"save {i + 1}")
        file.write_text(edit(text, i))
        clock.taken = {}
        started = time.perf_counter()
        with open(os.devnull, "w") as nowhere:
            out, sys.stdout = sys.stdout, nowhere
            try:
                made.saved()
            finally:
                sys.stdout = out
        rows.append({"save to verdict": time.perf_counter() - started} | clock.taken)
    made.live.close()
    file.write_text(text)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, 0.0) for row in rows] for name in names}


def fresh(file: Path, step: Callable[[str], None]) -> dict:
    """The times of whole processes after an edit, and of what they cannot do without."""
    text = file.read_text()
    found: dict[str, list[float]] = {"whole process": [], "import torch": [], "nvcc: object": []}
    for i in range(TIMES):
        step(f"process {i + 1}")
        file.write_text(inside(text, i + 1000))
        found["whole process"].append(_seconds(sys.executable, "test_matmul.py", *WORDS))
        found["import torch"].append(_seconds(sys.executable, "-c", "import torch"))
        found["nvcc: object"].append(_compiler(file))
    file.write_text(text)
    return found


def _seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run(words, cwd=REPO, check=True, capture_output=True)
    return time.perf_counter() - started


def _compiler(file: Path) -> float:
    """The time of the command that compiles the ladder's file, as a build runs it."""
    from workbench.toolchain.device_code import _command
    from workbench.toolchain.extension import extension_recipe

    recipe = extension_recipe("simulator")
    words = _command(recipe, "matmul.cuda.o").replace(" -o matmul.cuda.o", " -o scratch.o")
    started = time.perf_counter()
    subprocess.run(words, shell=True, cwd=recipe.folder, check=True, capture_output=True)
    taken = time.perf_counter() - started
    (recipe.folder / "scratch.o").unlink(missing_ok=True)
    return taken


def inside(text: str, i: int) -> str:
    """An edit of a kernel's body: one more instruction, another one for each i."""
    mark = f'unsigned mark; asm volatile("mov.u32 %0, {i};" : "=r"(mark));'
    return text.replace(LINE, f"{{ {mark} {LINE} }}")


def host(text: str, i: int) -> str:
    """An edit of a constant that the launcher uses too; each time a new one."""
    return text.replace(TILE, f"inline int unused_{time.time_ns()}() {{ return {i}; }}\n{TILE}")


def table(found: dict) -> str:
    """The Markdown table of the results."""
    lines = ["| | median | fastest | slowest |", "| --- | --- | --- | --- |"]
    for way, parts in found["ways"].items():
        for name, times in parts.items():
            label = f"**{way}**: {name}" if name == next(iter(parts)) else f"- {name}"
            values = (statistics.median(times), min(times), max(times))
            lines.append(f"| {label} | " + " | ".join(f"{v:.2f} s" for v in values) + " |")
    return "\n".join([*lines, "", f"{found['device']}; {TIMES} edits each."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; ``--dry-run`` only writes the table again."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="is the page's table up to date?")
    if parser.parse_args(arguments).dry_run:
        found = json.loads(RESULTS.read_text())
        return int(_MARKS.sub(_filled(found), PAGE.read_text()) != PAGE.read_text())
    with ladder() as file, progress(3 * TIMES) as step:
        subprocess.run([sys.executable, "test_matmul.py", *WORDS], cwd=REPO, check=True)
        ways = {"a new process": fresh(file, step)}
        ways["--watch, inside of a kernel"] = watched(file, inside, step)
        ways["--watch, host code too"] = watched(file, host, step)
    found = {"device": f"{cpu_name()}, {os.cpu_count()} cores", "ways": ways}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(_MARKS.sub(_filled(found), PAGE.read_text()))
    print(table(found))
    return 0


def _filled(found: dict) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{match[1]}{table(found)}\n{match[2]}"


if __name__ == "__main__":
    command.run(main)
