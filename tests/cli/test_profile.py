"""--profile with a stand-in for Nsight Compute, and a GPU that is not there."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest
import torch

import simulator
from simulator.compare import metrics
from tests.support import executable
from workbench import operators
from workbench.cli import main, once, profile, request
from workbench.harness.figures import amount
from workbench.harness.launched import Recorder
from workbench.operators.builds import rungs
from workbench.toolchain import nvidia_tools
from workbench.toolchain.errors import Failure

WORDS = ["--profile", "tiled", "--shape", "M=64,N=64,K=64"]
# Like ncu: it writes its words, and of each metric the value that LAUNCHES has for the launch.
NCU = """\
#!{python}
import csv, json, sys
launches = json.load(open({launches!r}))
json.dump(sys.argv[1:], open({words!r}, "w"))
names = sys.argv[sys.argv.index("--metrics") + 1].split(",")
log = open(sys.argv[sys.argv.index("--log-file") + 1], "w")
print("==PROF== Connected to process 4711 (python)", file=log)
rows = csv.writer(log, quoting=csv.QUOTE_ALL)
rows.writerow(["ID", "Kernel Name", "Block Size", "Grid Size", *names])
rows.writerow(["", "", "", "", *("" for name in names)])
for i, (kernel, values) in enumerate(launches):
    shown = (f"{{values[name]:,}}" if name in values else "n/a" for name in names)
    rows.writerow([i, kernel, "(32, 32, 1)", "(2, 2, 1)", *shown])
"""
REFUSED = """\
#!/bin/sh
while [ "$1" != --log-file ]; do shift; done
echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU \
Performance Counters on the target device 0." > "$2"
exit 1
"""


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU as far as the command line asks; the simulator's kernels are the only ones built."""
    rungs("matmul")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(request, "memory_bytes", lambda target: 1 << 37)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def measured(launch: simulator.Launch, **others: float) -> tuple[str, dict[str, float]]:
    """What ncu would report of a launch if the GPU counted as the simulator does."""
    values: dict[str, float] = {}
    for name, parts in metrics.METRICS.items():
        values[parts[0]] = values.get(parts[0], 0) + getattr(launch, name)
        values |= {part: 0 for part in parts[1:] if part not in values}
    values["smsp__sass_thread_inst_executed_op_ffma_pred_on.sum"] = 0
    name = f"void {launch.kernel.replace('<', '<(bool)0, ')}(Matmul<float>)"
    return name, {**values, profile.INSTRUCTIONS: launch.warp_instructions, **others}


def recorded(op: str, rung: str, shape: str = WORDS[-1]) -> tuple[simulator.Launch, ...]:
    operator = operators.get(op)
    (found,) = (one for one in rungs(op) if one.name == rung)
    return Recorder(operator, operator.case(shape), 0).of(found).launches


def fake_ncu(folder, launches: list) -> None:
    file = folder / "launches.json"
    file.write_text(json.dumps(launches))
    words = str(folder / "words.json")
    text = NCU.format(python=sys.executable, launches=str(file), words=words)
    executable(folder / "ncu", text)


def test_figures_beside_each_other(gpu, capsys):
    (launch,) = recorded("matmul", "tiled")
    twice = 2 * launch.global_load_sectors
    more = {profile.TIME: 4321.0, profile.REGISTERS: 32, profile.OCCUPANCY: 48.5}
    more[metrics.METRICS["global_load_sectors"][0]] = twice
    fake_ncu(gpu, [measured(launch, **more)])
    assert main.main("matmul", WORDS) == 0
    out = capsys.readouterr().out
    assert out.startswith("target: gpu (NVIDIA H200)\n")
    rows = dict(re.findall(r"^(\w+)  +(.*)$", out, re.M))
    assert re.match(r"4\.32 us +est\. \d.* us +[+-]\d", rows["time"])
    assert rows["registers"].split() == ["32", "est.", "32", "="]
    assert re.match(r"48% +est\. 100% +\+106\.\d%", rows["occupancy"])
    assert rows["global_load_requests"].split()[-1] == "="
    sectors = f"{amount(twice)} +{amount(launch.global_load_sectors)} +-50.0%"
    assert re.fullmatch(sectors, rows["global_load_sectors"])
    assert "atomic_sectors" not in rows  # 0 on both sides
    assert "the simulator ran every block" in out and max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out


