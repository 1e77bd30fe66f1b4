"""The scripts: command line, tables, exit status, history, and rungs that appear by themselves."""

import contextlib
import json
import re
import sqlite3

import pytest
import torch

from workbench import bench, check, estimate, measure, ops
from workbench.estimate import GPUS
from workbench.harness.history import HistoryError
from workbench.operations import MATMUL, OPERATIONS

CPU = torch.device("cpu")
SMALL = ("--target", "simulator", "--shape", "M=40,N=50,K=60")


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A history of its own, while builds stay in the common cache."""
    monkeypatch.setattr(bench, "cache_dir", lambda: tmp_path)
    return tmp_path / "history.db"


def test_tables_every_rung(history, capsys):
    assert bench.main("matmul", [*SMALL, "--shape", "M=1,N=1,K=1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("target: simulator (asked for)\n")
    assert "matmul M=40,N=50,K=60 float32" in out
    assert "matmul M=1,N=1,K=1 float32" in out
    for rung in ops.rungs("matmul"):
        assert len(re.findall(rf"^{rung.name} ", out, flags=re.MULTILINE)) == 2
    assert "an ESTIMATE for the H200 SXM" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", ["softmax", "attention"])
def test_the_other_scripts(history, capsys, name):
    shape = {"softmax": "rows=5,cols=70", "attention": "B=1,H=1,Nq=9,Nk=10,D=32,causal=1"}[name]
    assert bench.main(name, ["--shape", shape, "--target", "simulator"]) == 0
    out = capsys.readouterr().out
    for rung in ops.rungs(name):
        assert re.search(rf"^{rung.name} ", out, flags=re.MULTILINE)


def test_backward_is_the_ladder_of_the_gradient(history, capsys, tmp_path):
    file = tmp_path / "x.json"
    arguments = ["--backward", "--shape", "rows=5,cols=70", "--target", "simulator"]
    assert bench.main("softmax", [*arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "softmax_backward rows=5,cols=70 float32, ideal 4.20 kB\n" in out
    rows = json.loads(file.read_text())["rows"]
    names = [rung.name for rung in ops.rungs("softmax_backward")]
    assert [(row["op"], row["kernel"]) for row in rows] == [("softmax_backward", n) for n in names]
    assert bench.main("softmax", ["--backward", "--kernel", "online"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("test_softmax.py: error: --kernel online: softmax_backward has naive, ")
    assert error.endswith("the end of kernels/softmax_backward.cu\n")


def test_each_dtype_has_tables_of_the_rungs_that_take_it(history, capsys, tmp_path):
    file = tmp_path / "x.json"
    arguments = ["--shape", "rows=5,cols=70", "rows=2,cols=9", "--target", "simulator"]
    arguments += ["--dtype", "float32", "bfloat16", "--json", str(file)]
    assert bench.main("softmax", arguments) == 0
    out = capsys.readouterr().out
    ladder = ops.rungs("softmax")
    without = [rung.name for rung in ladder if "bfloat16" not in rung.dtypes]
    assert without
    line = f"these do not take bfloat16: {', '.join(without)}\n"
    assert out.count(line) == 1
    rows = json.loads(file.read_text())["rows"]
    listed = [(row["dtype"], row["shape"], row["kernel"]) for row in rows]
    assert listed == [
        (dtype, shape, rung.name)
        for dtype in ("float32", "bfloat16")
        for shape in ("rows=5,cols=70", "rows=2,cols=9")
        for rung in ladder
        if dtype in rung.dtypes
    ]
    assert [row["traffic"]["ideal_bytes"] for row in rows][:: len(rows) - 1] == [2800, 72]


def test_a_rung_that_is_named_is_listed_for_every_dtype(history, capsys):
    arguments = ["--shape", "rows=5,cols=70", "--target", "simulator", "--kernel", "naive"]
    assert bench.main("softmax", [*arguments, "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^naive +not run$", out, flags=re.MULTILINE)
    assert "naive was not run: dtype bfloat16 is not one of float32" in out


def test_a_rung_that_does_not_take_the_shape_is_listed_with_the_reason(history, capsys):
    picky = next(rung for rung in ops.rungs("attention") if rung.head_dims)
    shape = "B=1,H=1,Nq=9,Nk=10,D=20"
    assert bench.main("attention", ["--shape", shape, "--target", "simulator"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^{picky.name} +not run", out, flags=re.MULTILINE)
    assert f"{picky.name} was not run: D=20 is not one of" in out


def test_the_change_is_that_of_the_estimate(history, capsys):
    arguments = [*SMALL, "--kernel", "naive"]
    for word in ("new", "="):
        assert bench.main("matmul", arguments) == 0
        line = re.search(r"^naive .*$", capsys.readouterr().out, flags=re.MULTILINE)[0]
        assert [w for w in line.split() if w in ("new", "=")] == [word]
    assert bench.main("matmul", [*arguments, "--gpu", "t4"]) == 0  # a history for each GPU
    assert re.search(r"^naive .* new ", capsys.readouterr().out, flags=re.MULTILINE)
    with sqlite3.connect(history) as database:
        database.execute(
            "UPDATE rows SET counters = json_replace(counters, '$.estimated_ms_t4', 1e-6)"
        )
    assert bench.main("matmul", [*arguments, "--gpu", "t4"]) == 0
    assert re.search(r"^naive .* \+[\d.e+]+% ", capsys.readouterr().out, flags=re.MULTILINE)


def test_every_gpu_has_an_estimate(history, tmp_path):
    file = tmp_path / "x.json"
    for gpu in GPUS:
        arguments = [*SMALL, "--kernel", "tiled", "--gpu", gpu, "--json", str(file)]
        assert bench.main("matmul", arguments) == 0
        (row,) = json.loads(file.read_text())["rows"]
        assert row["estimate"]["gpu"] == gpu
        assert row["estimate"]["time_ms"] == row["counters"][f"estimated_ms_{gpu}"] > 0
        assert 0 < row["estimate"]["occupancy"] <= 1


def test_a_kernel_that_does_not_run_on_the_gpu_has_no_estimate(history, capsys, monkeypatch):
    def refuse(launches, sources, gpu):
        raise estimate.EstimateError(f"x.cu does not compile for sm_{gpu.arch}: line\nmore")

    monkeypatch.setattr(estimate, "estimate_launches", refuse)
    assert bench.main("matmul", [*SMALL, "--kernel", "naive"]) == 0
    out = capsys.readouterr().out
    assert "naive: no estimate for the H200 SXM: x.cu does not compile for sm_90a: line\n" in out


def test_kernels_of_the_command_line_alone(history, capsys):
    assert bench.main("matmul", [*SMALL, "--kernel", "naive", "--kernel", "tiled"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(\w+) .*\d ms|^(\w+) .*\d us", out, flags=re.MULTILINE)
    assert "coalesced" not in out


def test_json(history, tmp_path):
    file = tmp_path / "result.json"
    assert bench.main("matmul", [*SMALL, "--json", str(file)]) == 0
    document = json.loads(file.read_text())
    assert [row["kernel"] for row in document["rows"]] == [r.name for r in ops.rungs("matmul")]
    first = document["rows"][0]
    assert (first["shape"], first["dtype"], first["target"]) == (
        "M=40,N=50,K=60",
        "float32",
        "simulator",
    )
    assert first["checked"] is True
    assert first["counters"]["warp_instructions"] > 0
    assert first["counters"]["flops"] >= 2 * 40 * 50 * 60
    assert document["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kernel", "fast"], "--kernel fast: matmul has naive, "),
        (
            ["--kernel", "fast"],
            "a rung needs its line in the table at the end of kernels/mat",
        ),
        (["--shape", "64"], "write M=..,N=..,K=.., for example M=64,N=64,K=64"),
        (["--dtype", "float16"], "--dtype float16: matmul takes float32"),
        (["--target", "tpu"], "--target: invalid choice: 'tpu'"),
        (["--gpu", "h300"], "--gpu: invalid choice: 'h300'"),
        (["--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["--json", "/tmp"], "--json /tmp: this is a folder"),
        (
            ["--shape", "M=9999999,N=9999999,K=9"],
            "its tensors and references take at least 2000 TB",
        ),
        (["--speed"], "unrecognized arguments: --speed"),
        (["--backward"], "unrecognized arguments: --backward"),
        (["--dtype", "float32", "float16"], "--dtype float16: matmul takes float32"),
    ],
)
def test_bad_flags_are_one_line(capsys, arguments, words):
    assert bench.main("matmul", arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("test_matmul.py: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_a_gpu_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main("matmul", ["--target", "gpu"]) == 2
    assert "--target gpu: " in capsys.readouterr().err


def test_an_unusable_history_is_a_warning(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(bench, "cache_dir", lambda: tmp_path / "file")
    assert bench.main("matmul", [*SMALL, "--kernel", "naive"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^naive ", captured.out, flags=re.MULTILINE)
    assert "warning: history" in captured.err
    assert "this run is not recorded" in captured.err


def test_a_wrong_rung_is_reported_and_not_recorded(history, capsys, monkeypatch):
    right = check.check_rung

    def spoiled(operation, rung, case, target):
        verdict = right(operation, rung, case, target)
        if rung.name != "tiled":
            return verdict
        return check.Verdict(verdict.subject, ("worst    out[1, 2]: got 0, expected 1",))

    monkeypatch.setattr(measure.check, "check_rung", spoiled)
    assert bench.main("matmul", [*SMALL, "M=8,N=9,K=10"]) == 1
    out = capsys.readouterr().out
    assert len(re.findall(r"^tiled +WRONG$", out, flags=re.MULTILINE)) == 2
    assert out.count("WRONG  matmul tiled on the simulator: M=134,N=139,K=85") == 1
    assert out.count("worst    out[1, 2]: got 0, expected 1") == 1
    with sqlite3.connect(history) as database:
        kernels = {kernel for (kernel,) in database.execute("SELECT kernel FROM rows")}
    assert kernels == {rung.name for rung in ops.rungs("matmul")} - {"tiled"}


@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), ValueError("a defect")])
def test_what_was_measured_survives_a_later_error(history, tmp_path, monkeypatch, trouble):
    simulate = measure.simulate

    def interrupted(operation, rungs, case, faults, gpu):
        if case.shape["M"] == 8:
            raise trouble
        return simulate(operation, rungs, case, faults, gpu)

    monkeypatch.setattr(measure, "simulate", interrupted)
    file = tmp_path / "x.json"
    with contextlib.suppress(ValueError):
        assert bench.main("matmul", [*SMALL, "M=8,N=9,K=10", "--json", str(file)]) == 130
    names = [rung.name for rung in ops.rungs("matmul")]
    assert [row["kernel"] for row in json.loads(file.read_text())["rows"]] == names
    with sqlite3.connect(history) as database:
        recorded = database.execute("SELECT kernel FROM rows ORDER BY id").fetchall()
    assert [kernel for (kernel,) in recorded] == names


def test_a_history_that_fails_later_is_a_warning(history, capsys, monkeypatch):
    def fail(*args):
        raise HistoryError("history x is locked")

    monkeypatch.setattr(bench.History, "previous", fail)
    monkeypatch.setattr(bench.History, "record", fail)
    assert bench.main("matmul", [*SMALL, "--kernel", "naive"]) == 0
    error = capsys.readouterr().err
    assert error == (
        "warning: history x is locked; changes are not shown\n"
        "warning: history x is locked; this is not recorded\n"
    )


def test_json_tells_refused_from_wrong(history, tmp_path):
    file = tmp_path / "x.json"
    arguments = ["--shape", "B=1,H=1,Nq=9,Nk=10,D=20", "--target", "simulator"]
    assert bench.main("attention", [*arguments, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    refused = [row for row in rows if row["refused"]]
    assert refused
    assert all("was not run: D=20" in row["note"] and not row["checked"] for row in refused)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_every_rung_has_edge_cases(operation):
    for rung in ops.rungs(operation.name):
        cases = operation.edge_cases("float32")
        unmet = [check.unmet_requirement(operation, rung, case, CPU) for case in cases]
        assert None in unmet, rung.name


def test_torch_is_measured_by_the_same_budget(history, capsys):
    bench.main("matmul", [*SMALL, "--kernel", "naive"])
    assert "torch's own kernel on the CPU has an error of" in capsys.readouterr().out
    assert 0 < measure.torch_share(MATMUL, MATMUL.case("M=40,N=50,K=60")) < 1


# As a person runs them: in a process of their own, with kernels of their own.
