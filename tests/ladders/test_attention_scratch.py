"""How much memory the attention ladder needs besides its inputs and outputs: N^2, N, or tiles."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch.autograd.profiler import profile

import simulator
from workbench import attention, rungs
from workbench.operators.builds import Rung

HEADS, N, D = 2, 64, 32
RUNGS = [rung for rung in rungs("attention") if "float32" in rung.dtypes]
LADDER = {rung.name: rung for rung in RUNGS}


def inputs(n: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(1, HEADS, n, D).to(dtype) for _ in range(3)]


def scratch(rung: Rung, n: int, dtype: torch.dtype = torch.float32) -> int:
    """The most bytes that torch has allocated at a time, outputs excluded."""
    qkv = inputs(n, dtype)
    with profile(profile_memory=True) as profiled:
        out, lse = attention(*qkv, kernel=rung.name, return_lse=True)
    changes = [e.nbytes() for e in profiled.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(changes)) - out.nbytes - lse.nbytes


def shared(rung: Rung, n: int) -> int:
    """Bytes of shared memory of the rung's largest block."""
    with simulator.settings(checks=""), simulator.record() as launches:
        attention(*inputs(n), kernel=rung.name)
    return max(launch.shared_bytes for launch in launches)


SCORES, QUERIES = HEADS * N * N, HEADS * N
# As the rungs' headers say; of 16-bit types: P as T, O as a float.
EXPECTED: dict[str, Callable[[bool], int]] = {
    "naive": lambda wide: (8 if wide else 10) * SCORES,
    "blocked": lambda wide: 4 * SCORES,
    "fused_row": lambda wide: 0,
    "flash_v1": lambda wide: 8 * QUERIES + (0 if wide else 4 * QUERIES * D),
    "flash": lambda wide: 0,
    "warp_dot": lambda wide: 0,
    "flash_registers": lambda wide: 0,
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, getattr(torch, dtype))
        for name in EXPECTED
        for dtype in ("float32", "float16")
        if dtype in LADDER[name].dtypes
    ],
)
def test_the_scratch_memory_of_the_header(name: str, dtype: torch.dtype) -> None:
    assert scratch(LADDER[name], N, dtype) == EXPECTED[name](dtype == torch.float32)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_only_the_unfused_rungs_need_memory_for_all_scores(rung: Rung) -> None:
    """With twice the queries and keys there are four times as many scores."""
    before, after = scratch(rung, N), scratch(rung, 2 * N)
    assert after == (4 if rung.name in ("naive", "blocked") else 2) * before


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_only_fused_row_keeps_rows_of_scores_in_shared_memory(rung: Rung) -> None:
    per_key = 4 if rung.name == "fused_row" else 0
    assert shared(rung, 4 * N) - shared(rung, 2 * N) == per_key * 2 * N


def test_a_row_that_does_not_fit_is_declined() -> None:
    q, k, v = (torch.randn(1, 1, n, 16) for n in (1, 60_000, 60_000))
    with pytest.raises(RuntimeError, match="a row of 60000 scores .* 240.* bytes of shared memory"):
        attention(q, k, v, kernel="fused_row")


@pytest.mark.parametrize(("br", "bc"), [(1, 1), (5, 3), (33, 7), (None, 100), (256, 256)])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_tiles_of_any_size(br: int | None, bc: int | None, causal: bool) -> None:
    q, k, v = inputs(70)
    expected = attention(q, k, v, causal=causal, kernel="flash")
    found = attention(q, k, v, causal=causal, br=br, bc=bc, kernel="flash_v1")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_tiles_that_do_not_fit_are_declined() -> None:
    q, k, v = inputs(1024)
    with pytest.raises(RuntimeError, match="tiles of 500 queries and 400 keys need .* bytes"):
        attention(q, k, v, br=500, bc=400, kernel="flash_v1")
    with pytest.raises(RuntimeError, match="br"):
        attention(q, k, v, br=32, kernel="flash")
