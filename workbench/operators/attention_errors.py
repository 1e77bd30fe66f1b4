"""attention in float64, and how far from that a kernel may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from workbench.masks import Mask, causal

from . import rounding

CHUNK_ELEMENTS = 2**25  # scores held at once; bounds the reference's memory
FP16_STEP = 2.0**-24  # between the smallest numbers of fp16


def default_scale(head_dim: int) -> float:
    """1 / sqrt(D), attention's default scale; 1 for D = 0."""
    return 1 / math.sqrt(head_dim) if head_dim else 1.0


@dataclass(frozen=True)
class Heads:
    """Some of the B * H heads in float64.

    Attributes:
        q: [heads, Nq, D].
        k: [heads, Nk, D], repeated where heads share it.
        v: [heads, Nk, Dv].
        products: factor * Q K^T, [heads, Nq, Nk].
        scores: the same with the bias; -inf where a key is hidden.
        lse: the logarithm of the sum of exp(score), [heads, Nq, 1].
        p: softmax of the scores, 0 in a row without a score above -inf.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    products: torch.Tensor
    scores: torch.Tensor
    lse: torch.Tensor
    p: torch.Tensor


def heads(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    is_causal: bool,
    scale: float | None,
    mask: torch.Tensor | Mask | None,
) -> Iterator[Heads]:
    """Attention's intermediate results for slices of B * H, which bound their size.

    Args:
        q: [B, H, Nq, D].
        k: [B, Hkv, Nk, D].
        v: [B, Hkv, Nk, Dv].
        is_causal: query i sees the keys 0 .. i + Nk - Nq.
        scale: None means 1 / sqrt(D).
        mask: a rule, or a tensor that broadcasts to [B, H, Nq, Nk], of booleans or additive.
    """
    (b, h, nq, d), nk = q.shape, k.shape[-2]
    factor = default_scale(d) if scale is None else scale
    rule = causal() if is_causal else Mask()
    if isinstance(mask, Mask):
        rule, mask = mask, None
    seen = rule.visible(nq, nk, q.device)
    step = max(1, CHUNK_ELEMENTS // max(1, nq * nk))
    for start in range(0, max(1, b * h), step):
        index = torch.arange(start, min(start + step, b * h), device=q.device)
        batch, head = index // max(1, h), index % max(1, h)
        kv_head = head // max(1, h // max(1, k.shape[1]))
        qs = q[batch, head].double()
        ks, vs = (x[batch, kv_head].double() for x in (k, v))
        products = factor * (qs @ ks.mT)
        scores = products.masked_fill(~seen, -math.inf)
        if mask is not None:
            part = mask.expand(b, h, nq, nk)[batch, head]
            if mask.dtype == torch.bool:
                scores = scores.masked_fill(~part, -math.inf)
            else:
                hidden = part == -math.inf  # whatever the score is
                scores = (scores + part.double()).masked_fill(hidden, -math.inf)
        lse = torch.logsumexp(scores, dim=-1, keepdim=True)
        p = torch.exp(scores - lse).masked_fill(scores == -math.inf, 0)
        yield Heads(qs, ks, vs, products, scores, lse, p)


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    mask: torch.Tensor | Mask | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """O = softmax(scale Q K^T) V and LSE = log(sum(exp(scale Q K^T))), in float64.

    Args:
        q: [B, H, Nq, D].
        k: [B, Hkv, Nk, D]; head h of q sees head h // (H / Hkv).
        v: [B, Hkv, Nk, Dv].
        causal: query i sees the keys 0 .. i + Nk - Nq.
        scale: None means 1 / sqrt(D).
        mask: a rule instead; or a tensor that broadcasts to [B, H, Nq, Nk], of booleans (whether a
            query sees a key) or numbers, which are added to the scores.

    Returns:
        O [B, H, Nq, Dv] and LSE [B, H, Nq]; a query without a score above -inf has O = 0 and
        LSE = -inf.
    """
    parts = [(part.p @ part.v, part.lse) for part in heads(q, k, v, causal, scale, mask)]
    out, lse = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return out.view(*q.shape[:-1], v.shape[-1]), lse.view(q.shape[:-1])


def tolerance(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    mask: torch.Tensor | Mask | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds on the errors of O and LSE, shapes [B, H, Nq, Dv] and [B, H, Nq].

    For a query with scores s_j and weights p_j over the n keys it sees, the error of a score
    is e_j = gamma(D + 4) |scale| (|q| . |k_j|) + 4u (|s_j| + max |s|): the dot product and
    the scale, then the exponent's argument (bias, subtraction, log2(e), product). With
    E = sum_j p_j e_j:

    |O - ref| <= sum_j p_j |v_j| expm1(e_j + E + gamma(3n + 16) + u_p + u_out)
                 + small sum_j |v_j| + tiny

    |LSE - ref| <= max_j (e_j where p_j > 0) + gamma(2n + 16) + 4u |LSE|

    n counts three times: the sum of exponentials, the running rescale, the product with
    V. The 16-bit types have u_p = u_out, because tensor cores take P in that type; for the others
    it is 0. `small` is the smallest normal number, for fp16 half the step of its smallest numbers
    times the largest p_j. A query that sees no key has bounds of 0 (and tiny, if 16-bit).
    """
    factor = default_scale(q.shape[-1]) if scale is None else scale
    u, narrow = rounding.compute_roundoff(q.dtype), q.dtype.itemsize == 2
    u_out = rounding.unit_roundoff(q.dtype)
    u_p = u_out if narrow else 0.0
    smallest = torch.finfo(torch.promote_types(q.dtype, torch.float32)).smallest_normal
    outputs, sums = [], []
    for part in heads(q, k, v, causal, scale, mask):
        seen = part.scores != -math.inf
        count = seen.sum(dim=-1, keepdim=True).double()
        size = part.scores.abs().masked_fill(~seen, 0)
        e = rounding.gamma(q.shape[-1] + 4, u) * abs(factor) * (part.q.abs() @ part.k.abs().mT)
        e = e + 4 * u * (size + rounding.largest(size))
        e = torch.where(part.p == 0, 0.0, e)
        average = torch.where(part.p == 0, 0.0, part.p * e).sum(dim=-1, keepdim=True)
        rounded = rounding.gamma_of(3 * count + 16, u) + u_p + u_out
        weights = torch.where(part.p == 0, 0.0, part.p * torch.expm1(e + average + rounded))
        small = smallest * seen.double()
        if q.dtype == torch.float16:
            small = small + FP16_STEP / 2 * rounding.largest(part.p) * seen
        out = (weights + small) @ part.v.abs()
        outputs.append(out + (rounding.tiny(q.dtype) if narrow else 0.0))
        worst = rounding.largest(e) + rounding.gamma_of(2 * count + 16, u)
        lse = worst + 4 * u * rounding.finite(part.lse).abs()
        sums.append(lse.masked_fill(count == 0, 0)[..., 0])
    out, lse = torch.cat(outputs), torch.cat(sums)
    out, lse = (rounding.reference_errs_too(bound, q.dtype) for bound in (out, lse))
    return out.view(*q.shape[:-1], v.shape[-1]), lse.view(q.shape[:-1])
