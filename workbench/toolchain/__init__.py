"""Compilers, locks, caches and error messages: what build.py stands on.

load_extension   the bindings and the ladders as a shared library, for the GPU or the simulator
build_simulator  the simulator's library and the archive that stands in for libcudart
BuildError       what went wrong, in the words the user shall see; main_guard turns it into exit 1
"""

from .errors import BuildError, main_guard
from .extension import default_target, load_extension
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
