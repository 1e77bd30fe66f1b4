"""The checks by name, as ``--check``, ``check=`` and ``simulator.settings`` take them."""

from __future__ import annotations

from collections.abc import Sequence

CHECKS = ("memcheck", "racecheck", "initcheck", "synccheck")


def check_names(asked: str | Sequence[str], argument: str = "check") -> tuple[str, ...]:
    """The checks that are asked for, and memcheck: without it a wild pointer ends the process.

    Args:
        asked: "all", "racecheck", "racecheck,initcheck" or a sequence of such names.
        argument: what the error calls it.

    Raises:
        ValueError: a name is none of CHECKS.
    """
    if isinstance(asked, str):
        words: Sequence[object] = [word.strip() for word in asked.split(",")]
    else:
        words = list(asked) if isinstance(asked, Sequence | set | frozenset) else [asked]
    for word in words:
        if word not in (*CHECKS, "all"):
            known = ", ".join(CHECKS)
            raise ValueError(f"{argument} is {asked!r}; expected 'all', or some of {known}")
    return tuple(name for name in CHECKS if name in {"memcheck", *words} or "all" in words)
