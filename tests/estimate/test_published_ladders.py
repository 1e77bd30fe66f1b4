"""The kernels for the published ladders are right and race-free, in every order."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

import simulator
from workbench.estimate.published import Ladder, ladders
from workbench.toolchain.inline import inline

ORDERS = [
    "ascending",
    pytest.param("descending", marks=pytest.mark.full),
    pytest.param("random", marks=pytest.mark.full),
]
LADDERS = SGEMM, SOFTMAX = ladders()


@pytest.fixture(scope="module", params=LADDERS, ids=[ladder.name for ladder in LADDERS])
def ladder(request: pytest.FixtureRequest) -> Ladder:
    return request.param


@pytest.fixture(scope="module")
def kernels(ladder: Ladder) -> ModuleType:
    text = ladder.file.read_text()
    return inline(text, list(ladder.published_ms), target="simulator", name=ladder.file.stem)


@pytest.mark.parametrize("order", ORDERS)
def test_every_step_is_right(ladder: Ladder, kernels: ModuleType, order: str) -> None:
    torch.manual_seed(1)
    if ladder is SGEMM:
        sizes = (128, 256, 64)
        given = [torch.randn(128, 64), torch.randn(64, 256)]
        expected = given[0].double() @ given[1].double()
    else:
        sizes = (3, 2048)
        given = [torch.randn(3, 2048)]
        expected = torch.softmax(given[0].double(), dim=1)
    for step in ladder.published_ms:
        out = torch.full(expected.shape, torch.nan)
        with simulator.settings(order=order, checks=["all"]):
            getattr(kernels, step)(*given, out, *sizes)
        torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-4, msg=step)


def test_sizes_that_do_not_fit_are_refused(kernels: ModuleType, ladder: Ladder) -> None:
    for step in ladder.published_ms:
        tensors = [torch.zeros(33, 33)] * (3 if ladder is SGEMM else 2)
        with pytest.raises(RuntimeError, match="multiple"):
            getattr(kernels, step)(*tensors, *([33] * len(ladder.sizes)))
