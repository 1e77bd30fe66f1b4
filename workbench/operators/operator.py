"""What the workbench knows about an operator (``Operator``) and about one input (``Case``)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from . import builds
from .shapes import Option, Options, Shape, parse_options, parse_shape, written

Tensors = dict[str, torch.Tensor]

DEVICES = {"gpu": "cuda", "simulator": "cpu", "cpu": "cpu"}  # of a target's tensors


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of the tensors of a case: torch's of that name; tf32 is float32, multiplied so."""
    return torch.float32 if name == "tf32" else getattr(torch, name)


@dataclass(frozen=True)
class Layout:
    """The memory layout of the tensors of a call.

    Attributes:
        lies: placement by tensor (workbench.harness.inputs.PLACEMENTS); contiguous if absent.
        batch: leading dimensions before the operator's own.
        shared: tensors that lack the batch dimensions.
        options: the operator's options that the layout sets.
        wide: whether results have the type that kernels sum in, for operators that have the choice.
    """

    lies: Mapping[str, str] = field(default_factory=dict)
    batch: tuple[int, ...] = ()
    shared: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Case:
    """One input of one operator: everything except the rung and the target.

    Attributes:
        shape: the sizes.
        options: the options requested, with their values.
        layout: a name in the operator's ``layouts``.
        fill: a name in workbench.harness.inputs.FILLS.
        dtype: torch's name for it; or tf32, for float32 whose products are rounded so.
        atol: if not None, an absolute error bound on top of the error model (with ``rtol``).
        rtol: relative part of that bound.
        seed: for the random values; None derives one from the case.
    """

    shape: Shape
    options: Options = ()
    layout: str = "contiguous"
    fill: str = "randn"
    dtype: str = "float32"
    atol: float | None = None
    rtol: float = 0.0
    seed: int | None = None

    def __str__(self) -> str:
        """An id for tests: shape, options, layout, fill, and the dtype unless it is fp32."""
        options = "".join(f"-{word}" for word in self.written_options.split())
        dtype = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.shape}{options}-{self.layout}-{self.fill}{dtype}"

    def option(self, name: str, otherwise: float = False) -> float:
        """The value of an option; ``otherwise`` if it is not set."""
        return dict(self.options).get(name, otherwise)

    @property
    def written_options(self) -> str:
        """The options as on the command line: ``causal scale=0.5``."""
        return written(self.options)

    @property
    def text(self) -> str:
        """Sizes and options: ``M=64,N=64,K=64 beta=1``."""
        return f"{self.shape} {self.written_options}".strip()

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return torch_dtype(self.dtype).itemsize

    def random_seed(self) -> int:
        """The given seed, or one that depends only on shape and fill."""
        if self.seed is not None:
            return self.seed
        return zlib.crc32(f"{self.shape} {self.fill}".encode())


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a call.

    Attributes:
        shape: its sizes.
        output: whether the call writes it.
        statistic: one number per row, in the type that kernels compute in: float64 for float64,
            else float32. All other tensors have the case's dtype.
        wide: one that has the type that kernels sum in, which for int8 is int32.
        fixed: its dtype, if that is the same in all cases.
    """

    shape: tuple[int, ...]
    output: bool = False
    statistic: bool = False
    wide: bool = False
    fixed: torch.dtype | None = None

    def dtype(self, case: Case) -> torch.dtype:
        """Its dtype in a case."""
        if self.fixed is not None:
            return self.fixed
        dtype = torch_dtype(case.dtype)
        if not (self.statistic or self.wide):
            return dtype
        wide = torch.float32 if dtype.is_floating_point else torch.int32
        return torch.promote_types(dtype, wide)

    def numel(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Expected:
    """An output's float64 reference and the absolute error allowed in each element."""

    reference: torch.Tensor
    allowed: torch.Tensor

    def within(self, dtype: torch.dtype) -> Expected:
        """The same for outputs of a narrow dtype: values beyond its range become infinite.

        Near the limit, where a right kernel may do either, any value is allowed.
        """
        if not dtype.is_floating_point:
            return self
        largest, step = torch.finfo(dtype).max, torch.finfo(dtype).eps
        limit = largest + largest * step / (2 * (2 - step))  # halfway to the next number
        size = self.reference.abs()
        near = (size - limit).abs() <= self.allowed
        beyond = (size > limit) & ~near
        return Expected(
            torch.where(beyond, self.reference * math.inf, self.reference),
            torch.where(near, math.inf, self.allowed),
        )


