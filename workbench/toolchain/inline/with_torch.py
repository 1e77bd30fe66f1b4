"""torch.utils.cpp_extension.load_inline, with the workbench's toolkit, locks and messages.

On the simulator its functions run under a dispatch mode that registers tensors with the simulator:
those that are passed, and those that the C++ code creates.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import fingerprints, tools
from ..announce import announced
from ..cache import present, publish
from ..diagnostics import build_error, warnings
from ..errors import BuildError
from ..extension import (
    Recipe,
    check_gencodes,
    cpp_extension,
    forget_versions,
    heard,
    quoted,
    recipe,
)
from ..host_calls import forbid_host_calls_in
from ..locks import build_lock, compilers
from ..paths import cache_dir
from ..toolkit import private_toolkit, shown_to_torch

_CUDA_HEADER = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]((?:c10|ATen)/cuda/[^>"]*)', re.M)


def load_inline(
    cuda_source: str,
    functions: str | Sequence[str] | dict[str, str] | None,
    target: str,
    checks: tuple[str, ...],
    options: dict[str, Any],
) -> ModuleType:
    """Like PyTorch's load_inline; `options` are its other arguments. Errors: BuildError.

    checks: the simulator's checks for every call; empty for its current settings.
    """
    from . import forbid_arch

    cpp = options.pop("cpp_sources", None) or ()
    cpp = [cpp] if isinstance(cpp, str) else list(cpp)
    if target == "simulator":
        _forbid_cuda_headers("\n".join([*cpp, cuda_source]))
    cuda_flags = tuple(options.pop("extra_cuda_cflags", None) or ())
    forbid_arch(cuda_flags, target)
    name = options.pop("name", None) or "inline_extension"
    if options.pop("build_directory", None):
        raise TypeError("build_directory: set by the workbench; use WORKBENCH_CACHE")
    options.pop("with_cuda", None)
    includes = tuple(Path(p).resolve() for p in options.pop("extra_include_paths", None) or ())
    plan = recipe(name, f"{name} with PyTorch's headers", target, (), includes, cuda_flags)
    path = _build(plan, cpp, cuda_source, functions, options)
    module = _imported(name, path)
    if target == "simulator":
        _wrap_functions(module, checks)
    return module


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


def _build(plan: Recipe, cpp: list[str], cuda: str, functions: Any, options: dict) -> Path:
    key = fingerprints.digest(cpp, cuda, functions, sorted(options.items(), key=str), plan.key)
    headers = [
        (str(p), fingerprints.content(p))
        for d in plan.include_dirs
        for p in sorted(d.rglob("*"))
        if p.suffix in (".h", ".cuh", ".hpp", ".inl")
    ]
    hashed = fingerprints.digest(key, headers)
    path = cache_dir() / "lib" / f"{plan.name}_{hashed}.so"
    if present(path):
        return path
    folder = cache_dir() / "build" / f"{plan.name}_{fingerprints.digest(plan.key)}"
    with build_lock(folder, plan.label), announced(plan.label, slow=True) as texts:
        if not present(path):
            publish(_load(plan, folder, cpp, cuda, functions, options, hashed, texts), path)
    return path


def _load(
    plan: Recipe,
    folder: Path,
    cpp: list[str],
    cuda: str,
    functions: Any,
    options: dict,
    hashed: str,
    texts: list[str],
) -> Path:
    torch_extension = cpp_extension()
    home = private_toolkit(plan.cuda, plan.target)
    objects = {"main.o": folder / "main.cpp", "cuda.cuda.o": folder / "cuda.cu"}
    wanted = dict.fromkeys(objects, hashed)
    manifest = fingerprints.Manifest(folder)
    manifest.begin(wanted, (f"{plan.name}.so",))
    forget_versions(torch_extension, plan.name)
    own = {k: list(options.pop(k, None) or ()) for k in ("extra_cflags", "extra_ldflags")}
    # Python's symbols stay undefined.
    link = [f for f in plan.ldflags if f not in ("-shared", "-Wl,-z,defs")]
    try:
        with (
            shown_to_torch(home, tools.find_ninja()),
            compilers(folder),
            _visible(options.get("verbose")),
            heard(torch_extension) as said,
        ):
            torch_extension.load_inline(
                plan.name, cpp, [cuda] if cuda else None, functions=functions,
                extra_cflags=[*plan.cflags, *own["extra_cflags"]],
                extra_cuda_cflags=list(plan.cuda_cflags),
                extra_ldflags=[f"-L{home / 'lib64'}", *map(quoted, link), *own["extra_ldflags"]],
                extra_include_paths=[str(d) for d in plan.include_dirs],
                build_directory=str(folder), with_cuda=True, is_python_module=False, **options,
            )  # fmt: skip
    except RuntimeError as error:
        raise build_error(plan.label, str(error), folder / "build.log", objects) from None
    finally:
        manifest.finish()
    if cuda:
        check_gencodes(folder, plan.gencodes)
    forbid_host_calls_in(folder, said)
    texts += warnings("".join(said), folder)
    return folder / f"{plan.name}.so"


@contextmanager
def _visible(verbose: Any) -> Iterator[None]:
    """With verbose=True ninja writes to file descriptor 1, which notebooks do not show."""
    with ExitStack() as stack:
        try:
            lost = verbose and sys.stdout.fileno() != 1
        except (AttributeError, OSError):
            lost = verbose
        if lost:
            from wurlitzer import sys_pipes

            stack.enter_context(sys_pipes())
        yield


def _imported(name: str, path: Path) -> ModuleType:
    """The module; each version has its own file name, so Python never reuses an old one."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
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

        with checking(checks), _Tensors() as tensors:
            for i, leaf in enumerate(tree_leaves((arguments, named))):
                tensors.add(leaf, f"{name} argument {i}", fresh=False)
            try:
                return function(*arguments, **named)
            finally:
                raise_finding()  # instead of what the code raised for the failed launch

    return call


class _Tensors:
    """Registers tensors with the simulator while active, including newly created ones."""

    def __init__(self) -> None:
        from torch.utils._python_dispatch import TorchDispatchMode

        owner = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN202
                from torch.utils._pytree import tree_leaves

                made = func(*args, **(kwargs or {}))
                operator = func._schema.name.removeprefix("aten::")
                for leaf in tree_leaves(made):
                    owner.add(leaf, operator, fresh=operator.startswith("empty"))
                return made

        self._mode = Mode()
        self._known: dict[
            int, tuple[Any, str]
        ] = {}  # keeps the tensors, and so their memory, alive

    def add(self, value: Any, name: str, fresh: bool) -> None:
        """Register the whole storage of `value`, once, if it is a tensor on the CPU."""
        import torch

        from .calls import register

        if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
            return
        storage = value.untyped_storage()
        pointer = storage.data_ptr()
        if not pointer or not storage.nbytes() or pointer in self._known:
            return
        import simulator

        register(simulator.library(), value, name, 1 if fresh else 2, whole_storage=True)
        self._known[pointer] = (storage, name)

    def __enter__(self) -> _Tensors:
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        import simulator

        from .calls import unregister

        self._mode.__exit__(*error)
        for pointer, (_, name) in self._known.items():
            unregister(simulator.library(), pointer, name)
