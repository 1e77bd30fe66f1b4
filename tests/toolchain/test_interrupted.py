"""Builds that are interrupted, killed, or find a full disk; caches that are damaged."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import Project, build_folder, executable, finished, python, wait_for
from workbench import toolchain
from workbench.toolchain import cache, fingerprints, locks, simulator, tools
from workbench.toolchain.errors import BuildError


def compiling(folder: Path) -> bool:
    folders = list((folder / "build").glob("workbench_simulator_*"))
    return bool(folders) and len(locks._working_in(folders[0])) > 2  # ninja and its children


def end(child: subprocess.Popen[str], how: str, folder: Path) -> None:
    if how == "ctrl-c of Python alone":
        child.send_signal(signal.SIGINT)
    else:  # ninja, not its compilers
        (ninja,) = (
            pid
            for pid in locks._working_in(folder)
            if Path(f"/proc/{pid}/comm").read_text().strip() == "ninja"
        )
        os.kill(ninja, signal.SIGKILL)


@pytest.mark.full
@pytest.mark.parametrize("how", ["ctrl-c of Python alone", "kill of ninja"])
def test_no_compiler_outlives_its_build(how, new_project: Project, cache: Path):
    child = python("-c", new_project.script())
    wait_for(lambda: compiling(cache))
    folder = build_folder(cache)
    end(child, how, folder)
    finished(child)
    assert locks._working_in(folder) == []
    assert not (folder / "owner").exists()
    # What the compilers left half done is not taken for done, whatever the next source.
    new_project.set_answer(3)
    assert new_project.answer() == 3


def log(folder: Path, *names: str) -> None:
    with (folder / ".ninja_log").open("a") as file:
        for i, name in enumerate(names):
            file.write(f"{i}\t{i + 1}\t17\t{name}\thash\n")


def test_a_killed_build_keeps_what_its_compilers_finished(tmp_path: Path):
    wanted = {"a.o": "1", "b.o": "1", "c.o": "1"}
    fingerprints.Manifest(tmp_path).begin(wanted, ())
    for name in wanted:
        (tmp_path / name).write_text("object")
    log(tmp_path, "a.o")  # b.o is half written, and the process is killed
    manifest = fingerprints.Manifest(tmp_path)
    manifest.begin(wanted | {"c.o": "2"}, ("library",))
    assert sorted(path.name for path in tmp_path.glob("*.o")) == ["a.o"]
    (tmp_path / "b.o").write_text("object")
    log(tmp_path, "b.o")
    manifest.finish()
    fingerprints.Manifest(tmp_path).begin(wanted, ())
    assert sorted(path.name for path in tmp_path.glob("*.o")) == ["a.o", "b.o"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "7", '"text"', b"\xff"])
@pytest.mark.parametrize("name", ["manifest.json", "running.json"])
def test_a_damaged_manifest_starts_over(name, content, tmp_path: Path):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(content)
    (tmp_path / "a.o").write_text("of something else")
    manifest = fingerprints.Manifest(tmp_path)
    manifest.begin({"a.o": "1"}, ())
    assert not (tmp_path / "a.o").exists()
    manifest.finish()


def small_simulator(folder: Path) -> Path:
    """Sources that take the simulator's place: one waits until it is interrupted."""
    for name in ("src/runtime/quick.cpp", "src/runtime/slow.cpp", "src/cudart/cudart.cpp"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"int {file.stem}() {{ return 1; }}\n")
    return folder


