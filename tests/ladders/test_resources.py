"""What the compiler says of every kernel: machine code without spills, for old and new GPUs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from workbench.toolchain import tools

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
LADDERS = sorted(KERNELS.glob("*.cu"))
ENTRY = re.compile(r"Compiling entry function '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def compiler_report(ladder: Path, arch: str, out: Path) -> str:
    done = subprocess.run(
        [
            str(tools.find_toolkit().nvcc),
            "-std=c++20",
            *("-gencode", f"arch=compute_{arch},code=sm_{arch}"),
            *("-Xptxas", "-v", "-Werror", "all-warnings"),
            *("-cubin", "-o", str(out / "kernel.cubin"), str(ladder)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.mark.parametrize(
    "arch", ["90a", pytest.param("75", marks=pytest.mark.full, id="75 (Turing)")]
)
@pytest.mark.parametrize("ladder", LADDERS, ids=lambda path: path.stem)
def test_no_kernel_spills(ladder: Path, arch: str, tmp_path: Path) -> None:
    report = compiler_report(ladder, arch, tmp_path)
    entries = ENTRY.findall(report)
    spills = SPILLS.findall(report)
    assert len(entries) >= 1 and len(spills) == len(entries), report
    spilled = [
        e for e, (stores, loads) in zip(entries, spills, strict=True) if stores + loads != "00"
    ]
    assert not spilled, report
