"""Goals for the last rung of a ladder without FLOPs, and whether it meets them.

If the data (read and written) exceed LARGE_BYTES, a kernel can only be as fast as memory: it must
reach COPY_SHARE of the speed of a copy. Below that, the L2 cache and the launch matter too: it must
be no slower than the better of torch's kernel and torch.compile's. Over all cases its speed must be
TORCH_MEAN times torch's, as a geometric mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.harness.results import Row

LARGE_BYTES = 256e6
COPY_SHARE = 0.9
BEST_RATIO = 1.0
TORCH_MEAN = 1.3
COPIES = ("copy", "add")  # the baselines that compute nothing and move as much
LIBRARIES = ("torch", "compile")
TITLES = (
    "case",
    "dtype",
    "rung",
    "GB/s",
    "of\ncopy",
    "vs\ntorch",
    "vs\ncompile",
    "goal",
    "",
)


@dataclass(frozen=True)
class Goal:
    """A case's last rung against its goal; the ratios are a baseline's time over the rung's.

    Attributes:
        case: sizes, options and layout.
        dtype: torch's name for it.
        kernel: the last rung measured.
        data_bytes: bytes to read and write, each once.
        gbps: the rate of these bytes.
        copy: the ratio to the copy, None if it was not measured; likewise the others.
    """

    case: str
    dtype: str
    kernel: str
    data_bytes: float
    gbps: float
    copy: float | None
    torch: float | None
    compile: float | None

    @property
    def large(self) -> bool:
        """Whether the goal is relative to the copy."""
        return self.data_bytes > LARGE_BYTES

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a measurement to compare with."""
        if self.large:
            return None if self.copy is None else self.copy >= COPY_SHARE
        found = [ratio for ratio in (self.torch, self.compile) if ratio is not None]
        return min(found) >= BEST_RATIO if found else None

    def cells(self) -> tuple[str, ...]:
        """A table row with the columns of TITLES."""
        least = f"{100 * COPY_SHARE:.0f}% of copy" if self.large else f"{BEST_RATIO:.1f}x better"
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return (
            self.case,
            self.dtype,
            self.kernel,
            f"{self.gbps:.4g}",
            "-" if self.copy is None else f"{100 * self.copy:.0f}%",
            _ratio(self.torch),
            _ratio(self.compile),
            least,
            verdict,
        )


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def goals(rows: Sequence[Row]) -> list[Goal]:
    """The goals of the last rung timed on a GPU, for every case and dtype among the rows."""
    last: dict[str, Row] = {}
    for row in rows:
        if row.target == "gpu" and not row.baseline and row.unit == "gbps" and row.time_ms:
            last[row.subject] = row
    return [_goal(row) for row in last.values()]


def _goal(row: Row) -> Goal:
    copies = (row.ratios.get(name) for name in COPIES)
    rate, time_ms = row.rate or 0.0, row.time_ms or 0.0
    return Goal(
        row.subject.removesuffix(f" {row.dtype}"),
        row.dtype,
        row.kernel,
        rate * 1e9 * time_ms * 1e-3,
        rate,
        next((ratio for ratio in copies if ratio is not None), None),
        *(row.ratios.get(name) for name in LIBRARIES),
    )


def torch_mean(found: Sequence[Goal]) -> float | None:
    """Geometric mean of the speeds over torch's; None if torch was not measured."""
    ratios = [goal.torch for goal in found if goal.torch]
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else None


def mean_line(found: Sequence[Goal]) -> str:
    """The geometric mean and what it should be, in words."""
    mean = torch_mean(found)
    if mean is None:
        return "torch was not measured."
    verdict = "met" if mean >= TORCH_MEAN else "MISSED"
    cases = sum(goal.torch is not None for goal in found)
    return (
        f"Geometric mean of the speed over torch's, {cases} cases: {mean:.2f}x "
        f"(goal: >= {TORCH_MEAN}x: {verdict})."
    )
