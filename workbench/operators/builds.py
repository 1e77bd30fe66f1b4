"""The builds that the operators call, and their rungs.

Each target has its own extension (bindings.cpp and the ladders), built and loaded on first use. An
edited kernel becomes another extension in another namespace (``reset``).

The targets "gpu" and "simulator" have the same rungs, in CUDA C++. "cpu" has rungs of its own, in
C++, whose names begin with ``cpu_``; they take CPU tensors, as the simulator does.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from workbench.toolchain import BuildError, default_target, kernels_dir
from workbench.toolchain.extension import TARGETS
from workbench.toolchain.fingerprints import Text
from workbench.toolchain.paths import kernels_from, shown

from . import OPERATORS, get
from .texts import Sources, built, of_ladder


@dataclass(frozen=True)
class Rung:
    """A line of a ladder's table: a kernel and its requirements (kernels/ladder.h)."""

    op: str
    name: str
    dtypes: tuple[str, ...]
    options: tuple[str, ...] = ()  # those of the operator's that it supports
    alignment: int = 1  # bytes: data pointers and strides must be multiples of it
    compute_capability: int = 0  # minimum, as 10 * major + minor; 0: any
    composed_of: tuple[str, ...] = ()  # ladders whose kernels it launches by design

    @property
    def on_cpu(self) -> bool:
        """Whether it is in C++ and runs on the CPU."""
        return self.name.startswith(CPU_PREFIX)


@dataclass(frozen=True)
class Extension:
    """A loaded build: its operators are ``ops``, which is ``torch.ops.<namespace>``."""

    target: str  # one of workbench.toolchain.TARGETS
    namespace: str
    path: Path
    kernels: Path  # the folder of its ladder files
    ops: Any
    ladders: dict[str, tuple[Rung, ...]]  # of the operators in the kernels folder
    scratch_bytes: Callable[[], int]  # of this thread's last launch
    texts: Mapping[Path, Text] = field(default_factory=dict)  # what it was built from


class Declined(RuntimeError):
    """A rung declines the input; ``reason`` says why."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


CPU, CPU_PREFIX = "cpu", "cpu_"
_DECLINES = re.compile(r"[^:\n]+: kernel '\w+' declines: (.*) \(")

_lock = threading.RLock()


def _in_child() -> None:
    """After a fork, whose child lacks other threads: that with the lock, those of OpenMP."""
    global _lock, _lacks_threads
    _lock = threading.RLock()
    _lacks_threads = True


_lacks_threads = False
os.register_at_fork(after_in_child=_in_child)
_current: dict[str, Extension] = {}
_loaded: dict[Path, Extension] = {}  # never emptied: a process can register a namespace only once


def extension(target: str) -> Extension:
    """The current build of a target; built and loaded on first use.

    Raises workbench.toolchain.BuildError, whose text is all the user needs to see.
    """
    with _lock:
        return _current[target] if target in _current else refresh(target)


def refresh(target: str) -> Extension:
    """Build a target from the kernels as they are now, and make that build the current one.

    Takes a few milliseconds if nothing was edited. Raises workbench.toolchain.BuildError.
    """
    with _lock:
        path, texts = built(target, kernels_dir())
        if path not in _loaded:
            _loaded[path] = _load(target, path, kernels_dir(), texts)
        if _current.get(target) is not _loaded[path]:
            _current.clear()  # the other target's build may have the old kernels
        _current[target] = _loaded[path]
        return _current[target]


def other(target: str, kernels: Path, bindings: Path | None = None) -> Extension:
    """The build of another folder's kernels, which ``using`` makes the current one.

    Args:
        target: one of workbench.toolchain.TARGETS.
        kernels: the folder of ladder files; it may have those of some operators only.
        bindings: the bindings.cpp that they are built with; None for the repository's.

    Raises workbench.toolchain.BuildError.
    """
    with _lock, kernels_from(kernels):
        path, texts = built(target, kernels, bindings)
        if path not in _loaded:
            _loaded[path] = _load(target, path, kernels, texts)
        return _loaded[path]


def loaded(target: str, path: Path, kernels: Path) -> Extension:
    """The build in a library that was made from a folder of kernels, which ``using`` selects."""
    with _lock, kernels_from(kernels):
        if path not in _loaded:
            _loaded[path] = _load(target, path, kernels, {})
        return _loaded[path]


@contextmanager
def using(build: Extension) -> Iterator[None]:
    """Let a build be the current one of its target, for the whole process, in a block.

    ``rungs``, ``sources`` and ``launch`` are then those of its kernels.
    """
    with _lock:
        before = dict(_current)
        _current.clear()
        _current[build.target] = build
    try:
        with kernels_from(build.kernels):
            yield
    finally:
        with _lock:
            _current.clear()
            _current.update(before)


def scratch_bytes(target: str) -> int:
    """The scratch memory of this thread's last launch; 0 if there was none."""
    with _lock:
        return _current[target].scratch_bytes() if target in _current else 0


