"""--against: the kernels of a git revision beside those of the working tree."""

import re
import shutil
import subprocess
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch

from tests.conftest import git
from workbench.cli.main import main
from workbench.operators.transpose import transpose
from workbench.toolchain import revisions
from workbench.toolchain.paths import kernels_from

STORE = "tile.y[n * p.ldy + m] = tile_smem[threadIdx.x][i ^ threadIdx.x];"
LOAD = "tile_smem[i][threadIdx.x ^ i] ="
ARGUMENTS = ("--target", "simulator", "--shape", "M=256,N=512", "--sample", "4")


def against(capsys, *more: str, operator: str = "transpose") -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(operator, ["--against", *more])
    return (status, *capsys.readouterr())


def replace(file, *replacements: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    file.write_text(text)


def test_nothing_was_edited(transpose_kernels, capsys):
    status, out, _ = against(capsys, *ARGUMENTS)
    assert status == 0
    assert re.search(r"^against HEAD: [0-9a-f]{10} The ladder as it was$", out, re.M)
    assert out.endswith("the kernels of transpose are the same\n")


def test_exactly_what_changed_and_the_lines_that_did_it(transpose_kernels, capsys):
    """Without the swizzle, a column is in one bank: 32 wavefronts for each of 128 * 32 requests."""
    file = transpose_kernels / "transpose.cu"
    replace(file, (STORE, f"\n    {STORE.replace('i ^ threadIdx.x', 'i')}"))
    replace(file, (LOAD, "tile_smem[i][threadIdx.x] ="))
    status, out, _ = against(capsys, "HEAD", *ARGUMENTS)
    assert status == 0
    assert re.search(r"^swizzled: SLOWER by estimate: [\d.]+ us -> [\d.]+ us \(\+\d", out, re.M)
    assert re.search(r"^  shared_load_wavefronts +4.10 k -> +131 k  x32$", out, re.M)
    assert "global_load_sectors" not in out  # which did not change
    where = next(
        i
        for i, line in enumerate(file.read_text().splitlines(), 1)
        if "tile_smem[threadIdx.x][i];" in line and i > 150
    )
    assert re.search(rf"^    transpose\.cu:{where - 1}-{where}  edited$", out, re.M)
    assert "shared load wavefronts 4.10 k -> 131 k (x32)" in out
    assert "4 rungs with the same instructions: naive, tiled, padded, vectorized" in out


def test_a_rung_that_the_revision_lacks(transpose_kernels, capsys):
    file = transpose_kernels / "transpose.cu"
    line = '{"swizzled", transpose_swizzled, ALL},'
    replace(file, (line, f"{line}\n    {line.replace('swizzled', 'mine', 1)}"))
    status, out, _ = against(capsys, *ARGUMENTS, "--kernel", "mine", "padded")
    assert status == 0
    assert re.search(r"^mine: not in HEAD; now [\d.]+ us$", out, re.M)
    assert re.search(r"^padded: SAME by estimate", out, re.M)
    assert "same instructions" not in out


@pytest.mark.full
def test_a_changed_constant_is_a_build_of_its_own(transpose_kernels, capsys):
    """Host code differs: which rungs changed is not known, all are measured."""
    replace(transpose_kernels / "transpose.cu", ("TILE_ROWS = 8;", "TILE_ROWS = 16;"))
    status, out, _ = against(capsys, *ARGUMENTS, "--kernel", "naive", "vectorized")
    assert status == 0
    naive = out[out.index("naive: ") : out.index("vectorized: ")]
    assert re.search(r"^naive: (SAME|FASTER|SLOWER) by estimate", naive)
    assert "(new)" not in naive.partition("by line:")[2]
    assert re.search(r"^vectorized: SAME by estimate.*\n  no counter changed$", out, re.M)


def test_a_wrong_rung_is_told_and_the_status_is_1(transpose_kernels, capsys):
    replace(transpose_kernels / "transpose.cu", (STORE, "tile.y[n * p.ldy + m] = T(1);"))
    status, out, _ = against(capsys, *ARGUMENTS)
    assert status == 1
    assert re.search(r"swizzled: now\s+WRONG  transpose swizzled", out)


def test_the_revisions_code_runs_in_its_block_alone(transpose_kernels, capsys):
    """Afterwards calls run the kernels of the working tree again."""
    file = transpose_kernels / "transpose.cu"
    replace(file, (STORE, f"{STORE.replace('=', '= T(2) *')}"))
    status, out, _ = against(capsys, *ARGUMENTS, "--kernel", "swizzled")
    assert (status, "swizzled: now" in out) == (1, True)
    x = torch.arange(12, dtype=torch.int8).reshape(3, 4)
    assert torch.equal(transpose(x, kernel="swizzled"), 2 * x.T)


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("nonsense", "'nonsense' is no revision of"),
        ("--all", "'--all' is no revision of"),
        ("", "'' is no revision of"),
        ("empty", "empty has no folder kernels"),
    ],
)
def test_revisions_that_are_none(transpose_kernels, capsys, revision, words):
    if revision == "empty":
        branch_without_files(transpose_kernels.parent, revision)
    status = main("transpose", [f"--against={revision}", *ARGUMENTS])
    err = capsys.readouterr().err
    assert status == 2
    assert words in err and err.count("\n") == 1


def branch_without_files(root: Path, name: str) -> None:
    def said(*words: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
        )
        return done.stdout.strip()

    git(root, "branch", "-f", name, said("commit-tree", said("mktree"), "-m", "nothing"))


def test_the_top_of_a_repository(tmp_path, transpose_kernels):
    folder = tmp_path / "top"
    shutil.copytree(transpose_kernels, folder)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    with kernels_from(folder):
        found = revisions.revision("HEAD")
    assert (found.kernels / "transpose.cu").exists() and found.bindings is None


def test_kernels_outside_of_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with (
        kernels_from(tmp_path),
        pytest.raises(ArgumentTypeError, match="is in no git repository: not a"),
    ):
        revisions.revision("HEAD")
