"""What goes wrong in a build, as the person at the keyboard shall see it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class BuildError(RuntimeError):
    """A build that did not work. str() is the whole message: no log, no traceback is needed."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback."""
        return str(self).splitlines()


@contextmanager
def main_guard() -> Iterator[None]:
    """Around a script's main(): a BuildError becomes its message on stderr and exit status 1."""
    try:
        yield
    except BuildError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
