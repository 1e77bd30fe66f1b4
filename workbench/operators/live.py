"""Builds that follow the kernels' sources while a process runs: what ``--watch`` reloads.

On the simulator an edit of device functions alone becomes the loaded library's new device code
(workbench.toolchain.device_code); any other edit, and every one on other targets, is a build.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.toolchain.device_code import DeviceCode, NotAlone
from workbench.toolchain.extension import extension_recipe

from . import builds
from .texts import Sources, read


@dataclass(frozen=True)
class Refreshed:
    """What a reload did.

    Attributes:
        how: "device code", "build", or "" if nothing was stale.
        sources: those that were compiled; after a build those that had changed.
        kernels: those whose instructions changed, by their names in PTX; None if not known.
    """

    how: str
    sources: tuple[Path, ...] = ()
    kernels: frozenset[str] | None = None


class Live:
    """The current build of a target, as its sources are edited."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.device_code: DeviceCode | None = None
        self._build()

    def refresh(self, needed: Collection[Path] | None = None) -> Refreshed:
        """Take up the edits since the last call.

        Args:
            needed: the sources whose kernels will run; others may stay stale. None: all.

        Raises:
            workbench.toolchain.BuildError: a source does not compile; what was there stays.
        """
        if self.device_code is None:
            before = builds.extension(self.target)
            self._build()
            after = builds.extension(self.target)
            edited = [path for path in after.texts if after.texts[path] != before.texts.get(path)]
            return Refreshed("build" if after.path != before.path else "", tuple(edited))
        stale = self.device_code.stale()
        try:
            if extension_recipe(self.target).sources != self.device_code.recipe.sources:
                raise NotAlone("the list of sources")
            made = self.device_code.update(
                [source for source in stale if needed is None or source in needed]
            )
        except NotAlone:
            self._build()
            return Refreshed("build", tuple(stale))
        known = [kernels for kernels in made.values() if kernels is not None]
        return Refreshed(
            "device code" if made else "",
            tuple(made),
            frozenset().union(*known) if len(known) == len(made) else None,
        )

    def sources(self) -> tuple[Path, ...]:
        """The files that the build is made of, without headers."""
        if self.device_code is not None:
            return self.device_code.recipe.sources
        return extension_recipe(self.target).sources

    def sources_of(self, entries: Collection[str]) -> list[Path] | None:
        """The sources with these kernels, by their names in PTX; None if that is not known."""
        return self.device_code.sources_of(entries) if self.device_code else None

    def texts(self, op: str, needed: Collection[Path] | None = None) -> Sources:
        """The files that a ladder's kernels were made from; none if they are being edited.

        needed: the sources whose kernels ran, as for ``refresh``: others may be stale.
        """
        code = self.device_code
        if code is None or not code.original:
            return builds.texts(op, self.target)
        made_of = read(builds.extension(self.target).kernels)
        if any(needed is None or source in needed for source in code.stale()):
            return Sources()
        return builds.texts(op, self.target, made_of)

    def is_stale(self, needed: Collection[Path] | None = None) -> bool:
        """Whether there are edits that were not taken up."""
        if self.device_code is not None:
            return any(needed is None or s in needed for s in self.device_code.stale())
        build = builds.extension(self.target)
        return read(build.kernels) != build.texts

    def prepare(self, sources: Sequence[Path] | None) -> None:
        """Note what later edits of sources are compared with."""
        if self.device_code is not None and sources:
            self.device_code.prepare(sources)

    def close(self) -> None:
        """Give the library the device code back that it was built with."""
        if self.device_code is not None:
            self.device_code.restore()

    def _build(self) -> None:
        """Build and load the library. Raises BuildError; then all is as before."""
        current = builds.refresh(self.target)
        self.close()
        self.device_code = None
        if self.target == "simulator":
            recipe = extension_recipe(self.target)
            wanted = recipe.wanted()
            with contextlib.suppress(OSError):
                if recipe.published(wanted) == current.path:  # else saved meanwhile
                    self.device_code = DeviceCode(recipe, current.path, wanted)
