"""From a kernel's source to PTX, and of one kernel to machine code and its disassembly.

A source's PTX is kept in the cache under the hash of all it depends on; ptxas then compiles the
requested kernel alone, from the same PTX that the simulator runs on the default GPU.
"""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.toolchain import fingerprints, tools, waiting
from workbench.toolchain.cache import present, publish, tidy, touch
from workbench.toolchain.diagnostics import build_error
from workbench.toolchain.paths import cache_dir, writable

FLAGS = ("-std=c++20", "-lineinfo")
_REPORT = re.compile(r"Used \d+ registers.*|\d+ bytes stack frame.*")


@dataclass(frozen=True)
class Machine:
    """A kernel's machine code.

    Attributes:
        text: its disassembly, with the lines of the source (``nvdisasm -c -gi``).
        live: the same with the number of live registers (``nvdisasm -c -plr -lrm count``).
        report: what ptxas says: registers, shared memory, spills.
    """

    text: str
    live: str
    report: str


def ptx(source: Path, arch: str) -> str:
    """The PTX of a .cu file.

    Args:
        source: the file.
        arch: as in 90a.

    Raises:
        BuildError: it does not compile for that architecture.
    """
    toolkit = tools.find_toolkit()
    made_of = repr((arch, FLAGS, tools.identity(toolkit.nvcc), tools.environment()))
    searched = (source.parent, toolkit.include)
    key = fingerprints.of_objects({"it": source}, searched, made_of)["it"]
    kept = cache_dir() / "listing" / f"{source.stem[:100]}_{arch}_{key}.ptx"
    if present(kept):
        touch(kept)
        return kept.read_text(errors="replace")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernels.ptx"
        compiler = (str(toolkit.nvcc), *FLAGS, "-ccbin", str(tools.find_cxx()))
        command = (*compiler, f"-arch=compute_{arch}", "-ptx", "-o", str(made), str(source))
        _run(command, f"{source.name} for sm_{arch}")
        publish(made, kept)
        tidy()
        return made.read_text(errors="replace")


@functools.lru_cache(maxsize=8)
def machine(text: str, entry: str, arch: str) -> Machine:
    """Compile one kernel of a file's PTX for an architecture.

    Args:
        text: the PTX.
        entry: the kernel's mangled name.
        arch: as in 90a.

    Raises:
        BuildError: ptxas refuses the PTX, or there is no disassembler.
    """
    disassembler = str(tools.find_nvdisasm())
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernels.ptx", Path(folder) / "kernel.cubin"
        source.write_text(text)
        ptxas = str(tools.find_toolkit().root / "bin" / "ptxas")
        flags = ("-v", "-lineinfo", f"-arch=sm_{arch}", "-e", entry)
        said = _run((ptxas, *flags, str(source), "-o", str(cubin)), f"{entry} for sm_{arch}")
        show = (disassembler, "-c", str(cubin))
        return Machine(
            _run((*show, "-gi"), "the disassembly"),
            _run((*show, "-plr", "-lrm", "count"), "the live registers"),
            "; ".join(found[0] for found in reversed([*_REPORT.finditer(said)])),
        )


def _run(command: Sequence[str], label: str) -> str:
    """A program's output. Raises BuildError."""
    done = waiting.run(command)
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        raise build_error(label, said, writable(cache_dir() / "listing") / "build.log", {})
    return said
