"""python -m workbench.history: lists, rows, differences, notes, work logs."""

import json
import re
import subprocess

import pytest

from tests.history.rows import HERE, row, sources
from workbench.harness.results import Estimated
from workbench.history import History
from workbench.history.__main__ import main
from workbench.toolchain import command

SLOW = b"".join(b"line %d\n" % i for i in range(100))
FAST = SLOW.replace(b"line 50\n", b"line fifty\nline more\n")


def estimated(ms, registers=32, kernel="tiled", **fields):
    report = Estimated("h200", ms, 0.3, "DRAM", 0.5, "registers", {}, registers, 4096, 0)
    return row(kernel, estimate=report, **fields)


@pytest.fixture
def history(tmp_path, monkeypatch):
    """Rows 1 and 2, of one run; row 3 after an edit; row 4 of another rung."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("WORKBENCH_KERNELS", str(tmp_path / "kernels"))
    (tmp_path / "kernels").mkdir()
    for name, text in sources(FAST).files.items():
        (tmp_path / "kernels" / name).write_bytes(text)
    made = History(tmp_path / "history.db")
    slow = {"warp_instructions": 1000.0, "barriers": 10.0, "flops": 5.0}
    rows = [estimated(0.002, counters=slow), estimated(0.5, kernel="naive", counters=slow)]
    made.record(HERE, rows, sources(SLOW), note="as it came")
    fast = slow | {"warp_instructions": 500.0, "barriers": 0.0}
    made.record(HERE, [estimated(0.001, 40, counters=fast)], sources(FAST))
    made.record(HERE, [estimated(0.001, kernel="more")], sources(FAST, more=b"edited\n"))
    return made


def run(capsys, *words: str) -> str:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def error(capsys, status: int, *words: str) -> str:
    assert command.status(lambda: main(words), "prog") == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, (out, err)
    return err


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_list_is_that_of_a_case_newest_last(history, capsys):
    out = run(capsys)
    assert out == run(capsys, "list")
    assert out.startswith("matmul M=1,N=1,K=1 float32, estimates for the h200\n")
    found = [line for line in lines(out) if line and line[0].isdigit()]
    assert [line[0] for line in found] == ["1", "2", "3", "4"]
    assert [line[3] for line in found] == ["tiled", "naive", "tiled", "more"]
    changes = [" ".join(line[4:]) for line in found]
    assert changes == [
        "2 us new abc as it came",
        "500 us new abc as it came",
        "1 us -50% edited abc",
        "1 us new abc",
    ]


def test_what_an_edit_of_another_rung_changes_is_not_edited(history, capsys):
    history.record(HERE, [estimated(0.001, 40)], sources(FAST, more=b"edited\n"))
    history.record(HERE, [estimated(0.00104, 40)], sources(FAST, header=b"edited\n"))
    fifth, sixth = run(capsys, "--kernel", "tiled").splitlines()[-2:]
    assert " = " in fifth and "edited" not in fifth
    assert " +4% " in sixth and "edited" in sixth


def test_the_list_fits(history, capsys):
    long = "B=10,H=320,Nq=131072,Nk=131072,D=128,and=more"
    for kernel in ("a_rung_with_quite_a_long_name", "b"):
        timed = estimated(1e5, kernel=kernel, shape=long, options="causal scale=0.125", layout="nt")
        history.record(HERE, [timed], sources(), note="words and more " * 20)
    out = run(capsys)
    assert max(map(len, out.splitlines())) <= 100
    assert "words and more" in out and "…" in out
    assert out.index("M=1,N=1,K=1") < out.index(long)


def test_the_list_is_of_the_newest_rows(history, capsys):
    for _ in range(30):
        history.record(HERE, [estimated(0.001)], sources())
    assert len([line for line in lines(run(capsys)) if line and line[0].isdigit()]) == 20
    newest = run(capsys, "--limit", "1")
    assert " 34  " in newest and " 33  " not in newest
    every = run(capsys, "--limit", "0", "--kernel", "tiled", "--since", "2")
    numbers = [int(line[0]) for line in lines(every) if line and line[0].isdigit()]
    assert numbers == [3, *range(5, 35)]


def test_timed_rows_have_their_noise(history, capsys):
    for ms in (1.0, 1.05, 1.3):
        timed = row(time_ms=ms, spread=0.1, counters={})
        history.record(HERE, [timed], sources())
    out = run(capsys, "--since", "5")
    assert out.startswith("matmul M=1,N=1,K=1 float32, on a device\n")
    changes = [line[6] for line in lines(out) if line and line[0].isdigit()]
    assert changes == ["new", "=", "+23.8%"]


def test_a_row(history, capsys):
    out = run(capsys, "show", "3")
    assert out.startswith("row 3: matmul tiled, M=1,N=1,K=1 float32\n")
    for fact in (
        "1 us for the h200, limit: DRAM  (-50% against row 1)",
        "registers 40, shared 4.10 kB, spills 0 B, occupancy 50%, limited by registers",
        "python x.py",
        "and 1 other file of the ladder",
    ):
        assert f"  {fact}\n" in out
    assert ["warp", "instructions", "500"] in lines(out)
    assert "barriers" not in out  # 0
    assert re.findall("^ .*  (as it came)$", run(capsys, "show", "1"), re.M) == ["as it came"]


def test_a_file_of_a_row(history, capsys):
    assert run(capsys, "show", "1", "--file", "matmul.cu") == SLOW.decode()
    assert run(capsys, "show", "3", "--file", "matmul.cu") == FAST.decode()
    assert "row 1 has matmul.cu, more.cu, common.cuh" in error(
        capsys, 2, "show", "1", "--file", "x.cu"
    )


def test_the_source_change_beside_that_of_the_figures(history, capsys):
    out = run(capsys, "diff", "1", "3")
    diff, _, table = out.partition("\n\n")
    assert "-line 50\n+line fifty\n+line more\n" in diff
    assert diff.startswith("--- matmul.cu\trow 1\n+++ matmul.cu\trow 3\n@@ -48,7 +48,8 @@\n")
    assert lines(table) == [
        ["row", "1", "row", "3", "ratio"],
        ["estimated", "time", "2", "us", "1", "us", "x0.50"],
        ["registers", "32", "40", "x1.25"],
        ["warp", "instructions", "1.00", "k", "500", "x0.50"],
        ["barriers", "10", "0", "x0.00"],
    ]


def test_files_of_the_rung_come_first(history, capsys):
    out = run(capsys, "diff", "1", "4")  # of tiled and of more
    heads = re.findall(r"^--- (\S+)", out, re.M)
    assert heads == ["matmul.cu", "more.cu"]
    out = run(capsys, "diff", "4", "4")
    assert out == "the sources are the same\nthe figures are the same\n"
    history.record(HERE, [estimated(0.001)], sources(SLOW, more=b"edited\n"))
    history.record(HERE, [estimated(0.001)], sources(FAST))
    out = run(capsys, "diff", "5", "6")
    assert out.index("--- matmul.cu") < out.index("# another file of the ladder: more.cu")


def test_a_diff_can_be_applied(history, capsys, tmp_path):
    """By git: with odd ends of lines and of files."""
    texts = [b"a\nb\nc", b"a\r\nb\nc\n", b"", b"a\n", "ä\u2028b\x0cc\n".encode(), b"\n\n"]
    for text in texts:
        history.record(HERE, [row()], sources(text))
    for number, (before, after) in enumerate(zip(texts, texts[1:], strict=False), 5):
        (tmp_path / "matmul.cu").write_bytes(before)
        diff = run(capsys, "diff", str(number), str(number + 1))
        subprocess.run(["git", "apply", "-p0", "-"], input=diff.encode(), cwd=tmp_path, check=True)
        there = (tmp_path / "matmul.cu").read_bytes() if (tmp_path / "matmul.cu").exists() else b""
        assert there == after


def test_a_diff_to_the_folder(history, capsys, tmp_path):
    out = run(capsys, "diff", "1")
    assert "-line 50\n+line fifty\n" in out
    assert run(capsys, "diff", "3") == f"{tmp_path / 'kernels'} has the sources of row 3\n"
    (tmp_path / "kernels" / "matmul_new.cu").write_text("new\n")
    (tmp_path / "kernels" / "common.cuh").unlink()
    out = run(capsys, "diff", "3")
    assert re.findall(r"^(?:---|\+\+\+) (\S+)\t(.*)", out, re.M) == [
        ("common.cuh", "row 3"),
        ("/dev/null", "now"),
        ("/dev/null", "row 3"),
        ("matmul_new.cu", "now"),
    ]


def test_restore(history, capsys, tmp_path):
    file = tmp_path / "kernels" / "matmul.cu"
    file.write_text("work\n")
    out = run(capsys, "restore", "1")
    assert out == (
        "restored from row 1: matmul.cu\n"
        "what was there is in row 5: python -m workbench.history restore 5\n"
    )
    assert file.read_bytes() == SLOW
    (tmp_path / "kernels" / "matmul_new.cu").write_text("new\n")
    file.write_text("work\n")
    out = run(capsys, "restore", "1")
    assert "left as it is, since row 1 has no such file: matmul_new.cu\n" in out
    assert "has the sources of row 1 already" in run(capsys, "restore", "1")
    assert "matmul, sources that restore kept" in run(capsys)
    assert run(capsys, "show", "5").startswith("row 5: matmul tiled")
    assert "+work" in run(capsys, "diff", "1", "5") and "ratio" not in run(capsys, "diff", "1", "5")
    run(capsys, "restore", "5")
    assert file.read_text() == "work\n"


def test_notes_are_those_of_a_run(history, capsys):
    out = run(capsys, "note", "2", 'it\'s "odd" | `x`\nsecond')
    assert out == "noted with rows 1 to 2, all of one run\n"
    shown = run(capsys, "show", "1")
    assert re.search(r"note +as it came\n +it's \"odd\" \| `x`\n +second\n", shown)
    run(capsys, "note", "1", "--replace", "caf\udce9")
    shown = run(capsys, "show", "2")
    assert re.search(r"note +caf\\udce9\n", shown) and "as it came" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shw"], "shw: expected one of list, show, diff, restore, note, export"),
        (["--kernel", "fast"], "--kernel fast: the history has tiled, naive, more"),
        (["list", "--op", "matmull"], "--op matmull: the history has matmul"),
        (["list", "--dtype", "float32", "int8"], "--dtype int8: the history has float32"),
        (["--since", "99"], "no row is as the options say"),
        (["show", "99"], "99: there is no such row; the newest row is 4"),
        (["diff", "1", "99"], "99: there is no such row; the newest row is 4"),
        (["restore", "0"], "'0' is not a whole number from 1 to"),
        (["note", "1", " "], "' ' says nothing; expected a text"),
        (["note", "99", "x"], "99: there is no such row"),
        (["export", "--shape", "M=2"], "--shape M=2: the history has M=1,N=1,K=1"),
    ],
)
def test_bad_words_are_one_line(history, capsys, words, message):
    assert message in error(capsys, 2, *words)


@pytest.mark.parametrize("words", [["restore", "1"], ["diff", "1"]])
def test_a_row_without_texts(history, capsys, words):
    history.record(HERE, [row("old")], None)
    words[1] = "5"
    assert error(capsys, 1, *words).startswith("row 5 has no texts")
    out = run(capsys, "diff", "5", "1")
    assert "row 5 has no texts" in out and "registers" in out
    assert "unknown: the row has no texts" in run(capsys, "show", "5")


@pytest.mark.parametrize("words", [["show", "1"], ["export"], ["list", "--op", "matmul"]])
def test_without_a_history(tmp_path, monkeypatch, capsys, words):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    nothing = "nothing is recorded yet: python test_<op>.py does that\n"
    assert run(capsys) == nothing
    assert error(capsys, 2, *words).endswith(nothing)
    assert not list(tmp_path.iterdir())
    History(tmp_path / "history.db")
    assert run(capsys) == nothing
    assert error(capsys, 2, *words).endswith(nothing)


# ------------------------------------------------------------------------------------------------


def test_a_work_log(history, capsys):
    run(capsys, "note", "3", "half the instructions, as predicted")
    log = run(capsys, "export", "--kernel", "tiled")
    assert log == run(capsys, "export", "--kernel", "tiled")
    assert log.startswith("# Work log: matmul, tiled\n\nTimes for the H200 SXM are estimates")
    assert "| matmul tiled | M=1,N=1,K=1 float32 | h200 | 2 us | 1 us | 1 us | x2.00 |\n" in log
    first, second = re.split(r"^## Step \d: .*$", log, flags=re.M)[1:]
    assert "> as it came\n" in first and "```diff" not in first
    assert "> half the instructions, as predicted\n" in second
    assert "-line 50\n+line fifty\n+line more\n" in second
    report = "| 1 us | -50% | DRAM | 50% | 40 | 4.10 kB | 0 B |"
    assert f"| 3 | tiled | M=1,N=1,K=1 float32 {report}\n" in second
    assert "| warp instructions | 1.00 k | 500 | x0.50 |" in second
    assert "flops" not in second and "naive" not in log and "more.cu" not in log


def test_a_work_log_of_everything(history, capsys, tmp_path):
    file = tmp_path / "log.md"
    assert run(capsys, "export", "--out", str(file)) == f"wrote {file}\n"
    log = file.read_text()
    assert log.startswith("# Work log: matmul\n") and log.count("\n## Step ") == 3
    assert "| 2 | naive |" in log and "--- more.cu\trow 3\n" in log
    since = run(capsys, "export", "--since", "3")
    assert since.count("\n## Step ") == 2 and "as it came" not in since


def test_long_diffs_are_folded_and_fences_hold(history, capsys):
    text = b"".join(b"``` %d |\n" % i for i in range(60))
    history.record(HERE, [estimated(0.001)], sources(text))
    log = run(capsys, "export", "--kernel", "tiled", "--since", "3")
    (folded,) = re.findall(r"<details>\n(.*?)</details>", log, re.S)
    assert "<summary><code>matmul.cu</code>: 60 lines added, 101 lines removed</summary>" in folded
    assert "\n\n````diff\n--- matmul.cu" in folded and folded.rstrip().endswith("\n````")


def test_a_work_log_says_the_note_once(history, capsys):
    here = type(HERE)(**{**vars(HERE), "command": "python x.py --note 'why not' --kernel tiled"})
    history.record(here, [estimated(0.001)], sources(), note="why not")
    log = run(capsys, "export", "--since", "5")
    assert log.count("why not") == 1 and "`python x.py --kernel tiled`" in log


def test_names_from_a_damaged_row_do_no_harm(history, capsys):
    """Values of the wrong type, as if somebody had edited the file."""
    history.do(
        "written",
        lambda db: [
            db.execute("UPDATE rows SET time_ms = 'soon', registers = 'many', own = 99999"),
            db.execute("UPDATE rows SET ratios = ?, sources = counters", (json.dumps([1]),)),
            db.execute("UPDATE runs SET started = 'yesterday'"),
        ],
    )
    for words in (["list"], ["show", "1"], ["export"]):
        run(capsys, *words)
    assert command.status(lambda: main(["diff", "1", "3"]), "prog") == 1
    assert "its sources cannot be read" in capsys.readouterr().err
