"""Numbers and shares in the words of the findings and the tables."""

from __future__ import annotations

from workbench.tables import amount, percent

__all__ = ["amount", "number", "of", "part", "per", "percent", "share"]


def number(value: float) -> str:
    """Three significant digits at most, without needless zeros: ``16.5``, ``32``, ``0.25``."""
    if value >= 99.95:
        return f"{value:.0f}"
    digits = 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if value else "0"


def per(value: float, count: float) -> float | None:
    """A ratio; None without a count."""
    return value / count if count else None


def share(value: float, whole: float) -> float:
    """The part of a whole, 0 of nothing."""
    return value / whole if whole else 0.0


def of(count: float, one: str, many: str = "") -> str:
    """A number and its noun: ``1 sector``, ``2.5 sectors``."""
    text = number(count)
    return f"{text} {one if text == '1' else many or one + 's'}"


def part(value: float) -> str:
    """A share as a column shows it: ``<0.1%``, ``0.4%``, ``4.3%``, ``96%``."""
    if value < 0.001:
        return "<0.1%"
    return f"{100 * value:.1f}%" if value < 0.0995 else f"{100 * value:.0f}%"
