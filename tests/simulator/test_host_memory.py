"""What programs do wrong with the device's memory: reported at its line, and correct twins silent.

The program is tests/kernels/host/memory.cu; its argument selects a case.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import REPO
from workbench.toolchain import programs

PATH = REPO / "tests" / "kernels" / "host" / "memory.cu"
ORDERS = ("ascending", "descending", "random")
OF_1000 = r"an allocation of 4000 bytes \(cudaMalloc\)"
REGION = r"an allocation of cudaMalloc \(4000 bytes\)"
UNWRITTEN = "initcheck: cudaMemcpy(Async)? copies bytes to the host that nobody has written: "
LAST = "the last kernel that wrote there: "


@dataclass(frozen=True)
class Wrong:
    """A wrong case of the program: what its report says, and how it ends.

    line: the mark of the reported line, if it is not the case's name.
    also: marks of further lines that the report names.
    """

    text: str
    line: str = ""
    also: tuple[str, ...] = ()
    status: int = 3
    checks: str = "all"


def crash(text: str, *also: str, line: str = "") -> Wrong:
    return Wrong(f"memcheck: host code {text}", line, also, -signal.SIGSEGV, "memcheck")


def call(text: str, *also: str) -> Wrong:
    return Wrong(f"memcheck: {text}", also=also, checks="memcheck")


CASES = {
    "read_on_host": crash(f"reads device memory: byte 0 of {OF_1000}\n", "ALLOCATED"),
    "write_on_host": crash(f"writes device memory: byte 12 of {OF_1000}\n", "ALLOCATED"),
    "memcpy_on_host": crash("reads device memory: .* cudaMemcpy, or .* with cudaMallocManaged"),
    "in_a_function": crash("reads device memory: byte 3996", "CALLER in_a_function", "ALLOCATED"),
    "free_on_host": crash("reads device memory: byte -8.*cudaFree frees"),
    "read_after_free": crash(
        f"reads device memory: byte 20 of {OF_1000}, which has been freed",
        "ALLOCATED",
        "FREED read_after_free",
    ),
    "swapped": call(
        f"cudaMemcpy reads 4000 bytes of {OF_1000}, which is not host memory.*"
        "the direction is cudaMemcpyHostToDevice. Is it the right one, and is the destination",
        "ALLOCATED",
    ),
    "other_direction": call(
        "cudaMemcpy reads 4000 bytes of memory that is not device memory.*cudaMemcpyDeviceToHost"
    ),
    "symbol_by_name": call(
        "cudaMemcpy writes 16 bytes to 'coefficients', a variable of the device, whose name.*"
        r"cudaMemcpyToSymbol\(coefficients, from, bytes\)"
    ),
    "symbol_inside": call(
        r"cudaMemcpy reads 8 bytes of 'coefficients'.*cudaMemcpyFromSymbol\(to, coefficients"
    ),
    "symbol_to_kernel": Wrong(
        "memcheck: out-of-bounds read of 4 bytes in global memory, at the place of 'coefficients' "
        "in the host's memory.*cudaGetSymbolAddress",
        "twice",
    ),
    "host_pointer": Wrong(
        "out-of-bounds read of 4 bytes in global memory, far from every allocation.*host pointer",
        "twice",
        checks="memcheck",
    ),
    "not_a_symbol": call("what the call was given as a symbol is no __device__ or __constant__"),
    "past_the_symbol": call("a copy of 20 bytes at byte 0 of a variable of 16 bytes"),
    "to_null": call("cudaMemcpy writes 4000 bytes to a null pointer"),
    "too_many_bytes": call(
        f"cudaMemcpy writes 4004 bytes at byte 0 of {OF_1000}.*number of bytes", "ALLOCATED"
    ),
    "copy_after_free": call(
        f"cudaMemcpy reads 4000 bytes at byte 0 of {OF_1000}, which has been freed",
        "ALLOCATED",
        "FREED copy_after_free",
    ),
    "set_after_free": call("cudaMemset writes 4000 bytes .* freed", "FREED set_after_free"),
    "free_twice": call(f"cudaFree of {OF_1000} that has been freed already", "FREED free_twice"),
    "free_inside": call(f"cudaFree of byte 12 of {OF_1000}.*free the address", "ALLOCATED"),
    "free_pinned": call(r"cudaFree of .* \(cudaHostAlloc\).*with cudaFreeHost"),
    "free_foreign": call("cudaFree of memory that no call of CUDA has allocated"),
    "kernel_after_free": Wrong(
        f"out-of-bounds read of 4 bytes in global memory, inside {OF_1000} that has been freed.*"
        "cudaFree after the last kernel",
        "twice",
        ("ALLOCATED", "FREED kernel_after_free"),
    ),
    "overflow": Wrong(
        r"\d+ bytes before the start of an allocation of cudaMalloc.*an index computed in 32 bits"
    ),
    "past_the_last_int": Wrong(
        f"[0-9]+ bytes (before the start|past the end) of {REGION}.*an index computed in 32 bits"
    ),
    "next_allocation": Wrong(
        f"out-of-bounds write of 4 bytes in global memory, [0-9]+ bytes past the end of {REGION}; "
        r"it is in an allocation of cudaMalloc \(byte 40 of 4000\)"
    ),
    "next_variable": Wrong(
        r"[0-9]+ bytes (past the end|before the start) of 'first' \(a variable of the module, 128 "
        r"bytes\); it is in 'second' \(byte 8 of 128\)"
    ),
    "next_array": Wrong(
        r"out-of-bounds read of 4 bytes in shared memory, just past the end of 'tile' \(128 bytes\)"
        "(; it is in 'sums' .byte 0.)?.*computed from 'tile'"
    ),
    "into_the_gap": Wrong("just past the end of 'flags' .33 bytes."),
    "past_the_last_array": Wrong("just past the end of the block's shared memory .132 bytes static",
                                 checks="memcheck"),
    "heap_after_free": Wrong(
        r"write of 4 bytes in the memory of malloc in kernels, .*free\(\) has taken back", "heap"
    ),
    "heap_too_small": Wrong("byte 12 of the 12 that malloc returned", "heap"),
    "rounded_down": Wrong(
        f"{UNWRITTEN}928 bytes from byte 3072 on of {OF_1000}.*{LAST}twice ran 3 x 256 = 768 "
        "threads, and each wrote one element of 4 bytes: element 768 of 1000 is the first "
        "unwritten one.*rounded down",
        also=("ALLOCATED",),
    ),
    "no_guard": Wrong(f"{UNWRITTEN}400 bytes from byte 3600 .*fill ran 7 x 128 = 896 threads"),
    "one_block": Wrong(f"{UNWRITTEN}2976 bytes from byte 1024 .*twice ran 1 x 256 = 256 threads"),
    "vectors": Wrong(f"{UNWRITTEN}928 bytes from byte 3072 .*192 threads, and each .* 16 bytes"),
    "columns_missing": Wrong(f"{UNWRITTEN}8 bytes from byte 192 .*matrix ran 48 x 32", "matrix"),
    "rows_missing": Wrong(f"{UNWRITTEN}800 bytes from byte 3200 .*matrix ran 64 x 16", "matrix"),
    "both_missing": Wrong(f"{UNWRITTEN}8 bytes from byte 192 .*matrix ran 48 x 16", "matrix"),
    "other_pointer": Wrong(f"{UNWRITTEN}all of {OF_1000}.*did the kernel get this pointer"),
}  # fmt: skip
# cases whose finding is in a kernel
IN_KERNELS = (
    "kernel_after_free", "overflow", "next_allocation", "next_variable", "next_array",
    "into_the_gap", "heap_after_free", "heap_too_small", "rounded_down", "columns_missing",
)  # fmt: skip
RIGHT = (
    "allowed_on_host", "several_threads", "symbol_right", "overflow_right", "own_allocation",
    "own_variable", "own_array", "before_the_gap", "up_to_the_last", "heap_right", "rounded_up",
    "matrix_right", "padded", "padding_of_structs", "filter", "borders", "parts", "bandwidth",
)  # fmt: skip


def build() -> Path:
    return programs.build_program(programs.parse([str(PATH), "-O1"], "simulator"))


def ahead() -> None:
    build()


@pytest.fixture(scope="module")
def program() -> Path:
    return build()


def run(program: Path, case: str, checks: str, order: str) -> tuple[int, str, str]:
    settings = f"checks={checks} order={order} seed=1"
    done = subprocess.run(
        [program, case],
        env={**os.environ, "WORKBENCH_SIMULATOR": settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def line_of(mark: str) -> int:
    [line] = [i for i, text in enumerate(PATH.read_text().splitlines(), 1)
              if text.endswith(f"// {mark}")]  # fmt: skip
    return line


def in_orders(cases: Iterable[str], several: Iterable[str]) -> list:
    """(case, order); orders other than the first, of those in `several`, need --full."""
    others = [(case, order) for case in several for order in ORDERS[1:]]
    return [
        *((case, ORDERS[0]) for case in cases),
        *(pytest.param(*pair, marks=pytest.mark.full) for pair in others),
    ]


@pytest.mark.parametrize(("case", "order"), in_orders(CASES, IN_KERNELS))
def test_found_at_its_line(program: Path, case: str, order: str) -> None:
    if case == "free_on_host" and os.environ.get("WORKBENCH_SANITIZE"):
        pytest.skip("what free() reads is up to the C library")
    wrong = CASES[case]
    status, out, err = run(program, case, wrong.checks, order)
    assert status == wrong.status, out + err
    assert re.search(wrong.text, err, re.S), err
    assert f"memory.cu:{line_of('WRONG ' + (wrong.line or case))} " in err, err
    for mark in wrong.also:
        assert f"memory.cu:{line_of(mark)} " in err, err


@pytest.mark.parametrize(("case", "order"), in_orders(RIGHT, RIGHT))
def test_right_one_is_silent(program: Path, case: str, order: str) -> None:
    assert run(program, case, "all", order) == (0, "cudaSuccess\n", "")


def test_every_case_is_run() -> None:
    cases = set(re.findall(r"CASE\((\w+)\)[,;\s]", PATH.read_text())) - {"name"}
    assert cases == {*CASES, *RIGHT}


def test_without_checks_the_device_works_on_its_memory(program: Path) -> None:
    assert run(program, "several_threads", "", ORDERS[0])[:2] == (0, "cudaSuccess\n")
