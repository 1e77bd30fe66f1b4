"""Runs compiled CUDA kernels without a GPU.

The simulator is a C++ library (simulator/src) that replaces the CUDA runtime. A process loads one;
this module loads it, changes its settings, and reads its counters and findings.

    with simulator.settings(order="random", seed=1), simulator.record() as launches:
        matmul(a, b)
    print(launches[0].warp_instructions)
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from simulator.checks import CHECKS, check_names

__all__ = [
    "CHECKS",
    "Counters",
    "Launch",
    "LineCounters",
    "Note",
    "SimulatorError",
    "check_names",
    "checking",
    "exception_for",
    "library",
    "module_ptx",
    "progress_after",
    "record",
    "replace_ptx",
    "settings",
]

_load_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_progress_after = 3.0
_settings_lock = threading.Lock()
_chosen: list[dict[str, str]] = []  # by each block that is active, in the order of their starts
_unchosen: dict[str, bytes] = {}  # the values of these settings without them
_of_thread = threading.local()  # .checks: those of its current ``checking``


def _in_child() -> None:
    """After a fork, whose child lacks the thread that may have held a lock."""
    global _load_lock, _settings_lock
    _load_lock, _settings_lock = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_in_child)


@dataclass(frozen=True)
class Counters:
    """The counters of a launch, or of the instructions of one source line (docs/counters.md).

    Instructions are PTX instructions: warp_instructions counts one per warp, thread_instructions
    one per active lane; those by unit leave out instructions that machine code lacks. flops is all
    arithmetic, an FMA counts as two. Requests are warp instructions that access a memory, bytes
    what their lanes request, sectors the 32-byte units of global memory transfers, lines the
    128-byte lines that a request touches, wavefronts the passes over the banks of shared memory;
    "ideal" is the number needed if the lanes requested each byte once, contiguously. l2 sectors are
    those that pass a model of the L1 cache. atomics counts lanes, barriers warps.
    """

    warp_instructions: int
    thread_instructions: int
    flops: int
    fp32_flops: int
    fp64_flops: int
    fp16_flops: int
    tensor_flops: int
    special_function_ops: int
    fp32_instructions: int
    fp64_instructions: int
    fp16_instructions: int
    integer_instructions: int
    special_function_instructions: int
    tensor_instructions: int
    memory_instructions: int
    control_instructions: int
    global_load_bytes: int
    global_load_requests: int
    global_load_sectors: int
    global_load_sectors_ideal: int
    global_load_lines: int
    global_store_bytes: int
    global_store_requests: int
    global_store_sectors: int
    global_store_sectors_ideal: int
    global_store_lines: int
    local_bytes: int
    local_requests: int
    local_sectors: int
    shared_load_bytes: int
    shared_load_requests: int
    shared_load_wavefronts: int
    shared_load_wavefronts_ideal: int
    shared_store_bytes: int
    shared_store_requests: int
    shared_store_wavefronts: int
    shared_store_wavefronts_ideal: int
    atomics: int
    atomic_requests: int
    atomic_sectors: int
    shared_atomic_requests: int
    shared_atomic_wavefronts: int
    l2_read_sectors: int
    l2_write_sectors: int
    bulk_load_bytes: int
    bulk_store_bytes: int
    barriers: int


@dataclass(frozen=True)
class LineCounters(Counters):
    """The counters of one source line's instructions in one launch."""

    file: str
    line: int


@dataclass(frozen=True)
class Note:
    """What else a launch says about a source line: how wgmma's descriptors describe its operands.

    Attributes:
        file: the line's file.
        line: its number.
        text: the note, of several lines.
        odd: whether it describes what is probably a mistake, though the result may be right.
    """

    file: str
    line: int
    text: str
    odd: bool

    def __str__(self) -> str:
        """The note and its place."""
        return f"note: {self.text}\n  at {self.file}:{self.line}"


@dataclass(frozen=True)
class Launch(Counters):
    """One kernel launch and its counters.

    dram bytes count every sector that the launch reads or writes once, except reads of what the
    same block wrote before. l2_repeated_sectors are the l2 sectors that their block had moved
    before. entry is the kernel's name in PTX, module the number of the module that it is in, for
    ``module_ptx``. sampled_blocks is less than num_blocks if only part of the grid ran
    (``settings(sample_blocks=...)``): then every counter is scaled to the whole grid. forms are the
    warp instructions by opcode and modifiers, as in "ld.global.u32". seconds is the simulator's own
    wall time and says nothing about a GPU. Only launches with counted addresses, or with racecheck
    or initcheck, have notes.
    """

    kernel: str
    entry: str
    module: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    num_blocks: int
    sampled_blocks: int
    l2_repeated_sectors: int
    dram_read_bytes: int
    dram_write_bytes: int
    seconds: float
    lines: tuple[LineCounters, ...]
    forms: dict[str, int]
    notes: tuple[Note, ...] = ()


