"""Sources back into the kernels folder: nothing that is there is ever lost."""

import dataclasses
import errno
import os
import sqlite3
from pathlib import Path

import pytest

from tests.history.rows import HERE, TABLE, row, sources
from workbench.history import History, HistoryError, reading
from workbench.history import restore as restoring
from workbench.history.reading import Filter
from workbench.history.restore import restore
from workbench.operators.texts import Sources
from workbench.toolchain.errors import Failure

OLD, NEW = sources(b"old\xff\r\n"), sources(b"new", header=b"new header")


@pytest.fixture
def history(tmp_path):
    """Row 1 was built from OLD, row 2 from NEW."""
    made = History(tmp_path / "history.db")
    for texts in (OLD, NEW):
        made.record(HERE, [row()], texts)
    return made


@pytest.fixture
def kernels(tmp_path):
    """The folder with NEW in it, and a file that is no ladder's."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for name, text in NEW.files.items():
        (folder / name).write_bytes(text)
    (folder / "notes.txt").write_text("mine")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def back(history, number, kernels):
    return restore(history, reading.get(history, number), kernels, HERE)


def test_what_differs_is_written(history, kernels):
    other = kernels / "more.cu"
    os.utime(other, (1, 1))
    (kernels / "matmul.cu").chmod(0o640)
    done = back(history, 1, kernels)
    assert done.written == ("matmul.cu", "common.cuh")
    assert content(kernels) == {**OLD.files, "notes.txt": b"mine"}
    assert other.stat().st_mtime == 1  # not touched
    assert (kernels / "matmul.cu").stat().st_mode & 0o777 == 0o640


def test_what_was_there_is_the_row_that_has_it(history, kernels):
    assert back(history, 1, kernels).undo == 2
    assert len(reading.find(history, Filter())) == 2
    assert back(history, 2, kernels).undo == 1
    assert content(kernels) == {**NEW.files, "notes.txt": b"mine"}


def test_unsaved_work_is_kept_and_comes_back(history, kernels):
    (kernels / "matmul.cu").write_bytes(b"hours of work\x00\xff")
    before = content(kernels)
    done = back(history, 1, kernels)
    assert done.undo == 3
    kept = reading.get(history, 3)
    assert kept.is_kept and (kept.op, kept.kernel, kept.own) == ("matmul", "tiled", row_own())
    assert back(history, done.undo, kernels).written == ("matmul.cu", "common.cuh")
    assert content(kernels) == before


def row_own():
    return ("matmul.cu", "common.cuh")


def test_a_kept_row_is_no_measurement(history, kernels):
    (kernels / "matmul.cu").write_bytes(b"work")
    back(history, 1, kernels)
    assert history.previous(row(), HERE.device).counters == {"warp_instructions": 7.0}
    history.record(HERE, [row()], NEW)
    newest = reading.get(history, 4)
    assert reading.before(history, newest).id == 2


def test_nothing_is_done_if_it_is_there_already(history, kernels):
    done = back(history, 2, kernels)
    assert (done.written, done.undo) == ((), None)
    assert len(reading.find(history, Filter())) == 2


def test_a_file_that_is_missing_is_created(history, kernels):
    (kernels / "more.cu").unlink()
    assert back(history, 2, kernels).written == ("more.cu",)
    assert content(kernels) == {**NEW.files, "notes.txt": b"mine"}
    for file in kernels.iterdir():
        file.unlink()
    done = back(history, 2, kernels)
    assert (sorted(done.written), done.undo) == (sorted(NEW.files), None)


def test_a_link_stays_one(history, kernels, tmp_path):
    """What it leads to is inside, or nothing is done."""
    file = kernels / "matmul.cu"
    file.rename(kernels / "real.cu")
    file.symlink_to("real.cu")
    back(history, 1, kernels)
    assert file.is_symlink() and (kernels / "real.cu").read_bytes() == b"old\xff\r\n"
    (kernels / "real.cu").rename(tmp_path / "real.cu")
    file.unlink()
    file.symlink_to(tmp_path / "real.cu")
    with pytest.raises(Failure, match="matmul.cu is outside of .*; nothing was changed"):
        back(history, 2, kernels)


@pytest.mark.parametrize("name", ["../x.cu", "/absolute/x.cu", "a/../../x.cu"])
def test_nothing_is_written_outside_of_the_folder(history, kernels, name):
    history.record(HERE, [row()], Sources({name: b"x"}, {"tiled": (name,)}))
    before = content(kernels)
    with pytest.raises(Failure, match="is outside of .*; nothing was changed"):
        back(history, 3, kernels)
    assert content(kernels) == before and not Path("/absolute/x.cu").exists()


def test_a_file_in_a_folder(history, kernels):
    history.record(HERE, [row()], Sources({"deep/er/x.cuh": b"x"}, {"tiled": ("deep/er/x.cuh",)}))
    assert back(history, 3, kernels).written == ("deep/er/x.cuh",)
    assert (kernels / "deep/er/x.cuh").read_bytes() == b"x"


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_folder_that_cannot_be_written(history, kernels, monkeypatch, code):
    write = Path.write_bytes

    def refuse(path, text):
        if path.name.startswith(".common.cuh"):
            raise OSError(code, os.strerror(code), str(path))
        return write(path, text)

    before = content(kernels)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(Failure, match=f"common.cuh: {os.strerror(code)}; nothing was changed"):
        back(history, 1, kernels)
    assert content(kernels) == before  # and no half-written file is left


def test_a_history_that_cannot_keep_the_work_leaves_it_alone(history, kernels, monkeypatch):
    (kernels / "matmul.cu").write_bytes(b"work")
    before = content(kernels)

    def refuse(*_):
        raise HistoryError("history x cannot be written: disk full")

    monkeypatch.setattr(History, "keep", refuse)
    with pytest.raises(Failure, match="disk full, so what is there .*; nothing was changed"):
        back(history, 1, kernels)
    assert content(kernels) == before


def test_a_file_that_is_saved_at_that_moment_is_not_overwritten(history, kernels, monkeypatch):
    present, calls = restoring.present, []

    def saved_meanwhile(folder, names):
        calls.append(1)
        if len(calls) == 2:
            (kernels / "matmul.cu").write_bytes(b"saved just now")
        return present(folder, names)

    monkeypatch.setattr(restoring, "present", saved_meanwhile)
    with pytest.raises(Failure, match="edited at this moment: try again; nothing was changed"):
        back(history, 1, kernels)
    expected = {**NEW.files, "matmul.cu": b"saved just now", "notes.txt": b"mine"}
    assert content(kernels) == expected


def test_damaged_texts_are_not_restored(history, kernels):
    before = content(kernels)
    with sqlite3.connect(history.path) as database:
        database.execute("UPDATE texts SET data = x'00' WHERE kind = 'matmul.cu'")
    with pytest.raises(Failure, match="row 1: its sources cannot be read"):
        back(history, 1, kernels)
    assert content(kernels) == before


def test_the_present_texts_are_kept_although_the_row_that_had_them_is_damaged(history, kernels):
    with sqlite3.connect(history.path) as database:
        database.execute(
            "UPDATE texts SET data = x'00' WHERE hash = ?",
            (reading.get(history, 2).sources["common.cuh"],),
        )
    before = content(kernels)
    done = back(history, 1, kernels)
    back(history, done.undo, kernels)
    assert content(kernels) == before


def test_the_environment_is_that_of_the_restore(history, kernels):
    (kernels / "matmul.cu").write_bytes(TABLE)
    here = dataclasses.replace(HERE, command="restore 1")
    restore(history, reading.get(history, 1), kernels, here)
    assert reading.get(history, 3).command == "restore 1"
