"""Draws docs/roofline.svg: the rungs of matmul under the roofs of a GPU.

``python -m docs.roofline`` reads docs/results/simulator-matmul.json; ``--dry-run`` writes nothing
and exits with 1 if the picture is not up to date.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.estimate.gpus import GPUS, Gpu
from workbench.toolchain import command
from workbench.toolchain.paths import REPO

RESULTS = REPO / "docs" / "results" / "simulator-matmul.json"
PICTURE = REPO / "docs" / "roofline.svg"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 880, 520, 70, 60, 20, 190
X = (2.0, 256.0)  # FLOP per byte
Y = (0.25, 1500.0)  # TFLOP/s
COLORS = {"float32": "#1f6fb4", "bfloat16": "#c2571a"}
STYLE = (
    "text{font:13px sans-serif;fill:#222}.s{font-size:11px;fill:#555}"
    "line{stroke:#bbb}.roof{stroke:#444;stroke-width:2;fill:none}"
)


@dataclass(frozen=True)
class Point:
    """A rung: FLOP per byte that passes between L2 and the SMs, and estimated TFLOP/s."""

    rung: str
    dtype: str
    intensity: float
    tflops: float


def points(run: dict[str, Any]) -> list[Point]:
    """The rungs of a saved run that were estimated."""
    found = []
    for row in run["rows"]:
        if not row["estimate"]:
            continue
        counted, flops = row["counters"], 2 * math.prod(_sizes(row["shape"]))
        moved = 32 * (counted["l2_read_sectors"] + counted["l2_write_sectors"])
        tflops = flops / row["estimate"]["time_ms"] / 1e9
        found.append(Point(row["kernel"], row["dtype"], flops / moved, tflops))
    return found


def _sizes(shape: str) -> list[int]:
    return [int(part.partition("=")[2]) for part in shape.split(",")]


def peaks(gpu: Gpu) -> dict[str, float]:
    """The FLOP rates that a kernel cannot exceed, TFLOP/s, by what it uses."""
    per_clock = gpu.sms * gpu.clock_ghz / 1e3
    tensor = gpu.tensor["fp16"] * per_clock
    return {
        "CUDA cores, fp32": 2 * gpu.fp32 * per_clock,
        "tensor cores, mma.sync": tensor * gpu.mma_sync,
        "tensor cores, wgmma": tensor,
    }


def x_of(value: float) -> float:
    """Where an intensity is drawn."""
    part = math.log(value / X[0]) / math.log(X[1] / X[0])
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def y_of(value: float) -> float:
    """Where a rate is drawn."""
    part = math.log(value / Y[0]) / math.log(Y[1] / Y[0])
    return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)


def _axes() -> Iterator[str]:
    for exponent in range(1, 9):
        x = x_of(2**exponent)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        y = HEIGHT - BOTTOM + 18
        yield f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{2**exponent}</text>'
    for value in (1, 10, 100, 1000):
        y = y_of(value)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield (
        f'<text x="{middle}" y="{HEIGHT - 18}" text-anchor="middle">FLOP per byte between L2 and '
        "the SMs</text>"
    )
    yield (
        f'<text transform="translate(18 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "TFLOP/s, estimated</text>"
    )


def _roofs(gpu: Gpu) -> Iterator[str]:
    tbps = gpu.l2_gbps / 1e3
    for name, peak in peaks(gpu).items():
        knee = max(X[0], peak / tbps)
        yield (
            f'<path class="roof" d="M{x_of(X[0]):.1f} {y_of(X[0] * tbps):.1f} L{x_of(knee):.1f} '
            f'{y_of(knee * tbps):.1f} L{x_of(X[1]):.1f} {y_of(peak):.1f}"/>'
        )
        x, y = WIDTH - RIGHT + 6, y_of(peak) + 4
        yield f'<text class="s" x="{x}" y="{y:.1f}">{name}: {peak:.0f}</text>'
    x, y = x_of(2.4), y_of(2.4 * tbps) - 22
    yield f'<text class="s" x="{x:.1f}" y="{y:.1f}">L2: {tbps:g} TB/s</text>'


def _rungs(found: list[Point]) -> Iterator[str]:
    taken: list[tuple[float, float, float]] = []  # from, to, height of a name
    for point in sorted(found, key=lambda p: -p.tflops):
        x, y = x_of(point.intensity), y_of(point.tflops)
        end, place = x + 10 + 6.3 * len(point.rung), y
        while any(abs(place - h) < 13 and x < right and left < end for left, right, h in taken):
            place += 1  # below the names that are there already
        taken.append((x, end, place))
        color = COLORS.get(point.dtype, "#555")
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{color}"/>'
        yield (
            f'<text class="s" x="{x + 8:.1f}" y="{place + 4:.1f}" style="fill:{color}">'
            f"{point.rung}</text>"
        )


def picture(run: dict[str, Any], gpu: Gpu) -> str:
    """The picture as SVG."""
    found = points(run)
    legend = [
        f'<text x="{LEFT + 14}" y="{TOP + 20 + 18 * i}" style="fill:{COLORS.get(dtype, "#555")}">'
        f"&#9679; {dtype}</text>"
        for i, dtype in enumerate(dict.fromkeys(point.dtype for point in found))
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">',
        f"<title>matmul on the {gpu.title}, M=N=K=4096</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *_axes(), *_roofs(gpu), *_rungs(found), *legend,
        "</svg>\n",
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture, or with ``--dry-run`` say whether it is up to date."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    dry = parser.parse_args(arguments).dry_run
    drawn = picture(json.loads(RESULTS.read_text()), GPUS["h200"])
    stale = not PICTURE.exists() or PICTURE.read_text() != drawn
    if stale:
        print(f"docs/{PICTURE.name} is {'not up to date' if dry else 'updated'}")
    if stale and not dry:
        PICTURE.write_text(drawn)
    return int(dry and stale)


if __name__ == "__main__":
    command.run(main)
