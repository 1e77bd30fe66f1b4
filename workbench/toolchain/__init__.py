"""Compilers, locks, caches and error messages: the foundation of build.py.

load_extension   the bindings and the ladders as a shared library, for the GPU or the simulator
build_simulator  the simulator's library and the archive that replaces libcudart
BuildError       what went wrong, as shown to the user; main_guard turns it into exit status 1
"""

from .errors import BuildError, main_guard
from .extension import default_target
from .library import load_extension
from .paths import REPO, cache_dir, kernels_dir
from .simulator import SimulatorLibrary, build_simulator, process_simulator

__all__ = [
    "REPO",
    "BuildError",
    "SimulatorLibrary",
    "build_simulator",
    "cache_dir",
    "default_target",
    "kernels_dir",
    "load_extension",
    "main_guard",
    "process_simulator",
]
