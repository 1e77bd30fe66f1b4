"""Runs every rung of the ladders once, at small shapes, for ``ncu`` or the simulator to count.

``python -m simulator.compare.rungs TARGET MANIFEST [--build]``; MANIFEST gets what was run, in
order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from workbench.toolchain import command


def runs(target: str) -> Iterator[tuple[dict[str, str], Callable[[], bool]]]:
    """What to run, and a function that runs it and returns whether the rung accepted the input.

    The cases of an operator are its simulator benchmarks and the sizes of its edge cases.
    """
    import torch

    from workbench import operators
    from workbench.harness import inputs, verify
    from workbench.operators import builds
    from workbench.operators.operator import DEVICES

    builds.refresh(target)
    device = torch.device(DEVICES[target])
    for operator in operators.every():
        for text in (*operator.small, *(edge[0] for edge in operator.edges)):
            case = operator.case(text)
            given = inputs.views(inputs.place_inputs(operator, case, device))
            out = inputs.views(inputs.place_outputs(operator, case, device))
            for rung in builds.rungs(operator.name):
                if verify.unmet_need(operator, rung, case, device):
                    continue

                def launch(operator=operator, given=given, out=out, case=case, rung=rung) -> bool:
                    try:
                        operator.launch(target, given, out, case, rung.name)
                    except builds.Declined:
                        return False
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    return True

                yield {"operation": operator.name, "kernel": rung.name, "shape": text}, launch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=("gpu", "simulator"))
    parser.add_argument("manifest", type=command.output)
    parser.add_argument("--build", action="store_true", help="build, and run nothing")
    arguments = parser.parse_args(argv)
    done = []
    for name, launch in runs(arguments.target):
        if arguments.build or launch():
            done.append(name)
    arguments.manifest.write_text(json.dumps(done))
    return 0


if __name__ == "__main__":
    command.run(main)
