"""How far a right kernel may be from the float64 reference: error models, not guesses.

Notation: u, the unit roundoff of what kernels compute in, 2^-24 (fp32) or, for float64, 2^-53;
u_out, that of the output's dtype; tiny, the smallest normal number of the output's dtype, below
which a result may be flushed to zero, but for fp16, computed in fp32, half the distance of its
subnormal numbers; gamma(n), the relative error that n roundings may add up to, in any order, fused
or not: the smaller of

    n u / (1 - n u)                   always (Higham, Accuracy and Stability of Numerical
                                      Algorithms, lemma 3.1)
    exp(8 sqrt(n) u + n u^2) - 1      for data without a pattern, as tests use, with a chance
                                      below 1e-13 to be wrong (Higham and Mary, A New Approach
                                      to Probabilistic Rounding Error Analysis, theorem 2.4,
                                      lambda = 8)

Kernels accumulate in fp32, and in fp64 for float64, where references, being float64 as well, may
err as much as a kernel: bounds are doubled there. Every function returns float64 tensors of the
outputs' shapes: the largest absolute error allowed in each element, of no meaning where the
reference is not finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from workbench import references

U = 2.0**-24
U_DOUBLE = 2.0**-53
LAMBDA = 8.0
SMALLEST_NORMAL = 2.0**-126  # a result below it may be flushed to zero
EXACT_SUM = 2.0**24  # integers up to here are exact in fp32


def gamma(n: float, u: float = U) -> float:
    """Bound the relative error of n roundings, as the head of this file has it."""
    return min(_always(n, u), math.expm1(LAMBDA * math.sqrt(n) * u + n * u * u))


def _always(n: float, u: float) -> float:
    return n * u / (1 - n * u) if n * u < 1 else math.inf


def _gamma(n: torch.Tensor) -> torch.Tensor:
    """``gamma`` of every element; fewer than 2^24 roundings."""
    return torch.minimum(n * U / (1 - n * U), torch.expm1(LAMBDA * n.sqrt() * U + n * U * U))


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance from 1 to the next number of the dtype."""
    return torch.finfo(dtype).eps / 2


def compute_roundoff(dtype: torch.dtype) -> float:
    """The u of kernels on this dtype."""
    return U_DOUBLE if dtype == torch.float64 else U


def tiny(dtype: torch.dtype) -> float:
    """The absolute error of results near zero, as the head of this file has it."""
    info = torch.finfo(dtype)
    return info.smallest_normal * (info.eps / 2 if dtype == torch.float16 else 1)


