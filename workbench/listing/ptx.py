"""Reads a kernel out of PTX: its instructions, with the lines that they were made from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from workbench.listing.code import Code, Language
from workbench.listing.instructions import Instruction, Place

PTX = Language(
    "PTX",
    kind=str,
    synchronises=re.compile(
        r"bar(rier)?\.|bar$|mbarrier\.(try_|test_)?wait|cp\.async\.(bulk\.)?wait|wgmma\.wait|membar"
    ),
    local=re.compile(r"(ld|st)\.local"),
    costly=re.compile(
        r"(wg|w)?mma\.|ldmatrix|stmatrix|(ld|st|atom|red)\.(global|shared|local)|ld\.f|ld\.v|cp\."
        r"|bar|mbarrier|shfl|ex2|sqrt|rsqrt|rcp|div"
    ),
    digits=str,
)
_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.M)
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)(?:.*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?")
_LABEL = re.compile(r"([$%\w]+):(?!:)\s*")
_STATEMENT = re.compile(r"(?:@!?[%\w]+\s+)?([a-z][\w.:]*)")
_BRANCH = re.compile(r"bra(?:\.uni)?\s+([$\w]+)")
_VARIABLE = re.compile(r"_ZZ\w*?E(\d+)([A-Za-z_]\w*)")
_Column = tuple[str, str, str]  # file, line, column of a .loc


def entries(text: str) -> dict[str, str]:
    """The text of every kernel of a file's PTX, by its mangled name."""
    found = {}
    for match in re.finditer(r"^(?:\.visible\s+|\.weak\s+)?\.entry\s+([\w$]+)", text, re.M):
        end = text.find("\n}", match.end())
        found[match[1]] = text[match.start() : end if end >= 0 else len(text)]
    return found


def code(text: str, entry: str, kernel: str, arch: str) -> Code:
    """A kernel's PTX.

    Args:
        text: that of the whole file.
        entry: the kernel's mangled name.
        kernel: its name for the reader.
        arch: as in 90a.
    """
    files = {number: os.path.realpath(name) for number, name in _FILE.findall(text)}
    body = entries(text)[entry].partition("\n{")[2]
    return Code(kernel, f"compute_{arch}", PTX, tuple(_instructions(body, entry, files)))


def _instructions(body: str, entry: str, files: dict[str, str]) -> Iterator[Instruction]:
    inlined: dict[_Column, _Column] = {}  # where the code of a .loc was last inlined
    places: tuple[Place, ...] = ()
    labels: list[str] = []
    number = 0
    for scope, statement in _statements(body):
        if found := _LOC.match(statement):
            at = (found[1], found[2], found[3])
            inlined.pop(at, None)
            if found[4]:
                inlined[at] = (found[4], found[5], found[6])
            places = _chain(at, inlined, files)
        elif found := _LABEL.match(statement):
            labels.append(_in_scope(found[1], scope))
        elif found := _STATEMENT.match(statement):
            branch = _BRANCH.search(statement)
            yield Instruction(
                number,
                _readable(statement.rstrip(";"), entry),
                found[1],
                places,
                tuple(labels),
                _in_scope(branch[1], scope) if branch else "",
            )
            number, labels = number + 1, []


def _in_scope(label: str, scope: int) -> str:
    """A label; those of inline PTX, which may occur in several scopes, with the scope's number."""
    return label if label.startswith("$") else f"{label}_{scope}"


def _statements(body: str) -> Iterator[tuple[int, str]]:
    """Labels, .loc lines and instructions, those of several lines as one; each with its scope."""
    pending, scope = "", 0
    for line in body.splitlines():
        line = " ".join(line.partition("//")[0].split())
        if not pending and line.startswith("{"):
            scope += 1
            line = line[1:].strip()
        if not pending and line.startswith(".loc"):
            yield scope, line
            continue
        pending = f"{pending} {line}".strip()
        while found := _LABEL.match(pending) or re.match(r"[^;]*;", pending):
            yield scope, found[0].strip()
            pending = pending[found.end() :].strip()
        pending = "" if pending == "}" else pending


def _chain(
    at: _Column, inlined: dict[_Column, _Column], files: dict[str, str]
) -> tuple[Place, ...]:
    """The place of a .loc, and outwards those where it was inlined."""
    chain: list[_Column] = []
    step: _Column | None = at
    while step is not None and step not in chain:
        chain.append(step)
        step = inlined.get(step)
    return tuple(
        Place(files.get(file, ""), int(line))
        for file, line, _ in chain
        if int(line) and file in files
    )


def _readable(statement: str, entry: str) -> str:
    """An instruction with short names for parameters and for variables of functions."""
    statement = statement.replace(f"{entry}_param", "param")
    return _VARIABLE.sub(lambda found: found[2][: int(found[1])], statement)
