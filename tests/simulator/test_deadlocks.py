"""Threads that wait for ever: the report lists everything that is waited for, and what it lacks."""

from __future__ import annotations

import pytest
import torch

import simulator
from simulator.compare import wrong
from tests.simulator.reports import ORDERS, SIZE, Reports

WAITS = Reports("waits")
ANY_CHECKS = ("all", ())


def ahead() -> None:
    wrong.build()


def columns(size: int) -> torch.Tensor:
    """What the rings compute: the sums of four tiles, reversed."""
    data = torch.arange(float(SIZE)) % wrong.PERIOD
    return data[: 4 * size].reshape(4, size).sum(0).flip(0)


# The ring whose consumers wait for `full`: what full[0] lacks, and what to do.
RINGS = {
    "ring_less": (
        "its one arrival has come, and the copies brought 16 bytes more than expect_tx announced",
        "expect_tx announces exactly the bytes",
    ),
    "ring_more": (
        "its one arrival has come, but 256 bytes that expect_tx announced have not come",
        "expect_tx announces exactly the bytes",
    ),
    "ring_no_arrival": (
        "1 of 1 arrival is missing, all bytes that expect_tx announced came",
        "mbarrier.arrive.expect_tx does both",
    ),
    "ring_unannounced": (
        "1 of 1 arrival is missing, and the copies brought 256 bytes more than expect_tx announced",
        "nobody announced the bytes that came",
    ),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("checks", ANY_CHECKS, ids=["all", "none"])
@pytest.mark.parametrize("name", RINGS)
def test_the_inconsistent_barrier_comes_first(name: str, checks, order: str) -> None:
    lacks, advice = RINGS[name]
    error = WAITS.error(name, order, checks)
    text = WAITS.text(error)
    assert error.kind == "synccheck" and error.line == WAITS.line("WRONG ring"), text
    assert error.thread is not None and error.thread[0] >= 32
    assert (
        "deadlock: 65 threads wait forever for 2 mbarriers" in text
        and "31 threads have ended" in text
    )
    full, empty = (
        text.index("the mbarrier 'full[0]': phase 0 (parity 0): "),
        text.index("'empty[0]'"),
    )
    assert full < empty
    assert lacks in text[full:empty] and f"64 threads wait at {WAITS.at('WRONG ring')}" in text
    assert "phase 0 (parity 0): 64 of 64 arrivals are missing" in text[empty:]
    assert f"1 thread waits at {WAITS.at('OTHER ring')}" in text[empty:]
    assert advice in text


@pytest.mark.parametrize("order", ORDERS)
def test_a_producer_that_does_not_wait_for_empty(order: str) -> None:
    error = WAITS.error("ring_no_empty", order)
    text = WAITS.text(error)
    if order == "descending":  # the consumers of the first warps have not read yet, or have
        assert error.kind in ("synccheck", "racecheck")
    if error.kind == "racecheck":
        return
    assert error.line == WAITS.line("WRONG ring_no_empty"), text
    assert "1 arrival too many at the mbarrier 'full[0]'" in text
    assert "its phase expects one, which has already come, and 256 bytes are still to come" in text
    assert "fills the stage again" in text and "empty" in text


@pytest.mark.parametrize("order", ORDERS)
def test_both_sides_wait_for_the_other_to_begin(order: str) -> None:
    text = WAITS.text(WAITS.error("ring_first_parity", order))
    assert "'full[0]': phase 0 (parity 0): 1 of 1 arrival is missing\n" in text
    assert "'empty[0]': phase 0 (parity 0): 64 of 64 arrivals are missing\n" in text
    assert "a wait for parity 1 passes at once" in text


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_in_a_struct(order: str) -> None:
    error = WAITS.error("struct_ring", order)
    text = WAITS.text(error)
    assert error.line == WAITS.line("WRONG struct_ring")
    assert "the mbarrier 'ring' (byte 256): phase 0 (parity 0): " in text
    assert "64 threads wait forever for the mbarrier 'ring' (byte 256); no thread has ended" in text


def test_lanes_that_arrive_together() -> None:
    error = WAITS.error("lanes_arrive", "ascending")
    text = WAITS.text(error)
    assert error.line == WAITS.line("WRONG lanes_arrive")
    assert "too many at the mbarrier 'ring' (byte 256)" in text
    assert "32 lanes execute this arrival" in text


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_stay_apart(order: str) -> None:
    text = WAITS.text(WAITS.error("three_barriers", order))
    assert "96 threads wait forever at 3 places; 32 threads have ended" in text
    for line in (
        "barrier 1: 32 of its 64 threads arrived",
        "barrier 2: 32 of its 96 threads arrived",
        "barrier 0 (__syncthreads): 32 of the block's 96 threads arrived",
    ):
        assert f"  {line}\n    32 threads wait at " in text, text


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_of_a_cluster(order: str) -> None:
    error = WAITS.error("cluster_arrival", order)
    text = WAITS.text(error)
    assert error.line in (WAITS.line("WRONG cluster_arrival"), WAITS.line("OTHER cluster_arrival"))
    assert (
        "the mbarrier 'ready' of block 1 of the cluster: phase 0 (parity 0): "
        "1 of 2 arrivals is missing\n    32 threads wait at "
    ) in text
    assert "the barrier of the cluster: 32 of its 64 threads arrived\n    32 threads" in text


@pytest.mark.parametrize("order", ORDERS)
def test_the_instruction_limit_says_who_waits(order: str) -> None:
    with simulator.settings(instruction_limit=300_000):
        error = WAITS.error("spinning", order, ())
    text = WAITS.text(error)
    assert error.kind == "limit"
    assert "the mbarrier 'ready': phase 0 (parity 0): 1 of 1 arrival is missing" in text
    assert f"32 threads wait at {WAITS.at('OTHER spinning')}" in text


@pytest.mark.parametrize("order", ORDERS)
def test_right_ones(order: str) -> None:
    data = torch.arange(float(SIZE)) % wrong.PERIOD
    for name in ("ring", "struct_ring", "lanes_arrive", "empty_once"):
        assert torch.equal(WAITS.run(f"{name}_right", order)[:64], columns(64)), name
    for name, size in (("three_barriers", 128), ("try_once", 64), ("test_once", 64)):
        out = WAITS.run(f"{name}_right", order)
        assert torch.equal(out[:size], data[:size].flip(0)), name
    assert torch.equal(WAITS.run("elected_once_right", order)[:64], data[:64].flip(0))
    assert torch.equal(WAITS.run("cluster_arrival_right", order)[:64], data[:64])
    assert torch.equal(WAITS.run("spinning_right", order)[:64], data[:64])


# ---- Waits whose answer nobody looks at.

ONCE = {
    "try_once": ("try_once", "try_once", "'full'"),
    "test_once": ("try_once", "test_once", "'full'"),
    "elected_once": ("elected_once", "elected_once", "'full'"),
    "empty_once": ("empty_once", "empty_once", "'empty'"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ONCE)
def test_a_wait_that_is_not_repeated(name: str, order: str) -> None:
    kernel, wait, barrier = ONCE[name]
    error = WAITS.error(name, order)
    text = WAITS.text(error)
    assert error.kind == "racecheck", text
    both = {WAITS.line(f"WRONG {kernel}"), WAITS.line(f"OTHER {kernel}")}
    assert {error.line, error.other_line} == both, text
    assert f"the wait for the mbarrier {barrier} at {WAITS.at(f'WAIT {wait}')} answered" in text
    assert "repeat the wait" in text


@pytest.mark.parametrize("name", ["try_once", "test_once", "elected_once"])
def test_without_the_check_waits_answer_when_they_know(name: str) -> None:
    data = torch.arange(float(SIZE)) % wrong.PERIOD
    assert torch.equal(WAITS.run(f"{name}_wrong", "ascending", ())[:64], data[:64].flip(0))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("checks", ANY_CHECKS, ids=["all", "none"])
def test_peeking_is_right(checks, order: str) -> None:
    out = WAITS.run("peek_right", order, checks)
    assert torch.equal(out[:64], columns(64))
    assert out[64:128].eq(4).all()  # who knows that a phase is complete is told so at once


@pytest.mark.parametrize("order", ORDERS)
def test_tokens_are_right(order: str) -> None:
    data = torch.arange(float(SIZE)) % wrong.PERIOD
    assert torch.equal(
        WAITS.run("tokens_right", order)[:256], data[:256].reshape(4, 64).flip(1).flatten()
    )
