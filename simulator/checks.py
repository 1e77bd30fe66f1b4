"""The names of the checks, for ``--check``, ``check=`` and ``simulator.settings``."""

from __future__ import annotations

from collections.abc import Sequence

CHECKS = ("memcheck", "racecheck", "initcheck", "synccheck")


def check_names(asked: str | Sequence[str], argument: str = "check") -> tuple[str, ...]:
    """The requested checks plus memcheck, without which a wild pointer ends the process.

    Args:
        asked: "all", "racecheck", "racecheck,initcheck" or a sequence of such names.
        argument: its name for the error.

    Raises:
        ValueError: a name is not in CHECKS.
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
