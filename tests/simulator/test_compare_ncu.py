"""The comparison with Nsight Compute: parsing ncu's output, and combining both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.compare import measure, metrics, ncu
from simulator.compare.patterns import patterns
from tests.support import executable

LOG = """\
==PROF== Connected to process 123
==PROF== Disconnected
"ID","Kernel Name","Block Size","Grid Size","a__sectors.sum","dram__bytes.sum","pct"
"","","","","sector","byte","%"
"0","void f<(int)3>(int)","(32, 1, 1)","(1, 1, 1)","1,024","3.5","n/a"
"1","g(float *)","(32, 1, 1)","(2, 1, 1)","7","1,000,000","12.25"
"""


def test_log_of_ncu(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(LOG)
    rows = measure.read_csv(log)
    assert [row["Kernel Name"] for row in rows] == ["void f<(int)3>(int)", "g(float *)"]
    wanted = ["a__sectors.sum", "dram__bytes.sum", "pct", "absent"]
    assert measure.numbers(rows[0], wanted) == {"a__sectors.sum": 1024, "dram__bytes.sum": 3.5}
    assert measure.numbers(rows[1], wanted)["dram__bytes.sum"] == 1_000_000
    assert measure.read_csv(tmp_path / "absent") == []
    assert [ncu.base_name(row["Kernel Name"]) for row in rows] == ["f", "g"]


@pytest.mark.parametrize("outside", ["(anonymous namespace)::", "<unnamed>::", "a::b::", ""])
def test_base_names(outside):
    assert ncu.base_name(f"void {outside}f_kernel<float, (int)3>(const float *)") == "f_kernel"
    assert ncu.base_name(f"{outside}f_kernel") == "f_kernel"


def test_unknown_metrics_are_left_out(tmp_path, monkeypatch):
    # Like ncu, it measures nothing if a metric is unknown, and names it.
    executable(
        tmp_path / "ncu",
        "#!/usr/bin/env python3\n"
        "import sys\n"
        "names = sys.argv[sys.argv.index('--metrics') + 1].split(',')\n"
        "log = open(sys.argv[sys.argv.index('--log-file') + 1], 'w')\n"
        "if 'bad__metric.sum' in names:\n"
        "    print('==ERROR== Failed to find metric bad__metric.sum', file=log)\n"
        "    sys.exit(1)\n"
        'print(\'"ID","Kernel Name","good__metric.sum"\\n"0","k()","5"\', file=log)\n',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    wanted = ["good__metric.sum", "bad__metric.sum"]
    failed, rows, used = measure.profile(tmp_path / "log", wanted, (), ["program"], 30)
    assert (failed, used) == ("", ["good__metric.sum"])
    assert measure.numbers(rows[0], used) == {"good__metric.sum": 5}


def test_metrics_that_ncu_lists():
    known = "Device X\n\nl1tex__t_sectors   Counter   sector   # of sectors\n"
    wanted = ["l1tex__t_sectors.sum", "l1tex__other.sum", "launch__registers_per_thread"]
    assert measure.available(wanted, known) == [wanted[0], wanted[2]]
    assert measure.available(wanted, "") == wanted


@pytest.mark.parametrize("group", [*measure.EVERYTHING])
def test_metrics_of_a_group_are_named_once(group):
    names = metrics.of_group(group)
    assert names and len(names) == len(set(names))


def test_patterns_have_unique_names_and_fit():
    every = patterns()
    assert len({(p.operation, p.name) for p in every}) == len(every)
    for pattern in every:
        assert len(pattern.offsets) in (32, 64)
        if pattern.group in ("shared", "matrix"):
            assert max(pattern.offsets) + 16 <= 32 * 1024
    assert replace(every[0], name="x").line().split()[:2] == ["x", every[0].operation]


def test_counters_from_metrics():
    names = metrics.METRICS["atomic_sectors"]
    assert ncu.measured({names[0]: 3, names[1]: 4})["atomic_sectors"] == 7
    assert ncu.measured({names[0]: 3})["atomic_sectors"] == 3
    assert "atomic_sectors" not in ncu.measured({names[0]: 3}, strict=True)
    fma = metrics.METRICS["fp32_flops"]
    assert ncu.measured(dict.fromkeys(fma, 10))["fp32_flops"] == 40  # an FMA counts twice


def test_agreement():
    pairs = [
        ncu.Pair("ldg4 row", "global_load_sectors", 4, 4),
        ncu.Pair("ldg4 two", "global_load_sectors", 5, 10),
        ncu.Pair("ldg4 none", "global_load_sectors", 0, 0),
    ]
    assert ncu.agreement(pairs) == {
        "global_load_sectors": {"launches": 2, "equal": 1, "largest": 0.5}
    }


def test_a_second_file_adds_to_the_first():
    def row(name: str, **values: int) -> dict:
        return {"operation": "ldg4", "name": name, "metrics": values}

    first = {"device": "d", "patterns": [row("row", a=1)], "rungs": [1], "runs": [2]}
    second = {"patterns": [row("row", b=2), row("two", a=3)], "rungs": []}
    both = ncu.joined([first, second])
    assert both["patterns"] == [row("row", a=1, b=2), row("two", a=3)]
    assert (both["device"], both["rungs"]) == ("d", [1])
