"""Measures the accuracy of the rungs of a ladder.

``python -m workbench.cli.precision [OP] [--json FILE]`` runs every rung that supports a dtype on
the inputs of the operator's study, on the simulator, and compares with the result in 80-bit
arithmetic. Errors are in ulp: the distance between two adjacent numbers of the dtype at the exact
result, or, if the study says so, at the largest of its row. A result that is only rounded once is
off by at most half an ulp. The table also has the study's other subjects, such as torch's kernel on
the CPU.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch

from workbench import operators
from workbench.harness import inputs
from workbench.harness.environment import environment
from workbench.harness.terminal import progress, show
from workbench.operators import builds
from workbench.operators.operator import Case, Operator, Tensors
from workbench.toolchain import REPO, command
from workbench.toolchain.files import write_whole

DTYPES = ("float32", "float64", "float16", "bfloat16")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Precision:
    """The error of one rung, or of what it is compared with, on one kind of input.

    Attributes:
        kernel: the name of the rung, or of what it is compared with.
        dtype: torch's name for it.
        input: a key of the study's inputs.
        max_ulp: largest error; None if a result is not finite where the exact one is.
        mean_ulp: mean absolute error; None likewise.
    """

    kernel: str
    dtype: str
    input: str
    max_ulp: float | None
    mean_ulp: float | None


def errors_in_ulp(got: torch.Tensor, expected: np.ndarray, *, of_rows: bool = False) -> np.ndarray:
    """The absolute error of each element, in ulp of its dtype at ``expected``.

    Elements whose exact value is below the normal numbers of the dtype are left out: float32
    results are flushed to zero there.

    Args:
        got: the result.
        expected: the exact one.
        of_rows: in ulp at the largest element of the row instead, for sums whose terms cancel.
    """
    info = torch.finfo(got.dtype)
    size = np.abs(expected)
    if of_rows:
        size = np.broadcast_to(size.max(axis=-1, keepdims=True), size.shape)
    normal = size >= info.tiny
    right = expected[normal]
    _, exponent = np.frexp(size[normal])  # size = a number in [0.5, 1) * 2^exponent
    ulp = np.ldexp(np.longdouble(info.eps), exponent - 1)
    values = got.double().numpy().astype(np.longdouble)[normal]
    return (np.abs(values - right) / ulp).astype(float)


def _run(operator: Operator, kernel: str, case: Case, given: Tensors) -> torch.Tensor:
    out = inputs.views(inputs.place_outputs(operator, case, CPU))
    operator.launch("simulator", given, out, case, kernel)
    return out[operator.main_output(case)]


def measure(operator: Operator, dtype: str, kind: str) -> Iterator[Precision]:
    """The precision of everything that supports a dtype, on one kind of input; rungs last."""
    study = operator.precision
    if study is None:
        return
    text, fill = study.inputs[kind]
    case = operator.case(text, dtype=dtype, fill=fill)
    given = inputs.views(inputs.place_inputs(operator, case, CPU))
    expected = study.exact(given)
    runs = dict(study.others(dtype))
    for rung in builds.rungs(operator.name):
        if dtype in rung.dtypes:
            runs[rung.name] = partial(_run, operator, rung.name, case)
    for name, run in runs.items():
        try:
            errors = errors_in_ulp(run(given), expected, of_rows=study.of_rows)
        except builds.Declined:
            continue
        largest, mean = float(errors.max()), float(errors.mean())
        right = math.isfinite(mean)
        yield Precision(name, dtype, kind, *((largest, mean) if right else (None, None)))


def cell(one: Precision) -> str:
    """The largest and the mean error: ``1.93 (0.31)``."""
    if one.max_ulp is None or one.mean_ulp is None:
        return "NaN"
    return f"{_short(one.max_ulp)} ({_short(one.mean_ulp)})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"


def lines(found: list[Precision], dtype: str) -> tuple[list[str], list[list[str]]]:
    """A dtype's table: its titles, and a row for everything measured."""
    mine = [one for one in found if one.dtype == dtype]
    kinds = list(dict.fromkeys(one.input for one in mine))
    kernels = dict.fromkeys(one.kernel for one in mine)
    by_place = {(one.kernel, one.input): cell(one) for one in mine}
    rows = [[kernel, *(by_place.get((kernel, kind), "") for kind in kinds)] for kernel in kernels]
    return ["", *kinds], rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; return the exit status."""
    studied = [operator.name for operator in operators.every() if operator.precision]
    parser = command.Parser(description="Measure the accuracy of a ladder, in ulp.")
    parser.add_argument("op", choices=studied, nargs="?", default=studied[0])
    parser.add_argument(
        "--json", type=command.output, metavar="FILE", help="write the results to FILE"
    )
    asked = parser.parse_args(arguments)
    operator = operators.get(asked.op)
    found: list[Precision] = []
    for dtype in DTYPES:
        kinds = operator.precision.inputs if operator.precision else ()
        with progress(len(kinds)) as step:
            for kind in kinds:
                step(f"{dtype}, {kind}")
                found += measure(operator, dtype, kind)
        print()
        show(f"{dtype}: largest (mean) error in ulp", *lines(found, dtype))
    if asked.json is not None:
        words = f"python -m workbench.cli.precision {operator.name}"
        head = asdict(environment("simulator", CPU, REPO)) | {"command": words}
        del head["clocks"]
        document = head | {"precision": [asdict(one) for one in found]}
        write_whole(asked.json, json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    command.run(main)
