"""Attention from softmax to FlashAttention-2: a function per algorithm, its loop in the open.

    native      P = exp(S) / sum(exp(S)), O = P V             overflows
    safe        the same, relative to the maximum of the row
    three_pass  maximum, sum, division: a loop over blocks of keys each
    two_pass    maximum and sum in one loop over the keys, then the division
    one_pass    one loop over the keys that updates O as well
    flash_1     one_pass in tiles, keys in the outer loop; O is always normalised
    flash_2     queries in the outer loop; O is divided by the sum once, at the end
    multi_head  any of them for every head of a batch

All take q [Nq, D], k [Nk, D], v [Nk, Dv] of one floating dtype and return O [Nq, Dv].
scale: None takes 1 / sqrt(D). causal: query i sees the keys 0 .. i + Nk - Nq, so that the last
query sees all of them; one that sees none has O = 0 and LSE = -inf.

They compute in the dtype of their inputs: each torch operation rounds its result to it. Within one
operation, a product of matrices or a sum, torch uses fp32 for fp16 and bf16.

``python -m reference.attention`` compares them with each other, and with 80-bit arithmetic.
"""

# ruff: noqa: E741 (O and l are the names of the papers)

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch

from workbench.harness.terminal import show
from workbench.toolchain import command

Attention = Callable[..., Any]  # (q, k, v, *, scale, causal, ...) -> O, or O and statistics
Softmax = Callable[[torch.Tensor], torch.Tensor]

BLOCK_M = 32  # queries per tile
BLOCK_N = 32  # keys per tile

# ---- What all of them share ---------------------------------------------------------------------


