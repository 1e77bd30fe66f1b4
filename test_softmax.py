"""The softmax ladder and that of its gradient: correctness under pytest, a benchmark as a script.

pytest test_softmax.py                    a sample of the grids (--full: all of them)
python test_softmax.py --help             check and time the rungs

Nothing here names a rung: whatever kernels/softmax.cu and softmax_backward.cu list is tested and
timed. A rung must refuse dtypes and options that it does not support.
"""

import workbench.installed  # noqa: F401, I001 first: it says what to do if the rest is missing
import workbench.ahead  # noqa: F401 compiles an edited kernel meanwhile


import pytest
import torch

from workbench import log_softmax, softmax, softmax_backward
from workbench.cli.main import main
from workbench.operators.builds import Declined
from workbench.operators.operator import Case, Operator
from workbench.operators.softmax import OPERATOR as SOFTMAX
from workbench.operators.softmax_backward import OPERATOR as SOFTMAX_BACKWARD
from workbench.toolchain import command

OTHER_DTYPES = ("float64", "float16", "bfloat16")
DTYPES = ("float32", *OTHER_DTYPES)


def _cases(
    *shapes: tuple[int, int],
    of: Operator = SOFTMAX,
    options: str = "",
    scale: float | None = None,
    **settings,
) -> tuple[Case, ...]:
    if scale is not None:
        options += f" scale={scale}"
    return tuple(
        of.case(f"rows={rows},cols={cols}", options=options, **settings) for rows, cols in shapes
    )


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

# Around the lengths at which a rung may switch strategy: vectors, lanes, blocks, clusters. Fills
# with
# exact sums, as above: constant rows and, for a gradient of a logarithm, whole numbers.
POWERS = tuple(2**i for i in range(7, 16))
LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 33, 129, 511, 513, 2047, 4097, 8193, 16385, 32769)
ALL_LENGTHS = (*range(1, 34), *(power + i for power in POWERS for i in (-1, 0, 1)))

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

# Twice the largest number overflows: a single huge element is not scaled up.
OPTIONS = tuple(
    case
    for options in ("", "log", "lse", "log lse")
    for scale in (None, 0.125, -2.0, 0.0)
    for case in _cases((5, 33), (3, 1031), options=options, scale=scale, fill="spiky")
) + tuple(
    case
    for fill in ("large", "some_inf", "some_neg_inf", "some_nan", "masked_rows", "single_huge")
    for options, scale in (("log lse", None), ("lse", 0.3), ("log", -0.7))
    for case in _cases((6, 37), options=options, scale=scale, fill=fill)
)

VALUES_OF_DTYPES = tuple(
    case
    for dtype in OTHER_DTYPES
    for options, fill, scale in (
        ("", "randn", None),
        ("lse", "constant_rows", None),
        ("log", "large", None),
        ("lse", "denormal", None),
        ("log lse", "masked_rows", -0.7),
        ("lse", "single_huge", None),
        ("lse", "some_nan", 0.125),
        ("log lse", "spiky", 1e30),
        ("lse", "randn", -1e-30),
    )
    for case in _cases((6, 37), (3, 1031), options=options, fill=fill, scale=scale, dtype=dtype)
)


def _layouts(operator: Operator, *dtypes: str, **settings) -> tuple[Case, ...]:
    return tuple(
        case
        for dtype in dtypes
        for layout in operator.layouts
        for case in _cases((3, 300), (5, 301), of=operator, layout=layout, dtype=dtype, **settings)
    )


# The last exceeds the shared memory and registers of 16 blocks.
LONG_ROWS = (
    _cases((1, 70_001), options="lse", fill="spiky", dtype="bfloat16")
    + _cases((1, 70_001))
    + _cases((1, 530_003), options="lse", fill="constant_rows", dtype="float64")
)
MORE_LONG_ROWS = (
    _cases((2, 2**20), (2, 2**20 + 3), (3, 917_504), (1, 917_520))
    + _cases((2, 2**20 + 3), options="log lse", fill="spiky", dtype="bfloat16")
    + _cases((2, 300_001), options="lse", layout="padded_out", dtype="float64")
)

