"""The tables of the documentation come from the saved results."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs import attention_pictures, roofline
from workbench.cli import pages
from workbench.harness import goals
from workbench.harness.results import Estimated, Row, Traffic
from workbench.toolchain import REPO


def run(file: Path, *rows: Row) -> None:
    """Write the results of a run."""
    about = {"device": "a GPU", "command": "python test.py --json x.json"}
    file.write_text(json.dumps(about | {"rows": [row.as_json() for row in rows]}))


def test_pages_are_up_to_date() -> None:
    for page in pages.pages():
        text = page.read_text()
        assert pages.updated(text) == text, f"{page}: run python -m workbench.cli.pages"


def test_results_are_of_right_rungs_alone() -> None:
    every = sorted(pages.RESULTS.glob("*.json"))
    files = [file for file in every if not file.name.startswith("conformance-")]
    assert files
    for file in files:
        rows = json.loads(file.read_text()).get("rows")
        if rows is None:  # comparisons, not runs
            continue
        # A copy represents the memory's speed: it computes nothing that could be checked.
        right = [row["checked"] or row["kernel"] in goals.COPIES or row["refused"] for row in rows]
        assert rows and all(right), file


def test_a_table_is_replaced_between_its_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(
        *("matmul", "naive", "M=1,N=1,K=1", "float32", "gpu", True),
        layout="nt",
        share=0.25,
        time_ms=2.5,
        spread=0.1,
        rate=12.25,
        roof_fraction=0.5,
        ratios={"cublas": 0.75},
    )
    run(tmp_path / "gpu-matmul.json", row)
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    page = "before\n<!-- results: gpu-matmul -->\nold\n<!-- end -->\nafter\n"
    new = pages.updated(page)
    assert "`M=1,N=1,K=1 nt`, float32:\n\n| rung | error |" in new
    assert "| naive | 25% | 2.5 ms | 4% | 12.2 | 50% | 0.75x |" in new
    assert "What the columns mean: error: the largest of an element, as a share of the error" in new
    assert "Measured on: a GPU, by `python test.py`.\n" in new
    assert "old" not in new and new.startswith("before\n") and new.endswith("after\n")
    assert pages.updated(new) == new
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        pages.updated("<!-- results: nowhere -->\n<!-- end -->")


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
    compared = {
        "device": "simulator", "command": "python x", "ladders": [ladder], "median_error": 0.25,
        "band": 0.3, "inside_band": 1,
    }  # fmt: skip
    (tmp_path / "estimates.json").write_text(json.dumps(compared))
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    new = pages.updated("<!-- results: estimates -->\n<!-- end -->\n")
    assert "| naive | 2 ms | 1.5 ms | -25% | 50% | L1 |" in new
    assert "sgemm, 4 x 4, t4 (somewhere):" in new
    assert "pairs in the wrong order: 0, median error 25%" in new
    assert "All 1: median error 25%, 1 within 30%. Made by `python x`." in new


def softmax_row(kernel: str, **fields: object) -> Row:
    given = {
        **{"shape": "rows=1024,cols=1024", "dtype": "float32", "target": "gpu", "checked": True},
        **{"unit": "gbps", "time_ms": 0.01, "spread": 0.0, "rate": 838.8608, "roof_fraction": 0.25},
    }
    return Row("softmax", kernel, **given | fields)


def test_goals_are_those_of_the_runs_with_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    page = "<!-- goals: softmax -->\n<!-- end -->\n"
    run(tmp_path / "old-softmax.json", softmax_row("naive"))
    assert pages.updated(page) == page
    cluster = softmax_row(
        "cluster",
        traffic=Traffic(8388608, 1.0, 1.02),
        ratios={"torch": 1.5, "compile": 1.25, "copy": 0.8},
    )
    run(tmp_path / "new-softmax.json", cluster, softmax_row("compile", baseline=True))
    new = pages.updated(page)
    cells = "rows=1024,cols=1024 | float32 | cluster | 838.9 | 80% | 1.50x | 1.25x | 1.0x better"
    assert f"| {cells} | met |" in new
    assert "over torch's, 1 cases: 1.50x (goal: >= 1.3x: met)." in new
    assert new.count("Measured on: a GPU, by `python test.py`.") == 1  # nothing of the old run
    assert pages.updated(new) == new
    times = pages.updated("<!-- results: new-softmax -->\n<!-- end -->\n")
    assert "| bytes requested | bytes moved | vs torch | vs compile | vs copy |" in times
    cells = "cluster | 10 us | 0% | 839 | 25% | x1.00 | x1.02 | 1.50x | 1.25x | 0.80x"
    assert f"| {cells} |" in times
    assert "| compile | 10 us | 0% | 839 | 25% |  |  |  |  |  |" in times


def test_estimates_say_what_they_are_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    counters = dict.fromkeys(
        ("global_load_bytes", "bulk_load_bytes", "bulk_store_bytes", "l2_read_sectors"), 0
    )
    counters |= {"global_store_bytes": 16_777_216, "l2_write_sectors": 1_441_792}
    naive = softmax_row(
        "naive",
        target="simulator",
        time_ms=None,
        counters=counters | {"warp_instructions": 1000},
        estimate=Estimated("h200", 0.01, 0.3, "DRAM", 0.5, "registers"),
    )
    cluster = softmax_row("cluster", target="simulator", checked=False, refused="declines: why")
    run(tmp_path / "x-softmax.json", naive, cluster)
    new = pages.updated("<!-- results: x-softmax -->\n<!-- end -->\n")
    cells = "naive | 1.00 k | 16.8 MB x2.00 | 46.1 MB x5.50 | 50% | 10 us | 17% | DRAM"
    assert f"| {cells} |" in new  # 8.4 MB in 10 us: a sixth of 4800 GB/s
    assert "| cluster | declines: why |  |  |  |  |  |  |" in new
    assert "by `python test.py`. Times are estimates for the H200 SXM.\n" in new


def test_every_table_has_as_many_cells_in_every_line() -> None:
    for page in pages.pages():
        lines = page.read_text().splitlines()
        for above, line in zip(lines, lines[1:], strict=False):
            if above.startswith("|") and line.startswith("|"):
                assert above.count("|") == line.count("|"), f"{page.name}: {line}"


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    page = tmp_path / "page.md"
    old = "<!-- goals: softmax -->\nold\n<!-- end -->\n"
    page.write_text(old)
    monkeypatch.setattr(pages, "REPO", tmp_path)
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "pages", lambda: [page])
    monkeypatch.setattr(sys, "argv", ["pages", "--dry-run"])
    assert pages.main() == 1
    assert page.read_text() == old
    assert capsys.readouterr().out == "page.md: not up to date\n"
    monkeypatch.setattr(sys, "argv", ["pages"])
    assert pages.main() == 0
    assert page.read_text() == "<!-- goals: softmax -->\n<!-- end -->\n"
    assert capsys.readouterr().out == "page.md: updated\n"
    monkeypatch.setattr(sys, "argv", ["pages", "--dry-run"])
    assert (pages.main(), capsys.readouterr().out) == (0, "")


def test_a_first_table_is_what_a_script_prints(tmp_path, monkeypatch) -> None:
    estimate = Estimated("h200", 0.01, 0.3, "DRAM", 0.5, "registers")
    about = ("matmul", "naive", "M=1,N=1,K=1", "float32", "simulator", True)
    counters = {"warp_instructions": 3000}
    first = Row(*about, share=0.25, counters=counters, estimate=estimate)
    second = dataclasses.replace(first, shape="M=2,N=2,K=2")
    run(tmp_path / "simulator-matmul.json", first, second)
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    new = pages.updated("<!-- table: simulator-matmul -->\n<!-- end -->\n")
    assert "```\nmatmul M=1,N=1,K=1 float32\n" in new
    assert re.search(r"^naive +25% +3.00 k .* 10 us +DRAM$", new, flags=re.MULTILINE)
    assert "M=2" not in new


def test_an_excerpt_comes_from_its_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "excerpts.json").write_text(json.dumps({"race": "a race", "explain": "a line"}))
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    page = "<!-- excerpt: race -->\nold\n<!-- end -->\n"
    new = "<!-- excerpt: race -->\n```\na race\n```\n<!-- end -->\n"
    assert pages.updated(page) == new


def test_pictures_of_results_are_up_to_date(monkeypatch, tmp_path, capsys) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    if f"matplotlib=={matplotlib.__version__}" not in (REPO / "pyproject.toml").read_text():
        pytest.skip("another matplotlib than the one in pyproject.toml draws other curves")
    assert roofline.main(["--dry-run"]) == 0, "run python -m docs.roofline"
    monkeypatch.setattr(roofline, "FOLDER", tmp_path)
    assert roofline.main(["--dry-run"]) == 1 and not list(tmp_path.iterdir())
    assert "docs/roofline.svg is not up to date" in capsys.readouterr().out
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)  # as in a matplotlibrc
    assert roofline.main([]) == 0
    for file in tmp_path.iterdir():
        ElementTree.parse(file)
        assert file.read_bytes() == (REPO / "docs" / file.name).read_bytes()


def test_the_pictures_of_attention_are_up_to_date(monkeypatch, tmp_path, capsys) -> None:
    assert attention_pictures.main(["--dry-run"]) == 0, "run python -m docs.attention_pictures"
    monkeypatch.setattr(attention_pictures, "FOLDER", tmp_path)
    assert attention_pictures.main(["--dry-run"]) == 1
    assert not list(tmp_path.iterdir())
    assert "docs/attention_masks.svg is not up to date" in capsys.readouterr().out
    assert attention_pictures.main([]) == 0
    page = (REPO / "docs" / "attention.md").read_text()
    for file in tmp_path.glob("*.svg"):
        ElementTree.parse(file)
        assert f"]({file.name})" in page


@pytest.mark.parametrize("draw", attention_pictures.PICTURES.values(), ids=lambda d: d.__name__)
def test_no_words_of_a_picture_overlap(draw) -> None:
    picture = draw()
    assert [(a.text, b.text) for a, b in combinations(picture.words, 2) if a.overlaps(b)] == []
    for words in picture.words:
        inside = 0 <= words.left and words.right <= picture.width and words.bottom <= picture.height
        assert inside, words


@pytest.mark.full
def test_excerpts_are_what_the_scripts_print() -> None:
    """Where tensors are in memory may move a figure in its last digit: not in the fast tier."""
    command = [sys.executable, "-m", "docs.excerpts", "--dry-run"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    advice = "run python -m docs.excerpts && python -m workbench.cli.pages"
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{advice}"


@pytest.mark.parametrize("page", [*pages.pages(), REPO / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_has_every_page() -> None:
    docs = REPO / "docs"
    linked = re.findall(r"\]\(([\w.]+\.md)\)", (docs / "index.md").read_text())
    assert sorted(linked) == sorted(page.name for page in docs.glob("*.md") if page.stem != "index")
