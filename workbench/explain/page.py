"""Explained rungs as one self-contained HTML page: no library, nothing to load."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.explain.annotate import SourceLine
from workbench.explain.findings import Finding
from workbench.explain.kernels import Kernel, Place
from workbench.explain.metrics import METRICS, Metric, columns
from workbench.explain.report import Explained, Fact, Report
from workbench.harness.figures import percent, share

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
MINOR = {"sectors_ideal", "wavefronts_ideal"}  # columns that the preceding one is compared with
FIRST = "cost"  # the column before the source, and the default choice for colours

_TOKENS = re.compile(
    r"(?P<comment>//.*|/\*.*?\*/)|(?P<text>\"(?:\\.|[^\"\\])*\")|(?P<keyword>\b(?:__\w+|auto|bool|"
    r"break|char|const|constexpr|continue|do|double|else|extern|float\d?|for|half2?|if|inline|"
    r"int|int(?:8|16|32|64)_t|return|short|size_t|static|static_assert|static_cast|struct|switch|"
    r"template|typename|uint(?:8|16|32|64)_t|uint\d?|unsigned|using|void|while)\b|^\s*#\s*\w+)"
)


def render(reports: Sequence[Report], made_by: str) -> str:
    """The page.

    Args:
        reports: the rungs, in order.
        made_by: the command that made it.
    """
    subject = reports[0]
    names = ", ".join(dict.fromkeys(report.rung for report in reports))
    sections = "\n".join(_section(report, f"r{i}") for i, report in enumerate(reports))
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<link rel="icon" href="data:,">',
            f"<title>{escaped(f'{subject.op}: {names}')}</title>",
            f"<style>\n{(HERE / 'page.css').read_text()}</style>\n</head>\n<body>",
            _top(subject, reports),
            _tabs(reports),
            f"<main>\n{sections}\n</main>",
            _footer(made_by),
            f"<script>\n{(HERE / 'page.js').read_text()}</script>\n</body>\n</html>\n",
        )
    )


def escaped(text: str) -> str:
    """A text as HTML."""
    return html.escape(text, quote=True)


def _top(subject: Report, reports: Sequence[Report]) -> str:
    shapes = list(dict.fromkeys(f"{report.case} {report.dtype}" for report in reports))
    return (
        '<header class="top">\n<div>\n'
        f"<h1>{escaped(subject.op)}: where the time goes</h1>\n"
        f'<p class="quiet">{escaped("; ".join(shapes))}, counted on the simulator</p>\n</div>\n'
        '<button type="button" class="plain" id="theme" aria-label="Light or dark" hidden>'
        "Dark</button>\n</header>"
    )


def _label(report: Report, reports: Sequence[Report]) -> str:
    """The rung, with its shape if needed to distinguish it."""
    same = sum(report.rung == other.rung for other in reports)
    return report.rung if same == 1 else f"{report.rung} {report.case}"


def _tabs(reports: Sequence[Report]) -> str:
    if len(reports) == 1:
        return ""
    buttons = "\n".join(
        f'<button type="button" role="tab" id="t{i}" aria-controls="r{i}">'
        f"{escaped(_label(report, reports))}</button>"
        for i, report in enumerate(reports)
    )
    return f'<div class="tabs" role="tablist" aria-label="Rungs" hidden>\n{buttons}\n</div>'


def _section(report: Report, name: str) -> str:
    parts = [f'<section id="{name}" aria-label="{escaped(report.title)}">']
    parts.append(f"<h2>{escaped(report.rung)}</h2>")
    if report.note:
        style = "wrong" if report.wrong else "quiet"
        parts.append(f'<p class="{style}">{escaped(report.note)}</p>')
    for i, explained in enumerate(report.kernels):
        parts.append(kernel(explained, f"{name}k{i}"))
    parts.append("</section>")
    return "\n".join(parts)


def kernel(explained: Explained, name: str, script: bool = True) -> str:
    """A kernel: findings, figures and source.

    Args:
        explained: the kernel.
        name: what the ids in it begin with.
        script: whether the page's script is there, which sorts and colours.
    """
    ids = _line_ids(explained, name)
    texts = {
        (str(region.path), line.number): line.text
        for region in explained.regions
        for line in region.lines
    }
    findings = "\n".join(_finding(finding, ids, texts) for finding in explained.findings)
    few = " few" if len(explained.findings) < 3 else ""
    return "\n".join(
        (
            f"<h3>{escaped(explained.kernel.name)}{_part(explained.part)}</h3>",
            f'<ol class="findings{few}">\n{findings}\n</ol>'
            if findings
            else "<p>Nothing stands out: no work is wasted or repeated.</p>",
            facts(explained.facts),
            _table(explained, name, ids, script),
        )
    )


def facts(some: Sequence[Fact]) -> str:
    """Figures of a kernel."""
    inner = "\n".join(
        f"<div><dt>{escaped(fact.name)}</dt><dd><b>{escaped(fact.value)}</b>"
        f"<small>{escaped(fact.note)}</small></dd></div>"
        for fact in some
    )
    return f'<dl class="facts">\n{inner}\n</dl>'


def _part(part: float) -> str:
    """A kernel's share of the rung, if it is not all of it."""
    if part == 1:
        return ""
    return f' <span class="quiet">{percent(part)} of all cycles</span>'


