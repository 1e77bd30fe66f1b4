"""Stand-alone CUDA programs, unmodified: compiled for the simulator or the GPU, and run.

The command line is nvcc's. On the simulator, architecture flags are replaced by the simulator's,
and the CUDA runtime and driver are the simulator's own. A program is built once for given inputs:
sources, headers, flags, tools, simulator.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import fingerprints, tools
from .announce import announced
from .cache import present, publish, tidy, touch
from .diagnostics import build_error, warnings
from .errors import BuildError, UsageError
from .extension import SIMULATOR_GENCODE, gpu_cuda_major, gpu_gencodes, simulator_ldflags
from .host_calls import forbid_host_calls
from .locks import build_lock, compilers
from .paths import IN_COMPILERS, cache_dir
from .unsupported import compile_error, library_of, link_error

_SOURCES = (".cu", ".cpp", ".cc", ".cxx", ".c")
# Flags whose value is the next word.
_WITH_VALUE = frozenset(
    "-I -D -U -L -l -include -isystem -std -x -arch -code -gencode -ccbin -maxrregcount -O "
    "-Xcompiler -Xptxas -Xlinker -Xcudafe -Xnvlink -default-stream --generate-code "
    "--gpu-architecture --gpu-code --compiler-options --linker-options --ptxas-options "
    "--include-path --define-macro --std --default-stream --maxrregcount --pre-include "
    "--system-include --library --library-path --diag-suppress -diag-suppress "
    "-t --threads -m --machine -rdc --relocatable-device-code -ftz --ftz -fmad --fmad -prec-div "
    "--prec-div -prec-sqrt --prec-sqrt -Werror --Werror --optimize --compiler-bindir "
    "-split-compile --split-compile".split()
)
_ARCHITECTURE = re.compile(
    r"-{1,2}(gencode|generate-code|arch|gpu-architecture|code|gpu-code)(=.*)?"
)
_LIBRARY = re.compile(r"-l(.+)")
_LIBRARY_OR_FOLDER = re.compile(r"--library(-path)?(=.+)?|-(l|L)(?!ineinfo$|i$).*")
_FOLDER_FLAGS = {
    ("-I", "--include-path"): "-I",
    ("-isystem", "--system-include"): "-isystem",
    ("-include", "--pre-include"): "-include",
}
_OURS = frozenset({"cuda", "cudart", "cudart_static", "nvToolsExt"})
_COMPILE_ONLY = re.compile(
    r"-(c|dc|ptx|cubin|fatbin|shared|o)|--(compile|device-c|ptx|cubin|fatbin|shared|output-file)"
)
_LONGEST_NAME = 200
_SEPARATE = re.compile(r"-{1,2}(rdc|relocatable-device-code)=true|-dlto|--device-link")


@dataclass(frozen=True)
class Program:
    """What `python build.py run` was asked to run."""

    sources: tuple[Path, ...]
    compile_flags: tuple[str, ...]
    libraries: tuple[str, ...]  # -l and -L flags, objects and archives
    include_dirs: tuple[Path, ...]
    target: str


def default_target() -> str:
    """The GPU if there is one, else the simulator; does not import PyTorch to find out."""
    if not Path("/dev/nvidiactl").exists():
        return "simulator"
    from .extension import default_target as of_torch

    return of_torch()


def parse(words: Sequence[str], target: str) -> Program:
    """Sort the words of an nvcc command line; UsageError if they make no runnable program."""
    sources, flags, libraries, includes = [], [], [], []
    separate = ""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        group = [word]
        if word in _WITH_VALUE:
            if not rest:
                raise UsageError(f"{word} needs a value")
            group.append(rest.pop(0))
        if _COMPILE_ONLY.fullmatch(word):
            raise UsageError(f"{word}: the program is compiled, linked and run; omit this")
        if not word.startswith("-"):
            if Path(word).suffix in _SOURCES:
                sources.append(Path(word).resolve())
            elif not os.path.exists(word):
                raise UsageError(
                    f"there is no {word or '(empty name)'}; the program's own arguments go after --"
                )
            else:
                libraries.append(str(Path(word).resolve()))
        elif _ARCHITECTURE.fullmatch(word) and target == "simulator":
            continue
        elif target == "simulator" and _SEPARATE.fullmatch("=".join(group)):
            separate = " ".join(group)
        elif _LIBRARY_OR_FOLDER.fullmatch(word):
            libraries += _library(group, target)
        else:
            flags += (group := _absolute(group))
            if group[0] in ("-I", "-isystem"):
                includes.append(Path(group[1]))
    if not sources:
        raise UsageError("which program? Name at least one source file (.cu, .cpp)")
    if (
        separate and sum(s.suffix == ".cu" for s in sources) > 1
    ):  # with one there is nothing to link
        raise UsageError(
            f"{separate}: device code in several files that call each other is not supported on "
            "the simulator (separate compilation)"
        )
    for source in sources:
        if not os.path.exists(source):
            raise UsageError(f"there is no {source}")
        _check_name(source)
    return Program(tuple(sources), tuple(flags), tuple(libraries), tuple(includes), target)


def _check_name(source: Path) -> None:
    """Raise UsageError for a name that nvcc does not pass on to the compilers that it runs."""
    text = str(source)
    if not text.isprintable():  # among others, what is not UTF-8
        raise UsageError(f"{source} has bytes in its name that nvcc does not take; rename it")
    if unsafe := next((c for c in text if c in IN_COMPILERS), None):
        raise UsageError(f"{source} has {unsafe} in its path, at which nvcc breaks; rename it")
    size = len(source.name.encode())
    if size > _LONGEST_NAME:
        raise UsageError(
            f"{source.name} has a name of {size} bytes, which nvcc makes longer; rename it: "
            f"{_LONGEST_NAME} are possible"
        )


def _library(group: list[str], target: str) -> list[str]:
    """The flag for a library or a folder of libraries; nothing if the simulator provides it.

    NVIDIA's libraries are left out too: what matters is what the program uses of them.
    """
    flag = re.sub(r"^--library(-path)?=?", lambda m: "-L" if m[1] else "-l", "".join(group))
    name = _LIBRARY.fullmatch(flag)
    if target == "simulator" and name:
        if name[1] in _OURS or library_of(name[1]):
            return []
    if flag.startswith("-L"):
        return [f"-L{Path(flag[2:]).resolve()}"]
    return [flag]


def _absolute(group: list[str]) -> list[str]:
    """Folders by full path: the result does not depend on the current folder."""
    for names, short in _FOLDER_FLAGS.items():
        for name in names:
            value = group[1] if group[0] == name else group[0][len(name) :].lstrip("=")
            if group[0].startswith(name) and value:
                # -include also searches the folders of -I
                here = short != "-include" or Path(value).exists()
                return [short, str(Path(value).resolve()) if here else value]
    return group


def build_program(program: Program) -> Path:
    """The executable, built unless it already exists. BuildError carries the compiler's text."""
    plan = _plan(program)
    path = plan.published(plan.wanted())
    if present(path):
        touch(path)
        return path
    with build_lock(plan.folder, plan.label):
        for _ in range(3):
            wanted = plan.wanted()
            path = plan.published(wanted)
            if present(path):
                return path
            with announced(plan.label) as texts:
                texts += _build(plan, wanted)
            if plan.wanted() == wanted:
                publish(plan.folder / "program", path)
                tidy()
                return path
    raise BuildError(f"the sources of {plan.label} change faster than they compile")


