"""The simulator beside a GPU: what it counts and Nsight Compute's counters; what it finds.

patterns.cu, patterns.py   one memory instruction of one warp per launch, in many access patterns
rungs.py                   every rung of the ladders, at small shapes
measure.py                 the GPU's half: both under ncu
ncu.py                     the simulator's half, and the comparison
wrong.py                   the kernels that are wrong on purpose: tests/kernels/wrong
sanitize.py                the GPU's half: they and their right twins under compute-sanitizer
sanitizer.py               the simulator's half, and the comparison
"""


class ComparisonError(RuntimeError):
    """There is nothing to compare; the text says why."""
