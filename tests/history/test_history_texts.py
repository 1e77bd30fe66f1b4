"""Texts of the history: each once, compressed, found again as they were."""

import hashlib
import random
import sqlite3

import pytest

from tests.history.rows import HERE, TABLE, row, sources
from workbench.history import History, reading, schema, texts
from workbench.history.reading import Filter

UGLY = (
    b"",
    b"\n",
    b"\xff\xfe\x00 not text",
    b"no newline at the end",
    b"line\r\nline\rline\x0b\x0c",
    bytes(range(256)) * 400,  # beyond the window of zlib
    random.Random(1).randbytes(50_000),
)


@pytest.fixture
def database():
    with sqlite3.connect(":memory:", isolation_level=None) as made:
        schema.migrate(made)
        yield made


@pytest.mark.parametrize("kind", ["one", "another"])
def test_texts_are_read_as_they_were(database, kind):
    numbers = [texts.keep(database, kind, text) for text in UGLY]
    assert [texts.keep(database, "third", text) for text in UGLY] == numbers  # kept once
    assert [texts.read(database, number) for number in numbers] == list(UGLY)
    assert [texts.find(database, texts.digest(text)) for text in UGLY] == list(UGLY)
    assert texts.digest(UGLY[2]) == hashlib.sha256(UGLY[2]).hexdigest()[:32]


def test_an_edit_takes_little_more_than_what_differs(database):
    lines = [f"float x{i} = {random.Random(i).random()};\n".encode() for i in range(400)]
    for i in range(50):
        lines[i] = b"edited\n" + lines[i]
        texts.keep(database, "a.cu", b"".join(lines))
    sizes = [size for (size,) in database.execute("SELECT length(data) FROM texts ORDER BY id")]
    assert sizes[0] > 3000 and max(sizes[1:]) < sizes[0] / 2
    assert sum(sizes[1:]) < 3 * sizes[0]
    (last,) = database.execute("SELECT max(id) FROM texts").fetchone()
    assert texts.read(database, last) == b"".join(lines)


@pytest.mark.parametrize("data", [b"", b"\xff", "text", 7, b"x\x9c"])
def test_a_damaged_text_is_told_and_repaired_when_it_comes_again(database, data):
    first = texts.keep(database, "a.cu", b"first" * 50)
    second = texts.keep(database, "a.cu", b"first" * 50 + b"second")
    database.execute("UPDATE texts SET data = ?", (data,))
    for number in (first, second, 99, None):
        with pytest.raises(texts.DamagedText):
            texts.read(database, number)
    third = texts.keep(database, "a.cu", b"first" * 50 + b"third")  # not with a damaged base
    assert texts.read(database, third) == b"first" * 50 + b"third"
    assert texts.keep(database, "a.cu", b"first" * 50) == first
    assert texts.read(database, first) == b"first" * 50


def test_a_row_has_the_texts_that_it_was_built_from(tmp_path):
    history = History(tmp_path / "history.db")
    ugly = sources(header=UGLY[2], more=UGLY[4])
    history.record(HERE, [row(), row("more"), row("a_library")], ugly)
    tiled, more, library = reading.find(history, Filter())
    assert reading.files(history, tiled) == ugly.files
    assert tiled.own == ("matmul.cu", "common.cuh") and more.own == ("more.cu", "common.cuh")
    assert tiled.source != more.source
    assert (library.source, library.own, library.sources) == (None, (), {})
    assert reading.files(history, library) == {}


def test_the_hash_of_a_row_is_that_of_the_files_it_depends_on(tmp_path):
    history = History(tmp_path / "history.db")
    edits = (
        sources(),
        sources(more=b"edited"),
        sources(TABLE + b"edited"),
        sources(header=b"edited"),
        sources(),
    )
    for edit in edits:
        history.record(HERE, [row()], edit)
    hashes = [entry.source for entry in reading.find(history, Filter())]
    assert hashes[0] == hashes[1] == hashes[4]
    assert len({*hashes}) == 3


def test_many_runs_stay_small(tmp_path):
    """Runs of a whole ladder, with an edit of one file between any two."""
    history = History(tmp_path / "history.db")
    body = b"".join(b"  acc[%d] += a[%d] * b[%d];  // %d\n" % (i, i, i, i**5) for i in range(300))
    counters = {f"counter_number_{i}": 1e9 + i for i in range(60)}
    rungs = ("tiled", "naive", "more")
    for run in range(30):
        edited = counters | {f"counter_number_{i}": run * 1e7 for i in range(10)}
        rows = [row(name, counters=edited if name == "tiled" else counters) for name in rungs]
        history.record(HERE, rows, sources(body + b"// %d\n" % run, header=body, more=body))
    assert history.path.stat().st_size < 30 * len(rungs) * 1000
