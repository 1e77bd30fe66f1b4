"""Files of the history that are damaged or in use, full disks, processes that are killed."""

import random
import resource
import signal
import sqlite3
import time

import pytest

from tests.history.rows import HERE, row, sources
from tests.support import finished, python
from workbench.history import History, HistoryError, reading, schema, store
from workbench.history.reading import Filter


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.db"


def entries(path):
    return reading.find(History(path), Filter())


def full(path, runs=15):
    """A file of some pages."""
    history = History(path)
    for i in range(runs):
        history.record(HERE, [row(counters={"i": i})], sources(random.Random(i).randbytes(3000)))
    return path.read_bytes()


def garbage(path):
    path.write_bytes(b"not a database, but long enough to be looked at" * 50)


def truncated(path):
    path.write_bytes(full(path)[:-5000])


def overwritten(path):
    content = full(path)
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def of_another_program(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE bookmarks(url)")


def without_a_table(path):
    full(path, 1)
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE texts")


def with_old_version_only(path):
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")


DAMAGES = (
    garbage,
    truncated,
    overwritten,
    of_another_program,
    without_a_table,
    with_old_version_only,
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_moved_aside(damage, path):
    damage(path)
    content, told = path.read_bytes(), []
    history = History(path, told.append)
    history.record(HERE, [row()], sources())
    (aside,) = path.parent.glob("history.db.damaged-*")
    assert aside.read_bytes() == content
    assert len(told) == 1 and str(path) in told[0] and aside.name in told[0]
    assert [entry.kernel for entry in entries(path)] == ["tiled"]
    History(path, told.append)
    assert len(told) == 1


def test_damage_that_shows_later_is_noticed_then(path):
    """The run goes on in the new file, as a run of its own."""
    told: list[str] = []
    full(path)
    history = History(path, told.append)
    run = history.record(HERE, [row()], None, note="as it came")
    overwritten(path)
    assert history.previous(row(), HERE.device) is None
    assert len(told) == 1
    history.record(HERE, [row("naive")], None, run, note="as it came")
    (entry,) = entries(path)
    assert (entry.kernel, entry.command, entry.notes) == ("naive", HERE.command, ("as it came",))


def test_two_damaged_files_of_one_second_are_both_kept(path):
    for _ in range(3):
        garbage(path)
        History(path)
    assert len(list(path.parent.glob("history.db.damaged-*"))) == 3


def test_the_journal_of_a_damaged_file_is_not_applied_to_the_new_one(path):
    garbage(path)
    path.with_name("history.db-journal").write_bytes(b"x" * 2000)
    History(path).record(HERE, [row()], None)
    assert len(entries(path)) == 1


def test_a_file_that_another_process_has_just_begun_is_filled(path):
    history = History(path)
    path.write_bytes(b"")
    history.record(HERE, [row()], sources())
    assert len(entries(path)) == 1
    assert not list(path.parent.glob("*damaged*"))


def test_a_sound_file_is_never_moved(path):
    """Not even if an error that says so comes from somebody else's moment."""
    full(path, 2)
    history, calls = History(path), []

    def work(database):
        calls.append(1)
        if len(calls) == 1:
            raise schema.NotAHistory("so it seemed")
        return database.execute("SELECT count(*) FROM rows").fetchone()

    assert history.do("read", work) == (2,)
    assert not list(path.parent.glob("*damaged*"))


RECORDING = """
import itertools, sys
from pathlib import Path
from tests.history.rows import HERE, row, sources
from workbench.history import History
history = History(Path(sys.argv[1]))
for i in itertools.count():
    rows = [row("tiled", counters={"i": i}), row("naive", counters={"i": i})]
    history.record(HERE, rows, sources(b"// %d" % i * 500))
    print(i, flush=True)
"""


def test_a_process_that_is_killed_leaves_a_good_file(path, request):
    """What it had recorded is there, rows of one call all or none; nobody waits for it."""
    delays = random.Random(7)
    recorded = 0
    for _ in range(20 if request.config.getoption("--full") else 3):
        child = python("-c", RECORDING, str(path))
        child.stdout.readline()
        time.sleep(delays.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        out, _ = child.communicate()
        recorded += 1 + out.count("\n")
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = entries(path)
        kernels = [entry.kernel for entry in found]
        assert kernels == ["tiled", "naive"] * (len(found) // 2)
        assert recorded <= len(found) // 2 <= recorded + 1  # one may not have been printed
        recorded = len(found) // 2
    for entry in found[-20:]:
        text = b"// %d" % entry.counters["i"] * 500
        assert reading.files(History(path), entry)["matmul.cu"] == text
    assert not list(path.parent.glob("*damaged*"))


def test_a_disk_that_is_full_is_an_error_and_no_damage(path):
    """A limit of the process's files has the same effect."""
    full(path, 3)
    size = path.stat().st_size
    child = python(
        "-c",
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 5000}, {resource.RLIM_INFINITY}))\n"
        + RECORDING.replace('b"// %d" % i * 500', "__import__('os').urandom(50000)"),
        str(path),
    )
    status, _, err = finished(child)
    assert status == 1 and "HistoryError" in err and "cannot be written" in err
    found = entries(path)
    assert [entry.kernel for entry in found[:3]] == ["tiled"] * 3
    assert not list(path.parent.glob("*damaged*"))
    History(path).record(HERE, [row("after")], None)
    assert entries(path)[-1].kernel == "after"


def test_a_read_only_file_can_be_read(path, monkeypatch):
    full(path, 2)
    connect = sqlite3.connect

    def read_only(path, **settings):
        return connect(f"file:{path}?mode=ro", uri=True, **settings)

    monkeypatch.setattr(store.sqlite3, "connect", read_only)
    history = History(path)
    assert len(reading.find(history, Filter())) == 2
    assert history.previous(row(), HERE.device).counters == {"i": 1}
    with pytest.raises(HistoryError, match="cannot be written: attempt to write a readonly"):
        history.record(HERE, [row()], None)
    assert not list(path.parent.glob("*damaged*"))


def test_a_locked_file_is_no_damaged_one(path, monkeypatch):
    full(path, 1)
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HistoryError, match="locked"):
            History(path)
    assert len(entries(path)) == 1
