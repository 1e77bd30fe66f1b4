"""Lanes of a warp that exchange values or wait for each other.

shfl (PTX ISA 9.7.9.6); vote, match, redux, activemask and bar.warp.sync (9.7.13).
Every form runs with all lanes, with the lanes of a mask (by predicate and by branch), and with a
mask per tile of the warp, as cooperative groups write it. Then the divergent callers: lanes that
arrive at different times, by different ways, or have left.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import pytest
import torch

from simulator import SimulatorError
from tests.simulator.micro import Form, Suite, before
from workbench.toolchain.inline import inline

FULL = (1 << 32) - 1
LANES = range(32)
MASKS = (FULL, 0x0000FFFF, 0x80000001, 0x00FF00F0, 0x00000400, 0x7BDEF5A6)
Warp = list[tuple[int, ...]]  # operands of each lane; the last one is its mask


@dataclass(frozen=True)
class Collective:
    """An instruction, its operands and what it returns to the lanes of one mask.

    reference: from the operands of every lane and the lanes that take part to the results of those
        lanes. A result of None is undefined.
    operands: makes the operands of a warp, without the masks.
    """

    form: Form
    reference: Callable[[Warp, list[int]], dict[int, tuple[int | None, ...]]]
    operands: Callable[[random.Random], Sequence[Warp]] = field(compare=False)

    def __str__(self) -> str:
        return self.form.name


def both_ways(
    name: str, results: str, operands: str, ptx: str, reference: Callable, rows: Callable
) -> list[Collective]:
    """The form with inactive lanes by predicate, and by a branch around it."""
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
    """Where a lane reads from, and whether that is inside its segment."""
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
    """The width that __shfl_sync would have made this operand of, or None."""
    clamp = 0 if mode == "up" else 31
    widths = {(32 - width) << 8 | clamp: width for width in (1, 2, 4, 8, 16, 32)}
    return widths.get(c)


def raw_source_lane(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The definition of the ISA, for any clamp and segment mask."""
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
    """Every width with several distances; clamps that no width has; a distance per lane."""

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
    """A reference for instructions that give every lane the same results."""

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
    op = "vote.sync.ballot.b32"
    return forms + both_ways(op, "b32", "pred b32", f"{op} %0, %1, %2", ballot, vote_operands)


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


COLLECTIVES = [*shuffle_forms(), *vote_forms(), *match_forms(), *redux_forms()]
SUITE = Suite("warp_ops", [c.form for c in COLLECTIVES])


def groups_of_lanes(mask: int) -> list[list[int]]:
    return [[lane for lane in LANES if mask >> lane & 1]]


def check(collective: Collective, warps: list[Warp], groups: list[list[list[int]]]) -> None:
    """Run warps whose lanes take part in groups, and compare each lane with the reference."""
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
    results, again = SUITE.run(collective.form, rows, active)
    for i, wanted in enumerate(expected):
        got = [int(r) for r in results[:, i]]
        where = f"{collective}: warp {i // 32}, lane {i % 32}, operands {rows[i]}"
        if wanted is None:
            assert got == before(collective.form, i), f"{where}: an inactive lane changed"
            continue
        for k, value in enumerate(wanted):
            assert value is None or got[k] == value, f"{where}: got {got}, wanted {wanted}"
        if again is not None and wanted[0] is not None:
            assert int(again[i]) == wanted[0], f"{where}: in place {again[i]}, wanted {wanted}"


@pytest.mark.parametrize("collective", COLLECTIVES, ids=str)
def test_full_warp(collective: Collective):
    warps = collective.operands(random.Random(1))
    check(collective, warps, [groups_of_lanes(FULL)] * len(warps))


@pytest.mark.parametrize("collective", COLLECTIVES, ids=str)
def test_some_lanes(collective: Collective):
    warps = collective.operands(random.Random(2))
    check(collective, warps, [groups_of_lanes(MASKS[i % len(MASKS)]) for i in range(len(warps))])


@pytest.mark.parametrize("collective", COLLECTIVES, ids=str)
def test_a_mask_per_tile(collective: Collective):
    """Tiles of a warp execute the same instruction, each with a mask of its own lanes."""
    warps = collective.operands(random.Random(3))
    groups = []
    for i in range(len(warps)):
        size = (16, 8, 4, 2)[i % 4]
        tiles = [list(range(first, first + size)) for first in range(0, 32, size)]
        groups.append(tiles if i % 3 else tiles[::2])
    check(collective, warps, groups)


# ---- Divergent callers -------------------------------------------------------------------------

