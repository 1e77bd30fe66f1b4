"""The history: every measured row of every run, in an SQLite file that runs may share.

The file is ``history.db`` in the cache folder. ``PRAGMA user_version`` numbers its schema; an older
file is migrated when it is opened, a newer one is refused. A row that cannot be read is moved into
a table of its own, so that it does not stop later runs.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench.harness.results import Environment, Row

BUSY_SECONDS = 30.0  # how long to wait for another run that is writing

# MIGRATIONS[i] takes a file from schema i to i + 1. Never edit a released one: append.
MIGRATIONS = (
    """
    CREATE TABLE runs(
        id INTEGER PRIMARY KEY,
        started TEXT NOT NULL,  -- UTC, ISO 8601
        device TEXT NOT NULL,
        driver TEXT,
        clocks TEXT,
        torch TEXT NOT NULL,
        cuda TEXT,
        "commit" TEXT,
        command TEXT NOT NULL
    );
    CREATE TABLE rows(
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL REFERENCES runs(id),
        op TEXT NOT NULL,
        kernel TEXT NOT NULL,
        shape TEXT NOT NULL,
        dtype TEXT NOT NULL,
        target TEXT NOT NULL,
        device TEXT NOT NULL,
        source TEXT,  -- hash of the kernel file
        time_ms REAL,
        spread REAL,
        unit TEXT NOT NULL,
        rate REAL,
        roof_fraction REAL,
        ratios TEXT NOT NULL,  -- JSON, by baseline
        counters TEXT NOT NULL  -- JSON, by counter
    );
    CREATE INDEX rows_by_rung ON rows(op, kernel, shape, dtype, target, device, id);
    """,
    """
    ALTER TABLE rows ADD COLUMN options TEXT NOT NULL DEFAULT '';
    ALTER TABLE rows ADD COLUMN layout TEXT NOT NULL DEFAULT '';
    -- options used to stand among the sizes: rows=4,cols=9,log=1,lse=1
    UPDATE rows SET options = 'causal' WHERE instr(shape, ',causal=1');
    UPDATE rows SET options = 'log' WHERE instr(shape, ',log=1');
    UPDATE rows SET options = ltrim(options || ' lse') WHERE instr(shape, ',lse=1');
    UPDATE rows SET options = ltrim(options || ' dlse') WHERE instr(shape, ',dlse=1');
    UPDATE rows SET shape = replace(replace(replace(replace(
        shape, ',causal=1', ''), ',log=1', ''), ',lse=1', ''), ',dlse=1', '');
    """,
)
_ASIDE = f"damaged_{len(MIGRATIONS)}"  # rows of this schema that cannot be read


class HistoryError(RuntimeError):
    """The history cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Previous:
    """What the last run measured for the same rung, case, target and device."""

    time_ms: float | None
    spread: float | None
    counters: Mapping[str, float]


def source_hash(*paths: Path) -> str | None:
    """The first 16 hexadecimal digits of the files' SHA-256; None if one of them is missing."""
    try:
        return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]
    except OSError:
        return None


