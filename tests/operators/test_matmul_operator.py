"""matmul as PyTorch sees it: broadcasting, strides, alpha, beta, bias, gradients of any order."""

import pytest
import torch

from workbench import matmul, rungs
from workbench.operators.matmul import reference, tolerance
from workbench.operators.operator import torch_dtype

BATCHES = (
    ((), ()),
    ((3,), ()),
    ((), (3,)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((2, 1, 4), (3, 1)),
    ((1,), (5,)),
    ((2, 3, 4), (2, 3, 4)),
    ((0, 3), (3,)),
    ((2, 1, 0), (3, 1)),
    ((0, 1, 4), (3, 1)),
)


def matrices(*shape, device, dtype=torch.float32):
    return torch.randn(shape, device=device, dtype=dtype)


def close(got, a, b, out_dtype=None, **given) -> bool:
    allowed = tolerance(a, b, **given, out_dtype=out_dtype)
    return bool(((got.double() - reference(a, b, **given)).abs() <= allowed).all())


@pytest.mark.parametrize(("left", "right"), BATCHES, ids=str)
def test_batches_are_broadcast(target, device, left, right):
    a = matrices(*left, 5, 6, device=device)
    b = matrices(*right, 7, 6, device=device)
    got = matmul(a, b, trans_b=True)
    assert got.shape == torch.matmul(a, b.mT).shape and got.is_contiguous()
    assert close(got, a, b.mT)


def test_batches_of_any_strides(target, device):
    """Heads inside, as attention has them, expanded, and every other matrix."""
    a = matrices(2, 5, 3, 6, device=device).transpose(1, 2)
    b = matrices(6, 3, 6, 7, device=device)[::3]
    assert close(matmul(a, b), a, b)
    assert close(matmul(a[:, :1].expand(2, 3, 5, 6), b), a[:, :1].expand(2, 3, 5, 6), b)


def test_batches_that_take_more_than_two_strides(target, device):
    a = matrices(2, 3, 4, 5, 6, device=device).permute(2, 0, 1, 3, 4)[:, :, :2]
    b = matrices(4, 2, 3, 6, 7, device=device)[:, :, ::2]
    assert close(matmul(a, b), a, b)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ((3, 5, 6), (2, 6, 7), r"batch dimensions of a and b must be equal, or 1; .*\[3, 5, 6\]"),
        ((3, 5, 6), (2, 4, 6, 7), r"batch dimensions of a and b must be equal, or 1"),
    ],
)
def test_batches_that_differ(target, device, a, b, says):
    with pytest.raises(RuntimeError, match=f"matmul: {says}"):
        matmul(matrices(*a, device=device), matrices(*b, device=device))


@pytest.mark.parametrize("rung", rungs("matmul"), ids=lambda rung: rung.name)
def test_a_factor_of_zero_does_not_read_c(target, device, rung):
    name, dtype = rung.name, torch_dtype(rung.dtypes[0])
    a, b = matrices(5, 6, device=device, dtype=dtype), matrices(6, 7, device=device, dtype=dtype)
    c = torch.full((5, 7), torch.nan, device=device, dtype=dtype)
    assert torch.equal(matmul(a, b, c=c, beta=0, kernel=name), matmul(a, b, kernel=name))
    assert matmul(a, b, c=c, beta=1, kernel=name).isnan().all()


def test_tf32_rounds_the_factors(target, device):
    """To 10 bits of mantissa, ties away from 0; infinities and every NaN stay what they are."""
    below, tie = 1 + 2.0**-11 - 2.0**-20, 1 + 2.0**-11
    a = torch.tensor([[below, tie, -tie, torch.inf]], device=device).mT
    one = torch.ones(1, 1, device=device)
    expected = torch.tensor([[1, 1 + 2.0**-10, -1 - 2.0**-10, torch.inf]], device=device).mT
    assert torch.equal(matmul(a, one, tf32=True), expected)
    assert not torch.equal(matmul(a, one), expected)
    for bits in (0x7FFFFFFF, -1, 0x7FC00000):
        nan = torch.tensor([[bits]], dtype=torch.int32, device=device).view(torch.float32)
        assert matmul(nan, one, tf32=True).isnan().all()