SCENARIOS = """
#include <cstdint>
// Lanes with late != 0 come to the instruction by a jump back, after the others have reached it.
#define LATE(NAME, INSTRUCTION)                                                                  \\
  asm volatile("{.reg .pred late, p; setp.ne.b32 late, %1, 0; setp.ne.b32 p, %2, 0;"             \\
               "@late bra LATE_" NAME "; HERE_" NAME ": " INSTRUCTION "; bra DONE_" NAME ";"     \\
               "LATE_" NAME ": add.u32 %2, %2, 0; bra HERE_" NAME ";"                            \\
               "DONE_" NAME ": mov.b32 %1, 0;}"                                                  \\
               : "+r"(d), "+r"(late), "+r"(x) : "r"(mask));

__global__ void late(unsigned* out, const unsigned* masks, const unsigned* lates, int what) {
  const int lane = threadIdx.x;
  const unsigned mask = masks[lane];
  unsigned d = 77, x = lane * 3 + 1, late = lates[lane];
  switch (what) {
    case 0: LATE("shfl", "shfl.sync.bfly.b32 %0, %2, 1, 0x1f, %3") break;
    case 1: LATE("vote", "vote.sync.ballot.b32 %0, p, %3") break;
    case 2: LATE("match", "match.any.sync.b32 %0, 9, %3") break;
    case 3: LATE("redux", "redux.sync.add.u32 %0, %2, %3") break;
  }
  out[lane] = d;
}

// bar.warp.sync of tiles: what a lane wrote before is there after it.
__global__ void barrier(unsigned* out, const unsigned* masks, const unsigned* lates) {
  __shared__ unsigned slot[32];
  const int lane = threadIdx.x;
  const unsigned mask = masks[lane];
  const unsigned mine = static_cast<unsigned>(__cvta_generic_to_shared(slot + lane));
  const unsigned other = static_cast<unsigned>(__cvta_generic_to_shared(slot + (lane ^ 7)));
  unsigned d;
  slot[lane] = 0;
  __syncthreads();
  asm volatile("{.reg .pred late; setp.ne.b32 late, %1, 0; @late bra LATE_BAR;"
               "st.shared.u32 [%2], %4; HERE_BAR: bar.warp.sync %5;"
               "ld.shared.u32 %0, [%3]; bra DONE_BAR;"
               "LATE_BAR: st.shared.u32 [%2], %4; bra HERE_BAR; DONE_BAR: mov.b32 %0, %0;}"
               : "=r"(d) : "r"(lates[lane]), "r"(mine), "r"(other), "r"(lane + 100), "r"(mask)
               : "memory");
  out[lane] = d;
}

// Two halves, each at an instruction of its own.
__global__ void halves(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned d;
  if (lane < 16) {
    asm volatile("shfl.sync.down.b32 %0, %1, 1, 0x101f, 0xffff;" : "=r"(d) : "r"(lane));
  } else {
    asm volatile("shfl.sync.up.b32 %0, %1, 1, 0x1000, 0xffff0000;" : "=r"(d) : "r"(lane));
  }
  out[lane] = d;
}

// Not allowed: lanes that name different masks, and lanes that name others that never come.
__global__ void disagree(unsigned* out) {
  const unsigned lane = threadIdx.x;
  const unsigned mask = lane < 16 ? 0x0001ffff : 0xffff0000;
  asm volatile("redux.sync.add.u32 %0, 1, %1;" : "=r"(out[lane]) : "r"(mask));
}
__global__ void alone(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned d;
  if (lane < 16) {
    asm volatile("redux.sync.add.u32 %0, 1, -1;" : "=r"(d));
  } else {
    asm volatile("redux.sync.min.u32 %0, 1, -1;" : "=r"(d));
  }
  out[lane] = d;
}

// Lanes that have left do not count, and neither do those that never were.
__global__ void left(unsigned* out, unsigned first_to_leave) {
  const unsigned lane = threadIdx.x % 32;
  if (lane >= first_to_leave) return;
  unsigned b, s, d;
  asm volatile("{.reg .pred p; setp.ge.u32 p, %1, 2; vote.sync.ballot.b32 %0, p, -1;}"
               : "=r"(b) : "r"(lane));
  asm volatile("redux.sync.add.u32 %0, %1, -1;" : "=r"(s) : "r"(lane));
  asm volatile("shfl.sync.idx.b32 %0, %1, 1, 0x1f, -1;" : "=r"(d) : "r"(lane + 50));
  out[threadIdx.x * 3] = b;
  out[threadIdx.x * 3 + 1] = s;
  out[threadIdx.x * 3 + 2] = d;
}

// activemask in a loop that the lanes leave one after the other, and in the two ways of a branch.
__global__ void active(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned m;
#pragma unroll 1
  for (unsigned round = 0; round < lane; round++) {
    asm volatile("activemask.b32 %0;" : "=r"(m));
    out[round * 32 + lane] = m;
  }
  if (lane % 4 == 1) {
    asm volatile("activemask.b32 %0;" : "=r"(m));
  } else {
    asm volatile("activemask.b32 %0; not.b32 %0, %0;" : "=r"(m));
  }
  out[32 * 32 + lane] = m;
}

void run_late(unsigned* out, const unsigned* masks, const unsigned* lates, int what) {
  late<<<1, 32>>>(out, masks, lates, what);
}
void run_barrier(unsigned* out, const unsigned* masks, const unsigned* lates) {
  barrier<<<1, 32>>>(out, masks, lates);
}
void run_halves(unsigned* out) { halves<<<1, 32>>>(out); }
void run_disagree(unsigned* out) { disagree<<<1, 32>>>(out); }
void run_alone(unsigned* out) { alone<<<1, 32>>>(out); }
void run_left(unsigned* out, unsigned first_to_leave, int threads) {
  left<<<1, threads>>>(out, first_to_leave);
}
void run_active(unsigned* out) { active<<<1, 32>>>(out); }
"""
LAUNCHERS = [f"run_{name}" for name in (
    "late", "barrier", "halves", "disagree", "alone", "left", "active")]  # fmt: skip


