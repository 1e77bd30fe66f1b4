"""Rounding errors: the building blocks of the operators' error models.

Notation: u, the unit roundoff of what kernels compute in, 2^-24 (fp32) or, for float64, 2^-53;
u_out, that of the output's dtype; tiny, the smallest normal number of the output's dtype, below
which a result may be flushed to zero, except for fp16, computed in fp32, half the spacing of its
subnormal numbers; gamma(n), the relative error that n roundings can accumulate, in any order, fused
or not: the smaller of

    n u / (1 - n u)                   always (Higham, Accuracy and Stability of Numerical
                                      Algorithms, lemma 3.1)
    exp(8 sqrt(n) u + n u^2) - 1      for data without a pattern, as in the tests, wrong with a
                                      probability below 1e-13 (Higham and Mary, A New Approach
                                      to Probabilistic Rounding Error Analysis, theorem 2.4,
                                      lambda = 8)

Kernels accumulate in fp32, and in fp64 for float64. There the references, also float64, may err as
much as a kernel, so bounds are doubled (``reference_errs_too``). A bound is a float64 tensor of the
output's shape: the largest absolute error allowed in each element, meaningless where the reference
is not finite.
"""

from __future__ import annotations

import math

import torch

U = 2.0**-24
U_DOUBLE = 2.0**-53
LAMBDA = 8.0
SMALLEST_NORMAL = 2.0**-126  # a result below it may be flushed to zero
EXACT_SUM = 2.0**24  # integers up to here are exact in fp32


def gamma(n: float, u: float = U) -> float:
    """Bound the relative error of n roundings, as defined at the top of this file."""
    return min(always(n, u), math.expm1(LAMBDA * math.sqrt(n) * u + n * u * u))


def always(n: float, u: float) -> float:
    """The relative error that n roundings never exceed."""
    return n * u / (1 - n * u) if n * u < 1 else math.inf


def gamma_of(n: torch.Tensor, u: float = U) -> torch.Tensor:
    """``gamma`` of every element; fewer than 1 / u roundings."""
    return torch.minimum(n * u / (1 - n * u), torch.expm1(LAMBDA * n.sqrt() * u + n * u * u))


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance from 1 to the next number of the dtype."""
    return torch.finfo(dtype).eps / 2


def compute_roundoff(dtype: torch.dtype) -> float:
    """The u of kernels for this dtype."""
    return U_DOUBLE if dtype == torch.float64 else U


def tiny(dtype: torch.dtype) -> float:
    """The absolute error of results near zero, as defined at the top of this file."""
    info = torch.finfo(dtype)
    return info.smallest_normal * (info.eps / 2 if dtype == torch.float16 else 1)


def reference_errs_too(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Double a bound for float64, whose reference also has errors."""
    return 2 * allowed if dtype == torch.float64 else allowed


def are_integers(tensor: torch.Tensor) -> bool:
    """Whether all elements are whole numbers, whose sums are exact in fp32 up to EXACT_SUM."""
    return bool((tensor == tensor.round()).all())


def largest(values: torch.Tensor) -> torch.Tensor:
    """The maximum of each row, 0 for an empty one, [..., 1]."""
    if values.shape[-1] == 0:
        return values.new_zeros((*values.shape[:-1], 1))
    return values.amax(dim=-1, keepdim=True)


def finite(values: torch.Tensor) -> torch.Tensor:
    """The values, with 0 for infinite ones."""
    return torch.where(values.isinf(), 0.0, values)
