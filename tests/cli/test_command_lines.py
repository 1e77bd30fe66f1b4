"""Every program of the repository answers bad arguments with one line and exit status 2.

The programs are found by scanning, and their arguments by asking their parsers: a new one is tested
without being listed here. Only words whose meaning argparse does not know need an entry in FREE.
"""

from __future__ import annotations

import ast
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPO, finished, python
from workbench import estimate
from workbench.cli import files
from workbench.plots import style
from workbench.toolchain import command

SKIPPED = ("tests", "build", ".")  # first letters of the folders without programs for users
LONG = "x" * 300
DIGITS = "9" * 5000
BYTES = "caf\udce9"  # not UTF-8
# What follows a program's name to get its parsers, where it has more than one.
PARSERS = {
    "build.py": ([], ["run"]),
    "gpt.py": ([], ["train"], ["evaluate"]),
    "simulator.compare": (["--ncu"], ["--sanitizer"]),
    "workbench.history": ([], ["show"], ["diff"], ["restore"], ["note"], ["export"]),
}
SHAPES = ("", "64", "x=1", f"M={DIGITS},N=1,K=1,rows=1", "M=10000000000000000000", LONG, BYTES)
FREE: dict[str, tuple[str, ...]] = {
    "--kernel": ("fast", LONG, BYTES),
    "--explain": ("fast", LONG, BYTES),
    "--against": ("nonsense", "", "--all", "HEAD:kernels", LONG, BYTES),
    "--ptx": ("fast", LONG, BYTES),
    "--sass": ("fast", LONG, BYTES),
    "--profile": ("fast", LONG, BYTES),
    "--queries": ("", "x", "0", "-1", "4x", "1x2x3", "1.5", DIGITS, LONG, BYTES),
    "--keys": ("", "x", "0", "-1", "4x", "1x2x3", "1.5", DIGITS, LONG, BYTES),
    "--tiles": ("", "4", "0,1", "1,2,3", "x,y", DIGITS, LONG, BYTES),
    "--sweep": ("", "x", "best", "TILE=", "TILE=a", "TILE=1,,2", "=1", "X=1", DIGITS, LONG, BYTES),
    "--shape": SHAPES,
    "-br": ("x", "1e999", LONG, BYTES),
    "-bc": ("x", "1e999", LONG, BYTES),
    "--option": ("nonsense", "scale=1e999", LONG, BYTES),
    "--layout": ("nonsense", LONG, BYTES),
    "--dtype": ("float7", LONG, BYTES),
    "--check": ("nonsense", "", "all,x", LONG, BYTES),
    "--note": ("", " "),
    "--op": ("nothing", LONG, BYTES),
    "--target": ("nowhere", LONG, BYTES),
    "--file": ("", LONG, BYTES),
    "text": (),  # any text but an empty one
    "what": ("part5", "4D", "train1", LONG, BYTES),
    "--out": ("/proc/x", "/dev/full/x", LONG),
    "--data": ("", "/no/such/file", LONG, BYTES),
    "--model": ("shakes", "/no/such/file", "x.safetensors", LONG, BYTES),
    "--prompt": (),  # any text; one that the model cannot read is in tests/gpt
    "--decode": ("fast", LONG, BYTES),
    "--beside": ("fast", LONG, BYTES),
    "--results": ("/no/such/folder", LONG),
    "--broken": (),  # of gpu_checks, which passes it to itself
    "-k": (),  # pytest tells
    "tests": ("no/such/test.py", LONG, BYTES),
}


def programs() -> Iterator[list[str]]:
    """The words after ``python`` that start each program."""
    for file in sorted(REPO.rglob("*.py")):
        inside = file.relative_to(REPO)
        folders = inside.parts[:-1]
        if any(folder.startswith(SKIPPED) for folder in folders):
            continue
        if '__name__ == "__main__"' in file.read_text():
            module = ".".join((*folders, file.stem)).removesuffix(".__main__")
            yield ["-m", module] if folders else [file.name]


