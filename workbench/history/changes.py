"""What differs between two rows of the history: their sources, their figures."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workbench.harness import counters
from workbench.harness.changes import SAME_ESTIMATE
from workbench.harness.figures import amount, duration, percent, times

from .reading import COMPILER_REPORT, Entry

# ------------------------------------------------------------------------------------------------
# Figures


@dataclass(frozen=True)
class Figure:
    """A figure of two rows; None where a row lacks it."""

    name: str
    before: float | None
    after: float | None
    unit: str = ""  # "ms", "B", "%" of a fraction, or none

    def text(self, value: float | None) -> str:
        """A value of it, with the unit."""
        if self.unit == "%":
            return percent(value)
        return duration(value) if self.unit == "ms" else amount(value, self.unit)

    @property
    def ratio(self) -> str:
        """After over before: ``x0.50``; empty where that says nothing."""
        return times(self.after, self.before)

    @property
    def distance(self) -> float:
        """How large the change is: of the logarithm, infinite from or to nothing."""
        if not self.before or not self.after or self.before * self.after < 0:
            return math.inf
        return abs(math.log(self.after / self.before))


def figures(before: Entry, after: Entry, same: float = 0.0) -> list[Figure]:
    """The figures that differ by more than the fraction ``same``: the time, the report, counters.

    Estimates for different GPUs are not compared.
    """
    made = [Figure("time", before.time_ms, after.time_ms, "ms")]
    if before.gpu == after.gpu:
        made.append(Figure("estimated time", before.estimated_ms, after.estimated_ms, "ms"))
        made.append(Figure("occupancy", before.occupancy, after.occupancy, "%"))
    for label, name in COMPILER_REPORT.items():
        values = getattr(before, name), getattr(after, name)
        made.append(Figure(label, *values, counters.unit(name)))
    for name in dict.fromkeys([*before.counters, *after.counters]):
        values = before.counters.get(name), after.counters.get(name)
        made.append(Figure(counters.words(name), *values, counters.unit(name)))
    return [figure for figure in made if _differs(figure, same)]


def _differs(figure: Figure, same: float) -> bool:
    before, after = figure.before, figure.after
    if before == after or (not before and not after):
        return False
    return figure.distance > same


def words(before: Entry, after: Entry) -> list[tuple[str, str, str]]:
    """What is told in words and differs: (name, before, after)."""
    pairs = {
        "rung": (f"{before.op} {before.kernel}", f"{after.op} {after.kernel}"),
        "case": (before.subject, after.subject),
        "limit": (before.limiter, after.limiter),
        "occupancy limited by": (before.occupancy_limiter, after.occupancy_limiter),
        "estimate for": (before.gpu, after.gpu),
        "target": (before.target, after.target),
        "device": (before.device, after.device),
        "driver": (before.driver, after.driver),
        "clocks": (before.clocks, after.clocks),
        "blocks sampled": (before.sampled_blocks, after.sampled_blocks),
    }
    different = {name: pair for name, pair in pairs.items() if (pair[0] or 0) != (pair[1] or 0)}
    return [(name, str(a or "-"), str(b or "-")) for name, (a, b) in different.items()]


def time_change(before: Entry | None, after: Entry) -> str:
    """The change of the time, or of the estimate: ``new``, ``-12.3%``, ``=`` within the noise."""
    if before is None or not before.ms or after.ms is None:
        return "new"
    if after.time_ms is not None:
        noise = max(after.spread or 0.0, before.spread or 0.0)
    else:
        noise = SAME_ESTIMATE * before.ms
    if abs(after.ms - before.ms) <= noise:
        return "="
    return f"{100 * (after.ms / before.ms - 1):+.3g}%"


def edited(before: Entry | None, after: Entry) -> str:
    """Whether the files that a rung depends on differ: ``edited``; empty if not, or unknown."""
    if before is None or not (before.sources and after.sources):
        return ""
    return "edited" if before.source != after.source else ""


# ------------------------------------------------------------------------------------------------
# Sources


@dataclass(frozen=True)
class FileChange:
    """How a file differs.

    Attributes:
        name: the file.
        lines: the unified diff.
        own: a rung of the two rows depends on it.
    """

    name: str
    lines: tuple[str, ...]
    own: bool

    @property
    def added(self) -> int:
        """The number of lines added."""
        return sum(line.startswith("+") for line in self.lines[2:])

    @property
    def removed(self) -> int:
        """The number of lines removed."""
        return sum(line.startswith("-") for line in self.lines[2:])


def source_changes(
    before: Mapping[str, bytes],
    after: Mapping[str, bytes],
    own: Iterable[str],
    labels: tuple[str, str],
) -> list[FileChange]:
    """The files that differ; first the ``own`` ones.

    Args:
        before: the texts by name.
        after: the same, later.
        own: the names of the files that the rung depends on.
        labels: what the two are, for the heads of the diffs.
    """
    first = list(dict.fromkeys(own))
    names = dict.fromkeys([*first, *before, *after])
    return [
        FileChange(name, tuple(_unified(name, before, after, labels)), name in first)
        for name in names
        if before.get(name) != after.get(name)
    ]


def _unified(
    name: str, before: Mapping[str, bytes], after: Mapping[str, bytes], labels: tuple[str, str]
) -> Sequence[str]:
    found = difflib.unified_diff(
        _lines(before.get(name, b"")),
        _lines(after.get(name, b"")),
        name if name in before else "/dev/null",
        name if name in after else "/dev/null",
        *labels,
        lineterm="",
    )
    lines = []
    for line in found:
        whole = line.endswith("\n") or line.startswith(("---", "+++", "@@"))
        lines.append(line.rstrip("\n"))
        if not whole:
            lines.append("\\ No newline at end of file")
    return lines


def _lines(text: bytes) -> list[str]:
    """The lines, each with its end: only a line feed ends one, as for patch."""
    *whole, rest = text.decode(errors="replace").split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])
