"""Files that are written whole."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from workbench.toolchain.files import write_whole


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path):
    file = tmp_path / "x.json"
    write_whole(file, "é\n")
    file.chmod(0o640)
    write_whole(file, b"two")
    assert file.read_bytes() == b"two" and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_an_unfinished_write_leaves_the_old_content(error, tmp_path: Path, monkeypatch):
    file = tmp_path / "x.json"
    file.write_text("old")

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_link_stays_a_link(tmp_path: Path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_a_pipe_and_a_device_are_written_to(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join(10)
    assert read == ["text"] and stat.S_ISFIFO(pipe.stat().st_mode)
    write_whole(Path(os.devnull), "text")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_file_in_a_folder_that_takes_no_other(tmp_path: Path, monkeypatch):
    file = tmp_path / "x"
    file.write_text("old")
    opened = Path.open

    def refused(path: Path, *args: object, **settings: object):
        if path.suffix == ".part":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **settings)

    monkeypatch.setattr(Path, "open", refused)
    write_whole(file, "new")
    assert file.read_text() == "new"
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no" / "x", "new")
