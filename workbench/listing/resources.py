"""``--resources``: what the kernels of rungs take of a GPU, and how many fit on it at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from simulator import Launch
from workbench.estimate import Gpu, ladder_sources
from workbench.estimate.resources import Occupancy, Resources, occupancy, of_file
from workbench.harness.figures import percent
from workbench.harness.launched import Launched, Recorder
from workbench.harness.terminal import progress, show
from workbench.operators.builds import Rung
from workbench.operators.operator import Case, Operator
from workbench.toolchain.errors import BuildError

TITLES = (
    "\nrung", "threads\n/block", "\nregs.", "shared\nst. + dyn.", "\nstack", "spills\nst./ld.",
    "warps\nof most", "\nocc.", "\nlimit",
)  # fmt: skip
LEGEND = """\
regs.: registers a thread; shared: static and dynamic, bytes a block; stack, spills (stores/loads,
counted once each in the code): bytes a thread; warps: resident on a multiprocessor, of the most
possible; occ.: occupancy; limit: what keeps another block out"""
LEAST_REGISTERS = 16  # no kernel of use takes fewer


@dataclass(frozen=True)
class Row:
    """One kernel of a rung.

    Attributes:
        name: the rung's, and the kernel's if there are several.
        launch: its launch.
        resources: what the compiler reports.
        held: how much of it an SM holds.
    """

    name: str
    launch: Launch
    resources: Resources
    held: Occupancy

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return math.prod(self.launch.block)

    def cells(self, gpu: Gpu) -> list[str]:
        """Its row of the table."""
        made, held = self.resources, self.held
        dynamic = self.launch.shared_bytes - made.shared_bytes
        loads = made.spill_bytes - made.spill_store_bytes
        return [
            self.name,
            str(self.threads),
            str(made.registers),
            f"{made.shared_bytes} + {dynamic}" if self.launch.shared_bytes else "0",
            str(made.stack_bytes),
            f"{made.spill_store_bytes}/{loads}" if made.spill_bytes else "-",
            f"{held.warps}/{gpu.warps}",
            percent(held.fraction),
            held.limiter,
        ]


def run(
    operator: Operator,
    rungs: Sequence[Rung],
    case: Case,
    gpu: Gpu,
    *,
    any_dtype: bool = False,
) -> int:
    """Print the table of rungs on a GPU; return the exit status.

    Args:
        operator: what the rungs compute.
        rungs: the rungs.
        case: the input; it decides which kernels they launch, and with how many threads.
        gpu: the GPU.
        any_dtype: rungs that do not support the case's dtype may have another.
    """
    recorder = Recorder(operator, case, 1, any_dtype, gpu.capability)
    failed = False
    cells: list[list[str | Text]] = []
    rows: list[Row] = []
    with progress(2 * len(rungs)) as step:
        every = []
        for rung in rungs:
            step(f"{rung.name}, {case.text}")
            every.append(recorder.of(rung))
        for launched in every:
            step(f"{launched.rung.name}: compiling for sm_{gpu.arch}")
            found = _rows(operator, launched, gpu)
            failed |= launched.failed
            if isinstance(found, str):
                cells.append([launched.rung.name, found])
            else:
                rows += found
                cells += [list(row.cells(gpu)) for row in found]
    print()
    show(f"{operator.name} {case.text} on the {gpu.title}, sm_{gpu.arch}", TITLES, cells)
    for line in _advice(rows, gpu):
        print(line)
    print(f"\n{LEGEND}")
    others = {one.case.dtype for one in every if one.launches and one.case.dtype != case.dtype}
    if others:
        print(f"with {case.dtype}; rungs that do not support it: {', '.join(sorted(others))}")
    return int(failed)


def _rows(operator: Operator, launched: Launched, gpu: Gpu) -> list[Row] | str:
    """A row for every kernel that was launched, or why there are none."""
    if launched.why:
        return launched.why.splitlines()[0]
    distinct = {(one.kernel, one.block, one.shared_bytes): one for one in launched.launches}
    try:
        known = _resources(operator, {kernel for kernel, _, _ in distinct}, gpu)
    except BuildError as error:
        return str(error).splitlines()[0]
    kernels = [kernel for kernel, _, _ in distinct]
    names = _names(operator.name, launched.rung.name, kernels)
    rows = []
    for name, launch in zip(names, distinct.values(), strict=True):
        made = known[launch.kernel]
        threads = math.prod(launch.block)
        held = occupancy(gpu, threads, made.registers, launch.shared_bytes)
        rows.append(Row(name, launch, made, held))
    return rows


def _resources(operator: Operator, kernels: set[str], gpu: Gpu) -> dict[str, Resources]:
    """The compiler's report on kernels. Raises BuildError."""
    known: dict[str, Resources] = {}
    problem = ""
    for source in ladder_sources(operator.name):
        if kernels <= known.keys():
            break
        try:
            known |= of_file(source, gpu.arch)
        except BuildError as error:
            lines = str(error).splitlines()
            problem = f"{source.name} does not compile for sm_{gpu.arch}: {lines[0]}"
    missing = sorted(kernels - known.keys())
    if missing:
        raise BuildError(problem or f"no source file has the kernel {missing[0]}")
    return known


