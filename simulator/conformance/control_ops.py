"""Branches, block barriers, fences: control flow of a warp (PTX ISA 9.7.12, 9.7.13).

Lanes that arrive at warp-wide instructions at different times are in
tests/simulator/test_divergent_callers.py.
"""

from __future__ import annotations

import itertools
import random

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
// Every lane runs its own number of rounds, leaves on its own path, and writes what it did.
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
// Lanes that exit do not write; one warp exits as a whole.
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
// A state machine per lane with a jump table: n -> n / 2 or 3 n + 1, until 1.
__global__ void jump_tables(unsigned* out) {
  const unsigned i = threadIdx.x;
  unsigned steps = 0, way = 0;
  asm volatile("{.reg .b32 n, next; .reg .pred one; add.u32 n, %1, 1; mov.u32 next, 0; bra TURN;"
               "STEPS: .branchtargets TURN, HALF, MORE, DONE;"
               "TURN: and.b32 next, n, 1; add.u32 next, next, 1;"
               "setp.eq.u32 one, n, 1; @one mov.u32 next, 3; brx.idx next, STEPS;"
               "HALF: shr.u32 n, n, 1; add.u32 %0, %0, 1; mov.u32 next, 0; brx.idx.uni next, STEPS;"
               "MORE: mad.lo.u32 n, n, 3, 1; add.u32 %0, %0, 1; bra TURN;"
               "DONE: mov.u32 n, 0;}" : "+r"(steps) : "r"(i));
  // Only some lanes take the branch; the others continue after it.
  asm volatile("{.reg .pred p; WAYS: .branchtargets ONE, TWO; setp.lt.u32 p, %1, 2;"
               "@p brx.idx %1, WAYS; mov.u32 %0, 30; bra.uni END;"
               "ONE: mov.u32 %0, 10; bra END; TWO: mov.u32 %0, 20; END: add.u32 %0, %0, 1;}"
               : "+r"(way) : "r"(i % 5));
  out[2 * i] = steps;
  out[2 * i + 1] = way;
}
// Each warp sleeps until the previous one has passed. Instructions that no lane executes have no
// effect; neither do profiler events.
__global__ void sleepers(unsigned* out) {
  __shared__ volatile unsigned turn;
  const unsigned warp = threadIdx.x / 32;
  if (threadIdx.x == 0) turn = 3;
  __syncthreads();
  while (turn != warp) asm volatile("nanosleep.u32 20; nanosleep.u32 %0;" : : "r"(warp * 10));
  __syncwarp();
  out[threadIdx.x] = turn + 1;
  __syncwarp();
  if (threadIdx.x % 32 == 0) turn = warp - 1;
  asm volatile("{.reg .pred p; setp.gt.u32 p, %0, 5000; @p trap; @p brkpt; @p nanosleep.u32 1;"
               "pmevent 3; pmevent.mask 0x8001;}" : : "r"(threadIdx.x) : "memory");
}
REDUCTIONS
void run(int which, unsigned* out) {
  switch (which) {
    case 0: branches<<<1, 128>>>(out); break;
    case 1: leave<<<1, 128>>>(out); break;
    case 2: fences<<<1, 64>>>(out); break;
    case 3: jump_tables<<<1, 96>>>(out); break;
    case 4: sleepers<<<1, 128>>>(out); break;
    CALLS
  }
}
"""

# The instructions of the first and of the second half of a block.
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
    calls = [f"case {k + 5}: barrier_{k}<<<1, 128>>>(out); break;" for k in range(len(BARRIERS))]
    fences = "".join(f'asm volatile("{fence};" : : : "memory");\n  ' for fence in FENCES)
    text = SOURCE.replace("BARRIERS\n", "\n".join(kernels) + "\n")
    text = text.replace("REDUCTIONS\n", reductions_source())
    return text.replace("FENCES\n", fences + "\n").replace("CALLS", "\n    ".join(calls))


# ---- Barriers that reduce a predicate ------------------------------------------------------------

PREFIXES = ("bar", "barrier", "bar.cta", "barrier.cta", "barrier.aligned", "barrier.cta.aligned")
VERDICTS = {"popc.u32": sum, "and.pred": all, "or.pred": any}
REDUCTIONS = [
    (f"{prefix.removesuffix('.aligned')}.red{'.aligned' * prefix.endswith('.aligned')}.{verdict}")
    for prefix, verdict in itertools.product(PREFIXES, VERDICTS)
]

REDUCTION = """
__global__ void reduce_{index}(int way, const unsigned* in, unsigned* out) {{
  const unsigned i = threadIdx.x;
  unsigned result = 7, value = in[i];
  if (way == 0) {{  // everyone
    {everyone}
  }} else if (way == 1) {{  // each half of the block at its own barrier, with the value negated
    {halves}
  }} else if (way == 2) {{  // the first two warps; the others' guard is false
    {guarded}
  }} else {{  // the lanes of a warp arrive on two paths
    if (i % 2) {{
      {odd}
    }} else {{
      {even}
    }}
  }}
  out[i] = result;
}}
"""


def reduction(name: str, operands: str, guard: str = "") -> str:
    """bar.red as inline assembly: %1 is the value, %2 half the block's threads, %3 the half."""
    in_pred = name.endswith("pred")
    result = "p" if in_pred else "%0"
    after = f"{guard}selp.u32 %0, 1, 0, p;" if in_pred else ""
    return (
        'asm volatile("{.reg .pred p, here; setp.ne.u32 p, %1, 0; setp.lt.u32 here, %4, 64;'
        f'{guard}{name} {result}, {operands};{after}}}"'
        ' : "+r"(result) : "r"(value), "r"(blockDim.x / 2), "r"(i / 64 + 1), "r"(i) : "memory");'
    )


