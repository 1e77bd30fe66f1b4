"""Several threads and forked processes use the simulator; checks belong to the thread that asks."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

import simulator
from build import inline
from workbench import attention, matmul
from workbench.operators import builds

pytestmark = pytest.mark.checks("memcheck")
SECONDS = 60  # for a child to end

RACE = """
#include <cuda_runtime.h>
__global__ void race_kernel(int* out, int rounds) {
  __shared__ int slot[64];
  for (int i = 0; i < rounds; i++) {
    slot[threadIdx.x] = i;
    out[threadIdx.x] = slot[63 - threadIdx.x];
  }
}
void race(int* out, int rounds) { race_kernel<<<1, 64>>>(out, rounds); }
"""


@pytest.fixture(scope="module")
def race() -> Callable[..., None]:
    return inline(RACE, "race", target="simulator").race


@pytest.fixture(scope="module")
def checked_race() -> Callable[..., None]:
    return inline(RACE, "race", check="racecheck").race


def out() -> torch.Tensor:
    return torch.zeros(64, dtype=torch.int32)


# ---- Threads ------------------------------------------------------------------------------------


def test_checks_of_a_thread_do_not_concern_another(race, checked_race):
    """Each thread gets exactly what it asks for, however the calls overlap."""
    wrong: list[str] = []
    start = threading.Barrier(2)

    def asks() -> None:
        start.wait()
        for _ in range(30):
            try:
                checked_race(out(), 3)
                wrong.append("a race was not found")
            except simulator.SimulatorError:
                pass

    def does_not_ask() -> None:
        start.wait()
        for _ in range(30):
            try:
                race(out(), 3)
            except simulator.SimulatorError as error:
                wrong.append(f"found without being asked: {error}")

    threads = [threading.Thread(target=run) for run in (asks, does_not_ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    race(out(), 3)  # and nothing is left on


@pytest.mark.parametrize("ends", [(0, 1, 2), (2, 1, 0), (2, 0, 1), (1, 2, 0)])
def test_settings_end_in_any_order(ends):
    library = simulator.library()
    before = {name: library.wbsim_get(name.encode()) for name in ("checks", "order", "seed")}
    blocks = [
        simulator.settings(order="random", seed=5),
        simulator.settings(order="descending", checks="all"),
        simulator.settings(checks=()),
    ]
    for block in blocks:
        block.__enter__()
    assert library.wbsim_get(b"order") == b"descending"
    for i in ends:
        blocks[i].__exit__(None, None, None)
    assert {name: library.wbsim_get(name.encode()) for name in before} == before


def test_the_setting_that_started_last_decides():
    order = lambda: simulator.library().wbsim_get(b"order")  # noqa: E731
    first, second = simulator.settings(order="random"), simulator.settings(order="descending")
    before = order()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert order() == b"descending"
    second.__exit__(None, None, None)
    assert order() == before


def test_settings_reach_every_thread(race):
    """A pool in a block with checks is checked."""
    found: list[BaseException] = []

    def run() -> None:
        try:
            race(out(), 3)
        except simulator.SimulatorError as error:
            found.append(error)

    with simulator.settings(checks="racecheck"):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert [error.kind for error in found] == ["racecheck"]


def test_checks_inside_checks_end_where_they_began(race, checked_race):
    with simulator.checking("memcheck"), pytest.raises(simulator.SimulatorError):
        checked_race(out(), 3)
    with simulator.settings(checks="racecheck"), simulator.checking("memcheck"):
        with pytest.raises(ValueError, match="checks: expected memcheck"):
            with simulator.checking("nonsense"):
                pass
        race(out(), 3)
    race(out(), 3)


# ---- Forks --------------------------------------------------------------------------------------


@contextmanager
def launching(race: Callable[..., None]) -> Iterator[None]:
    """Another thread that launches all the time."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            race(out(), 2000)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def status_of_child(run: Callable[[], bool]) -> int | None:
    """What a forked child ends with, 0 if the function is true; None if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads: our subject
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if run() else 2
        finally:
            os._exit(status)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


def multiplies() -> bool:
    a = torch.eye(33)
    return torch.equal(matmul(a, a, kernel="tiled", check="all"), a)


def test_a_child_launches_after_its_parent_did():
    assert multiplies()
    assert status_of_child(multiplies) == 0


def test_a_child_runs_rungs_of_the_cpu_after_its_parent_did():
    """The threads of OpenMP stay behind in the parent."""
    q = torch.linspace(-1, 1, 8 * 64 * 16).reshape(8, 64, 16)
    want = attention(q, q, q, kernel="cpu_simd")
    child = lambda: torch.equal(attention(q, q, q, kernel="cpu_simd"), want)  # noqa: E731
    assert status_of_child(child) == 0
    assert torch.equal(attention(q, q, q, kernel="cpu_simd"), want)


def test_a_child_launches_that_was_forked_during_a_launch(race):
    with launching(race):
        for i in range(6):
            time.sleep(0.003 * i)
            assert status_of_child(multiplies) == 0
        race(out(), 1)  # and the parent goes on


def test_a_child_finds_what_its_parent_would(checked_race, race):
    def finds() -> bool:
        try:
            checked_race(out(), 3)
        except simulator.SimulatorError as error:
            return error.kind == "racecheck"
        return False

    with launching(race), simulator.record() as launches:
        assert status_of_child(finds) == 0
    assert {launch.kernel for launch in launches} == {"race_kernel"}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_a_pool_launch(workers, race):
    with launching(race), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            results = [pool.apply_async(multiplies) for _ in range(4)]
            assert [result.get(SECONDS) for result in results] == [True] * 4


class Products(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        return matmul(torch.full((1, 1), float(i)), torch.ones(1, 1), check="all")


def test_workers_of_a_data_loader_launch():
    multiplies()
    loader = torch.utils.data.DataLoader(
        Products(), num_workers=2, multiprocessing_context="fork", timeout=SECONDS
    )
    assert [float(batch) for batch in loader] == [0.0, 1.0, 2.0, 3.0]


# ---- torch.compile ------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_a_compiled_function_leaves_calls_with_checks_to_python(monkeypatch):
    """Every one of them has the checks that it asks for."""
    seen: list[bytes | None] = []
    launch = builds.launch

    def noted(*args: object, **named: object) -> None:
        seen.append(getattr(simulator._of_thread, "checks", None))
        launch(*args, **named)

    monkeypatch.setattr(builds, "launch", noted)
    torch._dynamo.reset()
    compiled = torch.compile(lambda a: matmul(a, a, check="racecheck") + 1, backend="eager")
    a = torch.eye(5)
    for _ in range(2):
        assert torch.equal(compiled(a), a + 1)
    assert seen == [b"memcheck,racecheck"] * 2


def test_a_whole_graph_cannot_have_checks():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda a: matmul(a, a, check="racecheck"), backend="eager", fullgraph=True
    )
    advice = (
        "matmul: check is 'racecheck', which torch.compile cannot take along; call the compiled"
    )
    with pytest.raises(RuntimeError, match=advice):
        compiled(torch.eye(5))
    with simulator.settings(checks="racecheck"):
        whole = torch.compile(lambda a: matmul(a, a), backend="eager", fullgraph=True)
        assert torch.equal(whole(torch.eye(5)), torch.eye(5))
