"""What all command lines have in common: how they end.

``run(main)`` is the last line of every program. Invalid arguments give one line and exit status 2,
a ``Failure`` or an error of the system its message and 1, Ctrl-C one line and 130; never a
traceback. Output that a closed pipe or a full disk does not take is dropped, and the program goes
on: what it measures is still saved.

The functions and classes that argparse can use as a ``type`` test arguments before work is done.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .errors import Failure, UsageError

_SHOWN = 200  # characters of a word in a message


def run(main: Callable[[], int | None]) -> NoReturn:
    """End the process with the exit status of ``main``, which returns it or None for 0."""
    with _lasting_output() as streams:
        code = status(main)
        for stream in streams:
            stream.flush()
        lost = streams[0].buffer.raw.lost
        if lost is not None and lost.errno != errno.EPIPE:  # a pipe's reader has seen enough
            print(f"{program()}: error: its output: {lost.strerror}", file=sys.stderr)
            code = code or 1
    sys.exit(code)


def status(main: Callable[[], int | None], prog: str = "") -> int:
    """The exit status of ``main``; what it raises becomes a message on stderr.

    Args:
        main: what to run.
        prog: the program's name for messages; by default as it was called.
    """
    prog = prog or program()
    try:
        return main() or 0
    except UsageError as error:
        return _end(f"{prog}: error: {shortened(str(error))}", 2)
    except Failure as error:
        return _end(str(error), 1)
    except OSError as error:
        return _end(f"{prog}: error: {reason(error)}", 1)
    except KeyboardInterrupt:
        return _end("interrupted", 130)


def _end(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def program() -> str:
    """The program as it was called: ``build.py``, ``python -m simulator.bench``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return os.path.basename(sys.argv[0])


def reason(error: OSError) -> str:
    """An error of the system in words, after the file that it is about."""
    what = f"{shortened(os.fsdecode(error.filename))}: " if error.filename else ""
    return f"{what}{error.strerror or error}"


