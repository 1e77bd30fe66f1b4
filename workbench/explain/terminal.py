"""Explained rungs for a terminal, a file or a pipe."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from workbench.explain.annotate import Region, SourceLine
from workbench.explain.findings import Finding
from workbench.explain.kernels import Kernel
from workbench.explain.metrics import Metric, columns
from workbench.explain.report import Explained, Fact, Report
from workbench.harness.figures import part, percent
from workbench.harness.terminal import PLAIN_WIDTH, console

COLUMNS = ("cost", "instructions", "lanes", "sectors", "global", "wavefronts", "shared")
IDEALS = {"sectors": "sectors_ideal", "wavefronts": "wavefronts_ideal"}  # alongside it, in brackets
HOT, WARM = 0.2, 0.05  # of the kernel's cycles

LEGEND = """\
>> and > mark the lines that take most of the cycles (cost, a rough estimate). instr: share of the
instructions; lanes: active of 32; sectors: of 32 bytes per request to global memory; waves:
wavefronts per request to shared memory; in brackets the minimum; global, shared: share of all
sectors and of all wavefronts"""


def show(reports: Sequence[Report], file: TextIO | None = None) -> None:
    """Print explained rungs."""
    to = console(file)
    for report in reports:
        to.print(Text(f"\n{report.title}", style="bold"), soft_wrap=True)
        if report.note:
            to.print(Text(report.note, style="red" if report.wrong else ""), soft_wrap=True)
        for explained in report.kernels:
            _show_kernel(to, explained)
    if any(report.kernels for report in reports):
        to.print(Text(f"\n{LEGEND}", style="dim"), soft_wrap=True)


def text(title: str, kernels: Sequence[Explained]) -> str:
    """The plain text of explained kernels of one call."""
    to = console(io.StringIO())
    with to.capture() as captured:
        to.print(Text(title), soft_wrap=True)
        for explained in kernels:
            _show_kernel(to, explained)
        to.print(Text(f"\n{LEGEND}" if kernels else "no kernel was launched"), soft_wrap=True)
    return captured.get()


def fact(one: Fact) -> str:
    """A figure of a kernel in a line."""
    return f"  {one.name:<14} {one.value} {one.note}".rstrip()


def _show_kernel(to: Console, explained: Explained) -> None:
    kernel = explained.kernel
    much = "" if explained.part == 1 else f"  {percent(explained.part)} of all cycles"
    to.print(Text(f"\n{kernel.name}", style="bold cyan").append(much, "dim"), soft_wrap=True)
    shown = {metric.key: metric for metric in columns(kernel)}
    metrics = [shown[key] for key in COLUMNS if key in shown]
    if not _diverges(kernel):
        metrics = [metric for metric in metrics if metric.key != "lanes"]
    for region in explained.regions:
        for line in _source(kernel, region, metrics, shown, _width(to)):
            to.print(line, soft_wrap=True)
    for number, finding in enumerate(explained.findings, 1):
        to.print()
        for line in _finding(number, finding, explained, min(_width(to), PLAIN_WIDTH)):
            to.print(line, soft_wrap=True)
    if not explained.findings:
        to.print("\nnothing stands out: no work is wasted or repeated", soft_wrap=True)
    to.print()
    for one in explained.facts:
        to.print(Text(fact(one)), soft_wrap=True)


def _diverges(kernel: Kernel) -> bool:
    """Whether a significant line leaves lanes idle."""
    least = 0.02 * kernel.total.warp_instructions
    return any(
        c.warp_instructions > least and c.thread_instructions < 28 * c.warp_instructions
        for c in kernel.lines.values()
    )


def _width(to: Console) -> int:
    return max(to.width, 80)


def _cell(line: SourceLine, metric: Metric, shown: dict[str, Metric], kernel: Kernel) -> str:
    value = metric.of(line, kernel)
    if value is None:
        return ""
    text = "<1%" if metric.text is part and value < 0.01 else metric.text(value)
    ideal = shown.get(IDEALS.get(metric.key, ""))
    beside = ideal.of(line, kernel) if ideal else None
    if ideal is None or beside is None or ideal.text(beside) == text:
        return text
    return f"{text} ({ideal.text(beside)})"


def _source(
    kernel: Kernel,
    region: Region,
    metrics: Sequence[Metric],
    shown: dict[str, Metric],
    width: int,
) -> Iterator[Text]:
    """The lines of a region, preceded by their figures."""
    rows = [[_cell(line, metric, shown, kernel) for metric in metrics] for line in region.lines]
    heads = [metric.head.rstrip(".") for metric in metrics]
    widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    digits = max(len(str(region.lines[-1].number)), 4)
    gap = " "
    head = gap.join(text.rjust(size) for text, size in zip(heads, widths, strict=True))
    missing = " (cannot be read)" if region.missing else ""
    head = f"{'':3}{'line':>{digits}}{gap}{head}  "
    file = region.file if len(head) + len(region.file) <= width else region.path.name
    yield Text(f"{head}{file}{missing}", style="dim")
    for line, cells in zip(region.lines, rows, strict=True):
        cost = 0.0 if line.counters is None else kernel.cost(line.counters)
        mark = ">>" if cost >= HOT else " >" if cost >= WARM else "  "
        style = "bold red" if cost >= HOT else "yellow" if cost >= WARM else ""
        figures = gap.join(cell.rjust(size) for cell, size in zip(cells, widths, strict=True))
        front = f"{mark} {line.number:>{digits}}{gap}{figures}  "
        for i, text in enumerate(_wrapped(line.text, width - len(front))):
            text = f"{front if i == 0 else ' ' * len(front)}{text}".rstrip()
            yield Text(text, style=style or ("dim" if line.counters is None else ""))
        for note in "\n".join(line.notes).splitlines():
            yield from _paragraph(note.strip(), width, "     | ", "     |   ", "cyan")


def _wrapped(text: str, width: int) -> list[str]:
    """A source line, wrapped if it is too long; the rest is indented further."""
    text = text.rstrip().expandtabs(4)
    width = max(width, 30)
    if len(text) <= width:
        return [text]
    indent = len(text) - len(text.lstrip())
    return textwrap.wrap(
        text.lstrip(),
        width,
        initial_indent=" " * min(indent, width // 2),
        subsequent_indent=" " * min(indent + 4, width // 2),
        break_on_hyphens=False,
    )


def _finding(number: int, finding: Finding, explained: Explained, width: int) -> Iterator[Text]:
    where = finding.where()
    title = f"{number}. {where + ': ' if where else ''}{finding.title}"
    yield from _paragraph(title, width, "", "   ", "bold")
    texts = {
        (str(region.path), line.number): line.text.strip()
        for region in explained.regions
        for line in region.lines
    }
    for place in sorted(finding.places):
        if texts.get(place):
            yield from _paragraph(
                f"{place[1]}  {texts[place]}", width, "     | ", "     | ", "cyan"
            )
    yield from _paragraph(finding.why, width, "   ", "   ")
    yield from _paragraph(f"What to do: {finding.fix}", width, "   ", "   ", "green")


def _paragraph(text: str, width: int, first: str, rest: str, style: str = "") -> Iterator[Text]:
    for line in textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ):
        yield Text(line, style=style)
