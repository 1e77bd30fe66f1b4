"""The attention ladder: correctness under pytest, a benchmark as a script.

pytest test_attention.py                  a sample of the grids (--full: all of them)
python test_attention.py --help           check and time the rungs

Nothing here names a rung: whatever kernels/attention.cu lists is tested and timed. A rung that
supports only some head dimensions declines the others.
"""

import workbench.installed  # noqa: F401, I001 first: it says what to do if the rest is missing


import pytest
import torch

from workbench import attention
from workbench.cli.main import main
from workbench.operators.attention import OPERATOR
from workbench.operators.operator import Case
from workbench.toolchain import command


def _cases(*shapes: tuple[int, ...], **settings) -> tuple[Case, ...]:
    """(B, H, Nq, Nk, D) as cases."""
    names = OPERATOR.sizes
    texts = (",".join(f"{n}={s}" for n, s in zip(names, shape, strict=True)) for shape in shapes)
    return tuple(OPERATOR.case(text, **settings) for text in texts)


def _both(*shapes: tuple[int, ...], options: str = "", **settings) -> tuple[Case, ...]:
    """Each shape without and with the causal mask."""
    return tuple(
        case
        for shape in shapes
        for causal in ("", " causal")
        for case in _cases(shape, options=options + causal, **settings)
    )


SHAPES = _both(
    (1, 1, 1, 1, 32),
    (1, 1, 33, 33, 32),
    (1, 2, 65, 65, 64),
    (2, 1, 31, 31, 128),
    (1, 1, 40, 100, 32),
    (1, 1, 100, 40, 32),
    (1, 1, 1, 70, 64),
    (1, 1, 70, 1, 64),
    (2, 3, 17, 19, 32),
)
MORE_SHAPES = _both(
    *((1, 1, nq, nk, d) for nq in (1, 32, 63, 129) for nk in (1, 31, 64, 130)
      for d in (32, 64, 128)),
    (3, 2, 50, 50, 64),
    (1, 1, 513, 511, 64),
    (1, 1, 300, 700, 128),
    (1, 1, 700, 300, 32),
)  # fmt: skip

# Head dimensions that only some rungs support.
HEAD_DIMS = _both((1, 2, 9, 11, 1), (1, 1, 20, 20, 20), (1, 1, 10, 10, 48), (1, 1, 10, 10, 160))

VALUES = (
    *_both((1, 2, 50, 50, 32), (1, 1, 33, 66, 64), fill="spiky"),
    *_both((1, 1, 50, 70, 64), fill="large"),
    *_both((1, 1, 70, 50, 32), fill="tens"),
    *_both((1, 1, 40, 40, 32), fill="zeros"),
    *_both((1, 1, 40, 45, 32), options="scale=1.0"),
    *_both((1, 1, 40, 45, 64), options="scale=0.0"),
    *_both((1, 1, 40, 45, 64), options="scale=-0.5"),
)

LAYOUTS = tuple(
    case for layout in OPERATOR.layouts for case in _both((2, 3, 35, 35, 32), layout=layout)
)
HUGE_ROWS = tuple(
    case
    for layout in ("huge_q", "huge_k", "huge_v", "huge_out")
    for case in _cases((1, 1, 5, 6, 64), layout=layout)
)

EMPTY = _both((0, 1, 5, 5, 32), (1, 0, 5, 5, 32), (1, 1, 0, 5, 32), (1, 1, 5, 0, 32))

# Shapes and tolerances of github.com/tobiasvanderwerff/flash-attention (its tests): (n, d),
# scale 1, difference to SDPA below 1e-4.
SOURCE_001 = _cases(
    *(
        (1, 1, n, n, d)
        for n, d in (
            (2, 2), (1, 1), (2, 20), (2, 99), (20, 2), (99, 20), (224, 64), (223, 63), (225, 65)
        )
    ),
    options="scale=1",
    atol=1e-4,
    seed=1,
)  # fmt: skip
MORE_SOURCE_001 = _cases(
    *((1, 1, n, n, d) for n, d in ((1024, 64), (1023, 63), (1025, 65))),
    options="scale=1",
    atol=1e-4,
    seed=1,
)


@pytest.mark.grid(OPERATOR, SHAPES, MORE_SHAPES)
def test_shapes(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, HEAD_DIMS)
def test_head_dims(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, VALUES)
def test_values(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, LAYOUTS + HUGE_ROWS)
def test_layouts(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, EMPTY)
def test_empty(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, SOURCE_001, MORE_SOURCE_001)
def test_source_001(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR)
def test_queries_that_see_nothing(rung, target, device):
    """Six queries, two keys, causal: the first four see none."""
    q, k, v = (torch.randn(1, 1, n, 32, device=device) for n in (6, 2, 2))
    out, lse = attention(q, k, v, causal=True, return_lse=True, kernel=rung.name)
    assert torch.equal(out[0, 0, :4], torch.zeros(4, 32, device=device))
    assert bool((lse[0, 0, :4] == -torch.inf).all())
    assert torch.equal(out[0, 0, 4], v[0, 0, 0])
    assert bool(lse[0, 0, 4:].isfinite().all())


@pytest.mark.grid(OPERATOR)
def test_ranks_and_default_scale(rung, target, device):
    q, k, v = (torch.randn(2, 3, 20, 64, device=device) for _ in range(3))
    out = attention(q, k, v, kernel=rung.name)
    assert torch.equal(attention(q, k, v, scale=0.125, kernel=rung.name), out)
    three = attention(q[0], k[0], v[0], kernel=rung.name)
    two, lse = attention(q[0, 1], k[0, 1], v[0, 1], return_lse=True, kernel=rung.name)
    assert torch.equal(three, out[0])
    assert torch.equal(two, out[0, 1])
    assert lse.shape == (20,)


if __name__ == "__main__":
    command.run(lambda: main("attention"))
