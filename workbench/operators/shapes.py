"""Sizes and options as the workbench writes them: ``M=64,N=64,K=64``, ``causal scale=0.5``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_DIGITS = 18  # what fits into 64 bits


class ShapeError(ValueError):
    """Invalid sizes or options for an operator; the text says what is valid."""


@dataclass(frozen=True)
class Shape:
    """An operator's sizes by name; hashable, and its ``str`` parses back to itself."""

    sizes: tuple[tuple[str, int], ...]

    def __getitem__(self, key: str) -> int:
        """The size called ``key``. Raises KeyError."""
        return dict(self.sizes)[key]

    def get(self, key: str, otherwise: int) -> int:
        """The size called ``key``, or ``otherwise`` if it was left out."""
        return dict(self.sizes).get(key, otherwise)

    def __str__(self) -> str:
        """The written form."""
        return ",".join(f"{name}={size}" for name, size in self.sizes)

    def numbers(self) -> tuple[int, ...]:
        """The sizes alone, in written order."""
        return tuple(size for _, size in self.sizes)


@dataclass(frozen=True)
class Option:
    """An option of an operator, beyond the plain operation.

    Attributes:
        name: as in a rung's ``options``, and in ``--option``.
        help: what it does, in a few words.
        number: whether it has a value, ``scale=0.5``; otherwise it is a flag, ``causal``.
        plain: a number's neutral value; None if there is none.
        flag: whether ``-NAME NUMBER`` also sets it on the command line.
    """

    name: str
    help: str
    number: bool = False
    plain: float | None = None
    flag: bool = False

    @property
    def form(self) -> str:
        """Its written form."""
        return f"{self.name}=NUMBER" if self.number else self.name


Options = tuple[tuple[str, float | bool], ...]  # those requested, in the operator's order


def example(names: Sequence[str]) -> str:
    """A shape in the right format, for messages."""
    return ",".join(f"{name}=64" for name in names)


def parse_shape(
    text: str,
    names: Sequence[str],
    options: Sequence[Option] = (),
    equal: Mapping[str, str] | None = None,
) -> Shape:
    """Parse ``M=64,N=64,K=64`` (any order).

    equal: sizes that may be left out, and the one that they are then equal to. The shape does not
    have them if they are.
    Raises ShapeError with one line that shows the format.
    """
    equal = equal or {}

    def fail(why: str) -> ShapeError:
        wanted = ",".join(f"{name}=.." for name in names)
        also = "".join(f"; {name} may be added if it is not {of}" for name, of in equal.items())
        return ShapeError(
            f"shape {text!r}: {why}; write {wanted}, for example {example(names)}{also}"
        )

    known = {option.name: option for option in options}
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        if name in known:
            raise ShapeError(
                f"shape {text!r}: {name} is an option, not a size; write --option "
                f"{known[name].form}"
            )
        if not equals:
            raise fail(f"{part.strip()!r} is not NAME=NUMBER")
        if name not in names and name not in equal:
            raise fail(f"unknown name {name!r}")
        if name in sizes:
            raise fail(f"{name} is given twice")
        if not number.isascii() or not number.isdigit():
            raise fail(f"{name} is {number!r}, not a whole number >= 0")
        if len(number) > _DIGITS:
            raise fail(f"{name} has {len(number)} digits, more than {_DIGITS}")
        sizes[name] = int(number)
    missing = [name for name in names if name not in sizes]
    if missing:
        raise fail(f"{', '.join(missing)} missing")
    more = [name for name, of in equal.items() if sizes.get(name, sizes[of]) != sizes[of]]
    return Shape(tuple((name, sizes[name]) for name in (*names, *more)))


def parse_options(words: Sequence[str], options: Sequence[Option]) -> Options:
    """Parse ``["causal", "scale=0.5"]``. A number at its neutral value is dropped.

    Raises ShapeError with one line that lists the operator's options.
    """
    forms = ", ".join(option.form for option in options)
    known = f"the options are {forms}" if options else "this operator has none"
    given: dict[str, float | bool] = {}
    for word in words:
        name, equals, value = word.partition("=")
        option = next((option for option in options if option.name == name), None)
        if option is None:
            raise ShapeError(f"option {word!r}: unknown name {name!r}; {known}")
        if name in given:
            raise ShapeError(f"option {word!r}: {name} is given twice")
        if bool(equals) != option.number:
            raise ShapeError(f"option {word!r}: write {option.form}")
        given[name] = _number(word, value) if option.number else True
    return tuple(
        (option.name, given[option.name])
        for option in options
        if option.name in given and given[option.name] != option.plain
    )


def _number(word: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ShapeError(f"option {word!r}: {text!r} is not a finite number")
    return number


def written(options: Options) -> str:
    """``causal scale=0.5``: ``parse_options`` reads it back to the last bit."""
    return " ".join(n if value is True else f"{n}={_shortest(value)}" for n, value in options)


def _shortest(number: float) -> str:
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
