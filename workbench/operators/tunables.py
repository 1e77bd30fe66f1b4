"""The tunables of a ladder: constants whose comment lists the values worth trying.

    constexpr int TILED_TILE = 32;    // tunable: 16, 32
    constexpr int SPLIT_K_BK = 8;     // of 128 x 256. tunable: 8, 16
    constexpr int PIPELINED_LAG = 2;  // tunable: 1, 2, 3; steps from a chunk's load to its use

A rung's tunables are those named in the section of its launcher, which is what stands between two
lines of dashes, and those of the headers that its file includes. One inside a header's function
belongs to the rungs whose sections name that function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from workbench.toolchain import BuildError, kernels_dir
from workbench.toolchain.paths import shown

from . import builds
from .builds import Rung

HEADERS = (".h", ".cuh", ".hpp", ".inl")
_MARKED = re.compile(r"//.*\btunable:")
_LINE = re.compile(
    r"[ \t]*(?:static )?constexpr int (?P<name>\w+) = (?P<value>-?\d{1,9});"
    r"[ \t]*//(?:.*\W)?tunable: (?P<choices>-?\d{1,9}(?:, -?\d{1,9})*)(?:;.*)?\s*"
)
_FUNCTION = re.compile(r"^\w[^;{}]*?(\w+)\(", re.M)
_DASHES = re.compile(r"^// -{20,}.*$", re.M)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.M)


@dataclass(frozen=True)
class Tunable:
    """A constant and the values worth trying.

    Attributes:
        name: the constant's.
        value: the one in the file.
        choices: what its comment lists.
        file: the name of its file in the folder of kernels.
        line: counted from 1.
        span: where its value stands in the file's text.
        function: what it stands in; "" at top level.
    """

    name: str
    value: int
    choices: tuple[int, ...]
    file: str
    line: int
    span: tuple[int, int]
    function: str = ""

    @property
    def place(self) -> str:
        """Its file and line, for messages."""
        return f"{shown(kernels_dir() / self.file)}:{self.line}"


def files(op: str, target: str, more: tuple[str, ...] = ()) -> dict[str, str]:
    """The texts of an operator's ladder files and of all headers, by name, line ends as they are.

    Args:
        op: the operator.
        target: one of workbench.toolchain.TARGETS.
        more: other operators whose ladder files to add.
    """
    headers = (path for path in kernels_dir().iterdir() if path.suffix in HEADERS)
    sources = (path for name in (op, *more) for path in builds.sources(name, target))
    return {path.name: text(path.read_bytes()) for path in (*sources, *sorted(headers))}


def text(content: bytes) -> str:
    """A file's content as text; ``content`` restores it, whatever the bytes are."""
    return content.decode("utf-8", "surrogateescape")


def content(text: str) -> bytes:
    """The bytes of a file's text."""
    return text.encode("utf-8", "surrogateescape")


def parse(file: str, text: str) -> tuple[Tunable, ...]:
    """The tunables of a file. Raises BuildError for a comment that is not as above."""
    return tuple(_parse(file, text))


def _parse(file: str, text: str) -> Iterator[Tunable]:
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        if _MARKED.search(line):
            found = _LINE.fullmatch(line)
            place = f"{shown(kernels_dir() / file)}:{number}"
            if not found:
                raise BuildError(
                    f"{place}: a tunable is one line, as in "
                    f"constexpr int TILE = 32;  // tunable: 16, 32\n  {line.strip()}"
                )
            value, choices = int(found["value"]), tuple(map(int, found["choices"].split(",")))
            if len(set(choices)) < len(choices):
                raise BuildError(f"{place}: {found['name']} lists a value twice")
            if value not in choices:
                raise BuildError(f"{place}: {found['name']} is {value}, which its comment lacks")
            first, last = found.span("value")
            functions = _FUNCTION.findall(text, 0, start) if line[:1].isspace() else []
            yield Tunable(
                found["name"],
                value,
                choices,
                file,
                number,
                (start + first, start + last),
                functions[-1] if functions else "",
            )
        start += len(line) + 1


def of_rung(rung: Rung, target: str, files: Mapping[str, str]) -> tuple[Tunable, ...]:
    """A rung's tunables, in the order of its file, then of the headers.

    Args:
        rung: the rung.
        target: that of its ladder.
        files: what the function of that name returns.

    Raises:
        BuildError: a malformed comment, two tunables of one name, or no definition of the launcher.
    """
    file, section = section_of(rung, target, files)
    words = set(re.findall(r"\w+", re.sub(r"//.*", "", section)))
    own = [t for t in parse(file, files[file]) if {t.name, t.function} & words]
    headers = [t for name in _included(file, files) for t in parse(name, files[name])]
    own += [t for t in headers if not t.function or t.function in words]
    for i, tunable in enumerate(own):
        for other in own[:i]:
            if other.name == tunable.name:
                raise BuildError(f"{tunable.place}: {other.place} also has a {tunable.name}")
    return tuple(own)


def replaced(files: Mapping[str, str], values: Mapping[Tunable, int]) -> dict[str, str]:
    """The files, by name, that these values change, with the values in them."""
    changed: dict[str, str] = {}
    for tunable in sorted(values, key=lambda tunable: tunable.span, reverse=True):
        if values[tunable] != tunable.value:
            text = changed.get(tunable.file, files[tunable.file])
            first, last = tunable.span
            changed[tunable.file] = f"{text[:first]}{values[tunable]}{text[last:]}"
    return changed


def section_of(rung: Rung, target: str, files: Mapping[str, str]) -> tuple[str, str]:
    """The file in which a rung's launcher is defined, and the section there. Raises BuildError."""
    table = builds.sources(rung.op, target)[0].name
    entry = re.search(rf'\{{\s*"{rung.name}"\s*,\s*(\w+)', files[table])
    launcher = entry[1] if entry else f"{rung.op}_{rung.name}"
    definition = re.compile(rf"^[\w ]*\bvoid\s+{launcher}\s*\([^;{{}}]*\)\s*\{{", re.M)
    for name, text in files.items():
        found = definition.search(text)
        if found:
            dashes = [match.start() for match in _DASHES.finditer(text)]
            first = max((at for at in dashes if at < found.start()), default=0)
            last = min((at for at in dashes if at > found.start()), default=len(text))
            return name, text[first:last]
    raise BuildError(
        f"{shown(kernels_dir() / table)}: no file of the ladder defines {launcher}, "
        f"the launcher of {rung.name}"
    )


def _included(file: str, files: Mapping[str, str]) -> list[str]:
    """The headers that a file includes, directly or through others."""
    found: list[str] = []
    waiting = [file]
    while waiting:
        names = _INCLUDE.findall(files[waiting.pop()])
        new = [name for name in names if name in files and name not in found]
        found += new
        waiting += new
    return found
