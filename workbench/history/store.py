"""Recording into a history file, which runs may share.

Each access is a transaction on a connection of its own: SQLite makes other runs wait, and undoes
what a run was writing when it was killed. A file that is damaged is moved aside, and a new one
begun. A file of a newer workbench is left alone: this one then uses ``history-<schema>.db`` next to
it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from workbench.harness.counters import SECONDS, estimate_key
from workbench.harness.results import Environment, Row
from workbench.operators.texts import Sources
from workbench.toolchain.errors import Failure

from . import reading, schema, texts
from .reading import CASE, COMPILER_REPORT, Previous

BUSY_SECONDS = 30.0  # how long to wait for another run that is writing
KEPT = ""  # the target of a row with sources that were kept, not measured
T = TypeVar("T")


class HistoryError(Failure):
    """The history cannot be used; the text says why and what to do."""


class History:
    """The history file at ``path``; created, with its folder, if missing.

    Attributes:
        path: the file in use: another one if a newer workbench wrote the one asked for.

    Raises:
        HistoryError: the folder is not writable, or the file is locked.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        """Open the file and migrate its schema; ``tell`` gets what is worth a warning."""
        self.path, self.tell = path, tell
        self._runs: dict[int, str] = {}  # begun by this object, and when
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HistoryError(f"history {path} cannot be used: {error}") from error
        self._open()

    def _open(self) -> None:
        known = len(schema.MIGRATIONS)
        found = self.do("used", schema.version, writing=False)
        if found > known:
            own = self.path.with_name(f"{self.path.stem}-{known}{self.path.suffix}")
            self.tell(
                f"history {self.path}: a newer workbench wrote it (schema {found}, this one knows "
                f"up to {known}); it is left alone, and {own.name} used instead"
            )
            self.path = own
            return self._open()
        if found < known:
            self.do("used", schema.migrate)
        return self.do("used", schema.check, writing=False)

    def do(self, verb: str, work: Callable[[sqlite3.Connection], T], writing: bool = True) -> T:
        """Do something in a transaction; with a new file if the old one turns out to be damaged.

        Args:
            verb: for the message of an error: what the file could not be.
            work: gets the connection.
            writing: hold the write lock from the start.

        Raises HistoryError.
        """
        try:
            try:
                return self._transaction(work, writing)
            except (sqlite3.Error, schema.NotAHistory) as error:
                if not schema.is_damage(error):
                    raise
                self._begin_anew(error)
            return self._transaction(work, writing)
        except (OSError, sqlite3.Error, schema.NotAHistory) as error:
            raise HistoryError(f"history {self.path} cannot be {verb}: {error}") from error

    def _transaction(self, work: Callable[[sqlite3.Connection], T], writing: bool) -> T:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
            try:
                result = work(database)
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
            return result

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        database.text_factory = lambda text: text.decode(errors="replace")  # never an error
        try:
            yield database
        finally:
            database.close()

    def _begin_anew(self, error: Exception) -> None:
        """Move a damaged file aside, unless another process has done so, and begin a new one."""
        from filelock import FileLock

        with FileLock(f"{self.path}.lock"):
            if not schema.is_sound(self.path):
                aside = _free_name(self.path)
                for suffix in ("-journal", "-wal", "-shm", ""):  # a journal belongs to its file
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
                self.tell(
                    f"history {self.path} is damaged ({error}): moved to {aside.name}, and a new "
                    "one begun"
                )
        self._transaction(schema.migrate, writing=True)

    # --------------------------------------------------------------------------------------------

    def previous(self, row: Row, device: str) -> Previous | None:
        """The newest recorded row of the same rung, case, target and device.

        Counters that it lacks, such as the estimate for another GPU, come from the newest row
        that has them.
        """
        key = (*(getattr(row, name) for name in CASE), device)
        found, damaged = self.do("read", lambda database: reading.newest(database, key), False)
        if damaged:
            table = f"damaged_{len(schema.MIGRATIONS)}"
            self.do("written", lambda database: _set_aside(database, table, damaged))
            numbers = ", ".join(map(str, damaged))
            self.tell(f"history {self.path}: damaged rows moved to the table {table}: {numbers}")
        return found

    def record(
        self,
        environment: Environment,
        rows: Sequence[Row],
        sources: Sources | None,
        run: int | None = None,
        note: str = "",
    ) -> int:
        """Append measured rows to a run, all or none; return the run's number.

        Args:
            environment: the run's.
            rows: those of one operator; only measured ones are kept.
            sources: what the rungs were built from; None or empty if that is unknown.
            run: the number that an earlier call returned, to add to its run; None starts one.
            note: what was thought, kept with a run that this call starts.
        """
        measured = [row for row in rows if row.counters or row.time_ms]
        known = sources if sources and measured else Sources()

        def work(database: sqlite3.Connection) -> int:
            number = self._run(database, environment, run, note)
            op = measured[0].op if measured else ""
            listing = _keep_sources(database, op, known)
            for row in measured:
                fields = _row_fields(database, row, known, listing)
                insert(database, "rows", {"run": number, "device": environment.device} | fields)
            return number

        return self.do("written", work)

    def _run(
        self, database: sqlite3.Connection, environment: Environment, run: int | None, note: str
    ) -> int:
        """The number of a run, which is begun if it is not in this file."""
        query = "SELECT 1 FROM runs WHERE id = ? AND started = ?"
        if run is not None and database.execute(query, (run, self._runs.get(run))).fetchone():
            return run
        started = now()
        number = insert(database, "runs", {"started": started} | asdict(environment))
        if note:
            insert(database, "notes", {"run": number, "written": started, "text": note})
        self._runs[number] = started
        return number

    def keep(
        self, environment: Environment, like: reading.Entry, files: Mapping[str, bytes]
    ) -> int:
        """Keep files that were not measured, as a row of its own; return its number."""
        fields = {name: getattr(like, name) for name in ("op", "kernel", "dtype", "device")}
        empty = {"shape": "", "options": "", "layout": "", "unit": "", "ratios": "{}"}

        def work(database: sqlite3.Connection) -> int:
            run = self._run(database, environment, None, "")
            sources = Sources(files, {like.kernel: like.own})
            listing = _keep_sources(database, like.op, sources)
            own = _own(database, like.op, like.kernel, sources, listing)
            return insert(database, "rows", {"run": run, "target": KEPT} | fields | empty | own)

        return self.do("written", work)

    def note(self, run: int, text: str, replace: bool = False) -> None:
        """Add a note to a run, or put it in the place of those it has."""

        def work(database: sqlite3.Connection) -> None:
            if replace:
                database.execute("DELETE FROM notes WHERE run = ?", (run,))
            insert(database, "notes", {"run": run, "written": now(), "text": text})

        self.do("written", work)


