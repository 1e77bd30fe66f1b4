"""attention as PyTorch sees it: masks, heads that share keys, sequences, and what it refuses."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import simulator
from workbench import attention, masks

HALF = torch.float16


def qkv(*shape: int, keys: int | None = None, heads: int | None = None, dtype=torch.float32):
    *batch, h, nq, d = shape
    generator = torch.Generator().manual_seed(0)

    def randn(*sizes: int) -> torch.Tensor:
        return torch.randn(*batch, *sizes, generator=generator).to(dtype)

    return randn(h, nq, d), randn(heads or h, keys or nq, d), randn(heads or h, keys or nq, d)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, HALF, torch.bfloat16])
@pytest.mark.parametrize("keys", [40, 70])
def test_it_is_pytorch_s_where_both_define_it(dtype, keys):
    q, k, v = qkv(2, 4, 40, 64, keys=keys, heads=2, dtype=dtype)
    close = {"atol": 1e-2, "rtol": 1e-2} if dtype.itemsize == 2 else {}
    mask = torch.rand(2, 1, 40, keys) < 0.7
    mask[..., 3, :] = False  # PyTorch's result is 0 there, too
    bias = torch.randn(4, 40, keys).to(dtype)
    for tensor in (None, mask, bias):
        ours = attention(q, k, v, mask=tensor, scale=0.2)
        theirs = scaled_dot_product_attention(q, k, v, tensor, scale=0.2, enable_gqa=True)
        torch.testing.assert_close(ours, theirs, **close)
    ours = attention(q, k, v, mask=masks.causal("none_front"))
    theirs = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(ours, theirs, **close)


def test_a_causal_mask_and_a_tensor_apply_together():
    q, k, v = qkv(2, 20, 32)
    mask = torch.rand(20, 20) < 0.5
    both = attention(q, k, v, mask=mask, causal=True)
    assert torch.equal(both, attention(q, k, v, mask=mask & masks.causal().visible(20, 20)))


@pytest.mark.parametrize("rule", [masks.full(), masks.local(5), masks.causal(q_width=5, k_width=4)])
def test_a_rule_is_its_tensor(rule):
    q, k, v = qkv(2, 20, 32, keys=24)
    by_rule = attention(q, k, v, mask=rule, return_lse=True)
    by_tensor = attention(q, k, v, mask=rule.visible(20, 24), return_lse=True, kernel="flash")
    for one, other in zip(by_rule, by_tensor, strict=True):
        torch.testing.assert_close(one, other)


def test_leading_dimensions():
    q, k, v = qkv(2, 3, 4, 20, 32)
    mask = torch.rand(2, 1, 1, 20, 20) < 0.6
    out, lse = attention(q, k, v, mask=mask, return_lse=True)
    assert (out.shape, lse.shape) == (q.shape, q.shape[:-1])
    alone = attention(q[1, 2], k[1, 2], v[1, 2], mask=mask[1, 0])
    assert torch.equal(out[1, 2], alone)


@pytest.mark.parametrize("kernel", ["flash_mma", "flash_mma_pipelined"])
def test_sequences_are_attended_one_by_one(kernel):
    q, k, v = qkv(4, 200, 64, keys=250, heads=2, dtype=HALF)
    starts_q, starts_k = (torch.tensor(s, dtype=torch.int32) for s in (
        [0, 130, 130, 131, 200], [0, 70, 90, 90, 250]))  # fmt: skip
    out, lse = attention(
        q, k, v, causal=True, cu_seqlens_q=starts_q, cu_seqlens_k=starts_k, kernel=kernel,
        return_lse=True, check="all",
    )  # fmt: skip
    for s in range(4):
        rows, keys = slice(*starts_q[s : s + 2].tolist()), slice(*starts_k[s : s + 2].tolist())
        parts = q[:, rows], k[:, keys], v[:, keys]
        alone, alone_lse = attention(*parts, causal=True, kernel=kernel, return_lse=True)
        assert torch.equal(out[:, rows], alone)
        assert torch.equal(lse[:, rows], alone_lse)


@pytest.mark.parametrize(
    ("shape", "more", "chosen"),
    [
        ((1, 2, 70, 64), {}, "flash_registers"),
        ((1, 2, 70, 300), {}, "fused_row"),
        ((1, 2, 70, 64), {"dtype": torch.float64}, "flash"),
        ((1, 2, 70, 64), {"dtype": HALF}, "flash_mma_pipelined"),
        ((1, 8, 1, 128), {"dtype": HALF, "keys": 500, "heads": 2}, "flash_split_kv"),
    ],
)
def test_which_rung_runs(shape, more, chosen):
    with simulator.record() as launches:
        attention(*qkv(*shape, **more))
    assert {launch.kernel.split("<")[0] for launch in launches} & {f"attention_{chosen}_kernel"}


def test_16_bit_types_with_a_mask_that_is_no_band():
    q, k, v = qkv(1, 2, 70, 64, dtype=HALF)
    with simulator.record() as launches:
        attention(q, k, v, mask=torch.ones(70, 70, dtype=torch.bool))
    assert launches[0].kernel.startswith("attention_flash_kernel")


Q, K, V = qkv(1, 2, 70, 32, keys=100)


def starts(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": torch.ones(70, 99) > 0}, "mask must be [1, 2, 70, 100] (B, H, Nq, Nk), or"),
        ({"mask": torch.ones(70, 100).long()}, "mask must be bool, or of q's dtype"),
        ({"mask": masks.local(3), "causal": True}, "causal is set, and so is mask, a rule"),
        ({"mask": masks.causal(q_width=3, k_width=10)}, "multiples of q_width and k_width"),
        ({"cu_seqlens_q": starts(0, 70)}, "must both be set, or neither"),
        (
            {"cu_seqlens_q": starts(0, 70), "cu_seqlens_k": starts(0, 5, 100)},
            "cu_seqlens_k must have the size of cu_seqlens_q",
        ),
        (
            {"cu_seqlens_q": starts(10, 70), "cu_seqlens_k": starts(0, 100)},
            "cu_seqlens_q must go from 0 up to 70; got [10, 70]",
        ),
        (
            {"cu_seqlens_q": starts(0, 40, 70), "cu_seqlens_k": starts(0, 101, 100)},
            "cu_seqlens_k must go from 0 up to 100",
        ),
        (
            {"cu_seqlens_q": starts(0, 70).long(), "cu_seqlens_k": starts(0, 100)},
            "cu_seqlens_q must be int32",
        ),
        ({"br": 0}, "br must be a whole number from 1 on, or None; got 0"),
        ({"bc": 1.5}, "bc must be a whole number from 1 on, or None; got 1.5"),
        ({"scale": float("inf")}, "scale must be finite"),
    ],
)
def test_what_it_refuses(arguments, message):
    half = [x.half() for x in (Q, K, V)]
    with pytest.raises(RuntimeError, match=re.escape(message)):
        attention(*half, **arguments)


def test_sequences_need_batch_size_1():
    q, k, v = qkv(2, 2, 70, 32, dtype=HALF)
    with pytest.raises(RuntimeError, match="so q must have batch size 1; got float16"):
        attention(q, k, v, cu_seqlens_q=starts(0, 70), cu_seqlens_k=starts(0, 70))


def test_causal_is_a_bool():
    with pytest.raises(TypeError, match="attention: causal is 'no'; expected True or False"):
        attention(Q, K, V, causal="no")


def test_a_mask_for_more_dimensions_that_does_not_fit():
    five = [x[None] for x in (Q, K, V)]
    with pytest.raises(RuntimeError, match="attention: mask must broadcast to"):
        attention(*five, mask=torch.ones(3, 1, 1, 70, 100) > 0)


def test_an_unknown_sync():
    with pytest.raises(RuntimeError, match="sync must be one of none_end, .*; got 'causal'"):
        torch.ops.workbench.attention(Q, K, V, sync="causal")


def test_it_compiles_with_a_mask():
    compiled = torch.compile(lambda *x: attention(*x[:3], mask=x[3]), fullgraph=True)
    mask = torch.rand(70, 100) < 0.5
    assert torch.equal(compiled(Q, K, V, mask), attention(Q, K, V, mask=mask))
