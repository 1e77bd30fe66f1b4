"""The reasons that are given for rungs that are no faster than the one before them."""

import pytest

from workbench.harness.parents import reasons
from workbench.harness.results import Estimated, Row


def row(kernel: str, ms: float, limiter: str = "issue", occupancy: float = 1.0, **parts) -> Row:
    estimate = Estimated("h200", ms, 0.3, limiter, occupancy, "warps", parts)
    return Row("softmax", kernel, "rows=1,cols=1", "float32", "simulator", True, estimate=estimate)


FIRST = row("first", 1.0, issue=0.8, DRAM=0.5, integer=0.1)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (row("second", 0.9, issue=1.0), None),
        (
            row("second", 1.25, issue=1.2, DRAM=0.5),
            "second is 25% slower than first: 1.5x the machine instructions; limit: issue",
        ),
        (
            row("second", 1.1, "latency", 0.5, issue=0.8, latency=0.4),
            "second is 10% slower than first: occupancy 50%, not 100%; limit: latency",
        ),
        (
            row("second", 1.0, issue=0.8, DRAM=0.5, integer=0.2),
            "second is no faster than first: both are limited by issue, and its work is the same",
        ),
        (
            row("second", 1.0, issue=0.9, DRAM=0.5),
            "second is no faster than first: 1.1x the machine instructions; limit: issue",
        ),
        (
            row("second", 1.0, "launch", issue=0.9),
            "second is no faster than first: most of the time is the launch; a larger shape shows "
            "more",
        ),
    ],
    ids=["faster", "slower", "occupancy", "same", "same time", "launch"],
)
def test_reason(second, reason):
    assert list(reasons([FIRST, second])) == ([] if reason is None else [reason])


def test_the_parent_is_the_last_rung_that_has_a_time():
    declined = Row("softmax", "declined", "rows=1,cols=1", "float32", "simulator", False)
    third = row("third", 2.0, issue=1.6)
    [reason] = reasons([FIRST, declined, third])
    assert reason.startswith("third is 100% slower than first: 2x the machine instructions")


def test_of_rungs_on_the_cpu_it_says_where_to_read():
    first, second = (
        Row("softmax", name, "rows=1,cols=1", "float32", "cpu", True, time_ms=ms)
        for name, ms in (("first", 1.0), ("second", 1.5))
    )
    [reason] = reasons([first, second])
    assert reason.startswith("second is 50% slower than first: their header comments count")


def test_of_measured_times_it_says_where_to_look():
    def timed(kernel: str, ms: float, baseline: bool = False) -> Row:
        about = ("softmax", kernel, "rows=1,cols=1", "float32", "gpu", True)
        return Row(*about, time_ms=ms, baseline=baseline)

    rows = [timed("first", 1.0), timed("second", 1.5), timed("torch", 9.0, baseline=True)]
    assert list(reasons(rows)) == [
        "second is 50% slower than first: --explain second shows where its time goes"
    ]
