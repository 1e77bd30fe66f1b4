"""The scripts: command line, tables, exit status, history."""

import contextlib
import dataclasses
import io
import json
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from workbench import estimate, rungs
from workbench.cli import main, pages, recorded
from workbench.cli.request import request
from workbench.estimate import DEFAULT_GPU, GPUS, resources
from workbench.harness import checking, counting, verify
from workbench.harness.results import Estimated
from workbench.history import History, HistoryError, reading
from workbench.history.reading import Filter
from workbench.operators.attention import OPERATOR as ATTENTION
from workbench.operators.matmul import OPERATOR as MATMUL
from workbench.operators.softmax import OPERATOR as SOFTMAX
from workbench.toolchain import BuildError, kernels_dir

SMALL = ("--shape", "M=40,N=50,K=60")
# Head dimensions that flash declines; two rungs, one line each.
ODD = ("--shape", "B=1,H=1,Nq=9,Nk=10,D=300", "--dtype", "float32", "--kernel", "naive", "flash")
DECLINES = "declines: its tiles are made for head dimensions up to 256; got 300"


@dataclass(frozen=True)
class Run:
    """What a script did on the simulator."""

    status: int
    out: str
    err: str
    cache: Path

    @property
    def run(self) -> dict:
        return json.loads((self.cache / "x.json").read_text())

    @property
    def rows(self) -> list[dict]:
        return self.run["rows"]

    def recorded(self, fields: str = "kernel") -> list[tuple]:
        """All rows in the history of its folder."""
        with sqlite3.connect(self.cache / "history.db") as database:
            return database.execute(f"SELECT {fields} FROM rows ORDER BY id").fetchall()

    def line(self, kernel: str) -> str:
        """The only line of a rung."""
        (line,) = re.findall(rf"^{kernel} .*$", self.out, flags=re.MULTILINE)
        return line


def script(cache: Path, op: str, *arguments: str) -> Run:
    """Run a script with its own history, while builds stay in the common cache."""
    out, err = io.StringIO(), io.StringIO()
    command = [*arguments, "--target", "simulator", "--json", str(cache / "x.json")]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(recorded, "cache_dir", lambda: cache)
        status = main.main(op, command)
    return Run(status, out.getvalue(), err.getvalue(), cache)


def made_up(launches, op, gpu) -> Estimated:
    return Estimated(gpu.name, 0.01, 0.3, "DRAM", 0.5, "registers")