class SimulatorError(RuntimeError):
    """Something the simulator found in a running kernel; str() is the readable report.

    Attributes: kind ("memcheck", "racecheck", "initcheck", "synccheck", "unsupported", "limit",
    "trap", "assert", "launch"), kernel, file and line ("" and 0 without line information), block,
    thread (None: no single thread), address. For a race also the other side: other_file, other_line
    ("" and 0 if there is none), other_thread (None: an asynchronous operation).
    """

    def __init__(self, text: str, finding: dict | None = None) -> None:
        super().__init__(text)
        finding = finding or {}
        self.kind: str = finding.get("kind", "")
        self.kernel: str = finding.get("kernel", "")
        self.file: str = finding.get("file", "")
        self.line: int = finding.get("line", 0)
        self.block: tuple[int, ...] = tuple(finding.get("block", ()))
        thread = finding.get("thread")
        self.thread: tuple[int, ...] | None = None if thread is None else tuple(thread)
        self.address: int = finding.get("address", 0)
        self.other_file: str = finding.get("other_file", "")
        self.other_line: int = finding.get("other_line", 0)
        other = finding.get("other_thread")
        self.other_thread: tuple[int, ...] | None = None if other is None else tuple(other)


def library() -> ctypes.CDLL:
    """The one loaded simulator of this process, built on first use."""
    global _library
    with _load_lock:
        if _library is None:
            from workbench.toolchain.simulator import process_simulator

            _library = _open(process_simulator().library)
    return _library


