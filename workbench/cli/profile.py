"""``--profile``: Nsight Compute's figures of a rung, beside what the simulator counts."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import simulator
from simulator.compare import measure, metrics, ncu
from workbench import estimate
from workbench.cli import once
from workbench.estimate.gpus import by_device
from workbench.harness.figures import amount, duration, percent
from workbench.harness.launched import Launched, Recorder
from workbench.harness.terminal import progress, show
from workbench.operators.builds import Rung
from workbench.operators.operator import Case, Operator
from workbench.toolchain import nvidia_tools
from workbench.toolchain.errors import Failure

WHOLE = 1e8  # FLOP, or bits moved, of a case that the simulator runs whole in a moment
SECONDS = 300.0  # ncu runs a launch again for every few metrics
TIME, OCCUPANCY = "gpu__time_duration.sum", "sm__warps_active.avg.pct_of_peak_sustained_active"
REGISTERS, INSTRUCTIONS = "launch__registers_per_thread", "smsp__inst_executed.sum"
ESTIMATED = ("time", "occupancy", "registers")
TITLES = ("figure", "measured", "simulator", "difference")
LEGEND = """\
measured: by Nsight Compute, the sum of the launches; est.: an ESTIMATE (docs/estimate.md); others:
counts. docs/counters.md says what they count, and why some differ"""


@dataclass(frozen=True)
class Figure:
    """A figure of a rung: as measured, and as counted or estimated."""

    name: str
    measured: float | None
    counted: float | None

    def cells(self) -> list[str]:
        """Its row of the table."""
        text = {"time": duration, "occupancy": percent}.get(self.name, amount)
        ours = text(self.counted)
        if self.name in ESTIMATED and self.counted is not None:
            ours = f"est. {ours}"
        return [self.name, text(self.measured), ours, self.difference()]

    def difference(self) -> str:
        """How much more the simulator has than was measured."""
        if self.measured is None or self.counted is None:
            return ""
        if self.measured == self.counted:
            return "="
        return f"{100 * (self.counted / self.measured - 1):+.1f}%" if self.measured else "-"


def run(operator: Operator, rungs: Sequence[Rung], case: Case, any_dtype: bool = False) -> int:
    """Profile rungs on a GPU; return the exit status.

    Args:
        operator: what the rungs compute.
        rungs: the rungs.
        case: the input.
        any_dtype: rungs that do not support the case's dtype may have another.

    Raises:
        Failure: there is no ncu, or it measures nothing; the text says what to do.
    """
    tool = nvidia_tools.find("ncu")
    work = operator.flops(case) if operator.flops else 8 * operator.ideal_bytes(case)
    sample = operator.sampled([case]) if work > WHOLE else 0
    recorder = Recorder(operator, case, sample, any_dtype)
    failed = False
    for rung in rungs:
        found: list[Figure] = []
        with progress(3) as step:
            step(f"{rung.name} on the simulator")
            launched = recorder.of(rung)
            if not launched.why:
                step(f"{rung.name} under ncu")
                rows = profile(tool, operator, launched)
                step(f"{rung.name}: estimating")
                found = figures(operator, launched, rows)
        title = f"{operator.name} {rung.name}, {launched.case.text} {launched.case.dtype}"
        if launched.why:
            print(f"\n{title}\n{rung.name} {launched.why}")
            failed |= launched.failed
            continue
        print()
        show(title, TITLES, [figure.cells() for figure in found])
        print(_ran(launched.launches))
    print(f"\n{LEGEND}")
    return int(failed)


def profile(tool: Path, operator: Operator, launched: Launched) -> list[dict[str, float]]:
    """Run a rung under ncu; the metrics of each of its launches, in order.

    Raises:
        Failure: it measures nothing, or other launches than the simulator ran.
    """
    names = [ncu.base_name(launch.kernel) for launch in launched.launches]
    pattern = "|".join(dict.fromkeys(names))
    options = ("--kernel-name", f"regex:^({pattern})$", "--launch-count", str(len(names)))
    program = (sys.executable, "-m", once.MODULE)
    case = launched.case
    about = ([str(case.shape)], [case.layout], [case.dtype], case.written_options.split())
    words = once.words(operator.name, [launched.rung], *about)
    wanted = [metric for parts in metrics.METRICS.values() for metric in parts]
    wanted = list(dict.fromkeys([*wanted, TIME, OCCUPANCY, REGISTERS, INSTRUCTIONS]))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        why, rows, wanted = measure.profile(log, wanted, options, [*program, *words], SECONDS, tool)
    if nvidia_tools.NO_PERMISSION in why:
        advice = nvidia_tools.ADVICE[nvidia_tools.NO_PERMISSION]
        raise Failure(f"ncu has no permission to count ({nvidia_tools.NO_PERMISSION}):\n{advice}")
    ran = [ncu.base_name(row["Kernel Name"]) for row in rows]
    if ran != names:
        said = f"\n{why}" if why else ""
        raise Failure(
            f"{launched.rung.name} launches {', '.join(names)} on the simulator; ncu measured "
            f"{', '.join(ran) or 'nothing'}{said}"
        )
    return [measure.numbers(row, wanted) for row in rows]


def figures(
    operator: Operator, launched: Launched, rows: Sequence[Mapping[str, float]]
) -> list[Figure]:
    """The figures of a rung's launches, without those that are 0 on both sides."""
    longest = max(rows, key=lambda row: row.get(TIME, 0.0))
    occupancy = longest.get(OCCUPANCY)
    share = None if occupancy is None else occupancy / 100
    taken = (_sum(rows, TIME, 1e-6), share, longest.get(REGISTERS))
    found = [
        Figure(name, value, ours)
        for name, value, ours in zip(ESTIMATED, taken, _estimated(operator, launched), strict=True)
    ]
    instructions = sum(launch.warp_instructions for launch in launched.launches)
    found.append(Figure("warp_instructions", _sum(rows, INSTRUCTIONS), instructions))
    measured = [ncu.measured(row) for row in rows]
    for name in metrics.METRICS:
        ours = sum(getattr(launch, name) for launch in launched.launches)
        theirs = [row[name] for row in measured if name in row]
        if ours or any(theirs):
            found.append(Figure(name, sum(theirs) if theirs else None, ours))
    return found


def _sum(rows: Sequence[Mapping[str, float]], name: str, factor: float = 1.0) -> float | None:
    values = [row[name] for row in rows if name in row]
    return factor * sum(values) if values else None


def _estimated(operator: Operator, launched: Launched) -> tuple[float | None, ...]:
    """The ESTIMATED for this GPU; None if it is not one of those known, or there is no estimate."""
    gpu = by_device(torch.cuda.get_device_name())
    none = (None,) * len(ESTIMATED)
    if gpu is None:
        return none
    sources = estimate.ladder_sources(operator.name)
    try:
        found = estimate.estimate_launches(launched.launches, sources, gpu)
    except estimate.EstimateError:
        return none
    return found.time_ms, found.occupancy.fraction, found.registers


def _ran(launches: Sequence[simulator.Launch]) -> str:
    """How much of the grids the simulator ran."""
    ran = sum(launch.sampled_blocks for launch in launches)
    every = sum(launch.num_blocks for launch in launches)
    if ran == every:
        return "the simulator ran every block"
    return f"the simulator ran {amount(ran)} of {amount(every)} blocks; its counts are scaled"
