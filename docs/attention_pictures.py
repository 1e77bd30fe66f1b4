"""Draws the pictures of docs/attention.md: docs/attention_*.svg.

``python -m docs.attention_pictures`` computes and writes them; ``--dry-run`` writes nothing and
exits with 1 if a picture is not up to date.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from docs.canvas import INK, PALE, Canvas
from workbench import masks
from workbench.masks import Mask, picture
from workbench.toolchain import command
from workbench.toolchain.paths import REPO

FOLDER = REPO / "docs"
WIDTH = 880
BLUE, PURPLE, ORANGE = "#0072b2", "#a3487f", "#b34a00"

# ------------------------------------------------------------------------------------------------
# The online softmax

SCORES = ((1.0, 3.0, 0.5, 2.0), (2.0, 5.0, 1.0, 4.0), (4.0, 2.5, 4.5, 3.0))


@dataclass(frozen=True)
class Step:
    """A tile of a row: what was known before it, and after it."""

    m_old: float
    l_old: float
    m: float
    alpha: float
    weights: tuple[float, ...]
    l: float  # noqa: E741 the name of the papers


def steps(tiles: Sequence[Sequence[float]]) -> list[Step]:
    """The online softmax of a row, tile by tile."""
    found: list[Step] = []
    m, total = -math.inf, 0.0
    for scores in tiles:
        m_new = max(m, *scores)
        alpha = math.exp(m - m_new)
        weights = tuple(math.exp(s - m_new) for s in scores)
        total_new = alpha * total + sum(weights)
        found.append(Step(m, total, m_new, alpha, weights, total_new))
        m, total = m_new, total_new
    return found


def online() -> Canvas:
    """A row of scores in tiles: m, l and o, and what a new maximum does to them."""
    c = Canvas(WIDTH, 480, "A row of scores in three tiles, with running maximum, sum and output")
    found = steps(SCORES)
    m_end = found[-1].m
    for y, words in ((58, "scores s"), (150, "exp(s - m)"), (366, "carried on")):
        c.text(118, y, words, anchor="end")
    for i, (scores, step) in enumerate(zip(SCORES, found, strict=True)):
        x = 140 + 250 * i
        c.text(x + 100, 24, f"keys {4 * i} .. {4 * i + 3}", anchor="middle", color=PALE)
        c.line([(x, 210.5), (x + 200, 210.5)])
        for j, score in enumerate(scores):
            left = x + 50 * j
            c.box(left, 42, 50, 32, "S", f"{score:g}")
            final = 105 * math.exp(score - m_end)
            c.box(left + 12, round(210 - final, 1), 26, round(final, 1), PURPLE)
            first = 105 * step.weights[j]
            top = round(210 - first, 1)
            edge = [(left + 12, 210), (left + 12, top), (left + 38, top), (left + 38, 210)]
            c.line(edge, INK, 1, dashed=True)
        largest = max(scores)
        lines = (
            f"m = max({_number(step.m_old)}, {largest:g}) = {step.m:g}",
            f"alpha = exp({_number(step.m_old)} - {step.m:g}) = {step.alpha:.2f}",
            f"l = alpha * {step.l_old:.2f} + {sum(step.weights):.2f} = {step.l:.2f}",
            "o = alpha * o + exp(s - m) V",
        )
        for row, words in enumerate(lines):
            c.text(x + 100, 240 + 24 * row, words, anchor="middle")
        for left, width, words in ((0, 58, f"m = {step.m:g}"), (62, 82, f"l = {step.l:.2f}")):
            c.box(x + left, 350, width, 32, "sums", words)
        c.box(x + 148, 350, 52, 32, "O", "o")
        if i < 2:
            c.line([(x + 204, 366), (x + 246, 366)], INK, arrow=True)
    last = found[-1]
    lse = last.m + math.log(last.l)
    c.text(140, 414, f"After the last tile: O = o / l, and LSE = m + ln(l) = {lse:.2f}.", bold=True)
    c.box(140, 438, 20, 14, PURPLE)
    c.text(168, 445, "what a key counts in the end: exp(s - m) with the m of the whole row")
    c.frame(140.5, 458.5, 19, 13, INK)
    c.text(168, 465, "what it counted when its tile was computed, with the m that was known then")
    return c


def _number(value: float) -> str:
    return "-inf" if value == -math.inf else f"{value:g}"


# ------------------------------------------------------------------------------------------------
# The order of the loops

CELL, COUNT = 46, 4


def loops() -> Canvas:
    """Keys outside and queries inside, and the other way round."""
    c = Canvas(WIDTH, 480, "Loop orders of FlashAttention and of FlashAttention-2 over tiles")
    left = ("FlashAttention: keys outside", "flash_v1: a block for each head")
    right = ("FlashAttention-2: queries outside", "flash: a block for each tile of queries")
    for x, titles in ((0, left), (440, right)):
        c.text(x + 30, 26, titles[0], size=15, bold=True)
        c.text(x + 30, 48, titles[1], color=PALE)
    _tiles(c, 150, 144, keys_outside=True)
    _tiles(c, 590, 144, keys_outside=False)
    facts = (
        ("stays on chip", "a tile of K and of V", "a tile of Q; O, m, l"),
        ("read per tile of S", "Q, O, m, l", "K, V"),
        ("written", "O, m, l", "nothing"),
        ("bytes per score", "12 D / BN in fp32", "8 D / BM in fp32"),
    )
    for row, (name, *both) in enumerate(facts):
        for x, fact in zip((30, 470), both, strict=True):
            c.text(x, 388 + 24 * row, f"{name}:", color=PALE)
            c.text(x + 162, 388 + 24 * row, fact)
    c.line([(440, 16), (440, 466)], "#cccccc", 1)
    return c


def _tiles(c: Canvas, x: int, y: int, *, keys_outside: bool) -> None:
    """The tiles of S, numbered as they follow each other, among those of Q, K, V and O."""
    end = CELL * COUNT
    for n in range(COUNT):
        at = CELL * n
        c.box(x + at, y - 60, CELL - 4, 24, "K", f"K{n}")
        c.box(x + at, y - 32, CELL - 4, 24, "V", f"V{n}")
        c.box(x - 116, y + at, 36, CELL - 4, "Q", f"Q{n}")
        c.box(x - 76, y + at, 68, CELL - 4, "O", f"O{n}, m, l")
        for key in range(COUNT):
            turn = key * COUNT + n + 1 if keys_outside else key + 1
            c.box(x + CELL * key, y + at, CELL - 4, CELL - 4, "S", str(turn))
        if not keys_outside:
            c.text(x + end + 10, y + at + CELL / 2 - 2, f"block {n}")
    bottom = y + end + 10
    c.line([(x, bottom), (x + end - 4, bottom)], INK, arrow=True)
    c.text(x + end / 2, bottom + 14, "outer loop" if keys_outside else "loop", anchor="middle")
    if keys_outside:
        c.line([(x + end + 10, y), (x + end + 10, y + end - 4)], INK, arrow=True)
        c.text(x + end + 20, y + end / 2, "inner loop")
        c.frame(x - 4, y - 64, CELL + 4, end + 64, INK, 2)
    else:
        c.frame(x - 120, y - 4, end + 120, CELL + 4, INK, 2)


# ------------------------------------------------------------------------------------------------
# What is where

BANDS = (("global", "memory", 62, 66), ("shared", "memory", 176, 88), ("registers", "", 316, 92))


@dataclass(frozen=True)
class Place:
    """A rung's tiles in shared memory and in registers: (kind, name, size, left, right)."""

    rung: str
    about: str
    copy: tuple[str, ...]  # how Q, K and V get to shared memory
    shared: tuple[tuple[str, str, str, int, int], ...]
    registers: tuple[tuple[str, str, str, int, int], ...]
    arrive: tuple[int, int, int]  # where Q, K and V do
    way_of_p: tuple[tuple[int, int], ...]  # from S to where it is multiplied
    into_o: int  # where P and V go to o


