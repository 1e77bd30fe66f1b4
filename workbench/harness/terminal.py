"""Text and tables for a terminal, a file or a pipe."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

import simulator
from workbench.toolchain.printed import in_notebook
from workbench.toolchain.terminals import can_erase

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_END = re.compile(rf"(?:{_STYLE.pattern}| )*$")
PLAIN_WIDTH = 100  # columns if the output is not a terminal


def console(file: TextIO | None = None) -> Console:
    """A console: plain unless ``file`` is a terminal.

    NO_COLOR leaves colours out of a terminal, FORCE_COLOR adds them elsewhere (rich).
    """
    file = file or sys.stdout
    width = None if file.isatty() else PLAIN_WIDTH
    # A notebook asks for colours that not every output shows, and rich would display each line.
    plain = False if in_notebook() else None
    return Console(
        file=file, width=width, highlight=False, force_jupyter=False, force_terminal=plain
    )


def text_width() -> int:
    """How wide text on stdout should be: PLAIN_WIDTH, or less if the terminal is narrower."""
    return min(PLAIN_WIDTH, console().width)


@contextmanager
def progress(steps: int, file: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """A bar in a terminal while the block runs, and nothing where ``file`` is no terminal.

    Args:
        steps: how often the block calls what it is given, with a text for what comes next.
        file: where to; None is stderr.
    """
    file = file or sys.stderr
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    seen = can_erase(file)
    bar = Progress(*columns, console=console(file), transient=True, disable=not seen)
    alone = simulator.progress_after(math.inf) if seen else nullcontext()
    with alone, bar:
        task = bar.add_task("", total=steps, completed=-1, visible=False)

        def step(text: str) -> None:
            bar.update(task, advance=1, description=text, visible=True)

        yield step


def show(
    title: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    file: TextIO | None = None,
    left: Sequence[int] = (0,),
) -> None:
    """Print a table: in full, however wide. A terminal that is too narrow breaks its lines.

    Args:
        title: above it; may be empty.
        titles: those of its columns; multi-line ones are aligned at the bottom.
        rows: their cells. In a table with more than two columns, a row of two cells may have text
            of any length in the second.
        file: where to; None is stdout.
        left: the left-aligned columns.
    """
    to = console(file)
    table = Table(title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0))
    deep = max(text.count("\n") for text in titles)
    for i, text in enumerate(titles):
        padded = "\n" * (deep - text.count("\n")) + text
        table.add_column(padded, justify="left" if i in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row if _whole(row, titles) else row[:1]))
    wide = to.options.update(width=10 * PLAIN_WIDTH)
    to.width = max(to.width, to.measure(table, options=wide).maximum)
    with to.capture() as capture:
        to.print(table)
    lines = [_trimmed(line) for line in capture.get().splitlines()]
    first = len(lines) - len(rows)
    width = max((len(str(row[0])) for row in rows), default=0)
    for i, row in enumerate(rows, first):
        if not _whole(row, titles):
            with to.capture() as capture:
                to.print(Text(f"{row[0]:<{width}}  ").append(row[1]), soft_wrap=True)
            lines[i] = capture.get().rstrip()
    to.file.write("".join(f"{line}\n" for line in lines))


def _trimmed(line: str) -> str:
    """A line without the blanks at its end, which may be between styles."""
    end = next(_END.finditer(line))
    return line[: end.start()] + "".join(_STYLE.findall(end.group()))


def _whole(row: Sequence[str | Text], titles: Sequence[str]) -> bool:
    return len(row) != 2 or len(titles) == 2