@pytest.mark.full
def test_an_interrupted_build_of_the_simulator_keeps_its_objects(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    source = small_simulator(tmp_path / "source")
    compiler = shutil.which("c++")
    counted = executable(
        tmp_path / "bin" / "g++",
        "#!/bin/sh\n"
        f'case "$*" in *slow.cpp*) until [ -e {tmp_path}/go ]; do sleep 0.1; done;; esac\n'
        f'case "$*" in *.cpp*) echo "$*" >>{tmp_path}/calls;; esac\nexec {compiler} "$@"\n',
    )
    monkeypatch.setenv("CXX", str(counted))
    monkeypatch.setattr(tools, "find_ccache", lambda: None)
    script = (
        "from workbench.toolchain import command, simulator, tools\nfrom pathlib import Path\n"
        "tools.find_ccache = lambda: None\n"
        f"command.run(lambda: print(simulator.build_simulator(Path({str(source)!r}))))\n"
    )
    child = python("-c", script)
    done = tmp_path / "calls"
    wait_for(lambda: done.exists() and done.read_text().count(".cpp") >= 2)
    wait_for(lambda: len(list((cache / "build").glob("simulator_*/*.o"))) >= 2)
    child.send_signal(signal.SIGINT)
    status, _, err = finished(child)
    assert (status, err.splitlines()[-1]) == (130, "interrupted")
    done.write_text("")
    (tmp_path / "go").touch()
    simulator.build_simulator(source)
    again = [name for name in ("quick", "slow", "cudart") if name in done.read_text()]
    assert "slow" in again and len(again) < 3  # what was finished when it was interrupted is kept


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, cache, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = tmp_path / "made"
    made.write_text("library")
    target = tmp_path / "lib" / "library.so"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", full)
        with pytest.raises(BuildError, match="cannot write .*library.so: No space left on device"):
            toolchain.cache.publish(made, target)
    assert list(target.parent.iterdir()) == []
    with pytest.raises(BuildError, match="^building x failed: No space left on device$"):
        with locks.build_lock(tmp_path / "folder", "x"):
            full()


def test_an_empty_library_is_built_again(project: Project):
    first = project.build()
    first.write_bytes(b"")
    assert project.build() == first and first.stat().st_size > 0
    assert project.answer() == 1


def test_what_is_too_much_loses_what_was_used_least_lately(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_MOST_BYTES", 250)
    now = os.stat(tmp_path).st_mtime
    for folder in ("lib", "estimate"):
        for i, hours in enumerate((0.1, 2, 3, 4, 0.2, 15 * 24)):
            path = tmp_path / folder / f"{i}"
            path.mkdir(parents=True)
            (path / "file").write_bytes(b"x" * 100)
            os.utime(path, (now - 3600 * hours,) * 2)
    cache.forget_unused()
    for folder in ("lib", "estimate"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["0", "4"]


@pytest.mark.parametrize(
    ("value", "program"),
    [
        ("", "c++"),
        ("  ", "c++"),
        ("g++", "g++"),
        ("ccache g++", "g++"),
        ("/usr/bin/ccache 'g++'", "g++"),
    ],
)
def test_compilers_that_cxx_names(value, program, monkeypatch):
    monkeypatch.setenv("CXX", value)
    assert tools.find_cxx().name == program


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("g++ 'x", "CXX is .*: No closing quotation"),
        ("ccache", "CXX is 'ccache'; expected one program"),
        ("g++ -m64", "CXX is 'g.. -m64'; expected one program, a C.. compiler, without flags"),
        ("no-such-compiler", "`no-such-compiler` was not found"),
    ],
)
def test_compilers_that_cxx_does_not_name(value, message, monkeypatch):
    monkeypatch.setenv("CXX", value)
    with pytest.raises(BuildError, match=message):
        tools.find_cxx()


@pytest.mark.parametrize("value", ["", pytest.param("ccache g++", marks=pytest.mark.full)])
def test_builds_with_an_odd_cxx(value, project: Project, monkeypatch):
    monkeypatch.setenv("CXX", value)
    project.set_answer(31 + len(value))
    assert project.answer() == 31 + len(value)


@pytest.mark.parametrize("character", "'\"$&,(:;|")
def test_cache_folders_that_no_build_survives(character, tmp_path, new_project, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / f"a{character}b"))
    with pytest.raises(BuildError) as error:
        new_project.build()
    assert f"a{character}b" in str(error.value) and f"has {character} in" in str(error.value)
    assert "WORKBENCH_CACHE" in str(error.value) and str(error.value).count("\n") == 1


@pytest.mark.parametrize("character", '$:"')
def test_source_folders_that_no_build_survives(character, tmp_path, cache):
    root = tmp_path / f"a{character}b"
    root.mkdir()
    with pytest.raises(BuildError, match=f"has {re.escape(character)} in its path"):
        Project.create(root).build()


@pytest.mark.full
@pytest.mark.parametrize("character", "'&,(;#%é =")
def test_source_folders_that_builds_survive(character, tmp_path, cache):
    root = tmp_path / f"a{character}b"
    root.mkdir()
    assert Project.create(root).answer() == 1
