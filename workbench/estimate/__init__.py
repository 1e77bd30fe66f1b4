"""Estimates how long a kernel might take on a GPU that is not available: docs/estimate.md.

    launches = counters.record(lambda: torch.ops.workbench.<op>(x))
    found = estimate_launches(launches, ladder_sources("<op>"), GPUS["t4"])
    print(found.time_ms, found.limiter)

``python -m workbench.estimate --validate`` compares estimates with measured times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.estimate import launched, resources
from workbench.estimate.gpus import DEFAULT_GPU, GPUS, Gpu
from workbench.estimate.model import Estimate, estimate
from workbench.estimate.resources import Source
from workbench.harness.results import Estimated
from workbench.operators import builds
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
    "Source",
    "begin",
    "estimate",
    "estimate_launches",
    "estimated",
    "ladder_sources",
    "prepare",
]


class EstimateError(ValueError):
    """No estimate is possible; the text says why."""


def ladder_sources(op: str) -> tuple[Path, ...]:
    """All ladder files, an operator's own first: a rung may be composed of others' kernels."""
    own = builds.sources(op)
    return (*own, *(file for file in sorted(kernels_dir().glob("*.cu")) if file not in own))


def prepare(op: str, gpu: Gpu) -> None:
    """Start compiling in the background what estimates for a GPU will need of a ladder."""
    if gpu.arch == launched.ARCH:
        return  # the kernels that are launched will do
    for source in builds.sources(op):
        resources.prepare(source, gpu.arch)


def estimate_launches(
    launches: Sequence[simulator.Launch], sources: Sequence[Path | Source], gpu: Gpu
) -> Estimate:
    """The estimated time of recorded launches.

    Args:
        launches: in order.
        sources: the files of their kernels, compiled for the GPU's architecture where the PTX
            that ran is for another.
        gpu: the GPU.

    Raises:
        EstimateError: a kernel does not compile or run on that GPU, or is in none of the files.
    """
    return _of(_resources_of(launches, sources, gpu), launches, gpu)


def begin(
    launches: Sequence[simulator.Launch], op: str, gpu: Gpu, sources: Sequence[Path] = ()
) -> Callable[[], Estimated | str]:
    """Start what the estimate of a rung's launches needs; return what completes it.

    That is the estimate for a row of results, or why there is none.

    Args:
        launches: in order.
        op: the operator.
        gpu: the GPU.
        sources: the files of their kernels; by default the operator's, then all others.
    """
    compiling = launched.begin(launches) if gpu.arch == launched.ARCH else {}

    def complete() -> Estimated | str:
        try:
            files = sources or ladder_sources(op)
            found = _of(_resources_of(launches, files, gpu, compiling), launches, gpu)
        except EstimateError as error:
            return f"no estimate for the {gpu.title}: {str(error).splitlines()[0]}"
        held = found.occupancy
        return Estimated(
            gpu.name,
            found.time_ms,
            found.band,
            found.limiter,
            held.fraction,
            held.limiter,
            found.parts,
            found.registers,
            found.shared_bytes,
            found.spill_bytes,
        )

    return complete


def estimated(launches: Sequence[simulator.Launch], op: str, gpu: Gpu) -> Estimated | str:
    """The estimate of a rung's launches for a row of results; or why there is none."""
    return begin(launches, op, gpu)()


def _of(
    known: Mapping[str, resources.Resources], launches: Sequence[simulator.Launch], gpu: Gpu
) -> Estimate:
    try:
        return estimate(launches, known, gpu)
    except ValueError as error:
        raise EstimateError(str(error)) from error


def _resources_of(
    launches: Sequence[simulator.Launch],
    sources: Sequence[Path | Source],
    gpu: Gpu,
    compiling: Mapping[str, Future[resources.Resources]] | None = None,
) -> Mapping[str, resources.Resources]:
    """What the compiler says of the kernels: from the PTX that ran, or from the source files."""
    known: dict[str, resources.Resources] = {}
    wanted = {launch.kernel for launch in launches}
    problem = ""
    if compiling is None and gpu.arch == launched.ARCH:
        compiling = launched.begin(launches)
    for kernel, made in (compiling or {}).items():
        try:
            known[kernel] = made.result()
        except BuildError as error:
            raise EstimateError(str(error)) from error
    for source in sources:
        if wanted <= known.keys():
            break
        try:
            known |= resources.of_file(source, gpu.arch)
        except BuildError as error:
            path = source.path if isinstance(source, Source) else source
            problem = f"{path.name} does not compile for sm_{gpu.arch}: " + str(error)
    missing = sorted(wanted - known.keys())
    if missing:
        raise EstimateError(problem or f"no source file has the kernel {missing[0]}")
    return known
