"""Atomic operations in global and shared memory, also by generic address (PTX ISA 9.7.13).

Each form runs with one cell per lane, against a reference, and with a few cells that the lanes of
many warps and blocks compete for. There the order is unknown, but every operation must have seen
another one's result: the old values and the final one must be the initial one and the new ones.
atom.add.f32 flushes subnormal numbers in global memory but not in shared memory.
"""

# ruff: noqa: E731 (references are short enough for a lambda)

from __future__ import annotations

import itertools
import random
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from simulator.conformance import exact
from simulator.conformance.exact import F32, F64, NAN, Format
from simulator.conformance.micro import (
    BLOCK,
    FLOATS,
    Case,
    Operand,
    Pair,
    Program,
    edge_cases,
    grouped_source,
    random_value,
)

SPACES = ("global", "shared", "generic global", "generic shared")
OWN, SHARED_BY_ALL = 6 * BLOCK, 4 * BLOCK  # lanes with a cell of their own, lanes that compete
CELLS = 3  # that they compete for
COMMUTATIVE = ("add", "min", "max", "and", "or", "xor")


@dataclass(frozen=True)
class Atomic:
    """One form: its effect on a cell, from the decoded old value and operands to the new value."""

    op: str
    type: str
    space: str
    red: bool
    update: Callable[..., object] = field(compare=False)
    order: str = ""  # memory ordering and scope; with "+" it follows the operation

    def __str__(self) -> str:
        return f"{self.name} ({self.space})" if self.space.startswith("generic") else self.name

    @property
    def name(self) -> str:
        space = "" if self.space.startswith("generic") else self.space
        opcode = "red" if self.red else "atom"
        first, behind = (self.order, "") if self.order[:1] != "+" else ("", self.order[1:])
        return ".".join(filter(None, (opcode, first, space, self.op, behind, self.type)))

    @property
    def operand(self) -> Operand:
        return Operand.parse(self.type.removeprefix("noftz."))

    @property
    def in_shared(self) -> bool:
        return self.space.endswith("shared")

    @property
    def operands(self) -> int:
        return 2 if self.op == "cas" else 1


def float_sum(form_type: str, flushes: bool) -> Callable[[int, int], object]:
    f = FLOATS[form_type.removesuffix("x2")]
    if form_type.endswith("x2"):
        return lambda old, b: pair_of(*(exact.add(f, *ab, "rn") for ab in zip(
            halves(old), halves(b), strict=True)))  # fmt: skip
    if flushes:
        return lambda old, b: exact.flushing(f, exact.add, old, b, mode="rn")
    return lambda old, b: exact.add(f, old, b, "rn")


def halves(pair: int) -> tuple[int, int]:
    return pair & 0xFFFF, pair >> 16


def pair_of(low: object, high: object) -> object:
    """Two results in one register; a bit pattern if both are bit patterns."""
    return low | high << 16 if isinstance(low, int) and isinstance(high, int) else Pair(low, high)


def numbers(type_: str, bits: int) -> list[tuple[Format, int]]:
    """The floating-point numbers in a register."""
    f = FLOATS[type_.removesuffix("x2")]
    return [(f, half) for half in halves(bits)] if type_.endswith("x2") else [(f, bits)]


