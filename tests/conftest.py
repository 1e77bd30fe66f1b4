"""Fixtures for the toolchain tests: separate caches, a small project, edited kernels."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import simulator
from tests.support import Project, empty_cache
from workbench import toolchain
from workbench.operators import builds
from workbench.toolchain.paths import kernels_from


@pytest.fixture(scope="session")
def simulator_library() -> toolchain.SimulatorLibrary:
    """The simulator, from the run's cache: built at most once.

    It is loaded here, before anything that links against a copy of it: a process that loaded the
    copy first would end up with both.
    """
    simulator.library()
    return toolchain.process_simulator()


@pytest.fixture
def cache(tmp_path: Path, simulator_library, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with only the simulator, used by this process and its children."""
    folder = empty_cache(tmp_path / "cache", simulator_library)
    monkeypatch.setenv("WORKBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory, simulator_library) -> Iterator[Path]:
    """The same, but shared by all tests of a file, which find each other's builds."""
    folder = empty_cache(tmp_path_factory.mktemp("module") / "cache", simulator_library)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WORKBENCH_CACHE", str(folder))
        yield folder


@pytest.fixture
def new_project(tmp_path: Path, cache: Path) -> Project:
    """A small project that was never built, with its own cache."""
    return Project.create(tmp_path)


@pytest.fixture(scope="module")
def module_project(tmp_path_factory, module_cache: Path) -> Project:
    # PyTorch drops its -gencode where a flag has "arch" in it, an include folder's name for one
    project = Project.create(tmp_path_factory.mktemp("research-arch"))
    project.build()
    return project


@pytest.fixture
def project(module_project: Project) -> Project:
    """A small project that was built, without traces of the file's other tests.

    Its constant is 1. A test that needs a compilation gives it a value that no other test of the
    file uses: what was built once is not built again.
    """
    return Project.create(module_project.kernels.parent)


@pytest.fixture(scope="session")
def transposes(tmp_path_factory) -> Path:
    """A folder of kernels to edit: the ladder transpose, in a git repository with one commit."""
    root = tmp_path_factory.mktemp("transposes")
    folder = root / "kernels"
    folder.mkdir()
    for pattern in ("*.h", "*.cuh", "transpose*.cu"):
        for file in toolchain.kernels_dir().glob(pattern):
            shutil.copy2(file, folder)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "The ladder as it was")
    return folder


@pytest.fixture
def transpose_kernels(transposes) -> Iterator[Path]:
    """That folder, as the one whose kernels this process runs; its files are put back."""
    before = {file: file.read_bytes() for file in transposes.iterdir()}
    with kernels_from(transposes):
        builds.reset()
        yield transposes
    for file in transposes.iterdir():
        if file not in before:
            file.unlink()
    for file, content in before.items():
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
    builds.reset()


def git(folder: Path, *words: str) -> None:
    name = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def edited_kernels(tmp_path_factory, simulator_library) -> dict[str, str]:
    """The variables for building edited kernels: a folder for them, and a cache.

    One folder for the whole run, so that only what changed is recompiled.
    """
    root = tmp_path_factory.mktemp("edited")
    (root / "kernels").mkdir()
    return {
        "WORKBENCH_KERNELS": str(root / "kernels"),
        "WORKBENCH_CACHE": str(empty_cache(root / "cache", simulator_library)),
    }


@pytest.fixture
def edited(edited_kernels: dict[str, str]) -> Callable[..., dict[str, str]]:
    """A function that edits a copy of matmul.cu with only its ladder; returns the variables.

    An edit is (old text, new text).
    """

    def edit(*replacements: tuple[str, str]) -> dict[str, str]:
        folder = Path(edited_kernels["WORKBENCH_KERNELS"])
        for file in folder.iterdir():
            file.unlink()
        kernels = toolchain.kernels_dir()
        for pattern in ("*.h", "*.cuh", "matmul_*.cu"):
            for file in kernels.glob(pattern):
                shutil.copy2(file, folder)  # with its time, or ninja compiles what includes it
        text = (kernels / "matmul.cu").read_text()
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        (folder / "matmul.cu").write_text(text)
        return edited_kernels

    return edit
