"""A child of pytest that compiles, alongside the first tests, what later ones need.

``python -m tests.ahead [--full] FILE...`` with the test files that will run: it calls the function
``ahead`` of those that have one. What it has built they find in the cache; what it has not, they
build.
"""

import importlib
import os
import sys
from pathlib import Path

from tests.simulator.compiled import compile_programs


def main() -> None:
    os.nice(10)  # the tests go first
    full = sys.argv[1:2] == ["--full"]
    files = [Path(word) for word in sys.argv[1 + full :]]
    modules = [importlib.import_module(".".join(file.with_suffix("").parts)) for file in files]
    simulators = [m for m, file in zip(modules, files, strict=True) if "simulator" in file.parts]
    for module in modules:  # in the order in which they will run
        if module in simulators[:1]:
            compile_programs(simulators, full)
        if hasattr(module, "ahead"):
            module.ahead()


if __name__ == "__main__":
    main()
