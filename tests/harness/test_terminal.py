"""Colours, bars and lines that are erased: for people, and for nobody else."""

import contextlib
import io
import os
import pty
import re
import sys
from collections.abc import Callable

import pytest
from rich.text import Text

from workbench.cli import main, recorded
from workbench.harness.terminal import progress, show
from workbench.toolchain.announce import announced

COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")
VARIABLES = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_far_it_is(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    with progress(3, file) as step:
        step("naive")
        step("tiled")
    assert "tiled" in file.getvalue()
    assert "1/3" in file.getvalue()  # the first is done


def test_a_file_gets_nothing():
    file = io.StringIO()
    with progress(2, file) as step:
        step("naive")
    assert file.getvalue() == ""


def seen(work: Callable[[], object], monkeypatch, terminal: bool = True, **variables: str) -> str:
    """What a terminal, or a pipe, gets of the output and the errors."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color", "COLUMNS": "120"} | variables).items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty() if terminal else os.pipe()
    parts = []
    with os.fdopen(theirs, "w", buffering=1) as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            work()
    with contextlib.suppress(OSError):  # a terminal whose other end is closed
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    os.close(ours)
    return b"".join(parts).decode()


def colourful() -> None:
    """All that writes to a terminal, in a few lines: a pseudo-terminal buffers only 4 kB."""
    with announced("a kernel"):
        pass
    with progress(1) as step:
        step("naive")
    show("title", ["rung", "time", "more"], [["tiled", Text("WRONG", style="bold red")]])


def test_colours_and_bars_in_a_terminal(monkeypatch):
    text = seen(colourful, monkeypatch)
    assert COLOURS.search(text) and "\x1b[K" in text and "1/1" not in text


def test_no_color(monkeypatch):
    text = seen(colourful, monkeypatch, NO_COLOR="1")
    assert not COLOURS.search(text)
    assert "WRONG" in text and "\x1b[K" in text  # lines are still erased
    assert COLOURS.search(seen(colourful, monkeypatch, NO_COLOR=""))  # no-color.org: not empty


def test_a_dumb_terminal_gets_no_escape_sequences(monkeypatch):
    text = seen(colourful, monkeypatch, TERM="dumb")
    assert "\x1b" not in text and "WRONG" in text and "built a kernel" in text


def test_a_pipe_gets_plain_text(monkeypatch):
    text = seen(colourful, monkeypatch, terminal=False)
    assert "\x1b" not in text and "\r" not in text and "naive" not in text


def test_colours_can_be_forced_and_bars_cannot(monkeypatch):
    text = seen(colourful, monkeypatch, terminal=False, FORCE_COLOR="1")
    assert COLOURS.search(text)
    assert "\x1b[K" not in text and "\x1b[2K" not in text and "naive" not in text
    both = seen(colourful, monkeypatch, terminal=False, FORCE_COLOR="1", NO_COLOR="1")
    assert not COLOURS.search(both)


@pytest.mark.parametrize("words", [["--explain", "naive"], ["--kernel", "naive"]])
def test_scripts_obey_no_color(words, tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path)
    line = [*words, "--shape", "M=33,N=40", "--target", "simulator"]
    file = tmp_path / "seen"

    def run() -> None:
        with file.open("w") as out, contextlib.redirect_stdout(out):
            out.isatty = lambda: True  # type: ignore[method-assign]
            assert main.main("transpose", line) == 0
        print("done", file=sys.stderr)

    assert "done" in seen(run, monkeypatch, NO_COLOR="1")
    assert not COLOURS.search(file.read_text()) and "naive" in file.read_text()
    if words[0] == "--explain":
        seen(run, monkeypatch)
        assert COLOURS.search(file.read_text())