def _open(path: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(path))
    text, size, number = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64
    signatures = {
        "wbsim_register_tensor": (None, [ctypes.c_void_p, size, text, text, ctypes.c_int]),
        "wbsim_unregister_tensor": (None, [ctypes.c_void_p, text]),
        "wbsim_take_report": (text, []),
        "wbsim_last_finding_json": (text, []),
        "wbsim_attach": (None, []),
        "wbsim_set": (text, [text, text]),
        "wbsim_get": (text, [text]),
        "wbsim_progress_after": (None, [ctypes.c_double]),
        "wbsim_set_checks_of_thread": (text, [text]),
        "wbsim_record_start": (number, [ctypes.c_int]),
        "wbsim_record_stop": (text, [number]),
        "wbsim_module_ptx": (text, [number]),
        "wbsim_replace_ptx": (text, [text, text, ctypes.POINTER(text)]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.wbsim_attach()
    lib.wbsim_progress_after(_progress_after)
    return lib


@contextmanager
def settings(
    *,
    checks: str | Sequence[str] | None = None,
    order: str | None = None,
    seed: int | None = None,
    instruction_limit: int | None = None,
    threads: int | None = None,
    sample_blocks: int | None = None,
) -> Iterator[None]:
    """Change how kernels run until the block ends, for the whole process.

    Of the blocks that are active in all threads, the one that started last decides.
    ``checking`` is for the calls of one thread.

    Args:
        checks: which checks run, of "memcheck" (out-of-bounds accesses; the default), "racecheck"
            (unordered accesses, including asynchronous ones), "initcheck" (reads of unwritten
            memory) and "synccheck" (barriers; always on, as nothing could continue after such a
            mistake); "all", a sequence of names, or () for none: then an out-of-bounds access may
            end the process.
        order: in which the warps of a block take turns: "ascending" (the default), "descending" or
            "random".
        seed: for the random order.
        instruction_limit: warp instructions after which a block counts as endless.
        threads: cores that run blocks; 0, the default, uses all.
        sample_blocks: run at most this many clusters of blocks (without clusters: blocks), spread
            over the grid. What the others would have written is missing; records say how many ran,
            and scale their counters to the whole grid. 0, the default, runs all.

    Raises:
        ValueError: a value is not one of the above.
    """
    values = {
        "checks": None if checks is None else _joined(checks),
        "order": order,
        "seed": seed,
        "instruction_limit": instruction_limit,
        "threads": threads,
        "sample_blocks": sample_blocks,
    }
    lib = library()
    wanted = {name: str(value) for name, value in values.items() if value is not None}
    with _settings_lock:
        for name in wanted:
            _unchosen.setdefault(name, lib.wbsim_get(name.encode()))
        _chosen.append(wanted)
    try:
        with _settings_lock:
            for name, value in wanted.items():
                _set(lib.wbsim_set(name.encode(), value.encode()))
        yield
    finally:
        with _settings_lock:
            _chosen[:] = [chosen for chosen in _chosen if chosen is not wanted]
            for name in wanted:
                others = [chosen[name].encode() for chosen in _chosen if name in chosen]
                lib.wbsim_set(name.encode(), others[-1] if others else _unchosen.pop(name))


def _joined(checks: str | Sequence[str]) -> str:
    return checks if isinstance(checks, str) else ",".join(checks)


def _set(problem: bytes | None) -> None:
    if problem:
        raise ValueError(problem.decode())


@contextmanager
def checking(checks: str | Sequence[str]) -> Iterator[None]:
    """Let the launches of this thread have these checks until the block ends.

    Args:
        checks: as in ``settings``, which does not count for this thread meanwhile.

    Raises:
        ValueError: one is not a check.
    """
    lib = library()
    before: bytes | None = getattr(_of_thread, "checks", None)
    names = _joined(checks).encode()
    _set(lib.wbsim_set_checks_of_thread(names))
    _of_thread.checks = names
    try:
        yield
    finally:
        _of_thread.checks = before
        lib.wbsim_set_checks_of_thread(before)


@contextmanager
def progress_after(seconds: float) -> Iterator[None]:
    """Let launches show their progress in a terminal after this time, until the block ends.

    Otherwise they do so after 3 seconds; ``math.inf`` is for a block that draws there itself.
    """
    before = _progress_after
    _set_progress_after(seconds)
    try:
        yield
    finally:
        _set_progress_after(before)


def _set_progress_after(seconds: float) -> None:
    global _progress_after
    with _load_lock:
        _progress_after = seconds
        if _library is not None:
            _library.wbsim_progress_after(seconds)


@contextmanager
def record(*, addresses: bool = True) -> Iterator[list[Launch]]:
    """Collect the launches of the block; the list is filled when the block ends.

    Args:
        addresses: also count what depends on addresses: requests, sectors, wavefronts, L2, DRAM.
            Without it these are 0, generic accesses count as global, and launches take no longer
            than unrecorded ones.
    """
    lib = library()
    launches: list[Launch] = []
    token = lib.wbsim_record_start(int(addresses))
    try:
        yield launches
    finally:
        launches.extend(_launch(entry) for entry in json.loads(lib.wbsim_record_stop(token)))


def _launch(entry: dict) -> Launch:
    entry["grid"], entry["block"] = tuple(entry["grid"]), tuple(entry["block"])
    entry["lines"] = tuple(LineCounters(**line) for line in entry["lines"])
    entry["notes"] = tuple(Note(**note) for note in entry["notes"])
    return Launch(**entry)


def module_ptx(number: int) -> str:
    """The PTX of a launch's module; "" if it was replaced or unloaded since."""
    return (library().wbsim_module_ptx(number) or b"").decode()


def replace_ptx(path: Path, ptx: str) -> str:
    """Give a module of a loaded library other device code, at once; return what it had.

    The module is the one whose kernels and variables are all in the PTX. The host code stays: it
    must be that of the same source but for the bodies of device functions. Variables of the module
    get their initial values. Waits for a running kernel.

    Args:
        path: the library, as it was loaded.
        ptx: the module's new PTX.

    Raises:
        ValueError: it is no valid PTX, or no module of the library fits; nothing has changed.
    """
    before = ctypes.c_char_p()
    problem = library().wbsim_replace_ptx(str(path).encode(), ptx.encode(), ctypes.byref(before))
    if problem:
        raise ValueError(problem.decode())
    return (before.value or b"").decode()


def exception_for(error: RuntimeError) -> BaseException | None:
    """The exception for an error whose text is the simulator's last report, else None.

    A binding throws the report as plain text; this recovers its structured form. An interrupted
    kernel gives KeyboardInterrupt.
    """
    if _library is None:
        return None
    raw = _library.wbsim_last_finding_json()
    finding = json.loads(raw) if raw else None
    if not finding or finding["text"] not in str(error):
        return None
    if finding["kind"] == "interrupted":
        return KeyboardInterrupt()
    return SimulatorError(finding["text"], finding)
