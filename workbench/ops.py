"""The operators: ``torch.ops.workbench.*``, defined once, and the builds they call.

CPU tensors go to the simulator, CUDA tensors to the GPU, each through an extension of its own
(bindings.cpp and the ladders), built and loaded on first use. An edited kernel becomes another
extension in another namespace; the public operators stay and call the current one (``reset``).

There is no backward yet: an operator raises where autograd would need one.
"""

from __future__ import annotations

import ctypes
import math
import re
import threading
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .toolchain import BuildError, default_target, kernels_dir, load_extension
from .toolchain.paths import shown

LADDERS = ("matmul", "softmax", "attention")
# The rows of a benchmark that are no rungs, so that no rung may be called so.
BASELINE_NAMES = ("cublas", "torch", "compile", "flash2", "cudnn", "efficient", "copy")


@dataclass(frozen=True)
class Rung:
    """A line of a ladder's table: a kernel and the inputs it takes (kernels/ladder.h)."""

    op: str
    name: str
    dtypes: tuple[str, ...]
    alignment: int  # bytes: data pointers and strides are multiples of it
    head_dims: tuple[int, ...]  # attention: the D it takes; empty: any
    compute_capability: int  # the smallest, as 10 * major + minor; 0: any


@dataclass(frozen=True)
class Extension:
    """One loaded build: its operators are ``ops``, which is ``torch.ops.<namespace>``."""

    target: str  # "gpu" or "simulator"
    namespace: str
    path: Path
    ops: Any
    ladders: dict[str, tuple[Rung, ...]]


_lock = threading.RLock()
_current: dict[str, Extension] = {}
_loaded: dict[Path, Extension] = {}  # for ever: a namespace can be registered once in a process


def extension(target: str) -> Extension:
    """The current build of a target, "gpu" or "simulator"; built and loaded on first use.

    Raises workbench.toolchain.BuildError, whose text is all the user needs to see.
    """
    with _lock:
        return _current[target] if target in _current else refresh(target)


def refresh(target: str) -> Extension:
    """The build of a target from the kernels as they are now, which becomes the current one.

    Takes some milliseconds if nothing was edited. Raises workbench.toolchain.BuildError.
    """
    with _lock:
        path = load_extension(target)
        if path not in _loaded:
            _loaded[path] = _load(target, path)
        if _current.get(target) is not _loaded[path]:
            _current.clear()  # the other target's build may be of the old kernels
        _current[target] = _loaded[path]
        return _current[target]


def reset() -> None:
    """Forget the current builds: the next use builds again what was edited."""
    with _lock:
        _current.clear()


def rungs(op: str) -> tuple[Rung, ...]:
    """The ladder of "matmul", "softmax" or "attention", slowest idea first."""
    if op not in LADDERS:
        raise ValueError(f"op is {op!r}; expected one of {', '.join(LADDERS)}")
    with _lock:
        loaded = next(iter(_current.values()), None)
    return (loaded or extension(default_target())).ladders[op]


def call(target: str, name: str, *args: Any) -> None:
    """Run ``<name>`` of a target's current build, such as ``matmul_out`` (see bindings.cpp).

    What the simulator finds in a kernel is raised as simulator.SimulatorError, an interrupted
    kernel as KeyboardInterrupt, all other errors as RuntimeError.
    """
    operator = getattr(extension(target).ops, name)
    try:
        operator(*args)
    except RuntimeError as error:
        if target == "simulator":
            import simulator

            finding = simulator.exception_for(error)
            if finding is not None:
                raise finding from None
        raise


def _load(target: str, path: Path) -> Extension:
    if target == "simulator":
        import simulator

        simulator.library()  # attaches it: reports become exceptions, and no error is sticky
    library = ctypes.CDLL(str(path))
    namespace = path.stem
    library.workbench_rungs.restype = ctypes.c_char_p
    ladders = {op: _parse(op, library.workbench_rungs(op.encode()).decode()) for op in LADDERS}
    if library.workbench_register(namespace.encode()) != 0:
        raise RuntimeError(f"{path} could not register its operators as torch.ops.{namespace}")
    return Extension(target, namespace, path, getattr(torch.ops, namespace), ladders)


