"""The public operators as PyTorch sees them: errors, opcheck, torch.compile, autograd.

Errors name the operator, the argument, what was expected and what was given.
"""

import pytest
import torch

from workbench import attention, matmul, rungs, softmax, softmax_backward
from workbench.operators.builds import Declined

HUGE = 2**31


def tensor(*shape, device="cpu", dtype=torch.float32):
    return torch.randn(shape, device=device).to(dtype)


def raises(*words):
    """Expect an error that has all the words, in this order."""
    return pytest.raises(RuntimeError, match="(?s)" + ".*".join(words))


# A call of every operator on tensors of a device; the first argument's name leads the list.
CALLS = {
    "matmul": lambda d, t=tensor: (matmul, (t(5, 6, device=d), t(6, 7, device=d))),
    "softmax": lambda d, t=tensor: (softmax, (t(5, 6, device=d),)),
    "softmax_backward": lambda d, t=tensor: (
        softmax_backward,
        (t(5, 6, device=d), t(5, 6, device=d)),
    ),
    "attention": lambda d, t=tensor: (
        attention,
        (t(5, 32, device=d), t(6, 32, device=d), t(6, 32, device=d)),
    ),
}
NAMES = {
    "matmul": ("a", "b"),
    "softmax": ("x",),
    "softmax_backward": ("dy", "y"),
    "attention": ("q", "k", "v"),
}


DIFFERENTIABLE = ("matmul", "softmax")


@pytest.fixture(params=CALLS)
def name(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.complex64])
def test_wrong_dtype(name, target, device, dtype):
    call, args = CALLS[name](device)
    args = [arg.to(dtype) for arg in args]
    word = str(dtype).removeprefix("torch.")
    refusing = [rung.name for rung in rungs(name) if word not in rung.dtypes]
    for kernel in refusing[:1] + [None] * (len(refusing) == len(rungs(name))):
        with raises(name, "float32", word):
            call(*args, kernel=kernel)


@pytest.mark.parametrize("position", [1, 2])
def test_mixed_dtypes(name, target, device, position):
    call, args = CALLS[name](device)
    if position >= len(args):
        return
    mixed = [arg.double() if i == position else arg for i, arg in enumerate(args)]
    came = f"got {NAMES[name][0]} float32", f", {NAMES[name][position]} float64"
    with raises(name, "same dtype, and the kernels support float32", *came):
        call(*mixed)


def test_mixed_devices(name, target, device):
    """A meta tensor stands for one on another device, which a machine without a GPU lacks."""
    call, args = CALLS[name](device)
    if len(args) == 1:
        return
    for position in range(len(args)):
        mixed = [arg.to("meta") if i == position else arg for i, arg in enumerate(args)]
        with raises(name, "device"):
            call(*mixed)


@pytest.mark.gpu
def test_cpu_and_cuda_mixed(name):
    call, args = CALLS[name]("cpu")
    if len(args) > 1:
        with raises(name, "device.*cpu.*cuda|device.*cuda.*cpu"):
            call(args[0].cuda(), *args[1:])


@pytest.mark.gpu
def test_both_targets_in_one_process(name):
    for _ in range(2):
        call, args = CALLS[name]("cpu")
        on_cpu = call(*args)
        on_gpu = call(*(arg.cuda() for arg in args))
        assert on_gpu.is_cuda
        assert torch.allclose(on_gpu.cpu(), on_cpu, atol=1e-5)


def test_unknown_kernel_lists_the_ladder(name, target, device):
    call, args = CALLS[name](device)
    ladder = rungs(name)
    with raises(name, "nonsense", *(rung.name for rung in ladder)):
        call(*args, kernel="nonsense")


@pytest.mark.parametrize("name", [name for name in CALLS if name not in DIFFERENTIABLE])
def test_no_backward_is_an_error(name, target, device):
    call, args = CALLS[name](device)
    for arg in args:
        arg.requires_grad_()
        with raises(name, "requires grad", "no backward"):
            call(*args)
        with torch.no_grad():
            assert not call(*args).requires_grad
        arg.requires_grad_(False)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ((5,), (5, 6), ("a", "at least 2 dimensions", r"\[5\]")),
        ((5, 6), (6,), ("b", "at least 2 dimensions", r"\[6\]")),
        ((5, 6), (7, 8), ("b", "6 rows", r"\[7, 8\]")),
    ],
)
def test_matmul_shapes(target, device, a, b, words):
    with raises("matmul", *words):
        matmul(tensor(*a, device=device), tensor(*b, device=device))


