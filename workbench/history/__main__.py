"""The command line of ``python -m workbench.history``."""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.history import changes, reading, terminal, texts
from workbench.history.reading import Entry, Filter
from workbench.history.store import History
from workbench.toolchain import command
from workbench.toolchain.errors import Failure, UsageError
from workbench.toolchain.paths import REPO, cache_dir, kernels_dir, shown

PROG = "python -m workbench.history"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    first = words[0] if words else ""
    if first in COMMANDS:
        return COMMANDS[first](words[1:])
    if first and not first.startswith("-"):
        raise UsageError(f"{first}: expected one of {', '.join(COMMANDS)}")
    return _list(words)


def _list(words: Sequence[str]) -> int:
    made = command.Parser(
        prog=PROG,
        description="What was measured, newest last. Other commands: "
        f"{', '.join(name for name in COMMANDS if name != 'list')}; each has --help.",
    )
    _add_filters(made)
    made.add_argument(
        "--limit",
        type=command.Whole(),
        default=20,
        metavar="ROWS",
        help="so many of the newest; default: 20; 0: all",
    )
    asked = made.parse_args(words)
    history = _history()
    if history is None:
        wanted = next((name for name in _FILTERS if getattr(asked, name)), None)
        if wanted:
            raise UsageError(f"--{wanted} {getattr(asked, wanted)[0]}: {_nothing()}")
        print(_nothing())
        return 0
    entries = _find(history, asked, asked.limit)
    terminal.listing([(entry, reading.before(history, entry)) for entry in entries])
    return 0


def _show(words: Sequence[str]) -> int:
    made = command.Parser(prog=f"{PROG} show", description="Everything about a row.")
    _add_row(made, "row")
    made.add_argument(
        "--file", metavar="NAME", help="print this file instead, as it was then; for example x.cu"
    )
    asked = made.parse_args(words)
    history, entry = _row(asked.row)
    if asked.file is None:
        terminal.row(entry, reading.before(history, entry))
        return 0
    if asked.file not in entry.sources:
        raise UsageError(f"--file {asked.file}: row {entry.id} has {_some([*entry.sources])}")
    text = _texts(history, entry, [asked.file])[asked.file]
    print(text.decode(errors="backslashreplace"), end="")
    return 0


def _diff(words: Sequence[str]) -> int:
    made = command.Parser(
        prog=f"{PROG} diff",
        description="How the sources of two rows differ, and beside them their figures. With one "
        "row: how the kernels folder differs from its sources.",
    )
    _add_row(made, "before")
    _add_row(made, "after", nargs="?", help="default: the kernels folder as it is now")
    asked = made.parse_args(words)
    history, before = _row(asked.before)
    if asked.after is None:
        return _diff_to_folder(history, before)
    _, after = _row(asked.after, history)
    labels = f"row {before.id}", f"row {after.id}"
    unknown = [entry.id for entry in (before, after) if not entry.sources]
    if unknown:
        print(f"row {unknown[0]} has no texts: the history did not keep them then")
    else:
        both = _texts(history, before), _texts(history, after)
        found = changes.source_changes(*both, (*before.own, *after.own), labels)
        terminal.source_changes(found)
        print("" if found else "the sources are the same")
    if before.is_kept or after.is_kept:
        return 0  # only one of them was measured, or none
    different = changes.figures(before, after)
    terminal.figures(different, changes.words(before, after), labels)
    if not different and before.counters:
        print("the figures are the same")
    return 0


def _diff_to_folder(history: History, before: Entry) -> int:
    from workbench.history.restore import present

    old = _texts(history, _with_texts(before))
    folder = kernels_dir()
    now = present(folder, dict.fromkeys([*old, *_ladder(before, folder)]))
    labels = f"row {before.id}", "now"
    found = changes.source_changes(old, now, before.own, labels)
    terminal.source_changes(found)
    if not found:
        print(f"{shown(folder)} has the sources of row {before.id}")
    return 0


def _ladder(entry: Entry, folder: Path) -> list[str]:
    """The files that a row's ladder has now."""
    from workbench.operators import builds

    target = builds.CPU if entry.kernel.startswith(builds.CPU_PREFIX) else ""
    return [str(file.relative_to(folder)) for file in builds.sources(entry.op, target)]


def _restore(words: Sequence[str]) -> int:
    made = command.Parser(
        prog=f"{PROG} restore",
        description="Write the sources of a row back into the kernels folder. What is there is "
        "kept in the history first, as a row to restore in turn.",
    )
    _add_row(made, "row")
    asked = made.parse_args(words)
    history, entry = _row(asked.row)
    import torch

    from workbench.harness.environment import environment
    from workbench.history.restore import restore

    here = environment("cpu", torch.device("cpu"), REPO)
    here = dataclasses.replace(here, command=f"{PROG} restore {entry.id}")
    folder = kernels_dir()
    done = restore(history, _with_texts(entry), folder, here)
    if not done.written:
        print(f"{shown(folder)} has the sources of row {entry.id} already")
        return 0
    print(f"restored from row {entry.id}: {', '.join(done.written)}")
    others = [name for name in _ladder(entry, folder) if name not in entry.sources]
    if others:
        print(f"left as it is, since row {entry.id} has no such file: {', '.join(others)}")
    if done.undo is not None:
        print(f"what was there is in row {done.undo}: {PROG} restore {done.undo}")
    return 0


