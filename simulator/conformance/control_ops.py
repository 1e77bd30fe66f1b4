"""Branches, barriers of the block, fences: what a warp does next (PTX ISA 9.7.12, 9.7.13).

Lanes that arrive at warp-wide instructions at different times are in
tests/simulator/test_divergent_callers.py.
"""

from __future__ import annotations

import numpy as np

from simulator.conformance.micro import Case, Program

FENCES = (
    *(f"membar.{level}" for level in ("cta", "gl", "sys")),
    *(
        f"fence{order}.{scope}"
        for order in ("", ".sc", ".acq_rel", ".acquire", ".release")
        for scope in ("cta", "cluster", "gpu", "sys")
    ),
    "fence.mbarrier_init.release.cluster",
    *(f"fence.proxy.{proxy}" for proxy in ("alias", "async", "async.global")),
    *(f"fence.proxy.async.shared::{window}" for window in ("cta", "cluster")),
    *(
        f"fence.proxy.tensormap::generic.release.{scope}"
        for scope in ("cta", "cluster", "gpu", "sys")
    ),
)

SOURCE = """
// Every lane takes its own number of rounds, leaves by its own way, and writes what it did.
__global__ void branches(unsigned* out) {
  const unsigned i = threadIdx.x;
  unsigned rounds = 0, way = 0;
  asm volatile("{.reg .pred p; .reg .b32 t;"
               "AGAIN: setp.ge.u32 p, %0, %2; @p bra.uni OUT; add.u32 %0, %0, 1; bra AGAIN; OUT:"
               "and.b32 t, %2, 3; setp.eq.u32 p, t, 0; @p bra A;"
               "setp.eq.u32 p, t, 1; @!p bra B; mov.u32 %1, 10; bra.uni C;"
               "A: mov.u32 %1, 20; bra C; B: add.u32 %1, t, 30; C: mov.b32 t, t;}"
               : "+r"(rounds), "+r"(way) : "r"(i % 37));
  out[2 * i] = rounds;
  out[2 * i + 1] = way;
}
// Lanes that leave do not write; one warp leaves as a whole.
__global__ void leave(unsigned* out) {
  const unsigned i = threadIdx.x;
  asm volatile("{.reg .pred p, q; .reg .b32 t; and.b32 t, %0, 5; setp.eq.u32 p, t, 4;"
               "setp.ge.u32 q, %0, 96; or.pred p, p, q; @p exit;"
               "setp.eq.u32 p, %0, 2; @p ret; setp.eq.u32 p, %0, 3; @p ret.uni;}" : : "r"(i));
  out[i] = 1;
}
// One half of the block writes, the other reads after the barrier.
#define BARRIER_KERNEL(NAME, PRODUCER, CONSUMER)                                \\
  __global__ void NAME(unsigned* out) {                                         \\
    __shared__ unsigned slot[64];                                               \\
    const unsigned i = threadIdx.x, n = 64;                                     \\
    if (i < 64) slot[i] = 0;                                                    \\
    __syncthreads();                                                            \\
    if (i < n) {                                                                \\
      slot[i] = i + 100;                                                        \\
      asm volatile(PRODUCER : : "r"(3), "r"(128) : "memory");                   \\
    } else {                                                                    \\
      asm volatile(CONSUMER : : "r"(3), "r"(128) : "memory");                   \\
      out[i - n] = slot[i - n];                                                 \\
    }                                                                           \\
  }
BARRIERS
// The fences between a value and its flag.
__global__ void fences(unsigned* out) {
  const unsigned i = threadIdx.x;
  volatile unsigned* mine = out + 2 * i;
  mine[0] = i;
  FENCES
  mine[1] = i + 1;
}
void run(int which, unsigned* out) {
  switch (which) {
    case 0: branches<<<1, 128>>>(out); break;
    case 1: leave<<<1, 128>>>(out); break;
    case 2: fences<<<1, 64>>>(out); break;
    CALLS
  }
}
"""

# What the first half of a block says, and what the second half says.
BARRIERS = {
    "bar.sync": ("bar.sync %0;", "bar.sync 3;"),
    "bar.sync a, n": ("bar.sync %0, %1;", "bar.sync 3, 128;"),
    "barrier.sync": ("barrier.sync %0;", "barrier.sync 3;"),
    "barrier.sync a, n": ("barrier.sync 3, %1;", "barrier.sync %0, 128;"),
    "barrier.sync.aligned": ("barrier.sync.aligned 3, 128;", "barrier.sync.aligned %0, %1;"),
    "barrier.cta.sync": ("barrier.cta.sync 3, 128;", "barrier.cta.sync.aligned %0, %1;"),
    "bar.cta.sync": ("bar.cta.sync 3;", "bar.cta.sync 3, 128;"),
    "bar.arrive": ("bar.arrive %0, %1;", "bar.sync 3, 128;"),
    "barrier.arrive": ("barrier.arrive 3, 128;", "barrier.sync %0, %1;"),
    "barrier.arrive.aligned": ("barrier.arrive.aligned 3, 128;", "barrier.sync %0, %1;"),
    "barrier.cta.arrive.aligned": ("barrier.cta.arrive.aligned 3, 128;", "bar.sync 3, %1;"),
    "barrier.cta.arrive": ("barrier.cta.arrive 3, 128;", "bar.cta.sync %0, %1;"),
    "bar.cta.arrive": ("bar.cta.arrive 3, 128;", "barrier.cta.sync %0, %1;"),
}


def source() -> str:
    kernels = [
        f'BARRIER_KERNEL(barrier_{k}, "{ours}", "{theirs}")'
        for k, (ours, theirs) in enumerate(BARRIERS.values())
    ]
    calls = [f"case {k + 3}: barrier_{k}<<<1, 128>>>(out); break;" for k in range(len(BARRIERS))]
    fences = "".join(f'asm volatile("{fence};" : : : "memory");\n  ' for fence in FENCES)
    text = SOURCE.replace("BARRIERS\n", "\n".join(kernels) + "\n")
    return text.replace("FENCES\n", fences + "\n").replace("CALLS", "\n    ".join(calls))


PROGRAM = Program("control_ops", source)


def check_branches(full: bool, target: str) -> None:
    out = np.zeros((128, 2), dtype=np.uint32)
    PROGRAM.run(target, 0, out)
    way = {0: 20, 1: 10, 2: 32, 3: 33}
    assert out.tolist() == [[i % 37, way[i % 37 % 4]] for i in range(128)]


def check_leave(full: bool, target: str) -> None:
    out = np.zeros(128, dtype=np.uint32)
    PROGRAM.run(target, 1, out)
    assert out.tolist() == [int(i & 5 != 4 and i < 96 and i not in (2, 3)) for i in range(128)]


def check_fences(full: bool, target: str) -> None:
    out = np.zeros((64, 2), dtype=np.uint32)
    PROGRAM.run(target, 2, out)
    assert out.tolist() == [[i, i + 1] for i in range(64)]


def barrier_case(index: int, name: str) -> Case:
    def check(full: bool, target: str) -> None:
        out = np.zeros(64, dtype=np.uint32)
        PROGRAM.run(target, 3 + index, out)
        assert out.tolist() == [i + 100 for i in range(64)]

    return Case(name, check)


CASES = [
    Case("branches", check_branches),
    Case("lanes that leave", check_leave),
    Case("fences", check_fences),
    *(barrier_case(index, name) for index, name in enumerate(BARRIERS)),
]
