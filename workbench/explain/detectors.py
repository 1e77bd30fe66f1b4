"""The detectors: each looks for one way to waste time and words what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from workbench.explain import costs, memory_detectors
from workbench.explain.findings import Finding, Subject, listed, names, places, total
from workbench.explain.kernels import Counts
from workbench.harness.figures import amount, number, of, percent, share

LANES = 32
AVOIDABLE = 0.25  # of the instructions for addresses and loops; the compiler avoids some by itself


def idle_lanes(s: Subject) -> Iterator[Finding]:
    """Instructions that only some lanes of a warp take part in."""

    def cost(c: Counts) -> float:
        idle = LANES * c.get("warp_instructions", 0) - c.get("thread_instructions", 0)
        return idle / LANES / costs.ISSUE

    lines = s.worst(cost)
    issued = total(lines, "warp_instructions")
    if not issued:
        return
    lanes = total(lines, "thread_instructions") / issued
    if lanes > 28:
        return
    part = share(issued, s.kernel.counts["warp_instructions"])
    half = 15 <= lanes <= 17
    title = (
        f"{'half of the lanes are idle: ' if half else ''}{lanes:.1f} of 32 "
        f"{'' if half else 'lanes '}are active on average; {percent(part)} of the kernel's "
        "instructions"
    )
    why = (
        "The lanes of a warp share one instruction. Where a branch parts them, or where some have "
        "nothing to do, the others still take the whole warp's slot."
    )
    fix = "Branch by whole warps: give work to consecutive threads, and none to whole warps."
    gain = s.gain(sum(cost(c) for _, c in lines), "issue")
    yield Finding("idle lanes", places(lines), title, why, fix, gain)


def barriers(s: Subject) -> Iterator[Finding]:
    """Barriers that follow each other closely."""
    lines = s.worst(lambda c: c.get("barriers", 0))
    count = s.kernel.counts.get("barriers", 0)
    if not lines or not count:
        return
    between = s.kernel.counts["warp_instructions"] / count
    if between > 400:
        return
    warps = -(-s.kernel.threads // LANES)
    if warps == 1:
        return
    title = (
        f"a barrier every {number(between)} instructions of a warp: all {warps} warps of a block "
        "wait for the slowest"
    )
    why = (
        "While warps wait at a barrier they neither load nor compute, and only another block on "
        "the same SM can fill the gap."
    )
    fix = (
        "More work between barriers: more than one element per thread, warp shuffles in place of "
        "the last steps of a reduction, two buffers so that one barrier per trip is enough."
    )
    gain = s.gain(s.costs.barriers, "issue")
    yield Finding("barriers", places(lines), title, why, fix, gain)


def special(s: Subject) -> Iterator[Finding]:
    """Exponentials, sines, roots and reciprocals, of which a SM computes 16 per cycle."""
    lines = s.worst(lambda c: c.get("special_function_instructions", 0))
    operations = total(lines, "special_function_ops")
    if not operations:
        return
    part = s.costs.special / s.costs.slowest()[1]
    title = (
        f"{amount(operations)} special functions (exp, log, sin, sqrt, reciprocal): at 16 per "
        f"cycle they take {percent(part)} of the time of the slowest unit"
    )
    why = "The special-function units start 16 operations per cycle and SM, the FMA units 128."
    fix = (
        "Compute each value once and keep it, use exp2f with a scale folded in before, divide once "
        "and multiply by the result."
    )
    gain = s.gain(s.costs.special / 2, "special")
    yield Finding("special functions", places(lines), title, why, fix, gain)


def atomics(s: Subject) -> Iterator[Finding]:
    """Atomic operations, of which those on one address take turns."""
    lines = s.worst(lambda c: c.get("atomics", 0))
    lanes = total(lines, "atomics")
    requests = total(lines, "atomic_requests") + total(lines, "shared_atomic_requests")
    if not lanes or not requests:
        return
    groups = total(lines, "atomic_sectors") + total(lines, "shared_atomic_wavefronts")
    shared = total(lines, "shared_atomic_requests") > total(lines, "atomic_requests")
    found = s.accesses(places(lines), shared=shared, store=False)
    who = f" on {listed(names(found))}" if found else ""
    title = (
        f"{amount(lanes)} atomic operations{who}: {number(lanes / requests)} lanes of a warp in "
        f"{of(groups / requests, 'wavefront' if shared else 'sector')} at a time"
    )
    why = "Atomic operations on one address take turns, and so do all warps that want it."
    fix = (
        "Reduce within the warp (shuffles) and the block (shared memory) first, then one atomic "
        "operation per block."
    )
    yield Finding("atomics", places(lines), title, why, fix, s.gain(s.costs.atomics, "atomics"))


def overhead(s: Subject) -> Iterator[Finding]:
    """Instructions for addresses and loops rather than for the result."""
    c = s.kernel.counts
    arithmetic = ("fp32", "fp64", "fp16", "special_function", "tensor")
    useful = sum(c.get(f"{unit}_instructions", 0) for unit in arithmetic)
    rest = c.get("integer_instructions", 0) + c.get("control_instructions", 0)
    issued = c["warp_instructions"]
    if not useful or rest < 0.4 * issued or c.get("tensor_instructions", 0):
        return
    lines = s.worst(
        lambda line: line.get("integer_instructions", 0) + line.get("control_instructions", 0)
    )
    title = (
        f"{percent(share(rest, issued))} of the instructions compute addresses and count loops, "
        f"{percent(share(useful, issued))} the result"
    )
    why = "A warp scheduler starts one instruction per cycle, whatever it is for."
    fix = (
        "Let a pointer move along instead of computing an index anew, unroll loops, let a thread "
        "compute several elements so that they share an address."
    )
    gain = s.gain(AVOIDABLE * rest / costs.ISSUE, "issue")
    yield Finding("overhead", places(lines), title, why, fix, gain)


DETECTORS: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    memory_detectors.scattered,
    memory_detectors.reuse,
    memory_detectors.shared_bound,
    memory_detectors.conflicts,
    idle_lanes,
    barriers,
    special,
    memory_detectors.local_memory,
    atomics,
    overhead,
    memory_detectors.narrow,
)
