"""Kernels that are wrong on purpose, each of which the checker has to report.

The mistakes are in wrong_edits.py. The edited rungs run in a child process with a timeout.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import wrong_kernels
from tests.support import finished, python
from tests.ladders.wrong_edits import (
    EACH,
    SHAPES,
    SWAPPED,
    UNGUARDED,
    WRONG_FORMULA,
    Edit,
    barriers,
    build_of,
)
from workbench.harness.verify import StickyError
from workbench.toolchain import kernels_dir


@dataclass(frozen=True)
class Outcome:
    ok: bool
    report: str
    line: int


class Laboratory:
    """Builds and checks edited kernels, a build when its first edit is asked for.

    All builds are made from one folder, so that only what changed is compiled again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcomes: dict[tuple[str, Edit], Outcome] = {}

    def outcome(self, edit: Edit, target: str) -> Outcome:
        if (target, edit) not in self.outcomes:
            self._run(build_of(edit), target)
        return self.outcomes[target, edit]

    def _run(self, edits: list[Edit], target: str) -> None:
        unedited(self.folder)
        for edit in edits:
            file = self.folder / edit.source
            file.write_text(edit.apply(file.read_text()))
        requests = [request(edit) for edit in edits]
        # A wrong kernel may take the GPU's context with it: a child for each.
        batches = [[one] for one in requests] if target == "gpu" else [requests]
        verdicts = [v for batch in batches for v in check_in_child(self.folder, target, batch)]
        for edit, verdict in zip(edits, verdicts, strict=True):
            line = edit.line((kernels_dir() / edit.source).read_text())
            self.outcomes[target, edit] = Outcome(verdict["ok"], verdict["report"], line)


def unedited(folder: Path) -> Path:
    """The folder, with the kernels as they are."""
    return shutil.copytree(kernels_dir(), folder, dirs_exist_ok=True)


def request(edit: Edit) -> list[str]:
    shape = edit.shape or SHAPES[edit.op]
    return [edit.op, edit.rung, shape, layout(edit.op), "randn"]


def layout(op: str) -> str:
    return "nn" if op == "matmul" else "contiguous"


def check_in_child(kernels: Path, target: str, requests: list[list[str]]) -> list[dict]:
    child = python(
        "-m", "tests.ladders.wrong_kernels", target, json.dumps(requests), WORKBENCH_KERNELS=str(kernels)
    )
    status, out, err = finished(child, seconds=300)
    assert status == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(kernels_copy) -> Path:
    return kernels_copy


@pytest.fixture(scope="module")
def laboratory(folder) -> Laboratory:
    return Laboratory(folder)


def assert_reported(outcome: Outcome, edit: Edit, target: str) -> None:
    assert not outcome.ok, f"nobody noticed: {edit.name}"
    place = "on the GPU" if target == "gpu" else "on the simulator"
    shape = edit.shape or SHAPES[edit.op]
    assert f"WRONG  {edit.op} {edit.rung} {place}: {shape}" in outcome.report


def assert_worst_element(outcome: Outcome) -> None:
    assert re.search(r"worst +(out|lse)\[[\d, ]+\]: got .+, expected .+, error", outcome.report)


@pytest.mark.parametrize("edit", SWAPPED + WRONG_FORMULA, ids=lambda edit: edit.name)
def test_wrong_arithmetic(laboratory, target, edit):
    outcome = laboratory.outcome(edit, target)
    assert_reported(outcome, edit, target)
    assert_worst_element(outcome)


@pytest.mark.parametrize("edit", UNGUARDED, ids=lambda edit: edit.name)
def test_missing_guard(laboratory, target, edit):
    """The simulator names tensor and line; a GPU shows what the access did to the result."""
    outcome = laboratory.outcome(edit, target)
    assert_reported(outcome, edit, target)
    if target == "simulator":
        assert f"{edit.source}:{outcome.line}" in outcome.report
        assert re.search(rf"\b({edit.tensor})\b", outcome.report.partition("raised")[2])


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(edit, id=edit.name, marks=[pytest.mark.full] if i % EACH else [])
        for i, edit in enumerate(barriers())
    ],
)
def test_missing_barrier(laboratory, edit):
    """On the simulator alone, which sees that nothing orders the accesses; a GPU may be lucky."""
    outcome = laboratory.outcome(edit, "simulator")
    assert_reported(outcome, edit, "simulator")
    found = (
        r"(racecheck|initcheck): |memcheck: .* which may not have started|"
        "synccheck: the thread arrives at the cluster's barrier again without having waited"
    )
    assert re.search(rf"raised SimulatorError: ({found})", outcome.report)
    assert f"{edit.source}:" in outcome.report


def test_a_copy_without_edits_is_right(target, folder):
    kernels = unedited(folder)
    requests = [[op, "naive", SHAPES[op], layout(op), "randn"] for op in SHAPES]
    verdicts = check_in_child(kernels, target, requests)
    assert [verdict["ok"] for verdict in verdicts] == [True] * len(SHAPES)


def test_a_launcher_without_a_check(target, folder):
    """Its error is its own and not the next operator's."""
    kernels = unedited(folder)
    file = kernels / "matmul.cu"
    text = re.sub(r"CUDA_CHECK_LAUNCH\(matmul_(naive|coalesced)_kernel\);", "", file.read_text())
    text = text.replace("dim3 block(NAIVE_TILE, NAIVE_TILE)", "dim3 block(99, 99)")  # too many
    file.write_text(text.replace("if (row >= p.M || col >= p.N) return;", ""))
    names = ["naive", "tiled"] + ["coalesced", "tiled"] * (target == "simulator")
    requests = [["matmul", name, SHAPES["matmul"], "nn", "randn"] for name in names]
    verdicts = check_in_child(kernels, target, requests)
    assert [verdict["ok"] for verdict in verdicts] == [name == "tiled" for name in names]
    assert "raised" in verdicts[0]["report"]
    if target == "simulator":
        assert re.search(r"(?s)raised SimulatorError.*\bmatmul\.cu:\d+", verdicts[2]["report"])


def test_a_lost_context_counts_as_reported(monkeypatch):
    """A kernel that takes the GPU's context with it was noticed, however the check ended."""

    def lost(*args):
        raise StickyError("matmul naive on the GPU: M=8,N=8,K=8: an illegal memory access")

    monkeypatch.setattr(wrong_kernels.check, "check_rung", lost)
    verdict = wrong_kernels.verdict("gpu", "matmul", "naive", "M=8,N=8,K=8", "nn", "randn")
    assert not verdict["ok"]
    assert verdict["report"].startswith("WRONG  matmul naive on the GPU: M=8,N=8,K=8")
