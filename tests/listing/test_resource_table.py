"""--resources: what kernels take of a GPU, and what would let more of them fit."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.records import launch
from workbench import operators
from workbench.cli import main as cli
from workbench.estimate import GPUS, resources
from workbench.harness.launched import Recorder
from workbench.listing import resources as table
from workbench.operators.builds import rungs
from workbench.toolchain import BuildError, kernels_dir

H200 = GPUS["h200"]


def row(gpu: str, threads: int, registers: int, static: int = 0, dynamic: int = 0) -> table.Row:
    made = resources.Resources(registers, static)
    held = resources.occupancy(GPUS[gpu], threads, registers, static + dynamic)
    record = launch(block=(threads, 1, 1), shared_bytes=static + dynamic)
    return table.Row("k", record, made, held)


@pytest.mark.parametrize(
    ("one", "gpu", "text"),
    [
        (row("h200", 256, 40), "h200", "at most 32 registers a thread: 100%"),
        (row("h200", 256, 255), "h200", "at most 128 registers a thread: 25%"),
        # 228 KB hold two of 114 KB, of which the system takes one each
        (row("h200", 256, 32, 0, 150 * 1024), "h200", "at most 115712 bytes of shared memory: 25%"),
        (
            row("h200", 512, 96, 0, 120 * 1024),
            "h200",
            "at most 64 registers a thread and 115712 bytes of shared memory: 50%",
        ),
        (row("h200", 32, 32), "h200", "64 threads a block: 100%"),
        (row("a6000", 1024, 36), "a6000", "512 threads a block: 100%"),
        (row("a6000", 1024, 60), "a6000", "no other number of threads, with as much for each"),
    ],
)
def test_what_would_fit_more(one, gpu, text):
    assert table.lift(one, GPUS[gpu]) == text


@given(
    gpu=st.sampled_from(sorted(GPUS)),
    warps=st.integers(1, 32),
    registers=st.integers(16, 255),
    shared=st.integers(0, 64 * 1024),
)
def test_the_advice_is_true_and_tight(gpu, warps, registers, shared):
    """As it says, more fits; with a register or 128 bytes more, nothing does."""
    one = row(gpu, 32 * warps, registers, shared)
    assume(0 < one.held.fraction < 1)
    text = table.lift(one, GPUS[gpu])
    threads, known = one.threads, dataclasses.asdict(one.held)
    if found := re.match(r"(\d+) threads", text):
        held = resources.occupancy(GPUS[gpu], int(found[1]), registers, shared)
        assert held.fraction > known["fraction"]
        return
    if text.startswith("no other"):
        return
    most = re.search(r"(\d+) registers", text)
    bytes_ = re.search(r"(\d+) bytes", text)
    fewer, less = int(most[1]) if most else registers, int(bytes_[1]) if bytes_ else shared
    held = resources.occupancy(GPUS[gpu], threads, fewer, less)
    assert held.blocks > known["blocks"] and fewer <= registers and less <= shared
    assert text.endswith(f": {100 * held.fraction:.0f}%") or held.fraction < 0.1
    if most:
        more = resources.occupancy(GPUS[gpu], threads, fewer + 1, less)
        assert more.blocks == known["blocks"]
    if bytes_:
        more = resources.occupancy(GPUS[gpu], threads, fewer, less + 1)
        assert more.blocks == known["blocks"]


@pytest.fixture
def no_compiler(monkeypatch):
    """Compiler reports without a compiler: 40 registers for every kernel of transpose."""
    names = set()

    def of_file(source, arch):
        if source.name == "transpose.cu":
            return {name: resources.Resources(40, 0, 16, 12, (), 4) for name in names}
        return {}

    monkeypatch.setattr(table, "of_file", of_file)
    return names


def test_the_table(no_compiler, monkeypatch, capsys):
    operator = operators.get("transpose")
    case = operator.case("M=64,N=96")
    recorder = Recorder(operator, case, 1)
    for rung in rungs("transpose"):
        no_compiler |= {one.kernel for one in recorder.of(rung).launches}
    words = ["--resources", "--shape", "M=64,N=96", "--gpu", "a100"]
    assert cli.main("transpose", words) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100 and "\x1b" not in out
    assert "transpose M=64,N=96 on the A100 SXM 80 GB, sm_80" in out
    for rung in rungs("transpose"):
        (cells,) = re.findall(rf"^{rung.name} +(\d+) +40 .*", out, re.M)[:1]
        assert int(cells) > 0
        assert re.search(rf"^{rung.name} .* 16 +4/8 .*%  +\w+", out, re.M)
    assert re.search(r"^  \w+ +at most 32 registers a thread: 100%$", out, re.M)


def test_of_a_real_kernel(capsys):
    (rung, *_) = rungs("transpose")
    words = ["--resources", "--kernel", rung.name, "--shape", "M=64,N=96"]
    assert cli.main("transpose", words) == 0
    (cells,) = re.findall(rf"^{rung.name} .*", capsys.readouterr().out, re.M)
    made = resources.of_file(kernels_dir() / "transpose.cu", H200.arch)
    registers = {str(one.registers) for one in made.values() if one.shared_bytes == 0}
    assert cells.split()[2] in registers and cells.split()[3:6] == ["0", "0", "-"]


def test_what_does_not_run_or_compile_says_why(monkeypatch, capsys):
    def of_file(source, arch):
        raise BuildError("kernels/x.cu:7: error: expected a ';'\nmore")

    monkeypatch.setattr(table, "of_file", of_file)
    words = ["--resources", "--kernel", "naive", "mma", "--shape", "M=64,N=64,K=64"]
    assert cli.main("matmul", [*words, "--gpu", "t4"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^mma +needs compute capability 80; got 75$", out, re.M)
    assert re.search(
        r"^naive +\S+\.cu does not compile for sm_75: kernels/x.cu:7: error:", out, re.M
    )


def test_several_kernels_of_a_rung_have_a_row_each():
    kernels = ["attention_blocked_scores_kernel<float>", "attention_blocked_softmax_kernel", "f<1>"]
    assert table._names("attention", "blocked", kernels) == [
        "blocked: scores", "blocked: softmax", "blocked: f",
    ]  # fmt: skip
    assert table._names("attention", "blocked", kernels[:1]) == ["blocked"]


def test_a_rung_that_is_wrong_says_so(monkeypatch):
    operator = operators.get("transpose")
    recorder = Recorder(operator, operator.case("M=4,N=4"), 1)

    def fail(*_):
        raise RuntimeError("memcheck: out of bounds\n  at x.cu:3")

    monkeypatch.setattr(type(operator), "launch", fail)
    launched = recorder.of(rungs("transpose")[0])
    assert launched.failed and launched.why.startswith("RuntimeError: memcheck: out of bounds")