@contextlib.contextmanager
def without_estimates():
    """Compile nothing for a GPU: a few tests of matmul.cu show that estimates work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "prepare", lambda op, gpu: None)
        patch.setattr(estimate, "begin", lambda *about, **more: lambda: made_up(*about, **more))
        yield


@pytest.fixture
def no_estimates():
    with without_estimates():
        yield


@pytest.fixture(scope="module")
def of_matmul(tmp_path_factory) -> Run:
    return script(tmp_path_factory.mktemp("matmul"), "matmul", *SMALL, "--shape", "M=1,N=1,K=1")


@pytest.fixture(scope="module")
def of_softmax(tmp_path_factory) -> Run:
    shapes = ("--shape", "rows=5,cols=70", "rows=2,cols=9", "--dtype", "float32", "bfloat16")
    with without_estimates():
        return script(tmp_path_factory.mktemp("softmax"), "softmax", *shapes)


@pytest.fixture(scope="module")
def of_attention(tmp_path_factory) -> Run:
    with without_estimates():
        return script(tmp_path_factory.mktemp("attention"), "attention", *ODD)


def test_a_table_has_every_rung(of_matmul):
    assert of_matmul.status == 0
    assert of_matmul.out.startswith("target: simulator (requested)\n")
    assert "matmul M=40,N=50,K=60 float32\n" in of_matmul.out
    assert "matmul M=1,N=1,K=1 float32\n" in of_matmul.out
    assert "these do not support float32: wmma, mma, " in of_matmul.out
    for rung in rungs("matmul"):
        lines = rf"^{rung.name} +(?!is )"
        if "float32" in rung.dtypes:
            assert len(re.findall(lines, of_matmul.out, flags=re.MULTILINE)) == 2
    assert "an ESTIMATE for the H200 SXM" in of_matmul.out
    assert max(map(len, of_matmul.out.splitlines())) <= 100


def test_json(of_matmul):
    names = [rung.name for rung in rungs("matmul") if "float32" in rung.dtypes]
    assert [row["kernel"] for row in of_matmul.rows] == 2 * names
    first = of_matmul.rows[0]
    about = [first[name] for name in ("shape", "options", "layout", "dtype", "target")]
    assert about == ["M=40,N=50,K=60", "", "", "float32", "simulator"]
    assert first["checked"] is True
    assert first["counters"]["warp_instructions"] > 0
    assert first["counters"]["flops"] >= 2 * 40 * 50 * 60
    assert of_matmul.run["torch"] == torch.__version__


def test_torch_is_measured_by_the_same_budget(of_matmul):
    assert "torch's own CPU kernel uses " in of_matmul.out
    assert 0 < checking.torch_share(MATMUL, MATMUL.case("M=40,N=50,K=60")) < 1


def test_each_dtype_has_tables_of_the_rungs_that_take_it(of_softmax):
    assert of_softmax.status == 0
    ladder = rungs("softmax")
    without = [rung.name for rung in ladder if "bfloat16" not in rung.dtypes]
    assert without
    assert of_softmax.out.count(f"these do not support bfloat16: {', '.join(without)}\n") == 1
    listed = [(row["dtype"], row["shape"], row["kernel"]) for row in of_softmax.rows]
    assert listed == [
        (dtype, shape, rung.name)
        for dtype in ("float32", "bfloat16")
        for shape in ("rows=5,cols=70", "rows=2,cols=9")
        for rung in ladder
        if dtype in rung.dtypes
    ]
    traffic = [row["traffic"]["ideal_bytes"] for row in of_softmax.rows if row["checked"]]
    assert (traffic[0], traffic[-1]) == (2800, 72)


def test_a_rung_that_declines_is_listed_with_the_reason(of_softmax, of_attention):
    assert of_attention.status == 0
    assert of_attention.line("flash") == f"flash  {DECLINES}"
    reason = "rows of 70 columns fit into the registers of a block; use row_in_registers"
    line = rf"^cluster +declines: {reason}$"
    assert len(re.findall(line, of_softmax.out, flags=re.MULTILINE)) == 2  # in either dtype
    naive, flash = of_attention.rows
    assert (naive["refused"], naive["checked"]) == (None, True)
    assert (flash["refused"], flash["checked"], flash["note"]) == (DECLINES, False, "")
    assert flash["counters"] == {} and flash["share"] is flash["estimate"] is None


def test_a_rung_that_declines_has_its_reason_on_a_page(of_attention):
    lines = pages.table(of_attention.run).splitlines()
    (flash,) = [line for line in lines if line.startswith("| flash |")]
    (naive,) = [line for line in lines if line.startswith("| naive |")]
    assert flash.startswith(f"| flash | {DECLINES} |")
    assert flash.count("|") == naive.count("|")


def test_a_rung_that_declines_has_no_history(of_softmax, of_attention):
    assert of_attention.recorded() == [("naive",)]
    assert not {("cluster",), ("cluster_pipelined",)} & set(of_softmax.recorded())


def test_backward_is_the_ladder_of_the_gradient(no_estimates, tmp_path):
    run = script(tmp_path, "softmax", "--backward", "--shape", "rows=5,cols=70")
    assert run.status == 0
    assert "softmax_backward rows=5,cols=70 float32\n" in run.out
    names = [rung.name for rung in rungs("softmax_backward")]
    expected = [("softmax_backward", name) for name in names]
    assert [(row["op"], row["kernel"]) for row in run.rows] == expected
    run = script(tmp_path, "softmax", "--backward", "--kernel", "online")
    assert run.status == 2
    assert run.err.startswith(
        "test_softmax.py: error: --kernel online: softmax_backward has naive, "
    )
    assert run.err.endswith("the end of kernels/softmax_backward.cu\n")


def test_a_rung_that_is_named_is_listed_for_every_dtype(no_estimates, tmp_path):
    arguments = ("--shape", "rows=5,cols=70", "--kernel", "naive", "--dtype", "bfloat16")
    run = script(tmp_path, "softmax", *arguments)
    assert run.status == 0
    assert run.line("naive") == "naive  supports float32; got bfloat16"


def test_options_are_timed_and_kept_by_themselves(no_estimates, tmp_path):
    arguments = (*ODD[:4], "--kernel", "naive")
    assert "naive" in script(tmp_path, "attention", *arguments).line("naive")
    for change in (" new ", " = "):
        run = script(tmp_path, "attention", *arguments, "--option", "scale=0.5", "causal")
        assert "attention B=1,H=1,Nq=9,Nk=10,D=300 causal scale=0.5 float32\n" in run.out
        assert change in run.line("naive")
    assert [row["options"] for row in run.rows] == ["causal scale=0.5"]
    assert run.recorded("options") == [("",), ("causal scale=0.5",), ("causal scale=0.5",)]


def test_layouts_are_timed_and_kept_by_themselves(no_estimates, tmp_path):
    arguments = (*SMALL, "--kernel", "naive")
    assert " new " in script(tmp_path, "matmul", *arguments).line("naive")
    for change in (" new ", " = "):
        run = script(tmp_path, "matmul", *arguments, "--layout", "nt")
        assert "matmul M=40,N=50,K=60 nt float32\n" in run.out
        assert change in run.line("naive")
    run = script(tmp_path, "matmul", *arguments, "--layout", "nn", "nt", "nn")
    assert [(row["shape"], row["layout"]) for row in run.rows] == [
        ("M=40,N=50,K=60", ""),
        ("M=40,N=50,K=60", "nt"),
    ]
    assert run.recorded("layout") == [("",), ("nt",), ("nt",), ("",), ("nt",)]


def test_a_layout_that_can_hold_the_shape_is_taken(no_estimates):
    shape = ("--shape", "M=2,N=2,K=2")
    layouts = ("--layout", *MATMUL.layouts)
    asked = request(MATMUL, ["--target", "simulator", *shape, *layouts])
    assert [case.layout for case in asked.cases] == [*MATMUL.layouts]


def test_an_option_takes_the_place_of_those_of_the_default_cases(no_estimates):
    asked = request(ATTENTION, ["--target", "simulator"])
    assert {case.written_options for case in asked.cases} == {""}
    asked = request(ATTENTION, ["--target", "simulator", "--option", "scale=0.5"])
    assert {case.written_options for case in asked.cases} == {"scale=0.5"}
    asked = request(SOFTMAX, ["--target", "simulator", "--option", "log", "--option", "lse"])
    assert {case.written_options for case in asked.cases} == {"log lse"}
    shapes = ["rows=2,cols=3", "rows=4,cols=5 lse"]
    asked = request(SOFTMAX, ["--target", "simulator", "--shape", *shapes, "--option", "log"])
    assert [case.text for case in asked.cases] == ["rows=2,cols=3 log", "rows=4,cols=5 log lse"]


def test_the_change_is_that_of_the_estimate(no_estimates, tmp_path):
    arguments = (*SMALL, "--kernel", "naive")
    assert " new " in script(tmp_path, "matmul", *arguments).line("naive")
    assert " = " in script(tmp_path, "matmul", *arguments).line("naive")
    on_t4 = (*arguments, "--gpu", "t4")  # a history for each GPU
    assert " new " in script(tmp_path, "matmul", *on_t4).line("naive")
    with sqlite3.connect(tmp_path / "history.db") as database:
        database.execute("UPDATE rows SET estimated_ms = 0.002 WHERE gpu = 't4'")
    assert " +400% " in script(tmp_path, "matmul", *on_t4).line("naive")


@pytest.mark.parametrize(
    "gpu",
    [gpu if gpu == DEFAULT_GPU else pytest.param(gpu, marks=pytest.mark.full) for gpu in GPUS],
)
def test_every_gpu_has_an_estimate(gpu, tmp_path):
    run = script(tmp_path, "matmul", *SMALL, "--kernel", "tiled", "--gpu", gpu)
    (row,) = run.rows
    assert row["estimate"]["gpu"] == gpu
    assert row["estimate"]["time_ms"] == row["counters"][f"estimated_ms_{gpu}"] > 0
    assert 0 < row["estimate"]["occupancy"] <= 1


def test_a_kernel_that_does_not_run_on_the_gpu_has_no_estimate(tmp_path, monkeypatch):
    def refuse(source, arch):
        raise BuildError("line\nmore")

    monkeypatch.setattr(estimate.resources, "of_file", refuse)
    monkeypatch.setattr(estimate.resources, "prepare", lambda source, arch: None)
    run = script(tmp_path, "matmul", *SMALL, "--kernel", "naive", "--gpu", "t4")
    assert run.status == 0
    assert "naive: no estimate for the Tesla T4: " in run.out
    assert ".cu does not compile for sm_75: line\n" in run.out and "more" not in run.out


def test_kernels_of_the_command_line_alone(no_estimates, tmp_path):
    run = script(tmp_path, "matmul", *SMALL, "--kernel", "tiled", "--kernel", "naive")
    assert run.status == 0
    assert [row["kernel"] for row in run.rows] == ["naive", "tiled"]
    assert "coalesced" not in run.out


@pytest.fixture
def small_defaults(monkeypatch):
    """Defaults that take a moment, in the place of a GPU's sizes."""
    small = {"simulator": ("M=128,N=64,K=64",), "gpu": ()}
    operator = dataclasses.replace(MATMUL, defaults=small, small=("M=40,N=50,K=60",))
    monkeypatch.setattr("workbench.operators.matmul.OPERATOR", operator)


