"""docs/walkthrough.md: its edits fit the kernels, and its outputs are what the commands print."""

import shlex

import pytest

from docs import alike, walkthrough
from workbench import operators
from workbench.cli.request import parser
from workbench.toolchain import REPO
from workbench.toolchain.errors import Failure

STEPS = walkthrough.steps(walkthrough.PAGE.read_text())


def test_its_edits_fit_the_kernels_one_after_the_other():
    edits = [step for step in STEPS if step.kind == "edit"]
    texts = {edit.rest: (REPO / "kernels" / edit.rest).read_text() for edit in edits}
    before = dict(texts)
    for edit in edits:
        texts[edit.rest] = walkthrough.edited(texts[edit.rest], edit.body)
    changed = [
        (old, new)
        for old, new in zip(
            before["transpose.cu"].splitlines(), texts["transpose.cu"].splitlines(), strict=True
        )
        if old != new
    ]
    assert len(edits) == 4 and len(changed) == 1  # what is broken is mended
    assert "[TILE][TILE + 1]" in changed[0][1]


def test_its_commands_are_those_of_the_scripts():
    pytest.importorskip("matplotlib")  # --plot is among them
    commands = [step.command for step in STEPS if step.kind != "edit"]
    assert len(commands) == 8
    for line in commands:
        program, script, *words = shlex.split(line)
        assert program == "python"
        if script == "test_transpose.py":
            parser(operators.get("transpose")).parse_args(words)
        else:
            assert (script, words[0]) == ("-m", "workbench.history")


def test_an_edit_that_does_not_fit():
    with pytest.raises(Failure, match="does not fit the file"):
        walkthrough.edited("int a;\n", "@@ main\n-int b;\n+int c;\n")
    with pytest.raises(Failure, match="does not fit"):
        walkthrough.edited("int b;\n", "-int b;\n+int c;\n")


@pytest.mark.parametrize(
    ("kept", "now", "same"),
    [
        ("built in 1.2 s", "built in 0.3 s", True),
        ("17:59:43 device code", "09:00:00 device code", True),
        ("against HEAD: a999f045ab x", "against HEAD: 0123456789 x", True),
        ("tiled 371 us", "tiled 369 us", True),
        ("at 0x55e16d5741a0: x", "at 0x7ffd16d5741a: x", True),
        ("log: build/x_c7e11e1c8a6b437f/a", "log: build/x_00d21fe279d192bb/a", True),
        ('id="w555e4c31810ddf89k0f0l5"', 'id="wc1974e6556709614k0f0l5"', True),
        ("tiled 371 us", "tiled 177 us", False),
        ("tiled 371 us", "tiled 371 ms", False),
        ("67.1 M -> 2.10 M", "67.1 M -> 2.10 M more", False),
        ("FASTER by", "SLOWER by", False),
    ],
)
def test_what_counts_as_the_same(kept, now, same):
    assert alike.same(kept, now) == same


@pytest.mark.full
def test_its_outputs_are_true():
    assert walkthrough.main(["--dry-run"]) == 0
