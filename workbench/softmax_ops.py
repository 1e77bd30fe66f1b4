"""The softmax operators: softmax, its log-sum-exp, and the gradient of both."""

from __future__ import annotations

from typing import Any

import torch

from .builds import call
from .definitions import Checks, below_autograd, check_one_device, checking, define

__all__ = ["log_softmax", "softmax", "softmax_backward"]


def _lse_of(x: torch.Tensor) -> torch.Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[:-1], dtype=dtype)


def _softmax(
    target: str, x: torch.Tensor, scale: float = 1.0, log: bool = False, rung: str = ""
) -> torch.Tensor:
    out = x.new_empty(x.shape)
    call(target, "softmax_out", x, out, None, scale, log, rung)
    return out


def _softmax_lse(
    target: str, x: torch.Tensor, scale: float = 1.0, log: bool = False, rung: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = x.new_empty(x.shape), _lse_of(x)
    call(target, "softmax_out", x, out, lse, scale, log, rung)
    return out, lse


def _backward_fake(
    dy: torch.Tensor,
    y: torch.Tensor,
    dlse: torch.Tensor | None = None,
    scale: float = 1.0,
    log: bool = False,
    rung: str = "",
) -> torch.Tensor:
    check_one_device("softmax_backward", dy=dy, y=y, dlse=dlse)
    return dy.new_empty(dy.shape)


def _backward(
    target: str,
    dy: torch.Tensor,
    y: torch.Tensor,
    dlse: torch.Tensor | None = None,
    scale: float = 1.0,
    log: bool = False,
    rung: str = "",
) -> torch.Tensor:
    dx = _backward_fake(dy, y, dlse)
    call(target, "softmax_backward_out", dy, y, dlse, dx, scale, log, rung)
    return dx


class _Differentiable(torch.autograd.Function):
    """softmax and softmax_lse with a gradient. Keeps y and not x."""

    @staticmethod
    def forward(
        ctx: Any, name: str, x: torch.Tensor, scale: float, log: bool, rung: str
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        result = below_autograd(name, x, scale, log, rung)
        ctx.save_for_backward(result if name == "softmax" else result[0])
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.log = scale, log
        return result

    @staticmethod
    def backward(
        ctx: Any, dy: torch.Tensor | None, dlse: torch.Tensor | None = None
    ) -> tuple[None, torch.Tensor | None, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "softmax: its gradient has no gradient of its own; call backward without "
                "create_graph=True"
            )
        (y,) = ctx.saved_tensors
        if dy is None and dlse is None:
            return (None,) * 5
        dy = _readable(y.new_zeros(y.shape[-1]).expand_as(y) if dy is None else dy)
        dlse = dlse if dlse is None else dlse.contiguous()
        dx = torch.ops.workbench.softmax_backward(dy, y, dlse, ctx.scale, ctx.log)
        return None, dx, None, None, None


def _readable(dy: torch.Tensor) -> torch.Tensor:
    """``dy`` where the kernels can read its rows, else a contiguous copy.

    Autograd hands over gradients with any strides: that of ``sum()`` has all strides 0.
    """
    ahead = list(zip(dy.shape, dy.stride(), strict=True))
    *rows, (cols, stride) = [(n, step) for n, step in ahead[:-1] if n != 1] + ahead[-1:]
    apart = all(
        step == n * inner for (_, step), (n, inner) in zip(rows[:-1], rows[1:], strict=True)
    )
    return dy if apart and (cols == 1 or stride == 1) else dy.contiguous()


def _differentiable(name: str) -> Any:
    def run(x: torch.Tensor, scale: float = 1.0, log: bool = False, rung: str = "") -> Any:
        return _Differentiable.apply(name, x, scale, log, rung)

    return run


_ARGUMENTS = 'float scale=1.0, bool log=False, str rung=""'

define(
    f"softmax(Tensor x, {_ARGUMENTS}) -> Tensor",
    _softmax,
    lambda x, scale=1.0, log=False, rung="": x.new_empty(x.shape),
    _differentiable("softmax"),
)
define(
    f"softmax_lse(Tensor x, {_ARGUMENTS}) -> (Tensor, Tensor)",
    _softmax_lse,
    lambda x, scale=1.0, log=False, rung="": (x.new_empty(x.shape), _lse_of(x)),
    _differentiable("softmax_lse"),
)
define(
    f"softmax_backward(Tensor dy, Tensor y, Tensor? dlse=None, {_ARGUMENTS}) -> Tensor",
    _backward,
    _backward_fake,
)


def softmax(
    x: torch.Tensor,
    *,
    scale: float = 1.0,
    return_lse: bool = False,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Softmax over the last dimension, safe for any magnitude, as torch.softmax(scale * x, -1).

    x: float32, float64, float16 or bfloat16 [..., cols], rank 1 or more; all rows one stride
    apart, elements of a row adjacent.
    scale: any finite number.
    kernel: a rung of ``rungs("softmax")``, whose ``dtypes`` and ``options`` say what it takes;
    None takes the last that takes the input. The gradient is always that of the last rung of
    ``rungs("softmax_backward")``, also for dy of any strides, which is then copied.
    check: as of ``matmul``.
    Returns a contiguous tensor of x's shape, and with return_lse also log(sum(exp(scale * x))) of
    every row, [...], in float32, float64 for float64. A row with a NaN or scaled +inf, or of
    scaled -inf only, is NaN; its log-sum-exp is NaN, +inf or -inf, and -inf where cols is 0.
    Both have gradients, which have none of their own.
    RuntimeError names the argument, what was expected, what came.
    """
    return _forward("softmax", x, scale, False, return_lse, kernel, check)


def log_softmax(
    x: torch.Tensor,
    *,
    scale: float = 1.0,
    return_lse: bool = False,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Take the logarithm of ``softmax`` without its loss of precision; arguments as there.

    A rung takes it if its ``options`` have "log". As torch.log_softmax(scale * x, -1).
    """
    return _forward("log_softmax", x, scale, True, return_lse, kernel, check)


def _forward(
    name: str,
    x: torch.Tensor,
    scale: float,
    log: bool,
    return_lse: bool,
    kernel: str | None,
    check: Checks,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    operator = torch.ops.workbench.softmax_lse if return_lse else torch.ops.workbench.softmax
    with checking(name, check, x=x):
        return operator(x, scale, log, kernel or "")


def softmax_backward(
    dy: torch.Tensor,
    y: torch.Tensor,
    *,
    scale: float = 1.0,
    log: bool = False,
    dlse: torch.Tensor | None = None,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor:
    """The gradient of ``softmax``'s x: dx = scale * y * (dy - (sum(dy * y) - dlse)).

    With log, that of ``log_softmax``: dx = scale * (dy - exp(y) * (sum(dy) - dlse)).
    dy: the gradient of y; dtypes and strides as of softmax's x.
    y: what softmax, or log_softmax, returned; of dy's shape and dtype.
    scale: what softmax was given.
    dlse: the gradient of the log-sum-exp, of its shape and dtype, contiguous; None means zeros.
    kernel: a rung of ``rungs("softmax_backward")``; None takes the last that takes the input.
    check: as of ``matmul``.
    Returns a contiguous tensor of dy's shape.
    RuntimeError names the argument, what was expected, what came.
    """
    with checking("softmax_backward", check, dy=dy, y=y, dlse=dlse):
        return torch.ops.workbench.softmax_backward(dy, y, dlse, scale, log, kernel or "")
