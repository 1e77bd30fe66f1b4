"""Builds: what goes wrong in them, one section for each row of symptoms that users report."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import REPO, Project, finished, python
from workbench import toolchain
from workbench.toolchain import extension, fingerprints, locks, toolkit, tools


def build_folder(cache: Path, name: str = "workbench_simulator") -> Path:
    (folder,) = (cache / "build").glob(f"{name}_*")
    return folder


def write_in_the_past(path: Path, text: str) -> None:
    """An edit that modification times do not show, as a checkout or a copy can make it."""
    path.write_text(text)
    os.utime(path, (1_000_000_000, 1_000_000_000))


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# Builds hang for ever after a killed build.


def test_rerun_after_kill_in_the_middle_of_a_build(project: Project, cache: Path):
    child = python("-c", project.script())
    compilers: list[int] = []

    def compiling() -> bool:
        folders = list((cache / "build").glob("workbench_simulator_*"))
        compilers[:] = locks._working_in(folders[0]) if folders else []
        return len(compilers) > 2  # ninja and what it started

    wait_for(compiling)
    child.send_signal(signal.SIGKILL)
    child.wait()
    folder = build_folder(cache)
    assert (folder / "lock").exists(), "PyTorch's lock was to be left behind"
    assert (folder / "owner").exists()

    status, out, err = finished(python("-c", project.script()))
    assert status == 0, err
    assert project.answer() == 1
    assert not (folder / "lock").exists()


def test_half_written_object_of_a_killed_build_is_not_linked(project: Project, cache: Path):
    project.build()
    folder = build_folder(cache)
    (folder / "manifest.json").unlink()  # as it is while a build runs
    (folder / "first.cuda.o").write_bytes(b"half an object")
    (project.kernels / "answer.cuh").write_text("constexpr int ANSWER = 2;\n")
    (folder / "lock").touch()
    assert project.answer() == 2


# Two processes build at once.


def test_two_processes_build_at_once(project: Project):
    children = [python("-c", project.script()) for _ in range(2)]
    results = [finished(child) for child in children]
    assert [status for status, _, _ in results] == [0, 0], results
    assert results[0][1] == results[1][1] != ""
    assert sum("built kernels" in err for _, _, err in results) == 1, "only one had to build"


def test_says_whom_it_waits_for(project: Project, cache: Path):
    project.build()
    (project.kernels / "answer.cuh").write_text("constexpr int ANSWER = 2;\n")
    with locks.build_lock(build_folder(cache), "kernels for the simulator"):
        child = python("-c", project.script())
        assert child.stderr is not None
        line = child.stderr.readline()
    assert (
        line == f"waiting for process {os.getpid()}, which is building kernels for the simulator\n"
    )
    status, _, err = finished(child)
    assert status == 0
    assert "waiting" not in err, "said once"


def test_up_to_date_build_waits_for_nobody(project: Project, cache: Path):
    path = project.build()
    with locks.build_lock(build_folder(cache), "something else"):
        status, out, err = finished(python("-c", project.script()), 20)
    assert (status, out, err) == (0, f"{path}\n", "")


# A failed build stays failed in the same process; fixing only a header gives OSError.


@pytest.mark.parametrize("file", ["first.cu", "answer.cuh"])
def test_failed_build_works_when_fixed_in_the_same_process(project: Project, file: str):
    good = (project.kernels / file).read_text()
    (project.kernels / file).write_text(good + "int broken = ;\n")
    for _ in range(2):
        with pytest.raises(toolchain.BuildError, match=r"error: expected an expression"):
            project.build()
    (project.kernels / file).write_text(good)
    assert project.answer() == 1


# A .cuh edit is ignored: stale builds.


def test_header_edit_counts_in_the_same_process(project: Project):
    assert project.answer() == 1
    header = project.kernels / "answer.cuh"
    write_in_the_past(header, "constexpr int ANSWER = 2;\n")
    assert project.answer() == 2
    header.write_text("constexpr int ANSWER = 1;\n")
    assert project.answer() == 1


def test_source_edit_counts_whatever_its_modification_time(project: Project):
    assert project.answer() == 1
    source = project.kernels / "first.cu"
    write_in_the_past(source, source.read_text().replace("return ANSWER", "return 40 + ANSWER"))
    assert project.answer() == 41


def test_header_included_by_a_header_counts(project: Project):
    deeper = project.kernels / "deeper.h"
    deeper.write_text("#define VALUE 5\n")
    header = project.kernels / "answer.cuh"
    header.write_text("#pragma once\n#  include <deeper.h>\nconstexpr int ANSWER = VALUE;\n")
    assert project.answer() == 5
    write_in_the_past(deeper, "#define VALUE 6\n")
    assert project.answer() == 6


def test_fingerprint_of_an_include_named_by_a_macro(tmp_path: Path):
    source = tmp_path / "a.cu"
    source.write_text('#define NAME "b.cuh"\n#include NAME\n')
    (tmp_path / "b.cuh").write_text("1")
    before = fingerprints.of_objects({"a.o": source}, [tmp_path], "")
    (tmp_path / "b.cuh").write_text("2")
    assert fingerprints.of_objects({"a.o": source}, [tmp_path], "") != before


def test_new_ladder_file_and_removed_ladder_file_count(project: Project, cache: Path):
    first = project.build()
    extra = project.kernels / "second.cu"
    extra.write_text('extern "C" int second() { return 2; }\n')
    second = project.build()
    assert b"second" in second.read_bytes()
    extra.unlink()
    assert project.build() == first


def test_other_flags_and_environment_give_another_build(project: Project, monkeypatch):
    first = project.build()
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-DANSWER=7")
    (project.kernels / "answer.cuh").write_text("#ifndef ANSWER\n#define ANSWER 1\n#endif\n")
    assert project.answer() == 7
    monkeypatch.delenv("NVCC_APPEND_FLAGS")
    assert project.answer() == 1
    assert project.build() != first


def test_edit_during_the_build_is_not_published_under_the_old_name(project: Project, monkeypatch):
    real = extension._load
    calls = []

    def edited_meanwhile(recipe, wanted):
        made = real(recipe, wanted)
        if not calls:
            (project.kernels / "answer.cuh").write_text("constexpr int ANSWER = 9;\n")
        calls.append(made)
        return made

    monkeypatch.setattr(extension, "_load", edited_meanwhile)
    assert project.answer() == 9
    assert len(calls) == 2


# Rebuilds are small, and silence means up to date.


def test_only_the_changed_file_is_compiled_again(project: Project, cache: Path):
    second = project.kernels / "second.cu"
    second.write_text('extern "C" int second() { return 2; }\n')
    project.build()
    folder = build_folder(cache)
    before = {o.name: o.stat().st_mtime_ns for o in folder.glob("*.o")}
    assert set(before) == {"first.cuda.o", "second.cuda.o", "bindings.o"}
    second.write_text('extern "C" int second() { return 3; }\n')
    project.build()
    after = {o.name: o.stat().st_mtime_ns for o in folder.glob("*.o")}
    assert {name for name in after if after[name] != before[name]} == {"second.cuda.o"}


def test_build_says_one_line_and_an_up_to_date_build_nothing(project: Project, capfd):
    project.build()
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"built kernels for the simulator in \d+\.\d s\n", err)
    project.build()
    assert capfd.readouterr() == ("", "")


# Errors are buried.


def test_syntax_error_is_all_a_script_shows(project: Project, cache: Path):
    source = project.kernels / "first.cu"
    source.write_text(
        "template <int N>\n__global__ void kernel(float* x) {\n"
        "\tx[0] = N * blokIdx.x;  // a comment\n}\n"
        'extern "C" void first(float* x) { kernel<2><<<1, 1>>>(x) }\n'
    )
    status, out, err = finished(python("-c", project.script()))
    log = build_folder(cache) / "build.log"
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


def test_build_py_shows_a_compile_error_and_nothing_else(project: Project):
    shutil.copy(REPO / "kernels/ladder.h", project.kernels)
    (project.kernels / "first.cu").write_text("int x = y;\n")
    status, out, err = finished(python("build.py", WORKBENCH_KERNELS=str(project.kernels)))
    assert (status, out) == (1, "")
    assert err.startswith(f'{project.kernels}/first.cu:1: error: identifier "y" is undefined\n')
    assert "Traceback" not in err and err.count("error:") == 1


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


# Architecture flags are dropped silently; IndexError where there is no GPU.


@pytest.mark.parametrize("arch_list", [None, "7.0", "nonsense"])
def test_architecture_does_not_depend_on_paths_or_variables(
    project: Project, tmp_path: Path, monkeypatch, arch_list: str | None
):
    """PyTorch drops its -gencode where a flag says "arch"; the workbench gives its own."""
    if arch_list:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", arch_list)
    research = tmp_path / "research-arch"
    shutil.copytree(project.kernels, research)
    path = toolchain.load_extension("simulator", research, project.bindings)
    data = path.read_bytes()
    assert re.findall(rb"\.target (sm_\w+)", data) == [b"sm_90a"]
    assert b".loc" in data, "PTX carries source lines"
    assert os.environ.get("TORCH_CUDA_ARCH_LIST") == arch_list, "the environment is as it was"


def test_missing_gencode_is_noticed(project: Project, cache: Path):
    project.build()
    folder = build_folder(cache)
    extension.check_gencodes(folder, [extension.SIMULATOR_GENCODE])
    commands = (folder / "build.ninja").read_text()
    (folder / "build.ninja").write_text(commands.replace("compute_90a", "compute_80"))
    with pytest.raises(toolchain.BuildError, match="did not reach nvcc"):
        extension.check_gencodes(folder, [extension.SIMULATOR_GENCODE])


# CUDA_HOME is wrong or None; CUDA versions differ.


def fake_toolkit(root: Path, version: str) -> Path:
    release = ".".join(version.split(".")[:2])
    executable(root / "bin/nvcc", f"#!/bin/sh\necho 'Cuda tools, release {release}, V{version}'\n")
    executable(root / "nvvm/bin/cicc", "#!/bin/sh\n")
    (root / "include").mkdir()
    (root / "include/cuda_runtime.h").touch()
    return root


def test_toolkit_of_the_wrong_version_is_passed_over(project: Project, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "old", "12.4.131")))
    first = next(tools.candidates(13))
    assert first.problem == "CUDA 12.4.131, but CUDA 13 is needed"
    assert tools.find_toolkit(13).major == 13
    assert project.answer() == 1
    status, out, _ = finished(python("build.py", "doctor"))
    assert f"passed over: CUDA_HOME={tmp_path}/old: CUDA 12.4.131, but CUDA 13" in out


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_cuda_home_that_is_no_toolkit_is_passed_over(tmp_path: Path, monkeypatch, variable: str):
    monkeypatch.setenv(variable, str(tmp_path))
    problems = {c.place: c.problem for c in tools.candidates(13)}
    assert problems[f"{variable}={tmp_path}"] == "has no bin/nvcc"
    assert tools.find_toolkit(13).root != tmp_path


def test_wrapper_script_on_path_leads_to_the_real_toolkit(tmp_path: Path, monkeypatch):
    real = tools.find_toolkit(13)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    executable(tmp_path / "bin/nvcc", f'#!/bin/sh\nexec {real.nvcc} "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    first = next(tools.candidates(13))
    assert first.place == f"nvcc on PATH ({tmp_path}/bin/nvcc)"
    assert first.toolkit is not None and first.problem == ""
    assert first.toolkit.root.resolve() == real.root.resolve()


def test_no_toolkit_gives_one_message_with_the_pip_line(tmp_path: Path, monkeypatch):
    old = fake_toolkit(tmp_path / "old", "12.4.131")
    monkeypatch.setattr(tools, "_places", lambda: [("CUDA_HOME=old", old / "bin/nvcc", False)])
    with pytest.raises(toolchain.BuildError) as error:
        tools.find_toolkit(13)
    assert str(error.value) == (
        "no CUDA 13 compiler (nvcc) was found. Looked at:\n"
        "  CUDA_HOME=old: CUDA 12.4.131, but CUDA 13 is needed\n"
        f"Install it with:\n  {tools.PIP_LINE}"
    )
    pinned = (REPO / "requirements.txt").read_text()
    assert all(part in pinned for part in re.findall(r"'([^']+)'", tools.PIP_LINE))


def test_compiler_of_the_wheels_builds(project: Project, monkeypatch):
    """The wheels' toolkit, which lacks lib64 and libcudart.so, and a nvcc elsewhere on PATH."""
    wheel = next(c for c in tools.candidates(13) if "wheels" in c.place)
    assert wheel.toolkit is not None, f"{wheel.place}: {wheel.problem}"
    monkeypatch.setenv("CUDA_HOME", str(wheel.toolkit.root))
    assert tools.find_toolkit(13) == wheel.toolkit
    assert project.answer() == 1


