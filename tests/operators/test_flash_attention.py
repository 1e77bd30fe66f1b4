"""workbench.flash_attention: the functions against the formula, their errors, FLOPs, the runner.

Everything that a function returns is compared with an einsum over the whole matrix of scores; the
bounds are those of the attention ladder (docs/tolerances.md).
"""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import replace

import pytest
import torch

import simulator
from tests import masks as runner
from workbench import flash_attention, masks
from workbench.flash_attention import causal_1d, causal_2d, full_1d, full_2d, local_1d, local_2d
from workbench.masks import Mask, causal, full, local
from workbench.operators.attention_errors import tolerance
from workbench.operators.builds import Declined
from workbench.toolchain import command

DTYPES = (torch.float16, torch.float32, torch.float64)
BATCHES = ((3,), (2, 2), (2, 1, 2))
CALLS = [  # the function, its arguments after V, and its mask in one dimension
    (full_1d, (), full()),
    (full_1d, ("scale_end",), full()),
    (causal_1d, ("none_front",), causal("none_front")),
    (causal_1d, ("scale_front",), causal("scale_front")),
    (causal_1d, ("scale_end",), causal("scale_end")),
    (local_1d, (3, 0, False, "none_front"), local(3, 0, False, "none_front")),
    (local_1d, (2, 1, False, "scale_front"), local(2, 1, False, "scale_front")),
    (local_1d, (2, 1, True, "scale_end"), local(2, 1, True, "scale_end")),
    (full_2d, (), full()),
    (causal_2d, ("none_front",), causal("none_front")),
    (causal_2d, ("scale_front",), causal("scale_front")),
    (causal_2d, ("scale_end",), causal("scale_end")),
    (local_2d, (2, 0, False, "scale_front"), local(2, 0, False, "scale_front")),
    (local_2d, (1, 1, False, "none_front"), local(1, 1, False, "none_front")),
    (local_2d, (2, 0, True, "scale_end"), local(2, 0, True, "scale_end")),
]


@pytest.fixture(autouse=True)
def same_numbers_each_time() -> None:
    torch.manual_seed(0)


def is_2d(function) -> bool:
    return function.__name__.endswith("_2d")


def uniform(*shape: int, dtype=torch.float32, device="cpu") -> torch.Tensor:
    return (4 * torch.rand(shape, dtype=torch.float64) - 2).to(device, dtype)


def tensors(function, batch=(2,), d=8, dv=8, q_seq=(), k_seq=(), **made):
    """Q, K and V; by default with more queries than keys in one dimension, fewer in another."""
    q_seq = q_seq or ((4, 7) if is_2d(function) else (13,))
    k_seq = k_seq or ((9, 3) if is_2d(function) else (29,))
    shapes = ((*batch, d, *q_seq), (*batch, d, *k_seq), (*batch, dv, *k_seq))
    return [uniform(*shape, **made) for shape in shapes]


def check(results, Q, K, V, rule: Mask, seq_dims: int) -> None:
    """O, l and m against the formula; their shapes and dtypes."""
    if seq_dims == 2 and rule != full():
        rule = replace(rule, q_width=Q.shape[-1], k_width=K.shape[-1])
    nq, nk = math.prod(Q.shape[-seq_dims:]), math.prod(K.shape[-seq_dims:])
    seen = rule.visible(nq, nk, Q.device)
    expected = runner.formula(Q.double(), K.double(), V.double(), seen, seq_dims)
    wide = torch.promote_types(Q.dtype, torch.float32)
    for result, right, dtype in zip(results, expected, (Q.dtype, wide, wide), strict=True):
        assert (result.shape, result.dtype) == (right.shape, dtype)
        assert result.is_contiguous() and result.device == Q.device
    rows = [x.flatten(-seq_dims).mT.flatten(0, -3)[None] for x in (Q, K, V)]
    allowed, of_lse = tolerance(*rows, mask=rule)
    out, sums, largest = (x.double() for x in results)
    right_out, right_sums, right_largest = expected
    error = (out - right_out).flatten(-seq_dims).mT.flatten(0, -3)[None].abs()
    assert bool((error <= allowed).all())
    hidden = right_largest == -math.inf
    assert torch.equal(hidden, largest == -math.inf)
    u = torch.finfo(wide).eps
    off = of_lse.view(sums.shape) + 2 * u * right_largest.masked_fill(hidden, 0).abs()
    assert bool(((largest - right_largest).masked_fill(hidden, 0).abs() <= off).all())
    assert bool(((sums - right_sums).abs() <= torch.expm1(2 * off + 8 * u) * right_sums).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("function", "arguments", "rule"), CALLS)
