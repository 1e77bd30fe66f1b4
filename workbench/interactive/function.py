"""A compiled function that Python can call, check, time and explain."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

import simulator
from simulator import Launch, SimulatorError
from simulator.checks import CHECKS
from workbench.estimate import DEFAULT_GPU, GPUS, EstimateError, Gpu, Source, estimate_launches
from workbench.explain import explain
from workbench.harness import timing
from workbench.harness.counters import totals
from workbench.interactive.copies import copied, described, device_of
from workbench.interactive.results import Checked, Estimated, Explanation, Measured
from workbench.toolchain.errors import brief
from workbench.toolchain.inline import Compiled
from workbench.toolchain.printed import in_notebook, shown


class Function:
    """A function of a compiled source.

    Calling it runs it. ``check``, ``time`` and ``explain`` take the same arguments, and run it on
    copies of the tensors: what it would change stays as it is.
    """

    __name__: str

    def __init__(
        self,
        call: Callable[..., Any],
        target: str,
        checks: tuple[str, ...],
        compiled: Compiled,
        on_simulator: Callable[[], Function],
    ) -> None:
        """A function.

        Args:
            call: runs it.
            target: where ``call`` runs, "gpu" or "simulator".
            checks: the simulator's checks for every call; empty for its current settings.
            compiled: its source.
            on_simulator: compiles it for the simulator, if that is not the target.
        """
        functools.update_wrapper(self, call)
        self.target = target
        self._call = call
        self._checks = checks
        self._source = Source(compiled.source, compiled.include_dirs, compiled.flags)
        self._prints = compiled.prints
        self._on_simulator = on_simulator

    def __repr__(self) -> str:
        where = "GPU" if self.target == "gpu" else "simulator"
        return f"<{self.__name__}{self._signature or '(...)'} on the {where}>"

    @property
    def _signature(self) -> inspect.Signature | None:
        return getattr(self, "__signature__", None)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run it; what its kernels print appears in the notebook's cell."""
        with brief(), shown(self._printing):
            result = self._call(*arguments, **named)
            on_gpu = self._printing and self.target == "gpu"
            if on_gpu and not torch.cuda.is_current_stream_capturing():
                torch.cuda.synchronize()  # a GPU prints when it is waited for
            return result

    @property
    def _printing(self) -> bool:
        """Whether what C code prints must be brought to a cell, which takes a millisecond."""
        return self._prints and in_notebook()

    def check(self, *arguments: Any, **named: Any) -> Checked:
        """Run it on the simulator, on copies, with all checks; say what they found.

        A finding is not raised, but is in the result, which is true if there is none. The checks
        are those of ``inline(check=...)`` if that was given. Wrong arguments raise as in a call.
        """
        with brief():
            finding = None
            try:
                with simulator.checking("all"):
                    launches, _ = self._simulated(arguments, named, addresses=False)
            except SimulatorError as error:
                finding, launches = error, []
            notes = dict.fromkeys(str(n) for launch in launches for n in launch.notes if n.odd)
            about = self._described(arguments, named)
            return Checked(about, self._checks or CHECKS, finding, tuple(notes), len(launches))

    def time(
        self, *arguments: Any, gpu: str | None = None, sample: int = 0, **named: Any
    ) -> Measured | Estimated:
        """How long it takes, on copies of the tensors.

        On a GPU it is measured: many runs, one after the other on the same copies. Without one, the
        simulator counts what one run does, and the time is an estimate.

        Args:
            arguments: as for a call.
            gpu: estimate the time on this GPU, a key of ``workbench.estimate.GPUS``; None measures
                where it was compiled for a GPU, and is an H200 otherwise.
            sample: simulate so many blocks of each launch, and scale what they count; 0: all.
            named: as for a call.
        """
        with brief():
            if self.target == "gpu" and gpu is None:
                return self._measured(arguments, named)
            model = _gpu(gpu)
            launches, source = self._simulated(arguments, named, sample)
            return _estimated(self._described(arguments, named), launches, source, model)

    def explain(
        self, *arguments: Any, gpu: str = DEFAULT_GPU, sample: int = 0, **named: Any
    ) -> Explanation:
        """Where its time goes: each line of its kernels with what the simulator counts there.

        Arguments as for ``time``.
        """
        with brief():
            model = _gpu(gpu)
            launches, source = self._simulated(arguments, named, sample)
            kernels = explain(launches, model, source=source)
            return Explanation(self._described(arguments, named), kernels)

    def _simulated(
        self, arguments: tuple, named: dict[str, Any], sample: int = 0, addresses: bool = True
    ) -> tuple[list[Launch], Source]:
        """The launches of a run on the simulator, on copies, and the file of the kernels."""
        if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
            raise ValueError(f"sample is {sample!r}; expected a number of blocks, 0 for all")
        twin = self if self.target == "simulator" else self._on_simulator()
        arguments, named = copied((arguments, named), torch.device("cpu"))
        with (
            shown(self._printing),
            simulator.settings(sample_blocks=sample),
            simulator.record(addresses=addresses) as launches,
        ):
            twin._call(*arguments, **named)
        return launches, twin._source

    def _measured(self, arguments: tuple, named: dict[str, Any]) -> Measured:
        device = device_of((arguments, named)) or torch.device("cuda")
        arguments, named = copied((arguments, named))
        run = functools.partial(self._call, *arguments, **named)
        with shown(self._printing):
            found = timing.time_interleaved({"it": run}, device)["it"]
        about, name = self._described(arguments, named), torch.cuda.get_device_name(device)
        return Measured(about, found.median_ms, found.spread_ms, found.n, name)

    def _described(self, arguments: tuple, named: dict[str, Any]) -> str:
        if self._signature is None:
            positional = {f"argument {i}": value for i, value in enumerate(arguments)}
            return described(self.__name__, positional | named)
        return described(self.__name__, self._signature.bind(*arguments, **named).arguments)


def _gpu(name: str | None) -> Gpu:
    if name is not None and (not isinstance(name, str) or name not in GPUS):
        raise ValueError(f"gpu is {name!r}; expected one of {', '.join(GPUS)}")
    return GPUS[name or DEFAULT_GPU]


def _estimated(about: str, launches: list[Launch], source: Source, gpu: Gpu) -> Estimated:
    kernels = explain(launches, gpu, source=source)
    try:
        found = estimate_launches(launches, (source,), gpu)
    except EstimateError as error:
        why = str(error).splitlines()[0]
        return Estimated(about, gpu.name, None, kernels=kernels, counters=totals(launches), why=why)
    return Estimated(
        about,
        gpu.name,
        found.time_ms,
        found.band,
        found.limiter,
        found.occupancy.fraction,
        kernels,
        totals(launches),
    )
