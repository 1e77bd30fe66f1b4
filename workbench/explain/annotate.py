"""The regions of source that a kernel executed: its function and the helpers it calls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator import LineCounters
from workbench.explain.kernels import Kernel
from workbench.toolchain.paths import shown

CONTEXT = 2  # lines shown around lines outside any function
NEAR = 3  # regions at most this many lines apart are shown as one
LONGEST_GAP = 16  # a longer stretch of a function that did not run is left out

_NO_FUNCTION = re.compile(r"\b(namespace|struct|class|union|enum|extern)\b(?!.*\))", re.DOTALL)
_NOT_CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<!\w)'(?:\\.|[^'\\\n])*'"""
    r"""|^[ \t]*\#(?:\\\n|[^\n])*""",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class SourceLine:
    """A line of source, with notes; ``counters`` is None if nothing was executed there."""

    number: int
    text: str
    counters: LineCounters | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """Consecutive lines of a file.

    Attributes:
        path: the file.
        lines: its lines, in order.
        missing: the file could not be read; the lines have no text.
    """

    path: Path
    lines: tuple[SourceLine, ...]
    missing: bool = False

    @property
    def file(self) -> str:
        """The file as messages show it."""
        return shown(self.path)


@dataclass(frozen=True)
class Source:
    """A source file.

    Attributes:
        path: the file.
        lines: its text; empty if it cannot be read.
        functions: first and last line of every function, from its signature to its closing brace.
    """

    path: Path
    lines: tuple[str, ...]
    functions: tuple[tuple[int, int], ...]

    def text(self, number: int) -> str:
        """A line; empty if there is none."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def function(self, number: int) -> tuple[int, int] | None:
        """First and last line of the function around a line."""
        for first, last in self.functions:
            if first <= number <= last:
                return first, last
        return None


def read(path: Path) -> Source:
    """Read a source file; an unreadable one has no lines."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Source(path, (), ())
    return Source(path, tuple(text.splitlines()), tuple(functions(text)))


def sources(kernel: Kernel) -> dict[str, Source]:
    """The files that contain a kernel's lines, by path."""
    return {path: read(Path(path)) for path in dict.fromkeys(path for path, _ in kernel.lines)}


def without_comments(text: str) -> str:
    """The text with comments, literals and preprocessor lines blanked; positions are kept."""
    return _NOT_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def functions(text: str) -> Iterator[tuple[int, int]]:
    """First and last line of every function: the outermost braces except those of a scope."""
    code = without_comments(text)
    stack: list[bool] = []  # for each open brace: does it belong to a function?
    head, start = 0, 0
    for position, sign in enumerate(code):
        if sign == "{":
            if True in stack:
                stack.append(True)
                continue
            stack.append(not _NO_FUNCTION.search(code, head, position))
            start = head
        elif sign == "}" and stack:
            function = stack.pop()
            if function and True not in stack:
                begin = start + len(code[start:]) - len(code[start:].lstrip())
                yield code.count("\n", 0, begin) + 1, code.count("\n", 0, position) + 1
        if sign in "{};" and True not in stack:
            head = position + 1


def regions(kernel: Kernel, files: Mapping[str, Source]) -> tuple[Region, ...]:
    """The parts of the files to show: the functions that ran, the kernel's own first."""
    made = []
    for path, source in files.items():
        counters = {line: c for (file, line), c in kernel.lines.items() if file == path}
        ran = sorted(counters)
        shown: list[Sequence[int]] = [ran]
        if source.lines:
            shown = [range(a, b + 1) for a, b in _joined(list(_stretches(source, ran)))]
        for numbers in shown:
            lines = (
                SourceLine(n, source.text(n), counters.get(n), kernel.notes.get((path, n), ()))
                for n in numbers
            )
            made.append(Region(source.path, tuple(lines), missing=not source.lines))
    word = kernel.name.split("::")[-1].partition("<")[0]
    return tuple(sorted(made, key=lambda region: not _defines(region, word)))


def _defines(region: Region, kernel: str) -> bool:
    pattern = re.compile(rf"\b{re.escape(kernel)}\s*\(")
    return bool(kernel) and any(pattern.search(line.text) for line in region.lines)


def _stretches(source: Source, ran: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last lines to show, in order, for the lines that ran."""
    around: dict[tuple[int, int], list[int]] = {}
    for number in ran:
        function = source.function(number)
        if function is None:
            last = min(number + CONTEXT, max(len(source.lines), number))
            function = (max(1, number - CONTEXT), last)
        around.setdefault(function, []).append(number)
    for (first, last), inside in around.items():
        begin, before = first, first
        for number in [*inside, last]:
            if number - before > LONGEST_GAP:
                yield begin, before + CONTEXT
                begin = number - CONTEXT
            before = number
        yield begin, last


def _joined(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(stretches):
        if joined and first - joined[-1][1] <= NEAR:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined
