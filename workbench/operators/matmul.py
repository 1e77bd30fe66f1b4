"""matmul: C = A B, and matmul_nt: C = A B^T."""

from __future__ import annotations

import math

import torch

from . import builds, rounding
from .definitions import Checks, calling, define
from .operator import Baseline, Case, Expected, Layout, Operator, Tensors, TensorSpec

# What PyTorch sees.


def _define(name: str, transposed: bool) -> None:
    options = {"trans_b": 1.0} if transposed else {}

    def fake(a: torch.Tensor, b: torch.Tensor, rung: str = "") -> torch.Tensor:
        columns = b.shape[-2 if transposed else -1 :][:1]
        return a.new_empty((*a.shape[:-1], *columns))

    def given(
        target: str, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, rung: str = ""
    ) -> None:
        builds.launch(target, "matmul", {"a": a, "b": b, "out": out}, options, rung, name)

    def fresh(target: str, a: torch.Tensor, b: torch.Tensor, rung: str = "") -> torch.Tensor:
        out = fake(a, b)
        given(target, a, b, out, rung)
        return out

    define(f'{name}(Tensor a, Tensor b, str rung="") -> Tensor', fresh, fake)
    define(
        f'{name}_out(Tensor a, Tensor b, Tensor(a!) out, str rung="") -> ()',
        given,
        lambda a, b, out, rung="": None,
    )


_define("matmul", transposed=False)
_define("matmul_nt", transposed=True)


def matmul(
    a: torch.Tensor, b: torch.Tensor, *, kernel: str | None = None, check: Checks = None
) -> torch.Tensor:
    """Multiply matrices: C = A B in fp32, sums in order of k.

    a: float32 [..., M, K], rank 2 to 4. b: float32 [..., K, N] with a's leading dimensions, or
    [K, N] for all of them. Rows may have any stride; the elements of a row are adjacent.
    kernel: a rung of ``rungs("matmul")``; None selects the last one that accepts the input.
    check: the simulator's checks for this call, "all" or names such as ["racecheck"]; findings are
    raised as simulator.SimulatorError. ValueError for other names and for CUDA tensors.
    Returns [..., M, N], contiguous. RuntimeError names the argument, what was expected and given.
    """
    with calling("matmul", kernel, check, {"a": a, "b": b}):
        return torch.ops.workbench.matmul(a, b, kernel or "")


def matmul_nt(
    a: torch.Tensor, b: torch.Tensor, *, kernel: str | None = None, check: Checks = None
) -> torch.Tensor:
    """Multiply by a transpose: C = A B^T, with b [..., N, K]. Otherwise as ``matmul``.

    Computes the product of queries and keys, Q K^T, without a copy of K.
    """
    with calling("matmul_nt", kernel, check, {"a": a, "b": b}):
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

    out: float32, with any row stride; it must not overlap either input, and its elements must not
    overlap each other.
    """
    with calling("matmul_out", kernel, check, {"a": a, "b": b, "out": out}):
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
    with calling("matmul_nt_out", kernel, check, {"a": a, "b": b, "out": out}):
        torch.ops.workbench.matmul_nt_out(a, b, out, kernel or "")
    return out


# What it should compute, and how accurately.


def reference(a: torch.Tensor, b: torch.Tensor, trans_b: bool) -> torch.Tensor:
    """A B, or A B^T, in float64: ``[..., M, K]`` and ``[..., K, N]`` to ``[..., M, N]``."""
    right = b.double()
    return a.double() @ (right.mT if trans_b else right)


def tolerance(a: torch.Tensor, b: torch.Tensor, trans_b: bool) -> torch.Tensor:
    """Bound on the error of C = A B (or A B^T) with K terms per sum.

    |C - C_ref| <= (gamma(K) + u_out') (|A| |B|) + K 2^-126, where u_out' = u_out for outputs
    narrower than fp32 and 0 for fp32. Where all inputs are integers and |A| |B| <= 2^24,
    every partial sum is exact in fp32 and the bound is 0.

    Source: Higham, section 3.5, for any order of summation; the last term is for products
    below the normal numbers.
    """
    terms = a.shape[-1]
    right = (b.mT if trans_b else b).double().abs()
    magnitude = a.double().abs() @ right
    error = rounding.gamma(terms)
    if a.dtype != torch.float32:
        error += rounding.unit_roundoff(a.dtype)
    allowed = error * magnitude + terms * rounding.SMALLEST_NORMAL
    if a.dtype == torch.float32 and rounding.are_integers(a) and rounding.are_integers(b):
        allowed = torch.where(magnitude <= rounding.EXACT_SUM, 0.0, allowed)
    return allowed


def _transposed(case: Case) -> bool:
    return "trans_b" in OPERATOR.asked(case)


def _expect(given: Tensors, case: Case) -> dict[str, Expected]:
    args = given["a"], given["b"], _transposed(case)
    return {"out": Expected(reference(*args), tolerance(*args))}


def _by_torch(given: Tensors, case: Case) -> torch.Tensor:
    return given["a"] @ (given["b"].mT if _transposed(case) else given["b"])


def _cublas(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        right = given["b"].mT if _transposed(case) else given["b"]
        return torch.matmul(given["a"], right, out=outputs["out"])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


# The operator as the harness sees it.


def _tensors(case: Case, layout: Layout) -> dict[str, TensorSpec]:
    m, n, k = case.shape.numbers()
    batch = {name: () if name in layout.shared else layout.batch for name in ("a", "b", "out")}
    return {
        "a": TensorSpec((*batch["a"], m, k)),
        "b": TensorSpec((*batch["b"], *((n, k) if "trans_b" in layout.options else (k, n)))),
        "out": TensorSpec((*batch["out"], m, n), output=True),
    }


def _flops(case: Case) -> int:
    return 2 * math.prod(OPERATOR.layout(case).batch) * math.prod(case.shape.numbers())


_NT = ("trans_b",)
_ALL_PADDED = dict.fromkeys(("a", "b", "out"), "padded")

OPERATOR = Operator(
    name="matmul",
    sizes=("M", "N", "K"),
    layouts={
        "nn": Layout(),
        "nt": Layout(options=_NT),
        "batched3": Layout(batch=(3,)),
        "batched4": Layout(batch=(2, 3)),
        "batched4_nt": Layout(batch=(2, 3), options=_NT),
        "shared_b": Layout(batch=(3,), shared=frozenset("b")),
        "shared_b_nt": Layout(batch=(3,), shared=frozenset("b"), options=_NT),
        "padded": Layout(_ALL_PADDED),
        "padded_nt": Layout(_ALL_PADDED, options=_NT),
        "padded_batch": Layout(_ALL_PADDED, (3,)),
        "padded_a_nt": Layout({"a": "padded"}, options=_NT),
        "padded_out": Layout({"out": "padded"}),
        "offset": Layout(dict.fromkeys(("a", "b", "out"), "offset")),
        "huge_a": Layout({"a": "huge"}),
        "huge_b": Layout({"b": "huge"}),
        "huge_b_nt": Layout({"b": "huge"}, options=_NT),
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
    baselines=(Baseline("cublas", _cublas),),
)
