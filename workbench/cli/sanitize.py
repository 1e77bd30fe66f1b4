"""``--sanitize``: compute-sanitizer over rungs at small shapes, findings at source lines."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.compare import sanitize
from workbench.cli import once
from workbench.harness.figures import of
from workbench.harness.terminal import progress
from workbench.operators.builds import Rung
from workbench.toolchain import nvidia_tools
from workbench.toolchain.errors import Failure
from workbench.toolchain.paths import kernels_dir, shown

TOOLS = sanitize.TOOLS
SECONDS = 900.0  # for all rungs under one tool
MOST = 100  # reports of one tool
# Of each allocation its own memory, so that an access beyond it is not one to another's.
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONUNBUFFERED": "1"}
_PLACE = re.compile(r"(\S+\.(?:cuh?|h|hpp|inl)):(\d+)")
_KERNEL = re.compile(r"\bat (?:0x\w+ in )?(?:void )?([\w:]+)")
_THREAD = re.compile(r"by thread (\([\d,]+\)) in block (\([\d,]+\))")


@dataclass(frozen=True)
class Finding:
    """What a tool says about lines of the source.

    Attributes:
        tool: one of TOOLS.
        text: the first line of its report.
        kernel: the kernel's name; "" if unknown.
        places: file and line of both sides.
    """

    tool: str
    text: str
    kernel: str
    places: tuple[tuple[str, int], ...]

    def report(self, times: int, where: str) -> str:
        """Several lines, as the simulator reports findings."""
        lines = [f"{self.tool}: {self.text}"]
        for number, (file, line) in enumerate(self.places):
            lines.append(f"  {'at' if number == 0 else 'and'} {_source(file, line)}")
        facts = [f"in kernel {self.kernel}"] if self.kernel else []
        facts += [where] if where else []
        facts += [f"reported {of(times, 'time')}"] if times > 1 else []
        return "\n".join([*lines, *([f"  {', '.join(facts)}"] if facts else [])])


def run(op: str, rungs: Sequence[Rung], tools: Sequence[str], **chosen: Sequence[str]) -> int:
    """Run rungs under compute-sanitizer; return the exit status, 1 if it finds anything.

    Args:
        op: the operator.
        rungs: the rungs.
        tools: some of TOOLS.
        chosen: the shapes, layouts, dtypes and options, as ``once.words`` takes them; by default
            the operator's small and edge cases.

    Raises:
        Failure: there is no compute-sanitizer, or it does not run.
    """
    sanitizer = nvidia_tools.find("compute-sanitizer")
    words = [sys.executable, "-m", once.MODULE, *once.words(op, rungs, **chosen), "--exact"]
    outputs = {}
    with progress(len(tools)) as step:
        for tool in tools:
            step(f"{tool}, {of(len(rungs), 'rung')}")
            outputs[tool] = _output(sanitizer, tool, words)
    found = False
    for tool, text in outputs.items():
        reports = [(finding(tool, block), _where(block)) for block in sanitize.reports(text)]
        times = Counter(one for one, _ in reports)
        first = {one: where for one, where in reversed(reports)}
        for one in times:
            print(f"\n{one.report(times[one], first[one])}")
        found |= bool(times)
        print(f"\n{tool}: {of(len(times), 'finding') if times else 'no findings'}")
    return int(found)


def _output(sanitizer: Path, tool: str, program: Sequence[str]) -> str:
    """What a tool says of a program. Raises Failure if the program did not run to its end."""
    help_text = sanitize.execute([str(sanitizer), "--help"], 60)[1]
    going_on = ("--destroy-on-device-error", "kernel")  # the rungs after one that fails run, too
    options = going_on if going_on[0] in help_text else ()
    command = [
        str(sanitizer), "--tool", tool, "--show-backtrace", "no", "--print-limit", str(MOST),
        *options, *sanitize.extra_options(tool, help_text), *program,
    ]  # fmt: skip
    status, text = sanitize.execute(command, SECONDS, UNCACHED)
    if status != "0" and not sanitize.reports(text):
        tail = [line for line in text.splitlines() if line.strip()][-12:]
        what = f"took over {SECONDS:.0f} s" if status == "hangs" else f"ended with {status}"
        raise Failure("\n".join([f"compute-sanitizer --tool {tool} {what}:", *tail]))
    return text


def finding(tool: str, block: Sequence[str]) -> Finding:
    """A report, read.

    Args:
        tool: the tool that wrote it.
        block: its lines.
    """
    text = "\n".join(block)
    kernel = _KERNEL.search(text)
    places = dict.fromkeys((file, int(line)) for file, line in _PLACE.findall(text))
    head = re.split(r" at (?:void |0x)| between ", block[0])[0].removeprefix("Error: ")
    if "between" in block[0]:
        sides = [side.lower() for side in re.findall(r"(Read|Write) access", text)]
        head += f" between a {' and a '.join(sides[:2])}" if len(sides) > 1 else ""
    name = kernel[1] if kernel and not kernel[1].startswith("0x") else ""
    return Finding(tool, head, name, tuple(places))


def _where(block: Sequence[str]) -> str:
    found = _THREAD.search("\n".join(block))
    return f"block {found[2]}, thread {found[1]}" if found else ""


def _source(file: str, line: int) -> str:
    """A place and its source, if there is such a file: reports may name it without its folder."""
    path = Path(file) if Path(file).is_file() else kernels_dir() / Path(file).name
    try:
        text = path.read_text(errors="replace").splitlines()[line - 1].strip()
    except (OSError, IndexError):
        return f"{file}:{line}"
    return f"{shown(path)}:{line}    {text}"
