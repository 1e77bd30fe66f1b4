"""Warp-wide instructions whose lanes arrive one after the other, or never."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from simulator import SimulatorError
from simulator.conformance.micro import Program

FULL = (1 << 32) - 1
LANES = range(32)

SCENARIOS = """
#include <cstdint>
// Lanes with late != 0 reach the instruction by a backward jump, after the others.
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

// bar.warp.sync of tiles: what a lane wrote before is visible after it.
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

// Two halves, each at its own instruction.
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

// Illegal: lanes that name different masks, and lanes that name others that never arrive.
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

// Exited lanes do not count, and neither do lanes that never existed.
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

// activemask in a loop that the lanes leave one by one, and on both paths of a branch.
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
NAMES = ("late", "barrier", "halves", "disagree", "alone", "left", "active")
PROGRAM = Program("warp_scenarios", SCENARIOS, *(f"run_{name}" for name in NAMES))


@pytest.fixture
def scenarios():
    return PROGRAM.module("simulator")


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
    [
        ("disagree", "different member masks"),
        ("alone", "that other lanes of their warp never reach"),
    ],
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
