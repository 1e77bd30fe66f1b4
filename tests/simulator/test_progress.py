"""Long launches: their progress in a terminal, and the report on those that never end."""

from __future__ import annotations

import io
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import simulator
from build import inline
from simulator import SimulatorError
from workbench.harness import terminal

pytestmark = pytest.mark.checks("memcheck")

SOURCE = r"""
__device__ void lock(int* mutex) {
  while (atomicCAS(mutex, 0, 1) != 0) {
  }
}
__global__ void poll_kernel(volatile int* x) {
  while (x[1] == 7) {
  }
}
__global__ void hoisted_kernel(int* x) {
  while (x[0] == 7) {
  }
}
__global__ void nested_kernel(int* x, int step) {
  for (int i = 0; i != 7; i += step) {
    for (int j = 0; j < 10; j++) {
      x[j] += i;
    }
    atomicAdd(x, 1);
  }
}
__global__ void waited_for_kernel(int* x) {
  __shared__ int flag;
  if (threadIdx.x == 0) flag = 0;
  __syncthreads();
  if (threadIdx.x < 32) {
    volatile int* f = &flag;
    while (*f == 0) {
    }
  }
  __syncthreads();  // the others
  x[0] = 1;
}
__global__ void locked_twice_kernel(int* x) {
  x[2] = 0;
  lock(x + 2);
  lock(x + 2);  // again
  x[0] = 1;
}
__global__ void straight_kernel(int* x, int n) {
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    x[threadIdx.x % 8] += i;
  }
}
__global__ void shared_kernel(int* x) {
  extern __shared__ int big[];
  big[0] = 1;
  x[0] = big[0];
}
void poll(int* x) { poll_kernel<<<1, 32>>>(x); }
void hoisted(int* x) { hoisted_kernel<<<1, 32>>>(x); }
void nested(int* x) { nested_kernel<<<1, 32>>>(x, 0); }
void waited_for(int* x) { waited_for_kernel<<<1, 128>>>(x); }
void locked_twice(int* x) { locked_twice_kernel<<<1, 1>>>(x); }
void straight(int* x, int n, int blocks) { straight_kernel<<<blocks, 32>>>(x, n); }
cudaError_t shared(int* x, int asked, int used) {
  cudaError_t e = cudaSuccess;
  if (asked) {
    e = cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, asked);
  }
  if (e == cudaSuccess) shared_kernel<<<1, 1, used>>>(x);
  return e;
}
"""
LINES = {line.strip(): i for i, line in enumerate(SOURCE.splitlines(), 1)}


def line_of(text: str) -> int:
    return next(i for line, i in LINES.items() if text in line)


@pytest.fixture(scope="module")
def kernels():
    names = "poll hoisted nested waited_for locked_twice straight shared"
    return inline(SOURCE, names.split(), target="simulator")


def ended(run, limit: int = 200_000) -> SimulatorError:
    """The report on what runs into the limit."""
    with simulator.settings(instruction_limit=limit), pytest.raises(SimulatorError) as caught:
        run(torch.full((10,), 7, dtype=torch.int32))
    return caught.value


# ---- The limit of instructions -------------------------------------------------------------------


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize(
    ("name", "loop", "says"),
    [
        (
            "poll",
            "while (x[1] == 7)",
            r"each round reads byte 4 of x \(int32 .*\), which holds 7",
        ),
        ("hoisted", "while (x[0] == 7)", "the loop reads nothing: .* read as volatile or with"),
        (
            "waited_for",
            "while (*f == 0)",
            "each round reads shared memory 'flag' .byte 0., which holds 0",
        ),
        ("locked_twice", "while (atomicCAS", "each round reads byte 8 of x .*, which holds 1"),
    ],
)
def test_an_endless_loop_is_named_with_what_it_reads(kernels, name, loop, says, order):
    with simulator.settings(order=order):
        error = ended(getattr(kernels, name))
    assert (error.kind, error.line) == ("limit", line_of(loop))
    assert f"200000 warp instructions; is the loop at line {error.line} endless?" in str(error)
    assert re.search(says, str(error))


def test_loops_around_it_are_named_too(kernels):
    text = str(ended(kernels.nested))
    inner, outer = line_of("j < 10"), line_of("i += step")
    first = re.search(r"is the loop at lines? (\d+)(?: to (\d+))?", text)
    assert first and int(first[1]) >= outer
    assert re.search(rf"at lines {outer} to {line_of('atomicAdd')}", text)
    assert inner in range(outer, line_of("atomicAdd"))