def _names(op: str, rung: str, kernels: Sequence[str]) -> list[str]:
    """What rows of a rung are called: by the rung, with several kernels also by these."""
    if len(kernels) == 1:
        return [rung]
    short = (kernel.split("<")[0].split("::")[-1].removesuffix("_kernel") for kernel in kernels)
    return [f"{rung}: {name.removeprefix(f'{op}_').removeprefix(f'{rung}_')}" for name in short]


# ------------------------------------------------------------------------------------------------
# What would let more fit


def _advice(rows: Sequence[Row], gpu: Gpu) -> Iterator[str]:
    """For each kernel below full occupancy, what one more block would take."""
    made = [(row.name, lift(row, gpu)) for row in rows if row.held.fraction < 1]
    if not made:
        return
    yield "\nwhat would fit more on a multiprocessor"
    width = max(len(name) for name, _ in made)
    for name, text in made:
        yield f"  {name:<{width}}  {text}"


def lift(row: Row, gpu: Gpu) -> str:
    """What would raise a kernel's occupancy: ``at most 48 registers a thread: 62%``."""
    threads, registers = row.threads, row.resources.registers
    shared, wanted = row.launch.shared_bytes, row.held.blocks + 1
    if occupancy(gpu, threads, 1, 0).blocks < wanted:  # neither registers nor memory are to blame
        return _other_threads(row, gpu)
    parts = []
    if occupancy(gpu, threads, registers, 0).blocks < wanted:
        most = range(registers, 0, -1)
        registers = next((n for n in most if occupancy(gpu, threads, n, 0).blocks >= wanted), 0)
        parts.append(f"{registers} registers a thread")
    if occupancy(gpu, threads, 1, shared).blocks < wanted:
        whole = gpu.shared_bytes // wanted // gpu.shared_unit * gpu.shared_unit
        shared = whole - gpu.shared_reserved
        parts.append(f"{shared} bytes of shared memory")
    if registers < LEAST_REGISTERS or shared < 0:
        return _other_threads(row, gpu)
    share = occupancy(gpu, threads, registers, shared).fraction
    return f"at most {' and '.join(parts)}: {percent(share)}"


def _other_threads(row: Row, gpu: Gpu) -> str:
    """A number of threads with which more warps fit, everything else a thread has unchanged."""
    made, mine = row.resources, row.held.fraction
    every = (32 * 2**n for n in range(6))
    better = [
        (abs(math.log2(threads / row.threads)), threads, held.fraction)
        for threads in every
        if threads != row.threads
        and (held := occupancy(gpu, threads, made.registers, row.launch.shared_bytes)).fraction
        > mine
    ]
    if not better:
        return "no other number of threads, with as much for each"
    _, threads, share = min(better)
    return f"{threads} threads a block: {percent(share)}"
