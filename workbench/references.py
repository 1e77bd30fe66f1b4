"""What the operators should compute, in float64, written for clearness and not for speed.

Every function takes tensors of any floating dtype on any device and returns float64 tensors
there, by output name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

CHUNK_ELEMENTS = 2**25  # scores held at once; bounds the memory of attention's reference


def matmul(a: torch.Tensor, b: torch.Tensor, b_transposed: bool) -> torch.Tensor:
    """A B, or A B^T: ``[..., M, K]`` and ``[..., K, N]`` (``[..., N, K]``) to ``[..., M, N]``."""
    right = b.double()
    return a.double() @ (right.mT if b_transposed else right)


def softmax(x: torch.Tensor, scale: float = 1.0, log: bool = False) -> torch.Tensor:
    """Softmax of scale * x over the last dimension, or its logarithm.

    As torch has it: NaN for a row where scale * x has a NaN or +inf or is all -inf. What is largest
    is subtracted before the scale rounds it, from halves, whose difference is in range.
    """
    function = torch.log_softmax if log else torch.softmax
    half = x.double() / 2
    if half.shape[-1] == 0:
        return half
    largest = half.amax(dim=-1, keepdim=True) if scale >= 0 else half.amin(dim=-1, keepdim=True)
    return function(2 * scale * (half - largest), dim=-1)


def log_sum_exp(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """log(sum(exp(scale * x))) over the last dimension; -inf for a row of nothing or of -inf."""
    return torch.logsumexp(scale * x.double(), dim=-1)


def softmax_backward(
    dy: torch.Tensor,
    y: torch.Tensor,
    dlse: torch.Tensor | None = None,
    scale: float = 1.0,
    log: bool = False,
) -> torch.Tensor:
    """The gradient of what softmax, or with ``log`` its logarithm, made y of, given that of y.

    Args:
        dy: the gradient of y, [..., cols].
        y: the result, [..., cols].
        dlse: the gradient of the log-sum-exp, [...]; None means zeros.
        scale: what x was multiplied by.
        log: y is a log-softmax.

    Returns:
        scale * y * (dy - (sum(dy * y) - dlse)), with log scale * (dy - exp(y) * (sum(dy) - dlse)).
    """
    dy, y = dy.double(), y.double()
    total = (dy if log else dy * y).sum(dim=-1, keepdim=True)
    if dlse is not None:
        total = total - dlse.double()[..., None]
    return scale * (dy - torch.exp(y) * total) if log else scale * y * (dy - total)


def visible(queries: int, keys: int, causal: bool, device: torch.device) -> torch.Tensor:
    """Which keys a query sees, bool [queries, keys]; causal: query i sees keys <= i + Nk - Nq."""
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return mask.tril(keys - queries) if causal else mask


def default_scale(head_dim: int) -> float:
    """1 / sqrt(D), what attention uses where no scale is given; 1 for D = 0."""
    return 1 / math.sqrt(head_dim) if head_dim else 1.0


def heads(*tensors: torch.Tensor) -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
    """Walk [B, H, ...] tensors in slices of B * H that bound the size of the score matrices.

    The first two tensors are Q and K. Yields the slice of the flattened B * H and the float64
    tensors ``[slice, N, D]``.
    """
    q, k = tensors[:2]
    step = max(1, CHUNK_ELEMENTS // max(1, q.shape[-2] * k.shape[-2]))
    flat = [tensor.flatten(0, 1) for tensor in tensors]
    for start in range(0, max(1, flat[0].shape[0]), step):
        part = slice(start, start + step)
        yield part, tuple(tensor[part].double() for tensor in flat)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """O = softmax(scale Q K^T) V and LSE = log(sum(exp(scale Q K^T))).

    Args:
        q: [B, H, Nq, D].
        k: [B, H, Nk, D].
        v: [B, H, Nk, D].
        causal: query i sees the keys 0 .. i + Nk - Nq.
        scale: None means 1 / sqrt(D).

    Returns:
        O [B, H, Nq, D] and LSE [B, H, Nq]; a query that sees no key has O = 0, LSE = -inf.
    """
    factor = default_scale(q.shape[-1]) if scale is None else scale
    mask = visible(q.shape[-2], k.shape[-2], causal, q.device)
    outputs, sums = [], []
    for _, (qs, ks, vs) in heads(q, k, v):
        scores = (factor * (qs @ ks.mT)).masked_fill(~mask, -math.inf)
        lse = torch.logsumexp(scores, dim=-1)
        p = torch.exp(scores - lse[..., None]).masked_fill(~mask, 0)
        outputs.append(p @ vs)
        sums.append(lse)
    return torch.cat(outputs).view(q.shape), torch.cat(sums).view(q.shape[:-1])
