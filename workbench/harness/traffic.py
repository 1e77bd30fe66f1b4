"""Bytes that a rung requests and moves, relative to the minimum: what limits memory-bound kernels.

A program cannot read its own counters on a GPU. So the bytes of a case timed on a GPU are counted
on the simulator, for a smaller case that moves as many bytes per element (``Operator.few``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from workbench.harness import counters, inputs
from workbench.harness.results import Traffic
from workbench.operators.operator import Case, Operator


def counted(counts: Mapping[str, float], ideal_bytes: int) -> Traffic | None:
    """The traffic according to the counters; None for an empty input."""
    asked = counters.value(counts, "asked_bytes")
    moved = counters.value(counts, "l2_moved_bytes")
    if not ideal_bytes or asked is None or moved is None:
        return None
    return Traffic(ideal_bytes, asked / ideal_bytes, moved / ideal_bytes)


def simulated(operator: Operator, kernel: str, case: Case) -> Traffic | None:
    """The traffic of a rung on a smaller case, relative to its ideal, with the full case's ideal.

    Raises:
        workbench.toolchain.BuildError: the simulator or its kernels cannot be built here.
        RuntimeError: the rung does not run on the simulator.
    """
    few = operator.few(case)
    cpu = torch.device("cpu")
    given = inputs.views(inputs.place_inputs(operator, few, cpu))
    out = inputs.views(inputs.place_outputs(operator, few, cpu))
    launches = counters.record(lambda: operator.launch("simulator", given, out, few, kernel))
    found = counted(counters.totals(launches), operator.ideal_bytes(few))
    ideal = operator.ideal_bytes(case)
    return found and Traffic(ideal, found.asked, found.moved)


def sampled(operator: Operator, kernel: str, case: Case, blocks: int) -> dict[str, float]:
    """The counters of a rung on the simulator, scaled from so many blocks of each launch.

    Empty if it does not build or run there.
    """
    import simulator

    cpu = torch.device("cpu")
    given = inputs.views(inputs.place_inputs(operator, case, cpu))
    out = inputs.views(inputs.place_outputs(operator, case, cpu))
    try:
        with simulator.settings(sample_blocks=blocks, checks=("memcheck", "synccheck")):
            launches = counters.record(
                lambda: operator.launch("simulator", given, out, case, kernel)
            )
    except RuntimeError:  # includes BuildError
        return {}
    return counters.totals(launches)
