"""Registers tensors with the simulator while functions with PyTorch's types run."""

from __future__ import annotations

from typing import Any


class Tensors:
    """Registers tensors with the simulator while active, including newly created ones."""

    def __init__(self) -> None:
        from torch.utils._python_dispatch import TorchDispatchMode

        owner = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN202
                from torch.utils._pytree import tree_leaves

                made = func(*args, **(kwargs or {}))
                operator = func._schema.name.removeprefix("aten::")
                for leaf in tree_leaves(made):
                    owner.add(leaf, operator, fresh=operator.startswith("empty"))
                return made

        self._mode = Mode()
        self._known: dict[
            int, tuple[Any, str]
        ] = {}  # keeps the tensors, and so their memory, alive

    def add(self, value: Any, name: str, fresh: bool) -> None:
        """Register the whole storage of `value`, once, if it is a tensor on the CPU."""
        import torch

        from .calls import register

        if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
            return
        storage = value.untyped_storage()
        pointer = storage.data_ptr()
        if not pointer or not storage.nbytes() or pointer in self._known:
            return
        import simulator

        register(simulator.library(), value, name, 1 if fresh else 2, whole_storage=True)
        self._known[pointer] = (storage, name)

    def __enter__(self) -> Tensors:
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        import simulator

        from .calls import unregister

        self._mode.__exit__(*error)
        for pointer, (_, name) in self._known.items():
            unregister(simulator.library(), pointer, name)
