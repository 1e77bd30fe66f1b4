"""What a script's command line requests: the operator, its cases, its rungs, the target."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import simulator
from workbench import estimate, operators
from workbench.cli import files
from workbench.cli.views import VIEWS, View
from workbench.estimate import DEFAULT_GPU, GPUS, Gpu
from workbench.harness import inputs
from workbench.harness.environment import cpu_name, memory_bytes
from workbench.harness.figures import amount
from workbench.operators import builds
from workbench.operators.operator import Case, Operator
from workbench.operators.shapes import ShapeError, example
from workbench.plots import style
from workbench.toolchain import command
from workbench.toolchain.errors import UsageError
from workbench.toolchain.paths import shown


@dataclass(frozen=True)
class Request:
    """What the command line requests."""

    operator: Operator
    target: str
    why: str
    cases: tuple[Case, ...]
    rungs: tuple[builds.Rung, ...]
    gpu: Gpu  # to estimate times for, on the simulator
    words: argparse.Namespace  # the command line
    saved: files.ResultFiles  # where results go
    view: View | None = None  # shown instead of the table
    checks: tuple[str, ...] = ()  # the simulator's checks; empty: its defaults
    names: tuple[str, ...] = ()  # the rungs that were named; empty: all
    sample: int = 0  # blocks of each launch to simulate; 0: all of them

    def rungs_for(self, dtype: str) -> tuple[builds.Rung, ...]:
        """The rungs to list for a dtype: the named ones, or all that support it."""
        return tuple(rung for rung in self.rungs if self.names or dtype in rung.dtypes)


def parser(operator: Operator) -> argparse.ArgumentParser:
    """The command line of an operator's script."""
    made = command.Parser(
        prog=f"test_{operator.name}.py",
        description=f"Check and time the {operator.name} ladder. pytest runs its tests.",
    )
    made.add_argument(
        "--kernel", nargs="+", action="extend", metavar="NAME", help="only these rungs"
    )
    made.add_argument(
        "--shape",
        nargs="+",
        action="extend",
        metavar="SHAPE",
        help=f"for example {example(operator.sizes)}",
    )
    if operator.options:
        made.add_argument(
            "--option",
            nargs="+",
            action="extend",
            metavar="NAME",
            help="; ".join(f"{option.form}: {option.help}" for option in operator.options),
        )
    for option in operator.options:
        if option.flag:
            made.add_argument(
                f"-{option.name}",
                dest="option",
                action="append",
                type=f"{option.name}={{}}".format,
                metavar="NUMBER",
                help=f"the same as --option {option.form}",
            )
    made.add_argument(
        "--layout",
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"memory layout of the tensors: {', '.join(operator.layouts)}",
    )
    made.add_argument(
        "--dtype", nargs="+", action="extend", metavar="DTYPE", help=_default_dtypes(operator)
    )
    if f"{operator.name}_backward" in operators.OPERATORS:
        made.add_argument("--backward", action="store_true", help="the ladder of the gradient")
    made.add_argument(
        "--sample",
        type=command.Whole(),
        metavar="BLOCKS",
        help="simulate so many blocks of each launch and scale what they count; "
        f"default: {operator.sample_blocks} without --shape, more if their work differs; with "
        "--shape all (0)",
    )
    made.add_argument("--target", choices=tuple(operator.defaults), help=_TARGETS)
    made.add_argument(
        "--gpu",
        choices=tuple(GPUS),
        help=f"the GPU to estimate times for, or to compile for; default: {DEFAULT_GPU}",
    )
    made.add_argument(
        "--check",
        nargs="?",
        const="all",
        metavar="NAMES",
        help=f"look for races and the like; all, or some of {','.join(simulator.CHECKS)}",
    )
    made.add_argument(
        "--json", type=files.output, metavar="FILE", help="write the results to FILE, - for stdout"
    )
    made.add_argument("--csv", type=files.output, metavar="FILE", help="the same as CSV")
    made.add_argument(
        "--plot", type=style.output, metavar="FILE", help="draw them: a PNG, SVG or PDF"
    )
    made.add_argument(
        "--note",
        type=command.words,
        metavar="TEXT",
        help="what you tried or thought, kept with the results: python -m workbench.history",
    )
    instead = made.add_argument_group("instead of the table")
    for view in VIEWS:
        instead.add_argument(view.flag, **view.settings)
    instead.add_argument("--order", choices=ORDERS, help=_ORDER)
    return made


