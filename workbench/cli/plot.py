"""``--plot``: the picture of a run's results."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Container, Sequence
from pathlib import Path

from workbench.cli.request import Request
from workbench.estimate.gpus import by_device
from workbench.harness import traffic
from workbench.harness.figures import of
from workbench.harness.results import Environment, Row
from workbench.harness.roofs import Roofs
from workbench.harness.terminal import progress
from workbench.plots import picture
from workbench.toolchain.paths import REPO


def draw(asked: Request, here: Environment, rows: Sequence[Row], roofs: Roofs) -> bool:
    """Draw the rows into the file of ``--plot``; tell what became of it, and return whether it is.

    Args:
        asked: the command line.
        here: where the rows were measured.
        rows: in the order of the tables.
        roofs: of a measured device.
    """
    path: Path = asked.words.plot
    gpu = asked.gpu if asked.target == "simulator" else by_device(here.device)
    shown, shapes = picture.most(rows)
    if asked.target == "gpu" and asked.operator.flops:
        shown = _counted(asked, shown)
    if asked.target == "simulator":
        shown += _libraries(asked, {row.subject for row in shown})
    made = picture.figure(shown, gpu, here.device, roofs)
    if made is None:
        print(f"error: --plot {path}: nothing to draw, no rung has a time", file=sys.stderr)
        return False
    try:
        picture.write(made, path)
    except OSError as error:
        print(f"error: --plot {path}: {error.strerror}", file=sys.stderr)
        return False
    more = f", the first {picture.MOST_SHAPES} of {of(shapes, 'shape')}"
    print(f"\nwrote {path}{more if shapes > picture.MOST_SHAPES else ''}")
    return True


def _counted(asked: Request, rows: Sequence[Row]) -> list[Row]:
    """Rows timed on a GPU with what the simulator counts in a sample of their blocks.

    A program cannot read its own counters on a GPU. A rung that the simulator cannot run keeps its
    bar and has no dot.
    """
    found = []
    with progress(len(rows)) as step:
        for row in rows:
            step(f"bytes moved by {row.kernel}, {row.shape}")
            if row.time_ms and not row.baseline:
                blocks = asked.operator.sampled([row.case])
                counts = traffic.sampled(asked.operator, row.kernel, row.case, blocks)
                row = dataclasses.replace(row, counters={**counts, **row.counters})
            found.append(row)
    return found


def _libraries(asked: Request, subjects: Container[str]) -> list[Row]:
    """Libraries' times on the GPU of the estimates, for these inputs, from the kept results."""
    found = []
    for file in sorted((REPO / "docs" / "results").glob(f"*-{asked.operator.name}.json")):
        run = json.loads(file.read_bytes())
        if by_device(run["device"]) == asked.gpu:
            rows = map(Row.from_json, run["rows"])
            found += [row for row in rows if row.baseline and row.subject in subjects]
    return found
