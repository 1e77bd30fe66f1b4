"""What C code prints, shown where Python prints: in a notebook, that is the cell.

A notebook replaces Python's streams. What a kernel's printf writes to file descriptor 1 then goes
to a terminal that nobody sees or, with ipykernel, to a cell by a thread of its own: after what
Python prints next, or to the cell that runs next.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_one = threading.Lock()  # a file descriptor belongs to the process


@contextmanager
def shown(wanted: bool = True) -> Iterator[None]:
    """Let what C code prints in the block appear in Python's streams when the block ends.

    Nothing is done where they are the process's own, and in a second thread.
    """
    if not (wanted and _replaced()) or not _one.acquire(blocking=False):
        yield
        return
    try:
        import wurlitzer

        said = []
        try:
            # into memory: a notebook's stream is not for the thread that reads the pipe
            with wurlitzer.pipes(encoding=None) as said:
                yield
        finally:
            for stream, text in zip((sys.stdout, sys.stderr), said, strict=False):
                stream.write(text.getvalue().decode(errors="replace"))
    finally:
        _one.release()


def in_notebook() -> bool:
    """Whether the cells of a notebook run in this process."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def _replaced() -> bool:
    """Whether Python's standard output is not file descriptor 1."""
    try:
        return sys.stdout.fileno() != 1
    except (AttributeError, OSError):  # io.UnsupportedOperation is one
        return True
