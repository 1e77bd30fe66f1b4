"""How far a right kernel may be from the float64 reference: error models, not guesses.

Notation: u = 2^-24, the unit roundoff of fp32; u_out, that of the output's dtype; gamma(n),
the relative error that n roundings may add up to, in any order, fused or not: the smaller of

    n u / (1 - n u)                   always (Higham, Accuracy and Stability of Numerical
                                      Algorithms, lemma 3.1)
    exp(8 sqrt(n) u + n u^2) - 1      for data without a pattern, as tests use, with a chance
                                      below 1e-13 to be wrong (Higham and Mary, A New Approach
                                      to Probabilistic Rounding Error Analysis, theorem 2.4,
                                      lambda = 8)

Kernels accumulate in fp32. Every function returns float64 tensors of the outputs' shapes: the
largest absolute error allowed in each element, of no meaning where the reference is not finite.
"""

from __future__ import annotations

import math

import torch

from workbench import references

U = 2.0**-24
LAMBDA = 8.0
SMALLEST_NORMAL = 2.0**-126  # a result below it may be flushed to zero
EXACT_SUM = 2.0**24  # integers up to here are exact in fp32


def gamma(n: float) -> float:
    """Bound the relative error of n fp32 roundings, as the head of this file has it."""
    always = n * U / (1 - n * U) if n * U < 1 else math.inf
    return min(always, math.expm1(LAMBDA * math.sqrt(n) * U + n * U * U))


def _gamma(n: torch.Tensor) -> torch.Tensor:
    """``gamma`` of every element; fewer than 2^24 roundings."""
    return torch.minimum(n * U / (1 - n * U), torch.expm1(LAMBDA * n.sqrt() * U + n * U * U))


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance from 1 to the next number of the dtype."""
    return torch.finfo(dtype).eps / 2


def matmul(a: torch.Tensor, b: torch.Tensor, b_transposed: bool) -> torch.Tensor:
    """Bound on the error of C = A B (or A B^T) with K terms to a sum.

    |C - C_ref| <= (gamma(K) + u_out') (|A| |B|) + K 2^-126, where u_out' = u_out for outputs
    narrower than fp32 and 0 for fp32. Where all inputs are integers and |A| |B| <= 2^24,
    every partial sum is exact in fp32 and the bound is 0.

    Source: Higham, section 3.5, for any order of summation; the last term is for products
    below the normal numbers.
    """
    terms = a.shape[-1]
    right = (b.mT if b_transposed else b).double().abs()
    magnitude = a.double().abs() @ right
    rounding = gamma(terms)
    if a.dtype != torch.float32:
        rounding += unit_roundoff(a.dtype)
    allowed = rounding * magnitude + terms * SMALLEST_NORMAL
    if a.dtype == torch.float32 and _integers(a) and _integers(b):
        allowed = torch.where(magnitude <= EXACT_SUM, 0.0, allowed)
    return allowed


def _integers(tensor: torch.Tensor) -> bool:
    return bool((tensor == tensor.round()).all())


def softmax(x: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Bound on the error of a softmax over rows of n elements: y of x.

    With d_j = |x_j - max x|: |y_i - ref_i| <= ref_i expm1(4u (d_i + sum_j ref_j d_j)
    + gamma(2n + 16) + u_out) + 2^-126.

    The exponent carries the rounding of the subtraction and, in base 2, of log2(e) and of the
    product: at most 4u d_i, and on average over the row in the sum. Adding n terms gives
    gamma(n) and rescaling running sums at most as much again; 16 covers two exponentials of
    2 ulp each and the division. 2^-126: flushed results. In a row whose elements are all
    the maximum or -inf every sum is a whole number and exact: gamma(16) there.
    """
    values = x.double()
    if values.shape[-1] == 0:
        return torch.zeros_like(values)
    distance = (values - values.amax(dim=-1, keepdim=True)).abs()
    weighted = torch.where(expected == 0, 0.0, expected * distance)
    average = weighted.sum(dim=-1, keepdim=True)
    sums = torch.where(
        ((distance == 0) | distance.isinf()).all(dim=-1, keepdim=True),
        gamma(16),
        gamma(2 * values.shape[-1] + 16),
    )
    rounding = sums.double() + unit_roundoff(x.dtype)
    relative = torch.expm1(4 * U * (distance + average) + rounding)
    return torch.where(expected == 0, 0.0, expected * relative) + SMALLEST_NORMAL


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    scale: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds on the errors of O and LSE, shapes [B, H, Nq, D] and [B, H, Nq].

    For a query with scores s_j and weights p_j over the n keys it sees, the error of a score
    is e_j = gamma(D + 4) |scale| (|q| . |k_j|) + 4u (|s_j| + max |s|): the dot product and
    the scale, then the exponent's argument (subtraction, log2(e), product). With
    E = sum_j p_j e_j:

    |O - ref| <= sum_j p_j |v_j| expm1(e_j + E + gamma(3n + 16) + u_out) + 2^-126 sum_j |v_j|

    |LSE - ref| <= max_j (e_j where p_j > 0) + gamma(2n + 16) + 4u |LSE|

    n is counted three times: the sum of exponentials, the running rescale, the product with
    V. A query that sees no key has bounds of 0.
    """
    factor = references.default_scale(q.shape[-1]) if scale is None else scale
    mask = references.visible(q.shape[-2], k.shape[-2], causal, q.device)
    seen = mask.sum(dim=-1).double()[:, None]
    outputs, sums = [], []
    for _, (qs, ks, vs) in references.heads(q, k, v):
        scores = (factor * (qs @ ks.mT)).masked_fill(~mask, -math.inf)
        lse = torch.logsumexp(scores, dim=-1, keepdim=True)
        p = torch.exp(scores - lse).masked_fill(~mask, 0)
        size = scores.abs().masked_fill(~mask, 0)
        e = gamma(q.shape[-1] + 4) * abs(factor) * (qs.abs() @ ks.mT.abs())
        e = e + 4 * U * (size + _largest(size))
        average = torch.where(p == 0, 0.0, p * e).sum(dim=-1, keepdim=True)
        growth = torch.expm1(e + average + _gamma(3 * seen + 16) + unit_roundoff(q.dtype))
        weights = torch.where(p == 0, 0.0, p * growth)
        tiny = SMALLEST_NORMAL * mask.double()
        outputs.append((weights + tiny) @ vs.abs())
        worst = _largest(torch.where(p == 0, 0.0, e)) + _gamma(2 * seen + 16)
        sums.append((worst + 4 * U * _finite(lse).abs()).masked_fill(seen == 0, 0)[..., 0])
    return torch.cat(outputs).view(q.shape), torch.cat(sums).view(q.shape[:-1])


def _largest(values: torch.Tensor) -> torch.Tensor:
    if values.shape[-1] == 0:
        return values.new_zeros((*values.shape[:-1], 1))
    return values.amax(dim=-1, keepdim=True)


def _finite(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values.isinf(), 0.0, values)
