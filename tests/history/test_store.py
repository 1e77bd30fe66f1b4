"""The history: what is stored, what is found again, and what happens on failure."""

import dataclasses
import json
import multiprocessing
import sqlite3

import pytest

from tests.history.rows import HERE, row, sources
from workbench.harness.results import Estimated, Row
from workbench.history import History, HistoryError, reading, schema
from workbench.history.reading import Filter


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "history.db"


def test_finds_the_newest_row_of_the_same_rung(path):
    kept = History(path)
    assert kept.previous(row(), HERE.device) is None
    for count in (1.0, 2.0):
        kept.record(HERE, [row(counters={"warp_instructions": count})], sources())
    kept.record(HERE, [row(kernel="naive", counters={"warp_instructions": 99.0})], None)
    assert History(path).previous(row(), HERE.device).counters == {"warp_instructions": 2.0}


@pytest.mark.parametrize(
    "other",
    [
        row(kernel="naive"),
        row(shape="M=2,N=1,K=1"),
        dataclasses.replace(row(), dtype="float16"),
        dataclasses.replace(row(), target="gpu"),
        dataclasses.replace(row(), op="softmax"),
        dataclasses.replace(row(), options="beta=1"),
        dataclasses.replace(row(), layout="nt"),
    ],
)
def test_other_rungs_and_shapes_are_not_mixed(path, other):
    kept = History(path)
    kept.record(HERE, [row()], None)
    assert kept.previous(other, HERE.device) is None
    assert kept.previous(row(), "another device") is None


def test_keeps_times_and_everything_about_the_run(path):
    timed = row(time_ms=1.5, spread=0.1, rate=3.0, roof_fraction=0.5, ratios={"cublas": 0.9})
    History(path).record(HERE, [timed], None)
    found = History(path).previous(row(), HERE.device)
    assert (found.time_ms, found.spread) == (1.5, 0.1)
    (entry,) = reading.find(History(path), Filter())
    about = (entry.device, entry.driver, entry.clocks, entry.commit, entry.command)
    assert about == ("a device", "1.2", "1, 2", "abc", "python x.py")
    assert (entry.ratios, entry.rate, entry.roof_fraction) == ({"cublas": 0.9}, 3.0, 0.5)
    assert entry.gpu is entry.registers is entry.source is None


def test_keeps_the_compilers_report_and_the_estimate(path):
    report = Estimated("t4", 0.5, 0.3, "DRAM", 0.75, "registers", {}, 40, 4096, 8)
    counters = {"flops": 2.0, "simulator_seconds": 3.0, "estimated_ms_t4": 0.5}
    History(path).record(HERE, [row(counters=counters, estimate=report, sampled_blocks=4)], None)
    (entry,) = reading.find(History(path), Filter())
    assert (entry.registers, entry.shared_bytes, entry.spill_bytes) == (40, 4096, 8)
    assert (entry.occupancy, entry.occupancy_limiter, entry.limiter) == (0.75, "registers", "DRAM")
    assert (entry.gpu, entry.estimated_ms, entry.sampled_blocks) == ("t4", 0.5, 4)
    assert entry.counters == {"flops": 2.0}
    found = History(path).previous(row(), HERE.device)
    assert found.counters == {"flops": 2.0, "estimated_ms_t4": 0.5}


def test_the_estimate_for_another_gpu_comes_from_an_older_row(path):
    kept = History(path)
    for gpu, ms in (("t4", 1.0), ("t4", 2.0), ("a100", 3.0)):
        estimate = Estimated(gpu, ms, 0.3, "DRAM", 1.0, "warps")
        kept.record(HERE, [row(estimate=estimate)], None)
    found = kept.previous(row(), HERE.device).counters
    assert (found["estimated_ms_t4"], found["estimated_ms_a100"]) == (2.0, 3.0)


def test_rows_that_were_not_measured_are_not_kept(path):
    kept = History(path)
    wrong = Row("matmul", "tiled", "M=1,N=1,K=1", "float32", "simulator", False)
    kept.record(HERE, [wrong], None)
    assert kept.previous(row(), HERE.device) is None


def test_rows_can_be_added_to_a_run(path):
    kept = History(path)
    run = kept.record(HERE, [row()], None)
    assert kept.record(HERE, [row(kernel="naive")], None, run) == run
    assert kept.record(HERE, [], None) != run
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT DISTINCT run FROM rows").fetchall() == [(run,)]


def test_a_measured_baseline_that_cannot_be_checked_is_kept(path):
    copy = Row("softmax", "copy", "rows=1,cols=1", "float32", "gpu", False, time_ms=2.0)
    History(path).record(HERE, [copy], None)
    assert History(path).previous(copy, HERE.device).time_ms == 2.0


def test_a_newer_file_is_left_alone_and_another_used(path):
    History(path).record(HERE, [row(kernel="of the newer")], None)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    before, told = path.read_bytes(), []
    for _ in range(2):
        kept = History(path, told.append)
        kept.record(HERE, [row()], None)
    assert path.read_bytes() == before
    own = path.with_name(f"history-{len(schema.MIGRATIONS)}.db")
    assert kept.path == own
    assert [entry.kernel for entry in reading.find(History(own), Filter())] == ["tiled"] * 2
    assert len(told) == 2 and "schema 99" in told[0] and own.name in told[0]


