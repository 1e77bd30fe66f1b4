"""Builds the simulator: one shared library per process, and the archive that extensions link.

libwbsim_<hash>.so   the simulator itself, simulator/src/**/*.cpp; only wbsim_* is exported
libwbcudart_<hash>.a the CUDA runtime's names, forwarding to wbsim_*: simulator/src/cudart/*.cpp
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import fingerprints, tools, waiting
from .announce import announced
from .cache import present, publish, touch
from .diagnostics import build_error
from .locks import build_lock, compilers
from .paths import REPO, cache_dir

# Aligned, so that a handler's speed does not depend on what is linked before it: 10% and more.
_FLAGS = (
    "-std=c++20 -march=native -falign-functions=64 -falign-loops=32 -fPIC -fvisibility=hidden "
    "-fno-gnu-unique -ffp-contract=off -fno-math-errno -pthread"
)
# Calls of the host take no time that counts, so their room is compiled quickly. It comes last in
# the link: of a function that several rooms have inline, the linker keeps the first.
_COLD = ("runtime",)
# WORKBENCH_SANITIZE=address,undefined builds one that checks itself (simulator/sanitize.py).
SANITIZERS = ("address", "undefined", "thread")
_SANITIZED = "-O0 -g1"  # with optimisation, it compiles for many minutes
_RULES = """ninja_required_version = 1.5
rule compile
  command = {wrapper}{cxx} -MMD -MF $out.d {flags} {includes} $options -c $in -o $out
  depfile = $out.d
  deps = gcc
rule precompile
  command = {cxx} {flags} {includes} -O3 -x c++-header $in -o $out
rule archive
  command = rm -f $out && ar crs $out $in
rule link
  command = {cxx} {link_flags} -shared -pthread -Wl,-soname,{soname} -Wl,-z,defs $in -o $out
"""


@dataclass(frozen=True)
class SimulatorLibrary:
    """A built simulator: the shared library (loaded once per process) and the runtime archive."""

    library: Path
    archive: Path

    def exists(self) -> bool:
        """Whether both files exist."""
        return present(self.library) and present(self.archive)


@dataclass(frozen=True)
class _Plan:
    source: Path  # the folder with src/ and include/
    cxx: Path
    cuda: tools.Toolkit  # its headers declare the runtime that the simulator replaces
    library_sources: tuple[Path, ...]
    archive_sources: tuple[Path, ...]
    sanitizers: tuple[str, ...]

    @property
    def sanitize(self) -> str:
        """The flag for compiling and linking the library; the archive only forwards calls."""
        return f"-fsanitize={','.join(self.sanitizers)}" if self.sanitizers else ""

    @property
    def flags_key(self) -> str:
        return fingerprints.digest(
            _FLAGS,
            self.sanitizers and (self.sanitizers, _SANITIZED),
            _COLD,
            tools.identity(self.cxx),
            tools.output(self.cxx, "--version"),
            tools.environment(),
            self.cuda,
            fingerprints.cpu_features(),
        )

    @property
    def folder(self) -> Path:
        key = fingerprints.digest(str(self.source), self.flags_key)
        return cache_dir() / "build" / f"simulator_{key}"

    @property
    def includes(self) -> str:
        where = {
            "-I": self.source / "include",
            "-iquote": self.source / "src",
            "-isystem": self.cuda.include,
        }
        return " ".join(f"{option} {_quoted(folder)}" for option, folder in where.items())

    def objects(self) -> dict[str, Path]:
        """Object name -> source; names follow the path, so that equal file names can coexist."""
        every = (*self.library_sources, *self.archive_sources)
        root = self.source / "src"
        return {"_".join(s.relative_to(root).with_suffix("").parts) + ".o": s for s in every}

    @property
    def precompiled(self) -> Path | None:
        """The header that is compiled once for all files: what most include, by itself seconds.

        Not with ccache, which does not keep what was compiled with such a header.
        """
        header = self.source / "src" / "precompiled.h"
        usable = header.exists() and not self.sanitizers and not tools.find_ccache()
        return header if usable else None

    def options(self, source: Path) -> str:
        """How one file is compiled."""
        if self.sanitizers:
            checks = "" if source in self.archive_sources else f"{self.sanitize} "
            return checks + _SANITIZED
        cold = source.relative_to(self.source / "src").parts[0] in _COLD
        level = "-O1" if cold else "-O3"
        return f"{level} -include {self.precompiled.name}" if self.precompiled else level

    def wanted(self) -> dict[str, str]:
        """Object name -> fingerprint of its current inputs."""
        dirs = (self.source / "include", self.source / "src")
        files, flags = self.objects(), self.flags_key
        if header := self.precompiled:
            files[f"{header.name}.gch"] = header
            flags = fingerprints.digest(flags, fingerprints.content(header))
        return fingerprints.of_objects(files, dirs, flags)

    def published(self, wanted: dict[str, str]) -> SimulatorLibrary:
        key = fingerprints.digest(_RULES, sorted(wanted.items()))
        lib = cache_dir() / "lib"
        return SimulatorLibrary(lib / f"libwbsim_{key}.so", lib / f"libwbcudart_{key}.a")


def process_simulator() -> SimulatorLibrary:
    """The one simulator of this process: built on first use, then never changed.

    A process has one simulator, so an edit of its sources takes effect in the next process.
    """
    for library, archive in _of_this_process:
        here = SimulatorLibrary(cache_dir() / "lib" / library, cache_dir() / "lib" / archive)
        if here.exists():
            return here
    built = build_simulator()
    _of_this_process[:] = [(built.library.name, built.archive.name)]
    return built


_of_this_process: list[tuple[str, str]] = []  # empty until there is one


def build_simulator(source: Path | None = None) -> SimulatorLibrary:
    """Build the simulator from `source` (default simulator/) unless it already exists."""
    plan = _plan(Path(source or REPO / "simulator").resolve())
    built = plan.published(plan.wanted())
    if built.exists():
        touch(built.library)
        touch(built.archive)
        return built
    with build_lock(plan.folder, "the simulator"):
        for _ in range(3):
            wanted = plan.wanted()
            built = plan.published(wanted)
            if built.exists():
                return built
            tools.find_ninja()  # what is missing comes before a line that says it builds
            with announced("the simulator", slow=True):
                _compile(plan, wanted, built.library.name)
            if plan.wanted() == wanted:
                publish(plan.folder / "wbcudart.a", built.archive)
                publish(plan.folder / "wbsim.so", built.library)
                return built
    raise tools.BuildError(f"the sources in {source or REPO} change faster than they compile")


def find_simulator() -> tuple[SimulatorLibrary, bool]:
    """Where the simulator of this source tree is or will be, and whether it exists."""
    plan = _plan(REPO / "simulator")
    built = plan.published(plan.wanted())
    return built, built.exists()


def _plan(source: Path) -> _Plan:
    every = sorted((source / "src").rglob("*.cpp"))
    archive = tuple(s for s in every if s.parent.name == "cudart")
    library = tuple(s for s in every if s not in archive)
    if not library or not archive:
        raise tools.BuildError(f"no simulator sources (src/*.cpp, src/cudart/*.cpp) in {source}")
    return _Plan(source, tools.find_cxx(), tools.find_toolkit(), library, archive, sanitizers())


def sanitizers() -> tuple[str, ...]:
    """The compiler's sanitizers that WORKBENCH_SANITIZE names."""
    names = tuple(filter(None, os.environ.get("WORKBENCH_SANITIZE", "").split(",")))
    unknown = [name for name in names if name not in SANITIZERS]
    if unknown or {"address", "thread"} <= set(names):
        raise tools.BuildError(
            f"WORKBENCH_SANITIZE is {','.join(names)!r}; expected some of address, undefined, "
            "thread, the first and the last not together"
        )
    return names


