"""The matmul ladder: correctness under pytest, a benchmark as a script.

pytest test_matmul.py                     a sample of the grids (--full: all of them)
python test_matmul.py --help              check and time the rungs

Nothing here names a rung: whatever kernels/matmul.cu lists is tested and timed.
"""

import workbench.installed  # noqa: F401, I001 first: it says what to do if the rest is missing
import workbench.ahead  # noqa: F401 compiles an edited kernel meanwhile


import pytest

from workbench.cli.main import main
from workbench.operators.matmul import OPERATOR
from workbench.operators.operator import Case
from workbench.toolchain import command


def _cases(*shapes: tuple[int, int, int], **settings) -> tuple[Case, ...]:
    return tuple(OPERATOR.case(f"M={m},N={n},K={k}", **settings) for m, n, k in shapes)


# Whole numbers, so that every sum is exact and a missing term is an error.
SHAPES = _cases(
    (1, 1, 1),
    (1, 1, 70),
    (1, 67, 1),
    (67, 1, 1),
    (1, 40, 33),
    (32, 32, 32),
    (31, 33, 32),
    (16, 17, 15),
    (64, 96, 32),
    (97, 89, 101),
    (130, 5, 40),
    fill="integers",
)
MORE_SHAPES = _cases(
    *((m, n, k) for m in (1, 15, 32, 65) for n in (1, 17, 32, 63) for k in (1, 16, 31, 64)),
    (2, 1000, 3),
    (509, 499, 491),
    (1, 1, 5000),
    (3, 2_200_000, 1),
    (2_200_000, 1, 1),
    fill="integers",
)

FILLS = tuple(
    case
    for fill in ("randn", "spiky", "large", "tens")
    for case in _cases((37, 41, 43), (5, 3, 1025), fill=fill)
) + tuple(
    case
    for fill in ("some_inf", "some_neg_inf", "some_nan")
    for case in _cases((37, 41, 3), fill=fill)
)

# out is part of every layout: it is in a larger buffer too.
LAYOUTS = tuple(
    case
    for layout in OPERATOR.layouts
    if layout != "beyond_grid"
    for case in _cases((33, 35, 37), layout=layout, fill="integers")
)
MORE_LAYOUTS = tuple(
    case
    for layout in OPERATOR.layouts
    for case in _cases((1, 3, 2) if layout == "beyond_grid" else (66, 31, 130), layout=layout)
    if "huge" not in layout or case.shape["M"] > 1
)

EMPTY = tuple(
    case
    for layout in ("nn", "nt", "batched3")
    for case in _cases((0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0), layout=layout)
)

OPTIONS = tuple(
    case
    for words in ("alpha=-0.5", "beta=2", "bias", "alpha=0.3 beta=-1.5 bias", "alpha=2 beta=1 bias")
    for layout in ("padded", "batched3")
    for case in _cases((37, 41, 43), (130, 67, 9), options=words, layout=layout)
)

# Shapes and tolerances of github.com/tobiasvanderwerff/flash-attention (its tests): isclose with
# atol 1e-4 and torch's rtol, randn, seed 1.
SOURCE_001 = _cases(
    (2, 20, 2),
    (20, 2, 2),
    (3, 11, 7),
    (1000, 10, 10),
    (10, 1000, 10),
    (9, 11, 999),
    atol=1e-4,
    rtol=1e-5,
    seed=1,
)
MORE_SOURCE_001 = _cases((999, 999, 999), (1024, 1024, 1024), atol=1e-4, rtol=1e-5, seed=1)


@pytest.mark.grid(OPERATOR, SHAPES, MORE_SHAPES)
def test_shapes(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, FILLS)
def test_values(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, LAYOUTS, MORE_LAYOUTS)
def test_layouts(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, EMPTY)
def test_empty(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, SOURCE_001, MORE_SOURCE_001)
def test_source_001(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, OPTIONS)
def test_options(rung, case, require_right):
    require_right(OPERATOR, case)


if __name__ == "__main__":
    command.run(lambda: main("matmul"))
