"""--sanitize with a stand-in for compute-sanitizer, and a GPU that is not there."""

from __future__ import annotations

import os
import re

import pytest
import torch

import simulator
from tests.support import executable
from workbench import operators
from workbench.cli import main, once, request, sanitize
from workbench.operators.builds import rungs
from workbench.toolchain import kernels_dir

LINE = 1 + (kernels_dir() / "matmul.cu").read_text().splitlines().index(
    "      acc += A_smem[ty][k] * B_smem[k][tx];"
)
MEMCHECK = f"""\
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at void matmul_tiled_kernel<float, (bool)0, (bool)0>(Matmul<T1>)+0x90 in matmul.cu:{LINE}
=========     by thread (4,0,0) in block (3,0,0)
=========     Access to 0x7f32a0200190 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f32a0200000 of size 400 bytes
=========
========= Invalid __global__ read of size 4 bytes
=========     at void matmul_tiled_kernel<float, (bool)0, (bool)0>(Matmul<T1>)+0x90 in matmul.cu:{LINE}
=========     by thread (5,0,0) in block (3,0,0)
=========     Access to 0x7f32a0200194 is out of bounds
=========
========= Program hit cudaErrorLaunchFailure (error 719) due to "unspecified launch failure" on CUDA API call to cudaDeviceSynchronize.
=========     Saved host backtrace up to driver entry point at error
=========
tiled, M=256,N=256,K=256: CUDA error: unspecified launch failure
========= ERROR SUMMARY: 3 errors
"""  # noqa: E501
RACECHECK = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at void k(const float *)+0x250 in other.cu:7
=========     and Read access at void k(const float *)+0x2d0 in other.cu:9 [224 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
SANITIZER = """\
#!/bin/sh
case "$1" in --help) echo '--destroy-on-device-error arg'; exit 0;; esac
printf '%s\\n' "$@" > "{folder}/$2.words"
echo "$PYTORCH_NO_CUDA_MEMORY_CACHING" > "{folder}/$2.setting"
cat "{folder}/$2.out"
exit $(cat "{folder}/$2.status")
"""


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """A GPU as far as the command line asks, and a compute-sanitizer: folder / <tool>.out."""
    rungs("matmul")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(request, "memory_bytes", lambda target: 1 << 37)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    executable(tmp_path / "compute-sanitizer", SANITIZER.format(folder=tmp_path))

    def says(**outputs: str | tuple[str, int]) -> None:
        for name, output in outputs.items():
            text, status = output if isinstance(output, tuple) else (output, 0)
            (tmp_path / f"{name}.out").write_text(text)
            (tmp_path / f"{name}.status").write_text(str(status))

    says(**dict.fromkeys(sanitize.TOOLS, CLEAN))
    return tmp_path, says


def test_findings_at_source_lines(tool, capsys):
    _, says = tool
    says(memcheck=(MEMCHECK, 1), racecheck=RACECHECK)
    assert main.main("matmul", ["--sanitize", "memcheck", "racecheck"]) == 1
    out = capsys.readouterr().out
    assert (
        "memcheck: Invalid __global__ read of size 4 bytes\n"
        f"  at kernels/matmul.cu:{LINE}    acc += A_smem[ty][k] * B_smem[k][tx];\n"
        "  in kernel matmul_tiled_kernel, block (3,0,0), thread (4,0,0), reported 2 times\n"
    ) in out
    assert (
        "racecheck: Race reported between a write and a read\n"
        "  at other.cu:7\n  and other.cu:9\n  in kernel k\n"
    ) in out
    assert "memcheck: 1 finding\n" in out and "racecheck: 1 finding\n" in out


def test_no_findings(tool, capsys):
    folder, _ = tool
    assert main.main("matmul", ["--sanitize"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(\w+): no findings$", out, re.M) == [*sanitize.TOOLS]
    words = (folder / "initcheck.words").read_text().splitlines()
    assert words[words.index("--destroy-on-device-error") + 1] == "kernel"
    assert (folder / "initcheck.setting").read_text() == "1\n"
    program = words[words.index("workbench.cli.once") + 1 :]
    assert program == ["matmul", "--kernel", *(one.name for one in rungs("matmul")), "--exact"]


def test_the_program_gets_the_requested_cases(tool, capsys):
    folder, _ = tool
    words = ["--kernel", "tiled", "--shape", "M=40,N=33,K=17", "--layout", "nt"]
    words += ["--dtype", "float64", "--option", "alpha=2"]
    assert main.main("matmul", ["--sanitize", "memcheck", *words]) == 0
    said = (folder / "memcheck.words").read_text().splitlines()
    program = said[said.index("workbench.cli.once") + 1 :]
    assert program == ["matmul", *words, "--exact"]
    with simulator.record() as launches:
        assert once.main([*program, "--target", "simulator"]) == 0
    assert [one.kernel for one in launches] == ["matmul_tiled_kernel<double, false, true>"]


def test_a_program_that_does_not_run_is_an_error(tool, capsys):
    _, says = tool
    says(memcheck=("one\n\nCUDA driver version is insufficient\n", 3))
    assert main.main("matmul", ["--sanitize", "memcheck"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("compute-sanitizer --tool memcheck ended with 3:\n")
    assert err.endswith("CUDA driver version is insufficient\n")


def test_once_runs_the_small_cases_and_edges_of_what_a_rung_supports(capsys):
    operator = operators.get("transpose")
    (rung, *_) = rungs("transpose")
    with simulator.record() as launches:
        assert once.main(["transpose", "--kernel", rung.name, "--target", "simulator"]) == 0
    grids = len(operator.small) + len(operator.edges)
    assert len(launches) >= grids * len(operator.default_dtypes["simulator"])


def test_once_ends_with_1_where_a_rung_fails(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("CUDA error: unspecified launch failure\nmore")

    monkeypatch.setattr(operators.operator.Operator, "launch", fail)
    words = ["transpose", "--shape", "M=8,N=16", "--target", "simulator"]
    assert once.main([*words, "--exact"]) == 1
    lines = capsys.readouterr().out.splitlines()
    ladder = [one.name for one in rungs("transpose")]
    assert lines == [f"{n}, M=8,N=16: CUDA error: unspecified launch failure" for n in ladder]


def test_exact_tensors_have_nothing_around_them(monkeypatch):
    seen = []

    def look(self, target, given, out, case, kernel):
        seen.extend([*given.values(), *out.values()])

    monkeypatch.setattr(operators.operator.Operator, "launch", look)
    words = ["matmul", "--kernel", "naive", "--shape", "M=3,N=5,K=7", "--target", "simulator"]
    assert once.main([*words, "--exact"]) == 0
    assert seen and all(
        one.untyped_storage().nbytes() == one.numel() * one.element_size() for one in seen
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sanitize", "leakcheck"], "--sanitize: invalid choice: 'leakcheck'"),
        (["--sanitize", "--profile", "tiled"], "show different things"),
        (["--sanitize", "--check"], "--sanitize runs without checks"),
        (["--profile", "tiled", "--gpu", "h100"], "--gpu h100: estimates are for"),
        (["--profile", "tiled", "--sample", "4"], "--sample is for --target simulator"),
    ],
)
def test_bad_arguments_are_one_line(tool, words, said, capsys):
    assert main.main("matmul", words) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""
