"""attention: O = softmax(scale * Q K^T) V and its log-sum-exp."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from workbench.masks import SYNCS, Mask

from . import builds
from .attention_errors import default_scale, reference, tolerance
from .definitions import Checks, calling, define, text
from .operator import (
    Baseline,
    Case,
    Expected,
    Layout,
    Operator,
    PrecisionStudy,
    Tensors,
    TensorSpec,
)
from .shapes import Option

# What PyTorch sees.

Optional = torch.Tensor | None


def _fake(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any, **named: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty((*q.shape[:-1], *v.shape[-1:])), q.new_empty(q.shape[:-1], dtype=lse_dtype)


def _attention(
    target: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Optional = None,
    cu_seqlens_q: Optional = None,
    cu_seqlens_k: Optional = None,
    scale: float | None = None,
    causal: bool = False,
    window: int = 0,
    log2_stride: int = 0,
    sync: str = SYNCS[0],
    q_width: int = 0,
    k_width: int = 0,
    br: int = 0,
    bc: int = 0,
    rung: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    if sync not in SYNCS:
        raise RuntimeError(f"attention: sync must be one of {', '.join(SYNCS)}; got {sync!r}")
    if target == "simulator":  # reading them on a GPU would wait for all that runs there
        _check_starts("cu_seqlens_q", cu_seqlens_q, q)
        _check_starts("cu_seqlens_k", cu_seqlens_k, k)
    out, lse = _fake(q, k, v)
    additive = mask is not None and mask.dtype == q.dtype
    tensors = {
        "q": q,
        "k": k,
        "v": v,
        "bias" if additive else "mask": mask,
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "out": out,
        "lse": lse,
    }
    numbers = {
        "causal": causal,
        "window": window,
        "log2_stride": log2_stride,
        "q_width": q_width,
        "k_width": k_width,
        "br": br,
        "bc": bc,
        sync: sync != SYNCS[0],
    }
    options = {name: float(number) for name, number in numbers.items() if number}
    options |= {} if scale is None else {"scale": scale}
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    builds.launch(target, "attention", given, options, rung)
    return out, lse


def _check_starts(name: str, starts: Optional, of: torch.Tensor) -> None:
    if starts is None or starts.dtype != torch.int32 or starts.dim() != 1 or len(starts) < 2:
        return  # the binding says what is wrong
    values, end = starts.tolist(), of.shape[-2]
    if values != sorted(values) or (values[0], values[-1]) != (0, end):
        raise RuntimeError(f"attention: {name} must go from 0 up to {end}; got {values}")


define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? mask=None, Tensor? cu_seqlens_q=None, "
    "Tensor? cu_seqlens_k=None, float? scale=None, bool causal=False, int window=0, "
    f'int log2_stride=0, str sync="{SYNCS[0]}", int q_width=0, int k_width=0, int br=0, int bc=0, '
    'str rung="") -> (Tensor, Tensor)',
    _attention,
    _fake,
)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
    mask: torch.Tensor | Mask | None = None,
    cu_seqlens_q: torch.Tensor | None = None,
    cu_seqlens_k: torch.Tensor | None = None,
    br: int | None = None,
    bc: int | None = None,
    kernel: str | None = None,
    return_lse: bool = False,
    check: Checks = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention, O = softmax(scale * Q K^T) V.

    q: float32, float64, float16 or bfloat16 [..., H, Nq, D]; k: [..., Hkv, Nk, D]; v: [..., Hkv,
    Nk, Dv]; rank 2 or more, the same leading dimensions. H is a multiple of Hkv: H / Hkv heads in a
    row share a head of k and v (grouped queries). Any strides, with the elements of a row adjacent;
    beyond rank 4, the leading dimensions have to be one in memory.
    scale: None takes 1 / sqrt(D).
    causal: query i sees the keys 0 .. i + Nk - Nq: the last query sees all of them. PyTorch's
    is_causal lets the first query see the first key instead: mask=masks.causal("none_front").
    mask: a rule of ``workbench.masks``; or a tensor that broadcasts to [..., H, Nq, Nk], of bool
    (True: the query sees the key) or of q's dtype, added to the scaled scores; then with ``causal``
    both apply. A query without a score above -inf gets O = 0, LSE = -inf.
    cu_seqlens_q, cu_seqlens_k: int32 [sequences + 1], from 0 up to Nq and Nk: sequences of
    different lengths follow each other along N, and each sees only itself. q has rank 3, or batch
    size 1. What they hold is not checked on a GPU, which would have to wait for it.
    br, bc: queries and keys per tile, for the rungs that have the choice; None takes theirs.
    kernel: a rung of ``rungs("attention")``, or, for tensors on the CPU, of ``rungs("attention",
    "cpu")``; None selects the last one of the former that accepts the input.
    check: as for ``matmul``.
    Returns O [..., H, Nq, Dv], and with return_lse also LSE = log(sum(exp(scale * Q K^T))), the
    natural logarithm, [..., H, Nq], float32 (float64 for float64).
    RuntimeError names the argument, what was expected and what was given.

    The formula is that of "Attention Is All You Need" (3.2.1); ``flash`` follows algorithm 1 of
    "FlashAttention-2" (3.1), with LSE as stored there.
    """
    rule = mask if isinstance(mask, Mask) else Mask(causal=causal is True)
    tensor = None if isinstance(mask, Mask) else mask
    tensors = {
        "q": q,
        "k": k,
        "v": v,
        "mask": tensor,
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
    }
    numbers = {"scale": scale, "br": br, "bc": bc}
    optional = ("mask", "cu_seqlens_q", "cu_seqlens_k", "scale", "br", "bc")
    with calling("attention", kernel, check, tensors, numbers, optional):
        if not isinstance(causal, bool):
            raise TypeError(f"attention: causal is {causal!r}; expected True or False")
        if tensor is not None and tensor.dtype not in (torch.bool, q.dtype):
            raise RuntimeError(
                f"attention: mask must be bool, or of q's dtype, {q.dtype}; got {text(tensor)}"
            )
        if causal and isinstance(mask, Mask):
            raise RuntimeError(
                f"attention: causal is set, and so is mask, a rule: {mask}; pass one"
            )
        shape = q.shape
        if q.dim() > 4:
            q, k, v = (_with_one_batch(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
            tensor = None if tensor is None else _mask_of_one_batch(tensor, shape, k.shape[-2])
        out, lse = torch.ops.workbench.attention(
            q, k, v, tensor, cu_seqlens_q, cu_seqlens_k, scale, *dataclasses.astuple(rule),
            _tile_size("br", br), _tile_size("bc", bc), kernel or "",
        )  # fmt: skip
        out, lse = out.view(*shape[:-1], out.shape[-1]), lse.view(shape[:-1])
    return (out, lse) if return_lse else out


def _with_one_batch(name: str, x: torch.Tensor) -> torch.Tensor:
    try:
        return x.view(-1, *x.shape[-3:]) if x.numel() else x.reshape(-1, *x.shape[-3:])
    except RuntimeError:
        raise RuntimeError(
            f"attention: the leading dimensions of {name} must be one in memory; got {text(x)}, "
            f"strides {list(x.stride())}. Call .contiguous() first"
        ) from None


def _mask_of_one_batch(mask: torch.Tensor, shape: torch.Size, keys: int) -> torch.Tensor:
    if all(size == 1 for size in mask.shape[:-3]):
        return mask.reshape(mask.shape[-3:])
    try:
        return mask.expand(*shape[:-1], keys).reshape(-1, *shape[-3:-1], keys)
    except RuntimeError:
        raise RuntimeError(
            f"attention: mask must broadcast to {[*shape[:-1], keys]}; got {text(mask)}"
        ) from None


def _tile_size(name: str, size: int | None) -> int:
    if size is None:
        return 0
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return size
    raise RuntimeError(f"attention: {name} must be a whole number from 1 on, or None; got {size!r}")


# The cases of the harness: their masks, and what they should give.


def rule_of(case: Case) -> Mask:
    """The rule that a case's options set."""
    return Mask(
        causal=bool(case.option("causal")),
        window=int(case.option("window", 0)),
        log2_stride=int(case.option("log2_stride", 0)),
        sync=next((sync for sync in SYNCS[1:] if case.option(sync)), SYNCS[0]),
        q_width=int(case.option("q_width", 0)),
        k_width=int(case.option("k_width", 0)),
    )


def _scale(case: Case) -> float:
    return case.option("scale", default_scale(case.shape["D"]))


def seen(given: Tensors, case: Case) -> torch.Tensor:
    """Which keys a query sees, by the rule, within its sequence: bool [Nq, Nk]."""
    nq, nk, rule = case.shape["Nq"], case.shape["Nk"], rule_of(case)
    device = given["q"].device
    if "cu_seqlens_q" not in given:
        return rule.visible(nq, nk, device)
    whole = torch.zeros(nq, nk, dtype=torch.bool, device=device)
    starts = (given[name].tolist() for name in ("cu_seqlens_q", "cu_seqlens_k"))
    q_starts, k_starts = starts
    for q0, q1, k0, k1 in zip(q_starts, q_starts[1:], k_starts, k_starts[1:], strict=False):
        whole[q0:q1, k0:k1] = rule.visible(q1 - q0, k1 - k0, device)
    return whole


def _mask_tensor(given: Tensors, case: Case) -> torch.Tensor:
    """The whole mask as one tensor, of booleans or additive."""
    shown = seen(given, case)
    if "mask" in given:
        return given["mask"] & shown
    if "bias" in given:
        return given["bias"].masked_fill(~shown, -torch.inf)
    return shown


def _expect(given: Tensors, case: Case) -> dict[str, Expected]:
    args = given["q"], given["k"], given["v"], False, _scale(case), _mask_tensor(given, case)
    dtypes = (given["q"].dtype, torch.float32)
    pairs = zip(("out", "lse"), reference(*args), tolerance(*args), dtypes, strict=True)
    return {name: Expected(right, error).within(dtype) for name, right, error, dtype in pairs}


def _finish(filled: Tensors, case: Case) -> Tensors:
    """Choose masks and sequences: some queries see nothing, some sequences are empty.

    Where keys may be hidden, V is finite: 0 * NaN may reach O, or not.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"mask {case.shape}".encode()))
    found = dict(filled)
    if rule_of(case) != Mask() or filled.keys() & {"mask", "bias", "cu_seqlens_q"}:
        found["v"] = filled["v"].nan_to_num(nan=1.0, posinf=2.0, neginf=-2.0)
    if "mask" in filled:
        mask = torch.rand(filled["mask"].shape, generator=generator) < 0.6
        mask[..., ::7, :] = False
        found["mask"] = mask
    if "bias" in filled:
        hidden = torch.rand(filled["bias"].shape, generator=generator) < 0.3
        hidden[..., 1::5, :] = True
        found["bias"] = filled["bias"].masked_fill(hidden, -torch.inf)
    for name, size in (("cu_seqlens_q", "Nq"), ("cu_seqlens_k", "Nk")):
        if name in filled:
            cuts = torch.randint(case.shape[size] + 1, (len(filled[name]),), generator=generator)
            cuts[0], cuts[-1] = 0, case.shape[size]
            found[name] = cuts.sort().values.int()
    return found


# What it is compared with.


def _by_torch(given: Tensors, case: Case) -> torch.Tensor:
    group = case.shape["H"] // max(1, given["k"].shape[1])
    k, v = (given[name].repeat_interleave(group, dim=1) for name in "kv")
    scores = _scale(case) * (given["q"] @ k.mT)
    mask = _mask_tensor(given, case)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, dim=-1).nan_to_num() @ v


def _sdpa(backend: SDPBackend) -> Callable[[Tensors, Tensors, Case], torch.Tensor]:
    """PyTorch's attention by one of its back ends."""

    def run(given: Tensors, outputs: Tensors, case: Case) -> torch.Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(
                given["q"],
                given["k"],
                given["v"],
                is_causal=bool(case.option("causal")),
                scale=_scale(case),
                enable_gqa=given["k"].shape[1] != given["q"].shape[1],
            )

    return run


def _same_mask(case: Case) -> bool:
    """PyTorch aligns a causal mask with the first key, the workbench with the last."""
    square = case.shape["Nq"] == case.shape["Nk"]
    others = {name for name, _ in case.options} - {"causal", "scale", "br", "bc"}
    return not others and (square or not case.option("causal"))


def _narrow(case: Case) -> bool:
    same_dims = case.shape.get("Dv", case.shape["D"]) == case.shape["D"]
    return _same_mask(case) and case.dtype in ("float16", "bfloat16") and same_dims


# Its accuracy in ulp: see workbench.cli.precision.


def _exact(given: Tensors) -> np.ndarray:
    """The formula in numpy's longdouble: 64 bits of precision on x86."""
    q, k, v = (given[name].double().numpy().astype(np.longdouble) for name in "qkv")
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(np.longdouble(q.shape[-1]))
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True)) @ v


