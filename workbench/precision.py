"""How exact the rungs of the softmax ladder are, measured and not bounded.

``python -m workbench.precision [--json FILE]`` runs every rung that takes a dtype on a few kinds of
rows, on the simulator, and compares with the result in 80-bit arithmetic. The error is counted in
ulp: the distance of two neighbouring numbers of the dtype, where the right result lies. A result
that is rounded once, and nothing else, is off by half of it at most.

Beside the rungs stand torch's own kernel on the CPU and, in float32, what two other ways of doing
it cost: ``unsafe`` leaves the maximum out, ``pairwise`` adds up the exponentials in a tree. Their
exponentials are exact but for one rounding.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from workbench import ops
from workbench.environment import environment
from workbench.problems import Case
from workbench.row_operations import SOFTMAX
from workbench.tables import plain, show
from workbench.toolchain import REPO, BuildError

DTYPES = ("float32", "float64", "float16", "bfloat16")
COMMAND = "python -m workbench.precision"
CPU = torch.device("cpu")
# What the rows hold, as a shape and a fill.
INPUTS = {
    "randn": ("rows=64,cols=1000", "randn"),
    "30 randn": ("rows=64,cols=1000", "tens"),
    "1e4 randn": ("rows=64,cols=1000", "large"),
    "constant": ("rows=64,cols=1000", "constant_rows"),
    "long rows": ("rows=2,cols=1048576", "randn"),
}


@dataclass(frozen=True)
class Precision:
    """The error of one rung, or of what it is compared with, on one kind of input.

    Attributes:
        kernel: the rung's name, or torch, unsafe, pairwise.
        dtype: torch's name of it.
        input: a key of INPUTS.
        max_ulp: largest error; None if a result is no finite number where the right one is.
        mean_ulp: mean of the errors' sizes; None likewise.
    """

    kernel: str
    dtype: str
    input: str
    max_ulp: float | None
    mean_ulp: float | None


def exact_softmax(x: torch.Tensor) -> np.ndarray:
    """Softmax over the last dimension in numpy's longdouble: 64 bits of precision on x86."""
    values = x.double().numpy().astype(np.longdouble)
    e = np.exp(values - values.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def errors_in_ulp(got: torch.Tensor, expected: np.ndarray) -> np.ndarray:
    """Size of the error of each element, in ulp of its dtype where ``expected`` lies.

    Elements whose right value is below the normal numbers of the dtype are left out: float32
    results are flushed to zero there.
    """
    info = torch.finfo(got.dtype)
    normal = expected >= info.tiny
    right = expected[normal]
    _, exponent = np.frexp(right)  # right = a number in [0.5, 1) * 2^exponent
    ulp = np.ldexp(np.longdouble(info.eps), exponent - 1)
    values = got.double().numpy().astype(np.longdouble)[normal]
    return (np.abs(values - right) / ulp).astype(float)


def _run_rung(kernel: str) -> Callable[[Case, torch.Tensor], torch.Tensor]:
    def run(case: Case, x: torch.Tensor) -> torch.Tensor:
        given = {name: placed.view for name, placed in SOFTMAX.place_inputs(case, CPU).items()}
        out = {name: placed.view for name, placed in SOFTMAX.place_outputs(case, CPU).items()}
        SOFTMAX.launch("simulator", given, out, case, kernel)
        return out["out"]

    return run


def _torch(case: Case, x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, dim=-1)


def _fp32_steps(maximum: bool) -> Callable[[Case, torch.Tensor], torch.Tensor]:
    """The definition in float32 steps; numpy adds up pairwise."""

    def run(case: Case, x: torch.Tensor) -> torch.Tensor:
        values = x.numpy()
        m = values.max(axis=-1, keepdims=True) if maximum else np.float32(0)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            e = np.exp((values - m).astype(np.float64)).astype(np.float32)
            return torch.from_numpy(e / e.sum(axis=-1, keepdims=True, dtype=np.float32))

    return run


def subjects(dtype: str) -> dict[str, Callable[[Case, torch.Tensor], torch.Tensor]]:
    """Everything that computes softmax in a dtype, by name: the rungs last, in table order."""
    found = {"torch": _torch}
    if dtype == "float32":
        found |= {"unsafe": _fp32_steps(maximum=False), "pairwise": _fp32_steps(maximum=True)}
    ladder = ops.rungs("softmax")
    return found | {rung.name: _run_rung(rung.name) for rung in ladder if dtype in rung.dtypes}


def measure(dtype: str, kind: str) -> Iterator[Precision]:
    """The precision of everything that takes a dtype, on one kind of input."""
    shape, fill = INPUTS[kind]
    case = SOFTMAX.case(shape, dtype=dtype, fill=fill)
    x = SOFTMAX.values(case)["x"]
    expected = exact_softmax(x)
    for name, run in subjects(dtype).items():
        errors = errors_in_ulp(run(case, x), expected)
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
    """A dtype's table: its titles, and a row for everything that was measured."""
    mine = [one for one in found if one.dtype == dtype]
    kinds = list(dict.fromkeys(one.input for one in mine))
    kernels = dict.fromkeys(one.kernel for one in mine)
    by_place = {(one.kernel, one.input): cell(one) for one in mine}
    rows = [[kernel, *(by_place.get((kernel, kind), "") for kind in kinds)] for kernel in kernels]
    return ["", *kinds], rows


def main() -> int:
    """Measure, print the tables, write the JSON; the exit status."""
    parser = argparse.ArgumentParser(description="How exact the rungs of softmax are, in ulp.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    file = parser.parse_args().json
    found: list[Precision] = []
    try:
        for dtype in DTYPES:
            for kind in INPUTS:
                found += measure(dtype, kind)
            print()
            show(plain(f"{dtype}: largest (mean) error in ulp", *lines(found, dtype)))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    if file is not None:
        head = asdict(environment("simulator", CPU, REPO)) | {"command": COMMAND}
        del head["clocks"]
        document = head | {"precision": [asdict(one) for one in found]}
        file.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
