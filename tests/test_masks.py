"""Attention masks: worked examples, a loop in plain Python, text, pictures, the command line.

The examples are what the rules of github.com/nothingstopsme/tf_flash_attention give.
"""

from __future__ import annotations

import sys
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench import masks
from workbench.masks import SYNCS, Mask, causal, full, local, picture
from workbench.masks.__main__ import main
from workbench.toolchain import command

CAUSAL = {
    (6, 3, "none_front"): "100 110 111 111 111 111",
    (6, 3, "none_end"): "000 000 000 100 110 111",
    (6, 3, "scale_front"): "100 100 110 110 111 111",
    (6, 3, "scale_end"): "000 100 100 110 110 111",
    (3, 6, "none_front"): "100000 110000 111000",
    (3, 6, "none_end"): "111100 111110 111111",
    (3, 6, "scale_front"): "100000 111000 111110",
    (3, 6, "scale_end"): "110000 111100 111111",
}
LOCAL = {  # of 6 queries and 6 keys, by log2_stride and causal
    (0, False): "110000 111000 011100 001110 000111 000011",
    (0, True): "100000 110000 011000 001100 000110 000011",
    (1, False): "101000 010100 101010 010101 001010 000101",
    (1, True): "100000 010000 101000 010100 001010 000101",
}
LOCAL_OF_4_AND_2 = {
    "none_front": "11 11 01 00",
    "none_end": "00 10 11 11",
    "scale_front": "10 11 01 01",
    "scale_end": "10 10 11 01",
}
CAUSAL_OF_IMAGES = {  # 2 x 2 queries, 4 x 4 keys
    "none_front": "1000|0000|0000|0000 1100|0000|0000|0000 1111|1000|0000|0000 1111|1100|0000|0000",
    "none_end": "1111|1111|1110|0000 1111|1111|1111|0000 1111|1111|1111|1110 1111|1111|1111|1111",
    "scale_front": "1000|0000|0000|0000 1110|0000|0000|0000 1111|1111|1000|0000 "
    "1111|1111|1110|0000",
    "scale_end": "1111|1100|0000|0000 1111|1111|0000|0000 1111|1111|1111|1100 1111|1111|1111|1111",
}


def lines(mask: Mask, nq: int, nk: int) -> list[str]:
    return masks.text(mask, nq, nk).split("\n")


def test_every_query_of_a_full_mask_sees_every_key():
    assert lines(full(), 2, 3) == ["111", "111"]


@pytest.mark.parametrize(("nq", "nk", "sync"), CAUSAL)
def test_causal(nq, nk, sync):
    assert lines(causal(sync), nq, nk) == CAUSAL[nq, nk, sync].split()


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize(("log2_stride", "is_causal"), LOCAL)
def test_local(log2_stride, is_causal, sync):
    mask = local(2, log2_stride, is_causal, sync)
    assert lines(mask, 6, 6) == LOCAL[log2_stride, is_causal].split()


@pytest.mark.parametrize("sync", SYNCS)
def test_local_with_more_queries_than_keys(sync):
    assert lines(local(2, sync=sync), 4, 2) == LOCAL_OF_4_AND_2[sync].split()


@pytest.mark.parametrize("sync", SYNCS)
def test_causal_in_two_dimensions(sync):
    assert lines(causal(sync, 2, 4), 4, 16) == CAUSAL_OF_IMAGES[sync].split()


@pytest.mark.parametrize("sync", SYNCS)
def test_local_in_two_dimensions(sync):
    found = lines(local(2, sync=sync, q_width=3, k_width=3), 9, 9)
    assert found[4] == "111|111|111"
    assert found[0] == "110|110|000"


@pytest.mark.parametrize("sync", SYNCS)
def test_local_and_causal_in_two_dimensions(sync):
    found = lines(local(2, causal=True, sync=sync, q_width=3, k_width=3), 6, 6)
    assert found[3] == "110|100"


@pytest.mark.parametrize(("nq", "nk"), [(1, 1), (5, 5), (3, 8), (8, 3), (1, 6), (6, 1)])
def test_none_end_is_the_lower_right_diagonal(nq, nk):
    expected = torch.ones(nq, nk, dtype=torch.bool).tril(nk - nq)
    assert torch.equal(causal().visible(nq, nk), expected)


