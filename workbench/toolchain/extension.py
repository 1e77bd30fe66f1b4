"""What a library is built from: sources, flags, tools."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import fingerprints, tools
from .errors import BuildError
from .paths import IN_SOURCES, REPO, breaking, cache_dir, kernels_dir, shown
from .simulator import process_simulator

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
    for path in ladders:
        if not re.fullmatch(r"[\w.+-]+", path.name):
            raise BuildError(
                f"{shown(path)!r}: rename it: objects get its name, and build commands break at "
                "anything but letters, digits and _ . + -"
            )
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
