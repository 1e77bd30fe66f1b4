"""The CUDA kernel workbench: ladders of kernels behind PyTorch operators.

``from workbench import matmul, matmul_out, matmul_nt, softmax, log_softmax, attention, rungs``. The
operators are loaded on first use, so that importing ``workbench.toolchain`` alone does not import
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ops import (
        attention,
        log_softmax,
        matmul,
        matmul_nt,
        matmul_nt_out,
        matmul_out,
        rungs,
        softmax,
        softmax_backward,
    )

__all__ = [
    "attention",
    "log_softmax",
    "matmul",
    "matmul_nt",
    "matmul_nt_out",
    "matmul_out",
    "rungs",
    "softmax",
    "softmax_backward",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import ops

    return getattr(ops, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
