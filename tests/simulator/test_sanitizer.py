"""The comparison with compute-sanitizer, with stand-ins for nvcc and compute-sanitizer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from simulator.compare import sanitize, sanitizer, wrong
from simulator.compare.sanitizer import Simulated
from tests.support import executable
from workbench.toolchain import programs

RACE = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at void k(const float *)+0x250 in {file}:{a}
=========     and Read access at void k(const float *)+0x2d0 in {file}:{b} [224 hazards]
=========
error 0
sum 12
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
MEMCHECK = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at void tile_edge_kernel<(bool)0>(const float *, float *)+0x90 in memcheck.cu:{a}
=========     by thread (4,0,0) in block (3,0,0)
=========     Access to 0x7f32a0200190 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f32a0200000 of size 400 bytes
=========
========= Invalid __global__ read of size 4 bytes
=========     at void tile_edge_kernel<(bool)0>(const float *, float *)+0x90 in memcheck.cu:{a}
=========     by thread (5,0,0) in block (3,0,0)
=========     Access to 0x7f32a0200194 is out of bounds
=========
========= Program hit cudaErrorLaunchFailure (error 719) due to "unspecified launch failure" on CUDA API call to cudaDeviceSynchronize.
=========     Saved host backtrace up to driver entry point at error
=========
error 719
sum 0
========= ERROR SUMMARY: 3 errors
"""  # noqa: E501
OLD_RACE = """\
========= COMPUTE-SANITIZER
========= ERROR: Race reported between Read access at 0x6360 in /home/me/racecheck.cu:12:k(float*)
=========     and Write access at 0x1fe0 in /home/me/racecheck.cu:63:k(float*) [1088 hazards]
=========     and Write access at 0x26d0 in /home/me/other.cu:68:k(float*) [64 hazards]
"""
BARRIER = """\
========= COMPUTE-SANITIZER
========= Barrier error detected. Divergent thread(s) in block.
=========     at void k<(bool)0>(const float *, float *)+0xb0 in synccheck.cu:16
=========     by thread (0,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 1 error
"""


@pytest.mark.parametrize(
    ("text", "file", "lines"),
    [
        (RACE.format(file="async.cu", a=5, b=9), "async.cu", [(5, 9)]),
        (MEMCHECK.format(a=14), "memcheck.cu", [(14,)]),
        (OLD_RACE, "racecheck.cu", [(12, 63)]),
        (BARRIER, "synccheck.cu", [(16,)]),
        ("========= COMPUTE-SANITIZER\nsum 3\n========= ERROR SUMMARY: 0 errors\n", "a.cu", []),
    ],
)
def test_reports_are_read(text: str, file: str, lines: list[tuple[int, ...]]) -> None:
    assert [finding.lines for finding in sanitize.findings(text, file)] == lines


FAKE_NVCC = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
touch "$2"
"""
FAKE_SANITIZER = """#!/bin/sh
case "$*" in
*--help*) echo "  --initcheck-address-space arg"; exit;;
*--version*) echo "Version 2025.3.1.0 (build 1)"; exit;;
"--tool initcheck "*"--initcheck-address-space all "*) ;;
*"initcheck"*) exit 9;;
esac
for last; do true; done
case "$last" in crossed_barriers_wrong) echo "========= COMPUTE-SANITIZER"; sleep 60;; esac
cat "{reports}/$2-$last" 2>/dev/null || printf "error 0\\nsum 7\\n"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake GPU machine that finds two mistakes and hangs in a third; the results folder."""
    kernel = next(k for k in wrong.kernels("racecheck") if k.name == "transpose")
    edge = next(k for k in wrong.kernels("memcheck") if k.name == "tile_edge")
    race = RACE.format(file="racecheck.cu", a=min(kernel.other), b=min(kernel.wrong))
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "racecheck-transpose_wrong").write_text(race)
    (reports / "memcheck-tile_edge_wrong").write_text(MEMCHECK.format(a=min(edge.wrong)))
    bin_folder = tmp_path / "bin"
    executable(bin_folder / "nvcc", FAKE_NVCC)
    executable(bin_folder / "nvidia-smi", "#!/bin/sh\necho NVIDIA H100 80GB HBM3, 580.1\n")
    executable(bin_folder / "compute-sanitizer", FAKE_SANITIZER.format(reports=reports))
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setattr(sanitize, "KERNEL_SECONDS", 2)
    return tmp_path


@pytest.mark.full
def test_measure_and_compare(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = machine / "out"
    assert sanitize.main([str(out), "--seconds", "100"]) == 0
    assert [path.name for path in out.iterdir()] == ["sanitizer.json"]
    measured = json.loads((out / "sanitizer.json").read_text())
    assert measured["device"] == "NVIDIA H100 80GB HBM3, 580.1"
    kernels = {k.name: k for check in wrong.FILES for k in wrong.kernels(check)}
    ours = {name: Simulated(k.kind, tuple(k.wrong), "", 7.0) for name, k in kernels.items()}
    ours["tile_edge"] = Simulated("", (), "", 7.0)
    ours["null"] = Simulated("memcheck", (1,), "memcheck 3", 8.0)
    monkeypatch.setattr(sanitizer, "simulate_all", lambda: ours)
    path = machine / "result.json"
    assert sanitizer.main([str(out / "sanitizer.json"), "--json", str(path)]) == 1
    result = json.loads(path.read_text())
    rows = {row["name"]: row for row in result["kernels"]}
    assert set(rows) == set(kernels)
    transpose = kernels["transpose"]
    sides = f"{min(transpose.other)}, {min(transpose.wrong)}"
    assert rows["transpose"]["sanitizer"] == f"racecheck {sides}"
    assert rows["transpose"]["verdict"] == "agree"
    assert rows["tile_edge"]["verdict"] == "sanitizer only"
    assert rows["bins"]["verdict"] == "simulator only"
    assert rows["crossed_barriers"]["sanitizer"] == "hangs"
    assert "memcheck 3" in rows["null"]["twin"] and "checksum 7.0" in rows["null"]["twin"]
    assert [rows[name]["twin"] for name in ("bins", "halo", "wgmma_ring")] == [""] * 3
    assert rows["wgmma_ring"]["verdict"] == "right"
    assert sum(result["verdicts"].values()) == len(rows)


def test_time_that_runs_out(machine: Path) -> None:
    assert sanitize.main([str(machine / "out"), "--seconds", "0.001"]) == 1
    runs = json.loads((machine / "out" / "sanitizer.json").read_text())["runs"]
    assert {run["status"] for run in runs} == {"not run"}


def test_where_results_go() -> None:
    assert sanitizer.result_path("NVIDIA H100 80GB HBM3, 580.1").name == (
        "nvidia-h100-80gb-hbm3-sanitizer.json"
    )


@pytest.mark.full
def test_the_program_runs_a_launcher(tmp_path: Path) -> None:
    source = tmp_path / "run_initcheck.cu"
    source.write_text(sanitize.program_text("initcheck"))
    includes = [word for folder in wrong.INCLUDES for word in ("-I", str(folder))]
    program = programs.build_program(programs.parse([str(source), *includes], "simulator"))
    done = subprocess.run([program, "accumulated_output_right"], capture_output=True, text=True)
    want = sum((1 + i % 13) * (i % 7 + (i + 64) % 7) for i in range(64))
    assert done.stdout == f"error 0\nsum {want}\n"
    assert subprocess.run([program, "no_such_kernel"]).returncode == 2
