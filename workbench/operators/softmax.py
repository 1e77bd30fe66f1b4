"""softmax, log_softmax and their log-sum-exp, of the rows of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import builds, rounding, rows
from .baselines import Formula, compile_baseline, wide
from .definitions import Checks, below_autograd, calling, define
from .operator import (
    Baseline,
    Case,
    Expected,
    Layout,
    Operator,
    PrecisionStudy,
    Tensors,
    TensorSpec,
)
from .shapes import Option

# What PyTorch sees.


def _lse_of(x: torch.Tensor) -> torch.Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[:-1], dtype=dtype)


def _launch(target: str, tensors: Tensors, scale: float, log: bool, rung: str) -> None:
    options = {"scale": scale} if scale != 1 else {}
    builds.launch(target, "softmax", tensors, options | ({"log": 1.0} if log else {}), rung)


def _softmax(
    target: str, x: torch.Tensor, scale: float = 1.0, log: bool = False, rung: str = ""
) -> torch.Tensor:
    out = x.new_empty(x.shape)
    _launch(target, {"x": x, "out": out}, scale, log, rung)
    return out


def _softmax_lse(
    target: str, x: torch.Tensor, scale: float = 1.0, log: bool = False, rung: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = x.new_empty(x.shape), _lse_of(x)
    _launch(target, {"x": x, "out": out, "lse": lse}, scale, log, rung)
    return out, lse


class _Differentiable(torch.autograd.Function):
    """softmax and softmax_lse with a gradient. Saves y, not x."""

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
                "softmax: its gradient is not differentiable; call backward without "
                "create_graph=True"
            )
        (y,) = ctx.saved_tensors
        if dy is None and dlse is None:
            return (None,) * 5
        dy = _readable(y.new_zeros(y.shape[-1]).expand_as(y) if dy is None else dy)
        dlse = dlse if dlse is None else dlse.contiguous()
        from . import softmax_backward  # noqa: F401 defines the operator

        dx = torch.ops.workbench.softmax_backward(dy, y, dlse, ctx.scale, ctx.log)
        return None, dx, None, None, None


def _readable(dy: torch.Tensor) -> torch.Tensor:
    """``dy`` if the kernels can read its rows, else a contiguous copy.

    Autograd passes gradients with arbitrary strides: that of ``sum()`` has all strides 0.
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


