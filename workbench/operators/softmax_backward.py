"""softmax_backward: the gradient of softmax and log_softmax."""

from __future__ import annotations

from typing import Any

import torch

from . import builds, rounding, rows, softmax
from .baselines import Formula, compile_baseline, wide
from .definitions import Checks, calling, define
from .operator import Baseline, Case, Expected, Layout, Operator, Tensors, TensorSpec
from .shapes import Option

# What PyTorch sees.


def _fake(
    dy: torch.Tensor,
    y: torch.Tensor,
    dlse: torch.Tensor | None = None,
    scale: float = 1.0,
    log: bool = False,
    rung: str = "",
) -> torch.Tensor:
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
    dx = _fake(dy, y)
    options = ({"scale": scale} if scale != 1 else {}) | ({"log": 1.0} if log else {})
    tensors = {"dy": dy, "y": y, "dlse": dlse, "dx": dx}
    builds.launch(target, "softmax_backward", tensors, options, rung)
    return dx


define(
    "softmax_backward(Tensor dy, Tensor y, Tensor? dlse=None, float scale=1.0, bool log=False, "
    'str rung="") -> Tensor',
    _backward,
    _fake,
)


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
    y: the output of softmax or log_softmax; of dy's shape and dtype.
    scale: as passed to softmax.
    dlse: the gradient of the log-sum-exp, of its shape and dtype, contiguous; None means zeros.
    kernel: a rung of ``rungs("softmax_backward")``; None: the last one that accepts the input.
    check: as for ``matmul``.
    Returns a contiguous tensor of dy's shape.
    RuntimeError names the argument, what was expected and what was given.
    """
    with calling(
        "softmax_backward",
        kernel,
        check,
        {"dy": dy, "y": y, "dlse": dlse},
        {"scale": scale},
        ("dlse",),
    ):
        return torch.ops.workbench.softmax_backward(dy, y, dlse, scale, log, kernel or "")


# What it should compute, and how accurately.


def reference(
    dy: torch.Tensor,
    y: torch.Tensor,
    dlse: torch.Tensor | None = None,
    scale: float = 1.0,
    log: bool = False,
) -> torch.Tensor:
    """The gradient of the input of softmax, or with ``log`` of log-softmax, given that of y.

    Args:
        dy: the gradient of y, [..., cols].
        y: the result, [..., cols].
        dlse: the gradient of the log-sum-exp, [...]; None means zeros.
        scale: what x was multiplied by.
        log: whether y is a log-softmax.

    Returns:
        scale * y * (dy - (sum(dy * y) - dlse)), with log scale * (dy - exp(y) * (sum(dy) - dlse)).
    """
    dy, y = dy.double(), y.double()
    total = (dy if log else dy * y).sum(dim=-1, keepdim=True)
    if dlse is not None:
        total = total - dlse.double()[..., None]
    return scale * (dy - torch.exp(y) * total) if log else scale * y * (dy - total)


def tolerance(
    dy: torch.Tensor,
    y: torch.Tensor,
    dlse: torch.Tensor | None = None,
    scale: float = 1.0,
    log: bool = False,
) -> torch.Tensor:
    """Bound on the error of dx, the gradient of a softmax over rows of n elements.

    With t = sum(dy * y) - dlse, s = |scale|, and S the same sum of magnitudes, |dlse| added,

    |t - ref| <= T = gamma(n) S + n 2^-126 + (gamma(2) S with dlse)

    |dx_i - ref_i| <= s |y_i| (T + gamma(6) (|dy_i - t| + T)) + u_out |ref_i| + tiny (1 + s)

    (the difference, two products, the scale, and two to spare). With log, t = sum(dy) - dlse and
    p_i = exp(y_i), whose relative error is E_i = expm1(4u |y_i| + gamma(8)):

    |dx_i - ref_i| <= s p_i (1 + E_i) T + s p_i |t| E_i + s gamma(6) (|dy_i| + p_i |t|)
                      + u_out |ref_i| + tiny (1 + s)

    Where all dy are whole numbers and S <= 2^24 that sum is exact, and T = 0 except for dlse. Where
    all terms of a row are equal, which is a pattern (a lane that adds them up rounds in the same
    direction again and again), gamma(n) is the bound that always holds. For float64, 2^-126 is
    2^-1022.
    """
    if dy.shape[-1] == 0:
        return torch.zeros_like(dy, dtype=torch.float64)
    u, u_out, n = (
        rounding.compute_roundoff(dy.dtype),
        rounding.unit_roundoff(dy.dtype),
        dy.shape[-1],
    )
    right = reference(dy, y, dlse, scale, log)
    smallest = torch.finfo(torch.promote_types(dy.dtype, torch.float32)).smallest_normal
    dtype, dy, y = dy.dtype, dy.double(), y.double()
    terms = dy if log else dy * y
    total, magnitude = terms.sum(dim=-1, keepdim=True), terms.abs().sum(dim=-1, keepdim=True)
    patterned = (terms == terms[..., :1]).all(dim=-1, keepdim=True)
    sums = (
        torch.where(patterned, rounding.always(n, u), rounding.gamma(n, u)) * magnitude
        + n * smallest
    )
    if log and rounding.are_integers(dy):
        sums = torch.where(magnitude <= rounding.EXACT_SUM, 0.0, sums)
    if dlse is not None:
        total = total - dlse.double()[..., None]
        sums = sums + rounding.gamma(2, u) * (magnitude + dlse.double().abs()[..., None])
    if log:
        p, total = torch.exp(y), total.abs()
        growth = torch.where(
            p == 0, 0.0, torch.expm1(4 * u * rounding.finite(y).abs() + rounding.gamma(8, u))
        )
        error = p * (1 + growth) * sums + p * total * growth
        error = error + rounding.gamma(6, u) * (dy.abs() + p * total)
    else:
        error = y.abs() * (sums + rounding.gamma(6, u) * ((dy - total).abs() + sums))
    allowed = abs(scale) * error + u_out * right.abs()
    return rounding.reference_errs_too(allowed, dtype) + rounding.tiny(dtype) * (1 + abs(scale))


def _scale(case: Case) -> float:
    return case.option("scale", 1.0)


def _expect(given: Tensors, case: Case) -> dict[str, Expected]:
    log = bool(case.option("log"))
    args = given["dy"], given["y"], given.get("dlse"), _scale(case), log
    return {"dx": Expected(reference(*args), tolerance(*args)).within(given["dy"].dtype)}


# What it is compared with.


def formula(case: Case) -> Formula:
    """The gradient by its formula, computed in fp32 for narrower types."""
    scale, log = _scale(case), case.option("log")

    def compute(given: Tensors) -> tuple[torch.Tensor, ...]:
        dy, y = given["dy"].to(wide(case)), given["y"].to(wide(case))
        total = (dy if log else dy * y).sum(dim=-1, keepdim=True)
        if "dlse" in given:
            total = total - given["dlse"][..., None]
        dx = dy - torch.exp(y) * total if log else y * (dy - total)
        dx = dx if scale == 1 else scale * dx
        return (dx.to(given["y"].dtype),)

    return compute


def _torch(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    dy, y = given["dy"], given["y"]
    aten: Any = torch.ops.aten
    if case.option("log"):
        return aten._log_softmax_backward_data.out(dy, y, -1, y.dtype, out=outputs["dx"])
    return aten._softmax_backward_data.out(dy, y, -1, y.dtype, grad_input=outputs["dx"])


def _torch_has(case: Case) -> bool:
    """Torch's own kernels support log-softmax, but neither scale nor log-sum-exp."""
    return _scale(case) == 1 and not case.option("dlse")


