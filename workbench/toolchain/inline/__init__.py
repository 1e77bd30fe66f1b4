"""Kernels from strings: compiled, bound and callable with tensors, on either target.

The source is plain CUDA with host functions that launch its kernels. Their signatures are parsed
from the source; a C function is generated around each and called through ctypes: no PyTorch header
is compiled, so an edit costs about a second.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from simulator.checks import check_names

from .. import fingerprints
from ..diagnostics import build_error
from ..errors import BuildError
from ..extension import Recipe, default_target, recipe
from ..library import build_library
from ..paths import cache_dir, write_once
from .calls import make_callable
from .signatures import Launcher, launchers

_LONGEST_NAME = 100
_TORCH_HEADER = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"](torch|ATen|c10)/', re.M)
WRAPPER_HEAD = """\
// Generated: the functions that Python calls, around launchers in other files.
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
"""
_WRAPPER = """
extern "C" int {symbol}({declared}char* error_, size_t size_) {{
  cudaError_t status_ = cudaSuccess;
  try {{
    {call};
  }} catch (const std::exception& thrown_) {{
    snprintf(error_, size_, "%s", thrown_.what());
    return 1;
  }} catch (...) {{
    snprintf(error_, size_, "the launcher threw something that is not a std::exception");
    return 1;
  }}
  const cudaError_t last_ = cudaGetLastError();
  if (status_ == cudaSuccess) status_ = last_;
  if (status_ == cudaSuccess) return 0;
  snprintf(error_, size_, "%s: %s", cudaGetErrorName(status_), cudaGetErrorString(status_));
  return 2;
}}
"""


@dataclass(frozen=True)
class Compiled:
    """What nvcc was given: the attribute ``__compiled__`` of the modules that ``inline`` returns.

    Attributes:
        source: the file with the kernels.
        include_dirs: folders of headers, besides the file's own.
        flags: the user's.
        text: all that the user wrote.
    """

    source: Path
    include_dirs: tuple[Path, ...]
    flags: tuple[str, ...]
    text: str

    @property
    def prints(self) -> bool:
        """Whether it looks as if something is printed."""
        return bool(re.search(r"\b(?:f?printf|puts|cout|cerr|clog)\b", self.text))


def inline(
    cuda_source: str | None = None,
    functions: str | Sequence[str] | dict[str, str] | None = None,
    *,
    target: str | None = None,
    check: str | Sequence[str] | None = None,
    **load_inline_arguments: object,
) -> ModuleType:
    """Compile CUDA source; return a module with a Python function per launcher in `functions`.

    cuda_source: CUDA C++ without PyTorch headers. A launcher is a host function that returns void
        or cudaError_t and takes pointers, scalars and at most one cudaStream_t.
    functions: the names of the launchers.
    target: "gpu" or "simulator"; None selects the GPU if there is one.
    check: the simulator's checks for every call, "all" or names such as ["racecheck"]; with it,
    target None selects the simulator.
    load_inline_arguments: those of torch.utils.cpp_extension.load_inline. With cpp_sources, or a
    source that includes PyTorch's headers, functions take and return what they do there.
    extra_cuda_cflags and extra_include_paths work for either kind of source.

    Pass a tensor for each pointer: of the pointer's dtype, contiguous, on the CPU for the simulator
    and on one CUDA device for the GPU; the stream is PyTorch's current one and is not passed.
    Errors: BuildError (compiling), ValueError (signatures), TypeError and ValueError (arguments of
    a call), simulator.SimulatorError (findings in a kernel).
    """
    _check_types(cuda_source, functions, load_inline_arguments)
    if target not in (None, "gpu", "simulator"):
        raise ValueError(f"target is {target!r}; expected 'gpu' or 'simulator'")
    checks = _checks(check, target)
    target = target or ("simulator" if checks else default_target())
    options = dict(load_inline_arguments)
    if cuda_source is None:
        cuda_source = _joined(options.pop("cuda_sources", None))
    elif options.get("cuda_sources"):
        raise TypeError("pass the CUDA source once: as cuda_source or as cuda_sources")
    if options.get("cpp_sources") or _TORCH_HEADER.search(cuda_source):
        from .with_torch import load_inline

        return load_inline(cuda_source, functions, target, checks, options)
    plain = {"name", "extra_cuda_cflags", "extra_include_paths"}
    if unknown := sorted(k for k, v in options.items() if v and k not in plain):
        raise TypeError(
            f"{', '.join(unknown)}: only for sources that load_inline compiles (those "
            "with cpp_sources or PyTorch's headers)"
        )
    return _load_plain(cuda_source, _names(functions), target, checks, options)


def _check_types(source: object, functions: object, options: Mapping[str, object]) -> None:
    """Raise TypeError or ValueError for what would only fail inside a build."""
    if not isinstance(source, str | None):
        raise TypeError(f"cuda_source is of type {type(source).__name__}; expected a str")
    names = [functions] if isinstance(functions, str) else functions or ()
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"functions is {functions!r}; expected the names of launchers")
    name = options.get("name")
    if not isinstance(name, str | None):
        raise TypeError(f"name is {name!r}; expected a str")
    if name and len(name) > _LONGEST_NAME:
        raise ValueError(
            f"name has {len(name)} characters; expected at most {_LONGEST_NAME}: files get it"
        )
    for option in ("extra_cuda_cflags", "extra_include_paths"):
        words = options.get(option) or ()
        if isinstance(words, str) or not isinstance(words, Sequence):
            raise TypeError(f"{option} is {words!r}; expected a list of str")


def _checks(check: str | Sequence[str] | None, target: str | None) -> tuple[str, ...]:
    if check is None:
        return ()
    if target == "gpu":
        raise ValueError(
            f"check is {check!r} and target is 'gpu'; the checks run on the simulator: "
            "omit one of the two"
        )
    return check_names(check)


def _joined(sources: object) -> str:
    return sources if isinstance(sources, str) else "\n".join(sources or ())  # type: ignore[arg-type]


def _names(functions: str | Sequence[str] | dict[str, str] | None) -> list[str]:
    names = [functions] if isinstance(functions, str) else list(dict.fromkeys(functions or ()))
    if not names:
        raise ValueError("functions is empty; expected the names of the launchers to call")
    return names


def _load_plain(
    source: str, names: list[str], target: str, checks: tuple[str, ...], options: dict
) -> ModuleType:
    found = launchers(source, names)
    module_name = str(options.get("name") or names[0])
    if not re.fullmatch(r"\w+", module_name):
        raise ValueError(f"name is {module_name!r}; expected letters, digits and underscores")
    flags = tuple(options.get("extra_cuda_cflags") or ())
    forbid_arch(flags, target)
    file = f"{module_name}.cu"
    wrappers = f'#include "{file}"\n\n{WRAPPER_HEAD}' + "".join(map(wrapper, found))
    folder = cache_dir() / "inline" / fingerprints.digest(source, wrappers)
    for name, text in ((file, source), ("wrapper.cu", wrappers)):
        write_once(folder / name, text)
    includes = (folder, *(Path(p) for p in options.get("extra_include_paths") or ()))
    where = "the GPU" if target == "gpu" else "the simulator"
    plan = recipe(
        f"inline_{module_name}",
        f"{module_name} for {where}",
        target,
        (folder / "wrapper.cu",),
        includes,
        flags,
    )
    try:
        path = build_library(plan)
    except BuildError as error:
        raise _of_source(folder / file, plan, error) from None
    module = module_of(module_name, path, found, target, checks)
    about = Compiled(folder / file, includes[1:], flags, source)
    module.__compiled__ = about  # type: ignore[attr-defined]
    return module


def _of_source(source: Path, plan: Recipe, error: BuildError) -> BuildError:
    """The error that the source gives by itself, if there are others after it.

    What it leaves unfinished, a } or a ;, is noticed only in what follows: the wrapper's headers.
    """
    places = re.findall(r"^(\S+):\d+: error:", str(error), re.M)
    if all(Path(place).name == source.name for place in places):
        return error
    includes = [f"-I{folder}" for folder in plan.include_dirs]
    flags = [*plan.cuda_cflags, "--expt-relaxed-constexpr", *includes]
    command = [str(plan.cuda.nvcc), "-c", *flags, str(source), "-o", "alone.o"]
    done = subprocess.run(
        command, cwd=plan.folder, capture_output=True, text=True, errors="replace"
    )
    (plan.folder / "alone.o").unlink(missing_ok=True)
    if not done.returncode:
        return error
    log = f"FAILED: alone.o\n{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return build_error(plan.label, log, plan.folder / "build.log", {"alone.o": source})


def module_of(
    name: str,
    path: Path,
    found: Sequence[Launcher],
    target: str,
    checks: tuple[str, ...] = (),
) -> ModuleType:
    """A module with a Python function for each of a library's launchers."""
    module = ModuleType(name, f"Launchers of {name}.cu, compiled for the {target}.")
    module.__file__ = str(path)
    for launcher in found:
        setattr(module, launcher.name, make_callable(path, launcher, target, checks))
    return module


def wrapper(launcher: Launcher) -> str:
    """The C function that wraps a launcher."""
    declared, passed = "", []
    for i, p in enumerate(launcher.parameters):
        ctype = f"{'const ' if p.const else ''}{p.ctype}{'*' if p.kind == 'pointer' else ''}"
        declared += f"{ctype} a{i}_, "
        passed.append(f"a{i}_")
    call = f"{launcher.scope}{launcher.name}({', '.join(passed)})"
    if launcher.returns != "void":
        call = f"status_ = {call}"
    return _WRAPPER.format(symbol=launcher.symbol, declared=declared, call=call)


def forbid_arch(flags: Sequence[str], target: str) -> None:
    """Refuse flags that would change the simulator's fixed architecture."""
    for flag in flags:
        if target == "simulator" and re.match(
            r"-{1,2}(gencode|arch|gpu-architecture|code)\b", flag
        ):
            raise BuildError(
                f"{flag}: the simulator runs code for compute_90a, and the workbench "
                "sets that flag itself. Omit it, or use target='gpu'."
            )
