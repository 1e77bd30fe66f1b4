"""Rows of a history, found again."""

from __future__ import annotations

import datetime
import itertools
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from workbench.harness.counters import estimate_key

from . import texts

if TYPE_CHECKING:
    from .store import History

CASE = ("op", "kernel", "shape", "options", "layout", "dtype", "target")


@dataclass(frozen=True)
class Previous:
    """What the last run measured for the same rung, case, target and device."""

    time_ms: float | None
    spread: float | None
    counters: Mapping[str, float]


# The compiler's report, as tables name it: the fields of Entry.
COMPILER_REPORT = {"registers": "registers", "shared": "shared_bytes", "spills": "spill_bytes"}


@dataclass(frozen=True)
class Entry:
    """A row of the history, with its run.

    Attributes:
        id: its number.
        run: its run's number.
        started: the run's time, UTC.
        source: a hash of the files that the rung depends on; None if unknown.
        own: the names of those files, that with its launcher first.
        sources: the hash of each file of the ladder, by name; empty if the texts are unknown.
        gpu: the GPU of the estimate; "" if there is none.
        registers: this, shared_bytes and spill_bytes are the most of any kernel launched.
        notes: those of the run, oldest first.

    The others are as in harness.results.Row, Estimated and Environment; None if unknown.
    """

    id: int
    run: int
    started: str
    device: str
    driver: str | None
    clocks: str | None
    torch: str
    cuda: str | None
    commit: str | None
    command: str
    op: str
    kernel: str
    shape: str
    options: str
    layout: str
    dtype: str
    target: str
    unit: str
    source: str | None
    time_ms: float | None
    spread: float | None
    rate: float | None
    roof_fraction: float | None
    sampled_blocks: int | None
    gpu: str | None
    estimated_ms: float | None
    limiter: str | None
    occupancy: float | None
    occupancy_limiter: str | None
    registers: int | None
    shared_bytes: int | None
    spill_bytes: int | None
    own: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Sizes, options, layout and dtype: ``M=64,N=64,K=64 nt float32``."""
        return " ".join(filter(None, (self.shape, self.options, self.layout, self.dtype)))

    @property
    def case(self) -> tuple[str, ...]:
        """What rows have in common that can be compared, except for the rung."""
        about = (self.op, self.subject, self.target, self.device, self.gpu or "")
        return (*about, "kept" if self.is_kept else "")

    @property
    def ms(self) -> float | None:
        """The time measured; without one, the estimate."""
        return self.time_ms if self.time_ms is not None else self.estimated_ms

    @property
    def is_kept(self) -> bool:
        """Whether it is sources that ``restore`` kept, not a measurement."""
        return not self.target

    @property
    def when(self) -> str:
        """The time of the run, where this computer is: ``2026-11-30 17:05``."""
        try:
            at = datetime.datetime.fromisoformat(self.started)
        except ValueError:
            return self.started[:16]
        return at.astimezone().strftime("%Y-%m-%d %H:%M")

    @property
    def short_commit(self) -> str:
        """The commit, shortened; with a + if tracked files differed."""
        commit, _, dirty = (self.commit or "").partition("-")
        return commit[:8] + ("+" if dirty else "")


@dataclass(frozen=True)
class Filter:
    """Which rows to find.

    Attributes:
        values: the ones wanted, by column; any if there are none.
        since: no smaller number.
        limit: so many of the newest; 0: all.
    """

    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    since: int = 0
    limit: int = 0

    def condition(self) -> tuple[str, list[object]]:
        """The SQL condition, and its parameters."""
        parts, parameters = ["rows.id >= ?"], [self.since, *itertools.chain(*self.values.values())]
        for name, wanted in self.values.items():
            if wanted:
                parts.append(f"rows.{name} IN ({', '.join('?' for _ in wanted)})")
        return " AND ".join(parts), parameters


def find(history: History, wanted: Filter) -> list[Entry]:
    """The rows that a filter lets through, oldest first. Raises HistoryError."""
    condition, values = wanted.condition()
    rest = f"WHERE {condition} ORDER BY rows.id DESC LIMIT ?"
    values.append(wanted.limit or -1)
    return history.do("read", lambda db: _entries(db, rest, values)[::-1], writing=False)


def get(history: History, number: int) -> Entry | None:
    """A row by its number; None if there is none. Raises HistoryError."""
    found = history.do("read", lambda db: _entries(db, "WHERE rows.id = ?", [number]), False)
    return found[0] if found else None


def before(history: History, entry: Entry) -> Entry | None:
    """The row before, of the same rung and case. Raises HistoryError."""
    names = (*CASE, "device", "gpu")
    same = " AND ".join(f"rows.{name} IS ?" for name in names)
    rest = f"WHERE {same} AND rows.id < ? ORDER BY rows.id DESC LIMIT 1"
    values = [*(getattr(entry, name) for name in names), entry.id]
    found = history.do("read", lambda db: _entries(db, rest, values), writing=False)
    return found[0] if found else None


def with_sources(history: History, sources: Mapping[str, str]) -> Entry | None:
    """The newest row whose ladder had just these files, by hash. Raises HistoryError."""
    name = texts.digest(_listing(sources))
    rest = "WHERE sources.hash = ? ORDER BY rows.id DESC LIMIT 1"
    found = history.do("read", lambda db: _entries(db, rest, [name]), writing=False)
    return found[0] if found else None


def listing(files: Mapping[str, bytes]) -> bytes:
    """The text that lists files: JSON, the hash of each by name."""
    return _listing({name: texts.digest(text) for name, text in files.items()})


def _listing(hashes: Mapping[str, str]) -> bytes:
    return json.dumps(dict(hashes), indent=0).encode()


def files(history: History, entry: Entry, names: Iterable[str] = ()) -> dict[str, bytes]:
    """The texts of a row's files, by name; of all without ``names``. Empty if unknown.

    Raises texts.DamagedText and HistoryError.
    """
    wanted = [name for name in names or entry.sources if name in entry.sources]
    return history.do(
        "read",
        lambda db: {name: texts.find(db, entry.sources[name]) for name in wanted},
        writing=False,
    )


def rows_of_run(history: History, run: int) -> list[int]:
    """The numbers of a run's rows. Raises HistoryError."""
    query = "SELECT id FROM rows WHERE run = ? ORDER BY id"
    found = history.do("read", lambda db: db.execute(query, (run,)).fetchall(), writing=False)
    return [number for (number,) in found]


