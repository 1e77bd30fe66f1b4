"""The compiler's report on every kernel: machine code without spills, for old and new GPUs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from workbench.estimate import resources
from workbench.toolchain import kernels_dir

LADDERS = sorted(kernels_dir().glob("*.cu"))
# Bounds limit a kernel's registers, so that it may spill; without, that is rare: with --full.
BOUNDED = [ladder for ladder in LADDERS if "__launch_bounds__" in ladder.read_text()]
ENTRY = re.compile(r"Compiling entry function '(\w+)'")
SPILLS = re.compile(
    r"Function properties for (\w+)\n.* (\d+) bytes spill stores, (\d+) bytes spill loads"
)


# Bytes: 192 accumulators, D = 128, leave Ampere's compiler 63 registers. 7 of the 1,836
# instructions of the loop load or store them.
FEW_SPILLS = {("attention_flash_mma", "80"): 64, ("attention_flash_mma_pipelined", "80"): 64}


def ahead() -> None:
    for ladder in BOUNDED:
        report(ladder, "90a")


def report(ladder: Path, arch: str) -> str:
    return (resources._kept(ladder, arch) / "report.txt").read_text()


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> Iterator[dict[tuple[Path, str], Future[str]]]:
    """The compiler's output, (file, architecture) -> text, for everything this run needs.

    The estimates read the same output: what one has compiled is not compiled again.
    """
    asked = [item.callspec.params for item in request.session.items if item.path == request.path]
    pairs = [(params["ladder"], params["arch"]) for params in asked if "ladder" in params]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {pair: pool.submit(report, *pair) for pair in pairs}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "arch",
    [
        "90a",
        pytest.param("80", marks=pytest.mark.full, id="80 (Ampere)"),
        pytest.param("75", marks=pytest.mark.full, id="75 (Turing)"),
    ],
)
@pytest.mark.parametrize(
    "ladder",
    [pytest.param(f, marks=[pytest.mark.full] * (f not in BOUNDED), id=f.stem) for f in LADDERS],
)
def test_no_kernel_spills(ladder: Path, arch: str, reports: dict) -> None:
    report = reports[ladder, arch].result()
    assert "warning" not in report, report
    entries, functions = ENTRY.findall(report), SPILLS.findall(report)
    assert entries and set(entries) <= {name for name, _, _ in functions}, report
    few = FEW_SPILLS.get((ladder.stem, arch), 0)
    spilled = [name for name, stores, loads in functions if max(int(stores), int(loads)) > few]
    assert not spilled, report


# What a rung's idea must become: instruction, bytes per lane.
MACHINE_CODE = {
    "matmul_vectorized": ("vectorized_kernel", {("LDS", 16), ("LDG", 16)}),
    "matmul_warp_tiles": ("async_kernel<false, true>", {("LDS", 16), ("LDGSTS", 16)}),
    "matmul_split_k": ("64, 64>, 8, 1, true", {("LDS", 16), ("LDGSTS", 16)}),
    "matmul_wmma": ("wmma_kernel<fp16", {("HMMA", 0), ("LDSM", 16)}),
    "matmul_mma": ("mma_kernel<bf16", {("HMMA", 0), ("LDSM", 16), ("LDG", 16), ("STS", 16)}),
    "matmul_mma_swizzled": ("mma_swizzled_kernel<bf16", {("HMMA", 0), ("LDSM", 16)}),
    "matmul_mma_pipelined": ("mma_pipelined_kernel<bf16", {("HMMA", 0), ("LDGSTS", 16)}),
    "attention_flash_registers": (
        "flash_registers_kernel",
        {("LDS", 16), ("LDGSTS", 16)},
    ),
    "attention_flash_mma": (
        "flash_mma_kernel",
        {("HMMA", 0), ("LDSM", 16), ("LDGSTS", 16)},
    ),
    "attention_flash_mma_pipelined": (
        "flash_mma_pipelined_kernel",
        {("HMMA", 0), ("LDSM", 16), ("LDGSTS", 16)},
    ),
    "attention_flash_split_kv": (
        "flash_split_kv_kernel",
        {("HMMA", 0), ("LDSM", 16), ("LDGSTS", 16)},
    ),
    "matmul_mma_tuned": ("mma_tuned_kernel<bf16", {("HMMA", 0), ("LDSM", 16), ("LDGSTS", 16)}),
}


@pytest.mark.parametrize("file", MACHINE_CODE)
def test_the_machine_code_has(file: str) -> None:
    kernel, wanted = MACHINE_CODE[file]
    found = resources.of_file(kernels_dir() / f"{file}.cu", "90a")
    named = {name: kept for name, kept in found.items() if kernel in name}
    assert named, list(found)
    for name, kept in named.items():
        ops = {(op.name, op.width) for region in kept.machine for op in region.ops}
        if "(Along)2" not in name:  # element by element
            assert wanted <= ops, name
        assert not any(op == "LDL" for op, _ in ops), name
