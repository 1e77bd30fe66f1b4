"""The checker: does a rung compute what it should, everywhere it should, and nowhere else?

``check_rung`` runs one rung on one case and returns a ``Verdict``. A right rung writes every
element of its outputs within the allowed error (``Operator.expect``), nothing around them (guard
bands before, after and between rows), and leaves its inputs unchanged. NaN is right only where the
reference is NaN, an infinity only where the reference is the same infinity, and an element that
still holds the output's initial pattern is never right.
tests/harness/test_verify.py proves that on the checker itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from workbench import operators
from workbench.harness import inputs
from workbench.operators.builds import Declined, Rung
from workbench.operators.operator import (
    DEVICES,
    Case,
    Expected,
    Operator,
    Tensors,
    torch_dtype,
)
from workbench.toolchain.errors import Failure

SECOND_FILL = 12345.0  # finds unwritten elements where the reference is NaN
# Elements compared at a time: what fits a CPU's cache, and what keeps a GPU busy.
PART_ELEMENTS = {"cpu": 2**15, "cuda": 2**24}
LAUNCH_ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError)

Launch = Callable[[Tensors, Tensors], None]  # (inputs, outputs)


class StickyError(Failure):
    """The GPU's context is lost: nothing more can run on it in this process."""


@dataclass(frozen=True)
class Comparison:
    """How one output compares with its reference.

    ``share`` is the largest error over the allowed error among the finite elements (0 if there are
    none). The fields from ``index`` on describe the worst element, if any is wrong.
    """

    total: int
    wrong: int
    unwritten: int
    share: float
    index: tuple[int, ...] = ()
    got: float = 0.0
    expected: float = 0.0
    allowed: float = 0.0
    worst: float = -1.0  # how wrong that element is: its error over the allowed error


@dataclass(frozen=True)
class Verdict:
    """The checker's result for one rung on one case; ``findings`` is empty if the rung is right.

    Attributes:
        subject: operator, kernel, target and case in words.
        findings: one line for everything that is wrong.
        share: the largest error over the allowed error, 0..1 for a right rung.
        refused: why the rung rightly does not support this input; "" if it does.
    """

    subject: str
    findings: tuple[str, ...] = ()
    share: float = 0.0
    refused: str = ""

    @property
    def ok(self) -> bool:
        """Whether the rung is right."""
        return not self.findings

    def report(self) -> str:
        """Several lines: what ran, the worst element, what else is wrong."""
        if self.ok:
            return f"right  {self.subject}"
        lines = [line for finding in self.findings for line in finding.splitlines()]
        return "\n".join([f"WRONG  {self.subject}", *(f"  {line}" for line in lines)])

    def require(self) -> None:
        """Raise AssertionError with the report unless the rung is right."""
        __tracebackhide__ = True
        if not self.ok:
            raise AssertionError("\n" + self.report())


def check_rung(operator: Operator, rung: Rung, case: Case, target: str) -> Verdict:
    """Run a rung on a case, on the target's device, and check everything it did.

    A rung whose requirements the input does not meet must raise instead; one whose idea does not
    help the input may decline it.

    Raises:
        StickyError: the rung broke the GPU's context.
        torch.OutOfMemoryError: no memory for the tensors or the rung's workspace.
    """
    device = torch.device(DEVICES[target])

    def launch(given: Tensors, out: Tensors) -> None:
        operator.launch(target, given, out, case, rung.name)

    subject = describe(operator.name, rung.name, target, case)
    unmet = unmet_need(operator, rung, case, device)
    if unmet:
        return _check_refusal(operator, case, device, launch, subject, unmet)
    return check_launch(operator, case, device, launch, subject)


def describe(op: str, kernel: str, target: str, case: Case) -> str:
    """Operator, rung, target, sizes, options, layout, fill and dtype in one line."""
    place = "on the simulator" if target == "simulator" else f"on the {target.upper()}"
    return (
        f"{op} {kernel} {place}: {case.text}, layout {case.layout}, fill {case.fill}, {case.dtype}"
    )


@functools.lru_cache(maxsize=2)
def expected(op: str, case: Case, device: str) -> dict[str, Expected]:
    """The references of an operator's case, computed on ``device`` and cached for the next rung."""
    operator = operators.get(op)
    case = operator.distinct(case)
    tensors = {key: tensor.to(device) for key, tensor in inputs.values(operator, case).items()}
    outputs = operator.expect(tensors, case)
    if case.atol is None:
        return outputs
    return {
        key: Expected(
            value.reference,
            value.allowed.minimum(case.atol + case.rtol * value.reference.abs()),
        )
        for key, value in outputs.items()
    }


