"""Builds that hang, go stale, or bury their errors: a section per symptom that users report."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import REPO, Project, build_folder, finished, python, wait_for, write_in_the_past
from workbench import toolchain
from workbench.toolchain import fingerprints, library, locks

# Builds hang forever after a killed build.


def test_rerun_after_kill_in_the_middle_of_a_build(new_project: Project, cache: Path):
    child = python("-c", new_project.script())
    compilers: list[int] = []

    def compiling() -> bool:
        folders = list((cache / "build").glob("workbench_simulator_*"))
        compilers[:] = locks._working_in(folders[0]) if folders else []
        return len(compilers) > 2  # ninja and its children

    wait_for(compiling)
    child.send_signal(signal.SIGKILL)
    child.wait()
    folder = build_folder(cache)
    assert (folder / "lock").exists(), "PyTorch's lock should be left behind"
    assert (folder / "owner").exists()

    status, out, err = finished(python("-c", new_project.script()))
    assert status == 0, err
    assert new_project.answer() == 1
    assert not (folder / "lock").exists()


def test_half_written_object_of_a_killed_build_is_not_linked(project: Project, module_cache: Path):
    folder = build_folder(module_cache)
    (folder / "manifest.json").unlink()  # as it is while a build runs
    (folder / "first.cuda.o").write_bytes(b"half an object")
    project.set_answer(21)
    (folder / "lock").touch()
    assert project.answer() == 21


# Two processes build at once.


@pytest.mark.full
def test_two_processes_build_at_once(new_project: Project):
    children = [python("-c", new_project.script()) for _ in range(2)]
    results = [finished(child) for child in children]
    assert [status for status, _, _ in results] == [0, 0], results
    assert results[0][1] == results[1][1] != ""
    assert sum("built kernels" in err for _, _, err in results) == 1, "only one had to build"


@pytest.mark.full
def test_says_whom_it_waits_for(project: Project, module_cache: Path):
    project.edit_bindings("// to be compiled again")
    with locks.build_lock(build_folder(module_cache), "kernels for the simulator"):
        child = python("-c", project.script())
        assert child.stderr is not None
        line = child.stderr.readline()
    assert (
        line == f"waiting for process {os.getpid()}, which is building kernels for the simulator\n"
    )
    status, _, err = finished(child)
    assert status == 0
    assert "waiting" not in err, "said once"


def test_up_to_date_build_waits_for_nobody(project: Project, module_cache: Path):
    path = project.build()
    with locks.build_lock(build_folder(module_cache), "something else"):
        status, out, err = finished(python("-c", project.script()), 20)
    assert (status, out, err) == (0, f"{path}\n", "")


# A failed build stays failed in the same process; fixing only a header gives OSError.


@pytest.mark.parametrize("file", [pytest.param("first.cu", marks=pytest.mark.full), "answer.cuh"])
def test_failed_build_works_when_fixed_in_the_same_process(project: Project, file: str):
    good = (project.kernels / file).read_text()
    (project.kernels / file).write_text(good + "int broken = ;\n")
    for _ in range(2):
        with pytest.raises(toolchain.BuildError, match=r"error: expected an expression"):
            project.build()
    (project.kernels / file).write_text(good + "// right\n")
    assert project.answer() == 1


# A .cuh edit is ignored: stale builds.


def test_header_edit_counts_in_the_same_process(project: Project):
    assert project.answer() == 1
    header = project.kernels / "answer.cuh"
    write_in_the_past(header, "constexpr int ANSWER = 23;\n")
    assert project.answer() == 23
    header.write_text("constexpr int ANSWER = 1;\n")
    assert project.answer() == 1


def test_source_edit_counts_whatever_its_modification_time(project: Project):
    assert project.answer() == 1
    source = project.kernels / "first.cu"
    write_in_the_past(source, source.read_text().replace("return ANSWER", "return 40 + ANSWER"))
    assert project.answer() == 41


def test_header_included_by_a_header_counts(project: Project):
    for name, text in (("outer.h", "#pragma once\n#  include <deeper.h>\n"), ("deeper.h", "\n")):
        (project.kernels / name).write_text(text)
    project.edit_bindings('#include "outer.h"')
    first = project.build()
    write_in_the_past(project.kernels / "deeper.h", 'extern "C" int deeper() { return 6; }\n')
    assert project.build() != first
    assert ctypes.CDLL(str(project.build())).deeper() == 6


def test_fingerprint_of_an_include_named_by_a_macro(tmp_path: Path):
    source = tmp_path / "a.cu"
    source.write_text('#define NAME "b.cuh"\n#include NAME\n')
    (tmp_path / "b.cuh").write_text("1")
    before = fingerprints.of_objects({"a.o": source}, [tmp_path], "")
    (tmp_path / "b.cuh").write_text("2")
    assert fingerprints.of_objects({"a.o": source}, [tmp_path], "") != before


def test_new_ladder_file_and_removed_ladder_file_count(project: Project, module_cache: Path):
    first = project.build()
    extra = project.kernels / "second.cu"
    extra.write_text('extern "C" int second() { return 2; }\n')
    second = project.build()
    assert b"second" in second.read_bytes()
    extra.unlink()
    assert project.build() == first


@pytest.mark.full
def test_other_flags_and_environment_give_another_build(new_project: Project, monkeypatch):
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-DANSWER=7")
    (new_project.kernels / "answer.cuh").write_text("#ifndef ANSWER\n#define ANSWER 1\n#endif\n")
    assert new_project.answer() == 7
    first = new_project.build()
    monkeypatch.delenv("NVCC_APPEND_FLAGS")
    assert new_project.answer() == 1
    assert new_project.build() != first


def test_edit_during_the_build_is_not_published_under_the_old_name(project: Project, monkeypatch):
    real = library._load
    calls = []

    def edited_meanwhile(recipe, wanted, texts):
        made = real(recipe, wanted, texts)
        if not calls:
            project.set_answer(9)
        calls.append(made)
        return made

    project.edit_bindings("// an edit")
    monkeypatch.setattr(library, "_load", edited_meanwhile)
    assert project.answer() == 9
    assert len(calls) == 2


# Rebuilds are small, and silence means up to date.


def test_only_the_changed_file_is_compiled_again(project: Project, module_cache: Path):
    second = project.kernels / "second.cu"
    second.write_text('extern "C" int second() { return 3; }\n')
    project.build()
    folder = build_folder(module_cache)
    before = {o.name: o.stat().st_mtime_ns for o in folder.glob("*.o")}
    assert set(before) == {"first.cuda.o", "second.cuda.o", "bindings.o"}
    second.write_text('extern "C" int second() { return 4; }\n')
    project.build()
    after = {o.name: o.stat().st_mtime_ns for o in folder.glob("*.o")}
    assert {name for name in after if after[name] != before[name]} == {"second.cuda.o"}


def test_an_edit_counts_for_the_files_that_include_it(tmp_path: Path):
    """For the workbench's own files, without a compilation."""
    kernels = shutil.copytree(REPO / "kernels", tmp_path / "kernels")
    sources = [*kernels.glob("*.cu"), *(REPO / "bindings").glob("*.cpp"), REPO / "bindings.cpp"]
    objects = {source.name: source for source in sources}

    def compiled_after_an_edit_of(name: str) -> set[str]:
        before = fingerprints.of_objects(objects, [REPO, kernels], "")
        (kernels / name).write_text((kernels / name).read_text() + "// edited\n")
        after = fingerprints.of_objects(objects, [REPO, kernels], "")
        return {name for name in objects if after[name] != before[name]}

    assert compiled_after_an_edit_of("matmul.cu") == {"matmul.cu"}
    matmul = {name for name in objects if name.startswith("matmul") and name.endswith(".cu")}
    assert compiled_after_an_edit_of("matmul.h") == {*matmul, "matmul.cpp", "attention.cu"}
    softmax = {name for name in objects if name.startswith("softmax") and name.endswith(".cu")}
    assert compiled_after_an_edit_of("softmax.h") == {*softmax, "softmax.cpp", "attention.cu"}
    assert compiled_after_an_edit_of("ladder.h") == objects.keys()


