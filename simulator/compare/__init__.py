"""Compares the simulator with a GPU: its counters with Nsight Compute's, and its findings.

patterns.cu, patterns.py   one memory instruction of one warp per launch, in many access patterns
rungs.py                   every rung of the ladders, at small shapes
measure.py                 the GPU's half: both under ncu
ncu.py                     the simulator's half, and the comparison
wrong.py                   the deliberately wrong kernels: tests/kernels/wrong
sanitize.py                the GPU's half: these and their correct twins under compute-sanitizer
sanitizer.py               the simulator's half, and the comparison
"""

from workbench.toolchain.errors import Failure


class ComparisonError(Failure):
    """There is nothing to compare; the text says why."""
