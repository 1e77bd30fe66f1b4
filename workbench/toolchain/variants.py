"""Variants of an extension: the same kernels with some files edited, built in parallel.

A variant compiles only the files that its edits reach, and links them with copies of the objects
that the extension already has. The compiler runs by the rules that PyTorch wrote for the extension.
Everything is below ``variants_*`` in the cache's build folder: copies of the kernels, so that later
edits of the originals do not matter, and a folder for each variant.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from . import fingerprints, tools, waiting
from .cache import present, publish, tidy, touch
from .diagnostics import build_error
from .errors import BuildError
from .extension import Recipe, extension_recipe
from .host_calls import forbid_host_calls_in
from .library import build_library, copy_objects
from .locks import build_lock, compilers, end_compilers
from .paths import cache_dir, kernels_dir, shown, writable
from .toolkit import environment_of_builds

Edits = Mapping[str, bytes]  # a file's name and its new content


@dataclass(frozen=True)
class Variant:
    """A built variant: its library, and the files that were compiled for it."""

    library: Path
    sources: tuple[Path, ...]


@dataclass(frozen=True)
class Variants:
    """What builds variants of a folder of kernels; ``of`` makes it."""

    recipe: Recipe  # of the copies in ``kernels``
    folder: Path
    rules: str  # ninja's variables and rules
    environment: Mapping[str, str]

    @property
    def kernels(self) -> Path:
        """The folder of the unedited files."""
        return self.folder / "kernels"

    def built(
        self, every: Sequence[Edits], after: Callable[[Variant], object]
    ) -> Iterator[tuple[int, Variant | BuildError]]:
        """Build variants in parallel, MAX_JOBS or one per core; yield each as it is done.

        Args:
            every: the edits of each.
            after: called in parallel too with each that was built; its BuildError is dropped.

        Yields:
            The index of a variant, and the variant or why it does not build.
        """
        jobs = os.environ.get("MAX_JOBS", "")
        pool = ThreadPoolExecutor(int(jobs) if jobs.isdigit() and int(jobs) else os.cpu_count())
        ended = False

        def build(edits: Edits) -> Variant | BuildError:
            if ended:
                return BuildError("interrupted")
            try:
                made = self._build(edits)
            except BuildError as error:
                return error
            try:
                after(made)
            except BuildError:
                pass
            return made

        futures: dict[Future[Variant | BuildError], int] = {}
        try:
            futures |= {pool.submit(build, edits): i for i, edits in enumerate(every)}
            for done in as_completed(futures):
                yield futures[done], done.result()
        finally:
            ended = True
            pool.shutdown(wait=False, cancel_futures=True)
            if not all(future.done() for future in futures):  # after Ctrl-C
                for edits in every:
                    end_compilers(self._folder(edits))
        tidy()

    def _folder(self, edits: Edits) -> Path:
        return self.folder / fingerprints.digest(sorted(edits.items()))

    def _build(self, edits: Edits) -> Variant:
        """Build a variant unless it exists. Raises BuildError."""
        touch(self.folder)
        folder = self._folder(edits)
        with build_lock(folder, self.recipe.label):
            recipe = self._written(edits, folder)
            path = recipe.published(recipe.wanted())
            if present(path):
                touch(path)
            else:
                made = self._made(recipe, folder)
                publish(made, path)
                made.unlink()
        return Variant(path, tuple(s for s in recipe.sources if s.parent == folder))

    def _written(self, edits: Edits, folder: Path) -> Recipe:
        """Write a variant's files into its folder; return its recipe.

        The files that the edits do not reach are the unedited ones.
        """
        edited = {self.kernels / name for name in edits}
        for file in self.kernels.iterdir():
            if file.name in edits:
                _write(folder / file.name, edits[file.name])
            elif file not in self.recipe.sources and not (folder / file.name).is_symlink():
                (folder / file.name).symlink_to(f"../kernels/{file.name}")
        sources = []
        for source in self.recipe.sources:
            reached = edited & fingerprints.inputs(source, self.recipe.include_dirs)
            if reached and source.parent == self.kernels:
                if source.name not in edits:
                    _write(folder / source.name, source.read_bytes())
                source = folder / source.name
            sources.append(source)
        return replace(self.recipe, sources=tuple(sources))

    def _made(self, recipe: Recipe, folder: Path) -> Path:
        """Compile and link in a variant's folder. Raises BuildError."""
        lines, objects = [self.rules], []
        for name, source in recipe.objects().items():
            if source.parent == folder:
                rule = "cuda_compile" if source.suffix == ".cu" else "compile"
                lines.append(f"build {name}: {rule} {str(source).replace(' ', '$ ')}")
                objects.append(name)
            else:
                objects.append(f"../objects/{name}")
        lines += [f"build library.so: link {' '.join(objects)}", "default library.so", ""]
        _write(folder / "build.ninja", "\n".join(lines).encode())
        with compilers(folder):
            done = waiting.run(
                [str(tools.find_ninja()), "-v", "-j1"],
                cwd=folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
            )
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            raise build_error(recipe.label, said, folder / "build.log", recipe.objects())
        forbid_host_calls_in(folder, [said])
        return folder / "library.so"


def of(target: str, files: Mapping[str, bytes], bindings: Path | None = None) -> Variants:
    """What builds variants of some ladders.

    Args:
        target: one of workbench.toolchain.TARGETS.
        files: all headers and these ladders' files in ``kernels_dir()``, by name, as they are now.
        bindings: the bindings.cpp that they are built with; None for the repository's.

    Raises:
        BuildError: a file is no longer like that, or does not compile.
    """
    whole = extension_recipe(target, None, bindings)
    build_library(whole)
    made_of = _digest(whole, files)
    folder = writable(cache_dir() / "build" / f"variants_{target}_{made_of}")
    touch(folder)
    for name, content in files.items():
        _write(writable(folder / "kernels") / name, content)
    recipe = replace(
        extension_recipe(target, folder / "kernels", bindings), name=f"variant_{target}"
    )
    if not (folder / "complete").exists():
        copy_objects(whole, recipe.objects(), writable(folder / "objects"))
        for name, content in files.items():
            path = kernels_dir() / name
            if not path.exists() or path.read_bytes() != content:
                raise BuildError(f"{shown(path)} has changed since this was started; start again")
        rules, _, _ = (whole.folder / "build.ninja").read_text().partition("\nbuild ")
        _write(folder / "complete", rules.encode())
    environment = environment_of_builds(tools.find_ninja())
    return Variants(recipe, folder, (folder / "complete").read_text(), environment)


def _digest(whole: Recipe, files: Mapping[str, bytes]) -> str:
    """A digest of these files, and of the objects that variants are linked with."""
    wanted = whole.wanted()
    bindings = {"bindings", "launch", *(Path(name).stem.removesuffix("_cpu") for name in files)}
    linked = [
        (name, wanted[name])
        for name, source in whole.objects().items()
        if source.name in files or source.stem in bindings
    ]
    return fingerprints.digest(sorted(files.items()), linked, whole.ldflags)


def _write(path: Path, content: bytes) -> None:
    """Write a file that is not there, or different. Raises BuildError."""
    try:
        if not path.exists() or path.read_bytes() != content:
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_bytes(content)
            temporary.replace(path)
    except OSError as error:
        raise BuildError(f"cannot write {shown(path)}: {error.strerror}") from None
