"""The transpose ladder: correctness under pytest, a benchmark as a script.

pytest test_transpose.py                  a sample of the grids (--full: all of them)
python test_transpose.py --help           check and time the rungs

Nothing here names a rung: whatever kernels/transpose.cu lists is tested and timed.
"""

import workbench.installed  # noqa: F401, I001 first: it says what to do if the rest is missing
import workbench.ahead  # noqa: F401 compiles an edited kernel meanwhile


import pytest
import torch

from workbench import transpose
from workbench.cli.main import main
from workbench.operators.operator import Case
from workbench.operators.transpose import OPERATOR
from workbench.toolchain import command

DTYPES = ("int8", "float16", "bfloat16", "float32", "float64")


def _cases(*shapes: tuple[int, int], **settings) -> tuple[Case, ...]:
    return tuple(OPERATOR.case(f"M={m},N={n}", **settings) for m, n in shapes)


# Multiples of 16 bytes and of nothing, above and below one tile of any rung.
SHAPES = tuple(
    case
    for dtype in DTYPES
    for case in _cases(
        (1, 1), (1, 40), (40, 1), (31, 33), (32, 32), (64, 136), (136, 64), (200, 72), (67, 131),
        dtype=dtype,
    )
)  # fmt: skip
MORE_SHAPES = tuple(
    case
    for dtype in DTYPES
    for case in _cases(
        *((m, n) for m in (1, 8, 16, 63, 65, 128, 257) for n in (1, 8, 16, 63, 65, 128, 257)),
        (3, 100_003),
        (100_003, 3),
        (1000, 1000),
        dtype=dtype,
    )
)

FILLS = tuple(
    case
    for fill in ("some_inf", "some_nan", "denormal", "single_huge")
    for case in _cases((40, 72), fill=fill)
)

LAYOUTS = tuple(
    case for layout in OPERATOR.layouts for case in _cases((40, 72), (37, 70), layout=layout)
)
MORE_LAYOUTS = tuple(
    case
    for dtype in DTYPES
    for layout in OPERATOR.layouts
    for case in _cases((40, 72), (37, 70), (160, 128), layout=layout, dtype=dtype)
)

ROTATED = tuple(
    case
    for layout in ("contiguous", "padded", "batched")
    for case in _cases((40, 72), (37, 70), (1, 9), layout=layout, options="rotate")
)

EMPTY = _cases((0, 5), (5, 0), (0, 0)) + _cases((0, 5), (5, 0), options="rotate")


@pytest.mark.grid(OPERATOR, SHAPES, MORE_SHAPES)
def test_shapes(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, FILLS)
def test_values(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, LAYOUTS, MORE_LAYOUTS)
def test_layouts(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, ROTATED)
def test_rotated(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, EMPTY)
def test_empty(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR)
def test_ranks(rung, target, device):
    x = torch.randn(2, 3, 24, 40, device=device)
    y = transpose(x, kernel=rung.name)
    assert y.is_contiguous()
    assert torch.equal(y, x.mT)
    assert torch.equal(transpose(x[1, 2], kernel=rung.name), y[1, 2])
    assert torch.equal(transpose(y, kernel=rung.name), x)


@pytest.mark.grid(OPERATOR)
def test_four_quarters_are_a_turn(rung, target, device):
    x = y = torch.randn(24, 40, device=device)
    for quarter in range(1, 5):
        y = transpose(y, rotate=True, kernel=rung.name)
        assert torch.equal(y, torch.rot90(x, -quarter, (-2, -1)))


def test_errors(target, device):
    with pytest.raises(RuntimeError, match=r"transpose: x must have .* got float32 \[5\]"):
        transpose(torch.randn(5, device=device))
    with pytest.raises(RuntimeError, match="the last dimension of x must be contiguous"):
        transpose(torch.randn(5, 6, device=device).mT)


if __name__ == "__main__":
    command.run(lambda: main("transpose"))