def test_tf32_is_for_float32_on_tensor_cores(target, device):
    a, b = matrices(3, 4, device=device), matrices(4, 5, device=device)
    with pytest.raises(RuntimeError, match="kernel 'naive' supports float32, .*; got tf32"):
        matmul(a, b, tf32=True, kernel="naive")
    with pytest.raises(RuntimeError, match="kernel 'mma' supports float16, .*; got float32"):
        matmul(a, b, kernel="mma")
    with pytest.raises(RuntimeError, match="tf32 is a way to multiply float32; got float64"):
        matmul(a.double(), b.double(), tf32=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_wide_results(target, device, dtype):
    """float32 from 16-bit factors: as accurate as the sums, also beyond float16's range."""
    a, b = matrices(9, 70, device=device, dtype=dtype), matrices(70, 11, device=device, dtype=dtype)
    row = matrices(11, device=device)
    got = matmul(300 * a, 300 * b, bias=row, out_dtype=torch.float32)
    assert got.dtype == torch.float32
    assert close(got, 300 * a, 300 * b, bias=row, out_dtype=torch.float32)
    assert torch.equal(got, matmul(300 * a, 300 * b, bias=row, out=torch.empty_like(got)))
    with pytest.raises(RuntimeError, match="out must be float16 or float32 where a is float16"):
        matmul(a.half(), b.half(), out_dtype=torch.float64)
    with pytest.raises(RuntimeError, match="bias must be float32, as the result; got b?float16"):
        matmul(a, b, bias=row.to(dtype), out_dtype=torch.float32)
    with pytest.raises(RuntimeError, match="out_dtype is torch.float64, but out is float32"):
        matmul(a, b, out=got, out_dtype=torch.float64)


@pytest.mark.parametrize("wide", [False, True])
def test_gradients_of_16_bit_factors(target, device, wide):
    a, b = (matrices(6, 6, device=device).half().requires_grad_() for _ in range(2))
    got = matmul(a, b, out_dtype=torch.float32 if wide else None)
    got.sum().backward()
    ones = torch.ones(6, 6, dtype=torch.half, device=device)
    assert a.grad.dtype == b.grad.dtype == torch.half
    assert close(a.grad, ones, b.detach().mT) and close(b.grad, a.detach().mT, ones)


def test_a_gradient_that_is_summed_is_rounded_once(target, device):
    a = matrices(64, 6, 8, device=device).half()
    b = matrices(8, 5, device=device).half().requires_grad_()
    matmul(a, b).sum().backward()
    exact = a.double().sum((0, 1))[:, None].expand(8, 5)
    assert ((b.grad.double() - exact).abs() <= 2.0**-11 * exact.abs() + 1e-3).all()


def test_int8_is_exact(target, device):
    a = torch.randint(-128, 128, (5, 1000), dtype=torch.int8, device=device)
    b = torch.randint(-128, 128, (1000, 7), dtype=torch.int8, device=device)
    c = torch.randint(-(2**20), 2**20, (5, 7), dtype=torch.int32, device=device)
    exact = (a.cpu().int() @ b.cpu().int()).to(device)
    for left, right in ((a, b), (a, b.mT.contiguous().mT)):  # the second 16 bytes at a time
        for rung in ("naive", "mma", None):
            got = matmul(left, right, kernel=rung)
            assert got.dtype == torch.int32 and torch.equal(got, exact)
            assert torch.equal(matmul(left, right, alpha=-2, beta=3, c=c), 3 * c - 2 * exact)
    with pytest.raises(RuntimeError, match="alpha must be a whole number where a is int8; got 0.5"):
        matmul(a, b, alpha=0.5)
    with pytest.raises(RuntimeError, match="out must be int32 where a is int8; got int8"):
        matmul(a, b, out=torch.empty(5, 7, dtype=torch.int8, device=device))


def test_c_and_bias_are_checked(target, device):
    a, b = matrices(3, 5, 6, device=device), matrices(6, 7, device=device)
    whole, row = matrices(3, 5, 7, device=device), matrices(7, device=device)
    for c in (whole, whole[0], whole[:1]):
        got = matmul(a, b, c=c, beta=0.5, bias=row, alpha=2)
        assert close(got, a, b, c=c, beta=0.5, bias=row, alpha=2)
    with pytest.raises(RuntimeError, match=r"c must be \[3, 5, 7\]"):
        matmul(a, b, c=whole[:2], beta=1)
    with pytest.raises(RuntimeError, match=r"beta is 2, but there is no c"):
        matmul(a, b, beta=2)
    with pytest.raises(RuntimeError, match=r"bias must be \[7\] \(\[N\]\); got float32 \[6\]"):
        matmul(a, b, bias=row[:6])
    for name in ("alpha", "beta"):
        with pytest.raises(RuntimeError, match=f"{name} must be finite in float32; got inf"):
            matmul(a, b, c=whole, **{name: float("inf")})


# ---- Gradients ---------------------------------------------------------------------------------


def leaves(*shapes, device):
    return [matrices(*s, device=device, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((3, 4), (4, 2)), {}),
        (((4, 3), (2, 4)), {"trans_a": True, "trans_b": True, "alpha": 0.5}),
        (((2, 1, 3, 4), (3, 4, 2)), {"alpha": -2.0}),
        (((3, 4), (5, 4, 2)), {}),
        (((3, 0), (0, 2)), {}),
    ],
    ids=str,
)
def test_gradients(target, device, check, shapes, options):
    assert check(lambda a, b: matmul(a, b, **options), leaves(*shapes, device=device))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_of_c_and_bias(target, device, check):
    inputs = leaves((2, 3, 4), (4, 2), (3, 2), (2,), device=device)
    assert check(lambda a, b, c, bias: matmul(a, b, c=c, bias=bias, alpha=0.5, beta=3.0), inputs)


