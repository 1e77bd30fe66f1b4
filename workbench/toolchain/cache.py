"""Finished files in the cache: published whole, found by name, deleted when long unused."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from .errors import BuildError
from .paths import cache_dir, shown, writable

_TIDY_SECONDS = 3600
_UNUSED_SECONDS = 14 * 86400
_NEW_SECONDS = 3600  # somebody may be about to use it
_MOST_BYTES = 2 << 30
_KEPT = (
    *("lib/*", "estimate/*", "listing/*", "inline/*", "host/*", "revisions/*"),
    *("build/inline_*", "build/program_*", "build/variants_*"),
)


def publish(made: Path, path: Path) -> None:
    """Copy a finished file into the cache atomically. Raises BuildError."""
    writable(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(made.read_bytes())
        temporary.chmod(0o755)
        temporary.replace(path)
    except OSError as error:
        raise BuildError(f"cannot write {shown(path)}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def present(path: Path) -> bool:
    """Whether a published file is there; one that a crash of the machine has emptied is not."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def touch(path: Path) -> None:
    """Mark what is cached as used."""
    try:
        os.utime(path)
    except OSError:
        pass  # a read-only cache


def forget_unused() -> None:
    """Delete what was not used for two weeks and, of what is too much, what was used least lately.

    Each kind of folder keeps 2 GiB.
    """
    now = time.time()
    for pattern in _KEPT:
        kept = 0
        for used, size, path in sorted(map(_use, cache_dir().glob(pattern)), reverse=True):
            kept += size
            unused = now - used
            if unused > _UNUSED_SECONDS or (kept > _MOST_BYTES and unused > _NEW_SECONDS):
                _delete(path)


def tidy() -> None:
    """``forget_unused``, but not more than once in an hour: looking at everything takes a while."""
    mark = cache_dir() / "tidied"
    try:
        if time.time() - mark.stat().st_mtime < _TIDY_SECONDS:
            return
    except OSError:
        pass
    try:
        mark.touch()
    except OSError:
        return  # a read-only cache
    forget_unused()


def _use(path: Path) -> tuple[float, int, Path]:
    """When something was last used, its bytes, and its path; a folder counts as a whole."""
    try:
        inside = path.rglob("*") if path.is_dir() else (path,)
        return path.stat().st_mtime, sum(file.lstat().st_size for file in inside), path
    except OSError:
        return time.time(), 0, path  # just deleted


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:
        pass  # another user's, or already gone