def _reference_errs_too(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return 2 * allowed if dtype == torch.float64 else allowed


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


@dataclass(frozen=True)
class _Rows:
    """What the bounds of a softmax of rows are made of.

    With z = scale * x, n to a row, and p = softmax(z):

    Attributes:
        u: the unit roundoff of the kernel.
        distance: d_j = |z_j - max z|.
        exponents: c u d_j, the error of an exponent's argument. c = 4: the subtraction, in base 2
            log2(e) and the product, and one to spare; 6 with a scale, itself rounded, and its
            product.
        average: sum_j p_j c u d_j, what those errors add up to in the sum of a row, [..., 1].
        sums: the roundings in the sum of a row, [..., 1]: adding n terms gives gamma(n), rescaling
            running sums at most as much again; 16 covers two exponentials of 2 ulp each and a
            division: gamma(2n + 16). In a row whose elements are all the maximum or -inf every sum
            is a whole number and exact: gamma(16).
    """

    u: float
    distance: torch.Tensor
    exponents: torch.Tensor
    average: torch.Tensor
    sums: torch.Tensor


def _rows(x: torch.Tensor, scale: float) -> _Rows:
    u = compute_roundoff(x.dtype)
    z = scale * x.double()
    distance = (z - z.amax(dim=-1, keepdim=True)).abs()
    exponents = (4 if scale == 1 else 6) * u * distance
    p = torch.softmax(z, dim=-1)
    average = torch.where(p == 0, 0.0, p * exponents).sum(dim=-1, keepdim=True)
    exact = ((distance == 0) | distance.isinf()).all(dim=-1, keepdim=True)
    sums = torch.where(exact, gamma(16, u), gamma(2 * z.shape[-1] + 16, u)).double()
    return _Rows(u, distance, exponents, average, sums)


def softmax(
    x: torch.Tensor, expected: torch.Tensor, scale: float = 1.0, log: bool = False
) -> torch.Tensor:
    """Bound on the error of a softmax over rows of n elements, y of x, or of its logarithm.

    With the d, c, average and sums of ``_Rows``:

    |y_i - ref_i| <= ref_i expm1(c u d_i + average + sums + u_out) + tiny

    and for the logarithm, y_i = scale (x_i - max) - log(l) with l = sum_j exp(-d_j),

    |y_i - ref_i| <= c u d_i + average + sums + 4u log(l) + (u + u_out) |ref_i| + tiny
    """
    if x.shape[-1] == 0:
        return torch.zeros_like(x, dtype=torch.float64)
    rows, u_out = _rows(x, scale), unit_roundoff(x.dtype)
    if log:
        allowed = rows.exponents + rows.average + rows.sums + (rows.u + u_out) * expected.abs()
        allowed = allowed + 4 * rows.u * torch.logsumexp(-rows.distance, dim=-1, keepdim=True)
    else:
        growth = torch.expm1(rows.exponents + rows.average + rows.sums + u_out)
        allowed = torch.where(expected == 0, 0.0, expected * growth)
    return _reference_errs_too(allowed, x.dtype) + tiny(x.dtype)


def log_sum_exp(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Bound on the error of lse = log(sum(exp(scale * x))), max + log(l), shape [...].

    With the average and sums of ``_Rows``, which the logarithm turns into absolute errors:

    |lse - ref| <= average + sums + 4u (|max| + log(l)) + tiny
    """
    if x.shape[-1] == 0:
        return x.new_zeros(x.shape[:-1], dtype=torch.float64)
    rows = _rows(x, scale)
    log_l = torch.logsumexp(-rows.distance, dim=-1, keepdim=True)
    size = _finite((scale * x.double()).amax(dim=-1, keepdim=True)).abs() + log_l
    allowed = (rows.average + rows.sums + 4 * rows.u * size)[..., 0]
    dtype = torch.promote_types(x.dtype, torch.float32)
    return _reference_errs_too(allowed, x.dtype) + tiny(dtype)


def softmax_backward(
    dy: torch.Tensor,
    y: torch.Tensor,
    dlse: torch.Tensor | None = None,
    scale: float = 1.0,
    log: bool = False,
) -> torch.Tensor:
    """Bound on the error of dx, of the gradient of a softmax over rows of n elements.

    With t = sum(dy * y) - dlse, s = |scale|, and S the same sum of magnitudes, |dlse| added,

    |t - ref| <= T = gamma(n) S + n 2^-126 + (gamma(2) S with dlse)

    |dx_i - ref_i| <= s |y_i| (T + gamma(6) (|dy_i - t| + T)) + u_out |ref_i| + tiny (1 + s)

    (the difference, two products, the scale, and two to spare). With log, t = sum(dy) - dlse and
    p_i = exp(y_i), whose relative error is E_i = expm1(4u |y_i| + gamma(8)):

    |dx_i - ref_i| <= s p_i (1 + E_i) T + s p_i |t| E_i + s gamma(6) (|dy_i| + p_i |t|)
                      + u_out |ref_i| + tiny (1 + s)

    Where all dy are whole numbers and S <= 2^24 that sum is exact, and T = 0 but for dlse. Where a
    row's terms are all the same, which is a pattern (one lane that adds them up rounds in the same
    direction again and again), gamma(n) is what always holds. For float64, 2^-126 is 2^-1022.
    """
    if dy.shape[-1] == 0:
        return torch.zeros_like(dy, dtype=torch.float64)
    u, u_out, n = compute_roundoff(dy.dtype), unit_roundoff(dy.dtype), dy.shape[-1]
    reference = references.softmax_backward(dy, y, dlse, scale, log)
    smallest = torch.finfo(torch.promote_types(dy.dtype, torch.float32)).smallest_normal
    dtype, dy, y = dy.dtype, dy.double(), y.double()
    terms = dy if log else dy * y
    total, magnitude = terms.sum(dim=-1, keepdim=True), terms.abs().sum(dim=-1, keepdim=True)
    patterned = (terms == terms[..., :1]).all(dim=-1, keepdim=True)
    sums = torch.where(patterned, _always(n, u), gamma(n, u)) * magnitude + n * smallest
    if log and _integers(dy):
        sums = torch.where(magnitude <= EXACT_SUM, 0.0, sums)
    if dlse is not None:
        total = total - dlse.double()[..., None]
        sums = sums + gamma(2, u) * (magnitude + dlse.double().abs()[..., None])
    if log:
        p, total = torch.exp(y), total.abs()
        growth = torch.where(p == 0, 0.0, torch.expm1(4 * u * _finite(y).abs() + gamma(8, u)))
        error = p * (1 + growth) * sums + p * total * growth
        error = error + gamma(6, u) * (dy.abs() + p * total)
    else:
        error = y.abs() * (sums + gamma(6, u) * ((dy - total).abs() + sums))
    allowed = abs(scale) * error + u_out * reference.abs()
    return _reference_errs_too(allowed, dtype) + tiny(dtype) * (1 + abs(scale))


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
