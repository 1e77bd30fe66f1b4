"""Fixtures for the tests of the toolchain: a cache of their own, a small project."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import Project
from workbench import toolchain


@pytest.fixture(scope="session")
def simulator_library() -> toolchain.SimulatorLibrary:
    """The simulator, from the cache of the whole run: built at most once."""
    return toolchain.process_simulator()


@pytest.fixture
def cache(tmp_path: Path, simulator_library, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache but for the simulator; this process and its children use it."""
    folder = tmp_path / "cache"
    (folder / "lib").mkdir(parents=True)
    for file in (simulator_library.library, simulator_library.archive):
        shutil.copy2(file, folder / "lib")
    monkeypatch.setenv("WORKBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def kernels_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for kernels that are edited: one, so that only what changed is compiled again."""
    return tmp_path_factory.mktemp("edited") / "kernels"


@pytest.fixture
def edited(kernels_copy: Path) -> Callable[..., dict[str, str]]:
    """A function that copies the kernels, edits matmul.cu, and gives what uses them its variable.

    An edit is (old text, new text).
    """

    def edit(*replacements: tuple[str, str]) -> dict[str, str]:
        shutil.copytree(toolchain.kernels_dir(), kernels_copy, dirs_exist_ok=True)
        file = kernels_copy / "matmul.cu"
        text = file.read_text()
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        file.write_text(text)
        return {"WORKBENCH_KERNELS": str(kernels_copy)}

    return edit


@pytest.fixture
def project(tmp_path: Path, cache: Path) -> Project:
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "answer.cuh").write_text("constexpr int ANSWER = 1;\n")
    (kernels / "first.cu").write_text(
        '#include "answer.cuh"\n'
        "__global__ void first_kernel(int* x) { x[0] = ANSWER; }\n"
        'extern "C" int answer() { return ANSWER; }\n'
        'extern "C" void first(int* x) { first_kernel<<<1, 1>>>(x); }\n'
    )
    bindings = tmp_path / "bindings.cpp"
    bindings.write_text('extern "C" int workbench_register(const char*) { return 0; }\n')
    return Project(kernels, bindings)
