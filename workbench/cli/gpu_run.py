"""Runs the steps of workbench.gpu_day within the time limit and records their results."""

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
from workbench.toolchain.nvidia_tools import ADVICE, NO_PERMISSION

GRACE_SECONDS = 10.0  # for an interrupted step to end on its own
# A step that takes this many times as long as expected is considered hung, so that the others get
# their turn; but a step always gets this many seconds: last time all may have been compiled.
PATIENCE, LEAST_SECONDS = 3, 180.0
GPU_SHARE = 0.6  # of a step's time for measuring; the rest is for comparing
TAIL = 12  # lines shown of a failed step's output
WHY = 50  # characters of the last one in the table
MACHINE = ("device", "driver", "cuda", "torch")  # what results depend on besides sources


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step.

    Attributes:
        step: the step.
        result: the outcome in a few words.
        seconds: how long it took; None if it was not started.
        file: its results, if this run wrote them or they are up to date.
        more: what to do about it, or the end of its output.
        failed: a rung is wrong, or the step itself failed.
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
    """Which results for a device are up to date: the file <device>-gpu_day.json.

    For each step it has the fingerprint of the sources, the machine, and the seconds that it took.
    It is committed with the results, so that a fresh clone knows them, too.
    """

    def __init__(self, results: Path, machine: dict[str, Any]) -> None:
        self.results, self.machine = results, machine
        self.stem = file_stem(machine["device"])
        self.path = results / f"{self.stem}-gpu_day.json"
        content = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.steps: dict[str, dict[str, Any]] = content.get("steps", {})

    @classmethod
    def of(cls, here: Environment, results: Path) -> Record:
        """The record for this machine's device."""
        return cls(results, {name: getattr(here, name) for name in MACHINE})

    @classmethod
    def every(cls, results: Path) -> list[Record]:
        """The records of all devices, each as if on the machine of its last run."""
        files = sorted(results.glob("*-gpu_day.json"))
        return [cls(results, json.loads(file.read_text())["machine"]) for file in files]

    def file(self, step: Step) -> Path:
        """The file of a step's results."""
        return self.results / f"{self.stem}-{step.name}.json"

    def is_current(self, step: Step) -> bool:
        """Whether its results exist and nothing they depend on has changed."""
        known = self.steps.get(step.name, {})
        now = step.fingerprint(), self.machine
        return (known.get("sources"), known.get("machine")) == now and self.file(step).exists()

    def seconds(self, step: Step) -> float:
        """The expected duration: as long as last time."""
        return self.steps.get(step.name, {}).get("seconds", step.seconds)

    def forget(self, step: Step) -> None:
        """Mark a step's results as out of date: they are about to be rewritten."""
        if self.steps.get(step.name, {}).pop("sources", None):
            self._write()

    def set(self, step: Step, seconds: float, **sources: str) -> None:
        """Record a run; ``sources`` is the fingerprint, if it succeeded."""
        self.steps[step.name] = {**sources, "machine": self.machine, "seconds": seconds}
        self._write()

    def _write(self) -> None:
        document = {"machine": self.machine, "steps": self.steps}
        self.path.write_text(json.dumps(document, indent=1) + "\n")


class Day:
    """A run of the steps."""

    def __init__(self, record: Record, seconds: float, force: bool) -> None:
        self.record, self.force = record, force
        self.end = time.monotonic() + seconds
        self.outcomes: list[Outcome] = []

    @property
    def left(self) -> float:
        """The seconds that a step may take."""
        return self.end - time.monotonic() - GRACE_SECONDS

    def run(self, steps: Sequence[Step]) -> None:
        """Run what is out of date and fits the time. KeyboardInterrupt ends step and run."""
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
            return Outcome(step, f"not enough time: takes about {seconds:.0f} s")
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
        left = _if_new(file, spent)
        if status is None:
            self.record.set(step, spent)  # so that it is not started again with as little time
            return Outcome(step, "ran out of time", spent, left, f"output: {log}")
        return _failure(step, status, spent, left, log)


def _failure(step: Step, status: int, spent: float, file: Path | None, log: Path) -> Outcome:
    text = log.read_text(errors="replace")
    if NO_PERMISSION in text:
        result = "no permission to read counters"
        return Outcome(step, result, spent, more=ADVICE[NO_PERMISSION])
    lines = [line for line in text.splitlines() if line.strip()] or [f"exit status {status}"]
    more = "\n".join([*lines[-TAIL:], f"(full output: {log})"])
    why = textwrap.shorten(lines[-1], WHY, placeholder=" ...")
    return Outcome(step, f"FAILED: {why}", spent, file, more, failed=True)


def _if_new(file: Path, seconds: float) -> Path | None:
    """The file, if it was written in the last ``seconds``."""
    return file if file.exists() and time.time() - file.stat().st_mtime <= seconds + 1 else None


def missing_tools(step: Step) -> list[str]:
    """The programs that a step needs and that are not on PATH."""
    return [tool for tool in step.tools if shutil.which(tool) is None]


def execute(commands: Sequence[Sequence[str]], log: Path, seconds: float) -> int | None:
    """Run Python commands in the repository, one after the other, while they succeed.

    Args:
        commands: the arguments of each.
        log: receives all output.
        seconds: for all of them together; whatever is still running is then ended.

    Returns:
        The exit status of the last one that ran; None if time ran out.
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
                start_new_session=True,  # its own group: it ends with everything it started
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
    """Interrupt a process so that it saves what it has; kill it if that fails."""
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGINT)
    try:
        child.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
