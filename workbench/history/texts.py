"""Texts in a history file: each once, found by its hash, compressed.

Most texts differ little from an earlier one: a kernel after an edit, the counters of the next run.
The first text of a kind is compressed alone. Those that follow are compressed with it as zlib's
dictionary, which keeps little more than what differs. As no text depends on one that does itself,
any is read in two steps.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib

_WORTH = 0.5  # of the size alone: what a text must come to for another to be its base


class DamagedText(ValueError):
    """A text cannot be read."""


def digest(text: bytes) -> str:
    """The first 32 hexadecimal digits of the text's SHA-256."""
    return hashlib.sha256(text).hexdigest()[:32]


def keep(database: sqlite3.Connection, kind: str, text: bytes) -> int:
    """Store a text; return its number.

    Args:
        database: in a transaction that writes.
        kind: what the text is a version of, such as a file's name.
        text: the text.
    """
    name = digest(text)
    known = database.execute("SELECT id FROM texts WHERE hash = ?", (name,)).fetchone()
    if known:
        try:
            read(database, known[0])
        except DamagedText:  # now it can be repaired
            database.execute(
                "UPDATE texts SET kind = ?, base = NULL, data = ? WHERE id = ?",
                (kind, zlib.compress(text, 9), known[0]),
            )
        return known[0]
    alone = zlib.compress(text, 9)
    base, data = _against_older(database, kind, text)
    fields: tuple[object, ...] = (name, None, base, data)
    if base is None or len(data) > _WORTH * len(alone):
        fields = (name, kind, None, alone)
    into = "INSERT INTO texts(hash, kind, base, data) VALUES(?, ?, ?, ?)"
    return database.execute(into, fields).lastrowid or 0


def _against_older(
    database: sqlite3.Connection, kind: str, text: bytes
) -> tuple[int | None, bytes]:
    """The newest whole text of a kind, and the text compressed with it; None without one."""
    query = "SELECT id FROM texts WHERE kind = ? AND base IS NULL ORDER BY id DESC LIMIT 1"
    found = database.execute(query, (kind,)).fetchone()
    if not found:
        return None, b""
    try:
        return found[0], _compressed(text, read(database, found[0]))
    except DamagedText:
        return None, b""


def read(database: sqlite3.Connection, number: int | None) -> bytes:
    """A text by its number. Raises DamagedText."""
    return _read(database, "id", number)


def find(database: sqlite3.Connection, name: str) -> bytes:
    """A text by its digest. Raises DamagedText."""
    return _read(database, "hash", name)


def _read(database: sqlite3.Connection, column: str, value: object) -> bytes:
    query = (
        "SELECT texts.hash, texts.data, texts.base, whole.data FROM texts "
        f"LEFT JOIN texts AS whole ON texts.base = whole.id WHERE texts.{column} = ?"
    )
    found = database.execute(query, (value,)).fetchone()
    if found is None:
        raise DamagedText(f"text {value} is missing")
    name, data, base, whole = found
    try:
        text = _decompressed(data, b"" if base is None else _decompressed(whole, b""))
    except (zlib.error, TypeError) as error:
        raise DamagedText(f"text {value} is damaged: {error}") from error
    if digest(text) != name:
        raise DamagedText(f"text {value} is damaged")
    return text


def _compressed(text: bytes, base: bytes) -> bytes:
    packer = zlib.compressobj(9, zdict=base) if base else zlib.compressobj(9)
    return packer.compress(text) + packer.flush()


def _decompressed(data: bytes, base: bytes) -> bytes:
    unpacker = zlib.decompressobj(zdict=base) if base else zlib.decompressobj()
    return unpacker.decompress(data) + unpacker.flush()
