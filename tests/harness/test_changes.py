"""What differs between two measurements."""

import math

import pytest

from workbench.harness.changes import counter_changes, relative, time_change


def test_only_what_differs_the_largest_first():
    before = {"flops": 100.0, "barriers": 4.0, "atomics": 0.0, "simulator_seconds": 1.0}
    after = {"flops": 110.0, "barriers": 1.0, "atomics": 7.0, "simulator_seconds": 2.0}
    before["local_bytes"] = after["local_bytes"] = 32.0
    before["estimated_ms_t4"], after["estimated_ms_t4"] = 1.0, 2.0
    before["global_load_bytes"] = 1024.0  # which the later one lacks
    found = counter_changes(before, after)
    assert [change.name for change in found] == [
        *("atomics", "global_load_bytes", "barriers", "flops")
    ]
    assert [change.relative for change in found] == ["new", "gone", "-75%", "+10%"]
    assert found[3].text == "flops 100 -> 110 (+10%)"
    assert found[1].text == "global load 1.02 kB -> 0 B (gone)"
    assert found[0].ratio == math.inf


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (100, 91.7, "-8.3%"),
        (100, 110, "+10%"),
        (100, 199.4, "+99%"),
        (100, 200, "x2"),
        (100, 10, "-90%"),
        (100, 9, "x0.09"),
        (100, 100.01, "same"),
        (0, 0, "same"),
        (0, 5, "new"),
        (5, 0, "gone"),
        (1, 3200, "x3.2e+03"),
    ],
)
def test_relative_changes(before, after, text):
    assert relative(before, after) == text


def test_times():
    assert time_change(16.9, 14.3) == "16.9 ms -> 14.3 ms (-15%)"