def test_matmul_of_neither_rows_nor_columns(target, device):
    right = tensor(6, 7, device=device)
    with raises("matmul", "the rows or the columns of a must be contiguous", "contiguous()"):
        matmul(tensor(5, 12, device=device)[:, ::2], right)
    with raises("matmul", "the rows or the columns of b must be contiguous", "contiguous()"):
        matmul(tensor(5, 6, device=device), tensor(12, 14, device=device)[::2, ::2])


def test_matmul_out_is_checked(target, device):
    a, b = tensor(5, 6, device=device), tensor(6, 7, device=device)
    with raises("matmul", "out", r"\[5, 7\]", r"\[7, 5\]"):
        matmul(a, b, out=tensor(7, 5, device=device))
    with raises("matmul", "out", "float64"):
        matmul(a, b, out=tensor(5, 7, device=device, dtype=torch.float64))
    with raises("matmul", "device", "out"):
        matmul(a, b, out=tensor(5, 7, device="meta"))
    with raises("matmul", "out", "contiguous"):
        matmul(a, b, out=tensor(7, 5, device=device).mT)


def test_matmul_out_must_not_overlap(target, device):
    memory = tensor(200, device=device)
    a, b = memory[:25].view(5, 5), memory[25:50].view(5, 5)
    for first, other in ((0, "a"), (30, "b"), (24, "a")):
        with raises("matmul", "out spans", f"overlaps that of {other};", "its own memory"):
            matmul(a, b, out=memory[first : first + 25].view(5, 5))
    with raises("matmul", "out", "share memory"):
        matmul(a, b, out=memory[100:105].expand(5, 5))
    with raises("matmul", "out", "share memory"):
        matmul(a, b, out=memory[100:].as_strided((5, 5), (4, 1)))
    matmul(a, b, out=memory[50:75].view(5, 5))  # adjacent is not overlapping
    halves = tensor(5, 10, device=device)
    with raises("matmul", "out spans", "overlaps that of a;"):  # though no element is shared
        matmul(halves[:, :5], b, out=halves[:, 5:])


def test_an_input_may_be_two_arguments(target, device):
    a = tensor(6, 6, device=device)
    assert torch.allclose(matmul(a, a), a @ a, atol=1e-5)


def test_an_expanded_input_is_read_in_place(target, device):
    row, b = tensor(1, 6, device=device), tensor(6, 7, device=device)
    assert torch.equal(matmul(row.expand(5, 6), b), matmul(row.repeat(5, 1), b))


def test_more_than_an_int_can_count(target):
    """No dimension may exceed an int after rounding up; tested with views of one element."""
    one = torch.zeros(1)
    with raises("matmul", "a", "most a kernel supports", str(HUGE + 5)):
        matmul(one.expand(3, HUGE + 5), one.expand(HUGE + 5, 2))
    with raises("matmul", "b", "most a kernel supports"):
        matmul(one.expand(0, 2), one.expand(HUGE + 5, 2), trans_b=True)
    with raises("softmax", "x", "most a kernel supports", str(HUGE + 5)):
        softmax(one.expand(0, HUGE + 5))
    with raises("attention", "k", "most a kernel supports"):
        attention(one.expand(0, 32), one.expand(HUGE + 5, 32), one.expand(HUGE + 5, 32))


def test_softmax_errors(target, device):
    with raises("softmax", "x", "at least 1 dimension"):
        softmax(torch.tensor(1.0, device=device))
    with raises("softmax", "x", "contiguous"):
        softmax(tensor(5, 6, device=device).mT)
    for scale in (float("inf"), float("nan"), 1e40):
        with raises("softmax", "scale must be finite in float32"):
            softmax(tensor(5, 6, device=device), scale=scale)


def test_softmax_options_that_not_every_rung_supports(target, device):
    x = tensor(5, 6, device=device)
    options = {"scale": {"scale": 2.0}, "lse": {"return_lse": True}}
    for rung in rungs("softmax"):
        for option, settings in options.items():
            if option not in rung.options:
                with raises(
                    "softmax", rung.name, f"does not support {option}", r"x float32 \[5, 6\]"
                ):
                    softmax(x, kernel=rung.name, **settings)


