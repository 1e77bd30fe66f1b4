"""Where dots, roofs and bars are: by figures from elsewhere."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plots.test_pictures import L2, of_bytes, simulated, timed
from workbench.estimate.gpus import GPUS
from workbench.harness.roofs import Roofs
from workbench.plots import labels, ladder, roofs, style
from workbench.plots.labels import Box

BYTES = 32 * (L2["l2_read_sectors"] + L2["l2_write_sectors"])


def test_a_dot_is_flop_per_byte_and_flop_per_second():
    row = simulated("naive", 2.0)
    (dot,) = roofs.roofline([row], []).dots
    assert (dot.x, dot.y) == (2 * 512**3 / BYTES, pytest.approx(2 * 512**3 / 2e-3 / 1e12))
    (dot,) = roofs.roofline([of_bytes("a", 5.5, 0.5)], []).dots
    ideal = 2 * 1024 * 1024 * 2  # read and written, two bytes each
    assert (dot.x, dot.y) == (5.5, pytest.approx(ideal / 0.5e-3 / 1e9))


def test_roofs_are_those_of_the_data_sheets():
    """[H100]: 67 TFLOP/s fp32, 989 fp16 at 1.83 GHz; here at the boost clock of 1.98 GHz."""
    rows = [simulated("naive")]
    by_name = {roof.name: roof for roof in roofs.roofs_of(rows, GPUS["h200"])}
    assert by_name["fp32, CUDA cores"].peak == pytest.approx(66.9, abs=0.05)
    assert set(by_name) == {"L2", "fp32, CUDA cores"}
    assert by_name["L2"].at(10) == pytest.approx(80.0)  # 8 TB/s
    rows = [timed("mma", 1.0)]
    rows = [dataclasses.replace(rows[0], dtype="bfloat16")]
    by_name = {roof.name: roof for roof in roofs.roofs_of(rows, GPUS["h200"])}
    assert by_name["fp16, wgmma"].peak == pytest.approx(989 * 1.98 / 1.83, rel=0.002)
    assert by_name["fp16, mma.sync"].peak == pytest.approx(0.63 * by_name["fp16, wgmma"].peak)
    of_t4 = {roof.name: roof.peak for roof in roofs.roofs_of(rows, GPUS["t4"])}
    assert of_t4["fp16, tensor cores"] == pytest.approx(65, abs=0.5)
    by_name = {roof.name: roof for roof in roofs.roofs_of([of_bytes("a", 1, 1)], GPUS["h200"])}
    assert by_name["memory"].at(3) == 4800 and by_name["L2"].at(4) == pytest.approx(2000)


def test_a_gpu_without_an_entry_has_the_roofs_of_its_properties():
    unknown = Roofs(30.0, 900.0)
    assert [roof.peak for roof in roofs.roofs_of([timed("a", 1.0)], None, unknown)] == [30.0]
    assert [roof.peak for roof in roofs.roofs_of([of_bytes("a", 1, 1)], None, unknown)] == [900.0]
    assert roofs.roofs_of([timed("a", 1.0)], None, Roofs(None, None)) == []


def test_without_bytes_there_is_no_roofline():
    assert roofs.roofline([timed("a", 1.0, counters={})], []) is None
    assert roofs.roofline([], []) is None


def test_bars_are_as_long_as_the_times():
    pytest.importorskip("matplotlib")
    rows = [timed("naive", 8.0), timed("tiled", 2.0), timed("cublas", 1.0, baseline=True)]
    for last in (1.0, 0.001):  # a linear axis, a logarithmic one
        rows[2] = timed("cublas", last, baseline=True)
        with style.look():
            axes = style.axes(style.figure(8, 4), 1, 1, 6, 2)
            ladder.draw(axes, ladder.bars(rows), {"float32": ("#0072b2", "o")}, "time")
        ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
        assert ends == pytest.approx([8.0, 2.0, last])
        assert [text.get_text() for text in axes.get_yticklabels()] == ["naive", "tiled", "cublas"]
        (line,) = axes.lines
        assert list(line.get_xdata()) == [last, last]
        assert axes.get_xscale() == ("linear" if last == 1.0 else "log")


def test_texts_can_be_read_on_white():
    """WCAG: 4.5 to 1 for text, 3 to 1 for marks."""

    def light(colour: str) -> float:
        parts = [part / 255 for part in bytes.fromhex(colour[1:])]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in (style.INK, style.MUTED, *map(style.darker, style.COLOURS[:3])):
        assert 1.05 / (light(colour) + 0.05) > 4.5, colour


dots = st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=1, max_size=20)


@settings(max_examples=20, deadline=None)
@given(dots, st.integers(20, 120))
def test_no_name_covers_another_or_a_dot(dots, width):
    inside, size, radius = Box(-150, -150, 550, 450), (float(width), 12.0), 4.0
    taken = [Box(100, 100, 200, 112)]
    found = labels.place(dots, radius, [size] * len(dots), inside, taken)
    assert None not in found
    assert labels.place(dots, radius, [size] * len(dots), inside, taken) == found
    boxes = [(b.left, b.bottom, b.right, b.top) for b in found]
    for i, (left, bottom, right, top) in enumerate(boxes):
        assert (right - left, top - bottom) == pytest.approx(size)
        assert -150 <= left and right <= 550 and -150 <= bottom and top <= 450
        others = [*boxes[:i], *boxes[i + 1 :], (100, 100, 200, 112)]
        assert all(right <= a or c <= left or top <= b or d <= bottom for a, b, c, d in others)
        for x, y in dots:
            away = math.hypot(max(left - x, 0, x - right), max(bottom - y, 0, y - top))
            assert away >= radius


def test_names_without_room_are_left_out():
    found = labels.place([(5, 5), (5, 5)], 2, [(40, 10), (8, 3)], Box(0, 0, 30, 30))
    assert found[0] is None and found[1] is not None


def test_dots_that_look_like_one():
    near = [(0.0, 0.0), (10.0, 0.0), (0.5, 0.5), (10.0, 0.9), (20.0, 0.0)]
    assert labels.clusters(near, 1.0) == [[0, 2], [1, 3], [4]]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 10.5, [1, 2, 5, 10]),
        (100, 1e6, [100, 1e3, 1e4, 1e5, 1e6]),
        (3e-3, 0.4, [0.005, 0.01, 0.02, 0.05, 0.1, 0.2]),
        (1e-9, 1e9, [1e-9, 1e-5, 1e-1, 1e3, 1e7]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert style.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("high", [1e-7, 0.7, 3.0, 9.9, 42.0, 1e9])
def test_even_ticks(high):
    found = style.even_ticks(high)
    assert found[0] == 0 and 3 <= len(found) <= 6 and found[-1] <= high