def _compile(plan: _Plan, wanted: dict[str, str], soname: str) -> None:
    ninja = tools.find_ninja()
    manifest = fingerprints.Manifest(plan.folder)
    manifest.begin(wanted, ("wbsim.so", "wbcudart.a"))
    ccache = tools.find_ccache()
    text = _RULES.format(
        wrapper=f"{ccache} " if ccache else "",
        cxx=_quoted(plan.cxx),
        flags=_FLAGS,
        includes=plan.includes,
        link_flags=plan.sanitize,
        soname=soname,
    )
    objects = plan.objects()
    header = plan.precompiled
    if header:
        text += f"build {header.name}.gch: precompile {_escaped(header)}\n"
    for name, source in objects.items():
        text += f"build {name}: compile {_escaped(source)}"
        text += f" | {header.name}.gch\n" if header else "\n"
        text += f"  options = {plan.options(source)}\n"
    names = {s: n for n, s in objects.items()}
    text += f"build wbsim.so: link {' '.join(names[s] for s in plan.library_sources)}\n"
    text += f"build wbcudart.a: archive {' '.join(names[s] for s in plan.archive_sources)}\n"
    (plan.folder / "build.ninja").write_text(text)
    (plan.folder / "wbsim.so").unlink(missing_ok=True)  # its soname carries the hash
    command = [str(ninja), "-v"]
    if os.environ.get("MAX_JOBS", "").isdigit():
        command += ["-j", os.environ["MAX_JOBS"]]
    try:
        with compilers(plan.folder):
            done = waiting.run(command, cwd=plan.folder, stdin=subprocess.DEVNULL)
    finally:
        manifest.finish()
    if done.returncode:
        said = done.stdout.decode(errors="replace")
        raise build_error("the simulator", said, plan.folder / "build.log", objects)


def _quoted(path: Path) -> str:
    """A path in a command, escaped for the shell and for ninja."""
    return shlex.quote(str(path)).replace("$", "$$")


def _escaped(path: Path) -> str:
    """A path among the inputs, escaped for ninja, which escapes it for the shell."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
