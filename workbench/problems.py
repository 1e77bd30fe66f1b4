"""What the harness knows about an operator (``Operation``) and about one input (``Case``).

The operators themselves are described in workbench/operations.py.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from workbench import inputs
from workbench.shapes import Shape, ShapeKeys, parse_shape

Tensors = dict[str, torch.Tensor]

DEVICES = {"gpu": "cuda", "simulator": "cpu"}  # where a target's tensors live


@dataclass(frozen=True)
class Arrangement:
    """How the tensors of one call lie in memory.

    Attributes:
        lies: layout (see workbench.inputs.LAYOUTS) by tensor name; contiguous where absent.
        batch: dimensions in front of a matmul's matrices.
        shared: tensors that lack the batch dimensions.
        b_transposed: matmul's second operand is given as its transpose (``matmul_nt``).
    """

    lies: Mapping[str, str] = field(default_factory=dict)
    batch: tuple[int, ...] = ()
    shared: frozenset[str] = frozenset()
    b_transposed: bool = False


@dataclass(frozen=True)
class Case:
    """One input of one operation: everything but the rung and the target.

    Attributes:
        shape: the sizes.
        layout: a name in the operation's ``arrangements``.
        fill: a name in workbench.inputs.FILLS.
        dtype: torch's name of it.
        scale: None means 1 / sqrt(D) for attention, 1 for softmax.
        atol: if not None, an absolute error bound on top of the error model (with ``rtol``).
        rtol: relative part of that bound.
        seed: of the random values; None derives one from the case.
    """

    shape: Shape
    layout: str = "contiguous"
    fill: str = "randn"
    dtype: str = "float32"
    scale: float | None = None
    atol: float | None = None
    rtol: float = 0.0
    seed: int | None = None

    def __str__(self) -> str:
        """Shape, layout, fill, other dtypes than fp32: what tells it apart in test names."""
        scale = "" if self.scale is None else f"-scale={self.scale:g}"
        dtype = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.shape}-{self.layout}-{self.fill}{scale}{dtype}"

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return getattr(torch, self.dtype).itemsize

    def random_seed(self) -> int:
        """The given seed, or one that depends on shape and fill alone."""
        if self.seed is not None:
            return self.seed
        return zlib.crc32(f"{self.shape} {self.fill}".encode())


@dataclass(frozen=True)
class Expected:
    """An output's float64 reference and the absolute error allowed in each element."""

    reference: torch.Tensor
    allowed: torch.Tensor

    def within(self, dtype: torch.dtype) -> Expected:
        """The same for outputs of a narrow dtype: what is beyond its range becomes infinite.

        Near the limit, where a right kernel may do either, everything is allowed.
        """
        largest, step = torch.finfo(dtype).max, torch.finfo(dtype).eps
        limit = largest + largest * step / (2 * (2 - step))  # halfway to the next number
        size = self.reference.abs()
        near = (size - limit).abs() <= self.allowed
        beyond = (size > limit) & ~near
        return Expected(
            torch.where(beyond, self.reference * math.inf, self.reference),
            torch.where(near, math.inf, self.allowed),
        )


ROW_TENSORS = ("lse", "dlse")  # a number for each row, in the type that kernels compute in


def tensor_dtype(name: str, case: Case) -> torch.dtype:
    """The dtype of one of a case's tensors."""
    dtype = getattr(torch, case.dtype)
    return torch.promote_types(dtype, torch.float32) if name in ROW_TENSORS else dtype


def _as_filled(tensors: Tensors, case: Case) -> Tensors:
    return tensors


