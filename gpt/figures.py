"""Pictures, by matplotlib: the loss of a training run, and the time per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.plots import style
from workbench.plots.style import COLOURS, MARKERS


def _axes() -> tuple[Any, Any]:
    made = style.figure(7, 4.2, layout="constrained")
    axes = made.add_subplot()
    style.plain(axes)
    return made, axes


@style.look()
def loss(
    path: Path,
    losses: Mapping[str, Sequence[tuple[int, float]]],
    evaluations: Sequence[Mapping[str, float]],
) -> None:
    """Draw the losses of the steps, (step, loss) by name, and of evaluations. Raises OSError."""
    made, axes = _axes()
    for (name, points), grey in zip(losses.items(), ("#cccccc", "#888888"), strict=False):
        axes.plot(*zip(*points, strict=True), color=grey, linewidth=0.6, label=name)
    steps = [int(found["step"]) for found in evaluations]
    for name, colour, marker in (("train", COLOURS[0], "o"), ("validation", COLOURS[1], "s")):
        values = [found[name] for found in evaluations]
        axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per character")
    axes.legend(frameon=False)
    style.save(made, path)


@style.look()
def times(path: Path, lengths: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> None:
    """Draw the time per token against the context length, a line per name. Raises OSError."""
    made, axes = _axes()
    for i, (name, values) in enumerate(seconds.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        ms = [1e3 * value for value in values]
        axes.plot(lengths, ms, label=name, color=colour, marker=marker, markersize=4)
    axes.set_xlabel("characters so far")
    axes.set_ylabel("ms for the next character")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.legend(frameon=False)
    style.save(made, path)