def test_each_function(target, device, function, arguments, rule, dtype):
    inputs = tensors(function, dv=5, dtype=dtype, device=device)
    results = function(*inputs, *arguments, returning_l_m=True)
    check(results, *inputs, rule, 1 + is_2d(function))
    assert torch.equal(function(*inputs, *arguments), results[0])


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("dv", [3, 8, 40])
@pytest.mark.parametrize("function", [causal_1d, causal_2d])
def test_batches_and_channels(target, device, function, dv, batch):
    inputs = tensors(function, batch, dv=dv, device=device)
    results = function(*inputs, "scale_front", True)
    check(results, *inputs, causal("scale_front"), 1 + is_2d(function))


@pytest.mark.parametrize(("q_seq", "k_seq"), [((1, 5), (3, 2)), ((4, 1), (1, 6)), ((1, 1), (2, 2))])
def test_single_rows_and_columns(target, device, q_seq, k_seq):
    inputs = tensors(causal_2d, q_seq=q_seq, k_seq=k_seq, device=device)
    for sync in flash_attention.SYNC_MODES:
        check(causal_2d(*inputs, sync, True), *inputs, causal(sync), 2)


def test_every_sequence_may_have_one_element(target, device):
    inputs = tensors(local_2d, q_seq=(1, 1), k_seq=(1, 1), device=device)
    out, sums, _ = local_2d(*inputs, 1, 0, True, "none_front", True)
    assert torch.equal(out, inputs[2]) and torch.allclose(sums, torch.ones_like(sums))


@pytest.mark.parametrize("function", [causal_1d, causal_2d])
def test_queries_that_see_nothing(target, device, function):
    """scale_end: the first query is before the first key."""
    Q, K, V = tensors(function, q_seq=(6, 4)[: 1 + is_2d(function)], k_seq=(3, 2), device=device)
    if not is_2d(function):
        K, V = K[..., 0], V[..., 0]
    out, sums, largest = function(Q, K, V, "scale_end", returning_l_m=True)
    first = (..., *[0] * (1 + is_2d(function)))
    assert not out[first].any() and not sums[first].any()
    assert bool((largest[first] == -math.inf).all())
    check((out, sums, largest), Q, K, V, causal("scale_end"), 1 + is_2d(function))


@pytest.mark.parametrize(("q_seq", "k_seq"), [((0,), (7,)), ((5,), (0,)), ((0,), (0,))])
def test_empty_sequences(q_seq, k_seq):
    Q, K, V = tensors(causal_1d, dv=3)
    Q, K, V = Q[..., : q_seq[0]], K[..., : k_seq[0]], V[..., : k_seq[0]]
    out, sums, largest = causal_1d(Q, K, V, "none_front", True)
    assert (out.shape, sums.shape) == ((2, 3, *q_seq), (2, *q_seq))
    assert not out.any() and not sums.any() and bool((largest == -math.inf).all())


@pytest.mark.parametrize(("rows", "columns"), [(3, 0), (0, 3), (0, 0)])
def test_empty_images(rows, columns):
    Q, K, V = tensors(causal_2d, dv=3)
    none = K[..., :rows, :columns], V[..., :rows, :columns]
    out, _, largest = causal_2d(Q, *none, "scale_front", True)
    assert out.shape == (2, 3, 4, 7) and not out.any() and bool((largest == -math.inf).all())
    assert causal_2d(Q[..., :rows, :columns], K, V, "scale_front").numel() == 0


