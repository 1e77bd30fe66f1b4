"""The attention ladder: correctness under pytest, a benchmark as a script.

pytest test_attention.py                  a sample of the grids (--full: all of them)
python test_attention.py --help           check and time the rungs

Nothing here names a rung: whatever kernels/attention.cu lists is tested and timed. What a rung does
not support it refuses, which is tested too.
"""

import workbench.installed  # noqa: F401, I001 first: it says what to do if the rest is missing
import workbench.ahead  # noqa: F401 compiles an edited kernel meanwhile


import pytest
import torch

from workbench import attention
from workbench.cli.main import main
from workbench.operators.attention import OPERATOR
from workbench.operators.builds import Rung
from workbench.operators.operator import Case
from workbench.toolchain import command


DTYPES = ("float32", "float64", "float16", "bfloat16")


def _cases(*texts: str, options: tuple[str, ...] = ("",), **settings) -> tuple[Case, ...]:
    """Each shape with each of the options, in all dtypes."""
    return tuple(
        OPERATOR.case(text, options=more, dtype=dtype, **settings)
        for text in texts
        for more in options
        for dtype in DTYPES
    )


BOTH = ("", "causal")


def _shape(b: int, h: int, nq: int, nk: int, d: int, **more: int) -> str:
    sizes = {"B": b, "H": h, "Nq": nq, "Nk": nk, "D": d} | more
    return ",".join(f"{name}={size}" for name, size in sizes.items())


SHAPES = _cases(
    _shape(1, 1, 1, 1, 32),
    _shape(1, 1, 33, 33, 32),
    _shape(1, 2, 65, 65, 64),
    _shape(2, 1, 31, 31, 128),
    _shape(1, 1, 40, 100, 32),
    _shape(1, 1, 100, 40, 32),
    _shape(1, 1, 1, 70, 64),
    _shape(1, 1, 70, 1, 64),
    _shape(2, 3, 17, 19, 32),
    _shape(1, 1, 7, 3, 64),
    _shape(1, 1, 130, 139, 64),
    options=BOTH,
)
MORE_SHAPES = _cases(
    *(_shape(1, 1, nq, nk, d) for nq in (1, 32, 63, 129) for nk in (1, 31, 64, 130)
      for d in (32, 64, 128)),
    _shape(3, 2, 50, 50, 64),
    _shape(1, 1, 513, 511, 64),
    _shape(1, 1, 300, 700, 128),
    _shape(1, 1, 700, 300, 32),
    options=BOTH,
)  # fmt: skip

DIMS = (1, 20, 32, 40, 63, 64, 80, 96, 128, 192, 256)
HEAD_DIMS = _cases(
    *(_shape(1, 2, 19, 21, d) for d in (*DIMS, 300)),
    _shape(1, 2, 19, 70, 24, Dv=100),
    _shape(1, 2, 70, 19, 130, Dv=8),
    _shape(1, 1, 9, 10, 64, Dv=300),
)
MORE_HEAD_DIMS = _cases(
    *(_shape(1, 1, 70, 139, d, Dv=dv) for d in DIMS for dv in (20, 64, 250)), options=("causal",)
)

GROUPS = _cases(
    _shape(2, 4, 35, 40, 32, Hkv=2),
    _shape(1, 6, 70, 70, 64, Hkv=1),
    _shape(1, 8, 1, 300, 128, Hkv=2),
    _shape(1, 12, 5, 200, 80, Hkv=3, Dv=48),
    options=BOTH,
)
MORE_GROUPS = _cases(_shape(1, 12, 5, 700, 80, Hkv=3, Dv=48), options=BOTH)

VALUES = (
    *_cases(_shape(1, 2, 50, 50, 32), _shape(1, 1, 33, 66, 64), options=BOTH, fill="spiky"),
    *_cases(_shape(1, 1, 50, 70, 64), options=BOTH, fill="large"),
    *_cases(_shape(1, 1, 70, 50, 32), options=BOTH, fill="tens"),
    *_cases(_shape(1, 1, 40, 40, 32), options=BOTH, fill="zeros"),
    *_cases(_shape(1, 1, 50, 70, 64), options=BOTH, fill="some_neg_inf"),
    *_cases(_shape(1, 1, 50, 70, 32), options=BOTH, fill="some_inf"),
    *_cases(_shape(1, 1, 70, 50, 64), options=BOTH, fill="some_nan"),
    *_cases(_shape(1, 1, 40, 45, 32), options=("scale=1.0",)),
    *_cases(_shape(1, 1, 40, 45, 64), options=("scale=0.0", "scale=-0.5", "causal scale=-0.5")),
)

MASKS = (
    *_cases(
        _shape(1, 2, 100, 139, 32),
        options=("window=9", "window=1", "window=9 causal", "window=7 log2_stride=3",
                 "window=3 log2_stride=5 causal", "window=40 none_front", "causal none_front"),
    ),
    *_cases(
        _shape(1, 2, 40, 139, 64),
        _shape(1, 2, 139, 40, 64),
        options=("causal scale_front", "causal scale_end", "window=5 scale_front",
                 "window=6 log2_stride=2 causal scale_end"),
    ),
    *_cases(_shape(1, 1, 48, 96, 32), options=tuple(
        f"{rule} q_width=8 k_width=12" for rule in
        ("causal", "causal scale_end", "window=2 scale_front", "window=2 log2_stride=1 causal"))),
    *_cases(
        _shape(1, 1, 70, 150, 64), options=("window=200 log2_stride=6", "window=10 log2_stride=10")
    ),
    *_cases(
        _shape(1, 4, 3, 900, 64, Hkv=1),  # few queries, for a rung that divides the keys
        options=("window=50 causal", "window=9 log2_stride=4", "window=40 none_front",
                 "causal none_front"),
    ),
    *_cases(_shape(2, 2, 48, 96, 32), options=("mask", "mask causal", "bias", "bias window=20")),
)  # fmt: skip

