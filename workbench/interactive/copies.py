"""Copies of a call's arguments, so that looking at a kernel does not change what it works on."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

ALIGNMENT = (
    512  # bytes, of tensors on a GPU; those on the CPU are aligned less, which costs sectors
)


def copied(arguments: Any, device: torch.device | None = None) -> Any:
    """The arguments with copies of their tensors; what shared memory still shares it.

    Args:
        arguments: nested tuples, lists and dicts.
        device: where the copies are; None for where the tensors are.
    """
    storages: dict[tuple[torch.device, int], tuple[torch.UntypedStorage, int]] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not _plain(value):
            return value  # a number; or a tensor that the call refuses, and says why
        storage = value.untyped_storage()
        place = value.device, storage.data_ptr()
        if place not in storages:
            storages[place] = _aligned(storage, device or value.device)
        bytes_, start = storages[place]
        made = torch.empty(0, dtype=value.dtype, device=bytes_.device)
        first = start // value.element_size() + value.storage_offset()
        made.set_(bytes_, first, value.shape, value.stride())  # type: ignore[call-overload]
        return made.requires_grad_(value.requires_grad)

    with torch.no_grad():
        return tree_map(copy, arguments)


def _aligned(
    storage: torch.UntypedStorage, device: torch.device
) -> tuple[torch.UntypedStorage, int]:
    """A copy of memory inside a new storage, and where it starts there, in bytes."""
    whole = torch.empty(storage.nbytes() + ALIGNMENT, dtype=torch.uint8, device=device)
    start = -whole.data_ptr() % ALIGNMENT
    source = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)  # type: ignore[call-overload]
    whole[start : start + storage.nbytes()].copy_(source)
    return whole.untyped_storage(), start


def device_of(arguments: Any) -> torch.device | None:
    """The device of the first tensor; None if there is none."""
    tensors = (leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor))
    return next((tensor.device for tensor in tensors), None)


def described(name: str, named: dict[str, Any]) -> str:
    """The call in a line: ``scale(y float32 [4, 8], a=2.0)``."""
    return f"{name}({', '.join(_described(*item) for item in named.items())})"


def _described(name: str, value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{name} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"{name}={value!r}"


def _plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a view of memory, and nothing else."""
    if tensor.layout != torch.strided or tensor.device.type not in ("cpu", "cuda"):
        return False
    more = tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg()
    return not more and type(tensor) in (torch.Tensor, torch.nn.Parameter)
