"""One build at a time per folder, and no waiting for dead processes.

The lock is an OS lock (filelock): it is released when its process ends, however that happens.
PyTorch's own lock is a file that a killed build leaves behind, and load() then waits for it
forever; the holder of the OS lock may delete it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BuildError
from .paths import shown, writable

_STRAGGLERS_SECONDS = 120
_END_SECONDS = 5  # for a compiler to end that was asked to
_COMPILERS = {
    "ninja",
    "sh",
    "nvcc",
    "cicc",
    "cudafe++",
    "ptxas",
    "fatbinary",
    "ccache",
    "sccache",
    "cc1plus",
    "c++",
    "g++",
    "gcc",
    "clang",
    "clang++",
    "as",
    "ar",
    "ld",
    "collect2",
}


@contextmanager
def build_lock(folder: Path, label: str) -> Iterator[None]:
    """Lock the build folder `folder`; `label` is what waiting processes say is being built.

    Raises BuildError if the folder cannot be locked or, in the block, be written to.
    """
    from filelock import FileLock, Timeout

    writable(folder)
    lock = FileLock(folder / "workbench.lock")
    owner = folder / "owner"  # names the lock's holder; only a killed build leaves it behind
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(_waiting(owner, label), file=sys.stderr, flush=True)
            lock.acquire(poll_interval=0.05)
    except OSError as error:
        raise BuildError(f"cannot lock {shown(folder)}: {error.strerror}") from None
    try:
        if owner.exists():
            _await_stragglers(folder)
        (folder / "lock").unlink(missing_ok=True)  # PyTorch's, from a killed build
        owner.write_text(f"{os.getpid()}\n{label}\n")
        yield
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise BuildError(f"building {label} failed: {what}{error.strerror or error}") from None
    finally:
        if not _working_in(folder):  # otherwise the next build is to wait for them
            owner.unlink(missing_ok=True)
        lock.release()


@contextmanager
def compilers(folder: Path) -> Iterator[None]:
    """Run compilers in `folder`: none is left when the block ends, however it ends.

    After Ctrl-C, or when ninja is killed, they would go on and write into the next build.
    """
    try:
        yield
    finally:
        end_compilers(folder)


def end_compilers(folder: Path) -> None:
    """End the compilers that run in `folder`."""
    session = os.getsid(0)
    end = time.monotonic() + _END_SECONDS
    while pids := _working_in(folder):
        late = time.monotonic() > end
        for pid in pids:
            try:
                if os.getsid(pid) == session:  # else somebody else's, who happens to be there
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            except OSError:
                continue  # ended meanwhile
        if time.monotonic() > end + _END_SECONDS:
            return
        time.sleep(0.02)


def _waiting(owner: Path, label: str) -> str:
    try:
        pid, what = owner.read_text().splitlines()[:2]
    except (OSError, ValueError):
        return f"waiting for another process that is building {label}"
    return f"waiting for process {pid}, which is building {what}"


def _await_stragglers(folder: Path) -> None:
    """Wait for the compilers of a killed build: they may still be writing into `folder`."""
    end = time.monotonic() + _STRAGGLERS_SECONDS
    told = False
    while pids := _working_in(folder):
        if not told:
            print(
                f"waiting for the compilers of a killed build ({pids[0]})",
                file=sys.stderr,
                flush=True,
            )
            told = True
        if time.monotonic() > end:
            raise BuildError(
                f"a killed build left processes running in {shown(folder)}: "
                f"{', '.join(map(str, pids))}. End them and try again."
            )
        time.sleep(0.05)


def _working_in(folder: Path) -> list[int]:
    """The compilers whose working directory is `folder`; ninja starts them all there."""
    here = os.path.realpath(folder)
    pids = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == here:
                if Path(f"/proc/{entry}/comm").read_text().strip() in _COMPILERS:
                    pids.append(int(entry))
        except OSError:
            continue  # ended meanwhile, or another user's
    return pids