def test_default_shapes_are_checked_small_and_counted_in_part(
    no_estimates, small_defaults, tmp_path
):
    run = script(tmp_path, "matmul", "--kernel", "naive", "tiled")
    assert run.status == 0
    assert "checked on 4 small shapes; the tables count 2 blocks of each launch" in run.out
    assert [row["sampled_blocks"] for row in run.rows] == [2, 2]
    flops = 2 * 128 * 64 * 64 + 128 * 64  # and the products with alpha
    assert [row["counters"]["flops"] for row in run.rows] == [flops] * 2
    assert all(0 < row["share"] < 1 for row in run.rows)


@pytest.mark.parametrize(
    ("arguments", "blocks"),
    [
        (("--sample", "3"), [3]),
        (("--sample", "0"), [0]),
        (("--shape", "M=65,N=64,K=64"), [0]),
        (("--shape", "M=65,N=64,K=64", "--sample", "1"), [1]),
        (("--check",), [0]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_how_many_blocks_are_sampled(no_estimates, small_defaults, tmp_path, arguments, blocks):
    run = script(tmp_path, "matmul", "--kernel", "tiled", *arguments)
    assert run.status == 0
    assert [row["sampled_blocks"] for row in run.rows] == blocks


def test_a_rung_that_a_small_shape_shows_to_be_wrong_is_not_sampled(
    no_estimates, small_defaults, tmp_path, monkeypatch
):
    check = verify.check_rung

    def spoiled(operator, rung, case, target):
        verdict = check(operator, rung, case, target)
        wrong = rung.name == "tiled" and case.shape["M"] == 40
        return verify.Verdict(verdict.subject, ("worst    out[1, 2]",)) if wrong else verdict

    monkeypatch.setattr(verify, "check_rung", spoiled)
    run = script(tmp_path, "matmul", "--kernel", "naive", "tiled")
    assert run.status == 1
    assert re.search(r"^tiled +WRONG$", run.out, flags=re.MULTILINE)
    assert "WRONG  matmul tiled on the simulator: M=40,N=50,K=60" in run.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sample", "-1"], "--sample '-1' is not a whole number from 0 to "),
        (["--sample", "two"], "--sample 'two' is not a whole number from 0 to "),
        (["--check", "--sample", "4"], "--check looks at all blocks: leave --sample out"),
    ],
)
def test_samples_that_make_no_sense(arguments, words, capsys):
    bad("matmul", arguments, words, capsys)


def bad(op, arguments, words, capsys) -> None:
    """Expect one line of error and nothing else."""
    assert main.main(op, arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"test_{op}.py: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kernel", "fast"], "--kernel fast: matmul has naive, "),
        (
            ["--kernel", "fast"],
            "a rung needs a line in the table at the end of kernels/matmul.cu",
        ),
        (["--shape", "64"], "write M=..,N=..,K=.., for example M=64,N=64,K=64"),
        (["--shape", ""], "--shape '': '' is not NAME=NUMBER; write M=..,N=..,K=.."),
        (
            ["--shape", "M=1,N=1,K=1 nt"],
            "--option 'nt': unknown name 'nt'; the options are",
        ),
        (["--layout", "xx"], "--layout xx: matmul has nn, nt, "),
        (
            ["--layout", "huge_a", "--shape", "M=1,N=1,K=1"],
            "--layout huge_a: placement 'huge' needs a dimension above 1 before the last: [1, 1]",
        ),
        (["--dtype", "int16"], "--dtype int16: matmul supports float32, float64, float16, "),
        (["--target", "tpu"], "--target: invalid choice: 'tpu'"),
        (["--gpu", "h300"], "--gpu: invalid choice: 'h300'"),
        (["--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["--json", "/usr"], "--json /usr: this is a folder"),
        (["--json", ""], "--json name a file"),
        (["--csv", "/proc/x.csv"], "--csv /proc/x.csv: it cannot be created"),
        (
            ["--shape", "M=9999999,N=9999999,K=9"],
            "its tensors and references take at least 2000 TB",
        ),
        (["--speed"], "unrecognized arguments: --speed"),
        (["--backward"], "unrecognized arguments: --backward"),
        (
            ["--option", "causal"],
            "--option 'causal': unknown name 'causal'; the options",
        ),
        (["--dtype", "float32", "int16"], "--dtype int16: matmul supports float32"),
    ],
)
def test_bad_flags_are_one_line(no_estimates, capsys, arguments, words):
    bad("matmul", arguments, words, capsys)


