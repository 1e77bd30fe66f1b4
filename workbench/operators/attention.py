"""attention: O = softmax(scale * Q K^T) V and its log-sum-exp."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.nn.functional import scaled_dot_product_attention

from . import builds, rounding
from .definitions import Checks, calling, define
from .operator import Baseline, Case, Expected, Layout, Operator, Tensors, TensorSpec
from .shapes import Option

# What PyTorch sees.


def _fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    rung: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=lse_dtype)


def _attention(
    target: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    rung: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = _fake(q, k, v)
    options = ({"causal": 1.0} if causal else {}) | ({} if scale is None else {"scale": scale})
    tensors = {"q": q, "k": k, "v": v, "out": out, "lse": lse}
    builds.launch(target, "attention", tensors, options, rung)
    return out, lse


define(
    "attention(Tensor q, Tensor k, Tensor v, bool causal=False, float? scale=None, "
    'str rung="") -> (Tensor, Tensor)',
    _attention,
    _fake,
)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    kernel: str | None = None,
    check: Checks = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention, O = softmax(scale * Q K^T) V.

    q: float32 [..., Nq, D]; k, v: float32 [..., Nk, D]; rank 2 to 4, the same leading dimensions
    (batch, heads). Any strides, with the elements of a row adjacent.
    causal: query i sees the keys 0 .. i + Nk - Nq; one that sees none gets O = 0, LSE = -inf.
    scale: None takes 1 / sqrt(D).
    kernel: a rung of ``rungs("attention")``; None selects the last one that accepts the input.
    check: as for ``matmul``.
    Returns O [..., Nq, D], and with return_lse also LSE = log(sum(exp(scale * Q K^T))), [..., Nq].
    RuntimeError names the argument, what was expected and what was given.

    The formula is that of "Attention Is All You Need" (3.2.1); ``flash`` follows algorithm 1 of
    "FlashAttention-2" (3.1), with LSE as stored there.
    """
    with calling(
        "attention", kernel, check, {"q": q, "k": k, "v": v}, {"scale": scale}, ("scale",)
    ):
        out, lse = torch.ops.workbench.attention(q, k, v, causal, scale, kernel or "")
    return (out, lse) if return_lse else out


# What it should compute, and how accurately.

CHUNK_ELEMENTS = 2**25  # scores held at once; bounds the reference's memory


def visible(queries: int, keys: int, causal: bool, device: torch.device) -> torch.Tensor:
    """The causal mask of the reference, as ``keys_seen`` is that of the kernels.

    Which keys a query sees, bool [queries, keys]; causal: query i sees keys <= i + Nk - Nq.
    """
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return mask.tril(keys - queries) if causal else mask


def default_scale(head_dim: int) -> float:
    """1 / sqrt(D), attention's default scale; 1 for D = 0."""
    return 1 / math.sqrt(head_dim) if head_dim else 1.0


