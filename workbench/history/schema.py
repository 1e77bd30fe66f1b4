"""The tables of a history file, and how an older file is brought up to date.

``PRAGMA user_version`` numbers the schema. MIGRATIONS[i] takes a file from schema i to i + 1.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from . import texts

_RUNS_AND_ROWS = """
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
    """
_OPTIONS_AND_LAYOUT = """
    ALTER TABLE rows ADD COLUMN options TEXT NOT NULL DEFAULT '';
    ALTER TABLE rows ADD COLUMN layout TEXT NOT NULL DEFAULT '';
    -- options used to stand among the sizes: rows=4,cols=9,log=1,lse=1
    UPDATE rows SET options = 'causal' WHERE instr(shape, ',causal=1');
    UPDATE rows SET options = 'log' WHERE instr(shape, ',log=1');
    UPDATE rows SET options = ltrim(options || ' lse') WHERE instr(shape, ',lse=1');
    UPDATE rows SET options = ltrim(options || ' dlse') WHERE instr(shape, ',dlse=1');
    UPDATE rows SET shape = replace(replace(replace(replace(
        shape, ',causal=1', ''), ',log=1', ''), ',lse=1', ''), ',dlse=1', '');
    """
_TEXTS = """
    CREATE TABLE texts(  -- see texts.py
        id INTEGER PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,
        kind TEXT,  -- of a whole text: what later ones resemble it
        base INTEGER REFERENCES texts(id),  -- of any other: the text that it is compressed with
        data BLOB NOT NULL  -- zlib
    );
    CREATE INDEX whole_texts ON texts(kind, id) WHERE base IS NULL;
    CREATE TABLE notes(
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL REFERENCES runs(id),
        written TEXT NOT NULL,  -- UTC, ISO 8601
        text TEXT NOT NULL
    );
    CREATE INDEX notes_by_run ON notes(run);
    DROP INDEX rows_by_rung;
    ALTER TABLE rows RENAME TO old_rows;
    CREATE TABLE rows(
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL REFERENCES runs(id),
        op TEXT NOT NULL,
        kernel TEXT NOT NULL,
        shape TEXT NOT NULL,
        options TEXT NOT NULL,
        layout TEXT NOT NULL,
        dtype TEXT NOT NULL,
        target TEXT NOT NULL,  -- empty: sources that were kept before others were restored
        device TEXT NOT NULL,
        source TEXT,  -- hash of the files that the rung depends on, before schema 3 of all
        own INTEGER REFERENCES texts(id),  -- JSON, their names
        sources INTEGER REFERENCES texts(id),  -- JSON, the hash of each file of the ladder
        time_ms REAL,
        spread REAL,
        unit TEXT NOT NULL,
        rate REAL,
        roof_fraction REAL,
        ratios TEXT NOT NULL,  -- JSON, by baseline
        counters INTEGER REFERENCES texts(id),  -- JSON, by counter
        sampled_blocks INTEGER,
        gpu TEXT,  -- this and what follows: of the estimate
        estimated_ms REAL,
        limiter TEXT,
        occupancy REAL,
        occupancy_limiter TEXT,
        registers INTEGER,
        shared_bytes INTEGER,
        spill_bytes INTEGER
    );
    CREATE INDEX rows_by_rung ON rows(op, kernel, shape, dtype, target, device, id);
    CREATE INDEX rows_by_run ON rows(run);
    """
_SIMULATOR_SECONDS = "simulator_seconds"  # how long the simulation took: no property of a kernel


def _keep_texts(database: sqlite3.Connection) -> None:
    """Schema 3: texts of the sources; counters are texts, too; notes; the compiler's report."""
    _run(database, _TEXTS)
    copied = (
        "id, run, op, kernel, shape, options, layout, dtype, target, device, source, "
        "time_ms, spread, unit, rate, roof_fraction, ratios"
    )
    database.execute(f"INSERT INTO rows({copied}) SELECT {copied} FROM old_rows")
    found = database.execute("SELECT id, op, kernel, CAST(counters AS BLOB) FROM old_rows")
    for number, op, kernel, counters in found.fetchall():
        text, gpu, estimated_ms = _without_estimate(counters or b"")
        kept = texts.keep(database, f"counters {op} {kernel}", text)
        database.execute(
            "UPDATE rows SET counters = ?, gpu = ?, estimated_ms = ? WHERE id = ?",
            (kept, gpu, estimated_ms, number),
        )
    database.execute("DROP TABLE old_rows")


def _without_estimate(counters: bytes) -> tuple[bytes, str | None, float | None]:
    """A row's counters, and what used to be among them: the GPU and its estimated time in ms."""
    try:
        values = json.loads(counters)
        values.pop(_SIMULATOR_SECONDS, None)
        names = [name for name in values if name.startswith("estimated_ms_")]
        found = [(name.removeprefix("estimated_ms_"), values.pop(name)) for name in names]
    except (ValueError, AttributeError, TypeError):
        return counters, None, None  # damaged, which is told when it is read
    gpu, estimated_ms = found[0] if found else (None, None)
    return json.dumps(values).encode(), gpu, estimated_ms


def _run(database: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";"):
        database.execute(statement)


# Never edit a released one: append.
MIGRATIONS: tuple[str | Callable[[sqlite3.Connection], None], ...] = (
    _RUNS_AND_ROWS,
    _OPTIONS_AND_LAYOUT,
    _keep_texts,
)
_PROBES = (
    'SELECT id, started, device, driver, clocks, torch, cuda, "commit", command FROM runs',
    "SELECT id, run, op, kernel, target, source, own, sources, counters, spill_bytes FROM rows",
    "SELECT hash, kind, base, data FROM texts",
    "SELECT run, written, text FROM notes",
)


class NotAHistory(Exception):
    """A database without the tables of a history."""


def version(database: sqlite3.Connection) -> int:
    """The file's schema; 0 if it is new."""
    return database.execute("PRAGMA user_version").fetchone()[0]


def migrate(database: sqlite3.Connection) -> None:
    """Bring a file, in a transaction, to the newest schema. Raises NotAHistory."""
    found = version(database)
    _check(database, found)
    for migration in MIGRATIONS[found:]:
        if callable(migration):
            migration(database)
        else:
            _run(database, migration)
    database.execute(f"PRAGMA user_version = {max(found, len(MIGRATIONS))}")


def _check(database: sqlite3.Connection, found: int) -> None:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    expected = {"runs", "rows"} if found else set()
    if not expected <= tables or (tables and not found):
        raise NotAHistory("it is a database, but no history")


def check(database: sqlite3.Connection) -> None:
    """Raise NotAHistory if a file of the newest schema lacks what is read and written."""
    try:
        for probe in _PROBES:
            database.execute(f"{probe} LIMIT 0")
    except sqlite3.OperationalError as error:
        raise (NotAHistory(str(error)) if is_damage(error) else error) from None


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is no good, rather than the disk or another process."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_ERROR:
        return str(error).startswith("no such ")  # table or column
    damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return damaged or isinstance(error, NotAHistory)


def is_sound(path: Path) -> bool:
    """Whether a file is a history of any schema; also if that cannot be told now."""
    database = sqlite3.connect(path, isolation_level=None)
    try:
        (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
        found = version(database)
        if found <= len(MIGRATIONS):
            _check(database, found)
        if found == len(MIGRATIONS):
            check(database)
    except (sqlite3.Error, NotAHistory) as error:
        return not is_damage(error)
    finally:
        database.close()
    return said == "ok"
