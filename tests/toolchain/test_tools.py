"""Compilers, flags and caches: wrong, missing, of another version, or not writable."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import REPO, Project, build_folder, executable, finished, python
from workbench import toolchain
from workbench.toolchain import by_torch, cache, extension, simulator, toolkit, tools

# Architecture flags are dropped silently; IndexError without a GPU.


def targets(library: Path) -> list[bytes]:
    """The architectures of the PTX in a library, which must have line information."""
    data = library.read_bytes()
    assert b".loc" in data
    return re.findall(rb"\.target (sm_\w+)", data)


def test_architecture_does_not_depend_on_paths(project: Project):
    """PyTorch drops its -gencode if a flag contains "arch"; the workbench sets its own."""
    assert "research-arch" in str(project.kernels)
    assert targets(project.build()) == [b"sm_90a"]


@pytest.mark.parametrize(
    ("answer", "arch_list"),
    [pytest.param(31, "7.0", marks=pytest.mark.full), (32, "nonsense")],
)
def test_architecture_does_not_depend_on_variables(
    project: Project, monkeypatch, answer: int, arch_list: str
):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", arch_list)
    project.set_answer(answer)
    assert targets(project.build()) == [b"sm_90a"]
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == arch_list, "the environment is as it was"


def test_missing_gencode_is_noticed(project: Project, module_cache: Path, tmp_path: Path):
    commands = (build_folder(module_cache) / "build.ninja").read_text()
    (tmp_path / "build.ninja").write_text(commands)
    by_torch.check_gencodes(tmp_path, [extension.SIMULATOR_GENCODE])
    (tmp_path / "build.ninja").write_text(commands.replace("compute_90a", "compute_80"))
    with pytest.raises(toolchain.BuildError, match="did not reach nvcc"):
        by_torch.check_gencodes(tmp_path, [extension.SIMULATOR_GENCODE])


# CUDA_HOME is wrong or None; CUDA versions differ.


def fake_toolkit(root: Path, version: str) -> Path:
    release = ".".join(version.split(".")[:2])
    executable(root / "bin/nvcc", f"#!/bin/sh\necho 'Cuda tools, release {release}, V{version}'\n")
    executable(root / "nvvm/bin/cicc", "#!/bin/sh\n")
    (root / "include").mkdir()
    (root / "include/cuda_runtime.h").touch()
    return root


@pytest.mark.full
def test_toolkit_of_the_wrong_version_is_passed_over(project: Project, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "old", "12.4.131")))
    first = next(tools.candidates(13))
    assert first.problem == "CUDA 12.4.131, but CUDA 13 is needed"
    assert tools.find_toolkit(13).major == 13
    project.set_answer(33)
    assert project.answer() == 33
    status, out, _ = finished(python("build.py", "doctor"))
    assert f"skipped: CUDA_HOME={tmp_path}/old: CUDA 12.4.131, but CUDA 13" in out


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


def test_compiler_of_the_wheels_builds(new_project: Project, monkeypatch):
    """The wheels' toolkit, which lacks lib64 and libcudart.so, and an nvcc elsewhere on PATH."""
    wheel = next(c for c in tools.candidates(13) if "wheels" in c.place)
    assert wheel.toolkit is not None, f"{wheel.place}: {wheel.problem}"
    monkeypatch.setenv("CUDA_HOME", str(wheel.toolkit.root))
    assert tools.find_toolkit(13) == wheel.toolkit
    assert new_project.answer() == 1


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
    project.edit_bindings("// to be compiled")
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
def test_gpu_target_builds_for_the_device(new_project: Project, cache: Path):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    path = toolchain.load_extension("gpu", new_project.kernels, new_project.bindings)
    commands = (build_folder(cache, "workbench_gpu") / "build.ninja").read_text()
    major, minor = torch.cuda.get_device_capability()
    assert f"sm_{major}{minor}" in commands
    needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout
    assert "libcudart.so.13" in needed and "wbsim" not in needed


# Programs that are missing.


