"""``python -m simulator.compare``: compares the simulator with NVIDIA's tools on a GPU.

python -m simulator.compare --ncu [FILE]         counters, with Nsight Compute's
python -m simulator.compare --sanitizer [FILE]   findings, with compute-sanitizer's
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from simulator.compare import ComparisonError
from workbench.toolchain import BuildError

COMPARISONS = {"--ncu": "simulator.compare.ncu", "--sanitizer": "simulator.compare.sanitizer"}


def main(argv: Sequence[str]) -> int:
    """Run the chosen comparison; its own arguments follow its name."""
    if not argv or argv[0] not in COMPARISONS:
        print(__doc__.strip())
        return 0 if argv in (["-h"], ["--help"]) else 2
    return import_module(COMPARISONS[argv[0]]).main(argv[1:])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (BuildError, ComparisonError, OSError) as problem:
        sys.exit(str(problem))