PROGRAMS = list(programs())
COMMANDS = [[*program, *words] for program in PROGRAMS for words in PARSERS.get(program[-1], ([],))]


def named(words: list[str]) -> str:
    return " ".join(words).removeprefix("-m ")


def test_the_programs_are_found():
    found = {named(program) for program in PROGRAMS}
    assert {"build.py", "test_matmul.py", "simulator.bench", "simulator.conformance"} <= found
    assert {"workbench.cli.pages", "workbench.gpu_day", "docs.excerpts"} <= found


@pytest.mark.parametrize("program", PROGRAMS, ids=named)
def test_programs_end_by_the_one_helper(program):
    file = REPO / (program[0] if len(program) == 1 else program[1].replace(".", "/") + ".py")
    file = file if file.exists() else file.with_suffix("") / "__main__.py"
    guard = ast.parse(file.read_text()).body[-1]
    assert isinstance(guard, ast.If), f"{file}: if __name__ == '__main__' does not come last"
    last = ast.unparse(guard.body[-1])
    assert last.startswith("command.run("), f"{file} ends with {last}, not with command.run"


class Accepted(Exception):
    """A parser has taken the words that it was given."""


class Program:
    """One program, loaded as by ``python``, whose main function can be called many times."""

    def __init__(self, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefix = words[2:] if words[0] == "-m" else words[1:]
        self.patch = monkeypatch
        mains: list[Callable[[], int]] = []
        with monkeypatch.context() as patch:
            patch.setattr(command, "run", mains.append)
            patch.setattr(sys, "excepthook", sys.excepthook)
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__")
            else:
                runpy.run_path(str(REPO / words[0]), run_name="__main__")
        (self.main,) = mains

    def run(self, words: list[str], parsed: Callable[..., Any] | None = None) -> int:
        """The exit status; ``parsed`` gets the parser when it has accepted the words."""
        parse = command.Parser.parse_known_args
        with self.patch.context() as patch:
            if parsed is not None:
                patch.setattr(
                    command.Parser,
                    "parse_known_args",
                    lambda parser, *rest: parsed(parser, lambda: parse(parser, *rest)),
                )
            patch.setattr(sys, "argv", ["program", *self.prefix, *words])
            return command.status(self.main)

    def actions(self) -> list[Any]:
        """The arguments of its parser."""

        def stop(parser: command.Parser, parse: Callable[[], Any]) -> None:
            found.append(parser)
            raise Accepted

        found: list[command.Parser] = []
        with pytest.raises(Accepted):
            self.run([], stop)
        return found[0]._actions


def bad_values(action: Any, folder: Path) -> tuple[str, ...] | None:
    """Values that an argument must not take; None if that is not known."""
    file = folder / "file"
    file.write_bytes(b"\xff{")
    (folder / "list.json").write_text("[1]")
    (folder / "empty.json").write_text("{}")
    if isinstance(action.type, command.JsonInput):
        numbers = dict.fromkeys(action.type.keys, 7)
        (folder / "numbers.json").write_text(json.dumps(numbers))
        (folder / "rows.json").write_text(json.dumps(dict.fromkeys(numbers, [{}])))
    if action.nargs == 0:
        return ("x",)  # --flag=x
    if action.choices:
        return ("nonsense", "", LONG, BYTES)
    if action.type in (command.output, files.output, style.output):
        suffix = ".png" if action.type is style.output else ""
        missing = str(folder / "no" / f"file{suffix}")
        values = (str(folder), missing, str(folder / f"{LONG}{suffix}"), f"{file}/x{suffix}")
        return (*values, "/dev/full", "", *(("x.jpg", "png", ".png") if suffix else ()))
    if action.type is command.folder:
        return (str(file), f"{file}/x", str(folder / LONG), "/dev/full", "/proc/x")
    if action.type is command.positive:
        return ("", "0", "-1", "nan", "inf", "x", DIGITS)
    if action.type is command.expression:
        return ("(", "[", "*", "a{9999999999999999999}", "(?P<a>)(?P<a>)")
    if isinstance(action.type, command.Number):
        above = ("inf", "1e999") if action.type.high > 1e300 else (str(action.type.high + 1),)
        return ("", "nan", "x", str(action.type.low - 1), *above)
    if isinstance(action.type, command.Whole):
        one = action.type
        words = ("", "x", "1.5", DIGITS, "-" + DIGITS, str(one.low - 1), str(one.high + 1))
        return (*words, str(one.low + 1)) if one.step > 1 else words
    if isinstance(action.type, command.JsonInput):
        names = ("file", "list.json", "empty.json", "numbers.json", "rows.json", "none", LONG)
        return (str(folder), *(str(folder / name) for name in names))
    return FREE.get((action.option_strings or [action.dest])[-1])


def bad_words(actions: list[Any], folder: Path) -> Iterator[tuple[list[str], bool]]:
    """Command lines that must be refused, and whether a parser has to."""
    yield ["--no-such-option"], True
    yield [f"--{LONG}=1"], True
    yield [f"--{BYTES}"], True
    before: list[str] = []
    for action in actions:
        values = bad_values(action, folder)
        flag = (action.option_strings or [""])[-1]
        assert values is not None, f"FREE has no values for {flag or action.dest}"
        strict = (flag or action.dest) not in FREE
        for value in values:
            if flag:
                yield [f"{flag}={value}"], strict
            elif value:
                yield [*before, value], strict
        if flag and action.nargs != 0:
            yield [f"{flag}=--"], True
        if not flag:
            before += list(action.choices or ())[:1]


@pytest.mark.parametrize("words", COMMANDS, ids=named)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import of package")
def test_bad_arguments_are_one_line(words, monkeypatch, tmp_path, capfd):
    def refused(parser: command.Parser, parse: Callable[[], Any]) -> Any:
        result = parse()
        if not result[1]:  # no unknown words are left either
            raise Accepted(line)
        return result

    monkeypatch.setattr(estimate, "prepare", lambda *_: None)  # compiles in the background
    program = Program(words, monkeypatch)
    for line, strict in bad_words(program.actions(), tmp_path):
        if words == ["build.py", "run"] and line[0].startswith(("--no", "--x", "--c")):
            if "check" not in line[0]:
                continue  # nvcc's own flags
        capfd.readouterr()
        status = program.run(line, refused if strict else None)
        out, err = capfd.readouterr()
        assert (status, out, err.count("\n")) == (2, "", 1), (line, err)
        assert "error: " in err and len(err) < 1200, err


@pytest.mark.parametrize("words", COMMANDS, ids=named)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import of package")
def test_help(words, monkeypatch, capfd):
    with pytest.raises(SystemExit) as ended:
        sys.exit(Program(words, monkeypatch).run(["--help"]))
    assert ended.value.code in (0, None)
    assert "usage: " in capfd.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["nowhere.cu"],
        [f"{LONG}.cu"],
        [f"{BYTES}.cu"],
        ["--check=--", "a.cu"],
        ["--check=nonsense", "a.cu"],
        ["-I"],
        ["--target", "tpu", "a.cu"],
    ],
)
def test_programs_that_cannot_be_run_are_one_line(line, monkeypatch, capfd):
    assert Program(["build.py", "run"], monkeypatch).run(line) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "error: " in err


@pytest.mark.full
@pytest.mark.parametrize("words", COMMANDS, ids=named)
def test_bad_arguments_of_a_process_are_one_line(words, tmp_path):
    """As in the test above, in a process of its own, as a shell starts it."""
    for word in (b"--no-such-option", b"--json=/no/such/file", b"--caf\xe9", b"--json=--"):
        child = python(*words, word)
        status, out, err = finished(child, 300)
        assert (status, out) == (2, ""), err
        assert "error: " in err and err.count("\n") == 1, err
