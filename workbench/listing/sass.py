"""Reads machine code out of a disassembly: instructions, lines, live registers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from workbench.listing.code import Code, Language
from workbench.listing.compiled import Machine
from workbench.listing.instructions import Instruction, Place

_KEPT = re.compile(r"\d+(x\d+)*|MT?88|EX2|LG2|RCP|RSQ|SQRT|SIN|COS|TANH|MOV")


def kind(opcode: str) -> str:
    """``LDG.128`` for LDG.E.128.CONSTANT: sizes and functions stay, other modifiers go."""
    name, *modifiers = opcode.split(".")
    return ".".join([name, *(word for word in modifiers if _KEPT.fullmatch(word))])


SASS = Language(
    "SASS",
    kind,
    synchronises=re.compile(
        r"BAR\b|SYNCS|DEPBAR|MEMBAR|UCGABAR_(ARV|WAIT)|CGABAR|WARPGROUP\.(ARRIVE|DEPBAR)|ACQBULK"
    ),
    local=re.compile(r"(LDL|STL)\b"),
    costly=re.compile(
        r"[A-Z]*MMA\b|(LD|ST)[GSL]?\b|LDSM|STSM|LDGSTS|ATOM|RED\b|U?TMA|UBLKCP|SHFL|BAR\b|SYNCS|MUFU"
    ),
    digits="{:04x}".format,
)
_PLACE = re.compile(r'\s*//## File "([^"]*)", line (\d+)( inlined at )?')
_LABEL = re.compile(r"(\.L_\w+|\$\w+):$")
_CODE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(.*?)\s*;")
_LIVE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/.*//\s*\|\s*(\d*)\s*\|")
_OPCODE = re.compile(r"(?:@!?U?P[T\d]+\s+)?([A-Z][\w.]*)")
_REFERENCE = re.compile(r"`\(([.\w$]+)\)")  # to a label
_TARGET = re.compile(r"^(?:@!?U?P[T\d]+\s+)?BRA\b.*`\(([.\w$]+)\)")


def code(machine: Machine, kernel: str, arch: str) -> Code:
    """A kernel's machine code.

    Args:
        machine: its disassembly.
        kernel: its name for the reader.
        arch: as in 90a.
    """
    live = {int(a, 16): int(n or 0) for a, n in _LIVE.findall(machine.live)}
    found = _instructions(machine.text, live)
    return Code(kernel, f"sm_{arch}", SASS, tuple(_without_padding(found)), machine.report)


def _instructions(text: str, live: dict[int, int]) -> Iterator[Instruction]:
    places: list[Place] = []
    labels: list[str] = []
    more = False  # the line before says where its place was inlined
    for line in text.splitlines():
        if found := _PLACE.match(line):
            places = places if more else []
            places.append(Place(os.path.realpath(found[1]), int(found[2])))
            more = bool(found[3])
        elif found := _LABEL.match(line):
            labels.append(found[1])
        elif found := _CODE.match(line):
            address, words = int(found[1], 16), found[2]
            opcode, target = _OPCODE.match(words), _TARGET.match(words)
            yield Instruction(
                address,
                _REFERENCE.sub(r"\1", words),
                opcode[1] if opcode else words,
                tuple(places),
                tuple(labels),
                target[1] if target else "",
                live.get(address),
            )
            labels = []


def _without_padding(found: Iterator[Instruction]) -> list[Instruction]:
    """The instructions up to the branch to itself and the NOPs with which a section ends."""
    kept = list(found)
    while kept and (kept[-1].opcode == "NOP" or kept[-1].target in (kept[-1].labels or ("none",))):
        kept.pop()
    return kept