def test_inputs_of_any_strides(target, device):
    Q, K, V = tensors(causal_1d, (2, 3), device=device)
    odd = Q.mT.contiguous().mT, K.transpose(0, 1).contiguous().transpose(0, 1), V.flip(-1).flip(-1)
    assert torch.equal(causal_1d(*odd, "none_front"), causal_1d(Q, K, V, "none_front"))


def test_m_is_computed_in_parts(monkeypatch):
    Q, K, V = tensors(causal_1d, (5,))
    whole = causal_1d(Q, K, V, "scale_end", True)
    for chunk in (1, 60, 1000):  # a query; some queries of a head; heads
        monkeypatch.setattr(flash_attention, "CHUNK", chunk)
        for one, other in zip(whole, causal_1d(Q, K, V, "scale_end", True), strict=True):
            assert torch.equal(one, other)


def test_l_of_large_scores_is_at_least_one():
    Q, K, V = (100 * x for x in tensors(full_1d))
    _, sums, largest = full_1d(Q, K, V, returning_l_m=True)
    assert float(sums.min()) >= 1 and float(largest.max()) > 1e4


@pytest.mark.parametrize("kernel", ["naive", "flash"])
def test_the_rung_is_an_argument(kernel):
    inputs = tensors(local_1d)
    with simulator.record() as launches:
        out = local_1d(*inputs, 3, 0, False, "none_front", kernel=kernel)
    assert any(launch.kernel.startswith(f"attention_{kernel}") for launch in launches)
    close = local_1d(*inputs, 3, 0, False, "none_front")
    assert torch.allclose(out, close, atol=1e-5)
    with pytest.raises(RuntimeError, match="fast"):
        local_1d(*inputs, 3, 0, False, "none_front", kernel="fast")


