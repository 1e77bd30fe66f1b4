"""The deliberately wrong kernels and their right twins: tests/kernels/wrong/*.cu.

The sources are self-describing: a comment "name (in N, out M): what is wrong" before a kernel,
WRONG name at the faulty line, OTHER name at the other side of a race. A file is named after the
check that finds its kernels. The kernels of tests/kernels/right have no wrong twin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "tests" / "kernels" / "wrong"
RIGHT_FOLDER = REPO / "tests" / "kernels" / "right"
INCLUDES = (FOLDER, REPO / "tests" / "programs")
CHECKS = ("memcheck", "racecheck", "initcheck", "synccheck", "async", "descriptors")
RIGHT = ("ordered",)  # files without wrong kernels
FILES = (*CHECKS, *RIGHT)
# Files whose kernels are wrong in ways that a report has to tell apart: their tests name the lines.
TOLD_APART = ("waits", "hints", "protocols")
PERIOD = 7  # inputs are 0, 1, ..., 6, 0, 1, ...
WEIGHTS = 13  # a checksum weights element i by 1 + i % 13


@dataclass(frozen=True)
class Wrong:
    """A kernel with a mistake, launched by <name>_wrong, and its twin <name>_right.

    Attributes:
        check: its file: one of CHECKS, or one of those with right kernels only.
        name: its name in launchers and marks.
        sizes: elements of the launchers' input and output.
        type: type of these elements, "float" or "int".
        mistake: what is wrong, as a sentence.
        wrong: the lines at fault; a finding is at one of them.
        other: lines of the other side: of a race, of which either may be found, or the copy that
            wrote what is read.
    """

    check: str
    name: str
    sizes: tuple[int, int]
    type: str
    mistake: str
    wrong: frozenset[int]
    other: frozenset[int]

    @property
    def kind(self) -> str:
        """The kind of its finding; right kernels count as racecheck."""
        kinds = {"async": "racecheck", "descriptors": "memcheck"} | dict.fromkeys(
            RIGHT, "racecheck"
        )
        return kinds.get(self.check, self.check)

    @property
    def launchers(self) -> tuple[str, ...]:
        """The variants that exist."""
        return ("right",) if self.check in RIGHT else ("right", "wrong")

    @property
    def lines(self) -> frozenset[int]:
        """All marked lines."""
        return self.wrong | self.other

    def names_both(self, line: int, other_line: int) -> bool:
        """Whether these are the lines of the two sides; 0 stands for an unknown side."""
        if not self.other:
            return line in self.wrong and other_line in {0, *self.wrong}
        either = (line, other_line), (other_line, line)
        return any(a in self.wrong and b in self.other for a, b in either)


def source(check: str) -> str:
    """The text of a check's kernels."""
    return path(check).read_text()


def path(check: str) -> Path:
    """The file of a check's kernels."""
    return (RIGHT_FOLDER if check in RIGHT else FOLDER) / f"{check}.cu"


def kernels(check: str) -> list[Wrong]:
    """The kernels of a check, in the order of their file."""
    text = source(check)
    found = []
    for match in re.finditer(r"^// (\w+) \(in (\d+), out (\d+)\): (.+\n(?:// .+\n)*)", text, re.M):
        name = match[1]
        launcher = re.search(rf"^void {name}_right\(const (float|int)\* in, \1\* out\)", text, re.M)
        if not launcher:
            raise ValueError(f"{check}.cu: no launcher {name}_right(const T* in, T* out)")
        found.append(
            Wrong(
                check,
                name,
                (int(match[2]), int(match[3])),
                launcher[1],
                re.sub(r"\n// ", " ", match[4].strip()),
                frozenset(_marked(text, f"WRONG {name}")),
                frozenset(_marked(text, f"OTHER {name}")),
            )
        )
    return found


def launchers(check: str) -> list[str]:
    """The names of all launchers of a check's file."""
    if check in TOLD_APART:
        return re.findall(r"^void (\w+_(?:wrong|right))\(", source(check), re.M)
    return [f"{kernel.name}_{which}" for kernel in kernels(check) for which in kernel.launchers]


def _marked(text: str, mark: str) -> list[int]:
    pattern = re.compile(rf"// {mark}$")
    return [i for i, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


def build() -> dict[str, ModuleType]:
    """The launchers of each file, compiled for the simulator."""
    from workbench.toolchain.inline.together import Source, inline_together

    sources = [
        Source(check, source(check), tuple(launchers(check)), alone=check == "memcheck")
        for check in (*FILES, *TOLD_APART)
    ]
    modules = inline_together(sources, "simulator", "wrong", INCLUDES)
    return {source.name: module for source, module in zip(sources, modules, strict=True)}


def inputs(kernel: Wrong) -> np.ndarray:
    """The input of its launchers."""
    import numpy as np

    dtype = np.int32 if kernel.type == "int" else np.float32
    return (np.arange(kernel.sizes[0]) % PERIOD).astype(dtype)


def launch(module: ModuleType, kernel: Wrong, which: str) -> np.ndarray:
    """Run the "wrong" or the "right" variant in the simulator; return its output."""
    import torch

    data = torch.from_numpy(inputs(kernel))
    out = torch.zeros(kernel.sizes[1], dtype=data.dtype)
    getattr(module, f"{kernel.name}_{which}")(data, out)
    return out.numpy()


def checksum(out: np.ndarray) -> float:
    """A number that distinguishes outputs; exact for the twins."""
    return float(sum(float(x) * (1 + i % WEIGHTS) for i, x in enumerate(out)))