def reductions_source() -> str:
    """A kernel for each spelling, and a function that launches them."""
    kernels = []
    for index, name in enumerate(REDUCTIONS):
        # All lanes of a warp must execute an aligned one together.
        divergent = name.startswith("barrier") and "aligned" not in name
        kernels.append(
            REDUCTION.format(
                index=index,
                everyone=reduction(name, "0, p"),
                halves=reduction(name, "%3, %2, !p"),
                guarded=reduction(name, "5, 64, p", "@here "),
                odd=reduction(name, "6, p") if divergent else "",
                even=reduction(name, "6, p") if divergent else "",
            )
        )
    cases = "\n".join(
        f"    case {k}: reduce_{k}<<<1, threads>>>(way, in, out); break;"
        for k in range(len(REDUCTIONS))
    )
    return (
        "".join(kernels)
        + "void reduce(int which, int way, int threads, const unsigned* in, unsigned* out) {\n"
        + f"  switch (which) {{\n{cases}\n  }}\n}}\n"
    )


def check_reduction(name: str, target: str) -> None:
    """A block of full warps, and one whose last warp has 6 threads."""
    verdict = VERDICTS[".".join(name.split(".")[-2:])]
    rng = random.Random(name)
    divergent = name.startswith("barrier") and "aligned" not in name
    for threads, way in ((128, 0), (70, 0), (128, 1), (128, 2), *([(128, 3)] * divergent)):
        one = rng.randrange(threads)
        for values in (
            [0] * threads,
            [1] * threads,
            [int(i == one) for i in range(threads)],
            [int(i != one) for i in range(threads)],
            [rng.getrandbits(1) for _ in range(threads)],
        ):
            out = np.zeros(threads, dtype=np.uint32)
            PROGRAM.run(target, REDUCTIONS.index(name), way, threads,
                        np.array(values, dtype=np.uint32), out, function="reduce")  # fmt: skip
            wanted = [int(verdict(values))] * threads
            if way == 1:
                groups = [[1 - v for v in values[:64]], [1 - v for v in values[64:]]]
                wanted = [int(verdict(groups[i // 64])) for i in range(threads)]
            elif way == 2:
                wanted = [int(verdict(values[:64])) if i < 64 else 7 for i in range(threads)]
            assert out.tolist() == wanted, f"{name}, way {way}, {threads} threads: {values}"


def reduction_case(name: str) -> Case:
    return Case(name, lambda full, target: check_reduction(name, target))


PROGRAM = Program("control_ops", source, "run", "reduce")


def check_jump_tables(full: bool, target: str) -> None:
    out = np.zeros((96, 2), dtype=np.uint32)
    PROGRAM.run(target, 3, out)
    for i, (steps, way) in enumerate(out.tolist()):
        n, wanted = i + 1, 0
        while n != 1:
            n, wanted = (3 * n + 1 if n % 2 else n // 2), wanted + 1
        assert (steps, way) == (wanted, {0: 11, 1: 21}.get(i % 5, 31)), f"thread {i}"


def check_sleepers(full: bool, target: str) -> None:
    out = np.zeros(128, dtype=np.uint32)
    PROGRAM.run(target, 4, out)
    assert out.tolist() == [i // 32 + 1 for i in range(128)]


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
        PROGRAM.run(target, 5 + index, out)
        assert out.tolist() == [i + 100 for i in range(64)]

    return Case(name, check)


CASES = [
    Case("branches", check_branches),
    Case("lanes that leave", check_leave),
    Case("fences", check_fences),
    Case("brx.idx", check_jump_tables),
    Case("nanosleep", check_sleepers),
    *(barrier_case(index, name) for index, name in enumerate(BARRIERS)),
    *map(reduction_case, REDUCTIONS),
]