def _line_ids(explained: Explained, name: str) -> dict[Place, str]:
    """The id of every source line shown, by its place."""
    files = {region.path: 0 for region in explained.regions}
    number = {path: i for i, path in enumerate(files)}
    return {
        (str(region.path), line.number): f"{name}f{number[region.path]}l{line.number}"
        for region in explained.regions
        for line in region.lines
    }


def _finding(finding: Finding, ids: dict[Place, str], texts: dict[Place, str]) -> str:
    code = "\n".join(
        f'<a href="#{ids[place]}">{place[1]}</a>{_code(texts[place].strip())}'
        for place in sorted(finding.places)
        if texts.get(place)
    )
    where = finding.where()
    first = min((place for place in finding.places if place in ids), default=None)
    link = f'<a href="#{ids[first]}">{where}</a>: ' if first else ""
    return (
        '<li>\n<div class="share">'
        f'<span style="width: {100 * min(finding.gain, 1) * 0.5:.1f}%"></span>'
        f"<small>{escaped(finding.kind)}</small></div>\n"
        f"<h4>{link}{escaped(finding.title)}</h4>\n"
        + (f"<pre>{code}</pre>\n" if code else "")
        + f"<p>{escaped(finding.why)}</p>\n"
        f'<p class="fix"><b>What to do:</b> {escaped(finding.fix)}</p>\n</li>'
    )


def _code(text: str) -> str:
    """A source line as HTML, with comments and keywords marked."""
    parts, end = [], 0
    for found in _TOKENS.finditer(text):
        parts.append(escaped(text[end : found.start()]))
        word = escaped(found[0])
        kind = found.lastgroup
        parts.append(word if kind == "text" else f'<span class="{kind}">{word}</span>')
        end = found.end()
    return "".join(parts) + escaped(text[end:])


def _table(explained: Explained, name: str, ids: dict[Place, str], script: bool) -> str:
    """The source of a kernel, one row per line."""
    kernel = explained.kernel
    metrics = columns(kernel)
    ordered = [m for m in metrics if m.key == FIRST] + [m for m in metrics if m.key != FIRST]
    head = _head if script else _plain_head
    heads = [head("line", "The line number: the source in its own order.", "pin", "ascending")]
    for i, metric in enumerate(ordered):
        heads.append(head(metric.head, metric.title, "pin2" if i == 0 else ""))
        if i == 0:
            heads.append('<th scope="col" class="source"><div class="plainhead">source</div></th>')
    most = max((kernel.cost(line) for line in kernel.lines.values()), default=0.0)
    bodies, order = [], 0
    for number, region in enumerate(explained.regions):
        missing = ", which cannot be read" if region.missing else ""
        rows = [
            f'<tr class="file"><th scope="rowgroup" colspan="{len(heads)}">'
            f"{escaped(region.file + missing)}</th></tr>"
        ]
        for line in region.lines:
            heat = share(kernel.cost(line.counters), most) if line.counters else 0.0
            place = f'data-order="{order}" data-body="{number}"'
            identity = ids[str(region.path), line.number]
            rows.append(_row(line, kernel, ordered, heat, f'id="{identity}" {place}'))
            order += 1
        bodies.append("<tbody>\n" + "\n".join(rows) + "\n</tbody>")
    return (
        f"{_tools(ordered, name) if script else ''}\n"
        f'<div class="box" tabindex="0" role="region" aria-label="Source of '
        f'{escaped(kernel.name)}">\n<table id="{name}">\n'
        f"<caption>{escaped(kernel.name)}: counters of each source line</caption>\n"
        f"<thead><tr>{''.join(heads)}</tr></thead>\n" + "\n".join(bodies) + "\n<tbody></tbody>\n"
        f"</table>\n</div>\n{_terms(ordered)}"
    )


