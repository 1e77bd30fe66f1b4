"""Rows of results and their JSON."""

import dataclasses
import json

import pytest

from workbench.harness.results import Environment, Estimated, Row, Traffic, write_json
from workbench.toolchain import REPO

COUNTERS = {"warp_instructions": 7.0, "estimated_ms_h200": 0.04}
ESTIMATE = Estimated("h200", 0.04, 0.3, "latency", 0.5, "registers")
SIMULATED = Row(
    *("matmul", "tiled", "M=8,N=8,K=8", "float32", "simulator", True),
    share=0.01,
    counters=COUNTERS,
    estimate=ESTIMATE,
)
TIMED = Row(
    *("softmax", "cluster", "rows=4,cols=9", "bfloat16", "gpu", True),
    options="log scale=0.5",
    layout="padded",
    unit="gbps",
    share=0.01,
    time_ms=1.5,
    spread=0.1,
    rate=51.23,
    roof_fraction=0.4,
    ratios={"torch": 0.5, "copy": 0.9},
    traffic=Traffic(144, 1.0, 1.5),
)
DECLINED = Row(
    *("attention", "flash", "B=1,H=1,Nq=9,Nk=10,D=20", "float32", "simulator", False),
    refused="declines: its tiles are made for D = 32",
)
WRONG = dataclasses.replace(SIMULATED, checked=False, note="WRONG  ...", estimate=None)
COPY = dataclasses.replace(TIMED, kernel="copy", checked=False, share=None, baseline=True)


def test_json_has_the_documented_fields(tmp_path):
    here = Environment("a device", None, "2.13", None, "abc", "python test_matmul.py")
    write_json(tmp_path / "x.json", here, [SIMULATED, TIMED, DECLINED])
    document = json.loads((tmp_path / "x.json").read_text())
    assert list(document) == ["device", "driver", "torch", "cuda", "commit", "command", "rows"]
    simulated, timed, declined = document["rows"]
    common = ["op", "kernel", "shape", "options", "layout", "dtype", "target"]
    common += ["checked", "share", "time_ms", "spread"]
    last = ["baseline", "refused", "note"]
    middle = ["tflops", "roof_fraction", "counters", "estimate", "sampled_blocks"]
    assert list(simulated) == [*common, *middle, *last]
    ratios = ["ratio_vs_torch", "ratio_vs_copy"]
    middle = ["gbps", "roof_fraction", *ratios, "counters", "traffic"]
    assert list(timed) == [*common, *middle, *last]
    assert simulated["estimate"]["limiter"] == "latency"
    assert simulated["counters"] == COUNTERS
    assert simulated["time_ms"] is simulated["refused"] is None
    assert (timed["gbps"], timed["ratio_vs_torch"]) == (51.23, 0.5)
    assert (timed["options"], timed["layout"]) == ("log scale=0.5", "padded")
    assert declined["refused"] == DECLINED.refused


@pytest.mark.parametrize("row", [SIMULATED, TIMED, DECLINED, WRONG, COPY], ids=lambda r: r.kernel)
def test_a_row_is_read_back_from_its_json(row):
    assert Row.from_json(json.loads(json.dumps(row.as_json()))) == row


def test_the_subject_of_a_row():
    assert SIMULATED.subject == "M=8,N=8,K=8 float32"
    assert TIMED.subject == "rows=4,cols=9 log scale=0.5 padded bfloat16"


def test_every_kept_row_is_read_back():
    files = sorted((REPO / "docs" / "results").glob("*.json"))
    runs = {file.name: json.loads(file.read_text()) for file in files}
    rows = [row for run in runs.values() for row in run.get("rows", ())]
    assert rows
    for row in rows:
        assert Row.from_json(row).as_json() == row
