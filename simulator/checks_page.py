"""``python -m simulator.checks_page``: run the kernels of docs/checks.md and write their reports.

Also writes the table of the comparison with compute-sanitizer, from docs/results.

A kernel of the page is a ``cuda`` block whose first line gives its file and its launch:
"// reverse.cu: reverse<<<1, 64>>>(out, in)"; out and in are 1024 floats. "// rounded.cu: a program"
is a standalone one. The ``text`` block after it holds the simulator's report on it with all checks,
which this command rewrites.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.toolchain import command

PAGE = Path(__file__).resolve().parents[1] / "docs" / "checks.md"
RESULT = PAGE.parent / "results" / "nvidia-h100-80gb-hbm3-sanitizer.json"
TOOLS = ("simulator", "compute-sanitizer")
SIZE = 1024  # of out and in
PROGRAM = "a program"
_EXAMPLE = re.compile(
    r"(?P<source>```cuda\n// (?P<name>\w+)\.cu: (?P<launch>[^\n]+)\n.*?^```\n)"
    r"(?P<between>.*?)^```text\n(?P<report>.*?)^```\n",
    re.M | re.S,
)
_TABLE = re.compile(r"(<!-- sanitizer: .*? -->\n).*?(<!-- end -->)", re.S)


@dataclass(frozen=True)
class Example:
    """A kernel of the page.

    Attributes:
        name: that of its file, without .cu.
        launch: how the host launches it, with ``out`` and ``in``; or PROGRAM.
        source: the text of its file.
        report: the simulator's report, according to the page.
    """

    name: str
    launch: str
    source: str
    report: str


def examples(page: str) -> list[Example]:
    """The kernels of a page and their reports."""
    return [
        Example(m["name"], m["launch"], m["source"].split("\n", 1)[1][: -len("```\n")], m["report"])
        for m in _EXAMPLE.finditer(page)
    ]


def unit(some: Sequence[Example]) -> str:
    """One source that includes the kernels' files, each in a namespace, and launches them."""
    headers = dict.fromkeys(
        line for e in some for line in e.source.splitlines() if line.startswith("#include")
    )
    text = "\n".join(headers)
    for e in some:
        text += f'\nnamespace in_{e.name} {{\n#include "{e.name}.cu"\n}}\n'
        text += (
            f"void run_{e.name}(float* out, const float* in) "
            f"{{ using namespace in_{e.name}; {e.launch.rstrip(';')}; }}\n"
        )
    return text


def reports(some: Sequence[Example], folder: Path) -> dict[str, str]:
    """The simulator's report on each example, by name; the files are written to a folder."""
    from workbench.toolchain.paths import write_once

    for e in some:
        write_once(folder / f"{e.name}.cu", e.source)
    kernels = [e for e in some if e.launch != PROGRAM]
    found = {
        **_of_kernels(kernels, folder),
        **{e.name: _of_program(folder / f"{e.name}.cu") for e in some if e.launch == PROGRAM},
    }
    for name, report in found.items():
        text = re.sub(rf"[^\s]*/({name}\.cu)", r"\1", report)
        text = re.sub(r"0x[0-9a-f]{8,}", "0x7f53c4a01000", text)  # it differs from run to run
        found[name] = text.replace(f"in_{name}::", "") + "\n"
    return found


def _of_kernels(some: Sequence[Example], folder: Path) -> dict[str, str]:
    import torch

    import simulator
    from workbench.toolchain.inline import inline

    module = inline(
        unit(some),
        [f"run_{e.name}" for e in some],
        check="all",
        name="checks_page",
        extra_include_paths=[str(folder)],
    )
    found = {}
    for e in some:
        numbers, out = torch.arange(float(SIZE)), torch.zeros(SIZE)
        try:
            getattr(module, f"run_{e.name}")(out, numbers)
            found[e.name] = "nothing"
        except simulator.SimulatorError as error:
            found[e.name] = str(error)
    return found


def _of_program(source: Path) -> str:
    from workbench.toolchain import programs

    path = programs.build_program(programs.parse([str(source)], "simulator"))
    settings = {**os.environ, "WORKBENCH_SIMULATOR": "checks=all"}
    done = subprocess.run([path], env=settings, capture_output=True, text=True, timeout=60)
    return done.stderr.removeprefix("simulator: ").rstrip() or "nothing"


def rewritten(page: str, folder: Path) -> str:
    """The page with current reports, and the table of the measured comparison."""
    said = reports(examples(page), folder)

    def block(match: re.Match[str]) -> str:
        return f"{match['source']}{match['between']}```text\n{said[match['name']]}```\n"

    table = comparison(json.loads(RESULT.read_text()))
    return _TABLE.sub(lambda match: match[1] + table + match[2], _EXAMPLE.sub(block, page))


def comparison(result: dict) -> str:
    """How many kernels of each file each tool finds, from simulator.compare.sanitizer's result."""
    lines = [
        "| File | wrong kernels | found by both | simulator only | compute-sanitizer only | "
        "correct kernels | reported by the simulator | reported by compute-sanitizer |",
        "| --- " * 8 + "|",
    ]
    for check in dict.fromkeys(row["check"] for row in result["kernels"]):
        rows = [row for row in result["kernels"] if row["check"] == check]
        verdicts = Counter(row["verdict"].partition(",")[0] for row in rows)
        numbers = [
            len(rows) - verdicts["right"],
            verdicts["agree"],
            verdicts["simulator only"],
            verdicts["sanitizer only"],
            len(rows),
            *(sum(f"{who}:" in row["twin"] for row in rows) for who in TOOLS),
        ]
        lines.append(f"| {check} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the page; return the exit status."""
    from workbench.toolchain.paths import cache_dir

    command.Parser(description=__doc__.split(": ", 1)[1].splitlines()[0]).parse_args(arguments)
    page = PAGE.read_text()
    PAGE.write_text(rewritten(page, cache_dir() / "checks_page"))
    print(f"{PAGE.name}: {len(examples(page))} reports")
    return 0


if __name__ == "__main__":
    command.run(main)
