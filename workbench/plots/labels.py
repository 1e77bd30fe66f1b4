"""Where the names of dots go: none covers another, a dot or the edge; deterministic.

All in one unit, such as pixels, with y upwards. A name stays near its dot where there is room, and
is joined to it by a line where there is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Point = tuple[float, float]
Segment = tuple[Point, Point]

GAP = 3.0  # between names, and between a name and a dot's edge
DIRECTIONS = 32
_RINGS = 7.0 * np.arange(60)  # of places around a dot, by their distance
_FEW = 10  # rings, which are mostly enough
_CROSSED = 150.0  # what a line through a name costs, as so much distance
_TURN = 0.6  # what each less preferred direction costs
# Preferred directions: right, then more and more above and below, last left.
_TURNS = sorted(range(DIRECTIONS), key=lambda i: (min(i, DIRECTIONS - i), i))


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def grown(self, by: float) -> Box:
        """The box with a margin."""
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)

    def overlaps(self, other: Box) -> bool:
        """Whether they have more than an edge in common."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.top <= other.bottom or other.top <= self.bottom)

    def inside(self, other: Box) -> bool:
        """Whether the other contains all of it."""
        wide = other.left <= self.left and self.right <= other.right
        return wide and other.bottom <= self.bottom and self.top <= other.top

    def meets(self, line: Segment) -> bool:
        """Whether a line passes through it."""
        box = np.array((self.left, self.bottom, self.right, self.top))
        return bool(_passes(box, *map(np.array, line)))

    def nearest(self, point: Point) -> Point:
        """Its point that is nearest to another."""
        x, y = point
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)


def clusters(dots: Sequence[Point], near: float) -> list[list[int]]:
    """Dots that look like one, by their numbers: each is within ``near`` of the first."""
    found: list[list[int]] = []
    for i, dot in enumerate(dots):
        of = next((one for one in found if math.dist(dots[one[0]], dot) <= near), None)
        if of is None:
            found.append([i])
        else:
            of.append(i)
    return found


def place(
    dots: Sequence[Point],
    radius: float,
    sizes: Sequence[tuple[float, float]],
    inside: Box,
    taken: Sequence[Box] = (),
    lines: Sequence[Segment] = (),
) -> list[Box | None]:
    """A box for the name of each dot; None where there is no room left.

    Args:
        dots: the centres.
        radius: of each.
        sizes: width and height of each dot's name.
        inside: where all names must lie.
        taken: boxes that they must not cover.
        lines: lines that they should not cover.
    """
    full = [box.grown(GAP) for box in taken]
    full += [Box(x, y, x, y).grown(radius + GAP / 2) for x, y in dots]
    found: list[Box | None] = [None] * len(dots)
    leaders: list[Segment] = []
    for i in sorted(range(len(dots)), key=lambda i: (-dots[i][1], dots[i][0], i)):
        box = _best(dots[i], radius, sizes[i], inside, full, [*lines, *leaders])
        found[i] = box
        if box is not None:
            full.append(box.grown(GAP))
            leaders.append((dots[i], box.nearest(dots[i])))
    return found


def _best(
    dot: Point,
    radius: float,
    size: tuple[float, float],
    inside: Box,
    full: Sequence[Box],
    lines: Sequence[Segment],
) -> Box | None:
    """The cheapest free place: near, not on a line, its own line through no name and no dot."""
    blocks = np.array([(b.left, b.bottom, b.right, b.top) for b in full])
    for rings in (_RINGS[:_FEW], _RINGS):
        boxes, cost = _candidates(dot, radius, size, rings)
        free = _free(boxes, inside, blocks)
        if not free.any():
            continue
        boxes, cost = boxes[free], cost[free]
        near = np.clip(dot, boxes[:, :2], boxes[:, 2:])
        if lines:
            ends = np.array(lines)[:, :, None, :]
            cost += _CROSSED * _passes(boxes, ends[:, 0], ends[:, 1]).sum(axis=0)
        around = (blocks[:, :2] <= dot).all(axis=1) & (blocks[:, 2:] >= dot).all(axis=1)
        cost += _CROSSED * _passes(blocks[~around, None], np.array(dot), near).sum(axis=0)
        if cost.min() <= rings[-1] or rings is _RINGS:  # none is cheaper farther away
            left, bottom, right, top = map(float, boxes[int(np.argmin(cost))])
            return Box(left, bottom, right, top)
    return None


def _candidates(
    dot: Point, radius: float, size: tuple[float, float], rings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around a dot (left, bottom, right, top) and what their distance costs."""
    angle = 2 * np.pi * np.array(_TURNS) / DIRECTIONS
    toward = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    half = np.array(size) / 2
    # The middle of a box is such that its nearest point is about ``away`` from the dot.
    beyond = half * np.clip(2 * toward, -1, 1)
    away = (radius + GAP + rings)[:, None, None]
    middle = (np.array(dot) + away * toward + beyond).reshape(-1, 2)
    cost = np.add.outer(rings, _TURN * np.arange(DIRECTIONS)).ravel()
    return np.concatenate([middle - half, middle + half], axis=1), cost


def _free(boxes: np.ndarray, inside: Box, blocks: np.ndarray) -> np.ndarray:
    """Which boxes are inside, and meet no block."""
    free = (boxes[:, 0] >= inside.left) & (boxes[:, 1] >= inside.bottom)
    free &= (boxes[:, 2] <= inside.right) & (boxes[:, 3] <= inside.top)
    meets = (boxes[:, None, 0] < blocks[None, :, 2]) & (blocks[None, :, 0] < boxes[:, None, 2])
    meets &= (boxes[:, None, 1] < blocks[None, :, 3]) & (blocks[None, :, 1] < boxes[:, None, 3])
    return free & ~meets.any(axis=1)


def _passes(boxes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether segments pass through boxes; the arrays are broadcast but for the last dimension."""
    along = end - start
    enter: Any = 0.0
    leave: Any = 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        for axis in (0, 1):
            low, high, from_ = boxes[..., axis], boxes[..., axis + 2], start[..., axis]
            still = np.abs(along[..., axis]) < 1e-9
            within = (low < from_) & (from_ < high)
            one, two = (low - from_) / along[..., axis], (high - from_) / along[..., axis]
            first = np.where(still, np.where(within, 0.0, 2.0), np.minimum(one, two))
            last = np.where(still, np.where(within, 1.0, -1.0), np.maximum(one, two))
            enter, leave = np.maximum(enter, first), np.minimum(leave, last)
    return enter < leave