def test_an_older_schema_is_brought_up_to_date(path, monkeypatch):
    History(path).record(HERE, [row()], None)
    more = (*schema.MIGRATIONS, "ALTER TABLE rows ADD COLUMN note TEXT;")
    monkeypatch.setattr(schema, "MIGRATIONS", more)
    assert History(path).previous(row(), HERE.device) is not None
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (4,)
        assert "note" in [column[1] for column in database.execute("PRAGMA table_info(rows)")]


def schema_1(path) -> None:
    """A file with the first schema: options are among the sizes, layouts nowhere."""
    path.parent.mkdir()
    shapes = {
        ("matmul", "M=1,N=1,K=1"): 1.0,
        ("attention", "B=1,H=2,Nq=3,Nk=4,D=5,causal=1"): 2.0,
        ("softmax", "rows=4,cols=9"): 3.0,
        ("softmax", "rows=4,cols=9,log=1,lse=1"): 4.0,
        ("softmax_backward", "rows=4,cols=9,dlse=1"): 5.0,
    }
    with sqlite3.connect(path) as database:
        database.executescript(schema.MIGRATIONS[0] + "PRAGMA user_version = 1;")
        run = ("2026-01-01", HERE.device, HERE.torch, HERE.command)
        database.execute(
            "INSERT INTO runs(started, device, torch, command) VALUES(?, ?, ?, ?)", run
        )
        for (op, shape), ms in shapes.items():
            database.execute(
                "INSERT INTO rows(run, op, kernel, shape, dtype, target, device, time_ms, unit, "
                "ratios, counters) VALUES(1, ?, 'tiled', ?, 'float32', 'gpu', ?, ?, 'gbps', '{}', "
                "'{}')",
                (op, shape, HERE.device, ms),
            )


@pytest.mark.parametrize(
    ("op", "shape", "options", "ms"),
    [
        ("matmul", "M=1,N=1,K=1", "", 1.0),
        ("attention", "B=1,H=2,Nq=3,Nk=4,D=5", "causal", 2.0),
        ("softmax", "rows=4,cols=9", "", 3.0),
        ("softmax", "rows=4,cols=9", "log lse", 4.0),
        ("softmax_backward", "rows=4,cols=9", "dlse", 5.0),
    ],
)
def test_rows_of_the_first_schema_stay_comparable(path, op, shape, options, ms):
    schema_1(path)
    now = Row(op, "tiled", shape, "float32", "gpu", True, options=options)
    assert History(path).previous(now, HERE.device).time_ms == ms
    assert History(path).previous(dataclasses.replace(now, layout="nt"), HERE.device) is None
    assert History(path).previous(now, HERE.device).time_ms == ms  # it is migrated once


def test_rows_of_the_second_schema_are_kept(path):
    """With their counters, and the estimate that stood among them; damaged ones as they are."""
    path.parent.mkdir()
    counters = {"flops": 5, "simulator_seconds": 0.25, "estimated_ms_t4": 0.125}
    with sqlite3.connect(path) as database:
        for script in schema.MIGRATIONS[:2]:
            database.executescript(script)
        database.execute("PRAGMA user_version = 2")
        database.execute(
            "INSERT INTO runs(started, device, torch, command) VALUES('2026-01-01', ?, '', 'x')",
            (HERE.device,),
        )
        for text in (json.dumps(counters), "not JSON", b"\xff"):
            database.execute(
                "INSERT INTO rows(run, op, kernel, shape, dtype, target, device, source, unit, "
                "ratios, counters) VALUES(1, 'matmul', 'tiled', 'M=1,N=1,K=1', 'float32', "
                "'simulator', ?, 'a hash', 'gbps', '{}', ?)",
                (HERE.device, text),
            )
    first, *others = reading.find(History(path), Filter())
    assert (first.counters, first.gpu, first.estimated_ms) == ({"flops": 5}, "t4", 0.125)
    assert (first.id, first.source, first.sources) == (1, "a hash", {})
    assert [entry.counters for entry in others] == [{}, {}]
    told: list[str] = []
    found = History(path, told.append).previous(row(), HERE.device)
    assert found.counters == {"flops": 5, "estimated_ms_t4": 0.125}
    assert told == [f"history {path}: damaged rows moved to the table damaged_3: 3, 2"]


def test_a_row_that_was_refused_is_not_kept(path):
    declined = dataclasses.replace(row(counters={}), checked=False, refused="declines: D = 20")
    History(path).record(HERE, [declined], None)
    assert History(path).previous(row(), HERE.device) is None


def test_a_failed_migration_leaves_the_file_as_it_was(path, monkeypatch):
    History(path)
    broken = (*schema.MIGRATIONS, "ALTER TABLE rows ADD COLUMN note TEXT; SELECT * FROM nothing")
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(HistoryError, match="nothing"):
        History(path)
    monkeypatch.undo()
    assert History(path).previous(row(), HERE.device) is None


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot be used"):
        History(tmp_path / "file" / "history.db")


def _record(path, name, runs):
    for i in range(runs):
        History(path).record(HERE, [row(kernel=name, counters={"i": float(i)})], None)


def test_several_processes_write_at_once(path):
    """They race to create the file, and no row is lost."""
    context = multiprocessing.get_context("spawn")
    names = [f"rung_{i}" for i in range(3)]
    workers = [context.Process(target=_record, args=(path, name, 10)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 3
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (30,)
    for name in names:
        assert History(path).previous(row(kernel=name), HERE.device).counters == {"i": 9.0}