def _default_dtypes(operator: Operator) -> str:
    of = {target: " ".join(names) for target, names in operator.default_dtypes.items()}
    if len(set(of.values())) == 1:
        return f"default: {next(iter(of.values()))}"
    return "default: " + ", ".join(f"{names} on the {target}" for target, names in of.items())


ORDERS = ("code", "source")
_ORDER = "of --ptx and --sass: that of the code (default), or line by line of the source"
_INSTEAD = "--target simulator runs the same kernels"
_TARGETS = "default: the GPU if there is one, else the simulator"


def choose_target(
    asked: str | None, flag: str = "--target gpu", instead: str = _INSTEAD
) -> tuple[str, str]:
    """The target and why it is used. Raises UsageError if a GPU is requested but missing.

    Args:
        asked: the requested target; None for the GPU if there is one, else the simulator.
        flag: the option that requests a GPU.
        instead: what to do without one.
    """
    if asked in ("simulator", "cpu"):
        return asked, cpu_name() if asked == "cpu" else "requested"
    if torch.cuda.is_available():
        return "gpu", torch.cuda.get_device_name()
    if torch.version.cuda is None:
        reason = "this PyTorch is built without CUDA"
    else:
        reason = "PyTorch finds no GPU"
    if asked == "gpu":
        raise UsageError(f"{flag}: {reason}; {instead}")
    return "simulator", reason


def choose_rungs(
    operator: Operator,
    names: Sequence[str],
    dtypes: Sequence[str],
    flag: str = "--kernel",
    target: str = "",
) -> tuple[builds.Rung, ...]:
    """The named rungs, or all, in table order. Raises UsageError for unknown names or dtypes."""
    ladder = builds.rungs(operator.name, target)
    known = [rung.name for rung in ladder]
    for name in names:
        if name not in known:
            file = shown(builds.sources(operator.name, target)[0])
            raise UsageError(
                f"{flag} {name}: {operator.name} has {', '.join(known)}; a rung needs a "
                f"line in the table at the end of {file}"
            )
    taken = list(dict.fromkeys(d for rung in ladder for d in rung.dtypes))
    for dtype in dtypes:
        if dtype not in taken:
            raise UsageError(f"--dtype {dtype}: {operator.name} supports {', '.join(taken)}")
    return tuple(rung for rung in ladder if not names or rung.name in names)


def request(operator: Operator, arguments: Sequence[str] | None) -> Request:
    """Parse the command line; builds the kernels to find the rungs. Raises UsageError."""
    asked = parser(operator).parse_args(arguments)
    if getattr(asked, "backward", False):
        operator = operators.get(f"{operator.name}_backward")
    files.named(asked)
    view = choose_view(asked)
    if view and view.target == "gpu":
        target, why = choose_target("gpu", view.flag, view.why)
    elif view and view.target:
        target, why = view.target, view.why
    elif asked.check is not None:
        target, why = "simulator", "--check runs there"
    else:
        target, why = choose_target(asked.target)
    checks = choose_checks(asked)
    if asked.gpu and target != "simulator":
        raise UsageError(f"--gpu {asked.gpu}: estimates are for --target simulator")
    cases = choose_cases(operator, asked, target, view.few if view else None)
    sample = choose_sample(operator, asked, target, cases)
    gpu = GPUS[asked.gpu or DEFAULT_GPU]
    if target == "simulator" and (view is None or view.estimates):
        estimate.prepare(operator.name, gpu)
    names, flag = asked.kernel, "--kernel"
    if view and view.names:
        names, flag = getattr(asked, view.dest), view.flag
    rungs = choose_rungs(operator, names or (), asked.dtype or (), flag, target)
    cases = supported(cases, rungs, bool(asked.dtype))
    for case in cases:
        _check_size(operator, case, target)
        _check_layout(operator, case)
    made = Request(
        operator,
        target,
        why,
        tuple(cases),
        rungs,
        gpu,
        asked,
        files.ResultFiles(asked),
        view,
        checks,
        tuple(names or ()),
        sample,
    )
    if view:
        view.check(made)
    return made