@dataclass(frozen=True)
class Baseline:
    """A library's implementation, timed alongside the rungs on a GPU or the CPU.

    Attributes:
        name: as in ``ratio_vs_<name>`` of the JSON format; no rung may have this name.
        run: computes the outputs from the inputs, written into ``outputs`` if the library supports
            it and otherwise replaced there: (inputs, outputs, case).
        applies: whether it computes the same thing for this case.
        comparable: whether it computes the operation, so that its output is checked like a rung's.
        target: where it runs, "gpu" or "cpu".
    """

    name: str
    run: Callable[[Tensors, Tensors, Case], torch.Tensor]
    applies: Callable[[Case], bool] = lambda case: True
    comparable: bool = True
    target: str = "gpu"


@dataclass(frozen=True)
class PrecisionStudy:
    """A study of the rungs' accuracy, against more than float64 (workbench.cli.precision).

    Attributes:
        inputs: the tensors' contents, by name: a shape and a fill.
        exact: the exact outputs in numpy's longdouble.
        others: the other subjects of the study in a dtype, by name.
        of_rows: whether errors are in ulp at the largest element of the row, rather than at each.
    """

    inputs: Mapping[str, tuple[str, str]]
    exact: Callable[[Tensors], Any]
    others: Callable[[str], Mapping[str, Callable[[Tensors], torch.Tensor]]]
    of_rows: bool = False


def _as_filled(tensors: Tensors, case: Case) -> Tensors:
    return tensors


UNEVEN = 12
FLOAT32 = dict.fromkeys(DEVICES, ("float32",))