@pytest.mark.parametrize(("nq", "nk"), [(5, 5), (3, 8), (8, 3)])
def test_none_front_is_the_upper_left_diagonal(nq, nk):
    expected = torch.ones(nq, nk, dtype=torch.bool).tril()
    assert torch.equal(causal("none_front").visible(nq, nk), expected)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_window_has_places_on_both_sides(window):
    assert int(local(window).visible(9, 9)[4].sum()) == 2 * window - 1


def place_of(sync: str, index: int, length: int, other: int) -> int:
    longer = max(length, other)
    return {
        "none_front": index,
        "none_end": index + longer - length,
        "scale_front": index * (longer // length),
        "scale_end": (index + 1) * (longer // length) - 1,
    }[sync]


def sees(mask: Mask, q: list[int], k: list[int]) -> bool:
    """Whether a query at the places q, rows first, sees a key at the places k."""
    if mask.causal and k > q:
        return False
    for a, b in zip(q, k, strict=True):
        away, rest = divmod(abs(a - b), 2**mask.log2_stride)
        if mask.window and (rest or away >= mask.window):
            return False
    return True


def looped(mask: Mask, q_sizes: list[int], k_sizes: list[int]) -> list[list[bool]]:
    """``Mask.visible``, one pair at a time."""

    def places(sizes: list[int], others: list[int]) -> list[list[int]]:
        return [
            [place_of(mask.sync, *one) for one in zip(index, sizes, others, strict=True)]
            for index in product(*map(range, sizes))
        ]

    keys = places(k_sizes, q_sizes)
    return [[sees(mask, q, k) for k in keys] for q in places(q_sizes, k_sizes)]


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("sync", SYNCS)
@given(data=st.data())
def test_tensors_agree_with_a_loop(sync, dimensions, data):
    most = 20 if dimensions == 1 else 5
    size = st.lists(st.integers(1, most), min_size=dimensions, max_size=dimensions)
    q_sizes, k_sizes = data.draw(size), data.draw(size)
    window = data.draw(st.integers(0, 4))
    mask = Mask(
        data.draw(st.booleans()),
        window,
        data.draw(st.integers(0, 2)) if window else 0,
        sync,
        *((q_sizes[1], k_sizes[1]) if dimensions == 2 else ()),
    )
    expected = looped(mask, q_sizes, k_sizes)
    visible = mask.visible(len(expected), len(expected[0]))
    assert visible.dtype == torch.bool
    assert visible.tolist() == expected


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("widths", [(0, 0), (2, 4)])
@pytest.mark.parametrize(("nq", "nk"), [(0, 8), (8, 0), (0, 0)])
def test_empty_sequences(nq, nk, widths, sync):
    masks.place(sync, nq, nk)
    masks.place(sync, nk, nq)
    mask = local(3, 1, True, sync, *widths)
    assert mask.visible(nq, nk).shape == (nq, nk)
    assert masks.text(mask, nq, nk).strip("\n|") == ""


@pytest.mark.parametrize("sync", SYNCS)
@given(length=st.integers(1, 50), other=st.integers(0, 50))
def test_places_are_affine(sync, length, other):
    offset, step = masks.place(sync, length, other)
    for index in range(length):
        assert offset + step * index == place_of(sync, index, length, other)


@pytest.mark.parametrize("mask", [causal(), local(2, 1, True, "scale_end", 3, 2)])
def test_the_mask_of_some_queries(mask):
    whole = mask.visible(12, 8)
    parts = [mask.visible(12, 8, queries=slice(start, start + 5)) for start in (0, 5, 10)]
    assert [len(part) for part in parts] == [5, 5, 2]
    assert torch.equal(torch.cat(parts), whole)


def test_a_mask_is_made_on_the_device_that_is_named():
    with torch.device("meta"):
        visible = local(2, causal=True, q_width=2, k_width=2).visible(4, 4, "cpu")
    assert visible.device.type == "cpu"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"causal": 1}, "causal: expected True or False, got 1"),
        ({"window": -1}, "window: expected a whole number from 0 up, got -1"),
        ({"window": 1.5}, "window: expected a whole number from 0 up, got 1.5"),
        ({"window": 1, "log2_stride": -1}, "log2_stride: expected a whole number from 0 to 30"),
        ({"window": 1, "log2_stride": 31}, "log2_stride: expected a whole number from 0 to 30"),
        ({"window": 2, "log2_stride": 30}, "at most 2147483647, got 2 * 2**30"),
        ({"window": 2**31}, "window: expected window * 2**log2_stride"),
        ({"log2_stride": 1}, "log2_stride: expected 0 where there is no window, got 1"),
        ({"sync": "end"}, "sync: expected one of none_end, none_front, scale_front, scale_end"),
        ({"q_width": -1, "k_width": 1}, "q_width: expected a whole number from 0 up, got -1"),
        ({"q_width": 4}, "k_width: expected a number of columns, because q_width is 4, got 0"),
        ({"k_width": 3}, "q_width: expected a number of columns, because k_width is 3, got 0"),
    ],
)
def test_masks_that_make_no_sense(fields, words):
    with pytest.raises(ValueError) as raised:
        Mask(**fields)
    assert words in str(raised.value)


