"""Where a rung is no faster than the one before it in the table: the reason, in counted facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.harness.figures import percent
from workbench.harness.results import Estimated, Row

FASTER = 0.99  # of the parent's time; what is above needs a reason
SAME = 1.02  # times as slow: that needs no unit that is busy longer
GREW = 1.03  # what grew by less explains nothing
MATTERS = 0.25  # of the time: what a unit that explains it is busy at least

# What the parts of an estimate have to do, where another word than the unit's name says it better.
WORK = {
    "issue": "the machine instructions",
    "FMA": "the FMA instructions",
    "integer": "the integer instructions",
    "FP64": "the double-precision instructions",
    "special": "the special-function instructions",
    "tensor": "the tensor-core work",
    "L1": "the cache lines accessed in L1",
    "shared": "the shared-memory wavefronts",
    "L2": "the bytes moved by L2",
    "DRAM": "the bytes moved by DRAM",
    "latency": "the latency that nothing hides",
}


def reasons(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for each rung that is no faster than its parent, the last rung with a time.

    Args:
        rows: of one case, in the order of the table.
    """
    parent: Row | None = None
    for row in rows:
        time = _time(row)
        if row.baseline or time is None:
            continue
        if parent is not None:
            ratio = time / (_time(parent) or time)
            if ratio > FASTER:
                how = "no faster" if ratio < SAME else f"{percent(ratio - 1)} slower"
                yield f"{row.kernel} is {how} than {parent.kernel}: {_why(row, parent, ratio)}"
        parent = row


def _time(row: Row) -> float | None:
    return row.estimate.time_ms if row.estimate else row.time_ms


def _why(row: Row, parent: Row, ratio: float) -> str:
    now, before = row.estimate, parent.estimate
    if row.target == "cpu":
        return "their header comments count what each of them loads"
    if now is None or before is None:
        return f"--explain {row.kernel} shows where its time goes"
    if now.limiter == "launch":
        return "most of the time is the launch; a larger shape shows more"
    busier = _busier(now, before)
    grown = [f"{factor:.2g}x {WORK.get(unit, unit)}" for unit, factor in busier]
    if ratio < SAME and now.limiter == before.limiter and now.limiter not in dict(busier):
        return f"both are limited by {now.limiter}, and its work is the same"
    if now.occupancy < before.occupancy / GREW:
        grown.append(f"occupancy {percent(now.occupancy)}, not {percent(before.occupancy)}")
    words = ", ".join(grown) or "no unit has less to do"
    return f"{words}; limit: {now.limiter}"


def _busier(now: Estimated, before: Estimated) -> list[tuple[str, float]]:
    """Units that are busy longer and take much of the time, most of it first; by how much."""
    found = []
    for unit, took in sorted(now.parts.items(), key=lambda part: -part[1]):
        had = before.parts.get(unit, 0.0)
        if had and took / had >= GREW and took >= MATTERS * now.time_ms:
            found.append((unit, took / had))
    return found
