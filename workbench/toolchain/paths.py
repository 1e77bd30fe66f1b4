"""Where things are: the repository, the kernels, the cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BuildError

_IN_COMMANDS = " \t\n'\"$&,():;|<>`\\*?[]{}"  # of the cache, which is in flags
IN_COMPILERS = '"$`\\'  # of sources, which nvcc mostly quotes
IN_SOURCES = f"{IN_COMPILERS}:|\n"  # of sources and include folders, as PyTorch does
REPO = Path(__file__).resolve().parents[2]
_kernels: list[Path] = []  # of each active kernels_from


def kernels_dir() -> Path:
    """The folder of ladder files: WORKBENCH_KERNELS, or kernels/ in the repository."""
    if _kernels:
        return _kernels[-1]
    chosen = os.environ.get("WORKBENCH_KERNELS")
    return Path(chosen).resolve() if chosen else REPO / "kernels"


@contextmanager
def kernels_from(folder: Path) -> Iterator[None]:
    """Let ``kernels_dir`` be another folder, for the whole process, until the block ends."""
    _kernels.append(folder.resolve())
    try:
        yield
    finally:
        _kernels.pop()


def cache_dir() -> Path:
    """The folder for all build products: WORKBENCH_CACHE, or .workbench in the repository."""
    chosen = os.environ.get("WORKBENCH_CACHE")
    return Path(os.path.abspath(chosen)) if chosen else REPO / ".workbench"


def breaking(path: Path, characters: str, remedy: str) -> None:
    """Raise BuildError for a path with one of these characters, which PyTorch does not escape."""
    found = next((c for c in str(path) if c in characters), None)
    if found:
        name = {" ": "a space", "\n": "a line break"}.get(found, found)
        raise BuildError(
            f"{path} has {name} in its path, at which the build commands that PyTorch writes "
            f"break.\n{remedy}"
        )


def writable(folder: Path) -> Path:
    """Create `folder` inside the cache and return it; BuildError if that fails."""
    breaking(folder, _IN_COMMANDS, "Set WORKBENCH_CACHE to a folder without it.")
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
    """`path` for messages: relative below the current folder, of sources from strings the name."""
    absolute = without_cache(os.path.abspath(path))
    try:
        here = os.getcwd()
    except OSError:  # the current folder was deleted
        return absolute
    inside = absolute.startswith(here.rstrip("/") + "/")
    return os.path.relpath(absolute, here) if inside else absolute


def without_cache(text: str) -> str:
    """The text with only the names of the files that hold sources from strings."""
    return re.sub(rf"{re.escape(str(cache_dir()))}/(?:inline|build)/\w+/(?!build\.log)", "", text)


def write_once(path: Path, text: str) -> None:
    """Write a file of the cache unless it already exists."""
    try:
        if path.read_text() == text:
            return
    except OSError:
        pass
    writable(path.parent)
    path.write_text(text)
