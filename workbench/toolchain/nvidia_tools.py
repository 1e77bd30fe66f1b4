"""Nsight Compute (ncu) and compute-sanitizer: where they are, and what to do if they cannot run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from . import tools
from .errors import Failure

NO_PERMISSION = "ERR_NVGPUCTRPERM"
_TOOLKIT = "it is part of the CUDA toolkit: add its bin folder to PATH"
ADVICE = {
    "ncu": "install Nsight Compute, or add its folder to PATH",
    "compute-sanitizer": f"{_TOOLKIT}, or pip install 'cuda-toolkit[sanitizer]==13.0.3'",
    "nvcc": _TOOLKIT,
    NO_PERMISSION: (
        "the driver lets only administrators read performance counters: run as root (in a "
        "container: with --cap-add=SYS_ADMIN), or load the nvidia module with "
        "NVreg_RestrictProfilingToAdminUsers=0, in a file of /etc/modprobe.d"
    ),
}


def find(tool: str) -> Path:
    """The program: on PATH, or where it is usually installed.

    Raises:
        Failure: it is not there; the text says where it was looked for, and how to get it.
    """
    on_path = shutil.which(tool)
    if on_path:
        return Path(on_path)
    for folder in _folders():
        if os.access(folder / tool, os.X_OK):
            return folder / tool
    raise Failure(
        f"there is no {tool} on PATH, in CUDA_HOME, /usr/local/cuda, /opt/nvidia or a wheel: "
        f"{ADVICE[tool]}"
    )


def _folders() -> Iterator[Path]:
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for root in map(Path, [*roots, "/usr/local/cuda"]):
        yield root / "bin"
        yield from sorted(root.glob("nsight-compute*"), reverse=True)
    yield from sorted(Path("/opt/nvidia/nsight-compute").glob("*"), reverse=True)
    for folder in sys.path:
        yield Path(folder or ".") / "nvidia" / f"cu{tools.SIMULATOR_CUDA}" / "bin"