def choose_view(asked: argparse.Namespace) -> View | None:
    """What is shown instead of the table; None for the table. Raises UsageError.

    Options that belong together have the same ``run``: --explain, --html.
    """
    given = [view for view in VIEWS if getattr(asked, view.dest) not in (None, False)]
    listing = [view.flag for view in VIEWS if view.ordered]
    if asked.order is not None and not any(view.ordered for view in given):
        raise UsageError(f"--order is for {' and '.join(listing)}")
    if not given:
        return None
    first = given[0]
    others = [view.flag for view in given if view.run is not first.run]
    if others:
        raise UsageError(f"{first.flag} and {others[0]} show different things: choose one")
    for flag in files.named(asked):
        if flag not in first.keeps:
            raise UsageError(f"{flag} is for the table, which {first.flag} does not produce")
    if asked.note is not None and "--note" not in first.keeps:
        raise UsageError(f"--note is kept with the table, which {first.flag} does not produce")
    if first.names and asked.kernel:
        raise UsageError(f"{first.flag} names the rungs itself: omit --kernel")
    if asked.check is not None and not first.checks:
        raise UsageError(f"{first.flag} runs without checks: omit --check")
    return first


def choose_cases(
    operator: Operator, asked: argparse.Namespace, target: str, few: int | None
) -> list[Case]:
    """Every shape in every layout and dtype; ``few`` of the defaults.

    --option replaces the options of the default cases. Raises UsageError.
    """
    dtypes = dict.fromkeys(asked.dtype or operator.default_dtypes[target][:few])
    options = getattr(asked, "option", None)
    own = operator.small if asked.check is not None else operator.defaults[target]
    texts = asked.shape or own[:few]
    if options and not asked.shape:
        texts = dict.fromkeys(text.split()[0] for text in texts)
    for layout in asked.layout or ():
        if layout not in operator.layouts:
            names = ", ".join(operator.layouts)
            raise UsageError(f"--layout {layout}: {operator.name} has {names}")
    layouts = [{"layout": layout} for layout in dict.fromkeys(asked.layout or ())] or [{}]
    try:
        return [
            operator.case(text, options=options or (), dtype=dtype, **layout)
            for dtype in dtypes
            for text in texts
            for layout in layouts
        ]
    except ShapeError as error:
        flag, _, rest = str(error).partition(" ")
        raise UsageError(f"--{flag} {rest}") from error


def supported(cases: Sequence[Case], rungs: Sequence[builds.Rung], chosen: bool) -> list[Case]:
    """The cases without default dtypes that none of the rungs supports; if all, in one that is.

    chosen: the dtypes are not defaults: nothing is left out.
    """
    taken = list(dict.fromkeys(dtype for rung in rungs for dtype in rung.dtypes))
    kept = [case for case in cases if chosen or case.dtype in taken]
    if kept or not cases:
        return kept
    first = [case for case in cases if case.dtype == cases[0].dtype]
    return [dataclasses.replace(case, dtype=taken[0]) for case in first]


def choose_sample(
    operator: Operator, asked: argparse.Namespace, target: str, cases: Sequence[Case]
) -> int:
    """How many blocks of each launch to simulate, 0 for all. Raises UsageError."""
    if asked.sample is None:
        whole = target != "simulator" or asked.shape or asked.check is not None
        return 0 if whole else operator.sampled(cases)
    if target != "simulator":
        raise UsageError(
            f"--sample is for --target simulator: the {target.upper()} runs every block"
        )
    if asked.check is not None:
        raise UsageError("--check looks at all blocks: leave --sample out")
    return asked.sample


def choose_checks(asked: argparse.Namespace) -> tuple[str, ...]:
    """The checks of --check; none without it. Raises UsageError."""
    if asked.check is None:
        return ()
    if asked.target not in (None, "simulator"):
        raise UsageError(f"--check runs on the simulator: omit --target {asked.target}")
    try:
        return simulator.check_names(asked.check, "--check")
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_size(operator: Operator, case: Case, target: str) -> None:
    """Raise UsageError for a shape that this machine cannot hold, or PyTorch not express."""
    for name, tensor in operator.tensors(case, operator.layout(case)).items():
        if math.prod(max(size, 1) for size in tensor.shape) * case.itemsize >= 2**63:
            raise UsageError(f"--shape {case.text}: {name} has strides of 2^63 bytes and more")
    need, have = operator.least_bytes(case), memory_bytes(target)
    if need > have:
        place = "the GPU" if target == "gpu" else "this machine"
        raise UsageError(
            f"--shape {case.text}: its tensors and references take at least "
            f"{amount(need, 'B')}; {place} has {amount(have, 'B')}"
        )


def _check_layout(operator: Operator, case: Case) -> None:
    """Raise UsageError for a layout that the case's tensors are too small for."""
    try:
        inputs.check_layout(operator, case)
    except ValueError as error:
        raise UsageError(f"--layout {case.layout}: {error}") from None
