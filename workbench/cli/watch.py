"""``--watch``: after every save, is the rung still right, and what did the edit change?

The process stays, with PyTorch, the simulator and the tensors in it. On the simulator an edit of
device functions alone is loaded without building the host code again (workbench.operators.live).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from workbench.cli.bench import Bench, Measured
from workbench.cli.files import ResultFiles
from workbench.cli.recorded import Results, open_history
from workbench.cli.request import Request, choose_rungs
from workbench.harness.changes import SAME_ESTIMATE, counter_changes, relative, time_change
from workbench.harness.environment import environment
from workbench.harness.figures import duration, of, percent
from workbench.harness.results import Row
from workbench.harness.terminal import progress
from workbench.harness.verify import first_line, is_out_of_memory
from workbench.operators.builds import Rung
from workbench.operators.live import Live, Refreshed
from workbench.operators.operator import DEVICES, Case
from workbench.toolchain import REPO, BuildError, command, kernels_dir
from workbench.toolchain.errors import Failure, UsageError
from workbench.toolchain.paths import shown

SOURCES = (".cu", ".cuh", ".cpp", ".h")
GROUPED_MS = 20  # changes that follow each other faster are one save
GONE_SECONDS = 1.0  # how long a source may be missing while an editor replaces it
SHOWN = 4  # counters

Key = tuple[Case, str]  # a rung's name


def run(asked: Request) -> int:
    """Measure, then again after every save until Ctrl-C; 1 if a rung was wrong in the end."""
    watch = Watch(asked)
    try:
        watch.begin()
        sys.stdout.flush()
        for _ in saves((kernels_dir(), REPO / "bindings", REPO / "bindings.cpp")):
            watch.saved()
            sys.stdout.flush()  # also where it is no terminal
            if command.reader_is_gone():
                break
    except KeyboardInterrupt:
        pass
    finally:
        watch.live.close()
    watch.end()
    return int(watch.failed or watch.broken)


def saves(places: Sequence[Path]) -> Iterator[float]:
    """The time of every save of a source in a folder, or of a file, until Ctrl-C."""
    try:
        from watchfiles import watch
    except ImportError:
        raise Failure("--watch needs watchfiles: pip install -r requirements.txt") from None

    there = [place for place in places if place.exists()]
    for _ in watch(
        *there,
        watch_filter=lambda change, path: path.endswith(SOURCES),
        step=GROUPED_MS,
        debounce=10 * GROUPED_MS,
        recursive=False,
    ):
        yield time.monotonic()


@dataclass
class Watch:
    """What was measured at first and last, by case and rung."""

    asked: Request

    def __post_init__(self) -> None:
        self.live = Live(self.asked.target)
        self.bench = Bench(self.asked)
        self.first: dict[Key, Row] = {}
        self.last: dict[Key, Row] = {}
        self.right: dict[Key, Row] = {}  # the last that was right
        self.entries: dict[Key, set[str]] = {}  # the kernels that it launched, by name in PTX
        self.count = 0
        self.failed = False  # a rung is wrong
        self.broken = False  # the sources do not compile
        self.history = open_history()
        self.here = environment(self.asked.target, torch.device(DEVICES[self.asked.target]), REPO)

    def begin(self) -> None:
        """Measure everything once."""
        print(f"watching {shown(kernels_dir())}/: save a file to check and measure; Ctrl-C ends")
        with progress(len(self.asked.rungs) * len(self.asked.cases)) as step:
            for case in self.asked.cases:
                rungs = self.asked.rungs_for(case.dtype)
                for measured in self.bench.run(case, rungs, step):
                    self._keep(case, measured)
        self._record(list(self.last.values()))
        for (case, _), row in self.last.items():
            print(self._line(case, row, None))
        self.live.prepare(self._sources())

    def saved(self) -> None:
        """Take up an edit, check, measure, and print what changed."""
        started = time.monotonic()
        _await_sources(self.live)
        try:
            refreshed = self.live.refresh(self._sources())
        except BuildError as error:
            self._head("does not compile")
            print(f"{error}")
            self.broken = True
            return
        except OSError as error:  # such as a full disk: perhaps the next save finds room
            self._head(f"not compiled: {command.reason(error)}")
            self.broken = True
            return
        if not refreshed.how:
            if self.broken:  # as it was before the error
                self._head("compiles again: the kernels are as before the error")
            self.broken = False
            return  # the contents are the same
        self.broken = False
        self.count += 1
        self._head(_what(refreshed, time.monotonic() - started))
        try:
            self._measure(refreshed.kernels)
        except UsageError as error:  # a rung that was named is no longer in the table
            print(f"error: {error}")
            self.broken = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            print(f"error: not enough memory ({first_line(error)})")
            self.failed = True
        print(f"{time.monotonic() - started:.2f} s from save to verdict")
        self.live.prepare(self._sources())

    def end(self) -> None:
        """Print what all the edits together did."""
        print(f"\n{of(self.count, 'edit')}")
        for (case, name), row in self.first.items():
            now = self.right.get((case, name))
            was, is_ = _time(row), _time(now)
            if was and is_ and self.count:
                print(f"{name}, {case.text}: {time_change(was, is_)}")

    def _measure(self, changed: frozenset[str] | None) -> None:
        """Measure the rungs that were named, else those with kernels that changed (None: all)."""
        asked = self.asked
        ladder = choose_rungs(asked.operator, asked.names, (), target=asked.target)
        self.failed = False
        rows = []
        for case in asked.cases:
            rungs = [r for r in ladder if asked.names or case.dtype in r.dtypes]
            again = [r for r in rungs if asked.names or self._is_stale(case, r, changed)]
            with progress(len(again)) as step:
                for rung in again:
                    before = self.right.get((case, rung.name))
                    [measured] = self.bench.run(case, [rung], step)
                    self._keep(case, measured)
                    rows.append(measured.row)
                    print(self._line(case, measured.row, before))
            if len(again) < len(rungs):
                rest = of(len(rungs) - len(again), "rung")
                print(f"  {rest} with the same instructions as before: not measured")
        self._record(rows)

    def _record(self, rows: Sequence[Row]) -> None:
        """Record rows as a run of their own, with the sources that were measured."""
        results = Results(
            self.history,
            self.here,
            ResultFiles(self.asked.words),
            self.live.texts(self.asked.operator.name),
            self.asked.words.note,
        )
        results.add(rows)

    def _is_stale(self, case: Case, rung: Rung, changed: frozenset[str] | None) -> bool:
        launched = self.entries.get((case, rung.name))
        return changed is None or not launched or not changed.isdisjoint(launched)

    def _keep(self, case: Case, measured: Measured) -> None:
        row = measured.row
        self.failed = self.failed or not (row.checked or row.refused)
        if row.checked:
            self.first.setdefault((case, row.kernel), row)
        self.last[case, row.kernel] = row
        if row.checked:
            self.right[case, row.kernel] = row
        if measured.launches:
            self.entries[case, row.kernel] = {launch.entry for launch in measured.launches}

    def _sources(self) -> list[Path] | None:
        """The sources with the kernels that are measured; None if that is not known of all."""
        every = [self.entries.get(key, set()) for key in self.last]
        return self.live.sources_of(set().union(*every)) if all(every) else None

    def _line(self, case: Case, row: Row, before: Row | None) -> str:
        several = f"{row.subject}: " if len(self.asked.cases) > 1 else ""
        name = f"  {several}{row.kernel}"
        if row.refused:
            return f"{name} {row.refused}"
        if not row.checked:
            return f"{name}\n{row.note}"
        now = _time(row)
        was = _time(before) if before and before.checked else None
        words = [f"right ({percent(row.share)} of the allowed error)" if row.share else "right"]
        if was and now:
            words.append("time as before" if _close(row, was, now) else time_change(was, now))
            if (start := _time(self.first[case, row.kernel])) and start != was:
                words.append(f"{relative(start, now)} since the start")
        elif now:
            words.append(duration(now))
        if row.estimate:
            words[-1] += f", limit {row.estimate.limiter}"
        lines = [f"{name}: {'; '.join(words)}"]
        if before and before.checked:
            changes = counter_changes(before.counters, row.counters)
            lines += [f"    {change.text}" for change in changes[:SHOWN]]
            if len(changes) > SHOWN:
                lines.append(f"    and {of(len(changes) - SHOWN, 'counter')}")
        return "\n".join([*lines, *([row.note] if row.note else [])])

    def _head(self, text: str) -> None:
        print(f"\n{time.strftime('%H:%M:%S')} {text}")


def _what(refreshed: Refreshed, seconds: float) -> str:
    files = ", ".join(shown(source) for source in refreshed.sources) or "kernels"
    return f"{files}: {refreshed.how} in {seconds:.2f} s"


def _time(row: Row | None) -> float | None:
    if row is None:
        return None
    return row.estimate.time_ms if row.estimate else row.time_ms


def _close(row: Row, before: float, now: float) -> bool:
    if row.estimate:
        return abs(now / before - 1) <= SAME_ESTIMATE
    return abs(now - before) <= (row.spread or 0.0)


def _await_sources(live: Live) -> None:
    """Wait while an editor that saves by renaming has a source moved away."""
    end = time.monotonic() + GONE_SECONDS
    while any(not source.exists() for source in live.sources()) and time.monotonic() < end:
        time.sleep(0.01)
