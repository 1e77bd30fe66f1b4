"""Running the steps of workbench.gpu_day in the time there is, and remembering their results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.cli.gpu_steps import Step, file_stem, relative
from workbench.harness.results import Environment
from workbench.toolchain import REPO, cache_dir

GRACE_SECONDS = 10.0  # for a step that is interrupted to end by itself
# A step that takes so many times as long as expected hangs, and the others shall have their turn;
# but a step may always take so many seconds: last time it may have found everything compiled.
PATIENCE, LEAST_SECONDS = 3, 180.0
GPU_SHARE = 0.6  # of a step's time for what it measures; then it compares
TAIL = 12  # lines of a failed step's output that are shown
WHY = 50  # characters of the last of them in the table
MACHINE = ("device", "driver", "cuda", "torch")  # what results depend on besides their sources
NO_PERMISSION = "ERR_NVGPUCTRPERM"
ADVICE = {
    "ncu": "install Nsight Compute, or add its folder to PATH",
    "compute-sanitizer": "it is part of the CUDA toolkit: add its bin folder to PATH",
    "nvcc": "it is part of the CUDA toolkit: add its bin folder to PATH",
    NO_PERMISSION: (
        "the driver lets only administrators read performance counters: run as root, or load the "
        "nvidia module with NVreg_RestrictProfilingToAdminUsers=0"
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        step: the step.
        result: in a few words.
        seconds: that it took; None if it was not begun.
        file: its results, if this run wrote them or they are up to date.
        more: what to do about it, or the end of what it printed.
        failed: something is wrong: a rung, or the step itself.
    """

    step: Step
    result: str
    seconds: float | None = None
    file: Path | None = None
    more: str = ""
    failed: bool = False

    def __str__(self) -> str:
        took = "" if self.seconds is None else f", {self.seconds:.0f} s"
        more = f"\n{textwrap.indent(self.more, '  ')}" if self.more else ""
        return f"{self.step.name}: {self.result}{took}{more}"


class Record:
    """Which results on a device are up to date: <device>-gpu_day.json among them.

    Of each step it has the fingerprint of the sources, the machine, and the seconds that it took.
    It is committed with the results, so that a fresh clone knows, too.
    """

    def __init__(self, results: Path, machine: dict[str, Any]) -> None:
        self.results, self.machine = results, machine
        self.stem = file_stem(machine["device"])
        self.path = results / f"{self.stem}-gpu_day.json"
        content = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.steps: dict[str, dict[str, Any]] = content.get("steps", {})

    @classmethod
    def of(cls, here: Environment, results: Path) -> Record:
        """The record of the device that is here."""
        return cls(results, {name: getattr(here, name) for name in MACHINE})

    @classmethod
    def every(cls, results: Path) -> list[Record]:
        """Those of all devices, each as if on the machine of its last run."""
        files = sorted(results.glob("*-gpu_day.json"))
        return [cls(results, json.loads(file.read_text())["machine"]) for file in files]

    def file(self, step: Step) -> Path:
        """A step's results."""
        return self.results / f"{self.stem}-{step.name}.json"

    def is_current(self, step: Step) -> bool:
        """Whether its results are there and nothing that they depend on has changed."""
        known = self.steps.get(step.name, {})
        now = step.fingerprint(), self.machine
        return (known.get("sources"), known.get("machine")) == now and self.file(step).exists()

    def seconds(self, step: Step) -> float:
        """About how long it takes: as long as last time."""
        return self.steps.get(step.name, {}).get("seconds", step.seconds)

    def forget(self, step: Step) -> None:
        """Its results are about to be written anew: they are not up to date any more."""
        if self.steps.get(step.name, {}).pop("sources", None):
            self._write()

    def set(self, step: Step, seconds: float, **sources: str) -> None:
        """Remember a run; ``sources`` is the fingerprint, if all is well."""
        self.steps[step.name] = {**sources, "machine": self.machine, "seconds": seconds}
        self._write()

    def _write(self) -> None:
        document = {"machine": self.machine, "steps": self.steps}
        self.path.write_text(json.dumps(document, indent=1) + "\n")


