"""Times our kernels for the published ladders on this machine's GPU.

``python -m workbench.estimate --measure FILE`` checks each of them, times the kernels of a ladder
in turns and writes FILE. Saved as docs/results/<device>-ladders.json, it is read by ``--validate``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch

from workbench.estimate.published import Ladder, ladders
from workbench.harness import timing
from workbench.harness.environment import environment
from workbench.toolchain.errors import Failure
from workbench.toolchain.inline import inline
from workbench.toolchain.paths import REPO

TOLERANCE = 1e-3  # relative to the largest element: this checks a measurement, not a rung


def measure(path: Path) -> None:
    """Time the ladders and write the file.

    Raises:
        Failure: there is no GPU, or a kernel's result differs from torch's.
    """
    if not torch.cuda.is_available():
        raise Failure("--measure times kernels on a GPU, but PyTorch finds none here")
    device = torch.device("cuda")
    about = dataclasses.asdict(environment("gpu", device, REPO))
    about["ladders"] = [_ladder(ladder, device) for ladder in ladders()]
    path.write_text(json.dumps(about, indent=1) + "\n")


def _ladder(ladder: Ladder, device: torch.device) -> dict[str, Any]:
    names = list(ladder.published_ms)
    module = inline(ladder.file.read_text(), names, target="gpu", name=ladder.file.stem)
    torch.manual_seed(0)
    *given, out = (torch.rand(shape, device=device) for shape in ladder.tensor_shapes())
    expected = ladder.expected(given)
    runs = {n: lambda n=n: getattr(module, n)(*given, out, *ladder.sizes) for n in names}
    for name, run in runs.items():
        out.fill_(math.nan)
        run()
        error = (out - expected).abs().max() / expected.abs().max()
        if not error < TOLERANCE:
            raise Failure(f"{ladder.file.name}: {name} is wrong: relative error {error:.3g}")
    times = timing.time_interleaved(runs, device)
    return {
        "name": ladder.name,
        "shape": list(ladder.sizes),
        "time_ms": {name: times[name].median_ms for name in names},
        "spread_ms": {name: times[name].spread_ms for name in names},
    }