def test_largest_windows():
    assert Mask(window=2**31 - 1).visible(3, 3).all()
    assert Mask(window=1, log2_stride=30).visible(3, 3).equal(torch.eye(3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: local(0), "window: expected at least 1, got 0"),
        (lambda: causal("front"), "sync: expected one of"),
        (lambda: masks.place("front", 1, 1), "sync: expected one of"),
        (lambda: masks.place("none_end", -1, 1), "length: expected at least 0, got -1"),
        (lambda: masks.place("none_end", 1, -1), "other: expected at least 0, got -1"),
        (lambda: causal().visible(-1, 1), "nq: expected at least 0, got -1"),
        (lambda: full().visible(1, -1), "nk: expected at least 0, got -1"),
        (
            lambda: causal(q_width=4, k_width=2).visible(6, 2),
            "nq: expected a multiple of q_width = 4, got 6",
        ),
        (
            lambda: Mask(q_width=4, k_width=2).visible(4, 3),
            "nk: expected a multiple of k_width = 2, got 3",
        ),
        (lambda: masks.tiles_visited(full().visible(2, 2), 0, 1), "bm: expected at least 1, got 0"),
        (lambda: masks.text(full(), 1, 1, "1"), "symbols: expected two characters, got '1'"),
        (lambda: masks.draw(full(), 1, 1, "a.svg"), "path: expected a file name that ends in .png"),
        (lambda: masks.draw(full(), 0, 1, "a.png"), "expected at least one query and one key"),
    ],
)
def test_calls_that_make_no_sense(call, words):
    with pytest.raises(ValueError) as raised:
        call()
    assert words in str(raised.value)


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3)
)
def test_a_tile_is_visited_if_a_pair_in_it_is_visible(nq, nk, bm, bn, window):
    visible = Mask(causal=True, window=window).visible(nq, nk)
    expected = [
        [bool(part.any()) for part in band.split(bn, dim=1)] for band in visible.split(bm, dim=0)
    ]
    assert masks.tiles_visited(visible, bm, bn).tolist() == expected


def test_text_with_other_symbols():
    assert masks.text(causal(), 2, 2, "·█") == "█·\n██"


# ------------------------------------------------------------------------------------------------
# Pictures


