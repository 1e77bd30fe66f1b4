"""Device functions on the simulator: calls, pointers to them, printf, assert, malloc."""

from __future__ import annotations

import pytest
import torch
import wurlitzer

import simulator
from build import inline
from tests.support import REPO

SOURCE = (REPO / "tests/kernels/functions.cu").read_text()


@pytest.fixture(scope="module")
def kernels():
    names = (
        "recursion overflow pointers wild_call structures barriers indirect print print_wild check "
        "heap free_twice exhaust keep print_odd split_for_ever wrong_return"
    )
    return inline(SOURCE, names.split(), target="simulator")


@pytest.fixture(params=["ascending", "descending", "random"])
def order(request):
    with simulator.settings(order=request.param):
        yield


def finding(run, *arguments) -> simulator.SimulatorError:
    with pytest.raises(simulator.SimulatorError) as caught:
        run(*arguments)
    return caught.value


def printed(run, *arguments) -> str:
    with wurlitzer.pipes() as (out, _):
        run(*arguments)
    return out.read()


# ---- Calls ---------------------------------------------------------------------------


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def sum_of_chain(above: list[int], depth: int) -> int:
    mine = [above[i] + i * depth for i in range(4)]
    return sum(mine) + (sum_of_chain(mine, depth - 1) if depth else 0)


@pytest.mark.parametrize("lanes", [64, 37])
def test_recursion_keeps_each_lanes_own_state(kernels, order, lanes: int) -> None:
    out = torch.full((64, 3), -1, dtype=torch.int64)
    kernels.recursion(out, lanes)
    wanted = [[fib(i % 14), int(i % 2 == 0), sum_of_chain([0] * 4, i % 9)] for i in range(lanes)]
    assert out[:lanes].tolist() == wanted
    assert (out[lanes:] == -1).all()


def test_endless_recursion_is_a_stack_overflow(kernels) -> None:
    error = finding(kernels.overflow, torch.zeros(1, dtype=torch.int32))
    assert error.kind == "memcheck"
    assert "stack overflow" in str(error)
    assert "cudaLimitStackSize" in str(error)
    assert ".cu:" in str(error)


def test_function_pointers_and_virtual_functions(kernels, order) -> None:
    out = torch.zeros(64, dtype=torch.int32)
    areas = torch.zeros(64)
    kernels.pointers(out, areas)
    assert out.tolist() == [(2 * i, 3 * i, -i)[i % 3] for i in range(64)]
    assert areas.tolist() == [float(i * i * (1 if i % 2 else 3)) for i in range(64)]


@pytest.mark.parametrize("address", [0, 0x1234, -1])
def test_a_call_of_no_function_is_reported(kernels, address: int) -> None:
    error = finding(kernels.wild_call, torch.zeros(1, dtype=torch.int32), address)
    assert "not a device function" in str(error)


def test_structures_are_passed_and_returned(kernels) -> None:
    out = torch.zeros(32, dtype=torch.float64)
    kernels.structures(out)

    def wanted(i: int) -> float:
        a = [1, 2, 3, 4, 5, 6]
        a[i % 6] += i
        a[(i + 1) % 6] += i + 1
        return 1.5 * i * (i + 1) + (i + 1) + sum(a)

    assert out.tolist() == [wanted(i) for i in range(32)]


def test_barriers_and_exits_inside_of_functions(kernels, order) -> None:
    out = torch.zeros(64, dtype=torch.int32)
    kernels.barriers(out)
    assert out.tolist() == [0 if i == 58 else 163 - i for i in range(64)]


def test_brx_goes_to_the_target_of_each_lane(kernels, order) -> None:
    out = torch.zeros(64, dtype=torch.int32)
    kernels.indirect(out)
    assert out.tolist() == [(1, 20, 300, 1)[i % 4] for i in range(64)]


# ---- printf, assert, malloc ----------------------------------------------------------


def test_printf_writes_lane_by_lane_in_the_order_of_the_blocks(kernels) -> None:
    wanted = "".join(
        f"block {b} thread {i:2d}|text  |{chr(ord('a') + i)}|{i / 8:+.3f}|{0xABC0 + i:08x}"
        f"|{-5000000000 - i}|%|{i:6d}|\n"
        for b in range(3)
        for i in range(5)
    )
    assert printed(kernels.print, 3, 5) == wanted


def test_printf_of_a_wild_string_is_reported(kernels) -> None:
    error = finding(kernels.print_wild, 0x40)
    assert error.kind == "memcheck"
    assert "printf" in str(error)


def test_a_failed_assertion_names_itself_and_the_thread(kernels) -> None:
    kernels.check(64)
    error = finding(kernels.check, 40)
    assert error.kind == "assert"
    assert "assertion `static_cast<int>(threadIdx.x) < limit` failed" in str(error)
    assert "check_kernel(int)" in str(error)
    assert "thread (40, 0, 0)" in str(error)


def test_malloc_and_free_in_kernels(kernels, order) -> None:
    out = torch.zeros(64, dtype=torch.int32)
    kernels.heap(out, 3)
    assert out.tolist() == [3 * i * 120 + 16 * 3 for i in range(64)]
    assert "twice" in str(finding(kernels.free_twice))
    one = torch.zeros(1, dtype=torch.int32)
    kernels.exhaust(one)
    assert one.item() == 1


def test_what_one_kernel_allocated_another_one_reads(kernels) -> None:
    out = torch.zeros(1, dtype=torch.int32)
    kernels.keep(out)
    assert out.item() == 17


def test_printf_of_sizes_that_a_gpu_does_not_know_and_of_endless_widths(kernels) -> None:
    assert printed(kernels.print_odd) == "abc|  x|1.500000|%2147483640d|\n"


# ---- Invalid jumps and stacks --------------------------------------------------------


def test_a_loop_whose_jumps_always_split_the_warp_ends_at_the_limit(kernels) -> None:
    with simulator.settings(instruction_limit=1_000_000):
        assert finding(kernels.split_for_ever).kind == "limit"


@pytest.mark.checks("memcheck")  # it reads stack frames that nobody has filled
def test_a_return_to_the_call_of_another_function_is_reported(kernels) -> None:
    error = finding(kernels.wrong_return, torch.zeros(8, dtype=torch.int32))
    assert error.kind == "memcheck"
    assert "stack is damaged" in str(error)
