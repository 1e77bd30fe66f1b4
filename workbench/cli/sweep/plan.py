"""What ``--sweep`` asks for: the rungs, the tunables that vary, their values.

    --kernel tiled --sweep                            all tunables of a rung
    --sweep TILED_TILE=16,32                          one, which tells the rung
    --kernel coarsened --sweep NUM_THREADS=64,96      named without the rung's prefix
    --kernel async --sweep BM BN                      over the values of their comments
    --kernel tiled --sweep best                       and the best values go into the file

Values need not be among those that a tunable's comment lists.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.harness.figures import of
from workbench.operators import tunables
from workbench.operators.builds import Rung
from workbench.operators.tunables import Tunable
from workbench.toolchain.errors import UsageError

if TYPE_CHECKING:
    from workbench.cli.request import Request

MOST = 500  # combinations of a rung's values
BEST = "best"
_WORD = re.compile(r"([A-Za-z_]\w*)(?:=(-?\d{1,9}(?:,-?\d{1,9})*))?", re.ASCII)


@dataclass(frozen=True)
class Plan:
    """The sweep of one rung.

    Attributes:
        rung: the rung.
        files: what ``tunables.files`` returned, which all versions are made from.
        tunables: all of the rung's.
        values: those that vary, with the values to try.
    """

    rung: Rung
    files: Mapping[str, str]
    tunables: tuple[Tunable, ...]
    values: Mapping[Tunable, tuple[int, ...]]

    @property
    def in_file(self) -> tuple[int, ...]:
        """The combination in the file."""
        return tuple(tunable.value for tunable in self.values)

    @property
    def combinations(self) -> list[tuple[int, ...]]:
        """Those to try, the values of ``values`` in its order; first the one in the file."""
        return list(dict.fromkeys([self.in_file, *itertools.product(*self.values.values())]))

    @property
    def names(self) -> list[str]:
        """The short names of the tunables that vary."""
        return [short(tunable, self.rung) for tunable in self.values]

    def name(self, combination: Sequence[int]) -> str:
        """A combination in words: ``TILE=16``."""
        pairs = zip(self.names, combination, strict=True)
        return " ".join(f"{name}={value}" for name, value in pairs)

    def edits(self, combination: Sequence[int]) -> dict[str, bytes]:
        """The files that a combination changes."""
        values = dict(zip(self.values, combination, strict=True))
        changed = tunables.replaced(self.files, values)
        return {name: tunables.content(text) for name, text in changed.items()}


def short(tunable: Tunable, rung: Rung) -> str:
    """A tunable's name without its rung's, or the end of its rung's: ``TILE`` of ``TILED_TILE``."""
    parts = rung.name.upper().split("_")
    for i in range(len(parts)):
        prefix = "_".join(parts[i:]) + "_"
        if tunable.name.startswith(prefix):
            return tunable.name.removeprefix(prefix)
    return tunable.name


def plans(asked: Request) -> list[Plan]:
    """The sweeps of a command line. Raises UsageError, or BuildError for an invalid ladder file."""
    words, target = asked.words.sweep, asked.target
    given = _values(word for word in words if word != BEST)
    if not given and not asked.names:
        raise UsageError("--sweep: name the rungs with --kernel, or a tunable with its values")
    found: dict[Rung, tuple[Mapping[str, str], tuple[Tunable, ...]]] = {}
    for rung in asked.rungs:
        files = tunables.files(rung.op, target, rung.composed_of)
        found[rung] = files, tunables.of_rung(rung, target, files)
    if not asked.names:
        of_rungs = {rung: own for rung, (_, own) in found.items()}
        chosen = _rungs_of(next(iter(given)), of_rungs)
        found = {rung: found[rung] for rung in chosen}
    for name in given:
        if not any(_called(name, rung, own) for rung, (_, own) in found.items()):
            have = "; ".join(_have(rung, own) for rung, (_, own) in found.items())
            raise UsageError(f"--sweep {name}: there is no such tunable: {have}")
    return [_plan(rung, files, own, given) for rung, (files, own) in found.items()]


def _values(words: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The values by name, none for those of the comment. Raises UsageError."""
    given: dict[str, tuple[int, ...]] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if not match:
            raise UsageError(
                f"--sweep {word or repr(word)}: expected a tunable, TILE, or its values too, "
                f"TILE=16,32, or {BEST}"
            )
        if match[1] in given:
            raise UsageError(f"--sweep {word}: {match[1]} is given twice")
        values = match[2].split(",") if match[2] else ()
        given[match[1]] = tuple(dict.fromkeys(map(int, values)))
    return given


def _called(name: str, rung: Rung, own: Sequence[Tunable]) -> Tunable | None:
    """The rung's tunable of that name, in full, short, or the end of it. Raises UsageError."""
    for exact in (lambda t: t.name == name, lambda t: short(t, rung) == name):
        for tunable in filter(exact, own):
            return tunable
    ends = [tunable for tunable in own if tunable.name.endswith(f"_{name}")]
    if len(ends) > 1:
        names = ", ".join(tunable.name for tunable in ends)
        raise UsageError(f"--sweep {name}: {rung.name} has {names}; give the whole name")
    return ends[0] if ends else None


def _rungs_of(name: str, of_rungs: Mapping[Rung, Sequence[Tunable]]) -> list[Rung]:
    """The rungs whose tunable has that name, if none were named. Raises UsageError."""
    whole = [rung for rung, own in of_rungs.items() if any(t.name == name for t in own)]
    if whole:
        return whole
    ends = [rung for rung, own in of_rungs.items() if _called(name, rung, own)]
    if len(ends) > 1:
        names = ", ".join(rung.name for rung in ends)
        raise UsageError(f"--sweep {name}: several rungs have it: choose with --kernel: {names}")
    if not ends:
        raise UsageError(f"--sweep {name}: no rung has such a tunable")
    return ends


def _have(rung: Rung, own: Sequence[Tunable]) -> str:
    return f"{rung.name} has {', '.join(t.name for t in own) or 'none'}"


def _plan(
    rung: Rung,
    files: Mapping[str, str],
    own: tuple[Tunable, ...],
    given: Mapping[str, tuple[int, ...]],
) -> Plan:
    """The sweep of a rung: of what is given, or of everything. Raises UsageError."""
    asked = {_called(name, rung, own): values for name, values in given.items()}
    values = {t: asked.get(t) or t.choices for t in own if t in asked or not given}
    if not values:
        names = f"none of {', '.join(given)}: " if given and own else ""
        raise UsageError(f"--sweep: {names}{_have(rung, own)}")
    count = math.prod(map(len, values.values()))
    if count > MOST:
        parts = ", ".join(f"{short(t, rung)} ({len(v)})" for t, v in values.items())
        raise UsageError(
            f"--sweep: {rung.name} has {of(count, 'combination')} of {parts}; "
            f"at most {MOST} are tried: name the tunables that matter"
        )
    return Plan(rung, files, own, values)
