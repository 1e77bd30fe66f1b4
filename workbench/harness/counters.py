"""Counters of simulated launches: what a rung did, independent of the simulating machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from .figures import amount

if TYPE_CHECKING:
    import simulator

SECONDS = "simulator_seconds"  # wall time of the simulator; says nothing about a GPU
SECTOR_BYTES = 32


def words(name: str) -> str:
    """A counter's name in words: ``global load bytes``."""
    return name.replace("_", " ")


def unit(name: str) -> str:
    """A counter's unit: ``B`` for bytes, empty for a number."""
    return "B" if name.endswith("_bytes") else ""


def text(name: str, value: float | None) -> str:
    """A counter's value with its unit: ``1.23 MB``, ``4.56 k``; - for None."""
    return amount(value, unit(name))


def summed() -> tuple[str, ...]:
    """The counters of ``simulator.Launch`` that are summed over launches."""
    import simulator  # only this target needs it

    of_launches = ("l2_repeated_sectors", "dram_read_bytes", "dram_write_bytes")
    return (*(f.name for f in fields(simulator.Counters)), *of_launches)


def record(run: Callable[[], None]) -> list[simulator.Launch]:
    """Run something on the simulator; return its launches with counters."""
    import simulator

    with simulator.record() as launches:
        run()
    return launches


def totals(launches: Sequence[simulator.Launch]) -> dict[str, float]:
    """The counters of launches, those of ``summed``, and ``launches`` and ``simulator_seconds``."""
    added: dict[str, float] = {
        name: sum(getattr(launch, name) for launch in launches) for name in summed()
    }
    added["launches"] = len(launches)
    added[SECONDS] = sum(launch.seconds for launch in launches)
    return added


def estimate_key(gpu: str) -> str:
    """The key of the estimated time on a GPU, in ms, among the counters of a row."""
    return f"estimated_ms_{gpu}"


def _sum(*names: str) -> Callable[[Mapping[str, float]], float]:
    return lambda counters: sum(counters[name] for name in names)


def _moved(counters: Mapping[str, float]) -> float:
    kinds = ("global_load", "global_store", "atomic", "local")
    sectors = sum(counters.get(f"{kind}_sectors", 0) for kind in kinds)
    return SECTOR_BYTES * sectors + counters["bulk_load_bytes"] + counters["bulk_store_bytes"]


# Derived from the counters. asked_bytes: requested by lanes and bulk copies, loads and stores;
# l2_moved_bytes: transferred between the multiprocessors and L2.
DERIVED: dict[str, Callable[[Mapping[str, float]], float | None]] = {
    "asked_bytes": _sum(
        "global_load_bytes", "global_store_bytes", "bulk_load_bytes", "bulk_store_bytes"
    ),
    "l2_moved_bytes": lambda c: SECTOR_BYTES * (c["l2_read_sectors"] + c["l2_write_sectors"]),
    "global_bytes": _sum("global_load_bytes", "global_store_bytes"),
    "global_moved_bytes": _moved,
    "global_requests": _sum("global_load_requests", "global_store_requests"),
    "global_sectors_ideal": _sum("global_load_sectors_ideal", "global_store_sectors_ideal"),
    "shared_wavefronts": _sum("shared_load_wavefronts", "shared_store_wavefronts"),
    "shared_wavefronts_ideal": _sum(
        "shared_load_wavefronts_ideal", "shared_store_wavefronts_ideal"
    ),
}


def value(counters: Mapping[str, float], name: str) -> float | None:
    """A counter, or one of DERIVED; None if it, or its inputs, were not counted."""
    if name not in DERIVED:
        return counters.get(name)
    try:
        return DERIVED[name](counters)
    except KeyError:
        return None


def change(now: Mapping[str, float], last: Mapping[str, float], name: str) -> float | None:
    """Relative change of a counter since the last run: 0.1 is ten percent more.

    None if the last run did not count it, or counted zero where there is something now.
    """
    new, old = value(now, name), value(last, name)
    if new is None or old is None or (old == 0 and new != 0):
        return None
    return 0.0 if new == old else new / old - 1
