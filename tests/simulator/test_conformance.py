"""The cases of `python -m simulator.conformance` (all with --full), and that command itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from simulator.conformance import FAMILIES, Checked, __main__, cases, compile_only, programs
from simulator.conformance.coverage import expanded, form_name, listed
from simulator.conformance.micro import Form, FormCase, Suite
from workbench.toolchain.errors import UsageError

PROGRAMS = programs(FAMILIES)
EARLY = ("async_copy", "bulk_copy", "tensor_copy")  # read what a copy brings before their wait
UNDEFINED = ("warp",)  # its shuffles store results that are undefined
ONCE = ("mbarrier",)  # looks at the first answer of a wait, which is "not yet" with racecheck
PLAIN = (*EARLY, *UNDEFINED, *ONCE)
EACH = 5  # without --full, one of this many cases of an opcode runs
COMPARED = (  # by test_compare_targets
    ("integer", "add.u16"),
    ("float", "ex2.approx.f32"),
    ("compare", "setp.eq.f32"),
    ("atomic", "spin lock"),
)
SINGLE = ("move", "mov.b32")  # for the command's tests
outcomes: dict[str, list[__main__.Outcome]] = {}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[pytest.mark.checks("memcheck")] * (family in PLAIN))
        for family in FAMILIES
    ],
)
def test_family(family: str, pytestconfig: pytest.Config):
    require_right(family, pytestconfig.getoption("--full"), ("simulator",))


def require_right(family: str, full: bool, targets: tuple[str, ...]) -> None:
    """Run the cases of a family; fail with the name and error of each wrong one."""
    __tracebackhide__ = True
    chosen = cases(family) if full else some(cases(family))
    found = [__main__.run_case(family, case, full, targets) for case in chosen]
    outcomes[family] = found
    wrong = [f"{o.family}/{o.name}\n{o.error}" for o in found if o.error]
    if wrong:
        text = "\n\n".join(wrong)
        pytest.fail(f"{len(wrong)} of {len(found)} cases fail:\n\n{text}", pytrace=False)


def reduce() -> None:
    """What tests.simulator.compiled asks for: compile only what runs without --full."""
    for family in FAMILIES:
        if family != "mma":  # test_mma runs all of its forms
            named = [case for case in cases(family) if (family, case.name) in (*COMPARED, SINGLE)]
            compile_only(family, some(cases(family)) + named)


def some(every: Sequence[Checked]) -> list[Checked]:
    """One of EACH cases of each opcode, the first one included."""
    seen: Counter[str] = Counter()
    chosen = []
    for case in every:
        opcode = re.split(r"[. ]", case.name)[0]
        if seen[opcode] % EACH == 0:
            chosen.append(case)
        seen[opcode] += 1
    return chosen


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_family_on_gpu(family: str, pytestconfig: pytest.Config):
    require_right(family, pytestconfig.getoption("--full"), ("simulator", "gpu"))


def test_what_runs_is_listed_and_what_ran_still_runs(pytestconfig: pytest.Config):
    """Against the recorded result, which `python -m simulator.conformance` rewrites."""
    report = __main__.Report("simulator", False, True, sum(outcomes.values(), []))
    assert report.unlisted == []
    if pytestconfig.getoption("--full") and len(outcomes) == len(FAMILIES):
        recorded = json.loads((__main__.RESULTS / "conformance-simulator.json").read_text())
        assert set(report.not_covered) <= set(recorded["not_covered"])


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_unique(family: str):
    names = [case.name for case in cases(family)]
    assert len(set(names)) == len(names)


def test_patterns():
    assert expanded("a.{b,c}{,.d}") == ["a.b", "a.b.d", "a.c", "a.c.d"]
    assert expanded("n{8..24..8}k") == ["n8k", "n16k", "n24k"]
    assert expanded("x{.{a,b},.c}") == ["x.a", "x.c", "x.b", "x.c"]
    assert form_name("ld.global.L1::no_allocate.L2::128B.u32") == "ld.global.u32"
    assert len(listed()) > 4000


# ---- Comparing two targets; here the simulator with itself, and with wrong results.


WRONG = Suite(
    "wrong_suite",
    [
        Form("add.u32", "u32", "u32 u32", lambda a, b: a - b),
        Form("sub.u32", "u32", "u32 u32", lambda a, b: a - b),
    ],
)


@pytest.mark.parametrize(("family", "name"), COMPARED)
def test_compare_targets(family: str, name: str):
    case = next(case for case in cases(family) if case.name == name)
    outcome = __main__.run_case(family, case, False, ("simulator", "simulator"))
    assert (outcome.error, outcome.distance) == ("", 0)


def test_a_wrong_result_is_reported():
    outcome = __main__.run_case("integer", FormCase(WRONG, WRONG.forms[0]), False, ("simulator",))
    assert "wanted" in outcome.error and "add.u32" in outcome.forms


def test_targets_that_differ_are_reported(monkeypatch: pytest.MonkeyPatch):
    form = WRONG.forms[1]
    run = Suite.run

    def other(self, form, rows, active, target="simulator"):
        results, again = run(self, form, rows, active)
        results[0, 5] ^= target == "other"
        return results, again

    monkeypatch.setattr(Suite, "run", other)
    targets = ("simulator", "other")
    outcome = __main__.run_case("integer", FormCase(WRONG, form), False, targets)
    assert "on simulator and other" in outcome.error


# ---- The command -------------------------------------------------------------------------------


def test_command_writes_the_same_file_twice(tmp_path, capsys: pytest.CaptureFixture[str]):
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        assert __main__.main([f"^{'/'.join(SINGLE)}$", "--json", str(file)]) == 0
    assert files[0].read_text() == files[1].read_text()
    assert json.loads(files[0].read_text())["families"]["move"]["cases"] == 1
    assert "0 cases failing" in capsys.readouterr().out


def test_command_fails_with_a_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(__main__, "cases", lambda family: [FormCase(WRONG, WRONG.forms[0])])
    monkeypatch.setattr(__main__, "FAMILIES", ("integer",))
    assert __main__.main(["add.u32"]) == 1
    assert "FAILS integer/add.u32" in capsys.readouterr().out


def test_a_whole_run_fails_for_what_is_missing():
    outcome = __main__.Outcome("integer", "one", forms=frozenset({"add.u32", "new.u32"}))
    report = __main__.Report("simulator", False, True, [outcome])
    assert report.unlisted == ["new.u32"]
    assert "add.u32" not in report.not_covered and "sub.u32" in report.not_covered
    assert not report.ok


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_a_clear_error():
    with pytest.raises(UsageError, match="finds no GPU"):
        __main__.main(["--gpu"])
