"""Sources of a row, back into the kernels folder.

Nothing is lost: what is about to be overwritten is first kept in the history, as a row that can be
restored in turn, unless it is there already. Each file is replaced as a whole, and only once all
new ones are written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.harness.results import Environment
from workbench.toolchain.command import reason
from workbench.toolchain.errors import Failure
from workbench.toolchain.paths import shown

from . import reading, texts
from .reading import Entry
from .store import History, HistoryError


@dataclass(frozen=True)
class Restored:
    """What was done.

    Attributes:
        written: the names of the files that were written.
        undo: the row with the sources as they were before; None if they are unchanged, or if there
            were none.
    """

    written: tuple[str, ...]
    undo: int | None


def present(folder: Path, names: Mapping[str, object]) -> dict[str, bytes]:
    """The files that are in the kernels folder now, of these names. Raises Failure."""
    found = {}
    for name in names:
        try:
            found[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Failure(f"cannot read {reason(error)}; nothing was changed") from None
    return found


def restore(history: History, entry: Entry, folder: Path, environment: Environment) -> Restored:
    """Write a row's sources into a folder.

    Args:
        history: where the row is.
        entry: the row; its sources are known.
        folder: the kernels folder.
        environment: for the row that keeps the present sources.

    Raises:
        Failure: a file cannot be written, or the present ones cannot be kept.
    """
    try:
        wanted = reading.files(history, entry)
    except texts.DamagedText as error:
        raise Failure(f"row {entry.id}: its sources cannot be read: {error}") from None
    inside = folder.resolve()
    for name in wanted:
        if not (folder / name).resolve().is_relative_to(inside):
            raise Failure(f"row {entry.id}: {name} is outside of {folder}; nothing was changed")
    now = present(folder, wanted)
    changed = {name: text for name, text in wanted.items() if now.get(name) != text}
    if not changed:
        return Restored((), None)
    undo = _kept(history, entry, now, environment) if now else None
    _replace(folder, changed, now)
    return Restored(tuple(changed), undo)


def _kept(
    history: History, entry: Entry, now: Mapping[str, bytes], environment: Environment
) -> int:
    """The number of a row with the present sources, which is made if there is none."""
    hashes = {name: texts.digest(text) for name, text in now.items()}
    known = reading.with_sources(history, hashes)
    try:
        if known is not None and reading.files(history, known) == now:
            return known.id
    except texts.DamagedText:
        pass  # keeping them repairs it
    try:
        return history.keep(environment, entry, now)
    except HistoryError as error:
        why = f"{error}, so what is there now cannot be kept; nothing was changed"
        raise Failure(why) from None


def _replace(folder: Path, changed: Mapping[str, bytes], now: Mapping[str, bytes]) -> None:
    """Write the files, if they are still as they were ``now``. Raises Failure."""
    made: dict[Path, Path] = {}  # new file -> the one that it replaces
    done: list[str] = []
    file = folder
    try:
        for name, text in changed.items():
            file = (folder / name).resolve()  # of a link, what it leads to
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f".{file.name}.{os.getpid()}")
            made[new] = file
            new.write_bytes(text)
            if name in now:
                new.chmod(file.stat().st_mode & 0o7777)
        if present(folder, changed) != {n: text for n, text in now.items() if n in changed}:
            raise Failure("the files were edited at this moment: try again; nothing was changed")
        for name, (new, file) in zip(changed, made.items(), strict=True):
            new.replace(file)
            done.append(name)
    except OSError as error:
        about = f"only {', '.join(done)} restored" if done else "nothing was changed"
        raise Failure(f"cannot write {shown(file)}: {error.strerror}; {about}") from None
    finally:
        for new in made:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