def run_program(program: Program, arguments: Sequence[str], checks: Sequence[str]) -> None:
    """Replace this process by the program, with its own output, exit status and signals.

    checks: the simulator's checks (simulator.CHECKS); empty for its defaults.
    """
    path = build_program(program)
    if checks:
        settings = os.environ.get("WORKBENCH_SIMULATOR", "")
        os.environ["WORKBENCH_SIMULATOR"] = f"{settings} checks={','.join(checks)}".strip()
    os.execv(path, [str(program.sources[0].with_suffix("")), *arguments])


@dataclass(frozen=True)
class _Plan:
    program: Program
    nvcc: Path
    flags: tuple[str, ...]
    link: tuple[str, ...]

    @property
    def label(self) -> str:
        where = "the GPU" if self.program.target == "gpu" else "the simulator"
        return f"{self.program.sources[0].name} for {where}"

    @property
    def key(self) -> str:
        return fingerprints.digest(
            self.flags,
            tools.identity(self.nvcc),
            tools.output(tools.find_cxx(), "--version"),
            tools.environment(),
        )

    @property
    def folder(self) -> Path:
        sources = [str(s) for s in self.program.sources]
        return cache_dir() / "build" / f"program_{fingerprints.digest(sources, self.key)}"

    def objects(self) -> dict[str, Path]:
        return {f"{i}_{_short(s)}.o": s for i, s in enumerate(self.program.sources)}

    def wanted(self) -> dict[str, str]:
        return fingerprints.of_objects(self.objects(), self.program.include_dirs, self.key)

    def published(self, wanted: dict[str, str]) -> Path:
        inputs = [fingerprints.content(Path(p)) for p in self.link if os.path.isfile(p)]
        key = fingerprints.digest(sorted(wanted.items()), self.link, inputs)
        return cache_dir() / "lib" / f"program_{_short(self.program.sources[0])}_{key}"


