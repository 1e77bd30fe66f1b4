"""Builds the parts of sources with PyTorch's headers: the host's objects, then the kernels."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import fingerprints
from ..cache import present
from ..errors import BuildError
from ..extension import Recipe, recipe
from ..library import build_library
from ..paths import cache_dir, write_once
from .halves import PUSH, Halves, halves, instances
from .signatures import code_only

INCLUDE = "#include <torch/extension.h>\n"
# Leaves torch/all.h out of torch/extension.h: half of its time, for what extensions seldom use.
_WITHOUT_ALL = "-DTORCH_INDUCTOR_CPP_WRAPPER"
_NEEDS_ALL = re.compile(
    r"\btorch\s*::\s*(?:nn|optim|data|jit|serialize|fft|linalg|special|nested|sparse|autograd|mps)\b"
)
# Without a proposal for what else might be meant it is no typing error.
_LACKS_ALL = re.compile(
    r"(?:not a member of|in namespace) ‘torch\S*’(?!; did you mean)|‘torch::\w+’ has"
)


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        name: the module's.
        cpp, cuda: the sources.
        functions: those that the module gets, with their docstrings; none if it defines itself.
        target: "gpu" or "simulator".
        cflags, cuda_cflags, ldflags: further flags.
        include_dirs: further folders of headers.
        handles_errors: whether C++ exceptions become Python's as in PyTorch's own functions.
        implicit: what is included before each source.
    """

    name: str
    cpp: str
    cuda: str
    functions: Mapping[str, str]
    target: str
    cflags: tuple[str, ...]
    cuda_cflags: tuple[str, ...]
    ldflags: tuple[str, ...]
    include_dirs: tuple[Path, ...]
    handles_errors: bool = True
    implicit: str = INCLUDE

    def recipe(
        self, part: str, label: str, source: Path, *, ldflags: tuple[str, ...] = ()
    ) -> Recipe:
        """How to build a part; Python's symbols stay undefined."""
        made = recipe(
            f"inline_{self.name}{part}",
            f"{label} of {self.name}" if label else self.name,
            self.target,
            (source,),
            (source.parent, *self.include_dirs),
            self.cuda_cflags,
        )
        named = ("-UTORCH_EXTENSION_NAME", f"-DTORCH_EXTENSION_NAME={self.name}")
        link = tuple(flag for flag in made.ldflags if flag != "-Wl,-z,defs")
        return replace(
            made,
            cflags=(*made.cflags, *named, *self.cflags),
            cuda_cflags=(*made.cuda_cflags, *named),
            ldflags=(*ldflags, *link, "-ltorch_python", *self.ldflags),
        )


def build(asked: Request) -> tuple[Path, Path]:
    """The library, and the file with its kernels."""
    if not asked.cuda.strip():
        path = _host(asked, "", f"{_cpp(asked)}{_module(asked)}", kind="so")
        return path, path.with_suffix(".cu")  # which is not there
    split = halves(asked.cuda)
    if split is None:
        return _whole(asked)
    inseparable = cache_dir() / "inline" / f"whole_{fingerprints.digest(asked.name, split.host)}"
    if present(inseparable):
        return _whole(asked)
    try:
        objects = _host_objects(asked, split)
    except BuildError as error:
        if not _is_of_split(error, asked, split.not_in_host):
            raise
        made = _whole(asked)
        write_once(inseparable, str(error))  # edits of the kernels need not try that again
        return made
    try:
        return _device(asked, split, objects)
    except BuildError as error:
        if not _is_of_split(error, asked, split.not_in_device):
            raise
        return _whole(asked)


def _host_objects(asked: Request, split: Halves) -> list[Path]:
    """What the C++ compiler makes of the host's code; that of the CUDA source comes last."""
    host = f'#include <cuda_runtime.h>\n{PUSH}#line 1 "{asked.name}.cu"\n{split.host}\n'
    if "{" in code_only(asked.cpp):  # functions, which may repeat what the CUDA source has
        cpp = _host(asked, "_cpp", f"{_cpp(asked)}{_module(asked)}")
        return [cpp, _host(asked, "_host", host)]
    return [_host(asked, "_host", f"{_cpp(asked)}{host}{_module(asked)}")]


def _device(asked: Request, split: Halves, objects: list[Path]) -> tuple[Path, Path]:
    """The library of the kernels and the host's objects, and the file with the kernels."""
    added = instances(_undefined(objects[-1]), split.templates)
    source = _written(f"{asked.name}.cu", f"{split.device}\n{added}" if added else split.device)
    plan = asked.recipe("", "", source, ldflags=tuple(map(str, objects)))
    flags = ["-diag-suppress=177"]  # unused variables: the other half may use them
    flags += _external_stubs(plan) if split.templates else ()  # the object calls them
    return build_library(replace(plan, cuda_cflags=(*plan.cuda_cflags, *flags))), source


