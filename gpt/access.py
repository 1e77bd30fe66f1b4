"""Elements of a tensor by their address: what an index means in memory.

The rungs see a tensor as a pointer, sizes and strides. ``offset`` is all there is to that, for two
dimensions, four, or any number; ``check`` compares it with PyTorch's own indexing.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence

import torch

TOLERANCE = 1e-5


def offset(index: Sequence[int], strides: Sequence[int]) -> int:
    """Elements between a tensor's first and the one at ``index``: sum of index[i] * strides[i]."""
    return sum(i * stride for i, stride in zip(index, strides, strict=True))


def row_major(sizes: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor: the last dimension's neighbours are adjacent."""
    strides = [1]
    for size in reversed(sizes[1:]):
        strides.append(strides[-1] * size)
    return strides[::-1]


def read(tensor: torch.Tensor, elements: int) -> float:
    """The float32 number that many elements after the tensor's first."""
    address = tensor.data_ptr() + elements * tensor.element_size()
    return ctypes.c_float.from_address(address).value


def check(seed: int | None = None) -> tuple[str, bool]:
    """Read random elements of [4, 4] and [1, 2, 4, 4] tensors, and of views of them, by address.

    Returns what was read, and whether all are PyTorch's.
    """
    chosen = random.Random(seed)
    lines, right = [], True
    for sizes in ((4, 4), (1, 2, 4, 4)):
        whole = torch.rand(sizes, generator=torch.Generator().manual_seed(chosen.randrange(2**31)))
        views = {
            "contiguous": (whole, row_major(sizes)),
            "transposed": (whole.mT, [*row_major(sizes)[:-2], 1, sizes[-1]]),
        }
        for name, (tensor, strides) in views.items():
            index = [chosen.randrange(size) for size in tensor.shape]
            place = offset(index, strides)
            got, expected = read(tensor, place), float(tensor[tuple(index)])
            same = abs(got - expected) < TOLERANCE
            right &= same
            lines.append(
                f"{name} {list(tensor.shape)}, strides {strides}: element {index} is number "
                f"{place} in memory, {got:.6f}; PyTorch has {expected:.6f}"
                f"{'' if same else '  WRONG'}"
            )
    return "\n".join(lines), right
