"""The operators: ``torch.ops.workbench.*``, defined once, for all builds (workbench.builds).

CPU tensors go to the simulator, CUDA tensors to the GPU. An edited kernel becomes another build;
the public operators stay and call the current one.

There is no backward yet: an operator raises where autograd would need one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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
)

__all__ = [
    "BASELINE_NAMES",
    "LADDERS",
    "Extension",
    "Rung",
    "attention",
    "call",
    "extension",
    "matmul",
    "matmul_nt",
    "matmul_nt_out",
    "matmul_out",
    "refresh",
    "reset",
    "rungs",
    "softmax",
]

# The operators. Schema first, then what a call does on a target, then what torch.compile is told.
# The argument called ``kernel`` in public is ``rung`` here: torch.compile's default backend fails
# on operators with an argument named "kernel" (its FallbackKernel.create has one of its own).

_TARGETS = {"CPU": "simulator", "CUDA": "gpu"}
_library = torch.library.Library("workbench", "DEF")  # lives as long as its operators


def _define(schema: str, implementation: Callable, fake: Callable) -> None:
    """Define one operator. ``implementation`` gets the target before the operator's arguments."""
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

    def on_target(target: str) -> Callable:
        return lambda *args, **kwargs: implementation(target, *args, **kwargs)

    for key, target in _TARGETS.items():
        _library.impl(name, on_target(target), key)
    _library.impl(name, _checked(name), "Autograd")
    torch.library.register_fake(f"workbench::{name}", fake, lib=_library)


def _checked(name: str) -> Callable:
    """What runs before the implementation, in place of a backward."""

    def autograd(*args: Any, **kwargs: Any) -> Any:
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
        for tensor in tensors:
            if tensor.layout != torch.strided:
                raise RuntimeError(
                    f"{name}: tensors must be dense (torch.strided); got {_text(tensor)}, "
                    f"{tensor.layout}"
                )
            if tensor.requires_grad and torch.is_grad_enabled():
                raise RuntimeError(
                    f"{name}: an input requires grad, and this operator has no backward; call it "
                    "under torch.no_grad() or on .detach()ed tensors"
                )
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.workbench, name)(*args, **kwargs)

    return autograd


def _matmul_shape(name: str, a: torch.Tensor, b: torch.Tensor) -> tuple[int, ...]:
    """[..., M, N]. Checks what the shape depends on; bindings.cpp checks the rest."""
    _check_one_device(name, a=a, b=b)
    transposed = name == "matmul_nt"
    for arg, tensor in (("a", a), ("b", b)):
        if not 2 <= tensor.dim() <= 4:
            raise RuntimeError(f"{name}: {arg} must have 2 to 4 dimensions; got {_text(tensor)}")
    n, k = b.shape[-2:] if transposed else (b.shape[-1], b.shape[-2])
    if k != a.shape[-1]:
        kind, form = ("columns", "[.., N, K]") if transposed else ("rows", "[.., K, N]")
        raise RuntimeError(
            f"{name}: b must have {a.shape[-1]} {kind}, as a has {a.shape[-1]} columns "
            f"(a [.., M, K], b {form}); got a {_text(a)}, b {_text(b)}"
        )
    return (*a.shape[:-1], n)


def _check_one_device(name: str, **tensors: torch.Tensor) -> None:
    """Raise unless all are on one device; a meta tensor among others reaches only the fakes."""
    (first, tensor), *others = tensors.items()
    for other, its in others:
        if its.device != tensor.device:
            raise RuntimeError(
                f"{name}: all tensors must be on one device; {first} is on {tensor.device} and "
                f"{other} on {its.device}"
            )


def _text(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


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

    _define(f'{name}(Tensor a, Tensor b, str rung="") -> Tensor', fresh, fake)
    _define(
        f'{name}_out(Tensor a, Tensor b, Tensor(a!) out, str rung="") -> ()',
        given,
        lambda a, b, out, rung="": _check_one_device(name, a=a, b=b, out=out),
    )


def _softmax_fake(x: torch.Tensor, rung: str = "") -> torch.Tensor:
    return x.new_empty(x.shape)


def _softmax(target: str, x: torch.Tensor, rung: str = "") -> torch.Tensor:
    out = _softmax_fake(x)
    call(target, "softmax_out", x, out, rung)
    return out


def _attention_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    rung: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    _check_one_device("attention", q=q, k=k, v=v)
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
_define('softmax(Tensor x, str rung="") -> Tensor', _softmax, _softmax_fake)
_define(
    "attention(Tensor q, Tensor k, Tensor v, bool causal=False, float? scale=None, "
    'str rung="") -> (Tensor, Tensor)',
    _attention,
    _attention_fake,
)


Checks = str | Sequence[str] | None


def _checking(name: str, check: Checks, **tensors: torch.Tensor) -> AbstractContextManager:
    """The simulator's settings for the time of a call with ``check``. Raises ValueError."""
    if check is None:
        return nullcontext()
    import simulator

    names = simulator.check_names(check, f"{name}: check")
    for arg, tensor in tensors.items():
        if tensor.device.type != "cpu":
            raise ValueError(
                f"{name}: check is {check!r}, but {arg} is on {tensor.device}; the checks run on "
                f"the simulator, which takes CPU tensors: pass {arg}.cpu()"
            )
    return simulator.settings(checks=names)


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
    with _checking("matmul", check, a=a, b=b):
        return torch.ops.workbench.matmul(a, b, kernel or "")


def matmul_nt(
    a: torch.Tensor, b: torch.Tensor, *, kernel: str | None = None, check: Checks = None
) -> torch.Tensor:
    """Multiply by a transpose: C = A B^T, b being [..., N, K]. Else as ``matmul``.

    The product of queries and keys, Q K^T, without a copy of K.
    """
    with _checking("matmul_nt", check, a=a, b=b):
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
    with _checking("matmul_out", check, a=a, b=b, out=out):
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
    with _checking("matmul_nt_out", check, a=a, b=b, out=out):
        torch.ops.workbench.matmul_nt_out(a, b, out, kernel or "")
    return out


def softmax(x: torch.Tensor, *, kernel: str | None = None, check: Checks = None) -> torch.Tensor:
    """Softmax over the last dimension, safe for any magnitude, as torch.softmax(x, -1).

    x: float32 [..., cols], rank 1 or more; all rows one stride apart, elements of a row adjacent.
    kernel: a rung of ``rungs("softmax")``; None takes the last that takes the input.
    check: as of ``matmul``.
    Returns a contiguous tensor of x's shape. A row with a NaN or +inf, or of -inf only, is NaN.
    RuntimeError names the argument, what was expected, what came.
    """
    with _checking("softmax", check, x=x):
        return torch.ops.workbench.softmax(x, kernel or "")


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
    with _checking("attention", check, q=q, k=k, v=v):
        out, lse = torch.ops.workbench.attention(q, k, v, causal, scale, kernel or "")
    return (out, lse) if return_lse else out