def forms() -> list[Atomic]:
    found = []
    integers: dict[str, Callable] = {"add": lambda old, b: old + b, "min": min, "max": max}
    bitwise: dict[str, Callable] = {
        "and": lambda old, b: old & b,
        "or": lambda old, b: old | b,
        "xor": lambda old, b: old ^ b,
        "exch": lambda old, b: b,
        "cas": lambda old, b, c: c if old == b else old,
    }
    counters: dict[str, Callable] = {
        "inc": lambda old, b: 0 if old >= b else old + 1,
        "dec": lambda old, b: b if old == 0 or old > b else old - 1,
    }
    for space in SPACES:
        for red in (False, True):
            add = lambda op, t, f, s=space, r=red: found.append(Atomic(op, t, s, r, f))
            for t in ("u32", "s32", "u64", "s64"):
                for op, f in integers.items():
                    if (op, t) != ("add", "s64"):
                        add(op, t, f)
            for op, f in counters.items():
                add(op, "u32", f)
            for t in ("b32", "b64"):
                for op, f in bitwise.items():
                    if not red or op not in ("exch", "cas"):
                        add(op, t, f)
            add("add", "f32", float_sum("f32", flushes=space.endswith("global")))
            for t in ("f64", "noftz.f16", "noftz.f16x2", "noftz.bf16", "noftz.bf16x2"):
                add("add", t, float_sum(t.removeprefix("noftz."), flushes=False))
            if not red:
                add("cas", "b16", bitwise["cas"])
    for scope in ("cta", "cluster", "gpu", "sys"):
        for order in ("relaxed", "acquire", "release", "acq_rel"):
            found.append(Atomic("add", "u32", "global", False, integers["add"], f"{order}.{scope}"))
        for order, space in itertools.product(("relaxed", "release"), ("global", "shared")):
            found.append(Atomic("max", "s32", space, True, max, f"{order}.{scope}"))
    # The ordering may also follow the operation.
    for order, t in (("acquire.cta", "u32"), ("release.gpu", "u32"), ("relaxed.gpu", "f32")):
        update = integers["add"] if t == "u32" else float_sum("f32", flushes=True)
        found.append(Atomic("add", t, "generic global", False, update, f"+{order}"))
    return found


FORMS = forms()


def body(form: Atomic) -> str:
    """The CUDA of one form.

    in: the cells' initial values, the operands b and c, the number of the lane's cell (within its
    block in shared memory). out: the old values, the cells.
    """
    o = form.operand
    inputs = ", ".join(
        f'"{o.constraint}"(({o.ctype})in[{k + 1} * n + i])' for k in range(form.operands)
    )
    values = ", ".join(f"%{k + 3}" for k in range(form.operands))
    result = "" if form.red else "%0, "
    address = f'"{"r" if form.space == "shared" else "l"}"({ADDRESS[form.space]})'
    asm = (
        f'asm volatile("{{.reg .pred run; setp.ne.b32 run, %1, 0; @run {form.name} {result}[%2+8], '
        f'{values};}}" : "+{o.constraint}"(old) : "r"(active[i]), {address}, {inputs} '
        f': "memory");'
    )
    where = "shared" if form.in_shared else "(out + n)"
    return f"""
__shared__ unsigned long long shared[{BLOCK}];
{o.ctype} old = out[i];
const int slot = {"threadIdx.x" if form.in_shared else "i"};
const int cell = in[3 * n + i];
if ({int(form.in_shared)}) {{ {where}[slot] = in[i]; __syncthreads(); }}
{asm}
if ({int(form.in_shared)}) {{ __syncthreads(); out[n + i] = {where}[slot]; }}
out[i] = old;
"""


ADDRESS = {
    "global": "out + n + cell - 1",
    "shared": "(unsigned)__cvta_generic_to_shared(shared + cell) - 8",
    "generic global": "out + n + cell - 1",
    "generic shared": "shared + cell - 1",
}


def source() -> str:
    return grouped_source([body(form) if PROGRAM.compiles(form) else "" for form in FORMS])


PROGRAM = Program("atomic_ops", source)


def operands_of(form: Atomic) -> np.ndarray:
    """[initial, b, c, cell] for every lane: lanes with their own cell, then competing lanes."""
    rng = random.Random(zlib.crc32(str(form).encode()))
    o = form.operand
    edges = edge_cases(o)
    count = OWN + SHARED_BY_ALL
    columns = [[rng.choice(edges) if i % 3 else random_value(o, rng) for i in range(count)]
               for _ in range(3)]  # fmt: skip
    if form.op == "cas":  # hits and misses
        for i in range(0, count, 2):
            columns[1][i] = columns[0][i]
    for i in range(OWN, count):  # competing values must neither be NaN nor produce one
        if is_float(o):
            for column in columns:
                column[i] = competing_number(o.type, rng)
        elif form.op in ("inc", "dec", "cas"):
            columns[0][i], columns[1][i], columns[2][i] = 2, rng.randrange(5), rng.randrange(5)
    cells = []
    for i in range(count):
        first = i // BLOCK * BLOCK if i < OWN or form.in_shared else OWN
        # A warp competes for one cell, or for all of them.
        place = i % BLOCK if i < OWN else i // 32 % CELLS if i // BLOCK % 2 else i % CELLS
        cells.append(place if form.in_shared else first + place)
    mask = (1 << o.bits) - 1
    return np.array([*[[v & mask for v in c] for c in columns], cells], dtype=np.uint64)


