"""The private toolkit folder that PyTorch gets as CUDA_HOME.

PyTorch's load() looks for a CUDA toolkit in CUDA_HOME, /usr/local/cuda and next to `which nvcc`; a
CPU build of PyTorch looks nowhere, and none looks into the wheels. It then links -lcudart,
-lc10_cuda and -ltorch_cuda, which the wheels and a CPU build do not have under these names. So each
target gets a small folder with exactly what load() needs:

  bin/nvcc   a script that runs the real nvcc (through a link, nvcc would not find its own parts)
  include    a link to the toolkit's headers
  lib64/     GPU: libcudart.so, a link to NVIDIA's runtime
             simulator: libcudart.so, libc10_cuda.so, libtorch_cuda.so, all three empty; the
             simulator's library and archive are named on the link line itself, so that a new
             simulator relinks
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import fingerprints, tools
from .errors import BuildError
from .paths import REPO, cache_dir, writable

# Variables that would redirect load(). The architecture is always given in full, so
# TORCH_CUDA_ARCH_LIST has no effect; PYTORCH_NVCC would bypass the folder.
IGNORED_VARIABLES = ("TORCH_CUDA_ARCH_LIST", "PYTORCH_NVCC")


def private_toolkit(toolkit: tools.Toolkit, target: str) -> Path:
    """Create (once) and return the folder for `target`, "gpu" or "simulator"."""
    identity = tools.identity(toolkit.nvcc)
    folder = cache_dir() / "toolkit" / f"{target}_{fingerprints.digest(toolkit, identity)}"
    if (folder / "complete").exists():
        return folder
    writable(folder / "bin")
    writable(folder / "lib64")
    # ccache compares scripts, not what they run, so this has nvcc's version and time.
    script = f'exec {shlex.quote(str(toolkit.nvcc))} "$@"  # {toolkit.version} {identity[2]}'
    _file(folder / "bin" / "nvcc", f"#!/bin/sh\n{script}\n")
    _link(folder / "include", toolkit.include)
    if target == "gpu":
        _link(folder / "lib64" / "libcudart.so", _cudart(toolkit))
    else:
        for name in ("libcudart.so", "libc10_cuda.so", "libtorch_cuda.so"):
            _file(folder / "lib64" / name, "/* a linker script: nothing to link */\n")
    _file(folder / "complete", "")
    return folder


def _cudart(toolkit: tools.Toolkit) -> Path:
    """NVIDIA's runtime library; the wheels have no libcudart.so, only libcudart.so.13."""
    for folder in toolkit.libraries:
        for name in ("libcudart.so", f"libcudart.so.{toolkit.major}"):
            if (folder / name).exists():
                return folder / name
    looked = ", ".join(map(str, toolkit.libraries)) or str(toolkit.root)
    raise BuildError(
        f"the CUDA runtime (libcudart.so) is not in {looked}.\nInstall it with:\n  {tools.PIP_LINE}"
    )


def _file(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(0o755)
    temporary.replace(path)


def _link(path: Path, to: Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    temporary.replace(path)


@contextmanager
def shown_to_torch(folder: Path | None, ninja: Path) -> Iterator[None]:
    """Let PyTorch build with this folder as CUDA_HOME inside the block; restore it afterwards.

    folder: None for a build without CUDA.
    """
    from torch.utils import cpp_extension

    changes = _changes(ninja)
    before = {name: os.environ.get(name) for name in changes}
    home = cpp_extension.CUDA_HOME
    try:
        cpp_extension.CUDA_HOME = str(folder) if folder else None
        _set_environment(changes)
        yield
    finally:
        cpp_extension.CUDA_HOME = home
        _set_environment(before)


def environment_of_builds(ninja: Path) -> dict[str, str]:
    """The environment in which the compilers of a build run."""
    changed = {**os.environ, **_changes(ninja)}
    return {name: value for name, value in changed.items() if value is not None}


def _changes(ninja: Path) -> dict[str, str | None]:
    """What a build changes in the environment; None removes a variable."""
    changes: dict[str, str | None] = {name: None for name in IGNORED_VARIABLES}
    if "CXX" in os.environ:  # which PyTorch takes for one word
        changes["CXX"] = str(tools.find_cxx()) if os.environ["CXX"].strip() else None
    if os.environ.get("WORKBENCH_SANITIZE"):
        changes["LD_PRELOAD"] = None  # nvcc crashes with a sanitizer's library
    changes["PATH"] = f"{ninja.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if tools.find_ccache():
        changes["CCACHE_BASEDIR"] = os.environ.get("CCACHE_BASEDIR", str(REPO))
        changes["CCACHE_COMPILERCHECK"] = os.environ.get("CCACHE_COMPILERCHECK", "content")
        if unseen := [v for v in tools.environment() if v.startswith("NVCC_")]:
            own = os.environ.get("CCACHE_NAMESPACE", "")
            changes["CCACHE_NAMESPACE"] = own + fingerprints.digest(unseen)  # nvcc's own variables
    return changes


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
