"""What became of the combinations of a sweep."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from workbench.cli.request import Request
from workbench.cli.sweep.plan import Plan
from workbench.harness.results import Row
from workbench.operators.operator import Case

SAME = 0.01  # of a time: what is closer, or within the spread, is no difference


@dataclass
class Outcome:
    """What became of a combination; ``fault`` is why it does not build."""

    combination: tuple[int, ...]
    name: str
    fault: str = ""
    rows: dict[Case, Row] = field(default_factory=dict)

    def known(self, case: Case) -> bool:
        """Whether it has got as far as this case."""
        return bool(self.fault) or case in self.rows

    def time(self, case: Case) -> float | None:
        """Its time in ms, measured or estimated; None if it is not right."""
        row = self.rows.get(case)
        if row is None or not row.checked:
            return None
        return row.estimate.time_ms if row.estimate else row.time_ms

    def why(self, case: Case) -> str:
        """Why it has no time."""
        if self.fault:
            return f"does not compile: {self.fault}"
        row = self.rows.get(case)
        if row is None:
            return "not measured"
        lines = [" ".join(line.split()) for line in row.note.splitlines()]
        if row.refused or row.checked:
            return row.refused or "".join(lines[:1])
        finding = "".join(lines[1:2])
        raised = re.match(r"raised \w+: (.*)", finding)
        return f"fails: {raised[1]}" if raised else f"WRONG: {finding}"

    @property
    def wrong(self) -> bool:
        """Whether it does not build, or has a wrong result."""
        return bool(self.fault) or any(not (r.checked or r.refused) for r in self.rows.values())


@dataclass
class Sweep:
    """The sweep of a rung; the first outcome is that of the values in the file."""

    asked: Request
    plan: Plan
    cases: tuple[Case, ...]
    outcomes: list[Outcome]

    @classmethod
    def of(cls, asked: Request, plan: Plan) -> Sweep:
        """The sweep that is about to begin, over the cases whose dtype the rung supports."""
        cases = tuple(case for case in asked.cases if case.dtype in plan.rung.dtypes)
        outcomes = [Outcome(values, plan.name(values)) for values in plan.combinations]
        return cls(asked, plan, cases, outcomes)

    @property
    def in_file(self) -> Outcome:
        """The outcome of the values in the file."""
        return self.outcomes[0]

    @property
    def timed(self) -> list[Case]:
        """The cases that the values in the file have a time for; else those that any has."""
        own = [case for case in self.cases if self.in_file.time(case) is not None]
        return own or [c for c in self.cases if any(o.time(c) is not None for o in self.outcomes)]

    @property
    def best(self) -> Outcome | None:
        """The best over all cases, by the geometric mean of its times.

        The values in the file, unless others are better by more than SAME and the spread. None if
        no combination is right in all cases.
        """
        cases = self.timed
        if not cases:
            return None
        mean = {outcome.combination: _log_mean(outcome, cases) for outcome in self.outcomes}
        best = min(self.outcomes, key=lambda outcome: mean[outcome.combination])
        if mean[best.combination] == math.inf:
            return None
        gained = mean[self.in_file.combination] - mean[best.combination]
        noise = max(_spread(outcome, cases) for outcome in (best, self.in_file))
        return self.in_file if gained <= math.log1p(max(SAME, noise)) else best


def _log_mean(outcome: Outcome, cases: list[Case]) -> float:
    """The mean of the logarithms of its times; infinite if one is missing."""
    times = [outcome.time(case) for case in cases]
    return sum(math.log(time) if time else math.inf for time in times) / len(times)


def _spread(outcome: Outcome, cases: list[Case]) -> float:
    """The largest spread of its times, as a share of the time; 0 for estimates."""
    rows = [outcome.rows[case] for case in cases if case in outcome.rows]
    return max(((row.spread or 0.0) / row.time_ms for row in rows if row.time_ms), default=0.0)