class History:
    """The history file at ``path``; created, with its folder, if missing.

    Raises:
        HistoryError: the folder is not writable, the file is not a history, or a newer
            workbench wrote it.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        """Open the file and migrate its schema; ``tell`` gets what is worth a warning."""
        self.path, self.tell = path, tell
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._transaction() as database:
                self._migrate(database)
        except (OSError, sqlite3.Error) as error:
            raise HistoryError(f"history {path} cannot be used: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A separate connection, holding the write lock until the end of the block."""
        database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        finally:
            database.close()

    def _migrate(self, database: sqlite3.Connection) -> None:
        (schema,) = database.execute("PRAGMA user_version").fetchone()
        known = len(MIGRATIONS)
        if schema > known:
            raise HistoryError(
                f"history {self.path} has schema {schema}, this workbench knows up to {known}: "
                "a newer workbench wrote it. Update this one, or move the file away"
            )
        for script in MIGRATIONS[schema:]:
            for statement in script.split(";"):
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {known}")

    def previous(self, row: Row, device: str) -> Previous | None:
        """The newest recorded row of the same rung, case, target and device.

        Counters that it lacks, such as the estimate for another GPU, come from the newest row
        that has them.
        """
        same = ("op", "kernel", "shape", "options", "layout", "dtype", "target")
        key = (*(getattr(row, name) for name in same), device)
        query = (
            "SELECT id, time_ms, spread, counters FROM rows WHERE "
            f"{' AND '.join(f'{name} = ?' for name in same)} AND device = ? "
            "ORDER BY id DESC LIMIT 20"
        )
        try:
            with self._transaction() as database:
                database.text_factory = bytes  # what is not UTF-8 is no error of the whole query
                rows = database.execute(query, key).fetchall()
                read = {number: _previous(*fields) for number, *fields in rows}
                damaged = [number for number, previous in read.items() if previous is None]
                if damaged:
                    _set_aside(database, damaged)
        except sqlite3.Error as error:
            raise HistoryError(f"history {self.path} cannot be read: {error}") from error
        if damaged:
            numbers = ", ".join(map(str, damaged))
            self.tell(f"history {self.path}: damaged rows moved to the table {_ASIDE}: {numbers}")
        found = [previous for previous in read.values() if previous is not None]
        if not found:
            return None
        counters: dict[str, float] = {}
        for older in found:
            counters = {**older.counters, **counters}
        return Previous(found[0].time_ms, found[0].spread, counters)

    def record(
        self,
        environment: Environment,
        rows: Sequence[Row],
        source: str | None,
        run: int | None = None,
    ) -> int:
        """Append measured rows to a run, all or none; return the run's number.

        Args:
            environment: the run's.
            rows: only measured ones are kept.
            source: hash of the kernel files.
            run: the number that an earlier call returned, to add to its run; None starts one.
        """
        measured = [row for row in rows if row.counters or row.time_ms]
        try:
            with self._transaction() as database:
                if run is None:
                    run = _insert(database, "runs", _run_fields(environment))
                for row in measured:
                    fields = _row_fields(row, environment.device, source)
                    _insert(database, "rows", {"run": run} | fields)
        except sqlite3.Error as error:
            raise HistoryError(f"history {self.path} cannot be written: {error}") from error
        return run


def _previous(time_ms: object, spread: object, counters: bytes) -> Previous | None:
    """A recorded row; None if it is not what ``record`` writes."""
    try:
        values = json.loads(counters)
    except (ValueError, TypeError):
        return None
    if not isinstance(values, dict):
        return None
    numbers = [*values.values(), *(n for n in (time_ms, spread) if n is not None)]
    if not all(isinstance(number, int | float) for number in numbers):
        return None
    return Previous(time_ms, spread, values)  # type: ignore[arg-type]


def _set_aside(database: sqlite3.Connection, damaged: Sequence[int]) -> None:
    """Move rows into a table with the same columns."""
    which = f"FROM rows WHERE id IN ({', '.join(map(str, damaged))})"
    database.execute(f"CREATE TABLE IF NOT EXISTS {_ASIDE} AS SELECT * FROM rows WHERE 0")
    database.execute(f"INSERT INTO {_ASIDE} SELECT * {which}")
    database.execute(f"DELETE {which}")


def _run_fields(environment: Environment) -> dict[str, object]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"started": started} | asdict(environment)


def _row_fields(row: Row, device: str, source: str | None) -> dict[str, object]:
    copied = (
        *("op", "kernel", "shape", "options", "layout", "dtype", "target"),
        *("time_ms", "spread", "unit", "rate"),
    )
    return {name: getattr(row, name) for name in copied} | {
        "device": device,
        "source": source,
        "roof_fraction": row.roof_fraction,
        "ratios": json.dumps(dict(row.ratios)),
        "counters": json.dumps(dict(row.counters)),
    }


def _insert(database: sqlite3.Connection, table: str, fields: Mapping[str, object]) -> int:
    names = ", ".join(f'"{name}"' for name in fields)
    marks = ", ".join("?" for _ in fields)
    cursor = database.execute(
        f"INSERT INTO {table}({names}) VALUES({marks})", tuple(fields.values())
    )
    return cursor.lastrowid or 0
