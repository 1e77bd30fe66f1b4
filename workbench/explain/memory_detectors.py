"""Detectors of wasted memory traffic: global, shared and local."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from simulator import Counters
from workbench.estimate import units
from workbench.estimate.gpus import Gpu
from workbench.estimate.units import LANES, SECTOR_BYTES, Cycles, Traffic
from workbench.explain.findings import Finding, Subject, listed, names
from workbench.explain.names import Access
from workbench.explain.work import Work, l2_cycles
from workbench.harness.figures import amount, number, of, percent, share

WASTEFUL = 1.1  # ratio of sectors or wavefronts to the ideal from which to report
REUSED = 1.5  # requests per byte from which to report
FEW = 5  # up to this ratio: passes over the data rather than threads that share it
WIDEST = 16  # bytes that a lane can load at once
IN_FLIGHT = 0.1  # of the time, by loads that are four times as wide


def _named(found: Sequence[Access], one: str, many: str, nobody: str) -> str:
    """``A is``, ``A and B are`` or a phrase without names, before the rest of a sentence."""
    known = names(found)
    return nobody if not known else f"{listed(known)} {many if len(known) > 1 else one}"


def scattered(s: Subject) -> Iterator[Finding]:
    """Global loads and stores that touch more sectors than their bytes fill."""
    traffic = units.global_loads(s.total) + units.global_stores(s.total)
    for kind, done in ((units.global_loads, "read"), (units.global_stores, "written")):
        excess = _excess(kind, s.gpu)
        lines = s.worst(excess)
        asked = kind(lines.total)
        if not asked.requests or asked.pieces < WASTEFUL * asked.ideal:
            continue
        found = s.accesses(lines, shared=False, store=kind is units.global_stores)
        apart = [access for access in found if access.stride not in (None, "1")] or found
        step = _step(apart)
        verb = _named(apart, f"is {done}", f"are {done}", f"global memory is {done}")
        how = f"with a stride of {step}" if step else "by scattered lanes"
        if asked.pieces - asked.ideal <= 1.01 * asked.requests and not step:
            how = "across sector boundaries"
        title = (
            f"{verb} {how}: {of(asked.pieces / asked.requests, 'sector')} per request, "
            f"{number(asked.ideal / asked.requests)} would do; "
            f"{percent(share(asked.pieces, traffic.pieces))} of the kernel's global traffic"
        )
        gain = s.gain(Work(Cycles(l1=lines.sum(excess))))
        yield Finding("stride", lines.places, title, _why_scattered(apart), _COALESCE, gain)


def _excess(kind: Callable[[Counters], Traffic], gpu: Gpu) -> Callable[[Counters], float]:
    """The cycles that a line's requests of one kind take beyond the ideal."""
    return lambda c: kind(c).cycles(gpu) - kind(c).ideal_cycles(gpu)


_COALESCE = (
    "Let neighbouring lanes access neighbouring elements: threadIdx.x belongs in the part of the "
    "index that nothing multiplies."
)


def _step(found: Sequence[Access]) -> str | None:
    """The stride, if the arrays share one."""
    strides = {access.stride for access in found} - {None, "1", "?"}
    return strides.pop() if len(strides) == 1 else None


def _why_scattered(found: Sequence[Access]) -> str:
    text = ""
    step = _step(found)
    if step and found[0].lane:
        text = (
            f"{found[0].lane} comes from threadIdx.x, so it differs from lane to lane, and "
            f"{found[0].text} moves by {step} with it. "
        )
        if found[0].lane == found[0].name:
            text = f"{found[0].name} points {step} further for each lane. "
    return text + (
        "A request is one warp instruction. Memory is transferred in sectors of 32 bytes: "
        "contiguous lanes share them, while scattered lanes fetch one each and use part of it."
    )


