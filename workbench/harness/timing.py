"""Timing on a GPU: CUDA events, cold L2 cache, medians, everything interleaved.

Speeds are only comparable side by side, so all candidates for a shape are timed in turns: one run
of each, then the next round. A slow one sits out most rounds, so that the others can be measured
often. The L2 cache is overwritten before every run.

On the CPU the same by the clock, with warm caches.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from rich.progress import track

from workbench.harness.terminal import console
from workbench.toolchain.terminals import can_erase

WARM_UPS = 3
ROUNDS = (10, 100)  # minimum, maximum
SLOW_MS = 50.0  # a slower run warms up once and is measured at least SLOW_ROUNDS times
SLOW_ROUNDS = 3
# Overwritten before a run: this evicts the L2 cache and lets the host queue the run meanwhile, so
# that its own overhead is not timed. Twice the L2 cache if that is more.
FLUSH_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Timing:
    """Times of ``n`` runs: the median and the interquartile range, in ms."""

    median_ms: float
    spread_ms: float
    n: int


def summarize(times_ms: Sequence[float]) -> Timing:
    """Median and interquartile range of at least one time."""
    if len(times_ms) == 1:
        return Timing(times_ms[0], 0.0, 1)
    low, middle, high = statistics.quantiles(times_ms, n=4, method="inclusive")
    return Timing(middle, high - low, len(times_ms))


def rounds_for(run_ms: float, budget_ms: float) -> int:
    """How many runs fit the budget, within ROUNDS; down to SLOW_ROUNDS if above SLOW_MS."""
    fewest, most = ROUNDS
    if run_ms <= 0:
        return most
    if run_ms > SLOW_MS:
        fewest = SLOW_ROUNDS
    return max(fewest, min(most, int(budget_ms / run_ms)))


def takes_part(turn: int, turns: int, wanted: int) -> bool:
    """Whether a run wanted that often takes part in this turn; spread evenly over all turns."""
    return (turn + 1) * wanted // turns > turn * wanted // turns


def time_interleaved(
    runs: Mapping[str, Callable[[], object]],
    device: torch.device,
    budget_ms: float = 2000.0,
) -> dict[str, Timing]:
    """Time every run in turns: ``times_interleaved``, summarized."""
    return {n: summarize(ms) for n, ms in times_interleaved(runs, device, budget_ms).items()}


def times_interleaved(
    runs: Mapping[str, Callable[[], object]],
    device: torch.device,
    budget_ms: float = 2000.0,
) -> dict[str, list[float]]:
    """The times of every run, in ms, taken in turns; on a GPU on its current stream.

    Args:
        runs: what to time, by name; on a GPU each only launches work.
        device: where they run.
        budget_ms: approximate time for all of them together, evenly shared.
    """
    one_round: Callable[[Mapping[str, Callable[[], object]]], dict[str, float]] = _one_round_on_cpu
    on_device: AbstractContextManager[object] = nullcontext()
    if device.type == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        flush = torch.empty(max(FLUSH_BYTES, 2 * cache), dtype=torch.uint8, device=device)
        one_round, on_device = partial(_one_round, flush=flush), torch.cuda.device(device)
    with on_device:
        once = one_round(runs)
        for _ in range(WARM_UPS - 1):
            quick = {name: run for name, run in runs.items() if once[name] <= SLOW_MS}
            once |= one_round(quick)
        wanted = {name: rounds_for(ms, budget_ms / len(runs)) for name, ms in once.items()}
        turns = max(wanted.values())
        measured: dict[str, list[float]] = {name: [] for name in runs}
        for turn in _with_progress(turns):
            now = {n: run for n, run in runs.items() if takes_part(turn, turns, wanted[n])}
            for name, ms in one_round(now).items():
                measured[name].append(ms)
    return measured


def _with_progress(rounds: int) -> Iterable[int]:
    """Count the rounds; if stderr is a terminal, show progress there and erase it at the end."""
    return track(
        range(rounds),
        description="timing",
        console=console(sys.stderr),
        transient=True,
        disable=not can_erase(sys.stderr),
    )


def _one_round_on_cpu(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    taken = {}
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        taken[name] = 1e3 * (time.perf_counter() - start)
    return taken


def _one_round(runs: Mapping[str, Callable[[], object]], flush: torch.Tensor) -> dict[str, float]:
    events = {}
    for name, run in runs.items():
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        flush.zero_()
        start.record()
        run()
        end.record()
        events[name] = (start, end)
    torch.cuda.synchronize(flush.device)
    return {name: start.elapsed_time(end) for name, (start, end) in events.items()}