def is_float(o: Operand) -> bool:
    return o.type.removesuffix("x2") in FLOATS


def competing_number(type_: str, rng: random.Random) -> int:
    """A number above one, or a pair of them; below four for a narrow type."""
    f = FLOATS[type_.removesuffix("x2")]
    if type_.endswith("x2"):
        return pair_of(*(competing_number(type_.removesuffix("x2"), rng) for _ in range(2)))
    return f.one + rng.getrandbits(f.precision + (3 if f in (F32, F64) else 0))


def active_lanes(count: int) -> list[int]:
    """Full warps, a warp with one active lane, one with none, others with some."""
    masks = (0xFFFFFFFF, 0xFFFFFFFF, 0x00010000, 0x0F5A3C01, 0, 0xFFFFFFFE)
    return [masks[i // 32 % len(masks)] >> (i % 32) & 1 for i in range(count)]


def check_atomic(form: Atomic, target: str) -> None:
    inputs = operands_of(form)
    count = inputs.shape[1]
    active = active_lanes(count)
    o = form.operand
    sentinel = 0x1234567 << (o.bits // 2)
    out = np.zeros((2, count), dtype=np.uint64)
    out[0] = sentinel & ((1 << o.bits) - 1)
    if not form.in_shared:
        out[1] = inputs[0]
    PROGRAM.run(target, FORMS.index(form), inputs, out, np.array(active, dtype=np.int32), count)
    old, cells = out.tolist()
    for i in range(count):
        if form.red or not active[i]:
            assert old[i] == sentinel & ((1 << o.bits) - 1), f"lane {i}: an unexpected result"
    every = list(range(count))
    check_own_cells(form, inputs.tolist(), old, cells, [i for i in every[:OWN] if active[i]])
    blocks = [every[i : i + BLOCK] for i in range(OWN, count, BLOCK)]
    for lanes in blocks if form.in_shared else [every[OWN:]]:
        for cell in range(CELLS):
            competing = [i for i in lanes if active[i] and inputs[3, i] % BLOCK == cell]
            check_competition(form, inputs.tolist(), old, cells, lanes[cell], competing)
    untouched = [i for i in every if not active[i] and i < OWN]
    untouched += [i for i in every[OWN:] if form.in_shared and i % BLOCK >= CELLS]
    for i in untouched:
        assert cells[i] & ((1 << o.bits) - 1) == inputs[0, i], f"cell {i} changed"


def new_value(form: Atomic, old: int, inputs: list[list[int]], lane: int) -> object:
    """The lane's new value for an old one."""
    o = form.operand
    arguments = [o.decode(inputs[1 + k][lane]) for k in range(form.operands)]
    result = form.update(o.decode(old), *arguments)
    return result & ((1 << o.bits) - 1) if isinstance(result, int) else result


def check_own_cells(form: Atomic, inputs: list, old: list, cells: list, lanes: list[int]) -> None:
    """Check lanes with their own cell."""
    o = form.operand
    for i in lanes:
        initial = inputs[0][i]
        wanted = new_value(form, initial, inputs, i)
        got = cells[i] & ((1 << o.bits) - 1)
        text = f"lane {i}: {form.op}({initial:#x}, {inputs[1][i]:#x}, {inputs[2][i]:#x})"
        assert o.agrees(got, wanted), f"{text} stored {got:#x}, wanted {o.text(wanted)}"
        if not form.red:
            assert old[i] == initial, f"{text} returned {old[i]:#x}"


def check_competition(
    form: Atomic, inputs: list, old: list, cells: list, cell: int, lanes: list[int]
) -> None:
    """Check lanes that compete for one cell; `cell` is the lane with its initial value."""
    o = form.operand
    initial, final = inputs[0][cell], cells[cell] & ((1 << o.bits) - 1)
    if not form.red:
        made = [new_value(form, old[i], inputs, i) for i in lanes]
        assert NAN not in made
        assert Counter([initial, *made]) == Counter([*(old[i] for i in lanes), final])
    if form.op in COMMUTATIVE and not is_float(o):
        step = lambda value, i: new_value(form, value, inputs, i)
        assert final == reduce(step, lanes, initial)
    elif form.op in ("inc", "dec"):
        assert 0 <= final <= 5
    elif is_float(o):
        for k, (f, sum_) in enumerate(numbers(o.type, final)):
            added = [f.value(numbers(o.type, v)[k][1]) for v in (
                initial, *(inputs[1][i] for i in lanes))]  # fmt: skip
            assert abs(f.value(sum_) - sum(added)) <= sum(added) * len(lanes) / 2 ** (
                f.precision - 1
            )


LOCK = """
// Non-atomic increments under a spin lock: every lane gets its turn.
__global__ void locked(unsigned* lock, unsigned* counter, int rounds) {
  for (int round = 0; round < rounds; round++) {
    bool done = false;
    while (!done) {
      unsigned old;
      asm volatile("atom.acquire.gpu.global.cas.b32 %0, [%1], 0, 1;"
                   : "=r"(old) : "l"(lock) : "memory");
      if (old == 0) {
        const unsigned seen = *reinterpret_cast<volatile unsigned*>(counter);
        *reinterpret_cast<volatile unsigned*>(counter) = seen + 1;
        __threadfence();
        asm volatile("atom.release.gpu.global.exch.b32 %0, [%1], 0;"
                     : "=r"(old) : "l"(lock) : "memory");
        done = true;
      }
    }
  }
}
// A block counter in shared memory, also updated without a result.
__global__ void tickets(unsigned* out) {
  __shared__ unsigned next;
  if (threadIdx.x == 0) next = 0;
  __syncthreads();
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(&next));
  unsigned ticket;
  asm volatile("atom.shared.add.u32 %0, [%1], 1;" : "=r"(ticket) : "r"(at) : "memory");
  asm volatile("atom.shared.inc.u32 _, [%0], 1000000;" : : "r"(at) : "memory");
  __syncthreads();
  out[blockIdx.x * (blockDim.x + 1) + threadIdx.x] = ticket;
  if (threadIdx.x == 0) out[blockIdx.x * (blockDim.x + 1) + blockDim.x] = next;
}
void count_locked(unsigned* lock, unsigned* counter, int rounds) {
  locked<<<4, 96>>>(lock, counter, rounds);
}
void take_tickets(unsigned* out) { tickets<<<3, 160>>>(out); }
"""


LOCKS = Program("locks", LOCK, "count_locked", "take_tickets")


def check_lock(full: bool, target: str) -> None:
    """A spin lock lets every lane in."""
    lock, counter = np.zeros(1, dtype=np.uint32), np.zeros(1, dtype=np.uint32)
    LOCKS.run(target, lock, counter, 3, function="count_locked")
    assert (counter.item(), lock.item()) == (3 * 4 * 96, 0)


def check_tickets(full: bool, target: str) -> None:
    """Tickets are all different."""
    out = np.zeros(3 * 161, dtype=np.uint32)
    LOCKS.run(target, out, function="take_tickets")
    for row in out.reshape(3, 161).tolist():
        assert row[-1] == 2 * 160
        assert len(set(row[:-1])) == 160
        assert max(row[:-1]) < 320


def atomic_case(form: Atomic) -> Case:
    return Case(str(form), lambda full, target: check_atomic(form, target), (form,))


CASES = [
    *map(atomic_case, FORMS),
    Case("spin lock", check_lock),
    Case("tickets", check_tickets),
]
