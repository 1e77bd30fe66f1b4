"""``--ptx`` and ``--sass`` of the test scripts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from workbench.estimate import Gpu, ladder_sources
from workbench.estimate.resources import display_name
from workbench.explain.kernels import Kernel, by_kernel
from workbench.harness.launched import Launched, Recorder
from workbench.harness.terminal import console, progress
from workbench.listing import compiled, ptx, sass, terminal
from workbench.listing.terminal import Listing
from workbench.operators.builds import Rung
from workbench.operators.operator import Case, Operator
from workbench.toolchain.errors import BuildError


def run(
    operator: Operator,
    rungs: Sequence[Rung],
    case: Case,
    gpu: Gpu,
    *,
    machine: bool,
    by_source: bool = False,
    any_dtype: bool = False,
) -> int:
    """Print the code of the kernels that rungs launch; return the exit status.

    Args:
        operator: what the rungs compute.
        rungs: the rungs.
        case: the input; it decides which kernels they launch.
        gpu: the GPU that they are compiled for.
        machine: print machine code (SASS) rather than PTX.
        by_source: print it line by line of the source, not in its own order.
        any_dtype: rungs that do not support the case's dtype may have another.
    """
    recorder = Recorder(operator, case, operator.sample_blocks, any_dtype, gpu.capability)
    failed = False
    found = []
    with progress(2 * len(rungs)) as step:
        for rung in rungs:
            step(rung.name)
            launched = recorder.of(rung)
            step(f"{rung.name}: compiling")
            found.append((launched, _listings(operator, launched, gpu, machine)))
    for launched, listings in found:
        title = (
            f"\n{operator.name} {launched.rung.name}, {launched.case.text} {launched.case.dtype}"
        )
        console().print(Text(title, style="bold"), soft_wrap=True)
        failed |= launched.failed or isinstance(listings, str)
        if launched.why or isinstance(listings, str):
            print(listings if isinstance(listings, str) else f"{launched.rung.name} {launched.why}")
            continue
        for listing in listings:
            print()
            terminal.show(listing, by_source)
    if any(not isinstance(listings, str) and listings for _, listings in found):
        legend = terminal.LEGEND if machine else terminal.PTX_LEGEND
        console().print(Text(f"\n{legend}", style="dim"), soft_wrap=True)
    sys.stdout.flush()
    return int(failed)


def _listings(
    operator: Operator, launched: Launched, gpu: Gpu, machine: bool
) -> list[Listing] | str:
    """The code of the kernels of a rung, or why there is none."""
    made: dict[str, Listing] = {}
    try:
        for kernel in by_kernel(launched.launches, gpu):
            if kernel.name not in made:
                made[kernel.name] = listing(kernel, operator.name, gpu, machine)
    except BuildError as error:
        return str(error)
    return list(made.values())


def listing(kernel: Kernel, op: str, gpu: Gpu, machine: bool) -> Listing:
    """The code of a recorded kernel.

    Args:
        kernel: its launches.
        op: the operator whose ladder it belongs to.
        gpu: the GPU that it is compiled for.
        machine: machine code rather than PTX.

    Raises:
        BuildError: no source has the kernel, or it does not compile for that GPU.
    """
    own = [Path(path) for path, _ in kernel.lines if path.endswith(".cu")]
    for source in dict.fromkeys([*own, *ladder_sources(op)]):
        text = compiled.ptx(source, gpu.arch)
        for entry in ptx.entries(text):
            if display_name(entry) == kernel.name:
                if not machine:
                    return Listing(ptx.code(text, entry, kernel.name, gpu.arch), kernel)
                built = compiled.machine(text, entry, gpu.arch)
                return Listing(sass.code(built, kernel.name, gpu.arch), kernel)
    raise BuildError(f"no source file has the kernel {kernel.name} for sm_{gpu.arch}")
