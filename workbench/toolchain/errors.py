"""What goes wrong, as shown to the user."""

from __future__ import annotations

import contextlib
import linecache
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_OWN = tuple(f"{Path(__file__).resolve().parents[2]}/{name}" for name in ("workbench/", "build.py"))
_COLOURS = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
# Of a message's lines: what is coloured in them.
_MARKED = (
    (r"^\S+:\d+(?=: (?:error|warning):)", "bold"),
    (r"(?<=: )error:|^\w*(?:Error|check)(?=: )", "red"),
    (r"(?<=: )warning:", "yellow"),
    (r"^\s*\^$", "green"),
    (r"^\s*hint:.*|^  called in .*", "cyan"),
)


class Failure(RuntimeError):
    """Why a command ends. str() is the complete message: no log or traceback is needed."""


class BuildError(Failure):
    """A failed build."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return rendered(str(self))


class UsageError(ValueError):
    """An invalid command line; the text is one line."""


@contextmanager
def main_guard() -> Iterator[None]:
    """Wrap a script's main(): a BuildError becomes its message on stderr and exit status 1."""
    try:
        yield
    except BuildError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


@contextmanager
def brief() -> Iterator[None]:
    """Let IPython show what the block raises as its message and the line that led to it.

    The frames in between are the workbench's, of which the reader needs none. Elsewhere, and for
    errors that are not about what was passed, nothing changes.
    """
    try:
        yield
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        if not hasattr(error, "_render_traceback_"):
            lines = rendered(f"{type(error).__name__}: {error}{_called_in(sys._getframe())}")
            error._render_traceback_ = lambda: lines  # type: ignore[union-attr]
        raise


def _called_in(frame: FrameType | None) -> str:
    """The line of the caller, outside of the workbench."""
    while frame and frame.f_code.co_filename.startswith((*_OWN, contextlib.__file__)):
        frame = frame.f_back
    if frame is None:
        return ""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"\n  called in line {frame.f_lineno}: {line}" if line else ""


def rendered(text: str) -> list[str]:
    """The lines of a message, coloured if it is IPython that shows them in colour."""
    from .paths import without_cache  # which needs the errors

    lines = without_cache(text).splitlines()
    if not _in_colour():
        return lines
    for pattern, colour in _MARKED:
        marked = f"\x1b[{_COLOURS[colour]}m\\g<0>\x1b[0m"
        lines = [re.sub(pattern, marked, line) for line in lines]
    return lines


def _in_colour() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return str(getattr(shell, "colors", "nocolor")).lower() != "nocolor"
