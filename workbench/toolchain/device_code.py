"""An edit of device functions alone: other PTX in a loaded library, without its host code.

nvcc makes two things of a .cu file: device code, and host code for g++, which takes most of the
time. As long as the host code stays what it was, the simulator can give a loaded library's module
the new PTX. Host code is compared as nvcc's front end (cudafe++) writes it: without the bodies of
kernels and device functions.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from . import fingerprints, host_calls, ptx_text, tools, waiting
from .diagnostics import build_error, warnings
from .errors import BuildError
from .extension import Recipe
from .paths import cache_dir, writable

# What cudafe++ leaves of device functions; its notes on lines and names; the line in the messages
# of CUDA_CHECK, which has a whole path as it is __FILE__.
_BODY = re.compile(r"^#if 0\n.*?^#endif\n", re.M | re.S)
_NOTE = re.compile(r"^#(?!pragma pack).*\n", re.M)
_LINE = re.compile(r'"/[^"\n]*\.(?:cuh?|h)", \d+')


class NotAlone(Exception):
    """An edit changed host code, too, or this library cannot take other device code."""


class DeviceCode:
    """The device code of a loaded library of the simulator's, which follows its sources.

    Args:
        recipe: what the library was built from.
        library: its path, as it was loaded.
        wanted: the fingerprints of its objects (``Recipe.wanted``) when it was built.
    """

    def __init__(self, recipe: Recipe, library: Path, wanted: dict[str, str]) -> None:
        self.recipe, self.library, self.built = recipe, library, wanted
        self.loaded = dict(wanted)  # what its modules have now
        self.original: dict[str, str] = {}  # the PTX of those that have other code, by object
        self._objects = {o: s for o, s in recipe.objects().items() if s.suffix == ".cu"}

    def stale(self) -> list[Path]:
        """The sources whose device code is no longer what the library has."""
        wanted = self.recipe.wanted()
        return [s for o, s in self._objects.items() if wanted[o] != self.loaded[o]]

    def sources_of(self, entries: Collection[str]) -> list[Path] | None:
        """The sources with these kernels, by their names in PTX; None if one is not found."""
        wanted = {f".entry {entry}(".encode() for entry in entries}
        found = []
        for name, source in self._objects.items():
            with contextlib.suppress(OSError):
                content = (self.recipe.folder / name).read_bytes()
                here = {entry for entry in wanted if entry in content}
                found += [source] if here else []
                wanted -= here
        return None if wanted else found

    def prepare(self, sources: Sequence[Path]) -> None:
        """Note the host code of sources that were not edited yet: later edits are compared."""
        wanted = self.recipe.wanted()
        for name, source in self._objects.items():
            if source in sources and wanted[name] == self.built[name]:
                _host_code(self.recipe, name, wanted[name])

    def update(self, sources: Sequence[Path]) -> dict[Path, set[str] | None]:
        """Compile stale sources and load their device code.

        Returns:
            The kernels of each whose instructions changed, by their names in PTX; None for all.

        Raises:
            BuildError: a source does not compile; nothing has changed.
            NotAlone: the host code differs, too, or is not known: build the library again.
        """
        wanted = self.recipe.wanted()
        if any(wanted[o] != self.built[o] for o in wanted if o not in self._objects):
            raise NotAlone("the bindings")
        stale = {o: s for o, s in self._objects.items() if wanted[o] != self.loaded[o]}
        names = [o for o, s in stale.items() if s in sources]
        with ThreadPoolExecutor() as pool:
            hosts = {name: pool.submit(self._host_differs, name, wanted[name]) for name in names}
            made = {name: pool.submit(self._compile, name) for name in names}
            texts = {name: future.result() for name, future in made.items()}
            _raise_if_any(hosts)
        if any(self.recipe.wanted()[name] != wanted[name] for name in names):
            return self.update(sources)  # saved meanwhile
        changed = {}
        for name, text in texts.items():
            before = self._replace(name, text)
            self.loaded[name] = wanted[name]
            changed[self._objects[name]] = ptx_text.changed_kernels(before, text)
        return changed

    def of_folder(self, folder: Path, sources: Sequence[Path]) -> dict[str, str]:
        """The PTX of the files of the same names in another folder, by object.

        Raises:
            BuildError: one does not compile.
            NotAlone: its host code is not that of the library's source.
        """
        names = [name for name, source in self._objects.items() if source in sources]
        with ThreadPoolExecutor() as pool:
            hosts = {name: pool.submit(self._host_differs, name, "", folder) for name in names}
            made = {name: pool.submit(self._compile, name, folder) for name in names}
            texts = {name: future.result() for name, future in made.items()}
            _raise_if_any(hosts)
        return texts

    @contextlib.contextmanager
    def holding(self, texts: Mapping[str, str]) -> Iterator[dict[str, set[str] | None]]:
        """Let the library have other device code in a block: that of ``of_folder``.

        Yields, by object, the kernels whose instructions differ, by name in PTX; None for all.
        Raises NotAlone.
        """
        before: dict[str, str] = {}
        try:
            for name, text in texts.items():
                before[name] = _replaced(self.library, text)
            yield {n: ptx_text.changed_kernels(b, texts[n]) for n, b in before.items()}
        finally:
            for text in before.values():
                _replaced(self.library, text)

    def restore(self) -> None:
        """Give every module the device code that it was built with."""
        import simulator

        for name, text in self.original.items():
            simulator.replace_ptx(self.library, text)
            self.loaded[name] = self.built[name]
        self.original.clear()

    def _replace(self, name: str, text: str) -> str:
        before = _replaced(self.library, text)
        self.original.setdefault(name, before)
        return before

    def _host_differs(self, name: str, wanted: str, folder: Path | None = None) -> bool:
        known = _kept(self.built[name])
        if not known.exists() and self.recipe.wanted()[name] == self.built[name]:
            _host_code(self.recipe, name, self.built[name])
        found = _host_code(self.recipe, name, wanted, folder)
        return not known.exists() or found != known.read_text()

    def _compile(self, name: str, folder: Path | None = None) -> str:
        """The PTX of a source, compiled as for the library; that of `folder` if given."""
        command = _command(self.recipe, name, folder)
        text, said = ptx_text.compiled(command, self.recipe.folder)
        if not text:
            log = f"FAILED: {name}\n{command}\n{said}"
            path = self.recipe.folder / "build.log"
            raise build_error(self.recipe.label, log, path, self.recipe.objects())
        if host_calls.suspicious(command, said, text):
            raise NotAlone("calls of host functions")  # which a build examines
        for warning in warnings(said, self.recipe.folder):
            raise NotAlone(warning)  # which a build shows
        return text


def _raise_if_any(hosts: dict[str, Future[bool]]) -> None:
    different = [name for name, future in hosts.items() if future.result()]
    if different:
        raise NotAlone(f"the host code of {', '.join(different)}")


def _replaced(library: Path, text: str) -> str:
    """Replace the PTX of a library's module; return what it was. Raises NotAlone."""
    import simulator

    try:
        return simulator.replace_ptx(library, text)
    except ValueError as error:
        raise NotAlone(str(error)) from None


