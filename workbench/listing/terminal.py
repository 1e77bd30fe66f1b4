"""Listings for a terminal, a file or a pipe."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TextIO

from rich.text import Text

from workbench.explain import annotate
from workbench.explain.kernels import Kernel
from workbench.explain.terminal import HOT, WARM
from workbench.harness.figures import of
from workbench.harness.terminal import console
from workbench.listing.code import Code
from workbench.listing.instructions import Instruction, Loop, Place
from workbench.toolchain.paths import shown
from workbench.toolchain.ptx_text import is_users

SOURCE_WIDTH = 34  # of the source beside the code, at least
LEGEND = """\
| marks a loop, || one inside another; >> and > the lines of the source that take most of the cycles
(--explain). live: registers that hold a value. file.cuh:15 < 170: line 15, inlined at line 170"""
PTX_LEGEND = LEGEND.replace(" live: registers that hold a value.", "")


@dataclass(frozen=True)
class Listing:
    """A kernel's code, and what the simulator counted of the source that it was made from."""

    code: Code
    counted: Kernel

    @cached_property
    def main(self) -> str:
        """The kernel's own file, whose lines need no name."""
        files = Counter(one.places[-1].file for one in self.code.instructions if one.places)
        return files.most_common(1)[0][0] if files else ""

    @cached_property
    def sources(self) -> dict[str, annotate.Source]:
        """The files with lines of the code, the main one first."""
        used = dict.fromkeys(found.file for one in self.code.instructions for found in one.places)
        ordered = sorted(used, key=lambda file: file != self.main)
        return {file: annotate.read(Path(file)) for file in ordered}

    def place(self, one: Instruction) -> Place | None:
        """The line to show: the innermost that the simulator counted, or that is the user's."""
        mine = [place for place in one.places if is_users(place.file)]
        counted = [place for place in mine if place in self.counted.lines]
        return next(iter([*counted, *mine, *one.places]), None)

    def name(self, place: Place) -> str:
        """A place, without its file if that is the main one."""
        return (
            str(place.line) if place.file == self.main else f"{Path(place.file).name}:{place.line}"
        )

    def text(self, place: Place) -> str:
        """The source there."""
        return self.sources[place.file].text(place.line).strip()

    @cached_property
    def deepest(self) -> dict[Place | None, int]:
        """In how many loops the innermost instructions of each line are."""
        found: dict[Place | None, int] = {}
        for one, depth in zip(self.code.instructions, self.code.depths, strict=True):
            place = self.place(one)
            found[place] = max(depth, found.get(place, 0))
        return found

    def mark(self, place: Place | None) -> str:
        """How much a line costs: ``>>``, ``>`` or nothing."""
        line = self.counted.lines.get(place) if place else None
        cost = self.counted.cost(line) if line else 0.0
        return ">>" if cost >= HOT else " >" if cost >= WARM else "  "

    def style(self, one: Instruction) -> str:
        """The colour of an instruction: of those that wait, and of those that are spills."""
        if self.code.language.local.match(one.opcode):
            return "bold red"
        return "magenta" if self.code.language.synchronises.match(one.opcode) else ""


def show(listing: Listing, by_source: bool = False, file: TextIO | None = None) -> None:
    """Print a kernel's code, in its own order, or line by line of its source."""
    to = console(file)
    width = max(to.width, 80)
    rows = _by_source if by_source else _by_address
    for row in (*_summary(listing, width), Text(), *rows(listing, width)):
        row.rstrip()
        to.print(row, soft_wrap=True)


def _summary(listing: Listing, width: int) -> Iterator[Text]:
    code = listing.code
    for line in _wrapped(f"{code.kernel}  {code.arch} {code.language.name}", width):
        yield Text(line, style="bold cyan")
    every = code.instructions
    most = max((one.live or 0 for one in every), default=0)
    facts = [f"{of(len(every), 'instruction')}: {code.mix(every)}"]
    facts += [f"ptxas: {code.report}"] if code.report else []
    facts += [f"at most {of(most, 'register')} live at a time"] if most else []
    for pattern, what in (
        (code.language.synchronises, "waits"),
        (code.language.local, "local memory"),
    ):
        found = code.matching(pattern)
        if found:
            where = ", ".join(code.language.digits(one.address) for one in found[:12])
            more = f" and {len(found) - 12} more" if len(found) > 12 else ""
            facts.append(f"{what}: {code.mix(found)}; at {where}{more}")
    facts += [_loop(listing, loop) for loop in code.loops]
    for fact in facts:
        for line in textwrap.wrap(
            fact, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        ):
            yield Text(line)


def _loop(listing: Listing, loop: Loop) -> str:
    code, inside = listing.code, listing.code.inside(loop)
    depth = code.depths[loop.head]
    what = "loop" if depth == 1 else f"loop inside {of(depth - 1, 'other')}"
    at = code.language.digits(code.instructions[loop.head].address)
    where = _lines([place for one in inside if (place := listing.place(one))], listing)
    return f"{what} at {at}{where}: {of(len(inside), 'instruction')}: {code.mix(inside)}"


