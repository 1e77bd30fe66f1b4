"""Kernels that are wrong on purpose, each of which the checker has to report.

Every edit replaces exact text of a ladder file and fails loudly if that text is gone. Edits that
do not touch the same rung share a build. The edited rungs run in a child process with a timeout.
"""

import functools
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import wrong_kernels
from tests.support import finished, python
from workbench.check import StickyError
from workbench.toolchain import kernels_dir

BARRIER = re.compile(r"(?:__syncthreads|cluster_sync|cp_async_wait<\w+>)\(\);.*")
SHAPES = {  # with more than one tile each way and ragged edges
    "matmul": "M=70,N=75,K=85",
    "softmax": "rows=9,cols=2100",
    "softmax_backward": "rows=9,cols=2100",
    "attention": "B=1,H=2,Nq=70,Nk=100,D=32",
}
LONG_ROW = "rows=2,cols=20000"  # for a cluster


@dataclass(frozen=True)
class Edit:
    """One mistake: ``old`` becomes ``new`` in a file of the ladder of ``op``.

    Attributes:
        op: the operation.
        rung: the rung to check.
        old: the text to be replaced, at its first place behind ``behind``.
        new: what replaces it.
        behind: text in front of it, which says which function is meant.
        touches: other rungs that the edit changes: "rung" of ``op``, or "operation/rung".
        shape: of the check; empty for SHAPES.
        tensor: the tensor that is accessed out of bounds, if one is.
        line_of: text in the line that does it, behind ``behind``; empty for the edited line.
        file: in kernels/; empty for <op>.cu.
    """

    op: str
    rung: str
    old: str
    new: str
    behind: str = ""
    touches: tuple[str, ...] = ()
    shape: str = ""
    tensor: str = ""
    line_of: str = ""
    file: str = ""

    @property
    def name(self) -> str:
        return f"{self.op}-{self.rung}-{self.old} -> {self.new or 'nothing'}"

    @property
    def source(self) -> str:
        return self.file or f"{self.op}.cu"

    def changed(self) -> set[str]:
        """The rungs that the edit changes, as "operation/rung"."""
        rungs = (self.rung, *self.touches)
        return {rung if "/" in rung else f"{self.op}/{rung}" for rung in rungs}

    def apply(self, text: str) -> str:
        start = self._find(text, self.behind, 0)
        at = self._find(text, self.old, start)
        return text[:at] + self.new + text[at + len(self.old) :]

    def line(self, text: str) -> int:
        """The line at fault, the same before and after the edit."""
        start = self._find(text, self.behind, 0)
        return text.count("\n", 0, self._find(text, self.line_of or self.old, start)) + 1

    def _find(self, text: str, part: str, start: int) -> int:
        at = text.find(part, start)
        assert at >= 0, f"{self.source} has no {part!r} behind {self.behind!r}: update this test"
        return at


SWAPPED = (
    Edit(
        "matmul",
        "naive",
        "B[k * step_k + col * step_col]",
        "B[col * step_k + k * step_col]",
        behind="matmul_naive_kernel(",
        shape="M=64,N=64,K=64",
    ),
    Edit(
        "matmul",
        "tiled",
        "A_smem[ty][k] * B_smem[k][tx]",
        "A_smem[k][ty] * B_smem[k][tx]",
        touches=("tiled_16",),
    ),
    Edit(
        "softmax_backward",
        "row_in_registers",
        "group_reduce(sum, Sum(), lanes)",
        "group_reduce(sum, Sum(), lanes / 2)",
        shape="rows=9,cols=200",
    ),
    Edit(
        "attention",
        "flash",
        "&KV_smem[tx + LANES * j][d]",
        "&KV_smem[tx * TN + j][d]",
    ),
)

UNGUARDED = (
    Edit(
        "matmul",
        "coalesced",
        "if (row >= p.M || col >= p.N) return;",
        "",
        behind="matmul_coalesced_kernel(",
        shape="M=95,N=64,K=40",  # one row too many, which lies in the guard band
        tensor="a",
        line_of="acc +=",
    ),
    Edit(
        "matmul",
        "tiled",
        "row < p.M && k0 + tx < p.K ? A[row * p.lda + k0 + tx] : 0.0f",
        "A[row * p.lda + k0 + tx]",
        touches=("tiled_16",),
        tensor="a",
    ),
    Edit(
        "matmul",
        "tiled",
        "if (row < p.M && col < p.N) C[row",
        "C[row",
        touches=("tiled_16",),
        shape="M=95,N=64,K=40",  # one row too many, which lies in the guard band
        tensor="out",
    ),
    Edit(
        "softmax",
        "naive",
        "if (row >= p.rows) return;",
        "",
        tensor="x",
        line_of="m = fmaxf(",
    ),
    Edit(
        "softmax",
        "coarsened",
        "col + (COARSENING - 1) * NUM_THREADS < cols",
        "col < cols",
        shape="rows=1,cols=2298",  # what is written too far lies in no other row
        tensor="x",
        line_of="x_frag[i] = x[col",
    ),
    Edit(
        "softmax_backward",
        "naive",
        "if (row >= p.rows) return;",
        "",
        tensor="dy|y",
        line_of="sum += term(",
    ),
    Edit(
        "softmax_backward",
        "vectorized",
        "if (threadIdx.x < split.edges) {",
        "{",
        behind="softmax_backward_vectorized_kernel(",
        shape="rows=1,cols=2101",  # what is read too far lies in no other row
        tensor="dy|y",
        line_of="sum = term(",
    ),
    Edit(
        "softmax_backward",
        "row_in_registers",
        "exists ? p.cols : 0",
        "p.cols",
        shape="rows=9,cols=200",  # eight rows in a block
        tensor="dy|y",
        line_of="dy_frag[v] = load_vector(",
    ),
    Edit(
        "attention",
        "flash",
        "row < rows ? src[row * ld + d] : 0.0f",
        "src[row * ld + d]",
        tensor="q|k|v",
    ),
)

