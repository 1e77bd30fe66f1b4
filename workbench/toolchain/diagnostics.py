"""Reduces compiler output to what is worth reading: file:line, source, caret and a hint."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import ptx_text
from .errors import BuildError
from .paths import shown

_SHOWN = 8
_LEAST_BYTES = 1 << 20  # what a disk is full without
# nvcc:  file.cu(12): error: text      file.cu(12): warning #187-D: text
_NVCC = re.compile(
    r"^(?P<path>[^\s(][^()]*)\((?P<line>\d+)\): (?:catastrophic )?(?P<kind>error|warning)"
    r"(?: #[\w-]+)?: (?P<text>.*)$"
)
# The end of the file came before that of a block; a note names its beginning.
_NVCC_END = re.compile(r"^At end of source: error(?: #[\w-]+)?: (?P<text>.*)$")
_NVCC_WHOLE = re.compile(r'detected in the compilation of "([^"]*)"')
_NVCC_NOTE = re.compile(r"^(?P<path>[^\s(][^()]*)\((?P<line>\d+)\): note #[\w-]+: to match this")
# g++:   file.cpp:12:7: error: text
_GCC = re.compile(
    r"^(?P<path>[^\s:][^:]*):(?P<line>\d+):(?:(?P<column>\d+):)? "
    r"(?:fatal )?(?P<kind>error|warning): (?P<text>.*)$"
)
_PTXAS = re.compile(r"^ptxas (?:\S+, line (?P<line>\d+); )?.*?(?:error|fatal)\s*: (?P<text>.*)$")
_PTXAS_END = "Ptx assembly aborted due to errors"
_FAILED = re.compile(r"^FAILED: (?:\[code=\d+\] )?(?P<object>\S+)")
_LD_FUNCTION = re.compile(r"ld(?:\.\w+)?: (?P<object>[^\s:]+): in function ")
_LD = re.compile(
    r"(?P<text>undefined reference to .*|multiple definition of [^;]*|"
    r"cannot find -l\S+.*|undefined symbol: .*)$"
)
_LD_OBJECT = re.compile(r"ld(?:\.\w+)?: (?P<object>[^\s:]+\.o):")


@dataclass(frozen=True)
class Diagnostic:
    """One error or warning. `line` and `column` count from 1; 0 if the compiler gives none."""

    path: str
    line: int
    text: str
    column: int = 0
    printed: tuple[str, str] = ("", "")  # nvcc: the preprocessed source line and the caret below it
    notes: tuple[str, ...] = ()
    kind: str = "error"


def build_error(label: str, log: str, log_path: Path, objects: Mapping[str, Path]) -> BuildError:
    """The exception for a failed build; `objects` maps object names to their sources."""
    log_path.write_text(log)
    found = _once(d for d in _parse(log, objects, log_path.parent) if d.kind == "error")
    if unclosed := [d for d in found if d.text.startswith(_UNCLOSED)]:
        found = unclosed  # the others follow from it
    parts = _list(found, "errors")
    if not found:
        tail = [line for line in log.splitlines() if line.strip()][-15:]
        parts.append("\n".join([f"building {label} failed:", *tail, *_full_disks(log_path)]))
    return BuildError("\n\n".join(parts) + f"\n\nfull log: {shown(log_path)}")


def _full_disks(log_path: Path) -> list[str]:
    """Hints on folders without room, about which a compiler may say nothing."""
    folders = dict.fromkeys([tempfile.gettempdir(), str(log_path.parent)])
    full = [folder for folder in folders if shutil.disk_usage(folder).free < _LEAST_BYTES]
    return [f"hint: there is almost no room left in {shown(folder)}" for folder in full]


def warnings(log: str, folder: Path) -> list[str]:
    """The warnings about the user's own files that compilers gave in `folder`, each as text."""
    found = _once(d for d in _parse(log, {}, folder) if d.kind == "warning")
    found = [d for d in found if ptx_text.is_users(d.path)]
    # g++ compiles what nvcc has read before: of a line that both complain about, nvcc's.
    of_nvcc = {(d.path, d.line) for d in found if not d.column}
    return _list([d for d in found if not (d.column and (d.path, d.line) in of_nvcc)], "warnings")


