"""Tables, formats of numbers and the JSON of a run."""

import dataclasses
import io
import itertools
import json
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch

from workbench import counters, tables, timing
from workbench.estimate import GPUS
from workbench.harness.history import Previous
from workbench.harness.results import Environment, Estimated, Row, Traffic, write_json
from workbench.harness.roofs import fp32_tflops, memory_gbps

COUNTED = {
    "warp_instructions": 123_456_789.0,
    "thread_instructions": 3.9e9,
    "flops": 33_554_432.0,
    "global_load_bytes": 134_217_728.0,
    "global_store_bytes": 262_144.0,
    "global_load_requests": 1.0e6,
    "global_store_requests": 1.0e3,
    "global_load_sectors": 16.5e6,
    "global_store_sectors": 4.0e3,
    "global_load_sectors_ideal": 4.0e6,
    "global_store_sectors_ideal": 4.0e3,
    "bulk_load_bytes": 0.0,
    "bulk_store_bytes": 0.0,
    "shared_load_bytes": 8.0e9,
    "shared_store_bytes": 1.0e6,
    "shared_load_wavefronts": 300.0,
    "shared_store_wavefronts": 100.0,
    "shared_load_wavefronts_ideal": 60.0,
    "shared_store_wavefronts_ideal": 100.0,
    "simulator_seconds": 12.3,
    "estimated_ms_h200": 0.0412,
}
ESTIMATE = Estimated("h200", 0.0412, 0.3, "latency", 0.5, "registers")


def simulated(kernel, **fields) -> Row:
    shape = "M=256,N=256,K=256"
    given = {"checked": True, "counters": COUNTED, "share": 0.0123, "estimate": ESTIMATE}
    fields = given | fields
    return Row("matmul", kernel, shape, "float32", "simulator", **fields)


def timed(kernel, **fields) -> Row:
    fields = {"time_ms": 1.2345, "spread": 0.01, "rate": 51.23, "share": 0.5} | fields
    return Row("matmul", kernel, "M=8192,N=8192,K=8192", "float32", "gpu", True, **fields)


def printed(table) -> str:
    file = io.StringIO()
    tables.show(table, file)
    return file.getvalue()


def test_simulator_table_fits_100_plain_columns():
    rows = [
        simulated("block_per_row"),
        simulated("tiled"),
        simulated("no_estimate", estimate=None),
        simulated("broken", checked=False, note="WRONG ..."),
        simulated("flash", checked=False, refused=True, note="D=20"),
    ]
    less = COUNTED | {"estimated_ms_h200": 0.0824}
    text = printed(
        tables.simulator_table(
            "title", rows, {"tiled": Previous(None, None, less)}, 33_554_432, 786_432
        )
    )
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in text
    assert "…" not in text
    assert len(lines) == 8  # title, two of head, five rows: nothing is wrapped
    tiled = next(line for line in lines if line.startswith("tiled"))
    assert tiled.split() == (
        "tiled 1.2% 123 M 16.5/4 528 MB x672 x2.50 x1.00 50% 41.2 us -50% latency".split()
    )
    unknown = next(line for line in lines if line.startswith("no_estimate"))
    assert unknown.split()[-4:] == ["x1.00", "-", "-", "-"]
    assert next(line for line in lines if line.startswith("broken")).split()[1] == "WRONG"
    assert "not run" in next(line for line in lines if line.startswith("flash"))


BYTES = COUNTED | {"l2_read_sectors": 49_152.0, "l2_write_sectors": 65_536.0}


def softmax_row(kernel, **fields) -> Row:
    given = {
        "checked": True,
        "counters": BYTES | {"global_load_bytes": 3 << 20, "global_store_bytes": 1 << 20},
        "share": 0.0123,
        "estimate": ESTIMATE,
        "traffic": Traffic(1 << 21, 2.0, 1.75),
        "unit": "gbps",
    }
    return Row("softmax", kernel, "rows=1,cols=1", "float32", "simulator", **given | fields)


def test_bytes_table_fits_100_plain_columns():
    rows = [
        softmax_row("row_in_registers"),
        softmax_row("cub", estimate=None),
        softmax_row("slow", estimate=dataclasses.replace(ESTIMATE, time_ms=50.0)),
        softmax_row("naive", checked=False, refused=True, note="dtype"),
    ]
    less = BYTES | {"estimated_ms_h200": 0.0824}
    previous = {"row_in_registers": Previous(None, None, less)}
    lines = printed(tables.bytes_table("title", rows, previous, 1 << 21)).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "title, ideal 2.10 MB"
    # 2 MiB in 41.2 us are 50.9 GB/s of 4800
    assert (
        lines[3].split()
        == (
            "row_in_registers 1.2% 123 M 4.19 MB x2.00 3.67 MB x1.75 50% 41.2 us 1.1% -50% latency"
        ).split()
    )
    assert lines[4].split()[-4:] == ["-"] * 4
    assert lines[5].split()[-4:] == ["ms", "<0.1%", "new", "latency"]
    assert lines[6].split() == ["naive", "not", "run"]


