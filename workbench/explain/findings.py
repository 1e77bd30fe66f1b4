"""Findings: what a kernel wastes, on which line, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from simulator import Counters, Launch, LineCounters
from workbench.estimate.gpus import Gpu
from workbench.explain.annotate import Source
from workbench.explain.kernels import Kernel, Place, added
from workbench.explain.names import Access, accesses
from workbench.explain.work import Work
from workbench.harness.figures import share

LINES = 3  # lines that a finding names


@dataclass(frozen=True)
class Finding:
    """Something that costs time.

    Attributes:
        kind: its category, such as ``stride`` or ``bank conflict``.
        places: the lines where it happens, the costliest first.
        title: what happens, with numbers.
        why: why it costs time.
        fix: what to do.
        gain: roughly the share of the kernel's cycles that fixing it saves; ranks findings.
    """

    kind: str
    places: tuple[Place, ...]
    title: str
    why: str
    fix: str
    gain: float

    def where(self) -> str:
        """``line 42``, ``lines 50, 53 and 56``; empty for the whole kernel."""
        numbers = [str(line) for _, line in sorted(self.places)]
        if not numbers:
            return ""
        return f"line{'s' if len(numbers) > 1 else ''} {listed(numbers)}"


@dataclass(frozen=True)
class Lines:
    """The lines that a finding is about, the costliest first.

    Attributes:
        each: their counters.
        total: their sums.
    """

    each: tuple[LineCounters, ...]
    total: Counters

    @property
    def places(self) -> tuple[Place, ...]:
        """The places of the lines."""
        return tuple((line.file, line.line) for line in self.each)

    def sum(self, cost: Callable[[LineCounters], float]) -> float:
        """Their total cost."""
        return sum(cost(line) for line in self.each)


@dataclass(frozen=True)
class Subject:
    """A kernel under examination, with its sources."""

    kernel: Kernel
    files: Mapping[str, Source]

    @property
    def total(self) -> Launch:
        """The kernel's launches as one."""
        return self.kernel.total

    @property
    def gpu(self) -> Gpu:
        """The GPU whose rates determine costs."""
        return self.kernel.gpu

    def gain(self, saved: Work) -> float:
        """The share of the kernel's cycles that is saved without this work.

        Small if the kernel is limited by something else.
        """
        whole = self.kernel.work
        return share(whole.cycles - (whole - saved).cycles, whole.cycles)

    def worst(self, cost: Callable[[LineCounters], float]) -> Lines:
        """The lines that cost something, the costliest first; negligible ones are left out."""
        costs = [(cost(line), line) for line in self.kernel.lines.values()]
        most = max((own for own, _ in costs), default=0.0)
        ranked = sorted(costs, key=lambda item: -item[0])
        each = tuple(line for own, line in ranked if own > 0.1 * most)[:LINES]
        return Lines(each, added(each))

    def accesses(self, lines: Lines, shared: bool, store: bool) -> list[Access]:
        """The arrays that the lines load from, or store to, in shared or other memory."""
        found = []
        for path, line in lines.places:
            source = self.files.get(path)
            if source is not None and source.lines:
                found += [a for a in accesses(source, line, shared) if a.store == store]
        return found


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def names(found: Sequence[Access]) -> list[str]:
    """The arrays' names, without duplicates."""
    return list(dict.fromkeys(access.name for access in found))
