"""Reports on the kernels of a file in tests/kernels/wrong whose tests say what they contain."""

from __future__ import annotations

import re
from functools import cached_property
from types import ModuleType

import pytest
import torch

import simulator
from simulator.compare import wrong

ORDERS = ("ascending", "descending", "random")
SIZE = 512  # of in and out


class Reports:
    """The launchers of a file: <name>_wrong and <name>_right take in and out, 512 floats each."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._lines = wrong.source(file).splitlines()

    def line(self, mark: str) -> int:
        """The line that ends with a comment, as in "WRONG ring"."""
        found = [i for i, line in enumerate(self._lines, 1) if line.endswith(f"// {mark}")]
        assert len(found) == 1, f"{mark}: {found}"
        return found[0]

    def at(self, mark: str) -> str:
        """How a report names that line."""
        return f"{self.file}.cu:{self.line(mark)}"

    def run(self, launcher: str, order: str, checks: str | tuple[str, ...] = "all") -> torch.Tensor:
        """Run a launcher on 0, 1, ..., 6, 0, 1, ...; return out."""
        data, out = torch.arange(float(SIZE)) % wrong.PERIOD, torch.zeros(SIZE)
        with simulator.settings(checks=checks, order=order, seed=1):
            getattr(self._module, launcher)(data, out)
        return out

    def error(
        self, name: str, order: str, checks: str | tuple[str, ...] = "all"
    ) -> simulator.SimulatorError:
        """What is found in a wrong kernel."""
        with pytest.raises(simulator.SimulatorError) as caught:
            self.run(f"{name}_wrong", order, checks)
        return caught.value

    def text(self, error: simulator.SimulatorError) -> str:
        """The report, with the file's name in place of its path."""
        return re.sub(rf"\S*/{self.file}\.cu", f"{self.file}.cu", str(error))

    @cached_property
    def _module(self) -> ModuleType:
        return wrong.build()[self.file]
