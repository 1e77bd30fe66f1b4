"""Rows of results, their JSON and their CSV."""

import csv
import dataclasses
import io
import json

import pytest

from workbench.harness.results import Environment, Estimated, Row, Traffic, csv_text, json_text
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


HERE = Environment("a device", None, "2.13", None, "abc", "python test_matmul.py")


def test_json_has_the_documented_fields():
    document = json.loads(json_text(HERE, [SIMULATED, TIMED, DECLINED]))
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


def read(text: str) -> tuple[list[str], list[dict[str, str]]]:
    """What Python's reader of CSV makes of it: the titles, and the rows by title."""
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    return list(lines.fieldnames or ()), list(lines)


def test_csv_is_a_line_per_row_with_all_digits():
    note = 'WRONG  "a",\nworst at (1, 2)'
    rows = [SIMULATED, TIMED, DECLINED, dataclasses.replace(WRONG, note=note)]
    text = csv_text(HERE, rows)
    assert text.count("\n") == 1 + len(rows) and "\r" not in text
    titles, (simulated, timed, declined, wrong) = read(text)
    assert len(titles) == len(set(titles))
    assert [simulated["M"], timed["cols"], declined["Nq"], timed["M"]] == ["8", "9", "9", ""]
    assert (simulated["shape"], simulated["checked"]) == ("M=8,N=8,K=8", "true")
    assert (simulated["warp_instructions"], timed["warp_instructions"]) == ("7.0", "")
    assert (simulated["estimate_time_ms"], simulated["estimate_limiter"]) == ("0.04", "latency")
    assert (timed["options"], timed["ratio_vs_copy"]) == ("log scale=0.5", "0.9")
    assert (timed["traffic_moved"], timed["gbps"], timed["tflops"]) == ("1.5", "51.23", "")
    assert (timed["time_ms"], simulated["time_ms"]) == ("1.5", "")
    assert declined["refused"] == DECLINED.refused
    assert (wrong["checked"], wrong["note"]) == ("false", 'WRONG  "a",; worst at (1, 2)')
    assert all((row["device"], row["driver"], row["commit"]) == ("a device", "", "abc") for row in
               (simulated, timed, declined, wrong))  # fmt: skip
    third = dataclasses.replace(TIMED, time_ms=1 / 3)
    assert float(read(csv_text(HERE, [third]))[1][0]["time_ms"]) == 1 / 3


def test_csv_of_kept_rows_has_all_that_their_json_has():
    for file in sorted((REPO / "docs" / "results").glob("*-softmax.json")):
        rows = [Row.from_json(row) for row in json.loads(file.read_text())["rows"]]
        _, lines = read(csv_text(HERE, rows))
        for row, line in zip(rows, lines, strict=True):
            assert {name: float(line[name]) for name in row.counters} == dict(row.counters)
            parts = row.estimate.parts if row.estimate else {}
            assert {name: float(line[f"estimate_part_{name}"]) for name in parts} == parts
