"""The GPU's half of the comparison with compute-sanitizer.

``python3 -m simulator.compare.sanitize OUT [--seconds N]`` compiles the kernels of
tests/kernels/wrong and right into one program per file, runs each kernel and its correct twin under
compute-sanitizer, and writes OUT/sanitizer.json. It only needs nvcc, compute-sanitizer and Python.
Every kernel runs in its own process, which is killed if it hangs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from simulator.compare import wrong
from simulator.compare.wrong import Wrong
from workbench.toolchain import command

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PROCESSES = 8  # in parallel
KERNEL_SECONDS = 25
KEPT = 6  # findings per run
MAIN = """\
#include "{file}"

#include <cstdio>
#include <cstring>
#include <vector>

template <class T>
int run_launcher(void (*launcher)(const T*, T*), int inputs, int outputs) {{
  std::vector<T> in(inputs), out(outputs);
  for (int i = 0; i < inputs; i++) in[i] = T(i % {period});
  T *in_device = nullptr, *out_device = nullptr;
  cudaMalloc(&in_device, inputs * sizeof(T));
  cudaMalloc(&out_device, outputs * sizeof(T));
  cudaMemcpy(in_device, in.data(), inputs * sizeof(T), cudaMemcpyHostToDevice);
  cudaMemset(out_device, 0, outputs * sizeof(T));
  launcher(in_device, out_device);
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error == cudaSuccess) {{
    error = cudaMemcpy(out.data(), out_device, outputs * sizeof(T), cudaMemcpyDeviceToHost);
  }}
  double sum = 0;
  for (int i = 0; i < outputs; i++) sum += double(out[i]) * (1 + i % {weights});
  std::printf("error %d\\nsum %.17g\\n", int(error), sum);
  return 0;
}}

int main(int argc, char** argv) {{
{cases}
  return 2;
}}
"""
CASE = '  if (argc > 1 && !std::strcmp(argv[1], "{name}")) return run_launcher({name}, {n}, {m});'
# Patterns for the first line of a finding.
HEADS = re.compile(
    r"Invalid __|Misaligned|out of bounds|Race reported|hazard detected|Uninitialized|"
    r"Barrier error|Invalid usage|[Mm]barrier|[Ii]nvalid (cluster|arrive|wait|argument)|Warp.*mask|"
    r"Divergent|divergent|Error:|Warning:"
)
PLACE = re.compile(r"([\w.-]+\.(?:cuh?|h)):(\d+)")


@dataclass(frozen=True)
class Finding:
    """A compute-sanitizer finding: its first line, and the lines in the kernel's file."""

    text: str
    lines: tuple[int, ...]


@dataclass
class Run:
    """One kernel under one tool."""

    check: str
    name: str
    which: str  # "wrong" or "right"
    tool: str
    status: str = "not run"  # or "ended", "hangs", or why it did not run
    seconds: float = 0
    sum: float | None = None  # checksum of the output; None: it got no further
    error: int = 0  # cudaError_t
    findings: list[Finding] = field(default_factory=list)
    output: str = ""


def program_text(check: str) -> str:
    """A program that runs the launcher named on its command line."""
    cases = [
        CASE.format(name=f"{k.name}_{which}", n=k.sizes[0], m=k.sizes[1])
        for k in wrong.kernels(check)
        for which in k.launchers
    ]
    return MAIN.format(
        file=wrong.path(check),
        period=wrong.PERIOD,
        weights=wrong.WEIGHTS,
        cases="\n".join(cases),
    )


def build(check: str, out: Path) -> str:
    """Compile a check's program to OUT/<check>; return "" or the compiler's output."""
    source = out / f"run_{check}.cu"
    source.write_text(program_text(check))
    includes = [word for folder in wrong.INCLUDES for word in ("-I", str(folder))]
    command = [
        "nvcc", "-gencode", "arch=compute_90a,code=sm_90a", "-std=c++17", "-O3", "-lineinfo",
        *includes, "-o", str(out / check), str(source),
    ]  # fmt: skip
    status, text = execute(command, 180)
    return "" if status == "0" else f"{status}: {text[-1500:]}"