def check_launch(
    operator: Operator, case: Case, device: torch.device, launch: Launch, subject: str
) -> Verdict:
    """Check whatever ``launch(inputs, outputs)`` does with a case's tensors."""
    right = expected(operator.name, case, str(device))
    verdict = _run_once(operator, case, device, launch, subject, right, None)
    if not verdict.ok or verdict.refused:
        return verdict
    if any(value.reference.isnan().any() for value in right.values()):
        second = _run_once(operator, case, device, launch, subject, right, SECOND_FILL)
        return second if not second.ok else verdict
    return verdict


def _run_once(
    operator: Operator,
    case: Case,
    device: torch.device,
    launch: Launch,
    subject: str,
    right: Mapping[str, Expected],
    fill: float | None,
) -> Verdict:
    given = inputs.place_inputs(operator, case, device)
    before = {name: inputs.bits(placed.buffer).clone() for name, placed in given.items()}
    outputs = inputs.place_outputs(operator, case, device)
    if fill is not None:
        for placed in outputs.values():
            placed.view.fill_(fill)
    error = run_launch(launch, inputs.views(given), inputs.views(outputs), device, subject)
    if isinstance(error, Declined):
        return Verdict(subject, refused=f"declines: {error.reason}")
    if error is not None:
        return Verdict(subject, (f"raised {type(error).__name__}: {error}",))
    findings: list[str] = []
    share = 0.0
    for name, placed in outputs.items():
        got = placed.view.clone(memory_format=torch.contiguous_format)
        comparison = compare(got, right[name])
        share = max(share, comparison.share)
        findings += comparison_lines(name, comparison)
        findings += guard_lines(name, placed)
    for name, placed in given.items():
        if not torch.equal(before[name], inputs.bits(placed.buffer)):
            findings.append(f"input    {name} or the memory around it was changed")
    return Verdict(subject, tuple(findings), share)


