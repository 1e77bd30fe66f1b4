"""Error models: torch's own fp32 kernels fit them, and they are not loose."""

import math

import pytest
import torch

from workbench.harness import checking, inputs, verify
from workbench.operators import attention, matmul, rounding
from workbench.operators.attention import OPERATOR as ATTENTION
from workbench.operators.matmul import OPERATOR as MATMUL
from workbench.operators.softmax import OPERATOR as SOFTMAX

CASES = (
    (MATMUL, "M=40,N=50,K=60"),
    (MATMUL, "M=10,N=10,K=3000"),
    (SOFTMAX, "rows=30,cols=7"),
    (SOFTMAX, "rows=5,cols=5000"),
    (ATTENTION, "B=1,H=2,Nq=40,Nk=50,D=64"),
    (ATTENTION, "B=1,H=2,Nq=50,Nk=40,D=32 causal"),
)


@pytest.mark.parametrize("fill", ["randn", "spiky", "tens", "large"])
@pytest.mark.parametrize(("operator", "text"), CASES)
def test_torch_fits(operator, text, fill):
    assert checking.torch_share(operator, operator.case(text, fill=fill)) <= 1


@pytest.mark.parametrize(("operator", "text"), CASES)
def test_half_precision_does_not(operator, text):
    case = operator.case(text)
    expected = verify.expected(operator.name, case, "cpu")["out"]
    got = operator.by_torch(inputs.values(operator, case), case)
    assert verify.compare(got.bfloat16().float(), expected).wrong > 0


def test_gamma_is_the_smaller_bound():
    assert rounding.gamma(1) == pytest.approx(2.0**-24)
    assert rounding.gamma(4096) == pytest.approx(8 * 64 * 2.0**-24, rel=1e-3)
    assert rounding.gamma(2.0**25) < 1


def test_whole_numbers_are_exact():
    a, b = torch.full((3, 5), 2.0), torch.full((5, 4), 3.0)
    assert float(matmul.tolerance(a, b, False).max()) == 0
    assert float(matmul.tolerance(a * 2.0**22, b, False).min()) > 0


def test_attention_without_keys():
    q, none = torch.randn(1, 1, 3, 4), torch.empty(1, 1, 0, 4)
    out, lse = attention.reference(q, none, none, False, None)
    assert out.abs().max() == 0
    assert lse.tolist() == [[[-math.inf] * 3]]


@pytest.mark.parametrize(
    ("nq", "nk", "causal"),
    [(3, 5, 1), (5, 3, 1), (4, 4, 1), (4, 4, 0), (1, 9, 1), (9, 1, 1), (0, 3, 1), (3, 0, 1)],
)
def test_visible_pairs_counts_the_mask(nq, nk, causal):
    options = "causal" if causal else ""
    case = ATTENTION.case(f"B=1,H=1,Nq={nq},Nk={nk},D=8", options=options)
    mask = attention.rule_of(case).visible(nq, nk)
    assert attention.visible_pairs(case) == int(mask.sum())


def test_flops_and_bytes():
    product = MATMUL.case("M=2,N=3,K=5")
    assert MATMUL.flops(product) == 60
    assert MATMUL.ideal_bytes(product) == 4 * (10 + 15 + 6)
    batched = MATMUL.case("M=2,N=3,K=5", layout="shared_b")  # three products, one b
    assert MATMUL.flops(batched) == 180
    assert MATMUL.ideal_bytes(batched) == 4 * (30 + 15 + 18)
    assert SOFTMAX.ideal_bytes(SOFTMAX.case("rows=3,cols=7")) == 8 * 21
    assert SOFTMAX.ideal_bytes(SOFTMAX.case("rows=3,cols=7", dtype="bfloat16")) == 4 * 21
    heads = ATTENTION.case("B=2,H=3,Nq=4,Nk=5,D=8")
    assert ATTENTION.flops(heads) == 4 * 2 * 3 * 8 * 20
    assert ATTENTION.ideal_bytes(heads) == 4 * 6 * (2 * 4 * 8 + 2 * 5 * 8 + 4)