def blocks(size: int, step: int) -> Iterator[slice]:
    """0 .. size - 1 in slices of ``step``; the last may be shorter."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def checked_scale(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None) -> float:
    """The scale, by default 1 / sqrt(D); ValueError unless the shapes fit and the dtypes agree."""
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if not q.dim() == k.dim() == v.dim() == 2 or q.shape[1] != k.shape[1] or len(k) != len(v):
        raise ValueError(f"attention: expected q [Nq, D], k [Nk, D], v [Nk, Dv]; got {shapes}")
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        dtypes = f"{q.dtype}, {k.dtype}, {v.dtype}"
        raise ValueError(f"attention: expected one floating dtype for q, k, v; got {dtypes}")
    return 1 / math.sqrt(max(1, q.shape[1])) if scale is None else scale


def scores(
    q: torch.Tensor,
    k: torch.Tensor,
    scale: float,
    causal: bool,
    queries: slice = slice(None),
    keys: slice = slice(None),
) -> torch.Tensor:
    """S = scale Q K^T of some queries and keys; -inf where a query does not see a key."""
    S = scale * (q[queries] @ k[keys].mT)
    if causal:
        query = torch.arange(len(q), device=q.device)[queries, None]
        key = torch.arange(len(k), device=q.device)[keys]
        S = S.masked_fill(key > query + len(k) - len(q), -math.inf)
    return S


def base(m: torch.Tensor) -> torch.Tensor:
    """A maximum to subtract: 0 where no key was seen yet, as -inf - -inf would be NaN."""
    return m.masked_fill(m == -math.inf, 0)


def divided(x: torch.Tensor, l: torch.Tensor) -> torch.Tensor:
    """The quotient x / l, and 0 for a query that has seen no key."""
    return torch.where(l == 0, 0, x / l)


# ---- Softmax of rows, x [..., N] ----------------------------------------------------------------


def native_softmax(x: torch.Tensor) -> torch.Tensor:
    """The definition; infinite / infinite = NaN once a score exceeds log(largest number).

    Milakov and Gimelshein, "Online normalizer calculation for softmax", algorithm 1.
    """
    e = torch.exp(x)
    return e / e.sum(dim=-1, keepdim=True)


def safe_softmax(x: torch.Tensor) -> torch.Tensor:
    """Exponents of at most 0: no overflow, and a sum of at least 1. Milakov, algorithm 2."""
    e = torch.exp(x - x.amax(dim=-1, keepdim=True))
    return e / e.sum(dim=-1, keepdim=True)


def three_pass_softmax(x: torch.Tensor, BLOCK_N: int = BLOCK_N) -> torch.Tensor:
    """``safe_softmax`` as three loops over blocks, each of which reads x again.

    Milakov, algorithm 2, with a block where it has an element.
    """
    m = x.new_full((*x.shape[:-1], 1), -math.inf)
    d = torch.zeros_like(m)
    y = torch.empty_like(x)
    for j in blocks(x.shape[-1], BLOCK_N):
        m = torch.maximum(m, x[..., j].amax(dim=-1, keepdim=True))
    for j in blocks(x.shape[-1], BLOCK_N):
        d = d + torch.exp(x[..., j] - m).sum(dim=-1, keepdim=True)
    for j in blocks(x.shape[-1], BLOCK_N):
        y[..., j] = torch.exp(x[..., j] - m) / d
    return y


def two_pass_softmax(x: torch.Tensor) -> torch.Tensor:
    """The maximum and the sum in one loop over the elements: a new maximum rescales the sum.

    Milakov, section 3, algorithm 3.
    """
    m = x.new_full((*x.shape[:-1], 1), -math.inf)
    d = torch.zeros_like(m)
    for column in x.split(1, dim=-1):
        m_new = torch.maximum(m, column)
        d = d * torch.exp(m - base(m_new)) + torch.exp(column - base(m_new))
        m = m_new
    return torch.exp(x - m) / d


# ---- Attention by a softmax of whole rows -------------------------------------------------------


def by_softmax(
    softmax: Softmax,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """O = softmax(scale Q K^T) V with all of S [Nq, Nk] in memory.

    Vaswani et al., "Attention Is All You Need", section 3.2.1.
    """
    factor = checked_scale(q, k, v, scale)
    if not len(k):
        return q.new_zeros(len(q), v.shape[-1])
    O = softmax(scores(q, k, factor, causal)) @ v
    if causal:
        O[: max(0, len(q) - len(k))] = 0  # they see no key: 0 / 0
    return O


native = partial(by_softmax, native_softmax)
safe = partial(by_softmax, safe_softmax)
two_pass = partial(by_softmax, two_pass_softmax)


def three_pass(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, BLOCK_N: int = BLOCK_N, **options: Any
) -> torch.Tensor:
    """``by_softmax`` with ``three_pass_softmax``; options: scale, causal."""
    return by_softmax(partial(three_pass_softmax, BLOCK_N=BLOCK_N), q, k, v, **options)


# ---- Attention in one pass ----------------------------------------------------------------------


def one_pass_row(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """One query, q [D], one key at a time: o [Dv] is the result for the keys so far.

    Ye, "From Online Softmax to FlashAttention", section 4.
    """
    m, d = q.new_tensor(-math.inf), q.new_tensor(0.0)
    o = v.new_zeros(v.shape[-1])
    for key, value in zip(k, v, strict=True):
        x = scale * (q @ key)
        m_new = torch.maximum(m, x)
        kept, weight = d * torch.exp(m - m_new), torch.exp(x - m_new)
        d = kept + weight
        o = o * (kept / d) + value * (weight / d)
        m = m_new
    return o


def one_pass(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """``one_pass_row`` for every query and the keys that it sees."""
    factor = checked_scale(q, k, v, scale)
    O = q.new_empty(len(q), v.shape[-1])
    for i, row in enumerate(q):
        seen = max(0, i + 1 + len(k) - len(q)) if causal else len(k)
        O[i] = one_pass_row(row, k[:seen], v[:seen], factor)
    return O


def flash_1(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
    BLOCK_M: int = BLOCK_M,
    BLOCK_N: int = BLOCK_N,
    return_statistics: bool = False,
) -> Any:
    """Keys outside, queries inside: a tile of K and V is read once, O, m and l for every tile.

    Dao et al., "FlashAttention", section 3.1, algorithm 1. With return_statistics O, the maxima m
    [Nq] and the sums l [Nq].
    """
    factor = checked_scale(q, k, v, scale)
    O = q.new_zeros(len(q), v.shape[-1])
    m, l = q.new_full((len(q), 1), -math.inf), q.new_zeros(len(q), 1)
    for j in blocks(len(k), BLOCK_N):
        for i in blocks(len(q), BLOCK_M):
            S = scores(q, k, factor, causal, i, j)  # [BLOCK_M, BLOCK_N]
            m_tile = S.amax(dim=-1, keepdim=True)
            P = torch.exp(S - base(m_tile))
            m_new = torch.maximum(m[i], m_tile)
            kept = l[i] * torch.exp(m[i] - base(m_new))
            added = torch.exp(m_tile - base(m_new))
            l_new = kept + added * P.sum(dim=-1, keepdim=True)
            O[i] = divided(kept * O[i] + added * (P @ v[j]), l_new)
            m[i], l[i] = m_new, l_new
    return (O, m[:, 0], l[:, 0]) if return_statistics else O


def flash_2(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
    BLOCK_M: int = BLOCK_M,
    BLOCK_N: int = BLOCK_N,
    return_lse: bool = False,
) -> Any:
    """Queries outside, keys inside: acc, m and l stay where they are until O is written, once.

    Dao, "FlashAttention-2", section 3.1, algorithm 1. With return_lse O and the natural logarithm
    of sum(exp(S)), LSE [Nq].
    """
    factor = checked_scale(q, k, v, scale)
    O, LSE = q.new_empty(len(q), v.shape[-1]), q.new_empty(len(q), 1)
    for i in blocks(len(q), BLOCK_M):
        acc = torch.zeros_like(O[i])
        m, l = torch.full_like(LSE[i], -math.inf), torch.zeros_like(LSE[i])
        for j in blocks(len(k), BLOCK_N):
            if causal and j.start > i.stop - 1 + len(k) - len(q):
                break  # no query of this tile sees these keys, or later ones
            S = scores(q, k, factor, causal, i, j)  # [BLOCK_M, BLOCK_N]
            m_new = torch.maximum(m, S.amax(dim=-1, keepdim=True))
            P = torch.exp(S - base(m_new))
            alpha = torch.exp(m - base(m_new))
            l = alpha * l + P.sum(dim=-1, keepdim=True)
            acc = alpha * acc + P @ v[j]
            m = m_new
        O[i] = divided(acc, l)
        LSE[i] = m + torch.log(l)
    return (O, LSE[:, 0]) if return_lse else O


def multi_head(
    attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any
) -> torch.Tensor:
    """``attention`` for each head of q [..., H, Nq, D], k and v alike; O [..., H, Nq, Dv].

    Vaswani et al., section 3.2.2, without the projections.
    """
    O = q.new_empty(*q.shape[:-1], v.shape[-1])
    for head in product(*map(range, q.shape[:-2])):
        O[head] = attention(q[head], k[head], v[head], **options)
    return O


LADDER: dict[str, Attention] = {
    "native": native,
    "safe": safe,
    "three_pass": three_pass,
    "two_pass": two_pass,
    "one_pass": one_pass,
    "flash_1": flash_1,
    "flash_2": flash_2,
    "multi_head": partial(multi_head, flash_2),
}
ALGORITHMS = [name for name in LADDER if name != "multi_head"]  # one head

# ---- What they lose -----------------------------------------------------------------------------

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INPUTS = {"randn": 1.0, "large logits": 300.0}  # what q is multiplied by


@dataclass(frozen=True)
class Lost:
    """The errors of one algorithm on one kind of input; None if a result is not finite."""

    algorithm: str
    dtype: torch.dtype
    kind: str
    largest: float | None
    mean: float | None


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> np.ndarray:
    """O [Nq, Dv] in numpy's longdouble (80 bits on x86): one formula, without a mask."""
    Q, K, V = (x.double().numpy().astype(np.longdouble) for x in (q, k, v))
    S = Q @ K.T / np.sqrt(np.longdouble(q.shape[-1]))
    P = np.exp(S - S.max(axis=-1, keepdims=True))
    return P @ V / P.sum(axis=-1, keepdims=True)


