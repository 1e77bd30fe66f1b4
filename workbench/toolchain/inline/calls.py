"""Calls a compiled launcher with tensors and numbers: arguments are checked, never converted."""

from __future__ import annotations

import ctypes
import inspect
import keyword
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .signatures import ELEMENTS, SCALARS, Launcher, Parameter

if TYPE_CHECKING:
    import torch

_IN, _INOUT = 0, 2
_FLOAT_MAX = 3.4028234663852886e38


def make_callable(
    path: Path, launcher: Launcher, target: str, checks: tuple[str, ...] = ()
) -> Callable[..., None]:
    """The Python function for one launcher of the library at `path`.

    checks: the simulator's checks for every call; empty for its current settings.
    """
    if target == "simulator":
        import simulator

        simulator.library()  # the process's one simulator must be loaded before its users
    function = getattr(ctypes.CDLL(str(path)), launcher.symbol)
    function.restype = ctypes.c_int
    signature = _signature(launcher)
    name = launcher.name

    def call(*arguments: Any, **named: Any) -> None:
        try:
            bound = signature.bind(*arguments, **named)
        except TypeError as error:
            raise TypeError(f"{name}{signature}: {error}") from None
        bound.apply_defaults()
        with checking(checks):
            _call(function, launcher, target, bound.arguments)

    call.__name__ = call.__qualname__ = name
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__doc__ = f"{name}{signature}, on the {target}."
    return call


def checking(checks: tuple[str, ...]) -> AbstractContextManager:
    """The simulator's checks during a call; its current settings if there are none."""
    if not checks:
        return nullcontext()
    import simulator

    return simulator.checking(checks)


def _signature(launcher: Launcher) -> inspect.Signature:
    parameters = []
    for p in launcher.parameters:
        if p.kind == "stream":
            continue
        default = _default(launcher, p) if p.default else inspect.Parameter.empty
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(_python_name(p), kind, default=default))
    return inspect.Signature(parameters)


def _python_name(parameter: Parameter) -> str:
    """The parameter's name in Python: `in_` for `in`, which is a keyword there."""
    return parameter.name + "_" if keyword.iskeyword(parameter.name) else parameter.name


def _default(launcher: Launcher, parameter: Parameter) -> object:
    text = parameter.default
    known = {"nullptr": None, "NULL": None, "true": True, "false": False}
    if text in known:
        return known[text]
    for read in (lambda: int(text.rstrip("uUlL"), 0), lambda: float(text.rstrip("fF"))):
        try:
            return read()
        except ValueError:
            continue
    raise ValueError(
        f"{launcher.name}: the default {parameter.name} = {text} is not a plain number"
    )


def _call(function: Any, launcher: Launcher, target: str, values: dict[str, Any]) -> None:
    import torch

    tensors: list[tuple[Parameter, torch.Tensor]] = []
    passed: list[Any] = []
    for p in launcher.parameters:
        where = f"{launcher.name}: {p.name}"
        if p.kind == "stream":
            passed.append(None)
            continue
        value = values[_python_name(p)]
        if p.kind == "scalar":
            passed.append(_scalar(where, p, value))
        elif value is None:
            passed.append(ctypes.c_void_p(None))
        else:
            _check_tensor(where, p, value, target)
            tensors.append((p, value))
            passed.append(ctypes.c_void_p(value.data_ptr()))
    device = _common_device(launcher, tensors)
    stream = _stream(launcher, target, device)
    passed = [ctypes.c_void_p(stream) if a is None else a for a in passed]
    message = ctypes.create_string_buffer(4096)
    around = torch.cuda.device(device) if target == "gpu" and device else nullcontext()
    with registered(tensors) if target == "simulator" else nullcontext(), around:
        status = function(*passed, message, ctypes.c_size_t(len(message)))
        if target == "simulator":
            raise_finding()
    if status:
        raise RuntimeError(f"{launcher.name}: {message.value.decode(errors='replace')}")