def test_the_example_of_the_readme(target, device):
    """Q [8, 32, 1024], K [8, 32, 2048], V [8, 16, 2048], a window of 32; some rows."""
    nq, nk = 1024, 2048
    Q, K = uniform(8, 32, nq, device=device), uniform(8, 32, nk, device=device)
    V = uniform(8, 16, nk, device=device)
    out, sums, largest = local_1d(Q, K, V, 32, 0, False, "scale_front", True)
    assert (out.shape, sums.shape) == ((8, 16, nq), (8, nq))
    rule = local(32, 0, False, "scale_front")
    rows = torch.tensor([0, 1, nq // 2, nq - 2, nq - 1], device=device)
    seen = rule.visible(nq, nk, device)[rows]
    assert seen.sum(dim=1).tolist() == [32, 34, 63, 35, 33]
    right = runner.formula(Q.double()[..., rows], K.double(), V.double(), seen, 1)
    for got, expected in zip((out, sums, largest), right, strict=True):
        assert torch.allclose(got[..., rows].double(), expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------
# Arguments


def shown(function) -> str:
    """A signature without annotations."""
    signature = inspect.signature(function)
    bare = [
        one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize(
    ("functions", "signature"),
    [
        (
            (full_1d, full_2d),
            "(Q, K, V, sync_mode='none_front', returning_l_m=False, *, kernel=None)",
        ),
        ((causal_1d, causal_2d), "(Q, K, V, sync_mode, returning_l_m=False, *, kernel=None)"),
        (
            (local_1d, local_2d),
            "(Q, K, V, window_size, log2_stride_size, is_causal, sync_mode, returning_l_m=False, "
            "*, kernel=None)",
        ),
    ],
)
def test_which_arguments_are_required(functions, signature):
    assert {shown(function) for function in functions} == {signature}


X, Y = torch.ones(2, 8, 5), torch.ones(2, 8, 7)
X2, Y2 = torch.ones(2, 8, 5, 3), torch.ones(2, 8, 2, 7)
HALF, WIDE, BRAIN = X.half(), Y.double(), X.bfloat16()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: full_1d(X, Y[0], Y), "full_1d: K: expected rank 3 or more"),
        (lambda: full_1d(X, Y[None], Y), "full_1d: K: expected the rank of Q, float32 [2, 8, 5]"),
        (lambda: full_1d(X[None], Y[None], Y), "full_1d: V: expected the rank of Q"),
        (
            lambda: full_1d(X[0], Y[0], Y[0]),
            "full_1d: Q: expected rank 3 or more (batch, channels, a sequence), got rank 2: "
            "float32 [8, 5]",
        ),
        (
            lambda: causal_2d(X, Y, Y, "none_front"),
            "causal_2d: Q: expected rank 4 or more (batch, channels, rows and columns), got rank 3",
        ),
        (
            lambda: full_1d(X, Y[:, :7], Y),
            "full_1d: K: expected 8 channels, as Q has, float32 [2, 8, 5], got float32 [2, 7, 7]",
        ),
        (
            lambda: full_1d(X, Y[:1], Y),
            "full_1d: K: expected the batch dimensions of Q, float32 [2, 8, 5], got float32 [1, 8, "
            "7]",
        ),
        (lambda: full_1d(X, Y, Y[:1]), "full_1d: V: expected the batch dimensions of Q"),
        (
            lambda: full_1d(X, Y, X),
            "full_1d: V: expected as long a sequence as K, float32 [2, 8, 7], got float32 [2, 8, "
            "5]",
        ),
        (
            lambda: full_2d(X2, Y2, Y2.mT),
            "full_2d: V: expected as long a sequence as K, float32 [2, 8, 2, 7], got float32 [2, "
            "8, 7, 2]",
        ),
        (lambda: full_1d(BRAIN, BRAIN, BRAIN), "full_1d: Q: expected float16, float32 or float64"),
        (lambda: full_1d(X.int(), X, X), "full_1d: Q: expected float16, float32 or float64, got i"),
        (
            lambda: full_1d(HALF, X, X),
            "full_1d: K: expected the dtype of Q, float16 [2, 8, 5], got",
        ),
        (
            lambda: full_1d(X, Y, WIDE),
            "full_1d: V: expected the dtype of Q, float32 [2, 8, 5], got",
        ),
        (
            lambda: full_1d(X, Y, Y.to("meta")),
            "full_1d: V: expected the device of Q, cpu, got meta",
        ),
        (lambda: full_1d(X.to_sparse(), Y, Y), "full_1d: Q: expected a dense tensor"),
        (
            lambda: full_1d(X, Y, Y, "none_end"),
            "full_1d: sync_mode: expected one of none_front, scale_front, scale_end, got "
            "'none_end'",
        ),
        (lambda: causal_1d(X, Y, Y, None), "causal_1d: sync_mode: expected one of none_front"),
        (lambda: local_2d(X2, Y2, Y2, 2, 0, False, "end"), "local_2d: sync_mode: expected one of"),
        (
            lambda: local_1d(X, Y, Y, 0, 0, False, "none_front"),
            "local_1d: window_size: expected a whole number from 1 up, got 0",
        ),
        (lambda: local_1d(X, Y, Y, 1.5, 0, False, "none_front"), "local_1d: window_size: expected"),
        (
            lambda: local_1d(X, Y, Y, True, 0, False, "none_front"),
            "local_1d: window_size: expected",
        ),
        (
            lambda: local_1d(X, Y, Y, 1, -1, False, "none_front"),
            "local_1d: log2_stride_size: expected a whole number from 0 up, got -1",
        ),
        (
            lambda: local_1d(X, Y, Y, 1, 31, False, "none_front"),
            "local_1d: log2_stride_size: expected at most 30, got 31",
        ),
        (
            lambda: local_1d(X, Y, Y, 2, 30, False, "none_front"),
            "local_1d: window_size: expected window_size * 2**log2_stride_size to be at most "
            "2147483647, got 2 * 2**30",
        ),
        (
            lambda: local_1d(X, Y, Y, 1, 0, "none_front", False),
            "local_1d: is_causal: expected True or False, got 'none_front'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_values(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: full_1d(X, Y, None), "full_1d: V is None; expected a tensor"),
        (lambda: full_1d([1.0], Y, Y), "full_1d: Q is of type list; expected a tensor"),
        (lambda: full_1d(X, Y, Y, kernel=5), "full_1d: kernel is 5; expected the name of a rung"),
        (lambda: causal_1d(X, Y, Y), "causal_1d() missing 1 required positional argument"),
        (lambda: local_1d(X, Y, Y, 1, 0, False), "local_1d() missing 1 required positional"),
    ],
)
def test_wrong_types(call, message):
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value).startswith(message)


def test_the_largest_window(target, device):
    inputs = tensors(local_1d, device=device)
    windows = ((2**31 - 1, 0), (1, 30), (2**28, 2))
    for window, stride in windows:
        results = local_1d(*inputs, window, stride, False, "none_front", True)
        check(results, *inputs, local(window, stride, False, "none_front"), 1)


def test_inputs_that_require_grad_are_refused():
    Q, K, V = tensors(full_1d)
    Q.requires_grad_()
    with pytest.raises(RuntimeError, match="requires grad"):
        full_1d(Q, K, V)
    with torch.no_grad():
        full_1d(Q, K, V)


# ------------------------------------------------------------------------------------------------
# FLOPs


def flops_by_loops(rule: Mask, nq: int, nk: int, d: int, dv: int, br: int, bc: int) -> int:
    visible, total = rule.visible(nq, nk), 0
    for q0 in range(0, nq, br):
        for k0 in range(0, nk, bc):
            r, c = min(br, nq - q0), min(bc, nk - k0)
            if not visible[q0 : q0 + r, k0 : k0 + c].any():
                continue
            total += r * c * (2 * d - 1) + 2 * r * (c - 1) + 2 * r * c + 7 * r
            total += r * (c + dv) + r * dv * (2 * c - 1)
    return total


@pytest.mark.parametrize(
    "rule",
    [
        full(),
        causal("none_front"),
        causal("scale_end"),
        local(3, 1, True, "scale_front"),
        local(2, 0, False, "none_front", 6, 4),
    ],
    ids=masks.describe,
)
@pytest.mark.parametrize(
    "sizes", [(48, 64, 8, 16, 8, 16), (54, 68, 32, 5, 16, 8), (6, 4, 1, 1, 64, 64)]
)
def test_flops(rule, sizes, monkeypatch):
    expected = flops_by_loops(rule, *sizes)
    assert flash_attention.flops(rule, *sizes) == expected
    assert flash_attention.flops(rule, *sizes, heads=6) == 6 * expected
    monkeypatch.setattr(flash_attention, "CHUNK", 1)  # a row of tiles at a time
    assert flash_attention.flops(rule, *sizes) == expected


def test_flops_of_one_tile():
    assert flash_attention.flops(full(), 2, 3, 4, 5, br=8, bc=8) == 42 + 8 + 12 + 14 + 16 + 50
    assert flash_attention.flops(full(), 0, 3, 4, 5, 8, 8) == 0
    assert flash_attention.flops(full(), 3, 0, 4, 5, 8, 8) == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((4, 4, 4, 4, 0, 4), "flops: br: expected at least 1, got 0"),
        ((4, 4, 4, 4, 4, -1), "flops: bc: expected at least 1, got -1"),
        ((4, 4, -4, 4, 4, 4), "flops: d: expected at least 0, got -4"),
    ],
)
def test_flops_of_wrong_sizes(sizes, message):
    with pytest.raises(ValueError) as error:
        flash_attention.flops(full(), *sizes)
    assert str(error.value) == message