def bare_environment(tmp_path: Path, programs: list[str], share_packages: bool = True) -> str:
    """A Python without ninja next to it; PATH has only `programs`. Returns the interpreter."""
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


@pytest.mark.full
def test_missing_ninja(new_project: Project, tmp_path: Path):
    interpreter = bare_environment(tmp_path, ["c++", "g++", "gcc", "as", "ld", "sh"])
    status, out, err = run_bare(interpreter, "-c", new_project.script())
    assert (status, out) == (1, "")
    assert err == "ninja was not found. Install it with:\n  pip install ninja\n"
    status, out, err = run_bare(interpreter, "build.py", "doctor")
    assert (status, err) == (1, "")
    assert "NO ninja" in out and "pip install ninja" in out


def test_missing_cpp_compiler(new_project: Project, tmp_path: Path):
    interpreter = bare_environment(tmp_path, ["ninja", "sh"])
    status, out, err = run_bare(interpreter, "-c", new_project.script())
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


@pytest.mark.full
def test_ccache_is_used_where_it_is_installed(new_project: Project, tmp_path: Path, monkeypatch):
    """PyTorch 2.13 and later puts ccache before nvcc; the workbench configures it to hit."""
    log = tmp_path / "ccache.log"
    executable(
        tmp_path / "bin/ccache",
        '#!/bin/sh\nif [ "$1" = --show-stats ]; then echo "  Hits: 3 / 4"; exit; fi\n'
        f'echo "$CCACHE_BASEDIR $CCACHE_COMPILERCHECK $1" >> {log}\nexec "$@"\n',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert new_project.answer() == 1
    assert re.search(rf"^{re.escape(str(REPO))} content .*/bin/nvcc$", log.read_text(), re.M)
    assert "CCACHE_BASEDIR" not in os.environ
    _, out, _ = finished(python("build.py", "doctor"))
    assert "ccache; Hits: 3 / 4" in out


# The cache.


def test_cache_that_cannot_be_written(tmp_path: Path, new_project: Project, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(toolchain.BuildError) as error:
        new_project.build()
    assert str(error.value).startswith(f"cannot write to the cache folder {tmp_path}/file/cache: ")
    assert "WORKBENCH_CACHE" in str(error.value)


def test_read_only_cache(tmp_path: Path, project: Project, module_cache: Path):
    """Existing builds are used; missing ones give one clear error."""
    become = (  # root may write anywhere until it drops that capability
        "import ctypes\n"
        "header, data = (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)()\n"
        "assert ctypes.CDLL(None).capset(header, data) == 0\n"
    )
    path = project.build()
    folders = [module_cache, *(p for p in module_cache.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        built = finished(python("-c", project.script(become)))
        project.edit_bindings("// not to be compiled")
        refused = finished(python("-c", project.script(become)))
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert built == (0, f"{path}\n", "")
    status, out, err = refused
    assert (status, out) == (1, "")
    assert err.startswith(f"cannot write to the cache folder {module_cache}: Permission denied\n")
    assert "WORKBENCH_CACHE" in err and "Traceback" not in err


def test_cache_with_a_space_in_its_path(tmp_path: Path, new_project: Project, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "a cache"))
    with pytest.raises(toolchain.BuildError, match="a cache/.* has a space in its path"):
        new_project.build()


def test_libraries_that_nobody_used_for_weeks_are_deleted(project: Project, monkeypatch):
    monkeypatch.setattr(cache, "_TIDY_SECONDS", 0)
    first = project.build()
    os.utime(first, (1_000_000_000, 1_000_000_000))
    project.edit_bindings("// used")
    second = project.build()
    assert second.exists() and not first.exists()


@pytest.mark.full
def test_the_simulator_builds_without_its_precompiled_header():
    """As with ccache: every source includes what it uses."""
    plan = simulator._plan(REPO / "simulator")
    flags = [*shlex.split(f"{simulator._FLAGS} {plan.includes}"), "-fsyntax-only"]

    def errors(source: Path) -> str:
        command = [str(plan.cxx), *flags, str(source)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert [e for e in pool.map(errors, plan.library_sources + plan.archive_sources) if e] == []
