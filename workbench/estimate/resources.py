"""What the compiler reports on a kernel for a GPU: registers, shared memory, spills, code.

One compilation per source file and architecture, cached under the hash of everything it depends on.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from workbench.toolchain import fingerprints, tools
from workbench.toolchain.cache import tidy, touch
from workbench.toolchain.diagnostics import build_error
from workbench.toolchain.errors import BuildError
from workbench.toolchain.paths import cache_dir, shown, writable

from . import machine_code
from .gpus import Gpu
from .machine_code import Region

VERSION = 1  # version of the cached data
CUBIN = "kernels.cubin"
_OUTPUTS = (CUBIN, "report.txt")
_ENTRY = re.compile(r"Compiling entry function '([\w$]+)' for")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Resources:
    """One kernel, compiled for one architecture.

    Attributes:
        registers: per thread.
        shared_bytes: static shared memory per block.
        stack_bytes: local memory per thread.
        spill_bytes: bytes of spill stores and loads per thread, counted once each in the code.
        spill_store_bytes: those of the stores.
        machine: the loops of the machine code.
    """

    registers: int
    shared_bytes: int
    stack_bytes: int = 0
    spill_bytes: int = 0
    machine: tuple[Region, ...] = ()
    spill_store_bytes: int = 0


@dataclass(frozen=True)
class Occupancy:
    """How many blocks and warps of a kernel are resident on an SM, and what limits them."""

    blocks: int
    warps: int
    fraction: float
    limiter: str  # warps, registers, shared memory or blocks


def occupancy(gpu: Gpu, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """The theoretical occupancy.

    Args:
        gpu: the GPU.
        threads: per block.
        registers: per thread.
        shared_bytes: per block, static and dynamic.
    """
    warps = -(-threads // 32)
    of_warp = _round_up(32 * max(1, registers), gpu.register_unit)
    shared = _round_up(shared_bytes + gpu.shared_reserved, gpu.shared_unit)
    limits = {
        "warps": gpu.warps // warps,
        "registers": 4 * (gpu.registers // 4 // of_warp) // warps,
        "blocks": gpu.blocks,
    }
    if shared:
        limits["shared memory"] = gpu.shared_bytes // shared
    limiter = min(limits, key=lambda name: limits[name])
    blocks = limits[limiter]
    return Occupancy(blocks, blocks * warps, blocks * warps / gpu.warps, limiter)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True)
class Source:
    """A .cu file and what it needs to compile.

    Attributes:
        path: the file.
        include_dirs: where its headers are, besides its own folder.
        flags: further ones for nvcc.
    """

    path: Path
    include_dirs: tuple[Path, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def all_flags(self) -> tuple[str, ...]:
        """The flags, except for those of the architecture."""
        folders = (f"-I{folder}" for folder in self.include_dirs)
        return ("-std=c++20", "-lineinfo", *folders, *self.flags)


def prepare(source: Path, arch: str) -> None:
    """Start compiling in the background a file that ``of_file`` will need."""
    done: Future[Path] = Future()
    if _prepared.setdefault((Source(source), arch), done) is done:
        threading.Thread(target=_finish, args=(done, Source(source), arch), daemon=True).start()


_prepared: dict[tuple[Source, str], Future[Path]] = {}
os.register_at_fork(after_in_child=_prepared.clear)  # whose child lacks the threads


def _finish(done: Future[Path], source: Source, arch: str) -> None:
    try:
        done.set_result(_of_file(source, arch))
    except BaseException as error:  # whoever requests the file gets it
        done.set_exception(error)


def of_file(source: Path | Source, arch: str) -> Mapping[str, Resources]:
    """The resources of every kernel of a .cu file, by the simulator's name for it.

    Args:
        source: the file.
        arch: as in 90a.

    Raises:
        BuildError: it does not compile for that architecture.
    """
    source = source if isinstance(source, Source) else Source(source)
    prepared = _prepared.pop((source, arch), None)
    return read(prepared.result() if prepared else _of_file(source, arch), arch)


@functools.cache  # a folder's name says what is in it: that never changes
def read(kept: Path, arch: str) -> Mapping[str, Resources]:
    """The resources of the kernels in a folder that ``kept`` returned."""
    report = (kept / "report.txt").read_text()
    machine = machine_code.kernels((kept / CUBIN).read_bytes(), int(arch.rstrip("a")))
    return {
        display_name(name): _resources(text, machine.get(name, ()))
        for name, text in _entries(report)
    }


def _of_file(source: Source, arch: str) -> Path:
    """The folder with the compiler's output for a file; compiles it if missing."""

    def compile_into(folder: Path) -> str:
        command = [
            str(tools.find_toolkit().nvcc),
            *source.all_flags,
            *("-ccbin", str(tools.find_cxx())),
            *("-gencode", f"arch=compute_{arch},code=sm_{arch}"),
            *("-Xptxas", "-v", "-cubin", "-o", str(folder / CUBIN), str(source.path)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            log = cache_dir() / "estimate" / f"{source.path.stem}.log"
            label = f"{source.path.name} for sm_{arch}"
            raise build_error(label, done.stdout + done.stderr, log, {})
        return done.stdout + done.stderr

    return kept(f"{source.path.stem[:100]}_{arch}_{_key(source, arch)}", compile_into)


def _key(source: Source, arch: str) -> str:
    toolkit = tools.find_toolkit()
    flags = source.all_flags
    made_of = repr((VERSION, arch, flags, tools.identity(toolkit.nvcc), tools.environment()))
    folders = (source.path.parent, *source.include_dirs, toolkit.include)
    return fingerprints.of_objects({"it": source.path}, folders, made_of)["it"]


def kept(name: str, compile_into: Callable[[Path], str]) -> Path:
    """A folder of the cache with the cubin and the report of a compilation, made if missing.

    Args:
        name: the folder's; it says everything that the compilation depends on.
        compile_into: writes the cubin (``CUBIN``) to a folder and returns the report.

    Raises:
        BuildError: from ``compile_into``, or the cache cannot be written.
    """
    folder = cache_dir() / "estimate" / name
    if _is_whole(folder):
        touch(folder)
        return folder
    writable(folder.parent)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch)
            (made / "report.txt").write_text(compile_into(made))
            (made / "digest").write_text(_digest(made))
            folder.mkdir(exist_ok=True)
            for file in (*_OUTPUTS, "digest"):
                (made / file).replace(folder / file)
    except OSError as error:
        raise BuildError(f"cannot write to {shown(folder.parent)}: {error.strerror}") from None
    tidy()
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a folder has what ``kept`` writes: not after a crash, or a full disk."""
    try:
        return (folder / "digest").read_text() == _digest(folder)
    except (OSError, ValueError):
        return False


def _digest(folder: Path) -> str:
    return fingerprints.digest(*(fingerprints.content(folder / name) for name in _OUTPUTS))


def _entries(report: str) -> list[tuple[str, str]]:
    """(mangled name, the compiler's lines about it) for every kernel."""
    found = list(_ENTRY.finditer(report))
    ends = [entry.start() for entry in found[1:]] + [len(report)]
    return [(entry[1], report[entry.end() : end]) for entry, end in zip(found, ends, strict=False)]


def _resources(text: str, machine: tuple[Region, ...]) -> Resources:
    used, shared, spills = _USED.search(text), _SHARED.search(text), _SPILLS.search(text)
    return Resources(
        registers=int(used[1]) if used else 0,
        shared_bytes=int(shared[1]) if shared else 0,
        stack_bytes=int(spills[1]) if spills else 0,
        spill_bytes=int(spills[2]) + int(spills[3]) if spills else 0,
        machine=machine,
        spill_store_bytes=int(spills[2]) if spills else 0,
    )


def display_name(mangled: str) -> str:
    """A kernel's name as in the simulator's records: tiled<32> for _Z5tiledILi32EEvPKfi."""
    demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    demangle.restype = ctypes.c_void_p
    status = ctypes.c_int()
    text = demangle(mangled.encode(), None, None, ctypes.byref(status))
    if not text:
        return mangled
    name = ctypes.string_at(text).decode()
    ctypes.CDLL(None).free(ctypes.c_void_p(text))
    return _without_types(name)


def _without_types(name: str) -> str:
    """Drop the parameters, which start outside <>, and the return type of a template."""
    depth = 0
    for i, char in enumerate(name):
        depth += (char == "<") - (char == ">")
        if char == "(" and depth == 0 and not name.startswith("(anonymous namespace)", i):
            name = name[:i]
            break
    depth = 0
    for i in range(len(name) - 1, -1, -1):
        depth += (name[i] in ">)") - (name[i] in "<(")
        if name[i] == " " and depth == 0:
            return name[i + 1 :]
    return name