@pytest.mark.parametrize(
    ("mask", "nq", "nk", "tiles"),
    [
        (causal(), 8, 8, None),
        (causal("scale_end"), 6, 3, (2, 2)),
        (local(3), 40, 70, (16, 16)),
        (local(2, 1, True, "scale_front", 4, 3), 16, 12, (3, 5)),
        (local(3, q_width=20, k_width=20), 400, 400, None),
        (local(20), 450, 30, (64, 64)),
        (full(), 1, 1, None),
    ],
    ids=lambda value: masks.describe(value) if isinstance(value, Mask) else None,
)
def test_the_cells_of_a_picture(mask, nq, nk, tiles, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    masks.draw(mask, nq, nk, tmp_path / "mask.png", tiles)
    visible = mask.visible(nq, nk)
    layout = picture.Layout.of(mask, nq, nk)
    colors = [tuple(bytes.fromhex(color[1:])) for color in picture.COLORS]
    with image.open(tmp_path / "mask.png") as file:
        assert file.format == "PNG"
        drawn = [[file.getpixel(layout.centre(q, k)) for k in range(nk)] for q in range(nq)]
    seen = [[color == colors[picture.VISIBLE] for color in row] for row in drawn]
    in_vain = [[color == colors[picture.IN_VAIN] for color in row] for row in drawn]
    visited = torch.zeros_like(visible)
    if tiles:
        shown = masks.tiles_visited(visible, *tiles)
        visited = shown.repeat_interleave(tiles[0], 0).repeat_interleave(tiles[1], 1)[:nq, :nk]
    assert seen == visible.tolist()
    assert in_vain == (visited & ~visible).tolist()


def test_a_picture_without_pillow(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    words = ["causal", "--draw", str(tmp_path / "mask.png")]
    assert command.status(lambda: main(words)) == 1
    assert capsys.readouterr() == ("", "a picture of a mask needs Pillow: pip install pillow\n")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------
# The command line


@pytest.mark.parametrize(
    ("words", "mask", "nq", "nk", "counted"),
    [
        ("full", full(), 8, 8, "full: 64 of 64 pairs visible"),
        ("causal", causal(), 8, 8, "causal, none_end: 36 of 64 pairs visible"),
        ("local", local(2), 8, 8, "local, window 2, none_end: 22 of 64 pairs visible"),
        (
            "causal --queries 6 --keys 3 --sync scale_end",
            causal("scale_end"),
            6,
            3,
            "causal, scale_end: 9 of 18 pairs visible",
        ),
        (
            "local --queries 6 --window 2 --log2-stride 1 --causal --tiles 2,3",
            local(2, 1, True),
            6,
            6,
            "local, window 2, stride 2, causal, none_end: 10 of 36 pairs visible, "
            "5 of 6 tiles (2 x 3) visited",
        ),
        (
            "causal --queries 2x2 --keys 4x4",
            causal(q_width=2, k_width=4),
            4,
            16,
            "causal, none_end: 54 of 64 pairs visible",
        ),
        ("full --keys 2x3", Mask(q_width=3, k_width=3), 6, 6, "full: 36 of 36 pairs visible"),
    ],
)
def test_masks_are_printed(words, mask, nq, nk, counted, capsys):
    assert main(words.split()) == 0
    assert capsys.readouterr().out == f"{masks.text(mask, nq, nk)}\n{counted}\n"


def test_masks_are_printed_as_blocks(capsys):
    assert main(["causal", "--queries", "2", "--blocks"]) == 0
    assert capsys.readouterr().out.startswith("█·\n██\n")


def test_masks_are_drawn(tmp_path, capsys):
    pytest.importorskip("PIL", reason="needs Pillow")
    file = tmp_path / "mask.png"
    assert main(["local", "--tiles", "4,4", "--draw", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "the following arguments are required: kind"),
        ("diagonal", "invalid choice: 'diagonal'"),
        ("causal --queries 0", "--queries '0' is not N or RxC, from 1 to 4096 positions in all"),
        ("causal --queries 2x2x2", "--queries '2x2x2' is not N or RxC"),
        ("causal --queries 4x", "--queries '4x' is not N or RxC"),
        ("causal --keys 65x64", "--keys '65x64' is not N or RxC"),
        ("causal --queries 2x2 --keys 4", "--keys: expected RxC, because --queries is 2x2, got 4"),
        ("causal --queries 4 --keys 2x2", "--queries: expected RxC, because --keys is 2x2, got 4"),
        ("causal --tiles 4", "--tiles '4' is not BM,BN, two whole numbers from 1 to 4096"),
        ("causal --tiles 4,0", "--tiles '4,0' is not BM,BN"),
        ("causal --window 2", "--window: a causal mask does not support it"),
        ("causal --causal", "--causal: a causal mask does not support it"),
        ("full --log2-stride 0", "--log2-stride: a full mask does not support it"),
        ("full --sync none_end", "--sync: a full mask does not support it"),
        ("local --window 0", "--window '0' is not a whole number from 1"),
        ("local --log2-stride 31", "--log2-stride '31' is not a whole number from 0 to 30"),
        ("local --window 4 --log2-stride 30", "window: expected window * 2**log2_stride"),
        ("local --sync end", "--sync: invalid choice: 'end'"),
        ("causal --draw /no/such/folder/a.png", "there is no folder /no/such/folder"),
        ("causal --draw /dev/null", "path: expected a file name that ends in .png"),
    ],
)
def test_bad_arguments_are_one_line(line, words, capsys):
    assert command.status(lambda: main(line.split())) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
