"""Runs compiled CUDA kernels without a GPU.

The simulator is a C++ library (simulator/src) that stands in for the CUDA runtime. One is loaded
in a process; this module loads it, changes its settings, and reads what it counted and found.

    with simulator.settings(order="random", seed=1), simulator.record() as launches:
        matmul(a, b)
    print(launches[0].warp_instructions)
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

_load_lock = threading.Lock()
_library: ctypes.CDLL | None = None


@dataclass(frozen=True)
class LineCounters:
    """What the instructions of one source line counted in one launch; units as in Launch."""

    file: str
    line: int
    warp_instructions: int
    thread_instructions: int
    flops: int
    global_load_bytes: int
    global_store_bytes: int
    shared_load_bytes: int
    shared_store_bytes: int
    local_bytes: int
    atomics: int
    barriers: int


@dataclass(frozen=True)
class Launch:
    """One kernel launch and what it counted.

    Instructions are PTX instructions: warp_instructions counts one per warp, thread_instructions
    one per active lane. Bytes are those the lanes asked for, whatever a memory system would move.
    atomics counts lanes, barriers warps. An FMA is two flops. forms are the warp instructions by
    opcode and modifiers, as in "ld.global.u32". seconds is the simulator's own wall
    time and says nothing about a GPU.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    warp_instructions: int
    thread_instructions: int
    flops: int
    global_load_bytes: int
    global_store_bytes: int
    shared_load_bytes: int
    shared_store_bytes: int
    local_bytes: int
    atomics: int
    barriers: int
    seconds: float
    lines: tuple[LineCounters, ...]
    forms: dict[str, int]


class SimulatorError(RuntimeError):
    """Something the simulator found in a running kernel; str() is the report for a person.

    Attributes: kind ("memcheck", "synccheck", "unsupported", "limit", "trap", "launch"), kernel,
    file and line ("" and 0 without line information), block, thread (None: no single thread),
    address.
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
        "wbsim_record_start": (number, []),
        "wbsim_record_stop": (text, [number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.wbsim_attach()
    return lib


@contextmanager
def settings(
    *,
    checks: Sequence[str] | None = None,
    order: str | None = None,
    seed: int | None = None,
    instruction_limit: int | None = None,
    threads: int | None = None,
) -> Iterator[None]:
    """Change how kernels are run, until the block ends. They apply to the whole process.

    Args:
        checks: which checks run: ("memcheck",), the default, or () for none.
        order: in which the warps of a block take turns: "ascending" (the default), "descending" or
            "random".
        seed: of the random order.
        instruction_limit: warp instructions a block may execute before it counts as endless.
        threads: cores that run blocks; 0, the default, takes all.

    Raises:
        ValueError: a value is not one of the above.
    """
    wanted = {
        "checks": None if checks is None else ",".join(checks),
        "order": order,
        "seed": seed,
        "instruction_limit": instruction_limit,
        "threads": threads,
    }
    lib = library()
    before = {}
    try:
        for name, value in wanted.items():
            if value is not None:
                before[name] = lib.wbsim_get(name.encode())
                problem = lib.wbsim_set(name.encode(), str(value).encode())
                if problem:
                    raise ValueError(problem.decode())
        yield
    finally:
        for name, value in before.items():
            lib.wbsim_set(name.encode(), value)


@contextmanager
def record() -> Iterator[list[Launch]]:
    """Collect the launches of the block; the list is filled when the block ends."""
    lib = library()
    launches: list[Launch] = []
    token = lib.wbsim_record_start()
    try:
        yield launches
    finally:
        launches.extend(_launch(entry) for entry in json.loads(lib.wbsim_record_stop(token)))


def _launch(entry: dict) -> Launch:
    entry["grid"], entry["block"] = tuple(entry["grid"]), tuple(entry["block"])
    names = [f.name for f in fields(LineCounters)]
    entry["lines"] = tuple(LineCounters(*(line[n] for n in names)) for line in entry["lines"])
    return Launch(**entry)


def exception_for(error: RuntimeError) -> BaseException | None:
    """The exception for an error whose text is the simulator's last report, else None.

    A binding throws the report as plain text; this finds the structure behind it. An interrupted
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
