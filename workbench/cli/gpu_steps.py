"""The steps of workbench.gpu_day: what each runs, writes, and depends on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workbench import operators
from workbench.toolchain import fingerprints
from workbench.toolchain.paths import REPO, kernels_dir

OPERATORS = ("kernels/*", "bindings.cpp", "bindings/*", "workbench/operators/*.py")
HARNESS = ("workbench/harness/*.py", "workbench/toolchain/**/*.py")
SIMULATOR = ("simulator/*.py", "simulator/include/*", "simulator/src/**/*")
CASES = ("tests/kernels/wrong/*", "tests/kernels/right/*", "tests/programs/*.h")
LADDERS = ("tests/kernels/published.json", "tests/kernels/*.cu")


@dataclass(frozen=True)
class Step:
    """Something that only a GPU can answer.

    Attributes:
        name: in tables, and in the name of its results file: <device>-<name>.json.
        about: what it does, in a few words.
        commands: arguments of Python, run in the repository one after the other. {file} stands for
            the results file, {scratch} for a folder that outlives the step and {seconds} for how
            long it may measure.
        sources: the files that its result depends on.
        seconds: a guess of how long it takes, until the first run replaces it.
        tools: programs that must be on PATH.
        leaves: its results file, if no command takes {file}.
    """

    name: str
    about: str
    commands: tuple[tuple[str, ...], ...]
    sources: tuple[Path, ...]
    seconds: float
    tools: tuple[str, ...] = ()
    leaves: Path | None = None

    def fingerprint(self) -> str:
        """Changes whenever its commands or sources do; independent of where the files are."""
        files = [(relative(path), fingerprints.content(path)) for path in sorted(self.sources)]
        return fingerprints.digest(self.commands, files)


def relative(path: Path) -> str:
    """A path relative to the repository, or in full if it is elsewhere."""
    return str(path.relative_to(REPO) if path.is_relative_to(REPO) else path)


def file_stem(device: str) -> str:
    """The start of a device's results files: ``nvidia-h200`` for "NVIDIA H200"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def steps(stem: str = "") -> list[Step]:
    """All steps, most important first; ``stem`` is the device's (``file_stem``)."""
    names = tuple(operators.OPERATORS)
    return [
        *(_check(name) for name in names),
        Step(
            "conformance",
            "the simulator's instructions, compared with the GPU's",
            (("-m", "simulator.conformance", "--gpu", "--json", "{file}"),),
            _files("simulator/conformance/*", *SIMULATOR, "workbench/toolchain/**/*.py"),
            300,
        ),
        *(_table(name) for name in names),
        Step(
            "ncu",
            "the simulator's counters, compared with Nsight Compute's",
            (
                ("-m", "simulator.compare.measure", "{scratch}", "--seconds", "{seconds}"),
                ("-m", "simulator.compare", "--ncu", "{scratch}/ncu.json"),
            ),
            _files("simulator/compare/*", *OPERATORS, *SIMULATOR, *HARNESS),
            240,
            ("ncu", "nvcc"),
            REPO / "docs" / "results" / f"{stem}-ncu.json",
        ),
        Step(
            "sanitizer",
            "the simulator's findings, compared with compute-sanitizer's",
            (
                ("-m", "simulator.compare.sanitize", "{scratch}", "--seconds", "{seconds}"),
                (
                    *("-m", "simulator.compare", "--sanitizer", "{scratch}/sanitizer.json"),
                    *("--json", "{file}"),
                ),
            ),
            _files("simulator/compare/*", *SIMULATOR, *CASES, "workbench/toolchain/**/*.py"),
            120,
            ("compute-sanitizer", "nvcc"),
        ),
        Step(
            "ladders",
            "times of the kernels of published ladders",
            (("-m", "workbench.estimate", "--measure", "{file}"),),
            _files(
                *("workbench/estimate/timed.py", "workbench/estimate/published.py"),
                *(*LADDERS, *HARNESS),
            ),
            60,
        ),
    ]


def _check(op: str) -> Step:
    return Step(
        f"{op}-check",
        f"every rung of {op} on the edge cases and the test grids",
        (("-m", "workbench.cli.gpu_checks", op, "--json", "{file}"),),
        (*_of_operator(op, "test_*.py"), *_files("workbench/cli/gpu_checks.py", *HARNESS)),
        90,
    )


def _table(op: str) -> Step:
    """The table of its script; a gradient is timed by the script of its operator."""
    base = op.removesuffix("_backward")
    backward = ("--backward",) if base != op else ()
    return Step(
        op,
        f"every rung of {op} timed at its default sizes",
        ((f"test_{base}.py", *backward, "--target", "gpu", "--json", "{file}"),),
        (
            *_of_operator(op),
            *_files("workbench/cli/main.py", "workbench/cli/request.py", *HARNESS),
        ),
        60,
    )


def _files(*patterns: str) -> tuple[Path, ...]:
    """The files of the repository that match; kernels are the ones that builds use."""
    found: list[Path] = []
    for pattern in patterns:
        folder, _, rest = pattern.partition("/")
        paths = kernels_dir().glob(rest) if folder == "kernels" else REPO.glob(pattern)
        found += (path for path in paths if path.is_file() and path.suffix != ".pyc")
    return tuple(found)


def _of_operator(op: str, *more: str) -> list[Path]:
    """The files of an operator, and ``more``; none of operators that it does not use.

    An edit of one ladder must not cost GPU time for all of them.
    """
    every = _files(*OPERATORS, *more)
    used: set[str] = set()
    waiting = {op}
    while waiting:
        name = waiting.pop()
        used.add(name)
        waiting |= _used_by(path for path in every if _owner(path) == name) - used
    return [path for path in every if _owner(path) in {"", *used}]


def _owner(path: Path) -> str:
    """The operator a file is named after, ``<op>.*``, ``<op>_<more>.*``, ``test_<op>.*``; or ""."""
    stem = path.stem.removeprefix("test_")
    names = (name for name in operators.OPERATORS if f"{stem}_".startswith(f"{name}_"))
    return max(names, key=len, default="")


def _used_by(files: Iterable[Path]) -> set[str]:
    """The operators whose headers or modules these files include or import."""
    lines = [
        line
        for file in files
        for line in file.read_text().splitlines()
        if line.startswith(('#include "', "from ."))
    ]
    return set(operators.OPERATORS) & set(re.findall(r"\w+", "\n".join(lines)))
