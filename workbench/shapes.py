"""Shapes as the workbench writes them: ``M=64,N=64,K=64``, ``rows=8,cols=100``, ``B=1,H=2,...``."""

from __future__ import annotations

from dataclasses import dataclass


class ShapeError(ValueError):
    """A shape that does not fit its operation; the text says what does."""


@dataclass(frozen=True)
class ShapeKeys:
    """The names a shape of one operation has, in the order they are written.

    ``optional`` names are 0 or 1; left out they mean 0, and a 0 is not written either.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def example(self) -> str:
        """A shape of the right form, for messages."""
        return ",".join(f"{key}=64" for key in self.required)


@dataclass(frozen=True)
class Shape:
    """An operation's sizes by name; hashable, and its ``str`` parses back to itself."""

    sizes: tuple[tuple[str, int], ...]

    def __getitem__(self, key: str) -> int:
        """The size called ``key``. Raises KeyError."""
        for name, size in self.sizes:
            if name == key:
                return size
        raise KeyError(key)

    def __str__(self) -> str:
        """The written form."""
        return ",".join(f"{name}={size}" for name, size in self.sizes)

    def numbers(self) -> tuple[int, ...]:
        """The sizes alone, in written order."""
        return tuple(size for _, size in self.sizes)


def make_shape(keys: ShapeKeys, **sizes: int) -> Shape:
    """The shape with these sizes; optional names that are absent are 0."""
    names = keys.required + keys.optional
    pairs = [(name, sizes.get(name, 0)) for name in names]
    return Shape(tuple(p for p in pairs if p[0] in keys.required or p[1]))


def parse_shape(text: str, keys: ShapeKeys) -> Shape:
    """Read ``M=64,N=64,K=64`` (any order, any optional names).

    Raises ShapeError with one line that shows the format.
    """

    def fail(why: str) -> ShapeError:
        optional = "".join(f"[,{key}=1]" for key in keys.optional)
        wanted = ",".join(f"{key}=.." for key in keys.required) + optional
        return ShapeError(f"shape {text!r}: {why}; write {wanted}, for example {keys.example()}")

    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        if not equals:
            raise fail(f"{part.strip()!r} is not NAME=NUMBER")
        if name not in keys.required + keys.optional:
            raise fail(f"unknown name {name!r}")
        if name in sizes:
            raise fail(f"{name} is given twice")
        if not number.isascii() or not number.isdigit():
            raise fail(f"{name} is {number!r}, not a whole number >= 0")
        if name in keys.optional and number not in ("0", "1"):
            raise fail(f"{name} is {number!r}, not 0 or 1")
        sizes[name] = int(number)
    missing = [key for key in keys.required if key not in sizes]
    if missing:
        raise fail(f"{', '.join(missing)} missing")
    return make_shape(keys, **sizes)
