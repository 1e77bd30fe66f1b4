"""Repeats docs/walkthrough.md: makes its edits, runs its commands, writes what they print.

``python -m docs.walkthrough`` does it on a copy of the kernels in a git repository of its own, with
a history of its own. ``--dry-run`` writes nothing, and exits with 1 where the page says something
else than a command did (docs.alike).

The page marks what is repeated by comments:

    <!-- edit NAME: FILE -->     the diff that follows is an edit of a file of the kernels
    <!-- run -->                 make the edits above, run the command of the block that follows
    <!-- watch: NAME ... -->     the same, but these edits are saved while the command runs
    <!-- lines N -->             after one of these two: show the first N lines only
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from docs.alike import same
from workbench.harness.terminal import progress
from workbench.toolchain import command
from workbench.toolchain.errors import Failure
from workbench.toolchain.paths import REPO
from workbench.toolchain.simulator import process_simulator

PAGE = REPO / "docs" / "walkthrough.md"
LADDER = "transpose"
PICTURE = REPO / "docs" / "walkthrough.png"
SECONDS = 120.0  # that a save may take

_BLOCK = re.compile(
    r"<!-- (?P<kind>edit|run|watch)(?: (?P<name>\w+))?(?:: (?P<rest>[^\n]*?))? -->\n"
    r"(?:<!-- lines (?P<lines>\d+) -->\n)?"
    r"```\w+\n(?P<body>.*?)```\n",
    re.S,
)


@dataclass(frozen=True)
class Step:
    """A marked block of the page: an edit, or a command with its output."""

    kind: str
    name: str
    rest: str
    body: str
    lines: int  # 0: all

    @property
    def command(self) -> str:
        """Of a command's block, its first line without the prompt."""
        return self.body.splitlines()[0].removeprefix("$ ")


def steps(page: str) -> list[Step]:
    """The marked blocks of the page, in order."""
    return [
        Step(m["kind"], m["name"] or "", m["rest"] or "", m["body"], int(m["lines"] or 0))
        for m in _BLOCK.finditer(page)
    ]


def edited(text: str, diff: str) -> str:
    """A file's text after an edit. Raises Failure if the diff's lines are not in it.

    They are the first such lines after the name in the diff's head, ``@@ name``.
    """
    head, *lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    first = text.find(old, text.find(head.removeprefix("@@ ").strip()))
    if not head.startswith("@@ ") or first < 0:
        raise Failure(f"{PAGE.name}: an edit does not fit the file:\n{diff}")
    return text[:first] + new + text[first + len(old) :]


class Walk:
    """A copy of the ladder in a folder, where the page's steps are made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kernels, self.cache = root / "kernels", root / "cache"
        self.kernels.mkdir()
        for pattern in ("*.h", "*.cuh", f"{LADDER}*.cu"):
            for file in (REPO / "kernels").glob(pattern):
                shutil.copy2(file, self.kernels)
        (self.cache / "lib").mkdir(parents=True)
        for file in (process_simulator().library, process_simulator().archive):
            shutil.copy2(file, self.cache / "lib")
        for words in (
            ["init", "-q"],
            ["add", "kernels"],
            ["commit", "-qm", "The ladder as it was"],
        ):
            name = ["-c", "user.name=you", "-c", "user.email=you@example.org"]
            subprocess.run(["git", *name, *words], cwd=root, check=True)
        self.environment: Mapping[str, str] = os.environ | {
            "WORKBENCH_KERNELS": str(self.kernels),
            "WORKBENCH_CACHE": str(self.cache),
            "PYTHONPATH": str(REPO),
            "COLUMNS": "100",
            "WORKBENCH_SIMULATOR": "",  # no settings, such as pytest's
        }
        self.edits: dict[str, tuple[Path, str]] = {}

    def note(self, step: Step) -> None:
        """Remember an edit, for a watch."""
        self.edits[step.name] = (self.kernels / step.rest, step.body)

    def save(self, name: str) -> None:
        """Make an edit, as an editor saves."""
        file, diff = self.edits[name]
        text = edited(file.read_text(), diff)
        scratch = file.with_name(f".{file.name}.swp")
        scratch.write_text(text)
        scratch.replace(file)

    def run(self, step: Step) -> str:
        """What a command prints."""
        done = subprocess.run(
            self._words(step.command),
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self._cleaned(done.stdout)

    def watch(self, step: Step) -> str:
        """What a command prints while edits are saved, until Ctrl-C."""
        child = subprocess.Popen(
            self._words(step.command),
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        out = ""

        def heard(condition: Callable[[str], object]) -> str:
            nonlocal out
            start, end = len(out), time.monotonic() + SECONDS
            while not condition(out[start:]):
                if time.monotonic() > end or child.poll() is not None:
                    raise Failure(f"{step.command} said nothing for {SECONDS:.0f} s:\n{out}")
                with contextlib.suppress(BlockingIOError):
                    out += os.read(child.stdout.fileno(), 1 << 16).decode()
                time.sleep(0.01)
            return out

        try:
            heard(lambda said: "limit" in said)
            for name in step.rest.split():
                time.sleep(0.3)
                self.save(name)
                heard(lambda said: "save to verdict" in said or "full log" in said)
            child.send_signal(signal.SIGINT)
            child.wait(SECONDS)
            with contextlib.suppress(BlockingIOError):
                out += os.read(child.stdout.fileno(), 1 << 16).decode()
        finally:
            child.kill()
        return self._cleaned(out)

    def _words(self, text: str) -> list[str]:
        program, *words = shlex.split(text)
        if program != "python":
            return [program, *words]
        script = str(REPO / words[0]) if words[0].endswith(".py") else words[0]
        return [sys.executable, script, *words[1:]]

    def _cleaned(self, text: str) -> str:
        told = [line for line in text.splitlines() if not line.startswith("built kernels")]
        return "\n".join(line.rstrip() for line in told).replace(f"{self.root}/", "").strip() + "\n"


def repeated(page: str, walk: Walk, step: Callable[[str], None]) -> Iterator[tuple[Step, str]]:
    """Each command of the page, and what it printed now."""
    pending: list[str] = []
    for found in steps(page):
        if found.kind == "edit":
            walk.note(found)
            pending.append(found.name)
            continue
        later = found.rest.split() if found.kind == "watch" else []
        for name in (name for name in pending if name not in later):
            walk.save(name)
        pending.clear()
        step(found.command)
        out = walk.watch(found) if later else walk.run(found)
        kept = out.splitlines()
        if found.lines and len(kept) > found.lines:
            out = "\n".join([*kept[: found.lines], "..."]) + "\n"
        yield found, f"$ {found.command}\n{out}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Repeat the page and write it, or with ``--dry-run`` say what is not up to date."""
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    dry = parser.parse_args(arguments).dry_run
    page = new = PAGE.read_text()
    commands = sum(found.kind != "edit" for found in steps(page))
    stale = 0
    with tempfile.TemporaryDirectory() as scratch, progress(commands) as step:
        walk = Walk(Path(scratch))
        for found, out in repeated(page, walk, step):
            if not same(found.body, out):
                stale += 1
                print(f"{PAGE.relative_to(REPO)}: {found.command}: not what it was")
                if dry:
                    print(out)
            new = new.replace(f"```console\n{found.body}```", f"```console\n{out}```", 1)
        picture = walk.root / "ladder.png"
        if not dry and picture.exists():
            shutil.copy2(picture, PICTURE)
    if not dry:
        PAGE.write_text(new)
    return int(dry and stale > 0)


if __name__ == "__main__":
    command.run(main)
