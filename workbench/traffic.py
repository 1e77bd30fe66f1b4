"""How many bytes a rung asks for and moves, against the least: what memory-bound kernels are about.

A GPU does not tell a program its own counters. So what is timed on a GPU is counted on the
simulator, for a few rows of the same width: what a row costs does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from workbench import counters
from workbench.problems import Case, Operation
from workbench.results import Traffic
from workbench.row_operations import with_rows

FEW_ELEMENTS = 2**18  # of the rows that are simulated in the place of all, about


def counted(counts: Mapping[str, float], ideal_bytes: int) -> Traffic | None:
    """The traffic that counters tell; None for an empty input."""
    asked = counters.value(counts, "asked_bytes")
    moved = counters.value(counts, "l2_moved_bytes")
    if not ideal_bytes or asked is None or moved is None:
        return None
    return Traffic(ideal_bytes, asked / ideal_bytes, moved / ideal_bytes)


def few_rows(case: Case) -> Case:
    """A case of the same width with few enough rows to be simulated in a moment."""
    rows, cols = case.shape["rows"], max(1, case.shape["cols"])
    return with_rows(case, min(rows, max(1, FEW_ELEMENTS // cols)))


def simulated(operation: Operation, kernel: str, case: Case) -> Traffic | None:
    """The traffic of a rung on a few of the case's rows, as shares of the ideal of all rows.

    Raises:
        workbench.toolchain.BuildError: the simulator or its kernels cannot be built here.
        RuntimeError: the rung does not run on the simulator.
    """
    few = few_rows(case)
    cpu = torch.device("cpu")
    given = {name: placed.view for name, placed in operation.place_inputs(few, cpu).items()}
    out = {name: placed.view for name, placed in operation.place_outputs(few, cpu).items()}
    launches = counters.record(lambda: operation.launch("simulator", given, out, few, kernel))
    found = counted(counters.totals(launches), operation.ideal_bytes(few))
    ideal = operation.ideal_bytes(case)
    return found and Traffic(ideal, found.asked, found.moved)