def reset() -> None:
    """Forget the current builds: the next use rebuilds what was edited."""
    with _lock:
        _current.clear()


def rungs(op: str, target: str = "") -> tuple[Rung, ...]:
    """The ladder of an operator, slowest idea first.

    target: "cpu" for the rungs in C++ that run on the CPU; otherwise those in CUDA C++.
    Raises ValueError for an unknown name or target, BuildError if its kernel file is missing.
    """
    get(op)
    if target and target not in TARGETS:
        raise ValueError(f"target is {target!r}; expected one of {', '.join(TARGETS)}")
    ladders = _with_ladders(target).ladders
    if op not in ladders:
        raise BuildError(f"there are no kernels for {op}: no {shown(_table(op, target))}")
    return ladders[op]


def _with_ladders(target: str) -> Extension:
    """The current build of a target, or of one that has the same rungs."""
    with _lock:
        same = [name for name in _current if (name == CPU) == (target == CPU)]
        if same:
            return _current[target if target in same else same[0]]
    return extension(target or default_target())


def _table(op: str, target: str) -> Path:
    """The file with a ladder's table."""
    return kernels_dir() / (f"{op}_cpu.cpp" if target == CPU else f"{op}.cu")


def sources(op: str, target: str = "") -> tuple[Path, ...]:
    """The files with a ladder's kernels, without headers; the first has its table.

    ``<op>.cu`` and every ``<op>_<more>.cu`` that is not another ladder's. With the target "cpu"
    ``<op>_cpu.cpp`` and every ``<op>_cpu_<more>.cpp``.
    """
    folder, table = kernels_dir(), _table(op, target)
    files = (table, *sorted(folder.glob(f"{table.stem}_*{table.suffix}")))
    others = [f"{other}." for other in OPERATORS if other != op and other.startswith(op)]
    others += [f"{other[:-1]}_" for other in others]
    return tuple(file for file in files if not file.name.startswith(tuple(others)))


def texts(op: str, target: str, made_of: Mapping[Path, Text] | None = None) -> Sources:
    """The files that the current build of a ladder was made from, as they were then.

    made_of: what was loaded into the build since.
    """
    ladder, build = rungs(op, target), _with_ladders(target)
    names = {name for rung in ladder for name in rung.composed_of}
    composed = {name: sources(name, target) for name in sorted(names)}
    made_of = build.texts if made_of is None else made_of
    return of_ladder(ladder, sources(op, target), composed, made_of, build.kernels)