def test_only_the_rungs_launches_are_profiled(gpu, capsys):
    (launch,) = recorded("matmul", "tiled")
    fake_ncu(gpu, [measured(launch)])
    assert main.main("matmul", WORDS) == 0
    words = json.loads((gpu / "words.json").read_text())
    assert words[words.index("--kernel-name") + 1] == "regex:^(matmul_tiled_kernel)$"
    assert words[words.index("--launch-count") + 1] == "1"
    program = words[words.index(sys.executable) :]
    assert program[1:3] == ["-m", "workbench.cli.once"]
    # The same program on the simulator: it launches that kernel, on that case, once.
    with simulator.record() as launches:
        assert once.main([*program[3:], "--target", "simulator"]) == 0
    assert [(one.kernel, one.grid) for one in launches] == [(launch.kernel, launch.grid)]


def test_a_rung_with_several_launches_is_added_up(gpu, monkeypatch, capsys):
    monkeypatch.setattr(profile, "by_device", lambda name: None)  # no estimate: no compiler
    shape = "B=1,H=1,Nq=64,Nk=64,D=32"
    launches = recorded("attention", "blocked", shape)
    assert len(launches) > 1
    fake_ncu(gpu, [measured(one, **{profile.TIME: 1e6}) for one in launches])
    assert main.main("attention", ["--profile", "blocked", "--shape", shape]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^time +{len(launches)} ms +- *$", out, re.M)
    assert re.search(r"^global_load_sectors .* =$", out, re.M)


def test_no_permission_is_explained(gpu, capsys):
    executable(gpu / "ncu", REFUSED)
    assert main.main("matmul", WORDS) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 2 and "ncu has no permission to count (ERR_NVGPUCTRPERM)" in err
    assert "NVreg_RestrictProfilingToAdminUsers=0" in err and "--cap-add=SYS_ADMIN" in err


def test_other_launches_than_the_simulators_are_an_error(gpu, capsys):
    (launch,) = recorded("matmul", "tiled")
    for rows, words in (([], "ncu measured nothing"), ([measured(launch)] * 2, "kernel, matmul_t")):
        fake_ncu(gpu, rows)
        assert main.main("matmul", WORDS) == 1
        err = capsys.readouterr().err
        assert "tiled launches matmul_tiled_kernel on the simulator" in err and words in err


def test_a_rung_that_does_not_take_the_case(gpu, capsys):
    fake_ncu(gpu, [])
    assert main.main("matmul", ["--profile", "mma", *WORDS[2:], "--dtype", "float64"]) == 0
    assert "mma supports float16, " in capsys.readouterr().out


def test_without_a_gpu_or_without_ncu(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words, instead in ((WORDS, "--explain shows"), (["--sanitize"], "--check looks for")):
        assert main.main("matmul", words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and words[0] in err and instead in err
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr(nvidia_tools.os, "access", lambda *_: False)
    with pytest.raises(Failure, match="there is no ncu on PATH, in CUDA_HOME.*Nsight Compute"):
        nvidia_tools.find("ncu")


def test_tools_are_found_beside_the_toolkit_and_in_wheels(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr("sys.path", [str(tmp_path / "wheels")])
    for place in ("wheels/nvidia/cu13/bin", "cuda/nsight-compute-2025.3.1", "cuda/bin"):
        file = executable(tmp_path / place / "some-tool", "#!/bin/sh\n")
        assert nvidia_tools.find("some-tool") == file


def test_differences():
    def text(one: float | None, other: float | None) -> str:
        return profile.Figure("x", one, other).difference()

    assert [text(2, 2), text(2, 3), text(4, 3)] == ["=", "+50.0%", "-25.0%"]
    assert [text(0, 3), text(0, 0), text(None, 3), text(3, None)] == ["-", "=", "", ""]
