"""Vendor baselines: the same operation by a library, timed beside the rungs on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from workbench import operations
from workbench.problems import Case, Tensors
from workbench.row_operations import has, scale_of


@dataclass(frozen=True)
class Baseline:
    """A library's implementation.

    Attributes:
        name: as in ``ratio_vs_<name>`` of the JSON format.
        run: computes the outputs from the inputs, written into ``outputs`` where the library
            can and else left behind: (inputs, outputs, case).
        applies: whether it computes the same thing on this case.
        comparable: it computes the operation, so its ``out`` is checked like a rung's.
    """

    name: str
    run: Callable[[Tensors, Tensors, Case], torch.Tensor]
    applies: Callable[[Case], bool] = lambda case: True
    comparable: bool = True


def _cublas(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return torch.matmul(given["a"], given["b"], out=outputs["out"])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _torch_softmax(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    function = torch.log_softmax if has(case, "log") else torch.softmax
    return function(given["x"], dim=-1, out=outputs["out"])


def _plain(case: Case) -> bool:
    """Torch's own kernels know log-softmax, but no scale and no log-sum-exp."""
    return scale_of(case) == 1 and not has(case, "lse") and not has(case, "dlse")


def _copy(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    return outputs["out"].copy_(given["x"])


Formula = Callable[[Tensors], tuple[torch.Tensor, ...]]


def softmax_formula(case: Case) -> Formula:
    """Softmax as a model's code would have it; with a log-sum-exp where the case wants one."""
    scale, log, lse = case.scale, has(case, "log"), has(case, "lse")
    wide = _wide(case)

    def formula(given: Tensors) -> tuple[torch.Tensor, ...]:
        x = given["x"] if scale is None and not lse else given["x"].to(wide)
        x = x if scale is None else scale * x
        y = torch.log_softmax(x, dim=-1) if log else torch.softmax(x, dim=-1)
        y = y.to(given["x"].dtype)
        return (y, torch.logsumexp(x, dim=-1)) if lse else (y,)

    return formula


def softmax_backward_formula(case: Case) -> Formula:
    """The gradient of softmax (kernels/ladder.h), in fp32 inside for narrower types."""
    scale, log, wide = case.scale, has(case, "log"), _wide(case)

    def formula(given: Tensors) -> tuple[torch.Tensor, ...]:
        dy, y = given["dy"].to(wide), given["y"].to(wide)
        total = (dy if log else dy * y).sum(dim=-1, keepdim=True)
        if "dlse" in given:
            total = total - given["dlse"][..., None]
        dx = dy - torch.exp(y) * total if log else y * (dy - total)
        dx = dx if scale is None else scale * dx
        return (dx.to(given["y"].dtype),)

    return formula


def _wide(case: Case) -> torch.dtype:
    return torch.promote_types(getattr(torch, case.dtype), torch.float32)


@functools.lru_cache(maxsize=1)
def compiled(make: Callable[[Case], Formula], case: Case) -> Formula:
    """What torch.compile makes of a formula for this case alone, its shapes being constants."""
    torch._dynamo.reset()  # after a few other shapes it would give up, and run the formula itself
    return torch.compile(make(case), dynamic=False)


def _compiled(make: Callable[[Case], Formula]) -> Callable[[Tensors, Tensors, Case], torch.Tensor]:
    def run(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
        try:
            return compiled(make, case)(given)[0]
        except Exception as error:  # no Triton, no compiler, ...: of any type
            text = next(iter(str(error).strip().splitlines()), "")
            raise RuntimeError(f"torch.compile: {type(error).__name__}: {text}") from error

    return run


def _torch_softmax_backward(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    dy, y = given["dy"], given["y"]
    aten: Any = torch.ops.aten
    if has(case, "log"):
        return aten._log_softmax_backward_data.out(dy, y, -1, y.dtype, out=outputs["out"])
    return aten._softmax_backward_data.out(dy, y, -1, y.dtype, grad_input=outputs["out"])


def _add(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    return torch.add(given["dy"], given["y"], out=outputs["out"])


def _efficient(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return scaled_dot_product_attention(
            given["q"],
            given["k"],
            given["v"],
            is_causal=operations.is_causal(case.shape),
            scale=operations.attention_scale(case),
        )


def _same_mask(case: Case) -> bool:
    """PyTorch aligns a causal mask with the first key, the workbench with the last."""
    shape = case.shape
    return shape["Nq"] == shape["Nk"] or not operations.is_causal(shape)


BASELINES = {
    "matmul": (Baseline("cublas", _cublas),),
    "softmax": (
        Baseline("torch", _torch_softmax, _plain),
        Baseline("compile", _compiled(softmax_formula)),
        Baseline("copy", _copy, comparable=False),
    ),
    "softmax_backward": (
        Baseline("torch", _torch_softmax_backward, _plain),
        Baseline("compile", _compiled(softmax_backward_formula)),
        Baseline("add", _add, comparable=False),  # two reads and a write: its copy
    ),
    "attention": (Baseline("efficient", _efficient, _same_mask),),
}


def torch_output(operation: str, given: Tensors, case: Case) -> torch.Tensor:
    """The main output as torch computes it on the CPU in the case's dtype, for comparison."""
    if operation == "matmul":
        transposed = operations.MATMUL.arrangement(case).b_transposed
        return given["a"] @ (given["b"].mT if transposed else given["b"])
    formulas = {"softmax": softmax_formula, "softmax_backward": softmax_backward_formula}
    if operation in formulas:
        return formulas[operation](case)(given)[0]
    q, k, v = given["q"], given["k"], given["v"]
    mask = operations.references.visible(
        q.shape[-2], k.shape[-2], operations.is_causal(case.shape), q.device
    )
    scores = (operations.attention_scale(case) * (q @ k.mT)).masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v