def sample(
    dtype: torch.dtype, kind: str = "randn", queries: int = 32, keys: int = 512, std: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v with D = 64: normally distributed, the same numbers every time, rounded to dtype."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        std * torch.randn(n, 64, generator=generator, dtype=torch.float64)
        for n in (queries, keys, keys)
    )
    return (INPUTS[kind] * q).to(dtype), k.to(dtype), v.to(dtype)


def lost() -> list[Lost]:
    """The errors of every algorithm for one head, for all dtypes and inputs."""
    found = []
    for dtype, kind in product(DTYPES, INPUTS):
        given = sample(dtype, kind)
        right = exact(*given)
        for name in ALGORITHMS:
            error = np.abs(LADDER[name](*given).double().numpy().astype(np.longdouble) - right)
            finite = bool(np.isfinite(error).all())
            largest, mean = (float(error.max()), float(error.mean())) if finite else (None, None)
            found.append(Lost(name, dtype, kind, largest, mean))
    return found


def sum_of_weights(softmax: Softmax, dtype: torch.dtype) -> float:
    """What the weights of a row add up to, on average over the rows of ``sample``."""
    q, k, v = sample(dtype)
    weights = softmax(scores(q, k, checked_scale(q, k, v, None), False))
    return float(weights.double().sum(dim=-1).mean())


