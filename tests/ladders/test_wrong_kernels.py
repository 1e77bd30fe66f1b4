"""Deliberately wrong kernels, each of which the checker must report.

The mistakes are in tests/ladders/wrong. The edited rungs run in a child process with a timeout.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import simulator
from tests.ladders import wrong_kernels
from tests.ladders.wrong.edits import (
    SHAPES,
    SWAPPED,
    TOO_MUCH,
    UNGUARDED,
    WRONG_FORMULA,
    Edit,
    barriers,
    builds,
    copies,
    edited,
    of_fast_tier,
)
from tests.ladders.wrong.matmul import UNCHECKED
from tests.support import empty_cache, finished, python
from workbench import toolchain
from workbench.harness.verify import StickyError
from workbench.operators.builds import Rung

Request = tuple[str, str, str, str]  # operator, rung, shape, layout

# The first one fails, and the simulator finds something in the third. With them run rungs that no
# edit touches: what is reported on all others is due to the edits.
UNCHECKED_LAUNCHES = [("matmul", name) for name in ("naive", "tiled", "coalesced", "tiled")]
UNTOUCHED = [("softmax", "vectorized"), ("softmax_backward", "naive"), ("attention", "flash")]
FAST = of_fast_tier()


@dataclass(frozen=True)
class Verdict:
    ok: bool
    report: str


def request(op: str, rung: str, shape: str = "", layout: str = "") -> Request:
    return op, rung, shape or SHAPES[op], layout


def request_of(edit: Edit) -> Request:
    return request(edit.op, edit.rung, edit.shape, edit.layout)


class Laboratory:
    """Builds edited kernels and checks their rungs: everything a run needs, in one child process.

    All builds use one folder, and a ladder file stays as it is until another edit of it comes, so
    that only what changed is recompiled. Headers are restored for every build, and where one is
    edited, all files.
    """

    def __init__(self, environment: dict[str, str], edits: list[Edit]) -> None:
        self.environment = environment
        self.packed = builds(edits)
        self.texts = copies(edits)
        self.of_edits: dict[str, dict[Edit, Verdict]] = {}  # by target
        self.of_last_build: dict[str, list[Verdict]] = {}
        self.begun: subprocess.Popen[str] | None = None

    def begin(self) -> subprocess.Popen[str]:
        """Start the child for the simulator, alongside other tests."""
        steps = self._steps("simulator")
        self.begun = self._start("simulator", steps)
        return self.begun

    def of_edit(self, edit: Edit, target: str) -> Verdict:
        self._run(target)
        unknown = Verdict(True, "its check has not ended")
        return self.of_edits[target].get(edit, unknown)

    def of_launches(self, target: str) -> list[Verdict]:
        """For UNCHECKED_LAUNCHES and UNTOUCHED; a GPU skips the third launch, which harms it."""
        self._run(target)
        return self.of_last_build[target]

    def _run(self, target: str) -> None:
        if target in self.of_edits:
            return
        self.of_edits[target], self.of_last_build[target] = {}, []
        found = iter(self._checked(target))
        for build in self.packed:
            self.of_edits[target] |= zip(build, found, strict=False)
        self.of_last_build[target] = list(found)

    def _steps(self, target: str) -> list[dict]:
        """The builds and their requests, in the format of tests.ladders.wrong_kernels."""
        files = [self._files(build) for build in (*self.packed, UNCHECKED)]
        for name in ("attention_flash.cu", "softmax_backward.cu"):  # of UNTOUCHED, edited before
            files[-1][name] = self.texts[name]
        files[0] = self.texts | files[0]
        launches = UNCHECKED_LAUNCHES if target == "simulator" else UNCHECKED_LAUNCHES[:2]
        asked = [[request_of(edit) for edit in build] for build in self.packed]
        asked.append([request(*rung) for rung in (*launches, *UNTOUCHED)])
        return [{"files": f, "requests": r} for f, r in zip(files, asked, strict=True)]

    def _files(self, build: Sequence[Edit]) -> dict[str, str]:
        headers = {name: text for name, text in self.texts.items() if not name.endswith(".cu")}
        changed = edited(self.texts, build)
        return (self.texts if headers.keys() & changed.keys() else headers) | changed

    def _start(self, target: str, steps: list[dict]) -> subprocess.Popen[str]:
        file = Path(self.environment["WORKBENCH_KERNELS"]).with_name("builds.json")
        file.write_text(json.dumps(steps))
        words = ("-m", "tests.ladders.wrong_kernels", target, str(file))
        # into a file: it may remain unread for minutes
        with open(file.with_name("verdicts"), "w") as verdicts:
            return python(*words, into=verdicts, **self.environment)

    def _verdicts(self, child: subprocess.Popen[str]) -> list[Verdict]:
        status, _, err = finished(child, seconds=600)
        if status != 0:
            print(err)  # pytest shows it with later failures
        text = Path(self.environment["WORKBENCH_KERNELS"]).with_name("verdicts").read_text()
        return [Verdict(**json.loads(line)) for line in text.splitlines()]

    def _checked(self, target: str) -> list[Verdict]:
        if target == "simulator":
            return self._verdicts(self.begun or self.begin())
        verdicts = []
        for step in self._steps(target):  # a wrong kernel may break the context: one child each
            for asked in step["requests"]:
                found = self._verdicts(self._start(target, [step | {"requests": [asked]}]))
                verdicts += found
                if len(found) < 1:
                    return verdicts
        return verdicts


LABORATORIES: list[Laboratory] = []  # one, if the run starts it


def begin(session: pytest.Session) -> subprocess.Popen[str]:
    """Start building and checking, in a separate folder and cache."""
    simulator.library()
    root = Path(tempfile.mkdtemp(prefix="wrong_kernels"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    (root / "kernels").mkdir()
    cache = empty_cache(root / "cache", toolchain.process_simulator())
    environment = {"WORKBENCH_KERNELS": str(root / "kernels"), "WORKBENCH_CACHE": str(cache)}
    LABORATORIES.append(Laboratory(environment, edits_of(session)))
    return LABORATORIES[0].begin()


def edits_of(session: pytest.Session) -> list[Edit]:
    """The edits that this run needs."""
    here = [item for item in session.items if item.path == Path(__file__)]
    edits = [item.callspec.params.get("edit") for item in here if hasattr(item, "callspec")]
    return [edit for edit in dict.fromkeys(edits) if edit]


@pytest.fixture(scope="session")  # pytest may run other files between tests of this one
def laboratory(request: pytest.FixtureRequest, edited_kernels: dict[str, str]) -> Laboratory:
    if LABORATORIES:
        return LABORATORIES[0]
    return Laboratory(edited_kernels, edits_of(request.session))


def assert_reported(verdict: Verdict, edit: Edit, target: str) -> None:
    assert not verdict.ok, f"nobody noticed: {edit.name}: {verdict.report}"
    place = "on the GPU" if target == "gpu" else "on the simulator"
    shape = edit.shape or SHAPES[edit.op]
    assert f"WRONG  {edit.op} {edit.rung} {place}: {shape}" in verdict.report


def assert_worst_element(verdict: Verdict) -> None:
    assert re.search(r"worst +(out|dx|lse)\[[\d, ]+\]: got .+, expected .+, error", verdict.report)


def each(edits: Iterable[Edit]) -> pytest.MarkDecorator:
    """A test for each edit; some need --full."""
    return pytest.mark.parametrize(
        "edit",
        [
            pytest.param(edit, id=edit.name, marks=[pytest.mark.full] * (edit not in FAST))
            for edit in edits
        ],
    )


@each(SWAPPED + WRONG_FORMULA)
def test_wrong_arithmetic(laboratory, target, edit):
    verdict = laboratory.of_edit(edit, target)
    assert_reported(verdict, edit, target)
    assert_worst_element(verdict)


@each(UNGUARDED)
def test_missing_guard(laboratory, target, edit):
    """The simulator names tensor and line; a GPU shows the effect on the result."""
    verdict = laboratory.of_edit(edit, target)
    assert_reported(verdict, edit, target)
    if target == "simulator":
        line = edit.line(laboratory.texts[edit.source])
        assert f"{edit.source}:{line}" in verdict.report
        assert re.search(rf"\b({edit.tensor})\b", verdict.report.partition("raised")[2])


@each(TOO_MUCH)
def test_a_rung_that_takes_what_it_cannot_do(laboratory, target, edit):
    verdict = laboratory.of_edit(edit, target)
    assert_reported(verdict, edit, target)
    assert re.search(edit.says, verdict.report)


@each(barriers())
def test_missing_barrier(laboratory, edit):
    """Only on the simulator, which sees that nothing orders the accesses; a GPU may be lucky."""
    verdict = laboratory.of_edit(edit, "simulator")
    assert_reported(verdict, edit, "simulator")
    found = (
        r"(racecheck|initcheck): |memcheck: .* which may not have started|"
        "synccheck: the thread arrives at the cluster's barrier again without having waited"
    )
    assert re.search(rf"raised SimulatorError: ({found})", verdict.report)
    assert f"{edit.source}:" in verdict.report


def test_rungs_that_no_edit_has_touched_are_right(laboratory, target):
    verdicts = laboratory.of_launches(target)[-len(UNTOUCHED) :]
    assert [v.ok for v in verdicts] == [True] * len(UNTOUCHED), verdicts


def test_a_launcher_without_a_check(laboratory, target):
    """Its error is reported for it, not for the next operator."""
    verdicts = laboratory.of_launches(target)[: -len(UNTOUCHED)]
    assert [v.ok for v in verdicts] == [False, True] * (2 if target == "simulator" else 1)
    assert "raised" in verdicts[0].report
    if target == "simulator":
        assert re.search(r"(?s)raised SimulatorError.*\bmatmul\.cu:\d+", verdicts[2].report)


def test_a_lost_context_counts_as_reported(monkeypatch):
    """A kernel that breaks the GPU's context was noticed, however the check ended."""

    def lost(*args):
        raise StickyError("matmul naive on the GPU: M=8,N=8,K=8: an illegal memory access")

    monkeypatch.setattr(wrong_kernels.builds, "rungs", lambda op: [Rung(op, "naive", ("float32",))])
    monkeypatch.setattr(wrong_kernels.verify, "check_rung", lost)
    verdict = wrong_kernels.verdict("gpu", "matmul", "naive", "M=8,N=8,K=8", "nn")
    assert not verdict["ok"]
    assert verdict["report"].startswith("WRONG  matmul naive on the GPU: M=8,N=8,K=8")