# Rows just too long for the registers of a block, so that a cluster takes them, with every
# difficulty; and more of them than resident clusters: a third row for some of the 264.
LONG = {"float32": 16_501, "float64": 8_251, "float16": 33_001, "bfloat16": 33_001}
UGLY_LONG_ROWS = tuple(
    case
    for options, fill, scale, dtype in (
        ("lse", "some_inf", None, "float32"),
        ("log lse", "some_nan", None, "float32"),
        ("lse", "masked_rows", None, "bfloat16"),
        ("log", "single_huge", None, "float16"),
        ("lse", "large", -0.7, "float32"),
        ("log lse", "spiky", 0.125, "float64"),
        ("lse", "some_neg_inf", 0.0, "float64"),
    )
    for case in _cases((5, LONG[dtype]), options=options, fill=fill, scale=scale, dtype=dtype)
)
MANY_LONG_ROWS = _cases((560, 8200), options="lse", dtype="float64")
MORE_UGLY_LONG_ROWS = tuple(
    case
    for dtype in DTYPES
    for fill in ("large", "some_inf", "some_neg_inf", "some_nan", "masked_rows", "single_huge")
    for options in ("lse", "log lse")
    for case in _cases((5, 70_003), options=options, fill=fill, dtype=dtype)
) + _cases((1700, 32_776), options="lse", dtype="bfloat16")

EMPTY = _cases((0, 5), (5, 0), (0, 0)) + _cases((0, 5), (5, 0), (0, 0), options="lse")

# Shapes and tolerances of github.com/tobiasvanderwerff/flash-attention (its tests): atol 1e-4.
SOURCE_001 = _cases((256, 256), (99, 99), (100, 2048), (100, 2047), (1024, 1024), atol=1e-4, seed=1)


def _lengths(of: Operator, lengths: tuple[int, ...], *dtypes: str, **settings) -> tuple[Case, ...]:
    """Two rows of every length, spaced so that their addresses differ modulo 16."""
    shapes = [(2, cols) for cols in lengths]
    return tuple(
        case
        for dtype in dtypes
        for case in _cases(*shapes, of=of, layout="padded", dtype=dtype, **settings)
    )


SUMS = {"fill": "constant_rows"}
LSE_SUMS = {**SUMS, "options": "lse"}  # with 16-bit y a missing term would not show
GRADIENT_SUMS = {"fill": "integers", "options": "log"}


