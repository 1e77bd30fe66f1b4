"""Timing: summaries, turns and budgets; and the peaks that rates are compared with."""

import itertools
import time

import pytest
import torch

from workbench.harness import timing
from workbench.harness.roofs import fp32_tflops, memory_gbps


def test_timing_summary():
    assert timing.summarize([3.0]) == timing.Timing(3.0, 0.0, 1)
    assert timing.summarize([5.0, 1.0, 2.0, 3.0, 4.0]) == timing.Timing(3.0, 2.0, 5)
    assert timing.rounds_for(1.0, 50.0) == 50
    assert timing.rounds_for(20.0, 50.0) == timing.ROUNDS[0]
    assert timing.rounds_for(60.0, 400.0) == 6
    assert timing.rounds_for(1e9, 50.0) == timing.SLOW_ROUNDS
    assert timing.rounds_for(0.0, 50.0) == timing.rounds_for(1e-9, 50.0) == timing.ROUNDS[1]


def test_a_slow_run_sits_out_most_turns():
    for turns, wanted in ((100, 3), (100, 100), (17, 10), (3, 3), (10, 1)):
        parts = [timing.takes_part(turn, turns, wanted) for turn in range(turns)]
        assert sum(parts) == wanted
        gaps = [b - a for a, b in itertools.pairwise(i for i, part in enumerate(parts) if part)]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_slow_runs_do_not_take_the_time_of_the_others(monkeypatch):
    ms, calls = {"naive": 600.0, "fast": 2.0, "copy": 1.0}, []

    def one_round(runs):
        calls.extend(runs)
        return {name: ms[name] for name in runs}

    monkeypatch.setattr(timing, "_one_round_on_cpu", one_round)
    times = timing.time_interleaved(dict.fromkeys(ms), torch.device("cpu"), budget_ms=300)
    assert {name: time.n for name, time in times.items()} == {"naive": 3, "fast": 50, "copy": 100}
    assert {name: time.median_ms for name, time in times.items()} == ms
    warm_ups = {"naive": 1, "fast": timing.WARM_UPS, "copy": timing.WARM_UPS}
    assert {name: calls.count(name) - times[name].n for name in ms} == warm_ups


def test_runs_on_the_cpu_are_timed_by_the_clock():
    runs = {"slow": lambda: time.sleep(0.02), "quick": lambda: time.sleep(0.002)}
    times = timing.time_interleaved(runs, torch.device("cpu"), budget_ms=100)
    assert times["slow"].median_ms >= 20 > times["quick"].median_ms >= 2


def test_progress_shows_on_a_terminal_alone(capsys):
    assert list(timing._with_progress(3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_roofs_from_properties():
    assert fp32_tflops(132, 128, 1.98e6) == pytest.approx(66.9, abs=0.01)
    assert memory_gbps("NVIDIA H200", 0, 0) == 4800
    assert memory_gbps("a new one", 1e6, 256) == 64
    assert memory_gbps("a new one", 0, 0) is None
    assert memory_gbps("NVIDIA H200", 3.2e6, 6144) == pytest.approx(4915.2)


@pytest.mark.parametrize(
    ("name", "gbps"),
    [
        ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A10", 600),
        ("NVIDIA A10G", None),
        ("Tesla T4", 320),
        ("Tesla V100-SXM2-16GB", 900),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA GH200 480GB", 4000),
    ],
)
def test_roofs_by_name_are_of_that_very_model(name, gbps):
    assert memory_gbps(name, 0, 0) == gbps
