"""Timing on a GPU: CUDA events, cold L2 cache, medians, everything interleaved.

Speeds are comparable only side by side, so all the candidates of a shape are timed in turns:
one run of each, then the next round. Before every run the L2 cache is overwritten.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track

WARM_UPS = 3
ROUNDS = (10, 100)  # fewest, most
SLOW_MS = 500.0  # a round that takes longer warms up once and is measured SLOW_ROUNDS times
SLOW_ROUNDS = 3
# Overwritten before a run: cools the L2 cache, and lets the host queue the run meanwhile, so that
# its own overhead is not timed. Twice the L2 cache where that is more.
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


def rounds_for(one_round_ms: float, budget_ms: float) -> int:
    """How many rounds fit the budget, within ROUNDS; SLOW_ROUNDS if one takes over SLOW_MS."""
    fewest, most = ROUNDS
    if one_round_ms <= 0:
        return most
    if one_round_ms > SLOW_MS:
        return SLOW_ROUNDS
    return max(fewest, min(most, int(budget_ms / one_round_ms)))


def time_interleaved(
    runs: Mapping[str, Callable[[], None]],
    device: torch.device,
    budget_ms: float = 2000.0,
) -> dict[str, Timing]:
    """Time every run in turns on the device's current stream.

    Args:
        runs: what to time, by name; each only launches work on ``device``.
        device: a CUDA device.
        budget_ms: GPU time to spend on all of them together, about.
    """
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(max(FLUSH_BYTES, 2 * cache), dtype=torch.uint8, device=device)
    with torch.cuda.device(device):
        one_round_ms = sum(_one_round(runs, flush).values())
        if one_round_ms <= SLOW_MS:
            for _ in range(WARM_UPS - 1):
                one_round_ms = sum(_one_round(runs, flush).values())
        rounds = rounds_for(one_round_ms, budget_ms)
        measured = [_one_round(runs, flush) for _ in _with_progress(rounds)]
    return {name: summarize([times[name] for times in measured]) for name in runs}


def _with_progress(rounds: int) -> Iterable[int]:
    """Count the rounds, and show that on stderr where it is a terminal; the line goes away."""
    console = Console(stderr=True)
    return track(
        range(rounds),
        description="timing",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _one_round(runs: Mapping[str, Callable[[], None]], flush: torch.Tensor) -> dict[str, float]:
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