def test_gpu_toolkit_of_the_wheels_links_libcudart(cache: Path, tmp_path: Path):
    """-lcudart is not found with the PyPI toolkit: it has only libcudart.so.13."""
    wheel = next(c for c in tools.candidates(13) if "wheels" in c.place).toolkit
    assert wheel is not None
    home = toolkit.private_toolkit(wheel, "gpu")
    source = tmp_path / "version.cpp"
    source.write_text(
        "#include <cuda_runtime_api.h>\n"
        "int main() { int v = 0; return cudaRuntimeGetVersion(&v) || v < 13000; }\n"
    )
    subprocess.run(
        [
            "g++",
            source,
            f"-I{home}/include",
            f"-L{home}/lib64",
            "-lcudart",
            f"-Wl,-rpath,{wheel.libraries[0]}",
            "-o",
            tmp_path / "version",
        ],
        check=True,
    )
    assert subprocess.run([tmp_path / "version"]).returncode == 0


def test_torch_is_left_as_it_was(project: Project):
    from torch.utils import cpp_extension

    before = cpp_extension.CUDA_HOME
    project.build()
    assert cpp_extension.CUDA_HOME == before


def test_gpu_target_without_a_gpu_says_so(project: Project):
    import torch

    if torch.cuda.is_available():
        assert extension.gpu_gencodes()[0].startswith("arch=compute_")
        return
    with pytest.raises(toolchain.BuildError, match="simulator needs none"):
        toolchain.load_extension("gpu", project.kernels, project.bindings)


