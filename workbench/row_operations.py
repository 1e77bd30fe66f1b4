"""The operators on rows, each described once: softmax and its gradient.

A case asks for options by its shape, ``rows=4,cols=9,log=1,lse=1``, and by its scale.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from workbench import ops, references, tolerances
from workbench.problems import Arrangement, Case, Expected, Operation, Tensors, tensor_dtype
from workbench.shapes import Shape, ShapeKeys

MANY_ELEMENTS = 2**24  # a case of rows with more repeats its rows


def distinct_rows(case: Case) -> Case:
    """The case itself, or of many elements one with a few rows, to be repeated.

    Their number is prime, so that a row read or written in another's place shows.
    """
    rows, cols = case.shape["rows"], case.shape["cols"]
    if rows * cols <= MANY_ELEMENTS:
        return case
    few = min(rows, max(5, MANY_ELEMENTS // 4 // cols))
    while few > 1 and any(few % i == 0 for i in range(2, math.isqrt(few) + 1)):
        few -= 1
    return with_rows(case, few)


def with_rows(case: Case, rows: int) -> Case:
    """The case with another number of rows."""
    sizes = ((key, rows if key == "rows" else size) for key, size in case.shape.sizes)
    return dataclasses.replace(case, shape=Shape(tuple(sizes)))


# What the benchmark of an operation on rows looks at: short rows, rows that no vector divides,
# rows that no cache of a multiprocessor holds three times over.
ROWS_DEFAULTS = {
    "simulator": ("rows=2048,cols=1024", "rows=1024,cols=4099", "rows=132,cols=65536"),
    "gpu": (
        "rows=1024,cols=1024",
        "rows=4096,cols=4096",
        "rows=16384,cols=1024",
        "rows=32768,cols=4096",
        "rows=16384,cols=16384",
        "rows=8192,cols=65536",
        "rows=1024,cols=1048576",
    ),
}
ROWS_DTYPES = {"simulator": ("float32",), "gpu": ("float32", "bfloat16")}


def has(case: Case, option: str) -> bool:
    """Whether a case's shape says ``log=1``, ``lse=1`` or ``dlse=1``."""
    return dict(case.shape.sizes).get(option, 0) != 0


def scale_of(case: Case) -> float:
    """The scale of a case; None means 1."""
    return 1.0 if case.scale is None else case.scale


def _options(case: Case) -> tuple[str, ...]:
    asked = {
        "scale": scale_of(case) != 1,
        "log": has(case, "log"),
        "lse": has(case, "lse") or has(case, "dlse"),
    }
    return tuple(option for option, wanted in asked.items() if wanted)


def _row_bytes(case: Case, tensors: int) -> int:
    """Of tensors with the case's elements, and of a number for each row where it has one."""
    rows = case.shape["rows"]
    more = rows * tensor_dtype("lse", case).itemsize if "lse" in _options(case) else 0
    return tensors * case.itemsize * rows * case.shape["cols"] + more


def _matrix(case: Case) -> tuple[int, int]:
    return case.shape["rows"], case.shape["cols"]


# softmax: y = softmax(scale * x), or its logarithm, and the log-sum-exp


def _softmax_inputs(case: Case, arrangement: Arrangement) -> dict[str, tuple[int, ...]]:
    return {"x": _matrix(case)}


def _softmax_outputs(case: Case, arrangement: Arrangement) -> dict[str, tuple[int, ...]]:
    out = {"out": _matrix(case)}
    return {**out, "lse": (case.shape["rows"],)} if has(case, "lse") else out


def _softmax_launch(target: str, given: Tensors, out: Tensors, case: Case, kernel: str) -> None:
    options = scale_of(case), has(case, "log")
    ops.call(target, "softmax_out", given["x"], out["out"], out.get("lse"), *options, kernel)


def _softmax_expect(given: Tensors, case: Case) -> dict[str, Expected]:
    x, scale, log = given["x"], scale_of(case), has(case, "log")
    y = references.softmax(x, scale, log)
    expected = {"out": Expected(y, tolerances.softmax(x, y, scale, log)).within(x.dtype)}
    if has(case, "lse"):
        lse = Expected(references.log_sum_exp(x, scale), tolerances.log_sum_exp(x, scale))
        expected["lse"] = lse.within(tensor_dtype("lse", case))
    return expected


