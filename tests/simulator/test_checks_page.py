"""docs/checks.md: its reports are the simulator's, each of its section's kind."""

import re

import pytest

from simulator import checks_page
from simulator.checks import CHECKS
from workbench.toolchain import cache_dir


@pytest.mark.full
def test_the_page_says_what_the_simulator_says() -> None:
    page = checks_page.PAGE.read_text()
    assert len(checks_page.examples(page)) >= 9
    now = checks_page.rewritten(page, cache_dir() / "checks_page")
    if without_ptx(now) != without_ptx(page):
        pytest.fail("run python -m simulator.checks_page, and read what it changed")


def without_ptx(page: str) -> str:
    """Register names are the compiler's choice."""
    return re.sub(r"^  PTX: .*\n", "", page, flags=re.M)


def test_each_check_has_reports_in_its_section() -> None:
    page = checks_page.PAGE.read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", page, re.M | re.S))
    for check in CHECKS:
        found = checks_page.examples(sections[check])
        assert found, check
        assert all(example.report.startswith(f"{check}: ") for example in found), check


def test_names_that_are_explained_exist() -> None:
    from simulator.compare import wrong

    _, _, text = checks_page.PAGE.read_text().partition("## Compared with compute-sanitizer")
    known = {kernel.name for file in wrong.FILES for kernel in wrong.kernels(file)}
    named = set(re.findall(r"`(\w+_\w+|[a-z]+)`", text))
    assert named - known <= {"atomicAdd", "cudaMalloc", "ldmatrix"}