def reuse(s: Subject) -> Iterator[Finding]:
    """Global memory that is requested several times."""
    asked, different = s.total.global_load_bytes, s.total.dram_read_bytes
    if not different or asked < REUSED * different:
        return
    lines = s.worst(lambda c: c.global_load_bytes)
    loads = units.global_loads(lines.total)
    again = s.total.l2_read_sectors - different / SECTOR_BYTES
    saved = Work(
        Cycles(l1=loads.ideal_cycles(s.gpu) * (1 - different / asked)),
        l2=l2_cycles(max(0.0, again) * share(loads.bytes, asked), s.gpu),
    )
    found = s.accesses(lines, shared=False, store=False)
    times = asked / different
    title = (
        f"{_each(found)} is loaded {number(times)} times from global memory: {amount(asked, 'B')} "
        f"requested, {amount(different, 'B')} would do"
    )
    why = _why_reused(s.total, loads.requests / max(1, lines.total.fp32_instructions))
    yield Finding("reuse", lines.places, title, why, _keep(s, found, times), s.gain(saved))


def _why_reused(c: Counters, loads: float) -> str:
    hits = 1 - min(1.0, share(c.l2_read_sectors, c.global_load_sectors))
    text = (
        f"The L1 cache serves {percent(hits)} of it, but each load is an instruction, with an "
        "address to compute and a tag to look up"
    )
    if hits < 0.1:
        text = "Hardly any of it hits in the L1 cache, so the L2 cache has to serve it"
    parts = []
    if c.fp32_instructions and 0.2 < loads < 20:
        parts.append(f"{of(loads, 'load')} per arithmetic instruction")
    if c.flops:
        parts.append(f"{number(c.flops / c.global_load_bytes)} FLOP per byte")
    return f"{text}: {', '.join(parts)}." if parts else f"{text}."


def _each(found: Sequence[Access]) -> str:
    known = names(found)
    return f"every element of {listed(known)}" if known else "every byte"


def _keep(s: Subject, found: Sequence[Access], times: float) -> str:
    if s.total.shared_load_bytes > s.total.global_load_bytes:
        return "Use a larger tile per block: each load then serves more threads."
    known = names(found)
    if times < FEW:
        what = listed(known) if known else "the data read again"
        return (
            f"Keep {what} in registers or shared memory between the passes, or combine "
            "several passes into one."
        )
    return (
        "Let the threads of a block load a tile into shared memory together, once, and read it "
        "from there: global memory is read less often, and shared memory has no tags."
    )


def shared_bound(s: Subject) -> Iterator[Finding]:
    """Arithmetic that waits for operands from shared memory."""

    def loading(c: Counters) -> float:
        waves = c.shared_load_wavefronts_ideal
        return units.shared_loads(c).ideal_cycles(s.gpu) if c.fp32_instructions >= waves / 8 else 0

    def computing(c: Counters) -> float:
        return units.pipes(units.ptx(c), s.gpu).fma

    lines = s.worst(loading)
    cycles, c = lines.sum(loading), lines.total
    if not c.fp32_instructions or cycles < 1.5 * computing(c):
        return
    intensity = number(share(c.flops, c.shared_load_bytes))
    known = names(s.accesses(lines, shared=True, store=False))
    title = (
        f"{of(c.shared_load_requests / c.fp32_instructions, 'load')} of "
        f"{listed(known) if known else 'shared memory'} per arithmetic instruction, "
        f"{intensity} FLOP per byte of shared memory: the arithmetic units are busy "
        f"about {percent(min(1.0, computing(s.total) / cycles))} of the time"
    )
    starts = s.gpu.fp32 * units.busy(1, 1, s.gpu) / LANES
    why = (
        f"While shared memory serves one load of a warp, the SM could issue {number(starts)} "
        "multiply-adds. Here they wait for their operands."
    )
    fix = (
        "Let a thread compute several elements of the result (a register tile): a value read from "
        "shared memory then serves several multiply-adds."
    )
    gain = s.gain(Work(Cycles(shared=cycles - computing(c))))
    yield Finding("shared memory", lines.places, title, why, fix, gain)