PLACES = (
    Place(
        "flash", "fp32, 128 threads", ("through", "registers"),
        (("Q", "Q", "64 x 64", 0, 60), ("K", "K, then V", "32 x 64", 66, 138),
         ("S", "P", "64 x 32", 146, 206)),
        (("S", "S", "8 x 2", 0, 70), ("sums", "m, l", "8", 78, 126), ("O", "o", "8 x 4", 134, 240)),
        (30, 97, 107), ((60, 330), (60, 284), (164, 284), (164, 244)), 188,
    ),
    Place(
        "flash_registers", "fp32, 128 threads", ("cp.async",),
        (("Q", "Q", "128 x 64", 0, 52), ("K", "K", "64 x 64", 55, 107),
         ("V", "V", "64 x 64", 110, 162), ("S", "P", "128 x 16", 165, 217)),
        (("S", "S", "8 x 8", 0, 70), ("sums", "m, l", "8", 78, 126), ("O", "o", "8 x 8", 134, 240)),
        (26, 81, 136), ((60, 330), (60, 284), (182, 284), (182, 244)), 204,
    ),
    Place(
        "flash_mma", "fp16 or bf16, 128 threads", ("cp.async",),
        (("Q", "Q", "128 x 64", 0, 60), ("K", "K", "64 x 64", 66, 126),
         ("V", "V", "64 x 64", 132, 192)),
        (("S", "S, then P", "4 x 16", 0, 84), ("sums", "m, l", "4", 90, 134),
         ("O", "o", "4 x 16", 140, 240)),
        (30, 96, 150), ((42, 374), (42, 392), (190, 392), (190, 376)), 170,
    ),
)  # fmt: skip


