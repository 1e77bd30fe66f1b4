"""The compiler's report on every kernel: machine code without spills, for old and new GPUs.

What the rungs launch is compiled for the simulator's GPU alone; whole files, for older ones too,
with --full.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from workbench import operators, rungs
from workbench.estimate import launched, resources
from workbench.harness.launched import Recorder
from workbench.operators import OPERATORS
from workbench.toolchain import kernels_dir

LADDERS = sorted(kernels_dir().glob("*.cu"))
ENTRY = re.compile(r"Compiling entry function '(\w+)'")
SPILLS = re.compile(
    r"Function properties for (\w+)\n.* (\d+) bytes spill stores, (\d+) bytes spill loads"
)


# Bytes. mma: 192 accumulators, D = 128, leave Ampere's compiler 63 registers; 7 of the 1,836
# instructions of the loop load or store them. fused_row: the compiler keeps to 48 and to 64
# registers, for one more block; up to four of bf16's or fp64's are stored and loaded once.
FEW_SPILLS = {
    ("attention_flash_mma", "80"): 64,
    ("attention_flash_mma_pipelined", "80"): 64,
    ("attention_fused_row", "80"): 16,
    ("attention_fused_row", "75"): 4,
}


def report(ladder: Path, arch: str) -> str:
    return (resources._of_file(resources.Source(ladder), arch) / "report.txt").read_text()


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


@pytest.mark.full
@pytest.mark.parametrize(
    "arch",
    [
        "90a",
        pytest.param("80", id="80 (Ampere)"),
        pytest.param("75", id="75 (Turing)"),
    ],
)
@pytest.mark.parametrize("ladder", [pytest.param(file, id=file.stem) for file in LADDERS])
def test_no_kernel_spills(ladder: Path, arch: str, reports: dict) -> None:
    report = reports[ladder, arch].result()
    assert "warning" not in report, report
    entries, functions = ENTRY.findall(report), SPILLS.findall(report)
    assert entries and set(entries) <= {name for name, _, _ in functions}, report
    few = FEW_SPILLS.get((ladder.stem, arch), 0)
    spilled = [name for name, stores, loads in functions if max(int(stores), int(loads)) > few]
    assert not spilled, report


@functools.cache
def compiled(op: str, name: str, dtype: str) -> Mapping[str, resources.Resources]:
    """What a rung launches on a small case whose sizes are multiples of everything."""
    operator = operators.get(op)
    (rung,) = (rung for rung in rungs(op) if rung.name == name)
    for case in operator.small_cases(dtype)[::-1]:
        found = Recorder(operator, case, 1).of(rung)
        if found.launches:
            return {n: done.result() for n, done in launched.begin(found.launches).items()}
    raise AssertionError(f"{name} takes no small case: it {found.why}")


@pytest.mark.parametrize(
    ("op", "name", "dtype"),
    [
        pytest.param(op, rung.name, dtype, id=f"{op}-{rung.name}-{dtype}")
        for op in OPERATORS
        for rung in rungs(op)
        for dtype in ("float32", "float16")
        if dtype in rung.dtypes
    ],
)
def test_no_launched_kernel_spills(op: str, name: str, dtype: str) -> None:
    for kernel, report in compiled(op, name, dtype).items():
        assert report.spill_bytes == 0, kernel
        assert report.registers > 0 and report.machine, kernel


# What a rung's idea must become: instruction, bytes per lane.
TENSOR = {("HMMA", 0), ("LDSM", 16)}
MACHINE_CODE = {
    "vectorized": {("LDS", 16), ("LDG", 16)},
    "warp_tiles": {("LDS", 16)},
    "async": {("LDS", 16), ("LDGSTS", 16)},
    "split_k": {("LDS", 16), ("LDGSTS", 16)},
    "wmma": TENSOR,
    "mma": {*TENSOR, ("LDG", 16), ("STS", 16)},
    "mma_swizzled": TENSOR,
    "mma_pipelined": {*TENSOR, ("LDGSTS", 16)},
    "mma_tuned": {*TENSOR, ("LDGSTS", 16)},
    "flash_registers": {("LDS", 16), ("LDGSTS", 16)},
    "flash_mma": {*TENSOR, ("LDGSTS", 16)},
    "flash_mma_pipelined": {*TENSOR, ("LDGSTS", 16)},
    "flash_split_kv": {*TENSOR, ("LDGSTS", 16)},
}


@pytest.mark.parametrize("name", MACHINE_CODE)
def test_the_machine_code_has(name: str) -> None:
    op = "attention" if name.startswith("flash") else "matmul"
    (rung,) = (rung for rung in rungs(op) if rung.name == name)
    dtype = "float32" if "float32" in rung.dtypes else "float16"
    kernels = compiled(op, name, dtype).values()
    ops = {(op.name, op.width) for kept in kernels for region in kept.machine for op in region.ops}
    assert MACHINE_CODE[name] <= ops
    assert not any(instruction == "LDL" for instruction, _ in ops)