def _others(dtype: str) -> dict[str, Callable[[Tensors], torch.Tensor]]:
    """Torch's own kernel on the CPU, and its composition of matmul, softmax and matmul."""

    def run(backend: SDPBackend, given: Tensors) -> torch.Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(given["q"], given["k"], given["v"])

    backends = {"torch": SDPBackend.FLASH_ATTENTION, "torch math": SDPBackend.MATH}
    return {name: functools.partial(run, backend) for name, backend in backends.items()}


# The operator as the harness sees it.


def _tensors(case: Case, layout: Layout) -> dict[str, TensorSpec]:
    b, h, nq, nk, d = (case.shape[name] for name in OPERATOR.sizes)
    heads, dv = case.shape.get("Hkv", h), case.shape.get("Dv", d)
    starts = TensorSpec((int(case.option("cu_seqlens_q", 0)) + 1,), fixed=torch.int32)
    found = {
        "q": TensorSpec((b, h, nq, d)),
        "k": TensorSpec((b, heads, nk, d)),
        "v": TensorSpec((b, heads, nk, dv)),
        "mask": TensorSpec((b, 1, nq, nk), fixed=torch.bool),
        "bias": TensorSpec((h, nq, nk)),
        "cu_seqlens_q": starts,
        "cu_seqlens_k": starts,
        "out": TensorSpec((b, h, nq, dv), output=True),
        "lse": TensorSpec((b, h, nq), output=True, statistic=True),
    }
    absent = {
        "mask": not case.option("mask"),
        "bias": not case.option("bias"),
        "cu_seqlens_q": not case.option("cu_seqlens_q"),
        "cu_seqlens_k": not case.option("cu_seqlens_q"),
    }
    return {name: tensor for name, tensor in found.items() if not absent.get(name)}


