"""A child of pytest that works alongside the first tests, for later ones.

``python -m tests.ahead FILE...`` with the test files that will run: it calls the function ``ahead``
of those that have one, which compiles what their tests need; then the function ``alongside``, which
runs some of their tests. What it has built they find in the cache; what it has not, they build.
Results of tests are in FOLDER, if that is set.
"""

import importlib
import os
import sys
from pathlib import Path

from tests.simulator.compiled import compile_programs

FOLDER = "WORKBENCH_TESTS_ALONGSIDE"  # the environment variable of pytest and its child


def main() -> None:
    os.nice(10)  # the tests go first
    files = [Path(word) for word in sys.argv[1:]]
    modules = [importlib.import_module(".".join(file.with_suffix("").parts)) for file in files]
    simulators = [m for m, file in zip(modules, files, strict=True) if "simulator" in file.parts]
    for module in modules:  # in the order in which they will run
        if module in simulators[:1]:
            compile_programs(simulators)
        if hasattr(module, "ahead"):
            module.ahead()
    for module in modules if FOLDER in os.environ else ():
        if hasattr(module, "alongside"):
            module.alongside(Path(os.environ[FOLDER]))


if __name__ == "__main__":
    main()
