"""Figures as text, and values derived from counters."""

import pytest

from workbench.harness import counters
from workbench.harness.figures import amount, duration


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (7, "7"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"),
        (999_600, "1.00 M"), (12_345_678, "12.3 M"), (1.5e13, "15.0 T"), (0.5, "0.50"),
    ],
)  # fmt: skip
def test_amount(value, text):
    assert amount(value) == text


def test_amount_with_a_unit():
    assert amount(0, "B") == "0 B"
    assert amount(4_260_000, "B") == "4.26 MB"


@pytest.mark.parametrize(
    ("ms", "text"), [(None, "-"), (0.0123, "12.3 us"), (1.5, "1.5 ms"), (12_300, "12.3 s")]
)
def test_duration(ms, text):
    assert duration(ms) == text


def test_changes_of_counters():
    assert counters.change({"flops": 0.0}, {"flops": 0.0}, "flops") == 0
    assert counters.change({"flops": 1.0}, {"flops": 0.0}, "flops") is None
    assert counters.change({"flops": 1.0}, {}, "flops") is None
    assert counters.change({"flops": 3.0}, {"flops": 2.0}, "flops") == 0.5


def test_what_follows_from_counters():
    assert counters.value({}, "global_bytes") is None
    assert counters.value({"l2_read_sectors": 2, "l2_write_sectors": 3}, "l2_moved_bytes") == 160
