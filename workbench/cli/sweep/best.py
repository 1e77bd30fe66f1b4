"""Writes the best values of a sweep into the ladder's files."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workbench.cli.sweep.plan import Plan
from workbench.operators import tunables
from workbench.operators.tunables import Tunable
from workbench.toolchain import kernels_dir
from workbench.toolchain.files import write_whole
from workbench.toolchain.paths import shown


def write_best(found: Sequence[tuple[Plan, Sequence[int]]]) -> int:
    """Write values into the files that they were swept from; return the exit status.

    Only the digits change. A file that was edited since the sweep began is left alone.

    Args:
        found: sweeps and their best combinations.
    """
    wanted: dict[Tunable, int] = {}
    texts: dict[str, str] = {}
    status = 0
    for plan, combination in found:
        texts |= plan.files
        for tunable, value in zip(plan.values, combination, strict=True):
            if wanted.setdefault(tunable, value) != value:
                print(
                    f"error: {tunable.place}: {tunable.name}: {plan.rung.name} is best with "
                    f"{value}, another rung with {wanted[tunable]}; it stays {tunable.value}",
                    file=sys.stderr,
                )
                wanted[tunable], status = tunable.value, 1
    changed = tunables.replaced(texts, wanted)
    if not changed and not status:
        print("\nno other values are better than those in the files, which stay as they are")
    for name, text in changed.items():
        status |= _write(name, texts[name], text, wanted)
    return status


def _write(name: str, before: str, after: str, wanted: dict[Tunable, int]) -> int:
    """Replace a file's text, unless it has changed; print the lines that differ."""
    path = kernels_dir() / name
    try:
        if tunables.text(path.read_bytes()) != before:
            problem = "it was edited during the sweep, so it is left as it is"
        else:
            write_whole(path, tunables.content(after))
            problem = ""
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        print(f"error: {shown(path)}: {problem}", file=sys.stderr)
        return 1
    print()
    for tunable, value in wanted.items():
        if tunable.file == name and value != tunable.value:
            print(f"{tunable.place}: {tunable.name} {tunable.value} -> {value}")
    return 0
