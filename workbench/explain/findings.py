"""The findings that matter most in a kernel: what is wasted, on which line, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from workbench.explain.annotate import Source
from workbench.explain.costs import Costs, costs
from workbench.explain.kernels import Counts, Kernel, Place
from workbench.explain.names import Access, accesses

SHOWN = 3  # findings of a kernel
LINES = 3  # lines that a finding names
LEAST_GAIN = 0.001  # less of the time is not worth a word
LEAST_GAIN_AGAIN = 0.1  # of a second finding of one kind


@dataclass(frozen=True)
class Finding:
    """Something that costs time.

    Attributes:
        kind: a word for it, such as ``stride`` or ``bank conflict``.
        places: the lines it happens on, the costliest first.
        title: what happens, with numbers.
        why: why that costs time.
        fix: what to do.
        gain: the share of the kernel's cycles that it takes, roughly; ranks the findings.
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
class Subject:
    """A kernel under examination, with its sources and what its counters cost."""

    kernel: Kernel
    files: Mapping[str, Source]
    costs: Costs

    def gain(self, cycles: float, unit: str) -> float:
        """The weight of saving cycles of a unit: little if the kernel waits for another."""
        _, slowest = self.costs.slowest()
        return cycles / slowest * min(1.0, getattr(self.costs, unit) / slowest)

    def worst(self, cost: Callable[[Counts], float]) -> tuple[tuple[Place, Counts], ...]:
        """The lines that cost something, the costliest first, without the negligible."""
        ranked = sorted(self.kernel.lines.items(), key=lambda item: -cost(item[1]))
        most = cost(ranked[0][1]) if ranked else 0
        return tuple((place, c) for place, c in ranked if cost(c) > 0.1 * most)[:LINES]

    def accesses(self, places: Iterable[Place], shared: bool, store: bool) -> list[Access]:
        """The arrays that the lines load, or store to, in shared or in another memory."""
        found = []
        for path, line in places:
            source = self.files.get(path)
            if source is not None and source.lines:
                found += [a for a in accesses(source, line, shared) if a.store == store]
        return found


def total(lines: Iterable[tuple[Place, Counts]], name: str) -> int:
    """The sum of a counter over lines."""
    return sum(c.get(name, 0) for _, c in lines)


def places(lines: Iterable[tuple[Place, Counts]]) -> tuple[Place, ...]:
    """The places of lines with their counters."""
    return tuple(place for place, _ in lines)


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def names(found: Sequence[Access]) -> list[str]:
    """The arrays' names, each once."""
    return list(dict.fromkeys(access.name for access in found))


def subject(kernel: Kernel, files: Mapping[str, Source]) -> Subject:
    """What the detectors look at."""
    return Subject(kernel, files, costs(kernel.counts))


def find(kernel: Kernel, files: Mapping[str, Source]) -> tuple[Finding, ...]:
    """At most SHOWN findings on a kernel, the costliest first."""
    from workbench.explain.detectors import DETECTORS

    about = subject(kernel, files)
    found = [finding for detect in DETECTORS for finding in detect(about)]
    chosen: list[Finding] = []
    for finding in sorted(found, key=lambda finding: -finding.gain):
        again = any(finding.kind == other.kind for other in chosen)
        if finding.gain >= (LEAST_GAIN_AGAIN if again else LEAST_GAIN):
            chosen.append(finding)
    return tuple(chosen[:SHOWN])
