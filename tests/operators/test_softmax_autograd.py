"""Softmax in PyTorch's autograd: gradients, with every option, and what is unsupported."""

import contextlib

import pytest
import torch

from workbench import log_softmax, matmul, rungs, softmax, softmax_backward
from workbench.operators.builds import Declined

OPTIONS = (
    {},
    {"scale": 0.3},
    {"scale": -2.0},
    {"return_lse": True},
    {"scale": 0.5, "return_lse": True},
)


def leaf(*shape, device, dtype=torch.float64):
    return torch.randn(shape, device=device, dtype=dtype).requires_grad_()


def of_torch(x, log, scale=1.0, return_lse=False):
    """The same with torch's own operators."""
    y = (torch.log_softmax if log else torch.softmax)(scale * x, dim=-1)
    return (y, torch.logsumexp(scale * x, dim=-1)) if return_lse else y


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("call", [softmax, log_softmax])
def test_gradcheck(target, device, call, options):
    for shape in ((3, 5), (2, 1, 4), (6,), (2, 3, 1)):
        x = leaf(*shape, device=device)
        assert torch.autograd.gradcheck(lambda x: call(x, **options), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("log", [False, True])
def test_gradients_are_torch_s(target, device, log, options, dtype):
    x = leaf(7, 300, device=device, dtype=dtype)
    wide = x.detach().double().requires_grad_()
    results = (log_softmax if log else softmax)(x, **options)
    expected = of_torch(wide, log, **options)
    results, expected = (r if isinstance(r, tuple) else (r,) for r in (results, expected))
    grads = [torch.randn_like(result) for result in results]
    torch.autograd.backward(results, grads)
    torch.autograd.backward(expected, [grad.double() for grad in grads])
    assert x.grad.dtype == dtype
    bound = 4 * torch.finfo(dtype).eps  # y, from which the gradient is computed, is rounded
    assert float((x.grad.double() - wide.grad).abs().max()) < bound * float(wide.grad.abs().max())


def test_a_gradient_that_no_kernel_can_read(target, device):
    """Expanded from one number, transposed, or every other column: autograd copies it."""
    x = leaf(4, 6, device=device)
    other = torch.randn(6, 4, device=device, dtype=torch.float64).mT
    wide = torch.randn(4, 12, device=device, dtype=torch.float64)
    for reduce in (
        lambda y: (2 * y.log()).sum(),
        lambda y: y.sum(),
        lambda y: (y * other).sum(),
        lambda y: y.mT.contiguous().select(0, 2).pow(2).sum(),
        lambda y: (y.repeat_interleave(2, dim=1) * wide).sum(),
        lambda y: y[1:3].mean(dim=0).pow(2).sum(),
    ):
        (got,) = torch.autograd.grad(reduce(softmax(x)), x)
        (expected,) = torch.autograd.grad(reduce(torch.softmax(x, dim=-1)), x)
        assert torch.allclose(got, expected, atol=1e-14)


def test_the_gradient_given_directly_is_not_copied(target, device):
    dy, y = (torch.randn(4, 6, device=device) for _ in range(2))
    with pytest.raises(RuntimeError, match="(?s)softmax_backward.*dy.*contiguous"):
        softmax_backward(dy.new_zeros(()).expand(4, 6), y)
    row = torch.randn(1, 6, device=device)  # one row for all is read in place
    assert torch.equal(softmax_backward(row.expand(4, 6), y), softmax_backward(row.repeat(4, 1), y))


@pytest.mark.parametrize("call", [softmax, log_softmax])
def test_of_the_log_sum_exp_alone(target, device, call):
    x = leaf(3, 4, 9, device=device)
    _, lse = call(x, scale=0.5, return_lse=True)
    (got,) = torch.autograd.grad(lse.pow(2).sum(), x)
    (expected,) = torch.autograd.grad(torch.logsumexp(0.5 * x, dim=-1).pow(2).sum(), x)
    assert torch.allclose(got, expected)
    _, lse = call(x, return_lse=True)
    (got,) = torch.autograd.grad(lse.sum(), x)  # whose rows all have the same gradient
    assert torch.allclose(got, torch.softmax(x, dim=-1))


def test_no_gradient_where_none_is_asked_for(target, device):
    x = leaf(3, 5, device=device)
    with torch.no_grad():
        assert not softmax(x).requires_grad
    assert not softmax(x.detach()).requires_grad
    assert softmax(x).requires_grad and softmax(x).grad_fn is not None
    for rung in rungs("softmax"):
        if "float64" in rung.dtypes:
            with contextlib.suppress(Declined):
                assert softmax(x, kernel=rung.name).requires_grad


def test_a_second_derivative_is_an_error(target, device):
    x = leaf(3, 5, device=device)
    for loss in (softmax(x).pow(2).sum(), log_softmax(x, return_lse=True)[1].sum()):
        with pytest.raises(
            RuntimeError, match="(?s)softmax.*its gradient is not differentiable.*create_graph"
        ):
            torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.parametrize("transform", ["grad", "vjp", "jacrev"])
def test_of_torch_func_only_vmap_is_known(target, device, transform):
    x = leaf(3, 5, device=device).detach()
    assert torch.allclose(torch.func.vmap(softmax)(x), torch.softmax(x, dim=-1))
    wrap = getattr(torch.func, transform)
    with pytest.raises(RuntimeError, match=f"(?s)softmax.*{transform}.*torch.autograd.grad"):
        wrap(lambda x: softmax(x).sum(), *((x,) if transform == "vjp" else ()))(x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # what jvp itself uses
@pytest.mark.parametrize("call", [softmax, log_softmax, lambda x: matmul(x, x)])
def test_a_tangent_is_not_dropped(target, device, call):
    """PyTorch assumes a zero derivative for an operator that does not define one."""
    x = torch.randn(5, 5, device=device)
    for differentiate in (lambda: torch.func.jvp(call, (x,), (x,)), lambda: of_a_dual(call, x)):
        with pytest.raises(RuntimeError, match="dual number"):
            differentiate()


def of_a_dual(call, x):
    with torch.autograd.forward_ad.dual_level():
        return call(torch.autograd.forward_ad.make_dual(x, x))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_compiles_forward_and_backward_to_one_graph(target, device, log, dynamic):
    torch.compiler.reset()

    def loss(x):
        y, lse = (log_softmax if log else softmax)(2 * x, scale=0.5, return_lse=True)
        return (y * y).sum() + lse.sum()

    x = leaf(4, 7, device=device)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    (got,) = torch.autograd.grad(compiled(x), x)
    (expected,) = torch.autograd.grad(loss(x), x)
    assert torch.allclose(got, expected, atol=1e-14)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("operator", ["softmax", "softmax_lse"])
def test_opcheck_with_options(target, device, operator, requires_grad):
    call = getattr(torch.ops.workbench, operator).default
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(3, 5, device=device, dtype=dtype, requires_grad=requires_grad)
        for args in ((x,), (x, 0.5, True)):
            torch.library.opcheck(call, args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck_backward_with_options(target, device, dtype):
    dy, y = (torch.randn(3, 5, device=device, dtype=dtype) for _ in range(2))
    dlse = torch.randn(3, device=device, dtype=torch.promote_types(dtype, torch.float32))
    call = torch.ops.workbench.softmax_backward.default
    torch.library.opcheck(call, (dy, y, dlse, 0.5, True))
