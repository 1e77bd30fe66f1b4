"""The flow of a GPU benchmark, with a CPU instead of the GPU and a fake clock.

What needs a real GPU (events, streams, clocks) is timed by ``python test_matmul.py`` on one.
"""

import dataclasses
import itertools
import json
import re

import pytest
import torch

from simulator import Note
from workbench import rungs
from workbench.cli import main, recorded, request
from workbench.harness import benchmark, counters, inputs, timing, verify
from workbench.harness.results import Environment, Row
from workbench.harness.roofs import Roofs
from workbench.operators import baselines, builds, rows
from workbench.operators import matmul as matmul_module
from workbench.operators.matmul import OPERATOR as MATMUL
from workbench.operators.operator import DEVICES, Baseline
from workbench.operators.softmax import OPERATOR as SOFTMAX
from workbench.operators.softmax_backward import OPERATOR as SOFTMAX_BACKWARD
from workbench.toolchain import BuildError

TIMES = {"cublas": 1.0, "torch": 1.0, "compile": 1.5, "copy": 0.5}


def made_up_times(runs, device, budget_ms=0.0):
    for _ in range(2):
        for run in runs.values():
            run()
    return {name: timing.Timing(TIMES.get(name, 2.0), 0.01, 5) for name in runs}


@pytest.fixture
def pretended_gpu(monkeypatch, tmp_path):
    launch = builds.launch
    builds.refresh("simulator")  # the rungs are known before a GPU appears to be present
    here = Environment("a GPU", "1", "2", "3", None, "python test_matmul.py", "1980, 3201")
    monkeypatch.setitem(DEVICES, "gpu", "cpu")
    monkeypatch.setattr(builds, "launch", lambda target, *args: launch("simulator", *args))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(timing, "time_interleaved", made_up_times)
    monkeypatch.setattr(main, "environment", lambda *args: here)
    monkeypatch.setattr(main, "smi_number", lambda *args: None)
    monkeypatch.setattr(request, "memory_bytes", lambda target: 2**34)
    monkeypatch.setattr(main, "device_roofs", lambda *args: Roofs(1e-3, 1e-2))
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(baselines, "compiled", lambda make, case: make(case))


def spoil(monkeypatch, kernel, change) -> None:
    """Let ``change(tensors)`` follow, or replace, the launches of one rung."""
    launch = builds.launch

    def spoiled(target, op, tensors, options, name="", called=""):
        if name != kernel or not change(tensors):
            launch(target, op, tensors, options, name, called)

    monkeypatch.setattr(builds, "launch", spoiled)


