"""``--against REV``: the kernels as they are beside those of a git revision.

On the simulator both give exact counters: the report says which changed, and which lines did it.
On a GPU, or the CPU, both are timed in turns in one process.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from workbench.cli.bench import Bench, Measured
from workbench.cli.request import Request
from workbench.explain.changed_lines import Lines, changed_lines
from workbench.harness import timing, verify
from workbench.harness.changes import SAME_ESTIMATE, counter_changes, relative
from workbench.harness.figures import duration, of
from workbench.harness.results import Row
from workbench.harness.terminal import progress, show, text_width
from workbench.harness.verdicts import verdict
from workbench.operators import builds
from workbench.operators.builds import Extension, Rung
from workbench.operators.live import Live
from workbench.operators.operator import DEVICES, Case
from workbench.toolchain import fingerprints, kernels_dir
from workbench.toolchain.device_code import NotAlone
from workbench.toolchain.paths import kernels_from, shown
from workbench.toolchain.revisions import Revision, copied

SHOWN = 6  # places in the source
COUNTERS_SHOWN = 3  # of each


def run(asked: Request) -> int:
    """Compare; return 1 if a rung is wrong now."""
    then: Revision = asked.words.against
    print(f"against {then.name}: {then.commit[:10]} {then.subject}")
    edited = _edited(asked, then)
    if not edited:
        print(f"the kernels of {asked.operator.name} are the same")
        return 0
    print(f"edited: {', '.join(shown(path) for path in edited)}")
    if asked.target == "simulator":
        return _counted(asked, then, edited)
    return _timed(asked, then)


def _edited(asked: Request, then: Revision) -> list[Path]:
    """The sources of a ladder that differ from the revision's, or what they include does.

    Those of the ladders whose kernels it launches are among them; and those that only one has.
    """
    here = {path.name: path for path in _sources(asked, asked.rungs)}
    with kernels_from(then.kernels):
        there = {path.name: path for path in _sources(asked, asked.rungs)}
    return [
        here.get(name, kernels_dir() / name)
        for name in dict.fromkeys([*here, *there])
        if _contents(here.get(name)) != _contents(there.get(name))
    ]


def _sources(asked: Request, rungs: Sequence[Rung]) -> list[Path]:
    """The files of a ladder, and of those that its rungs are composed of."""
    others = dict.fromkeys(op for rung in rungs for op in rung.composed_of)
    every = [builds.sources(op, asked.target) for op in (asked.operator.name, *others)]
    return [file for files in every for file in files if file.exists()]


def _contents(source: Path | None) -> dict[str, str]:
    """The hashes of a source and of what it includes, by name."""
    if source is None:
        return {}
    found = fingerprints.contents(source, (source.parent,))
    return {os.path.relpath(path, source.parent): digest for path, digest in found.items()}


# ------------------------------------------------------------------------------------------------
# Simulator


def _counted(asked: Request, then: Revision, edited: Sequence[Path]) -> int:
    bench, failed = Bench(asked), False
    with _other_code(asked, then, edited) as (other, folder):
        for case in asked.cases:
            rungs = asked.rungs_for(case.dtype)
            with progress(2 * len(rungs)) as step:
                now = {measured.row.kernel: measured for measured in bench.run(case, rungs, step)}
                with other() as changed:
                    there = _names(asked)
                    again = [r for r in rungs if r.name in there and _differs(now[r.name], changed)]
                    before = bench.run(case, again, step)
            print(f"\n{asked.operator.name} {case.text} {case.dtype}")
            for was in before:
                print(_report(was, now[was.row.kernel], folder))
            for rung in rungs:
                if rung.name not in there:
                    print(_new(now[rung.name].row, then.name))
            _say_rest([r for r in rungs if r.name in there], {was.row.kernel for was in before})
            failed = failed or any(not (m.row.checked or m.row.refused) for m in now.values())
    return int(failed)


def _new(row: Row, revision: str) -> str:
    """A rung that the revision does not have."""
    name = f"\n{row.kernel}: not in {revision}"
    if not row.checked:
        return f"{name}; now {row.refused or row.note}"
    return f"{name}; now {duration(row.estimate.time_ms)}" if row.estimate else name


@contextmanager
def _other_code(asked: Request, then: Revision, edited: Sequence[Path]):  # noqa: ANN202
    """What lets a block run the revision's kernels, and yields those that differ, None for all.

    Also the folder of its sources.
    """
    live = Live(asked.target)
    code = live.device_code
    try:
        if code is None or any(not (then.kernels / path.name).exists() for path in edited):
            raise NotAlone("other files")
        texts = code.of_folder(then.kernels, edited)
        with code.holding(texts):
            pass  # it can

        @contextmanager
        def swapped() -> Iterator[set[str] | None]:
            with code.holding(texts) as changed:
                known = [names for names in changed.values() if names is not None]
                yield set().union(*known) if len(known) == len(changed) else None

        yield swapped, then.kernels
    except NotAlone:
        build = _build(asked, then)

        @contextmanager
        def built() -> Iterator[set[str] | None]:
            with builds.using(build):
                yield None

        yield built, build.kernels
    finally:
        live.close()


def _build(asked: Request, then: Revision) -> Extension:
    """The build of the revision's ladder, without the ladders that it does not need."""
    rungs = builds.rungs(asked.operator.name, asked.target)
    folder = then.folder / "ladders" / f"{asked.operator.name}_{asked.target}"
    if not folder.exists():
        with kernels_from(then.kernels):
            sources = _sources(asked, rungs)
        files = {path for s in sources for path in fingerprints.contents(s, (s.parent,))}
        bindings = {*then.kernels.glob("*.h"), *then.kernels.glob("*.cuh")}  # what they include
        copied(files | bindings, then.kernels, folder)
    return builds.other(asked.target, folder, then.bindings)


