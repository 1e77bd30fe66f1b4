"""Splits CUDA source that uses PyTorch's headers into a half for nvcc and one for the C++ compiler.

nvcc reads a source three times: for the device, for the host, and once more what it has made of the
host's part. PyTorch's headers take most of each. But kernels seldom need them, and host functions
need nvcc for one thing only: ``kernel<<<grid, block>>>(x)``, which it turns into two calls that any
C++ compiler can make. So the device's half keeps kernels and what they use, without PyTorch, and
the host's half the functions, with kernels as declarations. Lines stay where they are.

What cannot be separated is left to nvcc as a whole: kernels that use PyTorch's types, and variables
of the device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .signatures import code_only

_UNNAMED = "workbench_unnamed"
# What a launch becomes: this, and a call of what has the kernel's name in nvcc's object.
PUSH = """\
extern "C" unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, cudaStream_t);
static inline unsigned workbench_push(dim3 grid, dim3 block, size_t shared_bytes = 0,
                                      cudaStream_t stream = nullptr) {
  return __cudaPushCallConfiguration(grid, block, shared_bytes, stream);
}
"""
_TORCH_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"](?:torch|ATen|c10|pybind11)/.*$', re.M)
# Headers of the device, which only nvcc can read.
_DEVICE_INCLUDE = re.compile(
    r'^[ \t]*#[ \t]*include[ \t]*[<"](?:cub/|mma\.h|cooperative_groups|cuda/).*$', re.M
)
_TORCH = re.compile(
    r"\b(?:torch|at|c10|py|pybind11)\s*::|\b(?:TORCH|PYBIND11|AT|C10)_\w+\s*\(|\bTensor\b"
    r"|\bnamespace\s+(?:torch|at|c10)\b|\bpybind11\b"
)
_DEVICE_WORDS = re.compile(r"\b__(?:device|constant|managed|shared)__\b|\btexture\s*<")
_NAMESPACE = re.compile(r"(?:inline\s+)?namespace\b([\s\w:]*)\{|extern\s*\{")
_CLASS = re.compile(r"\s*(?:template\s*<.*>\s*)?(?:typedef\s+)?(?:struct|class|union|enum)\b", re.S)
_QUALIFIERS = re.compile(
    r"\b(?:__global__|static|inline|__forceinline__|extern\b(?!\s*\())"
    r"|\b(?:__launch_bounds__|__cluster_dims__|__maxnreg__)\s*\([^()]*(?:\([^()]*\)[^()]*)*\)"
)
_INLINE = re.compile(r"\b(?:inline|static|template|constexpr|consteval|__forceinline__)\b")


@dataclass(frozen=True)
class Halves:
    """The two halves of a source.

    Attributes:
        host: for the C++ compiler, with PyTorch's headers.
        device: for nvcc, without them.
        templates: kernels that are templates, whose instances only the host's half names.
        not_in_host, not_in_device: the words of what they lack.
    """

    host: str
    device: str
    templates: tuple[str, ...]
    not_in_host: frozenset[str]
    not_in_device: frozenset[str]


def halves(source: str) -> Halves | None:
    """The halves of a source; None if the device's part needs PyTorch's headers."""
    code = code_only(source)
    host, device = _Edited(source), _Edited(source)
    templates: list[str] = []
    for half, includes in ((device, _TORCH_INCLUDE), (host, _DEVICE_INCLUDE)):
        for include in includes.finditer(source):
            half.blank(include.start(), include.end())
    for start, end in _unnamed_namespaces(code):
        for half in (host, device):
            half.replace(start, end, f"inline namespace {_UNNAMED} {{")
    for start, body, end in _items(code):
        head, whole = code[start:body], code[start:end]
        function = body < end and _is_function(head)
        needs_torch = _TORCH.search(whole)
        if "__global__" in head:
            if needs_torch:
                return None
            for half in (host, device):
                for word in _QUALIFIERS.finditer(head):
                    if half is host or word[0] == "static":
                        half.blank(start + word.start(), start + word.end())
            if body < end:
                host.replace(body, end, ";" + "\n" * source.count("\n", body, end))
            if re.match(r"\s*template\b", head):
                templates.append(_name(head))
        elif function and "__host__" in head and "__device__" in head:
            if needs_torch:
                return None
            if not _INLINE.search(head):
                host.replace(start, start, "inline ")
        elif "__device__" in head and function:
            if needs_torch:
                return None
            host.blank(start, end)
        elif _DEVICE_WORDS.search(head):
            return None  # a variable; or a class's method before its first brace
        elif needs_torch and _DEVICE_WORDS.search(whole):
            return None
        elif needs_torch or (function and "constexpr" not in head) or _is_variable(head):
            device.blank(start, end)
    for start, end, text in _launches(code):
        host.replace(start, end, text(source))
    for word in re.finditer(r"\b__(?:host|device)__\b", code):
        host.blank(word.start(), word.end())
    return Halves(host.text(), device.text(), tuple(templates), host.removed(), device.removed())


def instances(symbols: list[str], templates: tuple[str, ...]) -> str:
    """Instantiations of the kernels that a host's half refers to.

    Args:
        symbols: its undefined symbols, demangled.
        templates: kernels that are templates.
    """
    found = []
    for symbol in symbols:
        name = re.match(r"void (?:\w+::)*(\w+)<", symbol)
        if name and name[1] in templates:
            found.append(symbol)
    text = "".join(f"template __global__ {symbol};\n" for symbol in dict.fromkeys(found))
    used = [name for name in ("Half", "BFloat16") if f"c10::{name}" in text]
    return "".join(f"#include <c10/util/{name}.h>\n" for name in used) + text


class _Edited:
    """A text and changes to it, by positions of the original."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._changes: list[tuple[int, int, str]] = []

    def replace(self, start: int, end: int, text: str) -> None:
        """Put a text in the place of another."""
        self._changes.append((start, end, text))

    def blank(self, start: int, end: int) -> None:
        """Leave only the line breaks."""
        self.replace(start, end, re.sub(r"[^\n]", " ", self._text[start:end]))

    def removed(self) -> frozenset[str]:
        """The words of what was replaced."""
        spans = (self._text[start:end] for start, end, _ in self._changes)
        return frozenset(word for span in spans for word in re.findall(r"[A-Za-z_]\w*", span))

    def text(self) -> str:
        """The result; of changes inside one another the outer one counts."""
        parts, at = [], 0
        for start, end, text in sorted(self._changes, key=_insertions_first):
            if start >= at:
                parts += [self._text[at:start], text]
                at = end
        return "".join([*parts, self._text[at:]])


