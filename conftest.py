"""Pytest: the --full tier, the available targets, and the rung x case x target grids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from _pytest.mark import ParameterSet

from simulator.checks import CHECKS, check_names
from tests.browser import browser
from workbench.harness import inputs, verify
from workbench.operators import builds
from workbench.operators.operator import DEVICES, Case, Operator
from workbench.toolchain import BuildError

TARGETS = ("simulator", "gpu")
GPU = torch.cuda.is_available()

WARP_ORDERS = ("ascending", "descending", "random")  # all with --full, else the first

BUILD_FAILURE = pytest.StashKey[BuildError]()
GPU_TESTS = pytest.StashKey[int]()
SECONDS: dict[str, float] = {}  # by area
LAST = ("test_wrong_kernels", "tests/simulator")  # need what children work on meanwhile
MANY = 1000  # minimum tests in a run for starting some ahead
CHILDREN: list[subprocess.Popen] = []  # that work alongside the tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="whole grids and full-size shapes (up to an hour)"
    )
    parser.addoption(
        "--check",
        default="all",
        metavar="NAMES",
        help=f"the simulator's checks: all (the default), or some of {','.join(CHECKS)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    from hypothesis import settings

    _check_everything(config)
    config.addinivalue_line(
        "markers", "checks(names): only these; its kernels deliberately violate the others"
    )
    config.addinivalue_line(
        "markers", "grid(operator, sample, full, rungs): run for every rung, case and target"
    )
    common = {"deadline": None, "derandomize": True, "database": None}
    settings.register_profile("sample", max_examples=20, **common)
    settings.register_profile("full", max_examples=1200, **common)
    settings.load_profile("full" if config.getoption("--full") else "sample")
    if not config.getoption("--full"):  # small tensors: threads would mostly wait for each other
        torch.set_num_threads(1)


def _check_everything(config: pytest.Config) -> None:
    """Enable --check in every simulator of the run, including child processes."""
    try:
        names = check_names(config.getoption("--check"), "--check")
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    own = os.environ.get("WORKBENCH_SIMULATOR", "")
    os.environ["WORKBENCH_SIMULATOR"] = f"checks={','.join(names)} {own}".strip()


def pytest_report_header(config: pytest.Config) -> str:
    tier = "--full: whole grids" if config.getoption("--full") else "a sample of each grid"
    tier += f"; checks: {', '.join(check_names(config.getoption('--check')))}"
    if GPU:
        return f"targets: simulator and gpu ({torch.cuda.get_device_name()}); {tier}"
    return f"targets: simulator, as PyTorch finds no GPU here; {tier}"


@pytest.hookimpl(trylast=True)  # after pytest's own order
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    files = list(dict.fromkeys(item.path for item in items))
    last = {file: sum(part in str(file) for part in LAST) for file in files}
    place = {file: i for i, file in enumerate(sorted(files, key=lambda f: (last[f], str(f))))}
    items.sort(key=lambda item: place[item.path])
    if browser() is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="needs Chromium or Chrome"))
    if not config.getoption("--full"):
        chosen = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    if not GPU:
        here = [item for item in items if not item.get_closest_marker("gpu")]
        on_both = sum(_argument(item, "target") == "simulator" for item in here)
        config.stash[GPU_TESTS] = len(items) - len(here) + on_both
        items[:] = here


def _argument(item: pytest.Item, name: str) -> object:
    """The argument of a parametrised test; None if it has no such."""
    return item.callspec.params.get(name) if hasattr(item, "callspec") else None


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    more = config.stash.get(GPU_TESTS, 0)
    return f"a machine with a GPU would run {more} more" if more else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start slow work alongside the first tests: files may have a function ``begin``."""
    if session.config.option.collectonly or len(session.items) < MANY:
        return
    modules = dict.fromkeys(item.getparent(pytest.Module) for item in session.items)
    for module in modules:
        if hasattr(module.obj, "begin"):
            CHILDREN.append(module.obj.begin(session))
    files = [str(module.path.relative_to(session.config.rootpath)) for module in modules]
    inside = [file for file in files if file.startswith("tests")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    tier = ["--full"] * session.config.getoption("--full")
    command = [sys.executable, "-m", "tests.ahead", *tier, *inside]
    CHILDREN.append(subprocess.Popen(command, **quiet))


def pytest_sessionfinish() -> None:
    for child in CHILDREN:
        child.terminate()
        child.wait()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Sum the seconds of each area: a script's file, or a folder of tests/."""
    path = report.nodeid.split("::")[0].split("/")
    area = "/".join(path[:2] if len(path) > 2 else path[:1])
    SECONDS[area] = SECONDS.get(area, 0.0) + report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    areas = sorted(SECONDS.items(), key=lambda item: -item[1])
    text = ", ".join(f"{area} {seconds:.0f}" for area, seconds in areas if seconds >= 0.5)
    if text:
        terminalreporter.write_line(f"seconds by area: {text}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise ``target`` everywhere, ``rung`` and ``case`` by the grid marker."""
    if metafunc.config.stash.get(BUILD_FAILURE, None):
        return
    grid = metafunc.definition.get_closest_marker("grid")
    if grid is not None:
        operator = grid.args[0]
        try:
            ladder = builds.rungs(operator.name)
            if "cpu" in operator.defaults and builds.sources(operator.name, "cpu")[0].exists():
                ladder += builds.rungs(operator.name, "cpu")
        except BuildError as error:
            metafunc.config.stash[BUILD_FAILURE] = error
            return
        ladder = [rung for rung in ladder if grid.kwargs.get("rungs", lambda rung: True)(rung)]
        names: list[str] = ["rung"]
        rows: list = [(rung,) for rung in ladder]
        ids = [rung.name for rung in ladder]
        if "case" in metafunc.fixturenames:
            full = metafunc.config.getoption("--full")
            names = ["rung", "case"]
            rows = list(_pairs(operator, ladder, *grid.args[1:], full=full))
            ids = [f"{rung.name}-{case_id(case)}" for rung, case in rows]
        if "target" in metafunc.fixturenames:
            places = [_targets(row[0]) for row in rows]
            ids = [f"{i}-{target}" for i, at in zip(ids, places, strict=True) for target in at]
            rows = [_on(row, t) for row, at in zip(rows, places, strict=True) for t in at]
            names.append("target")
        metafunc.parametrize(names, rows, ids=ids)
    elif "target" in metafunc.fixturenames:
        targets = [_on((), target) for target in TARGETS if target != "gpu" or GPU]
        metafunc.parametrize("target", targets, scope="session")


def _targets(rung: builds.Rung) -> tuple[str, ...]:
    """Where a rung runs, of what there is here."""
    if rung.on_cpu:
        return ("cpu",)
    return TARGETS if GPU else TARGETS[:1]


def _on(row: tuple[object, ...], target: str) -> ParameterSet:
    """The arguments of a test on a target."""
    marks = pytest.mark.gpu if target == "gpu" else ()
    return pytest.param(*row, target, marks=marks)


def _pairs(
    operator: Operator,
    ladder: Sequence[builds.Rung],
    sample: tuple[Case, ...],
    more: tuple[Case, ...] = (),
    *,
    full: bool,
) -> Iterator[tuple[builds.Rung, Case]]:
    """The rungs and cases of a grid: all with --full, else a covering sample for each rung.

    Each reason for which a rung refuses a dtype or an option is tested once. Ordered by case, so
    that a case's references are computed once.
    """
    cases = list(dict.fromkeys(sample + more if full else sample))
    chosen = {
        rung: cases if full else _covering(operator, rung, cases[turn:] + cases[:turn])
        for turn, rung in enumerate(ladder)
    }
    for case in cases:
        for rung in ladder:
            if case in chosen[rung]:
                yield rung, case


def _covering(operator: Operator, rung: builds.Rung, cases: Sequence[Case]) -> list[Case]:
    """A few cases that cover every size, option, layout, fill and dtype of all of them."""
    features = {case: _features(operator, rung, case) for case in cases}
    left = set().union(*features.values())
    chosen = []
    while left:
        best = max(cases, key=lambda case: len(features[case] & left))
        chosen.append(best)
        left -= features[best]
    return chosen


def _features(operator: Operator, rung: builds.Rung, case: Case) -> frozenset[object]:
    if case.dtype not in rung.dtypes:
        return frozenset({("refused", case.dtype)})
    refused = [option for option in operator.asked(case) if option not in rung.options]
    if refused:
        return frozenset({("refused", refused[0])})
    fields = (case.shape, case.options or "plain", case.layout, case.fill, case.dtype, case.atol)
    return frozenset({*enumerate(fields), *case.options})


def case_id(case: Case) -> str:
    bound = "" if case.atol is None else f"-atol={case.atol:g}"
    return f"{case}{bound}"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Let a failed build end the run: print its message once, with exit status 1."""
    report = yield
    failure = collector.config.stash.get(BUILD_FAILURE, None)
    if failure is not None:
        terminal = collector.config.pluginmanager.getplugin("terminalreporter")
        terminal.ensure_newline()
        terminal.write_line(str(failure))
        pytest.exit("the kernels do not build", returncode=1)
    return report


@pytest.fixture(autouse=True)
def checks_of_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the simulator run with the checks of the ``checks`` marker instead of --check."""
    marker = request.node.get_closest_marker("checks")
    if marker is None:
        yield
        return
    import simulator

    with simulator.settings(checks=marker.args[0]):
        yield


@pytest.fixture
def device(target: str) -> torch.device:
    """The device of a target's tensors."""
    return torch.device(DEVICES[target])


def _warp_orders(target: str, full: bool) -> Iterator[str]:
    """Run the simulator in each order of the tier; a GPU has its own."""
    if target != "simulator":
        yield f"as the {target.upper()} likes"
        return
    import simulator

    for order in WARP_ORDERS if full else WARP_ORDERS[:1]:
        with simulator.settings(order=order, seed=0):
            yield order


@pytest.fixture
def require_right(rung: builds.Rung, target: str, pytestconfig: pytest.Config):
    """A function that checks the test's rung on a case and fails with the checker's report."""

    def require(operator: Operator, case: Case) -> None:
        __tracebackhide__ = True
        for order in _warp_orders(target, pytestconfig.getoption("--full")):
            verdict = checked(operator, case)
            if not verdict.ok:
                pytest.fail(f"{verdict.report()}\n  warps    {order}", pytrace=False)

    def checked(operator: Operator, case: Case) -> verify.Verdict:
        try:
            return verify.check_rung(operator, rung, case, target)
        except verify.StickyError as error:
            pytest.exit(str(error), returncode=1)
        except torch.OutOfMemoryError:
            if target == "gpu" and "huge" in case.layout:
                pytest.skip(f"the GPU cannot hold {inputs.HUGE} elements")
            raise

    return require
