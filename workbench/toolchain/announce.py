"""One line on stderr per build, and none for what is up to date."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .terminals import can_erase

_everywhere = False


@contextmanager
def everywhere() -> Iterator[None]:
    """Announce that builds begin also where no terminal is, and no command waits for the end."""
    global _everywhere
    before, _everywhere = _everywhere, True
    try:
        yield
    finally:
        _everywhere = before


@contextmanager
def announced(label: str, slow: bool = False) -> Iterator[list[str]]:
    """Announce that `label` is being built and, when done, how long it took.

    What the block appends to the list, warnings, is written before the second line.

    In a terminal the second line replaces the first, and a failed build leaves neither. Elsewhere
    only a slow build announces its start.
    """
    terminal = can_erase(sys.stderr)
    started = time.monotonic()
    if terminal or slow or _everywhere:
        print(f"building {label} ...", end="" if terminal else "\n", file=sys.stderr, flush=True)
    texts: list[str] = []
    try:
        yield texts
    except BaseException:
        if terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        raise
    seconds = time.monotonic() - started
    erase = "\r\033[K" if terminal else ""
    for text in texts:
        print(f"{erase}{text}\n", file=sys.stderr)
        erase = ""
    print(f"{erase}built {label} in {seconds:.1f} s", file=sys.stderr, flush=True)