ROWS = ["--shape", "rows=4,cols=9"]


@pytest.mark.parametrize(
    ("op", "arguments", "words"),
    [
        (
            "softmax",
            ["--shape", "rows=4,cols=9,log=1"],
            "--shape 'rows=4,cols=9,log=1': log is an option, not a size; write --option log",
        ),
        (
            "attention",
            ["--shape", "B=1,H=1,Nq=9,Nk=10,D=32,causal=1"],
            "causal is an option, not a size; write --option causal",
        ),
        (
            "softmax",
            [*ROWS, "--option", "lgo"],
            "--option 'lgo': unknown name 'lgo'; the options are scale=NUMBER, log, lse",
        ),
        ("softmax", [*ROWS, "--option", "log=1"], "--option 'log=1': write log\n"),
        ("softmax", [*ROWS, "--option", "scale"], "--option 'scale': write scale=NUMBER\n"),
        ("softmax", [*ROWS, "--option", "scale=x"], "--option 'scale=x': 'x' is not a finite"),
        ("softmax", [*ROWS, "--option", "scale=nan"], "'nan' is not a finite number"),
        ("softmax", [*ROWS, "--option", "log", "lse", "log"], "log is given twice"),
        ("softmax", ["--shape", "rows=4,cols=9 log", "--option", "log"], "log is given twice"),
        ("softmax", ["--backward", "--option", "lse"], "the options are scale=NUMBER, log, dlse"),
        ("softmax", [*ROWS, "--option"], "--option: expected at least one argument"),
        ("attention", ["--layout", "nt"], "--layout nt: attention has contiguous, "),
    ],
)
def test_bad_options_are_one_line(no_estimates, capsys, op, arguments, words):
    bad(op, arguments, words, capsys)


