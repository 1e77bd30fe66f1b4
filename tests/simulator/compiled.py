"""The CUDA programs of the simulator's tests, compiled together in a fraction of the time."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from simulator.conformance.micro import compile_together, programs_of


def compile_programs(modules: Sequence[ModuleType], full: bool) -> None:
    """Compile what test files define: each Program and Suite, and lists named PROGRAMS.

    A file's function `reduce`, if any, first says what the fast tier leaves out.
    """
    for module in modules:
        if not full and hasattr(module, "reduce"):
            module.reduce()
    named = [*programs_of(modules), *(p for m in modules for p in getattr(m, "PROGRAMS", ()))]
    compile_together(list(dict.fromkeys(named)), "simulator", "tests")
