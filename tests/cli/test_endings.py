"""How programs end when the system does not play along: pipes, disks, Ctrl-C, odd bytes."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.support import REPO, finished, python, wait_for
from workbench.cli import main, recorded
from workbench.toolchain import command
from workbench.toolchain.errors import BuildError, UsageError

SMALL = ("--kernel", "naive", "--shape", "M=8,N=8,K=8", "--target", "simulator")
# A program that prints much, then does its work: it writes a file.
WORK = """
import sys
import zlib
from pathlib import Path
from workbench.toolchain import command
def main():
    for i in range(20000):
        print("line", i)
    Path({file!r}).write_text("done")
command.run(main)
"""


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("--x: no"), 2, "prog: error: --x: no\n"),
        (BuildError("a.cu:1: error"), 1, "a.cu:1: error\n"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), 1, "prog: error: /x/y: No space left\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (UsageError("x" * 5000), 2, None),
        (UsageError("two\nlines"), 2, "prog: error: two lines\n"),
    ],
)
def test_exit_status(error, status, message, capsys):
    def fail() -> int:
        raise error

    assert command.status(fail, "prog") == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) < 400
    assert message is None or err == message


def test_a_defect_is_still_a_traceback():
    with pytest.raises(ZeroDivisionError):
        command.status(lambda: 1 // 0, "prog")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "-c", f"{line}; echo ${{PIPESTATUS[0]}} >{folder}/status"],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), "PY": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    done.returncode = int((folder / "status").read_text())
    return done


@pytest.mark.parametrize(
    ("line", "status", "err"),
    [
        ("$PY work.py | head -1", 0, ""),
        ("$PY work.py 2>&1 | head -1", 0, ""),
        ("$PY work.py >&-", 0, ""),
        ("$PY work.py >&- 2>&-", 0, ""),
        ("$PY work.py >/dev/full", 1, "work.py: error: its output: No space left on device\n"),
        ("$PY work.py >/dev/full 2>&1", 1, ""),
    ],
)
def test_output_that_nobody_takes_does_not_stop_the_work(line, status, err, tmp_path):
    file = tmp_path / "file"
    (tmp_path / "work.py").write_text(WORK.format(file=str(file)))
    done = shell(line.replace("work.py", str(tmp_path / "work.py")), tmp_path)
    assert (done.returncode, done.stderr) == (status, err)
    assert file.read_text() == "done"


def test_ctrl_c_is_one_line(tmp_path):
    ready = tmp_path / "ready"
    child = python(
        "-c",
        "import time\nfrom pathlib import Path\nfrom workbench.toolchain import command\n"
        f"def main():\n    Path({str(ready)!r}).touch()\n    time.sleep(100)\n"
        "command.run(main)\n",
    )
    wait_for(ready.exists)
    child.send_signal(signal.SIGINT)
    assert finished(child) == (130, "", "interrupted\n")


def test_bytes_that_are_no_text_can_be_printed(tmp_path):
    code = "import sys\nfrom workbench.toolchain import command\n"
    code += "command.run(lambda: print(sys.argv[1]))\n"
    child = python("-c", code, b"caf\xe9", PYTHONIOENCODING="ascii")
    assert finished(child) == (0, "caf\\udce9\n", "")


@pytest.mark.parametrize("loss", [BrokenPipeError(), OSError(errno.ENOSPC, "No space left")])
def test_results_are_saved_before_they_are_shown(loss, tmp_path, monkeypatch, capsys):
    def lost(*_: object) -> None:
        raise loss

    monkeypatch.setattr(main, "_show", lost)
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(main.estimate, "begin", lambda *_, **__: lambda: "no estimate")
    file = tmp_path / "out.json"
    assert main.main("matmul", [*SMALL, "--json", str(file)]) == 1
    assert capsys.readouterr().err.startswith("test_matmul.py: error: ")
    assert [row["kernel"] for row in json.loads(file.read_text())["rows"]] == ["naive"]
    with sqlite3.connect(tmp_path / "history.db") as database:
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (1,)


TWO = ("--kernel", "naive", "--target", "simulator", "--shape", "M=8,N=8,K=8", "M=9,N=8,K=8")


def interrupting(function, on_call: int):
    """The function; at that call Ctrl-C comes first, as a signal."""
    calls = []

    def called(*args, **kwargs):
        calls.append(args)
        if len(calls) == on_call:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*args, **kwargs)

    return called


@pytest.mark.parametrize(
    ("where", "name", "on_call", "shapes"),
    [
        (main.builds, "sources", 1, 0),
        (main.checking, "try_rungs", 1, 0),
        (main.counting, "measure", 1, 0),
        (main.counting, "measure", 2, 1),
        (recorded.History, "record", 2, 1),
        (os, "fsync", 1, 0),  # of the first file of the first shape
        (os, "fsync", 3, 1),  # the same of the second shape
        (os, "fsync", 4, None),  # the second file: the first has both shapes
        (main, "_show", 2, 2),
    ],
)
def test_ctrl_c_leaves_whole_shapes(where, name, on_call, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(main.estimate, "begin", lambda *_, **__: lambda: "no estimate")
    monkeypatch.setattr(where, name, interrupting(getattr(where, name), on_call))
    files = tmp_path / "x.json", tmp_path / "x.csv"
    assert main.main("matmul", [*TWO, "--json", str(files[0]), "--csv", str(files[1])]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not list(tmp_path.glob(".*"))  # nothing half done
    counts = [
        len(json.loads(files[0].read_text())["rows"]) if files[0].exists() else 0,
        len(list(csv.DictReader(files[1].open()))) if files[1].exists() else 0,
    ]
    assert counts == ([shapes] * 2 if shapes is not None else [2, 1])


def test_ctrl_c_of_a_process_leaves_whole_shapes(tmp_path):
    file, many = tmp_path / "x.json", [f"M={128 + i},N=128,K=128" for i in range(40)]
    words = ("--kernel", "naive", "tiled", "--target", "simulator", "--json", str(file))
    child = python("test_matmul.py", *words, "--csv", "-", "--shape", *many)
    wait_for(lambda: file.exists() and file.stat().st_size > 2, 120)  # not the proof that it can be
    child.send_signal(signal.SIGINT)
    status, out, err = finished(child)
    rows = json.loads(file.read_text())["rows"]
    assert status == 130 and err.splitlines()[-1] == "interrupted"
    assert 0 < len(rows) < 80 and len(rows) % 2 == 0
    printed = [row["shape"] for row in csv.DictReader(out.splitlines())]
    assert printed == [row["shape"] for row in rows][: len(printed)]
    assert len(rows) - len(printed) in (0, 2)  # the interrupt may come between the two files


def test_results_alone_on_standard_output(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(main.estimate, "begin", lambda *_, **__: lambda: "no estimate")
    assert main.main("matmul", [*TWO, "--csv", "-"]) == 0
    out, err = capsys.readouterr()
    assert [row["M"] for row in csv.DictReader(out.splitlines())] == ["8", "9"]
    assert "matmul M=8,N=8,K=8 float32" in err and not Path("-").exists()
    assert main.main("matmul", [*TWO, "--json", "-"]) == 0
    assert [row["kernel"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["naive"] * 2


@pytest.mark.parametrize("words", [["--csv", "-"], ["--csv", "x.out"], ["--plot", "x.png"]])
def test_a_file_is_for_one_option(words, tmp_path, monkeypatch, capsys):
    if "--plot" in words:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    same = "--csv" if words[0] == "--plot" else "--json"
    assert main.main("matmul", [*TWO, *words, same, words[1]]) == 2
    assert f"are the same file: {words[1]}\n" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["[1,2]", b"\xff\xfe", zlib.compress(b"[7]"), 7, b""])
def test_a_damaged_row_of_the_history_is_set_aside(damage, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(main.estimate, "begin", lambda *_, **__: lambda: "no estimate")
    for _ in range(2):
        assert main.main("matmul", [*SMALL]) == 0
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO texts(hash, data) VALUES('x', ?)", (damage,))
        database.execute("UPDATE rows SET counters = last_insert_rowid() WHERE id = 1")
    capsys.readouterr()
    assert main.main("matmul", [*SMALL]) == 0
    assert capsys.readouterr().err == (
        f"warning: history {path}: damaged rows moved to the table damaged_3: 1\n"
    )
    assert main.main("matmul", [*SMALL]) == 0
    assert capsys.readouterr().err == ""
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (3,)
        assert database.execute("SELECT id FROM damaged_3").fetchall() == [(1,)]


@pytest.mark.full
@pytest.mark.parametrize("end", ["| head -1", ">/dev/full", ">&-"])
def test_a_scripts_results_are_saved_whatever_its_output(end, tmp_path):
    file = tmp_path / "out.json"
    words = " ".join(SMALL)
    done = shell(f"$PY test_matmul.py {words} --json {file} {end}", tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if "full" in end else 0), done.stderr
    assert [row["kernel"] for row in json.loads(file.read_text())["rows"]] == ["naive"]
