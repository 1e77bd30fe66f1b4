"""What becomes of measured rows: the history, and the files that the command line names."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workbench.cli.files import ResultFiles
from workbench.harness.results import Environment, Row
from workbench.history import History, HistoryError, Previous
from workbench.operators.texts import Sources
from workbench.toolchain import cache_dir


class Results:
    """The results so far. Saved after every shape, so that no later error can lose them."""

    def __init__(
        self,
        history: History | None,
        here: Environment,
        files: ResultFiles,
        sources: Sources,
        note: str | None,
    ) -> None:
        self.history, self.here, self.files = history, here, files
        self.sources, self.note = sources, note or ""
        self.rows: list[Row] = []
        self.run: int | None = None
        self.failed = False  # a rung is wrong, or a shape could not run

    def previous(self, rows: Sequence[Row]) -> dict[str, Previous | None]:
        """What the last run measured, by kernel."""
        if self.history is None:
            return {}
        try:
            return {row.kernel: self.history.previous(row, self.here.device) for row in rows}
        except HistoryError as error:
            warn(f"{error}; changes are not shown")
            return {}

    def add(self, rows: Sequence[Row]) -> None:
        """Record the rows of one shape."""
        self.rows += rows
        wrong = (not (row.checked or row.refused or row.baseline) for row in rows)
        self.failed = self.failed or any(wrong)
        if self.history is not None:
            try:
                self.run = self.history.record(self.here, rows, self.sources, self.run, self.note)
            except HistoryError as error:
                warn(f"{error}; this is not recorded")
        for problem in self.files.write(self.here, self.rows):
            warn(f"{problem}; it lacks {rows[0].shape}")
            self.failed = True


def warn(text: str) -> None:
    """Print a warning."""
    print(f"warning: {text}", file=sys.stderr)


def open_history() -> History | None:
    """The history in the cache folder; None, with a warning, if it cannot be used."""
    try:
        return History(cache_dir() / "history.db", warn)
    except HistoryError as error:
        warn(f"{error}; this run is not recorded")
        return None