def _insertions_first(change: tuple[int, int, str]) -> tuple[int, bool, int]:
    start, end, _ = change
    return start, end > start, -end


def _unnamed_namespaces(code: str) -> Iterator[tuple[int, int]]:
    for found in re.finditer(r"(?:inline\s+)?\bnamespace\s*\{", code):
        yield found.start(), found.end()


def _items(code: str) -> Iterator[tuple[int, int, int]]:
    """Start, first brace and end of each declaration outside of namespaces' braces.

    Without a brace the second is the end.
    """
    at = 0
    while at < len(code):
        if code[at].isspace() or code[at] in "};":
            at += 1
        elif scope := _NAMESPACE.match(code, at):
            at = scope.end()
        else:
            body, end = _item(code, at)
            yield at, body, end
            at = end


def _item(code: str, start: int) -> tuple[int, int]:
    depth, body = 0, 0
    for i in range(start, len(code)):
        c = code[i]
        if c == "{" and depth == 0 and not body:
            body = i
        depth += (c in "([{") - (c in ")]}")
        if depth == 0 and c == ";":
            return body or i + 1, i + 1
        if depth == 0 and c == "}" and _is_function(code[start:body]):
            return body, i + 1
    return body or len(code), len(code)


def _is_function(head: str) -> bool:
    """Whether a brace after this begins the body of a function."""
    return "(" in head and not _CLASS.match(head) and not re.search(r"=\s*$", head)


def _is_variable(head: str) -> bool:
    """Whether an item defines a variable that changes, which only the host can use."""
    words = r"\b(?:const|constexpr|using|typedef|template|struct|class|union|enum|static_assert)\b"
    declared = head.partition("=")[0]
    return "(" not in declared and not re.search(words, declared)


def _name(head: str) -> str:
    """The name of a kernel: what is before its parameters."""
    plain = _QUALIFIERS.sub(lambda found: " " * len(found[0]), head)
    return re.findall(r"(\w+)\s*\(", plain)[0]


def _launches(code: str) -> Iterator[tuple[int, int, Callable[[str], str]]]:
    """Start and end of each ``kernel<<<...>>>``, and what replaces it, given the source."""
    for found in re.finditer("<<<", code):
        start = _callee(code, found.start())
        end = _end_of_launch(code, found.end())
        if start is None or end is None:
            continue
        spans = (start, found.start()), (found.end(), end)

        def text(source: str, spans: tuple = spans) -> str:
            kernel, shape = (source[a:b] for a, b in spans)
            return f"(workbench_push({shape})) ? (void)0 : {kernel.rstrip()}"

        yield start, end + 3, text


def _callee(code: str, end: int) -> int | None:
    """Where the kernel's name before ``<<<`` starts."""
    at = len(code[:end].rstrip())
    if code[at - 1] == ">":
        inside = angles = 0  # brackets; what compares is in some
        while at > 0:
            at -= 1
            inside += (code[at] in ")]") - (code[at] in "([")
            angles += (inside == 0) * ((code[at] == ">") - (code[at] == "<"))
            if inside == 0 and angles == 0:
                break
    name = re.search(r"[A-Za-z_][\w:]*\s*$", code[:at])
    return name.start() if name else None


def _end_of_launch(code: str, start: int) -> int | None:
    """Where the ``>>>`` is that ends the shape of a launch."""
    depth = 0
    for i in range(start, len(code)):
        depth += (code[i] in "([{") - (code[i] in ")]}")
        if depth == 0 and code.startswith(">>>", i):
            return i
        if depth < 0 or code[i] == ";":
            return None
    return None