def _lines(places: Sequence[Place], listing: Listing) -> str:
    """The range of lines of a loop in the file that most of its instructions are from."""
    if not places:
        return ""
    file = Counter(place.file for place in places).most_common(1)[0][0]
    inside = sorted(place for place in places if place.file == file)
    first, last = inside[0], inside[-1].line
    if last == first.line:
        return f", line {listing.name(first)}"
    return f", lines {listing.name(first)}-{last}"


# ------------------------------------------------------------------------------------------------
# In the order of the code, the source beside it


def _by_address(listing: Listing, width: int) -> Iterator[Text]:
    code = listing.code
    front = _front(listing)
    before = len(front(0))
    longest = max((len(one.text) for one in code.instructions), default=0)
    room = max(min(longest, width - before - SOURCE_WIDTH - 2), 40)
    place: Place | None = None
    yield Text(_head(listing, before, room), style="dim")
    for index, one in enumerate(code.instructions):
        if one.labels:
            yield Text(f"{'':3}{' '.join(one.labels)}:", style="dim")
        found = listing.place(one)
        beside = _beside(listing, one, found) if found != place else ""
        place = found
        for i, part in enumerate(_wrapped(one.text, room)):
            row = Text(front(index) if i == 0 else " " * before)
            row.append(part.ljust(room), style=listing.style(one))
            if i == 0 and beside:
                left = max(width - before - room - 2, 0)
                row.append("  " + _cut(beside, left), style="cyan")
            yield row


def _head(listing: Listing, before: int, room: int) -> str:
    live = any(one.live is not None for one in listing.code.instructions)
    front = ("addr live" if live else "number").rjust(before - 2)
    return f"{front}  {'instruction':<{room}}  {shown(listing.main)}"


def _front(listing: Listing) -> Callable[[int], str]:
    """What stands before an instruction: marks, its address, live registers."""
    code = listing.code
    bars = max(code.depths, default=0)
    digits = max((len(code.language.digits(one.address)) for one in code.instructions), default=1)
    live = any(one.live is not None for one in code.instructions)

    def front(index: int) -> str:
        if not code.instructions:
            return ""
        one = code.instructions[index]
        registers = f" {one.live or 0:>4}" if live else ""
        place = listing.place(one)
        mark = listing.mark(place) if code.depths[index] == listing.deepest[place] else "  "
        address = code.language.digits(one.address).rjust(digits)
        return f"{mark} {'|' * code.depths[index]:<{bars}} {address}{registers}  "

    return front


def _beside(listing: Listing, one: Instruction, place: Place | None) -> str:
    """The line that an instruction was made from, and where it was inlined if in another file."""
    if place is None:
        return "(no line)"
    name = listing.name(place)
    if place.file != listing.main:
        outer = one.places[one.places.index(place) + 1 :]
        caller = next((other for other in outer if other.file == listing.main), None)
        name += f" < {listing.name(caller)}" if caller else ""
    return f"{name}  {listing.text(place)}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False) or [""]


# ------------------------------------------------------------------------------------------------
# Line by line of the source


def _by_source(listing: Listing, width: int) -> Iterator[Text]:
    groups: dict[Place | None, list[int]] = {}
    for index, one in enumerate(listing.code.instructions):
        groups.setdefault(listing.place(one), []).append(index)
    for file, source in listing.sources.items():
        inside = sorted(place for place in groups if place is not None and place.file == file)
        if not inside:
            continue
        missing = "" if source.lines else " (cannot be read)"
        yield Text(f"{shown(file)}{missing}", style="dim")
        for place in inside:
            yield from _line(listing, place, groups[place], width)
    if None in groups:
        yield Text("(no line)", style="dim")
        yield from _instructions(listing, groups[None], None, width)


def _line(listing: Listing, place: Place, some: Sequence[int], width: int) -> Iterator[Text]:
    """A line of the source, what it became in sum, and the instructions."""
    code = listing.code
    text = _cut(f"{listing.mark(place)} {place.line:>4}  {listing.text(place)}", width)
    yield Text(text, style="cyan")
    mix = code.mix(code.instructions[index] for index in some)
    for row in _wrapped(f"{of(len(some), 'instruction')}: {mix}", width - 9):
        yield Text(f"{'':9}{row}", style="dim")
    yield from _instructions(listing, some, place, width)


def _instructions(
    listing: Listing, some: Sequence[int], place: Place | None, width: int
) -> Iterator[Text]:
    """Instructions in the order of the code; where they were inlined, and where some are left."""
    front = _front(listing)
    chain: tuple[Place, ...] = ()
    last = None
    for index in some:
        one = listing.code.instructions[index]
        outer = one.places[one.places.index(place) + 1 :] if place else ()
        if outer != chain:
            where = ", ".join(map(listing.name, outer))
            yield Text(_cut(f"{'':9}inlined at {where}" if where else f"{'':9}here", width), "dim")
        elif last is not None and index != last + 1:
            yield Text(f"{'':9}...", style="dim")
        chain, last = outer, index
        for i, part in enumerate(_wrapped(one.text, width - 9 - len(front(index)))):
            before = front(index)[2:] if i == 0 else " " * (len(front(index)) - 2)
            yield Text(f"{'':8}{before}").append(part, style=listing.style(one))
