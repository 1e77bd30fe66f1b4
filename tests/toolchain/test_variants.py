"""Variants of an extension: edited copies that are built in parallel, beside the original."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

import pytest

from tests.support import Project, finished, python, wait_for
from workbench import toolchain
from workbench.toolchain import locks, variants
from workbench.toolchain.paths import kernels_from
from workbench.toolchain.variants import Variant, Variants

CHECKED = b'constexpr int ANSWER = %d;\nstatic_assert(ANSWER < 10, "answers are small");\n'


def made(project: Project) -> Variants:
    files = {path.name: path.read_bytes() for path in project.kernels.iterdir()}
    with kernels_from(project.kernels):
        return variants.of("simulator", files, project.bindings)


def answers(value: int) -> dict[str, bytes]:
    return {"answer.cuh": CHECKED % value}


def built(makes: Variants, *every: dict[str, bytes]) -> dict[int, Variant | toolchain.BuildError]:
    return dict(makes.built(every, lambda variant: None))


def answer(variant: Variant | toolchain.BuildError) -> int:
    assert isinstance(variant, Variant), variant
    return ctypes.CDLL(str(variant.library)).answer()


def test_variants_differ_and_the_original_stays(project: Project, monkeypatch):
    before = {path: path.read_bytes() for path in project.kernels.iterdir()}
    makes, seen = made(project), []
    found = dict(makes.built([answers(5), {}, answers(12)], seen.append))
    assert [answer(found[i]) for i in (0, 1)] == [5, 1]
    assert 'static assertion failed with "answers are small"' in str(found[2])
    assert sorted(v.library for v in seen) == sorted(found[i].library for i in (0, 1))
    assert [source.name for source in found[0].sources] == ["first.cu"]  # it includes answer.cuh
    assert found[1].sources == ()  # linked from what there is
    assert {path: path.read_bytes() for path in project.kernels.iterdir()} == before

    # What is there is not built again, and an edit of the original does not matter.
    monkeypatch.setattr(variants.waiting, "run", None)
    project.set_answer(3)
    again = built(makes, answers(5), {})
    assert [answer(again[i]) for i in (0, 1)] == [5, 1]


def test_what_was_edited_since_it_was_read_is_not_mixed_with_what_was_not(project: Project):
    files = {path.name: path.read_bytes() for path in project.kernels.iterdir()}
    project.set_answer(31)
    with kernels_from(project.kernels):
        with pytest.raises(toolchain.BuildError, match=r"answer\.cuh has changed .* start again"):
            variants.of("simulator", files, project.bindings)


@pytest.mark.full
def test_an_object_that_the_build_folder_lacks_is_compiled(project: Project, module_cache: Path):
    project.edit_bindings("// another")
    project.build()
    for folder in (module_cache / "build").glob("workbench_simulator_*"):
        (folder / "first.cuda.o").unlink(missing_ok=True)
    assert answer(built(made(project), {})[0]) == 1


@pytest.mark.full
def test_a_cache_that_cannot_be_written_is_an_error_of_each_variant(project: Project, monkeypatch):
    makes = made(project)

    def full(*_: object) -> None:
        raise toolchain.BuildError("cannot write lib/x: No space left on device")

    monkeypatch.setattr(variants, "publish", full)
    found = built(makes, answers(8), answers(9))
    assert [str(found[i]) for i in (0, 1)] == ["cannot write lib/x: No space left on device"] * 2


@pytest.mark.full
def test_ctrl_c_leaves_no_compiler(new_project: Project, cache: Path):
    new_project.build()
    program = (
        "from pathlib import Path\n"
        "from workbench.toolchain import variants, command\n"
        f"folder = Path({str(new_project.kernels)!r})\n"
        "files = {p.name: p.read_bytes() for p in folder.iterdir()}\n"
        "from workbench.toolchain.paths import kernels_from\n"
        "def main():\n"
        "    with kernels_from(folder):\n"
        f"        makes = variants.of('simulator', files, Path({str(new_project.bindings)!r}))\n"
        "    text = b'template <int> int f() { return 1; }\\n' + b''.join(\n"
        "        b'template int f<%d>();\\n' % i for i in range(60000))\n"
        "    edits = [{'answer.cuh': b'constexpr int ANSWER = %d;\\n' % i + text}\n"
        "             for i in range(4)]\n"
        "    list(makes.built(edits, lambda made: None))\n"
        "command.run(main)\n"
    )
    child = python("-c", program)

    def compiling() -> bool:
        folders = (cache / "build").glob("variants_simulator_*/*/")
        return any(len(locks._working_in(folder)) > 1 for folder in folders)

    wait_for(compiling)
    os.kill(child.pid, signal.SIGINT)  # of Python alone
    status, _, err = finished(child)
    assert (status, err) == (130, "interrupted\n")
    assert not compiling()
