"""The PTX that nvcc makes of a source: which line it came from, and whether it calls the host.

nvcc says nothing about two things. ptxas names a line of PTX, not of the source. And a call from
device code to a function of the host, through a __host__ __device__ or (--expt-relaxed-constexpr) a
constexpr function, is at most a warning: it becomes a trap, or removes the code around it. Compiled
without optimisation (-G), it remains as a call of address 0.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import waiting

_LOC = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)\s+\d+(?:.*inlined_at\s+(\d+)\s+(\d+))?")
_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.M)
_FUNCTION = re.compile(r"^(?:\.\w+\s+)*\.(entry|func)\b(?:\s*\([^)]*\))?\s+([\w$]+)")
_ZERO = re.compile(r"\s*mov\.\w64\s+(%rd\d+), 0;")
_CALL = re.compile(r"call(?:\.uni)?\s+(?:\([^)]*\)\s*,\s*)?([%\w$]+)")
_DROPPED_WITH_VALUE = ("-o", "--dependency-output", "-MF")
_DROPPED = ("-c", "-lineinfo", "--generate-dependencies-with-compile", "-MD")
_SYSTEM = re.compile(
    r"^/usr/|/(site|dist)-packages/|/nvidia/cu1|/toolkit/(gpu|simulator)_"
    r"|/include/(cuda|cccl|torch)\b"
)


def is_users(path: str) -> bool:
    """Whether a file is the user's own: none of the compiler, the toolkit or PyTorch."""
    return bool(path) and not _SYSTEM.search(path)


def rerun(command: str, folder: Path, *flags: str) -> str:
    """The PTX that an nvcc command would compile to; "" if it does not get that far."""
    return compiled(command, folder, *flags)[0]


def compiled(command: str, folder: Path, *flags: str) -> tuple[str, str]:
    """The PTX that an nvcc command would compile to, and what nvcc says; "" for no PTX."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.ptx"
        lines = "-lineinfo" if "-G" not in flags else "-w"
        done = waiting.run(
            [*flags_of(command), "-ptx", lines, *flags, "-o", str(out)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
        )
        said = done.stdout.decode(errors="replace")
        return (out.read_text(errors="replace") if out.exists() else ""), said


def flags_of(command: str) -> list[str]:
    """The words of an nvcc command that compiles, without what it writes and where to."""
    words, kept = shlex.split(command), []
    while words:
        word = words.pop(0)
        if word in _DROPPED_WITH_VALUE:
            words = words[1:]
        elif word not in _DROPPED:
            kept.append(word)
    return kept


def place_of(ptx: str, number: int) -> tuple[str, int]:
    """The user's file and line that a line of PTX was made from; ("", 0) if unknown."""
    files = dict(_FILE.findall(ptx))
    for line in reversed(ptx.splitlines()[:number]):
        if match := _LOC.match(line):
            for file, at in ((match[1], match[2]), (match[3], match[4])):
                if file and is_users(files.get(file, "")):
                    return os.path.normpath(files[file]), int(at)
            return "", 0
    return "", 0


@dataclass(frozen=True)
class HostCall:
    """A call in device code that reaches a function of the host."""

    path: str  # the user's line
    line: int
    name: str  # what that line calls, or "" if it is the function itself


@dataclass
class _Function:
    is_kernel: bool
    calls: list[tuple[str, str, int]]  # the callee, "" for the host's; file, line


def only_kernel(ptx: str, name: str) -> str:
    """The module without its other kernels; with all of its functions and variables."""
    kept: list[str] = []
    depth, header = 0, ""  # of an entry that is left out, until its body ends
    for line in ptx.splitlines(keepends=True):
        if depth == 0 and not header and (match := _FUNCTION.match(line)):
            header = match[2] if match[1] == "entry" and match[2] != name else ""
        if not header:
            kept.append(line)
        before, depth = depth, depth + line.count("{") - line.count("}")
        if header and depth == 0 and (before > 0 or "{" in line):
            header = ""
    return "".join(kept)


def changed_kernels(before: str, after: str) -> set[str] | None:
    """The kernels of a module whose instructions differ.

    None for all of them: a function that they may call differs, or a variable of the module.
    """
    old, new = _instructions(before), _instructions(after)
    if old["func"] != new["func"] or _outside(before) != _outside(after):
        return None
    names = old["entry"].keys() | new["entry"].keys()
    return {name for name in names if old["entry"].get(name) != new["entry"].get(name)}


_NO_CODE = re.compile(r"//.*$|^\s*\.(?:loc|file)\b.*$", re.M)


