"""--plot of the scripts: its file, its messages, its exit status."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from tests.plots.test_pictures import simulated, timed
from workbench.cli import main, plot, recorded
from workbench.estimate.gpus import GPUS
from workbench.harness import counting
from workbench.harness.results import Environment, Row
from workbench.harness.roofs import Roofs
from workbench.operators import get

pytest.importorskip("matplotlib")

from workbench.plots import picture, style  # noqa: E402

H100 = "NVIDIA H100 80GB HBM3"
SMALL = ("--kernel", "naive", "--target", "simulator", "--shape", "M=64,N=64,K=64")


def script(tmp_path: Path, monkeypatch, *words: str, op: str = "matmul") -> int:
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path / "cache")
    return main.main(op, words)


def test_formats_by_suffix_and_the_same_file_every_time(tmp_path, monkeypatch, capsys):
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")):
        files = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
        made = picture.figure([simulated("naive"), simulated("tiled", 0.1)], GPUS["h200"])
        for file in files:
            picture.write(made, file)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert files[0].read_bytes().startswith(start)
    ElementTree.parse(tmp_path / "one.svg")
    assert script(tmp_path, monkeypatch, *SMALL, "--plot", str(tmp_path / "x.png")) == 0
    assert capsys.readouterr().out.endswith(f"\nwrote {tmp_path / 'x.png'}\n")


def test_a_wrong_rung_is_not_drawn_and_the_status_says_so(tmp_path, monkeypatch, capsys):
    wrong = dataclasses.replace(simulated("wrong"), checked=False, estimate=None, note="WRONG x")
    rows = [simulated("naive", shape="M=64,N=64,K=64"), wrong]
    drawn: list[Row] = []
    draw = picture.figure
    monkeypatch.setattr(counting, "measure", lambda *_, **__: rows)
    monkeypatch.setattr(
        picture, "figure", lambda rows, *rest: drawn.extend(rows) or draw(rows, *rest)
    )
    files = [tmp_path / name for name in ("x.png", "x.csv", "x.json")]
    flags = [word for file in files for word in (f"--{file.suffix[1:]}", str(file))]
    flags[0] = "--plot"
    assert script(tmp_path, monkeypatch, *SMALL, *flags) == 1
    assert all(file.stat().st_size for file in files)
    assert [row["checked"] for row in csv.DictReader(files[1].open())] == ["true", "false"]
    (panel,) = picture.panels(drawn[:1] + [dataclasses.replace(wrong, shape=rows[0].shape)], None)
    assert [(bar.name, bar.time_ms, bar.text) for bar in panel.bars] == [
        ("naive", 1.0, "latency"),
        ("wrong", None, "WRONG"),
    ]
    assert [dot.name for dot in panel.roofline.dots] == ["naive"]


def test_nothing_to_draw_is_one_line(tmp_path, monkeypatch, capsys):
    words = ("--shape", "B=1,H=1,Nq=9,Nk=10,D=300", "--dtype", "float32", "--kernel", "flash")
    file = tmp_path / "x.svg"
    status = script(
        tmp_path, monkeypatch, *words, "--target", "simulator", "--plot", str(file), op="attention"
    )
    assert (status, file.exists()) == (1, False)
    expected = f"error: --plot {file}: nothing to draw, no rung has a time\n"
    assert capsys.readouterr().err == expected


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(style, "write_whole", full)
    file = tmp_path / "x.png"
    assert script(tmp_path, monkeypatch, *SMALL, "--plot", str(file)) == 1
    assert capsys.readouterr().err == f"error: --plot {file}: No space left on device\n"


def test_without_matplotlib_nothing_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(main, "_run", lambda *_: pytest.fail("it began"))
    assert script(tmp_path, monkeypatch, *SMALL, "--plot", str(tmp_path / "x.png")) == 2
    err = capsys.readouterr().err
    assert "--plot a picture needs matplotlib: pip install matplotlib" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["--csv", "x.csv"], ["--plot", "x.png"], ["--json", "x.json"]])
def test_files_of_the_table_are_not_for_views(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script(tmp_path, monkeypatch, "--explain", "naive", *words) == 2
    err = capsys.readouterr().err
    assert f"{words[0]} is for the table, which --explain does not produce\n" in err


def asked(target: str, path: Path, gpu: str = "h200") -> SimpleNamespace:
    words = SimpleNamespace(plot=path)
    return SimpleNamespace(operator=get("matmul"), target=target, words=words, gpu=GPUS[gpu])


def test_bytes_of_a_rung_timed_on_a_gpu_are_counted(tmp_path, monkeypatch, capsys):
    """The GPU is made up: its times are; the bytes are those of the simulator."""
    rows = [
        timed("naive", 0.4, counters={}),
        timed("tiled", 0.2, counters={}),
        timed("fast_on_a_gpu_only", 0.1, counters={}),
        timed("cublas", 0.05, counters={}, baseline=True),
    ]
    here = Environment(H100, "580", "2.13", "13.0", "abc", "python test_matmul.py --plot x.png")
    made = []
    draw = picture.figure
    monkeypatch.setattr(
        picture, "figure", lambda rows, *rest: made.append(rows) or draw(rows, *rest)
    )
    assert plot.draw(asked("gpu", tmp_path / "x.png"), here, rows, Roofs(60.0, 3000.0))
    (panel,) = picture.panels(made[0], GPUS["h100"])
    dots = {dot.name: dot for dot in panel.roofline.dots}
    assert dots.keys() == {"naive", "tiled"}
    moved = 4 * 512 * 512 * (2 * 512 / 32 + 1)  # A and B once per tile of 32 x 32, and C
    assert dots["tiled"].x == pytest.approx(2 * 512**3 / moved)
    assert dots["tiled"].y == pytest.approx(2 * 512**3 / 0.2e-3 / 1e12)
    assert [name for name, _ in panel.roofline.lines] == ["cublas"]
    capsys.readouterr()


def test_a_library_measured_on_the_estimates_gpu_is_beside_them(tmp_path, capsys):
    row = simulated("naive", shape="M=4096,N=4096,K=4096", time_ms=100.0)
    for gpu, names in (("h100", ["cublas"]), ("h200", [])):
        found = plot._libraries(asked("simulator", tmp_path, gpu), {row.subject})
        assert [row.kernel for row in found] == names
    found = plot._libraries(asked("simulator", tmp_path, "h100"), {row.subject})
    (panel,) = picture.panels([row, *found], GPUS["h100"])
    assert [(bar.library, bar.text) for bar in panel.bars] == [
        (False, "latency"),
        (True, "measured"),
    ]


def test_what_is_left_out_is_said(tmp_path, capsys):
    rows = [simulated("naive", shape=f"M={n},N=8,K=8") for n in range(8, 16)]
    here = Environment("simulator", None, "2.13", "13.0", None, "python test_matmul.py")
    assert plot.draw(asked("simulator", tmp_path / "x.png"), here, rows, Roofs(None, None))
    assert capsys.readouterr().out.endswith("x.png, the first 6 of 8 shapes\n")
