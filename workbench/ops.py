"""The operators: ``torch.ops.workbench.*``, defined once, for all builds (workbench.builds).

CPU tensors go to the simulator, CUDA tensors to the GPU. An edited kernel becomes another build;
the public operators stay and call the current one.

The softmax operators are in workbench.softmax_ops. The others have no backward yet: they raise
where autograd would need one.
"""

from __future__ import annotations

import math

import torch

from .builds import (
    BASELINE_NAMES,
    LADDERS,
    Extension,
    Rung,
    call,
    extension,
    refresh,
    reset,
    rungs,
    sources,
)
from .definitions import Checks, check_one_device, checking, define, text
from .softmax_ops import log_softmax, softmax, softmax_backward

__all__ = [
    "BASELINE_NAMES",
    "LADDERS",
    "Extension",
    "Rung",
    "attention",
    "call",
    "extension",
    "log_softmax",
    "matmul",
    "matmul_nt",
    "matmul_nt_out",
    "matmul_out",
    "refresh",
    "reset",
    "rungs",
    "softmax",
    "softmax_backward",
    "sources",
]


def _matmul_shape(name: str, a: torch.Tensor, b: torch.Tensor) -> tuple[int, ...]:
    """[..., M, N]. Checks what the shape depends on; bindings.cpp checks the rest."""
    check_one_device(name, a=a, b=b)
    transposed = name == "matmul_nt"
    for arg, tensor in (("a", a), ("b", b)):
        if not 2 <= tensor.dim() <= 4:
            raise RuntimeError(f"{name}: {arg} must have 2 to 4 dimensions; got {text(tensor)}")
    n, k = b.shape[-2:] if transposed else (b.shape[-1], b.shape[-2])
    if k != a.shape[-1]:
        kind, form = ("columns", "[.., N, K]") if transposed else ("rows", "[.., K, N]")
        raise RuntimeError(
            f"{name}: b must have {a.shape[-1]} {kind}, as a has {a.shape[-1]} columns "
            f"(a [.., M, K], b {form}); got a {text(a)}, b {text(b)}"
        )
    return (*a.shape[:-1], n)


def _define_matmul(name: str, transposed: bool) -> None:
    def fake(a: torch.Tensor, b: torch.Tensor, rung: str = "") -> torch.Tensor:
        return a.new_empty(_matmul_shape(name, a, b))

    def fresh(target: str, a: torch.Tensor, b: torch.Tensor, rung: str = "") -> torch.Tensor:
        out = fake(a, b)
        call(target, "matmul_out", a, b, out, transposed, rung)
        return out

    def given(
        target: str, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, rung: str = ""
    ) -> None:
        call(target, "matmul_out", a, b, out, transposed, rung)

    define(f'{name}(Tensor a, Tensor b, str rung="") -> Tensor', fresh, fake)
    define(
        f'{name}_out(Tensor a, Tensor b, Tensor(a!) out, str rung="") -> ()',
        given,
        lambda a, b, out, rung="": check_one_device(name, a=a, b=b, out=out),
    )


def _attention_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    rung: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    check_one_device("attention", q=q, k=k, v=v)
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)


def _attention(
    target: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    rung: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = _attention_fake(q, k, v)
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1] or 1)
    call(target, "attention_out", q, k, v, out, lse, causal, scale, rung)
    return out, lse


_define_matmul("matmul", transposed=False)
_define_matmul("matmul_nt", transposed=True)
define(
    "attention(Tensor q, Tensor k, Tensor v, bool causal=False, float? scale=None, "
    'str rung="") -> (Tensor, Tensor)',
    _attention,
    _attention_fake,
)


def matmul(
    a: torch.Tensor, b: torch.Tensor, *, kernel: str | None = None, check: Checks = None
) -> torch.Tensor:
    """Multiply matrices: C = A B in fp32, sums in order of k.

    a: float32 [..., M, K], rank 2 to 4. b: float32 [..., K, N] with a's leading dimensions, or
    [K, N] for all of them. Rows may be any stride apart; elements of a row are adjacent.
    kernel: a rung of ``rungs("matmul")``; None takes the last that takes the input.
    check: what the simulator looks for meanwhile, "all" or names such as ["racecheck"]; what it
    finds is raised as simulator.SimulatorError. ValueError for other names and for CUDA tensors.
    Returns [..., M, N], contiguous. RuntimeError names the argument, what was expected, what came.
    """
    with checking("matmul", check, a=a, b=b):
        return torch.ops.workbench.matmul(a, b, kernel or "")


def matmul_nt(
    a: torch.Tensor, b: torch.Tensor, *, kernel: str | None = None, check: Checks = None
) -> torch.Tensor:
    """Multiply by a transpose: C = A B^T, b being [..., N, K]. Else as ``matmul``.

    The product of queries and keys, Q K^T, without a copy of K.
    """
    with checking("matmul_nt", check, a=a, b=b):
        return torch.ops.workbench.matmul_nt(a, b, kernel or "")


def matmul_out(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    *,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor:
    """``matmul`` into ``out`` [..., M, N], which is returned.

    out: float32, its rows any stride apart; it may share memory with neither input, and its
    elements not with each other.
    """
    with checking("matmul_out", check, a=a, b=b, out=out):
        torch.ops.workbench.matmul_out(a, b, out, kernel or "")
    return out


def matmul_nt_out(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    *,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor:
    """``matmul_nt`` into ``out`` [..., M, N], which is returned; see ``matmul_out``."""
    with checking("matmul_nt_out", check, a=a, b=b, out=out):
        torch.ops.workbench.matmul_nt_out(a, b, out, kernel or "")
    return out


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention, O = softmax(scale * Q K^T) V.

    q: float32 [..., Nq, D]; k, v: float32 [..., Nk, D]; rank 2 to 4, the same leading dimensions
    (batch, heads). Any strides, elements of a row adjacent.
    causal: query i sees the keys 0 .. i + Nk - Nq; one that sees none gets O = 0, LSE = -inf.
    scale: None takes 1 / sqrt(D).
    kernel: a rung of ``rungs("attention")``, whose ``head_dims`` say which D it takes; None takes
    the last that takes the input.
    check: as of ``matmul``.
    Returns O [..., Nq, D], and with return_lse also LSE = log(sum(exp(scale * Q K^T))), [..., Nq].
    RuntimeError names the argument, what was expected, what came.

    The formula is that of "Attention Is All You Need" (3.2.1); ``flash`` follows algorithm 1 of
    "FlashAttention-2" (3.1), with LSE as stored there.
    """
    with checking("attention", check, q=q, k=k, v=v):
        out, lse = torch.ops.workbench.attention(q, k, v, causal, scale, kernel or "")
    return (out, lse) if return_lse else out
