"""What ``check``, ``time`` and ``explain`` return: text in a terminal, HTML in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from simulator import SimulatorError
from workbench.estimate import GPUS
from workbench.explain import Explained, terminal
from workbench.explain.findings import Finding
from workbench.explain.report import Fact
from workbench.harness.figures import duration, of, percent
from workbench.interactive import html
from workbench.toolchain.paths import without_cache


class _Shown:
    """A result whose repr is its text."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, repr=False)
class Checked(_Shown):
    """What the simulator's checks found in a call; true if that is nothing.

    Attributes:
        call: the call.
        checks: the checks that ran.
        finding: the finding, with its kind, file, line, block and thread; None if there is none.
            The first one ends the run.
        notes: what is odd, but not certainly wrong.
        launches: how many kernels ran to their end.
    """

    call: str
    checks: tuple[str, ...]
    finding: SimulatorError | None = None
    notes: tuple[str, ...] = ()
    launches: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is no finding."""
        return self.finding is None

    def __bool__(self) -> bool:
        return self.ok

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.finding is not None:
            return "a finding"
        if not self.launches:
            return "no findings, but no kernel was launched"
        return f"no findings in {of(self.launches, 'launch', 'launches')}"

    @property
    def _how(self) -> str:
        return f"checked: {', '.join(self.checks)}"

    @property
    def reports(self) -> tuple[str, ...]:
        """The finding, if there is one, and the notes."""
        found = [str(self.finding)] if self.finding is not None else []
        return tuple(without_cache(text) for text in (*found, *self.notes))

    def __str__(self) -> str:
        return "\n".join((f"{self.call}: {self.verdict} ({self._how})", *self.reports))

    def _repr_html_(self) -> str:
        state = "good" if self.ok else "bad"
        what = html.heading(self.call, self.verdict, self._how, state)
        return html.framed(what + "".join(map(html.preformatted, self.reports)))


@dataclass(frozen=True, repr=False)
class Measured(_Shown):
    """The time of a call on a GPU: the median of many runs.

    Attributes:
        call: the call.
        time_ms: the median, in ms.
        spread_ms: the interquartile range, in ms.
        runs: how many were measured.
        device: the GPU's name.
    """

    call: str
    time_ms: float
    spread_ms: float
    runs: int
    device: str

    @property
    def _how(self) -> str:
        spread = duration(self.spread_ms)
        return f"median of {of(self.runs, 'run')} on {self.device}, spread {spread}"

    def __str__(self) -> str:
        return f"{self.call}: {duration(self.time_ms)}, {self._how}"

    def _repr_html_(self) -> str:
        return html.framed(html.heading(self.call, duration(self.time_ms), self._how))


@dataclass(frozen=True, repr=False)
class Estimated(_Shown):
    """The time that a call might take on a GPU, from what the simulator counted.

    Attributes:
        call: the call.
        gpu: a key of ``workbench.estimate.GPUS``.
        time_ms: the estimate, in ms; None if there is none.
        band: its relative error, as found in comparison with published times.
        limiter: the bottleneck of the kernel that takes longest.
        occupancy: of that kernel, a fraction.
        kernels: each kernel with its facts.
        counters: the sums of all launches, by the names of docs/counters.md.
        why: why there is no estimate.
    """

    call: str
    gpu: str
    time_ms: float | None
    band: float = 0.0
    limiter: str = ""
    occupancy: float = 0.0
    kernels: tuple[Explained, ...] = ()
    counters: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    @property
    def _value(self) -> str:
        return "no estimate" if self.time_ms is None else f"ESTIMATE {duration(self.time_ms)}"

    @property
    def _how(self) -> str:
        if self.time_ms is None:
            return self.why
        return f"+-{percent(self.band)} on {GPUS[self.gpu].title}; limit: {self.limiter}"

    def _facts(self, explained: Explained) -> Iterator[Fact]:
        """What the kernel adds to the estimate of the call."""
        alone = len(self.kernels) == 1
        return (fact for fact in explained.facts if not (alone and fact.name == "estimated time"))

    def __str__(self) -> str:
        lines = [f"{self.call}: {self._value}, {self._how}"]
        for explained in self.kernels:
            lines.append(f"{explained.kernel.name}")
            lines += map(terminal.fact, self._facts(explained))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        inner = html.heading(self.call, self._value, self._how)
        for explained in self.kernels:
            inner += html.kernel_name(explained) + html.facts(tuple(self._facts(explained)))
        return html.framed(inner)


@dataclass(frozen=True, repr=False)
class Explanation(_Shown):
    """Where the time of a call goes.

    Attributes:
        call: the call.
        kernels: its kernels, with source lines, counters and findings.
    """

    call: str
    kernels: tuple[Explained, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wasted in all kernels, the costliest first."""
        found = [(one.part * f.gain, f) for one in self.kernels for f in one.findings]
        return tuple(f for _, f in sorted(found, key=lambda pair: -pair[0]))

    def __str__(self) -> str:
        return terminal.text(self.call, self.kernels).strip("\n")

    def _repr_html_(self) -> str:
        return html.explanation(self.call, self.kernels)
