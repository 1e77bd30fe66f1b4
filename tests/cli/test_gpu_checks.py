"""Tallies of the checks on a GPU, with a fake checker."""

import json
import os

import pytest
import torch

from workbench import operators
from workbench.cli import gpu_checks
from workbench.harness import verify
from workbench.harness.results import Environment
from workbench.operators.builds import Rung

OPERATOR = operators.get("matmul")
LADDER = tuple(Rung("matmul", name, ("float32",)) for name in ("good", "bad", "picky", "large"))


def pretended_check(operator, rung, case, target):
    if rung.name == "bad":
        return verify.Verdict("bad", ("worst    out[0]",))
    if rung.name == "large":
        raise torch.OutOfMemoryError("CUDA out of memory")
    return verify.Verdict(rung.name, refused="picks" if rung.name == "picky" else "", share=0.5)


@pytest.fixture
def file(monkeypatch, tmp_path):
    here = Environment("a GPU", "1", "2", "3", None, "")
    monkeypatch.setattr(gpu_checks, "environment", lambda *args: here)
    monkeypatch.setattr(gpu_checks, "ladder", lambda *args: LADDER)
    monkeypatch.setattr(gpu_checks, "cases", lambda *args: OPERATOR.edge_cases("float32"))
    monkeypatch.setattr(verify, "check_rung", pretended_check)
    return tmp_path / "x.json"


def results(file) -> dict[str, tuple]:
    rows = json.loads(file.read_text())["rungs"]
    return {row["kernel"]: (row["result"], row["right"], row["wrong"]) for row in rows}


def test_right_refused_wrong_and_no_memory(file, capsys):
    assert gpu_checks.main(["matmul", "--json", str(file)]) == 1
    number = len(OPERATOR.edges)
    assert results(file) == {
        "good": ("right", number, 0),
        "bad": ("wrong", 0, number),
        "picky": ("refused", 0, 0),
        "large": ("not checked", 0, 0),
    }
    document = json.loads(file.read_text())
    assert (document["device"], document["op"], document["checking"]) == ("a GPU", "matmul", None)
    assert document["rungs"][2]["refused"] == {"picks": number}
    assert document["rungs"][1]["reports"][0].startswith("WRONG  bad\n  worst ")
    assert capsys.readouterr().out.endswith("wrong: bad\n")


def test_the_file_names_what_is_being_checked(file, monkeypatch):
    def hang(operator, rung, case, target):
        if rung.name == "bad":
            raise KeyboardInterrupt
        return verify.Verdict(rung.name)

    monkeypatch.setattr(verify, "check_rung", hang)
    with pytest.raises(KeyboardInterrupt):
        gpu_checks.main(["matmul", "--json", str(file)])
    assert json.loads(file.read_text())["checking"].startswith("matmul bad on the GPU: M=")
    assert results(file)["good"] == ("right", 1, 0)


def test_a_rung_that_breaks_the_context_is_left_out_by_a_new_process(file, monkeypatch):
    def lost(operator, rung, case, target):
        if rung.name == "good":
            raise verify.StickyError("an illegal memory access")
        return pretended_check(operator, rung, case, target)

    def again(program, command):
        nonlocal status
        status = gpu_checks.main(command[3:])
        raise SystemExit

    status = None
    monkeypatch.setattr(verify, "check_rung", lost)
    monkeypatch.setattr(os, "execv", again)
    with pytest.raises(SystemExit):
        gpu_checks.main(["matmul", "--json", str(file)])
    assert status == 1
    assert results(file)["good"] == ("wrong", 0, 1)
    assert results(file)["bad"] == ("wrong", 0, len(OPERATOR.edges))
    assert json.loads(file.read_text())["rungs"][0]["reports"] == ["an illegal memory access"]


def test_the_cases_are_the_edges_in_every_dtype_and_the_tests_samples():
    ladder = (Rung("matmul", "x", ("float32", "float64")),)
    every = gpu_checks.cases(OPERATOR, ladder)
    edges = len(OPERATOR.edges)
    assert [case.dtype for case in every[: 2 * edges]] == ["float32"] * edges + ["float64"] * edges
    assert OPERATOR.case("M=97,N=89,K=101", fill="integers") in every
    assert len(every) == len(set(every))