def test_who_waits_for_it_is_said(kernels):
    text = str(ended(kernels.waited_for))
    assert re.search(rf"96 threads wait at .*:{line_of('// the others')}\b", text)


def test_a_call_in_the_loop_is_named_by_where_it_is_called(kernels):
    assert f"inlined at {'.*'}:{line_of('// again')}" in re.sub(
        r"inlined at \S+:", "inlined at .*:", str(ended(kernels.locked_twice))
    )


def test_what_ends_in_time_is_no_finding(kernels):
    x = torch.zeros(10, dtype=torch.int32)
    with simulator.settings(instruction_limit=200_000):
        kernels.straight(x, 20_000, 1)
    assert x[1] > 0


@pytest.mark.parametrize(
    ("asked", "used", "says"),
    [
        (256 * 1024, 100, "AttributeMaxDynamicSharedMemorySize of 262144 bytes; .* at most 232448"),
        (0, 256 * 1024, r"262144 bytes of shared memory; a block has at most 232448 \(227 KB\)"),
        (227 * 1024, 227 * 1024 + 4, r"at most 232448 \(227 KB\)"),
        (100, 100 * 1024, "without cudaFuncSetAttribute"),
    ],
)
def test_too_much_shared_memory_names_the_limit(kernels, asked, used, says):
    with pytest.raises(RuntimeError, match=says):
        kernels.shared(torch.zeros(1, dtype=torch.int32), asked, used)


def test_all_of_the_shared_memory_works(kernels):
    x = torch.zeros(1, dtype=torch.int32)
    kernels.shared(x, 227 * 1024, 227 * 1024)
    assert x == 1


# ---- Progress ------------------------------------------------------------------------------------


@contextmanager
def stderr_to(fd: int) -> Iterator[None]:
    kept = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def watched(monkeypatch) -> Iterator[list[str]]:
    """What a terminal shows that stderr goes to."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    ours, theirs = os.openpty()
    shown: list[str] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.append(data.decode())
        except OSError:  # how a terminal ends
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with stderr_to(theirs):
            yield shown
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def run_long(kernels) -> None:
    """A launch of a tenth of a second and more: its last block is the longest."""
    with simulator.settings(threads=2):
        kernels.straight(torch.zeros(10, dtype=torch.int32), 60_000, 8)


def test_a_terminal_shows_a_long_launch_in_one_line(kernels, monkeypatch):
    with watched(monkeypatch) as shown, simulator.progress_after(0.001):
        run_long(kernels)
    text = "".join(shown)
    assert re.search(
        r"straight_kernel: \d of 8 blocks done, [\d,]+ warp instructions, mostly at \S+:"
        rf"({line_of('i < n')}|{line_of('% 8] += i')})\x1b",
        text,
    )
    # Each time the cursor goes back to where it was; at the end, the line is erased.
    assert "\n" not in text
    assert text.count("\x1b7") == text.count("\x1b8") >= 1
    assert text.endswith("\x1b[K")


def test_a_short_launch_shows_nothing(kernels, monkeypatch):
    with watched(monkeypatch) as shown:
        run_long(kernels)
    assert shown == []


def test_no_progress_beside_a_bar(kernels, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    bar = io.StringIO()
    bar.isatty = lambda: True  # type: ignore[method-assign]
    with watched(monkeypatch) as shown, simulator.progress_after(0.001):
        with terminal.progress(1, bar):
            run_long(kernels)
        hidden = list(shown)
        run_long(kernels)
    assert hidden == [] and shown != []


def test_no_progress_in_a_file_or_a_test(kernels, monkeypatch, tmp_path):
    with simulator.progress_after(0), open(tmp_path / "log", "wb") as log, stderr_to(log.fileno()):
        monkeypatch.delenv("PYTEST_CURRENT_TEST")
        run_long(kernels)
    assert (tmp_path / "log").read_bytes() == b""
    with watched(monkeypatch) as shown, simulator.progress_after(0):
        monkeypatch.setenv("PYTEST_CURRENT_TEST", "a test")
        run_long(kernels)
    assert shown == []


def test_never_is_a_time(kernels, monkeypatch):
    with watched(monkeypatch) as shown, simulator.progress_after(math.inf):
        run_long(kernels)
    assert shown == []
