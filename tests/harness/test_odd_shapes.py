"""Random shapes, on every rung; --full tries many more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.operators.attention import OPERATOR as ATTENTION
from workbench.operators.matmul import OPERATOR as MATMUL
from workbench.operators.softmax import OPERATOR as SOFTMAX

SIZES = st.integers(0, 70)
FILLS = st.sampled_from(["randn", "spiky", "tens"])


@pytest.mark.grid(MATMUL)
def test_matmul(rung, target, require_right):
    layouts = st.sampled_from([n for n in MATMUL.layouts if not n.startswith(("huge", "bey"))])

    @given(SIZES, SIZES, SIZES, layouts, st.sampled_from(["integers", "spiky"]))
    def right(m, n, k, layout, fill):
        require_right(MATMUL, MATMUL.case(f"M={m},N={n},K={k}", layout=layout, fill=fill))

    right()


@pytest.mark.grid(SOFTMAX)
def test_softmax(rung, target, require_right):
    fills = st.sampled_from(["constant_rows", "spiky", "large", "some_neg_inf", "masked_rows"])

    @given(
        st.integers(0, 40), st.integers(0, 700), st.sampled_from(["contiguous", "padded"]), fills
    )
    def right(rows, cols, layout, fill):
        case = SOFTMAX.case(f"rows={rows},cols={cols}", layout=layout, fill=fill)
        require_right(SOFTMAX, case)

    right()


@pytest.mark.grid(ATTENTION)
def test_attention(rung, target, require_right):
    layouts = st.sampled_from(["contiguous", "padded", "heads_inside"])
    head_dims = st.sampled_from((1, 7, 32, 40, 64))
    batch = st.integers(0, 2)

    @given(batch, batch, SIZES, SIZES, head_dims, st.booleans(), layouts, FILLS)
    def right(b, h, nq, nk, d, causal, layout, fill):
        shape = f"B={b},H={h},Nq={nq},Nk={nk},D={d}{' causal' if causal else ''}"
        require_right(ATTENTION, ATTENTION.case(shape, layout=layout, fill=fill))

    right()