@pytest.mark.gpu
def test_gpu_target_builds_for_the_device(project: Project, cache: Path):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    path = toolchain.load_extension("gpu", project.kernels, project.bindings)
    commands = (build_folder(cache, "workbench_gpu") / "build.ninja").read_text()
    major, minor = torch.cuda.get_device_capability()
    assert f"sm_{major}{minor}" in commands
    needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout
    assert "libcudart.so.13" in needed and "wbsim" not in needed


# Programs that are missing.


def bare_environment(tmp_path: Path, programs: list[str], share_packages: bool = True) -> str:
    """A Python without a ninja beside it; PATH has only `programs`. Returns the interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    if share_packages:
        packages = Path(pytest.__file__).parents[1]
        (site / "shared.pth").write_text(f"{packages}\n")
    (tmp_path / "bin").mkdir()
    for program in programs:
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    return str(tmp_path / "venv/bin/python")


def run_bare(interpreter: str, *arguments: str) -> tuple[int, str, str]:
    folder = Path(interpreter).parents[2] / "bin"
    environment = {**os.environ, "PATH": str(folder), "PYTHONPATH": str(REPO)}
    child = subprocess.Popen(
        [interpreter, *arguments],
        cwd=REPO,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return finished(child)


def test_missing_ninja(project: Project, tmp_path: Path):
    interpreter = bare_environment(tmp_path, ["c++", "g++", "gcc", "as", "ld", "sh"])
    status, out, err = run_bare(interpreter, "-c", project.script())
    assert (status, out) == (1, "")
    assert err == "ninja was not found. Install it with:\n  pip install ninja\n"
    status, out, err = run_bare(interpreter, "build.py", "doctor")
    assert (status, err) == (1, "")
    assert "NO ninja" in out and "pip install ninja" in out


def test_missing_cpp_compiler(project: Project, tmp_path: Path):
    interpreter = bare_environment(tmp_path, ["ninja", "sh"])
    status, out, err = run_bare(interpreter, "-c", project.script())
    assert (status, out) == (1, "")
    assert err.startswith("the C++ compiler `c++` was not found. Install g++")
    assert err.count("\n") == 1
    status, out, _ = run_bare(interpreter, "build.py", "doctor")
    assert status == 1 and "NO" in out and "apt install g++" in out


def test_doctor_runs_without_any_package(tmp_path: Path, cache: Path):
    interpreter = bare_environment(tmp_path, ["sh", "c++"], share_packages=False)
    status, out, err = run_bare(interpreter, "build.py", "doctor")
    assert (status, err) == (1, "")
    assert "NO PyTorch" in out and "NO ninja" in out and "NO filelock" in out
    assert tools.PIP_LINE in out


def test_doctor_says_what_will_be_used(cache: Path, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    status, out, err = finished(python("build.py", "doctor"))
    assert (status, err) == (0, ""), out
    for subject in ("Python", "PyTorch", "nvcc", "C++", "ninja", "cache", "simulator", "used"):
        assert re.search(rf"^ok {re.escape(subject)} ", out, re.M), out
    assert re.search(r"^(ok|--) GPU ", out, re.M) and re.search(r"^(ok|--) ccache ", out, re.M)
    assert "'8.0' is ignored" in out


# ccache never hits nvcc.


def test_ccache_is_used_where_it_is_installed(project: Project, tmp_path: Path, monkeypatch):
    """PyTorch 2.13 and later puts ccache before nvcc; the workbench sets what makes it hit."""
    log = tmp_path / "ccache.log"
    executable(
        tmp_path / "bin/ccache",
        '#!/bin/sh\nif [ "$1" = --show-stats ]; then echo "  Hits: 3 / 4"; exit; fi\n'
        f'echo "$CCACHE_BASEDIR $CCACHE_COMPILERCHECK $1" >> {log}\nexec "$@"\n',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert project.answer() == 1
    assert re.search(rf"^{re.escape(str(REPO))} content .*/bin/nvcc$", log.read_text(), re.M)
    assert "CCACHE_BASEDIR" not in os.environ
    _, out, _ = finished(python("build.py", "doctor"))
    assert "ccache; Hits: 3 / 4" in out


# The cache.


def test_cache_that_cannot_be_written(tmp_path: Path, project: Project, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(toolchain.BuildError) as error:
        project.build()
    assert str(error.value).startswith(f"cannot write to the cache folder {tmp_path}/file/cache: ")
    assert "WORKBENCH_CACHE" in str(error.value)


def test_read_only_cache(tmp_path: Path, project: Project, cache: Path):
    """What is built already is used; what is not gives one clear error."""
    become = (  # root may write everywhere, until it gives that right up
        "import ctypes\n"
        "header, data = (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)()\n"
        "assert ctypes.CDLL(None).capset(header, data) == 0\n"
    )
    path = project.build()
    folders = [cache, *(p for p in cache.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        built = finished(python("-c", project.script(become)))
        (project.kernels / "answer.cuh").write_text("constexpr int ANSWER = 2;\n")
        refused = finished(python("-c", project.script(become)))
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert built == (0, f"{path}\n", "")
    status, out, err = refused
    assert (status, out) == (1, "")
    assert err.startswith(f"cannot write to the cache folder {cache}: Permission denied\n")
    assert "WORKBENCH_CACHE" in err and "Traceback" not in err


def test_cache_with_a_space_in_its_path(tmp_path: Path, project: Project, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "a cache"))
    with pytest.raises(toolchain.BuildError, match="has a space in its path"):
        project.build()


def test_libraries_that_nobody_used_for_weeks_are_deleted(project: Project, cache: Path):
    first = project.build()
    os.utime(first, (1_000_000_000, 1_000_000_000))
    (project.kernels / "answer.cuh").write_text("constexpr int ANSWER = 2;\n")
    second = project.build()
    assert second.exists() and not first.exists()


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
    import ctypes

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


def test_simulator_compile_error_names_the_line(tmp_path: Path, cache: Path):
    tree = simulator_tree(tmp_path / "simulator")
    (tree / "src/core.cpp").write_text("int f() { return nothing; }\n")
    with pytest.raises(toolchain.BuildError, match=r"src/core\.cpp:1: error: .nothing. was not"):
        toolchain.build_simulator(tree)
    (tree / "src/core.cpp").write_text('extern "C" int wbsim_value() { return 1; }\n')
    assert toolchain.build_simulator(tree).library.exists()


def test_one_simulator_serves_the_extension_even_beside_another_libcudart(project: Project):
    """The extension's CUDA calls are its own: -Bsymbolic, from the archive."""
    path = project.build()
    symbols = subprocess.run(["nm", "-D", path], capture_output=True, text=True).stdout
    assert not re.search(r" [UT] (cuda|__cuda)\w+", symbols), symbols
    needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout
    assert "libwbsim_" in needed and "libcudart" not in needed
