"""The detectors: each looks for one way to waste time and describes what it finds.

``find`` runs all of them and returns the findings that matter most in a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from simulator import Counters
from workbench.estimate import units
from workbench.estimate.units import LANES, Cycles
from workbench.explain import memory_detectors
from workbench.explain.annotate import Source
from workbench.explain.findings import Finding, Subject, listed, names
from workbench.explain.kernels import Kernel
from workbench.explain.work import Work
from workbench.harness.figures import amount, number, of, percent, share

SHOWN = 3  # findings of a kernel
LEAST_GAIN = 0.001  # a smaller share of the time is not reported
LEAST_GAIN_AGAIN = 0.1  # of a second finding of one kind
AVOIDABLE = 0.25  # of address and loop instructions; the compiler eliminates some by itself


def idle_lanes(s: Subject) -> Iterator[Finding]:
    """Instructions that only some lanes of a warp execute."""

    def idle(c: Counters) -> float:
        return c.warp_instructions - c.thread_instructions / LANES

    lines = s.worst(idle)
    issued = lines.total.warp_instructions
    if not issued:
        return
    lanes = lines.total.thread_instructions / issued
    if lanes > 28:
        return
    half = 15 <= lanes <= 17
    title = (
        f"{'half of the lanes are idle: ' if half else ''}{lanes:.1f} of 32 "
        f"{'' if half else 'lanes '}are active on average; "
        f"{percent(share(issued, s.total.warp_instructions))} of the kernel's instructions"
    )
    why = (
        "The lanes of a warp execute one instruction together. Where they diverge, or some have "
        "nothing to do, the others still take the whole warp's issue slot."
    )
    fix = (
        "Branch by whole warps: assign work to consecutive threads, leaving other warps fully idle."
    )
    saved = (
        units.pipes(units.ptx(line), s.gpu) * share(idle(line), line.warp_instructions)
        for line in lines.each
    )
    yield Finding("idle lanes", lines.places, title, why, fix, s.gain(Work(sum(saved, Cycles()))))


def barriers(s: Subject) -> Iterator[Finding]:
    """Barriers in quick succession."""
    warps = -(-s.kernel.threads // LANES)
    if not s.total.barriers or warps == 1:
        return
    between = s.total.warp_instructions / s.total.barriers
    if between > 400:
        return
    lines = s.worst(lambda c: c.barriers)
    title = (
        f"a barrier every {number(between)} instructions of a warp: all {warps} warps of a block "
        "wait for the slowest"
    )
    why = (
        "Warps that wait at a barrier neither load nor compute, and only another block on the "
        "same SM can fill the gap."
    )
    fix = (
        "Do more work between barriers: several elements per thread, warp shuffles instead of "
        "the last steps of a reduction, double buffering so that an iteration needs one barrier."
    )
    gain = s.gain(Work(waiting=s.kernel.work.waiting))
    yield Finding("barriers", lines.places, title, why, fix, gain)


def special(s: Subject) -> Iterator[Finding]:
    """Exponentials, sines, roots and reciprocals, of which an SM computes few per cycle."""
    lines = s.worst(lambda c: c.special_function_instructions)
    operations = lines.total.special_function_ops
    if not operations:
        return
    work = s.kernel.work
    part = share(work.sm.special, work.slowest)
    title = (
        f"{amount(operations)} special functions (exp, log, sin, sqrt, reciprocal): at "
        f"{s.gpu.special} per cycle they take {percent(part)} of the time of the slowest unit"
    )
    why = (
        f"The special-function units start {s.gpu.special} operations per cycle and SM, the FMA "
        f"units {s.gpu.fp32}."
    )
    fix = (
        "Compute each value once and keep it, use exp2f with the scale folded in, divide once "
        "and multiply by the result."
    )
    issue = s.total.special_function_instructions / s.gpu.issue
    gain = s.gain(Work(Cycles(issue=issue, special=work.sm.special) / 2))
    yield Finding("special functions", lines.places, title, why, fix, gain)


def atomics(s: Subject) -> Iterator[Finding]:
    """Atomic operations, which are serialised if they share an address."""
    lines = s.worst(lambda c: c.atomics)
    c = lines.total
    requests = c.atomic_requests + c.shared_atomic_requests
    if not requests:
        return
    groups = c.atomic_sectors + c.shared_atomic_wavefronts
    shared = c.shared_atomic_requests > c.atomic_requests
    found = s.accesses(lines, shared=shared, store=False)
    who = f" on {listed(names(found))}" if found else ""
    title = (
        f"{amount(c.atomics)} atomic operations{who}: {number(c.atomics / requests)} lanes of a "
        f"warp in {of(groups / requests, 'wavefront' if shared else 'sector')} at a time"
    )
    why = "Atomic operations on one address are serialised, across all warps that use it."
    fix = (
        "Reduce within the warp (shuffles) and the block (shared memory) first, then one atomic "
        "operation per block."
    )
    gain = s.gain(Work(units.atomics(c, s.gpu)))
    yield Finding("atomics", lines.places, title, why, fix, gain)


def overhead(s: Subject) -> Iterator[Finding]:
    """Instructions for addresses and loops rather than for the result."""

    def rest(c: Counters) -> int:
        return c.integer_instructions + c.control_instructions

    c = s.total
    useful = c.fp32_instructions + c.fp64_instructions + c.fp16_instructions
    useful += c.special_function_instructions
    if not useful or c.tensor_instructions or rest(c) < 0.4 * c.warp_instructions:
        return
    lines = s.worst(rest)
    title = (
        f"{percent(share(rest(c), c.warp_instructions))} of the instructions compute addresses and "
        f"control loops, {percent(share(useful, c.warp_instructions))} the result"
    )
    why = "A warp scheduler issues one instruction per cycle, whatever it is for."
    fix = (
        "Increment a pointer instead of recomputing an index, unroll loops, compute several "
        "elements per thread so that they share an address."
    )
    integer = s.kernel.work.sm.integer
    saved = Cycles(issue=rest(c) / s.gpu.issue, integer=integer) * AVOIDABLE
    yield Finding("overhead", lines.places, title, why, fix, s.gain(Work(saved)))


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


def find(kernel: Kernel, files: Mapping[str, Source]) -> tuple[Finding, ...]:
    """At most SHOWN findings for a kernel, the costliest first."""
    subject = Subject(kernel, files)
    found = [finding for detect in DETECTORS for finding in detect(subject)]
    chosen: list[Finding] = []
    for finding in sorted(found, key=lambda finding: -finding.gain):
        again = any(finding.kind == other.kind for other in chosen)
        if finding.gain >= (LEAST_GAIN_AGAIN if again else LEAST_GAIN):
            chosen.append(finding)
    return tuple(chosen[:SHOWN])