EDGES = (
    ("rows=9,cols=2100", "padded_out", "spiky"),
    ("rows=300,cols=37", "padded", "some_neg_inf"),
)

SOFTMAX = Operation(
    name="softmax",
    keys=ShapeKeys(("rows", "cols"), ("log", "lse")),
    arrangements={
        "contiguous": Arrangement(),
        "padded": Arrangement({"x": "padded", "out": "padded"}),
        "padded_out": Arrangement({"out": "padded"}),
        "offset": Arrangement({"x": "offset", "out": "offset"}),
        "offset_x": Arrangement({"x": "offset"}),
        "huge_x": Arrangement({"x": "huge"}),
        "huge_out": Arrangement({"out": "huge"}),
    },
    input_shapes=_softmax_inputs,
    output_shapes=_softmax_outputs,
    launch=_softmax_launch,
    expect=_softmax_expect,
    flops=None,
    ideal_bytes=lambda case: _row_bytes(case, 2),
    defaults=ROWS_DEFAULTS,
    edges=EDGES,
    default_dtypes=ROWS_DTYPES,
    distinct=distinct_rows,
    options=_options,
)


# softmax_backward: the gradient of x, given that of y


def _backward_inputs(case: Case, arrangement: Arrangement) -> dict[str, tuple[int, ...]]:
    given = {"dy": _matrix(case), "y": _matrix(case)}
    return {**given, "dlse": (case.shape["rows"],)} if has(case, "dlse") else given


def _backward_outputs(case: Case, arrangement: Arrangement) -> dict[str, tuple[int, ...]]:
    return {"out": _matrix(case)}


def _backward_finish(filled: Tensors, case: Case) -> Tensors:
    """Take the softmax of what was filled into y; make gradients whose differences are finite.

    Infinities and NaNs become the sine of their column, and no number is above a quarter of the
    largest.
    """
    y = references.softmax(filled["y"], scale_of(case), has(case, "log")).to(filled["y"].dtype)
    limit = torch.finfo(y.dtype).max / 4
    sines = torch.arange(y.shape[-1]).sin().to(y.dtype)  # many equal ones would err alike
    dy = torch.where(filled["dy"].isfinite(), filled["dy"], sines).clamp(-limit, limit)
    return {**filled, "dy": dy, "y": y}


def _backward_launch(target: str, given: Tensors, out: Tensors, case: Case, kernel: str) -> None:
    tensors = given["dy"], given["y"], given.get("dlse"), out["out"]
    options = scale_of(case), has(case, "log")
    ops.call(target, "softmax_backward_out", *tensors, *options, kernel)


def _backward_expect(given: Tensors, case: Case) -> dict[str, Expected]:
    args = given["dy"], given["y"], given.get("dlse"), scale_of(case), has(case, "log")
    out = Expected(references.softmax_backward(*args), tolerances.softmax_backward(*args))
    return {"out": out.within(given["dy"].dtype)}


SOFTMAX_BACKWARD = Operation(
    name="softmax_backward",
    keys=ShapeKeys(("rows", "cols"), ("log", "dlse")),
    arrangements={
        "contiguous": Arrangement(),
        "padded": Arrangement({"dy": "padded", "y": "padded", "out": "padded"}),
        "padded_out": Arrangement({"out": "padded"}),
        "padded_y": Arrangement({"y": "padded"}),
        "offset": Arrangement({"dy": "offset", "y": "offset", "out": "offset"}),
        "offset_dy": Arrangement({"dy": "offset"}),
        "huge_dy": Arrangement({"dy": "huge"}),
        "huge_y": Arrangement({"y": "huge"}),
        "huge_out": Arrangement({"out": "huge"}),
    },
    input_shapes=_backward_inputs,
    output_shapes=_backward_outputs,
    launch=_backward_launch,
    expect=_backward_expect,
    flops=None,
    ideal_bytes=lambda case: _row_bytes(case, 3),
    defaults=ROWS_DEFAULTS,
    edges=EDGES,
    default_dtypes=ROWS_DTYPES,
    distinct=distinct_rows,
    finish=_backward_finish,
    options=_options,
)
