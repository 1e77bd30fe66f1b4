"""Errors in ulp: how they are counted, and that the rungs' errors are of the expected size."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch

from workbench import rungs
from workbench.cli import pages, precision
from workbench.cli.precision import Precision
from workbench.operators import softmax
from workbench.operators.attention import OPERATOR as ATTENTION
from workbench.operators.softmax import OPERATOR as SOFTMAX

FEW = {"randn": ("rows=3,cols=100", "randn"), "1e4 randn": ("rows=3,cols=100", "large")}


@pytest.fixture
def few(monkeypatch):
    """Softmax with a study of few rows."""
    study = dataclasses.replace(SOFTMAX.precision, inputs=FEW)
    operator = dataclasses.replace(SOFTMAX, precision=study)
    monkeypatch.setattr(softmax, "OPERATOR", operator)
    return operator


@pytest.mark.parametrize("dtype", precision.DTYPES)
def test_errors_count_neighbouring_numbers(dtype):
    dtype = getattr(torch, dtype)
    ones = torch.tensor([1.0, 0.75, 0.25, 2.0**-10], dtype=dtype)
    steps = torch.tensor([3, 1, 2, 5])
    eps = torch.finfo(dtype).eps
    spacing = torch.tensor([eps, eps / 2, eps / 4, eps * 2.0**-10], dtype=dtype)
    got = ones + steps.to(dtype) * spacing
    expected = ones.double().numpy().astype(np.longdouble)
    assert precision.errors_in_ulp(got, expected).tolist() == [3, 1, 2, 5]


def test_what_is_below_the_normal_numbers_is_left_out():
    tiny = torch.finfo(torch.float32).tiny
    got = torch.tensor([tiny, 0.0, 0.0])
    expected = np.array([tiny, tiny / 2, 0.0], dtype=np.longdouble)
    assert precision.errors_in_ulp(got, expected).tolist() == [0.0]


def test_the_reference_is_more_exact_than_float64():
    x = 30 * torch.randn(4, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = SOFTMAX.precision.exact({"x": x})
    assert np.abs(exact.sum(axis=-1) - 1).max() < 1e-17
    assert np.allclose(exact.astype(float), torch.softmax(x, -1).numpy(), rtol=1e-13, atol=0)
    assert 0 < precision.errors_in_ulp(torch.softmax(x, -1), exact).max() < 1000


def test_every_rung_and_its_rivals_are_measured(few):
    found = list(precision.measure(few, "float32", "randn"))
    names = [rung.name for rung in rungs("softmax") if not rung.name.startswith("cluster")]
    assert [one.kernel for one in found] == ["torch", "unsafe", "pairwise", *names]
    for one in found:
        assert 0 < one.mean_ulp < one.max_ulp < 30, one
    large = {one.kernel: one for one in precision.measure(few, "float32", "1e4 randn")}
    assert large["unsafe"].max_ulp is None
    assert all(one.max_ulp < 30 for name, one in large.items() if name != "unsafe")
    half = list(precision.measure(few, "float16", "randn"))
    assert "naive" not in [one.kernel for one in half]
    assert all(one.max_ulp < 0.6 for one in half)  # rounded once, at the end


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ATTENTION.precision.inputs)
def test_16_bit_attention_errs_at_most_twice_as_much_as_torch(dtype, kind):
    torch_s, _, *found = precision.measure(ATTENTION, dtype, kind)
    assert torch_s.kernel == "torch"
    assert {one.kernel for one in found} >= {"naive", "flash", "flash_mma", "flash_mma_pipelined"}
    for one in found:
        assert one.max_ulp <= 2 * torch_s.max_ulp, one
        assert one.mean_ulp <= 2 * torch_s.mean_ulp, one


def test_tables():
    found = [
        Precision("naive", "float32", "randn", 26.21, 4.987),
        Precision("naive", "float32", "long", 472.4, 276.1),
        Precision("unsafe", "float32", "long", None, None),
        Precision("cluster", "float16", "randn", 0.5, 0.25),
    ]
    titles, rows = precision.lines(found, "float32")
    assert titles == ["", "randn", "long"]
    assert rows == [["naive", "26.2 (4.99)", "472 (276)"], ["unsafe", "", "NaN"]]


def test_the_command_writes_what_the_pages_read(few, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(precision, "DTYPES", ("bfloat16",))
    file = tmp_path / "x.json"
    monkeypatch.setattr(sys, "argv", ["precision", "--json", str(file)])
    assert precision.main() == 0
    assert "bfloat16: largest (mean) error in ulp\n" in capsys.readouterr().out
    run = json.loads(file.read_text())
    assert (run["device"], run["command"]) == (
        "simulator",
        "python -m workbench.cli.precision softmax",
    )
    assert all(math.isfinite(one["max_ulp"]) for one in run["precision"])
    text = pages.table(run)
    assert "bfloat16, largest (mean) error in ulp:\n\n| rung | randn | 1e4 randn |" in text
    assert "\n| row_in_registers | 0.5" in text
