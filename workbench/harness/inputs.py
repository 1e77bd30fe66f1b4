"""Test inputs: tensor values (fills) and memory layouts (placements).

Every tensor is part of a larger buffer whose other elements, the guard bands before, after and
between the rows, hold a NaN with a fixed bit pattern. A kernel that reads one gets NaN into its
result; a kernel that writes one changes the pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from workbench.operators.operator import Case, Operator, Tensors

GUARD = 64  # elements in the band before and after a tensor; keeps 256-byte alignment in fp32
ALIGNMENT = 512  # bytes; that of PyTorch's GPU allocations
PAD = 5  # elements between the rows of the "padded" placement; odd, so that rows lose alignment
PITCH = 64  # elements; rows of the "pitched" placement begin at multiples of it
HUGE = 2**31  # minimum distance, in elements, of the last row of a "huge" tensor from the first

LARGEST_INTEGER = 60  # of integer fills; the marks below are outside this range

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# NaNs that no arithmetic produces: quiet, with a payload that spells what they mark. A byte has no
# NaN: its marks are integers that no fill contains.
_GUARD = {1: 0xBE, 2: 0x7FBE, 4: 0x7FC0BEEF, 8: 0x7FF80000DEADBEEF}
_UNWRITTEN = {1: 0xAD, 2: 0x7FAD, 4: 0x7FC0DEAD, 8: 0x7FF8000000C0DEAD}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as integers, so that NaNs compare by bit pattern."""
    return tensor.view(_BITS[tensor.element_size()])


def fill_guard(tensor: torch.Tensor) -> None:
    """Set every element to the guard pattern."""
    bits(tensor).fill_(_GUARD[tensor.element_size()])


def fill_unwritten(tensor: torch.Tensor) -> None:
    """Set every element to the pattern that means "not yet written"."""
    bits(tensor).fill_(_UNWRITTEN[tensor.element_size()])


def is_guard(tensor: torch.Tensor) -> torch.Tensor:
    """Where the guard pattern is intact, bit for bit."""
    return bits(tensor) == _GUARD[tensor.element_size()]


def is_unwritten(tensor: torch.Tensor) -> torch.Tensor:
    """Where the unwritten pattern is intact, bit for bit."""
    return bits(tensor) == _UNWRITTEN[tensor.element_size()]


@dataclass(frozen=True)
class Placed:
    """A tensor and the buffer around it: ``view`` is a part of ``buffer``."""

    view: torch.Tensor
    buffer: torch.Tensor