def test_a_gpu_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main.main("matmul", ["--target", "gpu"]) == 2
    assert "--target gpu: " in capsys.readouterr().err


NAIVE = (*SMALL, "--kernel", "naive")


def test_an_unusable_history_is_a_warning(no_estimates, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path / "file")
    assert main.main("matmul", [*NAIVE, "--target", "simulator"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^naive ", captured.out, flags=re.MULTILINE)
    assert "warning: history" in captured.err
    assert "this run is not recorded" in captured.err


def test_a_wrong_rung_is_reported_and_not_recorded(no_estimates, tmp_path, monkeypatch):
    right = verify.check_rung

    def spoiled(operator, rung, case, target):
        verdict = right(operator, rung, case, target)
        if rung.name != "tiled":
            return verdict
        return verify.Verdict(verdict.subject, ("worst    out[1, 2]: got 0, expected 1",))

    monkeypatch.setattr(verify, "check_rung", spoiled)
    run = script(tmp_path, "matmul", *SMALL, "M=8,N=9,K=10", "--kernel", "naive", "tiled")
    assert run.status == 1
    assert len(re.findall(r"^tiled +WRONG$", run.out, flags=re.MULTILINE)) == 2
    assert run.out.count("WRONG  matmul tiled on the simulator: M=134,N=139,K=85") == 1
    assert run.out.count("worst    out[1, 2]: got 0, expected 1") == 1
    assert run.recorded() == [("naive",), ("naive",)]


def test_a_row_of_the_history_has_all_that_is_known(of_matmul):
    """The texts that were built, and the compiler's report of that architecture."""
    history = History(of_matmul.cache / "history.db")
    entries = reading.find(history, Filter({"shape": ("M=40,N=50,K=60",)}))
    rows = [row for row in of_matmul.rows if row["shape"] == "M=40,N=50,K=60"]
    assert [entry.kernel for entry in entries] == [row["kernel"] for row in rows]
    for entry, row in zip(entries, rows, strict=True):
        for name, text in reading.files(history, entry).items():
            assert text == (kernels_dir() / name).read_bytes()
        assert entry.own[0] in entry.sources and entry.own[0].endswith(".cu")
        for name in ("registers", "shared_bytes", "spill_bytes", "occupancy", "limiter"):
            assert getattr(entry, name) == row["estimate"][name]
    tiled = next(entry for entry in entries if entry.kernel == "tiled")
    report = resources.of_file(kernels_dir() / "matmul.cu", GPUS[DEFAULT_GPU].arch)
    kernels = [of for name, of in report.items() if name.startswith("matmul_tiled_kernel<float")]
    assert tiled.registers in {of.registers for of in kernels}
    assert tiled.shared_bytes == 2 * 32 * 32 * 4


def test_a_note_is_kept_with_the_run(no_estimates, tmp_path):
    script(tmp_path, "matmul", *NAIVE, "--note", "what if\n'x'?")
    script(tmp_path, "matmul", *NAIVE)
    first, second = reading.find(History(tmp_path / "history.db"), Filter())
    assert (first.notes, second.notes) == (("what if\n'x'?",), ())


def test_a_note_is_for_the_table(no_estimates, capsys):
    bad("matmul", ["--explain", "naive", "--note", "x"], "--note is kept with the table", capsys)


@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), ValueError("a defect")])
def test_what_was_measured_survives_a_later_error(no_estimates, tmp_path, monkeypatch, trouble):
    simulate = counting.measure

    def interrupted(operator, ladder, case, *others, **settings):
        if case.shape["M"] == 8:
            raise trouble
        return simulate(operator, ladder, case, *others, **settings)

    monkeypatch.setattr(counting, "measure", interrupted)
    command = (*SMALL, "M=8,N=9,K=10", "--kernel", "naive", "tiled")
    with contextlib.suppress(ValueError):
        assert script(tmp_path, "matmul", *command).status == 130
    kept = Run(130, "", "", tmp_path)
    assert [row["kernel"] for row in kept.rows] == ["naive", "tiled"]
    assert kept.recorded() == [("naive",), ("tiled",)]


def test_a_history_that_fails_later_is_a_warning(no_estimates, tmp_path, monkeypatch):
    def fail(*args):
        raise HistoryError("history x is locked")

    monkeypatch.setattr(recorded.History, "previous", fail)
    monkeypatch.setattr(recorded.History, "record", fail)
    run = script(tmp_path, "matmul", *NAIVE)
    assert run.status == 0
    assert run.err == (
        "warning: history x is locked; changes are not shown\n"
        "warning: history x is locked; this is not recorded\n"
    )