def _parse(op: str, table: str) -> tuple[Rung, ...]:
    """The rungs of a ladder's table. Raises BuildError for a name that cannot be one."""
    found: dict[str, Rung] = {}
    for line in table.split("\n")[:-1]:
        name, *fields = line.rsplit("\t", 4)
        problem = _problem(name, found) if len(fields) == 4 else "a name with a line break"
        if problem:
            raise BuildError(f"{shown(kernels_dir() / f'{op}.cu')}: the table has {problem}")
        dtypes, alignment, head_dims, capability = fields
        dims = tuple(int(d) for d in head_dims.split())
        found[name] = Rung(op, name, tuple(dtypes.split()), int(alignment), dims, int(capability))
    return tuple(found.values())


def _problem(name: str, taken: Container[str]) -> str | None:
    """What is wrong with a rung's name, or None."""
    if name in taken:
        return f"two rungs named {name!r}; every rung needs a name of its own"
    if not re.fullmatch("[A-Za-z0-9_]+", name):
        return f"a rung named {name!r}; names are letters, digits and _"
    if name in BASELINE_NAMES:
        return f"a rung named {name!r}, which is the name of a library it is compared with"
    return None


# The operators. Schema first, then what a call does on a target, then what torch.compile is told.
# The argument called ``kernel`` in public is ``rung`` here: torch.compile's default backend fails
# on operators with an argument named "kernel" (its FallbackKernel.create has one of its own).

_TARGETS = {"CPU": "simulator", "CUDA": "gpu"}
_library = torch.library.Library("workbench", "DEF")  # lives as long as its operators


def _define(schema: str, implementation: Callable, fake: Callable) -> None:
    """Define one operator. ``implementation`` gets the target before the operator's arguments."""
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

    def on_target(target: str) -> Callable:
        return lambda *args, **kwargs: implementation(target, *args, **kwargs)

    for key, target in _TARGETS.items():
        _library.impl(name, on_target(target), key)
    _library.impl(name, _checked(name), "Autograd")
    torch.library.register_fake(f"workbench::{name}", fake, lib=_library)


def _checked(name: str) -> Callable:
    """What runs before the implementation, in place of a backward."""

    def autograd(*args: Any, **kwargs: Any) -> Any:
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
        for tensor in tensors:
            if tensor.layout != torch.strided:
                raise RuntimeError(
                    f"{name}: tensors must be dense (torch.strided); got {_text(tensor)}, "
                    f"{tensor.layout}"
                )
            if tensor.requires_grad and torch.is_grad_enabled():
                raise RuntimeError(
                    f"{name}: an input requires grad, and this operator has no backward; call it "
                    "under torch.no_grad() or on .detach()ed tensors"
                )
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.workbench, name)(*args, **kwargs)

    return autograd


def _matmul_shape(name: str, a: torch.Tensor, b: torch.Tensor) -> tuple[int, ...]:
    """[..., M, N]. Checks what the shape depends on; bindings.cpp checks the rest."""
    _check_one_device(name, a=a, b=b)
    transposed = name == "matmul_nt"
    for arg, tensor in (("a", a), ("b", b)):
        if not 2 <= tensor.dim() <= 4:
            raise RuntimeError(f"{name}: {arg} must have 2 to 4 dimensions; got {_text(tensor)}")
    n, k = b.shape[-2:] if transposed else (b.shape[-1], b.shape[-2])
    if k != a.shape[-1]:
        kind, form = ("columns", "[.., N, K]") if transposed else ("rows", "[.., K, N]")
        raise RuntimeError(
            f"{name}: b must have {a.shape[-1]} {kind}, as a has {a.shape[-1]} columns "
            f"(a [.., M, K], b {form}); got a {_text(a)}, b {_text(b)}"
        )
    return (*a.shape[:-1], n)


def _check_one_device(name: str, **tensors: torch.Tensor) -> None:
    """Raise unless all are on one device; a meta tensor among others reaches only the fakes."""
    (first, tensor), *others = tensors.items()
    for other, its in others:
        if its.device != tensor.device:
            raise RuntimeError(
                f"{name}: all tensors must be on one device; {first} is on {tensor.device} and "
                f"{other} on {its.device}"
            )


def _text(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _define_matmul(name: str, transposed: bool) -> None:
    def fake(a: torch.Tensor, b: torch.Tensor, rung: str = "") -> torch.Tensor:
        return a.new_empty(_matmul_shape(name, a, b))

    def fresh(target: str, a: torch.Tensor, b: torch.Tensor, rung: str = "") -> torch.Tensor:
        out = fake(a, b)
        call(target, "matmul_out", a, b, out, transposed, rung)
        return out

    def given(
        target: str, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, rung: str = ""
    ) -> None:
        call(target, "matmul_out", a, b, out, transposed, rung)

    _define(f'{name}(Tensor a, Tensor b, str rung="") -> Tensor', fresh, fake)
    _define(
        f'{name}_out(Tensor a, Tensor b, Tensor(a!) out, str rung="") -> ()',
        given,
        lambda a, b, out, rung="": _check_one_device(name, a=a, b=b, out=out),
    )


def _softmax_fake(x: torch.Tensor, rung: str = "") -> torch.Tensor:
    return x.new_empty(x.shape)


def _softmax(target: str, x: torch.Tensor, rung: str = "") -> torch.Tensor:
    out = _softmax_fake(x)
    call(target, "softmax_out", x, out, rung)
    return out


def _attention_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    rung: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    _check_one_device("attention", q=q, k=k, v=v)
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)


