"""The code of a kernel, and what it is made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from workbench.harness.figures import of
from workbench.listing.instructions import Instruction, Loop, loops

MOST_KINDS = 6  # named of a loop's or a line's instructions; the rest are counted together


@dataclass(frozen=True)
class Language:
    """How to read the opcodes of a language.

    Attributes:
        name: SASS or PTX.
        kind: an opcode without what does not matter for its cost.
        synchronises: matches the opcodes that wait for others, or for copies.
        local: matches those that access local memory: spills, the stack, arrays.
        costly: matches the kinds to name first, of the tensor cores, memory and barriers.
        digits: writes an address.
    """

    name: str
    kind: Callable[[str], str]
    synchronises: re.Pattern[str]
    local: re.Pattern[str]
    costly: re.Pattern[str]
    digits: Callable[[int], str]


@dataclass(frozen=True)
class Code:
    """A kernel's code.

    Attributes:
        kernel: its name, as the simulator reports it.
        arch: what it is compiled for, as in sm_90a.
        language: SASS or PTX.
        instructions: in order.
        report: what the compiler says about it.
    """

    kernel: str
    arch: str
    language: Language
    instructions: tuple[Instruction, ...]
    report: str = ""

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """The loops, in the order of their heads."""
        return loops(self.instructions)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The number of loops around each instruction."""
        counted = Counter(index for loop in self.loops for index in loop.body)
        return tuple(counted[index] for index in range(len(self.instructions)))

    def inside(self, loop: Loop) -> tuple[Instruction, ...]:
        """The instructions of a loop, those of the loops inside it included."""
        return tuple(self.instructions[index] for index in sorted(loop.body))

    def mix(self, some: Iterable[Instruction], most: int = MOST_KINDS) -> str:
        """What instructions there are, costly ones first: ``8 LDS.128, 32 FFMA, 20 others``.

        Args:
            some: instructions.
            most: kinds to name; more if more are costly.
        """
        counter = Counter(self.language.kind(one.opcode) for one in some)
        counted = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))
        costly = [pair for pair in counted if self.language.costly.match(pair[0])]
        ordered = [*costly, *(pair for pair in counted if pair not in costly)]
        named = max(most, len(costly) + 2)
        rest = sum(count for _, count in ordered[named:])
        shown = [f"{count} {kind}" for kind, count in ordered[:named]]
        return ", ".join([*shown, *([of(rest, "other")] if rest else [])])

    def matching(self, pattern: re.Pattern[str]) -> tuple[Instruction, ...]:
        """The instructions with such opcodes."""
        return tuple(one for one in self.instructions if pattern.match(one.opcode))
