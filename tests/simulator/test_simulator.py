"""How the simulator runs kernels: divergence, barriers, memory, reports, settings, records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

import simulator
from simulator.conformance.micro import Program

REPO = Path(__file__).resolve().parents[2]

SOURCE = (REPO / "tests" / "kernels" / "execution.cu").read_text()


NAMES = (
    "collatz reverse race handshake spin_lock endless half_barrier named_barrier globals "
    "read_visits local_array offset vector_read write_input wild_write shared_offset trap "
    "copy_3d negative_base late_exit product unwritten static_40k static_60k "
    "device_numbers wander sized odd_clock"
)
PROGRAM = Program("execution", SOURCE, *NAMES.split(), alone=True)


@pytest.fixture
def kernels():
    return PROGRAM.module("simulator")


def line_of(text: str) -> int:
    """The number of the only line of SOURCE that holds the text."""
    lines = [i for i, line in enumerate(SOURCE.splitlines(), start=1) if text in line]
    assert len(lines) == 1, (text, lines)
    return lines[0]


def finding(run, *arguments) -> simulator.SimulatorError:
    with pytest.raises(simulator.SimulatorError) as caught:
        run(*arguments)
    return caught.value


# ---- Execution -----------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 31, 32, 33, 96, 1024])
def test_divergent_loops_and_early_exits(kernels, threads: int) -> None:
    x = torch.arange(1, 301, dtype=torch.int32)
    steps = torch.full_like(x, -1)
    kernels.collatz(x, steps, len(x), threads)

    def count(v: int) -> int:
        n = 0
        while v != 1:
            v, n = (v // 2 if v % 2 == 0 else 3 * v + 1), n + 1
        return n

    assert steps.tolist() == [count(v) for v in x.tolist()]


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize("threads", [32, 48, 1024])
def test_barriers_order_the_warps(kernels, threads: int, order: str) -> None:
    x = torch.randn(5 * threads)
    y = torch.full_like(x, float("nan"))
    with simulator.settings(order=order, seed=7):
        kernels.reverse(x, y, 5, threads, 3, 4 * threads)
    assert torch.equal(y.view(5, threads), x.view(5, threads).flip(1))


@pytest.mark.checks("memcheck")  # races
def test_order_of_warps_shows_a_race(kernels) -> None:
    out = torch.zeros(1, dtype=torch.int32)
    seen = {}
    for order in ("ascending", "descending"):
        with simulator.settings(order=order):
            kernels.race(out)
        seen[order] = out.item()
    assert seen == {"ascending": 7, "descending": 0}


@pytest.mark.checks("memcheck")  # races
def test_random_order_depends_on_the_seed_alone(kernels) -> None:
    out = torch.zeros(1, dtype=torch.int32)

    def run(seed: int) -> int:
        with simulator.settings(order="random", seed=seed):
            kernels.race(out)
        return out.item()

    first = [run(seed) for seed in range(8)]
    assert first == [run(seed) for seed in range(8)]
    assert len(set(first)) > 1


def test_a_warp_that_waits_for_another_lets_it_run(kernels) -> None:
    out = torch.zeros(32, dtype=torch.int32)
    kernels.handshake(out)
    assert out.tolist() == [1] * 32


@pytest.mark.checks("memcheck")  # 65536 loop iterations, each an acquire
def test_a_lane_that_waits_for_another_lets_it_run(kernels) -> None:
    lock, total = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    kernels.spin_lock(lock, total, 4)
    assert total.item() == 4 * 64


def test_named_barrier_with_arrive(kernels) -> None:
    out = torch.zeros(32, dtype=torch.int32)
    for order in ("ascending", "descending"):
        out.zero_()
        with simulator.settings(order=order):
            kernels.named_barrier(out)
        assert out.tolist() == [42] * 32


def test_module_variables(kernels) -> None:
    out, visits = torch.zeros(32), torch.zeros(1, dtype=torch.int32)
    kernels.read_visits(visits)
    before = visits.item()
    kernels.globals(out)
    kernels.read_visits(visits)
    assert visits.item() == before + 32
    assert out.tolist() == [1.0, 2.0, 4.0, 8.0] * 8


def test_local_memory_is_private(kernels) -> None:
    index = (torch.arange(32, dtype=torch.int32) * 5) % 8
    out = torch.zeros(32, dtype=torch.int32)
    kernels.local_array(index, out)
    assert torch.equal(out, index * index + torch.arange(32, dtype=torch.int32))


def test_three_dimensional_grid_and_block(kernels) -> None:
    x = torch.randn(3 * 4 * 5 * 7 * 3 * 2)
    y = torch.zeros_like(x)
    kernels.copy_3d(x, y, 3, 4, 5, 7, 3, 2)
    assert torch.equal(y, 2 * x)


def test_shared_addresses_wrap_as_registers_do(kernels) -> None:
    y = torch.zeros(32)
    kernels.negative_base(y, 1500)
    assert torch.equal(y, torch.arange(32.0) + 500)


def test_lanes_that_exit_release_those_that_wait_for_them(kernels) -> None:
    flags = torch.zeros(4, dtype=torch.int32)
    with simulator.settings(instruction_limit=10_000_000):
        kernels.late_exit(flags)
    assert flags[:2].tolist() == [1, 7]


def test_denormals_whatever_the_host_has_set(kernels) -> None:
    y = torch.zeros(1)
    assert torch.set_flush_denormal(True)
    try:
        kernels.product(y, 1e-39, 0.5)
    finally:
        torch.set_flush_denormal(False)
    assert y.item() == pytest.approx(5e-40, rel=1e-4)


@pytest.mark.checks("memcheck")  # reads unwritten memory
def test_unwritten_shared_memory_is_nan_in_every_block(kernels) -> None:
    y = torch.zeros(6 * 32)
    kernels.unwritten(y, 6)
    expected = torch.full((6, 32), float("nan"))
    expected[:, 0] = 1.0
    assert torch.equal(y.view(6, 32).isnan(), expected.isnan())


def test_numbers_of_the_multiprocessors(kernels) -> None:
    out = torch.zeros(2 * 140, dtype=torch.int32)
    kernels.device_numbers(out, 140)
    assert out[1::2].tolist() == [132] * 140
    assert out[0::2].tolist() == [i % 132 for i in range(140)]


def test_other_threads_register_tensors_while_a_kernel_runs(kernels) -> None:
    after = torch.randperm(1024, dtype=torch.int32)
    stop = threading.Event()

    def churn() -> None:
        y = torch.zeros(1)
        while not stop.is_set():
            kernels.product(y, 2.0, 3.0)

    others = [threading.Thread(target=churn) for _ in range(3)]
    for t in others:
        t.start()
    try:
        at = torch.arange(1024)
        for _ in range(50):
            at = after[at].long()
        for _ in range(20):
            out = torch.zeros(1024, dtype=torch.int32)
            kernels.wander(after, out, 50)
            assert torch.equal(out, at.int())
    finally:
        stop.set()
        for t in others:
            t.join()


def test_launches_from_several_threads(kernels) -> None:
    results = [torch.zeros(4096) for _ in range(8)]
    x = torch.randn(4096)
    threads = [
        threading.Thread(target=kernels.reverse, args=(x, y, 4, 1024, 2, 4096)) for y in results
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(y, x) for y in results)


# ---- Reports -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "write", "says"),
    [
        (100, 0, "read of 4 bytes in global memory, just past the end of 'x' (float32 [10, 10]"),
        (103, 0, "12 bytes past the end of 'x'"),
        (-2, 0, "8 bytes before the start of 'x'"),
        (0, 10, "write of 4 bytes in global memory, just past the end of 'y' (float32 [10]"),
    ],
)
def test_memcheck_names_tensor_shape_and_distance(
    kernels, read: int, write: int, says: str
) -> None:
    memory = torch.zeros(1000)
    x, y = memory[200:300].view(10, 10), torch.zeros(500)[100:110]
    error = finding(kernels.offset, x, y, read, write)
    assert error.kind == "memcheck"
    assert says in str(error)
    assert error.kernel.endswith("offset_kernel")
    assert error.line == line_of("y[write] = x[read];")
    assert "y[write] = x[read];" in str(error)
    assert (error.block, error.thread) == ((0, 0, 0), (0, 0, 0))
    assert error.address != 0


def test_memcheck_sees_unregistered_memory(kernels) -> None:
    bystander = torch.zeros(4)
    for address in (0, bystander.data_ptr()):
        error = finding(kernels.wild_write, address)
        assert "out-of-bounds write of 4 bytes" in str(error)
        assert error.address == address
    assert torch.equal(bystander, torch.zeros(4))


def test_memcheck_at_the_end_of_the_address_space(kernels) -> None:
    error = finding(kernels.wild_write, -4)
    assert error.address == 2**64 - 4


def test_memcheck_misaligned_vector(kernels) -> None:
    x, y = torch.arange(16.0), torch.zeros(4)
    aligned = (x.data_ptr() // 4) % 4
    kernels.vector_read(x, y, (4 - aligned) % 4)
    error = finding(kernels.vector_read, x, y, (4 - aligned) % 4 + 1)
    assert "misaligned read of 16 bytes" in str(error)


def test_memcheck_write_to_an_input(kernels) -> None:
    x = torch.zeros(8)
    error = finding(kernels.write_input, x)
    assert "write to 'x' (float32 [8]" in str(error)
    assert x[3].item() == 0.0


@pytest.mark.parametrize(("at", "says"), [(16, "just past the end"), (-1, "before the start")])
def test_memcheck_shared_memory(kernels, at: int, says: str) -> None:
    error = finding(kernels.shared_offset, torch.zeros(1), at, 64)
    assert "in shared memory" in str(error) and says in str(error)
    assert "0 bytes static, 64 bytes dynamic" in str(error)
    assert error.line == line_of("smem[at] = 1.0f;")


def test_a_finding_leaves_the_next_launch_alone(kernels) -> None:
    y = torch.zeros(1)
    finding(kernels.shared_offset, y, 100, 64)
    kernels.shared_offset(y, 0, 64)
    assert y.item() == 1.0


def test_endless_loop_ends_at_the_limit_with_its_line(kernels) -> None:
    out = torch.zeros(1, dtype=torch.int32)
    with simulator.settings(instruction_limit=200_000):
        error = finding(kernels.endless, out)
    assert error.kind == "limit"
    assert error.line in (line_of("while (true) {"), line_of("out[0] += 1;"))
    assert "200000" in str(error)


def test_deadlock_names_the_barrier(kernels) -> None:
    error = finding(kernels.half_barrier, torch.zeros(64, dtype=torch.int32))
    assert error.kind == "synccheck"
    assert "deadlock: 32 threads wait forever for barrier 1;" in str(error)
    assert error.line == line_of('asm volatile("bar.sync 1, 64;");')


def test_trap(kernels) -> None:
    error = finding(kernels.trap, torch.zeros(1, dtype=torch.int32))
    assert (error.kind, error.thread) == ("trap", (7, 0, 0))


@pytest.mark.parametrize(
    ("geometry", "says"),
    [
        ((1, 1, 1, 1025, 1, 1), "1025 threads; a block takes at most 1024"),
        ((1, 70000, 1, 1, 1, 1), "the limits are (2147483647, 65535, 65535)"),
        ((1, 1, 0, 1, 1, 1), "must not be empty"),
    ],
)
def test_impossible_geometry(kernels, geometry: tuple[int, ...], says: str) -> None:
    x = torch.zeros(1)
    error = finding(kernels.copy_3d, x, x.clone(), *geometry)
    assert error.kind == "launch"
    assert says in str(error)


def test_block_size_that_the_kernel_asks_for(kernels) -> None:
    out = torch.zeros(64, dtype=torch.int32)
    assert "runs with blocks of (64, 1, 1) only" in str(finding(kernels.sized, out, 32))
    kernels.sized(out, 64)
    assert out.tolist() == [1] * 64


def test_a_clock_is_never_read_as_a_constant(kernels) -> None:
    assert finding(kernels.odd_clock, torch.zeros(1, dtype=torch.int32)).kind == "unsupported"


def test_too_much_shared_memory_unasked(kernels) -> None:
    error = finding(kernels.shared_offset, torch.zeros(1), 0, 50 * 1024)
    assert "cudaFuncAttributeMaxDynamicSharedMemorySize" in str(error)


def test_static_and_dynamic_shared_memory_have_48_kb_together(kernels) -> None:
    y = torch.tensor([1.0, 2.0, 0.0])
    kernels.static_40k(y, 8 * 1024)
    assert y[2].item() == 3.0
    error = finding(kernels.static_40k, y, 8 * 1024 + 16)
    assert "this kernel takes 8192" in str(error)
    assert "static shared memory" in str(finding(kernels.static_60k, y))


# ---- Settings and records ------------------------------------------------------------


def test_settings_are_checked_and_restored(kernels) -> None:
    library = simulator.library()
    before = library.wbsim_get(b"order")
    with pytest.raises(ValueError, match="ascending, descending or random, got 'sideways'"):
        with simulator.settings(order="sideways"):
            pass
    with pytest.raises(ValueError, match="memcheck"):
        with simulator.settings(checks=("telepathy",)):
            pass
    with pytest.raises(ValueError, match="whole number"):
        with simulator.settings(threads=-1):
            pass
    with pytest.raises(ValueError, match="a whole number from 1 up, got '0'"):
        with simulator.settings(instruction_limit=0):
            pass
    with simulator.settings(order="random"):
        assert library.wbsim_get(b"order") == b"random"
    assert library.wbsim_get(b"order") == before


def test_record_counts_by_hand(kernels) -> None:
    x, y = torch.zeros(128), torch.zeros(128)
    with simulator.record() as launches:
        kernels.reverse(x, y, 2, 64, 1, 256)
    (launch,) = launches
    assert launch.kernel.endswith("reverse_kernel")
    assert (launch.grid, launch.block) == ((2, 1, 1), (64, 1, 1))
    assert launch.shared_bytes == 256
    assert launch.global_load_bytes == launch.global_store_bytes == 128 * 4
    assert launch.shared_load_bytes == launch.shared_store_bytes == 128 * 4
    assert launch.barriers == 2 * 4  # two barriers, four warps
    assert launch.flops == 0
    store = line_of("y[blockIdx.x * blockDim.x + threadIdx.x] = v;")
    by_line = {line.line: line for line in launch.lines}
    assert by_line[store].global_store_bytes == 128 * 4
    assert sum(line.warp_instructions for line in launch.lines) == launch.warp_instructions


def test_records_nest(kernels) -> None:
    x, y = torch.zeros(64), torch.zeros(64)
    with simulator.record() as outer:
        kernels.reverse(x, y, 1, 64, 1, 256)
        with simulator.record() as inner:
            kernels.reverse(x, y, 1, 64, 1, 256)
    assert (len(outer), len(inner)) == (2, 1)


# ---- Ctrl-C --------------------------------------------------------------------------


@pytest.mark.full
def test_ctrl_c_stops_a_running_kernel(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import signal
        import torch
        from build import inline
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started pytest
        kernels = inline('''
        __global__ void endless_kernel(int* out) { while (true) out[0] += 1; }
        void endless(int* out, cudaStream_t s) { endless_kernel<<<4, 256, 0, s>>>(out); }
        ''', ["endless"])
        import simulator
        with simulator.settings(instruction_limit=10**15):
            print("running", flush=True)
            try:
                kernels.endless(torch.zeros(1, dtype=torch.int32))
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=REPO, env=os.environ
    )
    try:
        assert child.stdout.readline() == "running\n"
        time.sleep(0.5)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 5  # a bound for busy machines, not a measurement
        assert child.wait(timeout=30) == 0
    finally:
        child.kill()
