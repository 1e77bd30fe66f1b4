"""Proves that the checker catches what wrong kernels do.

The kernels here are Python functions that compute the right result and then spoil it.
"""

import dataclasses
import math

import pytest
import torch

from workbench import rungs
from workbench.harness import inputs, verify
from workbench.operators.attention import OPERATOR as ATTENTION
from workbench.operators.matmul import OPERATOR as MATMUL
from workbench.operators.softmax import OPERATOR as SOFTMAX

CPU = torch.device("cpu")


def run(operator, case, launch) -> verify.Verdict:
    subject = verify.describe(operator.name, "spoiled", "simulator", case)
    return verify.check_launch(operator, case, CPU, launch, subject)


def right_matmul(given, out):
    torch.matmul(given["a"], given["b"], out=out["out"])


def right_softmax(given, out):
    out["out"].copy_(torch.softmax(given["x"], dim=-1))


def spoiled(spoil):
    """A right matmul whose result ``spoil`` then changes in place."""

    def launch(given, out):
        right_matmul(given, out)
        spoil(out["out"])

    return launch


def transpose(out):
    out.copy_(out.clone().mT)


def shift(out):
    out.copy_(out.flatten().roll(1).view(out.shape))


def one_wrong(out):
    out[5, 7] += 1e-3


def one_nan(out):
    out[5, 7] = math.nan


def one_infinite(out):
    out[5, 7] = math.inf


def drop_last_term(given, out):
    out["out"].copy_(given["a"][:, :-1] @ given["b"][:-1])


SPOILS = {
    "zeros": torch.Tensor.zero_,
    "nan": lambda out: out.fill_(math.nan),
    "transposed": transpose,
    "shifted": shift,
    "negated": torch.Tensor.neg_,
    "one_wrong": one_wrong,
    "one_nan": one_nan,
    "one_infinite": one_infinite,
    "half_precision": lambda out: out.copy_(out.half().float()),
}


@pytest.mark.parametrize("fill", ["randn", "spiky", "integers"])
def test_accepts_a_right_result(fill):
    assert run(MATMUL, MATMUL.case("M=24,N=24,K=24", fill=fill), right_matmul).ok


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
@pytest.mark.parametrize("fill", ["randn", "spiky"])
def test_rejects(spoil, fill):
    verdict = run(MATMUL, MATMUL.case("M=24,N=24,K=24", fill=fill), spoiled(spoil))
    assert not verdict.ok
    with pytest.raises(AssertionError, match="WRONG"):
        verdict.require()


def test_rejects_a_missing_term():
    case = MATMUL.case("M=24,N=24,K=512", fill="integers")
    assert not run(MATMUL, case, drop_last_term).ok


def test_rejects_an_output_left_as_it_was():
    verdict = run(MATMUL, MATMUL.case("M=8,N=8,K=8"), lambda given, out: None)
    assert "64 of 64 elements of out, 64 never written" in verdict.report()


def test_rejects_the_result_of_the_last_call():
    """Stale output: a kernel that computes once and never again."""
    kept = torch.zeros(8, 8)
    right_matmul(inputs.values(MATMUL, MATMUL.case("M=8,N=8,K=8", fill="spiky")), {"out": kept})
    stale = run(MATMUL, MATMUL.case("M=8,N=8,K=8"), lambda given, out: out["out"].copy_(kept))
    assert not stale.ok


def test_rejects_a_result_added_to_what_was_there():
    verdict = run(
        MATMUL,
        MATMUL.case("M=8,N=8,K=8"),
        lambda given, out: out["out"].add_(given["a"] @ given["b"]),
    )
    assert not verdict.ok


def test_names_one_wrong_element_in_a_million():
    case = MATMUL.case("M=1000,N=1000,K=8", fill="randn")

    def launch(given, out):
        right_matmul(given, out)
        out["out"][617, 923] += 0.01

    report = run(MATMUL, case, launch).report()
    assert "out[617, 923]" in report
    assert "1 of 1000000 elements of out" in report


def test_names_one_unwritten_element():
    case = MATMUL.case("M=40,N=50,K=8")

    def launch(given, out):
        result = given["a"] @ given["b"]
        out["out"].view(-1)[:-1] = result.view(-1)[:-1]

    report = run(MATMUL, case, launch).report()
    assert "out[39, 49]: got nan" in report
    assert "1 of 2000 elements of out, 1 never written" in report


def test_report_names_everything():
    report = run(MATMUL, MATMUL.case("M=24,N=24,K=24"), spoiled(one_wrong)).report()
    for part in ("matmul spoiled on the simulator", "M=24,N=24,K=24", "layout nn", "fill randn"):
        assert part in report
    for part in ("out[5, 7]: got", "expected", "error 0.001", "allowed", "1 of 576"):
        assert part in report


