"""Lanes of a warp that exchange values or wait for each other.

shfl (PTX ISA 9.7.9.6); vote, match, redux, activemask and bar.warp.sync (9.7.13).
Every form runs with all lanes, with the lanes of a mask (by predicate and by branch), and with a
mask per tile of the warp, as in cooperative groups. test_divergent_callers.py covers lanes that
arrive at different times, on different paths, or have exited.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from simulator.conformance.micro import Case, Form, Program, Suite, before

FULL = (1 << 32) - 1
LANES = range(32)
MASKS = (FULL, 0x0000FFFF, 0x80000001, 0x00FF00F0, 0x00000400, 0x7BDEF5A6)
Warp = list[tuple[int, ...]]  # operands of each lane; the last one is its mask


@dataclass(frozen=True)
class Collective:
    """An instruction, its operands and what it returns to the lanes of one mask.

    reference: maps the operands of every lane and the participating lanes to the results of those
        lanes. A result of None is undefined.
    operands: generates the operands of a warp, without the masks.
    """

    form: Form
    reference: Callable[[Warp, list[int]], dict[int, tuple[int | None, ...]]]
    operands: Callable[[random.Random], Sequence[Warp]] = field(compare=False)

    def __str__(self) -> str:
        return self.form.name


def both_ways(
    name: str, results: str, operands: str, ptx: str, reference: Callable, rows: Callable
) -> list[Collective]:
    """The form with lanes disabled by predicate, and by a branch around it."""
    label = f"SKIP_{zlib.crc32(name.encode()):x}"
    around = f"@!run bra {label}; {ptx}; {label}: mov.b32 unused, 0"
    declared = ".reg .b32 unused; "
    return [
        Collective(Form(name, results, operands, int, ptx), reference, rows),
        Collective(
            Form(f"{name}, branch", results, operands, int, declared + around), reference, rows
        ),
    ]


# ---- shfl ------------------------------------------------------------------------------------


def source_lane(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane to read from, and whether it is inside the segment."""
    width = segment_width(mode, c)
    b %= 32
    if width is None:
        return raw_source_lane(mode, lane, b, c)
    first = lane // width * width
    if mode == "up":
        return (lane - b, True) if lane - b >= first else (lane, False)
    if mode == "down":
        return (lane + b, True) if lane + b < first + width else (lane, False)
    if mode == "idx":
        return first + b % width, True
    # Earlier segments can be read, later ones cannot.
    return (lane ^ b, True) if lane ^ b < first + width else (lane, False)


def segment_width(mode: str, c: int) -> int | None:
    """The width from which __shfl_sync would generate this operand, or None."""
    clamp = 0 if mode == "up" else 31
    widths = {(32 - width) << 8 | clamp: width for width in (1, 2, 4, 8, 16, 32)}
    return widths.get(c)


