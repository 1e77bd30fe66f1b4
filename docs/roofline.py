"""Draws docs/roofline.svg, the rungs of matmul under the roofs of a GPU, and docs/ladder.svg.

``python -m docs.roofline`` reads docs/results/simulator-<op>.json; ``--dry-run`` writes nothing and
exits with 1 if a picture is not up to date.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.estimate.gpus import GPUS
from workbench.harness.results import Row
from workbench.plots import picture, roofline, roofs, style
from workbench.toolchain import command
from workbench.toolchain.paths import REPO

FOLDER = REPO / "docs"
GPU = GPUS["h200"]


def _rows(op: str) -> list[Row]:
    run = json.loads((REPO / "docs" / "results" / f"simulator-{op}.json").read_text())
    return [Row.from_json(row) for row in run["rows"]]


@style.look()
def of_rungs() -> Any:
    """The rungs of matmul, both dtypes in one roofline."""
    rows = _rows("matmul")
    what = roofs.roofline(rows, roofs.roofs_of(rows, GPU))
    assert what is not None
    made = style.figure(8.0, 4.9)
    axes = style.axes(made, 0.6, 0.55, 7.2, 4.0)
    series = roofline.series_of([dot.series for dot in what.dots])
    roofline.draw(axes, what, series)
    roofline.legend(axes, series)
    return made


def of_a_script() -> Any:
    """What --plot draws of the shortest ladder."""
    return picture.figure(_rows("transpose"), GPU)


PICTURES = {"roofline.svg": of_rungs, "ladder.svg": of_a_script}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the pictures, or with ``--dry-run`` say which are not up to date."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    dry = parser.parse_args(arguments).dry_run
    stale = False
    with tempfile.TemporaryDirectory() as folder:
        for name, draw in PICTURES.items():
            new, file = Path(folder, name), FOLDER / name
            picture.write(draw(), new)
            if file.exists() and file.read_bytes() == new.read_bytes():
                continue
            stale = True
            print(f"docs/{name} is {'not up to date' if dry else 'updated'}")
            if not dry:
                file.write_bytes(new.read_bytes())
    return int(dry and stale)


if __name__ == "__main__":
    command.run(main)
