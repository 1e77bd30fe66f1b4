"""Finds the programs a build needs: the CUDA compiler, the C++ compiler, ninja."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import BuildError

_LAUNCHERS = frozenset({"ccache", "sccache", "distcc", "icecc"})
SIMULATOR_CUDA = 13  # the CUDA major version whose PTX the simulator reads
PIP_LINE = (
    "pip install 'cuda-toolkit[nvcc,cccl,cudart]==13.0.3' 'nvidia-nvvm==13.0.*' "
    "'nvidia-cuda-crt==13.0.*'"
)
DISASSEMBLER_LINE = "pip install 'nvidia-cuda-nvdisasm==13.2.*'"


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that can compile."""

    root: Path
    version: str  # of nvcc, such as 13.0.88
    include: Path
    libraries: tuple[Path, ...]

    @property
    def nvcc(self) -> Path:
        """The compiler itself, never a wrapper."""
        return self.root / "bin" / "nvcc"

    @property
    def major(self) -> int:
        """13 of 13.0.88."""
        return int(self.version.split(".")[0])


@dataclass(frozen=True)
class Candidate:
    """A place where a toolkit was looked for, and what was found there."""

    place: str
    toolkit: Toolkit | None
    problem: str = ""


def identity(program: Path) -> tuple[str, int, int]:
    """An identity that changes whenever the program does; starts no process."""
    real = Path(os.path.realpath(program))
    try:
        stat = real.stat()
    except OSError:
        return (str(real), 0, 0)
    return (str(real), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _output(command: tuple[str, ...], _identity: tuple[str, int, int]) -> str:
    """The output of `command`; cached until the program changes."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def output(program: Path, *arguments: str) -> str:
    """A program's output on stdout and stderr; "" if it does not run."""
    return _output((str(program), *arguments), identity(program))


def _toolkit_at(nvcc: Path) -> Toolkit | str:
    """The toolkit of an nvcc, or what is wrong with it."""
    if not os.access(nvcc, os.X_OK):
        return "has no bin/nvcc"
    found = re.search(r"release [\d.]+, V([\d.]+)", output(nvcc, "--version"))
    if not found:
        return "`nvcc --version` does not work"
    real = Path(os.path.realpath(nvcc))
    root = real.parent.parent
    if not (root / "nvvm" / "bin" / "cicc").exists():
        # A wrapper script: its folder says nothing, so ask the compiler.
        top = re.search(r"#\$ TOP=(.*)", output(nvcc, "--dryrun", "-x", "cu", "-E", os.devnull))
        root = Path(os.path.realpath(top[1].strip())) if top else root
    if not (root / "bin" / "nvcc").exists():
        return f"its root {root} has no bin/nvcc"
    parts = (root, root / "targets" / "x86_64-linux")
    include = next((p / "include" for p in parts if (p / "include/cuda_runtime.h").exists()), None)
    if include is None:
        return f"no include/cuda_runtime.h under {root}"
    libraries = tuple(p / n for p in parts for n in ("lib64", "lib") if (p / n).is_dir())
    return Toolkit(root, found[1], include, libraries)


def _wheel_mismatch() -> str:
    """Report compiler wheels of different CUDA versions, which do not work together."""
    versions = {}
    for wheel in ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt"):
        try:
            versions[wheel] = metadata.version(wheel)
        except metadata.PackageNotFoundError:
            return f"the wheel {wheel} is missing"
    if len({v.rsplit(".", 1)[0] for v in versions.values()}) == 1:
        return ""
    return "wheels of different versions: " + ", ".join(f"{w} {v}" for w, v in versions.items())


def _places() -> list[tuple[str, Path, bool]]:
    """(name, nvcc, is it a wheel) in order of preference."""
    places = []
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(variable):
            places.append((f"{variable}={root}", Path(root) / "bin" / "nvcc", False))
    if on_path := shutil.which("nvcc"):
        places.append((f"nvcc on PATH ({on_path})", Path(on_path), False))
    if Path("/usr/local/cuda").exists():
        places.append(("/usr/local/cuda", Path("/usr/local/cuda/bin/nvcc"), False))
    for folder in dict.fromkeys(sysconfig.get_path(p) for p in ("purelib", "platlib")):
        nvcc = Path(folder) / "nvidia" / f"cu{SIMULATOR_CUDA}" / "bin" / "nvcc"
        places.append(("the wheels of requirements.txt", nvcc, True))
    for folder in sys.path:  # wheels that another environment shares with this one
        nvcc = Path(folder or ".") / "nvidia" / f"cu{SIMULATOR_CUDA}" / "bin" / "nvcc"
        if nvcc.exists() and nvcc not in [p[1] for p in places]:
            places.append((f"the wheels in {folder}", nvcc, True))
    return places


def candidates(major: int) -> Iterator[Candidate]:
    """Every place a toolkit is looked for; those without a problem are usable, best first."""
    for place, nvcc, is_wheel in _places():
        toolkit = _toolkit_at(nvcc)
        if isinstance(toolkit, str):
            problem = "not installed" if is_wheel and not nvcc.exists() else toolkit
            yield Candidate(place, None, problem)
            continue
        problem = _wheel_mismatch() if is_wheel else ""
        if toolkit.major != major:
            problem = f"CUDA {toolkit.version}, but CUDA {major} is needed"
        yield Candidate(place, toolkit, problem)


def find_toolkit(major: int = SIMULATOR_CUDA) -> Toolkit:
    """The first usable toolkit of that CUDA major version; otherwise BuildError with a remedy."""
    looked = []
    for candidate in candidates(major):
        if candidate.toolkit and not candidate.problem:
            return candidate.toolkit
        looked.append(f"  {candidate.place}: {candidate.problem}")
    remedy = f"Install it with:\n  {PIP_LINE}"
    if major != SIMULATOR_CUDA:
        remedy = (
            f"Point CUDA_HOME to a CUDA {major} toolkit, or use PyTorch's CUDA {SIMULATOR_CUDA} "
            "build:\n  pip install -r requirements.txt"
        )
    raise BuildError(
        f"no CUDA {major} compiler (nvcc) was found. Looked at:\n"
        + "\n".join(looked)
        + f"\n{remedy}"
    )


def find_nvdisasm() -> Path:
    """NVIDIA's disassembler: the toolkit's, one on PATH, or a wheel's; Triton has one, too."""
    beside = find_toolkit().root / "bin" / "nvdisasm"
    on_path = shutil.which("nvdisasm")
    inside = (f"nvidia/cu{SIMULATOR_CUDA}/bin", "triton/backends/nvidia/bin")
    folders = dict.fromkeys(
        [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path]
    )
    wheels = (Path(folder or ".") / part / "nvdisasm" for part in inside for folder in folders)
    for place in (beside, *([Path(on_path)] if on_path else []), *wheels):
        if os.access(place, os.X_OK):
            return place
    raise BuildError(
        f"NVIDIA's disassembler nvdisasm was not found: not in {beside.parent}, not on PATH, and "
        f"not in a wheel. Install it with:\n  {DISASSEMBLER_LINE}"
    )


def find_ninja() -> Path:
    """Ninja on PATH, or next to this interpreter (a virtual environment need not be active)."""
    beside = Path(sysconfig.get_path("scripts")) / "ninja"
    found = shutil.which("ninja") or (str(beside) if os.access(beside, os.X_OK) else None)
    if not found:
        raise BuildError("ninja was not found. Install it with:\n  pip install ninja")
    return Path(found)


def find_cxx() -> Path:
    """The C++ compiler: $CXX without what it is launched by, or c++, as for PyTorch."""
    chosen = os.environ.get("CXX", "")
    try:
        words = shlex.split(chosen)
    except ValueError as error:
        raise BuildError(f"CXX is {chosen!r}: {error}. Set it to a C++ compiler.") from None
    names = [word for word in words if Path(word).name not in _LAUNCHERS]
    if words and len(names) != 1:
        raise BuildError(f"CXX is {chosen!r}; expected one program, a C++ compiler, without flags")
    program = names[0] if names else ""
    found = shutil.which(program or "c++") or (not program and shutil.which("g++")) or None
    if not found:
        raise BuildError(
            f"the C++ compiler `{program or 'c++'}` was not found. Install g++ (Debian, Ubuntu: "
            "apt install g++), or set CXX."
        )
    return Path(found)


def find_ccache() -> Path | None:
    """The program ccache, which PyTorch (2.13 and later) uses automatically if it is on PATH."""
    found = shutil.which("ccache")
    return Path(found) if found else None


def environment() -> tuple[str, ...]:
    """The environment variables that affect compilers, with their values."""
    names = (
        "CC",
        "CXX",
        "CPATH",
        "CPLUS_INCLUDE_PATH",
        "LIBRARY_PATH",
        "CUDA_INC_PATH",
        "NVCC_PREPEND_FLAGS",
        "NVCC_APPEND_FLAGS",
    )
    return tuple(f"{n}={os.environ[n]}" for n in names if n in os.environ)