def test_matmul(pretended_gpu, capsys, tmp_path):
    file = tmp_path / "x.json"
    shape = ["--shape", "M=64,N=64,K=64"]
    assert main.main("matmul", [*shape, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("target: gpu (a GPU)\n")
    assert re.search(r"^rung .* roof +cublas +change$", out, flags=re.MULTILINE)
    rows = json.loads(file.read_text())["rows"]
    names = [rung.name for rung in rungs("matmul") if "float32" in rung.dtypes]
    assert [row["kernel"] for row in rows] == [*names, "cublas"]
    first, last = rows[0], rows[-1]
    assert first["target"] == "gpu"
    assert (first["time_ms"], first["spread"]) == (2.0, 0.01)
    assert first["tflops"] == pytest.approx(2 * 64**3 / 2e-3 / 1e12)
    assert first["roof_fraction"] == pytest.approx(first["tflops"] / 1e-3)
    assert first["ratio_vs_cublas"] == 0.5
    assert "ratio_vs_cublas" not in last
    assert main.main("matmul", shape) == 0
    assert re.search(r"^naive .* same$", capsys.readouterr().out, flags=re.MULTILINE)


def test_a_layout_is_timed_beside_its_own_library(pretended_gpu, capsys, tmp_path):
    file = tmp_path / "x.json"
    arguments = ["--shape", "M=64,N=48,K=64", "--kernel", "naive", "--json", str(file)]
    assert main.main("matmul", arguments) == 0
    capsys.readouterr()
    for change in ("new", "same"):
        assert main.main("matmul", [*arguments, "--layout", "nt"]) == 0
        out = capsys.readouterr().out
        assert "matmul M=64,N=48,K=64 nt float32\n" in out
        assert re.search(rf"^naive .* {change}$", out, flags=re.MULTILINE)
    found = [Row.from_json(row) for row in json.loads(file.read_text())["rows"]]
    assert [(row.kernel, row.layout, row.checked) for row in found] == [
        ("naive", "nt", True),
        ("cublas", "nt", True),
    ]


def test_softmax_has_baselines_bytes_and_goals(pretended_gpu, capsys, tmp_path):
    file = tmp_path / "x.json"
    shape = ["--shape", "rows=20,cols=1000", "--dtype", "float32"]
    shape += ["--kernel", "block_per_row", "row_in_registers"]
    assert main.main("softmax", [*shape, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "softmax rows=20,cols=1000 float32\n" in out
    assert re.search(
        r"^rung .* GB/s +roof +requested +moved +torch +compile +copy +change$", out, re.M
    )
    assert re.search(r"^block_per_row .* x2.00 +x1.00 +0.50x +0.75x +0.25x +new$", out, re.M)
    line = r"^rows=20,cols=1000 +float32 +row_in_registers +0\.08 +25% +0.50x +0.75x .*MISSED$"
    assert re.search(line, out, re.M)
    assert "over torch's, 1 cases: 0.50x (goal: >= 1.3x: MISSED)." in out
    found = {row["kernel"]: row for row in json.loads(file.read_text())["rows"]}
    assert found["block_per_row"]["traffic"] == {
        "ideal_bytes": 160000,
        "asked": pytest.approx(2),
        "moved": pytest.approx(1),
    }
    assert all("traffic" not in found[name] for name in ("torch", "compile", "copy"))
    assert found["compile"]["checked"] and found["torch"]["checked"]
    assert found["copy"]["baseline"] and not found["row_in_registers"]["baseline"]


def test_a_large_case_is_one_of_repeated_rows(pretended_gpu, capsys, monkeypatch):
    """Rungs, libraries and the check after timing are compared with a few rows' references."""
    monkeypatch.setattr(rows, "MANY_ELEMENTS", 4096)
    verify.expected.cache_clear()

    def one_wrong(tensors):
        if tensors["out"].shape != (41, 1000):
            return False
        tensors["out"].copy_(torch.softmax(tensors["x"], dim=-1))
        tensors["out"][40, 7] = 0.0
        return True

    spoil(monkeypatch, "online", one_wrong)
    arguments = ["--shape", "rows=41,cols=1000", "--dtype", "float32", "--kernel", "online"]
    assert main.main("softmax", [*arguments, "row_in_registers"]) == 1
    out = capsys.readouterr().out
    assert "worst    out[40, 7]: got 0, expected 0.0" in out and "1 of 41000 elements" in out
    assert re.search(r"^online +WRONG$", out, re.M)
    assert re.search(r"^row_in_registers .* 2 ms ", out, re.M)
    assert re.search(r"^compile .* 1.5 ms ", out, re.M)
    verify.expected.cache_clear()


def test_bytes_that_cannot_be_counted_are_a_note(pretended_gpu, capsys, monkeypatch):
    def fail(operator, kernel, case):
        raise BuildError("no compiler\nmore")

    monkeypatch.setattr(benchmark.traffic, "simulated", fail)
    arguments = ["--shape", "rows=4,cols=100", "--kernel", "naive", "--dtype", "float32"]
    assert main.main("softmax", arguments) == 0
    out = capsys.readouterr().out
    assert "naive: its bytes were not counted: no compiler\n" in out
    assert re.search(r"^naive .* 16% +0.50x +0.75x +0.25x +new$", out, re.M)


def test_what_is_odd_about_a_launch_is_printed_once(capsys, monkeypatch, tmp_path):
    record = counters.record
    notes = Note("k.cu", 3, "A is odd", True), Note("k.cu", 4, "A is fine", False)

    def noted(run):
        return [dataclasses.replace(launch, notes=notes) for launch in record(run)]

    monkeypatch.setattr(counters, "record", noted)
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path)
    arguments = ["--shape", "rows=4,cols=100", "--kernel", "naive", "--dtype", "float32"]
    assert main.main("softmax", [*arguments, "--target", "simulator"]) == 0
    out = capsys.readouterr().out
    assert out.count("note: A is odd\n  at k.cu:3\n") == 1
    assert "A is fine" not in out


def test_torch_compile_that_fails_is_not_run(pretended_gpu, capsys, monkeypatch):
    def fail(make, case):
        raise ModuleNotFoundError("No module named 'triton'\nmore")

    monkeypatch.setattr(baselines, "compiled", fail)
    arguments = ["--shape", "rows=4,cols=100", "--kernel", "naive", "--dtype", "float32"]
    assert main.main("softmax", arguments) == 0
    out = capsys.readouterr().out
    reason = "torch.compile: ModuleNotFoundError: No module named 'triton'"
    assert re.search(rf"^compile +{reason}$", out, flags=re.MULTILINE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("operator", [SOFTMAX, SOFTMAX_BACKWARD], ids=lambda o: o.name)
def test_baselines_compute_the_same(operator, dtype, monkeypatch):
    """For the cases they claim to apply to."""
    monkeypatch.setattr(baselines, "compiled", lambda make, case: make(case))
    statistic = "lse" if operator is SOFTMAX else "dlse"
    for option, scale in itertools.product(("", "log", statistic), (1.0, -0.5)):
        options = f"{option} scale={scale}"
        case = operator.case("rows=5,cols=70", options=options, dtype=dtype)
        main_output = operator.main_output(case)
        given = inputs.values(operator, case)
        expected = verify.expected(operator.name, case, "cpu")[main_output]
        applying = [baseline for baseline in operator.baselines if baseline.applies(case)]
        plain = scale == 1 and option != statistic
        without = [b.name for b in operator.baselines if b not in applying]
        assert without == ([] if plain else ["torch"])
        for baseline in applying:
            out = torch.empty(5, 70, dtype=getattr(torch, dtype))
            got = baseline.run(given, {main_output: out}, case)
            assert got.dtype == out.dtype
            if baseline.comparable:
                # torch's own bfloat16 log_softmax on a CPU rounds intermediate results
                most = 1.5 if (option, dtype) == ("log", "bfloat16") else 1.0
                assert verify.compare(got, expected).share <= most, (baseline.name, case)


def test_backward_is_timed_beside_a_sum(pretended_gpu, capsys):
    arguments = ["--backward", "--shape", "rows=20,cols=1000", "--dtype", "float32"]
    arguments += ["--kernel", "row_in_registers"]
    assert main.main("softmax", arguments) == 0
    out = capsys.readouterr().out
    assert re.search(r"^add .* 2 ms ", out, re.M)
    line = r"^rows=20,cols=1000 +float32 .* 100% +0.50x +0.75x +1.0x better +MISSED$"
    assert re.search(line, out, re.M)


def test_dtypes_that_no_rung_takes_are_no_default(pretended_gpu, capsys):
    assert main.main("softmax", ["--shape", "rows=3,cols=50", "--kernel", "naive"]) == 0
    assert "bfloat16" not in capsys.readouterr().out
    assert main.main("softmax", ["--shape", "rows=3,cols=50", "--kernel", "vectorized"]) == 0
    assert "softmax rows=3,cols=50 bfloat16\n" in capsys.readouterr().out


def test_a_rate_above_the_roof_is_an_alarm(pretended_gpu, capsys, monkeypatch):
    monkeypatch.setattr(main, "device_roofs", lambda *args: Roofs(1e-9, None))
    assert main.main("matmul", ["--shape", "M=64,N=64,K=64", "--kernel", "naive"]) == 0
    out = capsys.readouterr().out
    assert "ALARM  naive: " in out
    assert "ALARM  cublas" not in out


def test_a_rung_that_goes_wrong_while_timed(pretended_gpu, capsys, monkeypatch):
    """Right when checked, wrong later: its figures are dropped."""
    calls = []

    def later_wrong(tensors):
        out = tensors["out"]
        calls.extend([out] * (out.shape == (64, 64)))
        if len(calls) < 2:
            return False
        torch.matmul(tensors["a"], tensors["b"], out=out)
        out[0, 3] = 7.0
        return True

    spoil(monkeypatch, "tiled", later_wrong)
    assert main.main("matmul", ["--shape", "M=64,N=64,K=64"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^tiled +WRONG$", out, flags=re.MULTILINE)
    assert "after timing" in out
    assert "worst    out[0, 3]: got 7" in out


def test_a_lost_context_ends_the_run_with_one_message(pretended_gpu, capsys, monkeypatch):
    def lost(error, device, subject):
        raise verify.StickyError(f"{subject}: {error}")

    def fail(*args):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(verify, "raise_if_sticky", lost)
    monkeypatch.setattr(builds, "launch", fail)
    assert main.main("matmul", ["--shape", "M=64,N=64,K=64"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("matmul naive on the GPU: M=134,N=139,K=85")
    assert error.count("illegal memory access") == 1


def test_a_library_result_is_checked_too(pretended_gpu):
    case = MATMUL.case("M=64,N=64,K=64")
    vendor = benchmark.measure(MATMUL, rungs("matmul"), case, {}, "gpu", Roofs(None, None))[-1]
    assert (vendor.baseline, vendor.checked, vendor.note) == (True, True, "")
    assert 0 < vendor.share < 1
    assert vendor.roof_fraction is None


def with_baseline(monkeypatch, run) -> None:
    operator = dataclasses.replace(MATMUL, baselines=(Baseline("cublas", run),))
    monkeypatch.setattr(matmul_module, "OPERATOR", operator)


def test_a_library_that_is_wrong_is_listed_so_and_is_no_failure(
    pretended_gpu, capsys, tmp_path, monkeypatch
):
    with_baseline(monkeypatch, lambda given, out, case: out["out"].fill_(1.0))
    file = tmp_path / "x.json"
    shape = ["--shape", "M=64,N=64,K=64"]
    assert main.main("matmul", [*shape, "--json", str(file)]) == 0
    assert "cublas differs from the reference:\n  worst    out[" in capsys.readouterr().out
    vendor = json.loads(file.read_text())["rows"][-1]
    assert (vendor["checked"], vendor["time_ms"]) == (False, 1.0)
    assert vendor["note"].startswith("cublas differs")


def test_a_library_that_does_not_take_the_input_is_not_run(pretended_gpu, capsys, monkeypatch):
    def refuse(given, out, case):
        raise RuntimeError("No available kernel. Aborting execution.\nmore")

    with_baseline(monkeypatch, refuse)
    assert main.main("matmul", ["--shape", "M=64,N=64,K=64"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^cublas +No available kernel. Aborting execution.$", out, re.MULTILINE)
    assert re.search(r"^naive +.* ms ", out, flags=re.MULTILINE)


def test_a_rung_without_memory_is_not_run(pretended_gpu, capsys, monkeypatch):
    def no_room(tensors):
        if tensors["out"].shape == (64, 64):
            raise RuntimeError("matmul: kernel 'tiled': no memory for a workspace of 99 bytes")

    spoil(monkeypatch, "tiled", no_room)
    assert main.main("matmul", ["--shape", "M=64,N=64,K=64"]) == 0
    out = capsys.readouterr().out
    line = r"^tiled +needs more memory than there is .*workspace of 99 bytes\)$"
    assert re.search(line, out, flags=re.MULTILINE)


def test_a_shape_without_memory_ends_with_one_line_and_the_next_is_run(
    pretended_gpu, capsys, monkeypatch
):
    place = inputs.place_inputs

    def no_room(operator, case, device):
        if case.shape["M"] == 63:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 EB\nmore")
        return place(operator, case, device)

    monkeypatch.setattr(inputs, "place_inputs", no_room)
    arguments = ["--kernel", "naive", "--shape", "M=63,N=64,K=64", "M=64,N=64,K=64"]
    assert main.main("matmul", arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: M=63,N=64,K=64: not enough memory (Default")
    assert captured.err.count("\n") == 1
    assert "matmul M=64,N=64,K=64" in captured.out


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["matmul", "softmax", "attention"])
def test_on_a_gpu(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path)
    shape = {
        "matmul": "M=512,N=512,K=512",
        "softmax": "rows=512,cols=512",
        "attention": "B=1,H=2,Nq=512,Nk=512,D=64 causal",
    }[name]
    assert main.main(name, ["--shape", shape, "--target", "gpu"]) == 0
    out = capsys.readouterr().out
    assert "ALARM" not in out
    assert {"matmul": "cublas", "softmax": "torch", "attention": "efficient"}[name] in out
