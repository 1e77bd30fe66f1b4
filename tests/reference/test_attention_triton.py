"""FlashAttention-2 in Triton: its PTX on the simulator with all checks, or the kernel on a GPU."""

# ruff: noqa: E402 (what needs Triton is imported once it is there)

from __future__ import annotations

import math

import pytest
import torch

NEEDED = "needs Triton 3.7.1 or newer (pip install triton==3.7.1)"  # with fences after cp.async
triton = pytest.importorskip("triton", minversion="3.7.1", reason=NEEDED)

import simulator
from reference.attention import flash_2, multi_head
from reference.attention_triton import (
    TILES,
    Tiles,
    attention_triton,
    attention_triton_kernel,
    simulate,
)
from workbench.harness import verify
from workbench.operators.attention import reference, tolerance
from workbench.operators.operator import Expected

pytestmark = pytest.mark.triton

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tensors(b: int, h: int, nq: int, nk: int, d: int, dtype: torch.dtype, device) -> Tensors:
    """q, k, v [B, H, N, D] whose heads are inside their rows, as a projection leaves them."""
    generator = torch.Generator().manual_seed(4)
    q, k, v = (
        torch.randn(b, n, h, d, generator=generator).to(dtype).to(device).transpose(1, 2)
        for n in (nq, nk, nk)
    )
    return q, k, v


def require_right(given: Tensors, causal: bool = False, sm_scale: float | None = None, **options):
    """O and LSE within the operator's tolerance, which allows one rounding of O to its dtype.

    That of P is not in it; it has either sign, and stays below.
    """
    options |= {"causal": causal, "sm_scale": sm_scale}
    got = attention_triton(*given, return_lse=True, **options)
    args = (*given, causal, sm_scale)
    for name, one, wanted, allowed in zip(
        ("out", "lse"), got, reference(*args), tolerance(*args), strict=True
    ):
        compared = verify.compare(one.contiguous(), Expected(wanted, allowed))
        assert not compared.wrong, f"{name}: {compared}"
    assert got[0].dtype == given[0].dtype and got[1].dtype == SINGLE


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("dtype", [HALF, SINGLE], ids=str)
def test_ragged(dtype, causal, device):
    require_right(tensors(2, 2, 70, 139, 64, dtype, device), causal)


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ((1, 2, 100, 40, 16), BRAIN),  # the first 60 queries see no key
        ((1, 1, 64, 128, 32), BRAIN),
        ((1, 1, 33, 50, 128), HALF),
        ((1, 1, 33, 20, 128), SINGLE),
        ((1, 3, 5, 70, 24), HALF),  # padded to 32
        ((2, 1, 1, 1, 1), SINGLE),
        ((1, 1, 20, 0, 16), HALF),
    ],
    ids=str,
)
def test_sizes(sizes, dtype, device):
    require_right(tensors(*sizes, dtype, device), causal=True)


def test_rows_that_are_apart_and_not_aligned(device):
    q, k, v = (x[..., 1:33] for x in tensors(1, 2, 40, 70, 35, HALF, device))
    require_right((q, k, v), sm_scale=-0.3)
    require_right((q, k[:, :1].expand_as(k), v), causal=True)


@pytest.mark.parametrize("tiles", [Tiles(128, 32, 8, 3), Tiles(16, 16, 1, 1)], ids=str)
def test_other_tiles(tiles, device):
    require_right(tensors(1, 1, 70, 100, 32, HALF, device), causal=True, tiles=tiles)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_large_logits(causal, device):
    q, k, v = tensors(1, 1, 40, 70, 64, HALF, device)
    require_right((100 * q, k, v), causal)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(
    "sizes", [(1, 2, 128, 64), pytest.param((1, 2, 1024, 64), marks=pytest.mark.full)], ids=str
)
def test_against_the_ladder(sizes, causal, device):
    """At the sizes that are usual for it: sm_scale 0.5, absolute tolerance 1e-2."""
    b, h, n, d = sizes
    given = tuple(0.5 * x for x in tensors(b, h, n, n, d, HALF, device))
    got = attention_triton(*given, causal=causal, sm_scale=0.5)
    wanted = multi_head(flash_2, *(x.float() for x in given), causal=causal, scale=0.5)
    torch.testing.assert_close(got.float(), wanted, atol=1e-2, rtol=0)


