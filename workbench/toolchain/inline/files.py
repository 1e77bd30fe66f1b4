"""Files of one's own as the sources of ``inline``: messages and reports name their lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..paths import IN_SOURCES, breaking

_CPP = (".cpp", ".cc", ".cxx")


def sources_of(
    files: Sequence[str | os.PathLike[str]], include_dirs: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The arguments of ``inline`` for some .cu and .cpp files.

    Raises ValueError for a name with another ending, OSError for a file that cannot be read.
    """
    if isinstance(files, str | os.PathLike):
        files = [files]
    if files is None:
        raise TypeError("sources is None; expected the names of .cu and .cpp files")
    cuda: list[str] = []
    cpp: list[str] = []
    folders = list(include_dirs)
    for name in files:
        path = Path(name).absolute()
        if path.suffix not in (".cu", *_CPP):
            raise ValueError(f"sources has {os.fspath(name)!r}; expected .cu and .cpp files")
        breaking(path, IN_SOURCES, "Rename it, or move it to a folder without that.")
        text = f'#line 1 "{path}"\n{path.read_text()}\n'
        (cuda if path.suffix == ".cu" else cpp).append(text)
        folders.append(str(path.parent))
    if not cuda and not cpp:
        raise ValueError("sources is empty; expected .cu and .cpp files")
    return {"cuda_sources": cuda, "cpp_sources": cpp, "extra_include_paths": folders}
