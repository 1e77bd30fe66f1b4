"""What the compiler reports on launched kernels: from the PTX that the simulator ran.

That PTX is for compute capability 9.0: only its GPUs have no need to compile the source again. A
kernel is compiled alone, which takes a fraction of the time that its file would.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.toolchain import fingerprints, tools
from workbench.toolchain.errors import BuildError
from workbench.toolchain.ptx_text import only_kernel

from . import resources
from .resources import Resources

if TYPE_CHECKING:
    import simulator

ARCH = "90a"  # of the simulator's PTX
_FLAGS = ("-v", f"-arch=sm_{ARCH}")
_PLACES = re.compile(r"^\t*\.(?:loc|file)\t.*\n", re.M)  # which the report does not depend on

_lock = threading.Lock()
_compiling: dict[str, Future[Resources]] = {}  # by the kernel's PTX
_free = threading.Semaphore(os.cpu_count() or 1)


def _in_child() -> None:
    """After a fork, whose child lacks the threads."""
    global _lock, _free
    _lock, _free = threading.Lock(), threading.Semaphore(os.cpu_count() or 1)
    _compiling.clear()


os.register_at_fork(after_in_child=_in_child)


def begin(launches: Sequence[simulator.Launch]) -> dict[str, Future[Resources]]:
    """Start compiling the kernels of launches; their resources by the kernels' names.

    A kernel whose module is no longer loaded is left out. The results raise BuildError.
    """
    import simulator

    found: dict[str, Future[Resources]] = {}
    for launch in launches:
        if launch.kernel not in found and launch.entry:
            ptx = simulator.module_ptx(launch.module)
            if ptx:
                found[launch.kernel] = _begin(only_kernel(ptx, launch.entry), launch.entry)
    return found


def _begin(ptx: str, entry: str) -> Future[Resources]:
    text = _PLACES.sub("", ptx)
    with _lock:
        if text in _compiling:
            return _compiling[text]
        done = _compiling[text] = Future()
    threading.Thread(target=_finish, args=(done, text, entry), daemon=True).start()
    return done


def _finish(done: Future[Resources], text: str, entry: str) -> None:
    try:
        with _free:
            done.set_result(_compiled(text, entry))
    except BaseException as error:  # whoever requests the result gets it
        with _lock:
            _compiling.pop(text, None)  # the disk may have been full: the next one tries again
        done.set_exception(error)


def _compiled(text: str, entry: str) -> Resources:
    ptxas = tools.find_toolkit().nvcc.with_name("ptxas")
    key = fingerprints.digest(resources.VERSION, _FLAGS, tools.identity(ptxas), text)
    name = resources.display_name(entry).partition("<")[0][:80]

    def compile_into(folder: Path) -> str:
        source = folder / "kernel.ptx"
        source.write_text(text)
        command = [str(ptxas), *_FLAGS, str(source), "-o", str(folder / resources.CUBIN)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        source.unlink()
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines() or ["ptxas failed"]
            raise BuildError(f"{name} does not compile for sm_{ARCH}: {said[0]}")
        return done.stdout + done.stderr

    kept = resources.kept(f"{name}_{ARCH}_{key}", compile_into)
    return resources.read(kept, ARCH)[resources.display_name(entry)]
