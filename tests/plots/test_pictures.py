"""Pictures of results: no words overlap, all are inside, and all that is known is drawn."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations

import pytest

from workbench.estimate.gpus import GPUS, by_device
from workbench.harness.results import Estimated, Row, Traffic
from workbench.harness.roofs import Roofs
from workbench.toolchain import REPO

pytest.importorskip("matplotlib")

from workbench.plots import picture  # noqa: E402

RESULTS = REPO / "docs" / "results"
KEPT = [
    file.stem
    for file in sorted(RESULTS.glob("*.json"))
    if "shape" in (json.loads(file.read_text()).get("rows") or [{}])[0]
]
L2 = {"l2_read_sectors": 1 << 20, "l2_write_sectors": 1 << 18}


def estimated(time_ms: float) -> Estimated:
    return Estimated("h200", time_ms, 0.3, "latency", 0.5, "registers")


def simulated(kernel: str, time_ms: float = 1.0, **fields: object) -> Row:
    given = {"counters": L2, "estimate": estimated(time_ms), "sampled_blocks": 2} | fields
    shape = fields.pop("shape", "M=512,N=512,K=512")
    given.pop("shape", None)
    return Row("matmul", kernel, shape, "float32", "simulator", True, **given)


def of_bytes(kernel: str, moved: float, time_ms: float) -> Row:
    about = ("softmax", kernel, "rows=1024,cols=1024", "bfloat16", "gpu", True)
    return Row(*about, unit="gbps", time_ms=time_ms, traffic=Traffic(1 << 22, moved, moved))


def timed(kernel: str, time_ms: float, **fields: object) -> Row:
    return Row(
        *("matmul", kernel, "M=512,N=512,K=512", "float32", "gpu", True),
        **{"time_ms": time_ms, "counters": L2} | fields,
    )


UGLY = {
    "one rung": [simulated("naive")],
    "forty rungs": [simulated(f"rung_number_{i}", 1.1**i) for i in range(40)],
    "forty equal rungs": [simulated(f"rung_number_{i}") for i in range(40)],
    "eleven decades": [simulated("slow", 1e7), simulated("fast", 1e-4)],
    "long names": [
        simulated("x" * 200, 2.0 + i / 100, options=f"alpha=0.{'1' * 300}") for i in range(3)
    ],
    "a library that is the fastest": [timed("naive", 9), timed("cublas", 0.1, baseline=True)],
    "a library that is the slowest": [timed("naive", 1e-3), timed("cublas", 9, baseline=True)],
    "libraries that are equal": [
        timed("naive", 2.0),
        *(timed(f"library_{i}", 1.0 + i / 1000, baseline=True) for i in range(4)),
    ],
    "bytes at the roofs": [of_bytes("a", 1.0, 1e-3), of_bytes("b", 5.5, 9.0), of_bytes("c", 40, 1)],
    "equal bytes": [of_bytes(f"rung_{i}", 1.0, 0.01) for i in range(16)],
    "no bytes": [dataclasses.replace(of_bytes("a", 1.0, 1e-3), traffic=None)],
    "six shapes": [simulated("naive", shape=f"M={n},N=8,K=8") for n in range(8, 14)],
}


def drawn(rows: list[Row], device: str = ""):
    gpu = by_device(device) if device else GPUS["h200"]
    return picture.figure(rows, gpu, device, Roofs(60.0, 3000.0))


def kept(name: str) -> tuple[list[Row], str]:
    run = json.loads((RESULTS / f"{name}.json").read_text())
    rows = [Row.from_json(row) for row in run["rows"]]
    return rows, "" if run["device"] == "simulator" else run["device"]


def words(figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every text that is drawn, and its box in pixels, as matplotlib's renderer has it."""
    from matplotlib.text import Text

    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    return [(t.get_text(), t.get_window_extent(renderer).extents) for t in texts]


def check(figure) -> list[str]:
    found = words(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for text, (left, bottom, right, top) in found:
        assert 0 <= left and right <= width and 0 <= bottom and top <= height, text
    for (a, (l1, b1, r1, t1)), (b, (l2, b2, r2, t2)) in combinations(found, 2):
        assert r1 <= l2 or r2 <= l1 or t1 <= b2 or t2 <= b1, f"{a!r} covers {b!r}"
    return [text for text, _ in found]


def everything_is_named(rows: list[Row], texts: list[str]) -> None:
    """Bars for all rows; in the roofline a name for all dots; the device or an ESTIMATE."""
    for panel in picture.panels(rows, GPUS["h200"]):
        for bar in panel.bars:
            assert texts.count(bar.name) >= 1
        names = ", ".join(texts).replace("\n", " ").split(", ")
        for dot in panel.roofline.dots if panel.roofline else ():
            assert names.count(dot.name) >= 2
    assert any("ESTIMATE" in text for text in texts) == any(row.estimate for row in rows)


@pytest.mark.parametrize("name", KEPT)
def test_kept_results(name):
    rows, device = kept(name)
    everything_is_named(rows, check(drawn(rows, device)))


@pytest.mark.parametrize("rows", UGLY.values(), ids=UGLY)
def test_ugly_results(rows):
    texts = check(drawn(rows))
    everything_is_named(rows, texts)
    assert not any("left out" in text for text in texts)
