"""Attention alone, a rung beside PyTorch: is it right, how long does it take, how much memory?

The inputs, the tolerance and the reports are those of Stanford CS149's assignment on attention.
There the memory that a part allocates before its measured region is not counted, above all the
tiles of part 4; here it is everything that is allocated while the call runs, at its peak.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from workbench.estimate import DEFAULT_GPU, GPUS, estimated
from workbench.harness import counters, terminal
from workbench.harness.figures import amount, duration, of
from workbench.operators import builds

from .attend import TORCH, Rung, by_torch

BATCH, HEADS, DIM = 1, 4, 32
ROWS = 10  # of the profiler's table
TITLES = {
    "torch": "PYTORCH ATTENTION",
    "naive": "NAIVE ATTENTION",
    "blocked": "BLOCKED MATMUL + UNFUSED SOFTMAX",
    "fused_row": "FUSED ATTENTION",
    "flash": "FLASH ATTENTION",
}
# Of the largest difference from PyTorch: by the dtype that the rung computes in.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Measured:
    """A call.

    Attributes:
        out: its result.
        seconds: its time, after a warm-up; on the simulator that of the simulation.
        peak_bytes: the most memory that was allocated while it ran, with the result; that of the
            rung's device.
        table: the profiler's rows that allocate most, as text.
    """

    out: torch.Tensor
    seconds: float
    peak_bytes: int
    table: str


def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Q, K and V [1, 4, N, 32], float32, the same for all heads: element [i, j] is linear in both.

    Scores grow with N: at most 4.1 at N = 1024, 65 at 4096, 258 at 8192, where exp(258) is infinite
    in float32.
    """
    i, j = torch.arange(n, dtype=torch.float32)[:, None], torch.arange(DIM, dtype=torch.float32)
    one = (2e-4 * i + 1e-4 * j, 6e-4 * i + 3e-4 * j, 1.5e-4 * i + 8e-4 * j)
    q, k, v = (x.expand(BATCH, HEADS, n, DIM).contiguous() for x in one)
    return q, k, v


def title(rung: Rung) -> str:
    """The rung's title in reports."""
    name = rung.name.removeprefix("cpu_")
    return TITLES.get(name, name.upper())


def reference_bytes(n: int) -> int:
    """What the reference allocates: the scores and the weights of all heads."""
    return 2 * BATCH * HEADS * n * n * 4


def measure(call: Callable[[], torch.Tensor], label: str) -> Measured:
    """Run a call three times: to warm up, to time it, and under the profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler announces itself
    on_gpu = call().is_cuda
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    start = time.perf_counter()
    out = call()
    wait()
    seconds = time.perf_counter() - start
    before = 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with record_function(label):
            call()
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else _peak(profiler)
    return Measured(out, seconds, peak, _table(profiler))


def _table(profiler: profile) -> str:
    """What PyTorch's operators took, those that allocate most first."""
    averages: Any = profiler.key_averages()
    found = sorted(averages, key=lambda row: -row.cpu_memory_usage)
    rows = [
        [
            row.key,
            str(row.count),
            duration(row.cpu_time_total / 1e3),
            duration(row.self_cpu_time_total / 1e3),
            amount(row.cpu_memory_usage, "B"),
            amount(row.self_cpu_memory_usage, "B"),
        ]
        for row in found[:ROWS]
    ]
    file = io.StringIO()
    titles = ["operator", "calls", "time", "its own", "memory", "its own"]
    terminal.show("", titles, rows, file)
    return file.getvalue().rstrip()


def _peak(profiler: profile) -> int:
    """The largest sum of the profiler's allocations so far, in bytes."""
    peak = allocated = 0
    results: Any = profiler.profiler
    for event in results.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak


def compared(out: torch.Tensor, right: torch.Tensor, rung: Rung) -> tuple[str, bool]:
    """Whether two results agree, and by how much, in words."""
    tolerance = TOLERANCES[rung.dtype]
    same = torch.allclose(out, right, atol=tolerance)
    largest = float((out - right).abs().max())
    words = f"attention equals the reference: {same} (largest difference {largest:.2g}"
    return f"{words}, allowed {tolerance:g})", same


def run(rung: Rung, n: int, br: int, bc: int, show: Callable[[str], None] = print) -> bool:
    """Run a rung on ``inputs(n)`` and report; whether it is right.

    br, bc: queries and keys per tile, for rungs that have the choice.
    """
    q, k, v = inputs(n)
    on = of(torch.get_num_threads(), "thread") if rung.target == "cpu" else rung.target
    tiles = f", br={br} bc={bc}" if rung.tiles else ""
    show(f"{rung.name} ({on}): B={BATCH} H={HEADS} N={n} D={DIM}{tiles}, no mask, no scale\n")
    reference = measure(lambda: by_torch(q, k, v, causal=False, scale=1.0), "reference")
    show(f"{reference.table}\n")
    show(_statistics("REFERENCE", title(rung), reference, ()))
    if rung.name == TORCH:
        return True
    placed = [x.to(rung.device, rung.dtype) for x in (q, k, v)]

    def call() -> torch.Tensor:
        return rung.run(*placed, causal=False, scale=1.0, br=br, bc=bc)

    own = measure(call, rung.name)
    words, same = compared(own.out.to("cpu", torch.float32), reference.out, rung)
    show(f"\n{words}")
    if not same:
        show("YOUR ATTENTION GAVE INCORRECT RESULTS")
    show(f"\n{own.table}\n")
    more = [f"of which scratch: {builds.scratch_bytes(rung.target)} bytes"]
    if rung.target == "simulator":
        more.append(_estimate(call))
    show(_statistics("YOUR", title(rung), own, more))
    if rung.target == "cpu":
        show(f"speed relative to the reference: {reference.seconds / own.seconds:.2f}x")
    return same


def _statistics(whose: str, what: str, measured: Measured, more: Sequence[str]) -> str:
    lines = [
        f"{whose} - {what} statistics",
        f"cpu time: {1e3 * measured.seconds:.3f} ms",
        f"mem usage: {measured.peak_bytes} bytes",
    ]
    return "\n".join([*lines, *more])


def _estimate(call: Callable[[], Any]) -> str:
    gpu = GPUS[DEFAULT_GPU]
    found = estimated(counters.record(call), op="attention", gpu=gpu)
    if isinstance(found, str):
        return found
    return f"that is the simulator's time; estimate for an {gpu.title}: {duration(found.time_ms)}"