def host_call_errors(calls: Sequence[ptx_text.HostCall]) -> list[str]:
    """Calls of the host's functions in device code, each as text."""
    return _list(
        [
            Diagnostic(
                call.path,
                call.line,
                f"device code calls {call.name or 'a function of the host'}"
                + (", which needs functions of the host" if call.name else ""),
                notes=("hint: a kernel that gets here would trap, or silently do nothing",),
            )
            for call in calls
        ],
        "errors",
    )


def _once(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Without repetitions: nvcc may report the same for the device and for the host."""
    return list({(d.path, d.line, d.text, d.printed): d for d in found}.values())


def _list(found: Sequence[Diagnostic], what: str) -> list[str]:
    parts = [_rendered(d) for d in found[:_SHOWN]]
    if len(found) > _SHOWN:
        parts.append(f"... and {len(found) - _SHOWN} more {what}")
    return parts


_UNCLOSED = 'expected a "}"'


def _parse(log: str, objects: Mapping[str, Path], folder: Path) -> Iterator[Diagnostic]:
    """What the commands said that ran in `folder`; nvcc may give paths relative to it."""
    for found in _in(log, objects, folder):
        path = found.path if os.path.isabs(found.path) else folder / found.path
        yield replace(found, path=os.path.normpath(path)) if os.path.exists(path) else found


def _in(log: str, objects: Mapping[str, Path], folder: Path) -> Iterator[Diagnostic]:
    lines = log.splitlines()
    failed = linked = command = ptx = ""
    for i, line in enumerate(lines):
        if match := _FAILED.match(line):
            failed, ptx = match["object"], ""
            command = lines[i + 1] if i + 1 < len(lines) else ""
        elif match := _NVCC.match(line):
            yield _from_nvcc(match, lines[i + 1 : i + 40])
        elif match := _NVCC_END.match(line):
            if note := next(filter(None, map(_NVCC_NOTE.match, lines[i + 1 : i + 2])), None):
                text = f"{match['text']}, to match this {{"
                yield _from_nvcc(note, lines[i + 2 : i + 4], text)
            elif whole := next(filter(None, map(_NVCC_WHOLE.search, lines[i:])), None):
                yield Diagnostic(whole[1], _last_line(folder / whole[1]), match["text"])
        elif match := _GCC.match(line):
            yield Diagnostic(
                match["path"],
                int(match["line"]),
                match["text"],
                int(match["column"] or 0),
                kind=match["kind"],
            )
        elif (match := _PTXAS.match(line)) and match["text"] != _PTXAS_END:
            path, number = "", 0
            if match["line"] and failed:
                ptx = ptx or ptx_text.rerun(command, folder)
                path, number = ptx_text.place_of(ptx, int(match["line"]))
            yield Diagnostic(path or str(objects.get(failed, failed)), number, match["text"])
        if match := _LD_FUNCTION.search(line) or _LD_OBJECT.search(line):
            linked = match["object"]
        if match := _LD.search(line):
            yield Diagnostic(str(objects.get(linked, linked or failed)), 0, match["text"])


def _from_nvcc(match: re.Match[str], following: list[str], text: str = "") -> Diagnostic:
    """The context from nvcc: the preprocessed line, a caret below it, template instantiations."""
    fields = match.groupdict()
    path, number, text = match["path"], int(match["line"]), text or fields["text"]
    kind = fields.get("kind") or "error"
    block = []
    for line in following:
        if not line.strip() or _NVCC.match(line):
            break
        block.append(line)
    caret = next((i for i, line in enumerate(block) if line.strip() == "^"), None)
    if caret is None:
        return Diagnostic(path, number, text, notes=tuple(n.strip() for n in block), kind=kind)
    printed = (block[caret - 1], block[caret]) if caret else ("", "")
    notes = block[: max(caret - 1, 0)] + block[caret + 1 :]
    return Diagnostic(path, number, text, 0, printed, tuple(n.strip() for n in notes), kind)


def _rendered(error: Diagnostic) -> str:
    where = shown(error.path) if os.path.isabs(error.path) else error.path
    if not error.line:
        head = f"{where}: error: {error.text}" if where else f"error: {error.text}"
        return "\n".join([head, *_hint(error, "")])
    source = _source_line(error.path, error.line)
    out = [f"{where}:{error.line}: {error.kind}: {error.text}"]
    column = error.column
    if source:
        column = column or _column(source, error)
        out.append(f"  {source}")
        if column:
            before = "".join("\t" if c == "\t" else " " for c in source[: column - 1])
            out.append(f"  {before}^")
    elif error.printed[0]:
        out += [f"  {error.printed[0].rstrip()}", f"  {error.printed[1].rstrip()}"]
    out += [f"  {note}" for note in error.notes]
    return "\n".join(out + _hint(error, source))


def _last_line(path: Path) -> int:
    """The number of the last line that is not empty."""
    try:
        return len(path.read_text(errors="replace").rstrip().splitlines())
    except OSError:
        return 0


def _source_line(path: str, line: int) -> str:
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[line - 1].rstrip() if 0 < line <= len(lines) else ""


def _column(source: str, error: Diagnostic) -> int:
    """The column in the original line for nvcc's caret under the preprocessed line."""
    printed, caret = error.printed
    position = caret.find("^")
    if position < 0:
        return 0
    rest = printed[position:].rstrip()
    code = re.sub(r"\s*//.*$", "", source)
    if not rest:
        return len(code) + 1
    if code.endswith(rest):
        return len(code) - len(rest) + 1
    token = re.match(r"\w+|.", rest)
    word = token[0] if token else ""
    places = [m.start() for m in re.finditer(rf"(?<!\w){re.escape(word)}", code)]
    return places[0] + 1 if places else 0


_HINTS = (
    (
        r"torch/\S+: No such file|ATen/\S+: No such file",
        "kernels include no PyTorch headers; only bindings.cpp does",
    ),
    (r"cannot find -l", "is the library installed? Specify its folder with -L"),
    (
        r"No such file or directory",
        "is the name spelt right? Local headers are found next to the file, in kernels/ and in the "
        "folders of -I",
    ),
    (r"expected a \"?;", "is a ; missing at the end of the line before?"),
    (
        r"calling a __host__ function.* from a __(device|global)__ function",
        "mark the called function __device__ (constexpr functions need nothing)",
    ),
    (
        r"too much shared data",
        "static shared memory is limited to 48 KiB; use extern __shared__ and "
        "cudaFuncSetAttribute(cudaFuncAttributeMaxDynamicSharedMemorySize)",
    ),
    (
        r"unsupported GNU version",
        "set CC and CXX to an older gcc and g++ that this CUDA version supports",
    ),
    (
        r"undefined reference to .*_rungs",
        "each of kernels/matmul.cu, softmax.cu, softmax_backward.cu and attention.cu ends with its "
        "table of rungs",
    ),
    (r"multiple definition of", "two files define it; make it static, inline, or rename one"),
)


def _hint(error: Diagnostic, source: str) -> list[str]:
    unknown = re.search(r'identifier "(\w+)" is undefined|‘(\w+)’ was not declared', error.text)
    if unknown:
        name = unknown[1] or unknown[2]
        close = difflib.get_close_matches(name, _identifiers(error.path) - {name}, 1, 0.75)
        return [f"  hint: did you mean {close[0]}?"] if close else []
    for pattern, hint in _HINTS:
        if re.search(pattern, error.text):
            return [f"  hint: {hint}"]
    return []


_CUDA_NAMES = frozenset(
    "threadIdx blockIdx blockDim gridDim warpSize __syncthreads __syncwarp __shfl_sync "
    "__shfl_xor_sync __shfl_down_sync __shfl_up_sync __ballot_sync atomicAdd atomicMax fmaxf fminf "
    "expf exp2f logf sqrtf rsqrtf float2 float4 int4 uint4 make_float2 make_float4 cudaStream_t "
    "cudaGetLastError dim3 size_t int64_t uint32_t __half __nv_bfloat16".split()
)


def _identifiers(path: str) -> set[str]:
    try:
        text = Path(path).read_text(errors="replace")
    except OSError:
        text = ""
    return {w for w in re.findall(r"[A-Za-z_]\w{2,}", text)} | _CUDA_NAMES
