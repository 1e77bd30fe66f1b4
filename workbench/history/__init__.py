"""The history: every measured row of every run, with the sources that it was built from.

``python -m workbench.history`` lists, compares and restores them; docs/history.md explains it.

    schema      the tables, and how files of older workbenches become current ones
    texts       texts in the file: each once, compressed
    store       History: recording, and what happens to files that are damaged or newer
    reading     rows as ``Entry``, found again
    changes     what differs between two rows
    restore     sources back into the kernels folder
    terminal    lists, rows and differences, printed
    work_log    the same as a Markdown document
"""

from .reading import Previous
from .store import History, HistoryError

__all__ = ["History", "HistoryError", "Previous"]