def test_build_says_one_line_and_an_up_to_date_build_nothing(project: Project, capfd):
    project.edit_bindings("// once more")
    project.build()
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"built kernels for the simulator in \d+\.\d s\n", err)
    project.build()
    assert capfd.readouterr() == ("", "")


# Errors are buried.


def test_syntax_error_is_all_a_script_shows(project: Project, module_cache: Path):
    source = project.kernels / "first.cu"
    source.write_text(
        "template <int N>\n__global__ void kernel(float* x) {\n"
        "\tx[0] = N * blokIdx.x;  // a comment\n}\n"
        'extern "C" void first(float* x) { kernel<2><<<1, 1>>>(x) }\n'
    )
    status, out, err = finished(python("-c", project.script()))
    log = build_folder(module_cache) / "build.log"
    assert (status, out) == (1, "")
    assert err == (
        f'{source}:3: error: identifier "blokIdx" is undefined\n'
        "  \tx[0] = N * blokIdx.x;  // a comment\n"
        "  \t           ^\n"
        "  hint: did you mean blockIdx?\n"
        "\n"
        f'{source}:5: error: expected a ";"\n'
        '  extern "C" void first(float* x) { kernel<2><<<1, 1>>>(x) }\n'
        f"  {' ' * 57}^\n"
        "  hint: is a ; missing at the end of the line before?\n"
        "\n"
        f"full log: {log}\n"
    )
    assert "blokIdx" in log.read_text()


@pytest.mark.full
def test_build_py_shows_a_compile_error_and_nothing_else(edited):
    include = '#include "matmul.cuh"'
    text = (REPO / "kernels" / "matmul.cu").read_text()
    line = text[: text.index(include)].count("\n") + 1
    kernels = edited((include, "int x = y;"))
    status, out, err = finished(python("build.py", **kernels))
    assert (status, out) == (1, "")
    first = f'kernels/matmul.cu:{line}: error: identifier "y" is undefined'
    assert err.splitlines()[0].endswith(first)
    assert "Traceback" not in err


