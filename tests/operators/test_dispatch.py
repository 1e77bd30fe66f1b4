"""Which rung runs: the requested one, or the last of the table that does not decline."""

import pytest
import torch

import simulator
from workbench import attention, rungs, softmax, softmax_backward
from workbench.operators.builds import Declined

SHORT, LONG = (4, 100), (2, 20_000)  # a row of LONG exceeds a block's registers


def alike(rows: int, cols: int) -> torch.Tensor:
    return torch.randn(rows, cols)


def differently(rows: int, cols: int) -> torch.Tensor:
    """Rows that are not 16-byte aligned, while those of the output are."""
    return torch.randn(rows, cols + 4)[:, 1 : cols + 1]


def of_softmax(x: torch.Tensor, kernel: str | None = None) -> torch.Tensor:
    return softmax(x, kernel=kernel)


def of_gradient(x: torch.Tensor, kernel: str | None = None) -> torch.Tensor:
    return softmax_backward(x, torch.softmax(x, dim=-1), kernel=kernel)


CALLS = {"softmax": of_softmax, "softmax_backward": of_gradient}


@pytest.mark.parametrize(
    ("op", "rows", "shape", "chosen"),
    [
        ("softmax", alike, SHORT, "row_in_registers"),
        ("softmax", alike, LONG, "cluster_pipelined"),
        ("softmax", differently, SHORT, "warp_per_row"),
        ("softmax", differently, LONG, "vectorized"),
        ("softmax_backward", alike, SHORT, "row_in_registers"),
        ("softmax_backward", alike, LONG, "cluster"),
        ("softmax_backward", differently, SHORT, "vectorized"),
        ("softmax_backward", differently, LONG, "vectorized"),
    ],
)
def test_the_last_rung_that_does_not_decline_is_chosen(op, rows, shape, chosen):
    call, x = CALLS[op], rows(*shape)
    with simulator.record() as launches:
        result = call(x)
    assert {launch.kernel.partition("<")[0] for launch in launches} == {f"{op}_{chosen}_kernel"}
    assert torch.equal(result, call(x, kernel=chosen))
    names = [rung.name for rung in rungs(op)]
    for name in names[names.index(chosen) + 1 :]:
        with pytest.raises(Declined):
            call(x, kernel=name)


@pytest.mark.parametrize(
    ("op", "rows", "shape", "kernel", "reason"),
    [
        (
            *("softmax", alike, SHORT, "cluster"),
            "rows of 100 columns fit into the registers of a block; use row_in_registers",
        ),
        (
            *("softmax", alike, LONG, "row_in_registers"),
            "rows of 20000 columns are more than the registers of a block hold",
        ),
        (
            *("softmax", alike, LONG, "warp_per_row"),
            "rows of 20000 columns are too long for a warp; use vectorized",
        ),
        (
            *("softmax", differently, LONG, "cluster_pipelined"),
            "x and y have different addresses modulo 16; use vectorized",
        ),
        (
            *("softmax_backward", differently, SHORT, "row_in_registers"),
            "dy, y and dx have different addresses modulo 16; use vectorized",
        ),
    ],
)
def test_a_rung_asked_for_by_name_raises_its_reason(op, rows, shape, kernel, reason):
    x = rows(*shape)
    with pytest.raises(Declined) as caught, simulator.record() as launches:
        CALLS[op](x, kernel=kernel)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{op}: kernel '{kernel}' declines: {reason} (")
    assert f"float32 {list(x.shape)}" in str(caught.value)
    assert not launches


def test_attention_has_a_rung_for_every_head_dimension():
    for head_dim, chosen in ((300, "fused_row"), (32, "flash")):
        q = torch.randn(5, head_dim)
        with simulator.record() as launches:
            attention(q, q, q)
        assert any(launch.kernel.startswith(f"attention_{chosen}_") for launch in launches)
