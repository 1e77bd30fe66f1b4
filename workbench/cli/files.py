"""The files that a script's results go to: --json, --csv, --plot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from workbench.harness.results import Environment, Row, csv_text, json_text
from workbench.toolchain import command
from workbench.toolchain.errors import UsageError
from workbench.toolchain.files import write_whole

STDOUT = Path("-")
FLAGS = ("--json", "--csv", "--plot")
_TEXTS: dict[str, Callable[[Environment, Sequence[Row]], str]] = {
    "--json": json_text,
    "--csv": csv_text,
}


def output(text: str) -> Path:
    """A file for results, for argparse; ``-`` is standard output."""
    return STDOUT if text == str(STDOUT) else command.output(text)


def named(words: argparse.Namespace) -> dict[str, Path]:
    """The files that a command line names, by option. Raises UsageError for one named twice."""
    found: dict[str, Path] = {}
    for flag in FLAGS:
        path = getattr(words, flag.removeprefix("--"))
        same = next((other for other in found if found[other] == path), None)
        if same:
            raise UsageError(f"{same} and {flag} are the same file: {path}")
        if path is not None:
            found[flag] = path
    return found


class ResultFiles:
    """The rows so far, in the files for programs; written whole after every shape."""

    def __init__(self, words: argparse.Namespace) -> None:
        """The files of a command line, for ``named`` to accept."""
        self.paths = {flag: path for flag, path in named(words).items() if flag in _TEXTS}
        self._last = ""  # what goes to standard output

    def write(self, here: Environment, rows: Sequence[Row]) -> Iterator[str]:
        """Write all rows so far; yields what went wrong."""
        for flag in self.paths:
            yield from self.put(flag, _TEXTS[flag](here, rows))

    def put(self, flag: str, text: str) -> Iterator[str]:
        """Let the file of an option have a text; yields what went wrong."""
        path = self.paths[flag]
        if path == STDOUT:
            self._last = text
            return
        try:
            write_whole(path, text)
        except OSError as error:
            yield f"{flag} {path}: {error.strerror}"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let standard output have only the results, if they go there; the rest is on stderr.

        They are printed when the block ends, even by Ctrl-C.
        """
        if STDOUT not in self.paths.values():
            yield
            return
        out = sys.stdout
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            out.write(self._last)