def error_of_scores(dtype: torch.dtype, kind: str) -> float:
    """The mean error of ``safe`` if only S is computed in ``dtype``, and the rest in float64."""
    q, k, v = sample(dtype, kind)
    S = scores(q, k, checked_scale(q, k, v, None), False)
    got = safe_softmax(S.double()) @ v.double()
    return float(np.abs(got.numpy() - exact(q, k, v)).mean())


def differences(dtype: torch.dtype) -> dict[str, float]:
    """The largest difference between neighbours of the ladder; 128 x 128, D = 64, std 0.5."""
    heads = [x[None, None] for x in sample(dtype, queries=128, keys=128, std=0.5)]  # [1, 1, 128, D]
    results = {
        name: multi_head(attention, *heads) if name in ALGORITHMS else attention(*heads)
        for name, attention in LADDER.items()
    }
    return {
        f"{a} ~ {b}": float((results[a] - results[b]).abs().max().double())
        for a, b in pairwise(results)
    }


# ---- The command line ---------------------------------------------------------------------------


def explanation(found: Sequence[Lost]) -> Iterator[str]:
    """What the tables show, in sentences with their numbers."""
    overflow = dict.fromkeys(one.algorithm for one in found if one.mean is None)
    yield (
        "Scores beyond log(largest number), which is 11.1 for fp16, 88.7 for fp32 and bf16 and "
        f"710 for fp64, overflow without the maximum: {', '.join(overflow)}. Nothing else does."
    )
    mean = {(one.algorithm, one.dtype, one.kind): one.mean or math.nan for one in found}

    def ratio(algorithm: str, dtype: torch.dtype) -> float:
        return mean[algorithm, dtype, "randn"] / mean["safe", dtype, "randn"]

    yield (
        "An intermediate result loses precision each time it is rounded. In fp16, one_pass, which "
        f"rounds O after every key, has {ratio('one_pass', torch.float16):.0f} times the mean "
        f"error of safe; flash_2, after every {BLOCK_N} keys, "
        f"{ratio('flash_2', torch.float16):.1f} times. That is why kernels keep O and the sum in "
        "fp32."
    )
    yield (
        "In bf16, the sum of two_pass stops growing once a term is less than half the distance to "
        "the next number, so that the weights of a row add up to "
        f"{sum_of_weights(two_pass_softmax, torch.bfloat16):.2f} (safe: "
        f"{sum_of_weights(safe_softmax, torch.bfloat16):.2f}): "
        f"{ratio('two_pass', torch.bfloat16):.0f} times the mean error of safe."
    )
    yield (
        "In fp32, tiles cost nothing: flash_2 has "
        f"{ratio('flash_2', torch.float32):.2f} times the mean error of safe."
    )
    yield (
        "With large logits, precision is lost in S, before any softmax: numbers around 1000 are "
        "0.5 to 1 apart in fp16, 4 to 8 in bf16, and exp turns a difference into a factor. S in "
        "fp16 followed by fp64 has a mean error of "
        f"{error_of_scores(torch.float16, 'large logits'):.1e}, safe "
        f"{mean['safe', torch.float16, 'large logits']:.1e}, flash_2 "
        f"{mean['flash_2', torch.float16, 'large logits']:.1e}."
    )


def cell(one: Lost) -> str:
    """The largest and the mean error."""
    if one.largest is None or one.mean is None:
        return "overflows"
    return f"{one.largest:.1e} ({one.mean:.1e})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the two comparisons and what they show."""
    command.Parser(description="Compare the algorithms of attention.").parse_args(arguments)
    dtypes = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
    columns = [differences(dtype) for dtype in DTYPES]
    rows = [[pair, *(f"{column[pair]:.1e}" for column in columns)] for pair in columns[0]]
    show("Largest difference between neighbours (128 x 128, D = 64)", ["", *dtypes], rows)
    found = lost()
    for kind in INPUTS:
        cells = {(one.algorithm, one.dtype): cell(one) for one in found if one.kind == kind}
        rows = [[name, *(cells[name, dtype] for dtype in DTYPES)] for name in ALGORITHMS]
        print()
        show(
            f"Precision lost, {kind}: largest (mean) error (32 x 512, D = 64)", ["", *dtypes], rows
        )
    for sentence in explanation(found):
        print()
        print(textwrap.fill(sentence, 100))
    return 0


if __name__ == "__main__":
    command.run(main)
