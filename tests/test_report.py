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
        rows = json.loads(file.read_text())["rows"]
        assert rows and all(row["checked"] for row in rows), file


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
