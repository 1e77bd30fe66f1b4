"""Pictures, by matplotlib: the loss of a training run, and the time per token."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.toolchain.errors import Failure

from .checkpoint import write_whole

# Distinguishable without colour vision (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def _axes() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Failure("a picture needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def loss(
    path: Path,
    losses: Mapping[str, Sequence[tuple[int, float]]],
    evaluations: Sequence[Mapping[str, float]],
) -> None:
    """Draw the losses of the steps, (step, loss) by name, and of evaluations. Raises OSError."""
    figure, axes = _axes()
    for (name, points), grey in zip(losses.items(), ("#cccccc", "#888888"), strict=False):
        axes.plot(*zip(*points, strict=True), color=grey, linewidth=0.6, label=name)
    steps = [int(found["step"]) for found in evaluations]
    for name, colour, marker in (("train", COLOURS[0], "o"), ("validation", COLOURS[1], "s")):
        values = [found[name] for found in evaluations]
        axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per character")
    axes.legend(frameon=False)
    _save(figure, path)


def times(path: Path, lengths: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> None:
    """Draw the time per token against the context length, a line per name. Raises OSError."""
    figure, axes = _axes()
    for i, (name, values) in enumerate(seconds.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": "os^D"[i % 4], "markersize": 4}
        axes.plot(lengths, [1e3 * value for value in values], label=name, **style)
    axes.set_xlabel("characters so far")
    axes.set_ylabel("ms for the next character")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.legend(frameon=False)
    _save(figure, path)
