"""Builds, checks and measures the combinations of a sweep."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from workbench import estimate
from workbench.cli.sweep.outcome import Outcome, Sweep
from workbench.estimate import launched, resources
from workbench.harness import versions
from workbench.harness.checking import Tried
from workbench.harness.results import Row
from workbench.harness.terminal import progress
from workbench.harness.verify import first_line, is_out_of_memory
from workbench.harness.versions import Version
from workbench.operators import builds, tunables
from workbench.operators.operator import Case
from workbench.toolchain import BuildError, variants
from workbench.toolchain.variants import Variant, Variants

_ASSERTED = re.compile(r'static assertion failed(?: with "(.*)"|: (.*))')


def measure(sweep: Sweep) -> None:
    """Build, check and measure every combination; its outcome gets a row per case, or a fault.

    Raises:
        BuildError: the ladder does not build, or was edited meanwhile.
        verify.StickyError: a combination broke the GPU's context.
    """
    files = {name: tunables.content(text) for name, text in sweep.plan.files.items()}
    makes = variants.of(sweep.asked.target, files)
    if sweep.asked.target == "simulator":
        _simulate(sweep, makes)
    else:
        _time(sweep, makes)


def _simulate(sweep: Sweep, makes: Variants) -> None:
    """Measure each version as soon as it is built."""
    asked, rung = sweep.asked, sweep.plan.rung
    home, _ = tunables.section_of(rung, asked.target, sweep.plan.files)

    def compile_for_gpu(made: Variant) -> None:
        if asked.gpu.arch != launched.ARCH:  # else the kernels that are launched will do
            resources.of_file(_sources(makes, made, home)[0], asked.gpu.arch)

    with progress(len(sweep.outcomes) * (1 + len(sweep.cases))) as step:
        step("building")
        for outcome, made in _built(sweep, makes, compile_for_gpu):
            if made is not None:
                version = _version(sweep, makes, outcome, made)
                sources = _sources(makes, made, home)
                estimator = functools.partial(
                    estimate.begin, op=rung.op, gpu=asked.gpu, sources=sources
                )
                tried = functools.cache(functools.partial(_try, sweep, version))
                for case in sweep.cases:
                    step(f"{outcome.name}, {case.text}")
                    about = asked.operator, rung, version, case, tried(case.dtype), estimator
                    try:
                        row = versions.simulate(*about, asked.sample)
                    except (RuntimeError, MemoryError) as error:
                        row = _without_memory(sweep, case, error)
                    outcome.rows[case] = row
            step("building")


def _time(sweep: Sweep, makes: Variants) -> None:
    """Measure once all versions are built: compilers would slow them down."""
    asked, rung = sweep.asked, sweep.plan.rung
    ready: dict[str, Version] = {}
    with progress(len(sweep.outcomes)) as step:
        step("building")
        for outcome, made in _built(sweep, makes, lambda made: None):
            if made is not None:
                ready[outcome.name] = _version(sweep, makes, outcome, made)
            step("building")
    outcomes = [outcome for outcome in sweep.outcomes if outcome.name in ready]
    entrants = [ready[outcome.name] for outcome in outcomes]
    dtypes = dict.fromkeys(case.dtype for case in sweep.cases)
    with progress(len(entrants) * (len(sweep.cases) + len(dtypes))) as step:
        tried: dict[str, dict[str, Tried]] = {}
        for dtype in dtypes:
            tried[dtype] = {}
            for version in entrants:
                step(f"{version.name}, small cases")
                tried[dtype][version.name] = _try(sweep, version, dtype)
        for case in sweep.cases:
            about = asked.operator, rung, entrants, case, tried[case.dtype], asked.target
            try:
                rows = versions.time(*about, step)
            except (RuntimeError, MemoryError) as error:
                rows = [_without_memory(sweep, case, error)] * len(outcomes)
            for outcome, row in zip(outcomes, rows, strict=True):
                outcome.rows[case] = row


def _built(
    sweep: Sweep, makes: Variants, after: Callable[[Variant], None]
) -> Iterator[tuple[Outcome, Variant | None]]:
    """The outcomes whose versions are built, as they are; one that does not build has a fault."""
    edits = [sweep.plan.edits(outcome.combination) for outcome in sweep.outcomes]
    for i, made in makes.built(edits, after):
        outcome = sweep.outcomes[i]
        if isinstance(made, BuildError):
            outcome.fault = reason(made)
            yield outcome, None
        else:
            yield outcome, made


def _version(sweep: Sweep, makes: Variants, outcome: Outcome, made: Variant) -> Version:
    build = builds.loaded(sweep.asked.target, made.library, makes.kernels)
    return Version(outcome.name, build)


def _sources(makes: Variants, made: Variant, home: str) -> list[Path]:
    """The files of a version's kernels, the rung's own first, which is called ``home``."""
    own = {source.name: source for source in made.sources}
    ladders = [source for source in makes.recipe.sources if source.parent == makes.kernels]
    every = [own.get(source.name, source) for source in ladders]
    return sorted(every, key=lambda source: source.name != home)


def _try(sweep: Sweep, version: Version, dtype: str) -> Tried:
    """Check a version on small cases."""
    operator = sweep.asked.operator
    cases = [*operator.edge_cases(dtype), *operator.small_cases(dtype)]
    return versions.try_version(operator, sweep.plan.rung, version, cases, sweep.asked.target)


def _without_memory(sweep: Sweep, case: Case, error: Exception) -> Row:
    """The row of a case that does not fit into memory. Raises any other error again."""
    if not is_out_of_memory(error):
        raise error
    return unmeasured(sweep, case, f"needs more memory than there is ({first_line(error)})")


def unmeasured(sweep: Sweep, case: Case, why: str) -> Row:
    """The row of a case that could not be measured."""
    rung, target = sweep.plan.rung, sweep.asked.target
    options = case.written_options
    return Row(rung.op, rung.name, str(case.shape), case.dtype, target, False, options, refused=why)


def reason(error: BuildError) -> str:
    """Why a version does not build: its static_assert, or the compiler's first error."""
    asserted = _ASSERTED.search(str(error))
    if asserted:
        return asserted[1] or asserted[2]
    line = str(error).splitlines()[0]
    return line.partition(" error: ")[2] or line
