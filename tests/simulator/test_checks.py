"""The checks: each wrong kernel is found at its line, each right twin has no finding and is right.

The kernels are those of tests/kernels/wrong, and the right ones of tests/kernels/right; every input
is 0, 1, ..., 6, 0, 1, ...
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

import simulator
from simulator.compare import wrong
from simulator.compare.wrong import CHECKS, FILES, Wrong

ORDERS = ("ascending", "descending", "random")
KERNELS = [kernel for file in FILES for kernel in wrong.kernels(file)]
OR_DEADLOCK = {"phase_parity"}  # in orders other than the first
THERE = CHECKS


def ahead() -> None:
    wrong.build()


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    """Check -> the compiled launchers of its file."""
    return wrong.build()


def cases(*checks: str) -> list:
    return [
        pytest.param(
            kernel,
            order,
            id=f"{kernel.check}-{kernel.name}-{order}",
            marks=[pytest.mark.full] if order != ORDERS[0] else [],
        )
        for kernel in KERNELS
        for order in ORDERS
        if kernel.check in checks
    ]


@pytest.mark.parametrize(("kernel", "order"), cases(*THERE))
def test_found_at_its_line(modules, kernel: Wrong, order: str) -> None:
    settings = simulator.settings(checks=["all"], order=order, seed=1)
    with settings, pytest.raises(simulator.SimulatorError) as caught:
        wrong.launch(modules[kernel.check], kernel, "wrong")
    error = caught.value
    text = str(error)
    if kernel.name in OR_DEADLOCK and error.kind == "synccheck" and order != ORDERS[0]:
        assert "deadlock" in text
        return
    assert error.kind == kernel.kind, text
    assert error.file.endswith(f"{kernel.check}.cu"), text
    if kernel.kind != "racecheck":
        assert error.line in kernel.wrong, text
        if kernel.kind == "memcheck":
            assert error.other_line in (kernel.other or {0}), text
        return
    assert kernel.names_both(error.line, error.other_line), text
    if error.other_line:
        assert error.other_file == error.file, text
        assert f"{kernel.check}.cu:{error.other_line}" in text, text


@pytest.mark.parametrize(("kernel", "order"), cases(*FILES))
def test_right_one_is_silent(modules, kernel: Wrong, order: str) -> None:
    settings = simulator.settings(checks=["all"], order=order, seed=1)
    with settings, simulator.record(addresses=False) as launches:
        got = wrong.launch(modules[kernel.check], kernel, "right")
    assert not [str(note) for launch in launches for note in launch.notes if note.odd]
    want = REFERENCES[kernel.name](wrong.inputs(kernel))
    np.testing.assert_array_equal(got, np.broadcast_to(want, kernel.sizes[1]))


@pytest.mark.parametrize("check", CHECKS)
def test_kernels_are_complete(check: str) -> None:
    kernels = wrong.kernels(check)
    assert len(kernels) >= 7
    assert len(kernels) == wrong.source(check).count("_right(const ")
    assert not [kernel.name for kernel in kernels if not kernel.wrong]


def test_each_kernel_has_a_reference() -> None:
    assert sorted(kernel.name for kernel in KERNELS) == sorted(REFERENCES)


def test_the_sides_of_a_race() -> None:
    race = Wrong("racecheck", "x", (1, 1), "int", "", frozenset({3, 4}), frozenset({8}))
    assert race.names_both(3, 8) and race.names_both(8, 4)
    assert not race.names_both(3, 4) and not race.names_both(8, 8) and not race.names_both(3, 0)
    alone = Wrong("racecheck", "x", (1, 1), "int", "", frozenset({3}), frozenset())
    assert alone.names_both(3, 3) and alone.names_both(3, 0) and not alone.names_both(4, 3)


# What the right twins compute from their input: one array for all threads.


def ragged_row(x: np.ndarray) -> np.ndarray:
    return x.reshape(30, 30).sum(1)


def misaligned(x: np.ndarray) -> np.ndarray:
    return x.reshape(32, 4).sum(1)


def local_array(x: np.ndarray) -> np.ndarray:
    weights = np.tile(x[:4] + 1, (64, 1))
    weights[np.arange(64), x % 4] += 10
    return weights[:, 0] + 100 * weights[np.arange(64), np.arange(64) % 4]


def differences(x: np.ndarray) -> np.ndarray:
    return np.diff(x, prepend=0)


def halo(x: np.ndarray) -> np.ndarray:
    return np.convolve(x, [1, 1, 1], "same")


def padded_and_reversed(x: np.ndarray) -> np.ndarray:
    return np.pad(x, (0, 28))[::-1]


def matmul(x: np.ndarray) -> np.ndarray:
    a, b = x.reshape(2, 32, 32)
    return (a @ b).reshape(-1)


def reused_scratch(x: np.ndarray) -> np.ndarray:
    return x.max() - x - (x - x.max()).sum()


def last_block(x: np.ndarray) -> np.ndarray:
    return np.concatenate([[3 * x.sum()], 3 * x, [8]])


def grid_stages(x: np.ndarray) -> np.ndarray:
    return np.concatenate([2 * x, 2 * x[::-1]])


def summed_uses(x: np.ndarray, size: int) -> np.ndarray:
    return x.reshape(-1, size).sum(0)[::-1]


def early_break(x: np.ndarray) -> np.ndarray:
    """The last round in which a value, decremented each round, is still positive."""
    return x.max() - 1


def syncwarp_mask(x: np.ndarray) -> np.ndarray:
    sums = x[:16] + x[16:]
    return np.concatenate([sums[::-1], sums])


def barrier_in_else(x: np.ndarray) -> np.ndarray:
    return np.where(np.arange(64) % 2, x, -x)[::-1]


def ldmatrix_sum(x: np.ndarray) -> np.ndarray:
    return x[:32] + 10 * x[32:]


def tiles_reversed(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, 512)[:, ::-1].reshape(-1)


def counting_barrier(x: np.ndarray) -> np.ndarray:
    return x[::-1] + (x > 3).sum() + 1


def tiles_of_lanes(x: np.ndarray) -> np.ndarray:
    return (x.reshape(8, 8)[:, ::-1] + np.arange(8)[:, None]).reshape(-1)


def reversed_bytes(x: np.ndarray) -> np.ndarray:
    values = np.repeat(x, 4).reshape(-1, 4) + np.arange(4)
    return values[:, ::-1].astype(np.uint8).reshape(-1).view(np.int32)


def volatile_flag(x: np.ndarray) -> np.ndarray:
    return np.concatenate([[1], x + 1, 2 * (x[::-1] + 1)])


def block_tickets(x: np.ndarray) -> np.ndarray:
    return np.concatenate([[x.sum()], x.reshape(8, 32).sum(1), [8]])


def look_back(x: np.ndarray) -> np.ndarray:
    totals = np.cumsum(x)[31::32]
    return np.concatenate([np.cumsum(x), np.ones(8), [0], totals])


def multicast_ring(x: np.ndarray) -> np.ndarray:
    sums = x.reshape(-1, 128).sum(0)
    return sums + sums[::-1]


def store_read_back(x: np.ndarray) -> np.ndarray:
    return np.append(2 * x, 2 * x[5] + 1)


def operand(x: np.ndarray) -> np.ndarray:
    """A matrix [rows, 8] from consecutive columns of four floats."""
    return x.reshape(2, -1, 4).transpose(1, 0, 2).reshape(-1, 8)


def products(x: np.ndarray) -> np.ndarray:
    """The sum of A * B^T over all A [64, 8] before B [8, 8]."""
    b = operand(x[-64:])
    return sum(operand(a) @ b.T for a in x[:-64].reshape(-1, 512)).reshape(-1)


def products_of_rows(x: np.ndarray) -> np.ndarray:
    """A [64, 32] * B [8, 32]^T; a second A adds its product with the same B."""
    a, b = x[: 64 * 32].reshape(64, 32), x[64 * 32 : 72 * 32].reshape(8, 32)
    return (sum((a, *x[72 * 32 :].reshape(-1, 64, 32))) @ b.T).reshape(-1)


def product_of_columns(x: np.ndarray) -> np.ndarray:
    """A [64, 8] * B [8, 8]^T."""
    return (x[:512].reshape(64, 8) @ x[512:].reshape(8, 8).T).reshape(-1)


REFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tile_edge": lambda x: 2 * x,
    "ragged_row": ragged_row,
    "negative_index": differences,
    "misaligned": misaligned,
    "write_to_input": lambda x: 3 * x,
    "local_array": local_array,
    "shared_size": lambda x: x[::-1],
    "shared_index": lambda x: np.roll(x, -1),
    "workspace": lambda x: x[:100],
    "freed": lambda x: 2 * x,
    "null": lambda x: x,
    "bins": lambda x: np.bincount(x)[:6],
    "tree_reduction": lambda x: x.sum(),
    "tiled_matmul": matmul,
    "transpose": lambda x: x.reshape(32, 32).T.reshape(-1),
    "reused_scratch": reused_scratch,
    "warp_exchange": lambda x: x.reshape(-1, 2)[:, ::-1].reshape(-1),
    "named_barriers": lambda x: x.reshape(2, 32)[:, ::-1].reshape(-1),
    "plain_bins": np.bincount,
    "counter": lambda x: x.sum(),
    "plain_read": lambda x: (x > 2).sum(),
    "in_place": lambda x: np.roll(x, -1),
    "scattered": lambda x: 2 * x.reshape(64, 4).sum(1)[(5 * np.arange(64) + 9) % 64] + 1,
    "overlapping_blocks": lambda x: x + 10 * (np.arange(256) // 64),
    "last_block": last_block,
    "spin_lock": lambda x: np.array([x.sum(), 0]),
    "relaxed_flag": lambda x: np.array([1, x[0] + 42, 2 * x[0] + 84]),
    "grid_stages": grid_stages,
    "cluster_exchange": lambda x: x[::-1],
    "unstarted": lambda x: np.roll(x, 32),
    "phase_parity": lambda x: summed_uses(x, 32),
    "early_release": lambda x: summed_uses(x, 32),
    "accumulator": lambda x: summed_uses(x, 64),
    "halo": halo,
    "accumulated_output": lambda x: x[:64] + x[64:],
    "memset_bytes": lambda x: 5 * x,
    "partial_sums": lambda x: x.sum(),
    "cp_async_tail": padded_and_reversed,
    "ragged_tile": lambda x: x.sum(),
    "shared_bins": np.bincount,
    "warp_sums": lambda x: x.sum(),
    "bulk_bytes": lambda x: x[::-1],
    "ldmatrix_rows": lambda x: x,
    "divergent_barrier": lambda x: x[::-1],
    "barrier_in_else": barrier_in_else,
    "early_break": early_break,
    "barrier_count": lambda x: x[::-1],
    "crossed_barriers": lambda x: x[::-1],
    "syncwarp_mask": syncwarp_mask,
    "shuffle_mask": lambda x: x.sum(),
    "shuffle_caller": lambda x: x.reshape(-1, 2)[:, ::-1].reshape(-1),
    "mbarrier_count": lambda x: x[::-1],
    "mbarrier_init": lambda x: x[::-1],
    "missing_arrival": lambda x: x[::-1],
    "expected_bytes": lambda x: x[::-1],
    "cluster_twice": lambda x: x,
    "divergent_ldmatrix": ldmatrix_sum,
    "mailboxes": lambda x: np.repeat([x[4:].sum(), x[:4].sum()], 32),
    "cp_async_no_wait": tiles_reversed,
    "cp_async_wait_one": tiles_reversed,
    "cp_async_no_barrier": tiles_reversed,
    "cp_async_refill": tiles_reversed,
    "bulk_no_wait": lambda x: x[::-1],
    "bulk_parity": lambda x: summed_uses(x, 256),
    "tma_refill": lambda x: summed_uses(x, 256),
    "store_no_proxy_fence": lambda x: 2 * x,
    "store_source": lambda x: 2 * x,
    "store_read_back": store_read_back,
    "wgmma_no_wait": products,
    "wgmma_no_fence": lambda x: x[:512] + products(x),
    "wgmma_no_proxy_fence": products,
    "wgmma_store_refill": products,
    "wgmma_bulk_refill": products,
    "swizzle_mode": products_of_rows,
    "swizzle_of_map": products_of_rows,
    "swizzle_ignored": products_of_rows,
    "swizzle_of_b": products_of_rows,
    "swizzle_of_refill": products_of_rows,
    "strides_exchanged": product_of_columns,
    "strides_in_bytes": product_of_columns,
    "double_buffer": lambda x: summed_uses(x, 256),
    "counting_barrier": counting_barrier,
    "early_return": lambda x: x.sum(),
    "last_warp": lambda x: x.sum(),
    "tiles_of_lanes": tiles_of_lanes,
    "tile_broadcast": lambda x: np.repeat(10 * x[::8] + x[7::8], 8),
    "prefetched": lambda x: 2 * x,
    "fence_then_barrier": lambda x: np.concatenate([[2 * x.sum()], 2 * x]),
    "ping_pong": lambda x: (x.reshape(2, 32)[:, ::-1] + 3).reshape(-1),
    "bytes": reversed_bytes,
    "sizes": lambda x: x[::-1],
    "volatile_flag": volatile_flag,
    "block_tickets": block_tickets,
    "look_back": look_back,
    "atomic_ref": lambda x: 3 * x[::-1],
    "cluster_sums": lambda x: x.reshape(-1, 2).sum(0),
    "stages": lambda x: summed_uses(x, 256),
    "copies_arrive": lambda x: summed_uses(x, 128),
    "elected_wait": lambda x: summed_uses(x, 256),
    "late_fence": lambda x: 2 * x,
    "store_ring": lambda x: 3 * x,
    "bulk_sums": lambda x: x.reshape(8, 64).sum(0),
    "multicast_ring": multicast_ring,
    "wgmma_ring": products,
}
