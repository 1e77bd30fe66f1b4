"""Counters of simulated launches: what a rung did, whatever the machine it was simulated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

SUMMED = (
    "warp_instructions",
    "thread_instructions",
    "flops",
    "global_load_bytes",
    "global_store_bytes",
    "shared_load_bytes",
    "shared_store_bytes",
    "atomics",
    "barriers",
)
SECONDS = "simulator_seconds"  # wall time of the simulator; says nothing about a GPU
COMPARED = ("warp_instructions", "global_bytes")  # whose change against the last run is shown


def count(run: Callable[[], None]) -> dict[str, float]:
    """Run something on the simulator; the counters of all its launches, summed.

    Returns:
        The fields SUMMED of ``simulator.Launch``, ``launches`` and ``simulator_seconds``.
    """
    import simulator  # needed by this target alone

    with simulator.record() as launches:
        run()
    totals: dict[str, float] = {
        name: sum(getattr(launch, name) for launch in launches) for name in SUMMED
    }
    totals["launches"] = len(launches)
    totals[SECONDS] = sum(launch.seconds for launch in launches)
    return totals


def value(counters: Mapping[str, float], name: str) -> float | None:
    """A counter, or one of the sums ``global_bytes`` and ``shared_bytes``; None if absent."""
    if name in ("global_bytes", "shared_bytes"):
        space = name.removesuffix("_bytes")
        parts = (f"{space}_load_bytes", f"{space}_store_bytes")
        return sum(counters[part] for part in parts) if parts[0] in counters else None
    return counters.get(name)


def change(now: Mapping[str, float], last: Mapping[str, float], name: str) -> float | None:
    """Relative change of a counter since the last run: 0.1 is ten percent more.

    None where the last run did not count it, or counted none of what there is now.
    """
    new, old = value(now, name), value(last, name)
    if new is None or old is None or (old == 0 and new != 0):
        return None
    return 0.0 if new == old else new / old - 1
