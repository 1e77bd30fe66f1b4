"""The programs in tests/programs: unmodified, self-checking CUDA, on the simulator and a GPU.

The comments in a program's first lines give its requirements:

    // nvcc: -lcuda                              more arguments for nvcc
    // needs: package/folder                     headers in a folder of a Python package
    // slow to compile                           more than 3 s: only with --full
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import REPO
from workbench.toolchain import process_simulator, programs

WARP_ORDERS = ("ascending", "descending", "random")
SECONDS = 60


@dataclass(frozen=True)
class Source:
    path: Path
    flags: tuple[str, ...]
    package: str | None  # "cutlass_library/source/include"
    slow: bool

    @classmethod
    def read(cls, path: Path) -> Source:
        head = "".join(re.match(r"(//.*\n)*", path.read_text())[0])
        flags = re.search(r"^// nvcc: (.+)$", head, re.M)
        package = re.search(r"^// needs: (.+)$", head, re.M)
        return cls(
            path,
            tuple(shlex.split(flags[1])) if flags else (),
            package[1] if package else None,
            "// slow to compile\n" in head,
        )

    def build(self, target: str) -> Path:
        words = [str(self.path), *self.flags]
        if self.package:
            name, _, folder = self.package.partition("/")
            words += ["-I", str(Path(find_spec(name).origin).parent / folder)]
        return programs.build_program(programs.parse(words, target))


SOURCES = [Source.read(path) for path in sorted((REPO / "tests" / "programs").glob("*.cu"))]


def cases(*orders: str) -> list:
    """(source, order); slow programs and all orders except the first need --full."""
    return [
        pytest.param(
            source,
            order,
            id=f"{source.path.stem}-{order}",
            marks=[pytest.mark.full] if source.slow or order != orders[0] else [],
        )
        for source in SOURCES
        for order in orders
    ]


def ahead() -> None:
    for source in SOURCES:
        if not source.slow and source.package is None:
            source.build("simulator")


@pytest.fixture(scope="module")
def builds(request: pytest.FixtureRequest) -> Iterator[dict[tuple[Source, str], Future[Path]]]:
    """The programs of this run, compiled on all cores while the first ones already run."""
    process_simulator()
    wanted = {
        (item.callspec.params["source"], item.callspec.params["target"]): None
        for item in request.session.items
        if item.path == request.path and "source" in item.callspec.params and not missing(item)
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {pair: pool.submit(pair[0].build, pair[1]) for pair in wanted}
        pool.shutdown(cancel_futures=True)


def missing(item: pytest.Item) -> bool:
    package = item.callspec.params["source"].package
    return item.get_closest_marker("skip") is not None or (
        package is not None and find_spec(package.split("/")[0]) is None
    )


@pytest.mark.parametrize(("source", "order"), cases(*WARP_ORDERS))
def test_program(source: Source, order: str, target: str, builds: dict) -> None:
    if target == "gpu" and order != WARP_ORDERS[0]:
        pytest.skip("a GPU has its own order")
    if (source, target) not in builds:
        pytest.skip(f"needs the Python package of {source.package}: pip install --group cute")
    status, out, err = run(builds[source, target].result(), order)
    last = (out.splitlines() or [""])[-1]
    assert status == 0 and re.match(r"ok\b", last), out + err


def run(program: Path, order: str = WARP_ORDERS[0]) -> tuple[int, str, str]:
    settings = f"checks=all order={order} seed=1"
    try:
        done = subprocess.run(
            [program],
            env={**os.environ, "WORKBENCH_SIMULATOR": settings},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"{program.name} was still running after {SECONDS} s")
    return done.returncode, done.stdout, done.stderr


# A mistake in a program, and its report: the tests above can fail.
MISTAKES = [
    ("cooperative_groups", "  grid.sync();", "", "racecheck"),
    ("mma_multistage", "wait<STAGES - 2>", "wait<STAGES - 1>", "while cp.async is still writing"),
    ("barrier_pipeline", "    pipeline.consumer_wait();  // the", "    // the", "initcheck"),
    (
        "tma_ring",
        "    if (use > 0) mbarrier_wait(&smem.empty",
        "    // (&smem.empty",
        "1 arrival too many at the mbarrier 'smem' (byte 26624)",
    ),
    ("tma_ring", "mbarrier_wait(&smem.full", "// (&smem.full", "while a bulk copy is still"),
    ("wgmma", "address >> 7", "address >> 8", "bf16: element"),
    ("wgmma", "wait_group.sync.aligned 0", "wait_group.sync.aligned 1", "an accumulator"),
    ("cluster", "if (rank == 0 &&", "if (false &&", "deadlock"),
]


@pytest.mark.full
@pytest.mark.parametrize(("name", "right", "wrong", "said"), MISTAKES)
def test_mistake_is_noticed(name: str, right: str, wrong: str, said: str, tmp_path: Path) -> None:
    path = REPO / "tests" / "programs" / f"{name}.cu"
    text = path.read_text()
    assert text.count(right) == 1
    (tmp_path / path.name).write_text(text.replace(right, wrong))
    words = [str(tmp_path / path.name), "-I", str(path.parent)]
    status, out, err = run(programs.build_program(programs.parse(words, "simulator")))
    assert status != 0 and said in out + err
