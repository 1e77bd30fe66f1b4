"""Every instruction form against references that are not the simulator's own code.

    python -m simulator.conformance            # on the simulator
    python -m simulator.conformance --gpu      # the same on a GPU, and both compared

A family of instructions is one module: it has a `SUITE` of forms that work on each lane by itself
(micro.py), or `CASES` with a name and a `check(full, target)`, or both. What a family must cover
stands in forms.tsv. Adding an opcode is one entry in the family's C++ table, one function, and one
row here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .micro import Program

# One line a family: the module of that name with "_ops" behind it, and its rows of forms.tsv.
FAMILIES = (
    "integer",
    "float",
    "compare",
    "convert",
    "half",
    "convert_narrow",
    "video",
    "move",
    "memory",
    "atomic",
    "atomic_vector",
    "warp",
    "control",
    "call",
    "cluster",
    "matrix_memory",
    "mma",
    "wmma",
    "wgmma",
    "mbarrier",
    "async_copy",
    "bulk_copy",
    "tensor_copy",
)


class Checked(Protocol):
    """What a family's CASES hold."""

    name: str

    def check(self, full: bool = False, target: str = "simulator") -> None:
        """Run on a target; AssertionError where it does something wrong."""


def cases(family: str) -> list[Checked]:
    """Everything that a family checks."""
    module = _module(family)
    suite = getattr(module, "SUITE", None)
    return [*(suite.cases() if suite else ()), *getattr(module, "CASES", ())]


def programs(families: Iterable[str]) -> list[Program]:
    """What the cases of some families run, to be compiled together."""
    from .micro import programs_of

    return programs_of(map(_module, families))


def _module(family: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{family}_ops")
