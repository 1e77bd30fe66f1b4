"""Builds a recipe with torch.utils.cpp_extension.load, once per folder: later ones run its rules.

load() alone would hang on the lock of a killed build, keep a failed build failed, miss edited
headers and bury its errors. Each workaround is explained where it is implemented.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import fingerprints, tools, waiting
from .errors import BuildError
from .extension import Recipe
from .toolkit import environment_of_builds, private_toolkit, shown_to_torch


def by_torch(recipe: Recipe) -> list[str]:
    """Call torch's load() once; return what the compilers said. Raises RuntimeError."""
    torch_extension = cpp_extension()
    folder = recipe.folder  # before CXX is changed, on which it depends
    home = private_toolkit(recipe.toolkit, recipe.target) if recipe.toolkit else None
    forget_versions(torch_extension, recipe.name)
    with shown_to_torch(home, tools.find_ninja()), heard(torch_extension) as said:
        # is_standalone: build and return, do not load. (A "stand-alone program" linked with
        # -shared is a library.) What gets loaded is the copy with the hash in its name.
        torch_extension.load(
            recipe.name,
            [str(s) for s in recipe.sources],
            extra_cflags=list(recipe.cflags),
            extra_cuda_cflags=list(recipe.cuda_cflags),
            extra_ldflags=[
                *([f"-L{home / 'lib64'}"] if home else []),
                *map(quoted, recipe.ldflags),
            ],
            extra_include_paths=[str(d) for d in recipe.include_dirs],
            build_directory=str(folder),
            with_cuda=home is not None,
            is_python_module=False,
            is_standalone=True,
        )
    return said


class Rules:
    """What load() wrote for ninja in a recipe's folder, to be run again without load().

    An edit changes none of it. To run it alone needs no PyTorch, which may still be imported then.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.folder = recipe.folder
        self.file, self.mark = self.folder / "build.ninja", self.folder / "rules"
        self.made_for = fingerprints.digest(recipe.name, recipe.objects(), recipe.ldflags)

    def are_there(self) -> bool:
        """Whether they are for this recipe, whose folder stands for most of it, and unchanged."""
        try:
            return self.mark.read_text() == self._digest()
        except OSError:
            return False

    def keep(self) -> None:
        """Note that they are good: load() has just written and run them."""
        self.mark.write_text(self._digest())

    def run(self) -> list[str]:
        """Run them; return what the compilers said. Raises RuntimeError."""
        ninja = tools.find_ninja()
        jobs = os.environ.get("MAX_JOBS", "")
        done = waiting.run(
            [str(ninja), "-v", *(["-j", jobs] if jobs.isdigit() else [])],
            cwd=self.folder,
            env=environment_of_builds(ninja),
            stdin=subprocess.DEVNULL,
        )
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            raise RuntimeError(said)
        return [said]

    def _digest(self) -> str:
        return f"{self.made_for} {fingerprints.content(self.file)}"


def check_gencodes(folder: Path, gencodes: Sequence[str]) -> None:
    """Verify that the architecture reached nvcc: PyTorch easily drops its own -gencode flags."""
    commands = (folder / "build.ninja").read_text()
    for gencode in gencodes:
        if f"-gencode {gencode}" not in commands:
            raise BuildError(
                f"the flag -gencode {gencode} did not reach nvcc; see {folder / 'build.ninja'}"
            )


def cpp_extension():  # noqa: ANN202, a module
    """torch.utils.cpp_extension, without its warning that there is no GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils import cpp_extension
    finally:
        logger.setLevel(level)
    return cpp_extension


@contextmanager
def heard(module) -> Iterator[list[str]]:  # noqa: ANN001
    """What the commands say that torch.utils.cpp_extension runs: it drops that of a success."""
    said: list[str] = []

    class Listening:
        def __getattr__(self, name: str) -> object:
            return getattr(subprocess, name)

        def run(self, *arguments, **named):  # noqa: ANN002, ANN003, ANN202
            if named.get("stdout") != subprocess.PIPE or named.get("stderr") != subprocess.STDOUT:
                return subprocess.run(*arguments, **named)
            done = waiting.run(*arguments, **named)
            said.append(done.stdout.decode(errors="replace"))
            return done

    module.subprocess = Listening()
    try:
        yield said
    finally:
        module.subprocess = subprocess


def forget_versions(module, name: str) -> None:  # noqa: ANN001
    """Make load() run ninja every time.

    It remembers in this process what it built under a name: an edit then makes it build name_v1,
    and a failed build is never retried. The memory is private to PyTorch: if a later version has
    none, there is nothing to forget.
    """
    versioner = getattr(module, "JIT_EXTENSION_VERSIONER", None)
    getattr(versioner, "entries", {}).pop(name, None)


def quoted(flag: str) -> str:
    """A flag for a ninja file, escaped for the shell and for ninja."""
    return shlex.quote(flag).replace("$", "$$")