def _check_tensor(where: str, p: Parameter, value: Any, target: str) -> None:
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{where} is {type(value).__name__}; expected a tensor for {_spelt(p)}")
    dtype = ELEMENTS[p.ctype]
    if dtype and value.dtype != getattr(torch, dtype, None):
        raise TypeError(f"{where} is {value.dtype}; expected torch.{dtype} for {_spelt(p)}")
    if value.is_quantized or value.is_nested:
        kind = "quantized" if value.is_quantized else "nested"
        raise TypeError(f"{where} is a {kind} tensor; expected a dense one for {_spelt(p)}")
    device = "cuda" if target == "gpu" else "cpu"
    if value.layout != torch.strided or value.device.type != device:
        raise ValueError(
            f"{where} is a {value.layout} tensor on {value.device}; expected a strided "
            f"one on {device}, because the source was compiled for the {target}"
        )
    if not value.is_contiguous() or value.is_conj() or value.is_neg():
        raise ValueError(
            f"{where} is not contiguous: shape {list(value.shape)}, strides "
            f"{list(value.stride())}; pass {p.name}.contiguous()"
        )
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{where} requires grad, but inline kernels have no backward; pass "
            f"{p.name}.detach() or call under torch.no_grad()"
        )


def _spelt(p: Parameter) -> str:
    return f"{'const ' if p.const else ''}{p.ctype}* {p.name}"


def _common_device(launcher: Launcher, tensors: list) -> torch.device | None:
    devices = {t.device: p.name for p, t in tensors}
    if len(devices) > 1:
        listed = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise ValueError(f"{launcher.name}: tensors on different devices ({listed})")
    return next(iter(devices), None)


def _stream(launcher: Launcher, target: str, device: torch.device | None) -> int:
    """PyTorch's current stream; the simulator has only the null stream."""
    import torch

    if target == "simulator":
        return 0
    stream = torch.cuda.current_stream(device).cuda_stream
    if stream and all(p.kind != "stream" for p in launcher.parameters):
        raise ValueError(
            f"{launcher.name} takes no cudaStream_t and would run on the default "
            "stream, not on PyTorch's current one; add the parameter"
        )
    return stream


def _scalar(where: str, p: Parameter, value: Any) -> Any:
    """A number as its ctypes type; never rounded to an integer or wrapped."""
    ctype = getattr(ctypes, SCALARS[p.ctype])
    if p.ctype == "bool":
        if not isinstance(value, bool):
            raise TypeError(f"{where} is {value!r}; expected True or False")
        return ctype(value)
    if p.ctype in ("float", "double"):
        try:
            number = float(value) if not isinstance(value, (str, bytes)) else None
        except (TypeError, ValueError):
            number = None
        if number is None or getattr(value, "ndim", None):
            raise TypeError(f"{where} is {type(value).__name__}; expected a number")
        if p.ctype == "float" and math.isfinite(number) and abs(number) > _FLOAT_MAX:
            raise OverflowError(f"{where} is {number}; float is limited to 3.4e38")
        return ctype(number)
    try:
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{where} is {value!r}; expected an integer for {p.ctype}") from None
    bits = 8 * ctypes.sizeof(ctype)
    low, high = (
        (0, 2**bits - 1)
        if "uint" in SCALARS[p.ctype]
        else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )
    if not low <= integer <= high:
        raise OverflowError(f"{where} is {integer}; {p.ctype} holds {low} to {high}")
    return ctype(integer)


@contextmanager
def registered(tensors: list[tuple[Parameter, torch.Tensor]]) -> Iterator[None]:
    """Tell the simulator which memory the kernels may access during a call."""
    import simulator

    library = simulator.library()
    done: list[tuple[Parameter, torch.Tensor]] = []
    try:
        for p, tensor in tensors:
            if tensor.numel():
                register(library, tensor, p.name, _IN if p.const else _INOUT)
                done.append((p, tensor))
        yield
    finally:
        for p, tensor in done:
            unregister(library, tensor.data_ptr(), p.name)


def register(
    library: ctypes.CDLL, tensor: torch.Tensor, name: str, role: int, whole_storage: bool = False
) -> int:
    """Register a tensor's memory with the simulator's memory check; return its address."""
    storage = tensor.untyped_storage()
    first, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    if whole_storage:
        first, size = storage.data_ptr(), storage.nbytes()
    text = (
        f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}, "
        f"strides {list(tensor.stride())}"
    )
    library.wbsim_register_tensor(first, size, name.encode(), text.encode(), role)
    return first


def unregister(library: ctypes.CDLL, pointer: int, name: str) -> None:
    """The opposite of `register`."""
    library.wbsim_unregister_tensor(pointer, name.encode())


def raise_finding() -> None:
    """Raise the simulator's finding in the launches since the last call, if any."""
    import simulator

    report = simulator.library().wbsim_take_report()
    if report:
        text = report.decode(errors="replace")
        raise simulator.exception_for(RuntimeError(text)) or simulator.SimulatorError(text)
