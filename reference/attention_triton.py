"""FlashAttention-2 as a Triton kernel, on a GPU or, as the PTX it becomes, on the simulator.

    from reference.attention_triton import attention_triton
    out, lse = attention_triton(q, k, v, causal=True, return_lse=True)

CUDA tensors: Triton compiles and launches as usual. CPU tensors: Triton compiles for sm_90, which
needs no GPU, and the simulator loads that PTX as the driver would, so that its checks, counters and
settings apply (``simulator.record``, ``simulator.settings``).

The algorithm is that of ``reference.attention.flash_2``; here the compiler divides a tile among
warps, chooses wgmma or fma for ``tl.dot``, and prefetches tiles with cp.async. The tile sizes are
not tuned.

What racecheck finds is Triton's: 3.6 leaves out the proxy fence between cp.async and wgmma; 3.7.1
and 3.8 do so where V is aligned and K is not; 3.9 does not.
"""

# ruff: noqa: E741 (O and l are the names of the papers)

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "reference.attention_triton needs Triton, which is optional: pip install triton==3.7.1",
        name=error.name,
    ) from error

DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}  # Triton's names
MAX_HEAD_DIM = 256


# ---- The kernel ---------------------------------------------------------------------------------


@triton.jit
def attention_triton_kernel(
    Q,  # [B, H, Nq, D], as are K, V [B, H, Nk, D] and O
    K,
    V,
    O,
    LSE,  # [B, H, Nq], contiguous
    q_batch,  # strides, in elements
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    o_batch,
    o_head,
    o_row,
    H,
    Nq,
    Nk,
    scale_log2,  # scale * log2(e): exp(scale * s) = exp2(scale_log2 * s)
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,  # D, rounded up to a power of two
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """One program per tile of BLOCK_M queries of one head."""
    tiles = tl.cdiv(Nq, BLOCK_M)
    first = tl.program_id(0) % tiles * BLOCK_M
    batch = (tl.program_id(0) // tiles // H).to(tl.int64)
    head = (tl.program_id(0) // tiles % H).to(tl.int64)
    queries = first + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    in_row = columns < D
    Q += batch * q_batch + head * q_head
    K += batch * k_batch + head * k_head
    V += batch * v_batch + head * v_head
    O += batch * o_batch + head * o_head
    rows = queries[:, None].to(tl.int64)  # [BLOCK_M, 1]
    tile = (queries[:, None] < Nq) & in_row[None, :]  # [BLOCK_M, BLOCK_D]
    q = tl.load(Q + rows * q_row + columns[None, :], tile, 0.0)

    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc_o = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    end = Nk
    if CAUSAL:  # the last query of the tile sees the most keys
        end = tl.minimum(Nk, first + BLOCK_M + Nk - Nq)
    for start in range(0, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        at = keys.to(tl.int64)
        k_tile = (keys[None, :] < Nk) & in_row[:, None]  # [BLOCK_D, BLOCK_N]: transposed
        k = tl.load(K + at[None, :] * k_row + columns[:, None], k_tile, 0.0)
        s = tl.dot(q, k, input_precision="ieee") * scale_log2  # [BLOCK_M, BLOCK_N]
        seen = keys[None, :] < Nk
        if CAUSAL:
            seen = seen & (keys[None, :] <= queries[:, None] + Nk - Nq)
        s = tl.where(seen, s, -float("inf"))

        m_new = tl.maximum(m, tl.max(s, 1))
        base = tl.where(m_new == -float("inf"), 0.0, m_new)  # -inf - -inf would be NaN
        p = tl.exp2(s - base[:, None])
        alpha = tl.exp2(m - base)
        l = alpha * l + tl.sum(p, 1)
        v_tile = (keys[:, None] < Nk) & in_row[None, :]  # [BLOCK_N, BLOCK_D]
        v = tl.load(V + at[:, None] * v_row + columns[None, :], v_tile, 0.0)
        acc_o = tl.dot(p.to(v.dtype), v, acc_o * alpha[:, None], input_precision="ieee")
        m = m_new

    o = acc_o / tl.where(l == 0, 1.0, l)[:, None]  # 0 for a query that sees no key
    tl.store(O + rows * o_row + columns[None, :], o.to(O.dtype.element_ty), tile)
    LOG_2: tl.constexpr = 0.6931471805599453
    lse = LOG_2 * (m + tl.log2(l))
    tl.store(LSE + (batch * H + head) * Nq + queries, lse, queries < Nq)


# ---- The function -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """How one program works: its tile, its warps, and the tiles of K and V in flight."""

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int
    num_stages: int


TILES = {2: Tiles(64, 64, 4, 2), 4: Tiles(32, 32, 4, 2)}  # by bytes of an element


def attention_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    sm_scale: float | None = None,
    return_lse: bool = False,
    tiles: Tiles | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention, O = softmax(sm_scale * Q K^T) V.

    Args:
        q: [B, H, Nq, D], float16, bfloat16 or float32; D up to 256. Any strides, with the elements
            of a row adjacent.
        k: [B, H, Nk, D].
        v: [B, H, Nk, D].
        causal: query i sees the keys 0 .. i + Nk - Nq; one that sees none gets O = 0, LSE = -inf.
        sm_scale: None takes 1 / sqrt(D).
        return_lse: also return LSE.
        tiles: None takes those of TILES.

    Returns:
        O [B, H, Nq, D], and LSE = log(sum(exp(sm_scale * Q K^T))), float32 [B, H, Nq].

    Raises:
        ValueError: the shapes, dtypes, strides or devices are not as above.
        simulator.SimulatorError: what the simulator found.

    The softmax is in float32; P is rounded to the dtype of V for the second product. Source: Dao,
    "FlashAttention-2", section 3.1, algorithm 1.
    """
    _check(q, k, v)
    B, H, Nq, D = q.shape
    chosen = tiles or TILES[q.element_size()]
    out, lse = torch.empty_like(q), q.new_empty((B, H, Nq), dtype=torch.float32)
    if lse.numel() == 0:
        return (out, lse) if return_lse else out
    scale = (1 / math.sqrt(D) if D else 1.0) if sm_scale is None else sm_scale
    arguments: dict[str, Any] = {"Q": q, "K": k, "V": v, "O": out, "LSE": lse}
    for name, tensor in zip("qkvo", (q, k, v, out), strict=True):
        strides = zip(("batch", "head", "row"), tensor.stride(), strict=False)
        arguments |= {f"{name}_{what}": stride for what, stride in strides}
    arguments |= {"H": H, "Nq": Nq, "Nk": k.shape[2], "scale_log2": scale / math.log(2)}
    constants = {
        "D": D,
        "BLOCK_D": max(16, triton.next_power_of_2(D)),
        "BLOCK_M": chosen.BLOCK_M,
        "BLOCK_N": chosen.BLOCK_N,
        "CAUSAL": causal,
    }
    options = {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages}
    programs = B * H * triton.cdiv(Nq, chosen.BLOCK_M)
    if q.is_cuda:
        with torch.cuda.device(q.device):
            attention_triton_kernel[(programs,)](**arguments, **constants, **options)
    else:
        simulate(attention_triton_kernel, programs, arguments, constants, options, ("O", "LSE"))
    return (out, lse) if return_lse else out


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """ValueError unless the tensors are as ``attention_triton`` expects them."""
    tensors = {"q": q, "k": k, "v": v}
    for name, tensor in tensors.items():
        if tensor.dim() != 4 or tensor.shape[3] != q.shape[-1] or tensor.shape[:2] != q.shape[:2]:
            raise ValueError(
                "attention_triton: expected q [B, H, Nq, D], k and v [B, H, Nk, D]; got "
                f"q {list(q.shape)} and {name} {list(tensor.shape)}"
            )
        if tensor.dtype not in DTYPES or tensor.dtype != q.dtype or tensor.device != q.device:
            raise ValueError(
                "attention_triton: expected one device and one dtype of "
                f"{', '.join(map(str, DTYPES))}; got q {q.dtype} on {q.device}, {name} "
                f"{tensor.dtype} on {tensor.device}"
            )
        if tensor.numel() and tensor.shape[3] > 1 and tensor.stride(3) != 1:
            raise ValueError(
                f"attention_triton: the elements of a row of {name} must be adjacent; its strides "
                f"are {tensor.stride()}"
            )
    if k.shape != v.shape:
        raise ValueError(f"attention_triton: k is {list(k.shape)}, but v {list(v.shape)}")
    if q.shape[3] > MAX_HEAD_DIM:
        raise ValueError(f"attention_triton: D is {q.shape[3]}; at most {MAX_HEAD_DIM}")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors.values()):
        raise ValueError("attention_triton: an input requires grad, but there is no backward")


# ---- Any Triton kernel on the simulator ---------------------------------------------------------

SIMULATED = ("cuda", 90, 32)  # backend, compute capability, threads of a warp
ALIGNMENT = 16  # what Triton distinguishes: pointers and integers that are multiples of it
DYNAMIC_SHARED_BYTES = 8  # cudaFuncAttributeMaxDynamicSharedMemorySize
IN, OUT = 0, 1  # simulator/include/wbsim.h: wbsim_role
GLOBAL_SCRATCH, PROFILE_SCRATCH = "global_scratch_size", "profile_scratch_size"


class Dim3(ctypes.Structure):
    """CUDA's dim3."""

    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


def compiled_for_simulator(
    kernel: Any, arguments: Mapping[str, Any], constants: Mapping[str, Any], options: dict[str, int]
) -> Any:
    """What Triton makes of a kernel without a GPU: ``.asm["ptx"]`` and ``.metadata``.

    Triton's cache is in that of the workbench.
    """
    from triton.backends.compiler import GPUTarget

    from workbench.toolchain.paths import cache_dir

    types = {name: _type(value) for name, value in arguments.items()}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (index,): [["tt.divisibility", ALIGNMENT]]
        for index, name in enumerate(kernel.arg_names)
        if name in arguments and _is_aligned(arguments[name])
    }
    source = triton.compiler.ASTSource(kernel, signature, dict(constants), aligned)
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(cache_dir() / "triton")
        return triton.compile(source, target=GPUTarget(*SIMULATED), options=dict(options))


def _type(value: Any) -> str:
    """Triton's name of an argument's type."""
    if isinstance(value, torch.Tensor):
        return f"*{DTYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _is_aligned(value: Any) -> bool:
    if isinstance(value, float):
        return False
    return (value.data_ptr() if isinstance(value, torch.Tensor) else value) % ALIGNMENT == 0


def _packed(value: Any) -> Any:
    """An argument as the kernel's parameter."""
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    kinds = {"fp32": ctypes.c_float, "i32": ctypes.c_int32, "i64": ctypes.c_int64}
    return kinds[_type(value)](value)


def simulate(
    kernel: Any,
    programs: int,
    arguments: Mapping[str, Any],
    constants: Mapping[str, Any],
    options: dict[str, int],
    outputs: tuple[str, ...],
) -> None:
    """Launch a Triton kernel on the simulator: its PTX, unchanged, as a module.

    It is specialised as on a GPU: for aligned pointers, and integers that are 1 or aligned.

    Args:
        kernel: decorated with ``triton.jit``.
        programs: size of the one-dimensional grid.
        arguments: CPU tensors and numbers, by name, in the kernel's order.
        constants: the arguments that are ``tl.constexpr``.
        options: ``num_warps``, ``num_stages``.
        outputs: the names of tensors that the kernel writes, and never reads before.

    Raises:
        simulator.SimulatorError: what the simulator found.
        RuntimeError: any other error of the runtime.
    """
    import simulator

    ones = {k: v for k, v in arguments.items() if isinstance(v, int) and v == 1}
    arguments = {k: v for k, v in arguments.items() if k not in ones}
    compiled = compiled_for_simulator(kernel, arguments, {**constants, **ones}, options)
    about = compiled.metadata
    scratch = {
        f"scratch {size}": torch.empty(programs * getattr(about, size), dtype=torch.uint8)
        for size in (GLOBAL_SCRATCH, PROFILE_SCRATCH)
    }
    arguments |= scratch  # the parameters that Triton appends
    tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
    params = [_packed(value) for value in arguments.values()]
    pointers = (ctypes.c_void_p * len(params))(*map(ctypes.addressof, params))
    library = simulator.library()
    with _loaded(library, compiled.asm["ptx"], about.name) as function, _known(tensors, outputs):
        count = _parameters(library, function)
        if count != len(params):
            raise RuntimeError(
                f"Triton {triton.__version__} gave {about.name} {count} parameters; expected "
                f"{len(params)}, the last {len(scratch)} for scratch memory"
            )
        if about.shared > 0:
            _call(library.wbsim_cudaFuncSetAttribute, function, DYNAMIC_SHARED_BYTES, about.shared)
        block = Dim3(about.num_warps * about.target.warp_size, 1, 1)
        launch = library.wbsim_cudaLaunchKernel
        size = ctypes.c_size_t(about.shared)
        _call(launch, function, Dim3(programs, 1, 1), block, pointers, size, None)


@contextmanager
def _loaded(library: ctypes.CDLL, ptx: str, name: str) -> Iterator[ctypes.c_void_p]:
    """The handle of a kernel, whose module is loaded until the block ends."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    nothing = (None, None, ctypes.c_uint(0))
    load = library.wbsim_cudaLibraryLoadData
    _call(load, ctypes.byref(module), ptx.encode(), *nothing, *nothing)
    try:
        get = library.wbsim_cudaLibraryGetKernel
        _call(get, ctypes.byref(function), module, name.encode())
        yield function
    finally:
        _call(library.wbsim_cudaLibraryUnload, module)


@contextmanager
def _known(tensors: Mapping[str, torch.Tensor], outputs: tuple[str, ...]) -> Iterator[None]:
    """Let the simulator know which bytes the kernel may touch, until the block ends."""
    import simulator

    library = simulator.library()
    known = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    for name, tensor in known.items():
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        spanned = (1 + sum((size - 1) * step for size, step in steps)) * tensor.element_size()
        dtype = str(tensor.dtype).removeprefix("torch.")
        text = f"{dtype} {list(tensor.shape)}, strides {list(tensor.stride())}"
        role = OUT if name in outputs or name.startswith("scratch") else IN
        library.wbsim_register_tensor(
            tensor.data_ptr(), spanned, name.encode(), text.encode(), role
        )
    try:
        yield
    finally:
        for name, tensor in known.items():
            library.wbsim_unregister_tensor(tensor.data_ptr(), name.encode())


def _parameters(library: ctypes.CDLL, function: ctypes.c_void_p) -> int:
    """The number of a kernel's parameters."""
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    count = 0
    info = library.wbsim_cudaFuncGetParamInfo
    while info(function, ctypes.c_size_t(count), ctypes.byref(offset), ctypes.byref(size)) == 0:
        count += 1
    library.wbsim_cudaGetLastError()  # forgets that there is no such parameter
    return count


def _call(function: Any, *arguments: Any) -> None:
    """Call the runtime; raise what the simulator found, or RuntimeError."""
    import simulator
    from workbench.toolchain.inline.calls import raise_finding

    status = function(*arguments)
    if status == 0:
        return
    raise_finding()
    text = simulator.library().wbsim_cudaGetErrorString
    text.restype = ctypes.c_char_p
    raise RuntimeError(f"{function.__name__}: {text(status).decode()}")