def test_cpp_error_and_missing_header_and_missing_function(project: Project):
    good = project.bindings.read_text()
    project.bindings.write_text("int f() {\n  return nothing;\n}\n")
    with pytest.raises(toolchain.BuildError) as error:
        project.build()
    first = str(error.value).splitlines()
    assert re.fullmatch(
        r".*/bindings.cpp:2: error: .nothing. was not declared in this scope", first[0]
    )
    assert first[1:3] == ["    return nothing;", "           ^"]

    project.bindings.write_text(good + "#include <torch/no_such.h>\n")
    with pytest.raises(toolchain.BuildError, match=r"cpp:2: error: torch/no_such.h: No such file"):
        project.build()

    project.bindings.write_text('int away(int);\nextern "C" int f() { return away(1); }\n')
    with pytest.raises(
        toolchain.BuildError,
        match=r"bindings.cpp: error: undefined reference to "
        r".away\(int\)",
    ):
        project.build()


def test_failed_assertion_shows_where_the_template_was_used(project: Project):
    (project.kernels / "first.cu").write_text(
        "template <int N>\n__global__ void kernel() {\n"
        '  static_assert(N % 32 == 0, "N is a multiple of 32");\n}\n'
        "void first() { kernel<33><<<1, 1>>>(); }\n"
    )
    with pytest.raises(toolchain.BuildError) as error:
        project.build()
    text = str(error.value)
    assert 'first.cu:3: error: static assertion failed with "N is a multiple of 32"' in text
    assert "instantiation" in text and "at line 5" in text


def test_error_is_a_short_message_in_a_notebook():
    error = toolchain.BuildError("a.cu:1: error: x\n  the line\n  ^")
    assert error._render_traceback_() == ["a.cu:1: error: x", "  the line", "  ^"]


# The simulator's library.


def simulator_tree(root: Path) -> Path:
    (root / "src/cudart").mkdir(parents=True)
    (root / "include").mkdir()
    (root / "include/value.h").write_text("#define VALUE 1\n")
    (root / "src/core.cpp").write_text(
        '#include "value.h"\n'
        'extern "C" __attribute__((visibility("default"))) int wbsim_value() { return VALUE; }\n'
        "int hidden() { return 2; }\n"
    )
    (root / "src/cudart/names.cpp").write_text(
        'extern "C" int wbsim_value();\n'
        'extern "C" int cudaGetLastError() { return wbsim_value(); }\n'
    )
    return root


def test_simulator_build_is_named_by_content(tmp_path: Path, cache: Path):
    tree = simulator_tree(tmp_path / "simulator")
    first = toolchain.build_simulator(tree)
    assert ctypes.CDLL(str(first.library)).wbsim_value() == 1
    assert toolchain.build_simulator(tree) == first
    write_in_the_past(tree / "include/value.h", "#define VALUE 2\n")
    second = toolchain.build_simulator(tree)
    assert second.library != first.library and second.archive != first.archive
    assert ctypes.CDLL(str(second.library)).wbsim_value() == 2
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", second.library], capture_output=True, text=True
    ).stdout
    assert "wbsim_value" in symbols and "hidden" not in symbols


def test_precompiled_header_is_remade_when_it_changes(tmp_path: Path, cache: Path, monkeypatch):
    monkeypatch.setattr(toolchain.tools, "find_ccache", lambda: None)
    tree = simulator_tree(tmp_path / "simulator")
    (tree / "src/core.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) int wbsim_value() { return VALUE; }\n'
    )
    header = tree / "src/precompiled.h"
    for value in (1, 2):
        header.write_text(f"#define VALUE {value}\n")
        library = toolchain.build_simulator(tree).library
        assert ctypes.CDLL(str(library)).wbsim_value() == value


def test_simulator_compile_error_names_the_line(tmp_path: Path, cache: Path):
    tree = simulator_tree(tmp_path / "simulator")
    (tree / "src/core.cpp").write_text("int f() { return nothing; }\n")
    with pytest.raises(toolchain.BuildError, match=r"src/core\.cpp:1: error: .nothing. was not"):
        toolchain.build_simulator(tree)
    (tree / "src/core.cpp").write_text('extern "C" int wbsim_value() { return 1; }\n')
    assert toolchain.build_simulator(tree).library.exists()


def test_one_simulator_serves_the_extension_even_beside_another_libcudart(project: Project):
    """The extension resolves CUDA calls to its own archive: -Bsymbolic."""
    path = project.build()
    symbols = subprocess.run(["nm", "-D", path], capture_output=True, text=True).stdout
    assert not re.search(r" [UT] (cuda|__cuda)\w+", symbols), symbols
    needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout
    assert "libwbsim_" in needed and "libcudart" not in needed
