"""The access patterns that ``patterns.cu`` runs: the address of each lane of a warp.

Pure Python, so that a machine with only nvcc and Nsight Compute can use it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

LANES = range(32)
ALL = 0xFFFFFFFF
GROUPS = ("global", "shared", "matrix", "copy", "walk")


@dataclass(frozen=True)
class Pattern:
    """One launch of ``patterns.cu``: operation, byte offsets by lane, participating lanes."""

    group: str
    name: str
    operation: str
    offsets: tuple[int, ...]
    mask: int = ALL

    def line(self) -> str:
        """The text that ``patterns.cu`` reads."""
        return " ".join(map(str, (self.name, self.operation, self.mask, *self.offsets)))


Shape = Callable[[int], int]  # lane -> element

# Elements, in units of the access size, by lane.
SHAPES: dict[str, Shape] = {
    "row": lambda i: i,
    "reversed": lambda i: 31 - i,
    "permuted": lambda i: i * 13 % 32,
    "broadcast": lambda i: 0,
    "two": lambda i: 40 * (i % 2),
    "pairs": lambda i: i // 2,
    "quads": lambda i: i // 4,
    "eights": lambda i: i // 8,
    "pairs_apart": lambda i: i % 16,
    "quarters": lambda i: i % 8,
    "mixed_pairs": lambda i: (i // 2) ^ (i % 4 // 3),
    "swapped": lambda i: i ^ 1,
    "swapped_2": lambda i: i ^ 2,
    "swapped_16": lambda i: i ^ 16,
    "even_row": lambda i: i // 2 * 2,
    "overlap_8": lambda i: i // 8 * 4 + i % 8,
    "overlap_16": lambda i: i // 16 * 8 + i % 16,
    "stride2": lambda i: 2 * i,
    "stride3": lambda i: 3 * i,
    "stride4": lambda i: 4 * i,
    "stride5": lambda i: 5 * i,
    "stride8": lambda i: 8 * i,
    "stride16": lambda i: 16 * i,
    "stride17": lambda i: 17 * i,
    "stride32": lambda i: 32 * i,
    "stride33": lambda i: 33 * i,
    "tile16": lambda i: i // 16 * 64 + i % 16,
    "tile8": lambda i: i // 8 * 32 + i % 8,
    "tile4": lambda i: i // 4 * 32 + i % 4,
    "tile8_padded": lambda i: i // 8 * 33 + i % 8,
    "tile8_xor": lambda i: (i // 8 * 32 + i % 8) ^ (i // 8 * 8),
    "columns4": lambda i: i % 4 * 32 + i // 4,
    "columns4_padded": lambda i: i % 4 * 33 + i // 4,
    "columns8": lambda i: i % 8 * 32 + i // 8,
}
MASKS = {"low_half": 0xFFFF, "even": 0x55555555, "one": 0x10, "quarter": 0xFF00}
SIZES = (1, 2, 4, 8, 16)


def _bytes(shape: Shape, size: int, shift: int = 0) -> tuple[int, ...]:
    return tuple(shape(i) * size + shift for i in LANES)


def _shaped(
    group: str, operation: str, size: int, names: Sequence[str] = (), shift: int = 0
) -> Iterator[Pattern]:
    for name in names or SHAPES:
        offsets = _bytes(SHAPES[name], size, shift)
        yield Pattern(group, name + (f"+{shift}" if shift else ""), operation, offsets)


def _masked(group: str, operation: str, size: int) -> Iterator[Pattern]:
    for mask_name, mask in MASKS.items():
        for name in ("row", "quarters", "quads"):
            offsets = _bytes(SHAPES[name], size)
            yield Pattern(group, f"{name}/{mask_name}", operation, offsets, mask)


def _random(
    group: str, operation: str, size: int, places: int, seeds: int, masked: bool = False
) -> Iterator[Pattern]:
    for seed in range(seeds):
        rng = random.Random(f"{operation} {places} {seed} {masked}")
        offsets = tuple(rng.randrange(places) * size for _ in LANES)
        mask = rng.getrandbits(32) | 1 if masked else ALL
        name = f"random{places}{'m' if masked else ''}-{seed}"
        yield Pattern(group, name, operation, offsets, mask)


def _global() -> Iterator[Pattern]:
    few = ("row", "reversed", "broadcast", "pairs_apart", "quarters", "stride2", "stride32")
    for size in SIZES:
        yield from _shaped("global", f"ldg{size}", size, [] if size in (4, 8, 16) else few)
        yield from _shaped("global", f"stg{size}", size, few)
        for shift in (4, 8, 16):
            if shift % size == 0:
                yield from _shaped("global", f"ldg{size}", size, ("row", "stride3"), shift)
                yield from _shaped("global", f"stg{size}", size, ("row",), shift)
    for size in (4, 8, 16):
        yield from _masked("global", f"ldg{size}", size)
        yield from _random("global", f"ldg{size}", size, 16, 4)
        yield from _random("global", f"ldg{size}", size, 64, 6)
        yield from _random("global", f"ldg{size}", size, 4096, 2)
        yield from _random("global", f"stg{size}", size, 64, 3)
        yield from _random("global", f"ldg{size}", size, 64, 4, masked=True)
    for operation, size in (("redg4", 4), ("redg4f", 4), ("redg8", 8), ("redg16f", 16)):
        yield from _shaped("global", operation, size, few)
    for operation, size in (("atomg4", 4), ("atomg8", 8), ("casg4", 4)):
        yield from _shaped("global", operation, size, few)
        yield from _random("global", operation, size, 64, 3)
    yield from _shaped("global", "ldg4nc", 4, few)
    yield from _shaped("global", "ldg16nc", 16, few)


def _shared() -> Iterator[Pattern]:
    few = ("row", "reversed", "broadcast", "pairs", "pairs_apart", "stride2", "stride4", "stride32")
    for size in SIZES:
        wide = size in (4, 8, 16)
        yield from _shaped("shared", f"lds{size}", size, [] if wide else few)
        yield from _shaped("shared", f"sts{size}", size, few)
    for size in (8, 16):
        yield from _masked("shared", f"lds{size}", size)
        for places, seeds in ((4, 6), (16, 10), (64, 10), (1024, 6)):
            yield from _random("shared", f"lds{size}", size, places, seeds)
        yield from _random("shared", f"lds{size}", size, 64, 10, masked=True)
        yield from _random("shared", f"sts{size}", size, 16, 4)
        yield from _random("shared", f"sts{size}", size, 64, 6)
        yield from _random("shared", f"sts{size}", size, 64, 4, masked=True)
    for size in (1, 2, 4):
        yield from _random("shared", f"lds{size}", size, 64, 4)
        yield from _random("shared", f"lds{size}", size, 1024, 4)
        yield from _random("shared", f"sts{size}", size, 64, 4)
        yield from _random("shared", f"sts{size}", size, 1024, 3)
    for operation, size in (("reds4", 4), ("atoms4", 4), ("exchs4", 4), ("cass4", 4), ("cass8", 8)):
        yield from _shaped("shared", operation, size, few)
        yield from _random("shared", operation, size, 16, 3)
        yield from _random("shared", operation, size, 256, 3)


# Rows of 8x8 matrices: lane -> 16-byte element, in a tile with a given row length.
ROWS: dict[str, Shape] = {
    "dense": lambda i: i,
    "pitch2": lambda i: 2 * i,
    "pitch4": lambda i: 4 * i,
    "pitch8": lambda i: 8 * i,
    "pitch8_xor": lambda i: 8 * i + i % 8,
    "pitch8_xor2": lambda i: (i % 16 * 8 + i // 16) ^ (i % 8),
    "pitch9": lambda i: 9 * i,
    "pitch5": lambda i: 5 * i,
    "same": lambda i: 0,
    "halves": lambda i: i % 16,
    "same_matrix": lambda i: i % 8,
    "reversed": lambda i: 31 - i,
}


def _matrix() -> Iterator[Pattern]:
    for operation in ("ldsm", "ldsmt", "stsm", "stsmt"):
        for count in (1, 2, 4):
            names = list(ROWS)
            if operation != "ldsm" and count != 4:
                names = names[:4]
            for name in names:
                offsets = _bytes(ROWS[name], 16)
                yield Pattern("matrix", name, f"{operation}{count}", offsets)
            yield from _random("matrix", f"{operation}{count}", 16, 64, 4)


def _copy() -> Iterator[Pattern]:
    for size, operation in ((4, "copy4"), (8, "copy8"), (16, "copy16"), (16, "copy16cg")):
        for source, target in (
            ("row", "row"),
            ("stride2", "row"),
            ("row", "stride2"),
            ("row", "stride8"),
            ("broadcast", "row"),
            ("quarters", "row"),
            ("row", "tile8_padded"),
            ("reversed", "row"),
        ):
            offsets = _bytes(SHAPES[source], size) + _bytes(SHAPES[target], size)
            yield Pattern("copy", f"{source}>{target}", operation, offsets)
    for size in (16, 128, 1024, 16384):
        yield Pattern("copy", f"{size}", "bulkload", (size,) * 32, 1)
        yield Pattern("copy", f"{size}", "bulkstore", (size,) * 32, 1)
    for size in (4, 8, 16):
        for name in ("broadcast", "row", "pairs", "eights", "pairs_apart"):
            shape = SHAPES[name]
            offsets = tuple(shape(i) * size % 512 for i in LANES)
            yield Pattern("copy", name, f"local{size}", offsets + (0,) * 32)


def _walk() -> Iterator[Pattern]:
    def walk(name: str, *numbers: int) -> Pattern:
        return Pattern("walk", name, "walk", (*numbers, *(0,) * (32 - len(numbers))))

    for kib in (16, 64, 128, 160, 192, 208, 224, 240, 256, 320):
        yield walk(f"{kib}K", kib * 1024, 2, 0, 4, 256, 0)
    for kib in (16, 32, 64, 96, 128):
        yield walk(f"{kib}K-shared100K", kib * 1024, 2, 0, 4, 256, 100 * 1024)
    for kib in (4, 16, 24, 32):
        yield walk(f"{kib}K-shared200K", kib * 1024, 2, 0, 4, 256, 200 * 1024)
    for kind, name in ((1, "stored"), (2, "reduced")):
        yield walk(f"16K-{name}", 16384, 2, kind, 4, 256, 0)
        yield walk(f"16K-{name}-thrice", 16384, 3, kind, 4, 256, 0)
    for step in (8, 32, 64, 128, 256, 1024, 4096):
        yield walk(f"step{step}", 256 * step, 2, 0, step, 256, 0)
    yield walk("once", 16384, 1, 0, 4, 1024, 0)
    yield walk("same-line", 4096, 1, 0, 0 + 4, 32, 0)


def patterns() -> tuple[Pattern, ...]:
    """Every pattern, by group; names are unique within an operation."""
    made = (*_global(), *_shared(), *_matrix(), *_copy(), *_walk())
    return tuple({(p.operation, p.name): p for p in made}.values())
