"""Tests every instruction form against references independent of the simulator's code.

    python -m simulator.conformance            # on the simulator
    python -m simulator.conformance --gpu      # also on a GPU, and both compared

A family of instructions is one module: it has a `SUITE` of forms that work lane by lane (micro.py),
or `CASES` with a name and a `check(full, target)`, or both. forms.tsv lists what a family must
cover. Adding an opcode takes one entry in the family's C++ table, one function, and one row here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .micro import Program

# One line per family: the module named <family>_ops, and its rows in forms.tsv.
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
    """An element of a family's CASES."""

    name: str

    def check(self, full: bool = False, target: str = "simulator") -> None:
        """Run on a target; AssertionError if the target is wrong."""


def cases(family: str) -> list[Checked]:
    """All checks of a family."""
    module = _module(family)
    suite = getattr(module, "SUITE", None)
    return [*(suite.cases() if suite else ()), *getattr(module, "CASES", ())]


def programs(families: Iterable[str]) -> list[Program]:
    """The programs of some families' cases, to be compiled together."""
    from .micro import programs_of

    return programs_of(map(_module, families))


def compile_only(family: str, chosen: Iterable[Checked]) -> None:
    """Leave the forms of a family's other cases out of its programs, before they are compiled."""
    forms = [form for case in chosen for form in getattr(case, "needs", ())]
    for program in programs([family]):
        program.compile_only(forms)


def _module(family: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{family}_ops")