def softmax(
    x: torch.Tensor,
    *,
    scale: float = 1.0,
    return_lse: bool = False,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Softmax over the last dimension, safe for any magnitude, as torch.softmax(scale * x, -1).

    x: float32, float64, float16 or bfloat16 [..., cols], rank 1 or more; a constant stride between
    rows, elements of a row adjacent.
    scale: any finite number.
    kernel: a rung of ``rungs("softmax")``, whose ``dtypes`` and ``options`` say what it supports;
    None selects the last one that accepts the input. The gradient always uses the last rung of
    ``rungs("softmax_backward")``, after copying dy if its strides require it.
    check: as for ``matmul``.
    Returns a contiguous tensor of x's shape, and with return_lse also log(sum(exp(scale * x))) of
    every row, [...], in float32, or float64 for float64. A row with a NaN or scaled +inf, or only
    scaled -inf, is NaN; its log-sum-exp is NaN, +inf or -inf, and -inf where cols is 0.
    Both are differentiable once.
    RuntimeError names the argument, what was expected and what was given.
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
    """Logarithm of ``softmax`` without loss of precision; same arguments.

    A rung supports it if its ``options`` have "log". As torch.log_softmax(scale * x, -1).
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
    with calling(name, kernel, check, {"x": x}, {"scale": scale}):
        return operator(x, scale, log, kernel or "")


# What it should compute, and how accurately.


def reference(x: torch.Tensor, scale: float = 1.0, log: bool = False) -> torch.Tensor:
    """Softmax of scale * x over the last dimension, or its logarithm.

    As in torch: NaN for a row where scale * x has a NaN or +inf or is all -inf. The maximum is
    subtracted before the scale rounds it, from halves, whose difference is in range.
    """
    function = torch.log_softmax if log else torch.softmax
    half = x.double() / 2
    if half.shape[-1] == 0:
        return half
    largest = half.amax(dim=-1, keepdim=True) if scale >= 0 else half.amin(dim=-1, keepdim=True)
    return function(2 * scale * (half - largest), dim=-1)


def log_sum_exp(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """log(sum(exp(scale * x))) over the last dimension; -inf for an empty or all -inf row."""
    return torch.logsumexp(scale * x.double(), dim=-1)


@dataclass(frozen=True)
class _Rows:
    """The components of the error bounds of a softmax of rows.

    With z = scale * x, n elements per row, and p = softmax(z):

    Attributes:
        u: the unit roundoff of the kernel.
        distance: d_j = |z_j - max z|.
        exponents: c u d_j, the error of an exponent's argument. c = 4: the subtraction, in base 2
            log2(e) and the product, and one to spare; 6 with a scale, itself rounded, and its
            product.
        average: sum_j p_j c u d_j, the effect of those errors on the sum of a row, [..., 1].
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
    u = rounding.compute_roundoff(x.dtype)
    z = scale * x.double()
    distance = (z - z.amax(dim=-1, keepdim=True)).abs()
    exponents = (4 if scale == 1 else 6) * u * distance
    p = torch.softmax(z, dim=-1)
    average = torch.where(p == 0, 0.0, p * exponents).sum(dim=-1, keepdim=True)
    exact = ((distance == 0) | distance.isinf()).all(dim=-1, keepdim=True)
    sums = torch.where(
        exact, rounding.gamma(16, u), rounding.gamma(2 * z.shape[-1] + 16, u)
    ).double()
    return _Rows(u, distance, exponents, average, sums)


def tolerance(
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
    row, u_out = _rows(x, scale), rounding.unit_roundoff(x.dtype)
    if log:
        allowed = row.exponents + row.average + row.sums + (row.u + u_out) * expected.abs()
        allowed = allowed + 4 * row.u * torch.logsumexp(-row.distance, dim=-1, keepdim=True)
    else:
        growth = torch.expm1(row.exponents + row.average + row.sums + u_out)
        allowed = torch.where(expected == 0, 0.0, expected * growth)
    return rounding.reference_errs_too(allowed, x.dtype) + rounding.tiny(x.dtype)


def lse_tolerance(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Bound on the error of lse = log(sum(exp(scale * x))), max + log(l), shape [...].

    With the average and sums of ``_Rows``, which the logarithm turns into absolute errors:

    |lse - ref| <= average + sums + 4u (|max| + log(l)) + tiny
    """
    if x.shape[-1] == 0:
        return x.new_zeros(x.shape[:-1], dtype=torch.float64)
    row = _rows(x, scale)
    log_l = torch.logsumexp(-row.distance, dim=-1, keepdim=True)
    size = rounding.finite((scale * x.double()).amax(dim=-1, keepdim=True)).abs() + log_l
    allowed = (row.average + row.sums + 4 * row.u * size)[..., 0]
    dtype = torch.promote_types(x.dtype, torch.float32)
    return rounding.reference_errs_too(allowed, x.dtype) + rounding.tiny(dtype)


def _scale(case: Case) -> float:
    return case.option("scale", 1.0)


def _expect(given: Tensors, case: Case) -> dict[str, Expected]:
    x, scale, log = given["x"], _scale(case), bool(case.option("log"))
    y = reference(x, scale, log)
    expected = {"out": Expected(y, tolerance(x, y, scale, log)).within(x.dtype)}
    if case.option("lse"):
        lse = Expected(log_sum_exp(x, scale), lse_tolerance(x, scale))
        expected["lse"] = lse.within(rows.of_rows(case).dtype(case))
    return expected


# What it is compared with.


def formula(case: Case) -> Formula:
    """Softmax as in a model's code; with a log-sum-exp if the case requests it."""
    scale, log, lse = _scale(case), case.option("log"), case.option("lse")

    def compute(given: Tensors) -> tuple[torch.Tensor, ...]:
        x = given["x"] if scale == 1 and not lse else given["x"].to(wide(case))
        x = x if scale == 1 else scale * x
        y = torch.log_softmax(x, dim=-1) if log else torch.softmax(x, dim=-1)
        y = y.to(given["x"].dtype)
        return (y, torch.logsumexp(x, dim=-1)) if lse else (y,)

    return compute


def _torch(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    function = torch.log_softmax if case.option("log") else torch.softmax
    return function(given["x"], dim=-1, out=outputs["out"])


def _torch_has(case: Case) -> bool:
    """Torch's own kernels support log-softmax, but neither scale nor log-sum-exp."""
    return _scale(case) == 1 and not case.option("lse")


def _copy(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    return outputs["out"].copy_(given["x"])


# Its accuracy in ulp: see workbench.cli.precision.


def _exact(given: Tensors) -> np.ndarray:
    """Softmax over the last dimension in numpy's longdouble: 64 bits of precision on x86."""
    values = given["x"].double().numpy().astype(np.longdouble)
    e = np.exp(values - values.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _fp32_steps(given: Tensors, maximum: bool) -> torch.Tensor:
    """The definition in float32 steps; numpy sums pairwise. Exponentials are rounded once."""
    values = given["x"].numpy()
    m = values.max(axis=-1, keepdims=True) if maximum else np.float32(0)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        e = np.exp((values - m).astype(np.float64)).astype(np.float32)
        return torch.from_numpy(e / e.sum(axis=-1, keepdims=True, dtype=np.float32))


def _others(dtype: str) -> dict[str, Any]:
    """Torch's kernel and, in float32, variants: no maximum subtracted, and a pairwise sum."""
    found = {"torch": lambda given: torch.softmax(given["x"], dim=-1)}
    if dtype == "float32":
        found["unsafe"] = lambda given: _fp32_steps(given, maximum=False)
        found["pairwise"] = lambda given: _fp32_steps(given, maximum=True)
    return found


# The operator as the harness sees it.


def _tensors(case: Case, layout: Layout) -> dict[str, TensorSpec]:
    found = {"x": rows.matrix(case), "out": rows.matrix(case, output=True)}
    return {**found, "lse": rows.of_rows(case, output=True)} if case.option("lse") else found


OPERATOR = Operator(
    name="softmax",
    sizes=rows.SIZES,
    options=(rows.SCALE, rows.LOG, Option("lse", "also the log-sum-exp of every row")),
    layouts={
        "contiguous": Layout(),
        "padded": Layout({"x": "padded", "out": "padded"}),
        "padded_out": Layout({"out": "padded"}),
        "offset": Layout({"x": "offset", "out": "offset"}),
        "offset_x": Layout({"x": "offset"}),
        "huge_x": Layout({"x": "huge"}),
        "huge_out": Layout({"out": "huge"}),
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
        Baseline("copy", _copy, comparable=False),
    ),
    distinct=rows.distinct,
    few=rows.few,
    precision=PrecisionStudy(
        inputs={
            "randn": ("rows=64,cols=1000", "randn"),
            "30 randn": ("rows=64,cols=1000", "tens"),
            "1e4 randn": ("rows=64,cols=1000", "large"),
            "constant": ("rows=64,cols=1000", "constant_rows"),
            "long rows": ("rows=2,cols=1048576", "randn"),
        },
        exact=_exact,
        others=_others,
    ),
)
