"""The reference ladder of attention: one chain of equal results, and what each of them loses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from reference import attention as ladder
from workbench import attention as workbench_attention

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALF, BRAIN, SINGLE = DTYPES[:3]
NEIGHBOURS = list(pairwise(ladder.LADDER))
SAFE = [name for name in ladder.ALGORITHMS if name != "native"]
SHAPES = {  # Nq, Nk, D, Dv, causal
    "ragged": (37, 70, 17, 17, False),
    "causal": (40, 40, 32, 32, True),
    "fewer queries": (13, 45, 16, 24, True),
    "more queries": (45, 13, 64, 8, True),
    "one of each": (1, 1, 1, 1, False),
}

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tensors(nq: int, nk: int, d: int, dv: int, dtype: torch.dtype = torch.float64) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((nq, d), (nk, d), (nk, dv))
    )
    return q, k, v


def result(name: str, given: Tensors, **options) -> torch.Tensor:
    """O [Nq, Dv] of an algorithm; that of multi_head is one head's."""
    if name == "multi_head":
        return ladder.LADDER[name](*(x[None] for x in given), **options)[0]
    return ladder.LADDER[name](*given, **options)


def formula(given: Tensors, causal: bool, scale: float | None = None) -> Tensors:
    """O [Nq, Dv] and LSE [Nq] in float64, and which queries see a key."""
    q, k, v = (x.double() for x in given)
    S = (q.shape[-1] ** -0.5 if scale is None else scale) * (q @ k.T)
    if causal:
        hidden = torch.ones_like(S, dtype=torch.bool).triu(len(k) - len(q) + 1)
        S = S.masked_fill(hidden, -math.inf)
    return torch.softmax(S, dim=-1).nan_to_num(0) @ v, S.logsumexp(-1), S.isfinite().any(-1)


def tolerance(dtype: torch.dtype, keys: int) -> float:
    """A few roundings, and one per key that may go either way."""
    return 3 * math.sqrt(keys) * torch.finfo(dtype).eps


def require_close(got: torch.Tensor, wanted: torch.Tensor, allowed: float) -> None:
    torch.testing.assert_close(got.double(), wanted.double(), atol=allowed, rtol=0)


# ---- The chain ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_neighbours_agree_with_each_other_and_with_the_formula(shape, dtype):
    *sizes, causal = SHAPES[shape]
    given = tensors(*sizes, dtype)
    results = {name: result(name, given, causal=causal) for name in ladder.LADDER}
    wanted, _, _ = formula(given, causal)
    for name, got in results.items():
        assert got.dtype == dtype, name
        require_close(got, wanted, tolerance(dtype, sizes[1]))
    for one, other in NEIGHBOURS:
        require_close(results[one], results[other], tolerance(dtype, sizes[1]))


def test_the_chain_in_fp16_at_its_usual_size():
    """(B, H, N, D) = (1, 1, 128, 64), standard deviation 0.5, absolute tolerance 1e-2."""
    assert max(ladder.differences(HALF).values()) <= 1e-2
    heads = [x[None, None] for x in ladder.sample(HALF, queries=128, keys=128, std=0.5)]
    require_close(ladder.LADDER["multi_head"](*heads), scaled_dot_product_attention(*heads), 1e-2)


@pytest.mark.parametrize("name", ladder.LADDER)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_torch(shape, name):
    *sizes, causal = SHAPES[shape]
    given = tensors(*sizes)
    mask = torch.ones(*sizes[:2], dtype=torch.bool)
    mask = mask.tril(sizes[1] - sizes[0]) if causal else mask
    seeing = mask.any(dim=-1)
    wanted = scaled_dot_product_attention(*(x[None] for x in given), attn_mask=mask, scale=0.3)[0]
    got = result(name, given, causal=causal, scale=0.3)
    require_close(got[seeing], wanted[seeing], tolerance(torch.float64, sizes[1]))


