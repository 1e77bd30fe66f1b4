"""``python -m simulator.compare``: compares the simulator with NVIDIA's tools on a GPU.

python -m simulator.compare --ncu [FILE]         counters, with Nsight Compute's
python -m simulator.compare --sanitizer [FILE]   findings, with compute-sanitizer's
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from workbench.toolchain import command
from workbench.toolchain.errors import UsageError

COMPARISONS = {"--ncu": "simulator.compare.ncu", "--sanitizer": "simulator.compare.sanitizer"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen comparison; its own arguments follow its name."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    if not argv or argv[0] not in COMPARISONS:
        came = f"{argv[0]}: " if argv else ""
        raise UsageError(f"{came}begin with {' or '.join(COMPARISONS)}; --help explains them")
    return import_module(COMPARISONS[argv[0]]).main(argv[1:])


if __name__ == "__main__":
    command.run(main)
