"""Error models of softmax, its options and its gradient: torch fits, slightly more does not."""

import math

import pytest
import torch

from workbench.harness import inputs, verify
from workbench.operators import softmax, softmax_backward
from workbench.operators.operator import Case, Expected, Tensors
from workbench.operators.softmax import OPERATOR as SOFTMAX
from workbench.operators.softmax_backward import OPERATOR as SOFTMAX_BACKWARD

DTYPES = ("float32", "float64", "float16", "bfloat16")
SHAPES = (
    *(f"rows=30,cols=7 scale={scale}" for scale in (1, 0.125, -2, 0)),
    "rows=5,cols=2000",
)
FILLS = (
    "randn",
    "spiky",
    "tens",
    "large",
    "denormal",
    "some_neg_inf",
    "masked_rows",
    "single_huge",
)
ULPS = {"float32": 40, "float64": 80, "float16": 1.5, "bfloat16": 1.5}


def forward(given: Tensors, case: Case) -> Tensors:
    """Torch's own kernels.

    A scaled x is not rounded, as in a kernel; and on a CPU torch's log_softmax of 16-bit numbers
    rounds intermediate results.
    """
    x, scale, log = given["x"], case.option("scale", 1.0), case.option("log")
    wide = scale * x.to(torch.promote_types(x.dtype, torch.float32))
    function = torch.log_softmax if log else torch.softmax
    out = {"out": function(x if scale == 1 and not log else wide, dim=-1).to(x.dtype)}
    return {**out, "lse": torch.logsumexp(wide, dim=-1)} if case.option("lse") else out


def backward(given: Tensors, case: Case) -> Tensors:
    """Torch's own kernel if it supports the options, else the formula in the kernels' type."""
    dy, y, log = given["dy"], given["y"], case.option("log")
    scale, dlse = case.option("scale", 1.0), given.get("dlse")
    if scale == 1 and dlse is None:
        aten = torch.ops.aten
        kernel = aten._log_softmax_backward_data if log else aten._softmax_backward_data
        return {"dx": kernel(dy, y, -1, y.dtype)}
    wide = torch.promote_types(y.dtype, torch.float32)
    dy, y = dy.to(wide), y.to(wide)
    total = (dy if log else dy * y).sum(dim=-1, keepdim=True)
    if dlse is not None:
        total = total - dlse[:, None]
    dx = dy - torch.exp(y) * total if log else y * (dy - total)
    return {"dx": (scale * dx).to(given["y"].dtype)}


def compared(operator, case: Case, spoil=lambda out: out) -> dict[str, verify.Comparison]:
    run = forward if operator is SOFTMAX else backward
    got = run(inputs.values(operator, case), case)
    expected = verify.expected(operator.name, case, "cpu")
    assert got.keys() == expected.keys()
    return {name: verify.compare(spoil(got[name]), expected[name]) for name in got}


def wrong(operator, shape, options, dtype) -> dict[str, verify.Comparison]:
    """Which of torch's results are out of bounds, by fill and output."""
    found = {}
    for fill in FILLS:
        if fill == "single_huge" and "scale=-2" in shape:
            continue  # twice the largest number
        case = operator.case(shape, options=options, fill=fill, dtype=dtype)
        for name, comparison in compared(operator, case).items():
            found[f"{name} of {fill}"] = comparison
    return {name: comparison for name, comparison in found.items() if comparison.wrong}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ["lse", "log lse"])
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_fits(shape, options, dtype):
    assert not wrong(SOFTMAX, shape, options, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ["", "log", "dlse", "log dlse"])
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_fits_backward(shape, options, dtype):
    assert not wrong(SOFTMAX_BACKWARD, shape, options, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ["", "log", "lse"])
def test_a_few_ulp_do_not(dtype, options):
    """Short rows, so that the bound is from a few operations and not a long sum."""
    factor = 1 + ULPS[dtype] * torch.finfo(getattr(torch, dtype)).eps
    case = SOFTMAX.case("rows=30,cols=7", options=options, dtype=dtype)

    def spoil(out: torch.Tensor) -> torch.Tensor:
        more = factor if out.dtype == getattr(torch, dtype) else 1 + 40 * 2.0**-23
        return (out.double() * more).to(out.dtype)

    for comparison in compared(SOFTMAX, case, spoil).values():
        assert comparison.wrong > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", ["", "log", "dlse"])
