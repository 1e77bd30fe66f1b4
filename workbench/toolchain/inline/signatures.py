"""Parses the signatures of host launchers in CUDA source."""

from __future__ import annotations

import re
from dataclasses import dataclass

# C++ pointee type -> torch dtype.
ELEMENTS = {
    "float": "float32", "double": "float64", "half": "float16", "__half": "float16",
    "__nv_bfloat16": "bfloat16", "nv_bfloat16": "bfloat16", "__nv_fp8_e4m3": "float8_e4m3fn",
    "__nv_fp8_e5m2": "float8_e5m2", "bool": "bool", "char": "int8", "signed char": "int8",
    "int8_t": "int8", "unsigned char": "uint8", "uint8_t": "uint8", "short": "int16",
    "int16_t": "int16", "unsigned short": "uint16", "uint16_t": "uint16", "int": "int32",
    "int32_t": "int32", "unsigned": "uint32", "unsigned int": "uint32", "uint32_t": "uint32",
    "long": "int64", "long long": "int64", "int64_t": "int64", "unsigned long": "uint64",
    "unsigned long long": "uint64", "uint64_t": "uint64", "size_t": "uint64", "void": "",
}  # fmt: skip
# C++ scalar type -> ctypes type.
SCALARS = {
    "float": "c_float", "double": "c_double", "bool": "c_bool", "short": "c_int16",
    "int16_t": "c_int16", "int": "c_int32", "int32_t": "c_int32", "unsigned": "c_uint32",
    "unsigned int": "c_uint32", "uint32_t": "c_uint32", "long": "c_int64", "long int": "c_int64",
    "long long": "c_int64", "int64_t": "c_int64", "unsigned long": "c_uint64",
    "unsigned long long": "c_uint64", "uint64_t": "c_uint64", "size_t": "c_uint64",
}  # fmt: skip
_STREAM = "cudaStream_t"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a launcher."""

    name: str
    ctype: str  # "float", "int", ..., without const
    kind: str  # "pointer", "scalar" or "stream"
    const: bool = False  # pointer: the kernel only reads
    default: str = ""  # as written


@dataclass(frozen=True)
class Launcher:
    """A host function that launches a kernel."""

    name: str
    scope: str  # enclosing namespaces, such as "detail::"
    returns: str  # "void" or "cudaError_t"
    parameters: tuple[Parameter, ...]

    @property
    def symbol(self) -> str:
        """The name of the C function around it."""
        return f"wbinline_{self.scope.replace('::', '_')}{self.name}"


def launchers(source: str, names: list[str]) -> list[Launcher]:
    """The functions `names` of `source`; ValueError if one is absent or cannot be called."""
    code = code_only(source)
    return [_launcher(code, name) for name in names]


def code_only(source: str) -> str:
    """`source` with comments, literals and preprocessor lines blanked; offsets are kept."""
    pattern = re.compile(
        r'R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"'  # raw strings
        r"|//(?:\\\n|[^\n])*|/\*.*?\*/"
        r'|"(?:\\.|[^"\\\n])*"|(?<![0-9A-Fa-f])\'(?:\\.|[^\'\\\n])+\''
        r"|^[ \t]*#(?:\\\n|[^\n])*",
        re.S | re.M,
    )
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), source)


def _launcher(code: str, name: str) -> Launcher:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} is not a function name")
    found = []
    for match in re.finditer(rf"(?<![\w:~.>]){name}\s*\(", code):
        close = _closing(code, match.end() - 1)
        if not re.match(r"\s*(noexcept\s*)?[{;]", code[close + 1 :]):
            continue
        scope = _scope(code, match.start())
        head = _statement(code, match.start()).strip()
        if scope is not None and head and not re.search(r"=|\breturn\b|\belse\b", head):
            found.append((head, scope, code[match.end() : close]))
    if not found:
        unclosed = "; is a } missing?" if code.count("{") > code.count("}") else ""
        raise ValueError(f"the source defines no function {name}(...) at namespace level{unclosed}")
    head, scope, text = found[-1]  # the definition follows its declarations
    parameters = _parameters(name, text)
    others = {(f[1], tuple(p.ctype for p in _parameters(name, f[2]))) for f in found[:-1]}
    if others - {(scope, tuple(p.ctype for p in parameters))}:
        raise ValueError(f"{name} is overloaded; give each launcher a unique name")
    return Launcher(name, scope, _return_type(name, head), parameters)


def _closing(code: str, position: int) -> int:
    """The index of the parenthesis that closes the one at `position`."""
    depth = 0
    for i in range(position, len(code)):
        depth += {"(": 1, ")": -1}.get(code[i], 0)
        if depth == 0:
            return i
    return len(code)


def _scope(code: str, end: int) -> str | None:
    """The namespaces around `end` ("a::b::"); None inside a function or class."""
    stack: list[str | None] = []
    for match in re.finditer(r"[{}]", code[:end]):
        if match[0] == "}":
            if stack:
                stack.pop()
            continue
        before = _statement(code, match.start())
        named = re.fullmatch(r"\s*(?:inline\s+)?namespace\b\s*([\w:]*)\s*", before)
        if named:
            stack.append(f"{named[1]}::" if named[1] else "")
        else:
            stack.append("" if re.fullmatch(r"\s*extern\s*", before) else None)
    return None if None in stack else "".join(part for part in stack if part)


def _statement(code: str, end: int) -> str:
    """The part before `end` of the statement or declaration there."""
    return code[1 + max(code.rfind(c, 0, end) for c in ";{}") : end]


def _return_type(name: str, head: str) -> str:
    if "__global__" in head:
        raise ValueError(
            f"{name} is a kernel (__global__). Name a host function that launches it: "
            f"void launch_{name}(...) {{ {name}<<<grid, block>>>(...); }}"
        )
    if re.search(r"\btemplate\b", head):
        raise ValueError(f"{name} is a template; name a function that calls it with its types")
    if "__device__" in head and "__host__" not in head:
        raise ValueError(f"{name} is a __device__ function; name a host function")
    words = re.sub(
        r"\b(static|inline|extern|constexpr|__host__|__device__|__forceinline__)\b"
        r"|\[\[.*?\]\]|__attribute__\s*\(\(.*?\)\)",
        " ",
        head,
    ).split()
    returns = " ".join(words)
    if returns not in ("void", "cudaError_t"):
        raise ValueError(f"{name} returns {returns}; a launcher returns void or cudaError_t")
    return returns


def _parameters(name: str, text: str) -> tuple[Parameter, ...]:
    pieces = _split(text)
    if pieces == [""] or pieces == ["void"]:
        return ()
    parameters = tuple(_parameter(name, piece, i) for i, piece in enumerate(pieces))
    if sum(p.kind == "stream" for p in parameters) > 1:
        raise ValueError(f"{name} takes more than one {_STREAM}")
    return parameters


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    pieces, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "<([{") - (c in ">)]}")
        if c == "," and depth == 0:
            pieces.append(text[start:i])
            start = i + 1
    return [" ".join(p.split()) for p in [*pieces, text[start:]]]


def _parameter(launcher: str, text: str, index: int) -> Parameter:
    declared, _, default = (part.strip() for part in text.partition("="))
    plain = re.sub(r"\b(__restrict__|__restrict|restrict)\b|\[\[.*?\]\]", " ", declared)
    plain = re.sub(r"\b(?:std)?::", "", plain)
    match = re.fullmatch(
        r"(?P<type>[\w\s]*?\w)\s*(?P<star>\*?)\s*(?:\bconst\b\s*)?"
        r"(?P<name>(?<=[\s*])[A-Za-z_]\w*)?\s*",
        plain,
    )
    words = match["type"].split() if match else []
    name = (match["name"] if match else None) or ""
    if match and not match["star"] and name in {w for t in SCALARS for w in t.split()} | {_STREAM}:
        words, name = [*words, name], ""  # `int` or `unsigned int` without a name
    const = "const" in words
    ctype = " ".join(w for w in words if w not in ("const", "struct"))
    ctype = re.sub(r"\b(long|short) int\b", r"\1", ctype)
    name = name or f"argument_{index}"
    if match and match["star"] and ctype in ELEMENTS:
        return Parameter(name, ctype, "pointer", const, default)
    if match and not match["star"] and ctype == _STREAM:
        return Parameter(name, ctype, "stream", False, default)
    if match and not match["star"] and ctype in SCALARS:
        return Parameter(name, ctype, "scalar", False, default)
    raise ValueError(
        f"{launcher}: the parameter `{declared}` cannot be passed from Python. A launcher takes "
        "pointers (float*, double*, __half*, __nv_bfloat16*, int*, int64_t*, bool*, ..., void*), "
        f"numbers (int, int64_t, size_t, float, double, bool, ...) and at most one {_STREAM}."
    )
