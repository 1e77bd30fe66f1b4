"""torch.compile as a baseline: the kernel it generates from a formula."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from .operator import Baseline, Case, Tensors, torch_dtype

Formula = Callable[[Tensors], tuple[torch.Tensor, ...]]


def wide(case: Case) -> torch.dtype:
    """The type that a formula computes in: float32 for narrower types."""
    return torch.promote_types(torch_dtype(case.dtype), torch.float32)


@functools.lru_cache(maxsize=1)
def compiled(make: Callable[[Case], Formula], case: Case) -> Formula:
    """The kernel torch.compile generates from a formula for this case, with constant shapes."""
    torch._dynamo.reset()  # after a few other shapes it would run the formula uncompiled
    return torch.compile(make(case), dynamic=False)


def compile_baseline(make: Callable[[Case], Formula]) -> Baseline:
    """The baseline ``compile`` of a formula; RuntimeError if no compiler is available."""

    def run(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
        try:
            return compiled(make, case)(given)[0]
        except Exception as error:  # no Triton, no compiler, ...: of any type
            text = next(iter(str(error).strip().splitlines()), "")
            raise RuntimeError(f"torch.compile: {type(error).__name__}: {text}") from error

    return Baseline("compile", run)