# ---- The simulator ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [HALF, SINGLE], ids=str)
def test_the_instructions_are_tritons(dtype):
    """Tensor cores and asynchronous copies for fp16; fp32 is not rounded to tf32."""
    given = tensors(1, 1, 70, 139, 64, dtype, "cpu")
    with simulator.record() as launches:
        attention_triton(*given)
    (launch,) = launches
    assert launch.kernel == "attention_triton_kernel"
    assert launch.num_blocks == math.ceil(70 / TILES[dtype.itemsize].BLOCK_M)
    copies = sum(count for form, count in launch.forms.items() if form.startswith("cp.async"))
    matrices = [form for form in launch.forms if "mma" in form]
    assert copies > 0 and "tf32" not in " ".join(launch.forms)
    assert any(form.startswith("wgmma") for form in matrices) == (dtype == HALF)
    assert bool(matrices) == (dtype == HALF)


def test_a_proxy_fence_that_triton_leaves_out_is_found():
    """K passes through registers, V does not: up to 3.8, V is copied after the only fence."""
    q, k, v = tensors(1, 1, 40, 70, 33, HALF, "cpu")
    given = (q[..., :32], k[..., :32], v[..., :32].contiguous())
    with simulator.settings(checks="memcheck,initcheck"):
        require_right(given)
    with simulator.settings(checks="all"):
        if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9):
            require_right(given)
            return
        with pytest.raises(simulator.SimulatorError, match="there is no proxy fence") as found:
            attention_triton(*given)
    assert found.value.kind == "racecheck"


def test_a_mistake_is_found_at_its_line():
    x = torch.zeros(1, 1, 32, 32)
    lse, strides = torch.empty(1, 1, 32), (1024, 1024, 32)
    arguments = {"Q": x, "K": x[:, :, :16], "V": x.clone(), "O": torch.empty_like(x), "LSE": lse}
    arguments |= {
        f"{name}_{what}": stride
        for name in "qkvo"
        for what, stride in zip(("batch", "head", "row"), strides, strict=True)
    }
    arguments |= {"K": torch.zeros(1, 1, 16, 32), "H": 1, "Nq": 32, "Nk": 32, "scale_log2": 1.0}
    constants = {"D": 32, "BLOCK_D": 32, "BLOCK_M": 32, "BLOCK_N": 32, "CAUSAL": False}
    options = {"num_warps": 4, "num_stages": 1}
    with pytest.raises(simulator.SimulatorError, match="K") as found:
        simulate(attention_triton_kernel, 1, arguments, constants, options, ("O", "LSE"))
    assert found.value.kind == "memcheck" and found.value.kernel == "attention_triton_kernel"
    assert found.value.file.endswith("attention_triton.py")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda q, k, v: (q, k[..., :8], v), r"expected q \[B, H, Nq, D\]"),
        (lambda q, k, v: (q, k, v[:, :, :4]), "k is"),
        (lambda q, k, v: (q, k.float(), v), "one dtype"),
        (lambda q, k, v: (q.mT, k.mT, v.mT), "must be adjacent"),
        (lambda q, k, v: (q.requires_grad_(), k, v), "no backward"),
        (lambda q, k, v: [x.repeat(1, 1, 1, 20) for x in (q, k, v)], "at most 256"),
    ],
)
def test_what_it_does_not_take(change, says):
    q, k, v = tensors(1, 1, 16, 16, 16, HALF, "cpu")
    with pytest.raises(ValueError, match=says):
        attention_triton(*change(q, k, v))
