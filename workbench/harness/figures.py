"""Figures as text: amounts with units, times, shares."""

from __future__ import annotations


def amount(value: float | None, unit: str = "") -> str:
    """Three significant digits and a decimal prefix: ``1.23 M``, ``45.6 kB``; - for None."""
    if value is None:
        return "-"
    for prefix, factor in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if abs(value) < 999.5 * factor or prefix == "T":
            break
    scaled = value / factor
    digits = 0 if prefix == "" and value == int(value) else max(0, 3 - len(str(int(abs(scaled)))))
    return f"{scaled:.{digits}f} {prefix}{unit}".rstrip()


def times(value: float | None, ideal: float | None) -> str:
    """The ratio of ``value`` to the ideal: ``x4.00``; empty without an ideal."""
    if value is None or not ideal:
        return ""
    ratio = value / ideal
    return f"x{ratio:.2f}" if ratio < 10 else f"x{ratio:.1f}" if ratio < 100 else f"x{ratio:.0f}"


def against(value: float | None, unit: str, ideal: float | None) -> str:
    """An amount and its ratio to the ideal: ``134 MB  x171``."""
    ratio = times(value, ideal)
    return amount(value, unit) + (f" {ratio:>5}" if ratio else "")


def duration(ms: float | None) -> str:
    """A time, given in ms, in a readable unit."""
    if ms is None:
        return "-"
    return (
        amount(ms / 1e3, "s") if ms >= 1e3 else f"{ms:.3g} ms" if ms >= 1 else f"{ms * 1e3:.3g} us"
    )


def percent(value: float | None) -> str:
    """A fraction in percent; - for None."""
    if value is None:
        return "-"
    return f"{100 * value:.2g}%" if value < 0.1 else f"{100 * value:.0f}%"


def part(value: float) -> str:
    """A share as a column shows it: ``<0.1%``, ``0.4%``, ``4.3%``, ``96%``."""
    if value < 0.001:
        return "<0.1%"
    return f"{100 * value:.1f}%" if value < 0.0995 else f"{100 * value:.0f}%"


def number(value: float) -> str:
    """At most three significant digits, without trailing zeros: ``16.5``, ``32``, ``0.25``."""
    if value >= 99.95:
        return f"{value:.0f}"
    digits = 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if value else "0"


def of(count: float, one: str, many: str = "") -> str:
    """A number and its noun: ``1 sector``, ``2.5 sectors``."""
    text = number(count)
    return f"{text} {one if text == '1' else many or one + 's'}"


def per(value: float, count: float) -> float | None:
    """A ratio; None without a count."""
    return value / count if count else None


def share(value: float, whole: float) -> float:
    """The part of a whole, 0 of nothing."""
    return value / whole if whole else 0.0