def test_gpu_bytes_table_fits_100_plain_columns():
    ratios = {"torch": 1.234, "compile": 1.05, "copy": 0.915}
    rows = [
        timed("row_in_registers", ratios=ratios, roof_fraction=0.85, traffic=Traffic(99, 1, 1.02)),
        timed("copy", baseline=True, roof_fraction=0.9, share=None, ratios={"torch": 2.0}),
    ]
    previous = {"row_in_registers": Previous(1.5, 0.02, {})}
    lines = printed(tables.gpu_bytes_table("title", rows, previous, 99)).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "title, ideal 99 B"
    assert lines[3].split() == (
        "row_in_registers 50% 1.23 ms 0.81% 51.23 85% x1.00 x1.02 1.23x 1.05x 0.92x -17.7%".split()
    )
    assert lines[4].split() == "copy - 1.23 ms 0.81% 51.23 90% 2.00x new".split()


def test_the_legend_of_bytes():
    legend = tables.simulator_legend(GPUS["h200"], of_bytes=True)
    assert "bytes moved: between multiprocessors\nand L2" in legend and "an ESTIMATE" in legend
    both = legend.splitlines() + tables.GPU_BYTES_LEGEND.splitlines()
    assert max(map(len, both)) <= 100


def test_a_long_name_widens_a_plain_table():
    name = "a_rung_that_was_given_a_very_long_and_telling_name"
    text = printed(tables.simulator_table("title", [simulated(name)], {}, None, 1))
    assert name in text
    assert "41.2 us" in text.splitlines()[-1]


def test_the_legend_says_that_times_are_estimates():
    for gpu in GPUS.values():
        legend = tables.simulator_legend(gpu)
        assert f"an ESTIMATE for the {gpu.title}, +-" in legend
        assert "nothing was measured" in legend
        assert max(map(len, legend.splitlines())) <= 100


def test_without_global_accesses_there_are_no_sectors():
    assert (
        tables.sectors_per_request({"global_load_requests": 0, "global_store_requests": 0}) == "-"
    )
    assert tables.sectors_per_request({}) == "-"


def test_gpu_table_fits_100_plain_columns():
    rows = [
        timed("tiled", ratios={"cublas": 0.37}, roof_fraction=0.42),
        timed("cublas", baseline=True, roof_fraction=0.77),
    ]
    text = printed(tables.gpu_table("title", rows, {"tiled": Previous(1.5, 0.02, {})}))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].split() == "kernel error time +- TFLOP/s roof vs cublas change".split()
    assert lines[2].split() == ("tiled 50% 1.23 ms 10 us 51.23 42% 0.37x faster 17.7%".split())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (7, "7"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"),
        (999_600, "1.00 M"), (12_345_678, "12.3 M"), (1.5e13, "15.0 T"), (0.5, "0.50"),
    ],
)  # fmt: skip
def test_amount(value, text):
    assert tables.amount(value) == text


def test_amount_with_a_unit():
    assert tables.amount(0, "B") == "0 B"
    assert tables.amount(4_260_000, "B") == "4.26 MB"


@pytest.mark.parametrize(
    ("ms", "text"), [(None, "-"), (0.0123, "12.3 us"), (1.5, "1.5 ms"), (12_300, "12.3 s")]
)
def test_duration(ms, text):
    assert tables.duration(ms) == text


@pytest.mark.parametrize(
    ("now", "then", "text"),
    [(1.0, 1.05, "same"), (1.0, 2.0, "faster 50%"), (2.0, 1.0, "slower 100%"), (1.0, None, "new")],
)
def test_time_change_knows_noise(now, then, text):
    row = timed("x", time_ms=now, spread=0.01)
    assert tables.time_change(row, Previous(then, 0.1, {})) == text


def test_counter_changes():
    row = simulated("x")
    assert tables.counter_change(row, None, "flops") == "new"
    assert tables.counter_change(row, Previous(None, None, COUNTED), "global_bytes") == "="
    assert tables.counter_change(row, Previous(None, None, {}), "flops") == "new"
    near = Previous(None, None, {"estimated_ms_h200": 0.0413})
    assert tables.estimate_change(row, near) == "="
    assert tables.estimate_change(simulated("x", estimate=None), near) == ""
    zero = Previous(None, None, {"flops": 0.0})
    assert tables.counter_change(row, zero, "flops") == "new"
    assert counters.change({"flops": 0.0}, {"flops": 0.0}, "flops") == 0
    assert counters.value({}, "global_bytes") is None
    assert counters.value({"l2_read_sectors": 2, "l2_write_sectors": 3}, "l2_moved_bytes") == 160


