"""Faults in PTX that a typing error would hardly make: most of what comes out still loads.

Statements of one kernel are spliced into another, with its registers, labels and variables in place
of their own; operands are dropped, doubled and exchanged; types, sizes and other modifiers are
changed for those that the seeds use.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STATEMENT = re.compile(rb"^(\s*(?:@!?[%\w$]+\s+)?)([a-z]\w*)((?:\.[\w:]+)*)(\s+[^;]*)?;\s*$")
REGISTER = re.compile(rb"%[a-z]+\d+\b|\bv\d+\b")
NAME = re.compile(rb"(?<![.%\w$])[A-Za-z_$][\w$]*")
LABEL = re.compile(rb"^\s*([\w$]+):\s*$")
SIZE = re.compile(rb"m\d+n\d+(?:k\d+)?|v[248]|x[124]|[1-5]d|[busf]\d+(?:x2)?|e\dm\d(?:x2)?|\d+")
NUMBERS = (b"0", b"1", b"-1", b"-4", b"2", b"3", b"7", b"31", b"32", b"33", b"127", b"65535",
           b"1023", b"2147483647", b"-2147483648", b"4294967295", b"0f7F800000")  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """What the seeds are made of."""

    kernels: Sequence[Sequence[bytes]]  # the lines of each
    modifiers: dict[bytes, list[bytes]]  # of each opcode: the whole text, ".global.v4.f32"
    operands: list[bytes]

    @classmethod
    def of(cls, seeds: Sequence[bytes]) -> Pool:
        kernels = [seed.split(b"\n") for seed in seeds]
        modifiers: dict[bytes, set[bytes]] = defaultdict(set)
        operands = set()
        for lines in kernels:
            for statement in filter(None, map(STATEMENT.match, lines)):
                modifiers[statement[2]].add(statement[3])
                operands.update(split_operands(statement[4] or b""))
        ordered = {opcode: sorted(found) for opcode, found in sorted(modifiers.items())}
        return cls(kernels, ordered, sorted(operands))


def split_operands(text: bytes) -> list[bytes]:
    """The operands of an instruction; commas inside brackets do not separate."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in b"{[(") - (c in b"}])")
        if c == ord(",") and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def joined(guard: bytes, opcode: bytes, modifiers: bytes, operands: Sequence[bytes]) -> bytes:
    return guard + opcode + modifiers + b" " + b", ".join(operands) + b";"


def any_operand(rng: random.Random, pool: Pool, lines: list[bytes]) -> bytes:
    """Mostly one that is declared."""
    statement = STATEMENT.match(rng.choice(lines))
    own = split_operands(statement[4] or b"") if statement else []
    return rng.choice(own or pool.operands)


def change_operands(match: re.Match, rng: random.Random, pool: Pool, lines: list[bytes]) -> bytes:
    """Drop, double, exchange or replace an operand; or change a number in it."""
    operands = split_operands(match[4] or b"")
    i = rng.randrange(len(operands) + 1)
    way = rng.randrange(6)
    if way == 0 or not operands:
        operands.insert(i, any_operand(rng, pool, lines))
    else:
        i = min(i, len(operands) - 1)
        if way == 1:
            del operands[i]
        elif way == 2:
            operands.insert(i, operands[i])
        elif way == 3:
            j = rng.randrange(len(operands))
            operands[i], operands[j] = operands[j], operands[i]
        elif way == 4:
            operands[i] = any_operand(rng, pool, lines)
        else:
            operands[i] = with_number(operands[i], rng)
    return joined(match[1], match[2], match[3], operands)


def with_number(operand: bytes, rng: random.Random) -> bytes:
    """An operand with another number: an offset that changes, or a number for a register."""
    number = rng.choice(NUMBERS)
    if operand.startswith(b"["):
        return re.sub(rb"(\+-?\d+)?\]$", b"+" + number + b"]", operand)
    return number if rng.randrange(2) else re.sub(rb"(?<![%\w])\d+", number, operand)