def now() -> str:
    """The time, as the history keeps it: UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _free_name(path: Path) -> Path:
    """A name for a damaged file."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (f"{path.name}.damaged-{stamp}{f'-{i}' if i else ''}" for i in itertools.count())
    return next(aside for aside in map(path.with_name, names) if not aside.exists())


def insert(database: sqlite3.Connection, table: str, fields: Mapping[str, object]) -> int:
    """Insert a row; return its number."""
    names = ", ".join(f'"{name}"' for name in fields)
    marks = ", ".join("?" for _ in fields)
    cursor = database.execute(
        f"INSERT INTO {table}({names}) VALUES({marks})", tuple(fields.values())
    )
    return cursor.lastrowid or 0


def _set_aside(database: sqlite3.Connection, table: str, damaged: Sequence[int]) -> None:
    """Move rows into a table with the same columns."""
    which = f"FROM rows WHERE id IN ({', '.join(map(str, damaged))})"
    database.execute(f"CREATE TABLE IF NOT EXISTS {table} AS SELECT * FROM rows WHERE 0")
    database.execute(f"INSERT INTO {table} SELECT * {which}")
    database.execute(f"DELETE {which}")


def _row_fields(
    database: sqlite3.Connection, row: Row, sources: Sources, listing: int | None
) -> dict[str, object]:
    copied = (*CASE, "time_ms", "spread", "unit", "rate", "roof_fraction", "sampled_blocks")
    fields: dict[str, object] = {name: getattr(row, name) for name in copied}
    left_out = {SECONDS}
    if row.estimate:
        left_out.add(estimate_key(row.estimate.gpu))
        fields |= {"gpu": row.estimate.gpu, "estimated_ms": row.estimate.time_ms}
        same = ("limiter", "occupancy", "occupancy_limiter", *COMPILER_REPORT.values())
        fields |= {name: getattr(row.estimate, name) for name in same}
    counters = {name: value for name, value in row.counters.items() if name not in left_out}
    text = json.dumps(counters).encode()
    fields["counters"] = texts.keep(database, f"counters {row.op} {row.kernel}", text)
    fields["ratios"] = json.dumps(dict(row.ratios))
    return fields | _own(database, row.op, row.kernel, sources, listing)


def _keep_sources(database: sqlite3.Connection, op: str, sources: Sources) -> int | None:
    """Store the texts of a ladder; return the number of the text that lists them."""
    if not sources.files:
        return None
    for name, text in sources.files.items():
        texts.keep(database, name, text)
    return texts.keep(database, f"sources {op}", reading.listing(sources.files))


def _own(
    database: sqlite3.Connection, op: str, kernel: str, sources: Sources, listing: int | None
) -> dict[str, object]:
    """The columns about a row's sources; none for a library's, or if they are unknown."""
    names = [name for name in sources.own.get(kernel, ()) if name in sources.files]
    if not names:
        return {}
    hashes = [(name, texts.digest(sources.files[name])) for name in names]
    return {
        "source": hashlib.sha256(repr(hashes).encode()).hexdigest()[:16],
        "own": texts.keep(database, f"own {op}", json.dumps(names).encode()),
        "sources": listing,
    }
