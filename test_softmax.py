"""The softmax ladder: correctness under pytest, a benchmark as a script.

pytest test_softmax.py                    a sample of the grids (--full: all of them)
python test_softmax.py --help             check and time the rungs

Nothing here names a rung: whatever kernels/softmax.cu lists is tested and timed.
"""

import workbench.installed  # noqa: F401, I001 first: it says what to do if the rest is missing

import sys

import pytest
import torch

from workbench import bench, softmax
from workbench.operations import SOFTMAX
from workbench.problems import Case


def _cases(*shapes: tuple[int, int], **settings) -> tuple[Case, ...]:
    return tuple(SOFTMAX.case(f"rows={rows},cols={cols}", **settings) for rows, cols in shapes)


# Constant rows, so that every sum is exact and one missing term is an error.
SHAPES = tuple(
    case
    for fill in ("constant_rows", "randn")
    for case in _cases(
        (1, 1), (1, 2), (3, 1), (2, 31), (5, 33), (7, 127), (3, 256), (4, 1023), (2, 1025),
        (300, 3), (1, 5003), fill=fill,
    )
)  # fmt: skip
MORE_SHAPES = tuple(
    case
    for fill in ("constant_rows", "randn")
    for case in _cases(
        *((rows, cols) for rows in (1, 8, 257) for cols in (1, 7, 32, 63, 257, 512, 4096)),
        (2, 100_003),
        (70_000, 2),
        fill=fill,
    )
)

FILLS = tuple(
    case
    for fill in (
        "spiky",
        "large",
        "denormal",
        "zeros",
        "some_inf",
        "some_neg_inf",
        "some_nan",
        "masked_rows",
        "single_huge",
    )
    for case in _cases((6, 37), (3, 1031), fill=fill)
)

LAYOUTS = tuple(case for layout in SOFTMAX.arrangements for case in _cases((3, 300), layout=layout))

EMPTY = _cases((0, 5), (5, 0), (0, 0))

# Shapes and tolerances of github.com/tobiasvanderwerff/flash-attention (its tests): atol 1e-4.
SOURCE_001 = _cases((256, 256), (99, 99), (100, 2048), (100, 2047), (1024, 1024), atol=1e-4, seed=1)


@pytest.mark.grid(SOFTMAX, SHAPES, MORE_SHAPES)
def test_shapes(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, FILLS)
def test_values(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, LAYOUTS)
def test_layouts(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, EMPTY)
def test_empty(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, SOURCE_001)
def test_source_001(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX)
def test_rows_sum_to_one(rung, target, device):
    y = softmax(10 * torch.randn(20, 777, device=device), kernel=rung.name)
    assert bool(((y >= 0) & (y <= 1)).all())
    assert torch.allclose(y.double().sum(dim=-1), torch.ones(20, device=device).double())


@pytest.mark.grid(SOFTMAX)
def test_a_shift_changes_nothing(rung, target, device):
    """Whole numbers and a power of two: the shifted rows are exact, so the results are equal."""
    x = torch.randint(-20, 20, (9, 300), device=device).float()
    y = softmax(x, kernel=rung.name)
    for shift in (1024.0, -4096.0):
        assert torch.equal(softmax(x + shift, kernel=rung.name), y)


@pytest.mark.grid(SOFTMAX)
def test_ranks(rung, target, device):
    x = torch.randn(2, 3, 4, 50, device=device)
    y = softmax(x, kernel=rung.name)
    assert y.shape == x.shape
    flat = softmax(x.view(24, 50), kernel=rung.name)
    assert torch.equal(y.view(24, 50), flat)
    assert torch.equal(softmax(x[0, 1, 2], kernel=rung.name), y[0, 1, 2])


if __name__ == "__main__":
    sys.exit(bench.main("softmax"))
