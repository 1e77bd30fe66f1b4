"""How long a kernel might take on a GPU that is not there: docs/estimate.md.

    launches = counters.record(lambda: softmax(x))
    found = estimate_launches(launches, ladder_sources("softmax"), GPUS["t4"])
    print(found.time_ms, found.limiter)

``python -m workbench.estimate --validate`` sets estimates beside times that were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import builds
from workbench.estimate import resources
from workbench.estimate.gpus import DEFAULT_GPU, GPUS, Gpu
from workbench.estimate.model import Estimate, estimate
from workbench.toolchain.errors import BuildError
from workbench.toolchain.paths import kernels_dir

if TYPE_CHECKING:
    import simulator

__all__ = [
    "DEFAULT_GPU",
    "GPUS",
    "Estimate",
    "EstimateError",
    "Gpu",
    "estimate",
    "estimate_launches",
    "ladder_sources",
    "prepare",
]


class EstimateError(ValueError):
    """There is no estimate; the text says why."""


def ladder_sources(operation: str) -> tuple[Path, ...]:
    """All ladder files, an operation's own first: a rung may call another ladder's kernels."""
    own = builds.sources(operation)
    return (*own, *(file for file in sorted(kernels_dir().glob("*.cu")) if file not in own))


def prepare(operation: str, gpu: Gpu) -> None:
    """Begin to compile an operation's ladder for a GPU, while other things are done."""
    for source in builds.sources(operation):
        resources.prepare(source, gpu.arch)


def estimate_launches(
    launches: Sequence[simulator.Launch], sources: Sequence[Path], gpu: Gpu
) -> Estimate:
    """The estimated time of recorded launches.

    Args:
        launches: in order.
        sources: where their kernels are; compiled for the GPU's architecture if need be.
        gpu: the GPU.

    Raises:
        EstimateError: a kernel does not compile or run on that GPU, or is in none of the files.
    """
    known: dict[str, resources.Resources] = {}
    problem = ""
    wanted = {launch.kernel for launch in launches}
    for source in sources:
        if wanted <= known.keys():
            break
        try:
            known |= resources.of_file(source, gpu.arch)
        except BuildError as error:
            problem = f"{source.name} does not compile for sm_{gpu.arch}: " + str(error)
    missing = sorted(wanted - known.keys())
    if missing:
        raise EstimateError(problem or f"no source has the kernel {missing[0]}")
    try:
        return estimate(launches, known, gpu)
    except ValueError as error:
        raise EstimateError(str(error)) from error