def _cpp(asked: Request) -> str:
    """The C++ source, with its own line numbers."""
    if not asked.cpp.strip():
        return ""
    return f'#line 1 "{asked.name}.cpp"\n{asked.cpp}\n'


def _whole(asked: Request) -> tuple[Path, Path]:
    """The library with the whole CUDA source left to nvcc, and that source."""
    module, objects = _module(asked), tuple[str, ...]()
    if asked.cpp.strip():
        objects = (str(_host(asked, "_cpp", f"{_cpp(asked)}{module}")),)
        module = ""
    text = f'{asked.implicit}#line 1 "{asked.name}.cu"\n{asked.cuda}\n{module}'
    source = _written(f"{asked.name}_whole.cu", text)
    plan = asked.recipe("", "kernels and PyTorch", source, ldflags=objects)
    path = _with_or_without_all(asked, lambda flags: _built(asked, _flagged(plan, flags)))
    return path, source


def _host(asked: Request, part: str, text: str, kind: str = "o") -> Path:
    """What the C++ compiler makes of a source: an object, or the library ("so")."""
    source = _written(f"{asked.name}{part}.cpp", f"{asked.implicit}{text}")
    plan = replace(asked.recipe(part, "host code", source), kind=kind)
    return _with_or_without_all(asked, lambda flags: _built(asked, _flagged(plan, flags)))


def _built(asked: Request, plan: Recipe) -> Path:
    """The product of a recipe, beside whose objects the user's sources are, for messages."""
    for suffix, text in (("cu", asked.cuda), ("cpp", asked.cpp)):
        write_once(plan.folder / f"{asked.name}.{suffix}", text)
    return build_library(plan, slow=True)


def _flagged(plan: Recipe, flags: tuple[str, ...]) -> Recipe:
    """The recipe with more flags for both compilers."""
    return replace(plan, cflags=(*plan.cflags, *flags), cuda_cflags=(*plan.cuda_cflags, *flags))


def _with_or_without_all(asked: Request, build: Callable[[tuple[str, ...]], Path]) -> Path:
    """What is built without torch/all.h or, if it lacks what is there, with it."""
    if not _NEEDS_ALL.search(code_only(f"{asked.cpp}\n{asked.cuda}")):
        try:
            return build((_WITHOUT_ALL,))
        except BuildError as error:
            if not _LACKS_ALL.search(str(error)):
                raise
    return build(())


def _written(file: str, text: str) -> Path:
    """A file with a text, in a folder that depends on both."""
    path = cache_dir() / "inline" / fingerprints.digest(file, text) / file
    write_once(path, text)
    return path


def _module(asked: Request) -> str:
    """The source of the Python module, as load_inline writes it."""
    if not asked.functions:
        return ""
    lines = []
    for name, doc in asked.functions.items():
        value = f"torch::wrap_pybind_function({name})" if asked.handles_errors else name
        lines.append(f"  m.def({json.dumps(name)}, {value}, {json.dumps(doc)});\n")
    return f"PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {{\n{''.join(lines)}}}\n"


def _undefined(made: Path) -> list[str]:
    """The symbols that an object needs, demangled."""
    done = subprocess.run(["nm", "-uC", str(made)], capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"nm does not read {made}: {done.stderr.strip()}")
    return [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.split()]


def _external_stubs(plan: Recipe) -> tuple[str, ...]:
    """The flag that lets other objects launch instances of templates; older compilers always do."""
    major, minor = map(int, plan.cuda.version.split(".")[:2])
    return ("-static-global-template-stub=false",) if (major, minor) >= (12, 8) else ()


def _is_of_split(error: BuildError, asked: Request, missing: frozenset[str]) -> bool:
    """Whether an error may come from the separation: a half lacks words of the other.

    It does not if it is in the user's own lines, and names none of them.
    """
    found = re.findall(r"^(\S+):\d+: error: (.*)$", str(error), re.M)
    files = re.findall(r'^#line 1 "(.*)"$', f"{asked.cuda}\n{asked.cpp}", re.M)
    own = {f"{asked.name}.cu", f"{asked.name}.cpp", *(Path(file).name for file in files)}
    quoted = "".join(re.sub(r"[^\"‘'’]*[\"‘'](.+?)[\"’']", r" \1 ", text) for _, text in found)
    named = set(re.findall(r"[A-Za-z_]\w*", quoted))
    return (
        not found or any(Path(path).name not in own for path, _ in found) or bool(named & missing)
    )
