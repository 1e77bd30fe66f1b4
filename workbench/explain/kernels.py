"""The launches of a run, brought together by kernel: counters of the whole and of each line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import simulator

Counts = Mapping[str, int]
Place = tuple[str, int]  # file, as an absolute path, and line

_NOT_SUMMED = {"kernel", "grid", "block", "shared_bytes", "seconds", "lines", "forms"}
_NO_COUNTERS = {"file", "line"}


@dataclass(frozen=True)
class Kernel:
    """A kernel and what its launches counted together.

    Attributes:
        name: as the simulator reports it, template arguments included.
        grid: blocks along x, y, z of the first launch.
        block: threads along x, y, z.
        shared_bytes: static and dynamic shared memory of a block.
        records: its launches.
        counts: its counters by the names of ``simulator.Launch``.
        lines: the counters of each source line by the names of ``simulator.LineCounters``.
    """

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    records: tuple[simulator.Launch, ...]
    counts: Counts
    lines: Mapping[Place, Counts]
    _sums: dict[Callable[[Counts], float], float] = field(
        default_factory=dict, repr=False, compare=False
    )

    def summed(self, weight: Callable[[Counts], float]) -> float:
        """The weights of all lines together; computed once for each weight."""
        known = self._sums.get(weight)
        if known is None:
            known = self._sums[weight] = sum(weight(line) for line in self.lines.values())
        return known

    @property
    def launches(self) -> int:
        """How often it was launched."""
        return len(self.records)

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]


def by_kernel(launches: Sequence[simulator.Launch]) -> tuple[Kernel, ...]:
    """The kernels of these ``simulator.Launch`` records, in the order they were first launched.

    Launches of one kernel with blocks of one size are added up.
    """
    groups: dict[tuple[str, tuple[int, int, int]], list[simulator.Launch]] = {}
    for launch in launches:
        groups.setdefault((launch.kernel, launch.block), []).append(launch)
    return tuple(_together(group) for group in groups.values())


def _together(launches: Sequence[simulator.Launch]) -> Kernel:
    first = launches[0]
    counts: dict[str, int] = {}
    lines: dict[Place, dict[str, int]] = {}
    for launch in launches:
        _add(counts, launch, _NOT_SUMMED)
        for line in launch.lines:
            file = os.path.realpath(line.file) if line.file else ""
            place = (file, line.line)
            _add(lines.setdefault(place, {}), line, _NO_COUNTERS)
    return Kernel(
        name=first.kernel,
        grid=first.grid,
        block=first.block,
        shared_bytes=max(launch.shared_bytes for launch in launches),
        records=tuple(launches),
        counts=counts,
        lines=dict(sorted(lines.items())),
    )


def _add(
    totals: dict[str, int], record: simulator.Launch | simulator.LineCounters, leave_out: set[str]
) -> None:
    for name, value in vars(record).items():
        if name not in leave_out and isinstance(value, int):
            totals[name] = totals.get(name, 0) + value