def _no_options(case: Case) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Operation:
    """One operator, for tests and benchmarks.

    Attributes:
        name: what ``workbench.rungs`` calls it.
        keys: the names in its shapes.
        arrangements: its layouts by name; the first is what benchmarks use.
        input_shapes: shape of every input by name.
        output_shapes: shape of every output by name.
        launch: run a rung: (target, inputs, outputs, case, kernel name).
        expect: float64 references and allowed errors: (inputs, case).
        flops: floating-point operations the mathematics needs, None where bytes matter more.
        ideal_bytes: of a case: every input read once and every output written once.
        defaults: the benchmark's shapes by target.
        edges: small inputs that a rung has to pass before it is timed, as (shape, layout, fill):
            no two sizes or strides alike, above one tile, no multiple of any.
        default_dtypes: the benchmark's dtypes by target.
        distinct: the case whose inputs, repeated row by row, are a case's inputs; itself but for
            large cases of what works on rows, whose references would not fit in memory.
        finish: makes a case's inputs of tensors that hold its fill: (tensors, case).
        options: what a case asks for beyond the plain operation, as in ``Rung.options``.
    """

    name: str
    keys: ShapeKeys
    arrangements: Mapping[str, Arrangement]
    input_shapes: Callable[[Case, Arrangement], dict[str, tuple[int, ...]]]
    output_shapes: Callable[[Case, Arrangement], dict[str, tuple[int, ...]]]
    launch: Callable[[str, Tensors, Tensors, Case, str], None]
    expect: Callable[[Tensors, Case], dict[str, Expected]]
    flops: Callable[[Shape], int] | None
    ideal_bytes: Callable[[Case], int]
    defaults: Mapping[str, tuple[str, ...]]
    edges: tuple[tuple[str, str, str], ...] = ()
    default_dtypes: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: dict.fromkeys(DEVICES, ("float32",))
    )
    distinct: Callable[[Case], Case] = lambda case: case
    finish: Callable[[Tensors, Case], Tensors] = _as_filled
    options: Callable[[Case], tuple[str, ...]] = _no_options

    def case(self, shape: str, **settings: Any) -> Case:
        """The case with this shape text, in the first layout unless told otherwise."""
        settings.setdefault("layout", next(iter(self.arrangements)))
        return Case(parse_shape(shape, self.keys), **settings)

    def edge_cases(self, dtype: str) -> list[Case]:
        """The cases of ``edges`` in a dtype."""
        return [
            self.case(shape, layout=layout, fill=fill, dtype=dtype)
            for shape, layout, fill in self.edges
        ]

    def least_bytes(self, case: Case) -> int:
        """Memory that checking the case takes at least: tensors, references, allowed errors."""
        arrangement, few = self.arrangement(case), self.distinct(case)
        outputs = self.output_shapes(case, arrangement).values()
        shapes = [*self.input_shapes(case, arrangement).values(), *outputs]
        elements = sum(math.prod(shape) for shape in shapes)
        references = self.output_shapes(few, arrangement).values()
        return elements * case.itemsize + 2 * 8 * sum(math.prod(shape) for shape in references)

    def arrangement(self, case: Case) -> Arrangement:
        """How the case's tensors lie. Raises ValueError for an unknown layout."""
        if case.layout not in self.arrangements:
            names = ", ".join(self.arrangements)
            raise ValueError(f"{self.name}: layout {case.layout!r}: one of {names}")
        return self.arrangements[case.layout]

    def values(self, case: Case) -> Tensors:
        """The inputs' values by name, contiguous, on the CPU; equal for equal cases.

        They are those of ``distinct(case)``.
        """
        case = self.distinct(case)
        shapes = self.input_shapes(case, self.arrangement(case))
        seed = case.random_seed()
        filled = {}
        for i, (name, shape) in enumerate(shapes.items()):
            fill = "randn" if name in ROW_TENSORS else case.fill
            filled[name] = inputs.fill_values(fill, shape, seed + i, tensor_dtype(name, case))
        return self.finish(filled, case)

    def place_inputs(self, case: Case, device: torch.device) -> dict[str, inputs.Placed]:
        """The inputs on the device as the case's layout wants them, guards around each."""
        arrangement = self.arrangement(case)
        shapes = self.input_shapes(case, arrangement)
        return {
            name: inputs.place_values(
                values, arrangement.lies.get(name, "contiguous"), device, shapes[name]
            )
            for name, values in self.values(case).items()
        }

    def place_outputs(self, case: Case, device: torch.device) -> dict[str, inputs.Placed]:
        """Room for the outputs, guards around each, every element marked unwritten."""
        arrangement = self.arrangement(case)
        placed = {
            name: inputs.place(
                shape,
                arrangement.lies.get(name, "contiguous"),
                tensor_dtype(name, case),
                device,
            )
            for name, shape in self.output_shapes(case, arrangement).items()
        }
        for output in placed.values():
            inputs.fill_unwritten(output.view)
        return placed
