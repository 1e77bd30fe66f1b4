"""The look of all pictures, and how they are written."""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.toolchain import command
from workbench.toolchain.errors import Failure
from workbench.toolchain.files import write_whole

# Distinguishable without colour vision (Okabe and Ito), and by their markers without any.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = "osD^vP"
DASHED = {"color": "#222222", "linewidth": 1.0, "linestyle": (0, (4, 3))}  # lines to compare with
INK, MUTED, FAINT, PAPER = "#222222", "#666666", "#e4e4e4", "#ffffff"
DPI = 110
BODY, SMALL, LARGE = 9.0, 8.0, 13.0  # points, of texts
# Without the date, and with these names, a figure is the same file whenever it is drawn.
_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_LOOK: dict[Any, Any] = {
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "font.size": BODY,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.hashsalt": "workbench",
}


def output(text: str) -> Path:
    """A file for a picture, for argparse: matplotlib is there, and the file can be written."""
    if Path(text).suffix.lower() not in _FORMATS:
        raise argparse.ArgumentTypeError(
            f"{command.shortened(text)}: expected a file name that ends in .png, .svg or .pdf"
        )
    try:
        require()
    except Failure as missing:
        raise argparse.ArgumentTypeError(str(missing)) from None
    return command.output(text)


def require() -> None:
    """Raise Failure, which says what to install, unless matplotlib is there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        why = "" if error.name == "matplotlib" else f" ({error})"
        raise Failure(f"a picture needs matplotlib: pip install matplotlib{why}") from None


@contextmanager
def look() -> Iterator[None]:
    """Draw as all pictures do, whatever the user's matplotlibrc says. Also a decorator.

    Raises Failure without matplotlib.
    """
    require()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        yield


def figure(width: float, height: float, **settings: Any) -> Any:
    """An empty figure, in inches; without pyplot, so that no display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), facecolor=PAPER, **settings)
    FigureCanvasAgg(made)
    return made


def axes(made: Any, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place of the figure, in inches."""
    wide, tall = made.get_size_inches()
    return made.add_axes((left / wide, bottom / tall, width / wide, height / tall))


def plain(axes: Any) -> None:
    """Leave only the grid and the two axes that have numbers."""
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def text_size(made: Any, text: str, size: float, weight: str = "normal") -> tuple[float, float]:
    """Width and height of a text of a figure, in pixels; its size in points."""
    from matplotlib.text import Text

    shown = Text(0, 0, text, size=size, weight=weight, figure=made)
    extent = shown.get_window_extent(made.canvas.get_renderer())
    return extent.width, extent.height


def write(
    made: Any, at: tuple[float, float], text: str, size: float = BODY, **settings: Any
) -> None:
    """Put a text somewhere in a figure, in inches; by default ``at`` is its middle."""
    aligned = {"ha": "center", "va": "center"} | settings
    made.text(*at, text, size=size, transform=made.dpi_scale_trans, **aligned)


def save(made: Any, path: Path) -> None:
    """Write a figure in the format of the file's suffix, whole or not at all. Raises OSError."""
    content, suffix = io.BytesIO(), path.suffix.lower()
    made.savefig(content, format=suffix.removeprefix("."), metadata=_FORMATS[suffix])
    write_whole(path, content.getvalue())


def short(text: str, most: int = 32) -> str:
    """The text, without its middle if it is longer."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def darker(colour: str, share: float = 0.3) -> str:
    """A colour with a share of black, for text."""
    return _mixed(colour, (0, 0, 0), share)


def lighter(colour: str, share: float = 0.45) -> str:
    """A colour with a share of white."""
    return _mixed(colour, (255, 255, 255), share)


def _mixed(colour: str, other: tuple[int, int, int], share: float) -> str:
    parts = bytes.fromhex(colour.removeprefix("#"))
    mixed = (round(a + share * (b - a)) for a, b in zip(parts, other, strict=True))
    return "#" + bytes(mixed).hex()


def even_ticks(high: float, most: int = 4) -> list[float]:
    """Round numbers from 0 to a number: multiples of 1, 2, 2.5 or 5."""
    decade = 10.0 ** math.floor(math.log10(high / most))
    step = next(s * decade for s in (1, 2, 2.5, 5, 10) if high / (s * decade) <= most + 0.5)
    return [i * step for i in range(math.floor(high / step) + 1)]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in a range for a logarithmic axis: 1, 2, 5, 10; 1, 10, 100 if it is wide."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**decade for decade in decades for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def put_ticks(axis: Any, values: Sequence[float], texts: Sequence[str]) -> None:
    """Put these numbers, and no others, at an axis."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FixedFormatter(list(texts)))
    axis.set_minor_locator(NullLocator())