@pytest.mark.grid(SOFTMAX, SHAPES, MORE_SHAPES)
def test_shapes(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(
    SOFTMAX,
    _lengths(SOFTMAX, LENGTHS, "float32", **SUMS)
    + _lengths(SOFTMAX, LENGTHS, "bfloat16", **LSE_SUMS),
    _lengths(SOFTMAX, ALL_LENGTHS, "float32", **SUMS)
    + _lengths(SOFTMAX, ALL_LENGTHS, *DTYPES, **LSE_SUMS)
    + _lengths(SOFTMAX, ALL_LENGTHS, *DTYPES),
)
def test_lengths(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, LONG_ROWS, MORE_LONG_ROWS)
def test_long_rows(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, UGLY_LONG_ROWS, MORE_UGLY_LONG_ROWS)
def test_ugly_long_rows(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.full
@pytest.mark.grid(SOFTMAX, MANY_LONG_ROWS, rungs=lambda rung: rung.name == "cluster_pipelined")
def test_rows_for_every_turn_of_the_resident_clusters(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, OPTIONS)
def test_options(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, VALUES_OF_DTYPES)
def test_dtypes(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, FILLS)
def test_values(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(
    SOFTMAX,
    _layouts(SOFTMAX, "float32", "bfloat16"),
    _layouts(SOFTMAX, "float64", "float16", options="lse"),
)
def test_layouts(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, EMPTY)
def test_empty(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.mark.grid(SOFTMAX, SOURCE_001)
def test_source_001(rung, case, require_right):
    require_right(SOFTMAX, case)


@pytest.fixture
def cols(rung, device):
    """A row length that the rung does not decline."""
    for cols in (300, 33_004):
        try:
            softmax(torch.zeros(1, cols, device=device), kernel=rung.name)
        except Declined:
            continue
        return cols
    raise AssertionError(f"{rung.name} declines short rows and long ones")


def same(a, b):
    """Equal; for a long row, split according to its address, up to the order of its sums."""
    return torch.equal(a, b) if a.shape[-1] < 1000 else torch.allclose(a, b, rtol=2e-6, atol=0)


@pytest.mark.grid(SOFTMAX)
def test_rows_sum_to_one(rung, target, device, cols):
    y = softmax(10 * torch.randn(9, cols, device=device), kernel=rung.name)
    assert bool(((y >= 0) & (y <= 1)).all())
    assert torch.allclose(y.double().sum(dim=-1), torch.ones(9, device=device).double())


@pytest.mark.grid(SOFTMAX)
def test_a_shift_changes_nothing(rung, target, device, cols):
    """Whole numbers and a power of two: the shifted rows are exact, so the results are equal."""
    x = torch.randint(-20, 20, (9, cols), device=device).float()
    y = softmax(x, kernel=rung.name)
    for shift in (1024.0, -4096.0):
        assert same(softmax(x + shift, kernel=rung.name), y)


@pytest.mark.grid(SOFTMAX)
def test_the_options_agree(rung, target, device, cols):
    """exp(log_softmax) is softmax, and lse is x - log_softmax."""
    if "log" not in rung.options:
        return
    x = torch.randn(9, cols, device=device)
    y, lse = softmax(x, scale=0.5, return_lse=True, kernel=rung.name)
    log = log_softmax(x, scale=0.5, kernel=rung.name)
    assert torch.allclose(log.exp(), y)
    assert torch.allclose(0.5 * x - lse[:, None], log, atol=1e-6)


@pytest.mark.grid(SOFTMAX)
def test_ranks(rung, target, device, cols):
    x = torch.randn(2, 3, 4, cols, device=device)
    y = softmax(x, kernel=rung.name)
    assert y.shape == x.shape
    flat = softmax(x.view(24, cols), kernel=rung.name)
    assert same(y.view(24, cols), flat)
    assert same(softmax(x[0, 1, 2], kernel=rung.name), y[0, 1, 2])


# The gradient: y is a softmax of the fill, dy has the fill too.

BACKWARD_SHAPES = _cases(
    (1, 1), (3, 2), (2, 31), (5, 33), (7, 127), (4, 1023), (2, 1025), (300, 3), (1, 5003),
    of=SOFTMAX_BACKWARD,
)  # fmt: skip
MORE_BACKWARD_SHAPES = _cases(
    *((rows, cols) for rows in (1, 8, 257) for cols in (7, 32, 257, 512, 4096)),
    (2, 100_003),
    (70_000, 2),
    (2, 2**20 + 3),
    of=SOFTMAX_BACKWARD,
)
BACKWARD_LONG_ROWS = _cases(
    (1, 70_001), of=SOFTMAX_BACKWARD, options="dlse", fill="spiky", dtype="bfloat16"
) + _cases(
    (1, 235_003), of=SOFTMAX_BACKWARD, options="log", fill="integers", dtype="float64"
)  # longer than the shared memory of 16 blocks

UGLY_LONG_GRADIENTS = tuple(
    case
    for options, fill, dtype in (
        ("dlse", "some_nan", "float32"),
        ("log dlse", "masked_rows", "float32"),
        ("", "single_huge", "bfloat16"),
        ("dlse", "large", "float16"),
        ("log dlse", "randn", "float64"),
    )
    for case in _cases(
        (3, LONG[dtype]), of=SOFTMAX_BACKWARD, options=options, fill=fill, scale=-0.7, dtype=dtype
    )
)

BACKWARD_OPTIONS = tuple(
    case
    for options in ("", "log", "dlse", "log dlse")
    for scale in (None, 0.125, -2.0, 0.0)
    for case in _cases(
        (5, 33), (3, 1031), of=SOFTMAX_BACKWARD, options=options, scale=scale, fill="spiky"
    )
)
BACKWARD_VALUES = tuple(
    case
    for dtype in DTYPES
    for fill in (
        "large",
        "denormal",
        "some_inf",
        "some_neg_inf",
        "some_nan",
        "masked_rows",
        "single_huge",
    )
    for options in ("", "log dlse")
    for case in _cases(
        (6, 37), (3, 1031), of=SOFTMAX_BACKWARD, options=options, fill=fill, dtype=dtype
    )
)


@pytest.mark.grid(SOFTMAX_BACKWARD, UGLY_LONG_GRADIENTS)
def test_backward_ugly_long_rows(rung, case, require_right):
    require_right(SOFTMAX_BACKWARD, case)


@pytest.mark.grid(SOFTMAX_BACKWARD, BACKWARD_SHAPES + BACKWARD_LONG_ROWS, MORE_BACKWARD_SHAPES)
def test_backward_shapes(rung, case, require_right):
    require_right(SOFTMAX_BACKWARD, case)


@pytest.mark.grid(
    SOFTMAX_BACKWARD,
    _lengths(SOFTMAX_BACKWARD, LENGTHS, "float32", "float16", **GRADIENT_SUMS),
    _lengths(SOFTMAX_BACKWARD, ALL_LENGTHS, *DTYPES, **GRADIENT_SUMS)
    + _lengths(SOFTMAX_BACKWARD, ALL_LENGTHS, *DTYPES),
)
def test_backward_lengths(rung, case, require_right):
    require_right(SOFTMAX_BACKWARD, case)


@pytest.mark.grid(SOFTMAX_BACKWARD, BACKWARD_OPTIONS)
def test_backward_options(rung, case, require_right):
    require_right(SOFTMAX_BACKWARD, case)


@pytest.mark.grid(SOFTMAX_BACKWARD, BACKWARD_VALUES)
def test_backward_values(rung, case, require_right):
    require_right(SOFTMAX_BACKWARD, case)


@pytest.mark.grid(
    SOFTMAX_BACKWARD,
    _layouts(SOFTMAX_BACKWARD, "float32", "bfloat16"),
    _layouts(SOFTMAX_BACKWARD, "float64", "float16", options="dlse"),
)
def test_backward_layouts(rung, case, require_right):
    require_right(SOFTMAX_BACKWARD, case)


@pytest.mark.grid(
    SOFTMAX_BACKWARD,
    _cases((0, 5), (5, 0), (0, 0), of=SOFTMAX_BACKWARD)
    + _cases((0, 5), (5, 0), of=SOFTMAX_BACKWARD, options="dlse"),
)
def test_backward_empty(rung, case, require_right):
    require_right(SOFTMAX_BACKWARD, case)


@pytest.mark.grid(SOFTMAX_BACKWARD)
def test_a_gradient_of_ones_is_nothing(rung, target, device):
    """Softmax rows sum to one whatever x is: the gradient of that sum is zero."""
    taken = 0
    for cols in (300, 9001):
        y = torch.softmax(torch.randn(9, cols, device=device, dtype=torch.float64), dim=-1)
        try:
            dx = softmax_backward(torch.ones_like(y), y, kernel=rung.name)
        except Declined:
            continue
        taken += 1
        assert float(dx.abs().max()) < 1e-15
    assert taken


if __name__ == "__main__":
    command.run(lambda: main("softmax"))