def execute(
    command: Sequence[str], seconds: float, settings: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """(exit status or why there is none, output); what hangs is killed, with its children.

    settings: further environment variables.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, **(settings or {})},
        )
    except OSError as error:
        return str(error), ""
    try:
        text, _ = child.communicate(timeout=max(seconds, 0.1))
        return str(child.returncode), text
    except subprocess.TimeoutExpired:
        kill(child)
    except BaseException:  # Ctrl-C, which a session of its own does not get
        kill(child)
        raise
    try:
        return "hangs", child.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        return "hangs", ""


def kill(child: subprocess.Popen[str]) -> None:
    """Kill a process and its children."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.kill()


def reports(text: str) -> list[list[str]]:
    """The lines of each finding in an output: of blocks of lines that start with "========="."""
    lines = re.findall(r"^=========(.*)$", text, re.M)
    blocks: list[list[str]] = [[]]
    for line in lines:
        if HEADS.search(line) and not line.startswith("     ") or not line.strip():
            blocks.append([])
        if line.strip():
            blocks[-1].append(line.strip())
    others = ("Program hit", "Error: process", "Error: No attachable")
    return [
        block
        for block in blocks
        if block
        and HEADS.search(block[0])
        and "SUMMARY" not in block[0]
        and not block[0].startswith(others)
    ]


def findings(text: str, file: str) -> list[Finding]:
    """The findings in a report, each once, with their lines in a file."""
    found: dict[Finding, None] = {}
    for block in reports(text):
        places = PLACE.findall("\n".join(block))
        here = dict.fromkeys(int(line) for name, line in places if name == file)
        found[Finding(block[0][:200], tuple(here))] = None
    return list(found)


def sanitize(program: Path, run: Run, seconds: float, options: Sequence[str]) -> None:
    """Run the launcher under its tool and fill in the result."""
    started = time.monotonic()
    command = [
        "compute-sanitizer", "--tool", run.tool, "--show-backtrace", "no", "--print-limit", "20",
        *options, str(program), f"{run.name}_{run.which}",
    ]  # fmt: skip
    status, text = execute(command, seconds)
    run.status = "ended" if status.lstrip("-").isdigit() else status
    run.seconds = round(time.monotonic() - started, 2)
    run.findings = findings(text, f"{run.check}.cu")[:KEPT]
    number = re.search(r"^sum (\S+)$", text, re.M)
    run.sum = float(number[1]) if number else None
    code = re.search(r"^error (\d+)$", text, re.M)
    run.error = int(code[1]) if code else 0
    run.output = re.sub(r"^=========\s*$\n?", "", text, flags=re.M)[:1500]


def planned(kernels: Sequence[Wrong]) -> list[Run]:
    """What to run, most important first, and what may hang last."""
    runs = [
        Run(k.check, k.name, which, k.kind)
        for which in ("right", "wrong")
        for k in kernels
        if which in k.launchers
    ]
    runs.sort(key=lambda r: (r.which, r.check) == ("wrong", "synccheck"))
    others = [
        Run(k.check, k.name, "wrong", tool)
        for tool in TOOLS
        for k in kernels
        if tool != k.kind and "wrong" in k.launchers
    ]
    return runs + others


def extra_options(tool: str, help_text: str) -> list[str]:
    """The options that a newer compute-sanitizer needs."""
    if tool == "initcheck" and "--initcheck-address-space" in help_text:
        return ["--initcheck-address-space", "all"]
    return []


def measure(out: Path, seconds: float) -> dict[str, object]:
    """Build, run what the time allows, and return the content of sanitizer.json."""
    end = time.monotonic() + seconds
    out.mkdir(parents=True, exist_ok=True)
    failed = {}
    with ThreadPoolExecutor(len(wrong.FILES)) as pool:
        for check, text in zip(
            wrong.FILES, pool.map(lambda c: build(c, out), wrong.FILES), strict=True
        ):
            if text:
                failed[check] = text
                print(f"FAILED {check}.cu: {text}", flush=True)
    help_text = execute(["compute-sanitizer", "--help"], 30)[1]
    built = [check for check in wrong.FILES if check not in failed]
    runs = planned([k for check in built for k in wrong.kernels(check)])

    def start(run: Run) -> None:
        left = end - time.monotonic()
        if left > 3:
            allowed = min(KERNEL_SECONDS, left)
            sanitize(out / run.check, run, allowed, extra_options(run.tool, help_text))
            lines = ["/".join(map(str, f.lines)) for f in run.findings]
            print(f"{run.tool} {run.name}_{run.which}: {run.status} {lines}", flush=True)

    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(start, runs))
    for check in built:
        (out / check).unlink(missing_ok=True)
    for check in wrong.FILES:
        (out / f"run_{check}.cu").unlink(missing_ok=True)
    return {"device": device(), "sanitizer": version(), "failed": failed, "runs": runs}


def device() -> str:
    """The GPU's name and its driver's version."""
    status, text = execute(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], 30
    )
    return text.strip().splitlines()[0] if status == "0" and text.strip() else "unknown"


def version() -> str:
    """The version of compute-sanitizer."""
    found = re.search(r"Version (\S+)", execute(["compute-sanitizer", "--version"], 30)[1])
    return found[1] if found else "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=command.folder, help="a folder for sanitizer.json")
    parser.add_argument(
        "--seconds", type=command.positive, default=200, help="approximate time limit"
    )
    arguments = parser.parse_args(argv)
    out = arguments.out
    content = measure(out, arguments.seconds)
    path = out / "sanitizer.json"
    path.write_text(json.dumps(content, indent=1, default=asdict))
    runs = content["runs"]
    ended = sum(run.status in ("ended", "hangs") for run in runs)  # type: ignore[attr-defined]
    print(f"{ended} of {len(runs)} runs; {path}")  # type: ignore[arg-type]
    return 1 if content["failed"] or not ended else 0


if __name__ == "__main__":
    command.run(main)
