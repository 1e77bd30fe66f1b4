"""Import this first: Ctrl-C while a program is still importing the rest is one line."""

import sys


def _shown(kind, error, trace) -> None:  # noqa: ANN001
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        _others(kind, error, trace)


_others, sys.excepthook = sys.excepthook, _shown