@pytest.mark.parametrize("softmax", ["native", "safe", "three_pass", "two_pass"])
def test_softmax_of_rows(softmax):
    x = torch.randn(2, 3, 45, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = getattr(ladder, f"{softmax}_softmax")(x)
    require_close(got, torch.softmax(x, dim=-1), tolerance(torch.float64, 45))


@pytest.mark.parametrize("causal", [False, True])
def test_against_the_flash_rung(causal):
    given = tensors(45, 70, 32, 32, torch.float32)
    heads = [x[None, None] for x in given]
    wanted, lse = workbench_attention(*heads, causal=causal, return_lse=True, kernel="flash")
    out, LSE = ladder.flash_2(*given, causal=causal, return_lse=True)
    require_close(out, wanted[0, 0], tolerance(SINGLE, 70))
    require_close(LSE, lse[0, 0], tolerance(SINGLE, 70))


# ---- Tiles, masks, statistics, heads ------------------------------------------------------------


@pytest.mark.parametrize(("BLOCK_M", "BLOCK_N"), [(1, 1), (7, 5), (16, 64), (100, 100)])
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_of_any_size(shape, BLOCK_M, BLOCK_N):
    *sizes, causal = SHAPES[shape]
    given = tensors(*sizes)
    wanted, _, _ = formula(given, causal)
    found = [
        ladder.three_pass(*given, causal=causal, BLOCK_N=BLOCK_N),
        ladder.flash_1(*given, causal=causal, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N),
        ladder.flash_2(*given, causal=causal, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N),
    ]
    for got in found:
        require_close(got, wanted, tolerance(torch.float64, sizes[1]))


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics(shape):
    *sizes, causal = SHAPES[shape]
    given = tensors(*sizes)
    _, wanted, seeing = formula(given, causal)
    _, LSE = ladder.flash_2(*given, causal=causal, return_lse=True)
    _, m, l = ladder.flash_1(*given, causal=causal, return_statistics=True)  # noqa: E741
    require_close(LSE, wanted, tolerance(torch.float64, sizes[1]))
    require_close(m + torch.log(l), wanted, tolerance(torch.float64, sizes[1]))
    assert (LSE[~seeing] == -math.inf).all() and (m[~seeing] == -math.inf).all()
    assert (l[~seeing] == 0).all() and (l[seeing] >= 1).all()


@pytest.mark.parametrize("name", ladder.LADDER)
def test_a_query_that_sees_no_key_gives_zero(name):
    assert result(name, tensors(45, 13, 64, 8), causal=True)[:32].eq(0).all()
    assert result(name, tensors(3, 0, 4, 5)).eq(0).all()
    assert result(name, tensors(0, 3, 4, 5)).shape == (0, 5)


@pytest.mark.parametrize("name", ladder.ALGORITHMS)
def test_heads_are_independent(name):
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (5, 9, 9))
    got = ladder.multi_head(ladder.LADDER[name], q, k, v, causal=True)
    for b in range(2):
        for h in range(3):
            head = ladder.LADDER[name](q[b, h], k[b, h], v[b, h], causal=True)
            assert torch.equal(got[b, h], head)


@pytest.mark.parametrize("name", ladder.ALGORITHMS)
def test_sizes_that_do_not_fit_raise(name):
    q, k, v = tensors(4, 6, 8, 8)
    for given in ((q[:, :7], k, v), (q, k[:5], v), (q[None], k, v)):
        with pytest.raises(ValueError, match=r"expected q \[Nq, D\]"):
            ladder.LADDER[name](*given)
    with pytest.raises(ValueError, match="one floating dtype"):
        ladder.LADDER[name](q, k.half(), v)


# ---- Precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_logits_overflow_only_without_the_maximum(dtype):
    given = ladder.sample(dtype, "large logits", queries=8, keys=64)
    assert ladder.native(*given).isnan().any()
    for name in SAFE:
        assert result(name, given).isfinite().all(), name


@pytest.fixture(scope="module")
def lost() -> list[ladder.Lost]:
    return ladder.lost()


@pytest.fixture(scope="module")
def mean(lost) -> dict[tuple[str, torch.dtype, str], float]:
    """Mean errors; those that are not finite are missing."""
    return {(one.algorithm, one.dtype, one.kind): one.mean for one in lost if one.mean is not None}


def test_what_overflows(mean):
    missing = set.difference(
        {(name, dtype) for name in ladder.ALGORITHMS for dtype in DTYPES},
        {(name, dtype) for name, dtype, kind in mean if kind == "large logits"},
    )
    assert missing == {("native", dtype) for dtype in DTYPES}


def test_each_narrower_dtype_loses_more(mean):
    for name, kind in {(name, kind) for name, _, kind in mean}:
        for narrow, wide in ((BRAIN, HALF), (HALF, SINGLE), (SINGLE, torch.float64)):
            if (name, narrow, kind) in mean:
                assert mean[name, narrow, kind] > 5 * mean[name, wide, kind], (name, kind)


def test_rounding_after_every_key_loses_more_than_after_every_tile(mean):
    for dtype in (HALF, BRAIN):
        error = {name: mean[name, dtype, "randn"] for name in ladder.ALGORITHMS}
        assert error["safe"] < error["flash_2"] < 3 * error["safe"]
        assert error["one_pass"] > 4 * error["flash_1"] > 4 * error["safe"]
        assert error["two_pass"] > 2 * error["three_pass"]
    single = {name: mean[name, SINGLE, "randn"] for name in ladder.ALGORITHMS}
    assert max(single["flash_1"], single["flash_2"]) < 1.2 * single["safe"]


def test_a_sum_in_bf16_stops_growing(mean):
    assert mean["two_pass", BRAIN, "randn"] > 10 * mean["safe", BRAIN, "randn"]
    assert ladder.sum_of_weights(ladder.two_pass_softmax, BRAIN) > 1.1
    assert abs(ladder.sum_of_weights(ladder.safe_softmax, BRAIN) - 1) < 0.01


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
def test_with_large_logits_the_scores_lose_the_precision(mean, dtype):
    of_scores = ladder.error_of_scores(dtype, "large logits")
    for name in SAFE:
        assert mean[name, dtype, "large logits"] == pytest.approx(of_scores, rel=0.1), name
    assert ladder.error_of_scores(dtype, "randn") < 0.5 * of_scores


def test_the_command_shows_it_all(lost, monkeypatch, capsys):
    monkeypatch.setattr(ladder, "lost", lambda: lost)
    assert ladder.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"{one} ~ {other} " in shown for one, other in NEIGHBOURS)
    assert shown.count("overflows") == len(DTYPES) and "nan" not in shown
