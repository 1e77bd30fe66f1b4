"""Whether a measured ladder meets its goals."""

import dataclasses

import pytest

from workbench.harness import goals
from workbench.harness.results import Row


def row(kernel, shape, gbps, megabytes, **ratios) -> Row:
    return Row(
        "softmax",
        kernel,
        shape,
        "bfloat16",
        "gpu",
        True,
        unit="gbps",
        time_ms=megabytes / gbps,
        rate=gbps,
        ratios=ratios,
        baseline=kernel in (*goals.LIBRARIES, *goals.COPIES),
    )


SMALL, LARGE = "rows=1024,cols=1024", "rows=1024,cols=1048576"


def test_large_data_is_held_against_the_copy():
    rows = [
        row("naive", LARGE, 10.0, 4000, torch=0.01, compile=0.01, copy=0.002),
        row("cluster", LARGE, 4000.0, 4000, torch=2.0, compile=0.8, copy=0.93),
        row("torch", LARGE, 2000.0, 4000, copy=0.46),
        row("copy", LARGE, 4300.0, 4000, torch=2.15),
    ]
    (goal,) = goals.goals(rows)
    assert (goal.kernel, goal.data_bytes) == ("cluster", pytest.approx(4e9))
    assert goal.large and goal.met
    assert goal.cells() == (
        LARGE, "bfloat16", "cluster", "4000", "93%", "2.00x", "0.80x", "90% of copy", "met",
    )  # fmt: skip
    (goal,) = goals.goals([row("cluster", LARGE, 1.0, 4000, torch=2.0, copy=0.89)])
    assert goal.met is False
    (goal,) = goals.goals([row("cluster", LARGE, 1.0, 4000, torch=2.0)])
    assert goal.met is None and goal.cells()[-1] == "not measured"


@pytest.mark.parametrize(
    ("ratios", "met"),
    [
        ({"torch": 2.0, "compile": 1.0, "copy": 0.5}, True),
        ({"torch": 2.0, "compile": 0.99, "copy": 0.95}, False),
        ({"torch": 0.99, "compile": 1.5}, False),
        ({"torch": 1.1}, True),
        ({"copy": 0.99}, None),
    ],
)
def test_small_data_is_held_against_the_better_library(ratios, met):
    (goal,) = goals.goals([row("last", SMALL, 1000.0, 4, **ratios)])
    assert not goal.large
    assert goal.met is met
    assert goal.cells()[-2] == "1.0x better"


def test_the_sum_of_reads_counts_as_the_copy_of_a_backward():
    (goal,) = goals.goals([row("last", LARGE, 1000.0, 6000, add=0.91)])
    assert goal.copy == 0.91 and goal.met


def test_only_what_was_timed_on_a_gpu_counts():
    last = row("last", SMALL, 1.0, 4)
    simulated = dataclasses.replace(last, target="simulator", rate=None)
    wrong = dataclasses.replace(last, rate=None, time_ms=None)
    assert goals.goals([simulated, wrong]) == []
    right = row("first", SMALL, 1.0, 4, torch=1.5)
    assert [goal.kernel for goal in goals.goals([right, wrong])] == ["first"]


def test_options_and_layouts_are_cases_of_their_own():
    last = row("last", SMALL, 1.0, 4, torch=1.5)
    rows = [last, dataclasses.replace(last, options="log", layout="padded")]
    assert [goal.case for goal in goals.goals(rows)] == [SMALL, f"{SMALL} log padded"]


def test_the_mean_is_geometric():
    rows = [
        row("last", SMALL, 1.0, 4, torch=1.0),
        row("last", LARGE, 1.0, 4, torch=4.0),
        row("last", "rows=1,cols=1", 1.0, 4),
    ]
    found = goals.goals(rows)
    assert goals.torch_mean(found) == pytest.approx(2.0)
    assert "2 cases: 2.00x (goal: >= 1.3x: met)" in goals.mean_line(found)
    assert goals.mean_line(found[2:]) == "torch was not measured."
