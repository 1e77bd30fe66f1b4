"""Is one of two programs faster? From times that were measured in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
SMALLEST = 0.005  # relative: below this a difference is none that anybody would act on


@dataclass(frozen=True)
class Verdict:
    """How much faster the second of two programs is.

    Attributes:
        word: FASTER, SAME or SLOWER.
        ratio: the first's median time over the second's: above 1 is faster.
        low: the lower end of the ratio's 95% confidence interval.
        high: its upper end.
    """

    word: str
    ratio: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """``FASTER x1.180 (95% confidence interval x1.171 to x1.190)``."""
        within = f"{100 * CONFIDENCE:.0f}% confidence interval x{self.low:.3f} to x{self.high:.3f}"
        return f"{self.word} x{self.ratio:.3f} ({within})"


def verdict(before: Sequence[float], after: Sequence[float]) -> Verdict:
    """Compare times in any unit, at least two of each.

    The interval is a percentile bootstrap of the ratio of medians (Efron and Tibshirani, An
    Introduction to the Bootstrap, chapter 13), with a fixed seed. It is FASTER or SLOWER if the
    interval excludes 1 and the ratio differs from it by more than 0.5%.

    Raises:
        ValueError: fewer than two times.
    """
    if min(len(before), len(after)) < 2:
        raise ValueError(f"expected two times of each, got {len(before)} and {len(after)}")
    random = np.random.default_rng(0)
    medians = []
    for times in (before, after):
        values = np.asarray(times, dtype=float)
        picked = random.integers(0, len(values), (RESAMPLES, len(values)))
        medians.append(np.median(values[picked], axis=1))
    rest = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(medians[0] / medians[1], (rest, 100 - rest))
    ratio = float(np.median(before) / np.median(after))
    decided = not low <= 1 <= high and abs(ratio - 1) > SMALLEST
    word = ("FASTER" if ratio > 1 else "SLOWER") if decided else "SAME"
    return Verdict(word, ratio, float(low), float(high))
