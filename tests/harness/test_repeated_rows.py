"""Large cases of operators on rows: a few rows, repeated, represent all of them."""

import dataclasses
import math

import pytest
import torch

from workbench.harness import inputs, verify
from workbench.operators import rows
from workbench.operators.softmax import OPERATOR as SOFTMAX

CPU = torch.device("cpu")
CASE = SOFTMAX.case("rows=23,cols=9")


def few_rows(monkeypatch, elements: int = 64) -> None:
    """Let cases with more elements repeat their rows."""
    monkeypatch.setattr(rows, "MANY_ELEMENTS", elements)
    verify.expected.cache_clear()


def launched(spoil) -> verify.Verdict:
    """The checker's verdict on a right softmax whose result ``spoil`` then changes."""

    def launch(given, out):
        out["out"].copy_(torch.softmax(given["x"], dim=-1))
        spoil(out["out"])

    return verify.check_launch(SOFTMAX, CASE, CPU, launch, "subject")


@pytest.mark.parametrize(
    ("shape", "distinct"),
    [
        ("rows=4096,cols=4096", 4096),
        ("rows=32768,cols=4096", 1021),
        ("rows=8192,cols=65536", 61),
        ("rows=1024,cols=1048576", 5),
        ("rows=2,cols=100000000", 2),
        ("rows=1,cols=100000000", 1),
    ],
)
def test_large_cases_have_a_prime_number_of_rows(shape, distinct):
    case = SOFTMAX.case(shape, dtype="bfloat16", fill="spiky")
    few = SOFTMAX.distinct(case)
    assert few == dataclasses.replace(case, shape=few.shape)
    assert (few.shape["rows"], few.shape["cols"]) == (distinct, case.shape["cols"])


def test_memory_is_that_of_the_tensors():
    size = 2**30
    few = 5 * 2**20
    least = SOFTMAX.least_bytes(SOFTMAX.case("rows=1024,cols=1048576"))
    assert least == 2 * 4 * size + 2 * 8 * few


def test_rows_are_repeated(monkeypatch):
    few_rows(monkeypatch)
    few = inputs.values(SOFTMAX, CASE)["x"]
    assert few.shape == (5, 9)
    for layout in SOFTMAX.layouts:
        case = dataclasses.replace(CASE, layout=layout)
        placed = inputs.place_inputs(SOFTMAX, case, CPU)["x"].view
        assert placed.shape == (23, 9)
        assert all(torch.equal(row, few[i % 5]) for i, row in enumerate(placed))


def test_the_checker_looks_at_every_row(monkeypatch):
    few_rows(monkeypatch)
    assert launched(lambda out: None).ok

    def one(out):
        out[22, 3] = 0.5

    assert "worst    out[22, 3]: got 0.5" in launched(one).report()
    assert "1 of 207 elements" in launched(one).report()

    def unwritten(out):
        inputs.fill_unwritten(out[7:9])

    assert "18 of 207 elements of out, 18 never written" in launched(unwritten).report()

    def shifted(out):
        out[10:] = out[9:-1].clone()

    assert "117 of 207 elements" in launched(shifted).report()
    assert not launched(lambda out: out.fill_(math.nan)).ok
