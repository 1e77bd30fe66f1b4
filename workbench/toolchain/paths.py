"""Where things are: the repository, the kernels, the cache."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import BuildError

REPO = Path(__file__).resolve().parents[2]


def kernels_dir() -> Path:
    """The folder of ladder files: WORKBENCH_KERNELS, or kernels/ in the repository."""
    chosen = os.environ.get("WORKBENCH_KERNELS")
    return Path(chosen).resolve() if chosen else REPO / "kernels"


def cache_dir() -> Path:
    """The folder for all build products: WORKBENCH_CACHE, or .workbench in the repository."""
    chosen = os.environ.get("WORKBENCH_CACHE")
    return Path(os.path.abspath(chosen)) if chosen else REPO / ".workbench"


def writable(folder: Path) -> Path:
    """Create `folder` inside the cache and return it; BuildError if that fails."""
    if any(c.isspace() for c in str(folder)):
        raise BuildError(
            f"the cache folder {cache_dir()} has a space in its path, and the build commands that\n"
            "PyTorch writes break at spaces. Set WORKBENCH_CACHE to a folder without one."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(folder))
    except OSError as error:
        raise BuildError(
            f"cannot write to the cache folder {cache_dir()}: {error.strerror}\n"
            "Set the environment variable WORKBENCH_CACHE to a writable folder."
        ) from None
    return folder


def shown(path: str | os.PathLike[str]) -> str:
    """`path` for messages: relative if it is below the current folder."""
    absolute = os.path.abspath(path)
    try:
        here = os.getcwd()
    except OSError:  # the current folder was deleted
        return absolute
    inside = absolute.startswith(here.rstrip("/") + "/")
    return os.path.relpath(absolute, here) if inside else absolute