# ------------------------------------------------------------------------------------------------
# python -m tests.masks

FEW = "1d-causal-none_front|2d-local_stride_causal-narrow-scale_end"


def run(monkeypatch, words: str, testcase: str) -> int:
    monkeypatch.setenv("TESTCASE", testcase)
    return command.status(lambda: runner.main(words.split()), "tests.masks")


def test_the_runner_lists_cases(monkeypatch, capsys):
    assert run(monkeypatch, "list", "") == 0
    names = capsys.readouterr().out.split()
    assert len({*names}) == len(names) == 2 * 3 * (2 + 2 * 4)
    assert run(monkeypatch, "list", FEW) == 0
    assert capsys.readouterr().out.split() == FEW.split("|")


def test_the_runner_verifies(monkeypatch, capsys):
    assert run(monkeypatch, "verify --target simulator --largest 64 --runs 2", FEW) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == FEW.split("|")
    assert all(line.endswith("%  ok") for line in lines)
    assert last == "2 of 2 cases right: simulator, --seed 0"


@pytest.mark.parametrize("wrong", [lambda x: x + 1, lambda x: x * math.nan])
def test_the_runner_finds_a_wrong_function(monkeypatch, capsys, wrong):
    right = flash_attention.causal_1d
    monkeypatch.setattr(flash_attention, "causal_1d", lambda *a, **named: wrong(right(*a, **named)))
    assert run(monkeypatch, "verify --target simulator --largest 64", FEW) == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert "WRONG: float16, run 0, Q [1, 8, " in first and second.endswith("ok")
    assert last.startswith("1 of 2 cases right")