@pytest.mark.parametrize(
    ("layout", "index", "words"),
    [
        ("nn", -1, "1 before the first element"),
        ("nn", 64, "1 after the last element"),
        ("offset", -1, "1 before the first element"),
        ("padded", 8, "8 after the first element, in the padding"),
    ],
)
def test_rejects_writes_around_the_output(layout, index, words):
    case = MATMUL.case("M=8,N=8,K=8", layout=layout)

    def launch(given, out):
        right_matmul(given, out)
        first = out["out"].storage_offset()
        out["out"].untyped_storage()[4 * (first + index)] = 1

    report = run(MATMUL, case, launch).report()
    assert "1 elements outside out were overwritten" in report
    assert words in report


@pytest.mark.parametrize("slab", [0, 3])
def test_rejects_writes_around_huge_rows(slab):
    case = MATMUL.case("M=4,N=8,K=8", layout="huge_out")

    def launch(given, out):
        out["out"].copy_(given["a"] @ given["b"])
        view = out["out"]
        beyond = view.as_strided((4, 9), view.stride(), view.storage_offset())
        beyond[slab, 8] = 0.0

    report = run(MATMUL, case, launch).report()
    assert f"1 after the last element of slab {slab}" in report


def test_rejects_a_changed_input():
    def launch(given, out):
        right_matmul(given, out)
        given["b"][3, 3] += 1

    report = run(MATMUL, MATMUL.case("M=8,N=8,K=8"), launch).report()
    assert "input    b or the memory around it was changed" in report


def test_reading_around_an_input_shows():
    """The padding of inputs is NaN, so that a sum over it is."""

    def launch(given, out):
        a = given["a"]
        wide = a.as_strided((8, 9), a.stride(), a.storage_offset())
        out["out"].copy_(wide[:, :8] @ given["b"] + 0 * wide[:, 8:])

    assert not run(MATMUL, MATMUL.case("M=8,N=8,K=8", layout="padded"), launch).ok


@pytest.mark.parametrize("fill", ["some_nan", "some_inf", "some_neg_inf"])
def test_nan_and_infinities_have_to_be_where_they_belong(fill):
    case = MATMUL.case("M=40,N=40,K=3", fill=fill)
    assert run(MATMUL, case, right_matmul).ok
    for value in (0.0, 1e30, -math.inf):

        def launch(given, out, value=value):
            right_matmul(given, out)
            out["out"].nan_to_num_(nan=value, posinf=torch.inf, neginf=-torch.inf)

        assert not run(MATMUL, case, launch).ok, value
    if fill != "some_nan":
        assert not run(MATMUL, case, spoiled(lambda out: out.abs_())).ok


def test_unwritten_is_wrong_even_where_nan_is_right():
    case = SOFTMAX.case("rows=6,cols=5", fill="masked_rows")
    assert run(SOFTMAX, case, right_softmax).ok

    def launch(given, out):
        out["out"][1::2] = torch.softmax(given["x"], dim=-1)[1::2]

    report = run(SOFTMAX, case, launch).report()
    assert "15 of 30 elements of out, 15 never written" in report


def test_the_second_fill_finds_what_copies_its_output():
    """NaN rows 'computed' from the output's initial content pass one fill, not two."""
    case = SOFTMAX.case("rows=6,cols=5", fill="masked_rows")

    def launch(given, out):
        right = torch.softmax(given["x"], dim=-1)
        out["out"].copy_(torch.where(right.isnan(), out["out"] * 1.0 + 0.0 * out["out"], right))
        out["out"][out["out"].isnan()] = math.nan

    report = run(SOFTMAX, case, launch).report()
    assert "got 12345, expected nan" in report


def test_constant_rows_show_a_missing_element():
    """The smallest of many exponentials disappears in rounding; in a constant row it cannot."""
    case = SOFTMAX.case("rows=3,cols=4096", fill="constant_rows")
    assert run(SOFTMAX, case, right_softmax).ok

    def launch(given, out):
        e = torch.exp(given["x"] - given["x"].amax(dim=-1, keepdim=True))
        out["out"].copy_(e / e[:, :-1].sum(dim=-1, keepdim=True))

    assert not run(SOFTMAX, case, launch).ok


def test_softmax_without_the_maximum_is_wrong():
    def launch(given, out):
        e = torch.exp(given["x"])
        out["out"].copy_(e / e.sum(dim=-1, keepdim=True))

    assert not run(SOFTMAX, SOFTMAX.case("rows=4,cols=50", fill="large"), launch).ok


