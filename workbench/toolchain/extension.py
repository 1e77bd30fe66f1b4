"""Compiling sources into a shared library with torch.utils.cpp_extension.load.

load() alone would hang on the lock of a killed build, keep a failed build failed, miss edited
headers and bury its errors. Each workaround is explained where it is implemented.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import fingerprints, tools, waiting
from .announce import announced
from .cache import forget_unused, present, publish, touch
from .diagnostics import build_error, warnings
from .errors import BuildError
from .host_calls import forbid_host_calls_in
from .locks import build_lock, compilers
from .paths import IN_SOURCES, REPO, breaking, cache_dir, kernels_dir
from .simulator import process_simulator
from .toolkit import private_toolkit, shown_to_torch

TARGETS = ("gpu", "simulator", "cpu")
SIMULATOR_GENCODE = "arch=compute_90a,code=compute_90a"
# Fast, but NaN and infinity keep their meaning; kernels choose wider vectors themselves.
_CPU = ("-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-DWORKBENCH_CPU")
# PyTorch disables half's operators; kernels need them.
_HALF = tuple(
    f"-U__CUDA_NO_{name}__"
    for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS")
)


@dataclass(frozen=True)
class Recipe:
    """Everything a library is built from."""

    name: str  # no hash: object names and command lines stay the same across edits
    label: str  # "kernels for the simulator"
    target: str
    sources: tuple[Path, ...]
    include_dirs: tuple[Path, ...]
    cflags: tuple[str, ...]
    cuda_cflags: tuple[str, ...]
    ldflags: tuple[str, ...]
    gencodes: tuple[str, ...]
    toolkit: tools.Toolkit | None  # None: there is no CUDA in the sources
    kind: str = "so"  # what is kept of a build: the library, or of its only source the object, "o"

    @property
    def key(self) -> str:
        """Everything except the contents of the files.

        Does not import PyTorch, which would dominate the time of a build that is up to date.
        """
        cxx = tools.find_cxx()
        return fingerprints.digest(
            self.cflags,
            self.cuda_cflags,
            self.gencodes,
            self.toolkit,
            tools.identity(self.toolkit.nvcc) if self.toolkit else None,
            tools.identity(cxx),
            tools.output(cxx, "--version"),
            importlib.metadata.version("torch"),
            getattr(importlib.util.find_spec("torch"), "origin", None),
            sys.version,
            tools.environment(),
        )

    @property
    def cuda(self) -> tools.Toolkit:
        """The toolkit of sources with CUDA in them."""
        assert self.toolkit is not None
        return self.toolkit

    @property
    def folder(self) -> Path:
        """The folder that keeps objects between builds; separate for different flags or sources."""
        parents = sorted({str(s.parent) for s in self.sources})
        return cache_dir() / "build" / f"{self.name}_{fingerprints.digest(parents, self.key)}"

    def objects(self) -> dict[str, Path]:
        """Object name, as chosen by load() -> source."""
        return {s.stem + (".cuda.o" if s.suffix == ".cu" else ".o"): s for s in self.sources}

    def wanted(self) -> dict[str, str]:
        """Object name -> fingerprint of its current inputs."""
        return fingerprints.of_objects(self.objects(), self.include_dirs, self.key)

    def published(self, wanted: dict[str, str]) -> Path:
        """The path of the finished library; its name changes with every input."""
        key = fingerprints.digest(sorted(wanted.items()), self.ldflags)
        return cache_dir() / "lib" / f"{self.name}_{key}.{self.kind}"


def default_target() -> str:
    """The GPU if PyTorch can use one, else the simulator."""
    import torch

    return "gpu" if torch.cuda.is_available() else "simulator"


def load_extension(
    target: str, kernel_dir: Path | None = None, bindings: Path | None = None
) -> Path:
    """Build every ladder file and its operator's binding for `target`; return the library's path.

    Nothing is loaded. The same inputs always give the same path, immediately if it exists; its name
    contains their hash, so that two versions can be loaded into one process. Load it with
    ctypes.CDLL (RTLD_LOCAL). Errors: BuildError, whose text is meant for the user.
    """
    return build_library(extension_recipe(target, kernel_dir, bindings))


def extension_recipe(
    target: str, kernel_dir: Path | None = None, bindings: Path | None = None
) -> Recipe:
    """The recipe of the ladders and their bindings; builds the simulator if needed.

    The target "cpu" is the ladders in C++, `<op>_cpu.cpp`, which need neither GPU nor simulator.
    `kernel_dir` (default: kernels_dir()) may contain the ladders of only some operators: the
    bindings of the others, whose ladders are missing, are left out. Raises BuildError.
    """
    kernel_dir = Path(kernel_dir or kernels_dir()).resolve()
    bindings = Path(bindings or REPO / "bindings.cpp").resolve()
    pattern = "*.cpp" if target == "cpu" else "*.cu"
    ladders = tuple(sorted(kernel_dir.glob(pattern)))
    if not ladders:
        raise BuildError(f"there are no kernels ({pattern}) in {kernel_dir}")
    if not bindings.exists():
        raise BuildError(f"there is no {bindings}")
    names = ("launch", *(ladder.stem.removesuffix("_cpu") for ladder in ladders))
    parts = (bindings.parent / "bindings" / f"{name}.cpp" for name in names)
    what = {"gpu": "the GPU", "cpu": "the CPU"}.get(target, "the simulator")
    return recipe(
        f"workbench_{target}",
        f"kernels for {what}",
        target,
        (bindings, *filter(Path.exists, parts), *ladders),
        (bindings.parent, kernel_dir),
    )


def recipe(
    name: str,
    label: str,
    target: str,
    sources: Sequence[Path],
    include_dirs: Sequence[Path],
    extra_cuda_cflags: Sequence[str] = (),
) -> Recipe:
    """The recipe for some sources with the flags of `target`; builds the simulator if needed."""
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; expected one of {', '.join(TARGETS)}")
    for path in (*sources, *include_dirs):
        breaking(path, IN_SOURCES, "Move it to a folder without that.")
    # Otherwise a second version of a library would share the first's statics.
    common = ("-fno-gnu-unique",)
    cuda: tuple[str, ...] = (
        *_HALF,
        "-std=c++20",
        "-lineinfo",
        "-Xcompiler",
        ",".join(common),
        *extra_cuda_cflags,
    )
    optimised = _CPU if target == "cpu" else ("-O1",)
    cflags: tuple[str, ...] = ("-std=c++20", *optimised, *common)
    link: tuple[str, ...] = ("-shared", "-Wl,-Bsymbolic", "-Wl,--exclude-libs,ALL", "-Wl,-z,defs")
    toolkit: tools.Toolkit | None = None
    gencodes: tuple[str, ...] = ()
    if target == "cpu":
        link = (*link, "-fopenmp")
    elif target == "gpu":
        toolkit = tools.find_toolkit(gpu_cuda_major())
        gencodes = gpu_gencodes()
        cflags = (*cflags, "-DUSE_CUDA")
    else:
        toolkit = tools.find_toolkit()
        gencodes = (SIMULATOR_GENCODE,)
        include_dirs = (*include_dirs, REPO / "simulator" / "include")
        cflags = (*cflags, "-DWORKBENCH_SIMULATOR")
        cuda = (*cuda, "--no-compress", "-DWORKBENCH_SIMULATOR")
        link = (*link, *simulator_ldflags())
    for gencode in gencodes:
        # With "arch" in a flag, load() adds no -gencode of its own: these are the only ones.
        cuda = (*cuda, "-gencode", gencode)
    return Recipe(
        name,
        label,
        target,
        tuple(sources),
        tuple(include_dirs),
        cflags,
        cuda,
        link,
        gencodes,
        toolkit,
    )


def simulator_ldflags() -> tuple[str, ...]:
    """The simulator instead of libcudart: its archive, its library, and the library's folder."""
    built = process_simulator()
    folder = built.library.parent
    return (str(built.archive), str(built.library), f"-Wl,-rpath,{folder}")


