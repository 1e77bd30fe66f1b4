"""The CUDA kernel workbench: ladders of kernels behind PyTorch operators.

``from workbench import matmul, softmax, attention, rungs``: the public functions listed in
workbench.operators, ``MultiHeadAttention``, and ``inline`` and ``load`` for kernels of one's own.
They are loaded on first use, so that importing ``workbench.toolchain`` alone does not import torch.

The packages are layers, each of which imports only those below it:

    cli         command lines, tables, pages
    history     every measured row, with its sources
    plots       pictures of results
    listing     what the compiler made of a kernel
    interactive kernels from strings and files: called, checked, timed, explained
    explain     where a kernel's time goes
    estimate    how long a kernel might take on an absent GPU
    harness     checks, inputs, timing, results
    operators   all that Python knows about an operator, one module each; the current builds
    toolchain   compilers, builds, error messages
"""

from __future__ import annotations

import importlib
from typing import Any

from .operators import OPERATORS

_MODULES = {"MultiHeadAttention": ".modules", "inline": ".interactive", "load": ".interactive"}
__all__ = ["rungs", *_MODULES, *(name for names in OPERATORS.values() for name in names)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "rungs":
        return importlib.import_module(".operators.builds", __name__).rungs
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name], __name__), name)
    for module, names in OPERATORS.items():
        if name in names:
            return getattr(importlib.import_module(f".operators.{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
