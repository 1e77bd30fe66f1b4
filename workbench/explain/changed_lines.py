"""Which lines of a source made counters change: between two versions of it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from simulator import Counters, Launch
from workbench.explain.kernels import added
from workbench.harness.changes import Change, counter_changes

_NAMES = tuple(field.name for field in fields(Counters))


@dataclass(frozen=True)
class Lines:
    """Lines of a file before and after an edit, and how their counters changed.

    Attributes:
        file: its name, relative to the folder of kernels.
        before: the numbers of the lines, from 1; empty if they are new.
        after: likewise; empty if they were removed.
        edited: whether their text differs.
        texts: the lines after the edit; before, if they were removed.
        changes: of their counters.
    """

    file: str
    before: range
    after: range
    edited: bool
    texts: tuple[str, ...]
    changes: tuple[Change, ...]

    @property
    def weight(self) -> float:
        """How many warp instructions they execute more or fewer, or thread's, or sectors."""
        return max((abs(change.after - change.before) for change in self.changes), default=0.0)


def changed_lines(
    before: Sequence[Launch], after: Sequence[Launch], old: Path, new: Path
) -> list[Lines]:
    """The lines whose counters differ, those with the largest differences first.

    Args:
        before: launches of kernels in the folder ``old``.
        after: launches of kernels in the folder ``new``.
        old: a folder of kernels.
        new: another version of it.
    """
    was, now = _by_line(before, old), _by_line(after, new)
    found = []
    for file in dict.fromkeys([*now, *was]):
        texts = _lines(old / file), _lines(new / file)
        for edited, left, right in _pairs(*texts):
            counts = _sum(was.get(file, {}), left), _sum(now.get(file, {}), right)
            changes = counter_changes(*counts)
            if changes:
                shown = [texts[1][i - 1] for i in right] or [texts[0][i - 1] for i in left]
                found.append(Lines(file, left, right, edited, tuple(shown), changes))
    return sorted(found, key=lambda lines: lines.weight, reverse=True)


def _by_line(launches: Sequence[Launch], folder: Path) -> dict[str, dict[int, Counters]]:
    """The counters of each line of each file in the folder."""
    found: dict[str, dict[int, list[Counters]]] = {}
    for launch in launches:
        for line in launch.lines:
            path = os.path.realpath(line.file) if line.file else ""
            file = os.path.relpath(path, os.path.realpath(folder)) if path else ""
            if file and not file.startswith(".."):
                found.setdefault(file, {}).setdefault(line.line, []).append(line)
    return {
        file: {line: added(counted) for line, counted in lines.items()}
        for file, lines in found.items()
    }


def _pairs(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[bool, range, range]]:
    """Lines before and after that belong together, by number, and whether they were edited."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            for i in range(b - a):
                yield False, range(a + i + 1, a + i + 2), range(c + i + 1, c + i + 2)
        else:
            yield True, range(a + 1, b + 1), range(c + 1, d + 1)


def _sum(counted: Mapping[int, Counters], lines: range) -> dict[str, float]:
    here = [counted[line] for line in lines if line in counted]
    return {name: float(sum(getattr(one, name) for one in here)) for name in _NAMES}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
