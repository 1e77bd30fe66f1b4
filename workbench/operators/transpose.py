"""transpose: copies a matrix so that its rows become columns."""

from __future__ import annotations

import dataclasses

import torch

from . import builds
from .baselines import compile_baseline
from .definitions import Checks, calling, define
from .operator import Baseline, Case, Expected, Layout, Operator, Tensors, TensorSpec
from .shapes import Option, Shape

# What PyTorch sees.


def _fake(x: torch.Tensor, rotate: bool = False, rung: str = "") -> torch.Tensor:
    return x.new_empty((*x.shape[:-2], *reversed(x.shape[-2:])))


def _transpose(target: str, x: torch.Tensor, rotate: bool = False, rung: str = "") -> torch.Tensor:
    out = _fake(x)
    options = {"rotate": 1.0} if rotate else {}
    builds.launch(target, "transpose", {"x": x, "out": out}, options, rung)
    return out


define('transpose(Tensor x, bool rotate=False, str rung="") -> Tensor', _transpose, _fake)


def transpose(
    x: torch.Tensor, *, rotate: bool = False, kernel: str | None = None, check: Checks = None
) -> torch.Tensor:
    """Swap the last two dimensions, as ``x.mT.contiguous()``.

    x: [..., M, N], rank 2 or more, of a dtype that a rung supports; rows may have any stride, the
    elements of a row are adjacent, and matrices have a constant stride.
    rotate: rotate by 90 degrees clockwise instead, as ``torch.rot90(x, -1, (-2, -1))``.
    kernel: a rung of ``rungs("transpose")``; None selects the last one that accepts the input.
    check: the simulator's checks for this call, "all" or names such as ["racecheck"]; findings are
    raised as simulator.SimulatorError. ValueError for other names and for CUDA tensors.
    Returns [..., N, M], contiguous. RuntimeError names the argument, what was expected and given.
    """
    with calling("transpose", kernel, check, {"x": x}):
        return torch.ops.workbench.transpose(x, rotate, kernel or "")


# What it should compute, exactly.


def turned(x: torch.Tensor, case: Case) -> torch.Tensor:
    """What torch computes from x."""
    return torch.rot90(x, -1, (-2, -1)) if case.option("rotate") else x.mT


def _expect(given: Tensors, case: Case) -> dict[str, Expected]:
    reference = turned(given["x"], case).double()
    return {"out": Expected(reference, torch.zeros_like(reference))}


# What it is compared with.


def _torch(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    return outputs["out"].copy_(turned(given["x"], case))


def _copy(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    return outputs["out"].view(given["x"].shape).copy_(given["x"])


# The operator as the harness sees it.


def _tensors(case: Case, layout: Layout) -> dict[str, TensorSpec]:
    m, n = case.shape.numbers()
    return {
        "x": TensorSpec((*layout.batch, m, n)),
        "out": TensorSpec((*layout.batch, n, m), output=True),
    }


def _few(case: Case) -> Case:
    m, n = case.shape.numbers()
    return dataclasses.replace(case, shape=Shape((("M", min(m, 512)), ("N", min(n, 512)))))


OPERATOR = Operator(
    name="transpose",
    sizes=("M", "N"),
    options=(Option("rotate", "rotate by 90 degrees clockwise"),),
    layouts={
        "contiguous": Layout(),
        "padded": Layout({"x": "padded", "out": "padded"}),
        "padded_out": Layout({"out": "padded"}),
        "offset": Layout({"x": "offset", "out": "offset"}),
        "offset_x": Layout({"x": "offset"}),
        "batched": Layout(batch=(3,)),
        "padded_batch": Layout({"x": "padded"}, batch=(3,)),
        "batched4": Layout(batch=(2, 3)),
        "huge_x": Layout({"x": "huge"}),
        "huge_out": Layout({"out": "huge"}),
    },
    tensors=_tensors,
    expect=_expect,
    by_torch=lambda given, case: turned(given["x"], case),
    defaults={
        "simulator": ("M=8192,N=8192",),
        "gpu": ("M=4096,N=4096", "M=8192,N=8192", "M=16384,N=16384", "M=131072,N=1024"),
    },
    default_dtypes={"simulator": ("float32",), "gpu": ("float32", "bfloat16")},
    small=("M=256,N=512",),
    edges=(
        ("M=70,N=139", "padded_out", "randn"),
        ("M=139,N=70", "padded", "randn"),
        ("M=80,N=144", "batched", "randn"),  # rows of whole vectors, whatever the dtype
    ),
    baselines=(
        Baseline("torch", _torch),
        compile_baseline(lambda case: lambda given: (turned(given["x"], case).contiguous(),)),
        Baseline("copy", _copy, comparable=False),
    ),
    few=_few,
    columns=("bank conflicts",),
)
