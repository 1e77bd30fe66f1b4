"""The history as a work log in Markdown: for each run what was thought, changed and counted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from workbench.estimate.gpus import GPUS
from workbench.estimate.model import BAND
from workbench.harness import counters
from workbench.harness.figures import duration, of, percent, times

from . import changes, reading
from .changes import Figure, FileChange
from .reading import COMPILER_REPORT, Entry
from .store import History
from .texts import DamagedText

LONG = 40  # lines of a diff that is folded
MOST = 12  # counters of a row
SAME = 0.01  # counters that changed by less are left out


def document(history: History, entries: Sequence[Entry]) -> str:
    """The work log of these rows, oldest first; a step for each run. Raises HistoryError."""
    runs: dict[int, list[Entry]] = {}
    for entry in entries:
        runs.setdefault(entry.run, []).append(entry)
    parts = [f"# Work log: {_subject(entries)}", _about(entries), *_summary(entries)]
    last: dict[tuple[str, ...], Entry] = {}  # by rung and case, so far
    latest: dict[str, list[Entry]] = {}  # the last step of each operator
    for number, step in enumerate(runs.values(), 1):
        first = step[0]
        parts.append(f"## Step {number}: {first.when}")
        parts += [_quoted(note) for note in first.notes]
        parts.append(_run(step))
        parts += _source_part(history, latest.get(first.op), step)
        parts.append(_rows(step, last))
        parts += _counters(step, last)
        last |= {(*entry.case, entry.kernel): entry for entry in step}
        latest[first.op] = step
    return "\n\n".join(parts) + "\n"


def _subject(entries: Sequence[Entry]) -> str:
    ops = dict.fromkeys(entry.op for entry in entries)
    kernels = dict.fromkeys(entry.kernel for entry in entries)
    return f"{', '.join(ops)}{f', {next(iter(kernels))}' if len(kernels) == 1 else ''}"


def _about(entries: Sequence[Entry]) -> str:
    """Where the times come from."""
    gpus = dict.fromkeys(entry.gpu for entry in entries if entry.gpu and entry.time_ms is None)
    devices = dict.fromkeys(entry.device for entry in entries if entry.time_ms is not None)
    said = []
    if gpus:
        titles = ", ".join(GPUS[gpu].title if gpu in GPUS else gpu for gpu in gpus)
        said.append(
            f"Times for the {titles} are estimates from counters (±{100 * BAND:.0f}%): nothing was "
            "measured there."
        )
    if devices:
        said.append(f"Times on the {', '.join(devices)} were measured; they are medians.")
    return " ".join(said) or "No times are known."


def _summary(entries: Sequence[Entry]) -> list[str]:
    """A table with the first and the last time of every rung and case with more than one."""
    cases: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if entry.ms:
            cases.setdefault((*entry.case, entry.kernel), []).append(entry)
    rows = []
    for found in cases.values():
        times_ = [entry.ms for entry in found if entry.ms is not None]
        if len(found) > 1:
            cells = [duration(ms) for ms in (times_[0], min(times_), times_[-1])]
            first = found[0]
            where = first.device if first.time_ms is not None else first.gpu or ""
            faster = times(times_[0], times_[-1])
            rows.append([f"{first.op} {first.kernel}", first.subject, where, *cells, faster])
    titles = ("rung", "case", "on", "first", "best", "last", "speed-up")
    return [markdown(titles, rows, left=3)] if rows else []


def _quoted(note: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in note.splitlines())


def _run(step: Sequence[Entry]) -> str:
    first = step[0]
    commit = f"commit {first.short_commit}" if first.commit else "no commit"
    local = " (and local changes)" if first.short_commit.endswith("+") else ""
    return f"`{_without_note(first.command)}`, {commit.rstrip('+')}{local}, torch {first.torch}."


def _without_note(line: str) -> str:
    """A command line without its --note, which stands above it."""
    try:
        words = shlex.split(line)
    except ValueError:
        return line
    kept = [
        word
        for word, before in zip(words, ["", *words], strict=False)
        if before != "--note" and word != "--note" and not word.startswith("--note=")
    ]
    return line if kept == words else shlex.join(kept)


def _source_part(
    history: History, before: Sequence[Entry] | None, step: Sequence[Entry]
) -> list[str]:
    """What was edited since the step before of the same operator."""
    if before is None:
        return []
    old, new = (next((e for e in rows if e.sources), rows[0]) for rows in (before, step))
    if not (old.sources and new.sources):
        return ["The texts of the sources are not known."]
    own = list(dict.fromkeys(name for entry in (*before, *step) for name in entry.own))
    differing = [name for name in own if old.sources.get(name) != new.sources.get(name)]
    if not differing:
        return ["The sources are those of the step before."]
    try:
        texts = reading.files(history, old, differing), reading.files(history, new, differing)
    except DamagedText as error:
        return [f"The sources cannot be read: {error}."]
    labels = f"row {old.id}", f"row {new.id}"
    return [_diff(change) for change in changes.source_changes(*texts, differing, labels)]


def _diff(change: FileChange) -> str:
    fence = "```"
    while any(fence in line for line in change.lines):
        fence += "`"
    code = "\n".join([f"{fence}diff", *change.lines, fence])
    if len(change.lines) <= LONG:
        return code
    counts = f"{of(change.added, 'line')} added, {of(change.removed, 'line')} removed"
    head = f"<summary><code>{change.name}</code>: {counts}</summary>"
    return f"<details>\n{head}\n\n{code}\n\n</details>"


def _rows(step: Sequence[Entry], last: dict[tuple[str, ...], Entry]) -> str:
    """The table of a step; columns without a value in any row are left out."""
    titles = ["row", "rung", "case", "time", "change", "limit", "occupancy"]
    titles += [*COMPILER_REPORT, "compared"]
    rows = []
    for entry in step:
        before = last.get((*entry.case, entry.kernel))
        ratios = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in entry.ratios.items())
        report = [(name, getattr(entry, name)) for name in COMPILER_REPORT.values()]
        rows.append(
            [
                *(str(entry.id), entry.kernel, entry.subject, duration(entry.ms)),
                changes.time_change(before, entry),
                entry.limiter or "",
                "" if entry.occupancy is None else percent(entry.occupancy),
                *("" if n is None else counters.text(name, n) for name, n in report),
                ratios,
            ]
        )
    shown = [i for i in range(len(titles)) if any(row[i] for row in rows)]
    return markdown([titles[i] for i in shown], [[row[i] for i in shown] for row in rows], left=3)


def _counters(step: Sequence[Entry], last: dict[tuple[str, ...], Entry]) -> list[str]:
    """For each row with an older one of its rung and case, the counters that changed most."""
    parts = []
    for entry in step:
        before = last.get((*entry.case, entry.kernel))
        found = _counter_changes(before, entry) if before else []
        if before and found:
            most = sorted(found, key=lambda figure: figure.distance, reverse=True)[:MOST]
            more = f"; {len(found) - MOST} more changed less" if len(found) > MOST else ""
            cells = [
                [figure.name, figure.text(figure.before), figure.text(figure.after), figure.ratio]
                for figure in found
                if figure in most
            ]
            head = f"Counters of {entry.kernel}, {entry.subject}, against row {before.id}{more}:"
            titles = ("counter", f"row {before.id}", f"row {entry.id}", "ratio")
            parts += [head, markdown(titles, cells)]
    return parts


def _counter_changes(before: Entry, after: Entry) -> list[Figure]:
    in_the_table = ("time", "estimated time", "occupancy", *COMPILER_REPORT)
    return [f for f in changes.figures(before, after, SAME) if f.name not in in_the_table]


def markdown(titles: Iterable[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table, whose first ``left`` columns are left-aligned and the others right-aligned."""
    heads = list(titles)
    lines = [heads, ["---" if i < left else "---:" for i in range(len(heads))], *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in lines
    )
