"""``--watch``: after every save, is the rung still right, and what did the edit change?

The process stays, with PyTorch, the simulator and the tensors in it. On the simulator an edit of
device functions alone is loaded without building the host code again (workbench.operators.live).
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
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
from workbench.harness.terminal import progress, text_width
from workbench.harness.verify import first_line, is_out_of_memory
from workbench.operators.builds import Rung
from workbench.operators.live import Live, Refreshed
from workbench.operators.operator import DEVICES, Case
from workbench.toolchain import REPO, BuildError, announce, command, kernels_dir
from workbench.toolchain.errors import Failure, UsageError
from workbench.toolchain.paths import shown

SOURCES = (".cu", ".cuh", ".cpp", ".h", ".hpp", ".inl")
LOOK_MS = 2000  # for edits that no file system told of, or that came before it was asked
GROUPED_MS = 20  # changes that follow each other faster are one save
GONE_SECONDS = 1.0  # how long a source may be missing while an editor replaces it
SHOWN = 4  # counters
FILES_SHOWN = 3

Key = tuple[Case, str]  # a rung's name


def run(asked: Request) -> int:
    """Measure, then again after every save until Ctrl-C; 1 if a rung was wrong in the end."""
    watch = Watch(asked)
    try:
        watch.begin()
        sys.stdout.flush()
        for files in saves((kernels_dir(), REPO / "bindings", REPO / "bindings.cpp")):
            watch.saved(files)
            sys.stdout.flush()  # also where it is no terminal
            if command.reader_is_gone():
                break
    except KeyboardInterrupt:
        watch.interrupted()
    finally:
        watch.live.close()
    watch.end()
    return int(watch.failed or watch.broken)


def saves(places: Sequence[Path]) -> Iterator[list[Path]]:
    """The sources in folders, or files, that were saved; once for every save, until Ctrl-C.

    Every two seconds none.
    """
    try:
        from watchfiles import watch
    except ImportError:
        raise Failure("--watch needs watchfiles: pip install -r requirements.txt") from None

    there = [place for place in places if place.exists()]
    for changes in watch(
        *there,
        watch_filter=lambda change, path: path.endswith(SOURCES),
        step=GROUPED_MS,
        debounce=10 * GROUPED_MS,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
    ):
        yield sorted({Path(path) for _, path in changes})


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
        self.pending = False  # a save has no verdict yet
        self.history = open_history()
        self.device = torch.device(DEVICES[self.asked.target])

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

    def saved(self, files: Sequence[Path]) -> None:
        """Take up an edit of these files, check, measure, and print what changed."""
        if self.broken and not files:
            return  # it would be the same error
        started, self.pending = time.monotonic(), bool(files)
        self._take_up(files, started)
        self.pending = False

    def _take_up(self, files: Sequence[Path], started: float) -> None:
        _await_sources(self.live)
        try:
            with announce.everywhere():
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
        self._head(_what(files, refreshed, time.monotonic() - started))
        try:
            self._measure(refreshed)
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

    def interrupted(self) -> None:
        """Note whether an edit is left without a verdict."""
        self.pending = self.pending and self.live.is_stale(self._sources())

    def end(self) -> None:
        """Print what all the edits together did."""
        print(f"\n{of(self.count, 'edit')}")
        if self.pending:
            print("the last save was not measured")
        for key, row in self.first.items():
            now = self.right.get(key)
            was, is_ = _time(row), _time(now)
            if now and was and is_ and self.count:
                change = "time as before" if _close(row, now) else time_change(was, is_)
                print(f"{row.kernel}, {row.subject}: {change}")

    def _measure(self, refreshed: Refreshed) -> None:
        """Measure the rungs that an edit concerns; on the simulator also those that were named."""
        asked = self.asked
        ladder = choose_rungs(asked.operator, asked.names, (), target=asked.target)
        self.failed = False
        rows = []
        own = self.live.texts(asked.operator.name, self._sources()).own
        named = bool(asked.names) and asked.target == "simulator"
        for case in asked.cases:
            rungs = [r for r in ladder if asked.names or case.dtype in r.dtypes]
            again = [r for r in rungs if named or self._is_stale(case, r, refreshed, own)]
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
                self.failed |= any(self._is_wrong(case, rung) for rung in rungs)
        self._record(rows)

    def _record(self, rows: Sequence[Row]) -> None:
        """Record rows as a run of their own, with the sources that were measured."""
        here = environment(self.asked.target, self.device, REPO)  # there may be a new commit
        sources = self.live.texts(self.asked.operator.name, self._sources())
        files, note = ResultFiles(self.asked.words), self.asked.words.note
        Results(self.history, here, files, sources, note).add(rows)

    def _is_wrong(self, case: Case, rung: Rung) -> bool:
        last = self.last.get((case, rung.name))
        return last is not None and not (last.checked or last.refused)

    def _is_stale(
        self, case: Case, rung: Rung, refreshed: Refreshed, own: Mapping[str, Sequence[str]]
    ) -> bool:
        """Whether an edit concerns a rung: its kernels, else its files; if not known, it does."""
        if (case, rung.name) not in self.last or self._is_wrong(case, rung):
            return True
        if refreshed.kernels is not None:
            launched = self.entries.get((case, rung.name))
            return not launched or not refreshed.kernels.isdisjoint(launched)
        files = own.get(rung.name)
        edited = {source.name for source in refreshed.sources}
        return not files or not edited or not edited.isdisjoint(files)

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
        was = _time(before)
        words = [f"right ({percent(row.share)} of the allowed error)" if row.share else "right"]
        if before and was and now:
            words.append("time as before" if _close(before, row) else time_change(was, now))
            if (start := _time(self.first[case, row.kernel])) and start != was:
                words.append(f"{relative(start, now)} since the start")
        elif now:
            words.append(duration(now))
        if row.estimate:
            words[-1] += f", limit {row.estimate.limiter}"
        said = f"{name}: {'; '.join(words)}"
        lines = [textwrap.fill(said, text_width(), subsequent_indent="    ")]
        if before:
            changes = counter_changes(before.counters, row.counters)
            lines += [f"    {change.text}" for change in changes[:SHOWN]]
            if len(changes) > SHOWN:
                lines.append(f"    and {of(len(changes) - SHOWN, 'counter')}")
        return "\n".join([*lines, *([row.note] if row.note else [])])

    def _head(self, text: str) -> None:
        print(f"\n{time.strftime('%H:%M:%S')} {text}")


def _what(files: Sequence[Path], refreshed: Refreshed, seconds: float) -> str:
    """``kernels/a.cuh: device code of 2 files in 0.71 s``."""
    files = files or refreshed.sources
    names = [shown(file) for file in files]
    if len(names) > FILES_SHOWN:
        names[FILES_SHOWN - 1 :] = [of(len(names) - FILES_SHOWN + 1, "more file")]
    others = [source for source in refreshed.sources if source not in files]
    of_what = f" of {of(len(refreshed.sources), 'file')}" if others else ""
    return f"{', '.join(names)}: {refreshed.how}{of_what} in {seconds:.2f} s"


def _time(row: Row | None) -> float | None:
    if row is None:
        return None
    return row.estimate.time_ms if row.estimate else row.time_ms


def _close(before: Row, now: Row) -> bool:
    """Whether two times differ by no more than the noise."""
    was, is_ = _time(before), _time(now)
    if was is None or is_ is None:
        return False
    noise = max(before.spread or 0.0, now.spread or 0.0)
    return abs(is_ - was) <= (SAME_ESTIMATE * was if now.estimate else noise)


def _await_sources(live: Live) -> None:
    """Wait while an editor that saves by renaming has a source moved away."""
    end = time.monotonic() + GONE_SECONDS
    while any(not source.exists() for source in live.sources()) and time.monotonic() < end:
        time.sleep(0.01)
