"""Detectors of what wastes memory traffic: global, shared and local."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.explain import costs
from workbench.explain.findings import Finding, Subject, listed, names, places, total
from workbench.explain.kernels import Counts
from workbench.explain.names import Access
from workbench.harness.figures import amount, number, of, percent, share

WASTEFUL = 1.1  # sectors or wavefronts over the ideal that are worth a word
REUSED = 1.5  # how often a byte is asked for, worth a word
FEW = 5  # times: rather passes over the data than threads that share it
LANES = 32
IN_FLIGHT = 0.1  # of the time, by loads that are four times as wide


def _named(found: Sequence[Access], one: str, many: str, nobody: str) -> str:
    """``A is``, ``A and B are`` or a phrase without names, before the rest of a sentence."""
    known = names(found)
    return nobody if not known else f"{listed(known)} {many if len(known) > 1 else one}"


def scattered(s: Subject) -> Iterator[Finding]:
    """Loads and stores of global memory that touch more sectors than their bytes fill."""
    for kind, done in (("load", "read"), ("store", "written")):

        def cost(c: Counts, kind: str = kind) -> float:
            return costs.excess(*(c.get(f"global_{kind}_{x}", 0) for x in _SECTORS))

        lines = s.worst(cost)
        requests = total(lines, f"global_{kind}_requests")
        sectors, ideal = (total(lines, f"global_{kind}_{name}") for name in _SECTORS)
        if not requests or sectors < WASTEFUL * ideal:
            continue
        found = s.accesses(places(lines), shared=False, store=kind == "store")
        apart = [access for access in found if access.stride not in (None, "1")] or found
        traffic = sum(s.kernel.counts.get(f"global_{x}_sectors", 0) for x in ("load", "store"))
        step = _step(apart)
        verb = _named(apart, f"is {done}", f"are {done}", f"global memory is {done}")
        how = f"with a stride of {step}" if step else "by lanes that lie apart"
        if sectors - ideal <= 1.01 * requests and not step:
            how = "off the sectors' boundaries"
        title = (
            f"{verb} {how}: {of(sectors / requests, 'sector')} per request, "
            f"{number(ideal / requests)} would do; {percent(share(sectors, traffic))} of the "
            "kernel's global traffic"
        )
        gain = s.gain(sum(cost(c) for _, c in lines), "memory")
        yield Finding("stride", places(lines), title, _why_scattered(apart), _COALESCE, gain)


_SECTORS = ("sectors", "sectors_ideal")
_COALESCE = (
    "Let neighbouring lanes take neighbouring elements: threadIdx.x belongs in the part of the "
    "index that nothing multiplies."
)


def _step(found: Sequence[Access]) -> str | None:
    """The stride, if the arrays agree in one."""
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
            text = f"{found[0].name} points to another place, {step} further, for each lane. "
    return text + (
        "A request is one instruction of a warp. Memory answers in sectors of 32 bytes: lanes that "
        "lie side by side share them, lanes that lie apart have one fetched each and use a part."
    )


def reuse(s: Subject) -> Iterator[Finding]:
    """Global memory that is asked for more often than there is of it."""
    c = s.kernel.counts
    asked, different = c.get("global_load_bytes", 0), c.get("dram_read_bytes", 0)
    if not different or asked < REUSED * different:
        return
    lines = s.worst(lambda line: line.get("global_load_bytes", 0))
    part = share(total(lines, "global_load_bytes"), asked)
    saved = 1 - different / asked
    requests, ideal = (total(lines, f"global_load_{name}") for name in ("requests", _SECTORS[1]))
    memory = costs.global_cycles(requests, ideal, ideal) * saved
    l2 = max(0.0, c.get("l2_read_sectors", 0) - different / 32) * part / costs.L2_SECTORS
    found = s.accesses(places(lines), shared=False, store=False)
    times = asked / different
    title = (
        f"{_each(found)} is loaded {number(times)} times from global memory: {amount(asked, 'B')} "
        f"asked for, {amount(different, 'B')} would do"
    )
    gain = max(s.gain(memory, "memory"), s.gain(l2, "l2"))
    why = _why_reused(s, requests / max(1, total(lines, "fp32_instructions")))
    yield Finding("reuse", places(lines), title, why, _keep(s, found, times), gain)


def _why_reused(s: Subject, loads: float) -> str:
    c = s.kernel.counts
    hits = 1 - min(1.0, share(c.get("l2_read_sectors", 0), c.get("global_load_sectors", 0)))
    text = (
        f"The L1 cache answers {percent(hits)} of it, but each load is an instruction, with an "
        "address to compute and a tag to look up"
    )
    if hits < 0.1:
        text = "Hardly any of it is still in the L1 cache, so the L2 cache has to answer"
    parts = []
    if c.get("fp32_instructions") and 0.2 < loads < 20:
        parts.append(f"{of(loads, 'load')} for each arithmetic instruction")
    if c.get("flops"):
        parts.append(f"{number(c['flops'] / c['global_load_bytes'])} FLOP for each byte")
    return f"{text}: {', '.join(parts)}." if parts else f"{text}."


def _each(found: Sequence[Access]) -> str:
    known = names(found)
    return f"every element of {listed(known)}" if known else "every byte"


def _keep(s: Subject, found: Sequence[Access], times: float) -> str:
    if s.kernel.counts.get("shared_load_bytes", 0) > s.kernel.counts["global_load_bytes"]:
        return "A larger tile per block: what is loaded once then serves more threads."
    known = names(found)
    if times < FEW:
        what = listed(known) if known else "what is read again"
        return (
            f"Keep {what} in registers or shared memory between the passes, or do the work of "
            "several passes in one."
        )
    return (
        "Let the threads of a block load a tile into shared memory together, once, and use it "
        "from there: global memory is read less often, and shared memory has no tags."
    )


def shared_bound(s: Subject) -> Iterator[Finding]:
    """Arithmetic that waits for its operands from shared memory."""
    c = s.kernel.counts

    def cost(line: Counts) -> float:
        waves = line.get("shared_load_wavefronts_ideal", 0)
        return waves if line.get("fp32_instructions", 0) >= waves / 8 else 0

    lines = s.worst(cost)
    waves = sum(cost(line) for _, line in lines)
    fmas = total(lines, "fp32_instructions")
    loads = total(lines, "shared_load_requests")
    if not fmas or waves < 1.5 * fmas / costs.FP32:
        return
    asked = total(lines, "shared_load_bytes")
    busy = min(1.0, c.get("fp32_instructions", 0) / costs.FP32 / max(waves, 1))
    intensity = number(total(lines, "flops") / asked) if asked else "0"
    known = names(s.accesses(places(lines), shared=True, store=False))
    title = (
        f"{of(loads / fmas, 'load')} of {listed(known) if known else 'shared memory'} for each "
        f"arithmetic instruction, {intensity} FLOP for each byte of shared memory: the arithmetic "
        f"units are busy {percent(busy)} of the time at most"
    )
    why = (
        f"Shared memory serves one load of a warp in a cycle; in the same cycle the SM could "
        f"start {costs.FP32} multiply-adds. Here they wait for their operands."
    )
    fix = (
        "Let a thread own several elements of the result (a register tile): a value read from "
        "shared memory then serves several multiply-adds."
    )
    gain = s.gain(max(0.0, waves - fmas / costs.FP32), "memory")
    yield Finding("shared memory", places(lines), title, why, fix, gain)


def conflicts(s: Subject) -> Iterator[Finding]:
    """Lanes of a request that ask one bank for different words."""
    whole = costs.shared_cycles(s.kernel.counts)
    for kind, done in (("load", "read"), ("store", "written")):
        prefix = f"shared_{kind}_"

        def cost(c: Counts, prefix: str = prefix) -> float:
            return c.get(f"{prefix}wavefronts", 0) - c.get(f"{prefix}wavefronts_ideal", 0)

        lines = s.worst(cost)
        waves, ideal, requests = (
            total(lines, prefix + name) for name in ("wavefronts", "wavefronts_ideal", "requests")
        )
        if not requests or waves < WASTEFUL * ideal:
            continue
        found = s.accesses(places(lines), shared=True, store=kind == "store")
        each = {
            number(c[f"{prefix}wavefronts"] / max(1, c[f"{prefix}wavefronts_ideal"]))
            for _, c in lines
        }
        ways = f"a {each.pop()}-way bank conflict" if len(each) == 1 else "bank conflicts"
        who = _named(found, f"is {done}", f"are {done}", f"shared memory is {done}")
        title = (
            f"{who} with {ways}: {of(waves / requests, 'wavefront')} per "
            f"request, {number(ideal / requests)} would do; {percent(share(waves, whole))} of the "
            "shared-memory time"
        )
        yield Finding(
            "bank conflict",
            places(lines),
            title,
            _BANKS,
            _PAD,
            s.gain(sum(cost(c) for _, c in lines), "memory"),
        )


_BANKS = (
    "Shared memory has 32 banks of 4 bytes, and each gives one word per wavefront. Lanes that want "
    "different words of one bank take turns; the same word is given to all at once."
)
_PAD = (
    "Pad the rows ([32][33] in place of [32][32]), or permute the columns (swizzle), so that the "
    "lanes of a warp fall on different banks. Where a thread takes several words side by side, let "
    "it take them at once (float4); the compiler may do so by itself."
)


def local_memory(s: Subject) -> Iterator[Finding]:
    """Arrays of a thread that lie in memory rather than in registers."""
    lines = s.worst(lambda c: c.get("local_bytes", 0))
    moved = total(lines, "local_bytes")
    if not moved:
        return
    title = f"{amount(moved, 'B')} of local memory: an array of a thread does not fit registers"
    why = "Local memory is global memory that belongs to a thread; registers cannot be indexed."
    fix = "Index arrays of a thread by constants only: unroll the loops over them (#pragma unroll)."
    cycles = total(lines, "local_sectors") / costs.SECTORS_PER_CYCLE
    gain = s.gain(max(cycles, moved / 128), "memory")
    yield Finding("local memory", places(lines), title, why, fix, gain)


def narrow(s: Subject) -> Iterator[Finding]:
    """Contiguous loads of 4 bytes or less per lane, where one of 16 bytes would do."""

    def cost(c: Counts) -> float:
        requests = c.get("global_load_requests", 0)
        per_lane = share(c.get("global_load_bytes", 0), LANES * requests)
        sectors = share(c.get("global_load_sectors", 0), requests)
        ideal = share(c.get("global_load_sectors_ideal", 0), requests)
        # Lanes side by side fill their sectors; a broadcast does not, and has nothing to widen.
        full = per_lane * LANES / 32
        plain = 0 < per_lane <= 4 and sectors < WASTEFUL * ideal and ideal > 0.9 * full
        return requests * 0.75 if plain else 0

    lines = s.worst(cost)
    if not lines:
        return
    requests = total(lines, "global_load_requests")
    size = share(total(lines, "global_load_bytes"), LANES * requests)
    known = names(s.accesses(places(lines), shared=False, store=False))
    title = (
        f"{listed(known) if known else 'global memory'} is loaded {number(size)} bytes at a time: "
        f"{amount(requests)} requests where {amount(requests * size / 16)} of 16 bytes would do"
    )
    why = "A load instruction of 16 bytes costs the issue of one and keeps four times in flight."
    fix = "Load a float4 where the address is a multiple of 16 bytes."
    gain = s.gain(sum(cost(c) for _, c in lines) / 2, "memory")
    if s.costs.slowest()[0] in ("l2", "dram"):  # more bytes in flight hide more of the latency
        gain = max(gain, IN_FLIGHT * share(requests, s.kernel.counts["global_load_requests"]))
    yield Finding("narrow loads", places(lines), title, why, fix, gain)
