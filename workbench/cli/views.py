"""What a script can show instead of its table: one entry of VIEWS each.

A view is an option. ``run`` imports what it needs when it is called, so that the table, which most
runs show, does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.toolchain import command
from workbench.toolchain.revisions import revision

if TYPE_CHECKING:
    from workbench.cli.request import Request


@dataclass(frozen=True)
class View:
    """An option that shows something instead of the table.

    Attributes:
        flag: the option, ``--explain``.
        run: shows it; returns the script's exit status.
        settings: of the option, as ``add_argument`` takes them.
        names: its values are the rungs to show: --kernel is not for it.
        target: where it runs, whatever there is; "" for the target that the script chooses.
        why: the reason for that target, which the script prints.
        few: cases to run if no --shape is given; None for all of the default ones.
        keeps: what it supports of the options that save the table: --json, --csv, --plot.
        check: raises UsageError for values that its settings let pass, before anything is printed.
    """

    flag: str
    run: Callable[[Request], int]
    settings: Mapping[str, Any]
    names: bool = False
    target: str = ""
    why: str = ""
    few: int | None = None
    keeps: tuple[str, ...] = ()
    check: Callable[[Request], None] = lambda asked: None

    @property
    def dest(self) -> str:
        """Its name among the parsed arguments."""
        return self.flag.removeprefix("--").replace("-", "_")


def _explain(asked: Request) -> int:
    from workbench.explain import command as explain

    return explain.run(
        asked.operator,
        asked.rungs,
        asked.cases,
        asked.words.html,
        printed=bool(asked.words.explain),
        gpu=asked.gpu.name,
        sample=asked.sample,
    )


def _watch(asked: Request) -> int:
    from workbench.cli import watch

    return watch.run(asked)


def _against(asked: Request) -> int:
    from workbench.cli import against

    return against.run(asked)


def _check_sweep(asked: Request) -> None:
    from workbench.cli.sweep import command as sweep

    sweep.check(asked)


def _sweep(asked: Request) -> int:
    from workbench.cli.sweep import command as sweep

    return sweep.run(asked)


_COUNTED = "kernels are counted there to be explained"
_NAMES = {"nargs": "+", "action": "extend", "metavar": "NAME"}

VIEWS = (
    View(
        "--watch",
        _watch,
        {"action": "store_true", "help": "check and measure again after every save, until Ctrl-C"},
    ),
    View(
        "--against",
        _against,
        {
            "nargs": "?",
            "const": "HEAD",
            "metavar": "REV",
            "type": revision,
            "help": "compare with the kernels of a git revision, HEAD if none is given",
        },
        few=1,
    ),
    View(
        "--explain",
        _explain,
        {**_NAMES, "help": "these rungs' source with the cost of each line, and what to change"},
        names=True,
        target="simulator",
        why=_COUNTED,
        few=1,
    ),
    View(
        "--html",
        _explain,
        {"type": command.output, "metavar": "FILE", "help": "write that to FILE as an HTML page"},
        target="simulator",
        why=_COUNTED,
        few=1,
    ),
    View(
        "--sweep",
        _sweep,
        {
            "nargs": "*",
            "action": "extend",
            "metavar": "TUNABLE",
            "help": "the rungs with other values of all their tunables, or of these, TILE or "
            "TILE=16,32; best: write the best values into the file",
        },
        keeps=("--json", "--plot"),
        check=_check_sweep,
    ),
)
