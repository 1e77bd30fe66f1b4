"""Common parts of operators on the rows of a matrix: softmax and its gradient."""

from __future__ import annotations

import dataclasses
import math

from .operator import DEVICES, Case, TensorSpec
from .shapes import Option, Shape

MANY_ELEMENTS = 2**24  # a larger case repeats its rows
FEW_ELEMENTS = 2**18  # approximate size of the sample that is simulated

SIZES = ("rows", "cols")
SCALE = Option("scale", "multiplies x", number=True, plain=1.0)
LOG = Option("log", "the logarithm of the softmax")


def matrix(case: Case, *, output: bool = False) -> TensorSpec:
    """A tensor of [rows, cols]."""
    return TensorSpec((case.shape["rows"], case.shape["cols"]), output)


def of_rows(case: Case, *, output: bool = False) -> TensorSpec:
    """A statistic: one number per row."""
    return TensorSpec((case.shape["rows"],), output, statistic=True)


def distinct(case: Case) -> Case:
    """The case itself, or for a large one a case with a few rows, to be repeated.

    Their number is prime, so that reading or writing the wrong row shows.
    """
    rows, cols = case.shape.numbers()
    if rows * cols <= MANY_ELEMENTS:
        return case
    few_rows = min(rows, max(5, MANY_ELEMENTS // 4 // cols))
    while few_rows > 1 and any(few_rows % i == 0 for i in range(2, math.isqrt(few_rows) + 1)):
        few_rows -= 1
    return with_rows(case, few_rows)


def few(case: Case) -> Case:
    """A case of the same width with few enough rows to simulate quickly."""
    rows, cols = case.shape["rows"], max(1, case.shape["cols"])
    return with_rows(case, min(rows, max(1, FEW_ELEMENTS // cols)))


def with_rows(case: Case, rows: int) -> Case:
    """The case with a different number of rows."""
    shape = Shape((("rows", rows), ("cols", case.shape["cols"])))
    return dataclasses.replace(case, shape=shape)


# What the benchmark of an operator on rows looks at: rows that no cache of a multiprocessor
# holds three times over, and rows that fit into the registers of a warp.
DEFAULTS = {
    "simulator": ("rows=2048,cols=32768", "rows=32768,cols=1024"),
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
DTYPES = {target: ("float32",) for target in DEVICES} | {"gpu": ("float32", "bfloat16")}

SMALL = ("rows=64,cols=1024", "rows=8,cols=32768")

# The last is more than the registers of a block hold, whatever the dtype.
EDGES = (
    ("rows=9,cols=2100", "padded_out", "spiky"),
    ("rows=300,cols=37", "padded", "some_neg_inf"),
    ("rows=2,cols=33001", "padded", "spiky"),
)
