"""Pytest: the --full tier, the targets there are, and the rung x case x target grids."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from workbench import check, inputs, operations, ops
from workbench.problems import Case
from workbench.toolchain import BuildError

TARGETS = (
    "simulator",
    pytest.param(
        "gpu",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
)

BUILD_FAILURE = pytest.StashKey[BuildError]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="whole grids and full-size shapes (up to an hour)"
    )


def pytest_configure(config: pytest.Config) -> None:
    from hypothesis import settings

    config.addinivalue_line(
        "markers", "grid(operation, sample, full): run for every rung, case and target"
    )
    common = {"deadline": None, "derandomize": True, "database": None}
    settings.register_profile("sample", max_examples=10, **common)
    settings.register_profile("full", max_examples=500, **common)
    settings.load_profile("full" if config.getoption("--full") else "sample")


def pytest_report_header(config: pytest.Config) -> str:
    tier = "--full: whole grids" if config.getoption("--full") else "a sample of each grid"
    if torch.cuda.is_available():
        return f"targets: simulator and gpu ({torch.cuda.get_device_name()}); {tier}"
    return f"targets: simulator; GPU tests are skipped, PyTorch finds no GPU here; {tier}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        chosen = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise ``target`` everywhere, ``rung`` and ``case`` as the grid marker says."""
    if metafunc.config.stash.get(BUILD_FAILURE, None):
        return
    grid = metafunc.definition.get_closest_marker("grid")
    if grid is not None:
        operation = grid.args[0]
        if "case" in metafunc.fixturenames:
            cases = _cases(*grid.args[1:], full=metafunc.config.getoption("--full"))
            metafunc.parametrize("case", cases, ids=[case_id(case) for case in cases])
        try:
            ladder = ops.rungs(operation.name)
        except BuildError as error:
            metafunc.config.stash[BUILD_FAILURE] = error
            return
        metafunc.parametrize("rung", ladder, ids=[rung.name for rung in ladder])
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", TARGETS, scope="session")


def _cases(sample: tuple[Case, ...], more: tuple[Case, ...] = (), *, full: bool) -> list[Case]:
    return list(dict.fromkeys(sample + more if full else sample))


def case_id(case: Case) -> str:
    bound = "" if case.atol is None else f"-atol={case.atol:g}"
    return f"{case}{bound}"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Let a failed build end the run: its message, once, and exit status 1."""
    report = yield
    failure = collector.config.stash.get(BUILD_FAILURE, None)
    if failure is not None:
        terminal = collector.config.pluginmanager.getplugin("terminalreporter")
        terminal.ensure_newline()
        terminal.write_line(str(failure))
        pytest.exit("the kernels do not build", returncode=1)
    return report


@pytest.fixture
def device(target: str) -> torch.device:
    """The device that a target's tensors live on."""
    return torch.device(check.DEVICES[target])


@pytest.fixture
def require_right(rung: ops.Rung, target: str):
    """A function that checks the test's rung on a case and fails with the checker's report."""

    def require(operation: operations.Operation, case: Case) -> check.Verdict:
        __tracebackhide__ = True
        try:
            verdict = check.check_rung(operation, rung, case, target)
        except check.StickyError as error:
            pytest.exit(str(error), returncode=1)
        except torch.OutOfMemoryError:
            if target == "gpu" and "huge" in case.layout:
                pytest.skip(f"the GPU has no room for {inputs.HUGE} elements")
            raise
        if not verdict.ok:
            pytest.fail(verdict.report(), pytrace=False)
        return verdict

    return require