def _head(text: str, title: str, style: str, sort: str = "") -> str:
    sorted_ = f' aria-sort="{sort}"' if sort else ""
    return (
        f'<th scope="col" class="{style}"{sorted_}><button type="button" '
        f'title="{escaped(title)}">{escaped(text)}</button></th>'
    )


def _plain_head(text: str, title: str, style: str, sort: str = "") -> str:
    inner = f'<div class="plainhead" title="{escaped(title)}">{escaped(text)}</div>'
    return f'<th scope="col" class="{style}">{inner}</th>'


def _row(
    line: SourceLine, kernel: Kernel, metrics: Sequence[Metric], heat: float, attributes: str
) -> str:
    style = "line" + (" hottest" if heat > 0.5 else "") + ("" if line.counters else " none")
    cells = list(_cells(line, kernel, metrics))
    notes = "".join(f'<small class="note">{escaped(note)}</small>' for note in line.notes)
    source = f'<td class="source hot">{_code(line.text.expandtabs(4))}{notes}</td>'
    return (
        f'<tr class="{style}" {attributes} style="--h: {heat:.3f}"><th scope="row" '
        f'class="pin hot" data-value="{line.number}">{line.number}</th>'
        f"{cells[0]}{source}{''.join(cells[1:])}</tr>"
    )


def _cells(line: SourceLine, kernel: Kernel, metrics: Sequence[Metric]) -> Iterator[str]:
    for i, metric in enumerate(metrics):
        value = metric.of(line, kernel)
        style = "pin2 hot" if i == 0 else "minor" if metric.key in MINOR else ""
        style = f' class="{style}"' if style else ""
        if value is None:
            yield f"<td{style}></td>"
        else:
            yield f'<td{style} data-value="{value:.6g}">{escaped(metric.text(value))}</td>'


def _tools(metrics: Sequence[Metric], name: str) -> str:
    """The selector for what colours the lines; its values are column positions."""
    options = "".join(
        f'<option value="{1 if i == 0 else i + 2}">{escaped(_choice(metric))}</option>'
        for i, metric in enumerate(metrics)
        if metric.heat
    )
    return (
        f'<div class="tools" hidden><label>Colour by<select data-table="{name}">{options}'
        "</select></label></div>"
    )


def _choice(metric: Metric) -> str:
    return metric.title.rstrip(".").split(";")[0].split(":")[0]


def _terms(metrics: Sequence[Metric]) -> str:
    terms = "\n".join(
        f"<dt>{escaped(metric.head)}</dt><dd>{escaped(metric.title)}</dd>"
        for metric in METRICS
        if metric in metrics
    )
    return (
        "<details>\n<summary>What the columns mean</summary>\n"
        f'<dl class="terms">\n{terms}\n</dl>\n</details>'
    )


def _footer(made_by: str) -> str:
    return (
        "<footer>\n<p>Counted by the simulator, which executes the instructions (PTX) that the "
        "compiler generated. Counters have the names and definitions of Nsight Compute. "
        "The cost and the order of the findings are rough estimates.</p>\n"
        f"<p>Made by <code>{escaped(made_by)}</code></p>\n</footer>"
    )
