"""The progress bar: for people, and for nobody else."""

import io

from workbench.harness.terminal import progress


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
