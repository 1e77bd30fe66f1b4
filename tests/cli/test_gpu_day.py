"""gpu_day with a fake GPU: its steps are short Python programs."""

import json
import os
import re
import signal
import time

import pytest
import torch

from workbench import gpu_day, operators
from workbench.cli import gpu_run, gpu_steps
from workbench.cli.gpu_steps import Step
from workbench.harness.results import Environment
from workbench.toolchain import REPO, command

HERE = Environment("NVIDIA Pretended 1", "580", "2.13", "13.0", None, "")
WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('[]')"
FAIL = "print('first'); print('matmul naive is wrong'); raise SystemExit(1)"
KEEP = """
import pathlib, sys, time
try:
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1]).write_text('kept')
"""
INTERRUPT = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"


class Pretended:
    """Runs gpu_day with a test's own steps."""

    def __init__(self, tmp_path, monkeypatch, capsys) -> None:
        self.results, self.monkeypatch, self.capsys = tmp_path / "results", monkeypatch, capsys
        self.results.mkdir()
        self.source = tmp_path / "source.cu"
        self.source.write_text("1")

    def step(self, name: str, script: str = WRITE, seconds: float = 5.0, **more) -> Step:
        commands = (("-c", script, "{file}"),)
        return Step(name, f"does {name}", commands, (self.source,), seconds, **more)

    def run(self, steps: list[Step], *arguments: str) -> tuple[int, dict[str, str], str]:
        """Exit status, result by step in the table's order, all output."""
        self.monkeypatch.setattr(gpu_day, "steps", lambda stem="": steps)
        status = gpu_day.main(["--results", str(self.results), *arguments])
        captured = self.capsys.readouterr()
        out = captured.out
        rows = [re.split(r"  +", line) for line in out[out.rfind("\nstep ") :].splitlines()[2:]]
        # A step that was not started has no seconds.
        table = {row[0]: row[2 if row[1].isdigit() else 1] for row in rows}
        return status, table, out + captured.err

    def file(self, name: str) -> str | None:
        path = self.results / f"nvidia-pretended-1-{name}.json"
        return path.read_text() if path.exists() else None