def test_gradients_use_the_kernel_that_was_named(target, device):
    """float64 in a rung that does not support it: an error in both directions, not another rung."""
    narrow = next(rung.name for rung in rungs("matmul") if "float64" not in rung.dtypes)
    a, b = leaves((3, 4), (4, 2), device=device)
    with pytest.raises(RuntimeError, match=f"kernel '{narrow}' supports float32; got float64"):
        matmul(a, b, kernel=narrow)


def test_a_gradient_that_no_kernel_can_read(target, device):
    a, b = leaves((3, 4), (4, 2), device=device)
    for reduce in (
        lambda y: y.sum(),
        lambda y: y.mT.contiguous()[0].sum(),
        lambda y: y[:, ::2].sum(),
    ):
        got = torch.autograd.grad(reduce(matmul(a, b)), (a, b))
        expected = torch.autograd.grad(reduce(a @ b), (a, b))
        assert all(torch.allclose(x, y, atol=1e-14) for x, y in zip(got, expected, strict=True))


# ---- torch.compile -----------------------------------------------------------------------------


def test_opcheck_with_options(target, device):
    a, b, c, bias = leaves((2, 5, 6), (6, 7), (5, 7), (7,), device=device)
    operator = torch.ops.workbench.matmul.default
    torch.library.opcheck(operator, (a, b, c, bias, 0.5, 2.0))
    torch.library.opcheck(operator, (a.float(), b.float(), None, None, 1.0, 0.0, "", True))
    torch.library.opcheck(
        operator, (a.half(), b.half(), None, None, 1.0, 0.0, "", False, torch.float32)
    )
    torch.library.opcheck(operator, (a.detach().to(torch.int8), b.detach().to(torch.int8)))


@pytest.mark.parametrize("backward", [False, True])
def test_compiles_with_dynamic_shapes(target, device, backward):
    torch.compiler.reset()
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compiled = torch.compile(
        lambda a, b, bias: matmul(a, b, trans_b=True, bias=bias).relu(),
        fullgraph=True,
        backend="aot_eager" if backward else backend,
        dynamic=True,
    )
    for m, n, k in ((5, 7, 6), (9, 4, 8), (3, 3, 12)):
        a, b, bias = (
            matrices(*s, device=device).requires_grad_(backward) for s in ((m, k), (n, k), (n,))
        )
        got, expected = compiled(a, b, bias), matmul(a, b, trans_b=True, bias=bias).relu()
        assert torch.equal(got, expected)
        if backward:
            grads = (torch.autograd.grad(y.sum(), (a, b, bias)) for y in (got, expected))
            assert all(torch.equal(x, y) for x, y in zip(*grads, strict=True))
    assert backward or len(calls) == 1  # compiled once for all of them
