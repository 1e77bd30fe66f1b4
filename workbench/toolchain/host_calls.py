"""Refuses kernels that call functions of the host, where nvcc only warns or says nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from . import ptx_text
from .diagnostics import host_call_errors
from .errors import BuildError

_RELAXED = "--expt-relaxed-constexpr"
# "calling a __host__ function from a __host__ __device__ function is not allowed", and its like
_WARNED = re.compile(r"warning #200(11|12|13|14|15|16)-D")


def forbid_host_calls(log: str, made: Path) -> None:
    """Raise BuildError if a kernel in the object `made` reaches a function of the host.

    log: nvcc's command, which starts the first line, and its output. The command runs again, as an
    unoptimised compilation (ptx_text.py), only where it said so, or where its PTX looks like it.
    """
    command = log.splitlines()[0]
    if not suspicious(command, log, _ptx_in(made)):
        return
    calls = ptx_text.host_calls(ptx_text.rerun(command, made.parent, "-G"))
    if calls:
        made.unlink(missing_ok=True)
        raise BuildError("\n\n".join(host_call_errors(calls)))


def suspicious(command: str, said: str, ptx: str) -> bool:
    """Whether nvcc's words or the PTX look as if device code called a function of the host."""
    relaxed = _RELAXED in command and ptx_text.may_call_host(ptx)
    return relaxed or bool(_WARNED.search(said))


def forbid_host_calls_in(folder: Path, said: Sequence[str]) -> None:
    """The same for the objects that ninja, with -v, says it has made in `folder`."""
    parts = re.split(r"^\[\d+/\d+\] ", "".join(said), flags=re.M)
    for part in parts:
        made = re.search(r" -c .*\.cu -o (\S+\.o)", part.partition("\n")[0])
        if made:
            forbid_host_calls(part, folder / made[1])


def _ptx_in(made: Path) -> str:
    """The PTX in an object of the simulator's; "" in one of the GPU's."""
    data = made.read_bytes()
    start = data.find(b"\n.version ")
    return "" if start < 0 else data[start : data.find(b"\0", start)].decode(errors="replace")
