"""The CUDA programs of these tests, compiled before the first one runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulator.compiled import compile_programs


@pytest.fixture(scope="session", autouse=True)
def compiled(request: pytest.FixtureRequest) -> None:
    """Compile what the selected files define."""
    here = Path(__file__).parent
    items = [item for item in request.session.items if item.path.parent == here]
    modules = list(dict.fromkeys(item.getparent(pytest.Module).obj for item in items))
    compile_programs(modules, request.config.getoption("--full"))