def _attention(
    target: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    rung: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = _attention_fake(q, k, v)
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1] or 1)
    call(target, "attention_out", q, k, v, out, lse, causal, scale, rung)
    return out, lse


_define_matmul("matmul", transposed=False)
_define_matmul("matmul_nt", transposed=True)
_define('softmax(Tensor x, str rung="") -> Tensor', _softmax, _softmax_fake)
_define(
    "attention(Tensor q, Tensor k, Tensor v, bool causal=False, float? scale=None, "
    'str rung="") -> (Tensor, Tensor)',
    _attention,
    _attention_fake,
)


def matmul(a: torch.Tensor, b: torch.Tensor, *, kernel: str | None = None) -> torch.Tensor:
    """Multiply matrices: C = A B in fp32, sums in order of k.

    a: float32 [..., M, K], rank 2 to 4. b: float32 [..., K, N] with a's leading dimensions, or
    [K, N] for all of them. Rows may be any stride apart; elements of a row are adjacent.
    kernel: a rung of ``rungs("matmul")``; None takes the last that takes the input.
    Returns [..., M, N], contiguous. RuntimeError names the argument, what was expected, what came.
    """
    return torch.ops.workbench.matmul(a, b, kernel or "")


def matmul_nt(a: torch.Tensor, b: torch.Tensor, *, kernel: str | None = None) -> torch.Tensor:
    """Multiply by a transpose: C = A B^T, b being [..., N, K]. Else as ``matmul``.

    The product of queries and keys, Q K^T, without a copy of K.
    """
    return torch.ops.workbench.matmul_nt(a, b, kernel or "")


def matmul_out(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, *, kernel: str | None = None
) -> torch.Tensor:
    """``matmul`` into ``out`` [..., M, N], which is returned.

    out: float32, its rows any stride apart; it may share memory with neither input, and its
    elements not with each other.
    """
    torch.ops.workbench.matmul_out(a, b, out, kernel or "")
    return out


def matmul_nt_out(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, *, kernel: str | None = None
) -> torch.Tensor:
    """``matmul_nt`` into ``out`` [..., M, N], which is returned; see ``matmul_out``."""
    torch.ops.workbench.matmul_nt_out(a, b, out, kernel or "")
    return out


def softmax(x: torch.Tensor, *, kernel: str | None = None) -> torch.Tensor:
    """Softmax over the last dimension, safe for any magnitude, as torch.softmax(x, -1).

    x: float32 [..., cols], rank 1 or more; all rows one stride apart, elements of a row adjacent.
    kernel: a rung of ``rungs("softmax")``; None takes the last that takes the input.
    Returns a contiguous tensor of x's shape. A row with a NaN or +inf, or of -inf only, is NaN.
    RuntimeError names the argument, what was expected, what came.
    """
    return torch.ops.workbench.softmax(x, kernel or "")


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    kernel: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention, O = softmax(scale * Q K^T) V.

    q: float32 [..., Nq, D]; k, v: float32 [..., Nk, D]; rank 2 to 4, the same leading dimensions
    (batch, heads). Any strides, elements of a row adjacent.
    causal: query i sees the keys 0 .. i + Nk - Nq; one that sees none gets O = 0, LSE = -inf.
    scale: None takes 1 / sqrt(D).
    kernel: a rung of ``rungs("attention")``, whose ``head_dims`` say which D it takes; None takes
    the last that takes the input.
    Returns O [..., Nq, D], and with return_lse also LSE = log(sum(exp(scale * Q K^T))), [..., Nq].
    RuntimeError names the argument, what was expected, what came.

    The formula is that of "Attention Is All You Need" (3.2.1); ``flash`` follows algorithm 1 of
    "FlashAttention-2" (3.1), with LSE as stored there.
    """
    out, lse = torch.ops.workbench.attention(q, k, v, causal, scale, kernel or "")
    return (out, lse) if return_lse else out