def _names(asked: Request) -> set[str]:
    return {rung.name for rung in builds.rungs(asked.operator.name, asked.target)}


def _differs(measured: Measured, changed: set[str] | None) -> bool:
    entries = {launch.entry for launch in measured.launches}
    return changed is None or not entries or not changed.isdisjoint(entries)


def _say_rest(rungs: Sequence[Rung], told: set[str]) -> None:
    rest = [rung.name for rung in rungs if rung.name not in told]
    if rest:
        print(f"\n{of(len(rest), 'rung')} with the same instructions: {', '.join(rest)}")


def _report(was: Measured, now: Measured, folder: Path) -> str:
    """What an edit did to a rung on the simulator."""
    name = now.row.kernel
    for measured, when in ((was, "before"), (now, "now")):
        if not measured.row.checked:
            why = measured.row.refused or f"\n{measured.row.note}"
            return f"\n{name}: {when} {why}"
    changes = counter_changes(was.row.counters, now.row.counters)
    lines = [f"\n{name}: {_estimates(was.row, now.row)}"]
    if not changes:
        return "\n".join([*lines, "  no counter changed"])
    width = max(len(change.name) for change in changes)
    for change in changes:
        lines.append(f"  {change.name:<{width}} {change.values(9)}  {change.relative}")
    places = changed_lines(was.launches, now.launches, folder, kernels_dir())
    lines += ["  by line:"] if places else []
    for place in places[:SHOWN]:
        lines += _place(place)
    if len(places) > SHOWN:
        lines.append(f"    and {of(len(places) - SHOWN, 'more place', 'more places')}")
    return "\n".join(lines)


def _estimates(was: Row, now: Row) -> str:
    if not was.estimate or not now.estimate:
        return "no estimate"
    before, after = was.estimate.time_ms, now.estimate.time_ms
    word = (
        "SAME"
        if abs(after / before - 1) <= SAME_ESTIMATE
        else "FASTER"
        if after < before
        else "SLOWER"
    )
    limits = dict.fromkeys((was.estimate.limiter, now.estimate.limiter))
    return (
        f"{word} by estimate: {duration(before)} -> {duration(after)} "
        f"({relative(before, after)}), limit {' -> '.join(limits)}"
    )


def _place(place: Lines) -> Iterator[str]:
    """A place in the source with the counters that changed most there."""
    numbers = place.after or place.before
    where = f"{place.file}:{numbers[0]}"
    if len(numbers) > 1:
        where += f"-{numbers[-1]}"
    gone = "" if place.after else " (removed)"
    most = sorted(place.changes, key=lambda change: -abs(change.after - change.before))
    what = "; ".join(change.text for change in most[:COUNTERS_SHOWN])
    indent = 6 * " "
    yield f"    {where}{gone}  {'edited' if place.edited else 'not edited'}"
    for text in place.texts[:SHOWN]:
        yield f"      | {text}"
    if len(place.texts) > SHOWN:
        yield "      | ..."
    yield textwrap.fill(what, text_width(), initial_indent=indent, subsequent_indent=indent)


# ------------------------------------------------------------------------------------------------
# GPU and CPU


def _timed(asked: Request, then: Revision) -> int:
    new, old = builds.extension(asked.target), _build(asked, then)
    failed = False
    for case in asked.cases:
        cells = []
        rungs = asked.rungs_for(case.dtype)
        with progress(len(rungs)) as step:
            for rung in rungs:
                step(f"{rung.name}, {case.text}")
                words, right = _compared(asked, case, rung, old, new)
                cells.append((rung.name, *words))
                failed = failed or not right
        print()
        show(f"{asked.operator.name} {case.text} {case.dtype}", TITLES, cells)
    return int(failed)


TITLES = ("rung", "before", "now", "verdict")


def _compared(
    asked: Request, case: Case, rung: Rung, old: Extension, new: Extension
) -> tuple[tuple[str, ...], bool]:
    """The cells of a rung, and whether it is right now."""
    operator, target = asked.operator, asked.target
    for build, when in ((new, "now"), (old, "before")):
        with builds.using(build):
            ladder = {known.name: known for known in builds.rungs(operator.name, target)}
            if rung.name not in ladder:
                return (f"{when} there is no such rung",), True
            found = verify.check_rung(operator, ladder[rung.name], case, target)
        if found.refused:
            return (f"{when} {found.refused}",), True
        if not found.ok:
            return (f"{when} WRONG: {found.report()}",), build is old
    device = torch.device(DEVICES[target])
    given, outputs = Bench(asked).tensors(case)

    def launching(build: Extension):  # noqa: ANN202
        def launch() -> None:
            with builds.using(build):
                operator.launch(target, given, outputs, case, rung.name)

        return launch

    times = timing.times_interleaved({"old": launching(old), "new": launching(new)}, device)
    before, now = timing.summarize(times["old"]), timing.summarize(times["new"])
    word = verdict(times["old"], times["new"]).text
    return (duration(before.median_ms), duration(now.median_ms), word), True
