"""Whether somebody watches: bars and lines that are erased are for terminals alone."""

from __future__ import annotations

import os
from typing import TextIO

_DUMB = ("dumb", "unknown")  # as TERM: terminals that print escape sequences as they are


def can_erase(file: TextIO) -> bool:
    """Whether what is written there can be erased again. FORCE_COLOR changes nothing about it."""
    return file.isatty() and os.environ.get("TERM", "").lower() not in _DUMB
