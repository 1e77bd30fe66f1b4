"""What asynchronous code has to keep to, and what a report on the opposite says.

Each wrong kernel is found in every order of the warps; its right twin is silent.
"""

from __future__ import annotations

import re

import pytest

from simulator.compare import wrong
from tests.simulator.reports import ORDERS, Reports

PROTOCOLS = Reports("protocols")

# name: the kind, lines (the finding's, and the other side's if there is one), what the report says.
WRONG = {
    "early_stage": (
        "racecheck",
        ("WRONG early_stage", "OTHER early_stage"),
        ("while wgmma is still reading it", "with a number that covers this product (0: all)"),
    ),
    "no_fence": (
        "racecheck",
        ("WRONG no_fence",),
        ("the warp has executed no wgmma.fence yet", "call wgmma.fence before"),
    ),
    "stale_product": (
        "racecheck",
        ("WRONG stale_product", "OTHER stale_product"),
        (
            "while wgmma is still reading it",
            "the product is out of step",
            "passed at once",
            "The parity alternates",
        ),
    ),
    "shared_id": (
        "synccheck",
        ("WRONG shared_id", "WRONG shared_id"),
        ("barrier 1 may mix two groups of threads", "a barrier of its own"),
    ),
    "two_counts": (
        "synccheck",
        ("WRONG two_counts", "OTHER two_counts"),
        ("barrier 1 is for", "where others wait for it", "name the same count"),
    ),
    "arrives_twice": (
        "synccheck",
        ("WRONG arrives_twice", "WRONG arrives_twice"),
        ("barrier 1", "bar.arrive"),
    ),
    "two_producers": (
        "synccheck",
        ("WRONG two_producers",),
        ("1 arrival too many at the mbarrier 'full'", "is only one thread of the block to do this"),
    ),
    "one_warp": (
        "synccheck",
        ("WRONG one_warp",),
        ("warp 0 executes setmaxnreg, and warp 1 of the same warpgroup does not", "all four warps"),
    ),
    "too_many": (
        "synccheck",
        ("WRONG too_many",),
        ("40 + 248 + 248 registers a thread, and a block of 384 threads has 504 for their sum",),
    ),
    "no_group": (
        "racecheck",
        ("WRONG last_store",),
        ("exits while its copy may still read shared memory", "the copy is in no group"),
    ),
    "no_wait": (
        "racecheck",
        ("WRONG last_store",),
        ("exits while its copy may still read", "wait_group.read 0 by the thread that started"),
    ),
    "last_load": (
        "racecheck",
        ("WRONG last_load",),
        ("nobody waited for the mbarrier 'full[1]'", "wait for every copy"),
    ),
    "last_arrival": (
        "memcheck",
        ("WRONG last_arrival",),
        ("the cluster's block", "cluster.sync()", "after the last"),
    ),
    "few_bytes": (
        "racecheck",
        ("WRONG few_bytes", "OTHER few_bytes"),
        ("expect_tx announced 256 bytes to the mbarrier 'full'", "of that phase bring 512"),
    ),
    "two_copies": (
        "racecheck",
        ("WRONG two_copies", "OTHER two_copies"),
        ("is the destination right?", "'empty'"),
    ),
    "uncommitted_store": (
        "racecheck",
        ("WRONG uncommitted_store", "OTHER uncommitted_store"),
        ("the copy is in no group yet", "cp.async.bulk.commit_group"),
    ),
    "published_store": (
        "racecheck",
        ("WRONG published_store", "OTHER published_store"),
        ("not .read, which waits for the source only", "__threadfence()"),
    ),
    "lock": (
        "racecheck",
        ("WRONG lock", "WRONG lock"),
        ("atomicAdd", "__threadfence() after taking the lock", "Not __syncthreads()"),
    ),
    "bins": (
        "racecheck",
        ("WRONG bins", "WRONG bins"),
        ("several steps", "an atomic (atomicAdd) is one step"),
    ),
    "half_block": (
        "racecheck",
        ("WRONG half_block",),
        ("else bar.sync with an id and the count of those that do",),
    ),
    "early_return": (
        "initcheck",
        ("WRONG early_return",),
        ("32 threads of the block ended before its last barrier: if they return early",),
    ),
    "short_copy": (
        "initcheck",
        ("WRONG short_copy",),
        ("no thread has started a copy to this place", "the copies cover less than is read"),
    ),
}
RIGHT = [n.removesuffix("_right") for n in wrong.launchers("protocols") if n.endswith("_right")]


def ahead() -> None:
    wrong.build()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", WRONG)
def test_it_is_found_and_explained(name: str, order: str) -> None:
    kind, marks, says = WRONG[name]
    error = PROTOCOLS.error(name, order)
    text = PROTOCOLS.text(error)
    assert error.kind == kind, text
    lines = [PROTOCOLS.line(mark) for mark in marks]
    found = [error.line, error.other_line]
    assert found[: len(lines)] == lines or found[::-1][: len(lines)] == lines, text
    for said in says:
        assert said in text, text


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", RIGHT)
def test_the_right_one_is_silent(name: str, order: str) -> None:
    PROTOCOLS.run(f"{name}_right", order)


@pytest.mark.parametrize("order", ORDERS)
def test_a_read_behind_the_barrier_of_one_block(order: str) -> None:
    """Whichever block is first reads what is not written; the other one races."""
    error = PROTOCOLS.error("peer_read", order)
    text = PROTOCOLS.text(error)
    assert error.line == PROTOCOLS.line("WRONG peer_read")
    assert re.search("of the cluster's block [01]", text) and "cluster.sync()" in text


@pytest.mark.parametrize("order", ORDERS)
def test_an_mbarrier_that_others_use_at_once(order: str) -> None:
    """It depends on the order whether it is initialised by then: it is a mistake in any case."""
    error = PROTOCOLS.error("late_init", order)
    text = PROTOCOLS.text(error)
    assert error.line == PROTOCOLS.line("WRONG late_init"), text
    if error.kind == "racecheck":
        assert "use of the mbarrier 'full' races with" in text
        assert "races with its initialisation by thread (0, 0, 0)" in text
        assert error.other_line == PROTOCOLS.line("OTHER late_init")
        assert "__syncthreads() before another thread uses it" in text
    else:
        assert order != "ascending" and "there is no mbarrier at 'full'" in text


def test_a_block_that_happens_to_end_in_time() -> None:
    """In some order the arrival is in time; in others the block has ended. All are mistakes."""
    texts = []
    for order in ORDERS:
        error = PROTOCOLS.error("one_arrival", order)
        assert error.kind == "memcheck" and error.line == PROTOCOLS.line("WRONG one_arrival")
        texts.append(PROTOCOLS.text(error))
    assert all("cluster.sync()" in text for text in texts)
    assert any("nothing keeps that block from exiting before" in text for text in texts), texts
    assert any("which has exited" in text for text in texts), texts
