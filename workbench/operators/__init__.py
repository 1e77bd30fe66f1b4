"""The operators: all that Python knows about each is in the module of its name.

A module has the operator's schema and public functions, sizes, options, layouts, reference,
tolerance, FLOPs, baselines and default shapes: ``OPERATOR``, an ``operators.operator.Operator``.
Nothing else refers to an operator by name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .operator import Operator

# The only list: each operator's name, also that of its module and ladder, and its public functions.
OPERATORS: dict[str, tuple[str, ...]] = {
    "matmul": ("matmul",),
    "softmax": ("softmax", "log_softmax"),
    "softmax_backward": ("softmax_backward",),
    "attention": ("attention",),
    "transpose": ("transpose",),
}


def get(name: str) -> Operator:
    """The description of one of OPERATORS. Raises ValueError for any other name."""
    if not isinstance(name, str) or name not in OPERATORS:
        raise ValueError(f"op is {name!r}; expected one of {', '.join(OPERATORS)}")
    return importlib.import_module(f".{name}", __name__).OPERATOR


def every() -> tuple[Operator, ...]:
    """All operators, in the order of the list."""
    return tuple(get(name) for name in OPERATORS)
