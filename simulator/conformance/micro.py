"""Micro-kernels: one PTX instruction each, run by every lane and compared with a reference.

A family of instructions lists its forms and makes one Suite of them, which compiles them together,
once per target.
Every form runs on edge cases and seeded random operands, with all lanes active and with some: the
results of inactive lanes must stay unchanged. Where the types allow it, it runs again with the
result in the register of an operand.
"""

from __future__ import annotations

import itertools
import random
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from types import ModuleType

import numpy as np
import torch

from simulator.conformance.exact import BF16, E4M3, E5M2, F16, F32, F64, NAN, Format, OneOf
from workbench.toolchain import BuildError
from workbench.toolchain.inline import inline
from workbench.toolchain.inline.together import Source, inline_together

LANES = 32
BLOCK = 64
MASKS = (0x00000001, 0x80000000, 0x55555555, 0xFFFF0000, 0x7FFFFFFF, 0x12480F3C, 0x00000000)
GROUP = 12  # forms that share a kernel, so that the host compiler sees few kernels
FLOATS = {"f32": F32, "f64": F64, "f16": F16, "bf16": BF16, "e4m3": E4M3, "e5m2": E5M2}


@dataclass(frozen=True)
class Within:
    """Any number in a closed interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """What the two numbers of a packed register may be."""

    low: object
    high: object


@dataclass(frozen=True)
class Operand:
    """The type of a result or an operand, and the width of the register it is in.

    Written "s8@32": an s8 in a 32-bit register. Without a width the register is the smallest that
    fits. "f16x2" is a pair of f16 in one register. A "pred" is a predicate, which enters and leaves
    the kernel as 0 or 1.
    """

    type: str
    register: int

    @classmethod
    @cache
    def parse(cls, text: str) -> Operand:
        type_, _, width = text.partition("@")
        bits = 32 if type_ == "pred" else cls(type_, 0).bits
        return cls(type_, int(width or max(bits, 16)))

    @cached_property
    def bits(self) -> int:
        if self.type == "pred":
            return 1
        if self.element:
            return 2 * self.element.bits
        return FLOATS[self.type].bits if self.type in FLOATS else int(self.type[1:])

    @cached_property
    def element(self) -> Operand | None:
        """One of the two numbers of a packed type."""
        return Operand(self.type[:-2], 0) if self.type.endswith("x2") else None

    @property
    def ctype(self) -> str:
        return {16: "unsigned short", 32: "unsigned", 64: "unsigned long long"}[self.register]

    @property
    def constraint(self) -> str:
        return {16: "h", 32: "r", 64: "l"}[self.register]

    def decode(self, register: int) -> int:
        """The value that an instruction of this type sees; floats stay bit patterns."""
        value = register & ((1 << self.bits) - 1)
        if self.type[0] == "s" and not self.element and value >> (self.bits - 1):
            value -= 1 << self.bits
        return value

    def agrees(self, register: int, wanted: object) -> bool:
        """Whether a register holds a result that the reference allows."""
        if isinstance(wanted, Pair):
            low, high = register & ((1 << self.bits // 2) - 1), register >> self.bits // 2
            one = Operand(self.element.type, self.bits // 2)
            return one.agrees(low, wanted.low) and one.agrees(high, wanted.high)
        if isinstance(wanted, OneOf):
            return any(self.agrees(register, choice) for choice in wanted.choices)
        if wanted is NAN:
            return FLOATS[self.type].is_nan(register)
        if isinstance(wanted, Within):
            return wanted.low <= FLOATS[self.type].float(register) <= wanted.high
        return register == wanted & ((1 << self.register) - 1)

    def apart(self, a: int, b: int, wanted: object) -> int | None:
        """The distance of two results in numbers; None if they differ where only one is allowed."""
        if isinstance(wanted, Pair):
            half = self.bits // 2
            one = Operand(self.element.type, half)
            low = (1 << half) - 1
            parts = (
                one.apart(a & low, b & low, wanted.low),
                one.apart(a >> half, b >> half, wanted.high),
            )
            return None if None in parts else max(parts)
        if a == b or isinstance(wanted, int):
            return 0 if a == b else None
        f = FLOATS[self.type]
        return 0 if f.is_nan(a) or f.is_nan(b) else f.distance(a, b)

    def text(self, value: object) -> str:
        """A register or an expected result in readable form."""
        if not isinstance(value, int):
            return str(value)
        value &= (1 << self.register) - 1
        digits = f"0x{value:0{self.register // 4}x}"
        if self.type not in FLOATS:
            return digits
        return f"{digits} ({FLOATS[self.type].float(self.decode(value))!r})"


@dataclass(frozen=True)
class Form:
    """One form of an instruction.

    name: opcode and modifiers; also the instruction itself unless `ptx` is given.
    results, operands: types, see Operand, separated by spaces.
    reference: maps decoded operands to the result, or a tuple of results. A result is an integer
        (a bit pattern for floats), NAN, OneOf or Within.
    ptx: instructions with %0, %1, ... for the results and then the operands. Each is predicated
        by `run` unless one of them says so itself.
    edges: values for an operand instead of its type's edge cases, by its position; `only` says that
        there are no random ones.
    rows: approximate number of combinations of edge cases to run.
    """

    name: str
    results: str
    operands: str
    reference: Callable[..., object] = field(compare=False)
    ptx: str = ""
    edges: dict[int, Sequence[int]] = field(default_factory=dict, compare=False)
    only: frozenset[int] = frozenset()
    rows: int = 200  # two operands have fewer than 200 pairs of integer edge cases

    def __str__(self) -> str:
        return self.name

    @cached_property
    def outs(self) -> tuple[Operand, ...]:
        return tuple(map(Operand.parse, self.results.split()))

    @cached_property
    def ins(self) -> tuple[Operand, ...]:
        return tuple(map(Operand.parse, self.operands.split()))

    @cached_property
    def statements(self) -> list[str]:
        numbers = ", ".join(f"%{i}" for i in range(len(self.outs) + len(self.ins)))
        text = self.ptx or f"{self.name} {numbers}"
        return [s.strip() for s in text.split(";") if s.strip()]

    @cached_property
    def guards_itself(self) -> bool:
        return any("run" in s for s in self.statements)

    @cached_property
    def shared_register(self) -> int | None:
        """The operand whose register receives the result in the second run, if any."""
        result = self.outs[0]
        same = [i for i, o in enumerate(self.ins) if o.register == result.register]
        if len(self.statements) > 1 or "pred" in (result.type, *(self.ins[i].type for i in same)):
            return None
        if not same:
            return None
        return same[zlib.crc32(self.name.encode()) % len(same)]


def together(name: str, forms: Sequence[Form]) -> Form:
    """Forms with the same operands as one form: many combinations for the cost of one run.

    A form may omit trailing operands.
    """
    total, first, statements = sum(len(form.outs) for form in forms), 0, []
    for form in forms:
        n = len(form.outs)

        def renumbered(match: re.Match, n: int = n, first: int = first) -> str:
            k = int(match[1])
            return f"%{first + k if k < n else total + k - n}"

        statements += [re.sub(r"%(\d+)", renumbered, s) for s in form.statements]
        first += n
    longest = max(forms, key=lambda form: len(form.ins))

    def reference(*values: int) -> tuple[object, ...]:
        return tuple(r for f in forms for r in results_of(f.reference(*values[: len(f.ins)])))

    return Form(
        name, " ".join(form.results for form in forms), longest.operands, reference,
        "; ".join(statements), longest.edges, rows=64,
    )  # fmt: skip


@cache
def edge_cases(operand: Operand) -> tuple[int, ...]:
    """The values of a type at which implementations tend to be wrong."""
    if operand.type == "pred":
        return 0, 1
    if operand.element:
        values = edge_cases(operand.element)
        width = operand.element.bits
        return tuple(a | b << width for a, b in zip(values, values[7:] + values[:7], strict=True))
    if operand.type in FLOATS:
        return tuple(_float_edges(FLOATS[operand.type]))
    n = operand.bits
    top, mid = 1 << (n - 1), 1 << (n // 2)
    values = [0, 1, 2, 2 * top - 1, 2 * top - 2, top, top - 1, top + 1, top - 2]
    values += [mid - 1, mid, 3 * mid // 2, (2 * top - 1) // 3, 100 % mid]
    return tuple(values)


def _float_edges(f: Format) -> list[int]:
    one, step = f.one, f.smallest_normal
    values = [0, 1, 2, step - 1, step, step + 1, f.largest, f.infinity, f.infinity | step // 2]
    values += [one, one + 1, one - 1, one + step, one - step, one + step + step // 2]
    values += [one + (f.precision - 1) * step, one + (f.precision - 1) * step + 1]
    return [v | s for v in values for s in (0, f.sign)]


def random_value(operand: Operand, rng: random.Random) -> int:
    """A value of the type, of any magnitude."""
    if operand.type == "pred":
        return rng.getrandbits(1)
    if operand.element:
        low, high = (random_value(operand.element, rng) for _ in range(2))
        return low | high << operand.element.bits
    if operand.type not in FLOATS:
        value = rng.getrandbits(operand.bits) >> rng.choice((0, 0, rng.randrange(operand.bits)))
        return ~value & ((1 << operand.bits) - 1) if rng.getrandbits(1) else value
    f = FLOATS[operand.type]
    kind = rng.randrange(3)
    if kind == 0:  # any pattern
        return rng.getrandbits(f.bits)
    # Near one, for sums that cancel; few bits set, for results halfway between two numbers.
    exponent = f.one + rng.randrange(-f.precision - 2, f.precision + 2) * f.smallest_normal
    significand = rng.getrandbits(f.precision - 1)
    if kind == 1:
        significand &= rng.choice((7, -1 << max(f.precision - 4, 0), 1 << (f.precision - 2), 5))
    return (exponent + significand) | (rng.getrandbits(1) * f.sign)


def cases(form: Form, count: int) -> list[tuple[int, ...]]:
    """Operands: all combinations of edge cases, or a sample if there are too many; random ones.

    Registers wider than the operand's type are filled with random bits.
    """
    rng = random.Random(zlib.crc32(form.name.encode()))
    columns = [list(form.edges.get(i, edge_cases(o))) for i, o in enumerate(form.ins)]
    rows = list(itertools.islice(itertools.product(*columns), 2 * count))
    if len(rows) > count:
        rows = list(zip(*(_spread(column, count, rng) for column in columns), strict=True))
    more = max(2 * LANES, count // 4)
    for _ in range(more - (len(rows) + more) % LANES):
        row = (
            rng.choice(columns[i]) if i in form.only else random_value(o, rng)
            for i, o in enumerate(form.ins)
        )
        rows.append(tuple(row))
    return [
        tuple(
            value & ((1 << o.register) - 1)
            if o.bits == o.register or o.type == "pred"
            else (value & ((1 << o.bits) - 1)) | (rng.getrandbits(o.register - o.bits) << o.bits)
            for value, o in zip(row, form.ins, strict=True)
        )
        for row in rows
    ]


def _spread(column: list[int], count: int, rng: random.Random) -> list[int]:
    """`count` values of a column, all equally often."""
    values: list[int] = []
    while len(values) < count:
        values += rng.sample(column, len(column))
    return values[:count]


class Program:
    """CUDA source that is compiled when it first runs, once per target.

    alone: never in a unit with others; see workbench.toolchain.inline.together.
    """

    def __init__(
        self, name: str, source: str | Callable[[], str], *functions: str, alone: bool = False
    ) -> None:
        self.name, self.functions, self.alone = name, functions or ("run",), alone
        self._source = source
        self._only: frozenset[object] | None = None
        self._modules: dict[str, ModuleType | BuildError] = {}

    def compile_only(self, forms: Iterable[object]) -> None:
        """Leave all other forms out of the source, if it is made from forms: a fifth compiles fast.

        Call it before anything is compiled. Forms that are left out must not run.
        """
        assert "source" not in vars(self), f"{self.name} is compiled already"
        self._only = frozenset(forms)

    def compiles(self, form: object) -> bool:
        """Whether the source contains a form."""
        return self._only is None or form in self._only

    @cached_property
    def source(self) -> str:
        """The CUDA source."""
        return self._source() if callable(self._source) else self._source

    def module(self, target: str) -> ModuleType:
        """The compiled functions. Raises BuildError."""
        if target not in self._modules:
            try:
                self._modules[target] = inline(
                    self.source, self.functions, target=target, name=self.name
                )
            except BuildError as error:
                self._modules[target] = error  # not again for every form
        module = self._modules[target]
        if isinstance(module, BuildError):
            raise module
        return module

    def run(self, target: str, *arguments: np.ndarray | int, function: str = "") -> None:
        """Call a function with arrays and numbers; it may write to the arrays."""
        module = self.module(target)
        device = "cuda" if target == "gpu" else "cpu"
        arrays = [(a, torch.from_numpy(a).to(device)) for a in arguments if _is_array(a)]
        tensors = iter(arrays)
        passed = [next(tensors)[1] if _is_array(a) else a for a in arguments]
        getattr(module, function or self.functions[0])(*passed)
        for array, tensor in arrays:
            if target == "gpu":
                array[...] = tensor.cpu().numpy()


def programs_of(modules: Iterable[ModuleType]) -> list[Program]:
    """The programs in Python modules, including those of suites, each once."""
    named = [value for module in modules for value in vars(module).values()]
    found = [v.program if isinstance(v, Suite) else v for v in named]
    return list(dict.fromkeys(v for v in found if isinstance(v, Program)))


def compile_together(programs: Sequence[Program], target: str, name: str) -> None:
    """Compile programs into one library, in a fraction of the time they take one by one.

    Already compiled programs stay as they are. If it fails, each of the others is compiled when it
    first runs, so that the faulty ones are reported.
    """
    programs = [p for p in programs if target not in p._modules]
    if not programs:
        return
    sources = [Source(p.name, p.source, p.functions, p.alone) for p in programs]
    try:
        modules = inline_together(sources, target, name)
    except BuildError:
        return
    for program, module in zip(programs, modules, strict=True):
        program._modules[target] = module


def _is_array(argument: object) -> bool:
    return isinstance(argument, np.ndarray)


@dataclass(frozen=True)
class Case:
    """A unit of checking: `run` raises AssertionError if a target is wrong.

    Its arguments: whether to run more operands, and the target.
    """

    name: str
    run: Callable[[bool, str], None] = field(compare=False)
    needs: tuple[object, ...] = ()  # forms, of a program that is made from forms

    def check(self, full: bool = False, target: str = "simulator") -> None:
        """Run on a target and compare with the references."""
        self.run(full, target)


@dataclass(frozen=True)
class FormCase:
    """A form of a suite."""

    suite: Suite
    form: Form

    @property
    def name(self) -> str:
        """The form's name."""
        return self.form.name

    @property
    def needs(self) -> tuple[object, ...]:
        """The form."""
        return (self.form,)

    def check(self, full: bool = False, target: str = "simulator") -> None:
        """Run on a target and compare with the reference."""
        self.suite.check(self.form, full, target)

    def compare(self, full: bool, targets: Sequence[str]) -> int:
        """Run on two targets and compare them; see Suite.compare."""
        return self.suite.compare(self.form, full, targets)