def change_modifiers(match: re.Match, rng: random.Random, pool: Pool, _: list[bytes]) -> bytes:
    """Drop, double, add or replace a modifier: often a type or a size by another one."""
    parts = match[3].split(b".")[1:]
    known = pool.modifiers[match[2]] if match[2] in pool.modifiers else [b""]
    others = [part for part in rng.choice(known).split(b".") if part] or [b"u32"]
    i = rng.randrange(len(parts) + 1)
    way = rng.randrange(7)
    if way == 0 or not parts:
        return joined(match[1], match[2], rng.choice(known), split_operands(match[4] or b""))
    i = min(i, len(parts) - 1)
    if way == 1:
        del parts[i]
    elif way == 2:
        parts.insert(i, parts[i])
    elif way == 3:
        parts.insert(i, rng.choice(others))
    elif way == 4:
        parts[i] = rng.choice(others)
    else:  # a type or a size
        sizes = [k for k, part in enumerate(parts) if SIZE.fullmatch(part)]
        every = rng.choice(pool.modifiers[rng.choice(list(pool.modifiers))]).split(b".")
        new = [part for part in every if SIZE.fullmatch(part)]
        if sizes and new:
            parts[rng.choice(sizes)] = rng.choice(new)
    return joined(match[1], match[2], b"".join(b"." + part for part in parts),
                  split_operands(match[4] or b""))  # fmt: skip


def change_guard(match: re.Match, rng: random.Random, _: Pool, lines: list[bytes]) -> bytes:
    """Let a predicate decide, or no longer."""
    predicates = sorted(set(re.findall(rb"%p\d+\b", b" ".join(lines)))) or [b"%p1"]
    guard = rng.choice((b"", b"@" + rng.choice(predicates) + b" ",
                        b"@!" + rng.choice(predicates) + b" "))  # fmt: skip
    return guard + (match[2] + match[3] + (match[4] or b"") + b";")


def splice(_: re.Match, rng: random.Random, pool: Pool, lines: list[bytes]) -> bytes:
    """A few statements of another kernel, with names of this one."""
    other = rng.choice(pool.kernels)
    first = rng.randrange(len(other))
    taken = [line for line in other[first : first + rng.randint(1, 12)] if STATEMENT.match(line)]
    text = b"\n".join(lines)
    every = sorted(set(REGISTER.findall(text)))
    registers = defaultdict(list)
    for register in every:
        registers[register.rstrip(b"0123456789")].append(register)
    labels = [label[1] for label in filter(None, map(LABEL.match, lines))]
    variables = sorted(set(re.findall(rb"\[([A-Za-z_$][\w$]*)[\]+]", text)))
    names: dict[bytes, bytes] = {}

    def register_here(match: re.Match) -> bytes:
        own = registers.get(match[0].rstrip(b"0123456789")) or every
        return names.setdefault(match[0], rng.choice(own) if own else match[0])

    def name_here(match: re.Match) -> bytes:
        own = labels if b"$L" in match[0] or b"BB" in match[0] else variables
        return names.setdefault(match[0], rng.choice(own) if own else match[0])

    out = []
    for statement in filter(None, map(STATEMENT.match, taken)):
        operands = NAME.sub(name_here, REGISTER.sub(register_here, statement[4] or b""))
        guard = REGISTER.sub(register_here, statement[1])
        out.append(guard + statement[2] + statement[3] + operands + b";")
    return b"\n".join(out)


CHANGES: tuple[Callable[[re.Match, random.Random, Pool, list[bytes]], bytes], ...] = (
    change_operands,
    change_operands,
    change_modifiers,
    change_modifiers,
    change_guard,
    splice,
    splice,
)


def break_grammar(data: bytes, rng: random.Random, pool: Pool) -> bytes:
    """Change some statements of a module, or put others in front of them."""
    lines = data.split(b"\n")
    statements = [i for i, line in enumerate(lines) if STATEMENT.match(line)]
    if not statements:
        return data
    changed = {}
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        i = rng.choice(statements)
        match = STATEMENT.match(lines[i])
        change = rng.choice(CHANGES)
        if match and i not in changed:
            new = change(match, rng, pool, lines)
            changed[i] = new + b"\n" + lines[i] if change is splice else new
    return b"\n".join(changed.get(i, line) for i, line in enumerate(lines))
