"""The kernels of a git revision, as files in the cache."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import fingerprints
from .cache import touch
from .command import shortened
from .errors import BuildError
from .paths import REPO, cache_dir, kernels_dir, shown, writable


@dataclass(frozen=True)
class Revision:
    """A commit's kernels.

    Attributes:
        name: as it was asked for, ``HEAD~2``.
        commit: its hash.
        subject: the first line of its message.
        folder: where its files are.
        kernels: the folder of its ladder files, inside of that.
        bindings: the bindings.cpp that goes with them; None if it is not in the same repository.
    """

    name: str
    commit: str
    subject: str
    folder: Path
    kernels: Path
    bindings: Path | None


def revision(name: str) -> Revision:
    """Find a revision of the repository that the kernels are in, and write its kernels as files.

    A type for argparse.

    Raises:
        argparse.ArgumentTypeError: the kernels are in no git repository, it has no such revision,
            or that has no kernels.
        BuildError: the cache cannot be written.
    """
    folder = kernels_dir().resolve()
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel")).resolve()
    except (subprocess.CalledProcessError, OSError) as error:
        raise ArgumentTypeError(
            f"{shown(folder)} is in no git repository: {_reason(error)}"
        ) from None
    try:
        commit = _git(top, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        subject = _git(top, "log", "-1", "--format=%s", commit)
    except subprocess.CalledProcessError:
        raise ArgumentTypeError(
            f"{shortened(repr(name))} is no revision of {top}; expected one such as HEAD~1, a "
            "branch or a hash"
        ) from None
    inside = folder.relative_to(top)
    wanted = [str(inside)]
    if top == REPO:
        wanted += ["bindings", "bindings.cpp"]
    there = [path for path in wanted if _has(top, commit, path)]
    if wanted[0] not in there:
        raise ArgumentTypeError(f"{name} has no folder {wanted[0]}")
    kept = cache_dir() / "revisions" / f"{commit[:16]}_{fingerprints.digest(there)}"
    if not kept.exists():
        _export(top, commit, there, kept)
    touch(kept)
    bindings = kept / "bindings.cpp" if "bindings.cpp" in there else None
    return Revision(name, commit, subject, kept, (kept / inside).resolve(), bindings)


def copied(files: Iterable[Path], root: Path, folder: Path) -> None:
    """Copy those files below ``root`` that exist into a new folder, as a whole.

    Raises BuildError.
    """
    try:
        with tempfile.TemporaryDirectory(dir=writable(folder.parent)) as scratch:
            made = Path(scratch) / "files"
            made.mkdir()
            for file in files:
                if file.exists() and file.is_relative_to(root):
                    to = made / file.relative_to(root)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, to)
            _appear(made, folder)
    except OSError as error:
        raise BuildError(f"cannot write to {shown(folder.parent)}: {error.strerror}") from None


def _appear(made: Path, folder: Path) -> None:
    """Move a folder to its place, unless another process was faster."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.exists():
            raise


def _export(top: Path, commit: str, there: list[str], kept: Path) -> None:
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit, "--", *there],
        cwd=top,
        capture_output=True,
        check=True,
    ).stdout
    writable(kept.parent)
    try:
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(scratch, filter="data")
            made = Path(scratch) / "files"
            made.mkdir()
            for path in Path(scratch).iterdir():
                if path != made:
                    path.rename(made / path.name)
            _appear(made, kept)
    except tarfile.TarError as error:
        raise BuildError(f"{commit[:10]} has a file that cannot be written: {error}") from None
    except OSError as error:
        raise BuildError(f"cannot write to {shown(kept.parent)}: {error.strerror}") from None


def _has(top: Path, commit: str, path: str) -> bool:
    name = f"{commit}:{'' if path == '.' else path}"
    found = subprocess.run(["git", "cat-file", "-e", name], cwd=top, stderr=-3)
    return found.returncode == 0


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, errors="replace", check=True
    )
    return done.stdout.strip()


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return (error.stderr or "").strip().splitlines()[0].removeprefix("fatal: ")
    return str(error)
