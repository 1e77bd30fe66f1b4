"""What a source line reveals about its memory accesses: which arrays, and the step between lanes.

This is read from the text, so it may be unknown: then the names are missing and the findings say
less. The counters never depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.explain.annotate import Source, without_comments

_SUBSCRIPT = re.compile(r"\b([A-Za-z_]\w*)\s*\[")
_ASSIGNED = re.compile(r"\b([A-Za-z_]\w*)\s*(?<![=!<>])=(?!=)\s*([^;]*?)\s*(?=;|,\s*\w+\s*=|$)")
_DECLARATION = re.compile(
    r"(?:^|[;{])\s*(?:alignas\(\w+\)\s*)?(?:const\s+|static\s+|constexpr\s+)*[A-Za-z_][\w:]*"
    r"(?:<[^<>]*>)?\s+(?=[A-Za-z_]\w*\s*\[)([^;=]*)[;=]",
    re.MULTILINE,
)
_REGISTERS = re.compile(r"\(&(\w*frag\w*)\)\[")  # a parameter that names registers
_SHARED = re.compile(r"__shared__[^;=]*?\b([A-Za-z_]\w*)\s*(?:\[|;)")
_VIEW = re.compile(r"\bMatrix<[^;=()]*>\s*&?\s*([A-Za-z_]\w*)\s*(?=[=,;)])")  # m(row, col)
_LANE = "threadIdx.x"


@dataclass(frozen=True)
class Access:
    """A subscripted array, or an element of a ``Matrix``.

    Attributes:
        name: the array.
        text: as written, ``A[row * p.lda + k]`` or ``A(row, k)``.
        store: whether it is assigned to.
        lane: the variable in the index that differs between the lanes of a warp; None if unknown.
        stride: the factor of that variable; "1" for neighbours, None if unknown.
    """

    name: str
    text: str
    store: bool
    lane: str | None = None
    stride: str | None = None


def accesses(source: Source, number: int, shared: bool | None = None) -> tuple[Access, ...]:
    """The arrays that a line reads or writes.

    Args:
        source: the file.
        number: the line.
        shared: True for those in shared memory only, False for the others only, None for all.
    """
    first, last = source.function(number) or (number, number)
    body = without_comments("\n".join(source.lines[first - 1 : last])).splitlines()
    whole = without_comments("\n".join(source.lines))
    in_shared = set(_SHARED.findall(whole))
    own = _registers("\n".join(body)) - in_shared
    lanes = _lane_variables(body)
    line = body[number - first] if number - first < len(body) else ""
    views = set(_VIEW.findall("\n".join(body)))
    statement = _statement(body, number - first)
    found = list(_subscripts(line, views)) or list(_subscripts(statement, views))
    made = []
    for name, indices, text, store in found:
        is_shared = name in in_shared or "smem" in name or name.startswith("s_")
        if name in own or (shared is not None and is_shared != shared):
            continue
        lane, stride = _step(name, indices, lanes)
        made.append(Access(name, text, store, lane, stride))
    return tuple(dict.fromkeys(made))


def _registers(body: str) -> set[str]:
    """Arrays that the function declares, except those in shared memory."""
    lists = (found[1] for found in _DECLARATION.finditer(body) if "__shared__" not in found[0])
    names = {name for text in lists for name in _SUBSCRIPT.findall(text)}
    return names | set(_REGISTERS.findall(body))


def _statement(body: Sequence[str], index: int) -> str:
    """The statement that a line is part of, as one line."""
    first = last = index
    while first > 0 and not re.search(r"[;{}]\s*$", body[first - 1]):
        first -= 1
    while last + 1 < len(body) and not re.search(r"[;{}]\s*$", body[last]):
        last += 1
    return " ".join(text.strip() for text in body[first : last + 1])


def _closing(text: str, opening: int) -> int:
    """Position of the bracket that closes the one at ``opening``; -1 if there is none."""
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] in "[(") - (text[position] in "])")
        if depth == 0:
            return position
    return -1


def _subscripts(line: str, views: set[str]) -> Iterator[tuple[str, list[str], str, bool]]:
    """Name, indices, text and whether it is assigned to, for each subscripted name of a line."""
    for found in re.finditer(r"\b([A-Za-z_]\w*)\s*\(", line):
        closing = _closing(line, found.end() - 1)
        if found[1] in views and closing > 0:
            inside, rest = line[found.end() : closing], line[closing + 1 :]
            indices = [index.strip() for index in inside.split(",")]
            text = re.sub(r"\s+", " ", line[found.start() : closing + 1])
            yield found[1], indices, text, bool(re.match(r"\s*=(?!=)", rest))
    for found in _SUBSCRIPT.finditer(line):
        indices, position = [], found.end() - 1
        while position < len(line) and line[position] == "[":
            closing = _closing(line, position)
            if closing < 0:
                break
            indices.append(line[position + 1 : closing].strip())
            position = closing + 1
        if indices and "__shared__" not in line:
            text = re.sub(r"\s+", " ", line[found.start() : position])
            rest = line[position:]
            yield found[1], indices, text, bool(re.match(r"\)*(\.\w+)?\s*=(?!=)", rest))


def _lane_variables(body: Sequence[str]) -> dict[str, str]:
    """Variables that differ from lane to lane, and by how much: a factor as text, or ``?``."""
    steps = {_LANE: "1"}
    text = re.sub(r"\s+", " ", " ".join(body))
    for found in _ASSIGNED.finditer(text):
        name, expression = found[1], found[2]
        lane, stride = _in(expression, steps)
        if lane is not None and name not in steps and "[" not in expression:
            steps[name] = stride
    return steps


def _in(expression: str, steps: dict[str, str]) -> tuple[str | None, str]:
    """Which lane variable an expression contains, and the step from lane to lane."""
    for name, own in steps.items():
        for found in re.finditer(rf"(?<![\w.]){re.escape(name)}(?![\w.])", expression):
            before, after = expression[: found.start()].rstrip(), expression[found.end() :].lstrip()
            if re.match(r"/|>>|<(?!<)|>|==|\?", after) or before.endswith("<"):
                continue  # the same for neighbours, or a condition
            factor = re.match(r"\*\s*([\w.]+)", after) or re.search(r"([\w.]+)\s*\*$", before)
            if factor is None:
                return name, own
            return name, factor[1] if own == "1" else "?"
    return None, "?"


def _step(
    name: str, indices: Sequence[str], lanes: dict[str, str]
) -> tuple[str | None, str | None]:
    """The lane variable in an access and the step between neighbouring lanes."""
    if name in lanes:  # a pointer that differs from lane to lane
        return name, lanes[name]
    for depth, index in enumerate(reversed(indices)):
        lane, stride = _in(index, lanes)
        if lane is not None:
            return lane, stride if depth == 0 else "a row"
    return None, None
