"""What differs between two measurements of a rung: counters, estimate, time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from . import counters
from .figures import duration

SAME_ESTIMATE = 0.005  # relative: an estimate varies this much with the tensors' addresses
_OF_ESTIMATES = "estimated_ms_"


@dataclass(frozen=True)
class Change:
    """A figure of two measurements, which differs."""

    name: str  # a counter's, as in docs/counters.md
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """After over before; infinite for something that was nothing."""
        return self.after / self.before if self.before else math.inf

    @property
    def relative(self) -> str:
        """``-8.3%``."""
        return relative(self.before, self.after)

    @property
    def text(self) -> str:
        """``warp instructions 8.63 G -> 7.91 G (-8.3%)``."""
        words = counters.words(self.name).removesuffix(" bytes")
        return f"{words} {self.values()} ({self.relative})"

    def values(self, width: int = 0) -> str:
        """``8.63 G -> 7.91 G``, each right-aligned to ``width`` characters."""
        before, after = counters.text(self.name, self.before), counters.text(self.name, self.after)
        return f"{before:>{width}} -> {after:>{width}}"


def relative(before: float, after: float) -> str:
    """A relative change: ``-8.3%``, ``x2.5``, ``new``, ``gone``, ``same`` (to 0.05%)."""
    if not before or not after:
        return "new" if after else "gone" if before else "same"
    ratio = after / before
    if abs(ratio - 1) < 0.0005:
        return "same"
    if 0.0995 < ratio < 1.995:
        return (
            f"{100 * (ratio - 1):+.2g}%" if abs(ratio - 1) < 0.1 else f"{100 * (ratio - 1):+.0f}%"
        )
    return f"x{ratio:.3g}"


def counter_changes(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[Change, ...]:
    """The counters of rows that differ; those that changed most, relatively, come first.

    Wall time of the simulator and estimates are left out.
    """
    names = dict.fromkeys([*after, *before])
    found = [
        Change(name, before.get(name, 0.0), after.get(name, 0.0))
        for name in names
        if name != counters.SECONDS
        and not name.startswith(_OF_ESTIMATES)
        and before.get(name, 0.0) != after.get(name, 0.0)
    ]
    return tuple(sorted(found, key=_how_much, reverse=True))


def _how_much(change: Change) -> float:
    if not change.before or not change.after:
        return math.inf
    return abs(math.log(change.ratio))


def time_change(before_ms: float, after_ms: float) -> str:
    """``16.9 ms -> 14.3 ms (-15%)``."""
    ratio = relative(before_ms, after_ms)
    return f"{duration(before_ms)} -> {duration(after_ms)} ({ratio})"