@dataclass(frozen=True)
class Operator:
    """One operator, for checks, benchmarks and tests.

    Attributes:
        name: its name for ``workbench.rungs``.
        sizes: the names in its shapes, in written order.
        equal: more of them, which are left out where they are equal to another.
        tensors: the tensors of a case by name, inputs first, data before statistics within each:
            (case, its layout). bindings/<op>.cpp uses the same names.
        expect: float64 references and allowed errors by output: (inputs, case).
        by_torch: the main output as torch computes it on the CPU in the case's dtype.
        options: the options of a case. One with a tensor's name requests that tensor.
        layouts: its layouts by name; the first is what benchmarks use.
        flops: floating-point operations that the mathematics of a case needs; None where bytes
            matter more.
        defaults: the benchmark's cases by target, as ``case`` reads them: of sizes that a GPU is
            bought for. The simulator runs ``sample_blocks`` of each of their launches. With those
            for "cpu" it has rungs in C++ too.
        small: cases that the simulator runs whole in a moment; a rung is checked on them, and on
            ``edges``, where its defaults are sampled.
        sample_blocks: enough for blocks that do the same work.
        uneven: options with which their work differs, so that UNEVEN times as many are needed.
        default_dtypes: the benchmark's dtypes by target.
        edges: small cases that a rung must pass before it is timed, as (text, layout, fill): no two
            sizes or strides equal, above one tile, no multiple of anything.
        baselines: what the rungs are compared with.
        distinct: the case whose inputs, repeated along the first dimension, are a case's inputs;
            itself except for large cases, whose references would not fit in memory.
        few: a case that moves as many bytes per element and is quick to simulate.
        finish: turns tensors with the case's fill into its inputs: (tensors, case).
        precision: a study of its rounding errors, if there is one.
        columns: extra columns of its table (workbench.cli.columns.MORE).
    """

    name: str
    sizes: tuple[str, ...]
    tensors: Callable[[Case, Layout], dict[str, TensorSpec]]
    expect: Callable[[Tensors, Case], dict[str, Expected]]
    by_torch: Callable[[Tensors, Case], torch.Tensor]
    defaults: Mapping[str, tuple[str, ...]]
    small: tuple[str, ...]
    sample_blocks: int = 2
    uneven: tuple[str, ...] = ()
    equal: Mapping[str, str] = field(default_factory=dict)
    options: tuple[Option, ...] = ()
    layouts: Mapping[str, Layout] = field(default_factory=lambda: {"contiguous": Layout()})
    flops: Callable[[Case], int] | None = None
    default_dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: FLOAT32)
    edges: tuple[tuple[str, str, str], ...] = ()
    baselines: tuple[Baseline, ...] = ()
    distinct: Callable[[Case], Case] = lambda case: case
    few: Callable[[Case], Case] = lambda case: case
    finish: Callable[[Tensors, Case], Tensors] = _as_filled
    precision: PrecisionStudy | None = None
    columns: tuple[str, ...] = ()

    def case(self, text: str, *, options: str | Sequence[str] = "", **settings: Any) -> Case:
        """Parse a case, ``M=64,N=64,K=64`` followed by options, in the first layout.

        Args:
            text: sizes, then options separated by spaces.
            options: additional options: words, or one text.
            settings: other fields of ``Case``.

        Raises:
            ShapeError: with one line that shows the format.
        """
        settings.setdefault("layout", next(iter(self.layouts)))
        shape, *words = text.split() or [""]
        words += options.split() if isinstance(options, str) else options
        asked = parse_options(words, self.options)
        return Case(parse_shape(shape, self.sizes, self.options, self.equal), asked, **settings)

    def sampled(self, cases: Sequence[Case]) -> int:
        """How many blocks of each launch are enough for these cases."""
        uneven = any(case.option(name) for case in cases for name in self.uneven)
        return self.sample_blocks * (UNEVEN if uneven else 1)

    def edge_cases(self, dtype: str) -> list[Case]:
        """The cases of ``edges`` in a dtype."""
        return [
            self.case(text, layout=layout, fill=fill, dtype=dtype)
            for text, layout, fill in self.edges
        ]

    def small_cases(self, dtype: str) -> list[Case]:
        """The cases of ``small`` in a dtype."""
        return [self.case(text, dtype=dtype) for text in self.small]

    def layout(self, case: Case) -> Layout:
        """The memory layout of the case. Raises ValueError for an unknown layout."""
        if case.layout not in self.layouts:
            names = ", ".join(self.layouts)
            raise ValueError(f"{self.name}: layout {case.layout!r}: one of {names}")
        return self.layouts[case.layout]

    def inputs(self, case: Case) -> dict[str, TensorSpec]:
        """The tensors that are read, by name."""
        every = self.tensors(case, self.layout(case))
        return {name: tensor for name, tensor in every.items() if not tensor.output}

    def outputs(self, case: Case) -> dict[str, TensorSpec]:
        """The tensors that are written, by name."""
        every = self.tensors(case, self.layout(case))
        return {name: tensor for name, tensor in every.items() if tensor.output}

    def main_output(self, case: Case) -> str:
        """The output that libraries' results are compared with: the first."""
        return next(iter(self.outputs(case)))

    def asked(self, case: Case) -> dict[str, float]:
        """The options that a case and its layout set, as in a rung's ``options``."""
        return dict(case.options) | dict.fromkeys(self.layout(case).options, True)

    def launch(self, target: str, given: Tensors, out: Tensors, case: Case, kernel: str) -> None:
        """Run a rung on a case's tensors. Raises as ``builds.launch``."""
        tensors = {**given, **out}
        options = {name: v for name, v in self.asked(case).items() if name not in tensors}
        if case.dtype == "tf32":
            options["tf32"] = True
        builds.launch(target, self.name, tensors, options, kernel)

    def ideal_bytes(self, case: Case) -> int:
        """The bytes of reading every input once and writing every output once."""
        every = self.tensors(case, self.layout(case)).values()
        return sum(tensor.numel() * tensor.dtype(case).itemsize for tensor in every)

    def least_bytes(self, case: Case) -> int:
        """The minimum memory for checking the case: tensors, references, allowed errors."""
        references = self.outputs(self.distinct(case)).values()
        return self.ideal_bytes(case) + 2 * 8 * sum(tensor.numel() for tensor in references)
