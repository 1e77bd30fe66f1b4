"""Shows where a kernel's time goes: its source with counters alongside, and what to change.

``python test_<op>.py --explain NAME`` prints it, ``--html FILE`` writes it as a page. From Python,
``explain(launches)`` takes what ``simulator.record()`` yields.
"""

from __future__ import annotations

from workbench.explain.report import Explained, Report
from workbench.explain.report import explained as explain

__all__ = ["Explained", "Report", "explain"]