def conflicts(s: Subject) -> Iterator[Finding]:
    """Lanes of a request that access different words of one bank."""
    whole = s.kernel.work.sm.shared
    for kind, done in ((units.shared_loads, "read"), (units.shared_stores, "written")):
        excess = _excess(kind, s.gpu)
        lines = s.worst(excess)
        asked = kind(lines.total)
        if not asked.requests or asked.pieces < WASTEFUL * asked.ideal:
            continue
        found = s.accesses(lines, shared=True, store=kind is units.shared_stores)
        each = {number(kind(line).pieces / max(1, kind(line).ideal)) for line in lines.each}
        ways = f"a {each.pop()}-way bank conflict" if len(each) == 1 else "bank conflicts"
        who = _named(found, f"is {done}", f"are {done}", f"shared memory is {done}")
        title = (
            f"{who} with {ways}: {of(asked.pieces / asked.requests, 'wavefront')} per "
            f"request, {number(asked.ideal / asked.requests)} would do; "
            f"{percent(share(asked.cycles(s.gpu), whole))} of the shared-memory time"
        )
        gain = s.gain(Work(Cycles(shared=lines.sum(excess))))
        yield Finding("bank conflict", lines.places, title, _BANKS, _PAD, gain)


_BANKS = (
    "Shared memory has 32 banks of 4 bytes, and each delivers one word per wavefront. Lanes that "
    "access different words of one bank take turns; the same word goes to all of them at once."
)
_PAD = (
    "Pad the rows ([32][33] instead of [32][32]), or permute the columns (swizzle), so that the "
    "lanes of a warp access different banks. Where a thread accesses several adjacent words, let "
    "it access them at once (float4); the compiler may do so by itself."
)


def local_memory(s: Subject) -> Iterator[Finding]:
    """Per-thread arrays that are in memory rather than in registers."""
    lines = s.worst(lambda c: c.local_bytes)
    moved = lines.total.local_bytes
    if not moved:
        return
    title = f"{amount(moved, 'B')} of local memory: a per-thread array is not in registers"
    why = "Local memory is global memory private to a thread; registers cannot be indexed."
    fix = "Index per-thread arrays by constants only: unroll the loops over them (#pragma unroll)."
    gain = s.gain(Work(units.local(lines.total, s.gpu)))
    yield Finding("local memory", lines.places, title, why, fix, gain)


def narrow(s: Subject) -> Iterator[Finding]:
    """Contiguous loads of 4 bytes or less per lane, where one of 16 bytes would do."""
    lines = s.worst(lambda c: c.global_load_requests if _is_narrow(units.global_loads(c)) else 0)
    loads = units.global_loads(lines.total)
    if not loads.requests:
        return
    size = loads.bytes / LANES / loads.requests
    known = names(s.accesses(lines, shared=False, store=False))
    wide = replace(loads, requests=loads.requests * size / WIDEST)
    title = (
        f"{listed(known) if known else 'global memory'} "
        f"{'are' if len(known) > 1 else 'is'} loaded {number(size)} bytes at a time: "
        f"{amount(loads.requests)} requests where {amount(wide.requests)} of 16 bytes would do"
    )
    why = "A 16-byte load costs one issue slot and keeps four times as many bytes in flight."
    fix = "Load a float4 where the address is a multiple of 16 bytes."
    fewer = loads.requests - wide.requests
    saved = Cycles(issue=fewer / s.gpu.issue, l1=loads.cycles(s.gpu) - wide.cycles(s.gpu))
    gain = s.gain(Work(saved))
    work = s.kernel.work
    if work.slowest in (work.l2, work.dram):  # more bytes in flight hide more of the latency
        gain = max(gain, IN_FLIGHT * share(loads.requests, s.total.global_load_requests))
    yield Finding("narrow loads", lines.places, title, why, fix, gain)


def _is_narrow(loads: Traffic) -> bool:
    """Contiguous lanes fill their sectors; a broadcast does not, and has nothing to widen."""
    side_by_side = loads.pieces < WASTEFUL * loads.ideal
    return (
        0 < loads.bytes <= 4 * LANES * loads.requests
        and side_by_side
        and loads.ideal > 0.9 * loads.bytes / SECTOR_BYTES
    )
