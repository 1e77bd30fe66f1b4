"""The CUDA programs of these tests: compiled together, which takes a fraction of the time."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.conformance.micro import compile_together, programs_of


@pytest.fixture(scope="session", autouse=True)
def compiled(request: pytest.FixtureRequest) -> None:
    """Compile what the chosen files name: each Program and Suite, and several as PROGRAMS."""
    here = Path(__file__).parent
    items = [item for item in request.session.items if item.path.parent == here]
    modules = dict.fromkeys(item.getparent(pytest.Module).obj for item in items)
    named = [*programs_of(modules), *(p for m in modules for p in getattr(m, "PROGRAMS", ()))]
    compile_together(list(dict.fromkeys(named)), "simulator", "tests")
