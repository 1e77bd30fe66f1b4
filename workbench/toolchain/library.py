"""Builds libraries from recipes: each once, by one process at a time, whatever ends it."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Collection
from pathlib import Path

from . import fingerprints, waiting
from .announce import announced
from .by_torch import Rules, by_torch, check_gencodes
from .cache import present, publish, tidy, touch
from .diagnostics import build_error, warnings
from .errors import BuildError
from .extension import Recipe, extension_recipe
from .host_calls import forbid_host_calls_in
from .locks import build_lock, compilers, end_compilers
from .simulator import find_simulator


def load_extension(
    target: str, kernel_dir: Path | None = None, bindings: Path | None = None
) -> Path:
    """Build every ladder file and its operator's binding for `target`; return the library's path.

    Nothing is loaded. The same inputs always give the same path, immediately if it exists; its name
    contains their hash, so that two versions can be loaded into one process. Load it with
    ctypes.CDLL (RTLD_LOCAL). Errors: BuildError, whose text is meant for the user.
    """
    return build_library(extension_recipe(target, kernel_dir, bindings))


def build_library(recipe: Recipe, slow: bool = False) -> Path:
    """The library, or object, of `recipe`, built unless it already exists.

    slow: announce the beginning of the build even where the announcement stays.
    """
    path = recipe.published(recipe.wanted())
    _Ahead.await_one_of(path)
    return _build(recipe, path, slow)


def _build(recipe: Recipe, path: Path, slow: bool = False) -> Path:
    if present(path):
        touch(path)
        return path
    with build_lock(recipe.folder, recipe.label):
        for _ in range(3):
            wanted = recipe.wanted()
            path = recipe.published(wanted)
            if present(path):  # built by the process we waited for
                return path
            made = _make(recipe, wanted, slow)
            if recipe.kind == "o":
                made = recipe.folder / next(iter(recipe.objects()))
            if recipe.wanted() == wanted:  # otherwise a source was saved meanwhile: retry
                publish(made, path)
                tidy()
                return path
    raise BuildError(f"the sources of {recipe.label} change faster than they compile")


def build_ahead(target: str) -> None:
    """Start building what was edited of the ladders, in the background, without PyTorch.

    Does nothing if PyTorch has to write the build's rules first. ``build_library`` waits for it.
    """
    _Ahead.running = ahead = _Ahead(target)
    atexit.register(ahead.end)
    ahead.thread.start()


class _Ahead:
    """A build in the background: its library's path, and why it failed."""

    running: _Ahead | None = None

    def __init__(self, target: str) -> None:
        self.target = target
        self.recipe: Recipe | None = None
        self.path: Path | None = None
        self.error: BuildError | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        """Build, if there is something to build and the rules are there."""
        try:
            if self.target == "simulator" and not find_simulator()[1]:
                return  # its build takes longer than the import, and says that it begins
            self.recipe = extension_recipe(self.target)
            self.path = self.recipe.published(self.recipe.wanted())
            if not present(self.path) and Rules(self.recipe).are_there():
                _build(self.recipe, self.path)
        except BuildError as error:
            self.error = error

    def end(self) -> None:
        """At the end of the process: leave no compilers behind."""
        if self.thread.is_alive() and self.recipe is not None:
            end_compilers(self.recipe.folder)

    @classmethod
    def await_one_of(cls, path: Path) -> None:
        """Wait for the build in the background, if any; raise its error, if it was of ``path``."""
        ahead, cls.running = cls.running, None
        if ahead is not None:
            while ahead.thread.is_alive():
                ahead.thread.join(waiting.STEP_SECONDS)
            if ahead.error is not None and ahead.path == path:
                raise ahead.error


def copy_objects(recipe: Recipe, names: Collection[str], folder: Path) -> None:
    """Copy objects of a library, made from the sources as they are now, into `folder`.

    Compiles those that the build folder lacks. Raises BuildError.
    """
    with build_lock(recipe.folder, recipe.label):
        wanted = recipe.wanted()
        if not fingerprints.Manifest(recipe.folder).has({name: wanted[name] for name in names}):
            _make(recipe, wanted)
        for name in names:
            publish(recipe.folder / name, folder / name)


def _make(recipe: Recipe, wanted: dict[str, str], slow: bool = False) -> Path:
    with announced(recipe.label, slow) as texts:
        return _load(recipe, wanted, texts)


def _load(recipe: Recipe, wanted: dict[str, str], texts: list[str]) -> Path:
    """Compile and link once, in the recipe's folder, under our lock; return the library.

    texts: the compiler's warnings are appended.
    """
    folder = recipe.folder
    manifest = fingerprints.Manifest(folder)
    manifest.begin(wanted, (recipe.name,))
    rules = Rules(recipe)
    try:
        with compilers(folder):
            said = rules.run() if rules.are_there() else by_torch(recipe)
    except BuildError:  # of what a build needs
        raise
    except RuntimeError as error:
        log = folder / "build.log"
        raise build_error(recipe.label, str(error), log, recipe.objects()) from None
    finally:
        manifest.finish()
    check_gencodes(folder, recipe.gencodes)
    rules.keep()
    forbid_host_calls_in(folder, said)
    texts += warnings("".join(said), folder)
    return folder / recipe.name
