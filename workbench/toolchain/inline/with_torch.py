"""CUDA and C++ sources with PyTorch's headers, like torch.utils.cpp_extension.load_inline.

PyTorch's headers take a C++ compiler several seconds, and nvcc about a minute. So nvcc gets only
the kernels (halves.py); what the host does is compiled first, to an object that later edits of the
kernels find in the cache (parts.py). On the simulator the functions run under a dispatch mode that
registers tensors with it: those that are passed, and those that the C++ code creates.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import BuildError
from .parts import INCLUDE, Request, build
from .signatures import code_only

_CUDA_HEADER = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]((?:c10|ATen)/cuda/[^>"]*)', re.M)
_PLAIN_OPTIONS = {
    *("extra_cflags", "extra_cuda_cflags", "extra_ldflags", "extra_include_paths"),
    *("name", "with_cuda", "with_pytorch_error_handling", "no_implicit_headers", "verbose"),
}


def load_inline(
    cuda_source: str,
    functions: str | Sequence[str] | dict[str, str] | None,
    target: str,
    checks: tuple[str, ...],
    options: dict[str, Any],
) -> ModuleType:
    """Like PyTorch's load_inline; `options` are its other arguments. Errors: BuildError.

    Of a CUDA source alone, the functions need not be declared in a C++ source, and it may have a
    PYBIND11_MODULE of its own.

    checks: the simulator's checks for every call; empty for its current settings.
    """
    from . import Compiled

    asked = _request(cuda_source, functions, target, options)
    path, source = build(asked)
    module = _imported(asked.name, path)
    about = Compiled(source, asked.include_dirs, asked.cuda_cflags, f"{asked.cpp}\n{asked.cuda}")
    module.__compiled__ = about  # type: ignore[attr-defined]
    if target == "simulator":
        _wrap_functions(module, checks)
    return module


def _request(cuda: str, functions: Any, target: str, options: dict[str, Any]) -> Request:
    from . import forbid_arch

    cpp = options.pop("cpp_sources", None) or ()
    cpp = cpp if isinstance(cpp, str) else "\n".join(cpp)
    if target == "simulator":
        _forbid_cuda_headers(f"{cpp}\n{cuda}")
    if options.pop("build_directory", None):
        raise TypeError("build_directory: set by the workbench; use WORKBENCH_CACHE")
    if unknown := sorted(k for k, v in options.items() if v and k not in _PLAIN_OPTIONS):
        raise TypeError(f"{', '.join(unknown)}: not supported; see docs/python.md")
    cuda_flags = tuple(options.get("extra_cuda_cflags") or ())
    forbid_arch(cuda_flags, target)
    if not isinstance(functions, Mapping):
        names = [functions] if isinstance(functions, str) else functions or ()
        functions = {name: name for name in names}
    for name in functions:
        if not re.search(rf"\b{re.escape(name)}\b", code_only(f"{cpp}\n{cuda}")):
            raise ValueError(f"the sources have no function {name}(...)")
    if not functions and "PYBIND11_MODULE" not in f"{cpp}\n{cuda}":
        raise ValueError("functions is empty; expected names, or a PYBIND11_MODULE in the source")
    name = options.get("name") or next(iter(functions), "inline_extension")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"name is {name!r}; expected letters, digits and underscores")
    return Request(
        name,
        cpp,
        cuda,
        functions,
        target,
        tuple(options.get("extra_cflags") or ()),
        cuda_flags,
        tuple(options.get("extra_ldflags") or ()),
        tuple(Path(p).resolve() for p in options.get("extra_include_paths") or ()),
        options.get("with_pytorch_error_handling", True),
        "" if options.get("no_implicit_headers") else INCLUDE,
    )


def _forbid_cuda_headers(source: str) -> None:
    found = _CUDA_HEADER.search(source)
    if found:
        raise BuildError(
            f"<{found[1]}> needs a GPU and a CUDA build of PyTorch; the simulator has neither.\n"
            "Launch on the default stream, kernel<<<grid, block>>>(...), and check with\n"
            "cudaGetLastError() instead of the C10_CUDA macros; or, without any PyTorch header,\n"
            "let the launcher take pointers and a cudaStream_t: inline(source, functions).\n"
            "On a machine with a GPU, target='gpu' takes the source as it is."
        )


def _imported(name: str, path: Path) -> ModuleType:
    """The module; each version has a name of its own, by which Python and pybind11 remember it."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}.{name}", path)
    assert spec is not None and spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:  # a function that is declared, and nowhere defined
        raise BuildError(f"{name} is built, but cannot be loaded: {error}") from None
    module.__name__ = name
    return module


def _wrap_functions(module: ModuleType, checks: tuple[str, ...]) -> None:
    for name, value in list(vars(module).items()):
        if callable(value) and not name.startswith("_") and not isinstance(value, type):
            setattr(module, name, _on_simulator(name, value, checks))


def _on_simulator(
    name: str, function: Callable[..., Any], checks: tuple[str, ...]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        from torch.utils._pytree import tree_leaves

        from .calls import checking, raise_finding
        from .tensors import Tensors

        with checking(checks), Tensors() as tensors:
            for i, leaf in enumerate(tree_leaves((arguments, named))):
                tensors.add(leaf, f"{name} argument {i}", fresh=False)
            try:
                return function(*arguments, **named)
            finally:
                raise_finding()  # instead of what the code raised for the failed launch

    return call
