"""The builds that the operators call, and the rungs in them.

Each target has an extension of its own (bindings.cpp and the ladders), built and loaded on first
use. An edited kernel becomes another extension in another namespace (``reset``).
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .toolchain import BuildError, default_target, kernels_dir, load_extension
from .toolchain.paths import shown

LADDERS = ("matmul", "softmax", "softmax_backward", "attention")
# The rows of a benchmark that are no rungs, so that no rung may be called so.
BASELINE_NAMES = ("cublas", "torch", "compile", "flash2", "cudnn", "efficient", "copy", "add")


@dataclass(frozen=True)
class Rung:
    """A line of a ladder's table: a kernel and the inputs it takes (kernels/ladder.h)."""

    op: str
    name: str
    dtypes: tuple[str, ...]
    alignment: int  # bytes: data pointers and strides are multiples of it
    head_dims: tuple[int, ...]  # attention: the D it takes; empty: any
    compute_capability: int  # the smallest, as 10 * major + minor; 0: any
    options: tuple[str, ...] = ()  # softmax: those of "scale", "log", "lse" that it knows


@dataclass(frozen=True)
class Extension:
    """One loaded build: its operators are ``ops``, which is ``torch.ops.<namespace>``."""

    target: str  # "gpu" or "simulator"
    namespace: str
    path: Path
    ops: Any
    ladders: dict[str, tuple[Rung, ...]]


_lock = threading.RLock()
_current: dict[str, Extension] = {}
_loaded: dict[Path, Extension] = {}  # for ever: a namespace can be registered once in a process


def extension(target: str) -> Extension:
    """The current build of a target, "gpu" or "simulator"; built and loaded on first use.

    Raises workbench.toolchain.BuildError, whose text is all the user needs to see.
    """
    with _lock:
        return _current[target] if target in _current else refresh(target)


def refresh(target: str) -> Extension:
    """The build of a target from the kernels as they are now, which becomes the current one.

    Takes some milliseconds if nothing was edited. Raises workbench.toolchain.BuildError.
    """
    with _lock:
        path = load_extension(target)
        if path not in _loaded:
            _loaded[path] = _load(target, path)
        if _current.get(target) is not _loaded[path]:
            _current.clear()  # the other target's build may be of the old kernels
        _current[target] = _loaded[path]
        return _current[target]


def reset() -> None:
    """Forget the current builds: the next use builds again what was edited."""
    with _lock:
        _current.clear()


def rungs(op: str) -> tuple[Rung, ...]:
    """The ladder of one of LADDERS, slowest idea first. Raises ValueError for another name."""
    if op not in LADDERS:
        raise ValueError(f"op is {op!r}; expected one of {', '.join(LADDERS)}")
    with _lock:
        loaded = next(iter(_current.values()), None)
    return (loaded or extension(default_target())).ladders[op]


def sources(op: str) -> tuple[Path, ...]:
    """The files that hold a ladder's kernels, headers left out; the first has its table.

    ``<op>.cu`` and every ``<op>_<more>.cu`` that is no other ladder's.
    """
    folder = kernels_dir()
    files = (folder / f"{op}.cu", *sorted(folder.glob(f"{op}_*.cu")))
    others = [f"{other}." for other in LADDERS if other != op and other.startswith(op)]
    others += [f"{other[:-1]}_" for other in others]
    return tuple(file for file in files if not file.name.startswith(tuple(others)))


def call(target: str, name: str, *args: Any) -> None:
    """Run ``<name>`` of a target's current build, such as ``matmul_out`` (see bindings.cpp).

    What the simulator finds in a kernel is raised as simulator.SimulatorError, an interrupted
    kernel as KeyboardInterrupt, all other errors as RuntimeError.
    """
    operator = getattr(extension(target).ops, name)
    try:
        operator(*args)
    except RuntimeError as error:
        if target == "simulator":
            import simulator

            finding = simulator.exception_for(error)
            if finding is not None:
                raise finding from None
        raise


def _load(target: str, path: Path) -> Extension:
    if target == "simulator":
        import simulator

        simulator.library()  # attaches it: reports become exceptions, and no error is sticky
    library = ctypes.CDLL(str(path))
    namespace = path.stem
    library.workbench_rungs.restype = ctypes.c_char_p
    ladders = {op: _parse(op, library.workbench_rungs(op.encode()).decode()) for op in LADDERS}
    if library.workbench_register(namespace.encode()) != 0:
        raise RuntimeError(f"{path} could not register its operators as torch.ops.{namespace}")
    return Extension(target, namespace, path, getattr(torch.ops, namespace), ladders)


def _parse(op: str, table: str) -> tuple[Rung, ...]:
    """The rungs of a ladder's table. Raises BuildError for a name that cannot be one."""
    found: dict[str, Rung] = {}
    for line in table.split("\n")[:-1]:
        name, *fields = line.rsplit("\t", 5)
        problem = _problem(name, found) if len(fields) == 5 else "a name with a line break"
        if problem:
            raise BuildError(f"{shown(kernels_dir() / f'{op}.cu')}: the table has {problem}")
        dtypes, alignment, head_dims, capability, options = fields
        found[name] = Rung(
            op,
            name,
            tuple(dtypes.split()),
            int(alignment),
            tuple(int(d) for d in head_dims.split()),
            int(capability),
            tuple(options.split()),
        )
    return tuple(found.values())


def _problem(name: str, taken: Container[str]) -> str | None:
    """What is wrong with a rung's name, or None."""
    if name in taken:
        return f"two rungs named {name!r}; every rung needs a name of its own"
    if not re.fullmatch("[A-Za-z0-9_]+", name):
        return f"a rung named {name!r}; names are letters, digits and _"
    if name in BASELINE_NAMES:
        return f"a rung named {name!r}, which is the name of a library it is compared with"
    return None
