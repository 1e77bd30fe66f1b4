"""Defines the operators of ``torch.ops.workbench``, with the checks common to all.

CPU tensors go to the simulator, CUDA tensors to the GPU. The public argument ``kernel`` is named
``rung`` here: torch.compile's default backend fails on operators with an argument named "kernel"
(its FallbackKernel.create has its own).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd import forward_ad

from . import builds

Checks = str | Sequence[str] | None

_TARGETS = {"CPU": "simulator", "CUDA": "gpu"}
_library = torch.library.Library("workbench", "DEF")  # must outlive its operators


def define(
    schema: str,
    implementation: Callable,
    fake: Callable,
    differentiable: Callable | None = None,
) -> None:
    """Define one operator.

    Args:
        schema: in torch.library's syntax.
        implementation: performs a call; gets the target before the operator's arguments.
        fake: tells torch.compile the result's shape, for inputs of valid shapes.
        differentiable: called instead of the operator if a tensor requires grad; None if it has no
            backward, in which case that raises.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

    def on_target(target: str) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            check_tensors(name, args, kwargs)  # with autograd off nothing else has checked
            return implementation(target, *args, **kwargs)

        return run

    for key, target in _TARGETS.items():
        _library.impl(name, on_target(target), key)
    _library.impl(name, _autograd(name, differentiable), "Autograd")
    torch.library.register_fake(f"workbench::{name}", fake, lib=_library)


def _autograd(name: str, differentiable: Callable | None) -> Callable:
    """Checks that run before the implementation."""

    def autograd(*args: Any, **kwargs: Any) -> Any:
        tensors = check_tensors(name, args, kwargs).values()
        if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
            raise RuntimeError(
                f"{name}: an input is a dual number (forward-mode differentiation, "
                "torch.func.jvp), for which this operator has no derivative"
            )
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            if differentiable is not None:
                _check_no_transform(name)
                return differentiable(*args, **kwargs)
            raise RuntimeError(
                f"{name}: an input requires grad, but this operator has no backward; call it "
                "under torch.no_grad() or on .detach()ed tensors"
            )
        return below_autograd(name, *args, **kwargs)

    return autograd


def check_tensors(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The tensors of a call by name; RuntimeError unless all are dense and on one device.

    Shapes are checked only in bindings/<op>.cpp.
    """
    schema = getattr(torch.ops.workbench, name).default._schema
    names = (argument.name for argument in schema.arguments)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    tensors = {arg: t for arg, t in given.items() if isinstance(t, torch.Tensor)}
    (first, tensor), *others = tensors.items()
    for arg, its in tensors.items():
        if its.layout != torch.strided:
            raise RuntimeError(
                f"{name}: tensors must be dense (torch.strided); {arg} is {text(its)}, {its.layout}"
            )
    for other, its in others:
        if its.device != tensor.device:
            raise RuntimeError(
                f"{name}: all tensors must be on one device; {first} is on {tensor.device} and "
                f"{other} on {its.device}"
            )
    return tensors


def _check_no_transform(name: str) -> None:
    """Raise under torch.func.grad and the like, which record a graph of the gradient itself."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{name}: its gradient is not differentiable, which torch.func.grad, vjp and jacrev "
            "require; call torch.autograd.grad"
        )


def below_autograd(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call an operator without recording for autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(torch.ops.workbench, name)(*args, **kwargs)


def text(tensor: torch.Tensor) -> str:
    """``float32 [4, 3]``, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def calling(
    name: str,
    kernel: str | None,
    check: Checks,
    tensors: Mapping[str, torch.Tensor | None],
    numbers: Mapping[str, float | None] | None = None,
    optional: Sequence[str] = (),
) -> AbstractContextManager:
    """Refuse arguments of the wrong type; return the simulator's checks during the call.

    PyTorch would refuse them too, but in terms of its schemas and backends.

    Args:
        name: the public function's.
        kernel: its argument, as are the others.
        check: None leaves the simulator's checks as they are.
        tensors: by name.
        numbers: by name.
        optional: the tensors and numbers that may be None.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a check does not exist, a tensor is not on the CPU, or the kernel is no CUDA
            kernel.
        RuntimeError: torch.compile traces a call with checks, which it would not repeat.
    """
    if not (kernel is None or isinstance(kernel, str)):
        raise TypeError(f"{name}: kernel is {kernel!r}; expected the name of a rung, or None")
    for arg, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            kind = "quantized" if tensor.is_quantized else "nested" if tensor.is_nested else ""
            if kind:
                raise TypeError(f"{name}: {arg} is a {kind} tensor; expected a dense one")
        elif tensor is not None or arg not in optional:
            raise TypeError(f"{name}: {arg} is {_kind(tensor)}; expected a tensor")
    for arg, number in (numbers or {}).items():
        text = isinstance(number, (str, bytes, list, tuple, dict))
        if text or (number is None and arg not in optional):
            raise TypeError(f"{name}: {arg} is {number!r}; expected a number")
    if check is None:
        return nullcontext()
    if kernel is not None and kernel.startswith(builds.CPU_PREFIX):
        raise ValueError(
            f"{name}: check is {check!r}, but kernel '{kernel}' is no CUDA kernel: the simulator, "
            "which has the checks, does not run it"
        )
    return _checking(name, check, tensors)


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _checking(
    name: str, check: str | Sequence[str], tensors: Mapping[str, torch.Tensor | None]
) -> AbstractContextManager:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"{name}: check is {check!r}, which torch.compile cannot take along; call the compiled "
            f"function in a block `with simulator.settings(checks={check!r}):` instead"
        )
    import simulator

    names = simulator.check_names(check, f"{name}: check")
    for arg, tensor in tensors.items():
        if tensor is not None and tensor.device.type != "cpu":
            raise ValueError(
                f"{name}: check is {check!r}, but {arg} is on {tensor.device}; the checks run on "
                f"the simulator, which takes CPU tensors: pass {arg}.cpu()"
            )
    return simulator.checking(names)
