"""Runs every rung of the ladders once, at small shapes: ``ncu`` or the simulator counts.

``python -m simulator.compare.rungs TARGET MANIFEST [--build]``; MANIFEST gets what was run, in
order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

SHAPES = {
    "matmul": ("M=256,N=256,K=256", "M=150,N=134,K=85", "M=1024,N=1024,K=1024"),
    "softmax": ("rows=256,cols=1024", "rows=64,cols=4099", "rows=1024,cols=4096"),
    "softmax_backward": ("rows=256,cols=1024", "rows=64,cols=4099"),
    "attention": (
        "B=1,H=2,Nq=256,Nk=256,D=64",
        "B=1,H=2,Nq=256,Nk=256,D=64,causal=1",
        "B=1,H=1,Nq=100,Nk=140,D=128",
    ),
}


def runs(target: str) -> Iterator[tuple[dict[str, str], object]]:
    """What to run, and a function that runs it."""
    import torch

    from workbench import check, ops
    from workbench.operations import OPERATIONS
    from workbench.operators.operator import DEVICES

    ops.refresh(target)
    device = torch.device(DEVICES[target])
    for operation in OPERATIONS.values():
        for shape in SHAPES[operation.name]:
            case = operation.case(shape)
            given = {k: p.view for k, p in operation.place_inputs(case, device).items()}
            out = {k: p.view for k, p in operation.place_outputs(case, device).items()}
            for rung in ops.rungs(operation.name):
                if case.dtype not in rung.dtypes or check.unmet_requirement(
                    operation, rung, case, device
                ):
                    continue

                def launch(operation=operation, given=given, out=out, case=case, rung=rung):
                    operation.launch(target, given, out, case, rung.name)
                    if device.type == "cuda":
                        torch.cuda.synchronize()

                name = {"operation": operation.name, "kernel": rung.name, "shape": shape}
                yield name, launch


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=("gpu", "simulator"))
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--build", action="store_true", help="build, and run nothing")
    arguments = parser.parse_args()
    done = []
    for name, launch in runs(arguments.target):
        if not arguments.build:
            launch()
        done.append(name)
    arguments.manifest.write_text(json.dumps(done))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
