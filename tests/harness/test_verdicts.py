"""FASTER, SAME or SLOWER: from times that were measured in turns."""

import numpy as np
import pytest

from workbench.harness.verdicts import verdict

RANDOM = np.random.default_rng(1)
NOISE = RANDOM.normal(1.0, 0.02, 100)


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (NOISE, 0.9 * NOISE[::-1], "FASTER"),
        (NOISE, 1.1 * NOISE[::-1], "SLOWER"),
        (NOISE, RANDOM.normal(1.0, 0.02, 100), "SAME"),
        (NOISE[:3], 0.5 * NOISE[:3], "FASTER"),
        ([1.0] * 5, [1.0] * 5, "SAME"),
        ([1.0] * 5, [0.999] * 5, "SAME"),  # certain, and of no use
        ([1.0, 9.0, 1.0, 9.0], [1.0, 1.1, 8.0, 9.0], "SAME"),
    ],
)
def test_words(before, after, word):
    found = verdict(before, after)
    assert found.word == word
    assert found.low <= found.ratio <= found.high
    assert found.text.startswith(f"{word} x{found.ratio:.3f} (95% confidence interval x")


def test_the_interval_covers_the_true_ratio_as_often_as_it_says():
    """Of 200 comparisons of medians whose ratio is 1.05, about 95% contain it."""
    inside = 0
    for _ in range(200):
        before, after = RANDOM.normal(1.05, 0.03, 40), RANDOM.normal(1.0, 0.03, 40)
        found = verdict(before, after)
        inside += found.low <= 1.05 <= found.high
    assert 180 <= inside <= 200


def test_one_time_is_no_sample():
    with pytest.raises(ValueError, match="expected two times of each, got 1 and 3"):
        verdict([1.0], [1.0, 2.0, 3.0])