class Suite:
    """Forms that are compiled together."""

    def __init__(self, name: str, forms: Sequence[Form]) -> None:
        names = [form.name for form in forms]
        assert len(set(names)) == len(names), sorted({n for n in names if names.count(n) > 1})
        self.name, self.forms = name, list(forms)
        self.program = Program(name, self._source)

    def _source(self) -> str:
        chosen = map(self.program.compiles, self.forms)
        return grouped_source(
            [_body(form) if kept else "" for form, kept in zip(self.forms, chosen, strict=True)]
        )

    def cases(self) -> list[FormCase]:
        """One for each form."""
        return [FormCase(self, form) for form in self.forms]

    def check(self, form: Form, full: bool = False, target: str = "simulator") -> None:
        """Run a form and compare every lane with its reference."""
        rows = cases(form, 8192 if full else form.rows)
        lanes, active = _lanes(len(rows))
        self._compare_with_reference(
            form, rows, lanes, active, self._run(form, rows, lanes, target)
        )

    def compare(self, form: Form, full: bool, targets: Sequence[str]) -> int:
        """Run a form on two targets with the same operands, and compare each with its reference.

        Where the reference is one bit pattern, the registers must be equal, including those of
        inactive lanes. Where it allows several, each target is compared with the reference, so that
        two results are at most twice its bound apart. Returns the largest distance found, in units
        in the last place.
        """
        rows = cases(form, 8192 if full else form.rows)
        lanes, active = _lanes(len(rows))
        first, second = (self._run(form, rows, lanes, target) for target in targets)
        farthest = 0
        for k, (a, b) in enumerate(zip(first[0], second[0], strict=True)):
            o = form.outs[k]
            for i in np.flatnonzero(a != b):
                row = rows[lanes[i]]
                wanted = results_of(form.reference(*_decoded(form, row)))[k]
                apart = o.apart(int(a[i]), int(b[i]), wanted)
                if apart is None:
                    texts = f"{o.text(int(a[i]))} and {o.text(int(b[i]))}"
                    raise AssertionError(f"{form}{row}: %{k} is {texts} on {' and '.join(targets)}")
                farthest = max(farthest, apart)
        for found in (first, second):
            self._compare_with_reference(form, rows, lanes, active, found)
        return farthest

    def _run(
        self, form: Form, rows: list[tuple[int, ...]], lanes: list[int], target: str
    ) -> tuple[np.ndarray, np.ndarray | None]:
        _, active = _lanes(len(rows))
        return self.run(form, [rows[lane] for lane in lanes], active, target)

    def _compare_with_reference(
        self,
        form: Form,
        rows: list[tuple[int, ...]],
        lanes: list[int],
        active: list[int],
        found: tuple[np.ndarray, np.ndarray | None],
    ) -> None:
        results, again = found
        wanted = [results_of(form.reference(*_decoded(form, row))) for row in rows]
        untouched = before(form, len(lanes))
        ran = np.array(active, dtype=bool) | form.guards_itself
        doubtful = np.zeros(len(lanes), dtype=bool)
        for k, o in enumerate(form.outs):
            exact, several = _registers(o, [results[k] for results in wanted], lanes)
            doubtful |= ran & several | (results[k] != np.where(ran, exact, untouched[k]))
            if again is not None and k == 0:
                kept = np.array([row[form.shared_register] for row in rows], np.uint64)[lanes]
                doubtful |= again != np.where(ran, exact, kept)
        problems = []
        for i in np.flatnonzero(doubtful):
            row = rows[lanes[i]]
            expected = wanted[lanes[i]] if ran[i] else untouched[:, i].tolist()
            got = [(o, int(results[k, i]), expected[k]) for k, o in enumerate(form.outs)]
            if again is not None:
                kept_one = row[form.shared_register]
                got.append((form.outs[0], int(again[i]), expected[0] if ran[i] else kept_one))
            if not all(o.agrees(value, want) for o, value, want in got):
                problems.append(_mismatch(form, row, got, bool(active[i])))
        if problems:
            shown = "\n".join(problems[:6])
            raise AssertionError(f"{form}: {len(problems)} of {len(lanes)} lanes\n{shown}")

    def run(
        self,
        form: Form,
        rows: list[tuple[int, ...]],
        active: list[int],
        target: str = "simulator",
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The registers after the instruction: [result, lane], and those of the second run."""
        n = len(rows)
        inputs = np.array(rows, dtype=np.uint64).reshape(n, len(form.ins)).T.copy()
        outputs = np.vstack([before(form, n), np.zeros((1, n), dtype=np.uint64)])
        mask = np.array(active, dtype=np.int32)
        self.program.run(target, self.forms.index(form), inputs, outputs, mask, n)
        again = outputs[-1] if form.shared_register is not None else None
        return outputs[:-1], again


def _registers(
    operand: Operand, wanted: Sequence[object], lanes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The expected register of each lane, and whether the reference allows anything else."""
    mask = (1 << operand.register) - 1
    exact = np.array([w & mask if isinstance(w, int) else 0 for w in wanted], dtype=np.uint64)
    several = np.array([not isinstance(w, int) for w in wanted])
    return exact[lanes], several[lanes]


@cache
def _lanes(rows: int) -> tuple[list[int], list[int]]:
    """Which row each lane works on, and which lanes are active."""
    rng = random.Random(rows)
    lanes, active = list(range(rows)), [1] * rows
    for mask in MASKS:
        lanes += rng.sample(range(rows), LANES)
        active += [(mask >> lane) & 1 for lane in range(LANES)]
    padding = -len(lanes) % BLOCK
    return lanes + [0] * padding, active + [0] * padding


def before(form: Form, lanes: int) -> np.ndarray:
    """The result registers before the instruction: [result, lane]."""
    numbers = 3 * np.arange(len(form.outs))[:, None] + np.arange(1, lanes + 1)
    masks = [1 if o.type == "pred" else (1 << o.register) - 1 for o in form.outs]
    patterns = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return patterns & np.array(masks, dtype=np.uint64)[:, None]


def _decoded(form: Form, row: tuple[int, ...]) -> list[int]:
    return [o.decode(value) for o, value in zip(form.ins, row, strict=True)]


def results_of(result: object) -> tuple[object, ...]:
    """The results of a reference, one by one."""
    return result if isinstance(result, tuple) else (result,)


def _mismatch(form: Form, row: tuple[int, ...], got: list, active: bool) -> str:
    operands = ", ".join(o.text(v) for o, v in zip(form.ins, row, strict=True))
    parts = []
    for k, (o, value, want) in enumerate(got):
        name = f"%{k}" if k < len(form.outs) else "in place"
        if not o.agrees(value, want):
            parts.append(f"{name} is {o.text(value)}, wanted {o.text(want)}")
    return f"  ({operands}){'' if active else ', an inactive lane'}: {'; '.join(parts)}"


def _body(form: Form) -> str:
    """CUDA that runs one form in lane i: `in` and `out` are [operand or result, lane]."""
    lines = [f"{o.ctype} r{k} = out[{k} * n + i];" for k, o in enumerate(form.outs)]
    lines += [f"{o.ctype} a{k} = in[{k} * n + i];" for k, o in enumerate(form.ins)]
    results = [(o, f"r{k}") for k, o in enumerate(form.outs)]
    operands = [(o, f"a{k}") for k, o in enumerate(form.ins)]
    statements = [
        s if form.guards_itself or s[0] in ".{}" else f"@run {s}" for s in form.statements
    ]
    lines.append(asm_block(statements, results, operands))
    lines += [f"out[{k} * n + i] = r{k};" for k in range(len(form.outs))]
    shared = form.shared_register
    if shared is not None:
        place = len(form.outs) + shared
        statement = re.sub(rf"%{place}\b", "%0", statements[0])
        lines.append(asm_block([statement], [(form.outs[0], f"a{shared}"), *results[1:]], operands))
        lines.append(f"out[{len(form.outs)} * n + i] = a{shared};")
    return "\n".join(lines)


def asm_block(
    statements: list[str], results: list[tuple[Operand, str]], operands: list[tuple[Operand, str]]
) -> str:
    """Inline assembly with %0, %1, ... for the results and operands, given with their variables.

    `run` is a predicate: whether the lane is active.
    """
    every = [*results, *operands]
    predicates = [k for k, (o, _) in enumerate(every) if o.type == "pred"]
    text = "; ".join(statements)
    for k in predicates:
        text = re.sub(rf"%{k}\b", f"p{k}", text)
    declared = ", ".join(["run", *(f"p{k}" for k in predicates)])
    before = "".join(f"setp.ne.b32 p{k}, %{k}, 0; " for k in predicates)
    after = "".join(f"selp.b32 %{k}, 1, 0, p{k}; " for k in predicates if k < len(results))
    text = re.sub(r"%(?!\d)", "%%", text)
    block = f".reg .pred {declared}; setp.ne.b32 run, %{len(every)}, 0; {before}{text}; {after}"
    outs = ", ".join(f'"+{o.constraint}"({name})' for o, name in results)
    ins = ", ".join(f'"{o.constraint}"({name})' for o, name in operands)
    ins = f'{ins}{", " if ins else ""}"r"(active[i])'
    return f'asm volatile("{{{block}}}" : {outs} : {ins} : "memory");'


_KERNEL = """\
__global__ void group_{index}(int form, const unsigned long long* in, unsigned long long* out,
                              const int* active, int n) {{
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  switch (form) {{
{cases}
  }}
}}
"""


def grouped_source(bodies: Sequence[str]) -> str:
    """Kernels with a few bodies each, and a launcher run(form, in, out, active, n) for them.

    A form that is not compiled has an empty body.
    """
    kernels, launches = [], []
    for first in range(0, len(bodies), GROUP):
        index = first // GROUP
        group = enumerate(bodies[first : first + GROUP], first)
        text = "\n".join(f"case {form}: {{\n{body}\nbreak;\n}}" for form, body in group)
        kernels.append(_KERNEL.format(index=index, cases=text))
        launch = f"group_{index}<<<n / {BLOCK}, {BLOCK}>>>(form, source, out, active, n)"
        launches.append(f"    case {index}: {launch}; break;")
    switch = "\n".join(launches)
    return (
        "".join(kernels)
        + "void run(int form, const unsigned long long* source, unsigned long long* out,\n"
        + "         const int* active, int n) {\n"
        + f"  switch (form / {GROUP}) {{\n{switch}\n  }}\n}}\n"
    )
