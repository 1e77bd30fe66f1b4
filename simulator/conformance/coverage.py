"""The instruction forms, and which of them a launch executed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("forms.tsv")

# Cache hints have no effect on results, and come in any combination: they are not part of a form's
# name. Everything else is, in the order it is written in.
_HINT = re.compile(r"\.(L1::\w+|L2::\w+|level::\w+)")


def form_name(text: str) -> str:
    """The name of a form: opcode and modifiers without cache hints."""
    return _HINT.sub("", text)


def expanded(pattern: str) -> list[str]:
    """All names of a pattern: "add.{f32,f64}" is two, "n{8..24..8}" three, "{.sat,}" optional."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last, step = map(int, numbers.groups())
        choices: Iterable[str] = map(str, range(first, last + 1, step))
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for choice in choices for name in expanded(before + choice + after)]


@cache
def listed(path: Path = TABLE) -> dict[str, str]:
    """Form -> family, for every form in the table."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            family, pattern = line.split("\t")
            for form in expanded(pattern):
                found.setdefault(form_name(form), family)
    return found
