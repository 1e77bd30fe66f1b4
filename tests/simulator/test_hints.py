"""Reports of races: both sides by their calls, and advice that fits what the kernel does."""

from __future__ import annotations

import pytest
import torch

from simulator.compare import wrong
from tests.simulator.reports import ORDERS, SIZE, Reports

HINTS = Reports("hints")


def ahead() -> None:
    wrong.build()


def race(name: str, order: str, lines: tuple[str, str]) -> str:
    """The text of the report, which is a race between these lines."""
    error = HINTS.error(name, order)
    text = HINTS.text(error)
    assert error.kind == "racecheck", text
    assert {error.line, error.other_line} == {HINTS.line(mark) for mark in lines}, text
    return text


# ---- Refills.


@pytest.mark.parametrize("order", ORDERS)
def test_a_refill_that_nothing_holds_back(order: str) -> None:
    text = race("early_refill", order, ("WRONG refill", "OTHER refill"))
    assert "the copy comes too early" in text
    assert "wait for the copy's mbarrier" not in text  # that wait is there


@pytest.mark.parametrize("order", ORDERS)
def test_a_refill_that_waits_for_some_readers(order: str) -> None:
    error = HINTS.error("half_release", order)
    text = HINTS.text(error)
    late = "while a bulk copy is still writing there" in text  # the reader comes after the copy
    assert late or order == "random"
    lines = HINTS.line("WRONG half_release"), HINTS.line("OTHER half_release")
    assert (
        (error.other_line, error.line) == lines if late else (error.line, error.other_line) == lines
    )
    assert "the copy comes too early" in text
    assert "wait for the copy's mbarrier" not in text


@pytest.mark.parametrize("order", ORDERS)
def test_a_refill_behind_a_stale_wait(order: str) -> None:
    text = race("stale_empty", order, ("WRONG refill", "OTHER refill"))
    assert f"the wait for the mbarrier 'empty' at {HINTS.at('WAIT empty')} passed at once" in text
    assert "The parity alternates" in text


@pytest.mark.parametrize("order", ORDERS)
def test_a_stage_that_is_released_before_it_is_read(order: str) -> None:
    text = race("early_release", order, ("WRONG refill", "OTHER refill"))
    assert f"'empty' at {HINTS.at('WAIT empty')}, before the copy, does not cover this read" in text
    assert "arrive after the last read" in text


@pytest.mark.parametrize("order", ORDERS)
def test_a_parity_that_never_flips(order: str) -> None:
    text = race("stale_full", order, ("WRONG refill", "OTHER refill"))
    assert f"the wait for the mbarrier 'full' at {HINTS.at('WAIT full')} passed at once" in text
    text = race("stale_exchange", order, ("WRONG stale_exchange", "OTHER stale_exchange"))
    assert f"'full' at {HINTS.at('WAIT stale_exchange')} passed at once" in text
    assert "__syncthreads" not in text.splitlines()[-1]


@pytest.mark.parametrize("order", ORDERS)
def test_a_wait_that_is_missing_is_advised(order: str) -> None:
    text = race("waits_once", order, ("WRONG waits_once", "OTHER waits_once"))
    assert "wait for the copy's mbarrier first" in text


# ---- The other side.


@pytest.mark.parametrize("order", ORDERS)
def test_stores_of_two_blocks(order: str) -> None:
    text = race("overlapping_stores", order, ("WRONG overlapping_stores",) * 2)
    assert "while a bulk copy is still writing there: that of block " in text
    assert "the copy of block " in text
    assert "do their tiles overlap?" in text and "wait_group" not in text


@pytest.mark.parametrize("order", ORDERS)
def test_both_sides_have_their_chain(order: str) -> None:
    text = HINTS.text(HINTS.error("helpers", order))
    assert text.count("inlined at") == 2, text
    assert f"inlined at {HINTS.at('CALL put')}" in text
    assert f"inlined at {HINTS.at('CALL get')}" in text


@pytest.mark.parametrize("order", ORDERS)
def test_a_copy_is_named_by_its_call(order: str) -> None:
    text = race("two_loads", order, ("WRONG two_loads", "OTHER two_loads"))
    assert "load_tile(B" in text and "inlined there: " in text and "'B'" in text


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["block_spin", "warp_spin"])
def test_a_plain_read_in_a_spin_loop(name: str, order: str) -> None:
    text = HINTS.text(HINTS.error(name, order))
    assert "plain read" in text.splitlines()[0] and "spin loop" in text.splitlines()[0], text
    assert "the compiler may read once" in text


@pytest.mark.parametrize("order", ORDERS)
def test_a_search_is_no_spin_loop(order: str) -> None:
    text = HINTS.text(HINTS.error("search", order))
    assert "spin" not in text and "__syncthreads()" in text


# ---- cp.async.


@pytest.mark.parametrize("order", ORDERS)
def test_copies_of_a_thread(order: str) -> None:
    lines = ("WRONG lane_copies", "OTHER lane_copies")
    text = race("copies_uncommitted", order, lines)
    assert "the copy is in no group yet" in text and "cp.async.commit_group" in text
    text = race("copies_no_wait", order, lines)
    assert "while cp.async is still writing there" in text and "cp.async.wait_group or" in text
    text = race("copies_refill", order, ("WRONG copies_refill", "OTHER copies_refill"))
    assert "wait_group" not in text and "__syncthreads()" in text


@pytest.mark.parametrize("order", ORDERS)
def test_copies_that_nobody_has_waited_for_yet(order: str) -> None:
    text = HINTS.text(HINTS.error("copies_no_barrier", order))
    assert "cp.async.wait_group or wait_all by the thread that copies" in text
    for name in ("copies_no_wait", "copies_no_barrier"):
        error = HINTS.error(name, order, ("initcheck",))
        assert error.kind == "initcheck" and error.line == HINTS.line("WRONG lane_copies")
        assert "only cp.async writes to shared memory in this kernel" in str(error)


@pytest.mark.parametrize("order", ORDERS)
def test_right_ones(order: str) -> None:
    data = torch.arange(float(SIZE)) % wrong.PERIOD

    def right(name: str) -> torch.Tensor:
        return HINTS.run(f"{name}_right", order)

    assert torch.equal(right("refill")[:128], data.reshape(4, 128).sum(0).flip(0))
    assert torch.equal(right("waits_once")[:128], data[:256].reshape(2, 128).sum(0).flip(0))
    assert torch.equal(right("half_release")[:64], data[:128].reshape(2, 64).sum(0).flip(0))
    assert torch.equal(right("stale_exchange")[:64], data[:128].reshape(2, 64).sum(0).flip(0))
    assert torch.equal(right("overlapping_stores")[:128], torch.cat((data[:64], data[:64] + 1)))
    assert torch.equal(right("helpers")[:64], data[:64].flip(0))
    assert torch.equal(right("two_loads")[:64], data[:64] * data[64:128].flip(0))
    assert right("block_spin")[:2].eq(6).all() and right("warp_spin")[:2].eq(6).all()
    assert right("search")[:32].eq(5).all()
    assert torch.equal(right("copies")[:256], data[:256].flip(0))
    assert torch.equal(right("copies_refill")[:64], (data[192:256] + data[448:]).flip(0))