@pytest.fixture
def pretended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_day, "environment", lambda *args: HERE)
    monkeypatch.setattr(gpu_run, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(gpu_run, "GRACE_SECONDS", 0.5)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Pretended(tmp_path, monkeypatch, capsys)
    signal.signal(signal.SIGINT, before)


def test_steps_run_in_order_and_each_has_its_file_when_it_is_done(pretended):
    first = pretended.results / "nvidia-pretended-1-first.json"
    look = f"import os; assert os.path.exists({str(first)!r}); {WRITE}"
    steps = [pretended.step("first"), pretended.step("second", look)]
    status, table, out = pretended.run(steps)
    assert (status, table) == (0, {"first": "ok", "second": "ok"})
    assert pretended.file("first") == pretended.file("second") == "[]"
    assert out.index("first: does first") < out.index("first: ok") < out.index("second: does")
    assert re.search(rf"^first +\d+ +ok +{re.escape(str(first))}$", out, re.M)


def test_what_is_up_to_date_is_left_out_until_a_source_changes(pretended):
    steps = [pretended.step("first"), pretended.step("second", FAIL)]
    assert pretended.run(steps)[1]["first"] == "ok"
    status, table, _ = pretended.run(steps)
    assert table["first"] == "up to date"
    assert (status, table["second"]) == (1, "FAILED: matmul naive is wrong")  # never up to date
    steps = steps[:1]
    assert pretended.run(steps, "--force")[1] == {"first": "ok"}
    pretended.source.write_text("2")
    assert pretended.run(steps)[1] == {"first": "ok"}
    other = Environment(HERE.device, "590", "2.13", "13.0", None, "")
    pretended.monkeypatch.setattr(gpu_day, "environment", lambda *args: other)
    assert pretended.run(steps)[1] == {"first": "ok"}
    assert pretended.run(steps)[1] == {"first": "up to date"}


def test_results_that_a_failing_run_may_have_spoilt_are_not_up_to_date(pretended):
    pretended.run([pretended.step("first")])
    pretended.run([pretended.step("first", FAIL)])
    assert pretended.run([pretended.step("first")])[1] == {"first": "ok"}


def test_a_failing_step_shows_its_last_lines_and_the_others_run(pretended):
    steps = [pretended.step("first", FAIL), pretended.step("second")]
    status, table, out = pretended.run(steps)
    assert status == 1
    assert table == {"first": "FAILED: matmul naive is wrong", "second": "ok"}
    assert "  first\n  matmul naive is wrong\n  (full output: " in out


def test_a_step_without_enough_time_is_not_begun(pretended):
    steps = [pretended.step("first", seconds=1000), pretended.step("second")]
    status, table, _ = pretended.run(steps, "--minutes", "1")
    assert (status, table) == (0, {"first": "not enough time: takes about 1000 s", "second": "ok"})


def test_a_step_that_runs_over_keeps_what_it_has_and_is_thought_longer(pretended):
    pretended.monkeypatch.setattr(gpu_run, "LEAST_SECONDS", 1.0)
    steps = [pretended.step("first", KEEP, seconds=0.1), pretended.step("second")]
    status, table, _ = pretended.run(steps)
    assert (status, table) == (0, {"first": "ran out of time", "second": "ok"})
    assert pretended.file("first") == "kept"
    record = json.loads(pretended.file("gpu_day"))
    assert record["steps"]["first"]["seconds"] >= 1.0
    assert "sources" not in record["steps"]["first"]


def test_a_step_that_does_not_end_is_killed(pretended, tmp_path):
    ignore = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    started = time.monotonic()
    assert gpu_run.execute([["-c", ignore], ["-c", "1/0"]], tmp_path / "log", 0.3) is None
    assert time.monotonic() - started < 10


def test_ctrl_c_ends_the_step_and_prints_the_table(pretended):
    steps = [pretended.step(name, script) for name, script in (("a", WRITE), ("b", INTERRUPT))]
    status, table, _ = pretended.run([*steps, pretended.step("c")])
    assert (status, table) == (130, {"a": "ok", "b": "interrupted"})
    assert pretended.run(steps[:1])[1] == {"a": "up to date"}


def test_a_missing_tool_is_told_and_the_day_goes_on(pretended):
    pretended.monkeypatch.setenv("PATH", "")
    steps = [pretended.step("counters", tools=("ncu",)), pretended.step("second")]
    status, table, out = pretended.run(steps)
    assert (status, table) == (0, {"counters": "there is no ncu", "second": "ok"})
    assert "install Nsight Compute" in out
    assert re.search(r"^counters .* needs ncu ", pretended.run(steps, "--list")[2], re.M)


def test_counters_that_may_not_be_read_are_told(pretended):
    script = "print('==ERROR== ERR_NVGPUCTRPERM - ...'); raise SystemExit(1)"
    status, table, out = pretended.run([pretended.step("counters", script)])
    assert (status, table) == (0, {"counters": "no permission to read counters"})
    assert "NVreg_RestrictProfilingToAdminUsers=0" in out


def test_a_file_that_is_written_elsewhere_is_copied(pretended, tmp_path):
    elsewhere = tmp_path / "elsewhere.json"
    script = f"import pathlib; pathlib.Path({str(elsewhere)!r}).write_text('there')"
    assert pretended.run([pretended.step("first", script, leaves=elsewhere)])[0] == 0
    assert pretended.file("first") == "there"


def test_without_a_gpu(pretended):
    steps = [pretended.step("first"), pretended.step("second")]
    pretended.run(steps[:1])
    pretended.monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, out = pretended.run(steps)
    assert status == 2
    assert out == "PyTorch finds no GPU here; --list shows what would run on one\n"
    status, _, out = pretended.run(steps, "--list")
    assert status == 0
    assert re.search(r"^first +\d+ +up to date on NVIDIA Pretended 1 +does first$", out, re.M)
    assert re.search(r"^second +5 +would run +does second$", out, re.M)
    pretended.source.write_text("2")
    assert "up to date" not in pretended.run(steps, "--list")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "'0' is not a number above 0"),
        (["--minutes", "ten"], "'ten' is not a number"),
        (["--results", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_a_command_line_that_makes_no_sense(arguments, message, capsys):
    assert command.status(lambda: gpu_day.main(arguments)) == 2
    assert message in capsys.readouterr().err


def test_the_steps_are_those_of_every_operator_in_the_order_that_matters():
    names = list(operators.OPERATORS)
    steps = gpu_steps.steps("nvidia-h200")
    expected = [f"{name}-check" for name in names]
    expected += ["conformance", *names, "ncu", "sanitizer", "ladders"]
    assert [step.name for step in steps] == expected
    for step in steps:
        assert step.sources
        for first, *rest in step.commands:
            module = REPO / rest[0].replace(".", os.sep) if first == "-m" else REPO / first
            assert module.is_file() or module.is_dir() or module.with_suffix(".py").is_file()


def test_an_operator_depends_on_those_it_uses_alone():
    steps = {step.name: step for step in gpu_steps.steps()}
    of_matmul = {gpu_steps.relative(path) for path in steps["matmul-check"].sources}
    assert {"kernels/matmul.cu", "kernels/common.cuh", "test_matmul.py"} <= of_matmul
    assert {"workbench/operators/matmul.py", "workbench/harness/verify.py"} <= of_matmul
    assert not [name for name in of_matmul if "softmax" in name or "attention" in name]
    of_attention = {gpu_steps.relative(path) for path in steps["attention"].sources}
    assert {"kernels/attention.cu", "kernels/matmul.cu", "bindings/softmax.cpp"} <= of_attention
    assert "kernels/softmax_backward.cu" not in of_attention
