"""`python build.py doctor`: what is installed, what will be used, and why.

Runs without PyTorch and ninja, since reporting their absence is its purpose.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from types import ModuleType

from . import tools
from .errors import BuildError
from .paths import REPO, cache_dir, kernels_dir, shown, writable
from .toolkit import IGNORED_VARIABLES

Report = Iterator[tuple[str, str, str]]  # ("ok" | "--" | "NO", subject, finding)


def doctor() -> int:
    """Print the report; 0 if kernels can be built, else 1."""
    torch = _torch()
    missing = False
    checks: tuple[Callable[[ModuleType | None], Report], ...] = (
        _python, _pytorch, _gpu, _compiler, _cxx, _ninja, _packages, _ccache, _cache, _simulator,
        _environment, _verdict,
    )  # fmt: skip
    for check in checks:
        try:
            for mark, subject, finding in check(torch):
                _line(mark, subject, finding)
                missing |= mark == "NO"
        except BuildError as error:
            _line("NO", check.__name__[1:], str(error))
            missing = True
    if missing:
        print(
            "\nSomething required is missing. Install everything with:\n"
            "  pip install -r requirements.txt\n"
            "or only the compiler with:\n"
            f"  {tools.PIP_LINE}"
        )
    return int(missing)


def _line(mark: str, subject: str, finding: str) -> None:
    first, *rest = finding.splitlines() or [""]
    print(f"{mark:2} {subject:12} {first}")
    for line in rest:
        print(f"{'':15} {line}")


def _torch() -> ModuleType | None:
    try:
        return import_module("torch")
    except ImportError:
        return None


def _python(torch: ModuleType | None) -> Report:
    yield (
        "ok" if sys.version_info >= (3, 11) else "NO",
        "Python",
        f"{sys.version.split()[0]} ({sys.executable}); 3.11 or later is required",
    )


def _pytorch(torch: ModuleType | None) -> Report:
    if torch is None:
        yield "NO", "PyTorch", "not installed: pip install -r requirements.txt"
        return
    cuda = torch.version.cuda
    kind = f"built for CUDA {cuda}" if cuda else "built for the CPU"
    yield "ok", "PyTorch", f"{torch.__version__}, {kind}"


def _gpu(torch: ModuleType | None) -> Report:
    if torch is None or not torch.cuda.is_available():
        yield "--", "GPU", "none that PyTorch can use: kernels run on the simulator"
        return
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        name = torch.cuda.get_device_name(i)
        yield "ok", "GPU", f"{i}: {name}, compute capability {major}.{minor}"


def _compiler(torch: ModuleType | None) -> Report:
    majors = {"simulator": tools.SIMULATOR_CUDA}
    if torch is not None and torch.cuda.is_available() and torch.version.cuda:
        majors["gpu"] = int(torch.version.cuda.split(".")[0])
    for major in sorted(set(majors.values())):
        chosen = None
        for candidate in tools.candidates(major):
            toolkit, problem = candidate.toolkit, candidate.problem
            if toolkit and not problem and chosen is None:
                chosen = toolkit
                yield (
                    "ok",
                    "nvcc",
                    f"CUDA {toolkit.version}, {toolkit.nvcc}\nused: {candidate.place}",
                )
            else:
                version = toolkit.version if toolkit else ""
                why = problem or f"CUDA {version}, not needed: another takes precedence"
                yield (
                    "--",
                    "",
                    f"{'skipped' if problem else 'also found'}: {candidate.place}: {why}",
                )
        if chosen is None:
            yield "NO", "nvcc", f"no CUDA {major} compiler: {tools.PIP_LINE}"


def _cxx(torch: ModuleType | None) -> Report:
    cxx = tools.find_cxx()
    version = (tools.output(cxx, "--version").splitlines() or ["version unknown"])[0]
    yield "ok", "C++", f"{version} ({cxx})"


def _ninja(torch: ModuleType | None) -> Report:
    ninja = tools.find_ninja()
    yield "ok", "ninja", f"{tools.output(ninja, '--version').strip()} ({ninja})"


def _packages(torch: ModuleType | None) -> Report:
    wanted = re.findall(
        r"^([A-Za-z][\w-]*).*==([\d.]+)$", (REPO / "requirements.txt").read_text(), re.M
    )
    for name, version in wanted:
        if name in ("torch", "ninja", "cuda-toolkit"):
            continue
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield "NO", name, f"not installed: pip install {name}=={version}"
            continue
        if found != version:
            yield "--", name, f"{found}; requirements.txt specifies {version}"


def _ccache(torch: ModuleType | None) -> Report:
    ccache = tools.find_ccache()
    if ccache is None:
        yield (
            "--",
            "ccache",
            (
                "not installed; it avoids recompiling code that was compiled "
                "before\n(Debian, Ubuntu: apt install ccache)"
            ),
        )
        return
    if torch is not None and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        yield "--", "ccache", f"{ccache}, but PyTorch only uses it from 2.13 on"
        return
    statistics = tools.output(ccache, "--show-stats")
    counts = [
        " ".join(line.split())
        for line in statistics.splitlines()
        if re.match(r"\s*(Hits|Misses|cache hit|cache miss)", line)
    ]
    yield "ok", "ccache", f"{ccache}; " + (", ".join(counts[:4]) or "no statistics yet")


def _cache(torch: ModuleType | None) -> Report:
    folder = cache_dir()
    used = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.exists() else 0
    writable(folder)
    yield "ok", "cache", f"{folder} ({used / 1e6:.0f} MB); set WORKBENCH_CACHE to change it"


def _simulator(torch: ModuleType | None) -> Report:
    from .simulator import find_simulator

    built, exists = find_simulator()
    state = "built" if exists else "not built yet; the first use builds it"
    yield "ok", "simulator", f"{state}: {shown(built.library)}"


def _environment(torch: ModuleType | None) -> Report:
    for name in IGNORED_VARIABLES:
        if name in os.environ:
            yield "--", name, f"{os.environ[name]!r} is ignored: the workbench sets this itself"
    for setting in tools.environment():
        yield "--", "environment", f"{setting} is part of every build"
    if "WORKBENCH_KERNELS" in os.environ:
        yield "--", "kernels", f"from WORKBENCH_KERNELS: {kernels_dir()}"


def _verdict(torch: ModuleType | None) -> Report:
    if torch is None:
        yield "NO", "used", "nothing: PyTorch is missing"
    elif torch.cuda.is_available():
        yield "ok", "used", "CUDA tensors: the GPU; CPU tensors: the simulator; default: the GPU"
    else:
        yield "ok", "used", "the simulator, because PyTorch finds no usable GPU"
