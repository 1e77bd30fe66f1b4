"""The exact arithmetic behind the conformance references."""

from __future__ import annotations

import math
import random

from simulator.conformance import exact
from simulator.conformance.exact import F64, NAN
from simulator.conformance.micro import Operand, edge_cases, random_value


def test_exact_arithmetic_agrees_with_this_machine():
    """The references, rounding to nearest, against the processor's arithmetic."""
    o, rng = Operand.parse("f64"), random.Random(0)
    values = [*edge_cases(o), *(random_value(o, rng) for _ in range(200))]
    finite = [v for v in values if not F64.is_nan(v)]
    for a, b in zip(finite, finite[::-1], strict=True):
        x, y = F64.float(a), F64.float(b)
        for operation, f in ((exact.add, x.__add__), (exact.mul, x.__mul__)):
            result, wanted = operation(F64, a, b, "rn"), f(y)
            assert math.isnan(wanted) if result is NAN else F64.float(result) == wanted
        if y and x >= 0 and not math.isinf(x):
            assert F64.float(exact.sqrt(F64, a, "rn")) == math.sqrt(x)
            assert F64.float(exact.div(F64, a, b, "rn")) == x / y