def test_softmax_backward_errors(target, device):
    dy, y = tensor(5, 6, device=device), tensor(5, 6, device=device)
    with raises("softmax_backward", "dy", "at least 1 dimension"):
        softmax_backward(dy[0, 0], y[0, 0])
    with raises("softmax_backward", "y", r"\[5, 6\]", "as dy", r"\[6, 5\]"):
        softmax_backward(dy, tensor(6, 5, device=device))
    with raises("softmax_backward", "dy", "contiguous"):
        softmax_backward(dy.mT, y.mT.contiguous())
    with raises("softmax_backward", "dlse", r"\[5\]", "as dy without its last", r"\[6\]"):
        softmax_backward(dy, y, dlse=tensor(6, device=device))
    with raises("softmax_backward", "dlse must be float32", "float64"):
        softmax_backward(dy, y, dlse=tensor(5, device=device).double())
    with raises("softmax_backward", "dlse must be contiguous"):
        softmax_backward(dy, y, dlse=tensor(1, device=device).expand(5))
    with raises("softmax_backward", "device"):
        softmax_backward(dy, y, dlse=tensor(5, device="meta"))
    with raises("softmax_backward", "scale must be finite"):
        softmax_backward(dy, y, scale=float("nan"))


@pytest.mark.parametrize(
    ("q", "k", "v", "words"),
    [
        ((32,), (5, 32), (5, 32), ("q", "2 to 4 dimensions")),
        ((5, 32), (5, 64), (5, 64), ("k", "D of q")),
        ((5, 32), (5, 32), (6, 32), ("v", "as k")),
        ((4, 5, 32), (3, 5, 32), (3, 5, 32), ("k", "if they divide those of q")),
        ((2, 5, 32), (3, 5, 32), (3, 5, 32), ("k", "leading dimensions")),
        ((2, 5, 32), (5, 32), (5, 32), ("k",)),
    ],
)
def test_attention_shapes(target, device, q, k, v, words):
    with raises("attention", *words):
        attention(*(tensor(*shape, device=device) for shape in (q, k, v)))


def test_attention_of_columns(target, device):
    q, k = tensor(5, 32, device=device), tensor(32, 5, device=device).mT
    with raises("attention", "k", "contiguous"):
        attention(q, k, q)


def test_a_head_dimension_that_flash_is_not_made_for(target, device):
    q = tensor(5, 300, device=device)
    with raises("attention", "flash", "declines", "up to 256", "got 300") as caught:
        attention(q, q, q, kernel="flash")
    assert isinstance(caught.value, Declined)
    assert attention(q, q, q).shape == q.shape  # another rung accepts it


def test_empty_inputs(target, device):
    assert matmul(tensor(0, 3, device=device), tensor(3, 4, device=device)).shape == (0, 4)
    none = matmul(tensor(2, 0, device=device), tensor(0, 4, device=device))
    assert torch.equal(none, torch.zeros(2, 4, device=device))
    assert softmax(tensor(0, device=device)).shape == (0,)
    assert softmax(tensor(3, 0, device=device)).shape == (3, 0)
    q, k = tensor(4, 32, device=device), tensor(0, 32, device=device)
    assert torch.equal(attention(q, k, k), torch.zeros_like(q))


def public_calls(device):
    """Every operator of torch.ops.workbench with arguments, for opcheck and torch.compile."""
    a, b = (tensor(*s, device=device) for s in ((5, 6), (6, 7)))
    q, k, v = (tensor(1, 2, n, 32, device=device) for n in (5, 6, 6))
    given = torch.ops.workbench
    return {
        "matmul": (given.matmul, (a, b)),
        "matmul_out": (given.matmul_out, (a, b, tensor(5, 7, device=device))),
        "softmax": (given.softmax, (a,)),
        "softmax_backward": (given.softmax_backward, (a, a.clone())),
        "attention": (given.attention, (q, k, v, None, None, None, None, True)),
    }


PUBLIC = ("matmul", "matmul_out", "softmax", "softmax_backward", "attention")


@pytest.mark.parametrize("operator", PUBLIC)
def test_opcheck(target, device, operator):
    call, args = public_calls(device)[operator]
    torch.library.opcheck(call.default, args)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(name, target, device, dynamic):
    torch.compiler.reset()  # it gives up on a lambda that it compiled for many operators
    call, args = CALLS[name](device)
    compiled = torch.compile(
        lambda *inputs: call(*inputs) * 2, fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    assert torch.equal(compiled(*args), call(*args) * 2)


def test_compiles_with_an_output_argument(target, device):
    a, b = tensor(5, 6, device=device), tensor(6, 7, device=device)

    def program(a, b):
        out = a.new_zeros(5, 7)
        matmul(a, b, out=out)
        return out + 1

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(a, b), program(a, b))


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    """The result is ready for later work on the same stream, without synchronisation."""
    a, b = tensor(512, 512, device="cuda"), tensor(512, 512, device="cuda")
    expected = matmul(a, b)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(20):
            got = matmul(a * 1.0, b * 1.0) * 1.0
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(got, expected)
