"""The history on a terminal, in a file or in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from workbench.harness import counters
from workbench.harness.figures import duration, of, percent
from workbench.harness.terminal import PLAIN_WIDTH, console, show

from . import changes
from .changes import Figure, FileChange
from .reading import COMPILER_REPORT, Entry

_LEAST_NOTE = 12  # characters
_STYLES = {"+": "green", "-": "red", "@": "cyan", "#": "dim"}


def title(entry: Entry) -> str:
    """What rows of a case have in common: ``M=64,N=64 float32, estimates for the h200``."""
    if entry.is_kept:
        return f"{entry.op}, sources that restore kept"
    if entry.time_ms is None:
        times = f"estimates for the {entry.gpu}" if entry.gpu else "counted on the simulator"
        return f"{entry.op} {entry.subject}, {times}"
    return f"{entry.op} {entry.subject}, on {entry.device}"


def listing(rows: Sequence[tuple[Entry, Entry | None]]) -> None:
    """Print rows, each with the one before it of the same rung and case: a table for each case."""
    cases: dict[tuple[str, ...], list[tuple[Entry, Entry | None]]] = {}
    for entry, before in rows:
        cases.setdefault(entry.case, []).append((entry, before))
    ordered = sorted(cases.values(), key=lambda case: case[-1][0].id)
    for i, case in enumerate(ordered):
        print("\n" if i else "", end="")
        _case(case)


def _case(rows: Sequence[tuple[Entry, Entry | None]]) -> None:
    columns: dict[str, list[str]] = {
        "row": [str(entry.id) for entry, _ in rows],
        "when": [entry.when for entry, _ in rows],
        "rung": [entry.kernel for entry, _ in rows],
        "time": ["" if entry.is_kept else duration(entry.ms) for entry, _ in rows],
        "change": ["" if e.is_kept else changes.time_change(before, e) for e, before in rows],
        "source": [changes.edited(before, entry) for entry, before in rows],
        "commit": [entry.short_commit for entry, _ in rows],
    }
    to = console()
    whole = min(PLAIN_WIDTH, to.width) - 2 * len("  ")  # before a note, and behind it
    if whole - _width(columns) < _LEAST_NOTE:
        del columns["commit"]
    room = max(_LEAST_NOTE, whole - _width(columns))
    columns["note"] = [_short(" / ".join(entry.notes), room) for entry, _ in rows]
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    left = [i for i, name in enumerate(shown) if name not in ("row", "time", "change")]
    to.print(Text(title(rows[0][0]), style="bold"))
    show("", [*shown], list(zip(*shown.values(), strict=True)), left=left)


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    """The width of a table's columns that have something in a row, and of the gaps."""
    wide = [max(map(len, (name, *cells))) + 2 for name, cells in columns.items() if any(cells)]
    return sum(wide) - 2


def _short(text: str, room: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= room else f"{line[: room - 1].rstrip()}…"


def row(entry: Entry, before: Entry | None) -> None:
    """Print everything about a row."""
    print(f"row {entry.id}: {entry.op} {entry.kernel}, {entry.subject or 'sources kept'}")
    facts = dict(_facts(entry, before))
    width = max(map(len, facts))
    for name, text in facts.items():
        for i, line in enumerate(text.splitlines() or [""]):
            print(f"  {name if not i else '':<{width}}  {line}".rstrip())
    counted = [(name, value) for name, value in entry.counters.items() if value]
    if counted:
        print()
        cells = [[counters.words(name), counters.text(name, value)] for name, value in counted]
        show("counters that are not 0", ["", ""], cells)


def _facts(entry: Entry, before: Entry | None) -> list[tuple[str, str]]:
    """What is known of a row, in words."""
    compared = f"  ({changes.time_change(before, entry)} against row {before.id})" if before else ""
    words = [
        f"{label} {counters.text(name, getattr(entry, name))}"
        for label, name in COMPILER_REPORT.items()
        if getattr(entry, name) is not None
    ]
    if entry.occupancy is not None:
        words.append(f"occupancy {percent(entry.occupancy)}, limited by {entry.occupancy_limiter}")
    spread = f" +- {duration(entry.spread)}" if entry.spread else ""
    ratios = ", ".join(f"{ratio:.2f}x vs {name}" for name, ratio in entry.ratios.items())
    limit = f", limit: {entry.limiter}" if entry.limiter else ""
    estimate = f"{duration(entry.estimated_ms)} for the {entry.gpu}{limit}"
    sampled = of(entry.sampled_blocks, "block") if entry.sampled_blocks else ""
    facts = {
        "when": f"{entry.when}, run {entry.run}",
        "note": "\n".join(entry.notes),
        "time": f"{duration(entry.time_ms)}{spread}{compared}" if entry.time_ms else "",
        "compared": ratios,
        "estimate": f"{estimate}{compared}" if entry.gpu else "",
        "compiler": ", ".join(words),
        "sampled": f"{sampled} of each launch, scaled to its grid" if sampled else "",
        "device": entry.device,
        "driver": entry.driver or "",
        "clocks": entry.clocks or "",
        "torch": entry.torch,
        "CUDA": entry.cuda or "",
        "commit": entry.commit or "",
        "command": entry.command,
        "sources": _sources(entry),
    }
    return [(name, text) for name, text in facts.items() if text]


def _sources(entry: Entry) -> str:
    """A line for each file that the rung depends on, and how many others there are."""
    if not entry.sources:
        return "unknown: the row has no texts"
    lines = [f"{entry.sources[name]}  {name}" for name in entry.own if name in entry.sources]
    others = len(entry.sources) - len(lines)
    more = f"and {of(others, 'other file')} of the ladder" if others else ""
    return "\n".join(filter(None, (*lines, more)))


def source_changes(found: Sequence[FileChange]) -> None:
    """Print diffs, in colour on a terminal; elsewhere so that patch can apply them."""
    to = console()
    for change in found:
        lines = list(change.lines)
        if not change.own:
            lines.insert(0, f"# another file of the ladder: {change.name}")
        for line in lines:
            if to.is_terminal:
                to.print(Text(line, style=_style(line)), soft_wrap=True)
            else:  # with its tabs
                print(line)


def _style(line: str) -> str:
    return "bold" if line.startswith(("---", "+++")) else _STYLES.get(line[:1], "")


def figures(
    found: Sequence[Figure], words: Sequence[tuple[str, str, str]], titles: tuple[str, str]
) -> None:
    """Print what differs between two rows: words, then figures with their ratio."""
    cells = [[name, before, after, ""] for name, before, after in words]
    cells += [
        [figure.name, figure.text(figure.before), figure.text(figure.after), figure.ratio]
        for figure in found
    ]
    if cells:
        show("", ["", *titles, "ratio"], cells)
