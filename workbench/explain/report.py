"""What --explain says of a rung: kernels with their source, findings and totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.explain import annotate
from workbench.explain.findings import Finding, find
from workbench.explain.kernels import Kernel, by_kernel
from workbench.explain.words import amount, number, of, per


@dataclass(frozen=True)
class Fact:
    """A figure of the whole kernel: its name, itself, and what is to be said of it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Explained:
    """A kernel, explained."""

    kernel: Kernel
    regions: tuple[annotate.Region, ...]
    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Report:
    """A rung on a shape, explained.

    Attributes:
        operation: the operation's name.
        rung: the rung's name.
        shape: as workbench.shapes writes it.
        dtype: torch's name of it.
        kernels: what it launched.
        note: why it was not run, or that its result is wrong.
        wrong: its result is wrong.
    """

    operation: str
    rung: str
    shape: str
    dtype: str
    kernels: tuple[Explained, ...]
    note: str = ""
    wrong: bool = False

    @property
    def title(self) -> str:
        """Operation, rung, shape and dtype."""
        return f"{self.operation} {self.rung}, {self.shape} {self.dtype}"


def explained(launches: Sequence[Any]) -> tuple[Explained, ...]:
    """Explain recorded launches (``simulator.Launch``), kernel by kernel."""
    return tuple(_explained(kernel) for kernel in by_kernel(launches))


def _explained(kernel: Kernel) -> Explained:
    files = annotate.sources(kernel)
    return Explained(
        kernel, annotate.regions(kernel, files), find(kernel, files), tuple(_facts(kernel))
    )


def _size(numbers: tuple[int, int, int]) -> str:
    """``8 x 8``: without the dimensions of one at the end."""
    last = max((i for i, n in enumerate(numbers) if n != 1), default=0)
    return " x ".join(str(n) for n in numbers[: last + 1])


def _blocks(kernel: Kernel) -> str:
    return f"{_size(kernel.grid)} block{'s' if kernel.blocks > 1 else ''}"


def _facts(kernel: Kernel) -> list[Fact]:
    c = kernel.counts
    times = "" if kernel.launches == 1 else f", launched {kernel.launches} times"
    facts = [
        Fact("grid", _blocks(kernel), f"of {_size(kernel.block)} threads{times}"),
        Fact(
            "instructions",
            amount(c["warp_instructions"]),
            f"of warps; {number(_lanes(c))} of 32 lanes active",
        ),
    ]
    facts += [*_arithmetic(c), *_global(c), *_shared(kernel)]
    if c.get("barriers"):
        facts.append(Fact("barriers", amount(c["barriers"]), "arrivals of warps"))
    if c.get("atomics"):
        facts.append(Fact("atomics", amount(c["atomics"]), "operations of lanes"))
    return facts


def _lanes(c: Any) -> float:
    return per(c["thread_instructions"], c["warp_instructions"]) or 0.0


def _arithmetic(c: Any) -> list[Fact]:
    if not c.get("flops"):
        return []
    special = c.get("special_function_ops", 0)
    note = f"and {amount(special)} special functions" if special else ""
    return [Fact("FLOP", amount(c["flops"]), note)]


def _global(c: Any) -> list[Fact]:
    asked = c["global_load_bytes"] + c["global_store_bytes"]
    if not asked:
        return []
    facts = [Fact("global memory", amount(asked, "B"), "asked for by the lanes")]
    requests = c.get("global_load_requests", 0) + c.get("global_store_requests", 0)
    if requests:
        sectors = c["global_load_sectors"] + c["global_store_sectors"]
        ideal = c["global_load_sectors_ideal"] + c["global_store_sectors_ideal"]
        each = f"{number(sectors / requests)} for each request, {number(ideal / requests)} ideal"
        facts.append(Fact("sectors", amount(sectors), f"of 32 B; {each}"))
        l2 = 32 * (c["l2_read_sectors"] + c["l2_write_sectors"])
        different = c["dram_read_bytes"] + c["dram_write_bytes"]
        note = f"not answered by L1; {amount(different, 'B')} of it different"
        facts.append(Fact("L2 cache", amount(l2, "B"), note))
    return facts


def _shared(kernel: Kernel) -> list[Fact]:
    c = kernel.counts
    if not kernel.shared_bytes and not c["shared_load_bytes"]:
        return []
    facts = [Fact("shared memory", amount(kernel.shared_bytes, "B"), "of each block")]
    waves = c.get("shared_load_wavefronts", 0) + c.get("shared_store_wavefronts", 0)
    ideal = c.get("shared_load_wavefronts_ideal", 0) + c.get("shared_store_wavefronts_ideal", 0)
    if waves:
        note = f"{of(waves - ideal, 'bank conflict')}" if waves > ideal else "no bank conflicts"
        facts.append(Fact("wavefronts", amount(waves), note))
    return facts
