"""Launches rungs once, without checking or timing them: for ncu and compute-sanitizer to watch.

``python -m workbench.cli.once OP --kernel NAME ... --shape SIZE=..`` launches each rung on each
case: by default on the operator's small cases and its edge cases. With ``--exact`` tensors end
where their last element does, so that an access beyond it is one outside an allocation. The exit
status is 1 if a rung raises an error, except that it does not support or declines a case.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

from collections.abc import Sequence
from typing import Any

import torch

from workbench import operators
from workbench.cli.request import choose_cases, choose_rungs, choose_target, supported
from workbench.harness import inputs, verify
from workbench.operators.builds import Declined, Rung
from workbench.operators.operator import DEVICES, Case, Operator
from workbench.toolchain import command

TARGETS = ("gpu", "simulator")
MODULE = "workbench.cli.once"


def words(
    op: str,
    rungs: Sequence[Rung],
    shapes: Sequence[str] = (),
    layouts: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[str]:
    """The program's arguments."""
    made = [op, "--kernel", *(rung.name for rung in rungs)]
    given = {"--shape": shapes, "--layout": layouts, "--dtype": dtypes, "--option": options}
    for flag, values in given.items():
        made += [flag, *values] if values else []
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = command.Parser(prog=f"python -m {MODULE}", description=__doc__.splitlines()[0])
    parser.add_argument("op", choices=operators.OPERATORS)
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "help": "as for the scripts"}
    for flag in ("--kernel", "--shape", "--option", "--layout", "--dtype"):
        parser.add_argument(flag, **several, metavar=flag.removeprefix("--").upper())
    parser.add_argument("--exact", action="store_true", help="tensors without guards around them")
    parser.add_argument("--target", choices=TARGETS, default="gpu")
    parser.set_defaults(check="")  # small cases, as for --check
    asked = parser.parse_args(arguments)
    operator = operators.get(asked.op)
    if asked.target == "gpu":
        choose_target("gpu")
    cases = choose_cases(operator, asked, asked.target, None)
    rungs = choose_rungs(operator, asked.kernel or (), asked.dtype or (), target=asked.target)
    if not (asked.shape or asked.option or asked.layout):
        cases += [edge for dtype in {c.dtype for c in cases} for edge in operator.edge_cases(dtype)]
    cases = supported(cases, rungs, chosen=bool(asked.dtype))
    failed = [not launch(operator, rungs, case, asked.target, asked.exact) for case in cases]
    return int(any(failed))


def launch(operator: Operator, rungs: Sequence[Rung], case: Case, target: str, exact: bool) -> bool:
    """Launch rungs on a case; return whether none of them raised an error.

    Args:
        operator: what the rungs compute.
        rungs: the rungs; those that do not support the case are left out.
        case: the input.
        target: "gpu" or "simulator".
        exact: without the guards around tensors.
    """
    device = torch.device(DEVICES[target])
    given = inputs.views(inputs.place_inputs(operator, case, device))
    out = inputs.views(inputs.place_outputs(operator, case, device))
    if exact:
        given = {name: tensor.clone() for name, tensor in given.items()}
        out = {name: torch.empty_like(tensor) for name, tensor in out.items()}
    right = True
    for rung in rungs:
        if verify.unmet_need(operator, rung, case, device):
            continue
        try:
            operator.launch(target, given, out, case, rung.name)
            if device.type == "cuda":
                torch.cuda.synchronize()
        except Declined:
            continue
        except RuntimeError as error:
            print(f"{rung.name}, {case.text}: {verify.first_line(error)}", flush=True)
            right = False
    return right


if __name__ == "__main__":
    command.run(main)
