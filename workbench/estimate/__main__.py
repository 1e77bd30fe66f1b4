"""``python -m workbench.estimate --validate``: estimates compared with times measured on GPUs.

``--measure FILE`` times the kernels of the published ladders on the GPU of this machine.
"""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import json
from collections.abc import Sequence

from workbench.estimate import validate
from workbench.estimate.model import BAND
from workbench.harness.figures import duration, percent
from workbench.harness.terminal import show
from workbench.toolchain import command
from workbench.toolchain.paths import REPO

RESULT = REPO / "docs" / "results" / "estimate-validation.json"


TITLES = ("kernel", "measured", "estimated", "error", "occupancy", "limit")


def cells(comparison: validate.Comparison) -> list[tuple[str, ...]]:
    """The rows of a comparison's table."""
    return [
        (
            step.kernel,
            duration(step.measured_ms),
            duration(step.estimated_ms),
            f"{100 * step.error:+.0f}%",
            percent(step.occupancy),
            step.limiter,
        )
        for step in comparison.steps
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = command.Parser(prog="python -m workbench.estimate", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--validate",
        action="store_true",
        help=f"compare estimates with measured times, and write {RESULT.name}",
    )
    what.add_argument(
        "--measure",
        type=command.output,
        metavar="FILE",
        help="time the kernels of the published ladders on this machine's GPU",
    )
    asked = parser.parse_args(arguments)
    if asked.measure:
        from workbench.estimate import timed

        timed.measure(asked.measure)
        return 0
    return _validate()


def _validate() -> int:
    every: list[validate.Comparison] = []
    results = RESULT.parent
    for comparison in (
        *validate.published(),
        *validate.timed(results),
        *validate.measured(results),
    ):
        every.append(comparison)
        about = f"{comparison.name} {comparison.shape} on {comparison.gpu}"
        print(f"{about}: {comparison.source}")
        show("", TITLES, cells(comparison), left=(0, 5))
        steps = comparison.steps
        print(
            f"rank correlation {validate.rank_correlation(steps):.2f}, "
            f"{len(validate.wrong_pairs(steps))} pairs in the wrong order, "
            f"median error {100 * validate.median_error(steps):.0f}%\n"
        )
    left_out = validate.left_out(results)
    for case in left_out:
        print(f"{case}: left out, too large to simulate")
    all_steps = [step for comparison in every for step in comparison.steps]
    inside = sum(abs(step.error) <= BAND for step in all_steps)
    print(
        f"all: median error {100 * validate.median_error(all_steps):.0f}%, "
        f"{inside} of {len(all_steps)} within {100 * BAND:.0f}%"
    )
    document = {
        "device": "simulator",
        "command": "python -m workbench.estimate --validate",
        "median_error": round(validate.median_error(all_steps), 4),
        "band": BAND,
        "inside_band": inside,
        "ladders": [comparison.as_json() for comparison in every],
        "left_out": left_out,
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    command.run(main)
