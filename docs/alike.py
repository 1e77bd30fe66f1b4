"""Whether two outputs of a command say the same: but for times, hashes and small differences."""

from __future__ import annotations

import re

NEAR = 0.05  # relative: what the L1 cache keeps depends on where tensors lie
_VOLATILE = (
    (re.compile(r"\b\d+(\.\d+)? s\b"), "# s"),
    (re.compile(r"\b\d\d:\d\d(:\d\d)?\b"), "#:#"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "#-#-#"),
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "#address"),
    (re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{7,40}\b\+?"), "#hash"),
    (re.compile(r"\bw[0-9a-f]{16}(?=k\d)"), "#id"),  # of what a report in HTML links to
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def same(kept: str, now: str) -> bool:
    """Whether the words are the same, and numbers within 5% of each other, or within 1.

    Times of day, dates, seconds, addresses and hashes do not count; neither does white space.
    """
    for pattern, text in _VOLATILE:
        kept, now = pattern.sub(text, kept), pattern.sub(text, now)
    if _NUMBER.sub("#", kept).split() != _NUMBER.sub("#", now).split():
        return False
    pairs = zip(_NUMBER.findall(kept), _NUMBER.findall(now), strict=True)
    return all(_near(float(a), float(b)) for a, b in pairs)


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= NEAR * max(a, b, 1.0)