def _command(recipe: Recipe, name: str, folder: Path | None = None) -> str:
    """The command that compiles an object of a recipe that was built.

    folder: has a file of the source's name, and headers, to compile in the source's place.
    """
    done = waiting.run(
        [str(tools.find_ninja()), "-C", str(recipe.folder), "-t", "commands", name],
        stdin=subprocess.DEVNULL,
    )
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if " -c " in line]
    if not lines:
        raise NotAlone(f"{recipe.folder} has no command for {name}")
    if not folder:
        return lines[-1]
    own = re.escape(str(recipe.objects()[name].parent))
    return re.sub(rf"{own}(?=[/\s'\"]|$)", lambda _: str(folder), lines[-1])


def _kept(fingerprint: str) -> Path:
    return cache_dir() / "host" / fingerprint


def _host_code(recipe: Recipe, name: str, fingerprint: str, folder: Path | None = None) -> str:
    """A digest of the host code of an object's source as it is now; "" if that fails.

    It is kept under the source's fingerprint; that of another folder's file is not.
    """
    path = _kept(fingerprint)
    with contextlib.suppress(OSError):
        if not folder:
            return path.read_text()
    text = _split(recipe, name, folder)
    if not text:
        return ""
    text = _LINE.sub("", _NOTE.sub("", _BODY.sub("", text)))
    digest = fingerprints.digest(text.split())
    if not folder and recipe.wanted()[name] == fingerprint:  # else it was saved meanwhile
        with contextlib.suppress(OSError, BuildError):
            writable(path.parent)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.{id(recipe)}")
            temporary.write_text(digest)
            temporary.replace(path)
    return digest


def _split(recipe: Recipe, name: str, folder: Path | None) -> str:
    """The host code that nvcc's front end writes for an object's source; "" if that fails."""
    with tempfile.TemporaryDirectory() as scratch:
        keep = ["--dryrun", "--keep", "--keep-dir", scratch, "-c", "-o", f"{scratch}/x.o"]
        words = [*ptx_text.flags_of(_command(recipe, name, folder)), *keep]
        done = waiting.run(words, cwd=recipe.folder, stdin=subprocess.DEVNULL)
        plan = done.stdout.decode(errors="replace").splitlines()
        first = [line[3:] for line in plan if " -E -x c++ " in line or "cudafe++" in line][:2]
        path = f"{recipe.cuda.nvcc.parent}:{os.environ.get('PATH', '')}"
        waiting.run(
            ["bash", "-e", "-c", "\n".join(first)],
            cwd=recipe.folder,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": path},
        )
        made = list(Path(scratch).glob("*.cudafe1.cpp"))
        return made[0].read_text(errors="replace") if made else ""