def gpu_cuda_major() -> int:
    """The CUDA major version PyTorch was built with; BuildError without a usable GPU."""
    import torch

    if torch.version.cuda is None:
        raise BuildError(
            "the GPU target needs a CUDA build of PyTorch; this one "
            f"({torch.__version__}) is for the CPU. The simulator needs none."
        )
    if not torch.cuda.is_available():
        raise BuildError(
            "PyTorch finds no GPU (torch.cuda.is_available() is False). The simulator needs none."
        )
    return int(torch.version.cuda.split(".")[0])


def gpu_gencodes() -> tuple[str, ...]:
    """Machine code for each kind of GPU in this machine, with architecture-specific features."""
    import torch

    kinds = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    names = [f"{major}{minor}{'a' if major >= 9 else ''}" for major, minor in sorted(kinds)]
    return tuple(f"arch=compute_{n},code=sm_{n}" for n in names)


def build_library(recipe: Recipe, slow: bool = False) -> Path:
    """The library, or object, of `recipe`, built unless it already exists.

    slow: announce the beginning of the build even where the announcement stays.
    """
    path = recipe.published(recipe.wanted())
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
                forget_unused()
                return path
    raise BuildError(f"the sources of {recipe.label} change faster than they compile")


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
    """Call torch's load() once, in its folder, under our lock; return the library.

    texts: the compiler's warnings are appended.
    """
    folder = recipe.folder  # before CXX is changed, on which it depends
    ninja = tools.find_ninja()
    torch_extension = cpp_extension()
    home = private_toolkit(recipe.toolkit, recipe.target) if recipe.toolkit else None
    manifest = fingerprints.Manifest(folder)
    manifest.begin(wanted, (recipe.name,))
    forget_versions(torch_extension, recipe.name)
    try:
        with (
            shown_to_torch(home, ninja),
            compilers(folder),
            heard(torch_extension) as said,
        ):
            # is_standalone: build and return, do not load. (A "stand-alone program" linked with
            # -shared is a library.) What gets loaded is the copy with the hash in its name.
            made = torch_extension.load(
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
    except RuntimeError as error:
        log = folder / "build.log"
        raise build_error(recipe.label, str(error), log, recipe.objects()) from None
    finally:
        manifest.finish()
    check_gencodes(folder, recipe.gencodes)
    forbid_host_calls_in(folder, said)
    texts += warnings("".join(said), folder)
    return Path(made)


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
