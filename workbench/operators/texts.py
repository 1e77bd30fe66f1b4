"""The texts that a build was made from, and which of them each rung depends on.

They are read before the build and once more after it. If nothing changed meanwhile, they are what
was compiled, and stay that: what is saved while the build runs on is not what it measures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.toolchain.fingerprints import Text, texts
from workbench.toolchain.library import load_extension

if TYPE_CHECKING:
    from .builds import Rung

_TRIES = 3
_LINE = re.compile(rb'\{\s*"(\w+)"\s*,\s*(\w+)')  # of a ladder's table: name and launcher


@dataclass(frozen=True)
class Sources:
    """The files of a ladder and the headers they include.

    Attributes:
        files: their content by name, relative to the kernels folder; the table's file is first.
        own: for each rung, the names of those it depends on; the one with its launcher is first.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def built(
    target: str, kernels: Path, bindings: Path | None = None
) -> tuple[Path, Mapping[Path, Text]]:
    """Build a folder's kernels; return the library, and the texts that it was made from.

    The texts are empty if the files change faster than they can be read.
    Raises workbench.toolchain.BuildError.
    """
    for _ in range(_TRIES):
        before = read(kernels)
        path = load_extension(target, kernels, bindings)
        if read(kernels) == before:
            return path, before
    return path, {}


def read(folder: Path) -> dict[Path, Text]:
    """The ladder files in a folder, and what they include."""
    ladders = [file for suffix in ("cu", "cpp") for file in sorted(folder.glob(f"*.{suffix}"))]
    return texts(ladders, (folder,))


def of_ladder(
    ladder: Sequence[Rung],
    files: Sequence[Path],
    composed: Mapping[str, Sequence[Path]],
    texts: Mapping[Path, Text],
    folder: Path,
) -> Sources:
    """The sources of a ladder.

    Args:
        ladder: its rungs.
        files: those with its kernels, the table's first.
        composed: the same for other ladders whose kernels a rung of this one launches, by name.
        texts: what the build was made from.
        folder: the kernels folder.
    """
    launchers = {
        name.decode(): launcher.decode()
        for file in files
        for name, launcher in _LINE.findall(texts[file].content if file in texts else b"")
    }
    own = {}
    for rung in ladder:
        others = [file for name in rung.composed_of for file in composed[name]]
        home = _defining(launchers.get(rung.name, rung.name), files, texts)
        own[rung.name] = _with_headers((*home, *others), texts)
    every = _with_headers((*files, *(f for names in own.values() for f in names)), texts)
    return Sources(
        {_name(file, folder): texts[file].content for file in every},
        {rung: tuple(_name(file, folder) for file in names) for rung, names in own.items()},
    )


def _defining(launcher: str, files: Sequence[Path], texts: Mapping[Path, Text]) -> Sequence[Path]:
    """The files that define a launcher; all, if it is found in none."""
    definition = re.compile(rf"\b{launcher}\s*\([^;{{}}]*\)\s*\{{".encode())
    found = [file for file in files if file in texts and definition.search(texts[file].content)]
    return found or files


def _with_headers(files: Iterable[Path], texts: Mapping[Path, Text]) -> tuple[Path, ...]:
    """These files and what they include; those that come first stay first."""
    found: dict[Path, None] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop(0)
        if file in texts and file not in found:
            found[file] = None
            waiting += texts[file].includes
    return tuple(found)


def _name(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
