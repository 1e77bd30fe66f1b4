"""Attention of channel-first sequences in one or two dimensions, with masks given by rules.

    from workbench import flash_attention

    O = flash_attention.local_1d(Q, K, V, 32, 0, False, "scale_front")
    O, l, m = flash_attention.causal_2d(Q, K, V, "none_front", returning_l_m=True)

Names, arguments and errors are those of github.com/nothingstopsme/tf_flash_attention; the kernels
are ``workbench.attention``'s, on the simulator for CPU tensors and on the GPU for CUDA tensors.

Shapes, where seq is (n,) for the functions in _1d, and (rows, columns) for those in _2d:

    Q  batch + (d,)  + seq of the queries     O     batch + (dv,) + seq of the queries
    K  batch + (d,)  + seq of the keys        l, m  batch + seq of the queries
    V  batch + (dv,) + seq of the keys

batch has one dimension or more, the same for all three: each index is a head of its own. float16,
float32 or float64. O = softmax(Q^T K / sqrt(d)) V^T per head, over the keys that a query sees:

    full     all keys
    causal   those whose place is not after the query's; in two dimensions, places are compared by
             row, and within a row by column
    local    those for which, in every dimension, the distance of the places is a multiple of
             2**log2_stride_size, and less than window_size such steps; with is_causal, not after
             the query's either

Places are those of ``workbench.masks.place``; sync_mode is none_front, scale_front or scale_end.

With returning_l_m the result is (O, l, m): m is the largest scaled score of a query, and l the sum
of exp(score - m), both float32, for float64 float64. A query that sees no key has O = 0, l = 0 and
m = -inf. (There, m has Q's dtype, also for float16, and such a query has a finite number that
stands for -inf.)

What it costs: kernels read rows of d elements, which are not adjacent in a channel-first tensor.
So Q, K and V are transposed into copies, and so is O. m is a second pass over the scores, in
float64, a part at a time; l = exp(LSE - m) then has the error of LSE. There is no gradient: inputs
that require grad are refused.

Raises, from any of the functions: TypeError for an argument of the wrong type, ValueError for a
wrong value, dtype or shape; the text names the argument, what was expected and what was given.
``kernel`` is a rung of ``rungs("attention")``; None takes the last one that accepts the input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from workbench.masks import MOST_REACH, MOST_STRIDE, Mask, tiles_visited
from workbench.operators.attention import attention
from workbench.operators.attention_errors import default_scale
from workbench.operators.definitions import calling, text

__all__ = ["causal_1d", "causal_2d", "flops", "full_1d", "full_2d", "local_1d", "local_2d"]

SYNC_MODES = ("none_front", "scale_front", "scale_end")
DTYPES = (torch.float16, torch.float32, torch.float64)
CHUNK = 2**22  # pairs of a query and a key looked at together; bounds the memory for m and flops

Result = torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def full_1d(
    Q: torch.Tensor,
    K: torch.Tensor,
    V: torch.Tensor,
    sync_mode: str = "none_front",
    returning_l_m: bool = False,
    *,
    kernel: str | None = None,
) -> Result:
    """Attention over all keys; sync_mode has no effect. O, or (O, l, m); see the module."""
    return _attend("full_1d", Q, K, V, _rule("full_1d", sync_mode), returning_l_m, kernel)


def full_2d(
    Q: torch.Tensor,
    K: torch.Tensor,
    V: torch.Tensor,
    sync_mode: str = "none_front",
    returning_l_m: bool = False,
    *,
    kernel: str | None = None,
) -> Result:
    """As full_1d, for sequences of two dimensions."""
    return _attend("full_2d", Q, K, V, _rule("full_2d", sync_mode), returning_l_m, kernel)


def causal_1d(
    Q: torch.Tensor,
    K: torch.Tensor,
    V: torch.Tensor,
    sync_mode: str,
    returning_l_m: bool = False,
    *,
    kernel: str | None = None,
) -> Result:
    """Attention over the keys that are not after the query. O, or (O, l, m); see the module."""
    rule = _rule("causal_1d", sync_mode, causal=True)
    return _attend("causal_1d", Q, K, V, rule, returning_l_m, kernel)


def causal_2d(
    Q: torch.Tensor,
    K: torch.Tensor,
    V: torch.Tensor,
    sync_mode: str,
    returning_l_m: bool = False,
    *,
    kernel: str | None = None,
) -> Result:
    """As causal_1d, for sequences of two dimensions, in the order of their rows."""
    rule = _rule("causal_2d", sync_mode, causal=True)
    return _attend("causal_2d", Q, K, V, rule, returning_l_m, kernel)


def local_1d(
    Q: torch.Tensor,
    K: torch.Tensor,
    V: torch.Tensor,
    window_size: int,
    log2_stride_size: int,
    is_causal: bool,
    sync_mode: str,
    returning_l_m: bool = False,
    *,
    kernel: str | None = None,
) -> Result:
    """Attention over a window of 2 * window_size - 1 places, with the query's in the middle.

    log2_stride_size: the places of the window are 2**log2_stride_size apart.
    is_causal: whether the window ends at the query.
    The rest is described in the module.
    """
    rule = _local("local_1d", window_size, log2_stride_size, is_causal, sync_mode)
    return _attend("local_1d", Q, K, V, rule, returning_l_m, kernel)


def local_2d(
    Q: torch.Tensor,
    K: torch.Tensor,
    V: torch.Tensor,
    window_size: int,
    log2_stride_size: int,
    is_causal: bool,
    sync_mode: str,
    returning_l_m: bool = False,
    *,
    kernel: str | None = None,
) -> Result:
    """As local_1d, for sequences of two dimensions: the window has 2 * window_size - 1 in each."""
    rule = _local("local_2d", window_size, log2_stride_size, is_causal, sync_mode)
    return _attend("local_2d", Q, K, V, rule, returning_l_m, kernel)


def flops(mask: Mask, nq: int, nk: int, d: int, dv: int, br: int, bc: int, heads: int = 1) -> int:
    """The FLOPs of a kernel that walks over tiles and skips those without a visible pair.

    As github.com/nothingstopsme/tf_flash_attention estimates them; exp counts 1. A tile of r
    queries and c keys has

        r c (2d - 1)     scores
        2 r (c - 1)      their maximum and their sum, per query
        2 r c            differences from the maximum, exp
        7 r              the running maximum and sum
        r (c + dv)       P and O are scaled
        r dv (2c - 1)    P V

    Tiles at the end, with fewer queries or keys, count for what they have.

    Args:
        mask: a rule of ``workbench.masks``.
        nq: queries.
        nk: keys.
        d: channels of Q and K.
        dv: channels of V.
        br: queries of a tile.
        bc: keys of a tile.
        heads: what the number for one head is multiplied by.

    Raises:
        ValueError: a size is negative, or a tile without a query or a key; or as ``Mask.visible``.
    """
    sizes = {"d": d, "dv": dv, "heads": heads, "br": br, "bc": bc}
    for name, size in sizes.items():
        least = 1 if name in ("br", "bc") else 0
        if size < least:
            raise ValueError(f"flops: {name}: expected at least {least}, got {size}")
    total = 0
    step = br * max(1, CHUNK // (br * max(1, nk)))
    for start in range(0, nq if nk else 0, step):
        queries = slice(start, min(start + step, nq))
        visited = tiles_visited(mask.visible(nq, nk, "cpu", queries), br, bc)
        r = _sizes_of_tiles(queries.stop - start, br)[:, None]
        c = _sizes_of_tiles(nk, bc)[None, :]
        in_tile = r * c * (2 * d - 1) + 2 * r * (c - 1) + 2 * r * c
        in_tile += 7 * r + r * (c + dv) + r * dv * (2 * c - 1)
        total += int(in_tile[visited].sum())
    return total * heads


def _sizes_of_tiles(length: int, size: int) -> torch.Tensor:
    """The sizes of the tiles that cover a length; the last may be smaller."""
    return (length - torch.arange(0, length, size)).clamp(max=size)


# ------------------------------------------------------------------------------------------------
# Arguments


def _rule(
    name: str, sync_mode: Any, causal: bool = False, window: int = 0, log2_stride: int = 0
) -> Mask:
    if sync_mode not in SYNC_MODES:
        _refuse(name, "sync_mode", f"one of {', '.join(SYNC_MODES)}", repr(sync_mode))
    return Mask(causal, window, log2_stride, sync_mode)


def _local(name: str, window_size: Any, log2_stride_size: Any, causal: Any, sync_mode: Any) -> Mask:
    numbers = {"window_size": (window_size, 1), "log2_stride_size": (log2_stride_size, 0)}
    for arg, (number, least) in numbers.items():
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or number < least:
            _refuse(name, arg, f"a whole number from {least} up", repr(number))
    if log2_stride_size > MOST_STRIDE:
        _refuse(name, "log2_stride_size", f"at most {MOST_STRIDE}", repr(log2_stride_size))
    if window_size << log2_stride_size > MOST_REACH:
        what = f"window_size * 2**log2_stride_size to be at most {MOST_REACH}"
        _refuse(name, "window_size", what, f"{window_size} * 2**{log2_stride_size}")
    if not isinstance(causal, bool):
        _refuse(name, "is_causal", "True or False", repr(causal))
    return _rule(name, sync_mode, causal, window_size, log2_stride_size)


def _check_tensors(name: str, seq_dims: int, Q: Any, K: Any, V: Any) -> None:
    """Raise ValueError unless dtypes, devices and shapes go together."""
    for arg, x in (("Q", Q), ("K", K), ("V", V)):
        if x.layout != torch.strided:
            _refuse(name, arg, "a dense tensor (torch.strided)", f"{text(x)}, {x.layout}")
        if x.dtype not in DTYPES:
            _refuse(name, arg, "float16, float32 or float64", text(x))
        if x.dtype != Q.dtype:
            _refuse(name, arg, f"the dtype of Q, {text(Q)}", text(x))
        if x.device != Q.device:
            _refuse(name, arg, f"the device of Q, {Q.device}", str(x.device))
        if x.dim() < seq_dims + 2:
            seq = "a sequence" if seq_dims == 1 else "rows and columns"
            wanted = f"rank {seq_dims + 2} or more (batch, channels, {seq})"
            _refuse(name, arg, wanted, f"rank {x.dim()}: {text(x)}")
        if x.dim() != Q.dim():
            _refuse(name, arg, f"the rank of Q, {text(Q)}", text(x))
        if _batch(x, seq_dims) != _batch(Q, seq_dims):
            _refuse(name, arg, f"the batch dimensions of Q, {text(Q)}", text(x))
    if _channels(K, seq_dims) != _channels(Q, seq_dims):
        _refuse(name, "K", f"{_channels(Q, seq_dims)} channels, as Q has, {text(Q)}", text(K))
    if K.shape[-seq_dims:] != V.shape[-seq_dims:]:
        _refuse(name, "V", f"as long a sequence as K, {text(K)}", text(V))


def _refuse(name: str, arg: str, expected: str, got: str) -> None:
    raise ValueError(f"{name}: {arg}: expected {expected}, got {got}")


def _batch(x: torch.Tensor, seq_dims: int) -> torch.Size:
    return x.shape[: -seq_dims - 1]


def _channels(x: torch.Tensor, seq_dims: int) -> int:
    return x.shape[-seq_dims - 1]


# ------------------------------------------------------------------------------------------------
# Attention


def _attend(
    name: str,
    Q: torch.Tensor,
    K: torch.Tensor,
    V: torch.Tensor,
    rule: Mask,
    returning_l_m: bool,
    kernel: str | None,
) -> Result:
    calling(name, kernel, None, {"Q": Q, "K": K, "V": V})
    seq_dims = 2 if name.endswith("_2d") else 1
    _check_tensors(name, seq_dims, Q, K, V)
    batch, seq = _batch(Q, seq_dims), Q.shape[-seq_dims:]
    rule = _lowered(rule, seq, K.shape[-seq_dims:])
    q, k, v = (_channels_last(x, seq_dims) for x in (Q, K, V))
    out, lse = attention(q, k, v, mask=rule, kernel=kernel, return_lse=True)
    out = out.mT.contiguous().view(*batch, out.shape[-1], *seq)
    if not returning_l_m:
        return out
    largest = _largest_scores(q, k, rule).to(lse.dtype)
    sums = torch.exp(lse - largest).clamp(min=1)  # exp(0) of the largest score is one of the terms
    sums = sums.masked_fill(largest == -math.inf, 0)
    return out, sums.view(*batch, *seq), largest.view(*batch, *seq)


def _lowered(rule: Mask, q_seq: Sequence[int], k_seq: Sequence[int]) -> Mask:
    """The rule for these sequences, in the simplest form."""
    if not rule.causal and not rule.window:
        return Mask()  # of a full mask the kernels need not know the places
    if rule.window:  # a larger window than the sequences shows no more
        rule = dataclasses.replace(rule, window=max(1, min(rule.window, max(*q_seq, *k_seq))))
    if len(q_seq) == 1:
        return rule
    q_width, k_width = max(1, q_seq[-1]), max(1, k_seq[-1])  # 0 would mean one dimension
    return dataclasses.replace(rule, q_width=q_width, k_width=k_width)


def _channels_last(x: torch.Tensor, seq_dims: int) -> torch.Tensor:
    """A contiguous copy [heads, n, channels]: kernels read a position's channels together."""
    sizes = math.prod(_batch(x, seq_dims)), _channels(x, seq_dims), math.prod(x.shape[-seq_dims:])
    return x.reshape(sizes).mT.contiguous()


def _largest_scores(q: torch.Tensor, k: torch.Tensor, rule: Mask) -> torch.Tensor:
    """The largest scaled score that each query sees, or -inf: float64 [heads, nq].

    Args:
        q: [heads, nq, d].
        k: [heads, nk, d].
        rule: which keys a query sees.
    """
    (heads, nq, d), nk = q.shape, k.shape[1]
    m = q.new_full((heads, nq), -math.inf, dtype=torch.float64)
    if not nq or not nk:
        return m
    rows = max(1, min(nq, CHUNK // nk))
    group = max(1, CHUNK // (rows * nk))
    for first in range(0, heads, group):
        some = slice(first, first + group)
        k_wide = k[some].double()
        for start in range(0, nq, rows):
            part = slice(start, start + rows)
            scores = default_scale(d) * (q[some, part].double() @ k_wide.mT)
            hidden = ~rule.visible(nq, nk, q.device, part)
            m[some, part] = scores.masked_fill(hidden, -math.inf).amax(dim=-1)
    return m