def raw_source_lane(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The ISA's definition, for any clamp and segment mask."""
    clamp, segment = c & 31, c >> 8 & 31
    last = (lane & segment) | (clamp & ~segment & 31)
    j = {
        "up": lane - b,
        "down": lane + b,
        "bfly": lane ^ b,
        "idx": (lane & segment) | (b & ~segment & 31),
    }[mode]
    inside = j >= last if mode == "up" else j <= last
    return (j, True) if inside else (lane, False)


def shuffled(mode: str, with_predicate: bool) -> Callable:
    def reference(warp: Warp, lanes: list[int]) -> dict[int, tuple[int | None, ...]]:
        results = {}
        for lane in lanes:
            _, b, c, _ = warp[lane]
            source, inside = source_lane(mode, lane, b, c)
            value = warp[source][0] if source in lanes else None
            results[lane] = (value, int(inside)) if with_predicate else (value,)
        return results

    return reference


def shuffle_operands(mode: str) -> Callable[[random.Random], list[Warp]]:
    """Every width with several distances; clamps that no width produces; per-lane distances."""

    def warps(rng: random.Random) -> list[Warp]:
        found: list[Warp] = []
        for width in (32, 16, 8, 4, 2, 1):
            c = (32 - width) << 8 | (0 if mode == "up" else 31)
            for b in (0, 1, 2, 3, 5, 8, 15, 16, 17, 31):
                found.append([(rng.getrandbits(32), b, c) for _ in LANES])
        for _ in range(12):
            c = rng.getrandbits(5) << 8 | rng.getrandbits(5)
            found.append([(rng.getrandbits(32), rng.getrandbits(32), c) for _ in LANES])
            found.append([(rng.getrandbits(32), rng.getrandbits(5), 0x1F) for _ in LANES])
        return found

    return warps


def shuffle_forms() -> list[Collective]:
    forms = []
    for mode in ("up", "down", "bfly", "idx"):
        op, rows = f"shfl.sync.{mode}.b32", shuffle_operands(mode)
        operands = "b32 u32 b32 b32"
        ptx = f"{op} %0|%1, %2, %3, %4, %5"
        forms += both_ways(f"{op} d|p", "b32 pred", operands, ptx, shuffled(mode, True), rows)
        ptx = f"{op} %0, %1, %2, %3, %4"
        forms += both_ways(op, "b32", operands, ptx, shuffled(mode, False), rows)
    return forms


# ---- vote, match, redux ------------------------------------------------------------------------


def same_for_all(f: Callable[[list[int], int], int | tuple[int, ...]]) -> Callable:
    """A reference for instructions that return the same results to every lane."""

    def reference(warp: Warp, lanes: list[int]) -> dict[int, tuple[int | None, ...]]:
        result = f([warp[lane][0] for lane in lanes], sum(1 << lane for lane in lanes))
        return dict.fromkeys(lanes, result if isinstance(result, tuple) else (result,))

    return reference


def ballot(warp: Warp, lanes: list[int]) -> dict[int, tuple[int | None, ...]]:
    bits = sum(1 << lane for lane in lanes if warp[lane][0])
    return {lane: (bits,) for lane in lanes}


def vote_operands(rng: random.Random) -> list[Warp]:
    found: list[Warp] = [[(value,) for _ in LANES] for value in (0, 1)]
    for lane in (0, 7, 15, 16, 31):
        found += [[(int((i == lane) == bool(one)),) for i in LANES] for one in (0, 1)]
    return found + [[(rng.getrandbits(1),) for _ in LANES] for _ in range(4)]


def vote_forms() -> list[Collective]:
    forms = []
    votes: dict[str, Callable] = {
        "all": lambda values, mask: int(all(values)),
        "any": lambda values, mask: int(any(values)),
        "uni": lambda values, mask: int(len(set(values)) == 1),
    }
    for mode, f in votes.items():
        op = f"vote.sync.{mode}.pred"
        reference = same_for_all(f)
        negated = same_for_all(lambda values, mask, f=f: f([1 - v for v in values], mask))
        forms += both_ways(op, "pred", "pred b32", f"{op} %0, %1, %2", reference, vote_operands)
        forms += both_ways(
            f"{op} !p", "pred", "pred b32", f"{op} %0, !%1, %2", negated, vote_operands
        )
    for op in ("vote.sync.ballot.b32", "vote.ballot.sync.b32"):
        ptx = f"{op} %0, %1, %2"
        forms += both_ways(op, "b32", "pred b32", ptx, ballot, vote_operands)
    return forms


def matching(warp: Warp, lanes: list[int]) -> dict[int, tuple[int | None, ...]]:
    return {
        lane: (sum(1 << other for other in lanes if warp[other][0] == warp[lane][0]),)
        for lane in lanes
    }


def match_forms() -> list[Collective]:
    forms = []
    for bits in (32, 64):

        def rows(rng: random.Random, bits: int = bits) -> list[Warp]:
            high = 1 << (bits - 1)
            pools = ([5], [0, high], [1, 2, 3, high | 1], [rng.getrandbits(bits) for _ in LANES])
            return [[(rng.choice(pool),) for _ in LANES] for pool in pools for _ in range(3)]

        t = f"b{bits}"
        op = f"match.any.sync.{t}"
        forms += both_ways(op, "b32", f"{t} b32", f"{op} %0, %1, %2", matching, rows)
        op = f"match.all.sync.{t}"
        every = same_for_all(lambda values, mask: (mask, 1) if len(set(values)) == 1 else (0, 0))
        ptx = f"{op} %0|%1, %2, %3"
        forms += both_ways(f"{op} d|p", "b32 pred", f"{t} b32", ptx, every, rows)
        mask_only = same_for_all(lambda values, mask: mask if len(set(values)) == 1 else 0)
        forms += both_ways(op, "b32", f"{t} b32", f"{op} %0, %1, %2", mask_only, rows)
    return forms


def redux_forms() -> list[Collective]:
    forms = []
    table: list[tuple[str, str, Callable[[int, int], int]]] = [
        ("add", "u32", lambda a, b: a + b),
        ("add", "s32", lambda a, b: a + b),
        ("min", "u32", min),
        ("min", "s32", min),
        ("max", "u32", max),
        ("max", "s32", max),
        ("and", "b32", lambda a, b: a & b),
        ("or", "b32", lambda a, b: a | b),
        ("xor", "b32", lambda a, b: a ^ b),
    ]

    def rows(rng: random.Random) -> list[Warp]:
        edges = (0, 1, FULL, FULL - 1, 1 << 31, (1 << 31) - 1)
        found: list[Warp] = [[(rng.choice(edges),) for _ in LANES] for _ in range(4)]
        return found + [[(rng.getrandbits(32),) for _ in LANES] for _ in range(4)]

    for mode, t, f in table:
        op = f"redux.sync.{mode}.{t}"
        signed = t == "s32"
        whole = same_for_all(lambda values, mask, f=f, s=signed: reduce(f, [
            v - (v >> 31 << 32) if s else v for v in values]) & FULL)  # fmt: skip
        forms += both_ways(op, t, f"{t} b32", f"{op} %0, %1, %2", whole, rows)
    return forms


def elect_forms() -> list[Collective]:
    """The ISA leaves the leader open; hardware and simulator choose the lowest lane of the set."""

    def elected(warp: Warp, lanes: list[int]) -> dict[int, tuple]:
        return {lane: (min(lanes), int(lane == min(lanes))) for lane in lanes}

    def leads(warp: Warp, lanes: list[int]) -> dict[int, tuple]:
        return {lane: (int(lane == min(lanes)),) for lane in lanes}

    def rows(rng: random.Random) -> list[Warp]:
        return [[() for _ in LANES] for _ in range(8)]

    op = "elect.sync"
    forms = both_ways(f"{op} d|p", "b32 pred", "b32", f"{op} %0|%1, %2", elected, rows)
    return forms + both_ways(f"{op} _|p", "pred", "b32", f"{op} _|%0, %1", leads, rows)


COLLECTIVES = [
    *shuffle_forms(),
    *vote_forms(),
    *match_forms(),
    *redux_forms(),
    *elect_forms(),
]
PROGRAM = Suite("warp_ops", [c.form for c in COLLECTIVES])


def groups_of_lanes(mask: int) -> list[list[int]]:
    return [[lane for lane in LANES if mask >> lane & 1]]


def check(
    collective: Collective, warps: list[Warp], groups: list[list[list[int]]], target: str
) -> None:
    """Run warps whose lanes participate in groups, and compare each lane with the reference."""
    while len(warps) % 2:
        warps, groups = [*warps, warps[0]], [*groups, groups[0]]
    rows, active, expected = [], [], []
    for warp, sets in zip(warps, groups, strict=True):
        masks = {lane: sum(1 << k for k in lanes) for lanes in sets for lane in lanes}
        rows += [(*warp[lane], masks.get(lane, 0)) for lane in LANES]
        active += [int(lane in masks) for lane in LANES]
        full = [(*warp[lane], masks.get(lane, 0)) for lane in LANES]
        answers = {}
        for lanes in sets:
            answers |= collective.reference(full, lanes)
        expected += [answers.get(lane) for lane in LANES]
    results, again = PROGRAM.run(collective.form, rows, active, target)
    untouched = before(collective.form, len(rows)).T.tolist()
    for i, wanted in enumerate(expected):
        got = [int(r) for r in results[:, i]]
        where = f"{collective}: warp {i // 32}, lane {i % 32}, operands {rows[i]}"
        if wanted is None:
            assert got == untouched[i], f"{where}: an inactive lane changed"
            continue
        for k, value in enumerate(wanted):
            assert value is None or got[k] == value, f"{where}: got {got}, wanted {wanted}"
        if again is not None and wanted[0] is not None:
            assert int(again[i]) == wanted[0], f"{where}: in place {again[i]}, wanted {wanted}"


def check_collective(collective: Collective, target: str) -> None:
    """A full warp; the lanes of some masks; a mask per tile of the warp, of the tile's lanes."""
    full, some, tiled = (collective.operands(random.Random(seed)) for seed in (1, 2, 3))
    check(collective, full, [groups_of_lanes(FULL)] * len(full), target)
    masks = [MASKS[i % len(MASKS)] for i in range(len(some))]
    check(collective, some, [groups_of_lanes(mask) for mask in masks], target)
    groups = []
    for i in range(len(tiled)):
        size = (16, 8, 4, 2)[i % 4]
        tiles = [list(range(first, first + size)) for first in range(0, 32, size)]
        groups.append(tiles if i % 3 else tiles[::2])
    check(collective, tiled, groups, target)


def collective_case(collective: Collective) -> Case:
    def check(full: bool, target: str) -> None:
        check_collective(collective, target)

    return Case(str(collective), check, (collective.form,))


ACTIVE = """
// The active lanes: all, and those on each path of a branch.
__global__ void active(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned all, some;
  asm volatile("activemask.b32 %0;" : "=r"(all));
  if (lane % 4 == 1) {
    asm volatile("activemask.b32 %0;" : "=r"(some));
  } else {
    asm volatile("activemask.b32 %0; not.b32 %0, %0;" : "=r"(some));
    some = ~some;
  }
  out[2 * lane] = all;
  out[2 * lane + 1] = some;
}
void run(unsigned* out) { active<<<1, 32>>>(out); }
"""
ACTIVE_PROGRAM = Program("activemask", ACTIVE)


def check_active(full: bool, target: str) -> None:
    """Each lane sees itself, and none on the other path."""
    out = np.zeros((32, 2), dtype=np.uint32)
    ACTIVE_PROGRAM.run(target, out)
    for lane, (whole, part) in enumerate(out.tolist()):
        way = 0x22222222 if lane % 4 == 1 else 0xDDDDDDDD
        assert whole == FULL and part & ~way == 0 and part >> lane & 1, f"lane {lane}: {part:#x}"


CASES = [*map(collective_case, COLLECTIVES), Case("activemask.b32", check_active)]