def _outside(ptx: str) -> list[str]:
    """The words of a module outside of its functions: its variables, with what is in them."""
    kept: list[str] = []
    depth, inside = 0, False  # a function, or a section of debug information
    for line in _NO_CODE.sub("", ptx).splitlines():
        if depth == 0 and not inside:
            function = _FUNCTION.match(line)
            inside = bool(function) or line.lstrip().startswith(".section")
        if not inside:
            kept += line.split()
        before, depth = depth, depth + line.count("{") - line.count("}")
        if inside and depth == 0 and (before > 0 or "{" in line or line.strip() == ";"):
            inside = False  # its end, or that of a declaration
    return kept


def _instructions(ptx: str) -> dict[str, dict[str, list[str]]]:
    """The words of each function, by kind and name, without its places in the source."""
    found: dict[str, dict[str, list[str]]] = {"entry": {}, "func": {}}
    for kind, name, body in _bodies(ptx):
        found[kind][name] = _NO_CODE.sub("", body).split()
    return found


def may_call_host(ptx: str) -> bool:
    """Whether optimised PTX looks as if such a call was in it: a trap, or a function cut off."""
    if re.search(r"(?<!// begin inline asm\n)^\s*trap;", ptx, re.M):
        return True
    return any(not re.search(r"\b(ret|exit)(\.uni)?;", body) for _, _, body in _bodies(ptx))


def host_calls(ptx: str) -> list[HostCall]:
    """The user's lines from which unoptimised PTX reaches the host, one per line of source.

    What only throws is left out: std::optional's value() works as long as there is one.
    """
    functions = _functions(ptx)
    found: dict[tuple[str, int], HostCall] = {}
    waiting = [(name, "", 0, "") for name, f in functions.items() if f.is_kernel]
    seen = set()
    while waiting:
        name, path, line, through = waiting.pop(0)
        for callee, file, at in functions[name].calls:
            own = is_users(file)
            where = (file, at, callee) if own else (path, line, through)
            if not callee:
                if not _harmless(file, at):
                    found.setdefault(where[:2], HostCall(where[0], where[1], where[2]))
            elif (callee, *where) not in seen and callee in functions:
                seen.add((callee, *where))
                waiting.append((callee, *where))
    names = _demangled([call.name for call in found.values()])
    calls = [HostCall(c.path, c.line, names.get(c.name, "")) for c in found.values()]
    calls.sort(key=lambda call: (call.path, call.line))
    # A class has a constructor and a destructor: its first line is enough.
    first = {(c.path, c.name or c.line): c for c in reversed(calls)}
    return [call for call in calls if call in first.values()]


def _functions(ptx: str) -> dict[str, _Function]:
    files = dict(_FILE.findall(ptx))
    functions: dict[str, _Function] = {}
    for kind, name, body in _bodies(ptx):
        zeros: set[str] = set()
        file, line = "", 0
        function = functions[name] = _Function(kind == "entry", [])
        lines = body.splitlines()
        for i, text in enumerate(lines):
            if match := _LOC.match(text):
                file, line = os.path.normpath(files.get(match[1], "")), int(match[2])
            elif match := _ZERO.match(text):
                zeros.add(match[1])
            elif match := _CALL.match(" ".join(part.strip() for part in lines[i : i + 4])):
                callee = match[1]
                if callee in zeros:
                    function.calls.append(("", file, line))
                elif not callee.startswith("%"):
                    function.calls.append((callee, file, line))
    return functions


def _bodies(ptx: str) -> Iterator[tuple[str, str, str]]:
    """Of each function: "entry" or "func", its name, its text."""
    header, start, depth = None, 0, 0
    lines = ptx.splitlines()
    for i, line in enumerate(lines):
        if depth == 0 and (match := _FUNCTION.match(line)):
            header, start = match, i
        before, depth = depth, depth + line.count("{") - line.count("}")
        if before > 0 and depth == 0 and header:
            yield header[1], header[2], "\n".join(lines[start:i])
            header = None


def _harmless(path: str, line: int) -> bool:
    """Whether a line only throws, or calls what the optimiser replaces (__builtin_memmove)."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return False
    text = "\n".join(lines[max(line - 2, 0) : line + 1])
    return bool(re.search(r"\b(__)?throw|__builtin_", text))


def _demangled(names: Sequence[str]) -> dict[str, str]:
    try:
        done = subprocess.run(
            ["c++filt", *names], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, map(_short, done), strict=False))


def _short(name: str) -> str:
    """A function's name without the arguments of its templates and its own."""
    before = ""
    while before != name:
        before, name = name, re.sub(r"<[^<>]*>", "", name)
    name = re.sub(r"\(.*", "", name.replace("__cxx11::", "")).strip()
    name = name.split()[-1] if name else ""
    return re.sub(r"\b(\w+)::~?\1$", r"\1", name)  # of a constructor or destructor, the class