def test_json_has_the_documented_fields(tmp_path):
    here = Environment("a device", None, "2.13", None, "abc", "python test_matmul.py")
    rows = [simulated("tiled"), timed("tiled", ratios={"cublas": 0.5}, roof_fraction=0.4)]
    write_json(tmp_path / "x.json", here, rows)
    document = json.loads((tmp_path / "x.json").read_text())
    assert list(document) == ["device", "driver", "torch", "cuda", "commit", "command", "rows"]
    first, second = document["rows"]
    common = ["op", "kernel", "shape", "dtype", "target", "checked", "time_ms", "spread"]
    last = ["counters", "refused", "note"]
    first_only = ["counters", "estimate", "refused", "note"]
    assert list(first) == [*common, "tflops", "roof_fraction", *first_only]
    assert first["estimate"]["limiter"] == "latency"
    assert list(second) == [*common, "tflops", "roof_fraction", "ratio_vs_cublas", *last]
    assert first["time_ms"] is None
    assert first["counters"] == COUNTED
    assert (second["tflops"], second["ratio_vs_cublas"]) == (51.23, 0.5)


def test_softmax_rows_have_gbps():
    row = Row("softmax", "naive", "rows=1,cols=1", "float32", "gpu", True, unit="gbps", rate=2.0)
    assert row.as_json()["gbps"] == 2.0
    assert "tflops" not in row.as_json()


def test_timing_summary():
    assert timing.summarize([3.0]) == timing.Timing(3.0, 0.0, 1)
    assert timing.summarize([5.0, 1.0, 2.0, 3.0, 4.0]) == timing.Timing(3.0, 2.0, 5)
    assert timing.rounds_for(1.0, 50.0) == 50
    assert timing.rounds_for(20.0, 50.0) == timing.ROUNDS[0]
    assert timing.rounds_for(60.0, 400.0) == 6
    assert timing.rounds_for(1e9, 50.0) == timing.SLOW_ROUNDS
    assert timing.rounds_for(0.0, 50.0) == timing.rounds_for(1e-9, 50.0) == timing.ROUNDS[1]


def test_a_slow_run_sits_out_most_turns():
    for turns, wanted in ((100, 3), (100, 100), (17, 10), (3, 3), (10, 1)):
        parts = [timing.takes_part(turn, turns, wanted) for turn in range(turns)]
        assert sum(parts) == wanted
        gaps = [b - a for a, b in itertools.pairwise(i for i, part in enumerate(parts) if part)]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_slow_runs_do_not_take_the_time_of_the_others(monkeypatch):
    ms, calls = {"naive": 600.0, "fast": 2.0, "copy": 1.0}, []

    def one_round(runs, flush):
        calls.extend(runs)
        return {name: ms[name] for name in runs}

    monkeypatch.setattr(timing, "_one_round", one_round)
    monkeypatch.setattr(
        timing.torch.cuda, "get_device_properties", lambda device: Mock(L2_cache_size=0)
    )
    monkeypatch.setattr(timing.torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(timing, "FLUSH_BYTES", 8)
    times = timing.time_interleaved(dict.fromkeys(ms), torch.device("cpu"), budget_ms=300)
    assert {name: time.n for name, time in times.items()} == {"naive": 3, "fast": 50, "copy": 100}
    assert {name: time.median_ms for name, time in times.items()} == ms
    warm_ups = {"naive": 1, "fast": timing.WARM_UPS, "copy": timing.WARM_UPS}
    assert {name: calls.count(name) - times[name].n for name in ms} == warm_ups


def test_progress_shows_on_a_terminal_alone(capsys):
    assert list(timing._with_progress(3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_roofs_from_properties():
    assert fp32_tflops(132, 128, 1.98e6) == pytest.approx(66.9, abs=0.01)
    assert memory_gbps("NVIDIA H200", 0, 0) == 4800
    assert memory_gbps("a new one", 1e6, 256) == 64
    assert memory_gbps("a new one", 0, 0) is None
    assert memory_gbps("NVIDIA H200", 3.2e6, 6144) == pytest.approx(4915.2)


@pytest.mark.parametrize(
    ("name", "gbps"),
    [
        ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A10", 600),
        ("NVIDIA A10G", None),
        ("Tesla T4", 320),
        ("Tesla V100-SXM2-16GB", 900),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA GH200 480GB", 4000),
    ],
)
def test_roofs_by_name_are_of_that_very_model(name, gbps):
    assert memory_gbps(name, 0, 0) == gbps