def _add(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    return torch.add(given["dy"], given["y"], out=outputs["dx"])


# The operator as the harness sees it.


def _tensors(case: Case, layout: Layout) -> dict[str, TensorSpec]:
    dlse = {"dlse": rows.of_rows(case)} if case.option("dlse") else {}
    dx = rows.matrix(case, output=True)
    return {"dy": rows.matrix(case), "y": rows.matrix(case), **dlse, "dx": dx}


def _finish(filled: Tensors, case: Case) -> Tensors:
    """Replace y by its softmax; make the differences of gradients finite.

    Infinities and NaNs become the sine of their column, and no number exceeds a quarter of the
    largest.
    """
    y = softmax.reference(filled["y"], _scale(case), bool(case.option("log"))).to(filled["y"].dtype)
    limit = torch.finfo(y.dtype).max / 4
    sines = torch.arange(y.shape[-1]).sin().to(y.dtype)  # many equal ones would have equal errors
    dy = torch.where(filled["dy"].isfinite(), filled["dy"], sines).clamp(-limit, limit)
    return {**filled, "dy": dy, "y": y}


OPERATOR = Operator(
    name="softmax_backward",
    sizes=rows.SIZES,
    options=(rows.SCALE, rows.LOG, Option("dlse", "with a gradient of the log-sum-exp")),
    layouts={
        "contiguous": Layout(),
        "padded": Layout(dict.fromkeys(("dy", "y", "dx"), "padded")),
        "padded_out": Layout({"dx": "padded"}),
        "padded_y": Layout({"y": "padded"}),
        "offset": Layout(dict.fromkeys(("dy", "y", "dx"), "offset")),
        "offset_dy": Layout({"dy": "offset"}),
        "huge_dy": Layout({"dy": "huge"}),
        "huge_y": Layout({"y": "huge"}),
        "huge_out": Layout({"dx": "huge"}),
    },
    tensors=_tensors,
    expect=_expect,
    by_torch=lambda given, case: formula(case)(given)[0],
    defaults=rows.DEFAULTS,
    small=rows.SMALL,
    default_dtypes=rows.DTYPES,
    edges=rows.EDGES,
    baselines=(
        Baseline("torch", _torch, _torch_has),
        compile_baseline(formula),
        Baseline("add", _add, comparable=False),  # two reads and a write: its equivalent of a copy
    ),
    distinct=rows.distinct,
    few=rows.few,
    finish=_finish,
)