def _short(source: Path) -> str:
    """A source's name for names of other files, which must not become too long."""
    return source.stem[:100]


def _plan(program: Program) -> _Plan:
    if program.target == "gpu":
        toolkit = tools.find_toolkit(gpu_cuda_major())
        chosen = any(_ARCHITECTURE.fullmatch(f) for f in program.compile_flags)
        gencodes = () if chosen else gpu_gencodes()
        flags = [word for g in gencodes for word in ("-gencode", g)]
        link = [f"-L{folder}" for folder in toolkit.libraries]
    else:
        toolkit = tools.find_toolkit()
        # -g1: lines of host code for reports
        flags = ["-gencode", SIMULATOR_GENCODE, "--no-compress", "-lineinfo", "-Xcompiler", "-g1"]
        link = [*simulator_ldflags(), "-lpthread", "-ldl", "-lrt"]
    flags += ["-ccbin", str(tools.find_cxx()), *program.compile_flags]
    return _Plan(program, toolkit.nvcc, tuple(flags), (*program.libraries, *link))


def _build(plan: _Plan, wanted: dict[str, str]) -> list[str]:
    """Compile what changed, and link; return the compiler's warnings."""
    manifest = fingerprints.Manifest(plan.folder)
    manifest.begin(wanted, ("program",))
    stale = [(n, s) for n, s in plan.objects().items() if not (plan.folder / n).exists()]
    try:
        with compilers(plan.folder), ThreadPoolExecutor(os.cpu_count()) as pool:
            logs = list(pool.map(lambda pair: _compile(plan, *pair), stale))
        if failed := "\n".join(log for status, log in logs if status):
            if plan.program.target == "simulator" and (lacking := compile_error(failed)):
                raise BuildError(lacking)
            raise build_error(plan.label, failed, plan.folder / "build.log", plan.objects())
        for (name, source), (_, log) in zip(stale, logs, strict=True):
            if source.suffix == ".cu":
                forbid_host_calls(log, plan.folder / name)
        _link(plan)
        return warnings("\n".join(log for _, log in logs), plan.folder)
    finally:
        manifest.finish(name for name in wanted if (plan.folder / name).exists())


def _compile(plan: _Plan, name: str, source: Path) -> tuple[int, str]:
    """Compile one source; return the compiler's status, and its command and output."""
    half = f"half_{name}"
    command = [str(plan.nvcc), "-c", *plan.flags, str(source), "-o", half]
    done = _run(command, plan.folder)
    log = f"{shlex.join(command)}\n{done.stdout}"
    if done.returncode:
        (plan.folder / half).unlink(missing_ok=True)
        log = f"FAILED: {name}\n{log}"
    else:
        (plan.folder / half).replace(plan.folder / name)
    return done.returncode, log


def _link(plan: _Plan) -> None:
    objects = list(plan.objects())
    if plan.program.target == "gpu":
        command = [str(plan.nvcc), *plan.flags, *objects, *plan.link, "-o", "program"]
    else:
        command = [str(tools.find_cxx()), *_host_link_flags(plan), *objects, *plan.link]
        command += ["-o", "program"]
    done = _run(command, plan.folder)
    if done.returncode:
        if plan.program.target == "simulator" and (text := link_error(done.stdout)):
            raise BuildError(text)
        raise build_error(plan.label, done.stdout, plan.folder / "build.log", plan.objects())


def _host_link_flags(plan: _Plan) -> list[str]:
    """The host linker's flags among nvcc's: -Xlinker, -fopenmp, -pthread."""
    flags = list(plan.program.compile_flags)
    out = []
    for i, flag in enumerate(flags):
        value = flags[i + 1] if i + 1 < len(flags) else ""
        if flag in ("-Xlinker", "--linker-options"):
            out.append(f"-Wl,{value}")
        elif flag in ("-Xcompiler", "--compiler-options"):
            out += value.strip("\"'").replace(",", " ").split()
        elif flag.startswith(("-Xcompiler=", "--compiler-options=")):
            out += flag.split("=", 1)[1].strip("\"'").replace(",", " ").split()
    return out


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # nvcc crashes with a sanitizer's library (simulator/sanitize.py).
    preloads = "LD_PRELOAD" if os.environ.get("WORKBENCH_SANITIZE") else None
    return subprocess.run(
        command,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != preloads},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