def heads(*tensors: torch.Tensor) -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
    """Iterate over [B, H, ...] tensors in slices of B * H that bound the score matrices' size.

    The first two tensors are Q and K. Yields the slice of the flattened B * H and the float64
    tensors ``[slice, N, D]``.
    """
    q, k = tensors[:2]
    step = max(1, CHUNK_ELEMENTS // max(1, q.shape[-2] * k.shape[-2]))
    flat = [tensor.flatten(0, 1) for tensor in tensors]
    for start in range(0, max(1, flat[0].shape[0]), step):
        part = slice(start, start + step)
        yield part, tuple(tensor[part].double() for tensor in flat)


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """O = softmax(scale Q K^T) V and LSE = log(sum(exp(scale Q K^T))).

    Args:
        q: [B, H, Nq, D].
        k: [B, H, Nk, D].
        v: [B, H, Nk, D].
        causal: query i sees the keys 0 .. i + Nk - Nq.
        scale: None means 1 / sqrt(D).

    Returns:
        O [B, H, Nq, D] and LSE [B, H, Nq]; a query that sees no key has O = 0, LSE = -inf.
    """
    factor = default_scale(q.shape[-1]) if scale is None else scale
    mask = visible(q.shape[-2], k.shape[-2], causal, q.device)
    outputs, sums = [], []
    for _, (qs, ks, vs) in heads(q, k, v):
        scores = (factor * (qs @ ks.mT)).masked_fill(~mask, -math.inf)
        lse = torch.logsumexp(scores, dim=-1)
        p = torch.exp(scores - lse[..., None]).masked_fill(~mask, 0)
        outputs.append(p @ vs)
        sums.append(lse)
    return torch.cat(outputs).view(q.shape), torch.cat(sums).view(q.shape[:-1])


def tolerance(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    scale: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds on the errors of O and LSE, shapes [B, H, Nq, D] and [B, H, Nq].

    For a query with scores s_j and weights p_j over the n keys it sees, the error of a score
    is e_j = gamma(D + 4) |scale| (|q| . |k_j|) + 4u (|s_j| + max |s|): the dot product and
    the scale, then the exponent's argument (subtraction, log2(e), product). With
    E = sum_j p_j e_j:

    |O - ref| <= sum_j p_j |v_j| expm1(e_j + E + gamma(3n + 16) + u_out) + 2^-126 sum_j |v_j|

    |LSE - ref| <= max_j (e_j where p_j > 0) + gamma(2n + 16) + 4u |LSE|

    n counts three times: the sum of exponentials, the running rescale, the product with
    V. A query that sees no key has bounds of 0.
    """
    factor = default_scale(q.shape[-1]) if scale is None else scale
    mask = visible(q.shape[-2], k.shape[-2], causal, q.device)
    seen = mask.sum(dim=-1).double()[:, None]
    outputs, sums = [], []
    for _, (qs, ks, vs) in heads(q, k, v):
        scores = (factor * (qs @ ks.mT)).masked_fill(~mask, -math.inf)
        lse = torch.logsumexp(scores, dim=-1, keepdim=True)
        p = torch.exp(scores - lse).masked_fill(~mask, 0)
        size = scores.abs().masked_fill(~mask, 0)
        e = rounding.gamma(q.shape[-1] + 4) * abs(factor) * (qs.abs() @ ks.mT.abs())
        e = e + 4 * rounding.U * (size + rounding.largest(size))
        average = torch.where(p == 0, 0.0, p * e).sum(dim=-1, keepdim=True)
        growth = torch.expm1(
            e + average + rounding.gamma_of(3 * seen + 16) + rounding.unit_roundoff(q.dtype)
        )
        weights = torch.where(p == 0, 0.0, p * growth)
        tiny = rounding.SMALLEST_NORMAL * mask.double()
        outputs.append((weights + tiny) @ vs.abs())
        worst = rounding.largest(torch.where(p == 0, 0.0, e)) + rounding.gamma_of(2 * seen + 16)
        sums.append(
            (worst + 4 * rounding.U * rounding.finite(lse).abs()).masked_fill(seen == 0, 0)[..., 0]
        )
    return torch.cat(outputs).view(q.shape), torch.cat(sums).view(q.shape[:-1])


def _causal(case: Case) -> bool:
    return bool(case.option("causal"))


def _scale(case: Case) -> float:
    return case.option("scale", default_scale(case.shape["D"]))


def _expect(given: Tensors, case: Case) -> dict[str, Expected]:
    args = given["q"], given["k"], given["v"], _causal(case), _scale(case)
    pairs = zip(reference(*args), tolerance(*args), strict=True)
    return {name: Expected(*pair) for name, pair in zip(("out", "lse"), pairs, strict=True)}


# What it is compared with.


def _by_torch(given: Tensors, case: Case) -> torch.Tensor:
    q, k, v = given["q"], given["k"], given["v"]
    mask = visible(q.shape[-2], k.shape[-2], _causal(case), q.device)
    scores = (_scale(case) * (q @ k.mT)).masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def _efficient(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return scaled_dot_product_attention(
            given["q"], given["k"], given["v"], is_causal=_causal(case), scale=_scale(case)
        )


def _same_mask(case: Case) -> bool:
    """PyTorch aligns a causal mask with the first key, the workbench with the last."""
    return case.shape["Nq"] == case.shape["Nk"] or not _causal(case)


# The operator as the harness sees it.


def _tensors(case: Case, layout: Layout) -> dict[str, TensorSpec]:
    b, h, nq, nk, d = case.shape.numbers()
    return {
        "q": TensorSpec((b, h, nq, d)),
        "k": TensorSpec((b, h, nk, d)),
        "v": TensorSpec((b, h, nk, d)),
        "out": TensorSpec((b, h, nq, d), output=True),
        "lse": TensorSpec((b, h, nq), output=True, statistic=True),
    }


def visible_pairs(case: Case) -> int:
    """The number of (query, key) pairs per head: all, or those a causal mask leaves."""
    nq, nk = case.shape["Nq"], case.shape["Nk"]
    if not _causal(case):
        return nq * nk
    first = nk - nq + 1  # keys the first query sees, if positive
    start = max(0, -first + 1)
    seeing = nq - start  # queries that see any key
    return seeing * (2 * (first + start) + seeing - 1) // 2


def _flops(case: Case) -> int:
    return 4 * case.shape["B"] * case.shape["H"] * case.shape["D"] * visible_pairs(case)


_EVERY = ("q", "k", "v", "out")

OPERATOR = Operator(
    name="attention",
    sizes=("B", "H", "Nq", "Nk", "D"),
    options=(
        Option("causal", "query i sees the keys 0 .. i + Nk - Nq"),
        Option("scale", "instead of 1 / sqrt(D)", number=True),
    ),
    layouts={
        "contiguous": Layout(),
        "heads_inside": Layout(dict.fromkeys(_EVERY, "heads_inside")),
        "padded": Layout(dict.fromkeys(_EVERY, "padded")),
        "mixed": Layout({"q": "padded", "k": "heads_inside"}),
        "mixed_out": Layout({"v": "padded", "out": "heads_inside"}),
        "offset": Layout(dict.fromkeys(_EVERY, "offset")),
        "huge_q": Layout({"q": "huge"}),
        "huge_k": Layout({"k": "huge"}),
        "huge_v": Layout({"v": "huge"}),
        "huge_out": Layout({"out": "huge"}),
    },
    tensors=_tensors,
    expect=_expect,
    by_torch=_by_torch,
    flops=_flops,
    defaults={
        "simulator": tuple(f"B=1,H=16,Nq=4096,Nk=4096,D=64{causal}" for causal in ("", " causal")),
        "gpu": tuple(
            f"B=4,H=16,Nq={n},Nk={n},D=64{causal}"
            for n in (1024, 4096)
            for causal in ("", " causal")
        ),
    },
    small=("B=1,H=2,Nq=256,Nk=256,D=64", "B=1,H=2,Nq=256,Nk=256,D=64 causal"),
    sample_blocks=8,  # with a causal mask the last queries have most to do
    edges=(
        ("B=1,H=2,Nq=70,Nk=139,D=32", "padded", "spiky"),
        ("B=2,H=2,Nq=70,Nk=100,D=64 causal", "mixed", "randn"),
        ("B=2,H=2,Nq=100,Nk=40,D=128 causal", "mixed_out", "randn"),
    ),
    baselines=(Baseline("efficient", _efficient, _same_mask),),
)