def place(
    shape: tuple[int, ...], placement: str, dtype: torch.dtype, device: torch.device
) -> Placed:
    """Space for a tensor in one of the PLACEMENTS, with every element of the buffer a guard.

    Args:
        shape: the tensor's shape.
        placement: a name in PLACEMENTS.
        dtype: floating point or integer.
        device: where the buffer is allocated.

    Raises:
        ValueError: the placement is unknown or cannot hold the shape.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement {placement!r}: one of {', '.join(PLACEMENTS)}")
    placed = PLACEMENTS[placement](shape, dtype, device)
    fill_guard(placed.buffer)
    return placed


def empty(elements: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Space for a number of elements, aligned as on a GPU, even on a CPU.

    PyTorch's CPU alignment is only 64 bytes, so a row would span different cache lines.
    """
    if device.type != "cpu":
        return torch.empty(elements, dtype=dtype, device=device)
    size = dtype.itemsize
    flat = torch.empty(elements + ALIGNMENT // size, dtype=dtype)
    skipped = -flat.data_ptr() % ALIGNMENT // size
    return flat[skipped : skipped + elements]


def _flat(elements: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return empty(GUARD + elements + GUARD, dtype, device)


def _contiguous(shape, dtype, device) -> Placed:
    elements = math.prod(shape)
    buffer = _flat(elements, dtype, device)
    return Placed(buffer[GUARD : GUARD + elements].view(shape), buffer)


def _offset(shape, dtype, device) -> Placed:
    """Contiguous, but the first element is only as aligned as the dtype."""
    elements = math.prod(shape)
    buffer = _flat(elements + 1, dtype, device)
    return Placed(buffer[GUARD + 1 : GUARD + 1 + elements].view(shape), buffer)


def _padded(shape, dtype, device) -> Placed:
    """PAD elements between rows, an extra row between matrices."""
    *batch, rows, cols = shape
    outer = (*batch, rows + 1, cols + PAD)
    elements = math.prod(outer)
    buffer = _flat(elements, dtype, device)
    return Placed(buffer[GUARD : GUARD + elements].view(outer)[..., :rows, :cols], buffer)


def _pitched(shape, dtype, device) -> Placed:
    """Rows begin at multiples of PITCH, as from cudaMallocPitch, with a gap after each."""
    *batch, rows, cols = shape
    outer = (*batch, rows, cols // PITCH * PITCH + PITCH)
    elements = math.prod(outer)
    buffer = _flat(elements, dtype, device)
    return Placed(buffer[GUARD : GUARD + elements].view(outer)[..., :cols], buffer)


def _heads_inside(shape, dtype, device) -> Placed:
    """[B, H, N, D] as a view of contiguous [B, N, H, D]."""
    if len(shape) != 4:
        raise ValueError(f"placement 'heads_inside' needs [B, H, N, D], got {list(shape)}")
    b, h, n, d = shape
    inside = _contiguous((b, n, h, d), dtype, device)
    return Placed(inside.view.swapdims(1, 2), inside.buffer)


def _huge(shape, dtype, device) -> Placed:
    """The last slab along the first dimension above 1 starts HUGE elements after the first.

    The memory in between is never touched, so on a CPU it costs address space, not memory.
    """
    axis = next((i for i, size in enumerate(shape[:-1]) if size > 1), None)
    if axis is None:
        raise ValueError(
            f"placement 'huge' needs a dimension above 1 before the last: {list(shape)}"
        )
    slab = math.prod(shape[axis + 1 :])
    if slab == 0:
        raise ValueError(f"placement 'huge' cannot hold an empty tensor: {list(shape)}")
    stride = -(-HUGE // (shape[axis] - 1)) + slab + 2 * GUARD
    stride += -stride % GUARD
    memory = torch.empty((shape[axis] - 1) * stride + slab + 2 * GUARD, dtype=dtype, device=device)
    buffer = memory.as_strided((shape[axis], slab + 2 * GUARD), (stride, 1))
    view = buffer[:, GUARD : GUARD + slab].unflatten(1, shape[axis + 1 :])
    return Placed(view.view(shape), buffer)


def _by_columns(placement: Callable[..., Placed]) -> Callable[..., Placed]:
    """Another placement, but each matrix column by column."""

    def place(shape, dtype, device):  # noqa: ANN001, ANN202
        *batch, rows, cols = shape
        placed = placement((*batch, cols, rows), dtype, device)
        return Placed(placed.view.mT, placed.buffer)

    return place


PLACEMENTS: dict[str, Callable[..., Placed]] = {
    "contiguous": _contiguous,
    "offset": _offset,
    "padded": _padded,
    "pitched": _pitched,
    "heads_inside": _heads_inside,
    "huge": _huge,
    "by_columns": _by_columns(_contiguous),
    "padded_by_columns": _by_columns(_padded),
    "pitched_by_columns": _by_columns(_pitched),
    "huge_by_columns": _by_columns(_huge),
}


def place_values(
    values: torch.Tensor,
    placement: str,
    device: torch.device,
    shape: tuple[int, ...] | None = None,
) -> Placed:
    """A copy of ``values`` on ``device`` in the given placement, guards around it.

    A ``shape`` that is longer in its first dimension repeats the values.
    """
    shape = shape or tuple(values.shape)
    placed = place(shape, placement, values.dtype, device)
    if shape == values.shape:
        placed.view.copy_(values)
        return placed
    there, step = values.to(device), len(values)
    for start in range(0, shape[0], step):
        placed.view[start : start + step].copy_(there[: shape[0] - start])
    return placed


# A fill gets the shape, the random generator and the dtype, to which values are rounded afterwards.


def _randn(shape, generator, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(shape, generator=generator, dtype=wide)


def _times(factor: float):
    return lambda shape, generator, dtype: factor * _randn(shape, generator, dtype)


def _spiky(shape, generator, dtype):
    """Normal, with one element in sixteen a hundred times larger."""
    values = _randn(shape, generator, dtype)
    spikes = torch.rand(shape, generator=generator) < 1 / 16
    return torch.where(spikes, 100 * values, values)


def _integers(shape, generator, dtype):
    """-4..4, so that fp32 sums of products are exact whatever their order."""
    return torch.randint(-4, 5, shape, generator=generator).float()


def _denormal(shape, generator, dtype):
    """Normal, scaled to a hundredth of the dtype's smallest normal number: mostly below it."""
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return 0.01 * torch.finfo(dtype).smallest_normal * values


def _sprinkled(value: float, chance: float = 1 / 24):
    def fill(shape, generator, dtype):
        values = _randn(shape, generator, dtype)
        where = torch.rand(shape, generator=generator) < chance
        return torch.where(where, value, values)

    return fill


def _masked_rows(shape, generator, dtype):
    """Every other row is all -inf; the rest have some -inf."""
    values = _sprinkled(-math.inf, 1 / 4)(shape, generator, dtype)
    values[..., ::2, :] = -math.inf
    return values


def _single_huge(shape, generator, dtype):
    """One element per row is near the dtype's largest number (3e38 in fp32), one near -it."""
    values = _randn(shape, generator, dtype)
    huge = 0.88 * torch.finfo(dtype).max
    if shape[-1] > 0:
        values[..., shape[-1] // 2] = huge
        values[..., 0] = -huge if shape[-1] > 1 else huge
    return values


def _constant_rows(shape, generator, dtype):
    return _randn((*shape[:-1], 1), generator, dtype).expand(shape).contiguous()


Fill = Callable[[tuple[int, ...], torch.Generator, torch.dtype], torch.Tensor]

FILLS: dict[str, Fill] = {
    "randn": _randn,
    "spiky": _spiky,
    "integers": _integers,
    "large": _times(1e4),
    "tens": _times(30),
    "denormal": _denormal,
    "zeros": lambda shape, generator, dtype: torch.zeros(shape),
    "constant_rows": _constant_rows,
    "some_inf": _sprinkled(math.inf),
    "some_neg_inf": _sprinkled(-math.inf, 1 / 4),
    "some_nan": _sprinkled(math.nan),
    "masked_rows": _masked_rows,
    "single_huge": _single_huge,
}


def fill_values(kind: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Values of one of the FILLS, on the CPU; deterministic."""
    if kind not in FILLS:
        raise ValueError(f"fill {kind!r}: one of {', '.join(FILLS)}")
    generator = torch.Generator().manual_seed(seed)
    values = FILLS[kind](shape, generator, dtype)
    if not dtype.is_floating_point:
        largest = LARGEST_INTEGER
        values = (largest / 3 * values).nan_to_num(nan=0).round().clamp(-largest, largest)
    return values.to(dtype)


def values(operator: Operator, case: Case) -> Tensors:
    """The inputs' values by name, contiguous, on the CPU; equal for equal cases.

    They are the inputs of ``operator.distinct(case)``.
    """
    case = operator.distinct(case)
    seed = case.random_seed()
    filled = {}
    for i, (name, tensor) in enumerate(operator.inputs(case).items()):
        fill = "randn" if tensor.statistic else case.fill
        filled[name] = fill_values(fill, tensor.shape, seed + i, tensor.dtype(case))
    return operator.finish(filled, case)


def check_layout(operator: Operator, case: Case) -> None:
    """Raise ValueError if a tensor of the case cannot have the case's layout.

    Costs neither memory nor time: tensors on the "meta" device have no elements.
    """
    lies, meta = operator.layout(case).lies, torch.device("meta")
    for name, tensor in (operator.inputs(case) | operator.outputs(case)).items():
        place(tensor.shape, lies.get(name, "contiguous"), tensor.dtype(case), meta)


def place_inputs(operator: Operator, case: Case, device: torch.device) -> dict[str, Placed]:
    """The inputs on the device in the case's layout, with guards around each."""
    lies, specs = operator.layout(case).lies, operator.inputs(case)
    return {
        name: place_values(value, lies.get(name, "contiguous"), device, specs[name].shape)
        for name, value in values(operator, case).items()
    }


def place_outputs(operator: Operator, case: Case, device: torch.device) -> dict[str, Placed]:
    """Space for the outputs, with guards around each and every element marked unwritten."""
    lies = operator.layout(case).lies
    placed = {
        name: place(tensor.shape, lies.get(name, "contiguous"), tensor.dtype(case), device)
        for name, tensor in operator.outputs(case).items()
    }
    for output in placed.values():
        fill_unwritten(output.view)
    return placed


def views(placed: Mapping[str, Placed]) -> Tensors:
    """The tensors without their buffers, by name."""
    return {name: tensor.view for name, tensor in placed.items()}
