"""What a build depends on, by content, never by modification time.

PyTorch's load() and ninja compare modification times, and nvcc writes no dependency file if PyTorch
is a CPU build. So each object has a fingerprint here: its source, every local header that the
source includes, directly or indirectly, the flags, and the tools. `Manifest` stores the
fingerprints that the objects of a build folder were built from; objects whose fingerprint changed
are deleted before the next build.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_INCLUDE = re.compile(
    rb'^[ \t]*#[ \t]*include(?:_next)?[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>|(\w+))', re.M
)
_HEADERS = ("*.h", "*.cuh", "*.hpp", "*.inl")


def digest(*parts: object) -> str:
    """16 hexadecimal digits for any values with a stable repr()."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def content(path: Path) -> str:
    """The hash of a file's bytes; "absent" if there is no file."""
    return _file(path, ())[0]


def contents(source: Path, include_dirs: Sequence[Path]) -> dict[Path, str]:
    """The hash of a source and of each file that it includes, found in these folders or its own."""
    found: dict[Path, str] = {}
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path], included = _file(path, include_dirs)
            waiting += included
    return found


def of_objects(
    objects: Mapping[str, Path], include_dirs: Sequence[Path], flags: str
) -> dict[str, str]:
    """Object name -> a digest that changes whenever the object built from its source would.

    Conditions are not evaluated: a header that may be included counts. `#include MACRO` counts as
    every header of the include folders. Headers not found there are the system's.
    """
    files: dict[Path, tuple[str, tuple[Path, ...]]] = {}  # each is read once
    made = {}
    for name, source in objects.items():
        seen: set[Path] = set()
        waiting = [source]
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                if path not in files:
                    files[path] = _file(path, include_dirs)
                waiting += files[path][1]
        parts = [(str(path), files[path][0]) for path in sorted(seen)]
        made[name] = digest(str(source), flags, parts)
    return made


def inputs(source: Path, include_dirs: Sequence[Path]) -> set[Path]:
    """A source and every local header that it may include, directly or indirectly."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _file(path, include_dirs)[1]
    return found


def _file(path: Path, include_dirs: Sequence[Path]) -> tuple[str, tuple[Path, ...]]:
    """The hash of a file, and the files it includes from these folders or its own."""
    try:
        text = path.read_bytes()
    except OSError:
        return "absent", ()
    return hashlib.blake2b(text, digest_size=16).hexdigest(), _included(text, path, include_dirs)


@dataclass(frozen=True)
class Text:
    """A file as it was read, and the local files that it includes itself."""

    content: bytes
    includes: tuple[Path, ...]


def texts(paths: Iterable[Path], include_dirs: Sequence[Path]) -> dict[Path, Text]:
    """These files and the local headers they include, directly or indirectly, as they are now.

    Files that cannot be read are left out.
    """
    found: dict[Path, Text] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop(0)
        if path in found:
            continue
        try:
            content = path.read_bytes()
        except OSError:
            continue
        found[path] = Text(content, _included(content, path, include_dirs))
        waiting += found[path].includes
    return found


def _included(text: bytes, path: Path, include_dirs: Sequence[Path]) -> tuple[Path, ...]:
    found: list[Path] = []
    for quoted, angled, macro in _INCLUDE.findall(text):
        if macro:
            found += [h for d in include_dirs for pattern in _HEADERS for h in d.glob(pattern)]
            continue
        name = os.fsdecode(quoted or angled)
        folders = [path.parent, *include_dirs] if quoted else include_dirs
        places = (os.path.normpath(os.path.join(d, name)) for d in folders)
        found += [Path(p) for p in [next(filter(os.path.isfile, places), None)] if p]
    return tuple(found)


def cpu_features() -> str:
    """What -march=native depends on: the CPU's model and feature flags."""
    wanted = {"vendor_id", "model", "model name", "cpu family", "flags", "Features"}
    lines = []
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if not line.strip():
                    break  # the first core is enough
                if line.split(":")[0].strip() in wanted:
                    lines.append(line.strip())
    except OSError:
        pass
    return digest(lines)


class Manifest:
    """Object name -> fingerprint it was built from, in a file in the build folder.

    An object counts once its compiler has ended well, which ninja writes into its log: whatever
    ends a build, what was finished is kept, and what may be half written is not. While a build
    runs, a second file says what it is making, for the next one should this one be killed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "manifest.json"
        self.running = folder / "running.json"

    def has(self, wanted: Mapping[str, str]) -> bool:
        """Whether all these objects are there, made from these inputs."""
        known = _read(self.path)
        there = all((self.folder / name).exists() for name in wanted)
        return there and wanted.items() <= known.items()

    def begin(self, wanted: dict[str, str], outputs: Iterable[str]) -> None:
        """Delete every object that was not built from its current inputs."""
        self.finish()  # a build that was killed
        known = _read(self.path)
        stale = {name for name, value in wanted.items() if known.get(name) != value}
        for name in (*stale, *(outputs if stale else ())):
            (self.folder / name).unlink(missing_ok=True)
        kept = {name: value for name, value in wanted.items() if name not in stale}
        _write(self.path, kept)
        _write(self.running, {"wanted": wanted, "log": _ninja_log(self.folder)})

    def finish(self, made: Iterable[str] | None = None) -> None:
        """Store the fingerprints of the objects that the build has finished.

        made: their names; None for those that ninja has compiled since ``begin``.
        """
        running = _read(self.running)
        wanted, before = running.get("wanted", {}), running.get("log", {})
        if made is None:
            now = _ninja_log(self.folder)
            made = [name for name in wanted if now.get(name) != before.get(name)]
        known = _read(self.path) | {name: wanted[name] for name in made if name in wanted}
        _write(self.path, {n: value for n, value in known.items() if (self.folder / n).exists()})
        self.running.unlink(missing_ok=True)


def _read(path: Path) -> dict:
    """The content of one of the files; nothing if it is absent or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)


def _ninja_log(folder: Path) -> dict[str, str]:
    """Object name -> what ninja's log says of its last successful compilation."""
    try:
        lines = (folder / ".ninja_log").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    entries = (line.split("\t") for line in lines if not line.startswith("#"))
    return {fields[3]: " ".join(fields) for fields in entries if len(fields) > 3}
