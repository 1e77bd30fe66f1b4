"""matmul: C = alpha A B + beta c + bias."""

from __future__ import annotations

import math
from typing import Any

import torch

from . import builds, rounding
from .definitions import Checks, below_autograd, calling, define, text
from .operator import Baseline, Case, Expected, Layout, Operator, Tensors, TensorSpec
from .shapes import Option

# What PyTorch sees.

Optional = torch.Tensor | None


def _fake(
    a: torch.Tensor,
    b: torch.Tensor,
    c: Optional = None,
    bias: Optional = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    rung: str = "",
    tf32: bool = False,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    try:
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except RuntimeError:
        raise RuntimeError(
            f"matmul: batch dimensions of a and b must be equal, or 1; got a {text(a)}, b {text(b)}"
        ) from None
    dtype = out_dtype or (torch.int32 if a.dtype == torch.int8 else a.dtype)
    return a.new_empty((*batch, *a.shape[-2:-1], *b.shape[-1:]), dtype=dtype)


def _launch(
    target: str,
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    c: Optional = None,
    bias: Optional = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    rung: str = "",
    tf32: bool = False,
) -> None:
    tensors = {"a": a, "b": b, "c": c, "bias": bias, "out": out}
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    options = {name: x for name, x, plain in (("alpha", alpha, 1), ("beta", beta, 0)) if x != plain}
    builds.launch(target, "matmul", given, options | ({"tf32": True} if tf32 else {}), rung)


def _matmul(
    target: str,
    a: torch.Tensor,
    b: torch.Tensor,
    c: Optional = None,
    bias: Optional = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    rung: str = "",
    tf32: bool = False,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    out = _fake(a, b, out_dtype=out_dtype)
    _launch(target, a, b, out, c, bias, alpha, beta, rung, tf32)
    return out


class _Differentiable(torch.autograd.Function):
    """matmul with a gradient, itself of matmuls, so that it can be differentiated again."""

    @staticmethod
    def forward(
        ctx: Any,
        a: torch.Tensor,
        b: torch.Tensor,
        c: Optional,
        bias: Optional,
        alpha: float,
        beta: float,
        rung: str,
        tf32: bool,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        ctx.alpha, ctx.beta, ctx.rung, ctx.tf32 = alpha, beta, rung, tf32
        ctx.shapes = [None if x is None else x.shape for x in (c, bias)]
        return below_autograd("matmul", a, b, c, bias, alpha, beta, rung, tf32, out_dtype)

    @staticmethod
    def backward(ctx: Any, d: torch.Tensor) -> tuple[Optional | None, ...]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        needs = ctx.needs_input_grad
        narrow = _readable(d.to(a.dtype))  # where the result is wider than the factors

        def product(x: torch.Tensor, y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
            rest = (ctx.alpha, 0.0, ctx.rung, ctx.tf32)
            # what is summed over the batch is rounded once, after that
            summed = a.dtype.itemsize == 2 and d.shape[:-2] != like.shape[:-2]
            wide = torch.float32 if summed else None
            whole = torch.ops.workbench.matmul(x, y, None, None, *rest, wide)
            return whole.sum_to_size(like.shape).to(like.dtype)

        da = product(narrow, b.mT, a) if needs[0] else None
        db = product(a.mT, narrow, b) if needs[1] else None
        dc = (ctx.beta * d).sum_to_size(ctx.shapes[0]) if needs[2] else None
        dbias = d.sum_to_size(ctx.shapes[1]) if needs[3] else None
        return da, db, dc, dbias, None, None, None, None, None


def _readable(d: torch.Tensor) -> torch.Tensor:
    """``d`` if the kernels can read it, else a contiguous copy.

    Autograd passes gradients with arbitrary strides: that of ``sum()`` has all strides 0.
    """
    return d if d.is_contiguous() or (d.dim() == 2 and d.mT.is_contiguous()) else d.contiguous()


def _differentiable(
    a: torch.Tensor,
    b: torch.Tensor,
    c: Optional = None,
    bias: Optional = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    rung: str = "",
    tf32: bool = False,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    return _Differentiable.apply(a, b, c, bias, alpha, beta, rung, tf32, out_dtype)


_ARGUMENTS = (
    "Tensor? c=None, Tensor? bias=None, float alpha=1.0, float beta=0.0, "
    'str rung="", bool tf32=False'
)

define(
    f"matmul(Tensor a, Tensor b, {_ARGUMENTS}, ScalarType? out_dtype=None) -> Tensor",
    _matmul,
    _fake,
    _differentiable,
)
define(
    f"matmul_out(Tensor a, Tensor b, Tensor(a!) out, {_ARGUMENTS}) -> ()",
    _launch,
    lambda a, b, out, *rest: None,
)


def matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    trans_a: bool = False,
    trans_b: bool = False,
    alpha: float = 1.0,
    beta: float = 0.0,
    c: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    tf32: bool = False,
    out_dtype: torch.dtype | None = None,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor:
    """Multiply matrices: alpha A B + beta c + bias, as BLAS's gemm.

    a: float32, float64, float16, bfloat16 or int8 [..., M, K]; with trans_a [..., K, M], of which
    the transpose is taken. Sums are float32, float64 for float64, int32 for int8, where they are
    exact for K < 2^17 and may wrap beyond.
    b: [..., K, N]; with trans_b [..., N, K]. Either's rows or columns must be contiguous: a
    transposed view, such as ``x.mT``, is read where it is, not copied. Leading dimensions are
    broadcast, as in torch.matmul.
    out: [..., M, N] with contiguous rows, which is returned; it must not overlap an input, and its
    elements must not overlap each other. Without it the result is new, and differentiable any
    number of times: its gradients are matmuls by the same kernel.
    c: [..., M, N] with contiguous rows; may lack leading dimensions, or have 1 there. It is not
    read if beta is 0.
    bias: [N], added to every row.
    tf32: round float32 factors to 10 bits of mantissa, to the nearest, ties away from 0, as cuBLAS
    does if allowed to: for tensor cores.
    out_dtype: the result's dtype: a's, or float32 for 16-bit factors; always int32 for int8. c and
    bias have the result's dtype. With int8, alpha and beta are whole numbers.
    kernel: a rung of ``rungs("matmul")``; None selects the last one that accepts the input.
    check: the simulator's checks for this call, "all" or names such as ["racecheck"]; findings are
    raised as simulator.SimulatorError. ValueError for other names and for CUDA tensors.
    RuntimeError names the argument, what was expected and given.
    """
    tensors = {"a": a, "b": b, "out": out, "c": c, "bias": bias}
    numbers = {"alpha": alpha, "beta": beta}
    with calling("matmul", kernel, check, tensors, numbers, ("out", "c", "bias")):
        left = a.mT if trans_a and a.dim() >= 2 else a
        right = b.mT if trans_b and b.dim() >= 2 else b
        rest = (c, bias, float(alpha), float(beta), kernel or "", bool(tf32))
        if out is None:
            return torch.ops.workbench.matmul(left, right, *rest, out_dtype)
        if out_dtype not in (None, out.dtype):
            raise RuntimeError(f"matmul: out_dtype is {out_dtype}, but out is {text(out)}")
        torch.ops.workbench.matmul_out(left, right, out, *rest)
        return out


# What it should compute, and how accurately.


def rounded_to_tf32(x: torch.Tensor) -> torch.Tensor:
    """float32 rounded to tf32, as cvt.rna does: 10 bits of mantissa, ties away from 0."""
    up = (x.view(torch.int32) + 0x1000) & ~0x1FFF
    return torch.where(x.isfinite(), up.view(torch.float32), x)


def reference(
    a: torch.Tensor,
    b: torch.Tensor,
    c: Optional = None,
    bias: Optional = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    tf32: bool = False,
) -> torch.Tensor:
    """The definition in float64: alpha A B + beta c + bias. With beta = 0 it does not read c."""
    a, b = (rounded_to_tf32(x) if tf32 else x for x in (a, b))
    product = alpha * (a.double() @ b.double())
    if beta and c is not None:
        product = product + beta * c.double()
    return product if bias is None else product + bias.double()


def tolerance(
    a: torch.Tensor,
    b: torch.Tensor,
    c: Optional = None,
    bias: Optional = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    tf32: bool = False,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Bound on the error of C = alpha A B + beta c + bias with K terms per sum.

    |C - C_ref| <= gamma(K + e) |alpha| |A| |B| + gamma(e) (|beta c| + |bias|)
                   + u_out' (|C_ref| + the above) + K max(1, |alpha|) s

    where u_out' = u_out for outputs narrower than fp32 and 0 for others, e = 0 for a plain product
    and else 5 (alpha and beta themselves, two products, and two sums less one), and s is the
    smallest normal number. Where all of it is whole numbers and adds up to at most 1/u, every
    partial sum is exact and only the last rounding is left; int8 has none. With tf32, A and B are
    rounded before, in the reference too.

    Source: Higham, section 3.5, for any order of summation; the last term is for products below
    the normal numbers.
    """
    dtype, terms = a.dtype, a.shape[-1]
    if not dtype.is_floating_point:
        return torch.zeros_like(a.double() @ b.double())
    a, b = (rounded_to_tf32(x) if tf32 else x for x in (a, b))
    magnitude = abs(alpha) * (a.double().abs() @ b.double().abs())
    added = torch.zeros_like(magnitude)
    if beta and c is not None:
        added = added + abs(beta) * c.double().abs()
    if bias is not None:
        added = added + bias.double().abs()
    plain = alpha == 1 and not beta and bias is None
    u, extra = rounding.compute_roundoff(dtype), 0 if plain else 5
    error = rounding.gamma(terms + extra, u)
    small = torch.finfo(torch.promote_types(dtype, torch.float32)).smallest_normal
    allowed = error * magnitude + rounding.gamma(extra, u) * added
    allowed = allowed + terms * max(1.0, abs(alpha)) * small
    allowed = rounding.reference_errs_too(allowed, dtype)
    whole = [x for x in (a, b, c if beta else None, bias) if x is not None]
    numbers = alpha == int(alpha) and beta == int(beta)
    if numbers and all(map(rounding.are_integers, whole)):
        allowed = torch.where(magnitude + added <= 1 / u, 0.0, allowed)
    out_dtype = out_dtype or dtype
    if out_dtype.itemsize < 4:
        right = reference(a, b, c, bias, alpha, beta).abs()
        allowed = allowed + rounding.unit_roundoff(out_dtype) * (right + allowed)
        allowed = allowed + rounding.tiny(out_dtype)
    return allowed


def _arguments(given: Tensors, case: Case) -> dict[str, Any]:
    """A case's arguments for ``reference`` and ``tolerance``."""
    numbers = {"alpha": case.option("alpha", 1.0), "beta": case.option("beta", 0.0)}
    return {**given, **numbers, "tf32": case.dtype == "tf32"}


def _expect(given: Tensors, case: Case) -> dict[str, Expected]:
    arguments = _arguments(given, case)
    dtype = OPERATOR.outputs(case)["out"].dtype(case)
    allowed = tolerance(**arguments, out_dtype=dtype)
    return {"out": Expected(reference(**arguments), allowed).within(dtype)}


def _by_torch(given: Tensors, case: Case) -> torch.Tensor:
    a, b = given["a"], given["b"]
    if case.dtype == "int8":
        a, b = a.int(), b.int()
    out = case.option("alpha", 1.0) * (a @ b)
    if "c" in given:
        out = out + case.option("beta") * given["c"]
    return out + given["bias"] if "bias" in given else out


def _cublas(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = case.dtype == "tf32"
    try:
        return torch.matmul(given["a"], given["b"], out=outputs["out"])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _cublas_applies(case: Case) -> bool:
    wide = OPERATOR.layout(case).wide and case.dtype in ("float16", "bfloat16")
    return not case.options and not wide and case.dtype != "int8"


# The operator as the harness sees it.


def _tensors(case: Case, layout: Layout) -> dict[str, TensorSpec]:
    m, n, k = case.shape.numbers()
    wide = layout.wide or case.dtype == "int8"
    batch = {name: () if name in layout.shared else layout.batch for name in ("a", "b", "out")}
    found = {
        "a": TensorSpec((*batch["a"], m, k)),
        "b": TensorSpec((*batch["b"], k, n)),
        "c": TensorSpec((*batch["out"], m, n), wide=wide),
        "bias": TensorSpec((n,), wide=wide),
        "out": TensorSpec((*batch["out"], m, n), output=True, wide=wide),
    }
    absent = {"c": not case.option("beta"), "bias": not case.option("bias")}
    return {name: tensor for name, tensor in found.items() if not absent.get(name)}


def _flops(case: Case) -> int:
    return 2 * math.prod(OPERATOR.layout(case).batch) * math.prod(case.shape.numbers())


_NT = {"b": "by_columns"}
_ALL_PITCHED = dict.fromkeys(("a", "b", "c", "out"), "pitched")
_ALL_PADDED = dict.fromkeys(("a", "b", "c", "out"), "padded")

OPERATOR = Operator(
    name="matmul",
    sizes=("M", "N", "K"),
    options=(
        Option("alpha", "a factor of the product", number=True, plain=1.0),
        Option("beta", "a factor of c, which is added", number=True, plain=0.0),
        Option("bias", "a row that is added to every row"),
    ),
    layouts={
        "nn": Layout(),
        "nt": Layout(_NT),
        "tn": Layout({"a": "by_columns"}),
        "tt": Layout({"a": "by_columns", "b": "by_columns"}),
        "batched3": Layout(batch=(3,)),
        "batched4": Layout(batch=(2, 3)),
        "batched4_nt": Layout(_NT, (2, 3)),
        "shared_a": Layout(batch=(3,), shared=frozenset("a")),
        "shared_b": Layout(batch=(3,), shared=frozenset("b")),
        "shared_b_nt": Layout(_NT, (3,), shared=frozenset("b")),
        "padded": Layout(_ALL_PADDED),
        "padded_tt": Layout(_ALL_PADDED | dict.fromkeys("ab", "padded_by_columns")),
        "padded_batch": Layout(_ALL_PADDED, (3,)),
        "padded_a_nt": Layout({"a": "padded", **_NT}),
        "padded_out": Layout({"out": "padded"}),
        "pitched": Layout(_ALL_PITCHED),
        "pitched_tt": Layout(_ALL_PITCHED | dict.fromkeys("ab", "pitched_by_columns")),
        "offset": Layout(dict.fromkeys(("a", "b", "c", "bias", "out"), "offset")),
        "wide": Layout(wide=True),
        "wide_padded": Layout(_ALL_PADDED, wide=True),
        "huge_a": Layout({"a": "huge"}),
        "huge_b": Layout({"b": "huge"}),
        "huge_b_nt": Layout({"b": "huge_by_columns"}),
        "huge_out": Layout({"out": "huge"}),
        "huge_batch": Layout({"a": "huge", "out": "huge"}, (2,)),
        "beyond_grid": Layout(batch=(65537,)),  # a grid has at most 65535 blocks along z
    },
    tensors=_tensors,
    expect=_expect,
    by_torch=_by_torch,
    flops=_flops,
    defaults={
        "simulator": ("M=4096,N=4096,K=4096",),
        "gpu": tuple(f"M={n},N={n},K={n}" for n in (1024, 2048, 4096, 8192)),
    },
    small=("M=256,N=256,K=256",),
    edges=(
        ("M=134,N=139,K=85", "padded_out", "integers"),
        ("M=75,N=70,K=85", "padded_a_nt", "integers"),
        ("M=35,N=70,K=37", "padded_batch", "randn"),
    ),
    baselines=(Baseline("cublas", _cublas, _cublas_applies),),
)