def test_a_few_ulp_do_not_backward(dtype, options):
    factor = 1 + ULPS[dtype] * torch.finfo(getattr(torch, dtype)).eps
    case = SOFTMAX_BACKWARD.case("rows=30,cols=7", options=options, dtype=dtype)
    spoilt = compared(SOFTMAX_BACKWARD, case, lambda out: (out.double() * factor).to(out.dtype))
    assert spoilt["dx"].wrong > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [2000, 32769])
def test_a_missing_term_does_not(dtype, columns):
    """One of thousands of elements, of average size, left out of a row's sum."""
    for fill in ("constant_rows", "zeros"):
        case = SOFTMAX.case(f"rows=3,cols={columns} lse", fill=fill, dtype=dtype)
        less = (columns - 1) / columns

        def spoil(out: torch.Tensor, less=less) -> torch.Tensor:
            return (out.double() / less if out.dim() > 1 else out + math.log(less)).to(out.dtype)

        comparisons = compared(SOFTMAX, case, spoil)
        assert comparisons["lse"].wrong == 3
        if dtype in ("float32", "float64"):  # 16 bits do not resolve thousandths
            assert comparisons["out"].wrong > 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_missing_term_does_not_backward(dtype):
    case = SOFTMAX_BACKWARD.case("rows=2,cols=32769 log", fill="integers", dtype=dtype)
    given = inputs.values(SOFTMAX_BACKWARD, case)
    last = (given["dy"] != 0).double().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    term = given["dy"].double().gather(1, last)
    right = softmax_backward.reference(given["dy"], given["y"], log=True)
    wrong = right + torch.exp(given["y"].double()) * term
    expected = verify.expected(SOFTMAX_BACKWARD.name, case, "cpu")["dx"]
    assert verify.compare(right.to(given["y"].dtype), expected).wrong == 0
    assert verify.compare(wrong.to(given["y"].dtype), expected).wrong > 100


def test_subnormal_results_of_fp16_are_half_a_step_from_right():
    x = torch.tensor([[0.0, -12.0, -17.0]], dtype=torch.float16)
    y = softmax.reference(x)
    assert 2.0**-25 < float(y[0, 2]) < float(y[0, 1]) < 2.0**-14
    allowed = softmax.tolerance(x, y)
    step = 2.0**-24
    right, wrong = y.half(), y.half() + torch.tensor([[0, step, 2 * step]]).half()
    assert verify.compare(right, Expected(y, allowed)).wrong == 0
    assert verify.compare(wrong, Expected(y, allowed)).wrong == 2


def test_beyond_the_range_of_a_dtype():
    """65504 is the largest number of fp16; from 65520 on a value rounds to infinity."""
    reference = torch.tensor([65504.0, 65519.0, 65521.0, 70000.0, -70000.0, math.inf, math.nan])
    expected = Expected(reference.double(), torch.full((7,), 8.0).double()).within(torch.float16)
    inf = math.inf
    for got, right in (
        ([65504, 65504, inf, inf, -inf, inf, math.nan], True),
        ([65504, inf, 65504, inf, -inf, inf, math.nan], True),
        ([65504, 65504, inf, 65504, -inf, inf, math.nan], False),
        ([65504, 65504, inf, inf, inf, inf, math.nan], False),
        ([inf, 65504, inf, inf, -inf, inf, math.nan], False),
    ):
        comparison = verify.compare(torch.tensor(got).half(), expected)
        assert (comparison.wrong == 0) == right, got


def test_the_gradient_is_autograd_s():
    for log, function in ((False, torch.softmax), (True, torch.log_softmax)):
        x = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
        y, lse = function(0.3 * x, dim=-1), torch.logsumexp(0.3 * x, dim=-1)
        dy, dlse = torch.randn_like(y), torch.randn_like(lse)
        (dx,) = torch.autograd.grad((y, lse), x, (dy, dlse))
        assert torch.allclose(softmax_backward.reference(dy, y.detach(), dlse, 0.3, log), dx)


def test_gradients_are_given_a_softmax():
    case = SOFTMAX_BACKWARD.case("rows=6,cols=40 dlse", fill="masked_rows", dtype="float16")
    given = inputs.values(SOFTMAX_BACKWARD, case)
    assert [t.dtype for t in given.values()] == [torch.float16, torch.float16, torch.float32]
    assert given["dy"].isfinite().all()
    assert given["y"][::2].isnan().all()  # rows of -inf
    assert torch.allclose(given["y"][1::2].double().sum(dim=-1), torch.ones(3).double(), atol=1e-3)
    assert (given["y"] == 0).any()
