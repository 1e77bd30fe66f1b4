"""What goes wrong, as shown to the user."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Failure(RuntimeError):
    """Why a command ends. str() is the complete message: no log or traceback is needed."""


class BuildError(Failure):
    """A failed build."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows instead of a traceback."""
        return str(self).splitlines()


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