def where() -> Canvas:
    """Which tile is in which memory, for three rungs."""
    c = Canvas(WIDTH, 470, "Tiles in global memory, shared memory and registers, for three rungs")
    for name, more, y, height in BANDS:
        c.box(6, y, WIDTH - 12, height, "part")
        c.text(16, y + height / 2 - (8 if more else 0), name, bold=True)
        if more:
            c.text(16, y + height / 2 + 10, more, bold=True)
    for i, place in enumerate(PLACES):
        _place(c, 106 + 258 * i, place)
    lines = (
        "Sizes are rows x columns for D = 64: of a block in shared memory, of a thread in "
        "registers.",
        "Arrows down: Q and K to S, P and V to o. The thick line is the way of P.",
    )
    for row, words in enumerate(lines):
        c.text(106, 432 + 22 * row, words)
    return c


def _place(c: Canvas, x: int, place: Place) -> None:
    c.text(x, 22, place.rung, size=15, bold=True)
    c.text(x, 44, place.about, color=PALE)
    for name, left in (("Q", 0), ("K", 56), ("V", 112), ("O", 194)):
        c.box(x + left, 78, 48, 34, name, name)
    for boxes, top in ((place.shared, 200), (place.registers, 332)):
        for kind, name, size, left, right in boxes:
            c.box(x + left, top, right - left, 40, kind)
            c.text(x + (left + right) / 2, top + 12, name, anchor="middle", size=12)
            c.text(x + (left + right) / 2, top + 28, size, anchor="middle", size=10)
    for start, end in zip((24, 80, 136), place.arrive, strict=True):
        c.line([(x + start, 114), (x + end, 198)], INK, arrow=True)
    for row, words in enumerate(place.copy):
        c.text(x + 158, (154 if len(place.copy) == 1 else 146) + 16 * row, words, size=12)
    c.line([(x + 20, 242), (x + 20, 330)], INK, arrow=True)
    c.line([(x + place.into_o, 242), (x + place.into_o, 330)], INK, arrow=True)
    c.line([(x + 229, 330), (x + 229, 114)], ORANGE, 1.5, arrow=True)
    c.line([(x + a, b) for a, b in place.way_of_p], PURPLE, 3.5, arrow=True)


# ------------------------------------------------------------------------------------------------
# Fragments

LANE = (1, 2)  # g and t of the lane that is shown


