"""The launches of a run, grouped by kernel: counters in total and per line."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from simulator import Counters, Launch, LineCounters, Note
from workbench.estimate import units
from workbench.estimate.gpus import Gpu
from workbench.explain.work import Work, work
from workbench.harness.counters import summed
from workbench.harness.figures import share

Place = tuple[str, int]  # file, as an absolute path, and line


@dataclass(frozen=True)
class Kernel:
    """A kernel and the summed counters of its launches.

    Attributes:
        total: its launches as one, with the grid of the first.
        records: its launches.
        lines: the counters of each source line.
        notes: what else was said about a line.
        gpu: the GPU whose rates rank the lines.
    """

    total: Launch
    records: tuple[Launch, ...]
    lines: Mapping[Place, LineCounters]
    notes: Mapping[Place, tuple[str, ...]]
    gpu: Gpu

    @property
    def name(self) -> str:
        """The name as the simulator reports it, including template arguments."""
        return self.total.kernel

    @property
    def sources(self) -> tuple[Path, ...]:
        """The .cu files that its lines are in."""
        return tuple(dict.fromkeys(Path(path) for path, _ in self.lines if path.endswith(".cu")))

    @property
    def launches(self) -> int:
        """The number of launches."""
        return len(self.records)

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return math.prod(self.total.grid)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return math.prod(self.total.block)

    @cached_property
    def work(self) -> Work:
        """The work of the whole kernel."""
        dram_bytes = self.total.dram_read_bytes + self.total.dram_write_bytes
        return work(self.total, self._tensor_rate, self.gpu, dram_bytes)

    def cost(self, line: LineCounters) -> float:
        """A line's share of the cycles that the lines take, each alone."""
        return self._costs[line.file, line.line]

    @cached_property
    def _costs(self) -> dict[Place, float]:
        cycles = {
            place: work(line, self._tensor_rate, self.gpu).cycles
            for place, line in self.lines.items()
        }
        whole = sum(cycles.values())
        return {place: share(own, whole) for place, own in cycles.items()}

    @cached_property
    def _tensor_rate(self) -> float:
        try:
            return units.tensor(self.total, self.gpu)
        except ValueError:  # it does not run there, as its estimate says; rank its other work
            return math.inf


def by_kernel(launches: Sequence[Launch], gpu: Gpu) -> tuple[Kernel, ...]:
    """The kernels of launches, in the order they were first launched.

    Launches of one kernel with the same block size are added up.
    """
    groups: dict[tuple[str, tuple[int, int, int]], list[Launch]] = {}
    for launch in launches:
        groups.setdefault((launch.kernel, launch.block), []).append(launch)
    return tuple(_together(group, gpu) for group in groups.values())


def _together(launches: Sequence[Launch], gpu: Gpu) -> Kernel:
    groups: dict[Place, list[LineCounters]] = {}
    notes: dict[Place, dict[str, None]] = {}  # those of all launches, each once
    for launch in launches:
        for line in launch.lines:
            groups.setdefault(_place(line), []).append(line)
        for note in launch.notes:
            notes.setdefault(_place(note), {})[note.text] = None
    lines = {
        (file, number): LineCounters(**vars(added(groups[file, number])), file=file, line=number)
        for file, number in sorted(groups)
    }
    names = (*summed(), "num_blocks", "sampled_blocks", "seconds")
    total = replace(
        launches[0],
        **{name: sum(getattr(launch, name) for launch in launches) for name in names},
        shared_bytes=max(launch.shared_bytes for launch in launches),
        lines=tuple(lines.values()),
        forms=dict(sum((Counter(launch.forms) for launch in launches), Counter())),
    )
    said = {place: tuple(texts) for place, texts in notes.items()}
    return Kernel(total, tuple(launches), lines, said, gpu)


def _place(at: LineCounters | Note) -> Place:
    return os.path.realpath(at.file) if at.file else "", at.line


def added(counted: Sequence[Counters]) -> Counters:
    """The sums of counters."""
    names = [field.name for field in fields(Counters)]
    return Counters(**{name: sum(getattr(one, name) for one in counted) for name in names})