@pytest.fixture(scope="module")
def scenarios():
    return inline(SCENARIOS, LAUNCHERS, target="simulator", name="warp_scenarios")


def words(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint32)


def tile_masks(size: int) -> list[int]:
    return [((1 << size) - 1) << lane // size * size for lane in LANES]


LATE_LANES = {
    "one lane": [19],
    "upper half of a tile": list(range(24, 32)),
    "odd lanes": list(range(1, 32, 2)),
    "all but one": [lane for lane in LANES if lane != 3],
    "a tile": list(range(8, 16)),
}


@pytest.mark.parametrize("size", [32, 16, 8])
@pytest.mark.parametrize("lates", LATE_LANES)
@pytest.mark.parametrize("what", ["shfl", "vote", "match", "redux"])
def test_lanes_that_come_late(scenarios, what: str, lates: str, size: int):
    out = torch.zeros(32, dtype=torch.uint32)
    late = [int(lane in LATE_LANES[lates]) for lane in LANES]
    masks = tile_masks(size)
    index = ["shfl", "vote", "match", "redux"].index(what)
    scenarios.run_late(out, words(masks), words(late), index)
    x = [lane * 3 + 1 for lane in LANES]
    wanted = {
        "shfl": [x[lane ^ 1] for lane in LANES],
        "vote": masks,
        "match": masks,
        "redux": [sum(x[k] for k in LANES if masks[lane] >> k & 1) for lane in LANES],
    }[what]
    assert out.tolist() == wanted


@pytest.mark.parametrize("size", [32, 16, 8])
@pytest.mark.parametrize("lates", LATE_LANES)
def test_warp_barrier_waits_for_late_lanes(scenarios, lates: str, size: int):
    out = torch.zeros(32, dtype=torch.uint32)
    late = [int(lane in LATE_LANES[lates]) for lane in LANES]
    scenarios.run_barrier(out, words(tile_masks(size)), words(late))
    assert out.tolist() == [(lane ^ 7) + 100 for lane in LANES]


def test_halves_of_a_warp_at_different_instructions(scenarios):
    out = torch.zeros(32, dtype=torch.uint32)
    scenarios.run_halves(out)
    assert out.tolist() == [min(lane + 1, 15) if lane < 16 else max(lane - 1, 16) for lane in LANES]


@pytest.mark.parametrize(
    ("name", "says"),
    [("disagree", "different member masks"), ("alone", "32 at a warp-wide instruction")],
)
def test_masks_that_cannot_be_met(scenarios, name: str, says: str):
    out = torch.zeros(32, dtype=torch.uint32)
    with pytest.raises(SimulatorError, match=says) as error:
        getattr(scenarios, f"run_{name}")(out)
    assert error.value.kind == "synccheck" and error.value.line
    assert not out.any()


@pytest.mark.parametrize(("threads", "first_to_leave"), [(32, 32), (32, 20), (32, 5), (40, 32)])
def test_lanes_that_left_do_not_count(scenarios, threads: int, first_to_leave: int):
    out = torch.zeros(threads, 3, dtype=torch.uint32)
    scenarios.run_left(out, first_to_leave, threads)
    for thread, got in enumerate(out.tolist()):
        there = [k for k in range(min(32, threads - thread // 32 * 32)) if k < first_to_leave]
        wanted = [sum(1 << k for k in there if k >= 2), sum(there), 51]
        assert got == (wanted if thread % 32 in there else [0, 0, 0]), f"thread {thread}"


def test_activemask_holds_the_lanes_that_are_here(scenarios):
    out = torch.zeros(33, 32, dtype=torch.uint32)
    scenarios.run_active(out)
    *rounds, branch = out.tolist()
    for number, masks in enumerate(rounds):
        for lane in LANES:
            there = sum(1 << k for k in LANES if k > number) if lane > number else 0
            assert masks[lane] & ~there == 0
            assert lane <= number or masks[lane] >> lane & 1
    taken = 0x22222222
    for lane, mask in enumerate(branch):
        own, way = (mask, taken) if lane % 4 == 1 else (~mask & FULL, ~taken & FULL)
        assert own & ~way == 0 and own >> lane & 1
