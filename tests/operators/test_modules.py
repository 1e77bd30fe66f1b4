"""workbench.MultiHeadAttention against torch.nn.functional, with the same weights."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional

import simulator
import workbench
from workbench import MultiHeadAttention, rungs
from workbench.operators.builds import Declined
from workbench.operators.operator import torch_dtype

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def same_numbers_each_time() -> None:
    torch.manual_seed(0)


def by_torch(module: MultiHeadAttention, x: torch.Tensor) -> torch.Tensor:
    """The same, head by head, in the dtype of x."""
    qkv = functional.linear(x, module.qkv.weight.to(x.dtype))
    width, heads, kv_heads = module.head_dim, module.num_heads, module.num_kv_heads
    found = []
    for head in range(heads):
        columns = head, heads + head * kv_heads // heads
        columns = *columns, columns[1] + kv_heads
        q, k, v = (qkv[..., c * width : (c + 1) * width] for c in columns)
        found.append(functional.scaled_dot_product_attention(q, k, v, is_causal=module.causal))
    return functional.linear(torch.cat(found, dim=-1), module.out.weight.to(x.dtype))


def check(module: MultiHeadAttention, x: torch.Tensor) -> None:
    """The error is at most twice that of torch in the same dtype, or a rounding of the result."""
    with torch.no_grad():
        out, right = module(x), by_torch(module, x.double())
        theirs = float((by_torch(module, x).double() - right).abs().max())
    assert (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)
    rounded = torch.finfo(x.dtype).eps * float(right.abs().max())
    assert float((out.double() - right).abs().max()) <= 2 * theirs + rounded


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [None, 1, 2])
def test_same_as_torch(target, device, kv_heads, causal, dtype):
    module = MultiHeadAttention(
        48, 4, num_kv_heads=kv_heads, causal=causal, device=device, dtype=dtype
    )
    check(module, torch.randn(2, 37, 48, device=device, dtype=dtype))


@pytest.mark.parametrize("rung", rungs("attention"), ids=lambda rung: rung.name)
def test_every_rung(target, device, rung):
    dtype = torch_dtype(rung.dtypes[0])
    module = MultiHeadAttention(128, 2, kernel=rung.name, device=device, dtype=dtype)
    try:
        check(module, torch.randn(1, 128, 128, device=device, dtype=dtype))
    except Declined as error:
        assert error.reason  # not each rung is for such inputs


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0), (1, 1)])
def test_small_inputs(batch, length):
    with torch.no_grad():
        assert MultiHeadAttention(16, 2)(torch.randn(batch, length, 16)).shape == (
            batch,
            length,
            16,
        )


def test_same_as_the_module_of_torch():
    theirs = torch.nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    module = MultiHeadAttention(32, 4)
    module.load_state_dict(
        {"qkv.weight": theirs.in_proj_weight, "out.weight": theirs.out_proj.weight}
    )
    x = torch.randn(2, 10, 32)
    with torch.inference_mode():
        assert torch.allclose(module(x), theirs(x, x, x, need_weights=False)[0], atol=1e-5)


def test_the_rung_is_an_argument():
    module = MultiHeadAttention(32, 2, kernel="naive").requires_grad_(False)
    with simulator.record() as launches:
        module(torch.randn(1, 8, 32))
    assert any(launch.kernel.startswith("attention_naive") for launch in launches)
    module.kernel = "fast"
    with pytest.raises(RuntimeError, match="fast"):
        module(torch.randn(1, 8, 32))


def test_it_has_no_gradient():
    module, x = MultiHeadAttention(32, 2), torch.randn(1, 8, 32)
    with pytest.raises(RuntimeError, match="requires grad, but this operator has no backward"):
        module(x)
    with torch.no_grad():
        expected = module(x)
    assert not expected.requires_grad
    assert torch.equal(module.requires_grad_(False)(x), expected)
    with pytest.raises(RuntimeError, match="requires grad, but this operator has no backward"):
        module(x.requires_grad_())


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((30, 4), {}, "embed_dim: expected a multiple of num_heads = 4, got 30"),
        ((32, 0), {}, "num_heads: expected a whole number from 1 up, got 0"),
        ((32.0, 4), {}, "embed_dim: expected a whole number from 1 up, got 32.0"),
        ((32, 4), {"num_kv_heads": 3}, "num_kv_heads: expected a divisor of num_heads = 4, got 3"),
        ((32, 4), {"num_kv_heads": 8}, "num_kv_heads: expected a divisor of num_heads = 4, got 8"),
        ((32, 4), {"num_kv_heads": 0}, "num_kv_heads: expected a whole number from 1 up, got 0"),
    ],
)
def test_wrong_arguments(arguments, named, message):
    with pytest.raises(ValueError) as error:
        MultiHeadAttention(*arguments, **named)
    assert str(error.value) == message


@pytest.mark.parametrize("shape", [(8, 32), (1, 8, 31), (1, 1, 8, 32)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError) as error:
        MultiHeadAttention(32, 2)(torch.randn(shape))
    assert str(error.value) == f"x: expected [B, N, 32], got float32 {list(shape)}"


def test_what_is_printed():
    assert "32, 4, num_kv_heads=2, causal=True, kernel='flash'" in repr(
        MultiHeadAttention(32, 4, num_kv_heads=2, causal=True, kernel="flash")
    )


def test_it_is_loaded_on_first_use():
    assert "MultiHeadAttention" in dir(workbench)
    code = "import sys, workbench; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
