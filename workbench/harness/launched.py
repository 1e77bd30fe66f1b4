"""What a rung launches for a case: recorded on the simulator, without checking the results."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

import simulator
from workbench.harness import inputs, verify
from workbench.operators.builds import Declined, Rung
from workbench.operators.operator import DEVICES, Case, Operator, Tensors


@dataclass(frozen=True)
class Launched:
    """The launches of a rung.

    Attributes:
        rung: the rung.
        case: the input; its dtype is one that the rung supports, if the recorder may choose.
        launches: in order, with their counters.
        why: why there are none; "" if there are some.
        failed: whether that is the rung's mistake.
    """

    rung: Rung
    case: Case
    launches: tuple[simulator.Launch, ...] = ()
    why: str = ""
    failed: bool = False


class Recorder:
    """Runs rungs on one case, whose tensors they share.

    Args:
        operator: what the rungs compute.
        case: the input.
        sample: run so many blocks of each launch, and scale their counters; 0: all.
        any_dtype: a rung that does not support the case's dtype gets the first that it supports.
        capability: compute capability, as 10 * major + minor, of the GPU that the launches are to
            tell about; rungs that need a higher one do not run. None: any.
    """

    def __init__(
        self,
        operator: Operator,
        case: Case,
        sample: int,
        any_dtype: bool = False,
        capability: int | None = None,
    ) -> None:
        self.operator, self.case = operator, case
        self.sample, self.any_dtype, self.capability = sample, any_dtype, capability
        self._tensors: dict[Case, tuple[Tensors, Tensors]] = {}

    def of(self, rung: Rung) -> Launched:
        """Run a rung, once."""
        case = self.case
        if self.any_dtype and case.dtype not in rung.dtypes:
            case = dataclasses.replace(case, dtype=rung.dtypes[0])
        if self.capability is not None and self.capability < rung.compute_capability:
            why = f"needs compute capability {rung.compute_capability}; got {self.capability}"
            return Launched(rung, case, why=why)
        device = torch.device(DEVICES["simulator"])
        try:
            unmet = verify.unmet_need(self.operator, rung, case, device)
            if unmet:
                return Launched(rung, case, why=unmet)
            given, out = self._of(case, device)
            settings = simulator.settings(sample_blocks=self.sample, checks=("memcheck",))
            with settings, simulator.record() as launches:
                self.operator.launch("simulator", given, out, case, rung.name)
        except Declined as declined:
            return Launched(rung, case, why=f"declines: {declined.reason}")
        except (RuntimeError, MemoryError) as error:
            if verify.is_out_of_memory(error):
                why = f"needs more memory than there is ({verify.first_line(error)})"
                return Launched(rung, case, why=why)
            return Launched(rung, case, why=f"{type(error).__name__}: {error}", failed=True)
        return Launched(rung, case, tuple(launches), "" if launches else "launches no kernel")

    def _of(self, case: Case, device: torch.device) -> tuple[Tensors, Tensors]:
        """Inputs and outputs of a case; kept until another case needs memory."""
        if case not in self._tensors:
            self._tensors.clear()
            given = inputs.views(inputs.place_inputs(self.operator, case, device))
            out = inputs.views(inputs.place_outputs(self.operator, case, device))
            self._tensors[case] = given, out
        return self._tensors[case]
