"""Kernels from strings for interactive use: to call, check, time and explain in a REPL or notebook.

``inline`` compiles a source (workbench.toolchain.inline) and makes each of its functions a
``Function``, whose results have a text for a terminal and HTML for a notebook.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from simulator.checks import check_names
from workbench.interactive.function import Function
from workbench.toolchain import inline as compiler
from workbench.toolchain.errors import brief
from workbench.toolchain.extension import default_target
from workbench.toolchain.inline.files import sources_of

__all__ = ["Function", "inline", "load"]


def inline(
    cuda_source: str | None = None,
    functions: str | Sequence[str] | dict[str, str] | None = None,
    *,
    target: str | None = None,
    check: str | Sequence[str] | None = None,
    **options: Any,
) -> ModuleType:
    """Compile CUDA source; return a module with a ``Function`` for each of ``functions``.

    Arguments and errors are those of workbench.toolchain.inline.inline.
    """
    if target is None:
        target = "simulator" if check is not None else default_target()

    def compiled(target: str, check: Any = None) -> ModuleType:
        named = {"target": target, "check": check} | options
        return compiler.inline(cuda_source, functions, **named)

    with brief():
        module = compiled(target, check)
        checks = () if check is None else check_names(check)
        _wrap(module, target, checks, lambda: compiled("simulator"))
        return module


def _wrap(
    module: ModuleType, target: str, checks: tuple[str, ...], on_simulator: Callable[[], ModuleType]
) -> None:
    """Make a module's functions ``Function``s."""
    made = module.__compiled__

    @functools.cache
    def twins() -> ModuleType:
        twin = on_simulator()
        _wrap(twin, "simulator", (), on_simulator)
        return twin

    for name, value in list(vars(module).items()):
        if callable(value) and not name.startswith("_") and not isinstance(value, type):
            twin = functools.partial(lambda name: getattr(twins(), name), name)
            setattr(module, name, Function(value, target, checks, made, twin))


def load(
    name: str,
    sources: Sequence[str | os.PathLike[str]],
    functions: str | Sequence[str] | dict[str, str] | None = None,
    *,
    target: str | None = None,
    check: str | Sequence[str] | None = None,
    **options: Any,
) -> ModuleType:
    """Compile .cu and .cpp files like ``inline``.

    Raises also ValueError for other files, and OSError for one that cannot be read.
    """
    with brief():
        texts = sources_of(sources, options.pop("extra_include_paths", None) or ())
    return inline(None, functions, target=target, check=check, name=name, **texts, **options)