WRONG_FORMULA = (
    Edit("softmax", "naive", "const float inverse = 1.0f / sum", "const float inverse = sum"),
    Edit(
        "softmax_backward",
        "block_per_row",
        "sum += term(p, dy[col], y[col])",
        "sum = term(p, dy[col], y[col])",
        behind="softmax_backward_block_per_row_kernel(",
    ),
    Edit("attention", "flash", "acc_o[i][c] *= alpha", "acc_o[i][c] *= 1.0f"),
    Edit(
        "attention",
        "flash",
        "< seen ?",
        "<= seen ?",
        behind="attention_flash_kernel(",
        shape="B=1,H=1,Nq=40,Nk=40,D=32,causal=1",
    ),
)


# Which rungs run the barriers of a file; checked is the one whose kernel has it, else the first.
BARRIER_USERS = {
    "matmul.cu": ("matmul/tiled", "matmul/tiled_16"),
    "softmax.cu": ("softmax/block_per_row", "softmax/coarsened"),
    "softmax_cub.cu": ("softmax/cub",),
    "softmax_vectorized.cu": ("softmax/cluster", "softmax/cluster_pipelined"),
    "softmax_backward.cu": ("softmax_backward/cluster",),
    "softmax.cuh": (
        "softmax_backward/block_per_row",
        "softmax_backward/vectorized",
        "softmax_backward/row_in_registers",
        "softmax/warp_shuffles",
        "softmax/online",
        "softmax/vectorized",
        "softmax/row_in_registers",
        "softmax/cluster",
        "softmax/cluster_pipelined",
    ),
    "attention.cu": ("attention/flash",),
}


@functools.cache
def barriers() -> tuple[Edit, ...]:
    """The removal of each barrier and each wait for copies in turn."""
    edits = []
    for file, rungs in BARRIER_USERS.items():
        text = (kernels_dir() / file).read_text()
        for match in BARRIER.finditer(text):
            checked = next((r for r in rungs if _in_kernel(text, match.start(), r)), rungs[0])
            op, _, rung = checked.partition("/")
            others = tuple(r for r in rungs if r != checked)
            shape = LONG_ROW if rung.startswith("cluster") else ""
            edits.append(Edit(op, rung, match[0], "", touches=others, shape=shape, file=file))
    assert len(edits) >= 18
    return tuple(edits)


def _in_kernel(text: str, at: int, rung: str) -> bool:
    """Whether a place lies in a rung's kernel. ``rung``: operation/name."""
    start = text.find(f" {rung.replace('/', '_')}_kernel(const")
    return 0 <= start < at < text.find("\n}", start)


def all_edits() -> tuple[Edit, ...]:
    return SWAPPED + UNGUARDED + WRONG_FORMULA + barriers()


def builds(edits: Iterable[Edit]) -> list[list[Edit]]:
    """Edits packed into as few builds as may be: no two of a build change the same rung."""
    packed: list[list[Edit]] = []
    for edit in edits:
        for build in packed:
            if not any(edit.changed() & other.changed() for other in build):
                build.append(edit)
                break
        else:
            packed.append([edit])
    return packed


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
            build = next(build for build in builds(all_edits()) if edit in build)
            self._run(build, target)
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
        "-m", "tests.wrong_kernels", target, json.dumps(requests), WORKBENCH_KERNELS=str(kernels)
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


# One barrier in three; each is a build of its own.
@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(edit, id=edit.name, marks=[pytest.mark.full] if i % 3 else [])
        for i, edit in enumerate(barriers())
    ],
)
def test_missing_barrier(laboratory, edit):
    """On the simulator alone, which sees that nothing orders the accesses; a GPU may be lucky."""
    outcome = laboratory.outcome(edit, "simulator")
    assert_reported(outcome, edit, "simulator")
    found = r"(racecheck|initcheck): |memcheck: .* which may not have started"
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
