"""Vendor baselines: the same operation by a library, timed beside the rungs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from workbench import operations
from workbench.problems import Case, Tensors


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
    return torch.softmax(given["x"], dim=-1, out=outputs["out"])


def _copy(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    return outputs["out"].copy_(given["x"])


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
    "softmax": (Baseline("torch", _torch_softmax), Baseline("copy", _copy, comparable=False)),
    "attention": (Baseline("efficient", _efficient, _same_mask),),
}


def torch_output(operation: str, given: Tensors, case: Case) -> torch.Tensor:
    """The main output as torch computes it on the CPU in the case's dtype, for comparison."""
    if operation == "matmul":
        transposed = operations.MATMUL.arrangement(case).b_transposed
        return given["a"] @ (given["b"].mT if transposed else given["b"])
    if operation == "softmax":
        return torch.softmax(given["x"], dim=-1)
    q, k, v = given["q"], given["k"], given["v"]
    mask = operations.references.visible(
        q.shape[-2], k.shape[-2], operations.is_causal(case.shape), q.device
    )
    scores = (operations.attention_scale(case) * (q @ k.mT)).masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v