def shortened(text: str) -> str:
    """The text with the middle of endless words left out."""
    most, end = _SHOWN, _SHOWN // 8

    def shorter(match: re.Match[str]) -> str:
        word = match[0]
        return f"{word[: most - end]}...{word[-end:]} ({len(word)} characters)"

    return re.sub(rf"\S{{{2 * most},}}", shorter, " ".join(text.split("\n")))


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError, and whose program is named as it was called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"prog": program()} | settings)

    def error(self, message: str) -> NoReturn:  # noqa: D102
        raise UsageError(re.sub(r"^argument (\S+): (?!invalid|expected|not )", r"\1 ", message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: D102
        words = sys.argv[1:] if args is None else list(args)
        for word in words[: words.index("--") if "--" in words else None]:
            if re.fullmatch(r"-[^=]*=--", word):  # argparse takes the value for the end of options
                raise UsageError(f"{word}: -- is not a value")
        return super().parse_known_args(words, namespace)


# ------------------------------------------------------------------------------------------------
# Types of arguments


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``, a multiple of ``step``."""

    low: int = 0
    high: int = 2**31 - 1
    step: int = 1

    def __call__(self, text: str) -> int:
        """The number. Raises argparse's error."""
        digits = re.fullmatch(r"[+-]?[0-9]{1,18}", text)
        number = int(text) if digits else self.low - 1
        if not self.low <= number <= self.high or number % self.step:
            wanted = f"a whole number from {self.low} to {self.high}"
            wanted += f", a multiple of {self.step}" if self.step > 1 else ""
            raise argparse.ArgumentTypeError(f"{shortened(repr(text))} is not {wanted}")
        return number


@dataclass(frozen=True)
class Number:
    """A finite number from ``low`` to ``high``."""

    low: float = 0.0
    high: float = sys.float_info.max

    def __call__(self, text: str) -> float:
        """The number. Raises argparse's error."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not self.low <= number <= self.high:
            end = "" if self.high == sys.float_info.max else f" to {self.high:g}"
            raise argparse.ArgumentTypeError(
                f"{shortened(repr(text))} is not a number from {self.low:g}{end or ' up'}"
            )
        return number


def positive(text: str) -> float:
    """A number above 0, and finite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{shortened(repr(text))} is not a number above 0")
    return number


def expression(text: str) -> re.Pattern[str]:
    """A regular expression."""
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f"{shortened(repr(text))} is not a regular expression: {error}"
        ) from None


def words(text: str) -> str:
    """A text that says something; bytes that are not text appear escaped."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{shortened(repr(text))} says nothing; expected a text")
    return text.encode(errors="backslashreplace").decode()


def output(text: str) -> Path:
    """A file for results, that can be written: so that no work is lost. It is left as it is."""
    path = Path(text)
    try:
        _prove_writable(path)
    except FileNotFoundError:
        there = path.parent.is_dir()
        problem = "it cannot be created" if there else f"there is no folder {path.parent}"
    except IsADirectoryError:
        problem = "this is a folder; name a file" if text else "name a file"
    except OSError as error:
        problem = f"it cannot be written: {error.strerror}"
    else:
        return path
    about = f"{shortened(text)}: " if text else ""
    raise argparse.ArgumentTypeError(about + problem)


def _prove_writable(path: Path) -> None:
    """Raise OSError unless the file, which may not exist, can be opened and grow."""
    try:
        there = path.stat()
    except FileNotFoundError:
        there = None
    if there and stat.S_ISFIFO(there.st_mode):
        return  # opening it would wait for the reader
    descriptor = -1
    try:  # from the start: an interrupt leaves no empty file either
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o666)
        device = there and stat.S_ISCHR(there.st_mode) and not os.isatty(descriptor)
        if not there or device:
            os.write(descriptor, b"\n")
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        if not there:
            path.unlink(missing_ok=True)


def folder(text: str) -> Path:
    """A folder for results, which is created; files can be written there."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _prove_writable(path / f".{os.getpid()}")
    except FileExistsError:
        problem = "this is not a folder"
    except OSError as error:
        problem = f"it cannot be written to: {error.strerror}"
    else:
        return path.absolute()
    raise argparse.ArgumentTypeError(f"{shortened(text)}: {problem}")


@dataclass(frozen=True, eq=False)  # argparse hashes it
class JsonInput:
    """A JSON file as ``origin`` writes it: an object with these keys.

    Each has a value of this type, or is a list of objects with these keys.
    """

    origin: str
    keys: Mapping[str, type | tuple[str, ...]]

    def __call__(self, text: str) -> dict[str, Any]:
        """The object. Raises argparse's error."""
        try:
            content = json.loads(Path(text).read_bytes())
        except OSError as error:
            problem = str(error.strerror)
        except (ValueError, RecursionError):
            problem = "this is not JSON"
        else:
            known = content if isinstance(content, dict) else {}
            wrong = [key for key, wanted in self.keys.items() if not _fits(known.get(key), wanted)]
            if not wrong:
                return known
            problem = f"it has no {wrong[0]!r}, or a wrong one"
        raise argparse.ArgumentTypeError(
            f"{shortened(text)}: {problem}; expected a file that {self.origin} wrote"
        )


def _fits(value: Any, wanted: type | tuple[str, ...]) -> bool:
    if isinstance(wanted, type):
        return isinstance(value, wanted)
    rows = value if isinstance(value, list) else [None]
    return all(isinstance(row, dict) and row.keys() >= {*wanted} for row in rows)


# ------------------------------------------------------------------------------------------------
# Output


def reader_is_gone() -> bool:
    """Whether what is printed goes nowhere, as behind ``| head`` that has seen enough."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return getattr(raw, "lost", None) is not None


class _Lasting(io.FileIO):
    """A file descriptor that takes everything: after the first error it is dropped."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return len(data)


def _lasting(descriptor: int, like: Any) -> Any:
    try:
        os.fstat(descriptor)
    except OSError:  # closed: nothing else may get this number
        null = os.open(os.devnull, os.O_WRONLY)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(descriptor, "wb", closefd=False)),
        encoding=getattr(like, "encoding", None) or "utf-8",
        errors="backslashreplace",  # of names that are not text
        line_buffering=os.isatty(descriptor) or descriptor == 2,
    )


@contextmanager
def _lasting_output() -> Iterator[tuple[Any, Any]]:
    """Standard output and standard error that a closed pipe or a full disk does not stop."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if stream is not None:
            stream.flush()
    sys.stdout, sys.stderr = streams = _lasting(1, before[0]), _lasting(2, before[1])
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before