def _note(words: Sequence[str]) -> int:
    made = command.Parser(
        prog=f"{PROG} note", description="Write down what you thought, with the run of a row."
    )
    _add_row(made, "row")
    made.add_argument("text", type=command.words, metavar="TEXT", help="the note")
    made.add_argument("--replace", action="store_true", help="instead of the notes it has")
    asked = made.parse_args(words)
    history, entry = _row(asked.row)
    history.note(entry.run, asked.text, asked.replace)
    rows = reading.rows_of_run(history, entry.run)
    which = f"row {rows[0]}" if len(rows) == 1 else f"rows {rows[0]} to {rows[-1]}"
    print(f"noted with {which}, all of one run")
    return 0


def _export(words: Sequence[str]) -> int:
    made = command.Parser(
        prog=f"{PROG} export",
        description="A work log in Markdown: for each run what was thought, what was changed, and "
        "what that did to the figures.",
    )
    _add_filters(made)
    made.add_argument(
        "--out", type=command.output, metavar="FILE", help="write it to FILE; default: print it"
    )
    asked = made.parse_args(words)
    history = _history()
    if history is None:
        raise UsageError(_nothing())
    from workbench.history import work_log

    entries = [entry for entry in _find(history, asked, 0) if not entry.is_kept]
    if not entries:
        raise UsageError("no row that was measured is as the options say")
    document = work_log.document(history, entries)
    if asked.out is None:
        print(document, end="")
        return 0
    try:
        asked.out.write_text(document, encoding="utf-8")
    except OSError as error:
        raise Failure(f"error: --out {asked.out}: {error.strerror}") from None
    print(f"wrote {asked.out}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": _list,
    "show": _show,
    "diff": _diff,
    "restore": _restore,
    "note": _note,
    "export": _export,
}

# ------------------------------------------------------------------------------------------------

_SHOWN = 12  # values in a message
_FILTERS = {
    "op": "these operators",
    "kernel": "these rungs",
    "shape": "these shapes, written as in the list, without options",
    "dtype": "these types",
    "target": "these targets: gpu, simulator, cpu",
}


def _add_filters(made: argparse.ArgumentParser) -> None:
    for name, words in _FILTERS.items():
        metavar = "NAME" if name == "kernel" else name.upper()
        made.add_argument(
            f"--{name}", nargs="+", action="extend", metavar=metavar, help=f"only {words}"
        )
    made.add_argument("--since", type=command.Whole(1), metavar="ROW", help="from this row on")


def _add_row(made: argparse.ArgumentParser, name: str, **settings: str) -> None:
    words = {"help": "the number of a row, as list shows it"} | settings
    made.add_argument(name, type=command.Whole(1), metavar=name.upper(), **words)  # type: ignore


def _find(history: History, asked: argparse.Namespace, limit: int) -> list[Entry]:
    """The rows that the filters let through. Raises UsageError if there are none."""
    given = {name: getattr(asked, name) or () for name in _FILTERS}
    for name in _FILTERS:
        known = reading.choices(history, name)
        for value in given[name]:
            if value not in known:
                raise UsageError(f"--{name} {value}: the history has {_some(known)}")
    entries = reading.find(history, Filter(given, asked.since or 0, limit))
    if not entries:
        raise UsageError("no row is as the options say")
    return entries


def _some(values: Sequence[str]) -> str:
    """A list for a message, of the newest if there are many."""
    few = values[-_SHOWN:]
    more = f", and {len(values) - len(few)} older ones" if len(values) > len(few) else ""
    return f"{', '.join(few)}{more}" if few else "none"


def _row(number: int, history: History | None = None) -> tuple[History, Entry]:
    """A row by its number. Raises UsageError if there is none."""
    history = history or _history()
    if history is None:
        raise UsageError(f"{number}: {_nothing()}")
    entry = reading.get(history, number)
    if entry is None:
        newest = reading.find(history, Filter(limit=1))[0].id
        raise UsageError(f"{number}: there is no such row; the newest row is {newest}")
    return history, entry


def _with_texts(entry: Entry) -> Entry:
    if not entry.sources:
        raise Failure(f"row {entry.id} has no texts: the history did not keep them then")
    return entry


def _texts(history: History, entry: Entry, names: Sequence[str] = ()) -> dict[str, bytes]:
    try:
        return reading.files(history, entry, names)
    except texts.DamagedText as error:
        raise Failure(f"row {entry.id}: its sources cannot be read: {error}") from None


def _history() -> History | None:
    """The history; None if nothing was recorded yet."""
    path = cache_dir() / "history.db"
    if not path.exists():
        return None
    history = History(path, lambda text: print(f"warning: {text}", file=sys.stderr))
    return history if reading.find(history, Filter(limit=1)) else None


def _nothing() -> str:
    return "nothing is recorded yet: python test_<op>.py does that"


if __name__ == "__main__":
    command.run(main)
