"""Instructions with their places in the source, and the loops that they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """A line of a source file."""

    file: str
    line: int


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        address: its offset in bytes; of PTX, its number.
        text: all of it, ``@!P0 LDG.E R29, [R10.64]``.
        opcode: ``LDG.E``.
        places: the line it was made from, then those at which that was inlined, outwards.
        labels: those in front of it.
        target: the label that it may branch to.
        live: registers that hold a value there, if known.
    """

    address: int
    text: str
    opcode: str
    places: tuple[Place, ...] = ()
    labels: tuple[str, ...] = ()
    target: str = ""
    live: int | None = None

    @property
    def ends(self) -> bool:
        """Whether the next instruction is never executed after it, unless by a branch."""
        words = self.text.split()
        name = self.opcode.lower().split(".")[0]
        return not words[0].startswith("@") and (
            name in ("exit", "ret", "trap") or (name == "bra" and len(words) == 2)
        )


@dataclass(frozen=True)
class Loop:
    """A loop: the only instruction through which it is entered, and all that belong to it."""

    head: int
    body: frozenset[int]


def loops(instructions: Sequence[Instruction]) -> tuple[Loop, ...]:
    """The natural loops, in the order of their heads; branches back to one head are one loop.

    Not every branch backwards makes one: compilers move code that rarely runs to the end, from
    where it branches back.
    """
    after = _successors(instructions)
    before: list[list[int]] = [[] for _ in instructions]
    for index, some in enumerate(after):
        for other in some:
            before[other].append(index)
    found: dict[int, set[int]] = {}
    dominators = _dominators(after, before)
    for index, some in enumerate(after):
        for head in some:
            if head <= index and dominators[index] >> head & 1:
                found.setdefault(head, {head}).update(_reaching(index, head, before))
    return tuple(Loop(head, frozenset(found[head])) for head in sorted(found))


def _successors(instructions: Sequence[Instruction]) -> list[list[int]]:
    at = {label: i for i, one in enumerate(instructions) for label in one.labels}
    every = []
    for i, one in enumerate(instructions):
        following = [] if one.ends or i + 1 == len(instructions) else [i + 1]
        every.append([*following, *([at[one.target]] if one.target in at else [])])
    return every


def _dominators(after: Sequence[Sequence[int]], before: Sequence[Sequence[int]]) -> list[int]:
    """For each instruction a mask of those that are on every way to it, itself included."""
    everything = (1 << len(after)) - 1
    masks = [everything] * len(after)
    changed = True
    while changed:
        changed = False
        for i, sources in enumerate(before):
            mask = everything if sources and i else 0
            for source in sources if i else ():
                mask &= masks[source]
            mask |= 1 << i
            changed |= mask != masks[i]
            masks[i] = mask
    return masks


def _reaching(index: int, head: int, before: Sequence[Sequence[int]]) -> set[int]:
    """The instructions from which one is reached without passing the head."""
    found, waiting = set[int](), [index]
    while waiting:
        one = waiting.pop()
        if one != head and one not in found:
            found.add(one)
            waiting += before[one]
    return found