@functools.lru_cache(maxsize=64)
def _visible(rule: Mask, nq: int, nk: int) -> int:
    if rule not in (Mask(), Mask(causal=True)):
        return int(rule.visible(nq, nk).sum())
    if not rule.causal:
        return nq * nk
    first = nk - nq + 1  # keys the first query sees, if positive
    start = max(0, -first + 1)
    seeing = nq - start  # queries that see any key
    return seeing * (2 * (first + start) + seeing - 1) // 2


def visible_pairs(case: Case) -> int:
    """The number of (query, key) pairs per head that the case's rule leaves."""
    return _visible(rule_of(case), case.shape["Nq"], case.shape["Nk"])


def _flops(case: Case) -> int:
    dims = case.shape["D"] + case.shape.get("Dv", case.shape["D"])
    return 2 * case.shape["B"] * case.shape["H"] * dims * visible_pairs(case)


_EVERY = ("q", "k", "v", "out")

OPERATOR = Operator(
    name="attention",
    sizes=("B", "H", "Nq", "Nk", "D"),
    equal={"Hkv": "H", "Dv": "D"},
    options=(
        Option("causal", "query i sees the keys 0 .. i + Nk - Nq"),
        Option("scale", "instead of 1 / sqrt(D)", number=True),
        Option("window", "keys fewer than so many strides away", number=True, plain=0.0),
        Option("log2_stride", "a window's stride, 2 to that power", number=True, plain=0.0),
        Option("none_front", "the first query and key share a place, not the last"),
        Option("scale_front", "the shorter sequence is spread over the longer"),
        Option("scale_end", "the same, each element at the end of its part"),
        Option("q_width", "columns of two-dimensional queries", number=True, plain=0.0),
        Option("k_width", "columns of two-dimensional keys", number=True, plain=0.0),
        Option("mask", "a tensor that says which keys a query sees"),
        Option("bias", "a tensor that is added to the scores"),
        Option("cu_seqlens_q", "so many sequences of different lengths", number=True, plain=0.0),
        Option("br", "queries per tile", number=True, plain=0.0, flag=True),
        Option("bc", "keys per tile", number=True, plain=0.0, flag=True),
    ),
    layouts={
        "contiguous": Layout(),
        "heads_inside": Layout(dict.fromkeys(_EVERY, "heads_inside")),
        "padded": Layout(dict.fromkeys((*_EVERY, "mask", "bias"), "padded")),
        "mixed": Layout({"q": "padded", "k": "heads_inside", "mask": "by_columns"}),
        "mixed_out": Layout({"v": "padded", "out": "heads_inside", "bias": "by_columns"}),
        "pitched": Layout(dict.fromkeys(_EVERY, "pitched")),
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
        "simulator": ("B=1,H=16,Nq=4096,Nk=4096,D=64",),
        "gpu": tuple(
            f"B=4,H=16,Nq={n},Nk={n},D=64{causal}"
            for n in (1024, 4096)
            for causal in ("", " causal")
        ),
        "cpu": tuple(
            f"B=1,H=4,Nq={n},Nk={n},D=32{causal}"
            for n in (1024, 4096)
            for causal in ("", " causal")
        ),
    },
    small=(
        "B=1,H=2,Nq=256,Nk=256,D=64",
        "B=1,H=2,Nq=256,Nk=256,D=64 causal",
        "B=1,H=8,Nq=1,Nk=1000,D=64,Hkv=2",
    ),
    default_dtypes=dict.fromkeys(("simulator", "gpu"), ("float32", "bfloat16"))
    | {"cpu": ("float32",)},
    uneven=("causal", "window", "mask", "bias", "cu_seqlens_q"),
    edges=(
        ("B=1,H=2,Nq=70,Nk=139,D=32", "padded", "spiky"),
        ("B=2,H=2,Nq=70,Nk=100,D=64 causal", "mixed", "randn"),
        ("B=2,H=2,Nq=100,Nk=40,D=128 causal", "mixed_out", "randn"),
        ("B=2,H=6,Nq=3,Nk=300,D=40,Hkv=2 causal", "padded", "randn"),
    ),
    baselines=(
        Baseline("efficient", _sdpa(SDPBackend.EFFICIENT_ATTENTION), _same_mask),
        Baseline("sdpa_flash", _sdpa(SDPBackend.FLASH_ATTENTION), _narrow),
        Baseline("cudnn", _sdpa(SDPBackend.CUDNN_ATTENTION), _narrow),
        Baseline("torch", _sdpa(SDPBackend.FLASH_ATTENTION), _same_mask, target="cpu"),
    ),
    finish=_finish,
    columns=("scratch",),
    precision=PrecisionStudy(
        inputs={
            "randn": ("B=1,H=2,Nq=64,Nk=512,D=64", "randn"),
            "few keys": ("B=1,H=2,Nq=64,Nk=16,D=64", "randn"),
            "spiky": ("B=1,H=2,Nq=64,Nk=512,D=64", "spiky"),
            "30 randn": ("B=1,H=2,Nq=64,Nk=512,D=64", "tens"),
            "D = 256": ("B=1,H=2,Nq=64,Nk=512,D=256", "randn"),
        },
        exact=_exact,
        others=_others,
        of_rows=True,
    ),
)
