"""Several sources in one library, compiled on all cores.

Compiling a source that only includes the CUDA runtime takes more than a second. So the sources
share a few units, one per core, where each has its own namespace.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import ModuleType

from .. import fingerprints
from ..extension import recipe
from ..library import build_library
from ..paths import cache_dir, write_once
from . import WRAPPER_HEAD, module_of, wrapper
from .signatures import Launcher, launchers

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b.*\n", re.M)


@dataclass(frozen=True)
class Source:
    """CUDA source, as for `inline`, and the launchers to call.

    It may be put in a namespace, once its headers have been included outside. What declares C names
    stays outside: there must be one of each.

    alone: it gets its own unit. On the simulator the static shared memory of a kernel is rounded up
    to the strictest alignment of dynamic shared memory in its unit: an access just past the end is
    only found if no other source in the unit is that strict.
    """

    name: str
    text: str
    functions: tuple[str, ...]
    alone: bool = False

    @property
    def headers(self) -> list[str]:
        """The lines that include them."""
        return _INCLUDE.findall(self.text)

    @property
    def namespace(self) -> str:
        """The namespace it is in, if any."""
        return "" if 'extern "C"' in self.text else f"in_{self.name}"

    def launchers(self) -> list[Launcher]:
        """Its functions, in its namespace."""
        found = launchers(self.text, list(self.functions))
        around = f"{self.namespace}::" if self.namespace else ""
        return [dataclasses.replace(f, scope=around + f.scope) for f in found]


def inline_together(
    sources: Sequence[Source], target: str, name: str, include_dirs: Sequence[Path] = ()
) -> list[ModuleType]:
    """A module for each source; their names must differ; `name` is the library's.

    Raises BuildError and ValueError like `inline`, whichever source is at fault.
    """
    texts = {f"{name}_{i}": _unit(some) for i, some in enumerate(_shares(sources))}
    files = {f"{source.name}.cu": source.text for source in sources}
    files |= {f"{unit}.cu": text for unit, text in texts.items()}
    folder = cache_dir() / "inline" / fingerprints.digest(sorted(files.items()))
    for file, text in files.items():
        write_once(folder / file, text)
    units = tuple(folder / f"{unit}.cu" for unit in texts)
    where = "the GPU" if target == "gpu" else "the simulator"
    plan = recipe(f"inline_{name}", f"{name} for {where}", target, units, (folder, *include_dirs))
    path = build_library(plan)
    return [module_of(s.name, path, s.launchers(), target) for s in sources]


def _shares(sources: Sequence[Source]) -> list[list[Source]]:
    """The sources for each core: of similar total length, grouped by headers."""
    cores = len(os.sched_getaffinity(0))
    ordered = sorted((s for s in sources if not s.alone), key=lambda source: source.headers)
    ends = list(accumulate(len(source.text) for source in ordered))
    shares: list[list[Source]] = [[] for _ in range(cores)]
    for source, end in zip(ordered, ends, strict=True):
        shares[(end - 1) * cores // ends[-1]].append(source)
    return [share for share in shares if share] + [[s] for s in sources if s.alone]


def _unit(sources: Sequence[Source]) -> str:
    headers = dict.fromkeys(line for source in sources for line in source.headers)
    text = WRAPPER_HEAD + "".join(headers)
    for source in sources:
        held = f'#include "{source.name}.cu"\n'
        around = source.namespace
        text += f"\nnamespace {around} {{\n{held}}}\n" if around else f"\n{held}"
        text += "".join(map(wrapper, source.launchers()))
    return text
