"""Reads from a cubin the machine instructions of every kernel, as far as an estimate needs them.

Since Volta an instruction has 128 bits: the opcode in the lowest nine, the width of a memory access
in bits 73-75, and at the top the compiler's instructions to the hardware about when to issue it
(Jia et al., arXiv:1804.06826): cycles to wait before the next instruction, which of six counters
("barriers") its result will decrement, and which counters to wait for first.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

# opcode: (name, the unit that executes it)
OPCODES: dict[int, tuple[str, str]] = {
    0x020: ("FMUL", "fma"), 0x021: ("FADD", "fma"), 0x023: ("FFMA", "fma"),
    0x024: ("IMAD", "fma"), 0x025: ("IMAD", "fma"), 0x027: ("IMAD", "fma"),
    0x028: ("DMUL", "fp64"), 0x029: ("DADD", "fp64"), 0x02A: ("DSETP", "fp64"),
    0x02B: ("DFMA", "fp64"),
    0x030: ("HADD2", "fp16"), 0x031: ("HFMA2", "fp16"), 0x032: ("HMUL2", "fp16"),
    0x035: ("HFMA2", "fp16"),
    0x037: ("IMMA", "tensor"), 0x03C: ("HMMA", "tensor"), 0x03F: ("DMMA", "tensor"),
    0x1F0: ("HGMMA", "tensor"),
    0x104: ("F2F", "special"), 0x105: ("F2I", "special"), 0x106: ("I2F", "special"),
    0x107: ("FRND", "special"), 0x108: ("MUFU", "special"), 0x109: ("POPC", "special"),
    0x111: ("F2I", "special"), 0x112: ("I2F", "special"),
    0x007: ("SEL", "alu"), 0x008: ("FSEL", "alu"), 0x00B: ("FSETP", "alu"), 0x00C: ("ISETP", "alu"),
    0x012: ("LOP3", "alu"), 0x01C: ("PLOP3", "alu"),
    0x119: ("S2R", "other"), 0x1C3: ("S2UR", "other"), 0x182: ("LDC", "other"),
    0x03B: ("LDSM", "lsu"), 0x180: ("LD", "lsu"), 0x181: ("LDG", "lsu"), 0x183: ("LDL", "lsu"),
    0x184: ("LDS", "lsu"), 0x185: ("ST", "lsu"), 0x186: ("STG", "lsu"), 0x187: ("STL", "lsu"),
    0x188: ("STS", "lsu"), 0x189: ("SHFL", "lsu"), 0x18A: ("ATOM", "lsu"), 0x18C: ("ATOMS", "lsu"),
    0x18E: ("RED", "lsu"), 0x1A8: ("ATOMG", "lsu"), 0x1AE: ("LDGSTS", "lsu"),
    0x11D: ("BAR", "control"), 0x141: ("BSYNC", "control"), 0x144: ("CALL", "control"),
    0x145: ("BSSY", "control"), 0x147: ("BRA", "control"), 0x14D: ("EXIT", "control"),
    0x150: ("RET", "control"), 0x118: ("NOP", "none"),
}  # fmt: skip
UNIFORM = range(0x080, 0x0C0)  # the uniform datapath: once per warp, alongside the lanes
SPACES = {
    "LDG": "global", "STG": "global", "LD": "global", "ST": "global", "LDGSTS": "global",
    "LDS": "shared", "STS": "shared", "LDSM": "shared", "LDL": "local", "STL": "local",
}  # fmt: skip
WIDTHS = (1, 1, 2, 2, 4, 8, 16, 16)  # bytes per lane, by the field in bits 73-75
NO_BARRIER = 7


@dataclass(frozen=True)
class Op:
    """One instruction, of machine code or PTX.

    Attributes:
        name: LDS, FFMA; for PTX the first word, as in ld.
        unit: its unit: fma, alu, lsu, special, tensor, fp64, fp16, control, other, uniform.
        space: global, shared or local if it accesses memory.
        width: bytes read or written per lane.
        target: index of the instruction it may branch to.
        stall: cycles before the next instruction may issue.
        sets: counters that it decrements when its result is ready, or its sources are free.
        waits: mask of the counters that must be zero before it issues.
    """

    name: str
    unit: str
    space: str = ""
    width: int = 0
    target: int | None = None
    stall: int = 1
    sets: tuple[int, ...] = ()
    waits: int = 0


@dataclass(frozen=True)
class Region:
    """The instructions of one loop, excluding the loops inside it.

    Attributes:
        depth: loops around an instruction; 0 is outside all loops.
        ops: the instructions.
        rest: whether it is the remainder of an unrolled loop: another loop of that depth does the
            same several times per round, and this one rarely runs.
    """

    depth: int
    ops: tuple[Op, ...]
    rest: bool = False

    @property
    def bytes(self) -> int:
        """Bytes a lane reads and writes in global and shared memory; 16 per tensor instruction."""
        tensor = sum(16 for op in self.ops if op.unit == "tensor")
        return tensor + sum(op.width for op in self.ops if op.space in ("global", "shared"))

    @property
    def loaded(self) -> int:
        """Bytes a lane loads from global memory in a round."""
        return sum(op.width for op in self.ops if op.name in ("LDG", "LDGSTS"))


def kernels(cubin: bytes, sm: int) -> dict[str, tuple[Region, ...]]:
    """The regions of every kernel by its mangled name.

    Args:
        cubin: an ELF file as nvcc -cubin writes it.
        sm: compute capability, as in 90: 70 to 99.
    """
    return {name: regions(list(_decode(code, sm))) for name, code in _functions(cubin) if len(code)}


def regions(ops: list[Op]) -> tuple[Region, ...]:
    """Group instructions by their innermost loop; a loop is a backward branch."""
    loops: dict[int, int] = {}
    for i, op in enumerate(ops):
        if op.target is not None and op.target < i:
            loops[op.target] = i
    found: dict[tuple[int, int], list[Op]] = {}
    depth: dict[tuple[int, int], int] = {}
    for i, op in enumerate(ops):
        around = [(start, end) for start, end in loops.items() if start <= i <= end]
        inner = min(around, key=lambda loop: loop[1] - loop[0], default=(0, len(ops)))
        found.setdefault(inner, []).append(op)
        depth[inner] = len(around)
    parts = {loop: _work(part) for loop, part in found.items() if depth[loop]}
    return tuple(
        Region(depth[loop], tuple(part), bool(depth[loop]) and _is_rest(loop, parts, depth))
        for loop, part in found.items()
    )


def _work(ops: list[Op]) -> Counter[str]:
    """What a round does: bytes by memory, barriers, shuffles, special functions, FMAs."""
    work: Counter[str] = Counter()
    for op in ops:
        if op.space:
            work[f"{op.space} {op.name}"] += op.width
        elif op.name in ("BAR", "SHFL", "MUFU", "HMMA", "FFMA") and op.unit != "none":
            work[op.name] += 1
    return work


def _is_rest(
    loop: tuple[int, int],
    work: dict[tuple[int, int], Counter[str]],
    depth: dict[tuple[int, int], int],
) -> bool:
    """Whether another loop at that depth does all that this one does, each the same multiple."""
    own = work[loop]
    if not own:
        return True  # a detour within a loop, not a loop
    for other, more in work.items():
        if other != loop and depth[other] == depth[loop] and set(own) == set(more):
            times = {more[key] / n for key, n in own.items()}
            if len(times) == 1 and min(times) >= 2 and min(times).is_integer():
                return True
    return False


def _functions(cubin: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, code) of every kernel, without the helper functions that follow it."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + i * size) for i in range(count)]

    def text(section: int, offset: int) -> str:
        start = sections[section][4] + offset
        return cubin[start : cubin.index(b"\0", start)].decode()

    ends: dict[int, int] = {}  # section: where its first helper begins
    for section in sections:
        if section[1] != 2:  # the symbol table
            continue
        for at in range(section[4], section[4] + section[5], 24):
            _, info, _, where, value, _ = struct.unpack_from("<IBBHQQ", cubin, at)
            if info & 15 == 2 and value:  # a function that is not at the section's start
                ends[where] = min(value, ends.get(where, value))
    for i, section in enumerate(sections):
        name = text(names, section[0])
        if name.startswith(".text."):
            start = section[4]
            yield name.removeprefix(".text."), cubin[start : start + ends.get(i, section[5])]


def _decode(code: bytes, sm: int) -> Iterator[Op]:
    last = 0
    words = list(struct.iter_unpack("<QQ", code))
    for i, (low, _) in enumerate(words):
        if low & 0x1FF == 0x14D:  # after the last EXIT come a trap and padding
            last = i
    for i, (low, high) in enumerate(words[: last + 1]):
        opcode = low & 0x1FF
        name, unit = OPCODES.get(opcode, ("", "uniform" if opcode in UNIFORM else "alu"))
        space = SPACES.get(name, "")
        width = WIDTHS[high >> 9 & 7] if space else 0
        if name == "LDSM":
            width = 4 << (high >> 8 & 3)
        target = i + 1 + _offset(low, high, sm) // 4 if opcode == 0x147 else None
        barriers = (high >> 46 & 7, high >> 49 & 7)
        yield Op(
            name=name,
            unit=unit,
            space=space,
            width=width,
            target=target,
            stall=max(1, high >> 41 & 15),
            sets=tuple(b for b in barriers if b != NO_BARRIER),
            waits=high >> 52 & 63,
        )


def _offset(low: int, high: int, sm: int) -> int:
    """A branch's distance in four-byte words."""
    offset = (high & 0x3FFFF) << 30 | low >> 34
    if sm >= 90:  # eight more bits, lower down
        offset = offset << 8 | low >> 16 & 0xFF
        return offset - (1 << 56) if offset >> 55 else offset
    return offset - (1 << 48) if offset >> 47 else offset
