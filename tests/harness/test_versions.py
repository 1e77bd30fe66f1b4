"""Versions of a rung, each a build of its own, measured side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from workbench.harness import checking, verify, versions
from workbench.harness.checking import Tried
from workbench.harness.results import Row
from workbench.harness.versions import Version
from workbench.operators import builds
from workbench.operators.attention import OPERATOR as ATTENTION
from workbench.operators.softmax import OPERATOR as SOFTMAX


def rows(times: dict[str, float | None]) -> dict[str, Row]:
    row = Row("softmax", "online", "rows=1,cols=1", "float32", "gpu", True)
    return {name: dataclasses.replace(row, kernel=name, time_ms=t) for name, t in times.items()}


def entrants(count: int) -> list[Version]:
    build = builds.extension("simulator")
    return [Version(f"v{i}", build) for i in range(count)]


def test_many_versions_are_timed_in_chunks_that_share_the_first():
    """The fastest of all chunks meet once more, and that is what counts."""
    races: list[list[str]] = []

    def race(chosen: Sequence[Version]) -> dict[str, Row]:
        races.append([version.name for version in chosen])
        final = len(races) > 3
        times = {v.name: float(v.name[1:]) + 100 * final for v in chosen}
        return rows(times | ({"v3": None} if "v3" in times else {}))

    found = versions._races(entrants(20), race)
    assert [len(names) for names in races] == [9, 9, 4, 5]
    assert all(names[0] == "v0" for names in races)
    assert sorted(name for names in races[:3] for name in names[1:]) == sorted(
        f"v{i}" for i in range(1, 20)
    )
    assert races[3] == ["v0", "v1", "v2", "v4", "v5"]  # v3 became wrong
    assert (found["v1"].time_ms, found["v6"].time_ms) == (101.0, 6.0)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_versions_are_timed_once(count):
    races: list[int] = []

    def race(chosen: Sequence[Version]) -> dict[str, Row]:
        races.append(len(chosen))
        return rows({v.name: 1.0 for v in chosen})

    assert len(versions._races(entrants(count), race)) == count
    assert races == [count]


def test_versions_on_the_cpu():
    """Right ones have times under their names; one that small cases got wrong has its report."""
    build = builds.extension("cpu")
    rung = next(r for r in builds.rungs("attention", "cpu") if r.name == "cpu_simd")
    case = ATTENTION.case("B=1,H=1,Nq=17,Nk=18,D=8")
    found = [Version(name, build) for name in ("A=1", "A=2", "A=3")]
    tried = {"A=1": Tried(), "A=2": Tried("WRONG  by two"), "A=3": Tried()}
    before = builds._current.copy()
    result = versions.time(ATTENTION, rung, found, case, tried, "cpu")
    assert [row.kernel for row in result] == ["A=1", "A=2", "A=3"]
    assert [row.checked for row in result] == [True, False, True]
    assert [row.time_ms is not None for row in result] == [True, False, True]
    assert result[1].note == "WRONG  by two"
    assert builds._current == before


def test_a_version_runs_in_its_own_build(monkeypatch):
    """And the build before is the current one again, even after an error."""
    build = dataclasses.replace(builds.extension("simulator"))
    version, seen = Version("A=1", build), []
    rung = builds.rungs("softmax")[0]

    def lost(*_: object) -> dict[str, Tried]:
        seen.append(builds._current["simulator"])
        raise verify.StickyError("softmax naive: an illegal access")

    before = builds._current.copy()
    monkeypatch.setattr(checking, "try_rungs", lost)
    with pytest.raises(verify.StickyError, match="^A=1: softmax naive: an illegal access$"):
        versions.try_version(SOFTMAX, rung, version, [], "simulator")
    assert seen[0] is build
    assert builds._current == before
