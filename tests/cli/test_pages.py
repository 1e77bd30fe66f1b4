"""The tables of the documentation come from the kept results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench import report, targets


def test_pages_are_up_to_date() -> None:
    for page in report.pages():
        text = page.read_text()
        assert report.updated(text) == text, f"{page}: run python -m workbench.report"


def test_results_are_of_right_rungs_alone() -> None:
    every = sorted(report.RESULTS.glob("*.json"))
    files = [file for file in every if not file.name.startswith("conformance-")]
    assert files
    for file in files:
        rows = json.loads(file.read_text()).get("rows")
        if rows is None:  # comparisons, not runs
            continue
        # A copy stands for the memory's speed: it computes nothing that could be checked.
        right = [
            row["checked"] or row["kernel"] in targets.COPIES or row["refused"] for row in rows
        ]
        assert rows and all(right), file


def test_a_table_is_replaced_between_its_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {
        "op": "matmul",
        "kernel": "naive",
        "shape": "M=1,N=1,K=1",
        "dtype": "float32",
        "target": "gpu",
        "checked": True,
        "time_ms": 2.5,
        "spread": 0.1,
        "tflops": 12.25,
        "roof_fraction": 0.5,
        "ratio_vs_cublas": 0.75,
    }
    run = {"device": "a GPU", "command": "python test_matmul.py --json x.json", "rows": [row]}
    (tmp_path / "gpu-matmul.json").write_text(json.dumps(run))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    page = "before\n<!-- results: gpu-matmul -->\nold\n<!-- end -->\nafter\n"
    new = report.updated(page)
    assert "| naive | 2.5 ms | 12.2 | 50% | 0.75 |" in new
    assert "Measured on: a GPU, by `python test_matmul.py`." in new
    assert "old" not in new and new.startswith("before\n") and new.endswith("after\n")
    assert report.updated(new) == new
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        report.updated("<!-- results: nowhere -->\n<!-- end -->")


def test_estimates_stand_beside_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {
        "kernel": "naive", "measured_ms": 2.0, "estimated_ms": 1.5, "error": -0.25,
        "limiter": "L1", "occupancy": 0.5,
    }  # fmt: skip
    ladder = {
        "name": "sgemm", "shape": "4 x 4", "gpu": "t4", "source": "somewhere", "steps": [step],
        "rank_correlation": 1.0, "wrong_pairs": [], "median_error": 0.25,
    }  # fmt: skip
    run = {
        "device": "simulator", "command": "python x", "ladders": [ladder], "median_error": 0.25,
        "band": 0.3, "inside_band": 1,
    }  # fmt: skip
    (tmp_path / "estimates.json").write_text(json.dumps(run))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    new = report.updated("<!-- results: estimates -->\n<!-- end -->\n")
    assert "| naive | 2 ms | 1.5 ms | -25% | 50% | L1 |" in new
    assert "sgemm, 4 x 4, t4 (somewhere):" in new
    assert "pairs in the wrong order: 0, median error 25%" in new
    assert "All 1: median error 25%, 1 within 30%. Made by `python x`." in new


def softmax_row(kernel: str, **fields: object) -> dict[str, object]:
    common = {
        "op": "softmax", "kernel": kernel, "shape": "rows=1024,cols=1024", "dtype": "float32",
        "target": "gpu", "checked": True, "time_ms": 0.01, "spread": 0.0, "gbps": 838.8608,
        "roof_fraction": 0.25, "counters": {}, "refused": False, "note": "",
    }  # fmt: skip
    return common | fields


def test_targets_are_those_of_the_runs_with_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    page = "<!-- targets: softmax -->\n<!-- end -->\n"
    old = {"device": "an old GPU", "command": "python x", "rows": [softmax_row("naive")]}
    (tmp_path / "old-softmax.json").write_text(json.dumps(old))
    assert "\nNot measured yet.\n<!-- end -->" in report.updated(page)
    ratios = {"ratio_vs_torch": 1.5, "ratio_vs_compile": 1.25, "ratio_vs_copy": 0.8}
    traffic = {"ideal_bytes": 8388608, "asked": 1.0, "moved": 1.02}
    rows = [softmax_row("cluster", traffic=traffic, **ratios), softmax_row("compile")]
    run = {"device": "a GPU", "command": "python test_softmax.py --json x.json", "rows": rows}
    (tmp_path / "new-softmax.json").write_text(json.dumps(run))
    new = report.updated(page)
    line = "| 1024 x 1024 | float32 | cluster | 838.9 | 80% | 1.50x | 1.25x | 1.0x better | met |"
    assert line in new
    assert "over torch's, 1 cases: 1.50x (target: >= 1.3x: met)." in new
    assert "Measured on: a GPU, by `python test_softmax.py`." in new and "old" not in new
    assert report.updated(new) == new
    times = report.updated("<!-- results: new-softmax -->\n<!-- end -->\n")
    assert "| bytes asked | bytes moved | ratio to compile |" in times
    assert "| cluster | 10 us | 839 | 25% | x1.00 | x1.02 | 1.25 | 0.80 | 1.50 |" in times
    assert "| compile | 10 us | 839 | 25% |  |  |  |  |  |" in times


def test_simulated_bytes_have_a_table_of_their_own() -> None:
    counters = dict.fromkeys(
        ("global_load_requests", "global_store_requests", "global_load_sectors",
         "global_store_sectors", "global_load_sectors_ideal", "global_store_sectors_ideal"), 8,
    )  # fmt: skip
    estimate = {"gpu": "h200", "time_ms": 0.01, "occupancy": 0.5, "limiter": "DRAM"}
    row = softmax_row(
        "naive",
        target="simulator",
        counters=counters | {"warp_instructions": 1000},
        estimate=estimate,
        traffic={"ideal_bytes": 24_000_000, "asked": 2.0, "moved": 5.5},
    )
    text = report.table({"device": "simulator", "command": "python x", "rows": [row]})
    cells = "naive | 1.00 k | 1/1 | 48.0 MB x2.00 | 132 MB x5.50 | 50% | 10 us | 50% | DRAM"
    assert f"| {cells} |" in text  # 24 MB in 10 us: half of 4800 GB/s