def fragments() -> Canvas:
    """What a lane has of two tiles of S, and what it gives to the next mma."""
    c = Canvas(WIDTH, 480, "The lanes of two 16 x 8 accumulators and of one 16 x 16 operand")
    c.text(48, 22, "S: what two mma leave, tiles of 16 x 8", size=14, bold=True)
    c.text(486, 22, "P: what one mma takes, a tile of 16 x 16", size=14, bold=True)
    for x, names in (
        (48, (("c0 c1", "c2 c3"), ("c0 c1", "c2 c3"))),
        (486, (("a0", "a1"), ("a2", "a3"))),
    ):
        for half, tile in enumerate(names):
            c.text(x + 92 + 184 * half, 48, _keys(half), anchor="middle", color=PALE, size=12)
            _lanes(c, x + half * (184 if x == 48 else 176), 62, tile)
        for row in range(16):
            c.text(x - 8, 72 + 20 * row, str(row), size=10, anchor="end", color=PALE)
    g, t = LANE
    lines = (
        "A box is two columns; its number is the lane that holds them: 4 g + t in rows g and g + 8."
        f" Lane {4 * g + t}",
        f"(g = {g}, t = {t}) makes a0 of c0 c1 of the first tile, a1 of its c2 c3, and a2 and a3 "
        "of the second.",
        "Each is two numbers in one register, rounded to 16 bits. No number changes its lane.",
    )
    for row, words in enumerate(lines):
        c.text(48, 412 + 22 * row, words)
    return c


def _keys(half: int) -> str:
    return f"keys {8 * half} .. {8 * half + 7}"