SEQUENCES = _cases(
    _shape(1, 3, 150, 170, 64),
    _shape(1, 4, 300, 500, 128, Hkv=2),
    options=(
        "cu_seqlens_q=1",
        "cu_seqlens_q=5",
        "cu_seqlens_q=9 causal",
        "cu_seqlens_q=3 window=20",
    ),
)

BLOCKS = _cases(
    _shape(1, 2, 70, 100, 32),
    options=("br=16 bc=16", "br=7 bc=33", "br=100 bc=1", "br=1 bc=100", "causal br=33 bc=20"),
)

LAYOUTS = tuple(
    case
    for layout in OPERATOR.layouts
    for case in _cases(_shape(2, 3, 35, 35, 32), options=(*BOTH, "mask", "bias"), layout=layout)
)
HUGE_ROWS = tuple(
    case
    for layout in ("huge_q", "huge_k", "huge_v", "huge_out")
    for case in _cases(_shape(1, 1, 5, 6, 64), layout=layout)
)

EMPTY = _cases(
    _shape(0, 1, 5, 5, 32),
    _shape(1, 0, 5, 5, 32),
    _shape(1, 1, 0, 5, 32),
    _shape(1, 1, 5, 0, 32),
    options=BOTH,
)

# Shapes and tolerances of github.com/tobiasvanderwerff/flash-attention (its tests): (n, d),
# scale 1, difference to SDPA below 1e-4, fp32.
_SOURCE_001 = (
    (2, 2), (1, 1), (2, 20), (2, 99), (20, 2), (99, 20), (224, 64), (223, 63), (225, 65)
)  # fmt: skip


def _source_001(sizes: tuple[tuple[int, int], ...]) -> tuple[Case, ...]:
    settings = {"options": "scale=1", "atol": 1e-4, "seed": 1}
    return tuple(OPERATOR.case(_shape(1, 1, n, n, d), **settings) for n, d in sizes)


SOURCE_001 = _source_001(_SOURCE_001)
MORE_SOURCE_001 = _source_001(((1024, 64), (1023, 63), (1025, 65)))

# Shapes and tolerances of github.com/66RING/tiny-flash-attention, smaller where they are large.
SOURCE_002 = tuple(
    OPERATOR.case(text, options=options, dtype=dtype, atol=1e-2, rtol=1e-2, seed=1)
    for text, options, dtype in (
        (_shape(1, 2, 256, 256, 64), "scale=0.5", "float16"),
        (_shape(1, 2, 256, 256, 64), "causal scale=0.5", "float16"),
        (_shape(4, 1, 64, 64, 64), "", "float16"),
        (_shape(2, 8, 128, 128, 64), "causal", "float16"),
        (_shape(1, 3, 128, 128, 128), "causal scale=1", "float32"),
        (_shape(3, 8, 64, 64, 128), "causal", "bfloat16"),
    )
)
MORE_SOURCE_002 = _cases(
    _shape(1, 32, 128, 128, 128), options=("causal scale=1",), atol=1e-2, rtol=1e-2, seed=1
)


@pytest.mark.grid(OPERATOR, SHAPES, MORE_SHAPES)
def test_shapes(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, HEAD_DIMS, MORE_HEAD_DIMS)
def test_head_dims(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, GROUPS, MORE_GROUPS)
def test_heads_that_share_keys(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, VALUES)
def test_values(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, MASKS)
def test_masks(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, SEQUENCES)
def test_sequences_of_different_lengths(rung, case, require_right):
    require_right(OPERATOR, case)


@pytest.mark.grid(OPERATOR, BLOCKS)
def test_block_sizes(rung, case, require_right):
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


@pytest.mark.grid(OPERATOR, SOURCE_002, MORE_SOURCE_002)
def test_source_002(rung, case, require_right):
    require_right(OPERATOR, case)


def _dtype(rung: Rung) -> torch.dtype:
    return getattr(torch, rung.dtypes[0])


@pytest.mark.grid(OPERATOR)
def test_queries_that_see_nothing(rung, target, device):
    """Six queries, two keys, causal: the first four see none."""
    dtype = _dtype(rung)
    q, k, v = (torch.randn(1, 1, n, 32, device=device).to(dtype) for n in (6, 2, 2))
    out, lse = attention(q, k, v, causal=True, return_lse=True, kernel=rung.name)
    assert torch.equal(out[0, 0, :4], torch.zeros(4, 32, device=device, dtype=dtype))
    assert bool((lse[0, 0, :4] == -torch.inf).all())
    assert torch.equal(out[0, 0, 4], v[0, 0, 0])
    assert bool(lse[0, 0, 4:].isfinite().all())


@pytest.mark.grid(OPERATOR)
def test_ranks_and_default_scale(rung, target, device):
    q, k, v = (torch.randn(2, 3, 20, 64, device=device).to(_dtype(rung)) for _ in range(3))
    out = attention(q, k, v, kernel=rung.name)
    assert torch.equal(attention(q, k, v, scale=0.125, kernel=rung.name), out)
    three = attention(q[0], k[0], v[0], kernel=rung.name)
    two, lse = attention(q[0, 1], k[0, 1], v[0, 1], return_lse=True, kernel=rung.name)
    five = attention(q[None], k[None], v[None], kernel=rung.name)
    assert torch.equal(three, out[0])
    assert torch.equal(two, out[0, 1])
    assert torch.equal(five, out[None])
    assert lse.shape == (20,)


if __name__ == "__main__":
    command.run(lambda: main("attention"))
