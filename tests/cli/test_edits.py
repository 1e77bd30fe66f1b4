"""The scripts with edited kernels: mistakes and their reports."""

import re
from pathlib import Path

import pytest

from tests.support import finished, python
from workbench.operators import builds
from workbench.toolchain import BuildError

SMALL = ("--target", "simulator", "--shape", "M=40,N=50,K=60")


def script(*arguments: str, **environment: str) -> tuple[int, str, str]:
    return finished(python("test_matmul.py", *SMALL, *arguments, **environment), seconds=300)


COPIED_LINE = '{"tiled", matmul_tiled, BOTH},'
COPY = COPIED_LINE.replace("tiled", "my_tiled", 1)
TYPING_ERROR = (COPIED_LINE, '{"tiled", matmul_tilde},')


@pytest.mark.full
def test_a_syntax_error_is_the_compilers_message_alone(edited):
    kernels = edited(TYPING_ERROR)
    status, out, err = script(**kernels)
    assert status == 1
    assert re.search(r"matmul\.cu:\d+.*error.*matmul_tilde", err)
    assert "Traceback" not in out + err


@pytest.mark.full
def test_a_syntax_error_ends_pytest_with_the_message_once(edited):
    kernels = edited(TYPING_ERROR)
    child = python("-m", "pytest", "test_matmul.py", "test_softmax.py", **kernels)
    status, out, err = finished(child, seconds=300)
    assert status == 1
    assert len(re.findall(r"matmul\.cu:\d+.*error.*matmul_tilde", out + err)) == 1
    assert "Traceback" not in out + err
    assert "no tests ran" in out


@pytest.mark.full
def test_a_wrong_rung_has_exit_status_1(edited):
    kernels = edited(("__syncthreads();  // both tiles are complete", "// nothing"))
    without = {"WORKBENCH_SIMULATOR": "checks=memcheck"}  # they would find it first
    status, out, err = script("--kernel", "tiled", **kernels, **without)
    assert status == 1, err
    assert re.search(r"^tiled +WRONG$", out, flags=re.MULTILINE)
    assert "WRONG  matmul tiled on the simulator: M=134,N=139,K=85" in out
    assert re.search(r"worst +out\[\d+, \d+\]: got", out)


@pytest.mark.full
def test_mistakes_that_a_square_shape_hides_and_a_copied_rung(edited):
    """Swapped guards: right for M = N, in multiples of a tile.

    A copy of another rung is built, checked and listed along with them.
    """
    kernels = edited(
        ("if (row < p.M && col < p.N) write", "if (row < p.N && col < p.M) write"),
        ("if (row >= p.M || col >= p.N) return;", "if (row >= p.N || col >= p.M) return;"),
        (COPIED_LINE, COPIED_LINE + COPY),
    )
    status, out, err = script("--shape", "M=64,N=64,K=64", **kernels)
    assert status == 1, err
    wrong = ("naive", "coalesced", "tiled_16", "tiled", "my_tiled")
    for rung in wrong:
        assert len(re.findall(rf"^{rung} +WRONG$", out, flags=re.MULTILINE)) == 2
        assert out.count(f"WRONG  matmul {rung} on the simulator: M=134,N=139,K=85") == 1


@pytest.mark.full
def test_a_bad_name_in_the_table_is_one_error(edited):
    kernels = edited((COPIED_LINE, COPIED_LINE * 2))
    status, out, err = script(**kernels)
    assert status == 1
    assert "Traceback" not in out + err
    assert "kernels/matmul.cu: the table has two rungs named 'tiled'" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiled", "the table has two rungs named 'tiled'"),
        ("cublas", "the table has a rung named 'cublas', which is"),
        ("my tiled", "the table has a rung named 'my tiled'"),
        ("my\ttiled", "the table has a rung named 'my\\\\ttiled'"),
        ("my\ntiled", "the table has a name with a line break"),
        ("", "the table has a rung named ''"),
    ],
)
def test_names_that_no_rung_may_have(name, words):
    table = "".join(f"{rung}\tfloat32\t\t1\t0\t\n" for rung in ("tiled", name))
    with pytest.raises(BuildError, match=f"matmul.cu: {words}"):
        builds._parse("matmul", "simulator", table.encode())


@pytest.mark.full
def test_a_bad_name_ends_pytest_with_the_error_once(edited):
    kernels = edited((COPIED_LINE, COPIED_LINE * 2))
    status, out, err = finished(python("-m", "pytest", "test_matmul.py", **kernels), seconds=300)
    assert status == 1
    assert (out + err).count("the table has two rungs named 'tiled'") == 1
    assert "Traceback" not in out + err


def test_a_ladder_that_the_folder_of_kernels_lacks(monkeypatch):
    without = builds.Extension("simulator", "a_name", Path("a.so"), Path("."), None, {}, int)
    monkeypatch.setattr(builds, "_current", {"simulator": without})
    with pytest.raises(BuildError, match=r"^there are no kernels for softmax: no .*softmax\.cu$"):
        builds.rungs("softmax")


@pytest.mark.full
def test_load_kernels_notices_edits(edited):
    """In one process: a rung is added while it runs."""
    kernels = edited()
    program = f"""
import build, torch
from pathlib import Path
file = Path({kernels["WORKBENCH_KERNELS"]!r}) / "matmul.cu"
a = torch.ones(40, 40)
for old, new in (("", ""), ({COPIED_LINE!r}, {COPIED_LINE + COPY!r})):
    file.write_text(file.read_text().replace(old, new))
    kernels = build.load_kernels("simulator")
    name = [rung.name for rung in kernels.rungs("matmul") if "tiled" in rung.name][-1]
    print(name, float(kernels.matmul(a, a, kernel=name)[3, 4]))
"""
    status, out, err = finished(python("-c", program, **kernels), seconds=300)
    assert status == 0, err
    assert out.splitlines()[-2:] == ["tiled 40.0", "my_tiled 40.0"]


def test_without_the_packages_the_scripts_say_what_to_do():
    """-S leaves out site-packages."""
    for program in ("test_matmul.py", "test_softmax.py", "test_attention.py", "build.py"):
        status, out, err = finished(python("-S", program, PYTHONPATH=""))
        assert (status, out) == (1, "")
        assert err.count("\n") == 1
        assert "has no torch, " in err
        assert "pip install -r requirements.txt" in err