class Day:
    """One run of the steps."""

    def __init__(self, record: Record, seconds: float, force: bool) -> None:
        self.record, self.force = record, force
        self.end = time.monotonic() + seconds
        self.outcomes: list[Outcome] = []

    @property
    def left(self) -> float:
        """Seconds that a step may take."""
        return self.end - time.monotonic() - GRACE_SECONDS

    def run(self, steps: Sequence[Step]) -> None:
        """Run what is not up to date and has the time. KeyboardInterrupt ends step and day."""
        for step in steps:
            self.outcomes.append(self._not_begun(step) or self._run(step))
            print(self.outcomes[-1], flush=True)

    def _not_begun(self, step: Step) -> Outcome | None:
        if not self.force and self.record.is_current(step):
            return Outcome(step, "up to date", file=self.record.file(step))
        missing = missing_tools(step)
        if missing:
            return Outcome(step, f"there is no {missing[0]}", more=ADVICE[missing[0]])
        seconds = self.record.seconds(step)
        if seconds > self.left:
            return Outcome(step, f"no time left: takes about {seconds:.0f} s")
        return None

    def _run(self, step: Step) -> Outcome:
        sources, file = step.fingerprint(), self.record.file(step)
        folder = cache_dir() / "gpu_day"
        scratch, log = folder / step.name, folder / f"{step.name}.log"
        scratch.mkdir(parents=True, exist_ok=True)
        expected = self.record.seconds(step)
        limit = min(self.left, max(PATIENCE * expected, LEAST_SECONDS))
        words = {"file": relative(file), "scratch": scratch, "seconds": int(GPU_SHARE * limit)}
        commands = [[word.format_map(words) for word in command] for command in step.commands]
        self.record.forget(step)
        print(f"{step.name}: {step.about} (about {expected:.0f} s)", flush=True)
        started = time.monotonic()
        try:
            status = execute(commands, log, limit)
        except KeyboardInterrupt:
            spent = time.monotonic() - started
            self.outcomes.append(Outcome(step, "interrupted", spent, _if_new(file, spent)))
            raise
        spent = round(time.monotonic() - started, 1)
        if status == 0:
            if step.leaves and step.leaves != file and step.leaves.exists():
                shutil.copyfile(step.leaves, file)
            self.record.set(step, spent, sources=sources)
            return Outcome(step, "ok", spent, file)
        file = _if_new(file, spent)
        if status is None:
            self.record.set(step, spent)  # so that it is not begun again with as little time
            return Outcome(step, "ran out of time", spent, file, f"what it printed: {log}")
        return _failure(step, status, spent, file, log)


def _failure(step: Step, status: int, spent: float, file: Path | None, log: Path) -> Outcome:
    text = log.read_text(errors="replace")
    if NO_PERMISSION in text:
        result = "no permission to read counters"
        return Outcome(step, result, spent, more=ADVICE[NO_PERMISSION])
    lines = [line for line in text.splitlines() if line.strip()] or [f"exit status {status}"]
    more = "\n".join([*lines[-TAIL:], f"(all that it printed: {log})"])
    why = textwrap.shorten(lines[-1], WHY, placeholder=" ...")
    return Outcome(step, f"FAILED: {why}", spent, file, more, failed=True)


def _if_new(file: Path, seconds: float) -> Path | None:
    """The file if it was written in the last seconds."""
    return file if file.exists() and time.time() - file.stat().st_mtime <= seconds + 1 else None


def missing_tools(step: Step) -> list[str]:
    """The programs that a step needs and PATH does not have."""
    return [tool for tool in step.tools if shutil.which(tool) is None]


def execute(commands: Sequence[Sequence[str]], log: Path, seconds: float) -> int | None:
    """Run Python in the repository, one command after the other, while they succeed.

    Args:
        commands: the arguments of each.
        log: gets all output.
        seconds: for all of them together; what still runs then is ended.

    Returns:
        The exit status of the last that ran; None if time ran out.
    """
    end = time.monotonic() + seconds
    status = 0
    with log.open("w") as output:
        for command in commands:
            child = subprocess.Popen(
                [sys.executable, *command],
                cwd=REPO,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: it ends with all that it started
            )
            try:
                status = child.wait(max(end - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end(child)
            if status != 0:
                break
    return status


def _end(child: subprocess.Popen[bytes]) -> None:
    """Interrupt a process that still runs, so that it keeps what it has; kill it if need be."""
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGINT)
    try:
        child.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