def launch(
    target: str,
    op: str,
    tensors: Mapping[str, torch.Tensor | None],
    options: Mapping[str, float],
    kernel: str = "",
    called: str = "",
) -> None:
    """Run an operator of a target's current build (bindings/<op>.cpp).

    Args:
        target: one of workbench.toolchain.TARGETS; "simulator" becomes "cpu" for a rung of the CPU.
        op: the operator.
        tensors: its arguments by name, data before statistics; None means absent.
        options: the values of the requested options.
        kernel: a rung; "" selects the last one that accepts the input.
        called: the name for messages; the operator's if empty.

    Raises:
        Declined: the named rung declines the input.
        simulator.SimulatorError: what the simulator found in a kernel.
        KeyboardInterrupt: the kernel was interrupted.
        RuntimeError: any other error; the text names the argument, what was expected and given.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if kernel.startswith(CPU_PREFIX) and target != CPU:
        if target == "gpu":
            device = next(iter(given.values())).device
            raise RuntimeError(
                f"{called or op}: kernel '{kernel}' runs on the CPU; got tensors on {device}"
            )
        target = CPU
    operator = extension(target).ops.launch
    global _lacks_threads
    if target == CPU and _lacks_threads:
        torch.set_num_threads(1)  # a forked process would wait for the others for ever
        _lacks_threads = False
    try:
        operator(
            op,
            called or op,
            kernel,
            list(given),
            list(given.values()),
            list(options),
            [float(value) for value in options.values()],
        )
    except RuntimeError as error:
        if target == "simulator":
            import simulator

            finding = simulator.exception_for(error)
            if finding is not None:
                raise finding from None
        declined = _DECLINES.search(str(error))
        if declined:
            raise Declined(str(error), declined[1]) from None
        raise


def _load(target: str, path: Path, kernels: Path, texts: Mapping[Path, Text]) -> Extension:
    if target == "simulator":
        import simulator

        simulator.library()  # loads it, so that reports become exceptions and errors are not sticky
    library = ctypes.CDLL(str(path))
    namespace = path.stem
    library.workbench_rungs.restype = ctypes.c_char_p
    present = [op for op in OPERATORS if _table(op, target).exists()]
    ladders = {op: _parse(op, target, library.workbench_rungs(op.encode())) for op in present}
    if library.workbench_register(namespace.encode()) != 0:
        raise RuntimeError(f"{path} could not register its operators as torch.ops.{namespace}")
    library.workbench_scratch_bytes.restype = ctypes.c_int64
    ops, scratch = getattr(torch.ops, namespace), library.workbench_scratch_bytes
    return Extension(target, namespace, path, kernels, ops, ladders, scratch, texts)


def _parse(op: str, target: str, table: bytes | None) -> tuple[Rung, ...]:
    """The rungs of a ladder's table. Raises BuildError for an invalid name."""
    if table is None:
        raise BuildError(f"bindings/{op}.cpp registers no operator {op!r}")
    found: dict[str, Rung] = {}
    for line in table.decode().split("\n")[:-1]:
        name, *fields = line.rsplit("\t", 5)
        problem = (
            _problem(op, target, name, found) if len(fields) == 5 else "a name with a line break"
        )
        if problem:
            raise BuildError(f"{shown(_table(op, target))}: the table has {problem}")
        dtypes, options, alignment, capability, composed_of = fields
        found[name] = Rung(
            op,
            name,
            tuple(dtypes.split()),
            tuple(options.split()),
            int(alignment),
            int(capability),
            tuple(composed_of.split()),
        )
    return tuple(found.values())


def _problem(op: str, target: str, name: str, taken: Container[str]) -> str | None:
    """What is wrong with a rung's name, or None."""
    if name in taken:
        return f"two rungs named {name!r}; rung names must be unique"
    if not re.fullmatch("[A-Za-z0-9_]+", name):
        return f"a rung named {name!r}; names are letters, digits and _"
    if name.startswith(CPU_PREFIX) != (target == CPU):
        return f"a rung named {name!r}; those in C++, and only they, begin with {CPU_PREFIX}"
    if name in (baseline.name for baseline in get(op).baselines):
        return f"a rung named {name!r}, which is the name of a baseline"
    return None