def options_launch(given, out, *, scale=0.5, log_base=1.0, lse_of=1.0):
    """Log-softmax and log-sum-exp of 0.5 x with parts that can be made wrong."""
    x = scale * given["x"].float()
    out["out"].copy_(torch.log_softmax(x, dim=-1) * log_base)
    out["lse"].copy_(torch.logsumexp(lse_of * x, dim=-1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_softmax_is_checked_in_all_its_options(dtype):
    case = SOFTMAX.case("rows=5,cols=300 scale=0.5 log lse", dtype=dtype)

    def attempt(**wrong):
        return run(SOFTMAX, case, lambda given, out: options_launch(given, out, **wrong))

    assert attempt().ok
    assert not attempt(scale=1.0).ok, "no scale"
    assert not attempt(log_base=math.log2(math.e)).ok, "another base"
    report = attempt(lse_of=1.01).report()
    assert "lse[" in report and "elements of out" not in report


def test_a_rung_has_to_refuse_what_it_does_not_take():
    rung = next(rung for rung in rungs("softmax") if {"scale", "lse"} <= {*rung.options})
    case = SOFTMAX.case("rows=5,cols=300 lse scale=0.5")
    right = verify.check_rung(SOFTMAX, rung, case, "simulator")
    assert right.ok and not right.refused
    for option in ("scale", "lse"):
        others = tuple(other for other in rung.options if other != option)
        other = dataclasses.replace(rung, options=others)
        report = verify.check_rung(SOFTMAX, other, case, "simulator").report()
        assert f"accepted an input it does not support: does not support {option}" in report
    first, *_ = rungs("softmax")
    refused = verify.check_rung(SOFTMAX, first, case, "simulator")
    assert (refused.ok, refused.refused) == (True, "does not support scale")


def test_a_rung_may_decline_what_its_idea_is_of_no_use_for():
    rung = next(rung for rung in rungs("attention") if rung.name == "flash")
    case = ATTENTION.case("B=1,H=1,Nq=9,Nk=10,D=300")
    verdict = verify.check_rung(ATTENTION, rung, case, "simulator")
    assert verdict.ok
    reason = "its tiles are made for head dimensions up to 256; got 300"
    assert verdict.refused == f"declines: {reason}"


def attention_launch(q_k_v, out, *, diagonal=None, scale=None, lse_base=1.0):
    """Attention in fp32 with parts that can be made wrong."""
    q, k, v = (q_k_v[name] for name in "qkv")
    scores = (q @ k.mT) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if diagonal is not None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(diagonal)
        scores = scores.masked_fill(~mask, -math.inf)
    out["out"].copy_((torch.softmax(scores, dim=-1) @ v).nan_to_num(nan=0.0))
    out["lse"].copy_(torch.logsumexp(scores, dim=-1) * lse_base)


@pytest.mark.parametrize("shape", ["B=1,H=2,Nq=20,Nk=30,D=32", "B=1,H=2,Nq=30,Nk=20,D=32"])
def test_attention_is_checked_in_all_its_parts(shape):
    keys = dict(part.split("=") for part in shape.split(","))
    aligned = int(keys["Nk"]) - int(keys["Nq"])
    causal = ATTENTION.case(shape, options="causal")

    def attempt(case, **wrong):
        return run(ATTENTION, case, lambda given, out: attention_launch(given, out, **wrong))

    assert attempt(causal, diagonal=aligned).ok
    assert attempt(ATTENTION.case(shape)).ok
    assert not attempt(causal, diagonal=0).ok, "aligned with the first key"
    assert not attempt(causal, diagonal=aligned - 1).ok, "the diagonal is masked"
    assert not attempt(causal).ok, "no mask"
    assert not attempt(causal, diagonal=aligned, scale=1.0).ok, "no scale"
    wrong_lse = attempt(causal, diagonal=aligned, lse_base=math.log2(math.e))
    assert "lse[" in wrong_lse.report()
    assert "elements of out" not in wrong_lse.report()


def test_what_a_launch_raises_is_reported():
    def launch(given, out):
        raise RuntimeError("kernels/matmul.cu:12: read past the end of a")

    report = run(MATMUL, MATMUL.case("M=8,N=8,K=8"), launch).report()
    assert "raised RuntimeError: kernels/matmul.cu:12: read past the end of a" in report


def test_placements_keep_values_and_have_guards_all_around():
    values = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    for placement in inputs.PLACEMENTS:
        placed = inputs.place_values(values, placement, CPU)
        assert torch.equal(placed.view, values), placement
        assert not list(verify.guard_lines("out", placed)), placement
        if placement == "huge":
            assert placed.view.stride(0) >= inputs.HUGE
        else:
            assert inputs.is_guard(placed.buffer[: inputs.GUARD]).all(), placement
            assert inputs.is_guard(placed.buffer[-inputs.GUARD :]).all(), placement


def test_equal_cases_have_equal_inputs():
    case = MATMUL.case("M=8,N=9,K=10", fill="spiky")
    first, second = inputs.values(MATMUL, case), inputs.values(MATMUL, case)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = inputs.values(MATMUL, MATMUL.case("M=8,N=9,K=10", fill="spiky", seed=1))
    assert not torch.equal(first["a"], other["a"])


def test_an_extra_bound_narrows_the_model():
    loose = verify.expected("matmul", MATMUL.case("M=8,N=8,K=512", fill="spiky"), "cpu")
    tight = verify.expected("matmul", MATMUL.case("M=8,N=8,K=512", fill="spiky", atol=1e-9), "cpu")
    assert float(tight["out"].allowed.max()) <= 1e-9 < float(loose["out"].allowed.max())