def run_launch(
    launch: Launch, given: Tensors, outputs: Tensors, device: torch.device, subject: str
) -> Exception | None:
    """Launch and wait; return what the launch raised, or None.

    Raises:
        StickyError: every later GPU call returns an error.
        torch.OutOfMemoryError: there is no memory for the launch's workspace.
    """
    try:
        launch(given, outputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except LAUNCH_ERRORS as error:
        raise_if_sticky(error, device, subject)
        if is_out_of_memory(error):
            raise torch.OutOfMemoryError(first_line(error)) from None
        return error
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory, or bindings.cpp's workspace, could not be allocated."""
    words = ("no memory for a workspace", "can't allocate memory", "CUDA out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in str(error) for word in words
    )


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def raise_if_sticky(error: Exception, device: torch.device, subject: str) -> None:
    """Raise StickyError naming the subject if the GPU's context did not survive ``error``."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        raise StickyError(
            f"{subject}: {first_line(error)}\nThe GPU's context is lost, so the run ends here. "
            "The simulator (--target simulator) names the line at fault."
        ) from error


def compare(got: torch.Tensor, expected: Expected) -> Comparison:
    """Compare a contiguous output with its reference, element by element.

    An output with more rows than the reference repeats the same rows
    (``Operator.distinct``).
    """
    flat, shape = got.flatten(), got.shape
    reference, allowed = expected.reference.flatten(), expected.allowed.flatten()
    found: list[Comparison] = []
    for start, here in _parts(flat, len(reference)):
        part = flat[start : start + here.stop - here.start]
        one = _compare(part, Expected(reference[here], allowed[here]))
        if one.index:
            place = torch.unravel_index(torch.tensor(one.index[0] + start), shape)
            one = dataclasses.replace(one, index=tuple(int(i) for i in place))
        found.append(one)
    return dataclasses.replace(
        max(found, key=lambda one: one.worst, default=Comparison(0, 0, 0, 0.0)),
        total=got.numel(),
        wrong=sum(one.wrong for one in found),
        unwritten=sum(one.unwritten for one in found),
        share=max((one.share for one in found), default=0.0),
    )


def _parts(flat: torch.Tensor, period: int) -> Iterator[tuple[int, slice]]:
    """Where parts of ``flat`` start, and which of the first ``period`` elements they repeat."""
    step = PART_ELEMENTS[flat.device.type]
    for begin in range(0, len(flat), max(1, period)):
        size = min(period, len(flat) - begin)
        for start in range(0, size, step):
            yield begin + start, slice(start, min(start + step, size))


def _compare(got: torch.Tensor, expected: Expected) -> Comparison:
    """Compare a one-dimensional part."""
    values = got.double()
    reference, allowed = expected.reference, expected.allowed
    error = (values - reference).abs()
    within = torch.where(reference.isinf(), values == reference, error <= allowed)
    unwritten = inputs.is_unwritten(got)
    right = torch.where(reference.isnan(), values.isnan(), within) & ~unwritten
    wrong = int((~right).sum())
    ratio = error / allowed.clamp_min(1e-300)
    finite = reference.isfinite() & values.isfinite()
    largest = float(torch.where(finite, ratio, 0.0).max())
    if wrong == 0:
        return Comparison(len(got), 0, 0, largest)
    score = torch.where(right, -1.0, torch.where(ratio.isnan(), torch.inf, ratio))
    worst = int(score.argmax())
    return Comparison(
        total=len(got),
        wrong=wrong,
        unwritten=int(unwritten.sum()),
        share=largest,
        index=(worst,),
        got=float(got[worst]),
        expected=float(reference[worst]),
        allowed=float(allowed[worst]),
        worst=float(score[worst]),
    )


def comparison_lines(name: str, comparison: Comparison) -> Iterator[str]:
    """Describe the worst element and how many are wrong; no lines if none is."""
    if comparison.wrong == 0:
        return
    index = ", ".join(str(i) for i in comparison.index)
    error = abs(comparison.got - comparison.expected)
    yield (
        f"worst    {name}[{index}]: got {comparison.got:.9g}, expected "
        f"{comparison.expected:.9g}, error {error:.3g}, allowed {comparison.allowed:.3g}"
    )
    unwritten = f", {comparison.unwritten} never written" if comparison.unwritten else ""
    yield f"wrong    {comparison.wrong} of {comparison.total} elements of {name}{unwritten}"


def guard_lines(name: str, placed: inputs.Placed) -> Iterator[str]:
    """Report whether memory around a tensor was overwritten. Overwrites the tensor itself."""
    inputs.fill_guard(placed.view)
    spoiled = (~inputs.is_guard(placed.buffer)).nonzero()
    if len(spoiled):
        first = [int(i) for i in spoiled[0]]
        yield (
            f"guard    {len(spoiled)} elements outside {name} were overwritten, the first "
            f"{_where(first, placed)}"
        )


def _where(position: list[int], placed: inputs.Placed) -> str:
    view, buffer = placed.view, placed.buffer
    start = view.storage_offset() - buffer.storage_offset()
    if buffer.dim() > 1:
        slab = position[0]
        span = buffer.shape[1] - 2 * inputs.GUARD
        place = f" of slab {slab}"
    else:
        steps = zip(view.shape, view.stride(), strict=True)
        span = 1 + sum((size - 1) * stride for size, stride in steps) if view.numel() else 0
        place = ""
    offset = position[-1] - start
    if offset < 0:
        return f"{-offset} before the first element{place}"
    if offset >= span:
        return f"{offset - span + 1} after the last element{place}"
    return f"{offset} after the first element, in the padding between rows"


def unmet_need(operator: Operator, rung: Rung, case: Case, device: torch.device) -> str | None:
    """The requirement (kernels/ladder.h) that this case does not meet, or None."""
    if case.dtype not in rung.dtypes:
        return f"supports {', '.join(rung.dtypes)}; got {case.dtype}"
    for option in operator.asked(case):
        if option not in rung.options:
            return f"does not support {option}"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if 10 * major + minor < rung.compute_capability:
            return f"needs compute capability {rung.compute_capability}; got {10 * major + minor}"
    if rung.alignment > torch_dtype(case.dtype).itemsize:
        specs = operator.inputs(case) | operator.outputs(case)
        placed = inputs.place_inputs(operator, case, device)
        placed |= inputs.place_outputs(operator, case, device)
        for name, tensor in inputs.views(placed).items():
            exempt = specs[name].statistic or specs[name].fixed
            if not exempt and not is_aligned(tensor, rung.alignment):
                return f"needs multiples of {rung.alignment} bytes; {name} is not aligned to that"
    return None


def is_aligned(tensor: torch.Tensor, alignment: int) -> bool:
    """Whether a tensor's first element and all its rows start at multiples of ``alignment``."""
    strides = [
        stride * tensor.element_size()
        for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
        if size > 1
    ]
    return all(number % alignment == 0 for number in (tensor.data_ptr(), *strides))


def _check_refusal(
    operator: Operator,
    case: Case,
    device: torch.device,
    launch: Launch,
    subject: str,
    unmet: str,
) -> Verdict:
    given = inputs.views(inputs.place_inputs(operator, case, device))
    outputs = inputs.views(inputs.place_outputs(operator, case, device))
    error = run_launch(launch, given, outputs, device, subject)
    if error is None:
        return Verdict(subject, (f"accepted an input it does not support: {unmet}",))
    return Verdict(subject, refused=unmet)
