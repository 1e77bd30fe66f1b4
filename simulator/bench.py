"""Measures the simulator itself: ``python -m simulator.bench``.

Each row of the first table runs a rung of a ladder, or a tensor-core kernel of bench_kernels.cu,
several times and keeps the fastest launch. counts: work only, or memory accesses too. G FMA/s
counts multiply-adds of all lanes; ns is one core's time per warp instruction. The second table
compares launches with all checks, and launches with counted accesses, with launches without either.
The last lines give the time that the first launch of a kernel file takes to parse the file's PTX
and decode the kernel.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import simulator
import workbench
from build import inline, load_kernels
from workbench.toolchain import command

TILE = 128  # of the tensor-core kernels
KERNELS = Path(__file__).with_name("bench_kernels.cu")


@dataclass(frozen=True)
class Case:
    """A workload under settings of the simulator; threads 0 means every core."""

    name: str
    run: Callable[[], object]
    threads: int = 1
    checks: tuple[str, ...] = ("memcheck",)
    counts: bool = False  # also what depends on addresses


def _cases(size: int) -> list[Case]:
    torch.manual_seed(0)
    a, b = torch.randn(size, size), torch.randn(size, size)
    x = torch.randn(64, 4096)
    q, k, v = torch.randn(3, 1, 4, 256, 64)

    def matmul(rung: str) -> Callable[[], object]:
        return lambda: workbench.matmul(a, b, kernel=rung)

    tensor_cores = inline(KERNELS.read_text(), ["mma", "wgmma"], target="simulator")
    half_a, half_b = a.bfloat16(), b.bfloat16()
    c = torch.empty(size, size)

    def product(kernel: Callable[..., object]) -> Callable[[], object]:
        bits = half_a.view(torch.uint16), half_b.view(torch.uint16)
        run = functools.partial(kernel, *bits, c, size, size, size)
        run()  # wrong results are not timed
        wanted = half_a.float() @ half_b.float().T
        torch.testing.assert_close(c, wanted, rtol=1e-4, atol=1e-3)
        return run

    square = f"{size} x {size} x {size}"
    return [
        Case(f"matmul tiled, {square}", matmul("tiled")),
        Case(f"matmul tiled, {square}", matmul("tiled"), checks=()),
        Case(f"matmul tiled, {square}", matmul("tiled"), threads=0),
        Case(f"matmul tiled, {square}", matmul("tiled"), counts=True),
        Case(f"matmul tiled_16, {square}", matmul("tiled_16")),
        Case(f"matmul tiled_16, {square}", matmul("tiled_16"), counts=True),
        Case(f"matmul naive, {square}", matmul("naive")),
        Case(f"matmul naive, {square}", matmul("naive"), counts=True),
        Case(f"matmul coalesced, {square}", matmul("coalesced")),
        Case("softmax coarsened, 64 x 4096", lambda: workbench.softmax(x, kernel="coarsened")),
        Case(
            "attention flash, 4 heads, 256 x 256 x 64",
            lambda: workbench.attention(q, k, v, kernel="flash"),
        ),
        Case(f"mma.sync, {square}", product(tensor_cores.mma)),
        Case(f"mma.sync, {square}", product(tensor_cores.mma), checks=()),
        Case(f"wgmma, {square}", product(tensor_cores.wgmma)),
        Case(f"wgmma, {square}", product(tensor_cores.wgmma), checks=()),
        Case(f"wgmma, {square}", product(tensor_cores.wgmma), threads=0),
    ]


ALL_CHECKS = ("memcheck", "racecheck", "initcheck", "synccheck")


@dataclass(frozen=True)
class Slowdown:
    """Seconds of launches without checks, with all checks, or with address counters."""

    name: str
    off: float
    checked: float
    counted: float


def _slowdown(case: Case, repeats: int) -> Slowdown:
    """The workload on one core: CPU time of whole calls, the fastest of each kind."""
    kinds = ((), False), (ALL_CHECKS, False), ((), True)
    seconds = [float("inf")] * len(kinds)
    for i in range(1 + repeats):
        for kind, (checks, counting) in enumerate(kinds):
            recording = simulator.record() if counting else contextlib.nullcontext()
            with simulator.settings(threads=1, checks=checks), recording:
                start = time.process_time()
                case.run()
                if i:  # the first call decodes the kernel
                    seconds[kind] = min(seconds[kind], time.process_time() - start)
    return Slowdown(case.name, *seconds)


def _print_slowdowns(console: Console, cases: list[Case], repeats: int) -> None:
    table = Table("workload, 1 core", "off, ms", "all checks", "factor", box=None)
    for column in ("counting", "factor"):
        table.add_column(column)
    for figures in table.columns[1:]:
        figures.justify = "right"
    for name in dict.fromkeys(case.name for case in cases):
        slow = _slowdown(next(case for case in cases if case.name == name), repeats)
        cells = [f"{slow.off * 1e3:.1f}"]
        for seconds in (slow.checked, slow.counted):
            cells += [f"{seconds * 1e3:.1f}", f"{seconds / slow.off:.1f}"]
        table.add_row(name, *cells)
    console.print(table)


def _fastest(case: Case, repeats: int) -> simulator.Launch:
    """The fastest launch of the case's longest kernel."""
    launches: list[simulator.Launch] = []
    with simulator.settings(threads=case.threads, checks=case.checks):
        case.run()  # decodes the kernel
        for _ in range(repeats):
            with simulator.record(addresses=case.counts) as recorded:
                case.run()
            launches.append(max(recorded, key=lambda launch: launch.seconds))
    return min(launches, key=lambda launch: launch.seconds)


def _decode_seconds() -> dict[str, float]:
    """Kernel file -> how much longer the process's first launch takes than its second."""
    load_kernels("simulator")
    x, qkv = torch.ones(1, 1), torch.ones(3, 1, 1, 1, 32)
    files = {
        "matmul.cu": lambda: workbench.matmul(x, x, kernel="tiled"),
        "softmax.cu": lambda: workbench.softmax(x, kernel="coarsened"),
        "attention_flash.cu": lambda: workbench.attention(*qkv, kernel="flash"),
    }
    return {name: _seconds(run) - _seconds(run) for name, run in files.items()}


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every case and print the tables."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size",
        type=command.Whole(TILE, 32 * TILE, TILE),
        default=512,
        help=f"M, N and K of the matmuls: a multiple of {TILE} (512)",
    )
    parser.add_argument(
        "--repeats",
        type=command.Whole(1, 1000),
        default=5,
        help="runs per row, fastest kept (5)",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    decoding = _decode_seconds()
    table = Table(
        "workload", "cores", "checks", "counts", "ms", "G FMA/s", "per core", "ns", box=None
    )
    for column in table.columns[4:]:
        column.justify = "right"
    cases = _cases(options.size)
    for case in cases:
        launch = _fastest(case, options.repeats)
        used = case.threads or cores
        fma_rate = launch.flops / 2 / launch.seconds / 1e9
        table.add_row(
            case.name,
            str(used),
            ", ".join(case.checks) or "none",
            "all" if case.counts else "work",
            f"{launch.seconds * 1e3:.1f}",
            f"{fma_rate:.2f}",
            f"{fma_rate / used:.2f}",
            f"{launch.seconds * used / launch.warp_instructions * 1e9:.1f}",
        )
    console = Console(width=None if os.isatty(1) else 120)
    console.print(table)
    _print_slowdowns(console, cases, options.repeats)
    for name, seconds in decoding.items():
        console.print(f" {name}: parsed and decoded in {seconds * 1e3:.1f} ms", highlight=False)


if __name__ == "__main__":
    command.run(main)