def test_the_runner_goes_on_after_an_error(monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no memory\nmore")

    monkeypatch.setattr(flash_attention, "causal_1d", fail)
    assert run(monkeypatch, "verify --target simulator --largest 64", FEW) == 1
    assert ": no memory;" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["verify", "benchmark"])
def test_the_runner_shows_what_a_rung_declines(monkeypatch, capsys, what):
    def decline(*_, **__):
        raise Declined("attention: kernel 'flash' declines", "it is Monday")

    monkeypatch.setattr(flash_attention, "causal_1d", decline)
    assert run(monkeypatch, f"{what} --target simulator --largest 64", FEW.split("|")[0]) == 0
    assert "declined: it is Monday" in capsys.readouterr().out


def test_the_runner_times(monkeypatch, capsys):
    words = "benchmark --target simulator --largest 64 --kernel flash"
    assert run(monkeypatch, words, FEW.split("|")[0]) == 0
    _, titles, *rows, note = capsys.readouterr().out.splitlines()
    assert titles.split()[-1] == "SXM" and note.endswith("the last column is an estimate.")
    assert [row.split()[1:3] for row in rows] == [
        ["float16", "1x8x32x64"],
        ["float32", "1x8x32x32"],
        ["float64", "1x8x32x16"],
    ]
    assert all(len(re.findall(r"[0-9] [um]?s\b", row)) == 3 for row in rows)


@pytest.mark.parametrize(
    ("words", "testcase", "says"),
    [
        ("", "", "the following arguments are required: what"),
        ("check", "", "invalid choice: 'check'"),
        ("list", "(", "TESTCASE: '(' is not a regular expression"),
        ("verify", "nothing", "TESTCASE: 'nothing' is in the name of no case; list prints them"),
        ("verify --largest 4", "", "--largest '4' is not a whole number from 16 to 16384"),
        ("verify --runs 0", "", "--runs '0' is not a whole number from 1"),
        ("verify --kernel fast", "", "--kernel fast: attention has naive, "),
    ],
)
def test_wrong_words_to_the_runner_are_one_line(monkeypatch, capsys, words, testcase, says):
    assert run(monkeypatch, words, testcase) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and says in err
