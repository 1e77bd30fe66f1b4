"""What a script can show instead of its table: one entry of VIEWS each.

A view is an option. ``run`` imports what it needs when it is called, so that the table, which most
runs show, does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.checks import CHECKS
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
        why: the reason for that target, which the script prints; of "gpu", what to do without one.
        few: cases to run if no --shape is given; None for all of the default ones.
        keeps: what it supports of the options that save the table: --json, --csv, --plot, --note.
        checks: whether it runs with --check.
        estimates: whether it shows estimates, for which compilation begins early.
        ordered: whether --order is for it.
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
    checks: bool = False
    estimates: bool = True
    ordered: bool = False
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


def _listing(asked: Request, machine: bool) -> int:
    from workbench.listing import command as listing

    settings = {"machine": machine, "by_source": asked.words.order == "source"}
    return _each_case(asked, listing.run, asked.gpu, **settings)


def _ptx(asked: Request) -> int:
    return _listing(asked, False)


def _sass(asked: Request) -> int:
    return _listing(asked, True)


def _resources(asked: Request) -> int:
    from workbench.listing import resources

    return _each_case(asked, resources.run, asked.gpu)


def _profile(asked: Request) -> int:
    from workbench.cli import profile

    return _each_case(asked, profile.run)


def _each_case(asked: Request, run: Callable[..., int], *more: Any, **settings: Any) -> int:
    """Show every case; the largest exit status."""
    rungs = asked.operator, asked.rungs
    any_dtype = not asked.words.dtype
    return max(run(*rungs, case, *more, any_dtype=any_dtype, **settings) for case in asked.cases)


def _sanitize(asked: Request) -> int:
    from workbench.cli import sanitize

    words = asked.words
    return sanitize.run(
        asked.operator.name,
        asked.rungs,
        words.sanitize or CHECKS,
        shapes=words.shape or (),
        layouts=words.layout or (),
        dtypes=words.dtype or (),
        options=getattr(words, "option", None) or (),
    )


def _check_sweep(asked: Request) -> None:
    from workbench.cli.sweep import command as sweep

    sweep.check(asked)


def _sweep(asked: Request) -> int:
    from workbench.cli.sweep import command as sweep

    return sweep.run(asked)


_COUNTED = "kernels are counted there to be explained"
_LAUNCHED = "it tells which kernels a rung launches"
_NAMES = {"nargs": "+", "action": "extend", "metavar": "NAME"}

VIEWS = (
    View(
        "--watch",
        _watch,
        {"action": "store_true", "help": "check and measure again after every save, until Ctrl-C"},
        keeps=("--note",),
        checks=True,
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
        "--ptx",
        _ptx,
        {**_NAMES, "help": "the PTX of these rungs' kernels, beside their source"},
        names=True,
        target="simulator",
        why=_LAUNCHED,
        few=1,
        estimates=False,
        ordered=True,
    ),
    View(
        "--sass",
        _sass,
        {**_NAMES, "help": "the same as machine code, for the GPU that --gpu names"},
        names=True,
        target="simulator",
        why=_LAUNCHED,
        few=1,
        estimates=False,
        ordered=True,
    ),
    View(
        "--resources",
        _resources,
        {
            "action": "store_true",
            "help": "what the rungs' kernels take of the GPU that --gpu names, and how many fit",
        },
        target="simulator",
        why=_LAUNCHED,
        few=1,
    ),
    View(
        "--profile",
        _profile,
        {**_NAMES, "help": "Nsight Compute's figures of these rungs, beside the simulator's"},
        names=True,
        target="gpu",
        why="--explain shows the simulator's counts",
        few=1,
    ),
    View(
        "--sanitize",
        _sanitize,
        {
            "nargs": "*",
            "choices": CHECKS,
            "metavar": "TOOL",
            "help": "run the rungs on small shapes under compute-sanitizer: all of its tools, or "
            f"some of {', '.join(CHECKS)}",
        },
        target="gpu",
        why="--check looks for the same on the simulator",
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
        estimates=False,
        keeps=("--json", "--plot"),
        check=_check_sweep,
    ),
)