def _lanes(c: Canvas, x: float, y: float, names: tuple[str, str]) -> None:
    """A tile of 16 x 8: a box for each pair of columns, with its lane."""
    for row in range(16):
        g = row % 8
        for t in range(4):
            shown = (g, t) == LANE
            place = (x + 44 * t, y + 20 * row, 44, 20)
            if shown:
                c.box(*place, "S", names[row // 8], size=12, bold=True)
            else:
                c.box(*place, "plain", str(4 * g + t), size=10, color=PALE)
    c.frame(x, y, 176, 160, INK, 1.5)
    c.frame(x, y + 160, 176, 160, INK, 1.5)


# ------------------------------------------------------------------------------------------------
# Masks

TILE = (4, 4)
MASKS = (
    ("full", masks.full(), 8, 12),
    ("causal (none_end)", masks.causal(), 8, 12),
    ("causal, none_front", masks.causal("none_front"), 8, 12),
    ("causal, more queries", masks.causal(), 12, 8),
    ("window 3", masks.local(3), 12, 12),
    ("window 3, causal", masks.local(3, causal=True), 12, 12),
    ("window 3, stride 4", masks.local(3, log2_stride=2), 12, 12),
    ("4 x 4 image, window 2", masks.local(2, q_width=4, k_width=4), 16, 16),
)


def rules() -> Canvas:
    """Masks by rule, in tiles of 4 x 4: what a kernel visits and what it skips."""
    c = Canvas(WIDTH, 606, "Eight masks in tiles of 4 by 4")
    for i, (name, mask, nq, nk) in enumerate(MASKS):
        _mask(c, 20 + 216 * (i % 4), 20 + 280 * (i // 4), name, mask, (nq, nk))
    legend = (
        (picture.VISIBLE, "visible"),
        (picture.IN_VAIN, "hidden, but in a tile that is visited"),
        (picture.SKIPPED, "in a tile that is skipped"),
    )
    x = 40
    for kind, words in legend:
        c.box(x, 571, 16, 16, picture.COLORS[kind])
        c.text(x + 24, 579, words)
        x += 60 + round(8.2 * len(words))
    return c


def _mask(c: Canvas, x: int, y: int, name: str, mask: Mask, size: tuple[int, int]) -> None:
    nq, nk = size
    cell = 192 // max(nk, 12)
    visible = mask.visible(nq, nk, "cpu")
    visited = masks.tiles_visited(visible, *TILE)
    c.text(x, y, name, bold=True)
    c.text(x, y + 20, f"{nq} queries, {nk} keys", size=12, color=PALE)
    top = y + 36
    for query in range(nq):
        for key in range(nk):
            kind = picture.VISIBLE
            if not visible[query, key]:
                tile = visited[query // TILE[0], key // TILE[1]]
                kind = picture.IN_VAIN if tile else picture.SKIPPED
            left, above = x + cell * key, top + cell * query
            c.box(left, above, cell - 1, cell - 1, picture.COLORS[kind])
    for query in range(0, nq, TILE[0]):
        for key in range(0, nk, TILE[1]):
            place = (x + cell * key - 0.5, top + cell * query - 0.5)
            c.frame(*place, cell * TILE[1], cell * TILE[0], INK)
    words = f"{int(visited.sum())} of {visited.numel()} tiles visited"
    c.text(x, top + cell * nq + 12, words, size=12)


# ------------------------------------------------------------------------------------------------
# Keys divided among blocks

LSES = (4.1, 6.0, 5.2, -math.inf)


def split() -> Canvas:
    """Parts of the keys, a block each, and how their results are merged."""
    c = Canvas(WIDTH, 400, "Four parts of the keys, a block each, merged by their log-sum-exp")
    lse = math.log(sum(math.exp(part) for part in LSES))
    weights = [math.exp(part - lse) for part in LSES]
    c.box(20, 120, 104, 60, "Q")
    c.text(72, 142, "Q: 16 rows", anchor="middle", size=12)
    c.text(72, 160, "of 4 heads", anchor="middle", size=12)
    c.line([(72, 118), (72, 98), (178 + 176 * 3, 98)])
    for i, part in enumerate(LSES):
        x = 152 + 176 * i
        _part(c, x, i, part, weights[i])
        c.line([(x + 26, 98), (x + 26, 118)], arrow=True)
    c.text(16, 40, "K and V of", size=12)
    c.text(16, 56, "one head", size=12)
    c.text(16, 228, "written to", size=12)
    c.text(16, 244, "memory", size=12)
    c.text(16, 296, "weights", size=12)
    words = " + ".join(f"{weight:.2f} O{i}" for i, weight in enumerate(weights))
    c.box(152, 330, 684, 56, "part")
    c.text(494, 346, f"LSE = ln(sum of exp(LSEi)) = {lse:.2f}", anchor="middle")
    c.text(494, 370, f"O = sum of exp(LSEi - LSE) Oi = {words}", anchor="middle", bold=True)
    c.text(16, 358, "second kernel", size=12)
    return c


def _part(c: Canvas, x: int, i: int, lse: float, weight: float) -> None:
    c.text(x + 78, 18, f"part {i}", anchor="middle", color=PALE)
    for tile in range(4):
        c.box(x + 39 * tile, 32, 37, 18, "K", "K", size=11)
        c.box(x + 39 * tile, 52, 37, 18, "V", "V", size=11)
    c.line([(x + 78, 72), (x + 78, 118)], arrow=True)
    c.box(x, 120, 156, 60)
    c.text(x + 78, 140, f"block {i}", anchor="middle", bold=True)
    hidden = lse == -math.inf
    c.text(x + 78, 160, "the mask hides all" if hidden else "online softmax", anchor="middle",
           size=12)  # fmt: skip
    c.line([(x + 78, 182), (x + 78, 218)], arrow=True)
    c.box(x, 220, 40, 32, "O", f"O{i}")
    c.box(x + 44, 220, 112, 32, "sums", f"LSE{i} = {lse:.1f}")
    c.line([(x + 78, 254), (x + 78, 282)])
    c.text(x + 78, 296, f"exp(LSE{i} - LSE) = {weight:.2f}", anchor="middle", size=12)
    c.line([(x + 78, 306), (x + 78, 328)], arrow=True)


# ------------------------------------------------------------------------------------------------

PICTURES: dict[str, Callable[[], Canvas]] = {
    "online": online,
    "loops": loops,
    "where": where,
    "fragments": fragments,
    "masks": rules,
    "split": split,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the pictures, or with ``--dry-run`` say which are not up to date."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    dry = parser.parse_args(arguments).dry_run
    stale = 0
    for name, draw in PICTURES.items():
        file, drawn = FOLDER / f"attention_{name}.svg", draw().svg()
        if file.exists() and file.read_text() == drawn:
            continue
        stale += 1
        print(f"docs/{file.name} is {'not up to date' if dry else 'updated'}")
        if not dry:
            file.write_text(drawn)
    return int(dry and stale > 0)


if __name__ == "__main__":
    command.run(main)