def choices(history: History, column: str) -> list[str]:
    """The values of a column of the rows, in the order in which they came up."""
    query = f"SELECT {column} FROM rows GROUP BY {column} ORDER BY min(id)"
    found = history.do("read", lambda db: db.execute(query).fetchall(), writing=False)
    return [value for (value,) in found if value]


# ------------------------------------------------------------------------------------------------

_OF_RUN = ("started", "driver", "clocks", "torch", "cuda", "commit", "command")
_READ = tuple(f.name for f in fields(Entry) if f.default is f.default_factory)  # the required ones
_SELECT = (
    "SELECT "
    + ", ".join(f'{"runs" if name in _OF_RUN else "rows"}."{name}"' for name in _READ)
    + ", rows.ratios, rows.own, rows.sources, rows.counters FROM rows"
    " LEFT JOIN runs ON rows.run = runs.id LEFT JOIN texts AS sources ON rows.sources = sources.id "
)
_NUMBERS = {f.name for f in fields(Entry) if str(f.type).startswith(("float", "int"))}


def _entries(database: sqlite3.Connection, rest: str, values: Sequence[object]) -> list[Entry]:
    return [_entry(database, row) for row in database.execute(_SELECT + rest, values).fetchall()]


def _entry(database: sqlite3.Connection, row: Sequence[Any]) -> Entry:
    read = dict(zip(_READ, row, strict=False))
    for name in _NUMBERS & read.keys():
        read[name] = read[name] if isinstance(read[name], int | float) else None
    ratios, own, sources, counters = row[len(_READ) :]
    notes = database.execute("SELECT text FROM notes WHERE run = ? ORDER BY id", (read["run"],))
    return Entry(
        **read | {"started": read["started"] or "", "command": read["command"] or ""},
        own=tuple(_json(database, own, list)),
        sources=_json(database, sources, dict),
        counters=_counters(_json(database, counters, dict)) or {},
        ratios=_counters(_object(ratios, dict)) or {},
        notes=tuple(text for (text,) in notes),
    )


def _json(database: sqlite3.Connection, number: int | None, kind: type) -> Any:
    """A text that is JSON; empty if it is unknown or damaged."""
    try:
        return _object(texts.read(database, number), kind)
    except texts.DamagedText:
        return kind()


def _object(text: str | bytes, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, TypeError):
        return kind()
    return value if isinstance(value, kind) else kind()


def _counters(values: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The values; None if one is no number."""
    return values if all(isinstance(value, int | float) for value in values.values()) else None


def newest(database: sqlite3.Connection, key: Sequence[str]) -> tuple[Previous | None, list[int]]:
    """The newest row of a case and device, and the numbers of those that cannot be read.

    key: the values of CASE, and the device.
    """
    query = (
        "SELECT id, time_ms, spread, counters, gpu, estimated_ms FROM rows WHERE "
        f"{' AND '.join(f'{name} = ?' for name in CASE)} AND device = ? ORDER BY id DESC LIMIT 20"
    )
    rows = database.execute(query, tuple(key)).fetchall()
    read = {number: _previous(database, *others) for number, *others in rows}
    found = [previous for previous in read.values() if previous is not None]
    damaged = [number for number, previous in read.items() if previous is None]
    if not found:
        return None, damaged
    counters: dict[str, float] = {}
    for older in found:
        counters = {**older.counters, **counters}
    return Previous(found[0].time_ms, found[0].spread, counters), damaged


def _previous(
    database: sqlite3.Connection,
    time_ms: Any,
    spread: Any,
    counters: Any,
    gpu: Any,
    estimated_ms: Any,
) -> Previous | None:
    """A recorded row; None if it is not what ``History.record`` writes."""
    try:
        values = json.loads(texts.read(database, counters))
    except (ValueError, TypeError):  # DamagedText is a ValueError
        return None
    if not isinstance(values, dict):
        return None
    if estimated_ms is not None:
        values[estimate_key(str(gpu))] = estimated_ms
    numbers = [*values.values(), *(n for n in (time_ms, spread) if n is not None)]
    if not all(isinstance(number, int | float) for number in numbers):
        return None
    return Previous(time_ms, spread, values)
