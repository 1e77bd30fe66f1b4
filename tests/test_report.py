"""The tables of the documentation come from the kept results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench import report


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
        assert rows and all(row["checked"] or row["kernel"] == "copy" for row in rows), file


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
